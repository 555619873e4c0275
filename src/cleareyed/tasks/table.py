"""Your own data: a JSONL or parquet file with a row for each question.

| column | what |
|---|---|
| `image` | a path, relative to the file; in parquet also bytes or a `{bytes, path}` struct; or a list, `[]` for none |
| `question` | text |
| `answer` | text or a whole number |
| `choices` | optional: a list of at least two, one of them the answer |
| `id`, `skill`, `group` | optional (see `Sample`); the id is the file's name and the row's number if left out |

Every other column is handed to reward functions by its name.
"""

import json
import re
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cleareyed.errors import InputError
from cleareyed.tasks.images import FileImage
from cleareyed.tasks.names import number_of
from cleareyed.tasks.parquet import Cell, CellImage, Rows, open_parquet
from cleareyed.tasks.prompts import offer
from cleareyed.tasks.stamps import refuse_changed, stamp_of
from cleareyed.tasks.task import LoadImage, Made, Sample, Task

_OWN = ("image", "question", "answer", "choices", "id", "skill", "group")
_TAKEN = ("prompts", "completions", "completion_ids")

UNSEEN, ONE, MOST = -2, -1, 2**15
"""In place of a number of pictures: not known without reading them; one that is in no list; too many to count."""

Row = dict[str, Any]


def table_task(path: Path, name: str = "table") -> Task:
    """The task in a `.jsonl` or `.parquet` file. Every row is checked now and read again when it is indexed, so that
    memory grows by 20 bytes a row at most, beside the row groups in use; pictures are looked for now and decoded when
    needed.

    Choices that the question does not hold are appended to it in SAT's words. InputError, naming file, row
    (from 1; JSONL: line) and field: a missing or empty image, question or answer, choices without the answer,
    an id used twice, a line that is not JSON, an image file that is not there.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .jsonl or .parquet file, relative to the current folder")
    if path.suffix not in (".jsonl", ".parquet"):
        raise InputError(f"{path}: the name ends in `{path.suffix}`; give a .jsonl or a .parquet file")
    rows: _Lines | _Table = _Lines(path) if path.suffix == ".jsonl" else _Table(path)
    numbers = array("q")
    for index in range(len(rows)):
        sample = rows.sample(index)
        for load in sample.images:
            if isinstance(load, FileImage):
                _refuse_absent(load)
        numbers.append(number_of(sample.id))
    if not numbers:
        raise InputError(f"{path}: no rows; write at least one")
    _refuse_twice(path, rows, numbers)
    return Task(name=name, samples=Made(len(rows), rows.sample))


class _Lines:
    """The rows of a `.jsonl` file: 12 bytes a line that is not blank."""

    def __init__(self, path: Path) -> None:
        self._path, self._stamp = path, stamp_of(path)
        self._starts, self._numbers = array("q"), array("i")
        try:
            with path.open("rb") as lines:
                start = 0
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        self._starts.append(start)
                        self._numbers.append(number)
                    start += len(line)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error

    def __len__(self) -> int:
        return len(self._starts)

    def where(self, index: int) -> str:
        return f"line {self._numbers[index]}"

    def sample(self, index: int) -> Sample:
        refuse_changed(self._path, self._stamp)
        where, row = f"{self._path}, {self.where(index)}", self._row(index)
        return _sample(self._path, where, self._numbers[index], row, lambda: _images(self._path, where, row, None))

    def _row(self, index: int) -> Row:
        where = f"{self._path}, {self.where(index)}"
        try:
            with self._path.open("rb") as file:
                file.seek(self._starts[index])
                row = json.loads(file.readline().decode("utf-8"))
        except OSError as error:
            raise InputError(f"{self._path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{where}: not JSON ({error}); write one object a line") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: {_kind(row)} instead of an object; write {{...}}")
        return row


class _Table:
    """The rows of a `.parquet` file: 2 bytes each."""

    def __init__(self, path: Path) -> None:
        file = open_parquet(path, ("question", "answer", "image"))
        self._path, self._stamp = path, stamp_of(path)
        self._rows = Rows(path, [name for name in file.schema_arrow.names if name != "image"], file)
        self._pictures = array("h", [UNSEEN]) * len(self._rows)
        """How many a row holds as bytes, so that they need not be read to make its sample."""

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, index: int) -> str:
        return f"row {index + 1}"

    def sample(self, index: int) -> Sample:
        refuse_changed(self._path, self._stamp)
        where = f"{self._path}, {self.where(index)}"
        return _sample(self._path, where, index + 1, self._rows[index], lambda: self._images(index, where))

    def _images(self, index: int, where: str) -> tuple[LoadImage, ...]:
        cell, count = Cell(self._path, "image", *self._rows.place(index)), self._pictures[index]
        if count == ONE:
            return (CellImage(cell, None, where),)
        if count != UNSEEN:
            return tuple(CellImage(cell, item, where) for item in range(count))
        found = _images(self._path, where, {}, cell)
        if all(isinstance(load, CellImage) for load in found) and len(found) < MOST:
            alone = any(isinstance(load, CellImage) and load.index is None for load in found)
            self._pictures[index] = ONE if alone else len(found)
        return found


def _refuse_twice(path: Path, rows: _Lines | _Table, numbers: "array[int]") -> None:
    """`numbers`: (N,) `number_of` each sample's id."""
    order = np.argsort(numbers, kind="stable")
    ordered = np.array(numbers)[order]
    for at in np.flatnonzero(ordered[1:] == ordered[:-1]):
        first, second = int(order[at]), int(order[at + 1])
        name = rows.sample(first).id
        if name == rows.sample(second).id:
            raise InputError(
                f"{path}, {rows.where(second)}: field `id` is `{name}`, as in {rows.where(first)}; make ids unique"
            )


def _sample(path: Path, where: str, number: int, row: Row, find_images: Callable[[], tuple[LoadImage, ...]]) -> Sample:
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
        images=find_images(),
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
    return tuple(_image(path, where, item, cell, index) for index, item in enumerate(value))


def _image(path: Path, where: str, item: object, cell: Cell | None, index: int | None) -> LoadImage:
    held = item
    if isinstance(item, dict) and cell is not None:
        held = item.get("bytes") or item.get("path")
    if isinstance(held, bytes) and held and cell is not None:
        return CellImage(cell, index, where)
    if not isinstance(held, str) or not held:
        raise InputError(
            f"{where}: field `image` is {_kind(held)}; give a path, relative to the file, or [] for no picture"
        )
    return FileImage(path.parent / held, where)


def _refuse_absent(image: FileImage) -> None:
    try:
        found = image.path.is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        found = False
    if not found:
        raise InputError(f"{image.where}: field `image`: no file {image.path}; give a path relative to the data file")
    try:
        image.path.open("rb").close()
    except OSError as error:
        raise InputError(f"{image.where}: field `image`: {image.path} cannot be read: {error.strerror}") from error


def _kind(value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, str | bytes | list | dict) and not value:
        return "empty"
    if isinstance(value, str) and not value.strip():
        return "blank"
    return f"of type {type(value).__name__}"
