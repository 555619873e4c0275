"""The truth of an evaluation: a file to which every answer is added before it counts.

One JSON object a line; its last field, `crc32`, is the checksum of the bytes before it. An answer is handed to the
system the moment it is there, so that a killed process loses only what was still on the wire; it counts when the
disk has it (fdatasync, one call for all that wait), so that a power cut loses nothing that was counted.
"""

import asyncio
import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self
from zlib import crc32

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import Answer, State, clean_text
from cleareyed.evaluation.ids import IdSet, identity

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MARK = b',"crc32":"'
TAIL = len(MARK) + 8 + len(b'"}\n')
ENCODE = json.JSONEncoder(separators=(",", ":")).encode
FIELDS = tuple(field.name for field in fields(Answer))
BEGIN = b'{"sample_id":"'
SYNC_EVERY = 0.02
"""Seconds for which answers gather before one fdatasync; those who ask go on meanwhile."""


class Journal:
    """An open journal, held by this process alone. Made by `Journal.open`; use it in a `with` statement."""

    def __init__(self, path: Path, file: int, lock: int) -> None:
        self.path = path
        self.done = IdSet()
        """What is answered: `identity` of sample and key. Failed samples are not in it."""
        self.torn = 0
        """Last lines dropped on opening because they were half-written: 0 or 1. Their answers had not counted."""
        self._file, self._lock = file, lock
        self._end = 0
        self._broken: InputError | None = None
        self._syncing: asyncio.Task[None] | None = None
        self._waiting: asyncio.Future[None] | None = None

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or create `path`, read what it holds and lock out every other process.

        InputError: another process (named by its id) has it open; a line that is not the last is damaged (named
        by its number); the file cannot be read or written.
        """
        lock = _take_lock(path)
        try:
            journal = cls(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), lock)
        except OSError as error:
            _drop_lock(path, lock)
            raise InputError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            journal._read()
        except BaseException:
            journal.close()
            raise
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back; whatever `add` has returned from is on disk already."""
        os.close(self._file)
        _drop_lock(self.path, self._lock)

    def has(self, sample_id: str, key: str) -> bool:
        """Whether this sample has an answer (in any state but `failed`) to exactly this request."""
        return identity(sample_id, key) in self.done

    async def add(self, answers: Iterable[Answer]) -> None:
        """Write the answers; returns when the disk has them. Calls may overlap: one fdatasync serves all that wait.

        InputError if the disk is full or fails: the file is cut back to its last whole line and takes no more.
        """
        self._write(answers)
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        waiting = self._waiting
        if self._syncing is None:
            self._syncing = asyncio.create_task(self._sync())
        await asyncio.shield(waiting)

    def _write(self, answers: Iterable[Answer]) -> None:
        if self._broken is not None:
            raise self._broken
        answers = list(answers)
        data = memoryview(b"".join(map(to_line, answers)))
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._file, data[written:], self._end + written)
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise self._break(error) from error
        self._end += len(data)
        for answer in answers:
            self._remember(answer.sample_id, answer.key, answer.state)

    async def _sync(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while (waiting := self._waiting) is not None:
                await asyncio.sleep(SYNC_EVERY)
                self._waiting = None
                try:
                    await loop.run_in_executor(None, _fdatasync, self._file)
                except OSError as error:
                    waiting.set_exception(self._break(error))
                    waiting.exception()  # seen, even where the one who waited is gone
                else:
                    waiting.set_result(None)
        finally:
            self._syncing = None

    def _break(self, error: OSError) -> InputError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "the disk is full" if full else f"cannot be written ({error.strerror})"
        remedy = "free some space" if full else "see to the disk"
        self._broken = InputError(
            f"{self.path}: {reason}; every answer counted so far is safe: {remedy} and give the same command again"
        )
        return self._broken

    def _remember(self, sample_id: str, key: str, state: State) -> None:
        if state != "failed":
            self.done.add(identity(sample_id, key))

    def _read(self) -> None:
        size = os.fstat(self._file).st_size
        with open(self._file, "rb", closefd=False) as file:
            for number, start, line in _lines(file, size):
                held = fields_of(line)
                if held is None:
                    if not _is_torn(line):
                        raise _damaged(self.path, number)
                    self.torn = 1
                    os.ftruncate(self._file, start)
                    return
                try:
                    self._remember(held["sample_id"], held["key"], held["state"])
                except KeyError as error:
                    raise _foreign(self.path, number) from error
                self._end = start + len(line)


def to_line(answer: Answer) -> bytes:
    """The answer as a line of the journal."""
    held = {name: getattr(answer, name) for name in FIELDS}
    text = ENCODE(held)
    if "\\ud" in text:  # an emoji, or half of one
        held = {name: clean_text(value) if isinstance(value, str) else value for name, value in held.items()}
        text = ENCODE(held)
    body = text[:-1].encode()
    return body + MARK + b'%08x"}\n' % crc32(body)


def from_line(line: bytes) -> Answer | None:
    """The answer in a line; None if the line is torn or damaged. ValueError: a whole line of something else."""
    held = fields_of(line)
    return None if held is None else _answers().validate_python(held)


def read_answers(path: Path) -> Iterator[Answer]:
    """The answers of a journal, one a sample, in the order of the file.

    The last line of a sample counts: one that failed, or was asked otherwise, has an older one before it. A torn
    last line is left out. The journal may be open elsewhere: what it held at the call is read. Memory grows by some
    200 bytes a line, not with the texts.
    InputError: a damaged line (named by its number), an unreadable file.
    """
    last: dict[str, int] = {}
    for start, held in read_lines(path):
        last[str(held.get("sample_id"))] = start
    current = set(last.values())
    del last
    for start, held in read_lines(path):
        if start in current:
            yield answer_of(held, path)


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each whole line of a journal: where it begins, and its fields. Errors as those of `read_answers`."""
    try:
        with path.open("rb") as file:
            for number, start, line in _lines(file, os.fstat(file.fileno()).st_size):
                if (held := fields_of(line)) is not None:
                    yield start, held
                elif not _is_torn(line):
                    raise _damaged(path, number)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def answer_of(held: dict[str, Any], path: Path) -> Answer:
    """The answer in the fields of a line. InputError: they are something else."""
    try:
        return _answers().validate_python(held)
    except ValueError as error:
        sample_id = held.get("sample_id")
        raise InputError(
            f"{path}: the line of sample {sample_id!r} is no answer of this version's journal; name another file"
        ) from error


def _lines(file: BinaryIO, size: int) -> Iterator[tuple[int, int, bytes]]:
    """Number from 1, place of the first byte, and bytes of each line that begins within the first `size` bytes."""
    start = 0
    for number, line in enumerate(file, 1):
        if start >= size:
            return
        yield number, start, line
        start += len(line)


def _is_torn(line: bytes) -> bool:
    """Whether this is the beginning of a line of ours or the zeros of a power cut: nothing else is dropped."""
    begins = line.startswith(BEGIN) or BEGIN.startswith(line)
    return not line.endswith(b"\n") and (begins or not line.strip(b"\0"))


def fields_of(line: bytes) -> dict[str, Any] | None:
    """What a line holds, or None if it does not match its checksum."""
    body, tail = line[:-TAIL], line[-TAIL:]
    if tail != MARK + b'%08x"}\n' % crc32(body):
        return None
    held: dict[str, Any] = json.loads(body + b"}")
    return held


@cache
def _answers() -> "TypeAdapter[Answer]":
    from pydantic import TypeAdapter

    return TypeAdapter(Answer)


def _damaged(path: Path, number: int) -> InputError:
    return InputError(
        f"{path}: line {number} does not match its checksum; the file was changed or the disk is faulty: "
        f"restore it, or remove that line to have its sample asked again"
    )


def _foreign(path: Path, number: int) -> InputError:
    return InputError(f"{path}: line {number} is no answer of this version's journal; name another file")


def _fdatasync(file: int) -> None:
    getattr(os, "fdatasync", os.fsync)(file)


def _take_lock(path: Path) -> int:
    """A lock on PATH.lock, which holds the owner's process id and goes with it."""
    name = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_ino == os.stat(name).st_ino:
                    os.ftruncate(lock, 0)
                    os.write(lock, str(os.getpid()).encode())
                    return lock
            except BlockingIOError:
                owner = os.read(lock, 20).decode(errors="replace") or "unknown"
                os.close(lock)
                raise InputError(
                    f"{path}: in use by process {owner}, which is asking the same questions; wait until it ends, "
                    f"or give this run another name"
                ) from None
            except FileNotFoundError:
                pass  # the last owner removed the name between our opening and locking it
            os.close(lock)
    except OSError as error:
        raise InputError(f"{name}: cannot be made: {error.strerror}; the journal needs a lock beside it") from error


def _drop_lock(path: Path, lock: int) -> None:
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    os.close(lock)
