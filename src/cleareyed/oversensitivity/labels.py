"""The answers of a run as outcomes: what came back says some, a judge says the rest."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cleareyed.evaluation.answers import State
from cleareyed.oversensitivity.outcomes import Answered, Judge, Judgement, Outcome
from cleareyed.records.rows import AnswerRow

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


def label_rows(
    rows: Sequence[AnswerRow], judge: Judge, images: Callable[[str], tuple[bytes, ...]] | None = None
) -> list[Judgement]:
    """One judgement a row, in order. `images` gives the pictures of a sample, for judges that see."""
    asked = [
        Answered(row.sample_id, row.question, row.completion, images(row.sample_id) if images else ())
        for row in rows
        if row.state not in FROM_ASKING
    ]
    said = iter(judge.judge(asked))
    return [came_back(row.sample_id, row.state) or next(said) for row in rows]


def label_lines(judgements: Sequence[Judgement]) -> str:
    """As JSON Lines: `id, state, refusal_probability, reason`."""
    return json_lines(asdict(one) for one in judgements)


def json_lines(rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
