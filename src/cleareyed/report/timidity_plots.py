"""Pictures of how timid models are: outcomes, the plane of both kinds of refusal, discrimination against criterion."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from scipy.special import ndtr, ndtri

from cleareyed.oversensitivity.conditions import Rate
from cleareyed.oversensitivity.outcomes import Outcome
from cleareyed.oversensitivity.plane import POOLED, Point
from cleareyed.report.plots import FAINT, INK, STYLE
from cleareyed.report.summary import Summary
from cleareyed.tasks.mossbench import STIMULI

SHADES: Mapping[Outcome, str] = {
    "complied": "#009e73",
    "partial": "#56b4e9",
    "clarification": "#b1bac4",
    "off_topic": "#6e7781",
    "refusal": "#d55e00",
    "capability": "#cc79a7",
    "filtered": "#e69f00",
    "empty": "#f0c674",
    "failed": "#d0d7de",
    "undecided": "#24292f",
}
PUBLISHED, MEASURED = "#6e7781", "#d55e00"


def outcome_bars(states: Mapping[str, Mapping[Outcome, int]]) -> Figure:
    """One bar a model: the shares of the outcomes, those that count as declined last but for failed and undecided."""
    shown = [state for state in SHADES if any(counts[state] for counts in states.values())]
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(10, 1.1 + 0.42 * len(states)), layout="constrained")
        axes = figure.add_subplot()
        places = np.arange(len(states))[::-1]
        left = np.zeros(len(states))
        for state in shown:
            width = np.array([100 * counts[state] / max(sum(counts.values()), 1) for counts in states.values()])
            axes.barh(places, width, left=left, height=0.62, color=SHADES[state], label=state.replace("_", " "))
            left += width
        axes.set_yticks(places, list(states))
        axes.set_xlim(0, 100)
        axes.xaxis.set_major_formatter(PercentFormatter(100))
        figure.legend(loc="outside lower center", ncols=min(len(shown), 8))
    return figure


def bar_of(rate: Rate) -> Summary | None:
    """A declined rate as `plots.accuracy_bars` takes it; None where nothing could be read."""
    if rate.share is None or rate.interval is None:
        return None
    return {"accuracy": rate.share, "interval": (rate.interval.low, rate.interval.high)}


def plane_figure(points: Sequence[Point]) -> Figure:
    """Benign against contrast refusal, one panel a stimulus and one pooled."""
    panels = [*(code for code in STIMULI if any(code in point.cells for point in points)), POOLED]
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        figure = Figure(figsize=(10, 1.4 + 3.1 * ((len(panels) + 1) // 2)), layout="constrained")
        grid = figure.subplots((len(panels) + 1) // 2, 2, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            _draw_plane(axes, points, panel)
            axes.set_title(STIMULI.get(panel, panel), loc="left", fontweight="bold")
        for axes in grid[len(panels) :]:
            axes.remove()
        figure.supxlabel("declined of benign questions", fontsize="medium")
        figure.supylabel("declined of contrast questions", fontsize="medium")
    return figure


def detection_figure(points: Sequence[Point], stimulus: str = POOLED) -> Figure:
    """c against d', with 95 % intervals, beside the plane with the curves of equal d'."""
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        figure = Figure(figsize=(10, 4.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        alarms = np.linspace(0.002, 0.998, 200)
        for sensitivity in (0, 0.5, 1, 1.5, 2):
            curve = ndtr(sensitivity + ndtri(alarms))
            left.plot(100 * alarms, 100 * curve, color=FAINT, linewidth=0.9, zorder=0)
            left.annotate(f"d' {sensitivity:g}", (100 * alarms[40], 100 * curve[40]), fontsize=7, color="#6e7781")
        _draw_plane(left, points, stimulus)
        left.set_xlabel("declined of benign questions")
        left.set_ylabel("declined of contrast questions")
        for point in (point for point in points if stimulus in point.cells):
            found, colour = point.cells[stimulus].detected, _colour(point)
            d, c = found.sensitivity_interval, found.criterion_interval
            right.plot([d.low, d.high], [found.criterion] * 2, color=colour, linewidth=0.9, alpha=0.6)
            right.plot([found.sensitivity] * 2, [c.low, c.high], color=colour, linewidth=0.9, alpha=0.6)
            right.plot(found.sensitivity, found.criterion, "o", color=colour, markersize=5)
            _name(right, point, found.sensitivity, found.criterion)
        right.axhline(0, color=FAINT, linewidth=0.9)
        right.invert_yaxis()
        right.set_xlabel("d': how well harmful and benign questions are told apart")
        right.set_ylabel("c: higher up is more timid")
    return figure


def _draw_plane(axes: Axes, points: Sequence[Point], panel: str) -> None:
    for point in (point for point in points if panel in point.cells):
        cell = point.cells[panel]
        axes.plot(100 * cell.benign, 100 * cell.contrast, "o", color=_colour(point), markersize=5)
        _name(axes, point, 100 * cell.benign, 100 * cell.contrast)
    axes.set_xlim(-2, 102 if any(_far(point, panel) for point in points) else 72)
    axes.set_ylim(-2, 102)
    axes.xaxis.set_major_formatter(PercentFormatter(100))
    axes.yaxis.set_major_formatter(PercentFormatter(100))


def _far(point: Point, panel: str) -> bool:
    return panel in point.cells and point.cells[panel].benign > 0.6


def _name(axes: Axes, point: Point, x: float, y: float) -> None:
    measured = point.source == "measured"
    axes.annotate(
        point.model,
        (x, y),
        xytext=(4, 3),
        textcoords="offset points",
        fontsize=8 if measured else 6.5,
        fontweight="bold" if measured else "normal",
        color=INK if measured else "#6e7781",
    )


def _colour(point: Point) -> str:
    return MEASURED if point.source == "measured" else PUBLISHED
