"""Your own data: a JSONL or parquet file with a row for each question.

| column | what |
|---|---|
| `image` | a path, relative to the file; in parquet also encoded bytes or a `{bytes, path}` struct; or a list |
| `question` | text |
| `answer` | text or a whole number |
| `choices` | optional: a list of at least two, one of them the answer |
| `id`, `skill`, `group` | optional (see `Sample`); the id is the file's name and the row's number if left out |

Every other column is handed to reward functions by its name.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cleareyed.errors import InputError
from cleareyed.tasks.images import FileImage
from cleareyed.tasks.parquet import Cell, CellImage, read_columns
from cleareyed.tasks.prompts import offer
from cleareyed.tasks.task import LoadImage, Sample, Task

_OWN = ("image", "question", "answer", "choices", "id", "skill", "group")
_TAKEN = ("prompts", "completions", "completion_ids")

Row = dict[str, Any]


def table_task(path: Path, name: str = "table") -> Task:
    """The task in a `.jsonl` or `.parquet` file. Pictures are looked for now and decoded when needed.

    Choices that the question does not hold are appended to it in SAT's words. InputError, naming file, row
    (from 1; JSONL: line) and field: a missing or empty image, question or answer, choices without the answer,
    an id used twice, a line that is not JSON, an image file that is not there.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .jsonl or .parquet file, relative to the current folder")
    samples: list[Sample] = []
    rows_by_id: dict[str, str] = {}
    for where, number, row, cell in _rows(path):
        sample = _sample(path, where, number, row, cell)
        if sample.id in rows_by_id:
            raise InputError(f"{where}: field `id` is `{sample.id}`, as in {rows_by_id[sample.id]}; make ids unique")
        rows_by_id[sample.id] = where.removeprefix(f"{path}, ")
        samples.append(sample)
    if not samples:
        raise InputError(f"{path}: no rows; write at least one")
    return Task(name=name, samples=tuple(samples))


def _rows(path: Path) -> Iterator[tuple[str, int, Row, Cell | None]]:
    """For each row: where it is, its number, its columns (parquet: without the image) and the image's cell."""
    if path.suffix == ".jsonl":
        for number, row in _json_rows(path):
            yield f"{path}, line {number}", number, row, None
    elif path.suffix == ".parquet":
        for number, (row, cell) in enumerate(read_columns(path, ("question", "answer"), lazy="image"), start=1):
            yield f"{path}, row {number}", number, row, cell
    else:
        raise InputError(f"{path}: the name ends in `{path.suffix}`; give a .jsonl or a .parquet file")


def _json_rows(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (json.JSONDecodeError, RecursionError) as error:
                    raise InputError(f"{path}, line {number}: not JSON ({error}); write one object a line") from error
                if not isinstance(row, dict):
                    raise InputError(f"{path}, line {number}: {_kind(row)} instead of an object; write {{...}}")
                yield number, row
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _sample(path: Path, where: str, number: int, row: Row, cell: Cell | None) -> Sample:
    for name in _TAKEN:
        if name in row:
            raise InputError(f"{where}: field `{name}` has a name that reward functions use; rename it")
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{where}: field `question` is {_kind(question)}; write the question as text")
    answer = _text(where, "answer", row.get("answer"))
    choices = _choices(where, row.get("choices"), answer)
    return Sample(
        id=_optional(where, "id", row) or f"{path.stem}-{number}",
        question=question if _holds(question, choices) else offer(question, choices),
        answer=answer,
        choices=choices,
        images=_images(path, where, row, cell),
        skill=_optional(where, "skill", row),
        group=_optional(where, "group", row),
        columns={name: value for name, value in row.items() if name not in _OWN},
    )


def _text(where: str, field: str, value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: field `{field}` is {_kind(value)}; write it as text or a whole number")
    return value.strip()


def _optional(where: str, field: str, row: Mapping[str, Any]) -> str:
    return "" if row.get(field) in (None, "") else _text(where, field, row[field])


def _choices(where: str, value: object, answer: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) < 2:
        raise InputError(f"{where}: field `choices` is {_kind(value)}; write a list of two or more, or leave it out")
    choices = tuple(_text(where, "choices", choice) for choice in value)
    if len(set(choices)) < len(choices):
        raise InputError(f"{where}: field `choices` holds the same choice twice; make them differ")
    if answer not in choices:
        raise InputError(
            f"{where}: field `choices` ({', '.join(choices)}) does not contain the answer `{answer}`; "
            "write the answer as one of the choices, word for word"
        )
    return choices


def _holds(question: str, choices: tuple[str, ...]) -> bool:
    return all(re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", question, re.IGNORECASE) for choice in choices)


def _images(path: Path, where: str, row: Row, cell: Cell | None) -> tuple[LoadImage, ...]:
    value = row.get("image") if cell is None else cell.value()
    if not isinstance(value, list):
        return (_image(path, where, value, cell, None),)
    if not value:
        raise InputError(f"{where}: field `image` is an empty list; name at least one picture")
    return tuple(_image(path, where, item, cell, index) for index, item in enumerate(value))


def _image(path: Path, where: str, item: object, cell: Cell | None, index: int | None) -> LoadImage:
    held = item
    if isinstance(item, dict) and cell is not None:
        held = item.get("bytes") or item.get("path")
    if isinstance(held, bytes) and held and cell is not None:
        return CellImage(cell, index, where)
    if not isinstance(held, str) or not held:
        raise InputError(f"{where}: field `image` is {_kind(held)}; give the path of a picture, relative to the file")
    file = path.parent / held
    try:
        found = file.is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        found = False
    if not found:
        raise InputError(f"{where}: field `image`: no file {file}; give a path relative to the data file")
    try:
        file.open("rb").close()
    except OSError as error:
        raise InputError(f"{where}: field `image`: {file} cannot be read: {error.strerror}") from error
    return FileImage(file, where)


def _kind(value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, str | bytes | list | dict) and not value:
        return "empty"
    if isinstance(value, str) and not value.strip():
        return "blank"
    return f"of type {type(value).__name__}"
