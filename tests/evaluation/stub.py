"""A chat-completions server on this machine that answers after a fixed time, or misbehaves as it is told.

Only the standard library: it serves tests (in a thread), benchmarks and drills (as a process of its own), and must
cost less than what it measures. A prompt names its sample by "sample NAME" near the end of the body; the answer, its
finish reason and its faults follow from that name and from how often the sample was seen, so that two runs get the
same answers.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any
from zlib import crc32

NAME = re.compile(rb"sample ([\w-]+)")
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
WHOLE = 1 << 32


@dataclass(frozen=True)
class Config:
    """What a stub does."""

    latency: float = 0.0
    """Seconds from the last byte of a request to its answer."""
    faults: dict[str, float] = field(default_factory=dict)
    """Share of first attempts that end in: error (500), reset, half, garbage, silent, unavailable (503)."""
    capacity: int | None = None
    """More requests than this in flight: 429."""
    burst: tuple[int, float] | None = None
    """(n, seconds): every n-th request opens a burst of so many seconds in which all get 429 and Retry-After."""
    always: tuple[int, str] | None = None
    """(status, body) for every request."""
    headers: dict[str, str] = field(default_factory=dict)
    """Further headers of answers to `always`."""
    silent: bool = False
    """Never answer anything."""
    states: bool = False
    """Some samples end as cut off, filtered, empty, or are turned away (400)."""
    keep: bool = True
    """Remember when each sample was seen and answered."""


class Stub:
    """What the connections of one server share."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.port = 0
        self.reset()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def reset(self) -> None:
        self.requests = self.answered = self.in_flight = self.peak = self.connections = self.bytes = 0
        self.throttled = self.early = 0
        """429s sent; requests that came more than 0.3 s into a pause that Retry-After had asked for."""
        self.pause_from = self.pause_until = 0.0
        self.seen: dict[str, list[float]] = {}
        self.sent: dict[str, list[float]] = {}
        """Monotonic times at which a sample was asked, and its whole answer written."""
        self.last = b""
        """Headers and body of the latest request."""

    def figures(self) -> dict[str, Any]:
        names = ("requests", "answered", "peak", "connections", "bytes", "throttled", "early", "seen", "sent")
        return {name: getattr(self, name) for name in names}

    def outcome(self, name: str, attempt: int) -> str:
        """What becomes of a request: "answer" or a fault, which only a first attempt meets."""
        now = time.monotonic()
        if self.config.silent:
            return "silent"
        if self.config.always is not None:
            return "always"
        if self.config.burst is not None:
            if now < self.pause_until:
                self.early += now > self.pause_from + 0.3
                return "throttled"
            if self.requests % self.config.burst[0] == 0:
                self.pause_from, self.pause_until = now, now + self.config.burst[1]
                return "throttled"
        if self.config.capacity is not None and self.in_flight > self.config.capacity:
            return "throttled"
        place = crc32(b"fault" + name.encode()) / WHOLE
        for fault, share in self.config.faults.items() if attempt == 1 else ():
            if place < share:
                return fault
            place -= share
        return "answer"

    def answer(self, name: str) -> tuple[int, bytes]:
        """Status and body of a right answer."""
        number = crc32(name.encode())
        finish, text = "stop", f"Sample {name} is ({'ABCD'[number % 4]})."
        if self.config.states:
            kind = number % 16
            if kind == 0:
                error = {"message": "not allowed", "code": "content_policy_violation"}
                return 400, json.dumps({"error": error}).encode()
            finish, text = {1: ("length", text[:-4]), 2: ("content_filter", ""), 3: ("stop", "")}.get(
                kind, (finish, text)
            )
        body = {
            "id": f"r-{name}",
            "model": "stub-2026",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
            "usage": {"prompt_tokens": 20, "completion_tokens": 5 + number % 7, "total_tokens": 25},
        }
        return 200, json.dumps(body).encode()


