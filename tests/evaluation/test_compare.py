import json
from dataclasses import dataclass, replace

import pytest
import yaml

from cleareyed.diff_command import diff, read_asked, sentences
from cleareyed.errors import InputError
from cleareyed.evaluation import stats
from cleareyed.evaluation.compare import align, compare_runs
from cleareyed.evaluation.explain import Asked, explain
from cleareyed.records.parts import write_answers
from cleareyed.records.rows import AnswerRow
from cleareyed.records.run import RunFolder


def row(index, said="left", gold="left", **other):
    """An answer, judged by whether it is the gold one: `strict` reads it as it is, `any-form` in lower case."""
    fields = {
        "task": "toy",
        "step": 0,
        "label": "base",
        "sample_id": f"s{index}",
        "skill": "Relation",
        "group": "",
        "question": f"Where is it, {index}?",
        "answer": gold,
        "completion": f"It is {said}.",
        "tokens": 4,
        "finish": "stop",
        "extracted": {"strict": said, "any-form": said.lower()},
        "correct": {"strict": said == gold, "any-form": said.lower() == gold},
        "well_formed": False,
    }
    return AnswerRow(**{**fields, **other})


def answers(pattern, **other):
    """One answer for each character: `+` is right, `-` is wrong."""
    return [row(index, "left" if mark == "+" else "right", **other) for index, mark in enumerate(pattern)]


def test_items_are_aligned_by_task_and_id_and_missing_ones_are_named():
    first = [*answers("++-"), row(0, task="other")]
    second = [row(2), row(1, "right"), row(7), row(9, task="other")]
    assert [(one.sample_id, two.completion) for one, two in align(first, second)] == [
        ("s1", "It is right."),
        ("s2", "It is left."),
    ]
    found = compare_runs(first, second)
    assert found.only_first == (("toy", "s0"), ("other", "s0"))
    assert found.only_second == (("toy", "s7"), ("other", "s9"))
    assert (found.gained, found.lost) == ((("toy", "s2"),), (("toy", "s1"),))
    with pytest.raises(InputError, match="'s1' of toy is answered 2 times"):
        compare_runs([*first, row(1)], second)
    with pytest.raises(InputError, match="none of the 0 shared"):
        compare_runs(first, [row(50)])
    with pytest.raises(InputError, match=r"'paper-eval'.*any-form, strict"):
        compare_runs(first, second, "paper-eval")


def test_the_comparison_is_that_of_the_statistics():
    first, second = answers("++++----++--"), answers("+++-++++++--")
    found = compare_runs(first, second, draws=500, seed=2)
    right = [[one.correct["strict"] for one in rows] for rows in (first, second)]
    assert found.whole.paired == stats.paired(*right, [""] * 12, draws=500, seed=2)
    assert found.whole.p == found.whole.p_holm == pytest.approx(stats.mcnemar(1, 4))
    assert found.whole.paired.difference == pytest.approx(3 / 12)
    assert (found.by_skill, found.grouped) == ({}, False)
    grouped = compare_runs([replace(one, group="g") for one in first], second)
    assert (grouped.grouped, grouped.regrouped, grouped.whole.p) == (True, 12, 1.0)  # one group: nothing can be said


def test_skills_are_a_family():
    first = [replace(one, skill="Depth" if index < 8 else "Count") for index, one in enumerate(answers("-" * 14))]
    second = answers("+" * 14)
    found = compare_runs(first, second)
    assert list(found.by_skill) == ["Count", "Depth"]
    assert found.by_skill["Depth"].p == pytest.approx(2 / 2**8)
    assert found.by_skill["Depth"].p_holm == pytest.approx(4 / 2**8)
    assert found.by_skill["Count"].p_holm == pytest.approx(2 / 2**6)
    assert found.by_skill["Count"].paired.n == 6


def test_answers_that_failed_are_neither_right_nor_wrong():
    @dataclass(frozen=True)
    class WithState(AnswerRow):
        state: str = "answered"

    def failed(one, state):
        return WithState(**{**vars(one), "state": state})

    first, second = answers("+++--"), answers("++-++")
    first[0], second[2] = failed(first[0], "cut-off"), failed(second[2], "failed")
    first[3] = failed(first[3], "filtered")
    found = compare_runs(first, second)
    assert found.whole.paired.n == 3  # what was cut off is judged
    assert (found.unjudged_first, found.unjudged_second) == ({"filtered": 1}, {"failed": 1})
    assert found.gained == (("toy", "s4"),)
    said = sentences(found, explain(first, second, Asked(), Asked()))
    assert "Left out: 1 item without an answer in the second run (1 failed)." in said


SETTINGS = {
    "style": "base",
    "min_pixels": None,
    "max_pixels": None,
    "model": "tiny-base",
    "step": 0,
    "max_tokens": 64,
    "temperature": 0,
    "commit": "abc",
}


