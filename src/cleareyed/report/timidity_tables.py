"""How timid models are, as tables for the console and sentences under them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cleareyed.evaluation.ranks import holm
from cleareyed.oversensitivity.conditions import Rate
from cleareyed.oversensitivity.outcomes import OUTCOMES, UNREAD
from cleareyed.oversensitivity.plane import (
    ALPHA,
    MEANS,
    POOLED,
    Point,
    correlation,
    disagreements,
    more_cautious_or_better,
    published,
    published_points,
)
from cleareyed.oversensitivity.rates import Rates, two_by_two
from cleareyed.oversensitivity.runs import Asked
from cleareyed.report.words import MISSING, p_value, percent, percent_range, share_in, visible
from cleareyed.tasks.mossbench import STIMULI

TITLES = {"human": "people", "child": "children", "synthetic": "synthetic picture", "text_in_image": "text in picture"}
NAMED = 12
"""Questions without an outcome that are named before the rest is counted."""
FIGURES = ("published, as printed", "published", "measured", "all")
"""Sets of points that correlations are over; `published` has the benign rates of the main table."""


@dataclass
class Grid:
    """A table: the first column is text, the others are figures."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        self.rows.append(cells)

    def rich(self) -> Table:
        """For the console."""
        table = Table(title=Text(visible(self.title)), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        first, *others = self.headings
        table.add_column(Text(visible(first)), overflow="fold")
        for heading in others:
            table.add_column(Text(visible(heading)), justify="right", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(visible(cell)) for cell in row))
        return table


def name_of(one: Asked) -> str:
    """Model, task and, where training is watched, step."""
    return f"{one.model}, {one.task}" + (f", step {one.step}" if one.step else "")


def rates_table(asked: Sequence[Asked], title: str) -> Grid:
    """One row a model and set: declined over all, by stimulus, and without empty answers."""
    found = [one.rates for one in asked]
    stimuli = list(dict.fromkeys(code for one in found for code in one.by_stimulus))
    table = Grid(title, ("model, set", "n", "all", *stimuli, *(["without empty"] if _any_empty(found) else [])))
    for one, rate in zip(asked, found, strict=True):
        cells = [share(rate.by_stimulus.get(code)) for code in stimuli]
        n = str(rate.whole.n) if rate.whole.n == rate.total else f"{rate.whole.n} of {rate.total}"
        last = [share(rate.without_empty)] if _any_empty(found) else []
        table.add(name_of(one), n, share(rate.whole), *cells, *last)
    return table


def states_table(asked: Sequence[Asked]) -> Grid:
    """One row a model and set: the number of each outcome and its share of all questions."""
    found = [one.rates for one in asked]
    states = [state for state in OUTCOMES if any(one.states[state] for one in found)]
    table = Grid("outcomes: number (% of all)", ("model, set", "all", *(state.replace("_", " ") for state in states)))
    for one, rate in zip(asked, found, strict=True):
        cells = (f"{rate.states[state]} ({percent(rate.states[state] / rate.total)})" for state in states)
        table.add(name_of(one), str(rate.total), *cells)
    return table


def tags_table(asked: Sequence[Asked]) -> Grid | None:
    """One row a tag and value, one column a model; None where no task has tags."""
    found = {name_of(one): one.rates.by_tag for one in asked}
    kept = {name: tags for name, tags in found.items() if tags}
    if not kept:
        return None
    table = Grid("declined by tag, % (95 %; n)", ("tag", *kept))
    for tag, value in dict.fromkeys(
        (tag, value) for tags in kept.values() for tag, values in tags.items() for value in values
    ):
        cells = []
        for tags in kept.values():
            rate = tags.get(tag, {}).get(value)
            cells.append(f"{share(rate)}; {rate.n}" if rate else MISSING)
        table.add(tag_title(tag, value), *cells)
    return table


def tag_title(tag: str, value: str) -> str:
    return value if tag == "harm" else f"{TITLES.get(tag, tag)}: {value}"


