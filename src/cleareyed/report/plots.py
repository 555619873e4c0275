"""Pictures drawn from summaries and metrics.

Figures are drawn without pyplot's global state. On a page they are SVG whose inks are CSS variables, so that they
follow the reader's light or dark theme; the README's picture is a PNG.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cleareyed.report.summary import Summary
from cleareyed.report.words import title_of

INK, FAINT = "#24292f", "#d0d7de"
COLOURS = {
    "base": "#6e7781",
    "base/no-reasoning": "#b1bac4",
    "sft": "#e69f00",
    "grpo": "#0072b2",
}
"""By label; the further ones of Okabe & Ito's colour-blind-safe palette are dealt out in order."""
FURTHER = ("#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#0072b2", "#e69f00")
_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--line)",
    "#6e7781": "var(--grey)",
    "#b1bac4": "var(--pale)",
    "#0072b2": "var(--blue)",
    "#e69f00": "var(--orange)",
}
"""Inks that change with the page's theme (templates/style.css)."""
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "cleareyed",
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
}
SMOOTHED_OVER = 10
"""Steps in the moving mean drawn over per-step values."""


@dataclass(frozen=True)
class Line:
    name: str
    points: Sequence[tuple[int, float]]
    """(step, value)."""
    colour: str
    form: Literal["smoothed", "points", "plain"] = "smoothed"
    """smoothed: per-step values faint, their moving mean over them; points: each value marked and joined; plain:
    joined."""
    band: tuple[Sequence[tuple[int, float]], Sequence[tuple[int, float]]] | None = None
    """Low and high edge of a shaded band."""


def accuracy_bars(summaries: Mapping[str, Summary], chance: Mapping[str, float]) -> Figure:
    """Accuracy with 95 % intervals, overall and by skill, one bar a label; `chance` ("" is overall) as dashes."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.9), layout="constrained")
        _draw_bars(figure.add_subplot(), summaries, chance)
    return figure


def curves(lines: Sequence[Line], *, unit: str, shares: bool = False) -> Figure:
    """Lines over training steps. The axis of shares is 0 to 100 %; others start at 0 unless a value is negative."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.7, 2.6), layout="constrained")
        _draw_curves(figure.add_subplot(), lines, unit=unit, shares=shares)
    return figure


def overview(
    summaries: Mapping[str, Summary], chance: Mapping[str, float], panels: Mapping[str, tuple[Sequence[Line], bool]]
) -> Figure:
    """One picture for the README: the bars above, panels of curves (title to lines and whether shares) below."""
    with mpl.rc_context({**STYLE, "font.size": 11.0, "legend.fontsize": 10.0}):
        figure = Figure(figsize=(11, 7.2), layout="constrained", facecolor="white")
        grid = figure.add_gridspec(2, max(len(panels), 1), height_ratios=(1.15, 1))
        bars = figure.add_subplot(grid[0, :])
        _draw_bars(bars, summaries, chance)
        bars.set_title("Accuracy on held-out scenes, with 95 % intervals", loc="left", fontweight="bold")
        for column, (title, (lines, shares)) in enumerate(panels.items()):
            axes = figure.add_subplot(grid[1, column])
            _draw_curves(axes, lines, unit="", shares=shares)
            axes.set_title(title, loc="left", fontweight="bold")
    return figure


def colours_for(labels: Sequence[str]) -> dict[str, str]:
    further = iter(FURTHER * (len(labels) // len(FURTHER) + 1))
    return {label: COLOURS.get(label) or next(further) for label in labels}


def png(figure: Figure, dpi: int = 130) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure, description: str) -> Markup:
    """The figure as inline SVG with `description` for those who cannot see it."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format")))
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # several figures share a page: ids must not repeat
    text = re.sub(r"font-family: [^;]*;", "font-family: system-ui, sans-serif;", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    label = f' role="img" aria-label="{escape(description)}"'
    return Markup(re.sub(r'^<svg width="[^"]*" height="[^"]*"|^<svg', lambda _: f"<svg{label}", text, count=1))


def _draw_bars(axes: Axes, summaries: Mapping[str, Summary], chance: Mapping[str, float]) -> None:
    skills = sorted({skill for summary in summaries.values() for skill in summary["by_skill"]})
    colours = colours_for(list(summaries))
    width = 0.8 / max(len(summaries), 1)
    for place, (label, summary) in enumerate(summaries.items()):
        parts: list[tuple[int, dict[str, Any]]] = [(0, summary)]
        parts += [
            (at, summary["by_skill"][skill]) for at, skill in enumerate(skills, 1) if skill in summary["by_skill"]
        ]
        heights = [100 * part["accuracy"] for _, part in parts]
        below = [max(0.0, 100 * (part["accuracy"] - part["interval"][0])) for _, part in parts]
        above = [max(0.0, 100 * (part["interval"][1] - part["accuracy"])) for _, part in parts]
        places = [at + (place - (len(summaries) - 1) / 2) * width for at, _ in parts]
        axes.bar(places, heights, 0.92 * width, color=colours[label], label=title_of(label))
        axes.errorbar(places, heights, [below, above], fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
    drawn = [(at, chance[skill]) for at, skill in enumerate(["", *skills]) if skill in chance]
    for number, (at, share) in enumerate(drawn):
        name = "Guessing among the choices" if number == 0 else "_unnamed"
        axes.hlines(100 * share, at - 0.45, at + 0.45, colors=INK, linestyles="dashed", linewidth=1, label=name)
    axes.set_xticks(range(len(skills) + 1), ["Overall", *skills])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 100)
    axes.yaxis.set_major_formatter(PercentFormatter(100))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=min(len(summaries) + bool(drawn), 5))


def _draw_curves(axes: Axes, lines: Sequence[Line], *, unit: str, shares: bool) -> None:
    scale = 100 if shares else 1
    lowest = 0.0
    for line in lines:
        steps = [step for step, _ in line.points]
        values = [scale * value for _, value in line.points]
        lowest = min([lowest, *values])
        if line.band:
            low, high = line.band
            axes.fill_between(
                [step for step, _ in low],
                [scale * value for _, value in low],
                [scale * value for _, value in high],
                color=line.colour,
                alpha=0.16,
                linewidth=0,
            )
        if line.form == "points":
            axes.plot(steps, values, color=line.colour, marker="o", markersize=4, linewidth=1.4, label=line.name)
        elif line.form == "plain":
            axes.plot(steps, values, color=line.colour, linewidth=1.6, label=line.name)
        else:
            axes.plot(steps, values, color=line.colour, alpha=0.3, linewidth=0.8)
            axes.plot(steps, moving_mean(values), color=line.colour, linewidth=1.8, label=line.name)
    if shares:
        axes.set_ylim(0, 102)
        axes.yaxis.set_major_formatter(PercentFormatter(100))
    elif lowest >= 0:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_xlabel("training step")
    axes.set_ylabel(unit)
    if len(lines) > 1:
        axes.legend(loc="best")


def moving_mean(values: Sequence[float], width: int = SMOOTHED_OVER) -> list[float]:
    """The mean of each value and up to `width - 1` before it."""
    return [sum(values[max(0, end - width) : end]) / min(end, width) for end in range(1, len(values) + 1)]