def asked(**other):
    return Asked(settings={**SETTINGS, **other})


def of(explanation, cause):
    return next(source for source in explanation.sources if source.cause == cause)


@pytest.mark.parametrize(
    ("other", "causes"),
    [
        ({"style": "plain"}, ("prompt",)),
        ({"max_pixels": 1000}, ("pixels",)),
        ({"model": "x"}, ("model",)),
        ({"max_tokens": 8}, ("parameters",)),
        ({"commit": "def"}, ("environment",)),
        ({"commit": "def", "step": 5}, ("model",)),
        ({"style": "plain", "temperature": 1}, ("prompt", "parameters")),
        ({}, ("unknown",)),
    ],
)
def test_another_text_goes_back_to_what_differs_before_it(other, causes):
    first, second = answers("+-+-"), answers("+++-")
    found = explain(first, second, asked(), asked(**other))
    assert [(share.causes, share.gained, share.lost) for share in found.shares] == [(causes, ("s1",), ())]
    assert (found.n, found.other_text, found.shares[0].effect) == (4, 1, 0.25)
    for cause in causes:
        if cause != "unknown":
            assert of(found, cause).items == 4
            assert of(found, cause).examples[0] == "s1"
            assert all(
                SETTINGS[name] == was and other[name] == now for name, (was, now) in of(found, cause).settings.items()
            )


def test_a_prompt_or_picture_that_differs_in_one_item_explains_that_item_only():
    first, second = answers("----"), answers("++++")
    second[2] = replace(second[2], question="Where was it?")
    before = replace(asked(), pixels={f"s{index}": "a" for index in range(4)})
    after = replace(asked(), pixels={**before.pixels, "s3": "b, scaled to 1000 px"})
    found = explain(first, second, before, after)
    assert {share.causes: share.gained for share in found.shares} == {
        ("unknown",): ("s0", "s1"),
        ("prompt",): ("s2",),
        ("pixels",): ("s3",),
    }
    assert (of(found, "prompt").items, of(found, "pixels").items) == (1, 1)
    assert sum(share.effect for share in found.shares) == compare_runs(first, second).whole.paired.difference


def test_the_same_text_goes_back_to_extraction_or_score():
    first = [row(0, "Left"), row(1, "Left"), row(2), row(3, "LEFT")]
    reread = replace(first[0], extracted={"strict": "left"}, correct={"strict": True})
    rejudged = replace(first[1], correct={"strict": True})
    regold = replace(first[2], answer="right", correct={"strict": False})
    silent = replace(first[3], extracted={"strict": None})  # another answer read, as wrong as before
    found = explain(first, [reread, rejudged, regold, silent], asked(), asked(model="irrelevant"))
    assert {share.causes: (share.gained, share.lost) for share in found.shares} == {
        ("extraction",): (("s0",), ()),
        ("score",): (("s1",), ("s2",)),
    }
    assert (of(found, "extraction").items, of(found, "extraction").examples) == (2, ("s0", "s3"))
    assert (of(found, "score").items, found.other_gold, found.other_text) == (2, 1, 0)


def test_two_rules_on_one_run_differ_in_extraction_alone():
    rows = [row(0, "Left"), row(1), row(2, "up")]
    found = explain(rows, rows, asked(), asked(), "strict", "any-form")
    assert [(share.causes, share.gained) for share in found.shares] == [(("extraction",), ("s0",))]
    assert of(found, "extraction").settings == {"rule": ("strict", "any-form")}
    other = explain(rows, [replace(one, completion="x") for one in rows], asked(), asked(step=1), "strict", "any-form")
    assert [share.causes for share in other.shares] == [("model", "extraction")]


def test_what_is_not_recorded_is_said_and_not_guessed():
    found = explain(answers("+-"), answers("++"), Asked(), asked())
    assert of(found, "model").items is None
    assert of(found, "parameters").items is None
    assert "temperature" in of(found, "parameters").not_recorded
    assert of(found, "pixels").items is None
    assert "images as sent" in of(found, "pixels").not_recorded
    assert (
        of(explain(answers("+"), answers("+"), asked(), asked()), "pixels").items is None
    )  # same limits, bytes unknown
    assert of(explain(answers("+"), answers("+"), asked(), asked()), "parameters").items == 0
    assert [share.causes for share in found.shares] == [("unknown",)]


def make_run(folder, rows, recipe, commit="abc", dirty=False):
    run = RunFolder(folder)
    run.answers.mkdir(parents=True)
    run.recipe.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    environment = {"packages": {"torch": "2.13"}, "machine": "x86_64", "commit": {"id": commit, "dirty": dirty}}
    run.environment.write_text(json.dumps(environment), encoding="utf-8")
    write_answers(run, rows)
    return run


