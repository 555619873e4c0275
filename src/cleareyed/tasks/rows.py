"""Rows of published data files: parquet, JSONL, and TSV with pictures as base64.

Pictures stay where they are; a row only says how many it has and how to load each.
"""

import base64
import binascii
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
from PIL import Image

from cleareyed.errors import InputError
from cleareyed.tasks.images import FileImage, decode_image
from cleareyed.tasks.parquet import Cell, CellImage, is_list, one_line, open_parquet, picture_counts
from cleareyed.tasks.task import LoadImage, Sample

SUFFIXES = (".parquet", ".jsonl", ".tsv")

FOLDERS = ("", "images", "img", "trainval2017")
"""Where pictures that a row names are looked for, beside the data file."""

_REFERENCE = 64
"""A base64 field of at most so many characters is the `index` of another row, whose picture is meant (VLMEvalKit)."""


@dataclass(frozen=True)
class Row:
    path: Path
    number: int
    """From 1."""
    values: Mapping[str, Any]
    """The columns that hold no pictures."""
    find_images: Callable[[str], tuple[LoadImage, ...]]

    @property
    def where(self) -> str:
        return f"{self.path}, row {self.number}"

    def text(self, *names: str) -> str:
        """The first of these columns that is filled. InputError naming the first one if none is."""
        found = self.optional(*names)
        if not found:
            raise InputError(f"{self.where}: field `{names[0]}` is missing or empty; write it as text")
        return found

    def optional(self, *names: str) -> str:
        """As `text`, but empty where none is filled."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip():
                return str(value).strip()
        return ""

    def images(self) -> tuple[LoadImage, ...]:
        """One or more. InputError: no picture, or one that is named but not there."""
        found = self.find_images(self.where)
        if not found:
            raise InputError(f"{self.where}: the row holds no picture; add one or leave the row out")
        return found

    def others(self, *used: str) -> dict[str, Any]:
        """The filled columns but those `used`."""
        return {name: value for name, value in self.values.items() if name not in used and value not in (None, "")}


def read_rows(path: Path, pictures: Sequence[str], folder: Path | None = None) -> Iterator[Row]:
    """Each row of a `.parquet`, `.jsonl` or `.tsv` file.

    `pictures` are the columns that may hold pictures: encoded bytes, `{bytes, path}` structs or lists of them
    (parquet), base64 (TSV), or file names (JSONL, where `filename` serves if none of them is filled); the files are
    looked for in `folder`, or beside the data file in one of FOLDERS.
    InputError: a file that is missing or damaged, or another kind of file.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: the name ends in `{path.suffix}`; give a {', '.join(SUFFIXES)} file")
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path or the data root")
    if path.suffix == ".parquet":
        return _parquet_rows(path, pictures)
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return _json_rows(path, pictures, folder) if path.suffix == ".jsonl" else _tsv_rows(path, pictures)


def read_samples(
    paths: Iterable[Path], pictures: Sequence[str], make: Callable[[Row], Sample], folder: Path | None = None
) -> tuple[Sample, ...]:
    """All rows as samples. InputError: as `read_rows` or `make` raise it, an id used twice, no rows at all."""
    found: dict[str, Sample] = {}
    where: Path | None = None
    for path in paths:
        where = path
        for row in read_rows(path, pictures, folder):
            sample = make(row)
            if sample.id in found:
                raise InputError(f"{row.where}: the id `{sample.id}` has been used before; make ids unique")
            found[sample.id] = sample
    if not found:
        raise InputError(f"{where}: no rows; write at least one")
    return tuple(found.values())


def _parquet_rows(path: Path, pictures: Sequence[str]) -> Iterator[Row]:
    file = open_parquet(path, ())
    names = file.schema_arrow.names
    held = [name for name in pictures if name in names and not pa.types.is_string(file.schema_arrow.field(name).type)]
    others = [name for name in names if name not in held]
    lists = {name for name in held if is_list(file.schema_arrow.field(name).type)}
    number = 0
    for group in range(file.num_row_groups):
        try:
            counts = {name: picture_counts(file, name, group) for name in held}
            rows = file.read_row_group(group, columns=others).to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{path}: row group {group} cannot be read ({one_line(error)}); write it anew") from error
        for index in range(file.metadata.row_group(group).num_rows):
            number += 1
            places = tuple(
                (Cell(path, name, group, index), item if name in lists else None)
                for name in held
                for item in range(counts[name][index])
            )
            yield Row(path, number, rows[index] if rows else {}, partial(_cells, places))


def _cells(places: tuple[tuple[Cell, int | None], ...], where: str) -> tuple[LoadImage, ...]:
    return tuple(CellImage(cell, index, where) for cell, index in places)


def _json_rows(path: Path, pictures: Sequence[str], folder: Path | None) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"{path}, row {number}: not JSON ({one_line(error)}); write one object a line"
                ) from error
            if not isinstance(row, dict):
                raise InputError(f"{path}, row {number}: not an object; write {{...}}")
            held = [row[column] for column in pictures if row.get(column)] or [row.get("filename")]
            names = [name for value in held for name in (value if isinstance(value, list) else [value]) if name]
            values = {name: value for name, value in row.items() if name not in pictures}
            yield Row(path, number, values, partial(_files, path, folder, tuple(names)))


def _files(path: Path, folder: Path | None, names: tuple[Any, ...], where: str) -> tuple[LoadImage, ...]:
    return tuple(FileImage(_found(path, folder, name, where), where) for name in names)


def _found(path: Path, folder: Path | None, name: Any, where: str) -> Path:
    inside = isinstance(name, str) and not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
    if not inside:
        raise InputError(
            f"{where}: {name!r} is no name of a picture inside a folder; give a relative one without `..`"
        )
    places = [folder] if folder else [path.parent / place for place in FOLDERS]
    for place in places:
        try:
            file = place / str(name)
            if file.is_file():
                return file
        except (OSError, ValueError):  # a name too long, or with a zero byte
            break
    looked = ", ".join(str(place) for place in places)
    raise InputError(f"{where}: picture {name[:200]} is in none of {looked}; name its folder with --images")


@dataclass(frozen=True)
class TsvImage:
    """Loads a picture that is base64 in a field of a TSV record, read anew each time."""

    path: Path
    start: int
    """Where the record begins in the file, in bytes."""
    end: int
    field: int
    item: int | None
    """Which one, where the field is a JSON list."""
    where: str

    def data(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                record = file.read(self.end - self.start).decode("utf-8")
            (fields,) = csv.reader(record.splitlines(keepends=True), delimiter="\t")
            text = fields[self.field]
            data = base64.b64decode(text if self.item is None else json.loads(text)[self.item], validate=True)
        except (OSError, ValueError, IndexError, TypeError, csv.Error, binascii.Error) as error:
            raise InputError(f"{self.where}: picture is not base64 ({one_line(error)}); encode it anew") from error
        if not data:
            raise InputError(f"{self.where}: picture is empty; encode it anew")
        return data

    def __call__(self) -> Image.Image:
        return decode_image(self.data(), self.where)


class _Lines:
    """The lines of a file as text, and how many bytes of them have been handed out."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.end = file, 0

    def __iter__(self) -> Iterator[str]:
        for line in self.file:
            self.end += len(line)
            yield line.decode("utf-8")


def _tsv_rows(path: Path, pictures: Sequence[str]) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    holders: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file:
        lines = _Lines(file)
        records = csv.reader(lines, delimiter="\t")
        names: list[str] = []
        number = start = 0
        while True:
            try:
                fields = next(records, None)
            except (csv.Error, UnicodeDecodeError) as error:
                raise InputError(
                    f"{path}, row {number + 1}: not TSV in UTF-8 ({one_line(error)}); save it anew"
                ) from error
            if fields is None:
                return
            span, start = (start, lines.end), lines.end
            if not names:
                names = fields
                continue
            number += 1
            if len(fields) != len(names):
                raise InputError(f"{path}, row {number}: {len(fields)} fields, not {len(names)}; quote tabs and lines")
            row = dict(zip(names, fields, strict=True))
            places: list[tuple[int, int, int, int | None]] = []
            for name in (name for name in pictures if row.get(name)):
                index, text = names.index(name), row[name]
                if len(text) <= _REFERENCE:
                    if text not in holders:
                        raise InputError(
                            f"{path}, row {number}: field `{name}` is neither base64 nor an earlier index"
                        )
                    places.append((*holders[text], index, None))
                else:
                    holders[row.get("index", "")] = span
                    places += [(*span, index, item) for item in _items(text, f"{path}, row {number}")]
            values = {name: value for name, value in row.items() if name not in pictures}
            yield Row(path, number, values, partial(_tsv_images, path, tuple(places)))


def _items(text: str, where: str) -> list[int | None]:
    if not text.startswith("["):
        return [None]
    try:
        return list(range(len(json.loads(text))))
    except ValueError as error:
        raise InputError(f"{where}: the list of pictures is not JSON ({one_line(error)}); encode it anew") from error


def _tsv_images(path: Path, places: tuple[tuple[int, int, int, int | None], ...], where: str) -> tuple[LoadImage, ...]:
    return tuple(TsvImage(path, *place, where) for place in places)
