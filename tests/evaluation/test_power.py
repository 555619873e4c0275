import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from cleareyed.evaluation.power import design_effect, mcnemar_power, smallest_paired, smallest_unpaired
from cleareyed.evaluation.stats import mcnemar


def test_power_of_mcnemar_is_the_sum_over_all_outcomes():
    for n, discordant, difference, alpha in [(12, 0.5, 0.4, 0.05), (9, 1.0, 0.6, 0.1), (12, 0.7, -0.7, 0.05)]:
        up, down = (discordant + difference) / 2, (discordant - difference) / 2
        found = sum(
            math.comb(n, b) * math.comb(n - b, c) * down**b * up**c * (1 - discordant) ** (n - b - c)
            for b, c in itertools.product(range(n + 1), repeat=2)
            if b + c <= n and mcnemar(b, c) <= alpha
        )
        assert mcnemar_power(n, discordant, difference, alpha) == pytest.approx(found)
    with pytest.raises(ValueError, match="discordant"):
        mcnemar_power(10, 0.2, 0.3)


def test_smallest_paired_is_just_found_and_nears_the_published_approximation():
    found = smallest_paired(267, 0.2)
    assert mcnemar_power(267, 0.2, found) == pytest.approx(0.8, abs=1e-4)
    assert mcnemar_power(267, 0.2, found * 0.9) < 0.75
    # Connor (1987), Biometrics 43:207: n = (z sqrt(d) + z' sqrt(d - difference^2))^2 / difference^2.
    large = smallest_paired(20_000, 0.3)
    root = norm.ppf(0.975) * math.sqrt(0.3) + norm.ppf(0.8) * math.sqrt(0.3 - large**2)
    assert (root / large) ** 2 == pytest.approx(20_000, rel=0.02)
    # His formula gives 23 items for discordant shares of 0.45 and 0.05; the exact test needs a few more.
    assert 0.7 < mcnemar_power(23, 0.5, 0.4) < 0.8 < mcnemar_power(28, 0.5, 0.4)


def test_too_few_items_find_nothing():
    assert smallest_paired(5, 1.0) is None  # even 5 to 0 has p = 0.0625
    assert smallest_paired(6, 1.0) == pytest.approx(2 * 0.8 ** (1 / 6) - 1, abs=1e-3)  # only 6 to 0 is found
    assert smallest_unpaired(3, 3, 0.5) is None


def test_smallest_unpaired_is_cohens():
    for effect, n in [(0.2, 392), (0.5, 63), (0.8, 25)]:  # Cohen (1988), table 6.4.1, alpha 0.05, power 0.80
        gain = smallest_unpaired(n, n, 0.4)
        size = 2 * math.asin(math.sqrt(0.4 + gain)) - 2 * math.asin(math.sqrt(0.4))
        assert size == pytest.approx(effect, rel=0.01)


def test_smallest_unpaired_is_found_four_times_in_five():
    first, second, share = 200, 300, 0.5
    gain = smallest_unpaired(first, second, share)
    one, two = np.arange(first + 1) / first, np.arange(second + 1) / second
    z = 2 * (np.arcsin(np.sqrt(two))[None, :] - np.arcsin(np.sqrt(one))[:, None]) / math.sqrt(1 / first + 1 / second)
    chance = binom.pmf(np.arange(first + 1), first, share)[:, None] * binom.pmf(
        np.arange(second + 1), second, share + gain
    )
    assert chance[np.abs(z) > norm.ppf(0.975)].sum() == pytest.approx(0.8, abs=0.01)
    with pytest.raises(ValueError, match="share"):
        smallest_unpaired(10, 10, 1.5)


def test_design_effect_counts_copies_once():
    values = np.random.default_rng(2).random(50)
    assert design_effect(values, [""] * 50) == 1.0
    assert design_effect(
        np.repeat(values, 4), [f"g{index}" for index in np.repeat(np.arange(50), 4)]
    ) == pytest.approx(4)
    assert design_effect([1.0, 1.0], ["a", "a"]) == 1.0
    assert design_effect([1.0, 0.0, 1.0, 0.0], list("aabb")) == 1.0  # opposites in a group: not counted on
