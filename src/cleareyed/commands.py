"""What the commands do: check everything, measure, train, measure again, report."""

import ctypes
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.text import Text

from cleareyed.console import Display, table_console
from cleareyed.errors import InputError
from cleareyed.eval_plan import asked_task, eval_recipe
from cleareyed.eval_text import majority
from cleareyed.evaluation.compare import judged
from cleareyed.evaluation.evaluate import evaluate, measured_task
from cleareyed.models.load import load_vlm
from cleareyed.models.vlm import VLM
from cleareyed.recipe import EvalSpec, GrpoRecipe, PretrainRecipe, Recipe, SftRecipe, ThinkingSpec, probed
from cleareyed.recipe_files import load_recipe
from cleareyed.records.parts import compact, read_answers, write_answers, write_probes
from cleareyed.records.rows import AnswerRow
from cleareyed.records.run import RunFolder, create_run, open_run, read_metrics
from cleareyed.report.pages import VALIDATION, run_report
from cleareyed.report.summary import summarise
from cleareyed.report.table import comparison_table
from cleareyed.scoring.rewards import RewardFunction, load_rewards
from cleareyed.scoring.rules import OUTCOME_RULES, rules_of
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.names import counted
from cleareyed.tasks.prompts import PromptStyle, prompt_style
from cleareyed.tasks.task import Task
from cleareyed.thinking.gains import ARMS
from cleareyed.thinking.probes import probe, tokens_of
from cleareyed.thinking.summary import curves
from cleareyed.training.grpo import train_grpo
from cleareyed.training.sft import train_sft

BATCHES_BETWEEN_WRITES = 8
"""While measuring: answers are on disk after so many batches, so that an interruption loses no more."""
FREE_WHEN_RESUMING = ("threads", "save_every", "log_tensorboard")
"""Recipe fields that may differ from the interrupted run's, as they do not change what is learned."""

TrainingRecipe = GrpoRecipe | SftRecipe


@dataclass(frozen=True)
class Measurement:
    """A task, how it is asked, and how long an answer may be."""

    task: Task
    style: PromptStyle
    max_tokens: int
    batch: int


def train(
    recipe: Recipe,
    path: Path,
    *,
    folder: Path,
    resume: bool,
    data_root: Path | None,
    allow_code: bool,
) -> None:
    """Measure, train, measure again and report, into the run folder `folder`; `path` is where the recipe was read.

    Raises:
        InputError: anything wrong with the recipe, the data, the model or the folder, found before training.
    """
    if isinstance(recipe, PretrainRecipe):
        raise InputError(f"{path}: method is pretrain; use `cleareyed pretrain {path}`")
    if not resume:
        _refuse_existing(folder)
    task, measurements = load_task(recipe.task, data_root), _measurements(recipe, data_root)
    validation = measurement_of(recipe.validate_on, recipe, data_root) if recipe.validate_on else None
    asked = probed(recipe)
    thinking = measurement_of(asked, recipe, data_root) if asked else None
    prompt_style(recipe.prompt)
    rewards = load_rewards(recipe.rewards, task.rule, allow_code, path.parent) if recipe.method == "grpo" else ()
    set_up(recipe.threads)
    vlm = load_vlm(recipe.model)
    run = _resumed(folder, recipe) if resume else create_run(folder, recipe)
    with Display(f"{recipe.method} {folder.name}") as display:
        for measurement in measurements:
            measure(vlm, measurement, run, label_of("base", measurement, recipe), 0, display)
        display.note(f"{folder}: training, {recipe.steps} steps of {recipe.method} on {task.name}")
        train_with(recipe, vlm, task, rewards, run, display, validation, resume, thinking)
        trained, step = best_or_last(recipe, vlm, run)
        if step != recipe.steps:
            display.note(f"measuring the checkpoint that was best in validation, of step {step}")
        for measurement in measurements:
            measure(trained, measurement, run, label_of(recipe.method, measurement, recipe), step, display)
        compact(run)
        shown = [*measurements, *([validation] if validation else [])]  # whose answers there are
        page = run_report(run, shown[0].task if shown else None)
    console = table_console()
    _print_tables(console, run, measurements)
    console.print(Text(f"weights: {run.best if step != recipe.steps else run.final}"), soft_wrap=True)
    console.print(Text(f"report: {page}"), soft_wrap=True)


