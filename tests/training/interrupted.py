"""A training run in a process of its own, which kills itself with SIGKILL at a stated moment."""

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from training.small import REWARDS, colour_task, grpo_recipe, sft_recipe, small_vlm

from cleareyed.models.vlm import VLM
from cleareyed.records.parts import write_probes
from cleareyed.records.run import RunFolder, create_run
from cleareyed.tasks.prompts import prompt_style
from cleareyed.thinking.probes import probe, tokens_of
from cleareyed.thinking.summary import curves
from cleareyed.training.grpo import train_grpo
from cleareyed.training.sft import train_sft


class Killer:
    """Kills the process when step `after` is done and `phase` is reported next."""

    def __init__(self, after: int, phase: str) -> None:
        self.after, self.phase = after, phase
        self.done = 0

    def status(self, what: str, done: int, total: int) -> None:
        if self.done == self.after and what == self.phase:
            os.kill(os.getpid(), signal.SIGKILL)

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self.done = step


def run_training(method: str, folder: Path, resume: bool, after: int, phase: str) -> None:
    torch.set_num_threads(1)
    vlm, task = small_vlm(), colour_task()
    killer = Killer(after, phase)

    def validate(vlm: object, step: int) -> dict[str, float]:
        return {"accuracy": {0: 0.1, 2: 0.3, 4: 0.3, 6: 0.2}[step]}

    settings = {"eval_every": 2, "validate_on": {"task": {"name": "colours"}}}
    settings["thinking"] = {"probe_items": 5, "every": 3}

    def ask(vlm: VLM, step: int) -> dict[str, float]:
        part = replace(task, samples=task.samples[:5])
        arms = probe(vlm, part, prompt_style("base"), max_tokens=6, batch=3, step=step, answer_tokens=3)
        write_probes(RunFolder(folder), [row for rows in arms.values() for row in rows])
        return curves(arms, tokens_of(vlm))

    if method == "grpo":
        recipe = grpo_recipe(beta=0.1, micro_prompts=3, **settings)
        run = RunFolder(folder) if resume else create_run(folder, recipe)
        train_grpo(recipe, vlm, task, REWARDS, run, resume=resume, observer=killer, validate=validate, probe=ask)
    else:
        recipe = sft_recipe(train_on_prompt=True, micro_batch=3, **settings)
        run = RunFolder(folder) if resume else create_run(folder, recipe)
        train_sft(recipe, vlm, task, run, resume=resume, observer=killer, validate=validate, probe=ask)
