import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cleareyed.errors import InputError
from cleareyed.recipe import TaskSpec
from cleareyed.scoring.rules import (
    RULES,
    Verdict,
    accuracy_rule,
    any_form,
    paper_eval,
    paper_reward,
    strict,
    well_formed,
)
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.task import Sample

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are not beside the repository")


def asked(answer: str, *choices: str) -> Sample:
    return Sample(id="1", question="Which?", answer=answer, choices=choices)


LEFT = asked("left", "left", "right")


def check_all_items(specs: list[TaskSpec], root: Path | None) -> None:
    """Every gold answer is right and every other choice wrong, under every rule; equal items are judged once."""
    kinds = {(sample.answer, sample.choices): sample for spec in specs for sample in load_task(spec, root).samples}
    assert kinds
    for sample in kinds.values():
        assert sample.answer in sample.choices
        for name, rule in RULES.items():
            for choice in sample.choices:
                for form in ("<think>x</think> <answer>{}</answer>", "<think>x</think>\n<answer> {} </answer>"):
                    verdict = rule(form.format(choice), sample)
                    assert verdict.correct == (choice == sample.answer), (name, choice, sample, verdict)
        for name in ("strict", "any-form"):
            for index, choice in enumerate(sample.choices):
                for form in ("{}", "({})", "{}.", "<answer>{}</answer>"):
                    letter = form.format("ABCDEFGH"[index])
                    assert RULES[name](letter, sample) == Verdict(choice == sample.answer, choice), (name, letter)


@pytest.mark.parametrize(("name", "limit"), [("scenes-train", 1000), ("scenes-val", None), ("scenes-bench", None)])
def test_gold_scores_one_and_wrong_choices_zero_on_scenes(name: str, limit: int | None) -> None:
    check_all_items([TaskSpec(name=name, limit=limit)], None)


@needs_data
def test_gold_scores_one_and_wrong_choices_zero_on_every_public_item() -> None:
    check_all_items(
        [TaskSpec(name="nlvr", split="train"), TaskSpec(name="nlvr", split="dev"), TaskSpec(name="blink")], DATA
    )


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("<think>a</think><answer>b</answer>", True),
        ("<think>a\nb</think> \n <answer>\nc\n</answer>", True),
        ("<think></think><answer></answer>", True),
        ("<think>a</think> so <answer>b</answer>", False),
        ("<think>a</think> <answer>b</answer>\n", False),
        ("a</think> <answer>b</answer>", False),
        ("<answer>b</answer>", False),
        ("<think>a <answer>b</answer>", False),
        ("<think>a</think> <answer>b", False),
        ("", False),
    ],
)
def test_the_format_rule(text: str, holds: bool) -> None:
    assert well_formed(text) is holds


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("<think>x</think> <answer>chair</answer>", "chair", True),
        ("<answer> chair </answer> <answer>table</answer>", "chair", True),
        ("<answer>table</answer> <answer>chair</answer>", "chair", False),
        ("<answer>Chair</answer>", "chair", False),
        ("<answer>(A) chair</answer>", "chair", False),
        ("<answer>chair.</answer>", "chair", False),
        ("<answer>\nchair\n</answer>", "chair", False),
        ("chair", "chair", True),
        (" chair\n", "chair", True),
        ("<think>chair", "chair", True),
        ("It is a chair", "chair", False),
        ("<answer>no idea</answer> (B)", "B", True),
        ("(B) or [C]", "B", False),
        ("so B.", "B", False),
        ("<answer>b</answer>", "B", False),
    ],
)
def test_paper_reward_is_strict_equality(text: str, answer: str, right: bool) -> None:
    assert paper_reward(text, asked(answer)).correct is right