def train_with(
    recipe: TrainingRecipe,
    vlm: VLM,
    task: Task,
    rewards: Sequence[RewardFunction],
    run: RunFolder,
    display: Display,
    validation: Measurement | None,
    resume: bool = False,
    thinking: Measurement | None = None,
) -> None:
    """Train by the recipe's method; the weights of `vlm` are those of the last step afterwards.

    `thinking` is what the recipe's probes ask.
    """
    probe = _prober(thinking, recipe.thinking, run, display) if thinking and recipe.thinking else None
    validate = None
    if validation:
        rule = validation.task.rule
        rules = rules_of(rule) if rule in OUTCOME_RULES else tuple(dict.fromkeys((rule, "strict", "any-form")))
        validate = _validator(validation, rules, run, display)
    if isinstance(recipe, GrpoRecipe):
        train_grpo(recipe, vlm, task, rewards, run, resume=resume, observer=display, validate=validate, probe=probe)
    else:
        train_sft(recipe, vlm, task, run, resume=resume, observer=display, validate=validate, probe=probe)


def measure(
    vlm: VLM,
    what: Measurement,
    run: RunFolder,
    label: str,
    step: int,
    display: Display,
    rules: Sequence[str] | None = None,
) -> list[AnswerRow]:
    """Ask a task of a model into the run folder; answers already there are kept and not asked again."""
    task, total = what.task, len(what.task.samples)
    rows = [row for row in read_answers(run) if (row.label, row.task, row.step) == (label, task.name, step)]
    if len(rows) < total:
        display.note(f"measuring {label} on {task.name}, {counted(total, 'question')}")
    while len(rows) < total:
        done, end = len(rows), min(len(rows) + what.batch * BATCHES_BETWEEN_WRITES, total)
        part = replace(task, samples=[task.samples[index] for index in range(done, end)])
        rows += evaluate(
            vlm,
            part,
            what.style,
            max_tokens=what.max_tokens,
            batch=what.batch,
            label=label,
            step=step,
            rules=rules,
            progress=lambda answered, _, done=done: display.status(  # type: ignore[misc]
                f"measuring {label} on {task.name}", done + answered, total
            ),
        )
        write_answers(run, rows)
    return rows


def best_or_last(recipe: TrainingRecipe, vlm: VLM, run: RunFolder) -> tuple[VLM, int]:
    """The model to measure, and its step: the best in validation where there was one, else the last (`vlm`)."""
    if recipe.validate_on is None or not run.best.is_dir():
        return vlm, recipe.steps
    validated = [
        (int(row["step"] or 0), row["validation/accuracy"] or 0.0)
        for row in read_metrics(run)
        if row.get("validation/accuracy") is not None
    ]
    step = max(validated, key=lambda pair: (pair[1], -pair[0]))[0]
    if step == recipe.steps:
        return vlm, step
    return load_vlm(recipe.model.model_copy(update={"path": str(run.best), "revision": None, "lora": None})), step


def label_of(model: str, measurement: Measurement, recipe: TrainingRecipe) -> str:
    """`base`, or `base/STYLE` where it is not asked in the prompt that is trained with."""
    return model if measurement.style.name == recipe.prompt else f"{model}/{measurement.style.name}"


def pretrain_model(recipe: Recipe, path: Path, *, folder: Path, resume: bool) -> None:
    """Make a base model from nothing, as a `pretrain` recipe says."""
    if not isinstance(recipe, PretrainRecipe):
        raise InputError(f"{path}: method is {recipe.method}; use `cleareyed train {path}`")
    if not resume:
        _refuse_existing(folder)
    from cleareyed.training.pretrain import pretrain

    set_up(recipe.threads)
    with Display(f"pretrain {folder.name}") as display:
        pretrain(recipe, folder, resume, display)
    table_console().print(Text(f"run folder: {folder}"), soft_wrap=True)


def report(folder: Path, data_root: Path | None) -> None:
    """Write a run's `report.html` anew from its records, also while the run lives."""
    run = open_run(folder)
    console = table_console()
    if (evaluated := eval_recipe(run)) is not None:
        page = run_report(run, asked_task(evaluated.measure[0], data_root), rule=evaluated.rules[0])
        console.print(Text(f"report: {page}"), soft_wrap=True)
        return
    recipe = load_recipe(run.recipe)
    if isinstance(recipe, PretrainRecipe):
        raise InputError(f"{run.recipe}: method is pretrain; a report needs a run of grpo, sft or eval")
    measurements = _measurements(recipe, data_root)
    page = run_report(run, measurements[0].task if measurements else load_task(recipe.task, data_root))
    _print_tables(console, run, measurements)
    console.print(Text(f"report: {page}"), soft_wrap=True)


