import itertools
import math

import numpy as np
import pytest

from cleareyed.evaluation import stats
from cleareyed.tasks.task import Sample


def test_wilson_is_the_textbook_formula():
    z, right, n = 1.959963984540054, 37, 120
    p = right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = stats.wilson(right, n)
    assert found.low == pytest.approx((middle - half) / (1 + z * z / n), abs=1e-12)
    assert found.high == pytest.approx((middle + half) / (1 + z * z / n), abs=1e-12)


def test_wilson_at_the_edges_keeps_its_width():
    assert stats.wilson(0, 50).low == pytest.approx(0, abs=1e-12)
    assert stats.wilson(0, 50).high == pytest.approx(0.0713, abs=1e-4)
    assert stats.wilson(50, 50).high == pytest.approx(1, abs=1e-12)


def test_items_without_a_group_stand_alone():
    assert stats.group_numbers(["a", "", "b", "", "a"]).tolist() == [0, 1, 2, 3, 0]


def test_cluster_bootstrap_widens_with_copies_of_one_item():
    rng = np.random.default_rng(1)
    values = rng.integers(0, 2, 200).astype(float)
    alone = stats.cluster_bootstrap(values, [""] * 200)
    copies = stats.cluster_bootstrap(np.repeat(values, 4), [str(i) for i in np.repeat(np.arange(200), 4)])
    wrong = stats.cluster_bootstrap(np.repeat(values, 4), [""] * 800)
    assert copies.high - copies.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert wrong.high - wrong.low == pytest.approx((alone.high - alone.low) / 2, rel=0.1)
    half = 1.96 * values.std() / math.sqrt(200)
    assert (alone.high - alone.low) / 2 == pytest.approx(half, rel=0.05)


def test_cluster_bootstrap_weighs_groups_by_their_items():
    # A group of three right answers and one of a single wrong one: the mean is 3/3, 3/4 or 0/1.
    found = stats.cluster_bootstrap([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert (found.low, found.high) == (0.0, 1.0)


def test_bootstrap_gives_the_same_numbers_whatever_the_block(monkeypatch):
    values, groups = [1.0, 0.0, 1.0, 1.0, 0.0], ["a", "a", "b", "c", ""]
    whole = stats.cluster_bootstrap(values, groups, draws=500, seed=3)
    monkeypatch.setattr(stats, "_BLOCK", 7)
    assert stats.cluster_bootstrap(values, groups, draws=500, seed=3) == whole


def test_share_interval_is_wilson_only_for_items_that_stand_alone():
    right = [True, True, False, True]
    assert stats.share_interval(right, [""] * 4) == stats.wilson(3, 4)
    assert stats.share_interval(right, ["a", "b", "c", "d"]) == stats.wilson(3, 4)
    right, groups = [True, True, False, True, True, False] * 2, list("aabbccddeeff")
    assert stats.share_interval(right, groups) == stats.cluster_bootstrap([float(one) for one in right], groups)


def test_share_interval_of_equal_values_in_groups_has_a_width() -> None:
    for value, right in ((True, 3), (False, 0)):
        assert stats.share_interval([value] * 7, list("aabbbcc")) == stats.wilson(right, 3)


def test_mcnemar_by_hand():
    # Nine discordant pairs, two of them one way: 2 * (1 + 9 + 36) / 512.
    assert stats.mcnemar(2, 7) == pytest.approx(2 * 46 / 512)
    assert stats.mcnemar(7, 2) == stats.mcnemar(2, 7)
    assert stats.mcnemar(0, 0) == 1.0


def test_paired_counts_and_difference():
    first = [True, True, False, False, False, False]
    second = [True, False, True, True, True, False]
    found = stats.paired(first, second, [""] * 6)
    assert (found.first_only, found.second_only, found.n) == (1, 3, 6)
    assert found.difference == pytest.approx(found.second - found.first) == pytest.approx(2 / 6)
    assert found.p == pytest.approx(10 / 16)
    assert found.interval.low < found.difference < found.interval.high


def test_paired_refuses_different_lengths():
    with pytest.raises(ValueError, match="equally many"):
        stats.paired([True], [True, False], [""])
    with pytest.raises(ValueError, match="equally many"):
        stats.paired([], [], [])


def test_seeds_and_items_equals_the_item_bootstrap_for_one_seed_and_exact_enumeration_for_two():
    values, groups = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0], ["a", "a", "b", "b", "c", ""]
    one = stats.seeds_and_items([values], groups, draws=8000)
    alone = stats.cluster_bootstrap(values, groups, draws=8000)
    assert one.interval.low == pytest.approx(alone.low, abs=0.03)
    assert one.interval.high == pytest.approx(alone.high, abs=0.03)

    table = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    outcomes = [
        table[np.ix_(seeds, items)].mean()
        for seeds in itertools.product(range(2), repeat=2)
        for items in itertools.product(range(3), repeat=3)
    ]
    found = stats.seeds_and_items(table, [""] * 3, draws=20000, confidence=0.5)
    exact = np.quantile(outcomes, [0.25, 0.75])
    assert found.value == pytest.approx(0.5)
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(exact), abs=0.02)


