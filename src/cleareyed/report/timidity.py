"""The page on how timid models are: rates, outcomes, both kinds of refusal, and answers to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cleareyed.errors import InputError
from cleareyed.oversensitivity.outcome_rows import OutcomeRow
from cleareyed.oversensitivity.plane import Point, published_points
from cleareyed.oversensitivity.runs import Asked
from cleareyed.report.gallery import inline_png
from cleareyed.report.pages import environment
from cleareyed.report.plots import accuracy_bars, svg
from cleareyed.report.summary import write_whole
from cleareyed.report.timidity_plots import bar_of, detection_figure, outcome_bars, plane_figure
from cleareyed.report.timidity_tables import (
    Grid,
    correlations,
    name_of,
    plane_by_stimulus_table,
    plane_table,
    published_table,
    rates_table,
    repeated_lines,
    sentences,
    states_table,
    tags_table,
    two_by_two_table,
    what_correlates,
)
from cleareyed.report.words import visible
from cleareyed.tasks.mossbench import STIMULI, TASKS
from cleareyed.tasks.task import Sample

PICTURED = 12
"""Questions that are shown with their pictures."""


@dataclass(frozen=True)
class Said:
    model: str
    state: str
    declined: bool
    reason: str
    response: str


@dataclass(frozen=True)
class Card:
    sample_id: str
    stimulus: str
    part: str
    question: str
    description: str
    images: tuple[str, ...]
    said: tuple[Said, ...]


@dataclass(frozen=True)
class Listed:
    """All answers of one model and outcome."""

    name: str
    state: str
    cards: tuple[Card, ...]


def timidity_page(
    path: Path,
    asked: Sequence[Asked],
    pairs: Sequence[tuple[Asked, Asked]],
    points: Sequence[Point],
    judge: str,
    samples: Mapping[str, Mapping[str, Sample]],
) -> Path:
    """Write the page to `path`, whole or not at all. `samples`, by task and id, give pictures if they are at hand."""
    plane, detection, lines = _planes(points)
    text = (
        environment()
        .get_template("timidity.html")
        .render(
            judge=judge,
            names=[name_of(one) for one in asked],
            tiles=[(name_of(one), one.rates) for one in asked],
            bars=_bars(asked),
            states=svg(outcome_bars(_states(asked)), "Shares of the outcomes by model."),
            grids=_grids(asked, pairs, points),
            sentences=[*repeated_lines(asked), *sentences(asked)],
            plane=plane,
            detection=detection,
            lines=lines,
            published=published_table(asked) if any(one.task in TASKS for one in asked) else None,
            cards=_cards(asked, samples),
            listed=_listed(asked),
            stimuli=STIMULI,
        )
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); name another file with --page") from error
    return path


def _grids(asked: Sequence[Asked], pairs: Sequence[tuple[Asked, Asked]], points: Sequence[Point]) -> list[Grid]:
    found = [rates_table(asked, "Declined, % (95 % interval)"), states_table(asked), tags_table(asked)]
    found.append(two_by_two_table(pairs) if pairs else None)
    found += [plane_table(points), plane_by_stimulus_table(points)] if points else []
    return [grid for grid in found if grid is not None]


def _bars(asked: Sequence[Asked]) -> Markup:
    summaries: dict[str, Any] = {}
    for one in asked:
        found = one.rates
        whole = bar_of(found.whole)
        if whole:
            parts = {STIMULI.get(code, code): bar_of(rate) for code, rate in found.by_stimulus.items()}
            summaries[name_of(one)] = {**whole, "by_skill": {name: bar for name, bar in parts.items() if bar}}
    if not summaries:
        return Markup("")
    figure = accuracy_bars(summaries, {})
    figure.axes[0].set_ylabel("declined (95 % interval)")
    told = "; ".join(f"{name} {100 * one['accuracy']:.1f} %" for name, one in summaries.items())
    return svg(figure, f"Share declined: {told}.")


def _states(asked: Sequence[Asked]) -> dict[str, Any]:
    return {name_of(one): one.rates.states for one in asked}


def _planes(points: Sequence[Point]) -> tuple[Markup | None, Markup | None, list[str]]:
    """Only where a model was asked both sets."""
    if not points:
        return None, None, []
    others = published_points()
    shown = [*others, *points]
    told = "; ".join(point.model for point in points)
    return (
        svg(plane_figure(shown), f"Benign against contrast refusal; measured here: {told}."),
        svg(detection_figure(shown), "Discrimination d' against criterion c."),
        what_correlates(correlations(others, points)),
    )


def _cards(asked: Sequence[Asked], samples: Mapping[str, Mapping[str, Sample]]) -> list[Card]:
    """Questions chosen by their place, evenly over the stimuli of each set, with what every model said."""
    cards = []
    for task in dict.fromkeys(one.task for one in asked):
        those = [one for one in asked if one.task == task]
        tables = [(one.model, {row.id: row for row in one.runs[0]}) for one in those]
        first = [row for row in those[0].runs[0] if all(row.id in table for _, table in tables)]
        stimuli = dict.fromkeys(row.stimulus for row in first)
        for stimulus in stimuli:
            own = [row for row in first if row.stimulus == stimulus]
            count = min(len(own), max(1, PICTURED // len(stimuli)))
            for place in range(count):
                row = own[place * len(own) // count]
                said = tuple(_said(model, table[row.id]) for model, table in tables)
                cards.append(_card(row, said, samples.get(task, {}).get(row.id)))
    return cards


def _listed(asked: Sequence[Asked]) -> list[Listed]:
    found = []
    for one in asked:
        states = dict.fromkeys(row.state for row in sorted(one.runs[0], key=lambda row: not row.declined))
        for state in states:
            rows = [row for row in one.runs[0] if row.state == state]
            cards = tuple(_card(row, (_said(one.model, row),), None) for row in rows)
            found.append(Listed(name_of(one), state, cards))
    return found


def _card(row: OutcomeRow, said: tuple[Said, ...], sample: Sample | None) -> Card:
    return Card(
        sample_id=visible(row.id),
        stimulus=visible(STIMULI.get(row.stimulus, row.stimulus)),
        part=row.part,
        question=visible(row.question),
        description=visible(str(sample.columns.get("description") or "")) if sample else "",
        images=_images(sample),
        said=said,
    )


def _said(model: str, row: OutcomeRow) -> Said:
    return Said(model, row.state.replace("_", " "), row.declined, visible(row.reason), visible(row.response))


def _images(sample: Sample | None) -> tuple[str, ...]:
    try:
        return tuple(inline_png(load()) for load in sample.images) if sample else ()
    except InputError:  # whoever asked has said so
        return ()
