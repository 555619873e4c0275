"""Questions to a model while a benchmark is made, through a journal: what was answered is not asked again."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import Answer, Answerer
from cleareyed.evaluation.ask import Limits, Summary, ask_all
from cleareyed.evaluation.journal import Journal, read_answers
from cleareyed.evaluation.request import AskParams, Request

TRIES = 200
Progress = Callable[[Summary], None]


@dataclass(frozen=True)
class Asked:
    """A model, and how it is asked. Use it in a `with` statement: answerers live in one event loop, and are closed."""

    answerer: Answerer
    limits: Limits
    chat: bool
    journal: Path
    progress: Progress | None = None
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            self.runner.run(self.answerer.close())
        finally:
            self.runner.close()

    def ask(self, prompts: Sequence[tuple[str, str]], params: AskParams) -> dict[str, Answer]:
        """The answers to `prompts` (id, text), by id; those that brought none are not in it.

        InputError: the model was given up; the journal is damaged, held by another process, or the disk is full.
        """
        requests = [Request(name, text, "", (), self.chat, params) for name, text in prompts]
        with Journal.open(self.journal) as journal:
            summary = self.runner.run(
                ask_all(
                    requests,
                    self.answerer,
                    journal,
                    limits=self.limits,
                    total=len(requests),
                    progress=self.progress,
                )
            )
        if summary.stopped:
            raise InputError(f"{self.answerer.name}: {summary.stopped}; what was answered is kept in {self.journal}")
        wanted = dict(prompts)
        return {one.sample_id: one for one in read_answers(self.journal) if one.sample_id in wanted}


def json_values(text: str) -> list[Any]:
    """The JSON objects in a model's reply, wherever they stand: in prose, in a fenced block, in lists or one by one.

    A list counts as its elements; what surrounds them does not matter. After `TRIES` brackets that begin nothing, or
    one that is nested too deep, the rest is left unread.
    """
    decoder, found, place, failed = json.JSONDecoder(), list[Any](), 0, 0
    while (place := _next(text, place)) >= 0 and failed < TRIES:
        try:
            value, end = decoder.raw_decode(text, place)
        except RecursionError:
            break
        except ValueError:
            place, failed = place + 1, failed + 1
            continue
        found += value if isinstance(value, list) else [value]
        place = end
    return [value for value in found if isinstance(value, dict)]


def _next(text: str, start: int) -> int:
    places = [place for mark in "[{" if (place := text.find(mark, start)) >= 0]
    return min(places, default=-1)
