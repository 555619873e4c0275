import itertools

import numpy as np
import pytest

from cleareyed.evaluation.ranks import _letters, holm, rank
from cleareyed.evaluation.stats import exact_paired


def test_holm_gives_the_published_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R's p.adjust
    assert holm([0.4, 0.7]) == pytest.approx([0.8, 0.8])
    assert holm([]) == []
    with pytest.raises(ValueError, match="p-values must"):
        holm([0.1, 1.2])


def test_holm_is_bonferroni_on_every_subset_of_the_family():
    p_values = np.random.default_rng(3).uniform(0, 0.4, 6).tolist()
    subsets = [part for size in range(1, 7) for part in itertools.combinations(range(6), size)]
    closed = [
        max(min(1.0, len(part) * min(p_values[one] for one in part)) for part in subsets if index in part)
        for index in range(6)
    ]
    assert holm(p_values) == pytest.approx(closed)


def test_letters_are_the_largest_sets_without_a_separated_pair():
    assert _letters(3, {(0, 2)}) == [("a",), ("a", "b"), ("b",)]
    rng = np.random.default_rng(4)
    for _ in range(25):
        pairs = set(itertools.combinations(range(6), 2))
        separated = {pair for pair in pairs if rng.random() < 0.4}
        free = [
            set(part)
            for size in range(1, 7)
            for part in itertools.combinations(range(6), size)
            if not separated & set(itertools.combinations(part, 2))
        ]
        largest = sorted(sorted(one) for one in free if not any(one < other for other in free))
        letters = _letters(6, separated)
        shown = sorted({letter for own in letters for letter in own})
        assert [[place for place in range(6) if letter in letters[place]] for letter in shown] == largest
        for one, two in pairs:
            assert bool(set(letters[one]) & set(letters[two])) == ((one, two) not in separated)


def test_ranks_are_as_wide_as_the_pairs_that_cannot_be_separated():
    rng = np.random.default_rng(6)
    correct = {name: rng.random(300) < share for name, share in (("low", 0.3), ("high", 0.9), ("middle", 0.6))}
    correct["twin"] = correct["high"].copy()
    correct["twin"][np.flatnonzero(correct["twin"])[:3]] = False
    found = {one.name: one for one in rank(correct, [""] * 300)}
    assert list(found) == ["high", "twin", "middle", "low"]
    assert [(one.best_rank, one.worst_rank, one.letters) for one in found.values()] == [
        (1, 2, ("a",)),
        (1, 2, ("a",)),
        (3, 3, ("b",)),
        (4, 4, ("c",)),
    ]
    assert found["low"].accuracy == pytest.approx(correct["low"].mean())


def test_ranks_adjust_for_the_family_and_for_groups():
    # Seven items of one, none of the other: p = 2/128 alone, but three pairs make it 0.047 and ten make it 0.16.
    base = np.array([True] * 7 + [False] * 13)
    none = np.zeros(20, dtype=bool)
    assert exact_paired(none, base, [""] * 20) == pytest.approx(2 / 128)
    three = rank({"one": base, "two": none, "three": none}, [""] * 20)
    assert [one.letters for one in three] == [("a",), ("b",), ("b",)]
    many = rank({"one": base, **{f"other{index}": none for index in range(4)}}, [""] * 20)
    assert {one.letters for one in many} == {("a",)}
    grouped = rank({"one": base, "two": none, "three": none}, ["g"] * 7 + [""] * 13)
    assert {(one.best_rank, one.worst_rank) for one in grouped} == {(1, 3)}
    with pytest.raises(ValueError, match="one answer for each item"):
        rank({"one": [True], "two": []}, [""])
