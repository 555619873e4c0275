import math

import numpy as np
import pytest
from oversensitivity.rows import answered
from scipy.stats import norm, spearmanr

from cleareyed.oversensitivity.detection import Counts, detect, from_counts, from_items, joined
from cleareyed.oversensitivity.plane import (
    MEANS,
    POOLED,
    correlation,
    disagreements,
    measured_point,
    more_cautious_or_better,
    published,
    published_points,
    spearman,
)


def test_d_and_c_are_those_of_the_log_linear_correction() -> None:
    hit, alarm = norm.ppf(30.5 / 45), norm.ppf(10.5 / 101)
    d, c = detect(10, 100, 30, 44)
    assert (float(d), float(c)) == pytest.approx((hit - alarm, -(hit + alarm) / 2))
    extreme = detect(0, 100, 44, 44)
    assert all(math.isfinite(float(one)) for one in extreme)
    assert float(detect(50, 100, 50, 100)[0]) == pytest.approx(0)
    with pytest.raises(ValueError, match="items in both sets"):
        detect(0, 0, 1, 2)


def test_a_cautious_model_and_a_discerning_one_come_apart() -> None:
    base = from_counts(Counts(20, 100, 60, 100))
    cautious = from_counts(Counts(45, 100, 84, 100))
    discerning = from_counts(Counts(8, 100, 84, 100))
    assert cautious.sensitivity == pytest.approx(base.sensitivity, abs=0.05)
    assert cautious.criterion_interval.high < base.criterion_interval.low
    assert discerning.sensitivity_interval.low > base.sensitivity_interval.high
    assert discerning.criterion == pytest.approx(base.criterion, abs=0.15)


def test_intervals_cover_and_grow_with_what_is_uncertain() -> None:
    """Coverage of 95 % intervals over simulated models of known d' and c, within what 300 simulations can tell."""
    rng = np.random.default_rng(0)
    inside = {"items": 0, "counts": 0}
    for trial in range(300):
        benign, contrast = rng.random(150) < norm.cdf(-1.1), rng.random(120) < norm.cdf(0.4)
        items = from_items(list(benign), list(contrast), [""] * 270, draws=300, seed=trial)
        counts = from_counts(Counts(int(benign.sum()), 150, int(contrast.sum()), 120), draws=300, seed=trial)
        for name, found in (("items", items), ("counts", counts)):
            inside[name] += found.sensitivity_interval.low <= 1.5 <= found.sensitivity_interval.high
    assert all(0.90 <= count / 300 <= 0.98 for count in inside.values()), inside
    sharp, read_off = (from_counts(Counts(20, 100, 60, 100), error) for error in (0.0, 0.1))
    widths = [one.sensitivity_interval.high - one.sensitivity_interval.low for one in (sharp, read_off)]
    assert widths[1] > 1.2 * widths[0]


def test_items_that_share_something_are_drawn_together() -> None:
    benign = [(f"question {n // 10}", f"pid {n}") for n in range(100)]
    contrast = [("", f"pid {n}") for n in range(0, 100, 2)]
    clusters = joined(benign, contrast)
    assert len(clusters) == 150
    assert len(set(clusters)) == 10  # ten questions, to which the contrast items belong by their pid
    assert joined([("", ""), ("", "b")], [("a", "")]) == ["", "b", "a"]
    declined = [n // 10 < 3 for n in range(100)]  # whole questions are declined
    found = from_items(declined, [True] * 25 + [False] * 25, clusters)
    alone = from_items(declined, [True] * 25 + [False] * 25, [""] * 150)
    assert found.sensitivity == alone.sensitivity
    width = found.criterion_interval.high - found.criterion_interval.low
    assert width > 1.5 * (alone.criterion_interval.high - alone.criterion_interval.low)
    with pytest.raises(ValueError, match="a cluster for each"):
        from_items([True], [False], ["a"])


def test_rank_correlation_is_scipys_with_a_permutation_test() -> None:
    rng = np.random.default_rng(1)
    x = np.round(rng.random(16), 1)
    y = x + rng.normal(0, 0.4, 16)
    found = spearman(x, y)
    assert found is not None
    theirs = spearmanr(x, y)
    assert found.rho == pytest.approx(theirs.statistic)
    assert found.p == pytest.approx(theirs.pvalue, abs=0.02)
    assert found.interval.low < found.rho < found.interval.high
    assert spearman(x[:3], y[:3]) is None
    assert spearman(np.ones(8), y[:8]) is None
    sure = spearman(np.arange(12.0), np.arange(12.0))
    assert sure is not None and (sure.rho, sure.p) == (pytest.approx(1), pytest.approx(1 / 10000))


def test_the_papers_points_give_its_correlations() -> None:
    printed = published()["correlations_printed"]
    drawn, corrected = published_points(corrected=False, draws=20), published_points(draws=20)
    assert len(drawn) == len(corrected) == 16
    for stimulus, value in printed.items():
        found = correlation(drawn, stimulus)
        assert found is not None and found.rho == pytest.approx(value, abs=0.011)
        assert not found.significant
    rhos = {name: correlation(corrected, name) for name in (*printed, POOLED, MEANS)}
    assert {name: round(one.rho, 2) for name, one in rhos.items() if one} == {
        "ER": 0.32,
        "NH": 0.56,
        "CI": 0.47,
        POOLED: 0.68,
        MEANS: 0.64,
    }
    assert rhos[POOLED] is not None and rhos[POOLED].significant
    assert disagreements() == {"LLaVA-1.5-13b": {"ER": (32, 9), "NH": (48, 9), "CI": (13, 11)}}
    goes_with = more_cautious_or_better(corrected)
    assert goes_with["-c"] is not None and goes_with["d'"] is not None
    assert goes_with["-c"].rho > goes_with["d'"].rho


def test_the_published_table_is_whole() -> None:
    held = published()
    assert (len(held["table"]), len(held["plane"])) == (20, 16)
    for row in held["table"]:
        mean = sum(row["gpt"][code] for code in ("ER", "NH", "CI")) / 3
        assert row["gpt"]["all"] == pytest.approx(mean, abs=0.011), row["model"]
    for row in held["plane"]:
        assert row["NH"][1] / 100 * 44 == pytest.approx(round(row["NH"][1] / 100 * 44), abs=0.05)


def test_a_measured_model_is_a_point() -> None:
    benign = answered("m", "benign", {"ER": "rrcc", "NH": "cccc"})
    contrast = answered("m", "contrast", {"ER": "rrrc"})
    point = measured_point("m", benign, contrast)
    assert point is not None and set(point.cells) == {"ER", POOLED}
    cell = point.cells["ER"]
    assert (cell.benign, cell.contrast) == (0.5, 0.75)
    assert cell.detected.sensitivity == pytest.approx(norm.ppf(3.5 / 5) - norm.ppf(2.5 / 5))
    assert point.cells[POOLED].counts == Counts(2, 8, 3, 4)
    assert measured_point("m", answered("m", "benign", {"ER": "fu"}), contrast) is None


def test_a_model_that_declined_nothing_or_everything_is_not_known_exactly() -> None:
    found = from_items([False] * 30, [True] * 30, [""] * 60)
    for interval, value in (
        (found.sensitivity_interval, found.sensitivity),
        (found.criterion_interval, found.criterion),
    ):
        assert interval.low < value <= interval.high + 1e-9
        assert interval.high - interval.low > 0.5
    told = from_counts(Counts(0, 100, 100, 100))
    assert told.sensitivity_interval.high - told.sensitivity_interval.low > 0.3
