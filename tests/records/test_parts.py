import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cleareyed.errors import InputError
from cleareyed.records.parts import (
    AnswerWriter,
    answers_part_name,
    compact,
    drop_rollouts_after,
    read_answers,
    read_rollouts,
    write_answers,
    write_rollouts,
)
from cleareyed.records.rows import AnswerRow, RolloutRow
from cleareyed.records.run import RunFolder
from cleareyed.records.stored import StoredAnswers, answers_of, gather, stored_answers

ROLLOUT = RolloutRow(
    step=1,
    sample_id="s",
    group=0,
    index=0,
    question="Größe?\n\x00",
    answer="two",
    completion="<think>日本 \U0001f600</think>",
    tokens=3,
    finish="stop",
    rewards={"accuracy": 1.0, "mine": None},
    reward=1.0,
    advantage=-0.25,
    extracted=None,
    correct=True,
)
ANSWER = AnswerRow(
    task="t",
    step=0,
    label="base",
    sample_id="s",
    skill="",
    group="",
    question="?",
    answer="two",
    completion="",
    tokens=0,
    finish="length",
    extracted={"strict": None, "any-form": "two"},
    correct={"strict": False, "any-form": True},
    well_formed=False,
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def rollouts(step: int, count: int = 2) -> list[RolloutRow]:
    return [replace(ROLLOUT, step=step, index=index) for index in range(count)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_rows_come_back_as_written(run: RunFolder) -> None:
    assert read_rollouts(run) == [] and read_answers(run) == []
    write_rollouts(run, 1, [ROLLOUT, replace(ROLLOUT, index=1, rewards={}, extracted="")])
    write_answers(run, [ANSWER])
    assert read_rollouts(run) == [ROLLOUT, replace(ROLLOUT, index=1, rewards={}, extracted="")]
    assert read_answers(run) == [ANSWER]


def test_answers_from_before_there_were_states_are_read(run: RunFolder) -> None:
    write_answers(run, [ANSWER])
    (part,) = run.answers.iterdir()
    pq.write_table(pq.read_table(part).drop_columns(["state", "prompt_hash", "images_hash"]), part)
    write_answers(run, [replace(ANSWER, label="new", state="failed", tokens=None, prompt_hash="ab")])
    for _ in range(2):
        assert [(row.label, row.state, row.prompt_hash) for row in read_answers(run)] == [
            ("base", "answered", ""),
            ("new", "failed", "ab"),
        ]
        compact(run)


def test_writing_a_part_again_replaces_it(run: RunFolder) -> None:
    write_rollouts(run, 1, rollouts(1, 3))
    write_rollouts(run, 1, rollouts(1, 2))
    write_answers(run, [ANSWER, replace(ANSWER, step=5)])
    write_answers(run, [replace(ANSWER, answer="three")])
    assert read_rollouts(run) == rollouts(1, 2)
    assert read_answers(run) == [replace(ANSWER, answer="three"), replace(ANSWER, step=5)]


def test_answers_written_as_they_come_are_those_written_at_once(run: RunFolder) -> None:
    rows = [replace(ANSWER, sample_id=str(number), step=2) for number in range(2500)]
    with AnswerWriter(run, "base", "t", 2) as writer:
        for row in rows:
            writer.add(row)
    assert names(run.answers) == [answers_part_name("base", "t", 2)]
    assert read_answers(run) == rows
    stored = stored_answers(run)
    assert isinstance(stored, StoredAnswers) and len(stored) == 2500
    assert list(stored) == list(stored) == rows
    assert (stored[0], stored[1999], stored[-1], stored[998:1002]) == (rows[0], rows[1999], rows[-1], rows[998:1002])
    with pytest.raises(IndexError):
        stored[2500]


def test_a_writer_replaces_what_was_there_or_leaves_it(run: RunFolder) -> None:
    def write(*rows: AnswerRow, broken: bool = False) -> None:
        with AnswerWriter(run, "base", "t", 0) as writer:
            for row in rows:
                writer.add(row)
            if broken:
                raise InputError("no more")

    write_answers(run, [ANSWER])
    compact(run)
    write(replace(ANSWER, answer="three"))  # the merged file held nothing else
    assert names(run.answers) == [answers_part_name("base", "t", 0)]
    with pytest.raises(InputError, match="no more"):
        write(replace(ANSWER, answer="four"), broken=True)
    assert [row.answer for row in stored_answers(run)] == ["three"]
    write_answers(run, [replace(ANSWER, label="other")])
    assert len(stored_answers(run)) == 2
    compact(run)
    write(replace(ANSWER, answer="five"))
    assert {row.label: row.answer for row in stored_answers(run)} == {"base": "five", "other": "two"}
    assert names(run.answers) == ["merged.parquet"]
    (run.answers / "merged.parquet").unlink()
    write(ANSWER)
    write()
    assert list(stored_answers(run)) == [] and names(run.answers) == []


def test_names_of_answer_parts_are_safe_and_distinct() -> None:
    labels = ["base", "base/no-reasoning", "base_no-reasoning", "../../up", "", "." * 300, "ü", "BASE"]
    found = [answers_part_name(label, "my task", 3) for label in labels]
    found += [answers_part_name("base", "my task", 4), answers_part_name("base-my", "task", 3)]
    assert len({name.lower() for name in found}) == len(found)
    assert all(name.isascii() and "/" not in name and len(name) < 120 for name in found)


def test_compaction_keeps_every_row_and_can_be_repeated(run: RunFolder) -> None:
    for step in (3, 1, 2):
        write_rollouts(run, step, rollouts(step))
    write_answers(run, [replace(ANSWER, sample_id=str(number)) for number in (2, 0, 1)])
    before = read_rollouts(run), read_answers(run)
    for _ in range(2):
        compact(run)
        assert (read_rollouts(run), read_answers(run)) == before
        assert names(run.rollouts) == names(run.answers) == ["merged.parquet"]
    merged = run.rollouts / "merged.parquet"
    written = merged.stat().st_mtime_ns
    compact(run)
    assert merged.stat().st_mtime_ns == written
    write_rollouts(run, 4, rollouts(4))
    compact(run)
    assert read_rollouts(run) == before[0] + rollouts(4)


def test_a_part_written_after_compaction_replaces_its_merged_rows(run: RunFolder) -> None:
    write_answers(run, [ANSWER, replace(ANSWER, label="grpo")])
    compact(run)
    write_answers(run, [replace(ANSWER, answer="three")])
    assert {row.label: row.answer for row in read_answers(run)} == {"base": "three", "grpo": "two"}
    assert len(read_answers(run)) == 2
    compact(run)
    assert len(read_answers(run)) == 2


def test_truncation_reaches_into_the_merged_file(run: RunFolder) -> None:
    for step in (1, 2, 3):
        write_rollouts(run, step, rollouts(step))
    compact(run)
    write_rollouts(run, 4, rollouts(4))
    drop_rollouts_after(run, 2)
    assert read_rollouts(run) == rollouts(1) + rollouts(2)
    write_rollouts(run, 3, rollouts(3, 1))
    compact(run)
    assert read_rollouts(run) == rollouts(1) + rollouts(2) + rollouts(3, 1)


def test_a_crash_anywhere_in_a_merge_loses_and_doubles_nothing(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    def crash_at(moment: int) -> None:
        """Let the moment-th change of the folder from now on, and all after it, not happen."""
        calls: Iterator[int] = iter(range(10**6))
        for owner, name in ((os, "replace"), (Path, "unlink")):
            real = getattr(owner, name)

            def change(*arguments: object, real: object = real, **options: object) -> None:
                if next(calls) >= moment:
                    raise Crash
                real(*arguments, **options)  # type: ignore[operator]

            patch.setattr(owner, name, change)

    expected: list[RolloutRow] = []
    crashes = 0
    for first in range(0, 80, 4):
        for step in range(first, first + 4):
            write_rollouts(run, step, rollouts(step))
            expected += rollouts(step)
        with monkeypatch.context() as patch:
            crash_at(first // 4 % 6)  # 1 rename and at least 4 removals a merge
            try:
                compact(run)
            except Crash:
                crashes += 1
        assert read_rollouts(run) == expected
    assert crashes >= 15
    compact(run)
    assert read_rollouts(run) == expected
    assert [name for name in names(run.rollouts) if not name.endswith(".aside")] == ["merged.parquet"]


def test_reading_beside_a_merge_sees_every_row_once(run: RunFolder) -> None:
    stop = threading.Event()
    expected: list[RolloutRow] = []
    failures: list[str] = []
    readings = 0

    def read() -> None:
        nonlocal readings
        while not stop.is_set():
            low = len(expected)
            found = len(read_rollouts(run))
            high = len(expected) + 2  # a part may be on disk just before it is counted
            if not low <= found <= high:
                failures.append(f"{found} rows, not {low} to {high}")
            readings += 1

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(60):
        write_rollouts(run, step, rollouts(step))
        expected += rollouts(step)
        if step % 5 == 4:
            compact(run)
    stop.set()
    reader.join()
    assert failures == []
    assert readings > 5
    assert read_rollouts(run) == expected


def test_a_foreign_file_is_named(run: RunFolder) -> None:
    write_rollouts(run, 1, [ROLLOUT])
    (run.rollouts / "step-00000002.parquet").write_bytes(b"not parquet")
    with pytest.raises(InputError, match=r"step-00000002\.parquet: not a part file"):
        read_rollouts(run)


def test_a_part_that_cannot_be_written_leaves_the_earlier_one(run: RunFolder) -> None:
    write_rollouts(run, 1, [ROLLOUT])
    (run.rollouts / "step-00000002.parquet").mkdir()
    with pytest.raises(InputError, match=r"step-00000002\.parquet: cannot be written"):
        write_rollouts(run, 2, rollouts(2))
    (run.rollouts / "step-00000002.parquet").rmdir()
    assert names(run.rollouts) == ["step-00000001.parquet"]
    assert read_rollouts(run) == [ROLLOUT]


def test_answers_are_gone_through_without_their_texts_and_some_read_whole(run):
    rows = [
        replace(ANSWER, label=label, sample_id=f"{label}{at}", answer=str(at)) for label in "ab" for at in range(3)
    ]
    write_answers(run, rows)
    compact(run)
    write_answers(run, [replace(ANSWER, label="c", sample_id="c0")])
    names = gather(run, lambda marks: [(mark.label, mark.sample_id, mark.correct) for mark in marks])
    assert names == [(row.label, row.sample_id, ANSWER.correct) for row in [*rows, *read_answers(run)[6:]]]
    assert answers_of(run, {"a1", "b2", "c0"}.__contains__) == [rows[1], rows[5], read_answers(run)[6]]


def test_marks_of_a_file_that_is_none_are_refused(run):
    run.answers.mkdir(parents=True)
    (run.answers / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"x.parquet: not a part file of a run"):
        gather(run, list)
