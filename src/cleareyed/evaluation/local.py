"""Our own engine as a model that is asked: requests that wait together are answered together."""

import asyncio
import hashlib
import json
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import AskError, Reply, State
from cleareyed.evaluation.request import Prepared, Request, request_hash
from cleareyed.models.encode import encode
from cleareyed.models.load import TINY_BASE
from cleareyed.models.sample import sample
from cleareyed.models.vlm import VLM, Completion, EncodedPrompt, SamplingParams
from cleareyed.tasks.images import decode_image
from cleareyed.tasks.task import LoadImage

GATHERING = 0.005
"""A batch is begun when it is full, or when no request has come for so many seconds."""
WHOLE = 50_000_000
"""Bytes up to which a file of weights is hashed whole; of a larger one its header and pieces are."""
PIECES, PIECE = 256, 4096
"""So many pieces of so many bytes, evenly spread."""

Give = Callable[[int, Reply | AskError], None]
"""Called with the place of a request in its batch, and what came back."""


@dataclass(frozen=True)
class Prompt:
    """A text and what stands before it."""

    text: str
    images: Sequence[LoadImage]
    chat: bool


@dataclass(frozen=True)
class Completed:
    """A completion and the length of its prompt in tokens, those of its pictures included."""

    completion: Completion
    prompt_tokens: int


def complete(
    vlm: VLM,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    generator: torch.Generator | None = None,
    on_done: Callable[[int, Completed | InputError], None] | None = None,
) -> list[Completed | InputError]:
    """One completion a prompt, in order, all drawn together; where a picture cannot be taken, the error that says so.

    Each picture is loaded once. `on_done` gets the place of a prompt and its completion as soon as that is finished.
    Without a `generator` draws are the same every time; greedy completions need none.
    """
    found: dict[int, Completed | InputError] = {}
    ready: list[tuple[int, EncodedPrompt]] = []

    def finish(place: int, result: Completed | InputError) -> None:
        found[place] = result
        if on_done is not None:
            on_done(place, result)

    def finish_group(index: int, group: list[Completion]) -> None:
        place, encoded = ready[index]
        finish(place, Completed(group[0], len(encoded.ids)))

    for place, prompt in enumerate(prompts):
        try:
            ready.append((place, encode(vlm, prompt.text, [load() for load in prompt.images], chat=prompt.chat)))
        except InputError as error:
            finish(place, error)
    sample(
        vlm,
        [encoded for _, encoded in ready],
        params,
        generator or torch.Generator(device=vlm.device).manual_seed(0),
        on_group=finish_group,
    )
    return [found[place] for place in range(len(prompts))]


def reply_of(completed: Completed) -> Reply:
    """A completion as what came back."""
    completion = completed.completion
    ended: State = "answered" if completion.text.strip() else "empty"
    return Reply(
        "cut-off" if completion.finish == "length" else ended,
        completion.text,
        completion.finish,
        prompt_tokens=completed.prompt_tokens,
        completion_tokens=len(completion.ids),
    )


class Batches:
    """Requests that wait, and the one thread in which they are answered, up to `batch` at a time."""

    def __init__(self, run: Callable[[Sequence[Request], Give], None], batch: int) -> None:
        """`run` answers requests of the same parameters, giving each reply when it is there; it runs in the thread."""
        self._run, self._batch = run, batch
        self._waiting: deque[_Waiting] = deque()
        self._filled = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "answering")
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    async def ask(self, request: Request) -> Reply:
        """The reply; AskError if there is none."""
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._filled.set()
        return await waiting.done

    def close(self) -> None:
        """Answer no more: what runs ends with its next completion."""
        self._closed = True
        if self._worker is not None:
            self._worker.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._filled.wait()
            await self._gather()
            batch = self._next()
            give = partial(self._give, loop, batch)
            try:
                await loop.run_in_executor(self._thread, self._run, [waiting.request for waiting in batch], give)
            except Exception as error:  # handed to those who wait, whatever it is: it ends the evaluation there
                for waiting in batch:
                    _settle(waiting.done, error)

    async def _gather(self) -> None:
        seen = -1
        while seen < len(self._waiting) < self._batch:
            seen = len(self._waiting)
            await asyncio.sleep(GATHERING)

    def _next(self) -> list["_Waiting"]:
        """The first that waits and those of the same parameters, as far as there is room."""
        taken: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        for waiting in self._waiting:
            if waiting.done.done():
                continue
            alike = not taken or waiting.request.params == taken[0].request.params
            (taken if alike and len(taken) < self._batch else left).append(waiting)
        self._waiting = left
        if not left:
            self._filled.clear()
        return taken

    def _give(
        self, loop: asyncio.AbstractEventLoop, batch: list["_Waiting"], place: int, result: Reply | AskError
    ) -> None:
        """Called in the thread."""
        if self._closed:
            raise _Closed
        loop.call_soon_threadsafe(_settle, batch[place].done, result)


