"""`cleareyed conditions`: one task asked of one model under several conditions, and how often it declines in each."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from cleareyed.console import Display, table_console
from cleareyed.errors import InputError
from cleareyed.eval_command import JOURNAL, judge_journal, look_at_pictures, quiet, resumable, try_first
from cleareyed.eval_plan import EvalRecipe, asked_task, asking_of, refuse_other
from cleareyed.eval_text import asked_text, progress_text
from cleareyed.evaluation.answers import Answerer
from cleareyed.evaluation.ask import Limits, Summary, ask_all
from cleareyed.evaluation.evaluate import AskedHashes, Asking, requests
from cleareyed.evaluation.journal import Journal
from cleareyed.evaluation.models import HOSTED, limits_of, open_answerer
from cleareyed.evaluation.rows import Collected, judges_of
from cleareyed.oversensitivity.conditions import Condition, Item, Measured, compare_conditions
from cleareyed.oversensitivity.judges.open import open_judge
from cleareyed.oversensitivity.outcomes import OUTCOMES, Judge
from cleareyed.oversensitivity.runs import by_id, judge_answers
from cleareyed.records.run import RunFolder, create_run
from cleareyed.records.stored import stored_answers
from cleareyed.report.plots import accuracy_bars, png
from cleareyed.report.summary import write_whole
from cleareyed.report.timidity_plots import bar_of
from cleareyed.report.timidity_tables import Grid, share
from cleareyed.report.words import MISSING, p_value, points, points_range, visible
from cleareyed.tasks.task import Task

FOUND, PICTURE = "conditions.json", "conditions.png"


@dataclass
class _Arm:
    """One condition while it is measured."""

    condition: Condition
    recipe: EvalRecipe
    task: Task
    how: Asking
    run: RunFolder
    journal: Journal
    asked: AskedHashes
    summary: Summary | None = None
    """None until it was asked."""


def run_conditions(
    recipes: Sequence[tuple[Condition, EvalRecipe]],
    *,
    folder: Path,
    resume: bool,
    data_root: Path | None,
    judge_name: str,
    concurrency: int,
    timeout: float,
    min_coverage: float,
    json_path: Path | None,
) -> int:
    """Ask the task under each condition into a run folder of its own, judge, compare with the first, print and keep.

    Under `folder`: a run of eval for each condition, its outcomes in it, `conditions.json` and `conditions.png`.
    Returns 0, or 1 if under some condition less than `min_coverage` of the samples came back.

    Raises:
        InputError: anything wrong with the task, the model, the judge or the folder.
    """
    if not resume and folder.exists():
        raise InputError(f"{folder}: exists already; go on with --resume, or name another folder with --out")
    judge = open_judge(judge_name)
    first = recipes[0][1]
    (spec,), model = first.measure, first.model
    tasks = {one.name: asked_task(recipe.measure[0], data_root) for one, recipe in recipes}
    if not len(tasks[recipes[0][0].name].samples):
        raise InputError(f"task {spec.task.name}: no samples; check the data")
    quiet(model)
    answerer = open_answerer(model, spec.batch)
    for one, recipe in recipes:
        try_first(tasks[one.name], asking_of(recipe.measure[0]), answerer)
    own = next((tasks[one.name] for one, _ in recipes if one.pictures == "own"), None)
    if own is not None and model.kind in HOSTED:
        look_at_pictures(own)
    with ExitStack() as stack:
        arms = [
            _begin(stack, one, recipe, tasks[one.name], folder / one.name, answerer, resume) for one, recipe in recipes
        ]
        with Display(f"{spec.task.name}, asked of {model.path} under {len(arms)} conditions") as display:
            limits = limits_of(model, spec.batch, concurrency, timeout)
            asyncio.run(_ask(arms, answerer, limits, display))
        found = {arm.condition.name: _collected(arm) for arm in arms}
    judged: dict[str, list[Item]] = {}
    for arm in arms:
        if rows := stored_answers(arm.run):
            outcomes = judge_answers(arm.run, rows, by_id(arm.task), judge)
            judged[arm.condition.name] = [Item(row.id, row.stimulus, row.group, row.state) for row in outcomes]
    if not judged:
        raise InputError(f"{folder}: nothing was answered ({_given_up(arms)}); mend that and go on with --resume")
    measured = compare_conditions(judged)
    _keep_found(folder, json_path, _as_json(arms, measured, judge, found))
    console = table_console()
    console.print(rates_table(measured, f"{model.path} on {spec.task.name}: declined, % (95 %), judge {judge.name}"))
    console.print(outcomes_table(measured))
    if len(measured) > 1:
        console.print(changes_table(measured))
    for sentence in sentences(measured, arms, found):
        console.print(Text(visible(sentence)), soft_wrap=True)
    if drawn := _drawn(measured):
        (folder / PICTURE).write_bytes(drawn)
        console.print(Text(f"picture: {folder / PICTURE}"), soft_wrap=True)
    console.print(Text(f"runs: {folder}"), soft_wrap=True)
    return int(any(one.coverage < min_coverage for one in found.values()))


def rates_table(measured: Sequence[Measured], title: str) -> Table:
    """One row a condition: the declined rate over all and by stimulus."""
    stimuli = list(dict.fromkeys(name for one in measured for name in one.by_stimulus))
    table = Grid(title, ("condition", "n", "all", *stimuli))
    for one in measured:
        cells = (share(one.by_stimulus.get(name)) for name in stimuli)
        table.add(one.condition, str(one.whole.n), share(one.whole), *cells)
    return table.rich()


def outcomes_table(measured: Sequence[Measured]) -> Table:
    """One row a condition: how often each outcome came."""
    states = [state for state in OUTCOMES if any(one.whole.outcomes.get(state) for one in measured)]
    table = Grid("outcomes", ("condition", *(state.replace("_", " ") for state in states)))
    for one in measured:
        table.add(one.condition, *(str(one.whole.outcomes.get(state, 0)) for state in states))
    return table.rich()


def changes_table(measured: Sequence[Measured]) -> Table:
    """Each condition against the first, on the same items."""
    title = f"against {measured[0].condition}, same items"
    table = Grid(title, ("condition", "n", "difference, points (95 %)", "now declined", "no longer", "p", "p (Holm)"))
    for one in measured[1:]:
        if one.change is None:
            table.add(one.condition, "0", *[MISSING] * 5)
            continue
        found = one.change.paired
        difference = f"{points(found.difference)} ({points_range(found.interval.low, found.interval.high)})"
        table.add(
            one.condition,
            str(found.n),
            difference,
            str(found.second_only),
            str(found.first_only),
            p_value(one.change.p),
            p_value(one.change.p_holm),
        )
    return table.rich()


def sentences(measured: Sequence[Measured], arms: Sequence[_Arm], found: dict[str, Collected]) -> list[str]:
    """What the tables leave out."""
    said = [
        "Declined: refusal, capability, filtered and empty. "
        "p: exact McNemar (whole groups swapped where items share one)."
    ]
    if any(one.whole.unread for one in measured):
        left = ", ".join(f"{one.condition} {one.whole.unread}" for one in measured if one.whole.unread)
        said.append(f"Left out, as failed or undecided: {left}.")
    for arm in arms:
        name = arm.condition.name
        if arm.summary is None:
            said.append(f"{name}: not asked, as the model was given up before.")
            continue
        said.append(f"{name}: {asked_text(arm.summary)}")
        if arm.summary.stopped:
            said.append(f"{name}: given up: {arm.summary.stopped}")
        if missing := found[name].states.get("not asked", 0):
            said.append(f"{name}: {missing} of {found[name].total} samples were not asked.")
    return said


def _begin(
    stack: ExitStack,
    one: Condition,
    recipe: EvalRecipe,
    task: Task,
    folder: Path,
    answerer: Answerer,
    resume: bool,
) -> _Arm:
    """The condition's run folder, made or gone on with, and its journal."""
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"weights": answerer.revision})})
    if resume and folder.exists():
        run, before = resumable(folder)
        refuse_other(run, before, recipe)
    else:
        run = create_run(folder, recipe)
    journal = stack.enter_context(Journal.open(run.path / JOURNAL))
    how = asking_of(recipe.measure[0])
    return _Arm(one, recipe, task, how, run, journal, AskedHashes(task, how))


