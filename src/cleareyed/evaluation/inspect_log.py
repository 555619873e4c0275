"""Logs of inspect_ai (`.eval`), read without inspect_ai.

A log is a zip archive: `header.json` (or, of an evaluation that did not end, `_journal/start.json`) and one
`samples/ID_epoch_N.json` a sample. inspect compresses with zstandard (method 93), which `zipfile` reads from Python
3.14 on only; the members are taken out here, with Arrow's decompressor.
Source: inspect_ai 0.3, `inspect_ai/log/_recorders/eval.py` and `log/_log.py` (log version 2).
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import unpack
from typing import Any, BinaryIO, TypeVar
from zipfile import BadZipFile, ZipFile, ZipInfo

from pydantic import BaseModel, Field, ValidationError

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import State

STORED, DEFLATED, ZSTANDARD = 0, 8, 93
LARGEST_MEMBER = 512 * 2**20
"""Bytes, unpacked, of the largest sample that is read."""
LOCAL_HEADER = 30
ATTACHMENT = "attachment://"
CUT_OFF = ("max_tokens", "model_length", "length")


@dataclass(frozen=True, slots=True)
class LoggedSample:
    """One sample of a log, as it was asked and answered."""

    id: str
    epoch: int
    """From 1; samples may be asked several times."""
    input: str
    """The text of the last turn of the user, its parts joined; pictures apart."""
    images: tuple[str, ...]
    """Of the same turn: data: addresses, or whatever else the log names them by."""
    target: str
    """The gold answer; several are joined by newlines."""
    choices: tuple[str, ...]
    output: str
    """What the model said at the end; "" if nothing."""
    stop: str | None
    """inspect's word for why it ended ("stop", "max_tokens", "content_filter"); None without an output."""
    error: str | None
    """Why there is no answer: the error, or the limit that came first. A limit met after the answer is none."""
    scores: Mapping[str, Any]
    """By scorer: the value as the log has it ("C" and "I" for right and wrong, numbers, texts)."""
    metadata: Mapping[str, Any]
    model: str
    """The model that answered; "" if the log does not say."""
    input_tokens: int | None
    output_tokens: int | None
    seconds: float | None
    """Of the last call of the model."""
    at: str
    """When it was done: ISO 8601; "" if the log does not say."""

    @property
    def state(self) -> State:
        """What came back, as everywhere in cleareyed: what failed stays failed."""
        if self.error is not None or self.stop is None:
            return "failed"
        if self.stop == "content_filter":
            return "filtered"
        if self.stop in CUT_OFF:
            return "cut-off"
        return "answered" if self.output.strip() else "empty"


@dataclass(frozen=True, slots=True)
class LogHeader:
    """What a log says of the whole evaluation."""

    task: str
    model: str
    status: str
    """"success", "error", "cancelled", or "started" where it did not end."""
    config: Mapping[str, Any]
    """How the model sampled: `max_tokens`, `temperature` ..., where something was set."""
    metadata: Mapping[str, Any]


def read_header(path: Path) -> LogHeader:
    """The head of a log. InputError: no such file, or not a log of inspect_ai."""
    with _opened(path) as (file, members):
        name = next((name for name in ("header.json", "_journal/start.json") if name in members), None)
        if name is None:
            raise InputError(f"{path}: holds neither header.json nor _journal/start.json; name a log of inspect_ai")
        header = _parsed(_Header, file, members[name], path)
    spec = header.eval
    return LogHeader(
        spec.task, spec.model, header.status, {**spec.model_generate_config, **header.plan.config}, spec.metadata or {}
    )


def read_samples(path: Path) -> Iterator[LoggedSample]:
    """The samples of a log in the order of the file, one at a time.

    InputError: no such file, not a log of inspect_ai, a member that is damaged or larger than `LARGEST_MEMBER`.
    """
    with _opened(path) as (file, members):
        for name, member in members.items():
            if name.startswith("samples/") and name.endswith(".json"):
                yield _sample(_parsed(_Sample, file, member, path))


PartT = TypeVar("PartT", bound=BaseModel)


