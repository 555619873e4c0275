import importlib
import json
import random
import string
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from cleareyed.scoring.extract import Extraction, exact_choice, extract_choice

ROOT = Path(__file__).resolve().parents[2]
TRANSCRIPTS = ROOT.parent / "shared" / "data" / "blink" / "transcripts"

SIDES = ("left", "right")
CUBES = ("red cube", "dark red cube", "blue ball")
COUNTS = ("1", "2", "3")
CLOSER = ("A is closer", "B is closer")
DOTS = ("dot A", "dot B", "dot C")
CRATES = ("Box A", "Box B")
LETTERS = ("A", "B", "C", "D")
PETS = ("the grey cat", "the old dog")


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
        ("it looks left, or right", SIDES, "none", None, None),
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
        ("I think B is closer to us", CLOSER, "statement", "B is closer", 1),
        ("There is no dog, yes there is", ("yes", "no"), "mention", "yes", 0),
        ("There is no dog", ("yes", "no"), "none", None, None),
        ("Is there a dog? No.", ("yes", "no"), "alone", "No.", 1),
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


def test_it_is_imported_from_scoring_and_takes_a_list() -> None:
    from cleareyed import scoring

    found = scoring.extract_choice("So it is (B).", ["left", "right"])
    assert isinstance(found, scoring.Extraction)
    assert (found.choice, found.span) == (1, (9, 12))


@pytest.mark.parametrize(
    ("text", "choices", "rule", "choice"),
    [
        # what is said first decides between two where nothing concludes
        ("Box B fits the lamp tightly. Box A, by contrast, takes in the wall as well.", CRATES, "mention", 1),
        ("A chair is closer to the door, and so is the lamp. (B)", LETTERS, "alone", 1),
        ("The grey cat hides. The old dog barks.", PETS, "mention", 0),
        ("1 red cube, 2 red cubes and one more, 3", COUNTS, "mention", 2),
        ("A weighs little. B weighs more. C weighs most.", LETTERS, "none", None),
        # conclusions
        ("Based on the shadows, the old dog is nearer than the grey cat.", PETS, "statement", 1),
        ("Box A is loose.\n\nTherefore, I would choose Box B over it.", CRATES, "statement", 1),
        ("I'd say old dog, though the grey cat is near.", PETS, "statement", 1),
        ("Given that the cup is tall, nothing follows", PETS, "none", None),
        ("Thus option C wins", LETTERS, "statement", 2),
        ("So is it the grey cat?", PETS, "mention", 0),
        # verdicts, on either side
        ("The one that sits on the rim is the best match: point D", LETTERS, "statement", 3),
        ("Point B seems to be the most likely match, being near", LETTERS, "statement", 1),
        ("Dot C is the correct choice because dot A is far off", DOTS, "statement", 2),
        ("Dot C is not the correct choice", DOTS, "none", None),
        # an explicit answer counts more than what is concluded beside it
        ("The answer is (B). Therefore the grey cat can rest.", PETS, "statement", 1),
        ("The answer is A. No, wait. The answer is B.", LETTERS, "statement", 1),
        ("the correct answer is:\n\n**(C) dot C**\n\nas dot A is no rim", DOTS, "statement", 2),
        ("**Final answer:** `D`", LETTERS, "statement", 3),
        ("**Correct option**: B) it is red", LETTERS, "statement", 1),
        ("Following option: A, B, C", LETTERS, "none", None),
        # a walk through the choices is no answer, its end may be
        ("- (A) is red\n- (B) is blue\n- (C) is green", LETTERS, "none", None),
        ("(A) dot A\n(B) dot B\n(C) dot C\nWhich do you choose?", DOTS, "none", None),
        ("1. **Dot A**: far\n2. **Dot B**: near\n3. **Dot C**: far\n\nThe answer is dot B.", DOTS, "statement", 1),
        ("Dot A: far\nDot B: near\nMy pick:\n**Dot B**", DOTS, "alone", 1),
        ("Dot A: far\nDot B: near\nDot C", DOTS, "none", None),
        ("A) one\nB) two\nC) three\nD)", LETTERS, "none", None),
        # alone on a line, or in the last sentence
        ("B\n\nThe lamp stands in front of the wall.", LETTERS, "alone", 1),
        ("The lamp stands in front.\n\n(B)", LETTERS, "alone", 1),
        ("The lamp stands in front of it. Left.", SIDES, "alone", 0),
        ("left 3, right 5, more there.</p>\n<p>right</p>", SIDES, "alone", 1),
        # thoughts
        ("<think>So the answer is left.</think> It is right", SIDES, "mention", 1),
        ("<think>Maybe left or right</think>\n\nright.", SIDES, "bare", 1),
        ("<think>So the answer is left.</think> Glad to help!", SIDES, "statement", 0),
        ("<think>The answer is left", SIDES, "statement", 0),
        # taken back, open or refused
        ("Neither the grey cat nor the old dog is near", PETS, "none", None),
        ("None of the options (A) 4, (B) 3 or (C) 5 is right", LETTERS, "none", None),
        ("It lies between the grey cat and the old dog", PETS, "none", None),
        ("Option A cannot be. Option B is wrong. I am left with option C.", LETTERS, "mention", 2),
        ("Choice A is incorrect, choice B fits", LETTERS, "mention", 1),
        ("Choice A isn't only near but nearest", LETTERS, "mention", 0),
        ("I cannot tell from this picture.", LETTERS, "none", None),
        ("The grey cat sits, the old dog lies. I cannot tell which is nearer.", PETS, "none", None),
        ("I cannot say for sure, but the old dog looks nearer.", PETS, "mention", 1),
        ("(A) the old dog", PETS, "none", None),
        # letters
        ("Point B is right of it", SIDES, "mention", 1),
        ("Image B shows it", LETTERS, "mention", 1),
        ("I chose option B-flat", LETTERS, "none", None),
        ("The answer is a mystery", LETTERS, "none", None),
        ("Vitamin C helps", LETTERS, "none", None),
        ("(E) is it", LETTERS, "none", None),
        ("which dot is closer is the question", CLOSER, "none", None),
    ],
)
def test_styles_of_answering(text: str, choices: tuple[str, ...], rule: str, choice: int | None) -> None:
    found = extract_choice(text, choices)
    assert (found.rule, found.choice) == (rule, choice)


