"""The answers of a run as they lie on disk, gone through without being held: a thousand in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, overload

import pyarrow as pa
import pyarrow.parquet as pq

from cleareyed.records.parts import (
    ANSWER_SCHEMA,
    MARK_SCHEMA,
    MERGED,
    ROWS_AT_ONCE,
    answer_rows,
    fitted,
    held_parts,
    part_names,
    read_answers,
    reading,
    whole,
)
from cleareyed.records.rows import AnswerMark, AnswerRow

if TYPE_CHECKING:
    from cleareyed.records.run import RunFolder

T = TypeVar("T")

BUFFER = 2**20
"""Bytes of a column that are read at once; without it a column of a row group is read whole."""


class StoredAnswers(Sequence[AnswerRow]):
    """The answers in one file, read from disk whenever they are gone through: a part of a thousand at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = pq.ParquetFile(path)
        metadata = self._file.metadata
        self._sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]

    def __len__(self) -> int:
        return sum(self._sizes)

    def __iter__(self) -> Iterator[AnswerRow]:
        for group in range(len(self._sizes)):
            yield from self._group(group)

    @overload
    def __getitem__(self, index: int) -> AnswerRow: ...

    @overload
    def __getitem__(self, index: slice) -> list[AnswerRow]: ...

    def __getitem__(self, index: int | slice) -> AnswerRow | list[AnswerRow]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        rest = range(len(self))[index]
        for group, size in enumerate(self._sizes):
            if rest < size:
                return next(answer_rows(self._table(group).slice(rest, 1)))
            rest -= size
        raise IndexError(index)

    def _group(self, group: int) -> Iterator[AnswerRow]:
        return answer_rows(self._table(group))

    def _table(self, group: int) -> pa.Table:
        with reading(self._path):
            return fitted(self._file.read_row_group(group), ANSWER_SCHEMA)


def stored_answers(run: RunFolder) -> Sequence[AnswerRow]:
    """All answers so far; where one file holds them all, as it does in runs of eval, they stay on disk."""
    names, held = part_names(run.answers), held_parts(run.answers)
    parts = [name for name in names if name not in held]
    if len(parts) + bool(held) != 1:
        return read_answers(run)
    try:
        return StoredAnswers(run.answers / (MERGED if held else parts[0]))
    except (pa.ArrowInvalid, OSError):  # gone since, or none of ours: said there
        return read_answers(run)


def gather(run: RunFolder, read: Callable[[Iterator[AnswerMark]], T]) -> T:
    """What `read` makes of the marks of all answers so far: each part in the order it was written.

    The texts are not read. `read` is called anew where another process merged the parts meanwhile.
    """
    return whole(run.answers, lambda: read(_marks(run.answers)))


def answers_of(run: RunFolder, wanted: Callable[[str], bool]) -> list[AnswerRow]:
    """The answers to the samples whose ids are `wanted`, in the order of the file."""
    return whole(run.answers, lambda: list(_chosen(run.answers, wanted)))


def _marks(folder: Path) -> Iterator[AnswerMark]:
    for table in _tables(folder, MARK_SCHEMA):
        for row in table.to_pylist():
            yield AnswerMark(**{**row, "correct": dict(row["correct"])})


def _chosen(folder: Path, wanted: Callable[[str], bool]) -> Iterator[AnswerRow]:
    for table in _tables(folder, ANSWER_SCHEMA):
        chosen = [wanted(name) for name in table["sample_id"].to_pylist()]
        yield from answer_rows(table.filter(pa.array(chosen, pa.bool_())))


def _tables(folder: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """All rows, the merged ones first, in tables of at most `ROWS_AT_ONCE` rows."""
    held = held_parts(folder)
    names = [*([MERGED] if held else []), *(name for name in part_names(folder) if name not in held)]
    for path in (folder / name for name in names):
        with reading(path):
            file = pq.ParquetFile(path, buffer_size=BUFFER)
            columns = [name for name in schema.names if name in file.schema_arrow.names]
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                yield fitted(pa.Table.from_batches([batch]), schema)
