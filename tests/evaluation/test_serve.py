import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from socket import socket
from typing import Any

import aiohttp
import pytest
import torch
from PIL import Image
from tiny import picture, tiny_qwen2_vl

from cleareyed.chat_request import read_ask
from cleareyed.errors import InputError
from cleareyed.evaluation.answers import Reply as AskReply
from cleareyed.evaluation.providers.openai import OpenAIAnswerer
from cleareyed.evaluation.request import AskParams, Request
from cleareyed.models.encode import encode
from cleareyed.models.sample import sample
from cleareyed.models.vlm import VLM, Completion, EncodedPrompt, SamplingParams
from cleareyed.serve import Endpoint, endpoint_app, listen, serve

NEAR = 1e-3
"""Two logits closer than this are a near-tie: either token may be the greedy one."""

Reply = tuple[int, dict[str, Any]]


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return replace(tiny_qwen2_vl(), name="tiny")


def png(image: Image.Image) -> bytes:
    page = BytesIO()
    image.save(page, "PNG")
    return page.getvalue()


def body(text: str = "How many?", images: Sequence[bytes] = (), **fields: Any) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(data).decode()}}
        for data in images
    ]
    content = [*parts, {"type": "text", "text": text}] if parts else text
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 8} | fields


def served(vlm: VLM, work: Callable[[aiohttp.ClientSession, str], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        runner, port = await listen(endpoint_app(vlm, **options), "127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession() as session:
                return await work(session, f"http://127.0.0.1:{port}")
        finally:
            await runner.cleanup()

    return asyncio.run(run())


async def post(session: aiohttp.ClientSession, url: str, asked: Any, **options: Any) -> Reply:
    async with session.post(f"{url}/v1/chat/completions", json=asked, **options) as response:
        return response.status, await response.json()


def ask(vlm: VLM, *asked: Any, **options: Any) -> list[Reply]:
    """All at once."""

    async def work(session: aiohttp.ClientSession, url: str) -> list[Reply]:
        return await asyncio.gather(*(post(session, url, one) for one in asked))

    replies: list[Reply] = served(vlm, work, **options)
    return replies


def greedy(vlm: VLM, prompts: Sequence[EncodedPrompt], max_tokens: int) -> list[Completion]:
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    return [group[0] for group in sample(vlm, prompts, params, torch.Generator().manual_seed(0))]


def differs_at_a_near_tie(vlm: VLM, prompt: EncodedPrompt, ours: Sequence[int], theirs: Sequence[int]) -> bool:
    """Whether the first token that differs stands where the top two logits are as good as equal."""
    place = next(n for n, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other)
    ids = torch.cat([prompt.ids, torch.tensor(ours[:place], dtype=torch.int64)])[None]
    pixels: dict[str, Any] = {}
    if prompt.pixels is not None:
        pixels = {
            "pixel_values": prompt.pixels,
            "image_grid_thw": prompt.grid,
            "mm_token_type_ids": (ids == vlm.image_token_id).int(),
        }
    with torch.no_grad():
        logits = vlm.model(input_ids=ids, use_cache=False, **pixels).logits[0, -1]
    logits[list(vlm.banned_ids)] = -torch.inf
    first, second = logits.topk(2).values.tolist()
    return bool(first - second < NEAR)


def test_over_http_the_tokens_are_those_of_sample_but_for_near_ties(vlm: VLM) -> None:
    questions = ["How many red cubes?", "Left of the blue ball?", "How many are left?", "the first, the second"]
    pictures = [picture(40, 40, seed) for seed in range(3)]
    asked, prompts = [], []
    for number, question in enumerate(questions * 3):
        shown = pictures[: number % 3]
        chat = number % 2 == 0
        asked.append(
            body(
                question,
                [png(image) for image in shown],
                max_tokens=24,
                temperature=0,
                raw=not chat,
                return_token_ids=True,
            )
        )
        prompts.append(encode(vlm, question, shown, chat=chat))
    replies = ask(vlm, *asked, batch=5)
    near_ties = 0
    for (status, reply), prompt, own in zip(replies, prompts, greedy(vlm, prompts, 24), strict=True):
        assert status == 200
        choice = reply["choices"][0]
        if choice["token_ids"] != list(own.ids):
            assert differs_at_a_near_tie(vlm, prompt, own.ids, choice["token_ids"])
            near_ties += 1
            continue
        assert choice["message"] == {"role": "assistant", "content": own.text}
        assert choice["finish_reason"] == own.finish
        assert reply["usage"]["prompt_tokens"] == len(prompt.ids)
        assert reply["usage"]["completion_tokens"] == len(own.ids)
    assert near_ties <= 1
    assert len({reply["choices"][0]["message"]["content"] for _, reply in replies}) > 6  # the model says many things


def test_requests_that_wait_together_are_sampled_together(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    run = Endpoint._run

    def counted(self: Endpoint, batch: list[Any], loop: asyncio.AbstractEventLoop) -> None:
        sizes.append(len(batch))
        run(self, batch, loop)

    monkeypatch.setattr(Endpoint, "_run", counted)
    replies = ask(vlm, *[body(f"How many? {n}", temperature=0) for n in range(9)], batch=4)
    assert [status for status, _ in replies] == [200] * 9
    assert sum(sizes) == 9
    assert max(sizes) == 4
    assert len(sizes) <= 5


def test_a_seed_gives_the_same_text_whatever_else_is_asked(vlm: VLM) -> None:
    seeded = body(temperature=1.0, seed=11, max_tokens=16)
    alone = ask(vlm, seeded)[0][1]["choices"]
    crowd = ask(vlm, body(temperature=1.0, max_tokens=16), seeded, body(temperature=1.0, seed=12, max_tokens=16))
    assert crowd[1][1]["choices"] == alone
    assert crowd[2][1]["choices"] != alone


def test_a_stop_text_ends_the_answer_before_it(vlm: VLM) -> None:
    whole = ask(vlm, body(temperature=0, max_tokens=24))[0][1]["choices"][0]["message"]["content"]
    stop = whole[5:8]
    _, reply = ask(vlm, body(temperature=0, max_tokens=24, stop=[stop, "never said"]))[0]
    assert reply["choices"][0]["message"]["content"] == whole[: whole.index(stop)]
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_a_picture_or_prompt_that_cannot_be_taken_fails_alone(vlm: VLM) -> None:
    broken, long, fine = ask(
        vlm,
        body("What?", [png(picture())[:100]], temperature=0),
        body("many " * 5000, temperature=0),
        body("How many?", [png(picture())], temperature=0),
    )
    assert broken[0] == 400
    assert "messages.0.content.0.image_url.url: image cannot be decoded" in broken[1]["error"]["message"]
    assert long[0] == 400
    assert "are more than the model's context of 4096 tokens" in long[1]["error"]["message"]
    assert fine[0] == 200


def test_what_is_not_a_request_is_turned_away_in_json(vlm: VLM) -> None:
    async def work(session: aiohttp.ClientSession, url: str) -> list[Reply]:
        chat = f"{url}/v1/chat/completions"
        found = [await post(session, url, body(model="other"))]
        found.append(await post(session, url, body(), headers={"Host": "evil.example"}))
        for sent in ({"data": json.dumps(body()), "headers": {"Content-Type": "text/plain"}}, {"json": "x" * 5000}):
            async with session.post(chat, **sent) as response:
                found.append((response.status, await response.json()))
        async with session.get(f"{url}/v1/nothing") as response:
            found.append((response.status, await response.json()))
        async with session.get(f"{url}/v1/models") as response:
            found.append((response.status, await response.json()))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cleareyed.serve.LARGEST_BODY", 4000)
        *errors, models = served(vlm, work)
    assert [status for status, _ in errors] == [404, 403, 415, 413, 404]
    assert "ask for 'tiny'" in errors[0][1]["error"]["message"]
    assert all(reply["error"]["message"] for _, reply in errors)
    assert models[0] == 200
    assert [card["id"] for card in models[1]["data"]] == ["tiny"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("{", "Invalid JSON"),
        (body(max_tokens=0), "max_tokens: "),
        (body(max_tokens=9999), "more than the model's context of 4096"),
        (body(temperature=-1), "temperature: "),
        (body(n=2), "n: "),
        (body(stream=True), "stream: "),
        (body(top_p=0.5), "top_p: "),
        (body(tools=[]), "tools: "),
        (body(stop=""), "stop: "),
        (body(messages=[]), "messages: "),
        (body(messages=[{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]), "messages"),
        (body(messages=[{"role": "assistant", "content": "x"}]), "messages.0.role: "),
        (body(messages=[{"role": "user", "content": 5}]), "messages.0.content"),
        (body(messages=[{"role": "user", "content": [{"type": "audio"}]}]), "messages.0.content.0: "),
        (
            body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b"}}]}]),
            "messages.0.content.0.image_url.url: give the picture itself",
        ),
        (
            body(
                messages=[
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,*"}}],
                    }
                ]
            ),
            "messages.0.content.0.image_url.url: not base64",
        ),
        (body(images=[b"x"] * 17), "17 images; 16 at most"),
    ],
)
def test_a_wrong_field_is_named(asked: Any, says: str) -> None:
    data = asked if isinstance(asked, str) else json.dumps(asked)
    with pytest.raises(InputError) as error:
        read_ask(data.encode(), "tiny", 4096)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_images_come_before_the_text() -> None:
    asked = body("What?", [b"x"])
    asked["messages"][0]["content"].reverse()
    with pytest.raises(InputError, match="put the images before the text"):
        read_ask(json.dumps(asked).encode(), "tiny", 4096)


def test_a_failed_batch_is_an_error_and_the_next_request_is_served(
    vlm: VLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, failures = Endpoint._run, [RuntimeError("secret detail")]

    def once(self: Endpoint, batch: list[Any], loop: asyncio.AbstractEventLoop) -> None:
        if failures:
            raise failures.pop()
        run(self, batch, loop)

    monkeypatch.setattr(Endpoint, "_run", once)

    async def work(session: aiohttp.ClientSession, url: str) -> list[Reply]:
        return [await post(session, url, body(temperature=0)) for _ in range(2)]

    (failed, error), (fine, _) = served(vlm, work)
    assert (failed, fine) == (500, 200)
    assert "secret detail" not in json.dumps(error)
    assert "secret detail" in caplog.text


def test_our_own_evaluation_asks_it_with_and_without_chat_roles(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    params = AskParams(max_tokens=8, temperature=0.0)
    requests = [Request(str(chat), "How many?", "", (png(picture()),), chat, params) for chat in (True, False)]

    async def work(session: aiohttp.ClientSession, url: str) -> list[AskReply]:
        answerer = OpenAIAnswerer("tiny", f"{url}/v1", raw=True)
        try:
            return [await answerer.send(answerer.prepare(request)) for request in requests]
        finally:
            await answerer.close()

    for request, reply in zip(requests, served(vlm, work), strict=True):
        (own,) = greedy(vlm, [encode(vlm, "How many?", [picture()], chat=request.chat)], 8)
        assert reply.text == own.text
        assert reply.state == {"length": "cut-off", "stop": "answered"}[own.finish]
        assert (reply.served, reply.completion_tokens) == ("tiny", len(own.ids))


def test_a_taken_port_is_said(vlm: VLM) -> None:
    with closing(socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="cannot listen there"):
            serve(vlm, port=taken.getsockname()[1])
