"""Intervals, paired tests and baselines for right-or-wrong answers.

Every share is a fraction in 0..1, every interval covers 95 % unless told otherwise, and everything random is
drawn from a stated seed, so that a number in a report can be computed again.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, binomtest, norm, permutation_test

from cleareyed.tasks.task import Sample

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

Groups = Sequence[str] | Ints
"""(N,): names, or numbers that stand for them; an empty name or a negative number is a group of its own."""

FEWEST_GROUPS = 5
"""Groups below which a bootstrap over them says too little."""
_BLOCK = 2_000_000
"""Resampled items held in memory at a time."""


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Two answerers on the same items."""

    n: int
    first: float
    """Share right of the first."""
    second: float
    first_only: int
    """Items that only the first got right."""
    second_only: int
    p: float
    """Two-sided exact McNemar."""
    difference: float
    """second - first."""
    interval: Interval
    """Of the difference."""


@dataclass(frozen=True)
class Estimate:
    value: float
    interval: Interval


def wilson(right: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a share: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).

    Wilson (1927), JASA 22:209; computed by scipy. For items that are independent. ValueError if n is 0.
    """
    found = binomtest(right, n).proportion_ci(confidence_level=confidence, method="wilson")
    return Interval(float(found.low), float(found.high))


def group_numbers(groups: Groups) -> Ints:
    """Groups as integers from 0, in the order in which they come; an empty name is a group of its own."""  # (N,)
    if isinstance(groups, np.ndarray):
        own = np.where(groups < 0, -1 - np.arange(len(groups)), groups)  # (N,)
        _, first, place = np.unique(own, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[place]
    known: dict[object, int] = {}
    return np.array([known.setdefault(name or index, len(known)) for index, name in enumerate(groups)], dtype=np.int64)


def cluster_bootstrap(
    values: Sequence[float] | Floats,
    groups: Groups,
    draws: int = 4000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of the mean of `values` (N,) when whole groups are drawn with replacement.

    Each draw takes as many groups as there are and divides the sum of their values by the number of their items
    (Davison & Hinkley 1997, section 3.8; Miller 2024, arXiv 2411.00640, on clustered questions). Where all values
    are equal the interval has no width, which says that the bootstrap saw no variation, not that there is none.
    """
    numbers = group_numbers(groups)  # (N,)
    sums = np.bincount(numbers, weights=np.asarray(values, dtype=np.float64))  # (groups,)
    sizes = np.bincount(numbers).astype(np.float64)  # (groups,)
    rng = np.random.default_rng(seed)
    means = []
    for block in _blocks(draws, len(sums)):
        chosen = rng.integers(0, len(sums), size=(block, len(sums)))  # (block, groups)
        means.append(sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1))
    return _percentiles(np.concatenate(means), confidence)


def share_interval(right: Sequence[bool] | Bools, groups: Groups, confidence: float = 0.95) -> Interval:
    """Interval of the share right: `wilson` if no two items share a group, else `cluster_bootstrap`.

    Of fewer than `FEWEST_GROUPS`, and where all groups are alike (all right, all wrong, or each the same share), a
    bootstrap makes an interval that is too narrow or has no width; there it is Wilson's for as many items as there are
    groups.
    """
    count = len(np.unique(group_numbers(groups)))
    n, times = len(right), int(np.sum(right))
    if count == n:
        return wilson(times, n, confidence)
    if times in (0, n):
        return wilson(count if times else 0, count, confidence)
    if count >= FEWEST_GROUPS:
        found = cluster_bootstrap(np.asarray(right, np.float64), groups, confidence=confidence)
        if found.high - found.low > 1e-9:
            return found
    return _score(times / n, count, confidence)


def _score(share: float, n: int, confidence: float) -> Interval:
    """`wilson`'s interval of a share of n that need not be a whole number of them."""
    z = float(norm.ppf((1 + confidence) / 2))
    middle, width = share + z**2 / (2 * n), z * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return Interval(max(0.0, (middle - width) / (1 + z**2 / n)), min(1.0, (middle + width) / (1 + z**2 / n)))


def mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided exact p-value that discordant pairs fall either way equally often: Binomial(b + c, 1/2).

    McNemar (1947), Psychometrika 12:153, in its exact form. 1.0 without discordant pairs. Takes the pairs to be
    independent; `exact_paired` does not.
    """
    discordant = first_only + second_only
    return float(binomtest(first_only, discordant, 0.5).pvalue) if discordant else 1.0


def exact_paired(first: Sequence[bool] | Bools, second: Sequence[bool] | Bools, groups: Groups) -> float:
    """Two-sided exact p-value of the difference between two answerers on the same N items, in groups.

    Under the null hypothesis whole groups could swap the two answerers, so that each group's difference s (second
    right minus first right) is as likely -s. The sum over the groups of size |s| = v is v (2 Binomial(m, 1/2) - m),
    and those sums' distributions, convolved, give that of the total without drawing (the randomisation test of
    Fisher 1935, section 21, enumerated). With items that stand alone this is exact McNemar.
    """
    one, two = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)  # (N,)
    sums = np.bincount(group_numbers(groups), weights=two - one).astype(np.int64)  # (groups,)
    null = np.ones(1)  # of (total + sum |s|) / 2
    for size, times in zip(*np.unique(np.abs(sums[sums != 0]), return_counts=True), strict=True):
        part = np.zeros(size * times + 1)
        part[::size] = binom.pmf(np.arange(times + 1), times, 0.5)
        null = np.convolve(null, part)
    extremity = np.abs(2 * np.arange(len(null)) - (len(null) - 1))
    return min(1.0, float(null[extremity >= abs(int(sums.sum()))].sum()))


def permutation(differences: Sequence[float] | Floats, groups: Groups, draws: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value of the mean of paired `differences` (N,) being 0, by flipping the signs of whole groups.

    For differences of any size, such as of rewards; `exact_paired` is for right-or-wrong answers. Computed by scipy:
    all flips where there are no more than `draws`, else so many at random, each p then at least 1 / (draws + 1).
    """
    sums = np.bincount(group_numbers(groups), weights=np.asarray(differences, dtype=np.float64))  # (groups,)
    sums = sums[sums != 0]  # a group without difference weighs nothing either way
    if not len(sums):
        return 1.0
    found = permutation_test(
        (sums,),
        lambda flipped, axis: flipped.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=draws,
        batch=max(1, _BLOCK // len(sums)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def paired(
    first: Sequence[bool] | Bools, second: Sequence[bool] | Bools, groups: Groups, draws: int = 4000, seed: int = 0
) -> Paired:
    """Compare two answerers on the same N items: exact McNemar, and the difference with a clustered bootstrap.

    Where no item differs, or every item does in the same way, a bootstrap makes an interval without a width. There
    it reaches as far as the share of items that differ (otherwise) may be by Wilson's interval over groups.

    `first`, `second` and `groups` are (N,) and in the same order. ValueError if they are empty or differ in length.
    """
    if not len(first) == len(second) == len(groups) > 0:
        raise ValueError(f"paired answers must be equally many: {len(first)}, {len(second)}, {len(groups)} groups")
    one, two = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)  # (N,)
    first_only, second_only = int((one & ~two).sum()), int((two & ~one).sum())
    differences = two.astype(np.float64) - one.astype(np.float64)  # (N,)
    if np.ptp(differences):
        interval = cluster_bootstrap(differences, groups, draws, seed)
    else:
        interval = _reach(float(differences[0]), len(np.unique(group_numbers(groups))), (-1.0, 1.0))
    return Paired(
        n=len(one),
        first=float(one.mean()),
        second=float(two.mean()),
        first_only=first_only,
        second_only=second_only,
        p=mcnemar(first_only, second_only),
        difference=(second_only - first_only) / len(one),
        interval=interval,
    )


def _reach(value: float, count: int, within: tuple[float, float], confidence: float = 0.95) -> Interval:
    """Around what all items of `count` groups have, as far as the share of others may go by Wilson's interval."""
    reach = wilson(0, count, confidence).high
    return Interval(max(within[0], value - reach), min(within[1], value + reach))


def seeds_and_items(
    values: Sequence[Sequence[float]] | Floats,
    groups: Groups,
    draws: int = 4000,
    seed: int = 0,
    confidence: float = 0.95,
    within: tuple[float, float] | None = (0.0, 1.0),
) -> Estimate:
    """Mean of `values` (S, N), one row per training seed on the same N items, with both sources of chance.

    Each draw takes S seeds with replacement, then groups of items with replacement, the same items for every seed
    drawn: the crossed ("pigeonhole") bootstrap of Owen (2007), Annals of Applied Statistics 1:386. For a
    difference of two methods, hand in the differences. Few seeds (three, say) understate the spread over seeds.

    Where all values are equal, every draw is the same; there the interval reaches as far as `paired`'s does, inside
    `within`, what values can be: (-1, 1) for differences; None where there are no bounds, and then it has no width.
    """
    table = np.asarray(values, dtype=np.float64)  # (S, N)
    if table.ndim != 2 or table.shape[1] != len(groups) or table.size == 0:
        raise ValueError(f"values must be (seeds, {len(groups)} items), not {table.shape}")
    numbers = group_numbers(groups)  # (N,)
    count = int(numbers.max()) + 1
    if within is not None and not np.ptp(table):
        return Estimate(float(table.mean()), _reach(float(table[0, 0]), count, within, confidence))
    sums = np.stack([np.bincount(numbers, weights=row, minlength=count) for row in table], axis=1)  # (groups, S)
    sizes = np.bincount(numbers, minlength=count).astype(np.float64)  # (groups,)
    rng = np.random.default_rng(seed)
    means = []
    for block in _blocks(draws, count * len(table)):
        seeds = rng.integers(0, len(table), size=(block, len(table)))  # (block, S)
        items = rng.integers(0, count, size=(block, count))  # (block, groups)
        by_seed = sums[items].sum(axis=1) / sizes[items].sum(axis=1, keepdims=True)  # (block, S)
        means.append(np.take_along_axis(by_seed, seeds, axis=1).mean(axis=1))
    return Estimate(float(table.mean()), _percentiles(np.concatenate(means), confidence))


