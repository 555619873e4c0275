"""What answers and metrics come to, as plain numbers: the one source of every figure in tables and pages."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from cleareyed.errors import InputError
from cleareyed.evaluation.compare import judged
from cleareyed.evaluation.stats import guess_accuracy, lowest_window, paired, share_interval, window_mean
from cleareyed.records.rows import AnswerRow
from cleareyed.tasks.task import Sample

Summary = dict[str, Any]
"""One label's numbers, as `summarise` makes them and `summary.json` holds them."""

ANY_FORM = "any-form"
OUTCOMES = ("complies", "declines")
"""The rules of tasks without gold answers (`scoring.rules.OUTCOME_RULES`)."""


def summarise(rows: Sequence[AnswerRow], rule: str = "strict") -> dict[str, Summary]:
    """The numbers of each label in `rows`, in order of first appearance; shares are fractions in 0..1.

    Each label: `accuracy` under `rule`, `accuracy_any_form` (None if not judged), `interval` [low, high] (95 %,
    Wilson, or a bootstrap by group where items share groups), `by_skill` {skill: {accuracy, interval, n}},
    `format_rate`, `mean_tokens` (None if the provider does not say), `share_cut_off`, `n`, `unjudged` {state: count}:
    rows without an answer to judge, which are in no other figure.

    Raises InputError if a row was not judged under `rule`, a label answered a sample twice or has no answer to judge.
    """
    return {label: _summary(label, answers, rule) for label, answers in by_label(rows).items()}


def outcome_rule(rows: Sequence[AnswerRow]) -> str | None:
    """The rule that answers to a task without gold answers were judged under; None for other tasks."""
    return next((rule for rule in OUTCOMES if rows and all(rule in row.correct for row in rows)), None)


def by_label(rows: Sequence[AnswerRow]) -> dict[str, list[AnswerRow]]:
    found: dict[str, list[AnswerRow]] = {}
    for row in rows:
        found.setdefault(row.label, []).append(row)
    return found


def paired_tests(
    answers: Mapping[str, Sequence[AnswerRow]], pairs: Iterable[tuple[str, str]], rule: str = "strict"
) -> list[Summary]:
    """Compare labels (of `by_label`) on the samples both answered: second against first, per pair.

    Each test, over answers that were judged: `first`, `second`, `n`, `difference` (second - first), `interval`
    [low, high], `p` (exact McNemar), `first_only`, `second_only`. A pair whose labels answered no sample in common is
    left out.
    """
    tables = {label: {row.sample_id: row for row in rows if judged(row)} for label, rows in answers.items()}
    tests = []
    for first, second in pairs:
        one, two = tables.get(first, {}), tables.get(second, {})
        shared = [name for name in one if name in two]
        if not shared:
            continue
        found = paired(
            [_correct(one[name], rule) for name in shared],
            [_correct(two[name], rule) for name in shared],
            [one[name].group for name in shared],
        )
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


def chance_by_skill(samples: Sequence[Sample]) -> dict[str, float]:
    """What guessing among the choices scores: overall (key "") and by skill, leaving out parts with open questions."""
    parts: dict[str, list[Sample]] = {"": list(samples)}
    for sample in samples:
        if sample.skill:
            parts.setdefault(sample.skill, []).append(sample)
    return {
        part: guess_accuracy(found)
        for part, found in parts.items()
        if found and all(sample.choices for sample in found)
    }


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


def _summary(label: str, rows: Sequence[AnswerRow], rule: str) -> Summary:
    ids = sorted(row.sample_id for row in rows)
    if twice := next((one for one, other in pairwise(ids) if one == other), None):
        raise InputError(f"answers of '{label}': sample '{twice}' is answered twice; keep one task and step per label")
    unjudged = Counter(row.state for row in rows if not judged(row))
    rows = [row for row in rows if judged(row)]
    if not rows:
        states = ", ".join(f"{count} {state}" for state, count in sorted(unjudged.items()))
        raise InputError(f"answers of '{label}': none can be judged ({states}); ask again with --resume")
    skills: dict[str, list[AnswerRow]] = {}
    for row in rows:
        if row.skill:
            skills.setdefault(row.skill, []).append(row)
    judged_any_form = all(ANY_FORM in row.correct for row in rows)
    tokens = [row.tokens for row in rows if row.tokens is not None]
    return {
        **_share(rows, rule),
        "accuracy_any_form": _share(rows, ANY_FORM)["accuracy"] if judged_any_form else None,
        "by_skill": {skill: _share(answers, rule) for skill, answers in sorted(skills.items())},
        "format_rate": sum(row.well_formed for row in rows) / len(rows),
        "mean_tokens": sum(tokens) / len(tokens) if tokens else None,
        "share_cut_off": sum(map(cut_off, rows)) / len(rows),
        "unjudged": dict(unjudged),
    }


def cut_off(row: AnswerRow) -> bool:
    """Whether the answer ran into its longest length."""
    return row.state == "cut-off" or row.finish == "length"


def _share(rows: Sequence[AnswerRow], rule: str) -> Summary:
    right = [_correct(row, rule) for row in rows]
    interval = share_interval(right, [row.group for row in rows])
    return {"accuracy": sum(right) / len(right), "interval": [interval.low, interval.high], "n": len(right)}


def _correct(row: AnswerRow, rule: str) -> bool:
    if rule not in row.correct:
        raise InputError(
            f"answers of '{row.label}': not judged under rule '{rule}'; "
            f"choose one of {', '.join(sorted(row.correct))} or evaluate again with that rule"
        )
    return row.correct[rule]


def _last(metrics: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return next((row[key] for row in reversed(metrics) if row.get(key) is not None), None)
