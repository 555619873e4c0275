"""A model that says what a function tells it to, asked through the evaluation core."""

from collections.abc import Callable

from cleareyed.evaluation.answers import AskError, Reply
from cleareyed.evaluation.local import engine_hash
from cleareyed.evaluation.request import Prepared, Request

Say = Callable[[Request], str]


class Scripted:
    """An `Answerer`. A text of "!" fails for good; an empty one is empty."""

    revision = "1"

    def __init__(self, name: str, say: Say) -> None:
        self.name, self._say = name, say
        self.asked: list[Request] = []
        self.closed = 0

    def prepare(self, request: Request) -> Prepared:
        return Prepared(request, engine_hash(request, []))

    async def send(self, prepared: Prepared) -> Reply:
        self.asked.append(prepared.sent)
        text = self._say(prepared.sent)
        if text == "!":
            raise AskError("permanent", "broken")
        return Reply("answered" if text else "empty", text, "stop", 1, 1)

    async def close(self) -> None:
        self.closed += 1