class _opened:
    """A log's file and its members by name; where a name occurs twice, the later one counts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> tuple[BinaryIO, dict[str, ZipInfo]]:
        try:
            self._file = self._path.open("rb")
        except OSError as error:
            raise InputError(f"{self._path}: cannot be read: {error.strerror}") from error
        try:
            with ZipFile(self._file) as archive:
                members = {member.filename: member for member in archive.infolist()}
        except (BadZipFile, NotImplementedError, ValueError) as error:
            self._file.close()
            raise InputError(f"{self._path}: not a log of inspect_ai ({error}); name a .eval file") from error
        return self._file, members

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _unpacked(file: BinaryIO, member: ZipInfo, path: Path) -> bytes:
    where = f"{path}: {member.filename}"
    if member.file_size > LARGEST_MEMBER:
        raise InputError(f"{where}: {member.file_size:,} bytes, more than {LARGEST_MEMBER:,}; leave that sample out")
    try:
        file.seek(member.header_offset)
        header = file.read(LOCAL_HEADER)
        name_size, extra_size = unpack("<HH", header[26:30])
        file.seek(name_size + extra_size, 1)
        packed = file.read(member.compress_size)
        content = _decompressed(packed, member)
    except (OSError, ValueError, zlib.error) as error:  # Arrow's errors are of these
        raise InputError(f"{where}: damaged ({error}); restore the file") from error
    except KeyError as error:
        raise InputError(f"{where}: packed in a way that is not known (method {error}); write the log anew") from error
    if len(content) != member.file_size or zlib.crc32(content) != member.CRC:
        raise InputError(f"{where}: damaged (its checksum does not match); restore the file")
    return content


def _decompressed(packed: bytes, member: ZipInfo) -> bytes:
    """Never more than one byte beyond the size that the archive states."""
    most = member.file_size + 1
    if member.compress_type == STORED:
        return packed
    if member.compress_type == DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most)
    if member.compress_type == ZSTANDARD:
        import pyarrow as pa

        with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
            content: bytes = stream.read(most)
        return content
    raise KeyError(member.compress_type)


class _Text(BaseModel):
    """A part of a message; kinds that hold neither text nor a picture are left out."""

    type: str = ""
    text: str = ""
    image: str = ""


class _Message(BaseModel):
    role: str = ""
    content: str | list[_Text] = ""


class _Choice(BaseModel):
    message: _Message = _Message()
    stop_reason: str = "unknown"


class _Usage(BaseModel):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Output(BaseModel):
    model: str = ""
    choices: list[_Choice] = []
    completion: str | None = None
    usage: _Usage | None = None
    time: float | None = None
    error: str | None = None


class _Score(BaseModel):
    value: Any = None


class _Said(BaseModel):
    message: str = ""


class _Limit(BaseModel):
    type: str = ""


class _Sample(BaseModel):
    id: int | str
    epoch: int = 1
    input: str | list[_Message]
    target: str | list[str] = ""
    choices: list[str] | None = None
    output: _Output = _Output()
    scores: dict[str, _Score] | None = None
    metadata: dict[str, Any] = {}
    error: _Said | None = None
    limit: _Limit | None = None
    attachments: dict[str, str] = {}
    completed_at: str | None = None


class _Spec(BaseModel):
    task: str
    model: str
    model_generate_config: dict[str, Any] = {}
    metadata: dict[str, Any] | None = None


class _Plan(BaseModel):
    config: dict[str, Any] = {}


class _Header(BaseModel):
    status: str = "started"
    eval: _Spec
    plan: _Plan = Field(default_factory=_Plan)


def _parsed(kind: type[PartT], file: BinaryIO, member: ZipInfo, path: Path) -> PartT:
    content = _unpacked(file, member, path)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise InputError(
            f"{path}: {member.filename}: {place}: {first['msg']}; not as inspect_ai writes it, name another file"
        ) from error


def _sample(held: _Sample) -> LoggedSample:
    def text(value: str) -> str:
        if value.startswith(ATTACHMENT):
            value = held.attachments.get(value.removeprefix(ATTACHMENT), value)
        return value

    asked: str | list[_Text] = held.input if isinstance(held.input, str) else ""
    if not isinstance(held.input, str):
        asked = next((message.content for message in reversed(held.input) if message.role == "user"), "")
    parts = [_Text(type="text", text=asked)] if isinstance(asked, str) else asked
    choice = held.output.choices[0] if held.output.choices else None
    usage = held.output.usage or _Usage()
    return LoggedSample(
        id=str(held.id),
        epoch=held.epoch,
        input="\n".join(text(part.text) for part in parts if part.type == "text"),
        images=tuple(text(part.image) for part in parts if part.type == "image"),
        target=held.target if isinstance(held.target, str) else "\n".join(held.target),
        choices=tuple(held.choices or ()),
        output=text(_said(held.output, choice)),
        stop=choice.stop_reason if choice else None,
        error=_ended(held),
        scores={name: score.value for name, score in (held.scores or {}).items()},
        metadata=held.metadata,
        model=held.output.model,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        seconds=held.output.time,
        at=held.completed_at or "",
    )


def _said(output: _Output, choice: _Choice | None) -> str:
    if output.completion is not None:
        return output.completion
    content = choice.message.content if choice else ""
    return content if isinstance(content, str) else "".join(part.text for part in content if part.type == "text")


def _ended(held: _Sample) -> str | None:
    if held.error is not None:
        return held.error.message or "an error without a message"
    if held.output.error:
        return held.output.error
    if held.output.choices:
        return None
    return f"no output before the {held.limit.type} limit" if held.limit is not None else "no output"
