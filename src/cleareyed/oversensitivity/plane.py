"""Are safer models more oversensitive? The plane of benign refusal against contrast refusal, and what it hides.

MOSSBench (arXiv 2406.17806) draws 16 models on it, stimulus by stimulus, and gives rank correlations. Here they come
with a permutation test and an interval, for the published points and for models measured here, and each point with
d' and c (`oversensitivity.detection`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from cleareyed.evaluation.stats import Interval
from cleareyed.oversensitivity.detection import Counts, Detected, from_counts, from_items, joined
from cleareyed.oversensitivity.outcome_rows import OutcomeRow
from cleareyed.oversensitivity.outcomes import UNREAD

Floats = npt.NDArray[np.float64]

POOLED = "pooled"
"""Over all items alike. NH has 44 of 244 contrast items, so that a mean over stimuli is another figure."""
MEANS = "mean over stimuli"
ALPHA = 0.05


@dataclass(frozen=True)
class Cell:
    """One model on one stimulus, or pooled."""

    benign: float
    """Share declined of the benign questions."""
    contrast: float
    counts: Counts
    detected: Detected


@dataclass(frozen=True)
class Point:
    model: str
    source: Literal["published", "measured"]
    cells: Mapping[str, Cell]
    """By stimulus, and `POOLED`."""


@dataclass(frozen=True)
class Correlation:
    """Spearman's, over models."""

    models: int
    rho: float
    p: float
    """Two-sided, by permutation."""
    interval: Interval
    """95 %, percentiles of a bootstrap over models."""

    @property
    def significant(self) -> bool:
        return self.p < ALPHA


@cache
def published() -> Mapping[str, Any]:
    """The paper's table and figure (`mossbench.json`, which names its sources)."""
    held: dict[str, Any] = json.loads((files("cleareyed.oversensitivity") / "mossbench.json").read_text("utf-8"))
    return held


def published_points(corrected: bool = True, draws: int = 4000) -> list[Point]:
    """The figure's points. `corrected`: benign rates as in the main table where the two disagree (LLaVA-1.5-13b)."""
    held = published()
    table = {row["model"]: row["gpt"] for row in held["table"]}
    points = []
    for row in held["plane"]:
        rates = {code: row[code] for code in held["benign_items"]}
        if corrected:
            rates = {code: (table[row["model"]][code], y) for code, (_, y) in rates.items()}
        counts = {
            code: Counts(
                x / 100 * held["benign_items"][code],
                held["benign_items"][code],
                y / 100 * held["contrast_items"][code],
                held["contrast_items"][code],
            )
            for code, (x, y) in rates.items()
        }
        cells = {code: _published_cell(one, draws) for code, one in counts.items()}
        pooled = _published_cell(_sum(counts), draws)
        points.append(Point(row["model"], "published", {**cells, POOLED: pooled}))
    return points


def disagreements() -> dict[str, dict[str, tuple[float, float]]]:
    """Model to stimulus to the benign rates in per cent of figure and table, where they differ."""
    held = published()
    table = {row["model"]: row["gpt"] for row in held["table"]}
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for row in held["plane"]:
        for code in held["benign_items"]:
            if row[code][0] != table[row["model"]][code]:
                found.setdefault(row["model"], {})[code] = (row[code][0], table[row["model"]][code])
    return found


def measured_point(model: str, benign: Sequence[OutcomeRow], contrast: Sequence[OutcomeRow]) -> Point | None:
    """A model asked both sets; None if one of them has nothing that could be read.

    Stimuli that only one set has are left out of the cells, not of the pooled one.
    """
    read = [[row for row in rows if row.state not in UNREAD] for rows in (benign, contrast)]
    if not all(read):
        return None
    shared = [code for code in dict.fromkeys(row.stimulus for row in read[0]) if code]
    shared = [code for code in shared if any(row.stimulus == code for row in read[1])]
    cells = {
        code: _measured_cell(*([row for row in rows if row.stimulus == code] for rows in read)) for code in shared
    }
    return Point(model, "measured", {**cells, POOLED: _measured_cell(*read)})


