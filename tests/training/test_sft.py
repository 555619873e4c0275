import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training.small import colour_task, gradients, relative_gap, sft_recipe, small_vlm

from cleareyed.errors import InputError
from cleareyed.models.encode import encode
from cleareyed.models.vlm import VLM
from cleareyed.records.run import RunFolder, create_run, read_metrics
from cleareyed.tasks.prompts import prompt_style, prompt_text
from cleareyed.tasks.task import Sample
from cleareyed.training import sft
from cleareyed.training.loop import draw
from cleareyed.training.sft import target_logprobs, target_text, train_sft


def trained(folder: Path, vlm: VLM, **changes: Any) -> RunFolder:
    recipe = sft_recipe(**changes)
    run = create_run(folder, recipe)
    train_sft(recipe, vlm, colour_task(), run)
    return run


def slow_loss(vlm: VLM, on_prompt: bool) -> tuple[torch.Tensor, int]:
    """The first step's loss, one sample at a time through the library's whole forward, with its token count."""
    recipe, task, style = sft_recipe(), colour_task(), prompt_style("plain")
    losses = []
    for index in draw(recipe.seed, 1, recipe.batch, len(task.samples)):
        sample = task.samples[index]
        prompt = encode(vlm, prompt_text(style, sample.question), [load() for load in sample.images])
        answer = vlm.tokenizer(sample.answer)["input_ids"] + [vlm.tokenizer.eos_token_id]
        ids = torch.tensor([*prompt.ids.tolist(), *answer])[None]
        images = {}
        if prompt.pixels is not None:
            images = {"pixel_values": prompt.pixels, "image_grid_thw": prompt.grid}
            images["mm_token_type_ids"] = (ids == vlm.image_token_id).int()
        logits = vlm.model(input_ids=ids, **images).logits[0].index_fill(1, torch.tensor(vlm.banned_ids), -torch.inf)
        for place in range(1, ids.shape[1]):
            token = int(ids[0, place])
            if place >= len(prompt.ids) or (on_prompt and token not in vlm.banned_ids):
                losses.append(-torch.log_softmax(logits[place - 1], 0)[token])
    return torch.stack(losses).mean(), len(losses)


@pytest.mark.parametrize("on_prompt", [False, True])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_step_is_that_of_the_slow_obvious_way(on_prompt: bool, micro_batch: int | None, tmp_path: Path) -> None:
    vlm, slow = small_vlm(), small_vlm()
    changes = {"steps": 1, "train_on_prompt": on_prompt, "micro_batch": micro_batch}
    run = trained(tmp_path / "run", vlm, optimizer={"lr": 1e-3, "max_grad_norm": 0}, **changes)
    loss, tokens = slow_loss(slow, on_prompt)
    loss.backward()
    (row,) = read_metrics(run)
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert row["tokens"] == tokens
    assert row["samples"] == 4
    assert relative_gap(gradients(vlm), gradients(slow)) < 1e-5


def test_it_learns_the_colours(tmp_path: Path) -> None:
    optimizer = {"lr": 1e-2, "schedule": "cosine", "warmup": 5}
    run = trained(tmp_path / "run", small_vlm(), steps=40, save_every=40, optimizer=optimizer)
    rows = read_metrics(run)
    assert rows[0]["token_accuracy"] < 0.2
    assert rows[-1]["loss"] < 0.2 < 4 < rows[0]["loss"]
    assert rows[-1]["token_accuracy"] > 0.9


def test_a_long_prompt_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"sample square-\d: its prompt has \d+ tokens, more than max_prompt_tokens=9"
    ):
        trained(tmp_path / "run", small_vlm(), max_prompt_tokens=9)


def test_a_skipped_update_names_the_micro_batch_whose_loss_was_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def second_breaks(vlm: VLM, examples: Any) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(examples))
        logprobs, targets = target_logprobs(vlm, examples)
        return (logprobs * torch.nan if len(calls) == 3 else logprobs), targets  # after the check

    monkeypatch.setattr(sft, "target_logprobs", second_breaks)
    run = trained(tmp_path / "run", small_vlm(), steps=1, micro_batch=1)
    order = draw(sft_recipe().seed, 1, 4, 7)
    (line,) = [json.loads(line) for line in run.skipped.read_text().splitlines()]
    assert calls == [1] * 5 and line["samples"] == [f"square-{order[1]}"]


@pytest.mark.parametrize("on_prompt", [False, True])
def test_the_start_compares_the_forward_with_the_plain_one(on_prompt: bool, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", small_vlm(), steps=2, train_on_prompt=on_prompt)
    (found,) = [json.loads(line) for line in run.checks.read_text().splitlines()]
    assert found["step"] == 1 and 0 <= found["mean"] <= found["largest"] < 1e-5
    vlm = small_vlm()
    vlm.model.model.language_model.layers[1].mlp.register_forward_hook(lambda _, args, out: out * 1.5)
    with pytest.raises(InputError, match=r"disagree on logprobs by .* \(largest difference, fp32; at most 0.0001"):
        trained(tmp_path / "changed", vlm)


def test_forms_take_turns(tmp_path: Path) -> None:
    forms = ({"prompt": "bare", "target": "<{answer}>"}, {"prompt": "plain"})
    (row,) = read_metrics(trained(tmp_path / "run", small_vlm(), steps=1, forms=forms))
    recipe, task, vlm = sft_recipe(), colour_task(), small_vlm()
    samples = [task.samples[index] for index in draw(recipe.seed, 1, recipe.batch, len(task.samples))]
    texts = [f"<{one.answer}>" if place % 2 == 0 else one.answer for place, one in enumerate(samples)]
    assert row["tokens"] == sum(len(vlm.tokenizer(text)["input_ids"]) + 1 for text in texts)


def test_a_target_is_filled_from_the_sample() -> None:
    sample = Sample(id="s", question="?", answer="{thought}", columns={"thought": "I look.", "n": 3})
    assert target_text("<think>{thought}</think> {n} {answer}", sample) == "<think>I look.</think> 3 {thought}"
    with pytest.raises(InputError, match="names thougt, which sample s lacks; known: answer, thought, n"):
        target_text("{thougt}", sample)
