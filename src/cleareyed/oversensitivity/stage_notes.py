"""What people and files bring to the three stages: disambiguated questions and grades that overrule others."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cleareyed.errors import InputError
from cleareyed.oversensitivity.stages import Step, labels_of
from cleareyed.tasks.names import complaint


class Question(BaseModel):
    """What an item's question means, said so that it cannot be misread."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    id: Annotated[str, Field(min_length=1)]
    question: Annotated[str, Field(pattern=r"\S")]
    author: Literal["model", "person"]
    """The kind of who wrote it."""
    name: str | None = None
    """Which model, which person; None where the file does not say."""


class Override(BaseModel):
    """A person's label in the place of another's."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    id: Annotated[str, Field(min_length=1)]
    step: Step
    label: str
    person: Annotated[str, Field(pattern=r"\S")]
    reason: str = ""
    source: str = ""
    """The file it came from."""
    at: str = ""
    """When it was taken up: UTC, ISO 8601."""


@dataclass(frozen=True)
class Notes:
    questions: Mapping[str, Question]
    overrides: Mapping[tuple[str, Step], Override]


_Row = TypeVar("_Row", bound=BaseModel)


def read_questions(path: Path) -> dict[str, Question]:
    """By item: JSON (`{id: {question, author}}`), JSON Lines or CSV with `id`, `question`, `author`, `name`.

    InputError: a row that is none, named by its place; an item twice.
    """
    found: dict[str, Question] = {}
    for where, one in _rows(path, Question):
        if one.id in found:
            raise InputError(f"{where}: item {one.id} has a question already; keep one")
        found[one.id] = one
    return found


def read_overrides(path: Path) -> dict[tuple[str, Step], Override]:
    """By item and step, from JSON Lines or CSV with `id`, `step`, `label`, `person`, `reason`; the last one counts.

    InputError: a row that is none, or a label that does not belong to its step, named by its place.
    """
    found: dict[tuple[str, Step], Override] = {}
    for where, one in _rows(path, Override):
        if one.label not in labels_of(one.step):
            raise InputError(f"{where}: label {one.label!r} is none of {', '.join(labels_of(one.step))}; correct it")
        found.pop((one.id, one.step), None)
        found[one.id, one.step] = one
    return found


def _rows(path: Path, kind: type[_Row]) -> Iterator[tuple[str, _Row]]:
    for where, fields in _fields(path):
        try:
            yield where, kind.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(str(part) for part in first["loc"]) or "row"
            raise InputError(f"{where}: field `{name}`: {complaint(first)}; correct it") from error


def _fields(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__}); name a text file") from error
    if path.suffix == ".csv":
        rows = csv.DictReader(StringIO(text, newline=""), strict=True)
        try:
            for number, row in enumerate(rows, 2):
                yield f"{path}: line {number}", {name: value for name, value in row.items() if name and value}
        except csv.Error as error:
            raise InputError(f"{path}: not CSV after line {rows.line_num} ({error}); check the quotes") from error
        return
    if path.suffix == ".json":
        held = _loaded(text, str(path))
        if not isinstance(held, dict):
            raise InputError(f"{path}: not an object of id to its fields; give one, or JSON Lines (.jsonl)")
        for name, value in held.items():
            yield f"{path}: item {name}", {"id": name, **value} if isinstance(value, dict) else value
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}: line {number}", _loaded(line, f"{path}: line {number}")


def _loaded(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({' '.join(str(error).split())[:100]}); correct it") from error