def test_seeds_that_differ_widen_the_interval():
    good, bad = [1.0] * 80 + [0.0] * 20, [1.0] * 50 + [0.0] * 50
    differing = stats.seeds_and_items([good, bad, good], [""] * 100)
    equal = stats.seeds_and_items([good, good, good], [""] * 100)
    width = differing.interval.high - differing.interval.low
    assert width > 1.5 * (equal.interval.high - equal.interval.low)
    with pytest.raises(ValueError, match="seeds"):
        stats.seeds_and_items([good], [""] * 99)


def test_what_never_varied_over_seeds_and_items_has_an_interval_with_a_width():
    for value, within, expected in (
        (0.0, (0.0, 1.0), (0.0, stats.wilson(0, 20).high)),
        (1.0, (0.0, 1.0), (stats.wilson(20, 20).low, 1.0)),
        (0.0, (-1.0, 1.0), (-stats.wilson(0, 20).high, stats.wilson(0, 20).high)),
        (48.0, None, (48.0, 48.0)),
    ):
        found = stats.seeds_and_items([[value] * 20] * 3, [""] * 20, within=within)
        assert found.value == value and (found.interval.low, found.interval.high) == pytest.approx(expected)
    grouped = stats.seeds_and_items([[0.0] * 20] * 3, [str(index // 4) for index in range(20)]).interval
    assert grouped.high == pytest.approx(stats.wilson(0, 5).high)


def test_majority_class():
    assert stats.majority_class(["no", "yes", "yes", "no", "yes"]) == ("yes", 0.6)
    assert stats.majority_class(["b", "a"]) == ("b", 0.5)


def test_guess_accuracy_counts_open_questions_as_missed():
    samples = [
        Sample(id="1", question="?", answer="a", choices=("a", "b")),
        Sample(id="2", question="?", answer="a", choices=("a", "b", "c", "d")),
        Sample(id="3", question="?", answer="a"),
    ]
    assert stats.guess_accuracy(samples) == pytest.approx((0.5 + 0.25) / 3)


def test_pass_at_k_equals_enumeration():
    for n, right, k in [(8, 3, 1), (8, 3, 4), (6, 0, 3), (6, 6, 2), (5, 2, 4)]:
        draws = list(itertools.combinations([True] * right + [False] * (n - right), k))
        assert stats.pass_at_k(n, right, k) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))
    with pytest.raises(ValueError, match="k <= n"):
        stats.pass_at_k(4, 1, 5)


def test_guesser_pass_at_k():
    assert stats.guesser_pass_at_k([2, 4], 1, 0.4) == pytest.approx((0.2 + 0.1) / 2)
    assert stats.guesser_pass_at_k([2], 8, 1.0) == pytest.approx(1 - 0.5**8)


def test_windows():
    values = [5.0, 4.0, 1.0, 2.0, 3.0, 6.0]
    assert stats.lowest_window(values, 3) == 2
    found = stats.window_mean(values[2:5])
    assert found.value == pytest.approx(2.0)
    assert 1.0 <= found.interval.low < 2.0 < found.interval.high <= 3.0
    with pytest.raises(ValueError, match="at least 7"):
        stats.lowest_window(values, 7)


def flips(sums):
    """The share of all sign flips of `sums` whose total is at least as far from 0."""
    totals = [
        sum(s * v for s, v in zip(signs, sums, strict=True)) for signs in itertools.product((1, -1), repeat=len(sums))
    ]
    return sum(abs(total) >= abs(sum(sums)) - 1e-9 for total in totals) / len(totals)


def test_exact_paired_is_mcnemar_for_items_that_stand_alone():
    for both, first_only, second_only, neither in [
        (3, 2, 7, 1),
        (0, 5, 0, 0),
        (4, 0, 0, 4),
        (10, 6, 6, 0),
        (0, 0, 40, 0),
    ]:
        first = [True] * (both + first_only) + [False] * (second_only + neither)
        second = [True] * both + [False] * first_only + [True] * second_only + [False] * neither
        found = stats.exact_paired(first, second, [""] * len(first))
        assert found == pytest.approx(stats.mcnemar(first_only, second_only), rel=1e-9)


def test_exact_paired_swaps_whole_groups():
    rng = np.random.default_rng(5)
    for _ in range(20):
        numbers = rng.integers(0, 7, 24)
        first, second = rng.integers(0, 2, (2, 24)).astype(bool)
        sums = np.bincount(numbers, weights=second.astype(int) - first.astype(int))
        assert stats.exact_paired(first, second, [f"g{one}" for one in numbers]) == pytest.approx(flips(sums.tolist()))
    copies = stats.exact_paired([False] * 8, [True] * 8, list("aaaabbbb"))
    assert copies == pytest.approx(0.5)  # two groups, not eight items


def test_permutation_enumerates_few_groups_and_draws_from_many():
    values = [0.3, -0.1, 0.25, 0.4, -0.05, 0.0, 0.15, 0.2]
    assert stats.permutation(values, [""] * 8) == pytest.approx(flips(values))
    groups = list("aabbccdd")
    assert stats.permutation(values, groups) == pytest.approx(flips([0.2, 0.65, -0.05, 0.35]))
    assert stats.permutation([0.0, 0.0], ["", ""]) == 1.0

    first = [True] * 12 + [False] * 28 + [True] * 60
    second = [False] * 12 + [True] * 28 + [True] * 60
    differences = np.subtract(second, first, dtype=float)
    drawn = stats.permutation(differences, [""] * 100, seed=1)
    assert drawn == pytest.approx(stats.exact_paired(first, second, [""] * 100), abs=0.004)
    assert drawn == stats.permutation(differences, [""] * 100, seed=1) > 1 / 10_000


def test_macro_average_weighs_skills_alike_and_equals_enumeration_of_all_draws():
    values, skills, groups = [1.0, 0.0, 1.0, 1.0, 0.0], ["x", "x", "x", "y", "y"], ["a", "a", "b", "", ""]
    found = stats.macro_average(values, skills, groups, draws=20_000, confidence=0.8)
    assert found.value == pytest.approx((2 / 3 + 1 / 2) / 2)
    in_x = [sum(map(sum, draw)) / sum(map(len, draw)) for draw in itertools.product([(1, 0), (1,)], repeat=2)]
    in_y = [sum(draw) / 2 for draw in itertools.product((1, 0), repeat=2)]
    exact = np.quantile([(x + y) / 2 for x in in_x for y in in_y], [0.1, 0.9])
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(exact), abs=1e-9)


