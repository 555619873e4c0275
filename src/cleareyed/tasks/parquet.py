"""Parquet files with a column of pictures, of which only the rows in use are in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from cleareyed.errors import InputError
from cleareyed.tasks.images import decode_image


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
        return _column(self.path, self.column, self.row_group)[self.row].as_py()


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


def read_columns(path: Path, needed: tuple[str, ...], lazy: str) -> Iterator[tuple[dict[str, Any], Cell]]:
    """Each row without the `lazy` column, and the cell of that column, row group by row group.

    InputError as `open_parquet`, or where the data is damaged.
    """
    file = open_parquet(path, (*needed, lazy))
    others = [name for name in file.schema_arrow.names if name != lazy]
    for group in range(file.num_row_groups):
        try:
            rows = file.read_row_group(group, columns=others).to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{path}: row group {group} cannot be read ({one_line(error)}); write it anew") from error
        for index, row in enumerate(rows):
            yield row, Cell(path, lazy, group, index)


@lru_cache(maxsize=4)
def _column(path: Path, column: str, group: int) -> pa.ChunkedArray:
    try:
        return pq.ParquetFile(path).read_row_group(group, columns=[column]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: column `{column}` cannot be read ({one_line(error)}); write it anew") from error


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
