"""Answers of any model from a file, made ready for a judge: every row of the file gives a row, whatever is in it."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import clean_text
from cleareyed.evaluation.inspect_log import read_samples
from cleareyed.oversensitivity.labels import came_back
from cleareyed.oversensitivity.outcomes import Answered, Judgement
from cleareyed.tasks.images import picture_bytes
from cleareyed.tasks.task import Sample

FORMATS = ".json (id to text), .jsonl (id, question, response), .csv (prompt, completion) or .eval"


@dataclass(frozen=True)
class Read:
    """The rows of a file, in its order."""

    answers: Sequence[Answered]
    settled: Mapping[int, Judgement]
    """By place: rows that leave nothing to judge, and why."""
    repeated: Mapping[str, int]
    """Ids that occur more than once, with how often; each of their rows is kept."""


def read_answered(path: Path) -> Read:
    """The answers in a file.

    | file | id |
    |---|---|
    | `.json`: an object of id to text, a result file of MOSSBench, or a list of rows | its own |
    | `.jsonl`: `id`, `response`, and `question` if it is known | its own, else `line N` |
    | `.csv`: `prompt`, `completion` | the row's number from 0 |
    | `.eval`: a log of inspect_ai | the sample's, with `#2` and so on for further epochs |

    A null is an empty answer. A row without an answer, or of another form, has failed, and its reason says where.

    InputError: the file cannot be read, or is of none of these forms as a whole.
    """
    readers: Mapping[str, Callable[[Path], Iterator[_Row]]] = {
        ".json": _json,
        ".jsonl": _json_lines,
        ".csv": _csv,
        ".eval": _eval,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: not a file of answers that is known; give {FORMATS}")
    try:
        rows = list(reader(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{path}: not {path.suffix.lower()[1:].upper()} ({error}); give {FORMATS}") from error
    if not rows:
        raise InputError(f"{path}: holds no answers; give {FORMATS}")
    settled = {place: row.settled for place, row in enumerate(rows) if row.settled is not None}
    times = Counter(row.answer.id for row in rows)
    return Read([row.answer for row in rows], settled, {name: count for name, count in times.items() if count > 1})


@dataclass(frozen=True)
class Matched:
    """Answers beside the task that they were given to."""

    answers: Sequence[Answered]
    """With question and pictures, where the task has the item."""
    unknown: Sequence[str]
    """Ids of answers to items that the task does not have; they are judged all the same."""
    unanswered: Sequence[str]
    """Items that no answer is there for."""
    without_picture: Sequence[str]
    """Items whose picture the task lacks."""


def match(answers: Sequence[Answered], samples: Mapping[str, Sample], pictures: bool) -> Matched:
    """Give each answer the question of its item, and its `pictures` where a judge looks at them."""
    matched, unknown, without = [], [], []
    for answer in answers:
        sample = samples.get(answer.id)
        if sample is None:
            unknown.append(answer.id)
            matched.append(answer)
            continue
        if sample.missing:
            without.append(answer.id)
        images = tuple(picture_bytes(load) for load in sample.images) if pictures else ()
        matched.append(replace(answer, question=sample.question, images=images))
    given = {answer.id for answer in answers}
    return Matched(matched, unknown, [name for name in samples if name not in given], without)


@dataclass(frozen=True)
class _Row:
    answer: Answered
    settled: Judgement | None = None


def _row(name: str, question: Any, response: Any, where: str) -> _Row:
    """A row as the file has it; `where` names the place in the file."""
    name = clean_text(name)
    asked = clean_text(question) if isinstance(question, str) and question.strip() else None
    if response is None or (isinstance(response, str) and not response.strip()):
        why = "null in the file" if response is None else "no text"
        return _Row(Answered(name, asked, ""), Judgement(name, "empty", 1.0, why))
    if not isinstance(response, str):
        kind = "an object" if isinstance(response, _Pairs | dict) else f"of type {type(response).__name__}"
        found = f"{clean_text(where)}: the answer is {kind}, not a text"
        return _Row(Answered(name, asked, ""), Judgement(name, "failed", None, found))
    return _Row(Answered(name, asked, clean_text(response)))


def _fields(row: Any, number: int) -> _Row:
    """An object of a list or of a line."""
    where = f"line {number}"
    if not isinstance(row, dict) or "response" not in row:
        name = clean_text(str(row["id"])) if isinstance(row, dict) and row.get("id") is not None else where
        return _Row(Answered(name, None, ""), Judgement(name, "failed", None, f"{where}: no field `response`"))
    name = where if row.get("id") is None else str(row["id"])
    return _row(name, row.get("question"), row["response"], where)


def _json(path: Path) -> Iterator[_Row]:
    pairs = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_Pairs)
    if isinstance(pairs, list) and not isinstance(pairs, _Pairs):
        yield from (_fields(dict(row) if isinstance(row, _Pairs) else row, at) for at, row in enumerate(pairs, 1))
    elif isinstance(pairs, _Pairs):
        answers = dict(pairs).get("responses")
        for name, value in answers if isinstance(answers, _Pairs) else pairs:
            held = dict(value) if isinstance(value, _Pairs) else {}
            if "response" in held:
                yield _row(name, held.get("question"), held["response"], f"`{name}`")
            else:
                yield _row(name, None, value, f"`{name}`")
    else:
        raise ValueError("neither an object nor a list")


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON with all its keys, also those that occur twice."""


def _json_lines(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    name = f"line {number}"
                    yield _Row(Answered(name, None, ""), Judgement(name, "failed", None, f"{name}: not JSON"))
                else:
                    yield _fields(row, number)


def _csv(path: Path) -> Iterator[_Row]:
    text = path.read_text(encoding="utf-8-sig")
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    missing = [name for name in ("prompt", "completion") if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"no column `{missing[0]}`")
    try:
        for number, row in enumerate(reader):
            yield _row(str(number), row["prompt"], row["completion"], f"row {number}")
    except csv.Error as error:
        raise ValueError(f"after line {reader.line_num}: {error}; check the quotes") from error


def _eval(path: Path) -> Iterator[_Row]:
    for sample in read_samples(path):
        name = sample.id if sample.epoch == 1 else f"{sample.id}#{sample.epoch}"
        found = came_back(name, sample.state)
        if found is not None and sample.error:
            found = replace(found, reason=f"{found.reason}; {' '.join(sample.error.split())[:200]}")
        yield _Row(Answered(name, sample.input or None, sample.output), found)