@dataclass(frozen=True)
class _Waiting:
    request: Request
    done: "asyncio.Future[Reply]"


class _Closed(Exception):
    """Nobody waits any more."""


def _settle(done: "asyncio.Future[Reply]", result: Reply | Exception) -> None:
    if done.done():
        return
    if isinstance(result, Exception):
        done.set_exception(result)
    else:
        done.set_result(result)


class LocalAnswerer:
    """An `Answerer` for a model in memory. Use it within one event loop.

    Drawn answers (temperature above 0) with a seed are drawn one by one, so that each depends on the seed and its
    sample alone; without a seed they differ from run to run.
    """

    def __init__(self, vlm: VLM, revision: str | None, batch: int) -> None:
        self.name = f"local:{vlm.name}"
        self.revision = revision
        self._vlm = vlm
        size = vlm.image_processor.size
        self._about = [size["shortest_edge"], size["longest_edge"], "bf16" if vlm.autocast else "fp32"]
        self._batches = Batches(self._answer, batch)

    def prepare(self, request: Request) -> Prepared:
        """The request itself; its hash covers text, pictures, pixel limits and precision.

        InputError: a parameter that the engine does not have.
        """
        refuse(self.name, request, "system", "top_p", "stop")
        return Prepared(request, engine_hash(request, self._about))

    async def send(self, prepared: Prepared) -> Reply:
        return await self._batches.ask(prepared.sent)

    async def close(self) -> None:
        self._batches.close()

    def _answer(self, asked: Sequence[Request], give: Give) -> None:
        params = asked[0].params
        if params.temperature == 0 or params.seed is None:
            self._complete(asked, secrets.randbits(63), give)
            return
        for place, request in enumerate(asked):
            self._complete([request], sample_seed(request), partial(_give_at, give, place))

    def _complete(self, asked: Sequence[Request], seed: int, give: Give) -> None:
        def done(place: int, found: Completed | InputError) -> None:
            give(place, AskError("permanent", str(found)) if isinstance(found, InputError) else reply_of(found))

        params = asked[0].params
        try:
            complete(
                self._vlm,
                [prompt_of(request) for request in asked],
                SamplingParams(max_tokens=params.max_tokens, temperature=params.temperature),
                torch.Generator(device=self._vlm.device).manual_seed(seed),
                done,
            )
        except torch.OutOfMemoryError:
            raise AskError("permanent", "out of memory; ask again with a smaller --batch", hopeless=True) from None


def _give_at(give: Give, place: int, _: int, reply: Reply | AskError) -> None:
    """Give the one reply of a batch of its own as that of `place`."""
    give(place, reply)


def prompt_of(request: Request) -> Prompt:
    """A request with its pictures ready to be decoded."""
    images = [
        partial(decode_image, data, f"sample {request.sample_id}, image {number}")
        for number, data in enumerate(request.images, 1)
    ]
    return Prompt(request.prompt, images, request.chat)


def sample_seed(request: Request) -> int:
    """A seed of its own for each sample."""
    digest = hashlib.sha256(f"{request.params.seed} {request.sample_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "little")


def engine_hash(request: Request, about: Sequence[object]) -> str:
    """`request_hash` of what an engine is given: text, chat or not, the settings `about` it, and the pictures."""
    lengths = [len(data) for data in request.images]
    head = json.dumps([request.prompt, request.chat, list(about), lengths])
    return request_hash([head.encode(), *request.images])


def refuse(name: str, request: Request, *fields: str) -> None:
    """InputError if the request sets one of these parameters."""
    for field in fields:
        if getattr(request.params, field):
            raise InputError(f"{name}: takes no {field} here; leave it out")


def weights_hash(folder: Path) -> str | None:
    """What tells a checkpoint from others of its name: 16 hex digits over its settings, tokenizer and weights.

    Of weights beyond 50 MB the header, which names and places every tensor, and pieces spread over the file count.
    None if `folder` is none.
    """
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".jinja", ".txt", ".model", ".safetensors") and path.is_file():
            digest.update(f"{path.name} {path.stat().st_size} ".encode())
            _hash_file(digest.update, path)
    return digest.hexdigest()[:16]


def revision_of(path: str, model: torch.nn.Module) -> str | None:
    """The revision of a loaded model: the hash of its folder, or the commit it has on the hub."""
    folder = TINY_BASE if path == "tiny-base" else Path(path).expanduser()
    return weights_hash(folder) or getattr(getattr(model, "config", None), "_commit_hash", None)


def _hash_file(update: Callable[[bytes], object], path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE:
            update(file.read())
            return
        header = int.from_bytes(file.read(8), "little")
        update(file.read(min(header, WHOLE)))
        for piece in range(PIECES):
            file.seek(piece * (size - PIECE) // (PIECES - 1))
            update(file.read(PIECE))
