from collections import Counter
from dataclasses import replace

import pytest
import torch
from tiny import picture, tiny_qwen2_5_vl, tiny_qwen2_vl

from cleareyed.errors import InputError
from cleareyed.models import decode
from cleareyed.models import sample as sampling
from cleareyed.models.encode import encode
from cleareyed.models.forward import continuation_logprobs, plain_logprobs, run_prefix
from cleareyed.models.sample import sample
from cleareyed.models.vlm import SamplingParams


def ask(vlm):
    return [
        encode(vlm, "How many red cubes are left of the blue ball?", [picture(32, 48)]),
        encode(vlm, "Two?", [picture(64, 16, seed=2), picture(24, 24, seed=3)]),
        encode(vlm, "No picture here", []),
    ]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ends_often(vlm, share):
    """The same model with an ending token that about `share` of random draws hit."""
    known = [token for token in range(300) if token not in vlm.banned_ids]
    return replace(vlm, eos_ids=tuple(known[:: round(1 / share)]))


@pytest.mark.parametrize("build", [tiny_qwen2_vl, tiny_qwen2_5_vl])
def test_greedy_tokens_are_those_of_generate(build):
    vlm = build()
    prompts = ask(vlm)
    greedy = SamplingParams(max_tokens=20, temperature=0)
    vlm = replace(vlm, eos_ids=(sample(vlm, prompts, greedy, seeded())[0][0].ids[6],))
    ours = sample(vlm, prompts, greedy, seeded())
    finishes = set()
    for prompt, (completion,) in zip(prompts, ours, strict=True):
        images = {}
        if prompt.pixels is not None:
            images = {
                "pixel_values": prompt.pixels,
                "image_grid_thw": prompt.grid,
                "mm_token_type_ids": (prompt.ids[None] == vlm.image_token_id).int(),
            }
        theirs = vlm.model.generate(
            input_ids=prompt.ids[None],
            attention_mask=torch.ones(1, len(prompt.ids), dtype=torch.long),
            max_new_tokens=20,
            do_sample=False,
            suppress_tokens=list(vlm.banned_ids),
            eos_token_id=list(vlm.eos_ids),
            **images,
        )
        assert list(completion.ids) == theirs[0, len(prompt.ids) :].tolist()
        finishes.add(completion.finish)
    assert "stop" in finishes


@pytest.mark.parametrize(("temperature", "build"), [(1.0, tiny_qwen2_vl), (0.6, tiny_qwen2_5_vl), (0, tiny_qwen2_vl)])
def test_recorded_logprobs_are_those_of_the_training_forward(temperature, build, monkeypatch):
    monkeypatch.setattr(decode, "BLOCK", 4)
    vlm = ends_often(build(), 1 / 8)
    prompts = ask(vlm)
    groups = sample(vlm, prompts, SamplingParams(max_tokens=11, temperature=temperature, group=6), seeded())
    assert [len(group) for group in groups] == [6, 6, 6]
    drawn = [completion for group in groups for completion in group]
    ids = torch.zeros(18, 11, dtype=torch.int64)
    logprobs, mask = torch.zeros(18, 11), torch.zeros(18, 11, dtype=torch.bool)
    for row, completion in enumerate(drawn):
        size = len(completion.ids)
        ids[row, :size], mask[row, :size] = torch.tensor(completion.ids), True
        logprobs[row, :size] = torch.tensor(completion.logprobs)
    rows = torch.arange(3).repeat_interleave(6)
    again, _ = continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask, temperature or 1.0)
    assert torch.allclose(again, logprobs, atol=1e-4)
    assert len({completion.ids for completion in drawn}) > (3 if temperature else 2)


@pytest.mark.parametrize("build", [tiny_qwen2_vl, tiny_qwen2_5_vl])
def test_recorded_logprobs_are_those_of_the_plain_forward(build):
    vlm = ends_often(build(), 1 / 8)
    prompts = ask(vlm)
    groups = sample(vlm, prompts, SamplingParams(max_tokens=9, temperature=0.8, group=2), seeded())
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            with torch.no_grad():
                plain = plain_logprobs(vlm, prompt, torch.tensor(completion.ids), 0.8)
            assert torch.allclose(plain, torch.tensor(completion.logprobs), atol=1e-4)


