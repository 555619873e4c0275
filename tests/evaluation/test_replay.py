"""Recorded answers, given again."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import Reply
from cleareyed.evaluation.ask import Limits, ask_all
from cleareyed.evaluation.journal import Journal, read_answers
from cleareyed.evaluation.providers.replay import ReplayAnswerer
from cleareyed.evaluation.request import AskParams, Request

PARAMS = AskParams(max_tokens=16)


def request(name: str) -> Request:
    return Request(name, "What?", "", (b"\x89PNG",), True, PARAMS)


def record(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def replies(path: Path, *names: str) -> list[Reply]:
    async def ask() -> list[Reply]:
        answerer = ReplayAnswerer(path)
        try:
            return [await answerer.send(answerer.prepare(request(name))) for name in names]
        finally:
            await answerer.close()

    return asyncio.run(ask())


def test_plain_recordings_get_their_states(tmp_path: Path) -> None:
    path = record(
        tmp_path / "model.jsonl",
        {"sample_id": "1", "text": "(A)", "model": "x"},
        "",
        {"sample_id": "2", "text": ""},
        {"sample_id": "3", "state": "filtered", "finish": "SAFETY"},
        {"sample_id": "4", "text": "(B) becau", "state": "cut-off", "completion_tokens": 4},
    )
    assert replies(path, "4", "1", "2", "3", "5") == [
        Reply("cut-off", "(B) becau", completion_tokens=4),
        Reply("answered", "(A)"),
        Reply("empty", ""),
        Reply("filtered", "", "SAFETY"),
        Reply("failed", "", error="model.jsonl holds no answer to this sample"),
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["{"], "line 1 is not JSON"),
        (["[1]"], "line 1 is not an object"),
        ([{"text": "x"}], "line 1: sample_id is not a text"),
        ([{"sample_id": 7, "text": "x"}], "line 1: sample_id is not a text"),
        ([{"sample_id": "a", "text": None}], "line 1: text is not a text"),
        ([{"sample_id": "a", "text": "x", "state": "fine"}], "line 1: state is not one of answered, cut-off"),
        ([{"sample_id": "a", "text": "x", "prompt_tokens": "9"}], "line 1: prompt_tokens is not a number"),
        ([{"sample_id": "a", "text": "x"}, {"sample_id": "a", "text": "y"}], "sample 'a' is on lines 1 and 2"),
    ],
)
def test_what_is_no_recording_is_refused_by_line(tmp_path: Path, rows: list[Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ReplayAnswerer(record(tmp_path / "model.jsonl", *rows))
    with pytest.raises(InputError, match="cannot be read"):
        ReplayAnswerer(tmp_path / "absent.jsonl")


def test_a_journal_is_replayed_into_an_equal_one_and_failures_stop_nothing(tmp_path: Path) -> None:
    rows = [{"sample_id": str(number), "text": "(A)"} for number in range(40)]
    record(tmp_path / "a.jsonl", *rows)

    def run(source: Path, journal: Path) -> dict[str, tuple[str, str]]:
        async def ask() -> None:
            with Journal.open(journal) as held:
                answerer = ReplayAnswerer(source)
                summary = await ask_all((request(str(n)) for n in range(80)), answerer, held, limits=Limits(first=2))
                await answerer.close()
                assert summary.stopped is None
                assert summary.states["answered"] == 40 and summary.states["failed"] == 40

        asyncio.run(ask())
        return {answer.sample_id: (answer.state, answer.text) for answer in read_answers(journal)}

    first = run(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert first == run(tmp_path / "b.jsonl", tmp_path / "c.jsonl")
