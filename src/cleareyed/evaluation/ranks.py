"""Several answerers on the same items: which of them can be told apart, and what rank each may have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from cleareyed.evaluation.stats import Bools, Groups, exact_paired


@dataclass(frozen=True)
class Ranked:
    name: str
    accuracy: float
    best_rank: int
    """1 + how many are better beyond chance."""
    worst_rank: int
    """How many there are, less those that are worse beyond chance."""
    letters: tuple[str, ...]
    """Two answerers share a letter exactly if they cannot be told apart."""


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for a family, in the order given: reject those that are at most alpha.

    The i-th smallest of m becomes the running maximum of (m - i + 1) p, at most 1: the chance of any false
    rejection in the family stays below alpha however the tests depend on each other. Holm (1979), Scandinavian
    Journal of Statistics 6:65.

    Raises:
        ValueError: a p-value is not in 0..1.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must be in 0..1: {list(p_values)}")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def rank(correct: Mapping[str, Sequence[bool] | Bools], groups: Groups, alpha: float = 0.05) -> list[Ranked]:
    """Order answerers by the share of the same N items they got right, and say how far that order can be trusted.

    Every pair is compared by `exact_paired` over `groups` (N,) and the p-values are adjusted by `holm`. The rank
    intervals, which cover all true ranks at once with probability 1 - alpha, count who is better and who is worse
    beyond chance (Al Mohamad, Goeman & van Zwet 2022, Biometrics 78:238, with these tests in place of Tukey's); the
    letters are those of Piepho (2004), Journal of Computational and Graphical Statistics 13:456: one for each
    largest set in which no pair can be told apart, "a" for the set with the best.

    Raises:
        ValueError: no answerers or items, or answers that are not equally many.
    """
    if not correct or not len(groups) or any(len(right) != len(groups) for right in correct.values()):
        raise ValueError("every answerer needs one answer for each item, and there must be some")
    shares = {name: float(np.mean(np.asarray(right, dtype=bool))) for name, right in correct.items()}
    order = sorted(shares, key=lambda name: -shares[name])
    pairs = list(combinations(range(len(order)), 2))  # the first of each pair is not worse
    adjusted = holm([exact_paired(correct[order[one]], correct[order[two]], groups) for one, two in pairs])
    separated = {pair for pair, p in zip(pairs, adjusted, strict=True) if p <= alpha}
    letters = _letters(len(order), separated)
    return [
        Ranked(
            name,
            shares[name],
            1 + sum(worse == place for _, worse in separated),
            len(order) - sum(better == place for better, _ in separated),
            letters[place],
        )
        for place, name in enumerate(order)
    ]


def _letters(count: int, separated: set[tuple[int, int]]) -> list[tuple[str, ...]]:
    """Insert and absorb: begin with one set of all, split it by every separated pair, drop sets within others."""
    sets = [frozenset(range(count))]
    for pair in separated:
        split = {part for one in sets for part in ([one - {pair[0]}, one - {pair[1]}] if one >= {*pair} else [one])}
        sets = [one for one in split if not any(one < other for other in split)]
    sets.sort(key=sorted)
    return [tuple(_letter(index) for index, one in enumerate(sets) if place in one) for place in range(count)]


def _letter(index: int) -> str:
    """a, b, ..., z, then a1, b1, ..."""
    return chr(ord("a") + index % 26) + (str(index // 26) if index >= 26 else "")