def test_a_choice_and_its_letter_are_read_as_one() -> None:
    text = "It is (B) the old dog here"
    assert text[slice(*(extract_choice(text, PETS).span or ()))] == "(B) the old dog"


WORDS = """a A bad cab Adam DAD ab. I a-b A's b2b scab CD ABBA d'accord dab; Cab: the Dab, Bad? lamp so Thus answer
option is not left-hand upright - ( ) ** : . ! ?"""


def test_no_letter_is_taken_from_a_word() -> None:
    draw = random.Random(1)
    for _ in range(1000):
        inside = "".join(draw.choice(string.ascii_letters) for _ in range(draw.randint(2, 6)))
        wrapped = draw.choice(
            ("({})", "**{}**", "the answer is {}", "Option {}", "so {}.", "<answer>{}</answer>", "{}")
        )
        text = f"{draw.choice(('', 'Well, ', 'It says '))}{wrapped.format(inside)}"
        assert extract_choice(text, LETTERS) == Extraction(None, None, "none", 0.0), text


def test_what_the_span_holds_is_what_was_read() -> None:
    draw = random.Random(2)
    pool = [
        "\n",
        *WORDS.split(),
        *LETTERS,
        *DOTS,
        *(f"({letter})" for letter in LETTERS),
        "</think>",
        "<answer>",
        "</answer>",
    ]
    read = 0
    for _ in range(1000):
        text = " ".join(draw.choice(pool) for _ in range(draw.randint(1, 14)))
        for choices in (LETTERS, DOTS):
            found = extract_choice(text, choices)
            if found.span is None:
                assert found == Extraction(None, None, "none", 0.0)
                continue
            read += 1
            start, end = found.span
            assert 0 <= start < end <= len(text)
            assert exact_choice(text[start:end], choices) == found.choice, text
            assert not text[start - 1 : start].isalnum() and not text[end : end + 1].isalnum(), text
            assert 0 < found.confidence <= 1
    assert read > 500


@pytest.mark.parametrize("choices", [SIDES, CUBES, COUNTS, CLOSER, DOTS, CRATES, LETTERS, PETS, ("yes", "no")])
def test_bare_choices_and_gold_answers_are_always_read(choices: tuple[str, ...]) -> None:
    for index, choice in enumerate(choices):
        letter = string.ascii_uppercase[index]
        forms = [choice, choice.upper(), f" {choice}.\n", f"**{choice}**", letter, f"({letter})", f"{letter}."]
        forms += [f"({letter}) {choice}"]
        for form in forms:
            assert extract_choice(form, choices).choice == index, form
            assert extract_choice(f"<think>hm</think><answer>{form}</answer>", choices).choice == index, form
            assert extract_choice(f"Let me look.\n\nThe answer is {form.strip()}", choices).choice == index, form


def test_a_plain_answer_is_surer_than_a_mention_among_others() -> None:
    texts = ["left", "The answer is left", "it is left", "right or left"]
    sureness = [extract_choice(text, SIDES).confidence for text in texts]
    assert sureness == sorted(sureness, reverse=True) and len(set(sureness)) == len(texts)


