"""Choices and gold answers as benchmarks write them."""

import json
import re
from collections.abc import Sequence
from typing import Any

from cleareyed.errors import InputError
from cleareyed.tasks.rows import Row

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_LINE = re.compile(r"^\(([A-Z])\) (.+?)\s*$", re.MULTILINE)


def lettered_lines(prompt: str) -> tuple[str, ...]:
    """The choices that a prompt lists as lines `(A) ...`, `(B) ...`; empty if it does not, or not in order."""
    found = _LINE.findall(prompt)
    in_order = [letter for letter, _ in found] == list(LETTERS[: len(found)])
    return tuple(choice for _, choice in found) if in_order and len(found) > 1 else ()


def listed_choices(row: Row, column: str) -> tuple[str, ...]:
    """The choices of that column (a list, or a JSON list as text), else of the columns A, B, C, ...

    A choice may hold any character, commas included: a text that is no JSON list is never split. InputError: no
    choices, or fewer than two.
    """
    value: Any = row.values.get(column)
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            value = None
        if not isinstance(value, list):
            raise InputError(f"{row.where}: field `{column}` is running text; write a list (in TSV: a JSON list)")
    if not value:
        value = [row.values[letter] for letter in LETTERS if row.values.get(letter) not in (None, "")]
    choices = tuple(str(choice).strip() for choice in value)
    if len(choices) < 2 or not all(choices):
        raise InputError(f"{row.where}: field `{column}` holds fewer than two choices, or an empty one; list them")
    return choices


def distinct(choices: Sequence[str]) -> tuple[str, ...]:
    """The choices, with their letters in front where two read the same: `(A) books`, `(B) books`, `lamp`."""
    seen = [choice.casefold() for choice in choices]
    return tuple(
        f"({LETTERS[index]}) {choice}" if seen.count(choice.casefold()) > 1 else choice
        for index, choice in enumerate(choices)
    )


def by_letter(where: str, answer: str, choices: Sequence[str]) -> str:
    """The choice that `(B)` or `B` stands for. InputError if there is none."""
    letter = answer.strip("() ")
    if len(letter) != 1 or letter not in LETTERS[: len(choices)]:
        offered = "), (".join(LETTERS[: len(choices)])
        raise InputError(f"{where}: field `answer` is `{answer[:80]}`, not one of ({offered}); correct it")
    return choices[LETTERS.index(letter)]
