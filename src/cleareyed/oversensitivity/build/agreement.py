"""How far reviewers agree: Krippendorff's alpha over all of them, Cohen's kappa over each two.

Alpha is the library krippendorff's (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011); it allows for
reviewers who have not seen every entry. Kappa is Cohen's (1960), or weighted by squared distance (1968) where answers
are on a scale. Both are None where they are undefined: nothing was seen twice, or every answer is the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import krippendorff
import numpy as np
from numpy.typing import NDArray

from cleareyed.oversensitivity.build.answers import ASKED, LEVELS, Asked, Level

DRAWS = 1000
"""Of the bootstrap over entries."""

Answers = Mapping[str, Mapping[str, int]]
"""Reviewer to entry to answer."""


@dataclass(frozen=True)
class Pair:
    first: str
    second: str
    n: int
    """Entries that both answered."""
    same: float | None
    """The share of them on which they gave the same answer."""
    kappa: float | None


@dataclass(frozen=True)
class Agreement:
    """On one question."""

    asked: Asked
    reviewers: int
    entries: int
    """Those that at least two answered."""
    alpha: float | None
    interval: tuple[float, float] | None
    """95 %, bootstrap over entries; None with fewer than ten."""
    pairs: tuple[Pair, ...]


def agreement(asked: Asked, answers: Answers, seed: int = 0) -> Agreement:
    """Of `answers` to one question."""
    names = sorted(answers)
    table = _table(answers, names)
    twice = table[:, (~np.isnan(table)).sum(0) > 1]  # (reviewers, entries that at least two answered)
    pairs = tuple(_pair(asked, a, b, answers[a], answers[b]) for a, b in combinations(names, 2))
    value = alpha(twice, LEVELS[asked])
    return Agreement(asked, len(names), twice.shape[1], value, _interval(twice, LEVELS[asked], value, seed), pairs)


def agreements(answers: Mapping[Asked, Answers], seed: int = 0) -> tuple[Agreement, ...]:
    """Of every question."""
    return tuple(agreement(asked, answers[asked], seed) for asked in ASKED)


def alpha(table: NDArray[np.float64], level: Level) -> float | None:
    """Krippendorff's alpha of `table` (reviewers, entries), NaN where there is no answer."""
    seen = table[~np.isnan(table)]
    if not table.size or len(np.unique(seen)) < 2 or not ((~np.isnan(table)).sum(0) > 1).any():
        return None
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement=level))


def kappa(first: NDArray[np.float64], second: NDArray[np.float64], *, weighted: bool) -> float | None:
    """Cohen's kappa of two reviewers' answers to the same entries (n,); None if chance alone would always agree."""
    values = np.unique(np.concatenate([first, second]))
    counts = np.zeros((len(values), len(values)))
    np.add.at(counts, (np.searchsorted(values, first), np.searchsorted(values, second)), 1)
    gap = (values[:, None] - values) ** 2 if weighted else 1.0 - np.eye(len(values))
    expected = np.outer(counts.sum(1), counts.sum(0)) / max(counts.sum(), 1)
    chance = float((expected * gap).sum())
    return 1 - float((counts * gap).sum()) / chance if chance > 0 else None


def _pair(asked: Asked, a: str, b: str, first: Mapping[str, int], second: Mapping[str, int]) -> Pair:
    both = sorted(first.keys() & second.keys())
    if not both:
        return Pair(a, b, 0, None, None)
    x, y = (np.array([of[entry] for entry in both], dtype=float) for of in (first, second))
    return Pair(a, b, len(both), float((x == y).mean()), kappa(x, y, weighted=LEVELS[asked] == "ordinal"))


def _table(answers: Answers, names: list[str]) -> NDArray[np.float64]:
    entries = sorted({entry for of in answers.values() for entry in of})
    place = {entry: column for column, entry in enumerate(entries)}
    table = np.full((len(names), len(entries)), np.nan)
    for row, name in enumerate(names):
        for entry, value in answers[name].items():
            table[row, place[entry]] = value
    return table


def _interval(table: NDArray[np.float64], level: Level, value: float | None, seed: int) -> tuple[float, float] | None:
    if value is None or table.shape[1] < 10:
        return None
    draw = np.random.default_rng(seed).integers(0, table.shape[1], (DRAWS, table.shape[1]))
    drawn = [found for columns in draw if (found := alpha(table[:, columns], level)) is not None]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)
