"""A small endpoint that speaks OpenAI's chat completions for one local model.

It is there so that anything that asks models over HTTP, our own evaluation among it, can ask a local one. Requests
that wait together go through `sample` together. It listens on the loopback interface unless told otherwise, has no
keys and no users, and reads pictures from data URIs only: it fetches nothing.
"""

import asyncio
import logging
import os
import secrets
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from aiohttp import web

from cleareyed.chat_request import Ask, UnknownModel, read_ask
from cleareyed.errors import InputError
from cleareyed.models.encode import encode
from cleareyed.models.sample import sample
from cleareyed.models.vlm import VLM, Completion, EncodedPrompt, SamplingParams
from cleareyed.tasks.images import decode_image

LARGEST_BODY = 64 * 2**20
"""Bytes of a request; a larger one is turned away with 413."""
MOST_WAITING = 512
"""Requests that may wait; a further one is turned away with 429."""
GATHERING = 0.005
"""Seconds that a first request waits for others to share its batch."""
FINISHING = 600.0
"""Seconds at most that the batch which runs may take when the endpoint is ended."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Waiting:
    ask: Ask
    done: "asyncio.Future[tuple[Completion, int]]"

    @property
    def together(self) -> tuple[object, ...]:
        """Requests of one batch are alike in this. A seeded one is drawn alone: its draws are then its own."""
        ask = self.ask
        alone = id(self) if ask.temperature > 0 and ask.seed is not None else None
        return ask.temperature, ask.max_tokens, alone


@dataclass
class Endpoint:
    """One model, the requests that wait for it, and the one thread in which it runs."""

    vlm: VLM
    batch: int
    waiting: deque[_Waiting] = field(default_factory=deque)
    filled: asyncio.Event = field(default_factory=asyncio.Event)
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "sampling"))

    @property
    def context(self) -> int:
        """The longest prompt and completion together, in tokens."""
        return int(self.vlm.model.config.get_text_config().max_position_embeddings)

    async def answer(self, ask: Ask) -> tuple[Completion, int]:
        """The completion and the number of prompt tokens. InputError: a picture or prompt that can't be taken."""
        waiting = _Waiting(ask, asyncio.get_running_loop().create_future())
        self.waiting.append(waiting)
        self.filled.set()
        return await waiting.done

    async def work(self) -> None:
        """Take what waits, batch by batch, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self.filled.wait()
            await asyncio.sleep(GATHERING)
            batch = self._next()
            if not batch:
                continue
            try:
                await loop.run_in_executor(self.thread, self._run, batch, loop)
            except Exception as error:  # whatever happens to one batch, the next requests are served
                log.exception("a batch of %d failed", len(batch))
                for waiting in batch:
                    _fail(waiting, error)

    def _next(self) -> list[_Waiting]:
        """The first that waits and those like it, in order, up to `batch`; none if none is waited for any more."""
        taken: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        for waiting in self.waiting:
            if waiting.done.done():
                continue
            fits = not taken or (waiting.together == taken[0].together and len(taken) < self.batch)
            (taken if fits else left).append(waiting)
        self.waiting = left
        if not left:
            self.filled.clear()
        return taken

    def _run(self, batch: list[_Waiting], loop: asyncio.AbstractEventLoop) -> None:
        """In the sampling thread: encode each, sample all, hand each over as soon as it is finished."""
        ready: list[tuple[_Waiting, EncodedPrompt]] = []
        for waiting in batch:
            try:
                ready.append((waiting, self._encoded(waiting.ask)))
            except InputError as error:
                loop.call_soon_threadsafe(_fail, waiting, error)
        if not ready:
            return
        ask = batch[0].ask
        generator = torch.Generator(device=self.vlm.device)
        if ask.seed is None or ask.temperature == 0:
            generator.manual_seed(secrets.randbits(63))
        else:
            generator.manual_seed(ask.seed)

        def finished(index: int, group: list[Completion]) -> None:
            waiting, prompt = ready[index]
            loop.call_soon_threadsafe(_give, waiting, (group[0], len(prompt.ids)))

        sample(
            self.vlm,
            [prompt for _, prompt in ready],
            SamplingParams(max_tokens=ask.max_tokens, temperature=ask.temperature),
            generator,
            on_group=finished,
        )

    def _encoded(self, ask: Ask) -> EncodedPrompt:
        images = [
            decode_image(data, f"messages.0.content.{place}.image_url.url") for place, data in enumerate(ask.images)
        ]
        prompt = encode(self.vlm, ask.text, images, chat=ask.chat)
        if not len(prompt.ids):
            raise InputError("messages.0.content: empty; put a text or a picture there")
        if len(prompt.ids) + ask.max_tokens > self.context:
            raise InputError(
                f"messages: {len(prompt.ids)} prompt tokens and max_tokens {ask.max_tokens} "
                f"are more than the model's context of {self.context} tokens"
            )
        return prompt


def _give(waiting: _Waiting, result: tuple[Completion, int]) -> None:
    if not waiting.done.done():
        waiting.done.set_result(result)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.done.done():
        waiting.done.set_exception(error)


def endpoint_app(
    vlm: VLM, *, name: str | None = None, batch: int = 32, hosts: Iterable[str] | None = LOOPBACK
) -> web.Application:
    """POST /v1/chat/completions and GET /v1/models.

    The model is called `name`, or as the user named it when loading. `hosts`: the names this endpoint may be called
    by, None for any; the check keeps web pages that point a name of their own at this machine from asking here.
    """
    endpoint, served = Endpoint(vlm, batch), name or vlm.name
    allowed = None if hosts is None else frozenset(hosts)

    @web.middleware
    async def guard(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if allowed is not None and (request.url.host or "") not in allowed:
            return _error(403, "host_not_allowed", f"called by a name that is none of {', '.join(sorted(allowed))}")
        try:
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return _error(413, "too_large", f"the body is larger than {LARGEST_BODY:,} bytes; send smaller pictures")
        except web.HTTPException as error:
            return _error(error.status, "http_error", f"{request.method} {request.path}: {error.reason}")

    async def models(request: web.Request) -> web.Response:
        card = {"id": served, "object": "model", "created": 0, "owned_by": "local"}
        return web.json_response({"object": "list", "data": [card | {"max_model_len": endpoint.context}]})

    async def completions(request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            return _error(415, "media_type", "send the body as application/json")
        if len(endpoint.waiting) >= MOST_WAITING:
            busy = _error(429, "busy", f"{MOST_WAITING} requests wait already; send fewer at a time")
            busy.headers["Retry-After"] = "1"
            return busy
        body = await request.read()
        try:
            ask = read_ask(body, served, endpoint.context)
            completion, prompt_tokens = await endpoint.answer(ask)
        except InputError as error:
            return _error(400, "invalid_request_error", str(error))
        except UnknownModel as error:
            return _error(404, "model_not_found", str(error))
        except torch.OutOfMemoryError:
            return _error(500, "server_error", "out of memory; serve with a smaller batch")
        except Exception as error:  # logged where it happened; its text may hold what is not the caller's
            return _error(500, "server_error", f"sampling failed ({type(error).__name__}); the server's log says why")
        return web.json_response(_reply(served, ask, completion, prompt_tokens))

    async def dismiss(app: web.Application) -> None:
        for waiting in endpoint.waiting:
            waiting.done.cancel()

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        worker = asyncio.create_task(endpoint.work())
        yield
        worker.cancel()
        endpoint.thread.shutdown(wait=False, cancel_futures=True)

    app = web.Application(client_max_size=LARGEST_BODY, middlewares=[guard])
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", completions)
    app.on_shutdown.append(dismiss)
    app.cleanup_ctx.append(lifetime)
    return app


def _reply(name: str, ask: Ask, completion: Completion, prompt_tokens: int) -> dict[str, Any]:
    ends = [place for stop in ask.stop if (place := completion.text.find(stop)) >= 0]
    text = completion.text[: min(ends)] if ends else completion.text
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop" if ends else completion.finish,
    }
    if ask.token_ids:
        choice["token_ids"] = list(completion.ids)
    drawn = len(completion.ids)
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": name,
        "choices": [choice],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": drawn,
            "total_tokens": prompt_tokens + drawn,
        },
    }


def _error(status: int, code: str, message: str) -> web.Response:
    body = {"error": {"message": message, "type": code, "param": None, "code": code}}
    return web.json_response(body, status=status)


async def listen(app: web.Application, host: str, port: int) -> tuple[web.AppRunner, int]:
    """Start serving `app`; gives the runner, whose `cleanup` ends it, and the port (a free one if `port` is 0).

    At the end what runs is finished, and what waits is dropped.

    Raises:
        InputError: the address cannot be bound.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=FINISHING)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise InputError(f"{host}:{port}: cannot listen there ({error.strerror}); choose another --port") from error
    return runner, int(runner.addresses[0][1])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def serve(
    vlm: VLM,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    name: str | None = None,
    batch: int = 32,
    say: Callable[[str], None] = _say,
) -> None:
    """Serve a model until interrupted (SIGINT or SIGTERM; a second one does not wait for what runs).

    Greedy requests that wait together go through together, and so do unseeded ones of one temperature; the longest
    answer (`max_tokens`) must be the same. A seeded request is drawn alone and gives the same text every time.
    Raises InputError if the address can't be bound.
    """

    async def run() -> None:
        hosts = (*LOOPBACK, host) if host in LOOPBACK else None
        runner, bound = await listen(endpoint_app(vlm, name=name, batch=batch, hosts=hosts), host, port)
        shown = f"[{host}]" if ":" in host else host
        say(f"{name or vlm.name} answers at http://{shown}:{bound}/v1; Ctrl-C ends it")
        if hosts is None:
            say("warning: reachable from other machines, and there are no keys: anyone who reaches it may ask")
        stop = asyncio.Event()

        def interrupted() -> None:
            if stop.is_set():
                os._exit(130)  # the sampling thread cannot be interrupted, and there is nothing to lose
            stop.set()
            say("finishing what runs; interrupt again to leave at once")

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, interrupted)
        await stop.wait()
        await runner.cleanup()

    asyncio.run(run())
