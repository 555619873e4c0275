from dataclasses import replace

import pytest
import torch
from tiny import picture, tiny_qwen2_vl

from cleareyed.errors import InputError
from cleareyed.evaluation.evaluate import evaluate
from cleareyed.models.encode import encode
from cleareyed.models.sample import sample
from cleareyed.models.vlm import SamplingParams
from cleareyed.scoring.rules import RULES, accuracy_rule, well_formed
from cleareyed.tasks.prompts import prompt_style, prompt_text
from cleareyed.tasks.task import Sample, Task


def make_task(loads):
    def load(index):
        def image():
            loads.append(index)
            return picture(40, 40, index)

        return image

    samples = [
        Sample(
            id=f"s{index}",
            question=f"How many red cubes are there, {index}?",
            answer="two",
            choices=("one", "two"),
            images=(load(index),),
            skill="Count",
            group=f"g{index // 2}",
        )
        for index in range(5)
    ]
    return Task(name="toy", samples=samples)


def test_rows_are_the_greedy_completions_with_what_the_prompt_opened_put_back():
    vlm, style, loads = tiny_qwen2_vl(), prompt_style("base"), []
    task, calls = make_task(loads), []
    rows = evaluate(
        vlm,
        task,
        style,
        max_tokens=6,
        batch=2,
        label="base",
        step=7,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert loads == [0, 1, 2, 3, 4]  # each image once
    assert calls == [(2, 5), (4, 5), (5, 5)]
    assert [row.sample_id for row in rows] == [f"s{index}" for index in range(5)]
    for index, (row, asked) in enumerate(zip(rows, task.samples, strict=True)):
        prompt = encode(vlm, prompt_text(style, asked.question), [picture(40, 40, index)])
        ((alone,),) = sample(vlm, [prompt], SamplingParams(max_tokens=6, temperature=0.0), torch.Generator())
        text = "<think>" + alone.text
        assert (row.completion, row.tokens, row.finish) == (text, len(alone.ids), alone.finish)
        assert set(row.correct) == set(row.extracted) == set(RULES)
        for name in RULES:
            verdict = accuracy_rule(name)(text, asked)
            assert (row.correct[name], row.extracted[name]) == (verdict.correct, verdict.extracted)
        assert row.well_formed == well_formed(text)
        assert (row.task, row.label, row.step, row.group) == ("toy", "base", 7, f"g{index // 2}")
        assert (row.skill, row.question, row.answer) == ("Count", asked.question, "two")


def test_only_the_rules_named_are_judged_and_an_unknown_one_is_refused_before_any_work():
    vlm, loads = tiny_qwen2_vl(), []
    task = replace(make_task(loads), samples=make_task(loads).samples[:1])
    (row,) = evaluate(
        vlm, task, prompt_style("no-reasoning"), max_tokens=2, batch=8, label="m", step=0, rules=("strict",)
    )
    assert set(row.correct) == set(row.extracted) == {"strict"}
    loads.clear()
    with pytest.raises(InputError):
        evaluate(vlm, task, prompt_style("base"), max_tokens=2, batch=8, label="m", step=0, rules=("strickt",))
    assert loads == []