def eval_recipe(model="tiny-base", prompt="base", max_tokens=64):
    return {
        "method": "eval",
        "model": {"path": model, "revision": None, "dtype": "fp32", "min_pixels": None, "max_pixels": None},
        "measure": [{"task": {"name": "toy"}, "prompt": prompt, "max_tokens": max_tokens, "batch": 64}],
        "rules": ["strict"],
    }


GRPO = {
    "method": "grpo",
    "model": {"path": "tiny-base", "revision": "r1"},
    "prompt": "base",
    "sampling": {"max_tokens": 700},
    "validate_on": {"task": {"name": "toy"}, "prompt": None, "max_tokens": 32},
    "measure": [
        {"task": {"name": "toy"}, "prompt": None, "max_tokens": None},
        {"task": {"name": "toy"}, "prompt": "no-reasoning", "max_tokens": 16},
        {"task": {"name": "nlvr", "split": "dev"}, "prompt": None, "max_tokens": 99},
    ],
}


def test_settings_are_read_from_the_records(tmp_path):
    run = make_run(tmp_path / "eval", [row(0)], eval_recipe())
    settings = read_asked(run, row(0)).settings
    assert settings == {
        "model": "tiny-base",
        "dtype": "fp32",
        "min_pixels": None,
        "max_pixels": None,
        "step": 0,
        "style": "base",
        "max_tokens": 64,
        "batch": 64,
        "torch": "2.13",
        "machine": "x86_64",
        "commit": "abc",
    }
    training = make_run(tmp_path / "grpo", [row(0)], GRPO, dirty=True)

    def read(label, task="toy", step=0):
        found = read_asked(training, row(0, label=label, task=task, step=step)).settings
        return found["model"], found.get("style"), found.get("max_tokens")

    assert read("base") == ("tiny-base", "base", 700)
    assert read("base/no-reasoning") == ("tiny-base", "no-reasoning", 16)
    assert read("grpo", step=9) == (f"grpo of {training.path}", "base", 700)
    assert read("grpo", "nlvr-dev") == (f"grpo of {training.path}", "base", 99)
    assert read("validation")[1:] == ("base", 32)
    assert read("grpo", "elsewhere")[1:] == (None, None)
    assert "commit" not in read_asked(training, row(0)).settings  # changed on top: not known
    assert read_asked(training, row(0)).settings["revision"] == "r1"
    training.recipe.write_text("a: [", encoding="utf-8")
    with pytest.raises(InputError, match=r"recipe\.yaml: cannot be read"):
        read_asked(training, row(0))


def test_diff_prints_and_writes_what_differs(tmp_path, capsys):
    first = make_run(tmp_path / "a", answers("+++---++--"), eval_recipe())
    wild = [replace(one, label="[bold]m\x1b[31m") for one in answers("++++++++-", skill="[red]Depth")]
    second = make_run(tmp_path / "b", wild, eval_recipe(prompt="plain"))
    diff(first.path, second.path, json_path=tmp_path / "diff.json")
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "[bold]m" in printed
    assert "style: base → plain" in printed
    assert "Second minus first: +33.3 points" in printed
    assert "Verdicts that became right: 3, wrong: 0. Texts that differ: 3 of 9." in printed
    assert "Left out: 1 item only in the first run (s9)." in printed
    (task,) = json.loads((tmp_path / "diff.json").read_text())["tasks"]
    assert task["comparison"]["gained"] == [["toy", "s3"], ["toy", "s4"], ["toy", "s5"]]
    assert task["explanation"]["shares"] == [
        {"causes": ["prompt"], "gained": ["s3", "s4", "s5"], "lost": [], "effect": pytest.approx(1 / 3)}
    ]
    assert task["runs"][1]["settings"]["style"] == "plain"


def test_diff_asks_for_the_choice_it_needs(tmp_path, capsys):
    rows = [*answers("+-"), *answers("++", label="grpo", step=9), *answers("--", task="bench")]
    run = make_run(tmp_path / "run", rows, GRPO)
    with pytest.raises(InputError, match=r"base \(step 0\), grpo \(step 9\); choose with --label and --step"):
        diff(run.path, run.path, task="toy")
    with pytest.raises(InputError, match=r"no answers under that label and step; there are: base \(step 0\), grpo"):
        diff(run.path, run.path, label="sft")
    with pytest.raises(InputError, match="no answers to nlvr in common"):
        diff(run.path, run.path, task="nlvr")
    diff(run.path, run.path, label="base", second_label="grpo")
    printed = capsys.readouterr().out
    assert "Second minus first: +50.0 points" in printed
    assert "bench" not in printed  # the second label has no answers to it
    empty = make_run(tmp_path / "empty", [], GRPO)
    with pytest.raises(InputError, match="no answers are recorded"):
        diff(run.path, empty.path)
    with pytest.raises(InputError, match="cannot be written"):
        diff(run.path, run.path, label="base", json_path=tmp_path / "no" / "such.json")
