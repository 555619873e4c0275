"""`cleareyed eval` and `cleareyed score`: a task asked of a model through a journal, and judged from it."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.text import Text

from cleareyed.console import Display, table_console
from cleareyed.errors import InputError
from cleareyed.eval_text import asked_text, coverage_text, cvbench_text, majority_text, progress_text, rules_table
from cleareyed.evaluation.answers import Answerer, AskError
from cleareyed.evaluation.ask import Summary
from cleareyed.evaluation.evaluate import AskedHashes, Asking, ask_task, measured_task, requests
from cleareyed.evaluation.journal import Journal
from cleareyed.evaluation.models import IN_MEMORY, AskedModel, limits_of, open_answerer
from cleareyed.evaluation.providers.replay import ReplayAnswerer
from cleareyed.evaluation.recorded import Recorded
from cleareyed.evaluation.request import AskParams
from cleareyed.evaluation.rows import Collected, Judges, collect, collect_again, judges_of, refuse_other_questions
from cleareyed.oversensitivity.judges.open import open_judge
from cleareyed.oversensitivity.published import named
from cleareyed.recipe import EvalSpec, NonNegative, Strict, TaskSpec
from cleareyed.records.parts import AnswerWriter, read_answers
from cleareyed.records.run import RunFolder, create_run, open_run
from cleareyed.records.stored import stored_answers
from cleareyed.report.pages import Measured, measured_of, run_report
from cleareyed.report.summary import outcome_rule
from cleareyed.report.words import percent, visible
from cleareyed.scoring.rules import OUTCOME_RULES
from cleareyed.tasks.names import number_of
from cleareyed.tasks.pictures import Pictures, with_pictures
from cleareyed.tasks.prompts import prompt_style
from cleareyed.tasks.protocols import Sampling, protocol_of, usual_protocol
from cleareyed.tasks.task import Task

RULES = ("paper-eval", "strict", "any-form")
"""What answers are read under where no rule is named."""
MAX_TOKENS = 256
"""The longest answer where neither it nor a protocol is named."""
JOURNAL = "journal.jsonl"
SHOWN_REASONS = 3
FREE = "batch"
"""The field of a measurement that may differ when a run goes on."""


class AskSpec(EvalSpec):
    """How `cleareyed eval` asked: what `EvalSpec` says, and what protocols and hosted models add."""

    protocol: str | None = None
    temperature: NonNegative = 0.0
    top_p: float | None = None
    seed: int | None = None
    system: str | None = None
    pictures: Pictures = "own"


class EvalRecipe(Strict):
    """What `cleareyed eval` ran, kept as the `recipe.yaml` of its run folder."""

    method: Literal["eval"] = "eval"
    model: AskedModel
    measure: tuple[AskSpec, ...]
    rules: tuple[str, ...]


def plan(
    task: TaskSpec,
    model: AskedModel,
    *,
    protocol: str | None = None,
    prompt: str | None = None,
    chat: bool | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    rules: Sequence[str] = (),
    **others: Any,
) -> EvalRecipe:
    """What is asked and how it is judged, where the user names some of it: the protocol fills in the rest.

    `others` are further fields of `AskSpec`. Without a protocol it is the task's own if there is but one way to ask
    it; else the prompt is `base`, or `instruct-eval` for a model that is asked as a conversation, and the rules are
    `RULES`.

    Raises:
        InputError: an unknown protocol, prompt or rule.
    """
    talks = model.speaks_chat if chat is None else chat
    named = protocol_of(task.name, protocol) if protocol else (None if prompt else usual_protocol(task.name))
    sampled = named.sampled(model.kind) if named else Sampling(MAX_TOKENS)
    usual = (named.chat_style if talks else named.style) if named else ("instruct-eval" if talks else "base")
    style = prompt_style(prompt or usual)
    if chat is not None and style.chat != chat:
        raise InputError(
            f"prompt {style.name} is {'' if style.chat else 'not '}a conversation; leave out --chat / --no-chat or it"
        )
    chosen = tuple(dict.fromkeys(rules or ([named.rule] if named else RULES)))
    judges_of(chosen)
    spec = AskSpec(
        task=task,
        prompt=style.name,
        protocol=named.name if named else None,
        max_tokens=max_tokens or sampled.max_tokens,
        temperature=temperature if temperature is not None else sampled.temperature,
        top_p=top_p if top_p is not None else sampled.top_p,
        seed=seed if seed is not None else sampled.seed,
        **others,
    )
    return EvalRecipe(model=model, measure=(spec,), rules=chosen)


def eval_task(
    recipe: EvalRecipe,
    *,
    folder: Path,
    resume: bool,
    data_root: Path | None,
    concurrency: int,
    timeout: float,
    min_coverage: float,
    judge: str = "local",
) -> int:
    """Ask, keep journal and rows as a run folder, print accuracy by skill under each rule.

    Answers to a task that is judged by outcome are also labelled by `judge` and shown as `cleareyed timidity` does.

    Returns 0, or 1 if less than `min_coverage` of the samples could be judged.

    Raises:
        InputError: anything wrong with the task, the model or the folder; a second process on the same run.
    """
    (spec,), model = recipe.measure, recipe.model
    open_judge(judge)
    if not resume and folder.exists():
        raise InputError(f"{folder}: exists already; go on with --resume, or name another folder with --out")
    task, how = asked_task(spec, data_root), asking_of(spec)
    if not len(task.samples):
        raise InputError(f"task {task.name}: no samples; check the data")
    quiet(model)
    with ExitStack() as stack:
        if resume:
            run, before = resumable(folder)
            journal = stack.enter_context(Journal.open(run.path / JOURNAL))
        answerer = open_answerer(model, spec.batch)
        try_first(task, how, answerer)
        recipe = recipe.model_copy(update={"model": model.model_copy(update={"weights": answerer.revision})})
        if resume:
            refuse_other(run, before, recipe)
        else:
            run = create_run(folder, recipe)
            journal = stack.enter_context(Journal.open(run.path / JOURNAL))
        limits = limits_of(model, spec.batch, concurrency, timeout)
        asked = AskedHashes(task, how)
        with Display(f"{task.name}, asked of {model.path}") as display:
            if journal.torn:
                display.note("the journal's last line was half-written and is dropped; its sample is asked again")
            what = f"asking {model.path} on {task.name}"

            def progress(summary: Summary) -> None:
                done = summary.reused + summary.asked
                display.status(what, done, len(task.samples), progress_text(summary))

            asking = ask_task(task, how, answerer, journal, limits, asked, progress, model.kind == "replay")
            summary = asyncio.run(asking)
            display.status("judging", 0, 0)
            found = judge_journal(run, recipe, task, asked, judges_of(recipe.rules))
            measured = measured_of(run)
            page = _report(run, found, measured, recipe, task)
    console = table_console()
    _print(console, run, found, measured, recipe, recipe.rules, task)
    console.print(Text(asked_text(summary)), soft_wrap=True)
    for note in _replay_notes(answerer, measured):
        console.print(Text(f"{model.name}: {visible(note)}"), soft_wrap=True)
    if summary.stopped is not None:
        console.print(Text(f"given up: {visible(summary.stopped)}"), soft_wrap=True)
    if task.rule in OUTCOME_RULES and (rows := stored_answers(run)):
        from cleareyed.timidity_command import after_eval

        after_eval(run, task, rows, judge)
    return _finish(console, run, page, found, min_coverage)


def score(folder: Path, *, rules: Sequence[str], data_root: Path | None, min_coverage: float) -> int:
    """Judge the answers of an eval run again, without asking; its own rules are kept beside the `rules` named.

    Returns what `eval_task` returns.

    Raises:
        InputError: no run of eval, an unknown rule, data in which the questions are others than those asked.
    """
    run = open_run(folder)
    recipe = eval_recipe(run)
    if recipe is None:
        raise InputError(f"{run.recipe}: not a run of eval; train measures and scores its answers itself")
    (spec,), model = recipe.measure, recipe.model
    shown = tuple(dict.fromkeys(rules)) or recipe.rules
    judges = judges_of(tuple(dict.fromkeys((*recipe.rules, *shown))))
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    task, how = asked_task(spec, data_root), asking_of(spec)
    if (run.path / JOURNAL).exists():
        found = judge_journal(run, recipe, task, AskedHashes(task, how), judges, refuse_changed=True)
    else:
        kept = read_answers(run)
        refuse_other_questions(kept, task)
        with AnswerWriter(run, label_of(model), task.name, 0) as writer:
            found = collect_again(kept, task, judges, writer.add)
    measured = measured_of(run)
    page = _report(run, found, measured, recipe, task)
    console = table_console()
    _print(console, run, found, measured, recipe, shown, task)
    return _finish(console, run, page, found, min_coverage)


def judge_journal(
    run: RunFolder,
    recipe: EvalRecipe,
    task: Task,
    asked: AskedHashes,
    judges: Judges,
    *,
    refuse_changed: bool = False,
) -> Collected:
    """Make the rows of a run from its journal, and keep them in place of earlier ones.

    Answers to other prompts or pictures than the task has now are left out and counted; with `refuse_changed` they
    are an InputError, and the earlier rows stay.
    """
    before = None
    with Recorded(run.path / JOURNAL) as recorded:
        if recorded.unmarked:  # what they answered is known from the rows, if from anywhere
            kept = read_answers(run)
            refuse_other_questions(kept, task)
            before = {row.sample_id: (row.prompt_hash, row.images_hash) for row in kept if row.prompt_hash}
        with AnswerWriter(run, label_of(recipe.model), task.name, 0) as writer:
            found = collect(
                recorded,
                task,
                judges,
                opens=prompt_style(recipe.measure[0].prompt or "base").opens,
                label=label_of(recipe.model),
                asked=asked.of,
                keep=writer.add,
                before=before,
            )
            if refuse_changed and found.changed:
                raise InputError(
                    f"task {task.name}: {found.changed} answers are to other prompts or pictures than it has now "
                    f"({found.first_changed} first); the data changed: `cleareyed eval` with --resume asks them anew, "
                    f"with --model replay:{run.path / JOURNAL} it judges the old answers by the new data"
                )
    return found


def eval_recipe(run: RunFolder) -> EvalRecipe | None:
    """The settings of a run that `cleareyed eval` made; None for a training run."""
    try:
        settings = yaml.safe_load(run.recipe.read_text(encoding="utf-8"))
        return EvalRecipe.model_validate(settings) if settings.get("method") == "eval" else None
    except (yaml.YAMLError, ValidationError, AttributeError, UnicodeDecodeError):
        raise InputError(f"{run.recipe}: not as cleareyed wrote it; restore it, or evaluate again") from None


def asking_of(spec: AskSpec) -> Asking:
    """How a recorded measurement asks."""
    params = AskParams(
        max_tokens=spec.max_tokens or MAX_TOKENS,
        temperature=spec.temperature,
        top_p=spec.top_p,
        seed=spec.seed,
        system=spec.system,
    )
    protocol = protocol_of(spec.task.name, spec.protocol) if spec.protocol else None
    return Asking(prompt_style(spec.prompt or "base"), params, protocol)


def asked_task(spec: AskSpec, data_root: Path | None) -> Task:
    """The task of a recorded measurement, with what it showed in the place of the pictures."""
    return with_pictures(measured_task(spec.task, data_root), spec.pictures)


def label_of(model: AskedModel) -> str:
    """The model as rows name it; `local:` goes without saying."""
    return model.name if model.kind == "local" else model.path


def quiet(model: AskedModel) -> None:
    """No bars or advice from libraries; torch is imported for models in memory only."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    if model.kind in IN_MEMORY:
        from cleareyed.commands import set_up

        set_up(None)


