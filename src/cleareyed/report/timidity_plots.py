"""Pictures of how timid models are: outcomes, the plane of both kinds of refusal, discrimination against criterion."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import Bbox
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
Floats = npt.NDArray[np.float64]
PUBLISHED, MEASURED = "#6e7781", "#d55e00"
NEAR, FAR = 5, 16
"""Points between a model's mark and its name: beside it, or where nearer places are taken, at the end of a line."""
CLEAR = 3
"""Pixels left free around the name of a curve."""
OUTSIDE = 1e6
"""What leaving the axes counts, in pixels covered."""
Places = Sequence[tuple[float, float]]
PLACES = tuple(
    (across * away, up * away)
    for away in (NEAR, FAR, 2 * FAR)
    for across, up in ((1, 0.5), (1, -0.5), (-1, 0.5), (-1, -0.5), (0, 1), (0, -1))
)

BESIDE_CROSSES = tuple(
    (across * away, up * (away + NEAR) / 2 + up * NEAR / 2)
    for away in (NEAR, FAR, 2 * FAR)
    for across, up in ((1, 1), (-1, 1), (1, -1), (-1, -1))
)
"""The same for marks with a line to each side, which no name stands on."""


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
        figure.draw_without_rendering()  # names are placed where the layout has put the axes
        for axes, panel in zip(grid, panels, strict=False):
            _name_all(figure, axes, _on_plane(points, panel))
    return figure