@pytest.mark.parametrize(
    "unit",
    [
        "so ",
        "<answer>",
        "</answer><answer>",
        "(A",
        "answer: ",
        "left ",
        "not the ",
        "best option left ",
        "left  \n",
        " ",
        "* ",
    ],
)
def test_reading_time_does_not_explode_with_length(unit: str) -> None:
    start = time.process_time()
    extract_choice(unit * 10_000, ("one choice", "another"))
    assert time.process_time() - start < 2.0


def benchmark(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "argv", ["extraction", *map(str, arguments)])
    return importlib.import_module("extraction")


@pytest.mark.skipif(not TRANSCRIPTS.is_dir(), reason="the public data sets are not beside the repository")
def test_published_answers_are_read_as_the_benchmark_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the three models whose answers were not read when the rules were written."""
    extraction = benchmark(monkeypatch)
    held_out = [answer for answer in extraction.read_answers(TRANSCRIPTS) if answer.held_out]
    readings, _ = extraction.measure(held_out, lambda answer: answer.choices)
    found = extraction.agreement(readings)
    assert found["n"] == 3 * 1901
    assert found["agreement"] >= 0.92 > found["baseline_alone"] > found["baseline"]
    tasks = extraction.by(readings, lambda reading: reading.answer.task)
    assert len(tasks) == 14
    assert tasks["Relative Depth"]["agreement"] >= 0.95 <= tasks["Spatial Relation"]["agreement"]


def transcript(folder: Path, name: str, rows: list[tuple[str, str, str]]) -> None:
    items = [
        {"idx": f"x_{index}", "answer": gold, "full_prediction": text, "prediction": parsed}
        for index, (text, parsed, gold) in enumerate(rows)
    ]
    (folder / f"{name}.json").write_text(json.dumps({"Odd_One Out": items}))


def test_the_benchmark_counts_agreement_and_keeps_texts_out_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, figures, rest, read = (tmp_path / name for name in ("said", "figures.json", "rest.jsonl", "read.jsonl"))
    folder.mkdir()
    transcript(folder, "a", [("(A)", "(A)", "(A)"), ("The answer is B", "(B)", "(B)")])
    transcript(folder, "b", [("(A) or (B)?", "(Z)", "(A)"), ("It is (B), not (A)", "(A) point", "(B)")])
    given = ("--transcripts", folder, "--json", figures)
    benchmark(monkeypatch, *given, "--disagreements", rest).main()
    found = json.loads(figures.read_text())
    assert (found["tuned_on"]["models_used"], found["held_out"]["models_used"]) == (["a"], ["b"])
    names = ("agreement", "baseline", "baseline_alone")
    assert [found["tuned_on"]["all"][name] for name in names] == [1.0, 0.5, 1.0]
    assert [found["held_out"]["all"][name] for name in names] == [0.5, 0.5, 0.5]
    assert found["held_out"]["tasks"]["Odd One Out"]["n"] == 2
    row, same = (json.loads(line) for line in rest.read_text().splitlines())
    assert (row["choices_from"], same) == ("letters", row | {"choices_from": "wordings"})
    assert (row["idx"], row["drawn"], row["ours"]["choice"]) == ("x_1", True, 1)

    read.write_text("\n".join(json.dumps(each | {"class": "theirs wrong"}) for each in (row, same)))
    benchmark(monkeypatch, *given, "--disagreements", rest, "--read", read).main()
    counts = json.loads(figures.read_text())["read"]
    assert counts["letters"] == {"drawn": 1, "ours wrong": 0, "theirs wrong": 1, "undecidable": 0}
    assert "not (A)" not in figures.read_text()

    read.write_text(json.dumps(row | {"class": "ours"}))
    inside = ROOT / "benchmarks" / "never-written.jsonl"
    (tmp_path / "bad").mkdir()
    transcript(tmp_path / "bad", "a", [("(A)", "(A)", "none")])
    transcript(tmp_path / "bad", "b", [("(A)", "(A)", "(A)")])
    for arguments, message in (
        ((*given, "--disagreements", inside), "outside the repository"),
        ((*given, "--disagreements", rest, "--read", read), "field `class`"),
        ((*given, "--read", read), "--disagreements"),
        (("--transcripts", tmp_path / "bad", "--json", figures), "field `answer`"),
        (("--transcripts", tmp_path / "none", "--json", figures), "transcripts"),
    ):
        with pytest.raises(SystemExit) as stopped:
            benchmark(monkeypatch, *arguments).main()
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and message in said and len(said.strip().splitlines()) == 1
    assert not inside.exists()
