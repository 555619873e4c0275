import json
import time
from pathlib import Path

import pytest

from cleareyed.scoring.extract import extract_choice

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

SIDES = ("left", "right")
CUBES = ("red cube", "dark red cube", "blue ball")
COUNTS = ("1", "2", "3")
CLOSER = ("A is closer", "B is closer")


@pytest.mark.parametrize(
    ("text", "choices", "rule", "read", "choice"),
    [
        ("left", SIDES, "bare", "left", 0),
        (" (B) ", SIDES, "bare", "(B)", 1),
        ("<think>left</think> <answer>right</answer>", SIDES, "tag", "right", 1),
        ("<answer>left</answer> no <answer> B </answer> left", SIDES, "tag", "B", 1),
        ("<answer>It is on the left.</answer> right", SIDES, "tag", "left", 0),
        ("left left <answer>right", SIDES, "tag", "right", 1),
        ("<answer>unsure</answer> maybe left", SIDES, "mention", "left", 0),
        ("It could be right. The answer is left. Not sure.", SIDES, "statement", "left", 0),
        ("Answer: B\nbecause it is not left", SIDES, "statement", "B", 1),
        ("The correct answer is **(A)**, I think right", SIDES, "statement", "A", 0),
        ("the answer is b.", SIDES, "statement", "b", 1),
        ("The answer is A because it is not right", SIDES, "statement", "A", 0),
        ("Answer: A dog is right of it", SIDES, "statement", "right", 1),
        ("first left, so the cube is right of the ball", SIDES, "statement", "right", 1),
        ("So a, the left", SIDES, "statement", "left", 0),
        ("the answer is not left but right", SIDES, "statement", "right", 1),
        ("A dog sits on a box", SIDES, "none", None, None),
        ("So I say nothing", ("x", "y", "z", "w", "v", "u", "t", "s", "r"), "none", None, None),
        ("it looks left, or right", SIDES, "mention", "right", 1),
        ("it is right, not left", SIDES, "mention", "right", 1),
        ("it isn't left", SIDES, "none", None, None),
        ("the leftmost and the upright", SIDES, "none", None, None),
        ("It must be (B), not (A)", SIDES, "mention", "(B)", 1),
        ("(C) is what I take", SIDES, "none", None, None),
        ("I see a dark red cube there", CUBES, "mention", "dark red cube", 1),
        ("I see a Red\n  cube there", CUBES, "mention", "Red\n  cube", 0),
        ("counted 1 and 2, so there are 3 of them", COUNTS, "statement", "3", 2),
        ("there are 13 of size 2.5 at 3.", COUNTS, "mention", "3", 2),
        ("about 2.5 and 30", COUNTS, "none", None, None),
        ("I think B is closer to us", CLOSER, "mention", "B is closer", 1),
        ("There is no dog, yes there is", ("yes", "no"), "mention", "yes", 0),
        ("There is no dog", ("yes", "no"), "none", None, None),
        ("Is there a dog? No.", ("yes", "no"), "mention", "No", 1),
        ("The answer is no because it is far", ("yes", "no"), "statement", "no", 1),
        ("a thing (a) here", ("b", "a"), "mention", "(a)", 1),
        ("", SIDES, "none", None, None),
    ],
)
def test_where_a_choice_is_read(
    text: str, choices: tuple[str, ...], rule: str, read: str | None, choice: int | None
) -> None:
    found = extract_choice(text, choices)
    assert (found.rule, found.choice) == (rule, choice)
    assert (None if found.span is None else text[slice(*found.span)]) == read
    assert (found.confidence > 0) == (choice is not None)


def test_a_plain_answer_is_surer_than_a_mention_among_others() -> None:
    texts = ["left", "The answer is left", "it is left", "right or left"]
    sureness = [extract_choice(text, SIDES).confidence for text in texts]
    assert sureness == sorted(sureness, reverse=True) and len(set(sureness)) == len(texts)


@pytest.mark.parametrize("unit", ["so ", "<answer>", "</answer><answer>", "(A", "answer: ", "left ", "not the "])
def test_reading_time_does_not_explode_with_length(unit: str) -> None:
    start = time.process_time()
    extract_choice(unit * 10_000, ("one choice", "another"))
    assert time.process_time() - start < 2.0


@pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are not beside the repository")
def test_published_answers_are_read_as_the_benchmark_read_them() -> None:
    """Six models' answers to BLINK; `Z` is the benchmark's mark for no answer found."""
    stated = agreed = contradicted = 0
    for path in sorted((DATA / "blink" / "transcripts").glob("*.json")):
        for task, answers in json.loads(path.read_text()).items():
            choices = {"relative depth": CLOSER, "spatial relation": ("yes", "no")}.get(task.replace("_", " ").lower())
            for answer in answers if choices else []:
                letter = answer["prediction"].strip("()")
                choice = extract_choice(answer["full_prediction"].removesuffix("</s>"), choices).choice
                if letter in ("A", "B"):
                    stated += 1
                    agreed += choice == "AB".index(letter)
                    contradicted += choice == "BA".index(letter)
    assert stated > 1500 and contradicted == 0
    assert agreed / stated > 0.97