@pytest.mark.parametrize(
    ("text", "sample", "right"),
    [
        ("<think>x</think> <answer>left</answer>", LEFT, True),
        ("<answer>(A)</answer>", LEFT, True),
        ("<answer>A</answer>", LEFT, True),
        ("<answer>a</answer>", LEFT, True),
        ("<answer>(a) left</answer>", LEFT, True),
        ("<answer>(B)</answer>", LEFT, False),
        ("<answer>right</answer>", LEFT, False),
        ("The answer is left.", LEFT, True),
        ("", LEFT, False),
        ("<answer></answer> left", LEFT, True),
        ("<answer>3</answer>", asked("3", "2", "3"), True),
        ("<answer>2</answer>", asked("3", "2", "3"), False),
        ("<answer>10</answer>", asked("1", "1", "10"), False),
        ("<answer>dark red cube</answer>", asked("red cube", "red cube", "dark red cube"), False),
        ("<answer>dark red cube</answer>", asked("dark red cube", "red cube", "dark red cube"), True),
        ("<answer>seven</answer>", asked("seven"), True),
        ("<answer>(A)</answer>", asked("seven"), False),
        # The quirks.
        ("There is a dog on the table", asked("cat", "cat", "cow"), True),
        ("<answer>Left</answer>", LEFT, False),
        ("<answer>left</answer>", asked("Left", "Left", "Right"), False),
        ("<answer>a chair</answer>", asked("box", "box", "a chair"), True),
        ("<answer>a chair</answer>", asked("a chair", "box", "a chair"), False),
        ("<answer>left of it</answer>", asked("left of it", "left", "left of it"), False),
        ("<answer>left of it</answer>", asked("left", "left", "left of it"), True),
    ],
)
def test_paper_eval_with_its_quirks(text: str, sample: Sample, right: bool) -> None:
    assert paper_eval(text, sample).correct is right


def test_paper_eval_gives_the_same_off_the_main_thread() -> None:
    texts = ["<answer>left</answer>", "<answer>$\\frac{1}{2}$</answer>", "There is a dog", "9" * 5000, "1/0", "(" * 50]
    seen: list[Verdict] = []
    thread = threading.Thread(target=lambda: seen.extend(paper_eval(text, LEFT) for text in texts))
    thread.start()
    thread.join()
    assert seen == [paper_eval(text, LEFT) for text in texts]
    assert [verdict.correct for verdict in seen] == [True, False, True, False, False, False]


CUBES = asked("red cube", "red cube", "dark red cube")
LETTERS = asked("a", "b", "a")


