"""Asking every request of a model: as many at once as it bears, each until it has an answer or none can be had."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cleareyed.evaluation.answers import (
    ERROR_KINDS,
    STATES,
    Answer,
    Answerer,
    AskError,
    ErrorKind,
    Reply,
    State,
    redact,
)
from cleareyed.evaluation.journal import Journal
from cleareyed.evaluation.pace import Pace
from cleareyed.evaluation.request import Prepared, Request, cache_key

SHOW_EVERY = 0.25
"""Seconds between two calls of `progress`, at least."""
SPARE = 64
"""Samples beyond twice `Limits.most` that may wait for another attempt, or for the disk, before none is drawn."""


@dataclass(frozen=True)
class Limits:
    """How hard a model is asked, and when to give up."""

    most: int = 100
    """Requests in flight, at most."""
    start: int = 20
    """In flight at the beginning. Each answer adds one until the model first asks to slow down."""
    attempts: int = 5
    """Attempts a sample after errors that may pass."""
    throttles: int = 20
    """Attempts a sample that may end in being told to slow down."""
    timeout: float = 300.0
    """Seconds for one attempt."""
    backoff: float = 1.0
    """Seconds before the second attempt, doubled before each further one; half of it is drawn at random."""
    longest_wait: float = 120.0
    """The longest pause, in seconds. A provider that asks for a longer one is taken to be out of quota."""
    first: int = 10
    """A model is given up when its first so many samples have all failed ..."""
    row: int = 20
    """... or when so many in a row met permanent or quota errors."""


@dataclass(frozen=True)
class Summary:
    """Where the asking stands; what `progress` is shown and `ask_all` returns."""

    total: int | None
    """Requests there are; None if unknown."""
    reused: int
    """Answered before, found in the journal."""
    states: Mapping[State, int]
    """Samples of this call by state; each is on disk."""
    errors: Mapping[ErrorKind, int]
    """Attempts of this call that brought no answer, by kind."""
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    in_flight: int
    concurrency: int
    """Requests that may be in flight now."""
    peak: int
    """Requests that were in flight at once, at most."""
    stopped: str | None
    """Why the model was given up; None if it was not. Samples not asked are in no count."""

    @property
    def asked(self) -> int:
        """Samples of this call that have come to an end."""
        return sum(self.states.values())

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.asked / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At this rate; None if it cannot be said."""
        if self.total is None or not self.asked:
            return None
        return max(0, self.total - self.reused - self.asked) / self.rate


async def ask_all(
    requests: Iterable[Request],
    answerer: Answerer,
    journal: Journal,
    *,
    limits: Limits | None = None,
    total: int | None = None,
    progress: Callable[[Summary], None] | None = None,
) -> Summary:
    """Ask each request that `journal` holds no answer to, and add what comes back.

    `requests` is drawn from as places become free, so memory does not grow with its length. Samples that end
    without an answer are journalled as `failed` and asked again by the next call. A model that cannot answer (see
    `Limits`, `AskError.hopeless`) is given up: what is in flight is awaited, nothing more is sent, and
    `Summary.stopped` says why. `answerer` is left open.

    Raises InputError from the journal (disk full) or from `requests`; what was counted is on disk then.
    """
    run = _Run(answerer, journal, limits or Limits(), total, progress)
    try:
        await run.start(requests)
        await run.finish()
    finally:
        await run.cancel()
    return run.summary()


