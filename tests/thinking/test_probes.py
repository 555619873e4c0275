from dataclasses import replace

import pytest
import torch
from tiny import picture, tiny_qwen2_5_vl, tiny_qwen2_vl

from cleareyed.evaluation.evaluate import evaluate
from cleareyed.models.encode import encode
from cleareyed.models.forward import extend_prefix, image_features, run_prefix
from cleareyed.models.sample import sample
from cleareyed.models.vlm import Completion, SamplingParams
from cleareyed.tasks.prompts import prompt_style
from cleareyed.tasks.task import Sample, Task
from cleareyed.thinking import probes
from cleareyed.thinking.gains import ARMS, AS_IS, BLANK_IMAGE, CUTS, EMPTY_THOUGHT, NO_REASONING, OTHER_IMAGE
from cleareyed.thinking.probes import Opening, opening, partners, probe

BASE = prompt_style("base")


def greedy(vlm, prompts, tokens, prefix=None):
    params = SamplingParams(tokens, temperature=0)
    return [group[0] for group in sample(vlm, prompts, params, torch.Generator(), prefix=prefix)]


def colours(count=5, **fields):
    def load(index):
        return lambda: picture(32 + 16 * (index % 2), 32, seed=index)

    samples = [
        Sample(f"s{i}", f"Which? {'so ' * i}", ("red", "blue")[i % 2], ("red", "blue"), images=(load(i),), **fields)
        for i in range(count)
    ]
    return Task("colours", samples)


@pytest.mark.parametrize("build", [tiny_qwen2_vl, tiny_qwen2_5_vl])
def test_greedy_tokens_behind_a_given_beginning_are_those_of_the_plain_road(build):
    vlm = build()
    prompts = [
        encode(vlm, "How many red cubes?", [picture(32, 48)]),
        encode(vlm, "Two? " * 5, [picture(64, 16, seed=2), picture(24, 24, seed=3)]),
        encode(vlm, "No picture here", []),
    ]
    whole = greedy(vlm, prompts, 16)
    vlm = replace(vlm, eos_ids=(whole[0].ids[9],))  # one ends early
    whole = greedy(vlm, prompts, 16)
    rows = torch.tensor([2, 0, 1, 1, 0])  # prompts in any order, some twice
    lengths = [min(n, len(whole[row].ids) - 1) for n, row in zip((7, 3, 1, 12, 0), rows.tolist(), strict=True)]
    assert max(lengths) > 6
    ids, mask = torch.zeros(5, 12, dtype=torch.int64), torch.zeros(5, 12, dtype=torch.bool)
    for n, (row, length) in enumerate(zip(rows.tolist(), lengths, strict=True)):
        ids[n, :length], mask[n, :length] = torch.tensor(whole[row].ids[:length]), True
    prefix = extend_prefix(vlm, run_prefix(vlm, prompts), rows, ids, mask)
    again = greedy(vlm, [prompts[row] for row in rows.tolist()], 16, prefix)
    for row, length, completion in zip(rows.tolist(), lengths, again, strict=True):
        rest = whole[row].ids[length:]
        assert completion.ids[: len(rest)] == rest
        assert torch.allclose(
            torch.tensor(completion.logprobs[: len(rest)]), torch.tensor(whole[row].logprobs[length:]), atol=1e-4
        )
    assert {completion.finish for completion in again} == {"stop", "length"}


def test_as_is_is_what_an_evaluation_gives_and_arms_change_one_thing():
    vlm, task = tiny_qwen2_vl(), colours()
    rows = probe(vlm, task, BASE, max_tokens=12, batch=3, step=7, rules=("any-form", "strict"))
    assert list(rows) == list(ARMS)
    plain = evaluate(vlm, task, BASE, max_tokens=12, batch=5, label=AS_IS, step=7, rules=("any-form", "strict"))
    assert [row.completion for row in rows[AS_IS]] == [row.completion for row in plain]
    for arm, answers in rows.items():
        assert [row.sample_id for row in answers] == [f"s{i}" for i in range(5)], arm
        assert {(row.label, row.step, row.task) for row in answers} == {(arm, 7, "colours")}
    for row, cut in zip(rows[AS_IS], rows["cut-50"], strict=True):
        kept = cut.completion.partition("</think> <answer>")[0]
        assert row.completion.startswith(kept) and len(kept) < len(row.completion)
    assert all(row.completion.startswith("<think></think> <answer>") for row in rows[EMPTY_THOUGHT])
    assert not any(row.completion.startswith("<think>") for row in rows[NO_REASONING])


