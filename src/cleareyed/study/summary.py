"""What a run of a study comes to, in one small file: all that the report is made from, without the texts.

Verdicts are kept item by item, as strings of 0 and 1 in the task's order, since intervals over seeds and items and
paired differences need them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cleareyed.errors import InputError
from cleareyed.evaluation.evaluate import measured_task
from cleareyed.recipe import EvalSpec, GrpoRecipe, SftRecipe, Strict
from cleareyed.records.parts import read_answers, read_rollouts
from cleareyed.records.rows import AnswerRow
from cleareyed.records.run import RunFolder, read_metrics
from cleareyed.report.pages import VALIDATION
from cleareyed.report.summary import run_cost
from cleareyed.study.plan import RULES, PlannedRun
from cleareyed.study.schema import MeasureSpec, StudySpec
from cleareyed.thinking.gains import ARMS, necessity, sight
from cleareyed.thinking.items import Item, items_of_answers, items_of_rollouts
from cleareyed.thinking.quality import consistency, degeneration
from cleareyed.thinking.reflection import DEFINITIONS, examples, reflection

CURVES = (
    "completion_tokens",
    "accuracy",
    "format_rate",
    "reward",
    "kl",
    "entropy",
    "share_cut_off",
    "token_accuracy",
    "validation/accuracy",
    "validation/format_rate",
    "validation/mean_tokens",
)
"""What is kept of `metrics.jsonl`, as (step, value)."""
WINDOWS = 6
"""Parts of a training, of equally many steps, in which reflection of its rollouts is counted."""
EXAMPLES = 3
PROBE = "probe/"
"""How labels of answers to a probe begin; the arm follows."""

Counts = list[tuple[int, int, int]]
"""(step, hits, of how many)."""


class Asked(Strict):
    """A task asked of the run's model in one prompt: N answers."""

    task: str
    prompt: str
    items: str
    """A hash of the ids in order: what is compared item by item must share it."""
    right: dict[str, str]
    """By rule: N characters, 1 where right."""
    formed: str
    """1 where the format is kept."""
    tokens: list[int]
    skills: dict[str, str]
    """By skill: 1 where the item counts towards it."""
    groups: list[str]
    """Of the items; empty if each stands alone."""
    quality: dict[str, Any]
    """Consistency and degeneration (`cleareyed.thinking.quality`)."""


class RunSummary(Strict):
    study: str
    arm: str
    seed: int
    training: str
    """The hashes of `plan.PlannedRun`."""
    measuring: str
    finished: bool
    method: str
    steps: int
    """Done."""
    of_steps: int
    cost: dict[str, Any]
    seconds: dict[str, float]
    """Wall-clock time of training, measuring and probing, interrupted attempts left out."""
    curves: dict[str, list[tuple[int, float | None]]]
    asked: list[Asked]
    reflection: dict[str, Counts]
    """By definition, on the fixed set of the validation: the answers of each step at which it was asked."""
    reflection_rollouts: dict[str, Counts]
    """By definition, of one sampled completion a prompt, by windows of steps."""
    revisions: dict[str, int]
    """What second looks did, over those same rollouts."""
    examples: list[str]
    """Rollouts of the last window that reflect by the paper's words: the first ones, for reading."""
    necessity: dict[str, Any] | None
    """`cleareyed.thinking.gains.necessity`, with its verdict; None without a probe."""
    sight: dict[str, Any] | None
    environment: dict[str, Any]


