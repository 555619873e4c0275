"""`cleareyed timidity` and `cleareyed plane`: how often models decline, and if the safer are only more cautious."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from cleareyed.console import Display, say, table_console
from cleareyed.errors import InputError
from cleareyed.eval_plan import AskSpec, asked_task, eval_recipe
from cleareyed.evaluation.evaluate import measured_task
from cleareyed.oversensitivity.conditions import SYSTEM
from cleareyed.oversensitivity.judges.human import HumanJudge
from cleareyed.oversensitivity.judges.open import open_judge
from cleareyed.oversensitivity.outcome_rows import OutcomeRow
from cleareyed.oversensitivity.outcomes import Judge
from cleareyed.oversensitivity.plane import Point, measured_point, published_points
from cleareyed.oversensitivity.published import named, published_results
from cleareyed.oversensitivity.rates import two_by_two
from cleareyed.oversensitivity.runs import SEEING, Asked, by_id, judge_answers, known_samples, pairs_of, together
from cleareyed.recipe import GrpoRecipe, SftRecipe
from cleareyed.recipe_files import load_recipe
from cleareyed.records.parts import read_answers
from cleareyed.records.rows import AnswerRow
from cleareyed.records.run import RunFolder, open_run
from cleareyed.report.plots import png
from cleareyed.report.summary import write_whole
from cleareyed.report.timidity import timidity_page
from cleareyed.report.timidity_plots import detection_figure, plane_figure
from cleareyed.report.timidity_tables import (
    correlations,
    plane_by_stimulus_table,
    plane_table,
    published_table,
    rates_table,
    repeated_lines,
    sentences,
    states_table,
    tags_table,
    two_by_two_table,
    what_correlates,
)
from cleareyed.report.words import visible
from cleareyed.scoring.rules import OUTCOME_RULES
from cleareyed.tasks.mossbench import TASKS, published_metadata
from cleareyed.tasks.task import Sample, Task

PAGE = "timidity.html"


def timidity(
    paths: Sequence[Path],
    *,
    judge_name: str,
    data_root: Path | None,
    json_path: Path | None,
    page: Path | None,
    results: Path | None,
) -> None:
    """Judge the answers of runs, keep the outcomes beside them, print the tables and write the page.

    Raises:
        InputError: no run, no answers to a task that is judged by outcome, an unknown judge, data that are needed
            and not there.
    """
    judge = open_judge(judge_name)
    asked, samples = _judged(paths, judge, data_root)
    show(asked, judge, samples, page or paths[0] / PAGE, json_path)
    if isinstance(judge, HumanJudge) and (unused := judge.unused([row.id for one in asked for row in one.rows])):
        say(f"labels of answers that these runs do not have: {len(unused)} ({named(unused)})")
    if results is not None:
        _write_results(results, asked, samples)


def after_eval(run: RunFolder, task: Task, answers: Sequence[AnswerRow], judge_name: str) -> None:
    """What `timidity` does, in brief, for the run that has just asked a task which is judged by outcome."""
    judge, samples = open_judge(judge_name), by_id(task)
    rows = judge_answers(run, answers, samples, judge)
    show(together([(_remark(run), rows)]), judge, {task.name: samples}, run.path / PAGE, None, brief=True)


def show(
    asked: Sequence[Asked],
    judge: Judge,
    samples: Mapping[str, Mapping[str, Sample]],
    page: Path,
    json_path: Path | None,
    brief: bool = False,
) -> None:
    """Print the tables, write the page and, if asked for, the figures as JSON. `brief`: the page has the rest."""
    console = table_console()
    pairs = pairs_of(asked)
    points = points_of(pairs)
    console.print(rates_table(asked, f"declined, % (95 %), judge {judge.name}").rich())
    console.print(states_table(asked).rich())
    if not brief and (tags := tags_table(asked)) is not None:
        console.print(tags.rich())
    for line in (*repeated_lines(asked), *sentences(asked)):
        console.print(Text(visible(line)), soft_wrap=True)
    if pairs:
        console.print(two_by_two_table(pairs).rich())
    if points:
        console.print(plane_table(points).rich())
        console.print(plane_by_stimulus_table(points).rich())
    if not brief and any(one.task in TASKS for one in asked):
        console.print(published_table(asked).rich())
    timidity_page(page, asked, pairs, points, judge.name, samples)
    console.print(Text(f"page: {page}"), soft_wrap=True)
    if json_path is not None:
        _write_json(json_path, _figures(asked, pairs, points, judge.name))
        console.print(Text(f"figures: {json_path}"), soft_wrap=True)


def plane(
    paths: Sequence[Path],
    *,
    judge_name: str,
    data_root: Path | None,
    json_path: Path | None,
    picture: Path | None,
) -> None:
    """Print correlations over the published points and those of runs, d' and c of each, and draw them.

    Raises:
        InputError: as `timidity`; runs that asked only one of both sets.
    """
    points = published_points()
    mine: list[Point] = []
    if paths:
        asked, _ = _judged(paths, open_judge(judge_name), data_root)
        mine = points_of(pairs_of(asked))
        if not mine:
            raise InputError("the runs named hold no model that answered both sets; evaluate mossbench_contrast too")
    console = table_console()
    found_correlations = correlations(points, mine)
    for table in (plane_table, plane_by_stimulus_table):
        console.print(table([*mine, *points]).rich())
    for line in what_correlates(found_correlations):
        console.print(Text(line), soft_wrap=True)
    if picture is not None:
        _draw(console, picture, [*points, *mine])
    if json_path is not None:
        _write_json(
            json_path, {"points": [asdict(one) for one in [*mine, *points]], "correlations": found_correlations}
        )
        console.print(Text(f"figures: {json_path}"), soft_wrap=True)


def points_of(pairs: Sequence[tuple[Asked, Asked]]) -> list[Point]:
    """Each model on the plane, but for those that nothing could be read of."""
    return [point for one, other in pairs if (point := measured_point(one.model, one.rows, other.rows))]


def _judged(
    paths: Sequence[Path], judge: Judge, data_root: Path | None
) -> tuple[list[Asked], dict[str, dict[str, Sample]]]:
    """What the runs asked, judged, and the samples by task and id."""
    measured: list[tuple[str, list[OutcomeRow]]] = []
    samples: dict[str, dict[str, Sample]] = {}
    with Display("timidity") as display:
        for place, path in enumerate(paths):
            display.status(f"judging {path}", place, len(paths))
            run = open_run(path)
            for task, answers in _by_task(read_answers(run)).items():
                found = _samples(run, task, data_root, seeing=judge.name.startswith(SEEING))
                if found is not None:
                    samples[task] = {**found, **samples.get(task, {})}
                    measured.append((_remark(run), judge_answers(run, answers, found, judge)))
    asked = together(measured)
    if not asked:
        names = ", ".join(str(path) for path in paths)
        raise InputError(f"{names}: no answers to a task that is judged by outcome, such as mossbench; evaluate one")
    return asked, samples


def _draw(console: Console, picture: Path, points: Sequence[Point]) -> None:
    second = picture.with_name(f"{picture.stem}-detection{picture.suffix}")
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(png(plane_figure(points)))
        second.write_bytes(png(detection_figure(points)))
    except OSError as error:
        raise InputError(f"{picture}: cannot be written ({error.strerror}); name another file") from error
    console.print(Text(f"pictures: {picture}, {second}"), soft_wrap=True)


def _by_task(answers: Sequence[AnswerRow]) -> dict[str, list[AnswerRow]]:
    found: dict[str, list[AnswerRow]] = {}
    for row in answers:
        found.setdefault(row.task, []).append(row)
    return found


def _samples(run: RunFolder, task: str, data_root: Path | None, *, seeing: bool) -> dict[str, Sample] | None:
    """The samples of a task that is judged by outcome, from its data or from outcomes kept; None for other tasks."""
    for spec in _specs(run):
        name = spec.task.name
        if not task.startswith(name):
            continue
        try:
            found = asked_task(spec, data_root) if isinstance(spec, AskSpec) else measured_task(spec, data_root)
        except InputError:
            known = {} if seeing else known_samples(run, task)
            if known:
                return known
            raise
        if found.name == task:
            return by_id(found) if found.rule in OUTCOME_RULES else None
    return None


def _specs(run: RunFolder) -> list[AskSpec]:
    recipe = eval_recipe(run)
    if recipe is not None:
        return list(recipe.measure)
    trained = load_recipe(run.recipe)
    if not isinstance(trained, GrpoRecipe | SftRecipe):
        return []
    specs = [trained.validate_on] if trained.validate_on else []
    return [AskSpec(**spec.model_dump()) for spec in (*specs, *trained.measure)]


def _remark(run: RunFolder) -> str:
    """How the questions were put, if otherwise than usual, or which training run it was: part of the model's name."""
    recipe = eval_recipe(run)
    if recipe is None:
        return f" of {run.path.name}"
    (spec,) = recipe.measure
    said = []
    if spec.system:
        said.append(next((name for name, text in SYSTEM.items() if text == spec.system), "own system prompt"))
    if spec.pictures != "own":
        said.append(f"pictures: {spec.pictures}")
    return f" ({', '.join(said)})" if said else ""


