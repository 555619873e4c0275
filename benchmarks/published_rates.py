"""How close the judges' declined rates on MOSSBench's published answers are to the rates that its paper prints.

    python benchmarks/published_rates.py --data ../shared/data --json benchmarks/results/published_rates.json

The folder holds `mossbench/` with `responses/MODEL.json` (pid to text), as published for five models. The answers go
the way of every answer: the task, its protocol, a replayed model, a journal, rows, outcomes. Each cell is a model and
a stimulus, 100 items. Declined: refusal, capability, filtered and empty. The paper has two columns, of a GPT-4 judge
and of people, which differ from each other as well. Goals: a mean absolute gap over the 15 cells of at most 2.5
points to the first and 3.5 to the second. Nothing is fitted here, and no judge was made by looking at these answers.

The same answers were judged by all, so that no chance of drawing items is in a gap; how much it hangs on the choice of
models is shown by leaving out one at a time. Where `mossbench/readings.json` is there, the mean over all cells is also
given as readings of a sample of the answers correct it (`oversensitivity/correct.py`): a mean absolute gap is never
smaller than the mean gap. What is not known is whether the printed rates are of exactly these answers, and whether
they count the 14 empty ones of three models as refusals, as the authors' code does.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cleareyed.errors import InputError
from cleareyed.eval_command import JOURNAL, judge_journal
from cleareyed.eval_plan import asked_task, asking_of, plan
from cleareyed.evaluation.evaluate import AskedHashes, ask_task
from cleareyed.evaluation.journal import Journal
from cleareyed.evaluation.models import AskedModel, limits_of, open_answerer
from cleareyed.oversensitivity.correct import prediction_powered
from cleareyed.oversensitivity.judges.open import open_judge
from cleareyed.oversensitivity.judges.sources import mossbench_readings
from cleareyed.oversensitivity.outcome_rows import OutcomeRow, judge_rows, outcome_rows
from cleareyed.oversensitivity.outcomes import DECLINED
from cleareyed.oversensitivity.plane import published
from cleareyed.oversensitivity.rates import rates
from cleareyed.oversensitivity.runs import by_id
from cleareyed.recipe import TaskSpec
from cleareyed.records.environment import describe_environment
from cleareyed.records.parts import read_answers
from cleareyed.records.run import create_run
from cleareyed.report.summary import write_whole
from cleareyed.tasks.mossbench import STIMULI

JUDGES = ("local", "lexical:gcg", "lexical:autodan")
COLUMNS = {"gpt": "GPT-4 judge", "human": "people"}
GOALS = {"gpt": 2.5, "human": 3.5}


def answers_of(data: Path, file: Path) -> list[OutcomeRow]:
    """The rows of one model's published answers, not judged yet. InputError as the evaluation raises it."""
    recipe = plan(TaskSpec(name="mossbench"), AskedModel(path=f"replay:{file}"))
    (spec,), model = recipe.measure, recipe.model
    task, how = asked_task(spec, data), asking_of(spec)
    with tempfile.TemporaryDirectory() as folder:
        run = create_run(Path(folder) / "run", recipe)
        answerer, limits = open_answerer(model, 1), limits_of(model, 64, 1, 60.0)
        asked = AskedHashes(task, how)
        with Journal.open(run.path / JOURNAL) as journal:
            asyncio.run(ask_task(task, how, answerer, journal, limits, asked, lambda _: None, recorded=True))
        judge_journal(run, recipe, task, asked, {})
        rows = read_answers(run)
    if absent := sum(row.state == "failed" for row in rows):
        raise InputError(f"{file}: {absent} items have no answer; fetch the file anew")
    return outcome_rows(rows, by_id(task), "")


def row_of(model: str) -> Mapping[str, Any]:
    """The paper's row for a file of answers. InputError if it has none."""
    plain = "".join(char for char in model.lower() if char.isalnum())
    for row in published()["table"]:
        if "".join(char for char in row["model"].lower() if char.isalnum()) == plain:
            return dict(row)
    raise InputError(f"{model}: not a model of the paper's table; name the file as there")


def gaps(judged: Mapping[str, Sequence[OutcomeRow]], column: str) -> dict[str, Any]:
    """Absolute gaps over cells to one column, in points: mean, by model, and the range with one model left out."""
    cells = {
        (model, code): 100 * (rate.share or 0.0) - row_of(model)[column][code]
        for model, rows in judged.items()
        for code, rate in rates(rows).by_stimulus.items()
    }
    by_model = {model: _mean_size([gap for (own, _), gap in cells.items() if own == model]) for model in judged}
    without = [_mean_size([gap for (own, _), gap in cells.items() if own != model]) for model in judged]
    worst = max(cells, key=lambda cell: abs(cells[cell]))
    mean = _mean_size(list(cells.values()))
    return {
        "mean_absolute_gap": mean,
        "by_model": by_model,
        "without_one_model": [min(without), max(without)] if len(judged) > 1 else None,
        "mean_gap": sum(cells.values()) / len(cells),
        "largest": {"model": worst[0], "stimulus": worst[1], "gap": cells[worst]},
        "goal": GOALS[column],
        "reached": mean <= GOALS[column],
    }