async def _ask(arms: Sequence[_Arm], answerer: Answerer, limits: Limits, display: Display) -> None:
    """One condition after the other, until the model is given up."""
    total = sum(len(arm.task.samples) for arm in arms)
    done = 0
    try:
        for arm in arms:

            def progress(summary: Summary, name: str = arm.condition.name, done: int = done) -> None:
                so_far = done + summary.reused + summary.asked
                display.status(f"asking, condition {name}", so_far, total, progress_text(summary))

            asked = requests(arm.task, arm.how, arm.asked)
            count = len(arm.task.samples)
            arm.summary = await ask_all(asked, answerer, arm.journal, limits=limits, total=count, progress=progress)
            if arm.summary.stopped is not None:
                return
            done += count
    finally:
        await answerer.close()


def _collected(arm: _Arm) -> Collected:
    """The condition's rows, kept with its run; `cleareyed report` makes a page of them."""
    return judge_journal(arm.run, arm.recipe, arm.task, arm.asked, judges_of(arm.recipe.rules))


def _as_json(
    arms: Sequence[_Arm], measured: Sequence[Measured], judge: Judge, found: dict[str, Collected]
) -> dict[str, Any]:
    return {
        "task": arms[0].task.name,
        "model": arms[0].recipe.model.path,
        "revision": arms[0].recipe.model.weights,
        "judge": judge.name,
        "compared_with": measured[0].condition,
        "conditions": [
            {
                **asdict(one),
                "system": arm.condition.system,
                "pictures": arm.condition.pictures,
                "coverage": found[one.condition].coverage,
            }
            for one in measured
            for arm in arms
            if arm.condition.name == one.condition
        ],
    }


def _given_up(arms: Sequence[_Arm]) -> str:
    stopped = [arm.summary.stopped for arm in arms if arm.summary is not None and arm.summary.stopped]
    return stopped[0] if stopped else "no reason given"


def _keep_found(folder: Path, json_path: Path | None, found: dict[str, Any]) -> None:
    text = json.dumps(found, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    for path in (folder / FOUND, json_path):
        if path is not None:
            try:
                write_whole(path, text)
            except OSError as error:
                raise InputError(f"{path}: cannot be written ({error.strerror}); name another file") from error


def _drawn(measured: Sequence[Measured]) -> bytes | None:
    """The rates as bars; None where there is none."""
    bars = {
        one.condition: {
            **bar,
            "by_skill": {name: cell for name, part in one.by_stimulus.items() if (cell := bar_of(part))},
        }
        for one in measured
        if (bar := bar_of(one.whole))
    }
    if not bars:
        return None
    figure = accuracy_bars(bars, {})
    figure.axes[0].set_ylabel("declined (95 % interval)")
    return png(figure)
