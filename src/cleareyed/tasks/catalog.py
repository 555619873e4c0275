"""Tasks by name, as recipes give them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from cleareyed.errors import InputError
from cleareyed.recipe import TaskSpec
from cleareyed.tasks import blink, nlvr
from cleareyed.tasks.names import unknown
from cleareyed.tasks.scenes.task import scenes_task
from cleareyed.tasks.table import table_task
from cleareyed.tasks.task import Sample, Task

SCENES = {"scenes-train": "train", "scenes-val": "val", "scenes-bench": "bench"}
NAMES = (*SCENES, "nlvr", "blink", "table")


def load_task(spec: TaskSpec, data_root: Path | None) -> Task:
    """The task a recipe asks for, with the recipe's limit and accuracy rule.

    `nlvr` needs a `split` (`train` or `dev`) unless `path` names a file; a `path` of `nlvr` or `blink` is under
    `data_root`, that of `table` under the current folder. InputError: an unknown name, a field that does not belong
    to the task or is missing, no data root where one is needed, and whatever the task's own loader finds wrong.
    """
    task = _load(spec, data_root)
    if spec.limit is not None:
        task = replace(task, samples=_First(task.samples, spec.limit))
    return task if spec.rule is None else replace(task, rule=spec.rule)


def _load(spec: TaskSpec, data_root: Path | None) -> Task:
    if spec.name in SCENES:
        _refuse(spec, "path", "split")
        return scenes_task(SCENES[spec.name])
    if spec.name == "nlvr":
        return nlvr.nlvr_task(_nlvr_file(spec, data_root))
    if spec.name == "blink":
        _refuse(spec, "split")
        place = _under_root(spec, data_root)
        return blink.blink_task([place] if place.suffix else [place / file for file in blink.FILES])
    if spec.name == "table":
        _refuse(spec, "split")
        if spec.path is None:
            raise InputError("task `table`: field `path` is missing; name a .jsonl or .parquet file")
        return table_task(Path(spec.path))
    raise unknown("task", spec.name, NAMES)


def _nlvr_file(spec: TaskSpec, data_root: Path | None) -> Path:
    place = _under_root(spec, data_root)
    if place.suffix:
        _refuse(spec, "split")
        return place
    if spec.split is None:
        raise InputError("task `nlvr`: field `split` is missing; write `split: train` or `split: dev`")
    if spec.split not in nlvr.SPLITS:
        raise unknown("split of task `nlvr`", spec.split, nlvr.SPLITS)
    return place / f"{spec.split}.parquet"


def _refuse(spec: TaskSpec, *fields: str) -> None:
    for field in fields:
        if getattr(spec, field) is not None:
            raise InputError(f"task `{spec.name}`: field `{field}` does not apply here; leave it out")


def _under_root(spec: TaskSpec, data_root: Path | None) -> Path:
    if data_root is None:
        raise InputError(f"task `{spec.name}` reads files: give their folder with --data-root or CLEAREYED_DATA")
    if not data_root.is_dir():
        raise InputError(f"data root {data_root}: no such folder; correct --data-root or CLEAREYED_DATA")
    return data_root / (spec.path or spec.name)


@dataclass(frozen=True)
class _First(Sequence[Sample]):
    """The first samples of a task, none of them made before it is asked for."""

    samples: Sequence[Sample]
    limit: int

    def __len__(self) -> int:
        return min(self.limit, len(self.samples))

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        places = range(len(self))[index]
        return self.samples[places] if isinstance(places, int) else [self.samples[place] for place in places]
