"""The rules that decide claims, on runs whose answer is known."""

from typing import Any

import numpy as np
import pytest

from cleareyed.study.claims import Arms, Claim, difference, judge, length_shape, table_of
from cleareyed.study.summary import Asked, RunSummary, bits

N = 400


def run(arm: str, seed: int, right: float, **changes: Any) -> RunSummary:
    """A run that answers a share of the items right, and as many in any form, by a fixed order of difficulty."""
    order = np.random.default_rng(7).permutation(N)
    flags = bits(bool(place < right * N) for place in order)
    tokens = changes.pop("tokens", 20)
    asked = Asked(
        task="t", prompt="p", items="same", right={"strict": flags, "any-form": changes.pop("any_form", flags)},
        formed=flags, tokens=[tokens + place % 3 for place in order], skills={}, groups=[],
        quality={"degeneration": {"repeated": None}},
    )  # fmt: skip
    fields: dict[str, Any] = {
        "study": "s", "arm": arm, "seed": seed, "training": "", "measuring": "", "finished": True, "method": "grpo",
        "steps": 100, "of_steps": 100, "cost": {}, "seconds": {}, "curves": {}, "asked": [asked], "reflection": {},
        "reflection_rollouts": {}, "revisions": {}, "examples": [], "necessity": None, "sight": None,
        "environment": {},
    }  # fmt: skip
    return RunSummary.model_validate(fields | changes)


def claim(name: str, **arms: Any) -> Claim:
    named = {key.replace("_", "-"): runs for key, runs in arms.items()}
    return next(one for one in judge(named) if one.name == name)


def curve(*levels: float, noise: float = 1.0) -> list[tuple[int, float | None]]:
    """Completion lengths that go from level to level in straight lines, 50 steps each."""
    rng = np.random.default_rng(0)
    values = np.interp(np.arange(50 * (len(levels) - 1)), 50 * np.arange(len(levels)), levels)
    return [(step, float(value + noise * rng.normal())) for step, value in enumerate(values, 1)]


def test_accuracy_claims_go_by_the_interval_of_the_difference() -> None:
    base, flat = [run("base", 0, 0.3)], [run("grpo", seed, 0.3) for seed in (1, 2)]
    risen, fallen = ([run("grpo", seed, share) for seed in (1, 2)] for share in (0.6, 0.1))
    assert claim("accuracy-up", base=base, grpo=risen).verdict == "held"
    assert claim("accuracy-up", base=base, grpo=fallen).verdict == "did not hold"
    assert claim("accuracy-up", base=base, grpo=flat).verdict == "undecided"
    assert claim("accuracy-up", base=base).verdict == "not measured"
    assert claim("accuracy-up", base=base, grpo=[run("grpo", 1, 0.6, finished=False)]).verdict == "not measured"
    assert claim("grpo-above-sft", sft=[run("sft", s, 0.6) for s in (1, 2)], grpo=flat).verdict == "did not hold"


def test_what_is_only_form_is_told_from_better_answers() -> None:
    readable = run("grpo", 1, 0.6).asked[0].right["strict"]
    base = [run("base", 0, 0.0, any_form=readable)]
    grpo = [run("grpo", 1, 0.6)]
    assert claim("accuracy-up", base=base, grpo=grpo).verdict == "held"
    assert claim("accuracy-up-beyond-format", base=base, grpo=grpo).verdict == "undecided"


def test_differences_pair_the_seeds_and_refuse_other_items() -> None:
    arms: Arms = {"a": [run("a", 1, 0.2), run("a", 2, 0.4)], "b": [run("b", 2, 0.5)]}
    found = difference(arms, "a", "b", "strict")
    assert found is not None
    assert found.value == pytest.approx(0.2)  # one run against both
    three = {"a": arms["a"], "b": [run("b", 2, 0.5), run("b", 3, 0.9)]}
    paired = difference(three, "a", "b", "strict")
    assert paired is not None
    assert paired.value == pytest.approx(0.1)  # seed 2 alone is in both
    asked = run("b", 1, 0.5).asked[0].model_copy(update={"items": "other"})
    assert difference({"a": arms["a"], "b": [run("b", 1, 0.5, asked=[asked])]}, "a", "b", "strict") is None
    assert table_of(arms["a"], "another prompt", "strict") is None


def test_a_fall_and_a_rise_are_seen_and_noise_is_not() -> None:
    shape = length_shape(curve(40, 20, 60))
    assert shape is not None
    assert (shape.fall.interval.low > 0, shape.growth.interval.low > 0) == (True, True)
    assert 30 < shape.lowest_from < 60
    flat = [length_shape(curve(40, 40, 40, noise=4.0)[shift:]) for shift in range(3)]
    assert not any(one is None or one.fall.interval.low > 0 < one.growth.interval.low for one in flat)
    assert length_shape(curve(40, 20)[:10]) is None
    text = "length-falls-then-grows"
    both = [run("grpo", 1, 0.5, curves={"completion_tokens": curve(40, 20, 60)})]
    only_grows = [run("grpo", 2, 0.5, curves={"completion_tokens": curve(20, 40, 60)})]
    assert claim(text, grpo=both).verdict == "held"
    assert claim(text, grpo=only_grows).verdict == "did not hold"
    assert claim(text, grpo=both + only_grows).verdict == "held in some seeds"


def test_choosing_the_lowest_stretch_does_not_make_it_low() -> None:
    """Of pure noise the lowest stretch lies below the first by the rule about as seldom as chance allows."""
    found = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(30, 3, 150)
        shape = length_shape(list(enumerate(map(float, values), 1)))
        assert shape is not None
        found += shape.fall.interval.low > 0
    assert found / 200 < 0.06


def test_reflection_has_to_rise_and_to_stay() -> None:
    def counted(*hits: int) -> list[RunSummary]:
        counts = [(25 * at, number, 200) for at, number in enumerate(hits, 1)]
        return [run("grpo", 1, 0.5, reflection_rollouts={"visualthinker": counts})]

    assert claim("reflection-emerges", grpo=counted(4, 6, 30, 40)).verdict == "held"
    assert claim("reflection-emerges", grpo=counted(4, 30, 30, 5)).verdict == "did not hold"
    assert claim("reflection-emerges", grpo=counted(4, 6, 5, 7)).verdict == "did not hold"


def test_trivial_thoughts_and_bought_length() -> None:
    def probed(verdict: str) -> dict[str, Any]:
        return {"necessity": {"verdict": verdict, "sentence": f"{verdict}."}}

    twin = [run("grpo-instruct", seed, 0.5, **probed("trivial")) for seed in (1, 2)]
    assert claim("instruct-trivial", grpo_instruct=twin).verdict == "held"
    mixed = [twin[0], run("grpo-instruct", 2, 0.5, **probed("needed"))]
    assert claim("instruct-trivial", grpo_instruct=mixed).verdict == "held in some seeds"
    name = "length-reward-buys-length-only"
    longer, better = ([run("grpo-instruct-length", 1, share, tokens=60)] for share in (0.5, 0.7))
    same = [run("grpo-instruct-length", 1, 0.5)]
    for runs, verdict in ((longer, "held"), (better, "did not hold"), (same, "did not hold")):
        assert claim(name, grpo_instruct=twin, grpo_instruct_length=runs).verdict == verdict
