"""How small a difference a set of items can show: what to know before a result is read as "no difference"."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, norm

from cleareyed.evaluation.stats import Floats, group_numbers

NEGLIGIBLE = 1e-12
"""Numbers of discordant items beyond these quantiles are left out of a sum."""


def mcnemar_power(n: int, discordant: float, difference: float, alpha: float = 0.05) -> float:
    """Chance that exact McNemar on `n` independent items finds a true `difference`, at level `alpha`, two-sided.

    `discordant` is the share of items that exactly one of the two answers right; the difference, second - first, is
    at most that. The number of discordant items is Binomial(n, discordant); given D of them, the second's are
    Binomial(D, (1 + difference / discordant) / 2), and the test rejects in its two tails.

    Raises:
        ValueError: `discordant` is not in 0..1, or the difference exceeds it.
    """
    if n < 1 or not 0 < discordant <= 1 or abs(difference) > discordant:
        raise ValueError(f"needs n > 0 and |difference| <= discordant <= 1, not {n}, {difference} and {discordant}")
    least, most = binom.ppf((NEGLIGIBLE, 1 - NEGLIGIBLE), n, discordant)
    counts = np.arange(max(0, least), most + 1)  # (D,)
    # The largest k with P(Binomial(D, 1/2) <= k) <= alpha / 2; -1 where there is none.
    tail = binom.ppf(alpha / 2, counts, 0.5)
    tail -= binom.cdf(tail, counts, 0.5) > alpha / 2
    toward = (1 + difference / discordant) / 2
    rejected = binom.cdf(tail, counts, toward) + binom.cdf(tail, counts, 1 - toward)  # (D,)
    return float(binom.pmf(counts, n, discordant) @ rejected)


def smallest_paired(n: int, discordant: float, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """The smallest true difference that exact McNemar on `n` items finds with chance `power`.

    `discordant` as in `mcnemar_power`. None if not even a difference as large as the discordance is found so often:
    there are too few items. For clustered items hand in n divided by their `design_effect`.
    """
    if mcnemar_power(n, discordant, discordant, alpha) < power:
        return None
    return float(brentq(lambda size: mcnemar_power(n, discordant, size, alpha) - power, 0.0, discordant, xtol=1e-7))


def smallest_unpaired(
    n_first: int, n_second: int, share: float, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """The smallest gain over `share` that a two-sided test of two shares on different items finds with chance `power`.

    On the arcsine scale: 2 asin sqrt(share + gain) - 2 asin sqrt(share) = (z(1 - alpha/2) + z(power))
    sqrt(1/n_first + 1/n_second). Cohen (1988), Statistical Power Analysis, section 6.2. None if not even a gain to 1
    is found so often. For a loss, hand in 1 - share.

    Raises:
        ValueError: no items, or a share that is not in 0..1.
    """
    if min(n_first, n_second) < 1 or not 0 <= share <= 1:
        raise ValueError(f"needs items and a share in 0..1, not {n_first}, {n_second} and {share}")
    effect = float(norm.ppf(1 - alpha / 2) + norm.ppf(power)) * math.sqrt(1 / n_first + 1 / n_second)
    angle = math.asin(math.sqrt(share)) + effect / 2
    return math.sin(angle) ** 2 - share if angle <= math.pi / 2 else None


def design_effect(values: Sequence[float] | Floats, groups: Sequence[str]) -> float:
    """How many times the variance of the mean of `values` (N,) grows because items of a group resemble each other.

    sum over groups of (sum over its items of deviations)^2, by the sum of squared deviations (Kish 1965, section
    5.4; Miller 2024, arXiv 2411.00640, section 2.2). At least 1: resemblance that seems negative is not counted on.
    """
    deviations = np.asarray(values, dtype=np.float64) - np.mean(values)  # (N,)
    alone = float((deviations**2).sum())
    together = float((np.bincount(group_numbers(groups), weights=deviations) ** 2).sum())
    return max(1.0, together / alone) if alone > 0 else 1.0
