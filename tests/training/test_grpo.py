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
from cleareyed.training.grpo import train_grpo
from cleareyed.training.loop import draw, seed_for


def trained(folder: Path, vlm: VLM, rewards: tuple[RewardFunction, ...] = REWARDS, **changes: Any) -> RunFolder:
    recipe = grpo_recipe(**changes)
    run = create_run(folder, recipe)
    train_grpo(recipe, vlm, colour_task(), rewards, run)
    return run


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


def test_tokens_that_go_through_at_a_time_do_not_matter(tmp_path: Path) -> None:
    """Nor do prompts: global counts, whatever the aggregate; 6 tokens is one completion at a time."""
    for aggregate in ("sequence", "token", "constant"):
        found = {}
        for micro in ({}, {"micro_tokens": 6}, {"micro_tokens": 20, "micro_prompts": 2}):
            vlm = small_vlm()
            folder = tmp_path / f"{aggregate}-{len(found)}"
            trained(folder, vlm, steps=1, beta=0.04, loss={"aggregate": aggregate}, **micro)
            found[len(found)] = gradients(vlm)
        assert relative_gap(found[1], found[0]) < 1e-5
        assert relative_gap(found[2], found[0]) < 1e-5


def test_a_step_runs_each_image_and_each_prompt_once(tmp_path: Path) -> None:
    vlm = small_vlm()
    images, prompts = [], []
    vlm.model.model.visual.patch_embed.register_forward_hook(lambda _, args, __: images.append(len(args[0])))
    vlm.model.model.language_model.norm.register_forward_hook(lambda _, args, __: prompts.append(args[0].shape[0]))
    trained(tmp_path / "run", vlm, steps=2)
    assert len(images) == 2 + 1 + 2  # one for each step; the check at the start: one, and two in the plain forward
    assert [count for count in prompts if count == 4] == [4, 4]


def test_several_updates_take_the_rollouts_policy_as_the_old_one(tmp_path: Path) -> None:
    one, two = small_vlm(), small_vlm()
    trained(tmp_path / "one", one, steps=1, optimizer={"lr": 1e-3, "schedule": "constant"})
    run = trained(tmp_path / "two", two, steps=1, updates=2, optimizer={"lr": 1e-3, "schedule": "constant"})
    assert relative_gap(gradients(two), gradients(one)) > 1e-3  # the gradient of the second update
    line = read_metrics(run)[0]
    assert line["mismatch/largest_gap"] < 1e-4  # measured at the first
    assert 0 <= line["share_clipped"] <= 1
    trained(tmp_path / "clipped", small_vlm(), steps=1, updates=2, loss={"clip_low": 0.0, "clip_high": 0.0},
            optimizer={"lr": 1e-3, "schedule": "constant"})  # fmt: skip
    clipped = read_metrics(RunFolder(tmp_path / "clipped"))[0]
    assert clipped["share_clipped"] > max(0.3, line["share_clipped"])


def test_groups_without_signal_are_replaced_and_counted(tmp_path: Path) -> None:
    def mostly_equal(id: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float | None]:
        return [
            float(sum(ids) % 3) if name == "square-1" else 1.0 for name, ids in zip(id, completion_ids, strict=True)
        ]

    rewards = (RewardFunction("mostly", 1.0, mostly_equal),)
    plain = trained(tmp_path / "plain", small_vlm(), rewards, steps=1)
    run = trained(tmp_path / "refilled", small_vlm(), rewards, steps=1, refills=3)
    rows = read_rollouts(run)
    assert read_rollouts(plain) == rows[:12]  # the first round is that of a run without refills
    groups = {row.group: row for row in rows}
    assert read_metrics(run)[0]["replaced"] == len(groups) - 4 > 0
    assert len(groups) <= 4 * 4
    assert (
        trained(tmp_path / "again", small_vlm(), rewards, steps=1, refills=3)
        and read_rollouts(RunFolder(tmp_path / "again")) == rows
    )