def macro_average(
    values: Sequence[float] | Floats,
    skills: Sequence[str],
    groups: Groups,
    draws: int = 4000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Mean over skills of the mean of each skill's `values` (N,): every skill weighs the same, however many items.

    The interval is a bootstrap of whole groups, in strata: groups that touch the same skills are drawn among each
    other, so that no draw is without a skill and a group that spans skills moves them together (Davison & Hinkley
    1997, section 3.2). For a difference of two answerers, hand in the differences. ValueError if lengths differ.
    """
    data = np.asarray(values, dtype=np.float64)  # (N,)
    if not len(data) == len(skills) == len(groups) > 0:
        raise ValueError(f"needs equally many: {len(data)} values, {len(skills)} skills, {len(groups)} groups")
    names = {skill: index for index, skill in enumerate(dict.fromkeys(skills))}
    numbers = group_numbers(groups)  # (N,)
    shape = (int(numbers.max()) + 1, len(names))
    cells = np.ravel_multi_index((numbers, np.array([names[skill] for skill in skills])), shape)  # (N,)
    sums = np.bincount(cells, weights=data, minlength=shape[0] * shape[1]).reshape(shape)  # (groups, skills)
    sizes = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)  # (groups, skills)
    touched, stratum = np.unique(sizes > 0, axis=0, return_inverse=True)  # (strata, skills), (groups,)
    rng = np.random.default_rng(seed)
    means = []
    for block in _blocks(draws, shape[0]):
        totals, counts = np.zeros((2, block, shape[1]))  # (block, skills) each
        for index, of in enumerate(touched):
            (members,) = np.nonzero(stratum == index)
            chosen = members[rng.integers(0, len(members), size=(block, len(members)))]  # (block, members)
            for skill in np.flatnonzero(of):
                totals[:, skill] += sums[:, skill][chosen].sum(axis=1)
                counts[:, skill] += sizes[:, skill][chosen].sum(axis=1)
        means.append((totals / counts).mean(axis=1))
    value = float((sums.sum(axis=0) / sizes.sum(axis=0)).mean())
    return Estimate(value, _percentiles(np.concatenate(means), confidence))


def majority_class(answers: Iterable[str]) -> tuple[str, float]:
    """The most frequent gold answer (ties: first seen) and the share it has: what always saying it would score."""
    counts = Counter(answers)
    if not counts:
        raise ValueError("no answers")
    answer, times = counts.most_common(1)[0]
    return answer, times / counts.total()


def guess_accuracy(samples: Sequence[Sample]) -> float:
    """Expected share right of drawing one of each sample's choices at random: mean of 1 / choices.

    An open question, without choices, counts as never guessed.
    """
    if not samples:
        raise ValueError("no samples")
    return sum(1 / len(sample.choices) for sample in samples if sample.choices) / len(samples)


def pass_at_k(n: int, right: int, k: int) -> float:
    """Chance that at least one of k completions, drawn from n of which `right` are right, is right.

    1 - C(n - right, k) / C(n, k): the unbiased estimate of Chen et al. 2021 (arXiv 2107.03374, section 2.1).
    """
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"needs 0 <= right <= n and 1 <= k <= n, not n={n}, right={right}, k={k}")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def guesser_pass_at_k(choices: Sequence[int], k: int, format_rate: float) -> float:
    """pass@k of one who, in a share `format_rate` of tries, names one of a question's choices at random.

    Mean over questions of 1 - (1 - format_rate / choices)^k. The rest of the tries cannot be read and are wrong.
    """
    if not choices or min(choices) < 1:
        raise ValueError("every question needs at least one choice")
    return sum(1 - (1 - format_rate / count) ** k for count in choices) / len(choices)


def window_mean(values: Sequence[float], draws: int = 4000, seed: int = 0) -> Estimate:
    """Mean of per-step values with an interval from drawing steps with replacement.

    Neighbouring steps share most of their weights, so the interval is a lower bound on the uncertainty.
    """
    return Estimate(float(np.mean(values)), cluster_bootstrap(values, [""] * len(values), draws, seed))


def lowest_window(values: Sequence[float], width: int) -> int:
    """Where the run of `width` successive values with the lowest mean starts (ties: the earliest)."""
    if not 1 <= width <= len(values):
        raise ValueError(f"needs at least {width} values, not {len(values)}")
    means = np.convolve(np.asarray(values, dtype=np.float64), np.full(width, 1 / width), mode="valid")
    return int(means.argmin())


def _blocks(draws: int, items: int) -> list[int]:
    """Split draws so that no block holds much more than `_BLOCK` items."""
    size = max(1, _BLOCK // max(items, 1))
    return [min(size, draws - start) for start in range(0, draws, size)]


def _percentiles(means: Floats, confidence: float) -> Interval:
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