@pytest.mark.parametrize("build", [tiny_qwen2_vl, tiny_qwen2_5_vl])
def test_bf16_logprobs_are_close_to_those_of_fp32(build):
    vlm = build()
    with torch.no_grad():
        vlm.model.lm_head.weight.mul_(0.2)  # tied; logits as flat as a trained model's
    prompts = ask(vlm)
    groups = sample(replace(vlm, autocast=True), prompts, SamplingParams(max_tokens=12, group=4), seeded())
    gaps = []
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            assert not set(completion.ids) & set(vlm.banned_ids)
            with torch.no_grad():
                plain = plain_logprobs(vlm, prompt, torch.tensor(completion.ids))
            gaps.append((plain - torch.tensor(completion.logprobs)).abs())
    mean = torch.cat(gaps).mean().item()
    assert 1e-5 < mean <= 0.02  # not exactly fp32, which would not have been bf16


def test_draws_follow_the_distribution():
    vlm = tiny_qwen2_vl()
    with torch.no_grad():
        vlm.model.lm_head.weight.mul_(0.2)  # tied: flatter
    prompt = ask(vlm)[0]
    with torch.no_grad():
        logits = vlm.model.lm_head(run_prefix(vlm, [prompt]).hidden)[0]
    logits[list(vlm.banned_ids)] = -torch.inf
    expected = logits.softmax(0)
    (group,) = sample(vlm, [prompt], SamplingParams(max_tokens=1, group=20_000), seeded())
    counts = torch.bincount(torch.tensor([completion.ids[0] for completion in group]), minlength=320)
    assert (counts[expected == 0] == 0).all()
    common = expected > 5e-4
    deviation = (counts / 20_000 - expected)[common] / (expected[common] / 20_000).sqrt()
    assert deviation.abs().max() < 4.5 and deviation.std() < 1.3


def test_image_tokens_are_never_drawn_even_if_the_head_wants_them():
    vlm = tiny_qwen2_vl()
    prompts = ask(vlm)
    with torch.no_grad():
        direction = run_prefix(vlm, prompts).hidden.mean(0)
        head = torch.nn.Parameter(vlm.model.lm_head.weight.clone())
        head[list(vlm.banned_ids)] = 10 * direction / direction.norm()
        vlm.model.lm_head.weight = head
        assert set(vlm.model.lm_head(run_prefix(vlm, prompts).hidden).argmax(1).tolist()) <= set(vlm.banned_ids)
    for temperature in (0.0, 1.0, 5.0):
        groups = sample(vlm, prompts, SamplingParams(max_tokens=12, temperature=temperature, group=4), seeded())
        assert not {token for group in groups for one in group for token in one.ids} & set(vlm.banned_ids)


def test_rows_stop_at_their_end_and_leave_the_batch(monkeypatch):
    vlm = ends_often(tiny_qwen2_vl(), 1 / 8)
    sizes, seen, params = [], [], SamplingParams(max_tokens=40, group=16)
    step = decode.Decoder.step
    monkeypatch.setattr(decode.Decoder, "step", lambda self, ids: sizes.append(len(ids)) or step(self, ids))
    groups = sample(vlm, ask(vlm), params, seeded(), lambda done, total: seen.append((done, total)))
    for completion in (one for group in groups for one in group):
        ended = [token in vlm.eos_ids for token in completion.ids]
        assert not any(ended[:-1]) and ended[-1] == (completion.finish == "stop")
        assert len(completion.logprobs) == len(completion.ids) <= 40
        assert completion.finish == "stop" or len(completion.ids) == 40
        shown = completion.ids[:-1] if completion.finish == "stop" else completion.ids
        assert completion.text == vlm.tokenizer.decode(shown)
    assert sizes[0] == 48 and sizes[-1] < 16 and sizes == sorted(sizes, reverse=True)
    longest = max(len(one.ids) for group in groups for one in group)
    assert len(sizes) == longest - 1  # all tokens but the last are read
    assert seen[-1] == (48, 48) and seen == sorted(seen)


def test_the_same_generator_draws_the_same_whatever_leaves_when(monkeypatch):
    vlm = ends_often(tiny_qwen2_vl(), 1 / 8)
    params = SamplingParams(max_tokens=30, group=8)
    first = sample(vlm, ask(vlm), params, seeded(3))
    assert sample(vlm, ask(vlm), params, seeded(3)) == first
    assert sample(vlm, ask(vlm), params, seeded(4)) != first
    monkeypatch.setattr(sampling, "COMPACT_AT", 0.0)
    again = sample(vlm, ask(vlm), params, seeded(3))
    assert [[one.ids for one in group] for group in again] == [[one.ids for one in group] for group in first]


