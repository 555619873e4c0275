"""What sampling has kept stands for the forward of its completions."""

from dataclasses import replace

import pytest
import torch
from tiny import batch, picture, tiny_qwen2_5_vl, tiny_qwen2_vl

from cleareyed.errors import InputError
from cleareyed.models import kept as keeping
from cleareyed.models import replay as replaying
from cleareyed.models.check import check_engine
from cleareyed.models.encode import encode
from cleareyed.models.forward import checkpoint_blocks, continuation_logprobs, cut, join, plain_logprobs, run_prefix
from cleareyed.models.kept import Replayed, room_for
from cleareyed.models.lora import add_adapters
from cleareyed.models.sample import sample
from cleareyed.models.vlm import SamplingParams, padded
from cleareyed.recipe import LoraSpec

TOKENS = 24


def drawn(vlm, prompts, group, temperature=1.0):
    """Completions of every length, as some draws in eight end one, and what is kept of them."""
    known = [token for token in range(300) if token not in vlm.banned_ids]
    vlm = replace(vlm, eos_ids=tuple(known[::8]))
    kept = room_for(vlm, len(prompts) * group, TOKENS)
    params = SamplingParams(TOKENS, temperature=temperature, group=group)
    groups = sample(vlm, prompts, params, torch.Generator().manual_seed(0), kept=kept)
    return [completion for some in groups for completion in some], kept


def plain_gradients(vlm, prompts, rows, completions, weights, temperature):
    """By the library's whole forward, one completion at a time."""
    vlm.model.zero_grad(set_to_none=True)
    for row, completion, weight in zip(rows.tolist(), completions, weights, strict=True):
        logprobs = plain_logprobs(vlm, prompts[row], torch.tensor(completion.ids), temperature)
        (logprobs * weight[: len(logprobs)]).sum().backward()
    return {name: part.grad.clone() for name, part in vlm.model.named_parameters() if part.grad is not None}


def kept_gradients(vlm, prompts, rows, completions, weights, temperature, kept, parts):
    """By what is kept, in several micro-batches in any order."""
    vlm.model.zero_grad(set_to_none=True)
    prefix = run_prefix(vlm, prompts)
    leaves = cut(prefix)
    ids, mask = padded(completions)
    found = torch.zeros(ids.shape)
    for part in torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).chunk(parts):
        replayed = Replayed(kept, part)
        longest = int(mask[part].sum(1).max())
        some = (rows[part], ids[part, :longest], mask[part, :longest])
        logprobs, _ = continuation_logprobs(vlm, leaves, *some, temperature, replayed=replayed)
        found[part, :longest] = logprobs.detach()
        (logprobs * weights[part, :longest]).sum().backward()
    join(prefix, leaves)
    return {name: part.grad.clone() for name, part in vlm.model.named_parameters() if part.grad is not None}, found


@pytest.mark.parametrize(
    ("build", "group", "parts", "temperature"),
    [(tiny_qwen2_vl, 2, 1, 1.0), (tiny_qwen2_vl, 16, 3, 0.7), (tiny_qwen2_5_vl, 16, 4, 1.0)],
)
def test_gradients_are_those_of_the_plain_forward(build, group, parts, temperature, monkeypatch):
    """No image, one and two, prompts and completions of many lengths; gates in pieces smaller than a micro-batch."""
    monkeypatch.setattr(replaying, "PIECE", 16)
    vlm = build()
    prompts = batch(vlm)[0]
    completions, kept = drawn(vlm, prompts, group, temperature)
    lengths = {len(completion.ids) for completion in completions}
    assert len(lengths) > 4 and (group == 2 or 1 in lengths)
    rows = torch.arange(len(prompts)).repeat_interleave(group)
    weights = torch.randn(len(rows), TOKENS, generator=torch.Generator().manual_seed(2))
    expected = plain_gradients(vlm, prompts, rows, completions, weights, temperature)
    found, logprobs = kept_gradients(vlm, prompts, rows, completions, weights, temperature, kept, parts)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        assert gradient.norm() > 0, name
        assert (found[name] - gradient).norm() < 1e-5 * gradient.norm(), name
    for row, completion in enumerate(completions):
        assert torch.allclose(logprobs[row, : len(completion.ids)], torch.tensor(completion.logprobs), atol=1e-5)


def test_a_frozen_language_model_gets_no_gradients_and_the_vision_tower_the_same():
    vlm = tiny_qwen2_vl()
    prompts = batch(vlm)[0]
    completions, kept = drawn(vlm, prompts, 4)
    rows = torch.arange(len(prompts)).repeat_interleave(4)
    weights = torch.randn(len(rows), TOKENS, generator=torch.Generator().manual_seed(2))
    free, _ = kept_gradients(vlm, prompts, rows, completions, weights, 1.0, kept, 2)
    vlm.model.requires_grad_(False)
    vlm.model.model.visual.requires_grad_(True)
    bound, _ = kept_gradients(vlm, prompts, rows, completions, weights, 1.0, kept, 2)
    assert bound and all("visual" in name for name in bound)
    for name, gradient in bound.items():
        assert (gradient - free[name]).norm() < 1e-5 * free[name].norm(), name


def test_the_same_room_serves_one_sampling_after_another():
    vlm = tiny_qwen2_vl()
    prompts = [encode(vlm, "Two?", [picture(64, 16)])]
    first, kept = drawn(vlm, prompts, 4)
    params = SamplingParams(9, group=4)
    again = sample(vlm, prompts, params, torch.Generator().manual_seed(5), kept=kept.emptied())[0]
    assert [one.ids for one in again] != [one.ids[:9] for one in first]
    ids, mask = padded(again)
    with torch.no_grad():
        rows = torch.zeros(4, dtype=torch.int64)
        found, _ = continuation_logprobs(
            vlm, run_prefix(vlm, prompts), rows, ids, mask, replayed=Replayed(kept, torch.arange(4))
        )
    assert torch.allclose(found[mask], torch.tensor([score for one in again for score in one.logprobs]), atol=1e-5)


def test_the_start_check_looks_at_what_is_kept():
    vlm = tiny_qwen2_vl()
    prompts = [encode(vlm, "Two?", [picture(64, 16)])]
    completions, kept = drawn(vlm, prompts, 2)
    assert check_engine(vlm, prompts[0], completions, 1.0, Replayed(kept, torch.arange(2)))["largest"] < 1e-5
    kept.layers[-1].after[: kept.used] *= 1.01
    kept.layers[-1].after[: kept.used, 0] += 0.1
    with pytest.raises(InputError, match="disagree on logprobs"):
        check_engine(vlm, prompts[0], completions, 1.0, Replayed(kept, torch.arange(2)))


def test_nothing_is_kept_where_it_could_not_be_used(monkeypatch):
    vlm = tiny_qwen2_vl()
    assert room_for(vlm, 4, 8) is not None
    assert room_for(replace(vlm, autocast=True), 4, 8) is None
    saving, adapted = tiny_qwen2_vl(), tiny_qwen2_vl()
    checkpoint_blocks(saving.model)
    assert room_for(saving, 4, 8) is None
    pytest.importorskip("peft")
    add_adapters(adapted.model, LoraSpec(rank=2), "tiny")
    assert room_for(adapted, 4, 8) is None
    monkeypatch.setattr(keeping, "KEPT_BYTES", 1000)
    assert room_for(vlm, 4, 8) is None
