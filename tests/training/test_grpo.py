import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training.small import (
    REWARDS,
    colour_task,
    gradients,
    grpo_recipe,
    relative_gap,
    sft_recipe,
    small_vlm,
    some_reward,
    weights,
)

from cleareyed.errors import InputError
from cleareyed.models.encode import encode
from cleareyed.models.forward import plain_logprobs
from cleareyed.models.load import load_vlm
from cleareyed.models.sample import sample as sample_completions
from cleareyed.models.save import save_vlm
from cleareyed.models.vlm import VLM, SamplingParams
from cleareyed.recipe import ModelSpec
from cleareyed.records.parts import read_rollouts
from cleareyed.records.run import RunFolder, create_run, read_metrics
from cleareyed.scoring.rewards import RewardFunction
from cleareyed.tasks.prompts import prompt_style, prompt_text
from cleareyed.training.grpo import group_advantages, grpo_losses, train_grpo
from cleareyed.training.loop import draw, seed_for


def trained(folder: Path, vlm: VLM, rewards: tuple[RewardFunction, ...] = REWARDS, **changes: Any) -> RunFolder:
    recipe = grpo_recipe(**changes)
    run = create_run(folder, recipe)
    train_grpo(recipe, vlm, colour_task(), rewards, run)
    return run


def test_advantages_are_the_papers() -> None:
    totals = torch.tensor([[0.0, 1.0, 2.0, 1.0], [1.1, 1.1, 1.1, 1.1], [0.0, 0.0, 0.0, 2.0]], dtype=torch.float64)
    found = group_advantages(totals)
    for row, rewards in enumerate(totals.tolist()):
        mean, std = statistics.mean(rewards), statistics.stdev(rewards)
        expected = [(reward - mean) / (std + 1e-4) for reward in rewards]
        assert found[row].tolist() == pytest.approx(expected, abs=1e-12)
    assert found[1].tolist() == [0.0] * 4  # exactly: such a group is recognised by it


def test_losses_and_gradients_are_those_worked_out_by_hand() -> None:
    logprobs = [[-0.5, -1.0, -2.0], [-0.3, -0.7, -9.0], [-4.0, -1.0, -1.0]]
    references = [[-0.6, -0.4, -2.5], [-0.3, -0.9, -1.0], [-1.0, -2.0, -5.0]]
    lengths, advantages, beta = [3, 2, 1], [1.5, -0.5, 0.25], 0.04
    losses, slopes, divergences = [], [], []
    for logp, ref, length, advantage in zip(logprobs, references, lengths, advantages, strict=True):
        kl = [math.exp(r - p) - (r - p) - 1 for p, r in zip(logp, ref, strict=True)][:length]
        losses.append(-sum(advantage - beta * k for k in kl) / length)
        slope = [-(advantage - beta * (1 - math.exp(r - p))) / length for p, r in zip(logp, ref, strict=True)]
        slopes.append([s if t < length else 0.0 for t, s in enumerate(slope)])
        divergences.append([*kl, *[0.0] * (3 - length)])

    policy = torch.tensor(logprobs, requires_grad=True)
    mask = torch.arange(3) < torch.tensor(lengths)[:, None]
    found, kl = grpo_losses(policy, torch.tensor(references), torch.tensor(advantages), mask, beta)
    found.sum().backward()
    torch.testing.assert_close(found, torch.tensor(losses))
    torch.testing.assert_close(kl, torch.tensor(divergences))
    assert policy.grad is not None
    torch.testing.assert_close(policy.grad, torch.tensor(slopes))


def test_padding_that_is_not_finite_does_not_reach_the_loss() -> None:
    policy = torch.tensor([[-1.0, -math.inf]], requires_grad=True)
    losses, _ = grpo_losses(policy, policy.detach(), torch.ones(1), torch.tensor([[True, False]]), 0.1)
    losses.sum().backward()
    assert losses.tolist() == [-1.0]
    assert policy.grad is not None and policy.grad.tolist() == [[-1.0, 0.0]]


def test_a_step_has_the_gradient_of_the_slow_obvious_way(tmp_path: Path) -> None:
    """Each completion by itself through the library's whole forward, none left out."""
    vlm, slow = small_vlm(), small_vlm()
    trained(tmp_path / "run", vlm, steps=1, optimizer={"lr": 1e-3, "max_grad_norm": 0})

    recipe, task, style = grpo_recipe(), colour_task(), prompt_style("plain")
    samples = [task.samples[i] for i in draw(recipe.seed, 1, 4, len(task.samples))]
    assert "square-2" in [sample.id for sample in samples]  # a group without signal, whose forward is skipped
    prompts = [encode(slow, prompt_text(style, s.question), [load() for load in s.images]) for s in samples]
    generator = torch.Generator().manual_seed(seed_for("sample", recipe.seed, 1))
    groups = sample_completions(slow, prompts, SamplingParams(6, 1.0, 3), generator)
    loss = torch.zeros(())
    for sample, prompt, group in zip(samples, prompts, groups, strict=True):
        rewards = some_reward([completion.ids for completion in group], [sample.id] * 3)
        for completion, reward in zip(group, rewards, strict=True):
            assert reward is not None
            mean, std = statistics.mean(r or 0.0 for r in rewards), statistics.stdev(r or 0.0 for r in rewards)
            advantage = (reward - mean) / (std + 1e-4)
            logprobs = plain_logprobs(slow, prompt, torch.tensor(completion.ids))
            loss = loss - advantage * logprobs.mean() / 12  # the gradient of ratio * A where ratio is 1
    loss.backward()
    assert relative_gap(gradients(vlm), gradients(slow)) < 1e-5