def test_every_picture_is_encoded_once_and_goes_where_it_should(monkeypatch):
    vlm, task, asked, encoded = tiny_qwen2_vl(), colours(3), [], []
    monkeypatch.setattr(
        probes,
        "run_prefix",
        lambda vlm, prompts, features: (
            asked.append([prompt.pixels for prompt in prompts]),
            run_prefix(vlm, prompts, features),
        )[1],
    )
    monkeypatch.setattr(
        probes,
        "image_features",
        lambda vlm, prompts: (
            encoded.append(len({id(prompt.pixels) for prompt in prompts})),
            image_features(vlm, prompts),
        )[1],
    )
    probe(vlm, task, BASE, max_tokens=2, arms=(NO_REASONING, BLANK_IMAGE, OTHER_IMAGE))
    own, bare, blank, other = asked
    assert encoded == [3 + 2]  # three pictures, and blank ones of two sizes
    assert all(one is two for one, two in zip(own, bare, strict=True))
    assert [next(at for at in range(3) if own[at] is pixels) for pixels in other] == [1, 2, 1]
    assert all(pixels.std(0).max() < 1e-6 < real.std(0).max() for pixels, real in zip(blank, own, strict=True))
    assert blank[0] is blank[2] and [len(one) for one in blank] == [len(one) for one in own]


def test_arms_leave_out_what_they_cannot_change():
    vlm = tiny_qwen2_vl()
    alone = Task("colours", colours(1).samples)
    rows = probe(vlm, alone, BASE, max_tokens=4)
    assert not rows["other-thought"] and not rows[OTHER_IMAGE] and len(rows[BLANK_IMAGE]) == 1
    blind = Task("text", [replace(one, images=()) for one in colours(2).samples])
    rows = probe(vlm, blind, prompt_style("plain"), max_tokens=4, arms=("cut-50", NO_REASONING, BLANK_IMAGE))
    assert [len(rows[arm]) for arm in (AS_IS, "cut-50", NO_REASONING, BLANK_IMAGE)] == [2, 0, 0, 0]
    with pytest.raises(ValueError, match="cut-99"):
        probe(vlm, blind, BASE, max_tokens=4, arms=("cut-99",))


def said(vlm, text, finish="stop"):
    ids = tuple(vlm.tokenizer(text, add_special_tokens=False)["input_ids"])
    return Completion((*ids, vlm.eos_ids[0]) if finish == "stop" else ids, (), finish, text)


def parts(vlm, found):
    return [vlm.tokenizer.decode(list(ids)) for ids in (found.before, found.thought, found.turn)]


def test_the_thought_of_a_completion_in_tokens():
    vlm = tiny_qwen2_vl()
    cases = {
        " two, so two </think> <answer>two</answer>": ["", " two, so two", " </think> <answer>"],
        " two </think>\n two": ["", " two", ""],
        " two <answer>two</answer>": ["", " two", ""],
        " two, so": ["", " two, so", ""],
        "</think><answer>two</answer>": ["", "", "</think><answer>"],
        " a</think> b</think><answer>c": ["", " a</think> b", "</think><answer>"],
    }
    for text, expected in cases.items():
        found = opening(vlm, said(vlm, text, "length" if text.endswith("so") else "stop"), "<think>")
        assert parts(vlm, found) == expected
    found = opening(vlm, said(vlm, "so <think> two </think><answer>two</answer>"), "")
    assert parts(vlm, found) == ["so <think>", " two", " </think><answer>"]
    assert opening(vlm, said(vlm, "two"), "") is None
    assert opening(vlm, said(vlm, ""), "<think>") == Opening((), (), ())


def test_a_thought_that_is_kept_whole_is_answered_as_it_was(monkeypatch):
    vlm = tiny_qwen2_vl()
    task = Task("colours", colours(3).samples)
    monkeypatch.setitem(CUTS, "cut-50", 1.0)
    monkeypatch.setattr(
        "cleareyed.thinking.probes.opening",
        lambda vlm, one, opens: Opening((), one.ids[:4], one.ids[4:6]),  # as if the thought ended there
    )
    rows = probe(vlm, task, BASE, max_tokens=12, arms=("cut-50",), answer_tokens=6)
    assert [row.completion for row in rows["cut-50"]] == [row.completion for row in rows[AS_IS]]


def test_partners_are_others_of_another_answer_and_group():
    def one(answer, group=""):
        return Sample("", "", answer, group=group)

    assert partners([one("a"), one("a"), one("b")], [True] * 3) == [2, 2, 0]
    assert partners([one("a"), one("a"), one("b")], [True, True, False]) == [1, 0, 0]
    assert partners([one("a", "g"), one("b", "g"), one("a")], [True] * 3) == [2, 2, 1]
    assert partners([one("a", "g"), one("b", "g")], [True] * 2) == [None, None]
