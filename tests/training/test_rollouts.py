"""What is drawn, by whom, and what goes through the model for it."""

import json
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training.small import REWARDS, colour_task, grpo_recipe, small_vlm

from cleareyed.errors import InputError
from cleareyed.models import decode, forward
from cleareyed.models.sample import sample
from cleareyed.models.vlm import VLM, Completion
from cleareyed.records.run import RunFolder, create_run, read_metrics
from cleareyed.scoring.rewards import RewardFunction
from cleareyed.training import grpo
from cleareyed.training.grpo import train_grpo
from cleareyed.training.micro import Unit

Groups = list[list[Completion]]


def trained(folder: Path, vlm: VLM, sampler: Any = None, **changes: Any) -> RunFolder:
    recipe = grpo_recipe(**{"steps": 1} | changes)
    run = create_run(folder, recipe)
    train_grpo(recipe, vlm, colour_task(), REWARDS, run, sampler=sampler)
    return run


def first(change: Callable[[VLM, Completion], Completion]) -> Callable[[VLM, Groups], Groups]:
    return lambda vlm, groups: [[change(vlm, group[0]), *group[1:]] for group in groups]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda vlm, groups: groups[:3], r"3 groups for 4 prompts"),
        (lambda vlm, groups: [group[:2] for group in groups], r"sample square-\d: 2 completions; .*group = 3"),
        (first(lambda vlm, one: replace(one, ids=(), logprobs=())), r"completion 0: 0 tokens"),
        (first(lambda vlm, one: replace(one, ids=one.ids * 9, logprobs=one.logprobs * 9)), r"max_tokens = 6"),
        (first(lambda vlm, one: replace(one, logprobs=one.logprobs[1:])), r"not one finite logprob for each"),
        (first(lambda vlm, one: replace(one, logprobs=(math.nan, *one.logprobs[1:]))), r"not one finite logprob"),
        (first(lambda vlm, one: replace(one, ids=(vlm.image_token_id, *one.ids[1:]))), r"token \d+ is none that may"),
        (first(lambda vlm, one: replace(one, ids=(300, *one.ids[1:]))), r"token 300 is none that may be drawn"),
        (first(lambda vlm, one: replace(one, finish="eos")), r"finish is 'eos'; say `stop` or `length`"),
    ],
)
def test_what_another_engine_must_not_draw(change: Callable[[VLM, Groups], Groups], says: str, tmp_path: Path) -> None:
    vlm = small_vlm()

    def elsewhere(prompts: Any, params: Any) -> Groups:
        return change(vlm, sample(vlm, prompts, params, torch.Generator().manual_seed(1)))

    with pytest.raises(InputError, match=f"^sampler: .*{says}|^sampler: {says}"):
        trained(tmp_path / "run", vlm, elsewhere)


def test_a_model_whose_states_are_not_finite_is_named_with_the_sample(tmp_path: Path) -> None:
    vlm = small_vlm()
    with torch.no_grad():
        vlm.model.model.language_model.layers[1].mlp.down_proj.weight[0, 0] = math.nan
    with pytest.raises(InputError, match=r"after the prompt of sample square-\d are not finite \(4 of 4 prompts\)"):
        trained(tmp_path / "run", vlm)


def test_logits_that_are_not_finite_end_the_run_and_what_was_saved_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, vlm = decode.Decoder.logits, small_vlm()

    def diverged(self: decode.Decoder, states: torch.Tensor) -> torch.Tensor:
        found = logits(self, states)
        return found * math.nan if read_metrics(run)[2:] and self.length else found

    monkeypatch.setattr(decode.Decoder, "logits", diverged)
    recipe = grpo_recipe(save_every=1)
    run = create_run(tmp_path / "run", recipe)
    with pytest.raises(InputError, match=r"logits are not finite at token 2 .*lower optimizer\.lr"):
        train_grpo(recipe, vlm, colour_task(), REWARDS, run)
    assert [row["step"] for row in read_metrics(run)] == [1, 2, 3]
    assert json.loads((run.checkpoint / "state.json").read_text())["step"] == 3


def test_every_skipped_update_of_a_step_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descend, calls = grpo.descend, []

    def first_fails(training: Any, step: int, loss: float, *rest: Any) -> dict[str, float]:
        calls.append(step)
        return descend(training, step, math.nan if len(calls) == 1 else loss, *rest)

    monkeypatch.setattr(grpo, "descend", first_fails)
    run = trained(tmp_path / "run", small_vlm(), updates=2)
    assert calls == [1, 1] and len(run.skipped.read_text().splitlines()) == 1
    assert read_metrics(run)[0]["skipped"] == 1.0