def set_up(threads: int | None) -> None:
    """Torch's threads, freed memory kept, and no progress bars or advice from libraries across the display."""
    if threads:
        torch.set_num_threads(threads)
    if sys.platform == "linux":
        _keep_freed_memory()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)


def _keep_freed_memory() -> None:
    """Have glibc keep up to 256 MB of freed tensors of up to 32 MB each, its most, for the next ones.

    By itself it gives them back to the system, which then clears every page anew: on a CPU a training step's memory
    several times over.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # not musl
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**28)  # M_TRIM_THRESHOLD


def _measurements(recipe: TrainingRecipe, data_root: Path | None) -> list[Measurement]:
    found: list[Measurement] = []
    for number, spec in enumerate(recipe.measure):
        one = measurement_of(spec, recipe, data_root)
        if any((one.task.name, one.style.name) == (other.task.name, other.style.name) for other in found):
            raise InputError(
                f"measure.{number}: {one.task.name} with prompt {one.style.name} is measured twice; "
                "their answers could not be told apart, so leave one out"
            )
        found.append(one)
    return found


def measurement_of(spec: EvalSpec, recipe: TrainingRecipe, data_root: Path | None) -> Measurement:
    """What a recipe measures, with its own prompt and answer length where the measurement names none."""
    own = recipe.sampling.max_tokens if isinstance(recipe, GrpoRecipe) else recipe.max_tokens
    style = prompt_style(spec.prompt or recipe.prompt)
    return Measurement(measured_task(spec.task, data_root), style, spec.max_tokens or own, spec.batch)


def _validator(
    what: Measurement, rules: Sequence[str], run: RunFolder, display: Display
) -> Callable[[VLM, int], dict[str, float]]:
    """Measures during training and keeps the answers, judged under `rules`, among them the task's own."""

    def validate(vlm: VLM, step: int) -> dict[str, float]:
        rows = evaluate(
            vlm,
            what.task,
            what.style,
            max_tokens=what.max_tokens,
            batch=what.batch,
            label=VALIDATION,
            step=step,
            rules=rules,
            progress=lambda done, total: display.status(f"validating on {what.task.name}", done, total),
        )
        write_answers(run, rows)
        rows = [row for row in rows if judged(row)]
        if not rows:
            raise InputError(f"task {what.task.name}: none of its samples can be asked; check its pictures")
        return {
            "accuracy": sum(row.correct[what.task.rule] for row in rows) / len(rows),
            "format_rate": sum(row.well_formed for row in rows) / len(rows),
            "mean_tokens": sum(row.tokens or 0 for row in rows) / len(rows),
        }

    return validate


def _prober(
    what: Measurement, spec: ThinkingSpec, run: RunFolder, display: Display
) -> Callable[[VLM, int], dict[str, float]]:
    """Measures the thinking during training and keeps the answers, by arm."""
    samples = [what.task.samples[index] for index in range(len(what.task.samples))]
    choices = {sample.id: sample.choices for sample in samples}
    arms = ARMS if spec.counterfactual else ()

    def ask(vlm: VLM, step: int) -> dict[str, float]:
        answers = probe(
            vlm,
            what.task,
            what.style,
            max_tokens=what.max_tokens,
            batch=what.batch,
            step=step,
            arms=arms,
            progress=lambda done, total: display.status("probing the thinking", done, total),
        )
        write_probes(run, [row for rows in answers.values() for row in rows])
        return curves(answers, tokens_of(vlm), choices)

    return ask


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise InputError(f"{folder}: exists already; continue that run with --resume, or give this one another --name")


def _resumed(folder: Path, recipe: TrainingRecipe) -> RunFolder:
    run = open_run(folder)
    before = load_recipe(run.recipe).model_dump(mode="json")
    for key, value in recipe.model_dump(mode="json").items():
        if key not in FREE_WHEN_RESUMING and before.get(key) != value:
            raise InputError(
                f"{run.recipe}: {key} was {before.get(key)!r} and is now {value!r}; "
                "resume with the recipe the run began with, or start another with --name"
            )
    return run


def _print_tables(console: Console, run: RunFolder, measurements: Sequence[Measurement]) -> None:
    rows = read_answers(run)
    for name in dict.fromkeys(measurement.task.name for measurement in measurements):
        answers = [row for row in rows if row.task == name and row.label != VALIDATION]
        if answers:
            rule = next(one.task.rule for one in measurements if one.task.name == name)
            console.print(comparison_table(summarise(answers, rule)))
            console.print(Text(f"{name}, rule {rule}. {majority(answers)}"), soft_wrap=True)
