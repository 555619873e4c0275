"""How often `extract_choice` reads from a published answer what the benchmark's authors read from it.

    python benchmarks/extraction.py --transcripts ../shared/data/blink/transcripts \
        --json benchmarks/results/extraction.json --disagreements FILE-OUTSIDE-THE-REPOSITORY

The folder holds a JSON file a model: task to answers with `idx`, `answer`, `full_prediction` (what the model said) and
`prediction` (the authors' parse: `(B)`, or `(Z)` for no choice). BLINK (Fu et al., ECCV 2024) published six of them.
The rules were written while reading the first, third and fifth in alphabetical order; the goal is read on the others.

What the choices are: for relative depth and spatial relation as the parquet files beside the folder list them; for the
other tasks bare letters, up to the highest that is a gold answer of that task. The figures `with_wordings` give those
tasks the wording that follows each letter most often in the tuned-on answers ("(A) Point A"), if it does so in a
quarter of all places; it is found anew at each run. Two baselines: the last capital letter in round brackets, and the
same with the last capital letter that stands alone where there are no brackets. A parse that is no choice counts as
none, for us and for the baselines.

`--disagreements` writes every one as a JSON line, texts included, under letters and under wordings, and marks 100 of
the held-out models of each as `drawn`, at random by `--seed`. `--read` takes these back with a field `class`
(`ours wrong`, `theirs wrong`, `undecidable`) and counts.
"""

import argparse
import json
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cleareyed.errors import InputError
from cleareyed.evaluation.stats import wilson
from cleareyed.records.environment import describe_environment
from cleareyed.scoring.extract import Extraction, extract_choice
from cleareyed.tasks.choices import lettered_lines

REPOSITORY = Path(__file__).resolve().parents[1]
FIELDS = ("idx", "answer", "full_prediction", "prediction")
LISTED = {"Relative Depth": "relative_depth.parquet", "Spatial Relation": "spatial_relation.parquet"}
CLASSES = ("ours wrong", "theirs wrong", "undecidable")
DRAWN = 100
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXY"

_LETTER = re.compile(r"\(([A-Z])\)")
_ALONE = re.compile(r"\b([A-Z])\b")
_WORDING = re.compile(r"\(([A-Z])\)[ *]+([A-Za-z0-9][^\n.,:;()*<]{0,40})")


@dataclass(frozen=True)
class Answer:
    model: str
    held_out: bool
    task: str
    idx: str
    text: str
    gold: int
    parsed: int | None
    """The authors' parse; None for no choice."""
    choices: tuple[str, ...]
    """As the task lists them, else letters."""


@dataclass(frozen=True)
class Reading:
    answer: Answer
    ours: Extraction

    @property
    def agrees(self) -> bool:
        return self.ours.choice == self.answer.parsed


def read_answers(folder: Path) -> list[Answer]:
    """All answers in the folder. InputError: no transcripts, or a field that is missing or malformed."""
    paths = sorted(folder.glob("*.json"))
    if len(paths) < 2:
        raise InputError(f"{folder}: holds {len(paths)} transcripts (MODEL.json); name a folder with at least two")
    answers: list[Answer] = []
    for order, path in enumerate(paths):
        try:
            tasks = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: no JSON ({error}); give the file as published") from error
        if not isinstance(tasks, dict):
            raise InputError(f"{path}: holds no tasks by name; give the file as published")
        for name, rows in tasks.items():
            answers += _task_answers(path, order % 2 == 1, name.replace("_", " "), rows)
    return answers


def _task_answers(path: Path, held_out: bool, task: str, rows: object) -> list[Answer]:
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: task `{task}` holds no list of answers; give the file as published")
    for place, row in enumerate(rows):
        for field in FIELDS:
            if not isinstance(row, dict) or not isinstance(row.get(field), str):
                raise InputError(f"{path}, task `{task}`, item {place}: field `{field}` is no text; correct it")
        if _choice(row["answer"], len(LETTERS)) is None:
            raise InputError(
                f"{path}, task `{task}`, item {place}: field `answer` is no letter such as (A); correct it"
            )
    golds = [_choice(row["answer"], len(LETTERS)) or 0 for row in rows]
    listed = _listed(path.parent.parent / LISTED[task]) if task in LISTED else {}
    answers: list[Answer] = []
    for row, gold in zip(rows, golds, strict=True):
        choices = listed.get(row["idx"]) or tuple(LETTERS[: max(golds) + 1])
        # `</s>` ends a text for a tokenizer and is no part of it.
        text = row["full_prediction"].removesuffix("</s>")
        parsed = _choice(row["prediction"], len(choices))
        answers.append(Answer(path.stem, held_out, task, row["idx"], text, gold, parsed, choices))
    return answers