def _figures(
    asked: Sequence[Asked], pairs: Sequence[tuple[Asked, Asked]], points: Sequence[Point], judge: str
) -> dict[str, Any]:
    """Every figure of the tables."""
    measured = []
    for one in asked:
        spread = one.repeated
        measured.append(
            {
                "model": one.model,
                "task": one.task,
                "set": one.part,
                "step": one.step,
                "runs": len(one.runs),
                **asdict(one.rates),
                "repeated": asdict(spread) if spread else None,
            }
        )
    return {
        "judge": judge,
        "declined": "refusal, capability, filtered and empty; failed and undecided are left out",
        "measured": measured,
        "two_by_two": [
            {"model": one.model, **asdict(found), "balanced_accuracy": found.balanced_accuracy}
            for one, other in pairs
            for found in [two_by_two(one.rows, other.rows)]
        ],
        "points": [asdict(point) for point in points],
    }


def _write_json(path: Path, found: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); name another file") from error


def _write_results(path: Path, asked: Sequence[Asked], samples: Mapping[str, Mapping[str, Sample]]) -> None:
    """MOSSBench's result file of the one model and set that was judged."""
    if len(asked) != 1 or asked[0].task.partition("-")[0] not in TASKS or len(asked[0].runs) != 1:
        raise InputError("--results writes one run of mossbench or mossbench_contrast; name one run")
    rows, known = asked[0].runs[0], samples[asked[0].task]
    items = [
        (row.id, row.question, str(known[row.id].columns.get("image_path", "")), published_metadata(known[row.id]))
        for row in rows
    ]
    verdicts = {
        row.id: (row.response, None if row.state in ("failed", "undecided") else row.declined, row.reason)
        for row in rows
        if row.asked != "not asked"
    }
    _write_json(path, published_results(items, verdicts))