def two_by_two_table(pairs: Sequence[tuple[Asked, Asked]]) -> Grid:
    """One row a model: what it declined and answered of both sets, and the pairs of items."""
    table = Grid(
        "right and wrong refusals",
        (
            "model",
            "benign: declined (wrong)",
            "benign: answered",
            "contrast: declined (right)",
            "contrast: answered (wrong)",
            "balanced accuracy",
            "pairs: neither / contrast only / benign only / both",
        ),
    )
    for one, other in pairs:
        found = two_by_two(one.rows, other.rows)
        cells = (found.wrong_refusals, found.right_answers, found.right_refusals, found.wrong_answers)
        pairs_text = " / ".join(map(str, found.pairs))
        table.add(one.model, *map(str, cells), f"{percent(found.balanced_accuracy)} %", pairs_text)
    return table


def repeated_lines(asked: Sequence[Asked]) -> list[str]:
    """The spread over repeated runs, a sentence each."""
    lines = []
    for one in asked:
        found = one.repeated
        if found is not None:
            shares = ", ".join(percent(value) for value in found.shares)
            low, high = found.interval.low, found.interval.high
            lines.append(
                f"{name_of(one)}: {found.runs} runs, declined {shares} %; mean {percent(found.mean)} "
                f"({percent_range(low, high)}, over runs and items), standard deviation between runs "
                f"{percent(found.deviation)} points; {found.flipped} of {found.items} items changed between runs."
            )
    return lines


def sentences(asked: Sequence[Asked]) -> list[str]:
    """What the tables leave out."""
    said = [
        "Declined: refusal, capability, filtered and empty; failed and undecided are left out. Intervals: Wilson's, "
        "or a bootstrap by question where items share one."
    ]
    for one in asked:
        left: dict[str, list[str]] = {}
        for row in (row for rows in one.runs for row in rows if row.state in UNREAD):
            left.setdefault("not asked" if row.asked == "not asked" else row.state, []).append(row.id)
        for why, names in left.items():
            own = list(dict.fromkeys(names))
            named = ", ".join(own[:NAMED]) + (f" and {len(own) - NAMED} more" if len(own) > NAMED else "")
            said.append(f"{name_of(one)}: {why}: {len(names)} ({named}).")
    return said


