"""Recorded answers, given again: to score published answers, or old ones anew, without asking anyone."""

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import STATES, Reply, State, redact
from cleareyed.evaluation.journal import MARK
from cleareyed.evaluation.request import Prepared, Request, request_hash
from cleareyed.oversensitivity.published import Recorded, read_published
from cleareyed.tasks.names import number_of

KNOWN = ("finish", "request_id", "served", "error")
COUNTS = ("prompt_tokens", "completion_tokens")


class ReplayAnswerer:
    """An `Answerer` that reads a file: a journal of ours, JSON Lines of `sample_id`, `text` and, if known, `state`, or
    published answers (`oversensitivity.published`), if its name ends in `.json`, or a log of inspect_ai (`.eval`).

    Without a `state`, a text is `answered` and a blank one `empty`. Of a journal the last line of a sample counts;
    in another file a sample may occur once. A sample that the file does not hold has `failed`. Memory grows by 24
    bytes a line, not with the texts, of a journal or JSON Lines.
    """

    def __init__(self, path: Path) -> None:
        """InputError: an unreadable file; a line that is no recorded answer, named by its number."""
        self.name = f"replay:{path}"
        self.revision: str | None = None
        self._path = path
        self._names, self._starts, self._numbers = (np.empty(0, np.int64) for _ in range(3))
        self._published: Mapping[str, Recorded] = {}
        self._file: BinaryIO | None = None
        self.notes: Sequence[str] = ()
        """What is wrong with the file and was survived."""
        self._logged: Mapping[str, Reply] = {}
        if path.suffix == ".eval":
            self._logged, self.notes = _logged(path)
            return
        if path.suffix == ".json":
            answers = read_published(path)
            self._published, self.notes = answers.by_pid, answers.notes
            return
        try:
            self._file = path.open("rb")
            self._index(self._file)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error

    def prepare(self, request: Request) -> Prepared:
        """The sample's id: the file does not say what exactly was asked. Where the data changed, it is read anew."""
        asked = " ".join((request.sample_id, *request.hashes))
        return Prepared(request.sample_id, request_hash([asked.encode("utf-8", "surrogatepass")]))

    async def send(self, prepared: Prepared) -> Reply:
        """What was recorded."""
        if (logged := self._logged.get(prepared.sent)) is not None:
            return logged
        if (published := self._published.get(prepared.sent)) is not None:
            return Reply(published.state, published.text)
        recorded = self._last(prepared.sent)
        if recorded is None:
            return Reply("failed", "", error=f"{self._path.name} holds no answer to this sample")
        return Reply(
            recorded["state"],
            recorded["text"],
            recorded.get("finish") or "",
            recorded.get("prompt_tokens"),
            recorded.get("completion_tokens"),
            recorded.get("request_id"),
            recorded.get("served"),
            recorded.get("error"),
        )

    async def close(self) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def ids(self) -> Iterator[str]:
        """The samples that the file holds answers to, in its order; of a journal once a line. To be read once more."""
        yield from self._logged or self._published
        if self._file is not None:
            with self._path.open("rb") as file:
                yield from (self._recorded(line, number)["sample_id"] for number, _, line in _lines(file))

    def _index(self, file: BinaryIO) -> None:
        names, starts, numbers, marked = array("q"), array("q"), array("q"), bytearray()
        for number, start, line in _lines(file):
            names.append(number_of(self._recorded(line, number)["sample_id"]))
            starts.append(start)
            numbers.append(number)
            marked.append(MARK in line)
        order = np.argsort(names, kind="stable")  # lines of a sample in the order of the file
        self._names, self._starts, self._numbers = (np.array(one)[order] for one in (names, starts, numbers))
        for at in np.flatnonzero(self._names[1:] == self._names[:-1]):
            if not marked[order[at + 1]]:
                one, other = self._at(int(at)), self._at(int(at) + 1)
                if one["sample_id"] == other["sample_id"]:
                    first, again = self._numbers[at : at + 2]
                    raise InputError(
                        f"{self._path}: sample {one['sample_id']!r} is on lines {first} and {again}; remove one"
                    )

    def _last(self, sample_id: str) -> dict[str, Any] | None:
        """What the last line of a sample holds."""
        at = int(np.searchsorted(self._names, number := number_of(sample_id), "right")) - 1
        while at >= 0 and self._names[at] == number:
            if (recorded := self._at(at))["sample_id"] == sample_id:
                return recorded
            at -= 1
        return None

    def _at(self, at: int) -> dict[str, Any]:
        assert self._file is not None
        self._file.seek(int(self._starts[at]))
        return self._recorded(self._file.readline(), int(self._numbers[at]))

    def _recorded(self, line: bytes, number: int) -> dict[str, Any]:
        where = f"{self._path}: line {number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not JSON; mend or remove it") from error
        if not isinstance(fields, dict):
            raise InputError(f"{where} is not an object with sample_id and text; mend or remove it")
        fields["state"] = _state(fields, where)
        if fields["state"] not in ("answered", "cut-off"):
            fields.setdefault("text", "")
        for name in ("sample_id", "text"):
            if not isinstance(fields.get(name), str):
                raise InputError(f"{where}: {name} is not a text; every line needs sample_id and text")
        for name, kind in [*((name, str) for name in KNOWN), *((name, int) for name in COUNTS)]:
            if not isinstance(fields.get(name), kind | None):
                raise InputError(
                    f"{where}: {name} is not {'a text' if kind is str else 'a number'}; mend or remove it"
                )
        return fields


def _lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Number from 1, place of the first byte, and bytes of each line that is not blank."""
    start = 0
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, start, line
        start += len(line)


def _logged(path: Path) -> tuple[dict[str, Reply], list[str]]:
    """The answers of a log of inspect_ai by sample; of one that was asked several times, the first epoch."""
    from cleareyed.evaluation.inspect_log import read_samples

    epochs: dict[str, int] = {}
    found: dict[str, Reply] = {}
    left = 0
    for one in read_samples(path):
        if one.id in found:
            left += 1
            if one.epoch > epochs[one.id]:
                continue
        epochs[one.id] = one.epoch
        found[one.id] = Reply(
            one.state,
            one.output if one.state != "failed" else "",
            one.stop or "",
            one.input_tokens,
            one.output_tokens,
            served=one.model or None,
            error=None if one.error is None else redact(one.error),
        )
    return found, [f"{left} answers are of later epochs and left out"] if left else []


def _state(fields: dict[str, Any], where: str) -> State:
    text = fields.get("text")
    state: State = fields.get("state") or ("answered" if isinstance(text, str) and text.strip() else "empty")
    if state not in STATES:
        raise InputError(f"{where}: state is not one of {', '.join(STATES)}; mend it or leave it out")
    return state