def summarise_run(
    spec: StudySpec, study: str, planned: PlannedRun, data_root: Path | None, seconds: Mapping[str, float] | None
) -> RunSummary:
    """From the records in the run's folder, also while it lives; `seconds` are given once it is done."""
    run = RunFolder(planned.folder)
    metrics, answers = read_metrics(run), read_answers(run)
    validation = [row for row in answers if row.label == VALIDATION]
    validates = planned.recipe.validate_on if isinstance(planned.recipe, GrpoRecipe | SftRecipe) else None
    validated = _choices(validates, data_root) if validates and validation else {}
    rollouts = items_of_rollouts(row for row in read_rollouts(run) if row.index == 0)
    width = max(1, planned.steps // WINDOWS)
    by_window: dict[int, list[Item]] = {}
    for item in rollouts:
        by_window.setdefault(min(-(-item.step // width), WINDOWS) * width, []).append(item)
    by_step: dict[int, list[AnswerRow]] = {}
    for row in validation:
        by_step.setdefault(row.step, []).append(row)
    last = by_window[max(by_window)] if by_window else []
    found = reflection(rollouts)
    probed = {arm: [row for row in answers if row.label == f"{PROBE}{arm}"] for arm in ARMS}
    probed = {arm: rows for arm, rows in probed.items() if rows}
    return RunSummary(
        study=study,
        arm=planned.arm.name,
        seed=planned.seed,
        training=planned.training,
        measuring=planned.measuring,
        finished=seconds is not None,
        method=planned.recipe.method if planned.recipe else "none",
        steps=max((int(row["step"] or 0) for row in metrics), default=0),
        of_steps=planned.steps,
        cost=run_cost(metrics),
        seconds=dict(seconds or {}),
        curves={
            name: [(int(row["step"] or 0), row[name]) for row in metrics if name in row]
            for name in CURVES
            if any(name in row for row in metrics)
        },
        asked=[
            _asked(rows, one, data_root)
            for one in spec.measure
            for prompt in planned.arm.prompts
            if (rows := [row for row in answers if row.label == prompt and row.task == _task_name(one)])
        ],
        reflection=_counts({step: items_of_answers(rows, choices=validated) for step, rows in by_step.items()}),
        reflection_rollouts=_counts(by_window),
        revisions={"helped": found.helped, "hurt": found.hurt, "nothing": found.nothing},
        examples=[item.text for item in examples(last, reflection(last).flags["visualthinker"], EXAMPLES)],
        necessity=_with_sentence(probed),
        sight=asdict(sight(probed)) if probed else None,
        environment=json.loads(run.environment.read_text(encoding="utf-8")),
    )


def read_summary(path: Path) -> RunSummary:
    """InputError: the file is not one of these."""
    try:
        return RunSummary.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        line = str(error).splitlines()[0]
        raise InputError(f"{path}: not a summary that this version wrote ({line}); remove it and run again") from None


def bits(flags: Iterable[bool]) -> str:
    return "".join("1" if flag else "0" for flag in flags)


def _asked(rows: Sequence[AnswerRow], spec: MeasureSpec, data_root: Path | None) -> Asked:
    groups, skills = [row.group for row in rows], dict.fromkeys(row.skill for row in rows)
    items = items_of_answers(rows, choices=_choices(spec, data_root))
    return Asked(
        task=rows[0].task,
        prompt=rows[0].label,
        items=hashlib.sha256("\n".join(row.sample_id for row in rows).encode()).hexdigest()[:16],
        right={rule: bits(row.correct[rule] for row in rows) for rule in RULES},
        formed=bits(row.well_formed for row in rows),
        tokens=[row.tokens or 0 for row in rows],
        skills={skill: bits(row.skill == skill for row in rows) for skill in skills if skill},
        groups=groups if any(groups) else [],
        quality={"consistency": asdict(consistency(items)), "degeneration": asdict(degeneration(items))},
    )


def _counts(by_step: Mapping[int, Sequence[Item]]) -> dict[str, Counts]:
    counts: dict[str, Counts] = {name: [] for name in DEFINITIONS}
    for step in sorted(by_step):
        for name, flags in reflection(by_step[step]).flags.items():
            known = [flag for flag in flags if flag is not None]
            counts[name].append((step, sum(known), len(known)))
    return counts


def _with_sentence(probed: Mapping[str, Sequence[AnswerRow]]) -> dict[str, Any] | None:
    if not probed:
        return None
    found = necessity(probed)
    return {**asdict(found), "sentence": found.sentence}


def _choices(spec: MeasureSpec | EvalSpec, data_root: Path | None) -> dict[str, tuple[str, ...]]:
    return {sample.id: sample.choices for sample in measured_task(spec.task, data_root).samples}


def _task_name(spec: MeasureSpec) -> str:
    task = spec.task
    part = task.split or (Path(task.path).stem if task.path else None)
    return f"{task.name}-{part}" if part else task.name
