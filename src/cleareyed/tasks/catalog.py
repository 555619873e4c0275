"""Tasks by name, as recipes give them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cleareyed.errors import InputError
from cleareyed.recipe import TaskSpec
from cleareyed.tasks import mossbench
from cleareyed.tasks.names import unknown
from cleareyed.tasks.prepared import prepared_about, prepared_samples
from cleareyed.tasks.published import PUBLISHED, read_published, split_of
from cleareyed.tasks.scenes.task import scenes_task
from cleareyed.tasks.table import table_task
from cleareyed.tasks.task import Made, Task

SCENES = {"scenes-train": "train", "scenes-val": "val", "scenes-bench": "bench"}
NAMES = (*SCENES, *PUBLISHED, *mossbench.TASKS, *mossbench.SHIPPED, "table")


def load_task(spec: TaskSpec, data_root: Path | None) -> Task:
    """The task a recipe asks for, with the recipe's limit and accuracy rule.

    `nlvr` and `sat` need a `split` unless `path` names a file whose name ends in one; a `path` is under `data_root`,
    that of `table` under the current folder. A file that `cleareyed data` prepared is read in place of published
    ones. InputError: an unknown name, a field that does not belong to the task or is missing, no data root where one
    is needed, and whatever the task's own loader finds wrong.
    """
    task = _load(spec, data_root)
    if spec.limit is not None:
        task = replace(task, samples=Made(min(spec.limit, len(task.samples)), task.samples.__getitem__))
    return task if spec.rule is None else replace(task, rule=spec.rule)


def _load(spec: TaskSpec, data_root: Path | None) -> Task:
    if spec.name in SCENES:
        _refuse(spec, "path", "split")
        return scenes_task(SCENES[spec.name])
    if spec.name in PUBLISHED:
        return _published(spec, data_root)
    if spec.name in mossbench.TASKS:
        _refuse(spec, "split")
        return _mossbench(spec, _under_root(spec, data_root))
    if spec.name in mossbench.SHIPPED:
        _refuse(spec, "path", "split")
        part = mossbench.SHIPPED[spec.name]
        return Task(name=spec.name, samples=mossbench.timidity_mini(part), rule=mossbench.RULE[part])
    if spec.name == "table":
        _refuse(spec, "split")
        if spec.path is None:
            raise InputError("task `table`: field `path` is missing; name a .jsonl or .parquet file")
        return _prepared("table", Path(spec.path)) or table_task(Path(spec.path))
    raise unknown("task", spec.name, NAMES)


def _published(spec: TaskSpec, data_root: Path | None) -> Task:
    place, published = _under_root(spec, data_root), PUBLISHED[spec.name]
    if spec.name.startswith("blink") or (spec.name == "nlvr" and place.suffix):
        _refuse(spec, "split")
    if place.suffix:
        split = "" if spec.name == "nlvr" else split_of(spec.name, place, spec.split)  # nlvr's rows hold their ids
        return _prepared(spec.name, place) or _as_published(spec.name, split, [place])
    split = published.split(spec.name, spec.split)
    prepared = _prepared(spec.name, place / f"{split}.parquet")
    if prepared is not None:
        return prepared
    if spec.name == "blink-all" and not place.is_dir():
        place = place.with_name("blink")
    return _as_published(spec.name, split, published.files(place, split))


def _mossbench(spec: TaskSpec, place: Path) -> Task:
    part = mossbench.TASKS[spec.name]
    prepared = _prepared(spec.name, place if place.suffix else place / f"{part}.parquet")
    if prepared is None:
        folder = place if place.is_dir() or spec.path else place.with_name("mossbench")
        prepared = Task(name=spec.name, samples=mossbench.mossbench_samples(folder, part))
    return replace(prepared, rule=mossbench.RULE[part])


def _as_published(name: str, split: str, files: Sequence[Path]) -> Task:
    return Task(name=name, samples=read_published(name, split, files))


def _prepared(name: str, file: Path) -> Task | None:
    about = prepared_about(file)
    if about is None:
        return None
    if about.get("task") != name:
        raise InputError(f"{file}: prepared as task `{about.get('task')}`, not `{name}`; name the task so")
    return Task(name=name, samples=prepared_samples(file))


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
