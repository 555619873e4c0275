"""Prepared data files: one parquet schema for every task, read without looking at a picture.

| column | what |
|---|---|
| `id`, `question`, `answer`, `skill`, `group` | text, as in `Sample` |
| `choices` | list of text |
| `image` | list of encoded pictures, as they were |
| `image_count` | their number |
| `columns` | the sample's further columns, as a JSON object |

The file's metadata hold, under `cleareyed`, the task, the split and how the file was made.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cleareyed.errors import InputError
from cleareyed.tasks.parquet import Cell, CellImage, Rows, one_line, open_parquet
from cleareyed.tasks.stamps import Stamp, refuse_changed, stamp_of
from cleareyed.tasks.task import Made, Sample

FORMAT = 1

_KEY = b"cleareyed"
_ROWS, _BYTES = 64, 16 * 2**20
"""A row group is closed at so many rows or bytes, so that reading one picture reads little else."""

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("skill", pa.string()),
        ("group", pa.string()),
        ("columns", pa.string()),
        ("image_count", pa.int32()),
        ("image", pa.list_(pa.binary())),
    ]
)


def write_prepared(path: Path, about: Mapping[str, Any], rows: Iterable[tuple[Sample, list[bytes]]]) -> None:
    """Write samples and their encoded pictures, row group by row group. The caller sees to whole files."""
    schema = _SCHEMA.with_metadata({_KEY: json.dumps({"format": FORMAT, **about}).encode()})
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        held: list[dict[str, Any]] = []
        size = 0
        for sample, pictures in rows:
            held.append(_row(sample, pictures))
            size += sum(len(data) for data in pictures)
            if len(held) == _ROWS or size >= _BYTES:
                writer.write_table(pa.Table.from_pylist(held, schema=schema))
                held, size = [], 0
        if held:
            writer.write_table(pa.Table.from_pylist(held, schema=schema))


def _row(sample: Sample, pictures: list[bytes]) -> dict[str, Any]:
    try:
        columns = json.dumps(dict(sample.columns), ensure_ascii=False)
    except TypeError as error:
        raise InputError(f"sample {sample.id}: a column cannot be kept as JSON ({error}); leave it out") from error
    return {
        "id": sample.id,
        "question": sample.question,
        "answer": sample.answer,
        "choices": list(sample.choices),
        "skill": sample.skill,
        "group": sample.group,
        "columns": columns,
        "image_count": len(pictures),
        "image": pictures,
    }


def prepared_about(path: Path) -> dict[str, Any] | None:
    """What a prepared file says of itself; None if the file is not there or is no prepared one.

    InputError: prepared in a format that this version does not know, or damaged.
    """
    if path.suffix != ".parquet" or not path.is_file():
        return None
    held = (open_parquet(path, ()).schema_arrow.metadata or {}).get(_KEY)
    if held is None:
        return None
    try:
        about = json.loads(held)
        known = about["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: metadata `cleareyed` are damaged; prepare the data anew") from error
    if not known:
        raise InputError(f"{path}: prepared in format {about['format']}, not {FORMAT}; prepare the data anew")
    return dict(about)


def prepared_samples(path: Path) -> Sequence[Sample]:
    """The samples of a prepared file, each read when it is indexed; their pictures when loaded.

    InputError if it is damaged.
    """
    file = open_parquet(path, tuple(_SCHEMA.names))
    rows = Rows(path, [name for name in _SCHEMA.names if name != "image"], file)
    made = partial(_sample, path, stamp_of(path), rows)
    for index in range(len(rows)):
        made(index)
    return Made(len(rows), made)


def _sample(path: Path, stamp: Stamp, rows: Rows, index: int) -> Sample:
    refuse_changed(path, stamp)
    row, cell = rows[index], Cell(path, "image", *rows.place(index))
    where = f"{path}, id {row['id']}"
    try:
        return Sample(
            id=row["id"],
            question=row["question"],
            answer=row["answer"],
            choices=tuple(row["choices"]),
            images=tuple(CellImage(cell, item, where) for item in range(row["image_count"])),
            skill=row["skill"],
            group=row["group"],
            columns=json.loads(row["columns"]),
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as prepared data ({one_line(error)}); prepare it anew") from error
