"""Reports as single HTML files: no scripts, nothing loaded from elsewhere, everything sampled or read is escaped."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cleareyed.errors import InputError
from cleareyed.evaluation.stats import majority_class
from cleareyed.records.parts import read_answers
from cleareyed.records.rows import AnswerRow
from cleareyed.records.run import RunFolder, read_metrics
from cleareyed.report import words
from cleareyed.report.gallery import Card, cards
from cleareyed.report.panels import Metrics, accuracy_lines, length_lines, panels
from cleareyed.report.plots import SMOOTHED_OVER, accuracy_bars, overview, png, svg
from cleareyed.report.summary import (
    ANY_FORM,
    Summary,
    by_label,
    chance_by_skill,
    length_windows,
    outcome_rule,
    paired_tests,
    run_cost,
    summarise,
    write_whole,
)
from cleareyed.report.thinking import Page, page_of
from cleareyed.tasks.task import Sample, Task
from cleareyed.thinking.of_run import is_studied, thinking_of_run

VALIDATION = "validation"
"""Label of answers given while training; they are in the curves, and compared only where nothing else was measured."""
DEMO_LABELS = ("base", "base/no-reasoning", "sft", "grpo")
EVAL = "eval"
"""The method of a run folder in which nothing was trained."""
DEMO_PAIRS = (("base", "grpo"), ("base", "sft"), ("base/no-reasoning", "sft"), ("sft", "grpo"))


@dataclass(frozen=True)
class Comparison:
    """What a page shows of one task."""

    task: str
    rule: str
    summaries: dict[str, Summary]
    steps: dict[str, int]
    chance: dict[str, float]
    majority: tuple[str, float] | None
    """None where there are no gold answers."""
    clustered: bool
    tests: list[tuple[str, list[Summary]]]
    """By rule."""
    bars: Markup


def demo_report(
    folder: Path,
    grpo: RunFolder,
    sft: RunFolder,
    rows: Sequence[AnswerRow],
    task: Task,
    *,
    rule: str = "strict",
    notes: Sequence[str] = (),
) -> Path:
    """Write `folder`/report.html: base, SFT and GRPO on one task, how training went, and ten samples to read.

    `rows` hold the answers of the labels in `DEMO_LABELS` (others are left out). `notes` are sentences printed
    under the title. Raises InputError if `base`, `sft` or `grpo` has no answers.
    """
    answers = by_label(rows)
    if absent := [label for label in ("base", "sft", "grpo") if label not in answers]:
        raise InputError(f"{folder}: no answers labelled {', '.join(absent)}; evaluate them before the report")
    answers = {label: answers[label] for label in DEMO_LABELS if label in answers}
    samples = {sample.id: sample for sample in task.samples}
    runs = {"sft": read_metrics(sft), "grpo": read_metrics(grpo)}
    recipes = {"GRPO": _text(grpo.recipe), "SFT": _text(sft.recipe)}
    shown = {label: answers[label] for label in ("base", "sft", "grpo")}
    return _write(
        folder / "report.html",
        title="What reinforcement taught a small vision-language model",
        lead=f"The base model answered {len(answers['base']):,} questions of {task.name} as it is, after supervised "
        "fine-tuning (SFT) on bare answers, and after reinforcement with rule rewards (GRPO) on the same prompts.",
        notes=notes,
        facts=_demo_facts(yaml.safe_load(recipes["GRPO"]), yaml.safe_load(recipes["SFT"])),
        comparisons=[_compare(answers, DEMO_PAIRS, samples, task.name, rule)],
        runs=runs,
        gallery=cards(shown, samples, rule),
        recipes=recipes,
        environment=_text(grpo.environment),
    )


def run_report(run: RunFolder, task: Task | None = None, *, rule: str | None = None) -> Path:
    """Write report.html into a run folder, from its records alone; `task` adds images and the score of guessing.

    `rule` is the accuracy rule reported; left out, that of `task`, or `strict`. What was not recorded is named as
    missing. Raises InputError if the answers were not judged under the rule.
    """
    rule = rule or (task.rule if task else "strict")
    recipe = yaml.safe_load(_text(run.recipe))
    method = str(recipe.get("method", "run"))
    samples = {sample.id: sample for sample in task.samples} if task else {}
    comparisons: list[Comparison] = []
    gallery: list[Card] = []
    for name, rows in _measured(read_answers(run)).items():
        own = samples if task and task.name == name else {}
        answers, under = measurements(rows), outcome_rule(rows) or rule
        comparisons.append(_compare(answers, before_and_after(answers), own, name, under))
        if own or not gallery:
            gallery = cards(answers, own, under)
    asked = " and ".join(found.task for found in comparisons) or "nothing yet"
    trained_on = recipe.get("task", {}).get("name", "an unnamed task")
    return _write(
        run.report,
        title=f"Run {run.path.resolve().name}",
        lead=f"Measured on {asked}."
        if method == EVAL
        else f"{words.title_of(method)} on {trained_on}, measured on {asked}.",
        notes=(),
        facts=_facts(recipe),
        comparisons=comparisons,
        runs={} if method == EVAL else {method: read_metrics(run)},
        gallery=gallery,
        recipes={words.title_of(method): _text(run.recipe)},
        environment=_text(run.environment) if run.environment.exists() else "",
        thinking=page_of(thinking_of_run(run)) if is_studied(run) else None,
    )


def readme_picture(folder: Path, target: Path) -> Path:
    """Draw a finished demo (`folder` with summary.json, grpo/ and sft/) as one PNG: bars, accuracy and length."""
    summary = json.loads(_text(folder / "summary.json"))
    summaries = {label: summary[label] for label in DEMO_LABELS if label in summary}
    runs = {name: read_metrics(RunFolder(folder / name)) for name in ("sft", "grpo")}
    drawn = {
        "Accuracy over training": (accuracy_lines(runs), True),
        "Completion length in tokens (GRPO)": (length_lines(runs), False),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(png(overview(summaries, summary.get("chance", {}), drawn)))
    return target


def measurements(rows: Sequence[AnswerRow]) -> dict[str, list[AnswerRow]]:
    """Rows of one task by label, earlier steps first; a label measured at several steps is split by step."""
    found: dict[tuple[int, str], list[AnswerRow]] = {}
    for row in sorted(rows, key=lambda row: row.step):
        found.setdefault((row.step, row.label), []).append(row)
    labels = [label for _, label in found]
    return {
        label if labels.count(label) == 1 else f"{label}, step {step}": answers
        for (step, label), answers in found.items()
    }


def before_and_after(answers: Mapping[str, Sequence[AnswerRow]]) -> list[tuple[str, str]]:
    """Pairs to test: each label of the last step with the earlier ones asked under the same prompt, else with all.

    The prompt is what follows the label's first "/" (`base/no-reasoning`), none for the run's own.
    """
    steps = {label: rows[0].step for label, rows in answers.items()}
    prompts = {label: label.partition(", step ")[0].partition("/")[2] for label in answers}
    pairs = []
    for last in [label for label in answers if steps[label] == max(steps.values())]:
        earlier = [label for label in answers if steps[label] < steps[last]]
        same = [label for label in earlier if prompts[label] == prompts[last]]
        pairs += [(label, last) for label in same or earlier]
    return pairs


def _compare(
    answers: Mapping[str, Sequence[AnswerRow]],
    pairs: Sequence[tuple[str, str]],
    samples: Mapping[str, Sample],
    task: str,
    rule: str,
) -> Comparison:
    summaries = {label: next(iter(summarise(rows, rule).values())) for label, rows in answers.items()}
    first = next(iter(answers.values()))
    asked = [samples[row.sample_id] for row in first if row.sample_id in samples]
    chance = chance_by_skill(asked)
    any_form = rule != ANY_FORM and all(summary["accuracy_any_form"] is not None for summary in summaries.values())
    tests = [(name, paired_tests(answers, pairs, name)) for name in ([rule, ANY_FORM] if any_form else [rule])]
    sentence = "; ".join(
        f"{words.title_of(label)} {words.percent(summary['accuracy'])} %" for label, summary in summaries.items()
    )
    return Comparison(
        task=task,
        rule=rule,
        summaries=summaries,
        steps={label: rows[0].step for label, rows in answers.items()},
        chance=chance,
        majority=None if outcome_rule(first) else majority_class([row.answer for row in first]),
        clustered=len({row.group for row in first if row.group}) < sum(1 for row in first if row.group),
        tests=[(name, found) for name, found in tests if found],
        bars=svg(accuracy_bars(summaries, chance), f"Accuracy on {task}: {sentence}."),
    )


def _measured(rows: Sequence[AnswerRow]) -> dict[str, list[AnswerRow]]:
    """Rows by task: what was measured around training or, if nothing was, the first and last validation."""
    kept = [row for row in rows if row.label != VALIDATION]
    if not kept:
        steps = [row.step for row in rows]
        kept = [row for row in rows if row.step in (min(steps), max(steps))]
    found: dict[str, list[AnswerRow]] = {}
    for row in kept:
        found.setdefault(row.task, []).append(row)
    return found


def _facts(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The settings that a reader asks for first."""
    optimizer, sampling = recipe.get("optimizer", {}), recipe.get("sampling", {})
    facts: dict[str, Any] = {
        "model": recipe.get("model", {}).get("path"),
        "trained on": recipe.get("task", {}).get("name"),
        "prompt": recipe.get("prompt"),
        "steps": recipe.get("steps"),
        "prompts a step": recipe.get("prompts_per_step") or recipe.get("batch"),
        "completions a prompt": sampling.get("group"),
        "learning rate": optimizer.get("lr"),
        "KL weight": recipe.get("beta"),
        "seed": recipe.get("seed"),
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


def _demo_facts(grpo: Mapping[str, Any], sft: Mapping[str, Any]) -> dict[str, str]:
    """What the two runs share, then the settings of each in one line."""
    of_each = {"GRPO": _facts(grpo), "SFT": _facts(sft)}
    shared = {name: value for name, value in of_each["GRPO"].items() if of_each["SFT"].get(name) == value}
    lines = {
        method: ", ".join(f"{name} {value}" for name, value in facts.items() if name not in shared)
        for method, facts in of_each.items()
    }
    return {**shared, **lines}


def _write(
    path: Path,
    *,
    comparisons: Sequence[Comparison],
    runs: Mapping[str, Metrics],
    thinking: Page | None = None,
    **context: Any,
) -> Path:
    pictures, missing = panels(runs)
    page = (
        environment()
        .get_template("report.html")
        .render(
            comparisons=comparisons,
            thinking=thinking,
            panels=pictures,
            missing=missing,
            smoothed_over=SMOOTHED_OVER,
            windows={label: found for label, metrics in runs.items() if (found := length_windows(metrics))},
            costs={label: run_cost(metrics) for label, metrics in runs.items()},
            **context,
        )
    )
    write_whole(path, page)
    return path


def environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cleareyed.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("percent", "percent_range", "points", "points_range", "number", "p_value", "duration", "visible"):
        environment.filters[name] = getattr(words, name)
    environment.filters["title_of"] = words.title_of
    return environment


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); is this a finished run's folder?") from error
