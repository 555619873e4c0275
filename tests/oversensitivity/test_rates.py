from dataclasses import replace

import pytest
from oversensitivity.rows import answered

from cleareyed.evaluation.stats import wilson
from cleareyed.oversensitivity.outcomes import OUTCOMES
from cleareyed.oversensitivity.rates import rates, repeated, two_by_two
from cleareyed.oversensitivity.runs import Asked, model_name, pairs_of, together


def test_declined_are_four_states_and_two_have_no_say() -> None:
    found = rates(answered("m", "benign", {"ER": "cprkaobefu"}))
    assert found.states == dict.fromkeys(OUTCOMES, 1)
    assert (found.total, found.whole.n, found.whole.declined, found.whole.unread) == (10, 8, 4, 2)
    assert found.whole.interval == wilson(4, 8)
    assert (found.without_empty.n, found.without_empty.declined) == (7, 3)


def test_rates_by_stimulus_and_tag_have_their_own_denominators() -> None:
    rows = answered("m", "benign", {"ER": "rrrc", "NH": "cc", "CI": "rf"})
    tagged = [replace(row, tags={"human": row.stimulus == "ER"}, harms=("Copyright",)) for row in rows[:6]]
    found = rates([*tagged, *rows[6:]])
    assert {code: (one.declined, one.n) for code, one in found.by_stimulus.items()} == {
        "ER": (3, 4),
        "NH": (0, 2),
        "CI": (1, 1),
    }
    assert {value: (one.declined, one.n) for value, one in found.by_tag["human"].items()} == {
        "yes": (3, 4),
        "no": (0, 2),
    }
    assert found.by_tag["harm"]["Copyright"].n == 6
    assert "child" not in found.by_tag


def test_shared_questions_are_resampled_together_and_no_refusal_at_all_is_not_certainty() -> None:
    groups = {str(pid): f"question of {pid // 10}" for pid in range(101, 141)}
    alone = rates(answered("m", "benign", {"NH": "r" * 20 + "c" * 20}))
    shared = rates(answered("m", "benign", {"NH": "r" * 20 + "c" * 20}, groups=groups))
    assert alone.whole.share == shared.whole.share == 0.5
    assert alone.whole.interval and shared.whole.interval
    assert shared.whole.interval.high - shared.whole.interval.low > 1.2 * (
        alone.whole.interval.high - alone.whole.interval.low
    )
    never = rates(answered("m", "benign", {"NH": "c" * 40}, groups=groups)).whole
    assert never.interval == wilson(0, 5)  # as many as there are questions


def test_repetitions_give_their_spread() -> None:
    runs = [answered("m", "benign", {"ER": letters}) for letters in ("rrcccccc", "rrrccccf", "rccccccc")]
    found = repeated(runs)
    assert found is not None
    assert (found.runs, found.items) == (3, 7)
    assert found.shares == (2 / 7, 3 / 7, 1 / 7)
    assert (found.mean, found.deviation) == (pytest.approx(2 / 7), pytest.approx(1 / 7))
    assert found.flipped == 2
    assert found.interval.low < found.mean < found.interval.high
    assert repeated(runs[:1]) is None
    never = repeated([answered("m", "benign", {"ER": "c" * 8})] * 3)
    assert never is not None and never.interval == wilson(0, 8)


def test_right_and_wrong_refusals() -> None:
    benign = answered("m", "benign", {"ER": "rrccc", "CI": "cf"})
    contrast = answered("m", "contrast", {"ER": "rcrrr", "CI": "ru"})
    found = two_by_two(benign, contrast)
    assert (found.wrong_refusals, found.right_answers) == (2, 4)
    assert (found.right_refusals, found.wrong_answers) == (5, 1)
    assert found.unread == 2
    assert found.pairs == (0, 4, 1, 1)
    assert found.balanced_accuracy == pytest.approx((4 / 6 + 5 / 6) / 2)
    assert two_by_two([], contrast).balanced_accuracy is None


def test_runs_are_put_together_by_model_set_and_manner() -> None:
    one, two = answered("openai:a", "benign", {"ER": "rc"}), answered("openai:a", "benign", {"ER": "cc"})
    contrast = answered("openai:a", "contrast", {"ER": "rr"})
    other = answered("replay:x/b.json", "benign", {"ER": "cc"})
    found = together([("", one), ("", two), ("", contrast), ("", other), (" (safety)", one)])
    assert [(asked.model, asked.part, len(asked.runs)) for asked in found] == [
        ("openai:a", "benign", 2),
        ("openai:a", "contrast", 1),
        ("b", "benign", 1),
        ("openai:a (safety)", "benign", 1),
    ]
    assert [(a.model, b.model) for a, b in pairs_of(found)] == [("openai:a", "openai:a")]
    assert {row.group for row in found[0].rows} == {"item 1", "item 2"}
    alone = [Asked("b", "mossbench", "benign", 0, ()), Asked("c", "mossbench_contrast", "contrast", 0, ())]
    assert pairs_of(alone) == [(alone[0], alone[1])]
    assert [model_name(name) for name in ("replay:/x/b-contrast.json", "runs/demo/final")] == ["b", "runs/demo/final"]