def test_truncated_completions_can_be_left_out(tmp_path: Path) -> None:
    """All are cut off here, so nothing is left to learn from."""
    vlm = small_vlm()
    before = weights(vlm)
    vlm = replace(vlm, eos_ids=(vlm.image_token_id,))
    run = trained(tmp_path / "run", vlm, steps=1, mask_truncated=True)
    assert read_metrics(run)[0]["share_cut_off"] == 1.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(vlm).items())


def test_rollouts_of_another_engine_are_weighed_and_their_mismatch_is_shown(tmp_path: Path) -> None:
    """The other engine says 0.5 nats less than we do for every token: the weights are exp(0.5), up to the cap."""
    found = {}
    for name, gap, cap in (("same", 0.0, 2.0), ("free", 0.5, 2.0), ("capped", 0.5, 1.2), ("unweighed", 0.5, None)):
        vlm = small_vlm()

        def elsewhere(prompts: Any, params: SamplingParams, vlm: VLM = vlm, gap: float = gap) -> Any:
            groups = sample_completions(vlm, prompts, params, torch.Generator().manual_seed(1))
            return [[replace(c, logprobs=tuple(p - gap for p in c.logprobs)) for c in group] for group in groups]

        recipe = grpo_recipe(steps=1, importance_cap=cap, optimizer={"lr": 1e-3, "max_grad_norm": 0})
        run = create_run(tmp_path / name, recipe)
        train_grpo(recipe, vlm, colour_task(), REWARDS, run, sampler=elsewhere)
        assert read_metrics(run)[0]["mismatch/largest_gap"] == pytest.approx(gap, abs=1e-4)
        found[name] = gradients(vlm)
    for name, weight in (("free", math.exp(0.5)), ("capped", 1.2), ("unweighed", 1.0)):
        expected = {key: gradient * weight for key, gradient in found["same"].items()}
        assert relative_gap(found[name], expected) < 1e-4


def test_an_engine_that_disagrees_with_the_plain_forward_stops_the_run(tmp_path: Path) -> None:
    vlm = small_vlm()
    layer = vlm.model.model.language_model.layers[1].mlp
    # The library's layers no longer do what ours do: what a change of it might bring.
    layer.register_forward_hook(lambda _, args, out: out * 1.5)
    with pytest.raises(InputError, match=r"disagree on logprobs by .* \(largest difference, fp32; at most 0.0001"):
        trained(tmp_path / "run", vlm)


def test_adapters_are_trained_against_the_model_without_them(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    save_vlm(small_vlm(), tmp_path / "start")
    spec = {"path": str(tmp_path / "start"), "lora": {"rank": 4}}
    vlm = load_vlm(ModelSpec.model_validate(spec))
    before = weights(vlm)
    run = trained(tmp_path / "run", vlm, steps=3, beta=0.1, model=spec)
    for name, tensor in weights(vlm).items():
        assert torch.equal(tensor, before[name]) == ("lora" not in name), name
    kl = [line["kl"] for line in read_metrics(run)]
    assert kl[0] == pytest.approx(0.0, abs=1e-6) and kl[2] > 0


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
        assert line["mismatch/largest_gap"] < 1e-4
        assert line["mismatch/ess"] == pytest.approx(1.0, abs=1e-3)
        assert 0 < line["entropy"] <= math.log(300)
        phases = ("prepare", "prompt", "sample", "score", "reference", "update")
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


def test_frozen_vision_in_micro_batches_of_which_one_has_no_picture(tmp_path: Path) -> None:
    save_vlm(small_vlm(), tmp_path / "start")
    found = {}
    for size in (1, None):
        vlm = load_vlm(ModelSpec.model_validate({"path": str(tmp_path / "start"), "freeze_vision": True}))
        trained(tmp_path / str(size), vlm, steps=1, prompts_per_step=7, micro_prompts=size)
        found[size] = gradients(vlm)
    assert relative_gap(found[1], found[None]) < 1e-5


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