def _listed(path: Path) -> dict[str, tuple[str, ...]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; put the task's table there, it lists the choices")
    rows = pq.read_table(path, columns=["id", "prompt"]).to_pylist()
    return {row["id"]: tuple(lettered_lines(row["prompt"])) for row in rows}


def _choice(text: str, count: int) -> int | None:
    """The first letter in round brackets, if it is one of so many choices."""
    found = _LETTER.search(text)
    return LETTERS.index(found[1]) if found and found[1] in LETTERS[:count] else None


def baseline(answer: Answer, alone: bool = False) -> int | None:
    """The last letter in round brackets, else with `alone` the last that stands alone, if it is a choice."""
    found = _LETTER.findall(answer.text) or (_ALONE.findall(answer.text) if alone else [])
    return _choice(f"({found[-1]})", len(answer.choices)) if found else None


def wordings(answers: Iterable[Answer]) -> dict[str, tuple[str, ...]]:
    """By task, the wording of each choice in the tuned-on answers; tasks where one letter has none are left out."""
    seen: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    counts: dict[str, int] = {}
    for answer in answers:
        if answer.held_out or answer.task in LISTED:
            continue
        counts[answer.task] = len(answer.choices)
        for letter, words in _WORDING.findall(answer.text):
            seen[answer.task, letter][words.strip()] += 1
    found: dict[str, tuple[str, ...]] = {}
    for task, count in counts.items():
        usual = [seen[task, letter].most_common(1) for letter in LETTERS[:count]]
        shares = [top[0][1] / seen[task, LETTERS[place]].total() if top else 0.0 for place, top in enumerate(usual)]
        if min(shares) >= 0.25:
            found[task] = tuple(top[0][0] for top in usual)
    return found


def measure(answers: Sequence[Answer], choices: Callable[[Answer], tuple[str, ...]]) -> tuple[list[Reading], float]:
    """What we read from each, and how many a second on one core."""
    start = time.process_time()
    ours = [extract_choice(answer.text, choices(answer)) for answer in answers]
    seconds = time.process_time() - start
    readings = [Reading(answer, found) for answer, found in zip(answers, ours, strict=True)]
    return readings, len(answers) / max(seconds, 1e-9)


def agreement(readings: Sequence[Reading]) -> dict[str, Any]:
    """Shares with 95 % Wilson intervals, which take answers as independent."""
    n = len(readings)
    agreed = sum(reading.agrees for reading in readings)
    brackets = sum(baseline(reading.answer) == reading.answer.parsed for reading in readings)
    alone = sum(baseline(reading.answer, alone=True) == reading.answer.parsed for reading in readings)
    return {
        "n": n,
        "agreed": agreed,
        "agreement": agreed / n,
        "interval": asdict(wilson(agreed, n)),
        "baseline": brackets / n,
        "baseline_interval": asdict(wilson(brackets, n)),
        "baseline_alone": alone / n,
        "baseline_alone_interval": asdict(wilson(alone, n)),
    }


def by(readings: Sequence[Reading], key: Callable[[Reading], str]) -> dict[str, Any]:
    groups: dict[str, list[Reading]] = defaultdict(list)
    for reading in readings:
        groups[key(reading)].append(reading)
    return {name: agreement(groups[name]) for name in sorted(groups)}


def figures(readings: Sequence[Reading]) -> dict[str, Any]:
    apart = [reading for reading in readings if not reading.agrees]
    return {
        "models_used": sorted({r.answer.model for r in readings}),
        "all": agreement(readings),
        "tasks": by(readings, lambda r: r.answer.task),
        "models": by(readings, lambda r: r.answer.model),
        "rules": by(readings, lambda r: r.ours.rule),
        "confidence": by(readings, lambda r: f"{r.ours.confidence:.1f}"),
        "disagreements": {
            "both read a choice": sum(r.ours.choice is not None and r.answer.parsed is not None for r in apart),
            "only ours": sum(r.answer.parsed is None for r in apart),
            "only theirs": sum(r.ours.choice is None for r in apart),
        },
    }


def disagreements(choices_from: str, readings: Sequence[Reading], seed: int) -> list[dict[str, Any]]:
    """A row each, the drawn ones marked."""
    apart = [reading for reading in readings if not reading.agrees]
    held_out = [place for place, reading in enumerate(apart) if reading.answer.held_out]
    drawn = set(random.Random(seed).sample(held_out, min(DRAWN, len(held_out))))
    return [
        {"choices_from": choices_from, "drawn": place in drawn, **asdict(reading.answer), "ours": asdict(reading.ours)}
        for place, reading in enumerate(apart)
    ]


def count_classes(path: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the drawn ones were classed. InputError: an unknown class, or other lines than were drawn."""
    drawn = {(row["choices_from"], row["model"], row["idx"]) for row in rows if row["drawn"]}
    classes: dict[tuple[str, str, str], str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        if row.get("class") not in CLASSES:
            raise InputError(f"{path}, line {number}: field `class` is `{row.get('class')}`, not {', '.join(CLASSES)}")
        classes[row["choices_from"], row["model"], row["idx"]] = row["class"]
    if set(classes) != drawn:
        raise InputError(f"{path}: holds other answers than are drawn; class the lines marked `drawn` of this run")
    counts = {
        choices_from: Counter(name for key, name in classes.items() if key[0] == choices_from)
        for choices_from in sorted({key[0] for key in classes})
    }
    return {
        choices_from: {"drawn": count.total(), **{name: count[name] for name in CLASSES}}
        for choices_from, count in counts.items()
    }


def _outside(path: Path) -> Path:
    if path.resolve().is_relative_to(REPOSITORY):
        raise InputError(f"--disagreements {path}: holds published texts; name a file outside the repository")
    return path


def run(options: argparse.Namespace) -> dict[str, Any]:
    if options.read and not options.disagreements:
        raise InputError("--read needs --disagreements, whose drawn lines it classes; give both")
    if options.disagreements:
        _outside(options.disagreements)
    answers = read_answers(options.transcripts)
    readings, speed = measure(answers, lambda answer: answer.choices)
    worded = wordings(answers)
    with_wordings, _ = measure(answers, lambda answer: worded.get(answer.task, answer.choices))
    found: dict[str, Any] = {"answers": len(answers), "answers_per_second": round(speed)}
    for name, held_out in (("tuned_on", False), ("held_out", True)):
        half = [r for r in readings if r.answer.held_out == held_out]
        found[name] = figures(half)
        found[name]["tasks_by_model"] = {
            model: by([r for r in half if r.answer.model == model], lambda r: r.answer.task)
            for model in found[name]["models_used"]
        }
        found[name]["with_wordings"] = figures([r for r in with_wordings if r.answer.held_out == held_out])
    found["tasks_with_wordings"] = sorted(worded)
    if options.disagreements:
        rows = disagreements("letters", readings, options.seed)
        rows += disagreements("wordings", with_wordings, options.seed)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        options.disagreements.write_text("".join(lines), encoding="utf-8")
        if options.read:
            found["read"] = {"seed": options.seed, **count_classes(options.read, rows)}
    return found | {"environment": describe_environment(options.seed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transcripts", type=Path, required=True, help="folder of MODEL.json files")
    parser.add_argument("--json", type=Path, required=True, help="write the figures here; they hold counts only")
    parser.add_argument("--disagreements", type=Path, help="write every disagreement here, outside the repository")
    parser.add_argument("--read", type=Path, help="the drawn disagreements with a field `class`, to be counted")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    options = parser.parse_args()
    try:
        found = run(options)
    except InputError as error:
        sys.exit(_fail(error))
    options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for name in ("tuned_on", "held_out"):
        worded = found[name]["with_wordings"]
        for task, row in [("all", found[name]["all"]), *found[name]["tasks"].items()]:
            low, high = row["interval"]["low"], row["interval"]["high"]
            other = worded["all"] if task == "all" else worded["tasks"][task]
            print(
                f"{name:9} {task:26} {row['n']:5}  {row['agreement']:.1%} [{low:.1%}, {high:.1%}]"
                f"  baselines {row['baseline']:.1%}, {row['baseline_alone']:.1%}  worded {other['agreement']:.1%}"
            )
    print(f"{found['answers_per_second']} answers per second")


def _fail(error: InputError) -> int:
    print(error, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