def test_micro_batches_give_the_same_update(tmp_path: Path) -> None:
    found = {}
    for size in (1, 2, 4):
        vlm = small_vlm()
        trained(tmp_path / str(size), vlm, steps=1, beta=0.04, micro_prompts=size)
        found[size] = gradients(vlm)
    assert relative_gap(found[1], found[4]) < 1e-5
    assert relative_gap(found[2], found[4]) < 1e-5


def test_it_learns_to_say_the_token_that_is_rewarded(tmp_path: Path) -> None:
    vlm = small_vlm()
    token = vlm.tokenizer.convert_tokens_to_ids("u")

    def share(completion_ids: list[list[int]], **columns: Any) -> list[float | None]:
        return [sum(one == token for one in ids) / len(ids) for ids in completion_ids]

    run = trained(
        tmp_path / "run",
        vlm,
        (RewardFunction("share", 1.0, share),),
        steps=30,
        save_every=30,
        optimizer={"lr": 5e-3, "schedule": "constant"},
        sampling={"group": 16, "max_tokens": 4},
    )
    rewards = [row["reward"] for row in read_metrics(run)]
    assert rewards[0] is not None and rewards[0] < 0.1
    assert rewards[-1] is not None and rewards[-1] > 0.8


def test_what_is_recorded(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", small_vlm(), steps=2, beta=0.1)
    rows, metrics = read_rollouts(run), read_metrics(run)
    assert [(row.step, row.group, row.index) for row in rows] == [
        (step, group, index) for step in (1, 2) for group in range(4) for index in range(3)
    ]
    for step, line in enumerate(metrics, 1):
        own = [row for row in rows if row.step == step]
        lengths = [row.tokens for row in own]
        groups = [[row.reward for row in own if row.group == group] for group in range(4)]
        assert line["step"] == step
        assert line["reward"] == pytest.approx(statistics.mean(row.reward for row in own))
        assert line["reward/some"] == pytest.approx(line["reward"])
        assert line["reward_std"] == pytest.approx(statistics.mean(map(statistics.stdev, groups)))
        assert line["share_without_signal"] == sum(len(set(group)) == 1 for group in groups) / 4
        assert line["completion_tokens"] == pytest.approx(statistics.mean(lengths))
        assert min(lengths) <= line["completion_tokens_p10"] <= line["completion_tokens_p90"] <= max(lengths)
        assert line["share_cut_off"] == statistics.mean(row.finish == "length" for row in own)
        assert line["accuracy"] == statistics.mean(row.correct for row in own)
        assert line["format_rate"] == 0.0
        assert line["samples"] == 4 * step
        assert line["sampler_gap"] < 1e-4
        assert 0 < line["entropy"] <= math.log(300)
        phases = ("render", "encode", "sample", "score", "reference", "update")
        assert sum(line[f"seconds/{phase}"] for phase in phases) <= line["seconds/total"]
    assert metrics[0]["kl"] == pytest.approx(0.0, abs=1e-6)  # the policy still is the reference
    assert metrics[1]["kl"] > 1e-5
    assert metrics[1]["lr"] == pytest.approx(metrics[0]["lr"] / 2)
    assert metrics[1]["tokens"] == sum(row.tokens for row in rows)
    assert load_vlm(ModelSpec(path=str(run.final))).model.num_parameters() > 0


@pytest.mark.parametrize("part", ["vision", "language"])
def test_what_is_frozen_stays_and_the_rest_moves(part: str, tmp_path: Path) -> None:
    save_vlm(small_vlm(), tmp_path / "start")
    vlm = load_vlm(ModelSpec.model_validate({"path": str(tmp_path / "start"), f"freeze_{part}": True}))
    before = weights(vlm)
    trained(tmp_path / "run", vlm, steps=3)
    after = weights(vlm)
    for name in before:
        vision = "visual" in name
        if vision == (part == "vision"):
            assert torch.equal(before[name], after[name]), name
        else:
            assert not torch.equal(before[name], after[name]), name


def test_a_long_prompt_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"sample square-\d: its prompt has \d+ tokens, more than max_prompt_tokens=9"
    ):
        trained(tmp_path / "run", small_vlm(), max_prompt_tokens=9)


def test_the_task_sets_the_rule_of_accuracy(tmp_path: Path) -> None:
    recipe = grpo_recipe(steps=1)
    task = replace(colour_task(), rule="no-such-rule")
    with pytest.raises(InputError, match="no-such-rule"):
        train_grpo(recipe, small_vlm(), task, REWARDS, create_run(tmp_path / "run", recipe))


def test_sft_twins_see_the_same_samples() -> None:
    grpo, sft = grpo_recipe(), sft_recipe()
    assert draw(grpo.seed, 5, grpo.prompts_per_step, 7) == draw(sft.seed, 5, sft.batch, 7)
