"""`cleareyed rank`: several answerers on the same questions, and how far their order can be trusted."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from cleareyed.console import Display, table_console
from cleareyed.errors import InputError
from cleareyed.evaluation.power import smallest_paired
from cleareyed.evaluation.ranks import Ranked, rank
from cleareyed.evaluation.stats import Bools, Interval, share_interval
from cleareyed.evaluation.verdicts import Verdicts
from cleareyed.records.run import open_run
from cleareyed.report.pages import measured_of, measurements, reported
from cleareyed.report.summary import write_whole
from cleareyed.report.words import percent, percent_range, points, visible

MOST = 100
"""Answerers that are ranked: n of them make n (n - 1) / 2 tests."""


def rank_runs(paths: Sequence[Path], *, task: str | None, rule: str, json_path: Path | None) -> None:
    """Order what the runs measured on a task by accuracy on the questions that all answered, and print it.

    Raises:
        InputError: a folder is no run; fewer than two answerers; no task or no question that all have; answers that
            were not judged under the rule.
    """
    with Display("rank") as display:
        runs = {}
        for place, path in enumerate(paths):
            display.status(f"reading {path}", place, len(paths))
            runs[path] = reported(measured_of(open_run(path)))
        name = _task([tables.keys() for tables in runs.values()], task)
        found = {
            title: verdicts
            for path, tables in runs.items()
            for title, verdicts in _titled(path, paths, measurements(tables[name])).items()
        }
        if not 2 <= len(found) <= MOST:
            raise InputError(f"{len(found)} answerers of {name}; name runs with 2 to {MOST} in all")
        display.status(f"comparing {len(found)} answerers", 0, 0)
        right, groups = shared_answers(list(found.values()), rule)
        if not len(groups):
            raise InputError(f"{name}: no question has an answer from everyone that can be judged; name fewer runs")
        ranked = rank(dict(zip(found, right, strict=True)), groups)
    intervals = {label: share_interval(own, groups) for label, own in zip(found, right, strict=True)}
    console = table_console()
    console.print(ranks_table(ranked, intervals, f"{name}, rule {rule}: accuracy in % (95 %) on {len(groups)} items"))
    for sentence in sentences(list(found.values()), right):
        console.print(Text(sentence), soft_wrap=True)
    if json_path is not None:
        held = [{**asdict(one), "interval": asdict(intervals[one.name])} for one in ranked]
        text = json.dumps({"task": name, "rule": rule, "n": len(groups), "ranked": held}, indent=2)
        try:
            write_whole(json_path, text + "\n")
        except OSError as error:
            raise InputError(f"{json_path}: cannot be written ({error.strerror}); name another file") from error


def shared_answers(found: Sequence[Verdicts], rule: str) -> tuple[list[Bools], np.ndarray]:
    """Who is right (N,) each, and the groups (N,), of the samples that all have an answer to judge, in one order."""
    names = [one.names[one.is_judged] for one in found]
    shared = reduce(np.intersect1d, names)  # (N,)
    places = []
    for one, own in zip(found, names, strict=True):
        order = np.argsort(own)
        places.append(np.flatnonzero(one.is_judged)[order[np.searchsorted(own, shared, sorter=order)]])
    return [one.right(rule)[at] for one, at in zip(found, places, strict=True)], found[0].groups[places[0]]


def ranks_table(ranked: Sequence[Ranked], intervals: Mapping[str, Interval], title: str) -> Table:
    """One row an answerer, the best first."""
    table = Table(title=Text(visible(title)), title_justify="left")
    for heading in ("rank", "answerer", "accuracy", "letters"):
        table.add_column(heading, justify="left" if heading == "answerer" else "right")
    for one in ranked:
        ranks = str(one.best_rank) if one.best_rank == one.worst_rank else f"{one.best_rank} to {one.worst_rank}"
        interval = intervals[one.name]
        accuracy = f"{percent(one.accuracy)} ({percent_range(interval.low, interval.high)})"
        table.add_row(ranks, Text(visible(one.name)), accuracy, " ".join(one.letters))
    return table


def sentences(found: Sequence[Verdicts], right: Sequence[Bools]) -> list[str]:
    """How the table is to be read, what was left out, and what so many items can find."""
    n, most = len(right[0]), max(map(len, found))
    said = [
        "Who shares a letter cannot be told apart: every pair is tested on the same items (exact, whole groups "
        "swapped), with Holm's correction for all pairs; the ranks hold together with 95 %."
    ]
    if n < most:
        said.append(f"Left out: {most - n} items that not everyone has an answer to.")
    differing = [float((one != other).mean()) for at, one in enumerate(right) for other in right[:at]]
    if n and (discordant := float(np.median(differing))) and (least := smallest_paired(n, discordant)) is not None:
        said.append(
            f"With {n} items that stand alone, and pairs that differ on {percent(discordant)} % of them as the middle "
            f"one here, a difference of {points(least).lstrip('+')} points would be found 4 times in 5, before the "
            "correction."
        )
    return said


def _task(names: Iterable[Iterable[str]], wanted: str | None) -> str:
    each = [list(own) for own in names]
    shared = [name for name in each[0] if all(name in own for own in each)]
    if wanted is not None and wanted not in shared:
        raise InputError(f"--task {wanted}: not measured in every run; shared are: {', '.join(shared) or 'none'}")
    if wanted is None and len(shared) != 1:
        known = f"the runs share {', '.join(shared)}; choose one with --task" if shared else "the runs share no task"
        raise InputError(known)
    return wanted or shared[0]


def _titled(path: Path, paths: Sequence[Path], found: Mapping[str, Verdicts]) -> Mapping[str, Verdicts]:
    """By names that are not those of other runs' answerers."""
    if len(paths) == 1:
        return found
    run = path.resolve().name
    run = str(path) if [one.resolve().name for one in paths].count(run) > 1 else run
    return {run if len(found) == 1 else f"{run}: {label}": verdicts for label, verdicts in found.items()}