def detection_figure(points: Sequence[Point], stimulus: str = POOLED) -> Figure:
    """c against d', with 95 % intervals, beside the plane with the curves of equal d'."""
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        figure = Figure(figsize=(10, 4.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        alarms = np.linspace(0.002, 0.998, 200)
        curves = {f"d' {sensitivity:g}": ndtr(sensitivity + ndtri(alarms)) for sensitivity in (0, 0.5, 1, 1.5, 2)}
        for curve in curves.values():
            left.plot(100 * alarms, 100 * curve, color=FAINT, linewidth=0.9, zorder=0)
        _draw_plane(left, points, stimulus)
        left.set_xlabel("declined of benign questions")
        left.set_ylabel("declined of contrast questions")
        for point in (point for point in points if stimulus in point.cells):
            found, colour = point.cells[stimulus].detected, _colour(point)
            d, c = found.sensitivity_interval, found.criterion_interval
            right.plot([d.low, d.high], [found.criterion] * 2, color=colour, linewidth=0.9, alpha=0.6)
            right.plot([found.sensitivity] * 2, [c.low, c.high], color=colour, linewidth=0.9, alpha=0.6)
            right.plot(found.sensitivity, found.criterion, "o", color=colour, markersize=5)
        right.axhline(0, color=FAINT, linewidth=0.9)
        right.invert_yaxis()
        right.set_xlabel("d': how well harmful and benign questions are told apart")
        right.set_ylabel("c: higher up is more timid")
        figure.draw_without_rendering()
        taken = _name_all(figure, left, _on_plane(points, stimulus))
        for text, curve in curves.items():
            taken.append(_name_curve(left, text, 100 * alarms, 100 * curve, taken))
        found_here = [(one, one.cells[stimulus].detected) for one in points if stimulus in one.cells]
        shown = [(one, found.sensitivity, found.criterion) for one, found in found_here]
        _name_all(figure, right, shown, BESIDE_CROSSES)
    return figure


def _draw_plane(axes: Axes, points: Sequence[Point], panel: str) -> None:
    for point, x, y in _on_plane(points, panel):
        axes.plot(x, y, "o", color=_colour(point), markersize=5)
    axes.set_xlim(-2, 102 if any(_far(point, panel) for point in points) else 72)
    axes.set_ylim(-2, 102)
    axes.xaxis.set_major_formatter(PercentFormatter(100))
    axes.yaxis.set_major_formatter(PercentFormatter(100))


def _far(point: Point, panel: str) -> bool:
    return panel in point.cells and point.cells[panel].benign > 0.6


def _on_plane(points: Sequence[Point], panel: str) -> list[tuple[Point, float, float]]:
    cells = [(point, point.cells[panel]) for point in points if panel in point.cells]
    return [(point, 100 * cell.benign, 100 * cell.contrast) for point, cell in cells]


def _name_all(
    figure: Figure, axes: Axes, shown: Sequence[tuple[Point, float, float]], places: Places = PLACES
) -> list[Bbox]:
    """Each model's name at the first of `places` where it covers no mark and no other name, or covers least.

    Returns what marks and names cover, in pixels.
    """
    scale = figure.dpi / 72
    taken = [
        Bbox.from_extents(x - NEAR, y - NEAR, x + NEAR, y + NEAR)
        for x, y in (axes.transData.transform((x, y)) for _, x, y in shown)
    ]
    for point, x, y in sorted(shown, key=lambda one: one[0].source):  # measured ones choose first
        name = _name(axes, point, x, y, places[0])
        size = Text.get_window_extent(name)  # without the line
        name.remove()
        best, least = places[0], float("inf")
        for place in places:
            box = _box(axes, x, y, place, size, scale)
            covered = sum(_shared(box, other) for other in taken) + OUTSIDE * (not _within(box, axes.bbox))
            if covered < least:
                best, least = place, covered
            if not covered:
                break
        _name(axes, point, x, y, best)
        taken.append(_box(axes, x, y, best, size, scale))
    return taken


def _name_curve(axes: Axes, text: str, xs: Floats, ys: Floats, taken: Sequence[Bbox]) -> Bbox:
    """Write `text` on a curve (K,), (K,), as far right as it covers nothing, or where it covers least.

    Returns what it covers, in pixels.
    """
    page = {"boxstyle": "square,pad=0.15", "facecolor": axes.get_facecolor(), "edgecolor": "none"}
    label = axes.text(0, 0, text, fontsize=7, color="#6e7781", ha="center", va="center", zorder=0.5, bbox=page)
    best, least = label.get_window_extent(), float("inf")
    chosen = (xs[0], ys[0])
    for x, y in zip(xs[::-1], ys[::-1], strict=True):
        label.set_position((x, y))
        box = label.get_window_extent().padded(CLEAR)
        covered = sum(_shared(box, other) for other in taken) + OUTSIDE * (not _within(box, axes.bbox))
        if covered < least:
            best, least, chosen = box, covered, (x, y)
    label.set_position(chosen)
    return best


def _box(axes: Axes, x: float, y: float, place: tuple[float, float], size: Bbox, scale: float) -> Bbox:
    """Where a name of that size stands, in pixels; `scale` is of these to a point."""
    middle_x, middle_y = axes.transData.transform((x, y))
    across, up = place[0] * scale, place[1] * scale
    right, top = middle_x + across, middle_y + up
    left = right if across > 0 else right - size.width if across < 0 else right - size.width / 2
    low = top - size.height / 2 if across else top if up > 0 else top - size.height
    return Bbox.from_bounds(left, low, size.width, size.height)


def _within(box: Bbox, page: Bbox) -> bool:
    return bool(box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1)


def _shared(one: Bbox, other: Bbox) -> float:
    """The area that two boxes share, in pixels."""
    both = Bbox.intersection(one, other)
    return float(both.width * both.height) if both else 0.0


def _name(axes: Axes, point: Point, x: float, y: float, place: tuple[float, float]) -> Annotation:
    measured = point.source == "measured"
    across, up = place
    return axes.annotate(
        point.model,
        (x, y),
        xytext=place,
        textcoords="offset points",
        horizontalalignment="left" if across > 0 else "right" if across < 0 else "center",
        verticalalignment="center" if across else "bottom" if up > 0 else "top",
        fontsize=8 if measured else 6.5,
        fontweight="bold" if measured else "normal",
        color=INK if measured else "#6e7781",
        parse_math=False,
        arrowprops={"arrowstyle": "-", "color": "#8c959f", "linewidth": 0.6}
        if max(abs(across), abs(up)) >= FAR
        else None,
        path_effects=[withStroke(linewidth=2, foreground="white")],  # to be read where a line passes
    )


def _colour(point: Point) -> str:
    return MEASURED if point.source == "measured" else PUBLISHED
