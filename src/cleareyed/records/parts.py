"""Rollouts and answers on disk: parquet part files, readable while the run lives, merged into one at its end.

Parts are written aside and renamed. `merged.parquet` names in its metadata the parts it holds; a reader ignores
those that still lie beside it, so that no moment of a merge, or of a crash in it, doubles or loses a row.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleareyed.errors import InputError
from cleareyed.records.rows import AnswerMark, AnswerRow, RolloutRow

if TYPE_CHECKING:
    from cleareyed.records.run import RunFolder

T = TypeVar("T")

MERGED = "merged.parquet"
HOLDS = b"cleareyed.parts"
"""Metadata key of the merged file: the names of the parts in it, a JSON list."""
PART = "part"
"""Column of the merged file: the part a row came in."""
READ_ATTEMPTS = 10
ROWS_AT_ONCE = 1000
"""In memory, of answers that are written or read as they come."""

ROLLOUT_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("sample_id", pa.string()),
        ("group", pa.int64()),
        ("index", pa.int64()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("completion", pa.string()),
        ("tokens", pa.int64()),
        ("finish", pa.string()),
        ("rewards", pa.map_(pa.string(), pa.float64())),
        ("reward", pa.float64()),
        ("advantage", pa.float64()),
        ("extracted", pa.string()),
        ("correct", pa.bool_()),
    ]
)
ANSWER_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("step", pa.int64()),
        ("label", pa.string()),
        ("sample_id", pa.string()),
        ("skill", pa.string()),
        ("group", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("completion", pa.string()),
        ("tokens", pa.int64()),
        ("finish", pa.string()),
        ("extracted", pa.map_(pa.string(), pa.string())),
        ("correct", pa.map_(pa.string(), pa.bool_())),
        ("well_formed", pa.bool_()),
        ("state", pa.string()),
        ("prompt_hash", pa.string()),
        ("images_hash", pa.string()),
    ]
)
MARK_SCHEMA = pa.schema([ANSWER_SCHEMA.field(one.name) for one in fields(AnswerMark)])
SINCE = {"state": "answered", "prompt_hash": "", "images_hash": ""}
"""Columns that older files lack, and what is read in their place."""


def write_rollouts(run: RunFolder, step: int, rows: Sequence[RolloutRow]) -> None:
    """Write the rollouts of one step, in place of earlier ones of that step."""
    _write_part(run.rollouts, f"step-{step:08d}.parquet", ROLLOUT_SCHEMA, rows)


def write_answers(run: RunFolder, rows: Sequence[AnswerRow]) -> None:
    """Write evaluated answers, in place of earlier ones with the same label, task and step."""
    _write_answers(run.answers, rows)


def write_probes(run: RunFolder, rows: Sequence[AnswerRow]) -> None:
    """Write answers to the probes of the thinking, as `write_answers` writes others."""
    _write_answers(run.thinking, rows)


def _write_answers(folder: Path, rows: Sequence[AnswerRow]) -> None:
    parts: dict[tuple[str, str, int], list[AnswerRow]] = {}
    for row in rows:
        parts.setdefault((row.label, row.task, row.step), []).append(row)
    for (label, task, step), part in parts.items():
        _write_part(folder, answers_part_name(label, task, step), ANSWER_SCHEMA, part)


class AnswerWriter:
    """Answers of one label, task and step, written as they come, in place of earlier ones when the block ends.

    Use it in a `with` statement. If the block ends by an error, the earlier ones stay; if there were none to write,
    none are left. InputError: the disk is full or cannot be written.
    """

    def __init__(self, run: RunFolder, label: str, task: str, step: int) -> None:
        self._path = run.answers / answers_part_name(label, task, step)
        self._aside = self._path.with_name(f"{self._path.name}.aside")
        self._rows: list[AnswerRow] = []
        self._written = 0

    def __enter__(self) -> Self:
        with _writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = pq.ParquetWriter(self._aside, ANSWER_SCHEMA, compression="zstd")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            with _writing(self._path):
                if kind is None:
                    self._flush()
                self._file.close()
                if kind is None:
                    self._place()
        finally:
            self._aside.unlink(missing_ok=True)

    def add(self, row: AnswerRow) -> None:
        self._rows.append(row)
        if len(self._rows) == ROWS_AT_ONCE:
            with _writing(self._path):
                self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(_as_table(ANSWER_SCHEMA, self._rows))
            self._written += len(self._rows)
            self._rows = []

    def _place(self) -> None:
        folder, name = self._path.parent, self._path.name
        held = held_parts(folder)
        if name in held and held != {name}:  # merged with others: replaced there
            others = _without(_load_merged(folder, ANSWER_SCHEMA), name)
            own = _with_part(_read_file(self._aside, ANSWER_SCHEMA), name)
            _write_merged(folder, pa.concat_tables([others, own]), held)
            return
        if self._written:
            os.replace(self._aside, self._path)
        else:
            self._path.unlink(missing_ok=True)
        if name in held:  # until now readers have passed over the part
            (folder / MERGED).unlink()


def answers_part_name(label: str, task: str, step: int) -> str:
    """A file name that is safe on any disk and distinct for distinct (label, task, step)."""
    digest = hashlib.sha256(json.dumps([label, task]).encode()).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9-]+", "_", f"{label}-{task}")[:60]
    return f"answers-{readable}-{digest}-{step:08d}.parquet"


def read_rollouts(run: RunFolder) -> list[RolloutRow]:
    """All rollouts so far, by step, group and index."""
    rows = [
        RolloutRow(**{**row, "rewards": dict(row["rewards"])})
        for row in _read(run.rollouts, ROLLOUT_SCHEMA).to_pylist()
    ]
    return sorted(rows, key=lambda row: (row.step, row.group, row.index))


def read_answers(run: RunFolder) -> list[AnswerRow]:
    """All answers so far, part by part, each part in the order it was written."""
    return list(answer_rows(_read(run.answers, ANSWER_SCHEMA)))


def read_probes(run: RunFolder) -> list[AnswerRow]:
    """All answers to the probes of the thinking, in the order of `read_answers`; none if there were no probes."""
    return list(answer_rows(_read(run.thinking, ANSWER_SCHEMA)))


def answer_rows(table: pa.Table) -> Iterator[AnswerRow]:
    for row in table.to_pylist():
        yield AnswerRow(**{**row, "extracted": dict(row["extracted"]), "correct": dict(row["correct"])})


def compact(run: RunFolder) -> None:
    """Merge the part files of rollouts, answers and probes into one file each. Doing it twice changes nothing."""
    folders = ((run.rollouts, ROLLOUT_SCHEMA), (run.answers, ANSWER_SCHEMA), (run.thinking, ANSWER_SCHEMA))
    for folder, schema in folders:
        names = part_names(folder)
        held = held_parts(folder)
        if set(names) - held:
            _write_merged(folder, _load(folder, schema), held | set(names))
        for name in names:
            (folder / name).unlink(missing_ok=True)


def drop_rollouts_after(run: RunFolder, step: int) -> None:
    """Remove the rollouts of steps later than `step`."""
    late = {name for name in part_names(run.rollouts) if int(name[len("step-") : -len(".parquet")]) > step}
    for name in late:
        (run.rollouts / name).unlink()
    held = held_parts(run.rollouts)
    table = _load_merged(run.rollouts, ROLLOUT_SCHEMA)
    kept = table.filter(pc.less_equal(table["step"], step))
    if kept.num_rows < table.num_rows:
        _write_merged(run.rollouts, kept, held & set(kept[PART].unique().to_pylist()))


def _write_part(folder: Path, name: str, schema: pa.Schema, rows: Sequence[RolloutRow | AnswerRow]) -> None:
    if not rows:
        return
    table = _as_table(schema, rows)
    held = held_parts(folder)
    if name not in held:
        _write(folder / name, table)
        return
    others = _without(_load_merged(folder, schema), name)  # merged already: replaced there, in one rename
    _write_merged(folder, pa.concat_tables([others, _with_part(table, name)]), held)


def _as_table(schema: pa.Schema, rows: Sequence[RolloutRow | AnswerRow]) -> pa.Table:
    columns = [asdict(row) for row in rows]
    for row in columns:
        for key, value in row.items():
            if isinstance(value, dict):
                row[key] = list(value.items())
    return pa.Table.from_pylist(columns, schema=schema)


def _without(merged: pa.Table, name: str) -> pa.Table:
    return merged.filter(pc.not_equal(merged[PART], name))


def part_names(folder: Path) -> list[str]:
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(name for name in names if name.endswith(".parquet") and name != MERGED)


def held_parts(folder: Path) -> set[str]:
    """Names of the parts that the merged file holds."""
    if not (folder / MERGED).exists():
        return set()
    return set(json.loads(pq.read_schema(folder / MERGED).metadata[HOLDS]))


def _read(folder: Path, schema: pa.Schema) -> pa.Table:
    return whole(folder, lambda: _load(folder, schema)).drop_columns([PART])


def whole(folder: Path, read: Callable[[], T]) -> T:
    """What `read` gives of every row once, also while another process writes, merges or removes parts."""
    for _ in range(READ_ATTEMPTS):
        before = _identity(folder / MERGED)
        try:
            found = read()
        except FileNotFoundError:
            continue
        if before == _identity(folder / MERGED):
            return found
    raise InputError(f"{folder}: changed while it was read, {READ_ATTEMPTS} times over; try again")


def _load(folder: Path, schema: pa.Schema) -> pa.Table:
    """The merged file and the parts it does not hold, with the column of part names, in the order of those names."""
    names = part_names(folder)
    held = held_parts(folder)
    tables = [_load_merged(folder, schema)]
    for name in names:
        if name not in held:
            tables.append(_with_part(_read_file(folder / name, schema), name))
    table = pa.concat_tables(tables)
    order = sorted(range(table.num_rows), key=table[PART].to_pylist().__getitem__)  # stable within a part
    return table.take(pa.array(order, pa.int64()))


def _load_merged(folder: Path, schema: pa.Schema) -> pa.Table:
    full = schema.append(pa.field(PART, pa.string()))
    return _read_file(folder / MERGED, full) if (folder / MERGED).exists() else full.empty_table()


def _read_file(path: Path, schema: pa.Schema) -> pa.Table:
    with reading(path):
        return fitted(pq.ParquetFile(path).read(), schema)


def fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """With the columns that older files lack, in the order of `schema`."""
    for name, value in SINCE.items():
        if name in schema.names and name not in table.column_names:
            table = table.append_column(name, pa.array([value] * table.num_rows, pa.string()))
    return table.select(schema.names).cast(schema).replace_schema_metadata(None)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """InputError where the block meets a file that no run has written."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError) as error:
        raise InputError(f"{path}: not a part file of a run ({error}); remove it") from error


def _with_part(table: pa.Table, name: str) -> pa.Table:
    return table.append_column(pa.field(PART, pa.string()), pa.array([name] * table.num_rows, pa.string()))


def _write_merged(folder: Path, table: pa.Table, holds: Iterable[str]) -> None:
    _write(folder / MERGED, table, {HOLDS: json.dumps(sorted(holds)).encode()})


def _write(path: Path, table: pa.Table, metadata: Mapping[bytes, bytes] | None = None) -> None:
    aside = path.with_name(f"{path.name}.aside")
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table.replace_schema_metadata(metadata), aside, compression="zstd")
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); free space and --resume") from error


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns
