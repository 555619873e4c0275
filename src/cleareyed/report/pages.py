"""Reports as single HTML files: no scripts, nothing loaded from elsewhere, everything sampled or read is escaped."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cleareyed.errors import InputError
from cleareyed.evaluation.verdicts import Verdicts
from cleareyed.records.parts import answers_part_name
from cleareyed.records.rows import AnswerMark, AnswerRow
from cleareyed.records.run import RunFolder, read_metrics
from cleareyed.records.stored import answers_of, gather
from cleareyed.report import words
from cleareyed.report.gallery import Card, cards, picked
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
    summary_of,
    write_whole,
)
from cleareyed.report.thinking import Page, page_of
from cleareyed.tasks.names import number_of
from cleareyed.tasks.task import Sample, Task
from cleareyed.thinking.of_run import is_studied, thinking_of_run

VALIDATION = "validation"
"""Label of answers given while training; they are in the curves, and compared only where nothing else was measured."""
DEMO_LABELS = ("base", "base/no-reasoning", "sft", "grpo")
Measured = Mapping[tuple[str, int, str], Verdicts]
"""By task, step and label."""
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
    chosen = picked([answers[label] for label in ("base", "sft", "grpo")])
    first = next(iter(answers.values()))
    chance, samples = _samples(task, first, chosen)
    gold = next(row.answer for row in rows if number_of(row.sample_id) == first.majority()[0])
    runs = {"sft": read_metrics(sft), "grpo": read_metrics(grpo)}
    recipes = {"GRPO": _text(grpo.recipe), "SFT": _text(sft.recipe)}
    shown = {label: _by_number(row for row in rows if row.label == label) for label in ("base", "sft", "grpo")}
    return _write(
        folder / "report.html",
        title="What reinforcement taught a small vision-language model",
        lead=f"The base model answered {len(answers['base']):,} questions of {task.name} as it is, after supervised "
        "fine-tuning (SFT) on bare answers, and after reinforcement with rule rewards (GRPO) on the same prompts.",
        notes=notes,
        facts=_demo_facts(yaml.safe_load(recipes["GRPO"]), yaml.safe_load(recipes["SFT"])),
        comparisons=[_compare(answers, DEMO_PAIRS, chance, gold, task.name, rule)],
        runs=runs,
        gallery=cards(chosen, shown, samples, rule),
        recipes=recipes,
        environment=_text(grpo.environment),
    )


def run_report(
    run: RunFolder,
    task: Task | None = None,
    *,
    rule: str | None = None,
    measured: Measured | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write report.html into a run folder, from its records alone; `task` adds images and the score of guessing.

    `rule` is the accuracy rule reported; left out, that of `task`, or `strict`. What was not recorded is named as
    missing. `measured` spares reading the answers where that has been done; `notes` are printed under the title.
    Raises InputError if the answers were not judged under the rule.
    """
    rule = rule or (task.rule if task else "strict")
    recipe = yaml.safe_load(_text(run.recipe))
    method = str(recipe.get("method", "run"))
    tables = {name: measurements(found) for name, found in reported(measured or measured_of(run)).items()}
    firsts = {name: next(iter(answers.values())) for name, answers in tables.items()}
    pictured = task.name if task and task.name in tables else next(iter(tables), None)
    chosen = picked(list(tables[pictured].values())) if pictured else []
    golds = {name: first.majority()[0] for name, first in firsts.items()}
    wanted = {*chosen, *golds.values()}
    rows = answers_of(run, lambda name: number_of(name) in wanted) if wanted else []
    comparisons: list[Comparison] = []
    gallery: list[Card] = []
    for name, answers in tables.items():
        own, under = [row for row in rows if row.task == name], outcome_rule(firsts[name]) or rule
        chance, samples = _samples(task, firsts[name], chosen) if task and task.name == name else ({}, {})
        gold = next(row.answer for row in own if number_of(row.sample_id) == golds[name])
        comparisons.append(_compare(answers, before_and_after(answers), chance, gold, name, under))
        if name == pictured:
            shown = {
                label: _by_number(row for row in own if (row.label, row.step) == (found.label, found.step))
                for label, found in answers.items()
            }
            gallery = cards(chosen, shown, samples, under)
    asked = " and ".join(found.task for found in comparisons) or "nothing yet"
    trained_on = recipe.get("task", {}).get("name", "an unnamed task")
    return _write(
        run.report,
        title=f"Run {run.path.resolve().name}",
        lead=f"Measured on {asked}."
        if method == EVAL
        else f"{words.title_of(method)} on {trained_on}, measured on {asked}.",
        notes=notes,
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


def measured_of(run: RunFolder) -> Measured:
    """All that a run's answers come to, by task, step and label, in the order of their files."""

    def read(marks: Iterator[AnswerMark]) -> dict[tuple[str, int, str], Verdicts]:
        found: dict[tuple[str, int, str], Verdicts] = {}
        for mark in marks:
            key = mark.task, mark.step, mark.label
            if key not in found:
                found[key] = Verdicts(mark.label, mark.step)
            found[key].add(mark)
        return found

    found = gather(run, read)
    return {key: found[key] for key in sorted(found, key=lambda key: answers_part_name(key[2], key[0], key[1]))}


def measurements(found: Sequence[Verdicts]) -> dict[str, Verdicts]:
    """What was measured of one task by label, earlier steps first; one label at several steps is split by step."""
    found = sorted(found, key=lambda one: one.step)
    labels = [one.label for one in found]
    return {one.label if labels.count(one.label) == 1 else f"{one.label}, step {one.step}": one for one in found}


def before_and_after(answers: Mapping[str, Verdicts]) -> list[tuple[str, str]]:
    """Pairs to test: each label of the last step with the earlier ones asked under the same prompt, else with all.

    The prompt is what follows the label's first "/" (`base/no-reasoning`), none for the run's own.
    """
    steps = {label: found.step for label, found in answers.items()}
    prompts = {label: label.partition(", step ")[0].partition("/")[2] for label in answers}
    pairs = []
    for last in [label for label in answers if steps[label] == max(steps.values())]:
        earlier = [label for label in answers if steps[label] < steps[last]]
        same = [label for label in earlier if prompts[label] == prompts[last]]
        pairs += [(label, last) for label in same or earlier]
    return pairs


def _compare(
    answers: Mapping[str, Verdicts],
    pairs: Sequence[tuple[str, str]],
    chance: dict[str, float],
    gold: str,
    task: str,
    rule: str,
) -> Comparison:
    """`gold` is the answer that the first's majority has."""
    summaries = {label: summary_of(found, rule) for label, found in answers.items()}
    first = next(iter(answers.values()))
    any_form = rule != ANY_FORM and all(summary["accuracy_any_form"] is not None for summary in summaries.values())
    tests = [(name, paired_tests(answers, pairs, name)) for name in ([rule, ANY_FORM] if any_form else [rule])]
    sentence = "; ".join(
        f"{words.title_of(label)} {words.percent(summary['accuracy'])} %" for label, summary in summaries.items()
    )
    groups = first.groups[first.groups >= 0]
    return Comparison(
        task=task,
        rule=rule,
        summaries=summaries,
        steps={label: found.step for label, found in answers.items()},
        chance=chance,
        majority=None if outcome_rule(first) else (gold, first.majority()[1]),
        clustered=len(np.unique(groups)) < len(groups),
        tests=[(name, found) for name, found in tests if found],
        bars=svg(accuracy_bars(summaries, chance), f"Accuracy on {task}: {sentence}."),
    )


def _samples(task: Task, asked: Verdicts, chosen: Sequence[int]) -> tuple[dict[str, float], dict[int, Sample]]:
    """What guessing scores on the samples `asked`, and those `chosen`, in one go through the task."""
    shown: dict[int, Sample] = {}

    def answered() -> Iterator[Sample]:
        for sample in task.samples:
            number = number_of(sample.id)
            if number in chosen:
                shown[number] = sample
            if number in asked:
                yield sample

    return chance_by_skill(answered()), shown


def _by_number(rows: Iterable[AnswerRow]) -> dict[int, AnswerRow]:
    return {number_of(row.sample_id): row for row in rows}


def reported(measured: Measured) -> dict[str, list[Verdicts]]:
    """By task: what was measured around training or, if nothing was, the first and last validation."""
    kept = {key: found for key, found in measured.items() if found.label != VALIDATION}
    if not kept:
        steps = [found.step for found in measured.values()]
        kept = {key: found for key, found in measured.items() if found.step in (min(steps), max(steps))}
    tables: dict[str, list[Verdicts]] = {}
    for (task, _, _), found in kept.items():
        tables.setdefault(task, []).append(found)
    return tables


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
