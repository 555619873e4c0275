"""`cleareyed eval` and `cleareyed score`: a task asked of a model through a journal, and judged from it."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cleareyed.console import Display, table_console
from cleareyed.errors import InputError
from cleareyed.eval_plan import EvalRecipe, asked_task, asking_of, eval_recipe, label_of, refuse_other
from cleareyed.eval_text import asked_text, coverage_text, cvbench_text, majority_text, progress_text, rules_table
from cleareyed.evaluation.answers import Answerer, AskError
from cleareyed.evaluation.ask import Summary
from cleareyed.evaluation.evaluate import AskedHashes, Asking, ask_task, check_pictures, requests
from cleareyed.evaluation.journal import Journal
from cleareyed.evaluation.models import HOSTED, IN_MEMORY, AskedModel, limits_of, open_answerer
from cleareyed.evaluation.providers.replay import ReplayAnswerer
from cleareyed.evaluation.recorded import Recorded
from cleareyed.evaluation.rows import Collected, Judges, collect, collect_again, judges_of, refuse_other_questions
from cleareyed.oversensitivity.judges.open import open_judge
from cleareyed.oversensitivity.published import named
from cleareyed.records.parts import AnswerWriter, read_answers
from cleareyed.records.run import RunFolder, create_run, open_run
from cleareyed.records.stored import stored_answers
from cleareyed.report.pages import Measured, measured_of, run_report
from cleareyed.report.summary import outcome_rule
from cleareyed.report.words import percent, visible
from cleareyed.scoring.rules import OUTCOME_RULES
from cleareyed.tasks.names import counted, number_of
from cleareyed.tasks.prompts import prompt_style
from cleareyed.tasks.task import Task

JOURNAL = "journal.jsonl"
SHOWN_REASONS = 3


@dataclass
class _Asked:
    """One model, its run folder, and what is asked of it."""

    recipe: EvalRecipe
    task: Task
    how: Asking
    answerer: Answerer
    run: RunFolder
    journal: Journal
    hashes: AskedHashes
    summary: Summary | None = None
    """None until it was asked."""


def eval_models(
    recipes: Sequence[EvalRecipe],
    folders: Sequence[Path],
    *,
    resume: bool,
    data_root: Path | None,
    concurrency: int,
    timeout: float,
    min_coverage: float,
    judge: str = "local",
) -> int:
    """Ask one task of each model, keep journal and rows in its folder, print accuracy by skill under each rule.

    Models behind an API and recordings are asked side by side, models in memory one after the other. One that is given
    up stops no other. Answers to a task that is judged by outcome are also labelled by `judge` and shown as `cleareyed
    timidity` does; models that answered another are ranked at the end.

    Returns 0, or 1 if of some model less than `min_coverage` of the samples could be judged.

    Raises:
        InputError: anything wrong with the task, a model or a folder; a second process on the same run.
    """
    open_judge(judge)
    for folder in folders:
        if not resume and folder.exists():
            raise InputError(f"{folder}: exists already; go on with --resume, or name another folder with --out")
    each = list(zip(recipes, folders, strict=True))
    together = [one for one in each if one[0].model.kind not in IN_MEMORY]
    waves = [*([together] if together else []), *([one] for one in each if one[0].model.kind in IN_MEMORY)]
    codes, judged = [], []
    for wave in waves:
        with ExitStack() as stack:
            asked = _begin(stack, wave, resume, data_root)
            with Display(f"{asked[0].task.name}, asked of {_named(asked)}") as display:
                asyncio.run(_ask(asked, concurrency, timeout, display))
                display.status("judging", 0, 0)
                found = [
                    judge_journal(one.run, one.recipe, one.task, one.hashes, judges_of(one.recipe.rules))
                    for one in asked
                ]
        for one, collected in zip(asked, found, strict=True):
            codes.append(_tell(one, collected, min_coverage, judge))
            if collected.judged and one.task.rule not in OUTCOME_RULES:
                judged.append(one.run.path)
    if len(judged) > 1:
        from cleareyed.rank_command import rank_runs

        rank_runs(judged, task=None, rule=recipes[0].rules[0], json_path=None)
    return max(codes)


def _begin(
    stack: ExitStack, wave: Sequence[tuple[EvalRecipe, Path]], resume: bool, data_root: Path | None
) -> list[_Asked]:
    """Each model loaded and tried, then the folders, made or gone on with."""
    kept: list[tuple[RunFolder, EvalRecipe, Journal] | None] = []
    for _, folder in wave:
        if resume:
            run, before = resumable(folder)
            kept.append((run, before, stack.enter_context(Journal.open(run.path / JOURNAL))))
        else:
            kept.append(None)
    tried, tasks, looked = [], dict[str, Task](), set[str]()
    for recipe, _ in wave:
        (spec,), model = recipe.measure, recipe.model
        key = f"{spec.task.model_dump_json()} {spec.pictures}"
        task, how = tasks.get(key) or tasks.setdefault(key, asked_task(spec, data_root)), asking_of(spec)
        if not len(task.samples):
            raise InputError(f"task {task.name}: no samples; check the data")
        quiet(model)
        answerer = open_answerer(model, spec.batch)
        try_first(task, how, answerer)
        if model.kind in HOSTED and key not in looked:
            look_at_pictures(task)
            looked.add(key)
        known = model.model_copy(update={"weights": answerer.revision})
        tried.append((recipe.model_copy(update={"model": known}), task, how, answerer))
    asked = []
    for (recipe, task, how, answerer), (_, folder), old in zip(tried, wave, kept, strict=True):
        if old is not None:
            run, before, journal = old
            refuse_other(run, before, recipe)
        else:
            run = create_run(folder, recipe)
            journal = stack.enter_context(Journal.open(run.path / JOURNAL))
        asked.append(_Asked(recipe, task, how, answerer, run, journal, AskedHashes(task, how)))
    return asked


async def _ask(asked: Sequence[_Asked], concurrency: int, timeout: float, display: Display) -> None:
    """All of them side by side, until each has come to an end."""
    what = f"asking {_named(asked)} on {asked[0].task.name}"
    total = sum(len(one.task.samples) for one in asked)
    latest: dict[int, Summary] = {}

    def show(place: int, summary: Summary) -> None:
        latest[place] = summary
        done = sum(one.reused + one.asked for one in latest.values())
        display.status(what, done, total, progress_text(*latest.values()))

    async def ask(place: int, one: _Asked) -> None:
        (spec,), model = one.recipe.measure, one.recipe.model
        if one.journal.torn:
            display.note("the journal's last line was half-written and is dropped; its sample is asked again")
        limits = limits_of(model, spec.batch, concurrency, timeout)
        progress = partial(show, place)
        recorded = model.kind == "replay"
        one.summary = await ask_task(
            one.task, one.how, one.answerer, one.journal, limits, one.hashes, progress, recorded
        )
        if one.summary.stopped is not None and len(asked) > 1:
            display.note(f"{model.path}: given up: {visible(one.summary.stopped)}")

    await asyncio.gather(*(ask(place, one) for place, one in enumerate(asked)))


def _tell(one: _Asked, found: Collected, min_coverage: float, judge: str) -> int:
    """Report and tables of one model; what `eval_models` returns for it."""
    run, recipe, task, summary = one.run, one.recipe, one.task, one.summary
    assert summary is not None
    measured = measured_of(run)
    page = _report(run, found, measured, recipe, task)
    console = table_console()
    _print(console, run, found, measured, recipe, recipe.rules, task)
    console.print(Text(asked_text(summary)), soft_wrap=True)
    for note in _replay_notes(one.answerer, measured):
        console.print(Text(f"{recipe.model.name}: {visible(note)}"), soft_wrap=True)
    if summary.stopped is not None:
        console.print(Text(f"given up: {visible(summary.stopped)}"), soft_wrap=True)
    if task.rule in OUTCOME_RULES and (rows := stored_answers(run)):
        from cleareyed.timidity_command import after_eval

        after_eval(run, task, rows, judge)
    return _finish(console, run, page, found, min_coverage)


def _named(asked: Sequence[_Asked]) -> str:
    return asked[0].recipe.model.path if len(asked) == 1 else f"{len(asked)} models"


def score(folder: Path, *, rules: Sequence[str], data_root: Path | None, min_coverage: float) -> int:
    """Judge the answers of an eval run again, without asking; its own rules are kept beside the `rules` named.

    Returns what `eval_models` returns of one model.

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


def look_at_pictures(task: Task) -> None:
    """What is wrong with the pictures is found before anything is asked. InputError as `check_pictures` raises it."""
    with Display(f"{task.name}, before it is asked") as display:
        check_pictures(task, partial(display.status, "looking at the pictures"))


def _replay_notes(answerer: Answerer, measured: Measured) -> list[str]:
    """What was survived in a file of recorded answers, and how many of them answer no question of the task."""
    if not isinstance(answerer, ReplayAnswerer):
        return []
    rows = list(measured.values())
    unknown = (name for name in answerer.ids if not any(number_of(name) in verdicts for verdicts in rows))
    others = list(dict.fromkeys(unknown))
    unasked = (
        [f"{counted(len(others), 'answer is', 'answers are')} to samples that were not asked ({named(others)})"]
        if others
        else []
    )
    return [*answerer.notes, *unasked]


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
        console.print(Text(visible(title)), soft_wrap=True)  # a table would break it at its own width
        console.print(rules_table(verdicts, rules))
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
        console.print(Text(f"  {counted(count, 'time')}: {visible(reason) or 'no reason given'}"), soft_wrap=True)
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
