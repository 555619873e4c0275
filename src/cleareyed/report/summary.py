"""What answers and metrics come to, as plain numbers: the one source of every figure in tables and pages."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cleareyed.errors import InputError
from cleareyed.evaluation.stats import Bools, lowest_window, paired, share_interval, window_mean
from cleareyed.evaluation.verdicts import Verdicts
from cleareyed.records.rows import AnswerMark
from cleareyed.tasks.names import number_of
from cleareyed.tasks.task import Sample

Summary = dict[str, Any]
"""One label's numbers, as `summary_of` makes them and `summary.json` holds them."""

ANY_FORM = "any-form"
OUTCOMES = ("complies", "declines")
"""The rules of tasks without gold answers (`scoring.rules.OUTCOME_RULES`)."""


def summarise(rows: Sequence[AnswerMark], rule: str = "strict") -> dict[str, Summary]:
    """The numbers of each label in `rows`, in order of first appearance, as `summary_of` gives them.

    Raises InputError as `summary_of`, or if a label answered a sample twice.
    """
    found = by_label(rows)
    for label, verdicts in found.items():
        if (twice := verdicts.twice()) is not None:
            name = next(row.sample_id for row in rows if number_of(row.sample_id) == twice)
            raise InputError(
                f"answers of '{label}': sample '{name}' is answered twice; keep one task and step per label"
            )
    return {label: summary_of(verdicts, rule) for label, verdicts in found.items()}


def summary_of(found: Verdicts, rule: str) -> Summary:
    """The numbers of one label; shares are fractions in 0..1.

    `accuracy` under `rule`, `accuracy_any_form` (None if not judged), `interval` [low, high] (95 %, Wilson, or a
    bootstrap by group where items share groups), `by_skill` {skill: {accuracy, interval, n}}, `format_rate`,
    `mean_tokens` (None if the provider does not say), `share_cut_off`, `n`, `unjudged` {state: count}: rows without
    an answer to judge, which are in no other figure.

    Raises InputError if an answer was not judged under `rule`, or there is none to judge.
    """
    kept = found.is_judged
    if not kept.any():
        states = ", ".join(f"{count} {state}" for state, count in sorted(found.unjudged.items()))
        raise InputError(f"answers of '{found.label}': none can be judged ({states}); ask again with --resume")
    right = found.right(rule)
    skills = {name: kept & (found.skill == at) for at, name in enumerate(found.skills) if name}
    return {
        **_share(found, right, kept),
        "accuracy_any_form": float(found.right(ANY_FORM)[kept].mean()) if found.has(ANY_FORM) else None,
        "by_skill": {name: _share(found, right, own) for name, own in sorted(skills.items()) if own.any()},
        "format_rate": float(found.well_formed[kept].mean()),
        "mean_tokens": found.tokens / found.counted if found.counted else None,
        "share_cut_off": float(found.cut_off[kept].mean()),
        "unjudged": dict(found.unjudged),
    }


def outcome_rule(found: Verdicts) -> str | None:
    """The rule that answers to a task without gold answers were judged under; None for other tasks."""
    return next((rule for rule in OUTCOMES if found.has(rule)), None)


def by_label(rows: Iterable[AnswerMark]) -> dict[str, Verdicts]:
    """What figures are made of, in order of first appearance."""
    found: dict[str, Verdicts] = {}
    for row in rows:
        if row.label not in found:
            found[row.label] = Verdicts(row.label, row.step)
        found[row.label].add(row)
    return found


