"""Outcome rows from letters, one an item."""

from collections.abc import Mapping
from dataclasses import replace

from cleareyed.oversensitivity.outcome_rows import OutcomeRow
from cleareyed.oversensitivity.outcomes import Outcome

LETTERS: Mapping[str, Outcome] = {
    "c": "complied",
    "p": "partial",
    "r": "refusal",
    "k": "capability",
    "a": "clarification",
    "o": "off_topic",
    "b": "filtered",
    "e": "empty",
    "f": "failed",
    "u": "undecided",
}
FIRST = {"ER": 1, "NH": 101, "CI": 201}
ROW = OutcomeRow(
    id="1",
    state="complied",
    refusal_probability=None,
    reason="",
    judge="local",
    task="mossbench",
    label="model",
    step=0,
    part="benign",
    stimulus="ER",
    group="",
    tags={},
    harms=(),
    asked="answered",
    question="Why?",
    response="Because.",
)


def answered(
    label: str, part: str, outcomes: Mapping[str, str], *, groups: Mapping[str, str] = {}
) -> list[OutcomeRow]:
    """One row a letter (`LETTERS`) by stimulus; pids count from 1, 101 and 201. `groups` by pid."""
    return [
        replace(
            ROW,
            id=str(FIRST[code] + place),
            state=LETTERS[letter],
            label=label,
            part=part,
            task="mossbench" if part == "benign" else "mossbench_contrast",
            stimulus=code,
            group=groups.get(str(FIRST[code] + place), ""),
        )
        for code, letters in outcomes.items()
        for place, letter in enumerate(letters)
    ]