def test_macro_average_moves_the_skills_of_a_group_together():
    values, skills = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0], ["x", "y"] * 4
    together = stats.macro_average(values, skills, list("aabbccdd"))
    assert together.interval == stats.Interval(0.5, 0.5)  # each group is half right, whichever is drawn
    apart = stats.macro_average(values, skills, [""] * 8)
    assert apart.interval.high - apart.interval.low > 0.4
    one = stats.macro_average(values, [""] * 8, list("aaabbcde"), draws=8000)
    alone = stats.cluster_bootstrap(values, list("aaabbcde"), draws=8000)
    assert (one.interval.low, one.interval.high) == pytest.approx((alone.low, alone.high), abs=0.03)
    with pytest.raises(ValueError, match="equally many"):
        stats.macro_average(values, skills[1:], [""] * 8)


def test_a_difference_that_no_item_shows_has_an_interval_with_a_width():
    same = stats.paired([True, False] * 10, [True, False] * 10, [""] * 20)
    most = stats.wilson(0, 20).high
    assert (same.difference, same.interval.low, same.interval.high) == (0.0, pytest.approx(-most), pytest.approx(most))
    all_won = stats.paired([False] * 20, [True] * 20, [f"pair {n // 2}" for n in range(20)])
    assert all_won.interval.high == 1.0
    assert all_won.interval.low == pytest.approx(1 - stats.wilson(0, 10).high)


def test_few_or_alike_groups_have_an_interval_with_a_width():
    one_group = stats.share_interval([True, True, True, False, False], ["q"] * 5)
    assert (one_group.low, one_group.high) == pytest.approx((0.07712, 0.96419), abs=1e-5)
    alike = stats.share_interval([True, False] * 20, [f"pair {n // 2}" for n in range(40)])
    by_scipy = stats.wilson(10, 20)
    assert (alike.low, alike.high) == pytest.approx((by_scipy.low, by_scipy.high))
    none = stats.share_interval([False] * 6, ["a", "a", "b", "b", "c", "c"])
    assert (none.low, none.high) == pytest.approx((0, stats.wilson(0, 3).high))
