"""The same samples answered by several models, with their images, for reading."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from cleareyed.errors import InputError
from cleareyed.evaluation.compare import judged
from cleareyed.records.rows import AnswerRow
from cleareyed.report.summary import OUTCOMES, cut_off
from cleareyed.report.words import title_of, visible
from cleareyed.tasks.task import Sample

LARGEST_PX = 384
"""Longest side of an inlined image; larger ones are scaled down."""


@dataclass(frozen=True)
class Answer:
    title: str
    right: bool
    extracted: str | None
    completion: str
    tokens: int | None
    cut_off: bool
    state: str
    judged: bool
    """Whether there is an answer that can be right or wrong."""
    well_formed: bool


@dataclass(frozen=True)
class Card:
    sample_id: str
    skill: str
    question: str
    gold: str
    """Empty where there is none."""
    images: tuple[str, ...]
    """data: addresses of PNGs."""
    answers: tuple[Answer, ...]


def cards(
    answers: Mapping[str, Sequence[AnswerRow]], samples: Mapping[str, Sample], rule: str, count: int = 10
) -> list[Card]:
    """`count` samples that every label of `answers` answered, chosen by their place and never by the outcome.

    Images come from `samples` (by id); a sample that is not in there, or whose picture is broken, is shown without.
    """
    tables = {label: {row.sample_id: row for row in rows} for label, rows in answers.items()}
    if not tables:
        return []
    first = next(iter(tables.values()))
    shared = [row for name, row in first.items() if all(name in table for table in tables.values())]
    return [
        Card(
            sample_id=visible(row.sample_id),
            skill=row.skill,
            question=visible(row.question),
            gold="" if rule in OUTCOMES else visible(row.answer),
            images=_pictures(samples.get(row.sample_id)),
            answers=tuple(_answer(label, table[row.sample_id], rule) for label, table in tables.items()),
        )
        for row in spread(shared, count)
    ]


def spread(rows: Sequence[AnswerRow], count: int) -> list[AnswerRow]:
    """`count` rows (or all, if fewer), as equally over the skills as may be, evenly spaced within each."""
    skills: dict[str, list[AnswerRow]] = {}
    for row in rows:
        skills.setdefault(row.skill, []).append(row)
    taken = dict.fromkeys(skills, 0)
    while sum(taken.values()) < min(count, len(rows)):
        open_skills = [skill for skill in skills if taken[skill] < len(skills[skill])]
        taken[min(open_skills, key=lambda skill: taken[skill])] += 1
    return [
        skills[skill][at * len(skills[skill]) // number] for skill, number in taken.items() for at in range(number)
    ]


def inline_png(image: Image.Image) -> str:
    """The image as a data: address of a PNG, scaled down to `LARGEST_PX`."""
    small = image.convert("RGB")
    small.thumbnail((LARGEST_PX, LARGEST_PX))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _pictures(sample: Sample | None) -> tuple[str, ...]:
    if sample is None:
        return ()
    try:
        return tuple(inline_png(load()) for load in sample.images)
    except InputError:  # its answer has failed and says why
        return ()


def _answer(label: str, row: AnswerRow, rule: str) -> Answer:
    extracted = row.extracted.get(rule)
    return Answer(
        title=title_of(label),
        right=row.correct[rule],
        extracted=None if extracted is None else visible(extracted),
        completion=visible(row.completion),
        tokens=row.tokens,
        cut_off=cut_off(row),
        state=row.state,
        judged=judged(row),
        well_formed=row.well_formed,
    )
