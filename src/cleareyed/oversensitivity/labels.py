"""Outcomes that the asking itself gives; a judge gives the others."""

import json
from collections.abc import Mapping
from typing import Any

from cleareyed.evaluation.answers import State, clean_text
from cleareyed.oversensitivity.outcomes import Judgement, Outcome

FROM_ASKING: Mapping[str, Outcome] = {
    "filtered": "filtered",
    "refused-by-api": "filtered",
    "empty": "empty",
    "failed": "failed",
}
"""States of an answer that leave nothing to judge."""


def came_back(name: str, state: State | str) -> Judgement | None:
    """The outcome of an answer of that state; None if there is a text to judge."""
    outcome = FROM_ASKING.get(state)
    if outcome is None:
        return None
    return Judgement(name, outcome, None, f"state of the answer: {state}")


def json_lines(rows: Any) -> str:
    return "".join(clean_text(json.dumps(row, ensure_ascii=False, allow_nan=False)) + "\n" for row in rows)


def lines_of(text: str) -> list[str]:
    """The lines of `json_lines`. Not `splitlines`, which also ends a line at U+2028 and other characters that texts in
    it may hold."""
    return [line for line in text.split("\n") if line]
