"""The paper's claims, and the rule by which each is said to have held: written before the study was run.

Claims go by arms of these names; a study without them says so. Accuracy is that of the last checkpoint, which nothing
was chosen by, on the study's first task in the arm's first prompt. Intervals are 95 %.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from cleareyed.evaluation.stats import Estimate, Interval, seeds_and_items
from cleareyed.study.summary import Asked, RunSummary
from cleareyed.thinking.reflection import rise

BASE, SFT, GRPO, MODERN = "base", "sft", "grpo", "grpo-modern"
INSTRUCT, ON_INSTRUCT, LENGTH = "instruct", "grpo-instruct", "grpo-instruct-length"
FROZEN_VISION, FROZEN_LANGUAGE = "grpo-instruct-frozen-vision", "grpo-instruct-frozen-language"

WINDOW = 20
"""Steps in a stretch of completion lengths; a fifth of the training if that is less."""
Z = 1.959963984540054
"""For 95 %."""

Verdict = Literal["held", "did not hold", "undecided", "held in some seeds", "not measured"]
Arms = Mapping[str, Sequence[RunSummary]]
"""By arm: its runs, in the order of seeds."""


@dataclass(frozen=True)
class Claim:
    """What the paper says, and what was found here."""

    name: str
    claim: str
    source: str
    """Where the paper says it."""
    rule: str
    """What decides."""
    verdict: Verdict
    found: Sequence[str]
    """Sentences with the figures."""
    seeds: int = 0
    """Runs that the verdict rests on, of the arm that has most seeds."""
    numbers: Mapping[str, Any] = field(default_factory=dict)


def judge(arms: Arms) -> list[Claim]:
    """Every claim, in the paper's order; arms without finished runs are as if they were not there."""
    ready = {name: [run for run in runs if run.finished] for name, runs in arms.items()}
    ready = {name: runs for name, runs in ready.items() if runs}
    return [one(ready) for one in (accuracy_up, better_answers, above_sft, length_curve, emergence, trivial, hacked)]


def accuracy_up(arms: Arms) -> Claim:
    return _compared(
        arms,
        "accuracy-up",
        "GRPO on the base model raises accuracy far above the base model's.",
        "abstract; Table 3 (+28.1 points on CV-Bench)",
        (BASE, GRPO),
        "strict",
    )


def better_answers(arms: Arms) -> Claim:
    return _compared(
        arms,
        "accuracy-up-beyond-format",
        "That rise is better answers, and not only their form.",
        "read into the abstract; the paper does not part the two",
        (BASE, GRPO),
        "any-form",
    )


def above_sft(arms: Arms) -> Claim:
    return _compared(
        arms,
        "grpo-above-sft",
        "GRPO ends above SFT on the same prompts.",
        "abstract; Table 3 (+1.6 points on CV-Bench, less than the sampling error of its 2,638 questions)",
        (SFT, GRPO),
        "strict",
    )


def length_curve(arms: Arms) -> Claim:
    """Falls and rises of mean completion length in training, the lowest stretch found on other steps than measured."""
    runs = arms.get(GRPO, ())
    text = "Responses first become shorter, then steadily longer."
    rule = (
        f"The lowest stretch of {WINDOW} steps is found on odd steps alone. On even steps alone, its mean completion "
        "length lies below that of the first stretch, and that of the last stretch above it, each by a 95 % interval "
        "of the difference (of means over steps). Held if so in all seeds."
    )
    shapes = [shape for run in runs if (shape := length_shape(run.curves.get("completion_tokens", ())))]
    if not shapes:
        return _absent("length-falls-then-grows", text, "Figure 1", rule, (GRPO,))
    fell, grew = [one.fall.interval.low > 0 for one in shapes], [one.growth.interval.low > 0 for one in shapes]
    both = [a and b for a, b in zip(fell, grew, strict=True)]
    sentences = [
        f"Seed {run.seed}: {one.first:.1f} tokens in the first stretch, {one.lowest:.1f} in the lowest (from step "
        f"{one.lowest_from}), {one.last:.1f} in the last; fall {_tokens(one.fall)}, growth {_tokens(one.growth)}."
        for run, one in zip(runs, shapes, strict=False)
    ]
    return Claim(
        "length-falls-then-grows",
        text,
        "section 5.1 and Figure 1",
        rule,
        _over_seeds(both),
        [f"It fell in {sum(fell)} and grew in {sum(grew)} of {len(shapes)} seeds.", *sentences],
        len(shapes),
        {"fell": fell, "grew": grew},
    )