def test_groups_are_handed_over_when_their_last_completion_is_finished():
    vlm = ends_often(tiny_qwen2_vl(), 1 / 8)
    params, prompts = SamplingParams(max_tokens=24, group=4), ask(vlm)
    events, handed = [], {}

    def take(b, group):
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
        events.append(b)
        handed[b] = list(group)

    plain = sample(vlm, prompts, params, seeded())
    groups = sample(vlm, prompts, params, seeded(), lambda done, _: events.append(-done), on_group=take)
    assert groups == plain and handed == dict(enumerate(groups))
    ends = [max(len(completion.ids) for completion in group) for group in groups]
    order = [event for event in events if event >= 0]
    assert order == sorted(range(3), key=lambda b: (ends[b], b))
    assert len(set(ends)) == 3 and events[-1] == order[-1]
    # The first group was handed over before the others had finished.
    assert -events[events.index(order[0]) - 1] < 12


def test_a_prefix_with_a_graph_can_be_continued():
    vlm = tiny_qwen2_vl()
    prefix = run_prefix(vlm, ask(vlm))
    params = SamplingParams(max_tokens=5, group=2)
    assert sample(vlm, ask(vlm), params, seeded(), prefix=prefix) == sample(vlm, ask(vlm), params, seeded())
    prefix.hidden.sum().backward()
    assert vlm.model.lm_head.weight.grad is not None


def test_nothing_asked_nothing_drawn():
    assert sample(tiny_qwen2_vl(), [], SamplingParams(max_tokens=5), seeded()) == []


def test_a_large_vocabulary_is_searched_by_blocks_to_the_same_token():
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(40, 2 * sampling.BLOCK**2 + 7, generator=generator, dtype=torch.float64) ** 8
    shares[:, ::3] = 0  # never drawn
    shares[:20, : sampling.BLOCK * 100] = 0  # whole blocks as well
    shares = (shares / shares.sum(1, keepdim=True)).float()
    uniform = torch.cat(
        [torch.rand(38, 1, generator=generator, dtype=torch.float64), torch.tensor([[0.0], [1 - 1e-16]])]
    )
    found = sampling._inverse(shares, uniform)[:, 0]
    heights = shares.cumsum(1, dtype=torch.float64)
    plain = torch.searchsorted(heights, uniform * (1 - 1e-12) * heights[:, -1:], right=True)[:, 0]
    assert torch.equal(found, plain)
    assert (shares.gather(1, found[:, None]) > 0).all()


def test_who_has_finished_is_seen_later_without_a_difference(monkeypatch):
    """On a GPU only every few steps are looked at."""
    vlm = tiny_qwen2_vl()
    prompts = ask(vlm)

    def drawn():
        return sample(vlm, prompts, SamplingParams(30, 1.0, 5), torch.Generator().manual_seed(2))

    spoken = [token for group in drawn() for one in group for token in one.ids]
    vlm = replace(vlm, eos_ids=tuple(token for token, _ in Counter(spoken).most_common(12)[4:]))
    expected = drawn()
    assert len({len(one.ids) for group in expected for one in group}) > 3
    monkeypatch.setitem(sampling.LOOK_EVERY, "cpu", 7)
    for group, others in zip(drawn(), expected, strict=True):
        for one, other in zip(group, others, strict=True):
            assert one.ids == other.ids and one.finish == other.finish and one.text == other.text
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


@pytest.mark.parametrize("every", [1, 8])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_named_with_their_token(temperature, every, monkeypatch):
    vlm, calls = tiny_qwen2_vl(), []
    logits = decode.Decoder.logits

    def diverging(self, states):
        calls.append(len(states))
        found = logits(self, states)
        if len(calls) == 4:
            found[1, 7] = torch.inf
        return found

    monkeypatch.setattr(decode.Decoder, "logits", diverging)
    monkeypatch.setitem(sampling.LOOK_EVERY, "cpu", every)
    with pytest.raises(InputError, match=r"logits are not finite at token 4 of 1 completions.*diverged"):
        sample(vlm, ask(vlm), SamplingParams(20, temperature, 2), seeded())


def test_shares_that_are_not_numbers_lead_to_no_index_beyond_the_vocabulary():
    for size in (300, 2 * sampling.BLOCK**2 + 7):
        found = sampling._inverse(torch.full((2, size), torch.nan), torch.tensor([[0.0], [0.9]], dtype=torch.float64))
        assert found.max() < size