@pytest.mark.parametrize(
    ("text", "sample", "verdict"),
    [
        ("<think>right?</think> <answer>left</answer>", LEFT, Verdict(True, "left")),
        ("<answer>\nLeft.\n</answer>", LEFT, Verdict(True, "left")),
        ("<answer>A</answer>", LEFT, Verdict(True, "left")),
        ("<answer>(a)</answer>", LEFT, Verdict(True, "left")),
        ("<answer>a.</answer>", LEFT, Verdict(True, "left")),
        ("<answer>(A) left</answer>", LEFT, Verdict(True, "left")),
        ("<answer>A. left</answer>", LEFT, Verdict(True, "left")),
        ("<answer>**left**</answer>", LEFT, Verdict(True, "left")),
        ("<answer>B</answer>", LEFT, Verdict(False, "right")),
        ("<answer>(B) left</answer>", LEFT, Verdict(False, "(B) left")),
        ("<answer>(C) left</answer>", LEFT, Verdict(False, "(C) left")),
        ("<answer>left or right</answer>", LEFT, Verdict(False, "left or right")),
        ("<answer>left, right</answer>", LEFT, Verdict(False, "left, right")),
        ("<answer>it is left</answer>", LEFT, Verdict(False, "it is left")),
        ("<answer>leftmost</answer>", LEFT, Verdict(False, "leftmost")),
        ("<answer></answer>", LEFT, Verdict(False, "")),
        ("<answer>left</answer> and <answer>Left</answer>", LEFT, Verdict(True, "left")),
        ("<answer>left</answer> no, <answer>right</answer>", LEFT, Verdict(False, None)),
        ("<answer>left", LEFT, Verdict(False, None)),
        ("left</answer>", LEFT, Verdict(False, None)),
        ("left", LEFT, Verdict(True, "left")),
        (" Left.\n", LEFT, Verdict(True, "left")),
        ("(A)", LEFT, Verdict(True, "left")),
        ("A dog", LEFT, Verdict(False, None)),
        ("The answer is left", LEFT, Verdict(False, None)),
        ("left\nright", LEFT, Verdict(False, None)),
        ("<think>left", LEFT, Verdict(False, None)),
        ("", LEFT, Verdict(False, None)),
        ("<answer>red cube</answer>", CUBES, Verdict(True, "red cube")),
        ("<answer>dark red cube</answer>", CUBES, Verdict(False, "dark red cube")),
        ("<answer>Red  Cube</answer>", CUBES, Verdict(True, "red cube")),
        ("<answer>3</answer>", asked("3", "1", "2", "3"), Verdict(True, "3")),
        ("<answer>3.</answer>", asked("3", "1", "2", "3"), Verdict(True, "3")),
        ("<answer>C</answer>", asked("3", "1", "2", "3"), Verdict(True, "3")),
        ("<answer>(B) 3</answer>", asked("3", "1", "2", "3"), Verdict(False, "(B) 3")),
        ("<answer>13</answer>", asked("3", "1", "2", "3"), Verdict(False, "13")),
        ("<answer>-3</answer>", asked("3", "3", "-3"), Verdict(False, "-3")),
        ("<answer>0.5</answer>", asked(".5", "5", ".5"), Verdict(False, "0.5")),
        ("<answer>.5</answer>", asked("5", "5", ".5"), Verdict(False, ".5")),
        ("<answer>a</answer>", LETTERS, Verdict(True, "a")),
        ("<answer>(A)</answer>", LETTERS, Verdict(True, "a")),
        ("<answer>b</answer>", LETTERS, Verdict(False, "b")),
        ("<answer>IT</answer>", asked("it", "it", "IT"), Verdict(False, "IT")),
        ("<answer>It</answer>", asked("it", "it", "IT"), Verdict(False, "It")),
        ("<answer>Seven!</answer>", asked("seven"), Verdict(True, "Seven!")),
        ("seven", asked("seven"), Verdict(True, "seven")),
        ("seven or so", asked("seven"), Verdict(False, None)),
        ("<answer>...</answer>", asked("?"), Verdict(False, "...")),
        ("<answer>?</answer>", asked("?"), Verdict(True, "?")),
    ],
)
def test_strict(text: str, sample: Sample, verdict: Verdict) -> None:
    assert strict(text, sample) == verdict


@pytest.mark.parametrize(
    ("text", "sample", "verdict"),
    [
        ("I count: the cube is left.", LEFT, Verdict(True, "left")),
        ("Answer: (B)", LEFT, Verdict(False, "right")),
        ("no idea", LEFT, Verdict(False, None)),
        ("<answer>seven</answer>", asked("seven"), Verdict(True, "seven")),
        ("I see many. The answer is Seven.", asked("seven"), Verdict(True, "Seven.")),
        ("one, two\nseven", asked("seven"), Verdict(True, "seven")),
        ("seven\nor eight", asked("seven"), Verdict(False, "or eight")),
        ("", asked("seven"), Verdict(False, None)),
    ],
)
def test_any_form(text: str, sample: Sample, verdict: Verdict) -> None:
    assert any_form(text, sample) == verdict


def test_rules_have_names() -> None:
    named: dict[str, Callable[[str, Sample], Verdict]] = {
        "paper-reward": paper_reward,
        "paper-eval": paper_eval,
        "strict": strict,
        "any-form": any_form,
    }
    assert dict(RULES) == named
    assert accuracy_rule("strict") is strict
    with pytest.raises(InputError, match=r"unknown accuracy rule `stric`: did you mean `strict`\?"):
        accuracy_rule("stric")