def emergence(arms: Arms) -> Claim:
    """Reflection by the paper's own words, among sampled completions of training."""
    runs = arms.get(GRPO, ())
    text = "Self-reflection (the “aha moment”) emerges in training."
    rule = (
        "The share of completions that hold one of the authors' words (aha, check, possibl*, verify, wait, yet), one "
        "sampled completion a prompt, in six windows of steps: one-sided exact test of each later window against the "
        "first, Holm over windows; it rose if a window is above and the last still is. Held if so in all seeds."
    )
    risen, sentences = [], []
    for run in runs:
        counts = run.reflection_rollouts.get("visualthinker", [])
        if not counts:
            continue
        found = rise(counts)
        risen.append(found.step is not None and found.lasts)
        rates = ", ".join(f"{100 * hits / n:.1f}" for _, hits, n in counts if n)
        when = f"rose, first by step {found.step}" if risen[-1] else "did not rise and stay above"
        sentences.append(f"Seed {run.seed}: {rates} % by window; it {when}. {_other_definitions(run)}")
    if not risen:
        return _absent("reflection-emerges", text, "section 5.1; issue 12 of its repository", rule, (GRPO,))
    return Claim(
        "reflection-emerges",
        text,
        "section 5.1; the words are those of issue 12 of its repository",
        rule,
        _over_seeds(risen),
        sentences,
        len(risen),
    )


def trivial(arms: Arms) -> Claim:
    text = "GRPO on an instruction-tuned model gives trivial thoughts."
    rule = (
        "The thinking gain (accuracy with its own thoughts, less the better of an empty thought and the prompt that "
        "asks for none) has an interval that includes 0 while at least half of the thoughts are not empty. Held if so "
        "in all seeds. An interval that includes 0 does not show that the gain is 0: read it with its width."
    )
    probed = [run for run in arms.get(ON_INSTRUCT, ()) if run.necessity and run.necessity["verdict"]]
    if not probed:
        return _absent("instruct-trivial", text, "section 6.1 and Figure 3", rule, (ON_INSTRUCT,))
    sentences = [f"Seed {run.seed}: {_necessity(run)['sentence']}" for run in probed]
    sentences += [
        f"For comparison, GRPO from base, seed {run.seed}: {_necessity(run)['sentence']}"
        for run in arms.get(GRPO, ())
        if run.necessity
    ]
    return Claim(
        "instruct-trivial",
        text,
        "section 6.1 and Figure 3",
        rule,
        _over_seeds([_necessity(run)["verdict"] == "trivial" for run in probed]),
        sentences,
        len(probed),
    )


def hacked(arms: Arms) -> Claim:
    text = "A reward for length buys length only."
    rule = (
        "On the same questions, with the length reward less without: the interval of completion tokens lies above 0, "
        "and that of accuracy (strict) does not. Did not hold if accuracy rose, or tokens did not."
    )
    pair = (ON_INSTRUCT, LENGTH)
    source = "section 6.3, Figures 5 and 6"
    if any(name not in arms for name in pair):
        return _absent("length-reward-buys-length-only", text, source, rule, pair)
    tokens, accuracy = difference(arms, *pair, "tokens"), difference(arms, *pair, "strict")
    if tokens is None or accuracy is None:
        return _absent("length-reward-buys-length-only", text, source, rule, pair)
    longer, better = tokens.interval.low > 0, accuracy.interval.low > 0
    verdict: Verdict = "held" if longer and not better else "did not hold"
    found = [
        f"Tokens {_tokens(tokens)}; accuracy {_points(accuracy)}.",
        *(f"Seed {run.seed}, repeated 4-grams: {_repeats(run)}." for run in arms[LENGTH]),
    ]
    return Claim("length-reward-buys-length-only", text, source, rule, verdict, found, _seeds(arms, pair))


@dataclass(frozen=True)
class LengthShape:
    """Mean completion tokens of three stretches, on even steps, and how they differ."""

    first: float
    lowest: float
    last: float
    lowest_from: int
    """The step at which the lowest stretch begins."""
    fall: Estimate
    """first - lowest."""
    growth: Estimate
    """last - lowest."""