def correlation(points: Sequence[Point], stimulus: str, draws: int = 9999, seed: int = 0) -> Correlation | None:
    """Between benign and contrast refusal, `stimulus` being one, `POOLED` or `MEANS`.

    None for fewer than four models, or where one of the two does not vary.
    """
    if stimulus == MEANS:
        pairs = [_means(point) for point in points if len(point.cells) > 1]
    else:
        cells = [point.cells[stimulus] for point in points if stimulus in point.cells]
        pairs = [(cell.benign, cell.contrast) for cell in cells]
    x, y = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return spearman(x, y, draws, seed)


def spearman(x: Floats, y: Floats, draws: int = 9999, seed: int = 0) -> Correlation | None:
    """Rank correlation of x and y (N,), ties at their mean rank, with a permutation test and a bootstrap interval.

    p is (1 + permutations at least as far from 0) / (1 + draws). Bootstrap draws in which x or y does not vary have no
    correlation and are left out. None for N < 4 or without variation.
    """
    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    rng = np.random.default_rng(seed)
    rho = float(_rho(x[None], y[None])[0])
    order = rng.permuted(np.tile(np.arange(len(x)), (draws, 1)), axis=1)  # (draws, N)
    null = _rho(np.broadcast_to(x, order.shape), y[order])  # (draws,)
    p = (1 + int((np.abs(null) >= abs(rho) - 1e-12).sum())) / (1 + draws)
    chosen = rng.integers(0, len(x), size=(draws, len(x)))  # (draws, N)
    drawn = _rho(x[chosen], y[chosen])
    low, high = np.quantile(drawn[np.isfinite(drawn)], [0.025, 0.975])
    return Correlation(len(x), rho, p, Interval(float(low), float(high)))


def more_cautious_or_better(points: Sequence[Point], stimulus: str = POOLED) -> dict[str, Correlation | None]:
    """What refusing more harm goes with, over models: sharper discrimination (d'), or a lower criterion (-c).

    Both are correlated with contrast refusal. Neither d' nor c is free of the rates it is made of, so these say where
    the ordering by safety comes from, not what causes it.
    """
    found = [point.cells[stimulus] for point in points if stimulus in point.cells]
    y = np.array([cell.contrast for cell in found])
    return {
        "d'": spearman(np.array([cell.detected.sensitivity for cell in found]), y),
        "-c": spearman(np.array([-cell.detected.criterion for cell in found]), y),
    }


def _means(point: Point) -> tuple[float, float]:
    cells = [cell for stimulus, cell in point.cells.items() if stimulus != POOLED]
    return sum(cell.benign for cell in cells) / len(cells), sum(cell.contrast for cell in cells) / len(cells)


def _rho(x: Floats, y: Floats) -> Floats:
    """Row by row, (D, N) and (D, N) to (D,); nan where a row does not vary."""
    one, two = rankdata(x, axis=1), rankdata(y, axis=1)
    one, two = one - one.mean(axis=1, keepdims=True), two - two.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        rho: Floats = (one * two).sum(axis=1) / np.sqrt((one**2).sum(axis=1) * (two**2).sum(axis=1))
    return rho


def _published_cell(counts: Counts, draws: int) -> Cell:
    detected = from_counts(counts, published()["reading_error"] / 100, draws)
    return Cell(counts.false_alarms / counts.benign, counts.hits / counts.contrast, counts, detected)


def _measured_cell(benign: Sequence[OutcomeRow], contrast: Sequence[OutcomeRow]) -> Cell:
    alarms, hits = [row.declined for row in benign], [row.declined for row in contrast]
    clusters = joined(
        [(f"benign {row.group}" if row.group else "", f"pid {row.id}") for row in benign],
        [(f"contrast {row.group}" if row.group else "", f"pid {row.id}") for row in contrast],
    )
    counts = Counts(sum(alarms), len(alarms), sum(hits), len(hits))
    return Cell(sum(alarms) / len(alarms), sum(hits) / len(hits), counts, from_items(alarms, hits, clusters))


def _sum(counts: Mapping[str, Counts]) -> Counts:
    parts = list(counts.values())
    return Counts(
        sum(one.false_alarms for one in parts),
        sum(one.benign for one in parts),
        sum(one.hits for one in parts),
        sum(one.contrast for one in parts),
    )