@pytest.mark.parametrize("tokens", [1, None])
def test_a_skipped_update_names_the_samples_whose_loss_was_not_finite(
    tokens: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, broken = grpo.split, []

    def one_breaks(*args: Any) -> list[Unit]:
        units = split(*args)
        batch = units[0].batches[-1]
        batch.advantages[-1] = math.inf
        broken.append(batch.samples[-1])
        return units

    monkeypatch.setattr(grpo, "split", one_breaks)
    run = trained(tmp_path / "run", small_vlm(), **({} if tokens is None else {"micro_tokens": tokens}))
    (line,) = [json.loads(line) for line in run.skipped.read_text().splitlines()]
    assert line["samples"] == broken and line["loss"] is None


def test_the_check_at_the_start_looks_at_a_picture_if_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    monkeypatch.setattr(grpo, "check_engine", lambda vlm, prompt, *_: looked.append(prompt) or {})
    task = colour_task()
    order = [5, 0, 1, 2]  # the first of them has no picture
    task = replace(task, samples=[task.samples[index] for index in order])
    monkeypatch.setattr("cleareyed.training.rollouts.draw", lambda *_: [0, 1, 2, 3])
    recipe = grpo_recipe(steps=1)
    train_grpo(recipe, small_vlm(), task, REWARDS, create_run(tmp_path / "run", recipe))
    assert [prompt.pixels is not None for prompt in looked] == [True]


def test_an_on_policy_step_runs_its_layers_for_prompts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that go through the language model's layers, and that its last norm sees; after the first step's check."""
    vlm = small_vlm()
    seen: list[tuple[int, int]] = []
    vlm.model.model.language_model.norm.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[:2]))
    steps: list[int] = []
    through: list[int] = []
    layers = forward.run_layers

    def run_layers(language: Any, embeds: torch.Tensor, *others: Any) -> Any:
        through.append(len(embeds))
        return layers(language, embeds, *others)

    monkeypatch.setattr(forward, "run_layers", run_layers)

    class Listener:
        def status(self, what: str, done: int, total: int) -> None:
            pass

        def step(self, step: int, total: int, metrics: Any) -> None:
            steps.append(len(seen))

    def equal_at_last(completion_ids: list[list[int]], **columns: Any) -> list[float | None]:
        return [float(len(steps) < 2) * (sum(ids) % 7 + index) for index, ids in enumerate(completion_ids)]

    recipe = grpo_recipe(steps=3)
    run = create_run(tmp_path / "run", recipe)
    train_grpo(recipe, vlm, colour_task(), (RewardFunction("r", 1.0, equal_at_last),), run, observer=Listener())
    assert [rows for rows, _ in seen[steps[0] : steps[1]]] == [4, 1]  # the prompts; all completions in one row
    assert through[-2:] == [4, 4]  # sampling has done it for the completions
    assert [rows for rows, _ in seen[steps[1] : steps[2]]] == [4]  # drawn, and nothing to learn
    assert read_metrics(run)[2]["share_without_signal"] == 1.0


def test_groups_are_judged_while_others_are_drawn(tmp_path: Path) -> None:
    """Judging the first group waits until it is told that another one is complete."""
    vlm = small_vlm()
    known = [token for token in range(300) if token not in vlm.banned_ids]
    vlm = replace(vlm, eos_ids=tuple(known[::6]))
    main, drawing = threading.get_ident(), threading.Event()
    judged: list[int] = []

    class Listener:
        def status(self, what: str, done: int, total: int) -> None:
            if what == "sample" and judged and done < total:
                drawing.set()

        def step(self, step: int, total: int, metrics: Any) -> None:
            pass

    def slow(completion_ids: list[list[int]], **columns: Any) -> list[float | None]:
        begun = not judged
        judged.append(threading.get_ident())
        if begun:
            assert drawing.wait(5)
        return [float(len(ids)) for ids in completion_ids]

    recipe = grpo_recipe(steps=1, prompts_per_step=7, sampling={"group": 3, "max_tokens": 40})
    run = create_run(tmp_path / "run", recipe)
    train_grpo(recipe, vlm, colour_task(), (RewardFunction("slow", 1.0, slow),), run, observer=Listener())
    assert len(judged) == 7 and main not in judged