def length_shape(points: Sequence[tuple[int, float | None]]) -> LengthShape | None:
    """Of lengths by step; None if there are too few steps. The lowest stretch is found on odd steps, all means are
    over even ones, so that no mean is low for having been chosen as the lowest."""
    known = [(step, value) for step, value in points if value is not None and step > 0]
    width = min(WINDOW, len(known) // 5) // 2 * 2
    if width < 4:
        return None
    values = np.array([value for _, value in known])  # (S,)
    odd = np.array([step % 2 == 1 for step, _ in known])  # (S,)
    starts = range(len(known) - width + 1)
    lowest = min(starts, key=lambda at: values[at : at + width][odd[at : at + width]].mean())
    parts = [values[at : at + width][~odd[at : at + width]] for at in (0, lowest, starts[-1])]
    first, low, last = parts
    return LengthShape(
        float(first.mean()),
        float(low.mean()),
        float(last.mean()),
        known[lowest][0],
        _difference_of_means(first, low),
        _difference_of_means(last, low),
    )


def accuracy_of(runs: Sequence[RunSummary], prompt: str | None = None, what: str = "strict") -> Estimate | None:
    """Of an arm on the first task, over seeds and items; `what` is a rule, `tokens` or `formed`."""
    table = table_of(runs, prompt, what)
    return None if table is None else seeds_and_items(table[0], table[1], draws=2000, within=bounds_of(what))


def difference(arms: Arms, first: str, second: str, what: str) -> Estimate | None:
    """second - first on the same items, by seed where both have it, else against the one run of the other."""
    one, two = table_of(arms[first], None, what), table_of(arms[second], None, what)
    if one is None or two is None or one[2] != two[2]:
        return None
    seeds_one, seeds_two = [run.seed for run in arms[first]], [run.seed for run in arms[second]]
    if len(seeds_one) == 1 or len(seeds_two) == 1:
        return seeds_and_items(two[0] - one[0], two[1], draws=2000, within=bounds_of(what, -1.0))  # (S, N) less (1, N)
    shared = [seed for seed in seeds_two if seed in seeds_one]
    if not shared:
        return None
    rows = [two[0][seeds_two.index(seed)] - one[0][seeds_one.index(seed)] for seed in shared]
    return seeds_and_items(np.stack(rows), two[1], draws=2000, within=bounds_of(what, -1.0))


def bounds_of(what: str, least: float = 0.0) -> tuple[float, float] | None:
    """What a share can be, or with -1 as the `least` a difference of two; None for tokens, which have no bounds."""
    return None if what == "tokens" else (least, 1.0)


def table_of(
    runs: Sequence[RunSummary], prompt: str | None, what: str, skill: str | None = None, task: str | None = None
) -> tuple[np.ndarray, list[str], str] | None:
    """(S, N) values of an arm's seeds, the items' groups (N,), and the hash of the items; None if not all have them.

    `task` and `prompt` are the first that was asked if left out; with `skill` only its items.
    """
    found: list[Asked] = []
    for run in runs:
        one = next(
            (a for a in run.asked if prompt in (None, a.prompt) and task in (None, a.task)),
            None,
        )
        if one is None or (found and one.items != found[0].items):
            return None
        found.append(one)
    if not found:
        return None
    values = np.array([_values(one, what) for one in found], dtype=np.float64)  # (S, N)
    groups = np.array(found[0].groups or [""] * values.shape[1], dtype=object)
    if skill is not None:
        keep = np.array(_bits(found[0].skills[skill]), dtype=bool)  # (N,)
        values, groups = values[:, keep], groups[keep]
    return values, list(groups), found[0].items


def _compared(arms: Arms, name: str, text: str, source: str, pair: tuple[str, str], rule: str) -> Claim:
    decides = (
        f"The difference of accuracy under the rule {rule}, on the same questions, has an interval above 0. Did not "
        "hold if it is below 0; undecided if it includes 0."
    )
    found = difference(arms, *pair, rule) if all(one in arms for one in pair) else None
    if found is None:
        return _absent(name, text, source, decides, pair)
    verdict: Verdict = "held" if found.interval.low > 0 else "did not hold" if found.interval.high < 0 else "undecided"
    sentence = f"{pair[1]} less {pair[0]}: {_points(found)} under {rule}."
    return Claim(name, text, source, decides, verdict, [sentence], _seeds(arms, pair))


def _absent(name: str, text: str, source: str, rule: str, needs: Sequence[str]) -> Claim:
    return Claim(name, text, source, rule, "not measured", [f"It needs finished runs of {' and '.join(needs)}."])


def _over_seeds(flags: Sequence[bool]) -> Verdict:
    return "held" if all(flags) else "held in some seeds" if any(flags) else "did not hold"


def _seeds(arms: Arms, names: Sequence[str]) -> int:
    return max(len(arms[name]) for name in names)


def _difference_of_means(first: np.ndarray, second: np.ndarray) -> Estimate:
    """first - second with a normal interval over steps, which are taken as independent."""
    value = float(first.mean() - second.mean())
    half = Z * math.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second))
    return Estimate(value, Interval(value - half, value + half))


def _necessity(run: RunSummary) -> Mapping[str, Any]:
    assert run.necessity is not None
    return run.necessity


def _other_definitions(run: RunSummary) -> str:
    parts = []
    for name in ("understand-r1-zero", "revision"):
        counts = run.reflection_rollouts.get(name, [])
        if counts and counts[0][2] and counts[-1][2]:
            first, last = (100 * hits / n for _, hits, n in (counts[0], counts[-1]))
            parts.append(f"{name} {first:.1f} % to {last:.1f} %")
    return f"By the other definitions, first window to last: {'; '.join(parts)}." if parts else ""


def _repeats(run: RunSummary) -> str:
    repeated = run.asked[0].quality["degeneration"]["repeated"] if run.asked else None
    return "not measured" if repeated is None else f"{100 * repeated['value']:.1f} %"


def _points(found: Estimate) -> str:
    low, high = found.interval.low, found.interval.high
    return f"{100 * found.value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"


def _tokens(found: Estimate) -> str:
    return f"{found.value:+.1f} ({found.interval.low:+.1f} to {found.interval.high:+.1f})"


def _values(asked: Asked, what: str) -> list[int]:
    if what == "tokens":
        return asked.tokens
    return _bits(asked.formed if what == "formed" else asked.right[what])


def _bits(text: str) -> list[int]:
    return [int(one) for one in text]
