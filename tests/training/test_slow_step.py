"""Several updates against the slow, obvious way: each completion by itself, through the library's own forward,
in every update anew; losses by the papers' formulas, one token after the other."""

import copy
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training.small import REWARDS, colour_task, gradients, grpo_recipe, relative_gap, small_vlm, some_reward

from cleareyed.models.encode import encode
from cleareyed.models.forward import plain_logprobs
from cleareyed.models.sample import sample
from cleareyed.models.vlm import VLM, Completion, EncodedPrompt, SamplingParams
from cleareyed.recipe import GrpoRecipe, LossSpec
from cleareyed.records.run import create_run, read_metrics
from cleareyed.tasks.prompts import prompt_style, prompt_text
from cleareyed.training.grpo import train_grpo
from cleareyed.training.loop import adamw, draw

RATE = {"lr": 2e-3, "schedule": "constant", "max_grad_norm": 0}
CASES: dict[str, dict[str, Any]] = {
    "the paper's": {"beta": 0.1, "updates": 2, "loss": {"clip_low": 0.02, "clip_high": 0.02}},
    "DAPO's": {
        "updates": 3,
        "micro_prompts": 1,
        "mask_truncated": True,
        "loss": {"aggregate": "token", "clip_low": 0.2, "clip_high": 0.28},
    },
    "Dr. GRPO's, of another engine": {
        "beta": 0.2,
        "updates": 2,
        "micro_tokens": 6,
        "importance_cap": 1.1,
        "loss": {"advantage": "dr-grpo", "aggregate": "constant", "kl": "k2", "clip_ceiling": 1.25},
    },
    "GSPO's, leaving one out": {
        "beta": 0.2,
        "updates": 2,
        "loss": {"advantage": "rloo", "ratio": "sequence", "kl": "k1", "clip_low": 0.03, "clip_high": 0.04},
    },
}


def drawn(vlm: VLM, prompts: Sequence[EncodedPrompt], params: SamplingParams) -> list[list[Completion]]:
    """Logprobs are said to be lower than they are, more so for later tokens."""
    groups = sample(vlm, prompts, params, torch.Generator().manual_seed(1))
    return [
        [replace(one, logprobs=tuple(p - 0.05 * t for t, p in enumerate(one.logprobs))) for one in group]
        for group in groups
    ]


def advantages(rewards: list[float], kind: str) -> list[float]:
    mean = statistics.mean(rewards)
    if kind == "rloo":
        return [r - (sum(rewards) - r) / (len(rewards) - 1) for r in rewards]
    return [(r - mean) / (statistics.stdev(rewards) + 1e-4) if kind == "grpo" else r - mean for r in rewards]


def token_loss(ratio: Tensor, advantage: float, weight: float, spec: LossSpec) -> Tensor:
    clipped = ratio.clamp(1 - spec.clip_low, 1 + spec.clip_high)
    capped = ratio if spec.clip_ceiling is None else ratio.clamp(max=spec.clip_ceiling)
    return -weight * torch.minimum(capped * advantage, clipped * advantage)


def divergence(policy: Tensor, reference: float, kind: str) -> Tensor:
    ratio = math.exp(reference) / policy.exp()
    return {"k1": -ratio.log(), "k2": ratio.log() ** 2 / 2, "k3": ratio - 1 - ratio.log()}[kind]


def slow_step(vlm: VLM, recipe: GrpoRecipe) -> None:
    """One step of `recipe`, whose last update leaves its gradients in `vlm`."""
    spec, style, task = recipe.loss, prompt_style(recipe.prompt), colour_task()
    samples = [task.samples[i] for i in draw(recipe.seed, 1, recipe.prompts_per_step, len(task.samples))]
    prompts = [encode(vlm, prompt_text(style, s.question), [load() for load in s.images]) for s in samples]
    groups = drawn(vlm, prompts, SamplingParams(recipe.sampling.max_tokens, 1.0, recipe.sampling.group))
    start = replace(vlm, model=copy.deepcopy(vlm.model).requires_grad_(False))
    items = []
    for one, prompt, group in zip(samples, prompts, groups, strict=True):
        rewards = some_reward([c.ids for c in group], [one.id] * len(group))
        found = advantages([r or 0.0 for r in rewards], spec.advantage)
        for completion, advantage in zip(group, found, strict=True):
            if completion.finish == "stop" or not recipe.mask_truncated:
                ids = torch.tensor(completion.ids)
                items.append((prompt, completion, advantage, ids, plain_logprobs(start, prompt, ids).tolist()))
    every = sum(len(completion.ids) for _, completion, *_ in items)
    parameters = list(vlm.model.parameters())
    optimizer = adamw(parameters, recipe.optimizer)
    for number in range(recipe.updates):
        optimizer.zero_grad()
        for prompt, completion, advantage, ids, old in items:
            policy, length = plain_logprobs(vlm, prompt, ids), len(ids)
            losses = []
            for t in range(length):
                mean = sum(policy[i] - old[i] for i in range(length)) / length  # GSPO, equation 7
                ratio = (mean if spec.ratio == "sequence" else policy[t] - old[t]).exp()  # type: ignore[union-attr]
                cap = recipe.importance_cap
                weight = 1.0 if cap is None else min(cap, math.exp(old[t]) / math.exp(completion.logprobs[t]))
                loss = token_loss(ratio, advantage, weight, spec)
                losses.append(loss + recipe.beta * divergence(policy[t], old[t], spec.kl))
            share = {
                "sequence": 1 / (length * len(items)),
                "token": 1 / every,
                "constant": 1 / (recipe.sampling.max_tokens * len(items)),
            }[spec.aggregate]
            (share * torch.stack(losses).sum()).backward()  # type: ignore[no-untyped-call]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if number + 1 < recipe.updates:
            optimizer.step()


@pytest.mark.parametrize("case", CASES)
def test_the_last_update_of_a_step_is_that_of_the_slow_way(case: str, tmp_path: Path) -> None:
    def some_end(vlm: VLM) -> VLM:
        known = [token for token in range(300) if token not in vlm.banned_ids]
        return replace(vlm, eos_ids=tuple(known[::8]))  # so that lengths differ

    recipe = grpo_recipe(steps=1, optimizer=RATE, **CASES[case])
    ours, slow = some_end(small_vlm()), some_end(small_vlm())
    run = create_run(tmp_path / "run", recipe)
    train_grpo(recipe, ours, colour_task(), REWARDS, run, sampler=lambda prompts, params: drawn(ours, prompts, params))
    slow_step(slow, recipe)
    assert relative_gap(gradients(ours), gradients(slow)) < 2e-5
    line = read_metrics(run)[0]
    assert 0 < (line["share_clipped"] or 0.0) < 1  # some tokens are beyond the clip, and some are not
    assert 0 < (line["share_cut_off"] or 0.0) < 1
    assert line["mismatch/largest_gap"] == pytest.approx(0.25, abs=1e-3)
