"""A benchmark in the making: pairs of a benign question and its contrast, each with a plan of its picture.

The three kinds are MOSSBench's (arXiv 2406.17806): an alarming sight that carries little risk, harm that the context
speaks against, and a harmless wish that reads like another. Of the contrast it takes as MOSSBench does: the question
turned towards harm about the same picture, or the same question about a picture without what speaks against the harm.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import clean_text
from cleareyed.recipe import Strict
from cleareyed.tasks.names import complaint

Stimulus = Literal["ER", "NH", "CI"]
"""Exaggerated Risk, Negated Harm, Counterintuitive Interpretation."""

Model = TypeVar("Model", bound=BaseModel)
Text = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"\S")]
Number = Annotated[float, Field(ge=-1000, le=1000)]
LARGEST_TEXT = 60.0
Point = tuple[Number, Number]


class Put(Strict):
    """One thing in a picture: a sprite or a text. Places are in hundredths of 1.2 picture widths: 120 x 90."""

    sprite: str | None = None
    text: Annotated[str, Field(min_length=1, max_length=120)] | None = None
    """Drawn in DejaVu Sans Bold, centred; lines end where it has line breaks."""
    at: Point
    """Its middle."""
    size: Annotated[float, Field(gt=0, le=200)]
    """A sprite's side; a text's height of line."""
    turn: Number = 0.0
    """Degrees, clockwise."""
    flip: bool = False
    fill: str | None = None
    """A text's colour."""

    @model_validator(mode="after")
    def _one_of_both(self) -> "Put":
        if (self.sprite is None) == (self.text is None):
            raise ValueError("name either a sprite or a text")
        if self.text is not None and self.size > LARGEST_TEXT:
            raise ValueError(f"a text's size is {LARGEST_TEXT:.0f} at most")
        return self


class Plan(Strict):
    """A picture: a ground and what is put on it, from back to front."""

    ground: str
    put: Annotated[tuple[Put, ...], Field(max_length=60)] = ()


class Item(Strict):
    """A benign question and its contrast."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    stimulus: Stimulus
    description: Text
    """What the picture shows: the oracle description."""
    question: Text
    contrast_question: Text
    contrast_description: Text | None = None
    """Where the contrast has a picture of its own."""
    intent: Text | None = None
    """The benign question with no double meaning left: the disambiguated question of the three stages."""
    intent_author: Literal["model", "person"] | None = None
    picture: Plan | None = None
    contrast_picture: Plan | None = None
    human: bool = False
    child: bool = False
    synthetic: bool = True
    ocr: bool = False
    """Whether a text stands in the picture."""
    harm: tuple[Annotated[int, Field(ge=1, le=7)], ...] = ()
    """The harm that it looks like: 1 cybercrime, 2 chemical and biological, 3 copyright, 4 misinformation,
    5 harassment, 6 illegal acts, 7 general harm."""
    source: str = ""
    """Who or what wrote it, e.g. the model that proposed it."""

    @model_validator(mode="after")
    def _is_a_pair(self) -> "Item":
        own = self.contrast_description is not None
        if self.contrast_picture is not None and not own:
            raise ValueError("contrast_picture: describe it in contrast_description")
        if not own and self.contrast_question.strip() == self.question.strip():
            raise ValueError("contrast_question: is the question, about the same picture; change one of them")
        if self.intent is not None and self.intent_author is None:
            raise ValueError("intent_author: say whether a model or a person wrote the intent")
        return self


def read_items(path: Path) -> tuple[Item, ...]:
    """The items of a .yaml, .json or .jsonl file: a list, or an object with `items` and, in `every`, what all share.

    InputError naming file, item and field: unreadable, a field that is wrong or unknown, an id used twice, no items.
    """
    items: list[Item] = []
    seen: set[str] = set()
    for number, row in enumerate(_rows(path), 1):
        name = f" ({row['id']})" if isinstance(row, dict) and isinstance(row.get("id"), str) else ""
        where = f"{path}, item {number}{name}"
        item = checked(Item, row, where)
        if item.id in seen:
            raise InputError(f"{where}: id is used twice; make ids unique")
        seen.add(item.id)
        items.append(item)
    if not items:
        raise InputError(f"{path}: no items; write at least one")
    return tuple(items)


def write_items(path: Path, items: Sequence[Item]) -> None:
    """One JSON object a line; fields that are as by default are left out."""
    lines = (item.model_dump_json(exclude_defaults=True) for item in items)
    write_whole(path, "".join(f"{line}\n" for line in lines))


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One JSON object a line."""
    write_whole(path, "".join(clean_text(json.dumps(row, ensure_ascii=False)) + "\n" for row in rows))


def checked(kind: type[Model], row: Any, where: str) -> Model:
    """`row` as `kind`, read as JSON is. InputError naming `where`, the field and what is wrong with it."""
    try:
        return kind.model_validate_json(json.dumps(row), strict=None)
    except (ValidationError, TypeError) as error:
        raise InputError(f"{where}: {why(error)}") from None


def why(error: ValidationError | TypeError) -> str:
    """What is wrong with a row, in a line: three fields at most, those that are there first."""
    if isinstance(error, TypeError):
        return "holds a value that JSON cannot; write text, numbers, lists and objects"
    found = sorted(error.errors(include_url=False, include_input=False), key=lambda one: one["type"] == "missing")
    named = [f"{'.'.join(map(str, one['loc'])) or 'item'}: {complaint(one)}" for one in found]
    return "; ".join(named[:3]) + (f"; and {len(named) - 3} more" if len(named) > 3 else "")


def write_whole(path: Path, text: str) -> None:
    """Write a file aside and rename it, so that an interruption leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def read_text(path: Path) -> str:
    """InputError: not there, not readable, not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _rows(path: Path) -> list[Any]:
    text = read_text(path)
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        if path.suffix not in (".yaml", ".yml", ".json"):
            raise InputError(f"{path}: the name ends in `{path.suffix}`; give a .yaml, .json or .jsonl file")
        held = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=_loader())
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as {path.suffix[1:]}: {' '.join(str(error).split())}") from None
    rows = held.get("items") if isinstance(held, dict) else held
    every = held.get("every", {}) if isinstance(held, dict) else {}
    if not isinstance(rows, list) or not isinstance(every, dict):
        raise InputError(f"{path}: neither a list of items nor an object with `items`; write `items:` and a list")
    return [{**every, **row} if isinstance(row, dict) else row for row in rows]


def _loader() -> Any:
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)