def resumable(folder: Path) -> tuple[RunFolder, EvalRecipe]:
    """The run of eval in `folder`, to go on with. InputError if there is none or it kept no journal."""
    run = open_run(folder)
    before = eval_recipe(run)
    if before is None:
        raise InputError(f"{run.recipe}: not a run of eval; name the folder of one with --out")
    if not (run.path / JOURNAL).exists() and read_answers(run):
        raise InputError(f"{run.path}: has answers but no {JOURNAL}; evaluate anew with another --out")
    return run, before


def try_first(task: Task, how: Asking, answerer: Answerer) -> None:
    """What is wrong with every request is found before there is a run folder."""
    first = next(requests(task, how), None)
    try:
        if first is not None:
            answerer.prepare(first)
    except AskError as error:
        if error.hopeless:
            raise InputError(f"{answerer.name}: {error}") from None


def _replay_notes(answerer: Answerer, measured: Measured) -> list[str]:
    """What was survived in a file of recorded answers, and how many of them answer no question of the task."""
    if not isinstance(answerer, ReplayAnswerer):
        return []
    rows = list(measured.values())
    unknown = (name for name in answerer.ids if not any(number_of(name) in verdicts for verdicts in rows))
    others = list(dict.fromkeys(unknown))
    unasked = [f"{len(others)} answers are to samples that were not asked ({named(others)})"] if others else []
    return [*answerer.notes, *unasked]


