"""Parquet files with a column of pictures, of which only the rows in use are in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cleareyed.errors import InputError


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


def open_parquet(path: Path, needed: tuple[str, ...]) -> pq.ParquetFile:
    """The file, opened. InputError: missing, not parquet, or without one of the `needed` columns."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path or the data root")
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read as parquet ({_line(error)}); write it anew") from error
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
            raise InputError(f"{path}: row group {group} cannot be read ({_line(error)}); write it anew") from error
        for index, row in enumerate(rows):
            yield row, Cell(path, lazy, group, index)


@lru_cache(maxsize=4)
def _column(path: Path, column: str, group: int) -> pa.ChunkedArray:
    try:
        return pq.ParquetFile(path).read_row_group(group, columns=[column]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: column `{column}` cannot be read ({_line(error)}); write it anew") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