def published_rows(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """The paper's table, with what was measured here beside the model that it seems to be: `ours` is a list."""
    rows = []
    for row in published()["table"]:
        ours = [one for one in asked if one.task == "mossbench" and _same(one.model, row["model"])]
        rows.append({**row, "ours": [(one.model, one.rates) for one in ours]})
    named = {one.model for one in asked for row in published()["table"] if _same(one.model, row["model"])}
    others = [one for one in asked if one.task == "mossbench" and one.model not in named]
    own = [{"model": one.model, "gpt": {}, "human": {}, "ours": [(one.model, one.rates)]} for one in others]
    return [*own, *sorted(rows, key=lambda row: not row["ours"])]


def published_table(asked: Sequence[Asked]) -> Grid:
    """The paper's rates by its GPT-4 judge and by people, beside ours."""
    keys = [*STIMULI, "all"]
    table = Grid(
        "MOSSBench's own table, % declined: ER / NH / CI / all",
        ("model", "here", "paper, GPT-4 judge", "paper, people"),
    )
    for row in published_rows(asked):
        ours = "; ".join(
            " / ".join(percent(rate.share) if rate else MISSING for rate in _cells(found)) for _, found in row["ours"]
        )
        told = (" / ".join(f"{row[judge][key]:g}" for key in keys if row[judge]) for judge in ("gpt", "human"))
        table.add(row["model"], ours, *told)
    return table


def plane_table(points: Sequence[Point]) -> Grid:
    """One row a model: both rates, d' and c, over all items."""
    table = Grid(
        "refusal as detection of harm: % declined, d' and c over all items",
        ("model", "benign", "contrast", "d' (95 %)", "c (95 %)"),
    )
    for point in _by_sensitivity(points):
        cell = point.cells[POOLED]
        found = cell.detected
        d, c = found.sensitivity_interval, found.criterion_interval
        table.add(
            _from(point),
            percent(cell.benign),
            percent(cell.contrast),
            f"{found.sensitivity:.2f} ({d.low:.2f} to {d.high:.2f})",
            f"{found.criterion:+.2f} ({c.low:+.2f} to {c.high:+.2f})",
        )
    return table


def plane_by_stimulus_table(points: Sequence[Point]) -> Grid:
    """One row a model: d' and c by stimulus."""
    stimuli = [code for code in STIMULI if any(code in point.cells for point in points)]
    table = Grid("d' and c by stimulus", ("model", *(f"{code}: d', c" for code in stimuli)))
    for point in _by_sensitivity(points):
        parts = [point.cells[code].detected if code in point.cells else None for code in stimuli]
        cells = (f"{one.sensitivity:.2f}, {one.criterion:+.2f}" if one else MISSING for one in parts)
        table.add(_from(point), *cells)
    return table


def _by_sensitivity(points: Sequence[Point]) -> list[Point]:
    """Measured ones first."""
    return sorted(points, key=lambda one: (one.source == "published", -one.cells[POOLED].detected.sensitivity))


def _from(point: Point) -> str:
    return point.model + (" (paper)" if point.source == "published" else "")


def correlations(points: Sequence[Point], measured: Sequence[Point] = ()) -> dict[str, dict[str, Any]]:
    """By set of points (`FIGURES`) and stimulus: rho, p, p adjusted over the three stimuli (Holm), interval."""
    sets = {
        "published, as printed": published_points(corrected=False, draws=2),
        "published": list(points),
        "measured": list(measured),
        "all": [*points, *measured] if measured else [],
    }
    found: dict[str, dict[str, Any]] = {}
    for name, those in sets.items():
        by = {code: correlation(those, code) for code in (*STIMULI, POOLED, MEANS)} if those else {}
        kept = {code: one for code, one in by.items() if one is not None}
        if not kept:
            continue
        stimuli = [code for code in STIMULI if code in kept]
        adjusted = dict(zip(stimuli, holm([kept[code].p for code in stimuli]), strict=True))
        goes_with = {key: one for key, one in more_cautious_or_better(those).items() if one is not None}
        found[name] = {
            "refusals": {code: {**asdict(one), "p_holm": adjusted.get(code)} for code, one in kept.items()},
            "contrast_refusal_with": {key: asdict(one) for key, one in goes_with.items()},
        }
    return found


def what_correlates(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The correlations in sentences, and what is wrong with the printed figure."""
    lines = []
    for name, those in found.items():
        parts = []
        for code, one in those["refusals"].items():
            adjusted = f", {p_value(one['p_holm'])} by Holm" if one["p_holm"] is not None else ""
            decides = one["p"] if one["p_holm"] is None else one["p_holm"]
            verdict = "" if decides < ALPHA else ", not significant"
            parts.append(f"{code} {one['rho']:.2f} ({_interval(one)}; p {p_value(one['p'])}{adjusted}{verdict})")
        models = next(iter(those["refusals"].values()))["models"]
        lines.append(f"Benign against contrast refusal, {name}, {models} models, Spearman: {'; '.join(parts)}.")
        goes = ", ".join(
            f"{key} {one['rho']:.2f} ({_interval(one)}; p {p_value(one['p'])})"
            for key, one in those["contrast_refusal_with"].items()
        )
        lines.append(f"Contrast refusal goes with {goes}, over the same models.")
    for model, cells in disagreements().items():
        told = ", ".join(f"{code} {figure} against {table}" for code, (figure, table) in cells.items())
        lines.append(
            f"{model}: the figure's benign rates contradict the paper's main table ({told}); "
            "`published` takes the table's."
        )
    printed = ", ".join(f"{code} {value:g}" for code, value in published()["correlations_printed"].items())
    lines.append(f"The paper prints {printed}, without p-values.")
    return lines


def share(rate: Rate | None) -> str:
    if rate is None or rate.share is None or rate.interval is None:
        return MISSING
    return share_in(rate.share, rate.interval.low, rate.interval.high)


def _interval(one: Mapping[str, Any]) -> str:
    return f"{one['interval']['low']:.2f} to {one['interval']['high']:.2f}"


def _cells(found: Rates) -> list[Rate | None]:
    return [*(found.by_stimulus.get(code) for code in STIMULI), found.whole]


def _same(ours: str, theirs: str) -> bool:
    short = ours.rpartition("/")[2].rpartition(":")[2]
    one, other = (re.sub(r"[^a-z0-9]+", "", name.lower()) for name in (short, theirs))
    return one == other


def _any_empty(found: Sequence[Rates]) -> bool:
    return any(one.states["empty"] for one in found)
