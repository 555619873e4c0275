"""The curves of a report: what is drawn from `metrics.jsonl`, and the sentence that explains each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from cleareyed.report.plots import FURTHER, Line, colours_for, curves, svg
from cleareyed.report.summary import series
from cleareyed.report.words import title_of

Metrics = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Panel:
    title: str
    sentence: str
    picture: Markup


def panels(runs: Mapping[str, Metrics]) -> tuple[list[Panel], list[str]]:
    """Pictures of what the runs (label to metrics) recorded, and the titles of those for which nothing was."""
    drawn, missing = [], []
    for title, sentence, lines, unit, shares in _plan(runs):
        if lines:
            drawn.append(Panel(title, sentence, svg(curves(lines, unit=unit, shares=shares), f"{title}. {sentence}")))
        else:
            missing.append(title)
    return drawn, missing


def accuracy_lines(runs: Mapping[str, Metrics]) -> list[Line]:
    """Accuracy of sampled completions where there are any, and validation accuracy of every run."""
    return _lines(runs, "accuracy", "{}, while training") + _lines(runs, "validation/accuracy", "{}, validation", True)


def length_lines(runs: Mapping[str, Metrics]) -> list[Line]:
    """Mean completion length with the 10th to 90th percentile as a band."""
    colours = colours_for(list(runs))
    lines = []
    for label, metrics in runs.items():
        if mean := series(metrics, "completion_tokens"):
            low, high = series(metrics, "completion_tokens_p10"), series(metrics, "completion_tokens_p90")
            whole = [step for step, _ in low] == [step for step, _ in high] and len(low) > 0
            lines.append(Line(title_of(label), mean, colours[label], band=(low, high) if whole else None))
    return lines


def _plan(runs: Mapping[str, Metrics]) -> list[tuple[str, str, list[Line], str, bool]]:
    """Title, sentence, lines, unit, whether shares."""
    supervised = {
        label: [row for row in rows if row.get("token_accuracy") is not None] for label, rows in runs.items()
    }
    return [
        (
            "Reward by function",
            "Mean reward of a step's completions, before weighting.",
            _reward_lines(runs),
            "reward",
            False,
        ),
        (
            "Accuracy",
            "Share right: of the completions sampled while training, and of greedy answers on the validation "
            "samples, which are never trained on.",
            accuracy_lines(runs),
            "",
            True,
        ),
        (
            "Format",
            "Share of completions written as <think>…</think><answer>…</answer>.",
            _lines(runs, "format_rate", "{}, while training")
            + _lines(runs, "validation/format_rate", "{}, validation", True),
            "",
            True,
        ),
        (
            "Completion length",
            "Mean tokens of a completion; the band runs from the 10th to the 90th percentile.",
            length_lines(runs),
            "tokens",
            False,
        ),
        (
            "Supervised loss",
            "Mean cross-entropy of the tokens learned.",
            _lines(supervised, "loss"),
            "nats",
            False,
        ),
        (
            "Token accuracy",
            "Share of answer tokens that the model would have chosen itself.",
            _lines(runs, "token_accuracy"),
            "",
            True,
        ),
        (
            "Entropy",
            "Mean entropy of the next-token distribution: how undecided the model is.",
            _lines(runs, "entropy"),
            "nats",
            False,
        ),
        ("KL", "Distance from the model that training started from.", _lines(runs, "kl"), "nats", False),
        ("Gradient norm", "Before clipping.", _lines(runs, "grad_norm"), "norm", False),
        (
            "Groups without signal, completions cut off",
            "Share of prompts whose completions all earned the same reward and so teach nothing, and share of "
            "completions that ran into the length limit.",
            _pair_of_shares(runs),
            "",
            True,
        ),
    ]


def _lines(runs: Mapping[str, Metrics], key: str, name: str = "{}", marked: bool = False) -> list[Line]:
    colours = colours_for(list(runs))
    return [
        Line(name.format(title_of(label)), points, colours[label], "points" if marked else "smoothed")
        for label, metrics in runs.items()
        if (points := series(metrics, key))
    ]


def _reward_lines(runs: Mapping[str, Metrics]) -> list[Line]:
    found = []
    for label, metrics in runs.items():
        names = sorted({key for row in metrics for key in row if key.startswith("reward/")})
        for name in names:
            if points := series(metrics, name):
                function = name.removeprefix("reward/")
                found.append((function if len(runs) == 1 else f"{title_of(label)}: {function}", points))
    return [Line(name, points, FURTHER[at % len(FURTHER)]) for at, (name, points) in enumerate(found)]


def _pair_of_shares(runs: Mapping[str, Metrics]) -> list[Line]:
    keys = {"share_without_signal": ("no signal", FURTHER[0]), "share_cut_off": ("cut off", FURTHER[1])}
    return [
        Line(name, points, colour)
        for metrics in runs.values()
        for key, (name, colour) in keys.items()
        if (points := series(metrics, key))
    ]