def refuse_other(run: RunFolder, before: BaseModel, recipe: BaseModel) -> None:
    """InputError if the run began with other settings: its answers would be to other questions."""
    old, new = (_flat(one.model_dump(mode="json")) for one in (before, recipe))
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key) and not key.endswith(f".{FREE}"):
            raise InputError(
                f"{run.recipe}: {key} was {old.get(key)!r} and is now {new.get(key)!r}; "
                "go on with the settings the run began with, or name another folder with --out"
            )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {name: value}
    return {key: leaf for part, held in items for key, leaf in _flat(held, f"{name}.{part}".lstrip(".")).items()}


def _report(run: RunFolder, found: Collected, measured: Measured, recipe: EvalRecipe, task: Task) -> Path | None:
    """Write the page, with the coverage on it, if there is anything to report."""
    if not found.judged:
        return None
    return run_report(run, task, rule=recipe.rules[0], measured=measured, notes=[coverage_text(found)])


def _print(
    console: Console,
    run: RunFolder,
    found: Collected,
    measured: Measured,
    recipe: EvalRecipe,
    rules: Sequence[str],
    task: Task,
) -> None:
    (spec,) = recipe.measure
    if found.judged:
        (verdicts,) = measured.values()
        title = f"{recipe.model.path} on {task.name}, prompt {spec.prompt}: accuracy in % (95 % interval)"
        console.print(rules_table(verdicts, rules, title))
        if outcome_rule(verdicts) is None:
            number, share = verdicts.majority()
            gold = next(row.answer for row in stored_answers(run) if number_of(row.sample_id) == number)
            well_formed = percent(float(verdicts.well_formed[verdicts.is_judged].mean()))
            text = f"{majority_text(gold, share)} Written in the format: {well_formed} %."
            console.print(Text(text), soft_wrap=True)
        if spec.task.name == "cvbench":
            console.print(Text(cvbench_text(stored_answers(run), rules[0], task)), soft_wrap=True)
    console.print(Text(coverage_text(found)), soft_wrap=True)
    for reason, count in sorted(found.reasons.items(), key=lambda item: -item[1])[:SHOWN_REASONS]:
        console.print(Text(f"  {count} times: {visible(reason) or 'no reason given'}"), soft_wrap=True)
    if len(found.reasons) > SHOWN_REASONS:
        console.print(Text(f"  and {len(found.reasons) - SHOWN_REASONS} other reasons: see {JOURNAL}"), soft_wrap=True)


def _finish(console: Console, run: RunFolder, page: Path | None, found: Collected, min_coverage: float) -> int:
    console.print(Text(f"answers: {run.answers}"), soft_wrap=True)
    if page is not None:
        console.print(Text(f"report: {page}"), soft_wrap=True)
    if found.coverage < min_coverage:
        console.print(
            Text(
                f"coverage is under {percent(min_coverage)} %: --resume asks again what failed or was not asked; "
                "--min-coverage accepts less"
            ),
            soft_wrap=True,
        )
        return 1
    return 0
