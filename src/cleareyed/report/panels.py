"""The curves of a report: what is drawn from `metrics.jsonl`, and the sentence that explains each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from cleareyed.report.plots import FURTHER, INK, Line, colours_for, curves, svg
from cleareyed.report.summary import series
from cleareyed.report.words import title_of
from cleareyed.thinking.gains import AS_IS, CUTS, OTHER_THOUGHT, REMOVED, SIGHT_ARMS
from cleareyed.thinking.reflection import DEFINITIONS

WIDE = (INK, *FURTHER)
"""Colours of the lines of a probe: what is as it is first."""
Metrics = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Panel:
    title: str
    sentence: str
    picture: Markup


def panels(runs: Mapping[str, Metrics]) -> tuple[list[Panel], list[str]]:
    """Pictures of what the runs (label to metrics) recorded, and the titles of those for which nothing was."""
    drawn, missing = [], []
    for title, sentence, lines, unit, shares in [*_plan(runs), *_thinking_plan(runs)]:
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


def _thinking_plan(runs: Mapping[str, Metrics]) -> list[tuple[str, str, list[Line], str, bool]]:
    """As `_plan`, of the probes of the thinking; nothing where there were none."""
    if not any(key.startswith("thinking/") for metrics in runs.values() for row in metrics for key in row):
        return []
    return [
        (
            "Length of thought and answer",
            "Mean tokens, on the probe's questions.",
            _thinking(runs, {"tokens_thought": "thought", "tokens_answer": "answer"}),
            "tokens",
            False,
        ),
        (
            "Thought of right and wrong answers",
            "Mean tokens of the thought, on the probe's questions.",
            _thinking(runs, {"tokens_thought_right": "right", "tokens_thought_wrong": "wrong"}),
            "tokens",
            False,
        ),
        (
            "Reflection",
            "Share of the probe's answers that reflect, by three definitions that are not comparable.",
            _thinking(runs, {f"reflection/{name}": name for name in DEFINITIONS}),
            "",
            True,
        ),
        (
            "With part of the thought",
            "Share right of the probe's answers, as they are and with 25, 50 and 75 % of the thought; the answer is "
            "read behind the thought, in any form.",
            _thinking(runs, {f"accuracy/{arm}": arm for arm in (AS_IS, *CUTS)}),
            "",
            True,
        ),
        (
            "Without the thought",
            "Share right of the probe's answers: as they are, with another's thought, with an empty one, and asked "
            "for none; read in the same way.",
            _thinking(runs, {f"accuracy/{arm}": arm for arm in (AS_IS, OTHER_THOUGHT, *REMOVED)}),
            "",
            True,
        ),
        (
            "Does it look?",
            "Share right of the probe's answers: as they are, with a blank picture and with another's.",
            _thinking(runs, {f"accuracy/{arm}": arm for arm in (AS_IS, *SIGHT_ARMS)}),
            "",
            True,
        ),
        (
            "Thinking gain and sight gain",
            "Accuracy as it is less the better of the two ways of taking the thought, or the picture, away; the bands "
            "are 95 % intervals.",
            _thinking(runs, {"thinking_gain": "thinking gain", "sight_gain": "sight gain"}, bands=True),
            "share",
            False,
        ),
        (
            "Consistency and repetition",
            "Share whose answer is their thought's own conclusion; mean share of repeated 4-grams.",
            _thinking(runs, {"consistency": "consistent", "repeated_ngrams": "repeated"}),
            "",
            True,
        ),
    ]


def _thinking(runs: Mapping[str, Metrics], names: Mapping[str, str], bands: bool = False) -> list[Line]:
    """Measured points by name, of every run; with `bands`, from NAME_low to NAME_high."""
    found = []
    for label, metrics in runs.items():
        for at, (key, name) in enumerate(names.items()):
            points, low, high = (series(metrics, f"thinking/{key}{end}") for end in ("", "_low", "_high"))
            if points:
                whole = bands and len(low) == len(high) == len(points)
                band = (low, high) if whole else None
                title = name if len(runs) == 1 else f"{title_of(label)}: {name}"
                found.append(Line(title, points, WIDE[at % len(WIDE)], "points", band))
    return found


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
