"""Figures from a few bytes a sample are those from the rows."""

import random
from dataclasses import replace

import numpy as np
import pytest

from cleareyed.errors import InputError
from cleareyed.evaluation import stats
from cleareyed.evaluation.compare import judged
from cleareyed.evaluation.verdicts import Verdicts, cut_off
from cleareyed.records.rows import AnswerMark
from cleareyed.report.summary import by_label, paired_tests, summary_of
from cleareyed.tasks.names import number_of

MARK = AnswerMark(
    task="t",
    step=0,
    label="m",
    sample_id="s",
    skill="",
    group="",
    answer="left",
    tokens=3,
    finish="stop",
    correct={"strict": True},
    well_formed=True,
)


def marks(label="m", count=400, seed=0):
    draw = random.Random(seed)
    for number in range(count):
        state = draw.choice(("answered", "answered", "answered", "cut-off", "failed", "filtered"))
        yield replace(
            MARK,
            label=label,
            sample_id=f"s{number}",
            skill=draw.choice(("", "depth", "count")),
            group=draw.choice(("", f"g{number // 3}")),
            answer=draw.choice(("left", "right", "up")),
            tokens=draw.choice((None, 5, 9)),
            finish=draw.choice(("stop", "length")),
            correct={"strict": draw.random() < 0.4, "any-form": draw.random() < 0.6},
            well_formed=draw.random() < 0.5,
            state=state,
        )


def test_a_summary_is_that_of_the_rows():
    rows = list(marks())
    kept = [row for row in rows if judged(row)]
    found = summary_of(by_label(rows)["m"], "strict")
    for part, own in [
        (found, kept),
        *((found["by_skill"][name], [row for row in kept if row.skill == name]) for name in ("count", "depth")),
    ]:
        right = [row.correct["strict"] for row in own]
        interval = stats.share_interval(right, [row.group for row in own])
        assert (part["n"], part["accuracy"]) == (len(own), sum(right) / len(own))
        assert part["interval"] == [interval.low, interval.high]
    known = [row.tokens for row in kept if row.tokens is not None]
    assert list(found["by_skill"]) == ["count", "depth"]
    assert found["accuracy_any_form"] == sum(row.correct["any-form"] for row in kept) / len(kept)
    assert found["format_rate"] == sum(row.well_formed for row in kept) / len(kept)
    assert found["share_cut_off"] == sum(map(cut_off, kept)) / len(kept)
    assert found["mean_tokens"] == sum(known) / len(known)
    assert found["unjudged"] == {
        state: sum(row.state == state for row in rows) for state in found["unjudged"]
    } and sum(found["unjudged"].values()) == len(rows) - len(kept)


def test_a_paired_test_is_that_of_the_rows():
    first, second = list(marks("a", seed=1)), list(marks("b", seed=2))
    random.Random(3).shuffle(second)
    (test,) = paired_tests(by_label(first + second), [("a", "b")], "any-form")
    other = {row.sample_id: row for row in second if judged(row)}
    both = [(row, other[row.sample_id]) for row in first if judged(row) and row.sample_id in other]
    expected = stats.paired(
        [one.correct["any-form"] for one, _ in both],
        [two.correct["any-form"] for _, two in both],
        [one.group for one, _ in both],
    )
    assert (test["n"], test["difference"], test["p"]) == (len(both), expected.difference, expected.p)
    assert test["interval"] == [expected.interval.low, expected.interval.high]


def test_numbers_group_as_names_do():
    names = [random.Random(0).choice(("", "a", "b", "c")) for _ in range(50)]
    numbers = np.array([number_of(name) if name else -1 for name in names])
    assert stats.group_numbers(numbers).tolist() == stats.group_numbers(names).tolist()


def test_the_most_frequent_gold_answer_and_samples_answered_twice():
    found = by_label(replace(MARK, sample_id=f"s{at}", answer=answer) for at, answer in enumerate("abcbc"))["m"]
    assert found.majority() == (number_of("s1"), 0.4)  # ties: the first
    assert found.twice() is None and number_of("s4") in found and number_of("s5") not in found
    again = by_label(replace(MARK, sample_id=name) for name in ("x", "y", "x"))["m"]
    assert again.twice() == number_of("x")


def test_a_rule_that_some_answers_lack_is_refused():
    found = by_label([MARK, replace(MARK, sample_id="u", correct={"strict": True, "late": True})])["m"]
    assert found.has("strict") and not found.has("late") and not found.has("unknown")
    with pytest.raises(InputError, match="not judged under rule 'late'; choose one of late, strict"):
        found.right("late")
    unjudged = replace(MARK, sample_id="u", correct={}, state="failed")
    assert by_label([MARK, unjudged])["m"].right("strict").tolist() == [True, False]


def test_a_sample_takes_a_few_dozen_bytes():
    import tracemalloc

    tracemalloc.start()
    found = Verdicts("m", 0)
    try:
        for mark in marks(count=20_000):
            found.add(mark)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / len(found) < 50
