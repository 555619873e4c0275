"""How many requests are in flight."""

import asyncio
from collections import deque


class Pace:
    """How many requests may be in flight: up with every answer, halved when the model is pressed too hard.

    The limit grows by one an answer (doubling with every round) until it is first cut; from then on by a twentieth
    of `most` a round. A cut halves it, once for all requests that were in flight together.
    """

    def __init__(self, start: int, most: int) -> None:
        self.limit = float(min(start, most))
        self.used = 0
        self.peak = 0
        self._most = most
        self._step: float | None = None
        """Growth a round; None as long as there was no cut."""
        self._tickets = 0
        self._cut_at = 0
        self._paused_until = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> int:
        """Wait for a place; returns a ticket, to be shown to `cut`. `leave` frees the place."""
        if self._waiting or not self._is_free():
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            await place
        else:
            self.used += 1
        self.peak = max(self.peak, self.used)
        self._tickets += 1
        return self._tickets

    def leave(self) -> None:
        self.used -= 1
        self._wake()

    def grow(self) -> None:
        """An answer came. Who does not use half of what he may gets no more: nothing is known of how it would go."""
        if 2 * self.used >= self.limit:
            self.limit = min(self._most, self.limit + (1 if self._step is None else self._step / self.limit))
            self._wake()

    def cut(self, ticket: int) -> None:
        """The request of this ticket was throttled or timed out."""
        if ticket > self._cut_at:
            self.limit = max(1.0, self.limit / 2)
            self._step = max(1.0, self._most / 20)
            self._cut_at = self._tickets

    def pause(self, seconds: float) -> None:
        """Nothing more is sent for so long."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if until > self._paused_until:
            self._paused_until = until
            loop.call_at(until + 0.001, self._wake)

    def open(self) -> None:
        """Let everyone in: the asking ends."""
        self.limit, self._paused_until = float("inf"), 0.0
        self._wake()

    def _is_free(self) -> bool:
        if self.used >= int(min(self.limit, 1e9)):
            return False
        return not self._paused_until or asyncio.get_running_loop().time() >= self._paused_until

    def _wake(self) -> None:
        while self._waiting and self._is_free():
            place = self._waiting.popleft()
            if not place.done():
                self.used += 1
                place.set_result(None)
