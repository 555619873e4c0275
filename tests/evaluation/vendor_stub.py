"""A loopback server that answers as it is told, for the vendors' SDKs to talk to."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from cleareyed.evaluation.answers import Answerer, Reply
from cleareyed.evaluation.request import AskParams, Prepared, Request


@dataclass
class Said:
    """One response: JSON, or raw text; `reset` drops the connection instead, `cut` in the middle of the body."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    text: str | None = None
    reset: bool = False
    cut: bool = False


@dataclass
class Seen:
    path: str
    headers: dict[str, str]
    body: Any


def request(prompt: str = "Which?", images: tuple[bytes, ...] = (), chat: bool = True, **params: Any) -> Request:
    return Request("s1", prompt, "", images, chat, AskParams(**{"max_tokens": 20, "temperature": 1.0, **params}))


def exchange(said: Said, make: Callable[[str], Answerer], asked: Request) -> tuple[Prepared, Reply, list[Seen]]:
    """Ask a stub that says this; what was prepared, what came of it and all that the stub saw."""
    seen: list[Seen] = []

    async def with_answerer(url: str) -> tuple[Prepared, Reply]:
        answerer = make(url)
        try:
            prepared = answerer.prepare(asked)
            return prepared, await asyncio.wait_for(answerer.send(prepared), 60)
        finally:
            await answerer.close()

    try:
        prepared, reply = asyncio.run(_stubbed(said, seen, with_answerer))
    finally:
        assert len(seen) == 1, "the SDK is told not to retry"
    return prepared, reply, seen


async def _stubbed(said: Said, seen: list[Seen], work: Callable[[str], Awaitable[Any]]) -> Any:
    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(Seen(request.path, {k.lower(): v for k, v in request.headers.items()}, await request.json()))
        if said.reset:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if said.cut:
            half = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "500"})
            await half.prepare(request)
            await half.write(b'{"id": ')
            assert request.transport is not None
            request.transport.close()
            return half
        if said.text is not None:
            return web.Response(
                text=said.text, status=said.status, headers=said.headers, content_type="application/json"
            )
        return web.json_response(said.body, status=said.status, headers=said.headers)

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return await work(f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()