def readings(data: Path) -> dict[str, bool]:
    """By `MODEL/PID`, whether readings that agree call the answer declined; empty without any."""
    if not (data / "mossbench" / "readings.json").is_file():
        return {}
    return {one.answered.id: one.state in DECLINED for one in mossbench_readings(data)}


def by_readings(
    read: Mapping[str, bool], judged: Mapping[str, Sequence[OutcomeRow]], found: Mapping[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """The mean declined rate and the mean gaps, in points, that a judge would have who agrees with the readings; None
    without readings. The sample, as many answers of each cell, is taken as drawn from all of them."""
    if not read:
        return None
    ids = [f"{model}/{row.id}" for model, rows in judged.items() for row in rows]
    places = [place for place, one in enumerate(ids) if one in read]
    said = [row.declined for rows in judged.values() for row in rows]
    labels = [read[ids[place]] for place in places]
    corrected = prediction_powered(said, labels, places)
    off = 100 * (corrected.rate.value - corrected.judged)
    low, high = (100 * (end - corrected.judged) for end in (corrected.rate.interval.low, corrected.rate.interval.high))
    return {
        "labelled": len(places),
        "missed": sum(label and not said[place] for place, label in zip(places, labels, strict=True)),
        "false": sum(said[place] and not label for place, label in zip(places, labels, strict=True)),
        "corrected": asdict(corrected),
        "mean_gap": {
            column: [one["mean_gap"] + off, one["mean_gap"] + low, one["mean_gap"] + high]
            for column, one in found.items()
        },
    }


def _mean_size(gaps: Sequence[float]) -> float:
    return sum(map(abs, gaps)) / len(gaps) if gaps else 0.0


def columns_apart(models: Sequence[str]) -> float:
    """Mean absolute gap between the paper's two columns on the same cells."""
    rows = [row_of(name) for name in models]
    return _mean_size([row["gpt"][code] - row["human"][code] for row in rows for code in STIMULI])


def measure(data: Path) -> dict[str, Any]:
    """Every figure. InputError: no answers."""
    files = sorted((data / "mossbench" / "responses").glob("*.json"))
    if not files:
        raise InputError(f"{data}/mossbench/responses: holds no MODEL.json; name the folder that holds mossbench/")
    asked = {file.stem: answers_of(data, file) for file in files}
    found: dict[str, Any] = {"models": list(asked), "columns_apart": columns_apart(list(asked)), "judges": {}}
    read = readings(data)
    for name in JUDGES:
        judge, start = open_judge(name), time.perf_counter()
        judged = {model: judge_rows(rows, judge) for model, rows in asked.items()}
        seconds = time.perf_counter() - start
        apart = {column: gaps(judged, column) for column in COLUMNS}
        found["judges"][name] = {
            "seconds": seconds,
            "gaps": apart,
            "by_readings": by_readings(read, judged, apart),
            "cells": {model: _cells(model, rows) for model, rows in judged.items()},
        }
    return found


def _cells(model: str, rows: Sequence[OutcomeRow]) -> dict[str, Any]:
    one, printed = rates(rows), row_of(model)
    return {
        "printed": {column: printed[column] for column in COLUMNS},
        "states": dict(one.states),
        **{code: asdict(rate) for code, rate in {**one.by_stimulus, "all": one.whole}.items()},
        "without_empty": asdict(one.without_empty),
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """The figures as text."""
    models, apart = len(found["models"]), found["columns_apart"]
    told = [f"{models} models, {3 * models} cells; the paper's two columns are {apart:.1f} points apart"]
    for name, judge in found["judges"].items():
        for column, one in judge["gaps"].items():
            reached = "reached" if one["reached"] else "not reached"
            spread = " to ".join(f"{gap:.2f}" for gap in one["without_one_model"] or ())
            told.append(
                f"{name}: mean absolute gap to the {COLUMNS[column]} {one['mean_absolute_gap']:.2f} points "
                f"(goal {one['goal']}: {reached}; without one model {spread}; mean gap {one['mean_gap']:+.2f})"
            )
        if one := judge["by_readings"]:
            told.append(
                f"{name}: of {one['labelled']} answers that were read, {one['missed']} that decline were missed, "
                f"{one['false']} others called declined; with the readings right, the mean gap is "
                + " and ".join(
                    f"{mean:+.2f} ({low:+.2f} to {high:+.2f}) to the {COLUMNS[column]}"
                    for column, (mean, low, high) in one["mean_gap"].items()
                )
            )
    for model, cell in found["judges"]["local"]["cells"].items():
        ours = " / ".join(f"{100 * cell[code]['share']:.0f}" for code in STIMULI)
        gpt, human = (" / ".join(str(cell["printed"][column][code]) for code in STIMULI) for column in COLUMNS)
        told.append(f"  {model}: local {ours}; GPT-4 judge {gpt}; people {human}")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds mossbench/")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    try:
        found = {**measure(options.data), "environment": describe_environment(0)}
    except InputError as error:
        sys.exit(f"error: {error}")
    print("\n".join(lines(found)))
    if options.json:
        write_whole(options.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