class Connection(asyncio.Protocol):
    """One connection that is kept alive; one request at a time."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.transport: asyncio.Transport | None = None
        self.pieces: list[bytes] = []
        self.have = 0
        self.need: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.stub.connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        self.have += len(data)
        if self.need is None:
            head = b"".join(self.pieces)
            end = head.find(b"\r\n\r\n")
            if end < 0:
                return
            length = LENGTH.search(head, 0, end)
            self.need = end + 4 + (int(length[1]) if length else 0)
        if self.have >= self.need:
            request = b"".join(self.pieces)
            self.stub.bytes += self.have
            self.pieces, self.have, self.need = [], 0, None
            self.asked(request)

    def asked(self, request: bytes) -> None:
        stub = self.stub
        if request.startswith(b"GET"):
            self.write(200, json.dumps(stub.figures()).encode())
            return
        if request.startswith(b"DELETE"):
            stub.reset()
            self.write(200, b"{}")
            return
        stub.requests += 1
        stub.in_flight += 1
        stub.peak = max(stub.peak, stub.in_flight)
        match = NAME.search(request, max(0, len(request) - 600))
        name = match[1].decode() if match else "?"
        attempt = 1
        if stub.config.keep:
            stub.last = request
            seen = stub.seen.setdefault(name, [])
            seen.append(time.monotonic())
            attempt = len(seen)
        outcome = stub.outcome(name, attempt)
        delay = stub.config.latency if outcome in ("answer", "half", "garbage", "always") else 0.0
        asyncio.get_running_loop().call_later(delay, self.end, name, outcome)

    def end(self, name: str, outcome: str) -> None:
        stub = self.stub
        stub.in_flight -= 1
        if self.transport is None:
            return
        if outcome == "answer":
            status, body = stub.answer(name)
            self.write(status, body)
            stub.answered += 1
            if stub.config.keep:
                stub.sent.setdefault(name, []).append(time.monotonic())
        elif outcome == "always":
            assert stub.config.always is not None
            status, text = stub.config.always
            self.write(status, text.encode(), **stub.config.headers)
        elif outcome == "throttled":
            stub.throttled += 1
            left = max(0.0, stub.pause_until - time.monotonic()) if stub.config.burst else 0.05
            self.write(429, b'{"error":{"message":"slow down","type":"requests"}}', **{"Retry-After": f"{left:.3f}"})
        elif outcome == "error":
            self.write(500, b"<html>Internal Server Error</html>")
        elif outcome == "unavailable":
            self.write(503, b'{"error":{"message":"loading"}}')
        elif outcome == "reset":
            self.transport.abort()
        elif outcome == "half":
            body = stub.answer(name)[1]
            self.transport.write(_head(200, len(body), {}) + body[: len(body) // 2])
            self.transport.close()
        elif outcome == "garbage":
            body = stub.answer(name)[1]
            self.write(200, body[: len(body) // 2])
        else:
            assert outcome == "silent", outcome

    def write(self, status: int, body: bytes, **headers: str) -> None:
        assert self.transport is not None
        self.transport.write(_head(status, len(body), headers) + body)


def _head(status: int, length: int, headers: dict[str, str]) -> bytes:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
        f"x-request-id: req-1\r\n{more}\r\n"
    ).encode()


async def _serve(stub: Stub, ready: threading.Event | None = None) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(stub), "127.0.0.1", 0, backlog=1024)
    stub.port = server.sockets[0].getsockname()[1]
    if ready is None:
        print(stub.port, flush=True)
    else:
        ready.set()
    await server.serve_forever()


@contextmanager
def serving(config: Config | None = None) -> Iterator[Stub]:
    """A stub in a thread of this process, whose counters can be read directly."""
    stub = Stub(config or Config())
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    task = loop.create_task(_serve(stub, ready))

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        finally:
            loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(60)
    try:
        yield stub
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(60)


@contextmanager
def started(config: Config) -> Iterator[str]:
    """A stub in a process of its own; gives its URL. GET tells its figures, DELETE sets them back."""
    command = [sys.executable, __file__, json.dumps(asdict(config))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="a JSON object with the fields of Config")
    fields = json.loads(parser.parse_args().config)
    for pair in ("burst", "always"):
        fields[pair] = tuple(fields[pair]) if fields.get(pair) else None
    asyncio.run(_serve(Stub(Config(**fields))))
