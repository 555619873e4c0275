"""Parquet files with a column of pictures, of which only the rows in use are in memory."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from cleareyed.errors import InputError
from cleareyed.tasks.images import decode_image
from cleareyed.tasks.stamps import Stamp, stamp_of

_SMALL, _FEW, _BUFFER = 64 * 2**20, 32, 2**20
"""Columns of a row group of at most so many bytes are read whole; of larger ones so many rows and bytes at once, and
so many rows are made at once."""


@dataclass(frozen=True)
class Cell:
    """The place of one value: a row of a column of a parquet file."""

    path: Path
    column: str
    row_group: int
    row: int
    """Within the row group."""

    def value(self) -> Any:
        """Read it. InputError if the file can no longer be read."""
        return _group(self.path, stamp_of(self.path), (self.column,), self.row_group).row(self.row, 1)[self.column]


@dataclass(frozen=True)
class CellImage:
    """Loads the picture whose bytes are in a cell, or in item `index` of the list there.

    The item is either the bytes or a `{bytes, path}` struct. `where` names the file and row in errors.
    """

    cell: Cell
    index: int | None
    where: str

    def data(self) -> bytes:
        value = self.cell.value()
        item = value if self.index is None else value[self.index]
        data = item["bytes"] if isinstance(item, dict) else item
        if not isinstance(data, bytes) or not data:
            raise InputError(f"{self.where}: field `{self.cell.column}` holds no picture; give its encoded bytes")
        return data

    def __call__(self) -> Image.Image:
        return decode_image(self.data(), self.where)


def open_parquet(path: Path, needed: tuple[str, ...]) -> pq.ParquetFile:
    """The file, opened. InputError: missing, not parquet, or without one of the `needed` columns."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path or the data root")
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read as parquet ({one_line(error)}); write it anew") from error
    names = file.schema_arrow.names
    for name in needed:
        if name not in names:
            raise InputError(f"{path}: column `{name}` is missing (columns: {', '.join(names)}); add it")
    return file


class Rows:
    """Some columns of a parquet file, row by row: where the row groups begin is all that is kept of it."""

    def __init__(self, path: Path, columns: Sequence[str], file: pq.ParquetFile) -> None:
        self._path, self._columns = path, tuple(columns)
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self._starts: list[int] = [0, *accumulate(sizes)]

    def __len__(self) -> int:
        return self._starts[-1]

    def place(self, index: int) -> tuple[int, int]:
        """Row group, and row in it."""
        group = bisect_right(self._starts, index) - 1
        return group, index - self._starts[group]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """InputError where the file can't be read."""
        group, row = self.place(index)
        return _group(self._path, stamp_of(self._path), self._columns, group).row(row, _FEW)


class _Group:
    """Columns of one row group: all in memory if they are small, else a few rows, read on as later ones are wanted."""

    def __init__(self, path: Path, stamp: Stamp, columns: tuple[str, ...], group: int) -> None:
        self._path, self._columns, self._group = path, columns, group
        self._lock = Lock()
        with _readable(path, columns):
            metadata = _metadata(path, stamp)
            self._file = pq.ParquetFile(path, buffer_size=_BUFFER, metadata=metadata)
            held = metadata.row_group(group)
            chunks = [held.column(at) for at in range(held.num_columns)]
            size = sum(
                one.total_uncompressed_size for one in chunks if one.path_in_schema.partition(".")[0] in columns
            )
        self._rows = held.num_rows if size <= _SMALL else _FEW
        self._held: pa.RecordBatch
        self._first: int
        self._made: list[dict[str, Any]]
        self._restart()

    def row(self, index: int, around: int) -> dict[str, Any]:
        """So many rows `around` it are made at once, for who asks for the next."""
        with self._lock, _readable(self._path, self._columns):
            if self._first <= index < self._first + len(self._made):
                return self._made[index - self._first]
            if index < self._start:
                self._restart()
            while index >= self._start + self._held.num_rows:
                self._start += self._held.num_rows
                self._held = next(self._batches)
            offset = (index - self._start) // around * around
            self._first, self._made = self._start + offset, self._held.slice(offset, around).to_pylist()
            return self._made[index - self._first]

    def _restart(self) -> None:
        self._batches = self._file.iter_batches(self._rows, row_groups=[self._group], columns=list(self._columns))
        self._start, self._held = 0, pa.RecordBatch.from_pylist([])
        self._first, self._made = 0, []


@lru_cache(maxsize=8)
def _group(path: Path, stamp: Stamp, columns: tuple[str, ...], group: int) -> _Group:
    return _Group(path, stamp, columns, group)


@lru_cache(maxsize=8)
def _metadata(path: Path, stamp: Stamp) -> pq.FileMetaData:
    return pq.read_metadata(path)


@contextmanager
def _readable(path: Path, columns: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, StopIteration) as error:
        names = ", ".join(f"`{name}`" for name in columns)
        raise InputError(f"{path}: columns {names} cannot be read ({one_line(error)}); write it anew") from error


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def picture_counts(file: pq.ParquetFile, column: str, group: int) -> list[int]:
    """How many pictures each row of that row group holds in that column: 0, 1, or the length of a list.

    The bytes are not read where the column is of `{bytes, path}` structs, as the hub's data sets are.
    """
    leaves = [file.schema.column(index).path for index in range(len(file.schema))]
    paths = [leaf for leaf in leaves if leaf.startswith(f"{column}.") and leaf.endswith(".path")]
    values = file.read_row_group(group, columns=paths or [column]).column(0)
    if is_list(values.type):
        return [count or 0 for count in pc.list_value_length(values).to_pylist()]
    return [int(held) for held in values.is_valid().to_pylist()]
