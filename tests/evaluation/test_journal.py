"""The journal: what is in it stays in it, whatever happens to the process and the disk."""

import asyncio
import errno
import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from cleareyed.errors import InputError
from cleareyed.evaluation import journal as module
from cleareyed.evaluation.answers import Answer
from cleareyed.evaluation.ids import IdSet, identity
from cleareyed.evaluation.journal import Journal, from_line, read_answers, to_line

ANSWER = Answer(
    sample_id="a",
    key="k",
    state="answered",
    text='(B) "because"\n\u2028 grün 😀',
    finish="stop",
    prompt_tokens=3,
    completion_tokens=None,
    seconds=0.25,
    request_id="r",
    sent_hash="00",
    attempts=1,
    error=None,
    note=None,
    at="2026-01-01T00:00:00.000+00:00",
)


def named(*names: str) -> list[Answer]:
    return [replace(ANSWER, sample_id=name) for name in names]


def write(path: Path, answers: list[Answer]) -> None:
    with Journal.open(path) as journal:
        asyncio.run(journal.add(answers))


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    odd = replace(ANSWER, sample_id="ö\n\t", state="failed", error="x", note="y", served="m")
    write(path, [ANSWER, odd])
    assert list(read_answers(path)) == [ANSWER, odd]
    assert [json.loads(line)["sample_id"] for line in path.read_text().splitlines()] == ["a", "ö\n\t"]
    assert [entry.name for entry in path.parent.iterdir()] == ["answers.jsonl"]  # the lock has gone with its owner


def test_a_text_that_is_no_unicode_is_written_so_that_it_can_be_read() -> None:
    answer = from_line(to_line(replace(ANSWER, text="a\ud83d!")))
    assert answer is not None and answer.text == "a\ufffd!"


def test_what_is_answered_is_known_again_and_what_failed_is_not(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    write(
        path, [ANSWER, replace(ANSWER, sample_id="b", state="failed"), replace(ANSWER, sample_id="c", state="empty")]
    )
    with Journal.open(path) as journal:
        assert journal.has("a", "k") and journal.has("c", "k")
        assert not journal.has("b", "k") and not journal.has("a", "other key")
        asyncio.run(journal.add([replace(ANSWER, sample_id="b", text="now")]))
        assert journal.has("b", "k") and len(journal.done) == 3
    assert [(answer.sample_id, answer.text) for answer in read_answers(path)][-1] == ("b", "now")
    assert len(list(read_answers(path))) == 3


def test_a_torn_last_line_is_dropped_at_whatever_byte_it_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    whole = b"".join(map(to_line, named("a", "b")))
    last = to_line(named("c")[0])
    for cut in {1, 2, len(last) - 2, len(last) - 1, *range(3, len(last), 11)}:
        path.write_bytes(whole + last[:cut])
        assert len(list(read_answers(path))) == 2
        with Journal.open(path) as journal:
            assert journal.torn == 1 and len(journal.done) == 2
        assert path.read_bytes() == whole
    path.write_bytes(whole + bytes(4096))  # what a power cut may leave of it
    with Journal.open(path) as journal:
        assert journal.torn == 1
        asyncio.run(journal.add(named("c")))
    assert path.read_bytes() == whole + last


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_line_is_refused_by_its_number_and_nothing_is_changed(tmp_path: Path, place: int) -> None:
    path = tmp_path / "answers.jsonl"
    lines = [bytearray(to_line(answer)) for answer in named("a", "b", "c")]
    lines[place][60] ^= 1
    path.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=rf"answers.jsonl: line {place + 1} does not match"):
        Journal.open(path)
    with pytest.raises(InputError, match=f"line {place + 1} does not match"):
        list(read_answers(path))
    assert path.read_bytes() == b"".join(lines)
    assert [entry.name for entry in tmp_path.iterdir()] == ["answers.jsonl"]


@pytest.mark.parametrize("content", [b"id,answer\n1,B", b"id,answer", b"{}", b"\n"])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match="line 1"):
        Journal.open(path)
    assert path.read_bytes() == content


def test_a_second_process_is_told_who_has_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    code = f"from cleareyed.evaluation.journal import *; Journal.open(Path({str(path)!r}))"
    with Journal.open(path):
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert f"InputError: {path}: in use by process {os.getpid()}," in second.stderr
    Journal.open(path).close()


def test_answers_that_wait_together_are_synced_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(module, "_fdatasync", lambda file: synced.append(os.fstat(file).st_size))
    path = tmp_path / "answers.jsonl"

    async def add_all(journal: Journal) -> None:
        await asyncio.gather(*(journal.add([answer]) for answer in named(*map(str, range(50)))))

    with Journal.open(path) as journal:
        asyncio.run(add_all(journal))
        assert len(synced) == 1
        asyncio.run(journal.add([ANSWER]))
    assert synced[-1] == path.stat().st_size  # add returned after the sync, and the sync came after the write


def test_a_full_disk_leaves_only_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers.jsonl"
    write(path, named("a"))
    before = path.read_bytes()
    real = os.pwrite

    def half(file: int, data: memoryview, at: int) -> int:
        if at > len(before):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[: len(data) // 2], at)

    monkeypatch.setattr(os, "pwrite", half)
    with Journal.open(path) as journal:
        for _ in range(2):
            with pytest.raises(InputError, match=r"answers.jsonl: the disk is full; .* safe: free some space"):
                asyncio.run(journal.add(named("b")))
        assert not journal.has("b", "k")
    assert path.read_bytes() == before


def test_a_disk_that_fails_to_sync_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module, "_fdatasync", fail)
    with Journal.open(tmp_path / "answers.jsonl") as journal:

        async def add_two() -> list[BaseException | None]:
            return await asyncio.gather(*(journal.add([answer]) for answer in named("a", "b")), return_exceptions=True)

        assert [type(error) for error in asyncio.run(add_two())] == [InputError, InputError]
        with pytest.raises(InputError, match="cannot be written"):
            asyncio.run(journal.add(named("c")))


def test_the_set_of_digests_is_a_set_and_small() -> None:
    names = [identity(str(number), "k") for number in range(20_000)]
    tracemalloc.start()
    held = IdSet()
    for name in names[:10_000]:
        held.add(name)
        held.add(name)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(held) == 10_000
    assert all(name in held for name in names[:10_000])
    assert not any(name in held for name in names[10_000:])
    assert size < 600_000
