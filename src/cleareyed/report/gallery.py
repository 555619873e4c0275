"""The same samples answered by several models, with their images, for reading."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cleareyed.errors import InputError
from cleareyed.evaluation.compare import judged
from cleareyed.evaluation.stats import Ints
from cleareyed.evaluation.verdicts import Verdicts, cut_off
from cleareyed.records.rows import AnswerRow
from cleareyed.report.summary import OUTCOMES
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


def picked(found: Sequence[Verdicts], count: int = 10) -> list[int]:
    """`count` samples that all of them answered, by `number_of`: chosen by their place and never by the outcome."""
    if not found:
        return []
    names, skills = found[0].names, found[0].skill
    for other in found[1:]:
        shared = np.isin(names, other.names)
        names, skills = names[shared], skills[shared]
    return [int(names[at]) for at in spread(skills, count)]


def cards(
    chosen: Sequence[int],
    answers: Mapping[str, Mapping[int, AnswerRow]],
    samples: Mapping[int, Sample],
    rule: str,
) -> list[Card]:
    """The samples `chosen` by `picked`, with the answers by label.

    Images come from `samples`; a sample that is not in there, or whose picture is broken, is shown without.
    """
    rows = [{label: table[number] for label, table in answers.items()} for number in chosen]
    return [
        Card(
            sample_id=visible(first.sample_id),
            skill=first.skill,
            question=visible(first.question),
            gold="" if rule in OUTCOMES else visible(first.answer),
            images=_pictures(samples.get(number)),
            answers=tuple(_answer(label, row, rule) for label, row in of_label.items()),
        )
        for number, of_label in zip(chosen, rows, strict=True)
        for first in [next(iter(of_label.values()))]
    ]


def spread(skills: Ints | Sequence[int], count: int) -> list[int]:
    """Places of `count` samples (or all, if fewer) with these skills (N,), as equally over the skills as may be,
    evenly spaced within each."""
    of, first = np.unique(np.asarray(skills), return_index=True)
    places = [np.flatnonzero(np.asarray(skills) == of[at]) for at in np.argsort(first)]  # (n,) each
    taken = [0] * len(places)
    while sum(taken) < min(count, len(skills)):
        unspent = [at for at, own in enumerate(places) if taken[at] < len(own)]
        taken[min(unspent, key=lambda at: taken[at])] += 1
    return [
        int(own[at * len(own) // number]) for own, number in zip(places, taken, strict=True) for at in range(number)
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