def paired_tests(
    answers: Mapping[str, Verdicts], pairs: Iterable[tuple[str, str]], rule: str = "strict"
) -> list[Summary]:
    """Compare labels (of `by_label`) on the samples both answered: second against first, per pair.

    Each test, over answers that were judged: `first`, `second`, `n`, `difference` (second - first), `interval`
    [low, high], `p` (exact McNemar), `first_only`, `second_only`. A pair whose labels answered no sample in common is
    left out.
    """
    tests = []
    for first, second in pairs:
        if first not in answers or second not in answers:
            continue
        one, two = answers[first], answers[second]
        mine, other = np.flatnonzero(one.is_judged), np.flatnonzero(two.is_judged)
        _, at_one, at_two = np.intersect1d(one.names[mine], two.names[other], return_indices=True)
        order = np.argsort(at_one)  # of the first
        mine, other = mine[at_one[order]], other[at_two[order]]
        if not len(mine):
            continue
        found = paired(one.right(rule)[mine], two.right(rule)[other], one.groups[mine])
        tests.append(
            {
                "first": first,
                "second": second,
                "n": found.n,
                "difference": found.difference,
                "interval": [found.interval.low, found.interval.high],
                "p": found.p,
                "first_only": found.first_only,
                "second_only": found.second_only,
            }
        )
    return tests


def chance_by_skill(samples: Iterable[Sample]) -> dict[str, float]:
    """What guessing among the choices scores: overall (key "") and by skill, leaving out parts with open questions."""
    sums: dict[str, float] = {}
    counts: Counter[str] = Counter()
    for sample in samples:
        for part in dict.fromkeys(("", sample.skill)):
            sums[part] = sums.get(part, 0.0) + (1 / len(sample.choices) if sample.choices else math.nan)
            counts[part] += 1
    return {part: total / counts[part] for part, total in sums.items() if not math.isnan(total)}


def run_cost(metrics: Sequence[Mapping[str, Any]]) -> Summary:
    """What training took: `steps`, `samples` and `tokens` (cumulative in the metrics) and `seconds`, None if unknown.

    `seconds_by_phase` are sums over steps; a phase called `total` gives `seconds`, else the phases' sum does.
    """
    phases: dict[str, float] = {}
    for row in metrics:
        for key, value in row.items():
            if key.startswith("seconds/") and value is not None:
                phases[key.removeprefix("seconds/")] = phases.get(key.removeprefix("seconds/"), 0.0) + value
    total = phases.pop("total", None)
    return {
        "steps": max((int(row["step"]) for row in metrics), default=0),
        "samples": _last(metrics, "samples"),
        "tokens": _last(metrics, "tokens"),
        "seconds": total if total is not None else (sum(phases.values()) if phases else None),
        "seconds_by_phase": phases,
    }


def length_windows(metrics: Sequence[Mapping[str, Any]], width: int = 20) -> list[Summary]:
    """Mean completion length in the first, the lowest and the last `width` steps, with intervals over steps.

    Each: `window`, `from`, `to` (steps), `mean_tokens`, `interval`. Empty with fewer than `width` steps. The lowest
    window is chosen for being low, so its interval is too favourable to "it fell".
    """
    found = series(metrics, "completion_tokens")
    if len(found) < width:
        return []
    steps, values = zip(*found, strict=True)
    windows = []
    for name, start in (("first", 0), ("lowest", lowest_window(values, width)), ("last", len(values) - width)):
        mean = window_mean(values[start : start + width])
        windows.append(
            {
                "window": name,
                "from": steps[start],
                "to": steps[start + width - 1],
                "mean_tokens": mean.value,
                "interval": [mean.interval.low, mean.interval.high],
            }
        )
    return windows


def series(metrics: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """(step, value) of every row that has a number under `key`."""
    return [(int(row["step"]), float(row[key])) for row in metrics if row.get(key) is not None]


def write_summary(path: Path, by_label: Mapping[str, Summary], extra: Mapping[str, Any]) -> None:
    """Write labels and further keys side by side as JSON, aside first and then renamed.

    ValueError if a key of `extra` is a label's, or a number is not finite.
    """
    if shared := set(by_label) & set(extra):
        raise ValueError(f"keys given twice: {sorted(shared)}")
    text = json.dumps({**by_label, **extra}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, text)


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that readers see the old one or the new one, never a part."""
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _share(found: Verdicts, right: Bools, of: Bools) -> Summary:
    """`right` and `of`: (N,)"""
    interval = share_interval(right[of], found.groups[of])
    return {"accuracy": float(right[of].mean()), "interval": [interval.low, interval.high], "n": int(of.sum())}


def _last(metrics: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return next((row[key] for row in reversed(metrics) if row.get(key) is not None), None)