class _Run:
    """One call of `ask_all`."""

    def __init__(
        self,
        answerer: Answerer,
        journal: Journal,
        limits: Limits,
        total: int | None,
        progress: Callable[[Summary], None] | None,
    ) -> None:
        self._answerer, self._journal, self._limits = answerer, journal, limits
        self._total, self._progress = total, progress
        self._pace = Pace(limits.start, limits.most)
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken: BaseException | None = None
        self._stopped: str | None = None
        self._stop = asyncio.Event()
        self._states: dict[State, int] = dict.fromkeys(STATES, 0)
        self._errors: dict[ErrorKind, int] = dict.fromkeys(ERROR_KINDS, 0)
        self._reused = self._prompt_tokens = self._completion_tokens = 0
        self._replies = self._failures = self._row = 0
        self._began = self._shown = time.monotonic()

    async def start(self, requests: Iterable[Request]) -> None:
        """Draw and send until there are no more or the model is given up."""
        remaining = iter(requests)
        while True:
            ticket = await self._pace.enter()
            if self._ended or (request := next(remaining, None)) is None:
                self._pace.leave()
                return
            if not self._begin(request, ticket):
                self._pace.leave()
            while len(self._tasks) >= 2 * self._limits.most + SPARE:  # many wait for another attempt
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)  # what was begun gets to send before the next picture is read
            self._show()

    async def finish(self) -> None:
        """Wait for all that was begun; raise what broke."""
        while self._tasks and self._broken is None:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED, timeout=SHOW_EVERY)
            self._show()
        if self._broken is not None:
            raise self._broken
        self._show(last=True)

    async def cancel(self) -> None:
        """Leave nothing running."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def summary(self) -> Summary:
        return Summary(
            total=self._total,
            reused=self._reused,
            states=dict(self._states),
            errors=dict(self._errors),
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            seconds=time.monotonic() - self._began,
            in_flight=self._pace.used,
            concurrency=int(min(self._pace.limit, self._limits.most)),
            peak=self._pace.peak,
            stopped=self._stopped,
        )

    @property
    def _ended(self) -> bool:
        return self._stop.is_set()

    def _begin(self, request: Request, ticket: int) -> bool:
        """Whether the request needs its place: not if it was answered before or cannot be sent."""
        try:
            prepared = self._answerer.prepare(request)
        except AskError as error:
            # The sample's fault, not the model's: it says nothing about whether others can be answered.
            self._errors[error.kind] += 1
            key = self._key(request, "")
            self._spawn(self._keep(_answer(request, key, Prepared(None, ""), _failure(error), 0.0, 0)))
            return False
        key = self._key(request, prepared.sent_hash)
        if self._journal.has(request.sample_id, key):
            self._reused += 1
            return False
        self._spawn(
            self._ask(replace(request, images=()), prepared, key, ticket)
        )  # sent from `prepared`: not held twice
        return True

    def _key(self, request: Request, sent_hash: str) -> str:
        return cache_key(self._answerer.name, self._answerer.revision, request.params, sent_hash)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ends)

    def _ends(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._broken is None:
            self._broken = error
            self._end()

    def _end(self) -> None:
        self._stop.set()
        self._pace.open()

    async def _ask(self, request: Request, prepared: Prepared, key: str, ticket: int) -> None:
        """One sample, from its first attempt to its line in the journal. Holds a place while it is being sent."""
        attempts = throttled = 0
        while True:
            attempts += 1
            began = time.monotonic()
            try:
                async with asyncio.timeout(self._limits.timeout):
                    reply = await self._answerer.send(prepared)
            except TimeoutError:
                error = AskError("transient", f"no answer within {self._limits.timeout:g} s")
                self._pace.cut(ticket)
            except AskError as raised:
                error = self._classed(raised)
                if error.kind == "throttled":
                    throttled += 1
                    self._pace.cut(ticket)
                    if error.retry_after is not None:
                        self._pace.pause(error.retry_after)
            else:
                self._replies += 1
                self._row = 0
                self._pace.grow()
                break
            self._pace.leave()
            self._errors[error.kind] += 1
            if error.hopeless:
                self._give_up(str(error))
            if not self._may_retry(error, attempts - throttled, throttled):
                self._note_failure(error)
                return await self._keep(_answer(request, key, prepared, _failure(error), _since(began), attempts))
            await self._wait(error, throttled if error.kind == "throttled" else attempts - throttled)
            ticket = await self._pace.enter()
            if self._ended:
                self._pace.leave()
                return await self._keep(_answer(request, key, prepared, _failure(error), _since(began), attempts))
        self._pace.leave()
        await self._keep(_answer(request, key, prepared, reply, _since(began), attempts))

    def _classed(self, error: AskError) -> AskError:
        """A pause longer than anyone waits for is a quota."""
        wait = error.retry_after
        if error.kind == "throttled" and wait is not None and wait > self._limits.longest_wait:
            return AskError("quota", f"asks to wait {wait:.0f} s: {error}")
        return error

    def _may_retry(self, error: AskError, failed: int, throttled: int) -> bool:
        if self._ended or error.hopeless:
            return False
        if error.kind == "throttled":
            return throttled < self._limits.throttles
        return error.kind == "transient" and failed < self._limits.attempts

    async def _wait(self, error: AskError, tries: int) -> None:
        """Before the next attempt: what the provider asks for (with a little on top), else twice as long each time."""
        longest = min(self._limits.longest_wait, self._limits.backoff * 2 ** (tries - 1))
        pause = random.uniform(longest / 2, longest)
        if error.retry_after is not None:
            pause = error.retry_after + random.uniform(0, min(1.0, self._limits.backoff))
        try:
            async with asyncio.timeout(pause):
                await self._stop.wait()
        except TimeoutError:
            return

    def _note_failure(self, error: AskError) -> None:
        self._failures += 1
        if error.kind in ("permanent", "quota"):
            self._row += 1
        if not self._replies and self._failures >= self._limits.first:
            self._give_up(f"the first {self._failures} samples all failed, the last one with: {error}")
        elif self._row >= self._limits.row:
            self._give_up(f"{self._row} errors in a row that asking again cannot mend, the last one: {error}")

    def _give_up(self, reason: str) -> None:
        if self._stopped is None:
            self._stopped = redact(reason)
        self._end()

    async def _keep(self, answer: Answer) -> None:
        await self._journal.add([answer])
        self._states[answer.state] += 1
        self._prompt_tokens += answer.prompt_tokens or 0
        self._completion_tokens += answer.completion_tokens or 0

    def _show(self, last: bool = False) -> None:
        now = time.monotonic()
        if self._progress is not None and (last or now - self._shown >= SHOW_EVERY):
            self._shown = now
            self._progress(self.summary())


def _answer(request: Request, key: str, prepared: Prepared, reply: Reply, seconds: float, attempts: int) -> Answer:
    return Answer(
        sample_id=request.sample_id,
        key=key,
        state=reply.state,
        text=reply.text,
        finish=reply.finish,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        seconds=seconds,
        request_id=reply.request_id,
        sent_hash=prepared.sent_hash,
        attempts=attempts,
        error=reply.error,
        note=prepared.note,
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        served=reply.served,
        prompt_hash=request.hashes[0],
        images_hash=request.hashes[1],
    )


def _failure(error: AskError) -> Reply:
    return Reply("failed", "", finish=error.kind, error=redact(str(error)))


def _since(began: float) -> float:
    return round(time.monotonic() - began, 4)
