"""The OpenAI wire format: what goes out byte by byte, and what each kind of answer becomes."""

import asyncio
import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from evaluation.stub import Config, Stub, serving
from PIL import Image

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import AskError, Reply
from cleareyed.evaluation.providers.openai import OpenAIAnswerer, _retry_after
from cleareyed.evaluation.request import AskParams, Request, asked_hashes, request_hash, short_hash

PARAMS = AskParams(max_tokens=16)
KEY = "secret0key1of2the3test"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def request(text: str = "Which? sample a", images: tuple[bytes, ...] = (), **fields: Any) -> Request:
    return Request("a", text, "", images, **{"chat": True, "params": PARAMS, **fields})


def picture(kind: str) -> bytes:
    page = BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(page, kind)
    return page.getvalue()


def ask(stub: Stub, asked: Request, **options: Any) -> Reply:
    async def once() -> Reply:
        answerer = OpenAIAnswerer("m", stub.url, **options)
        try:
            return await answerer.send(answerer.prepare(asked))
        finally:
            await answerer.close()

    return asyncio.run(once())


def sent(stub: Stub) -> tuple[bytes, dict[str, Any]]:
    head, _, body = stub.last.partition(b"\r\n\r\n")
    return head, json.loads(body)


def failing(status: int, body: Any, **headers: str) -> AskError | Reply:
    text = body if isinstance(body, str) else json.dumps(body)
    with serving(Config(always=(status, text), headers=headers)) as stub:
        try:
            return ask(stub, request())
        except AskError as error:
            return error


def test_a_text_goes_out_as_one_user_message_with_its_parameters() -> None:
    params = AskParams(16, temperature=0.5, top_p=0.9, stop=("\n",), seed=7, system='Be "brief".')
    with serving() as stub:
        reply = ask(stub, request('Say "ü" sample a', params=params), extra={"user": "u", "seed": None})
        head, body = sent(stub)
    assert body == {
        "model": "m",
        "max_tokens": 16,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["\n"],
        "user": "u",
        "messages": [
            {"role": "system", "content": 'Be "brief".'},
            {"role": "user", "content": 'Say "ü" sample a'},
        ],
    }
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1") and f"Bearer {KEY}".encode() in head
    assert b"Content-Type: application/json" in head and b"chunked" not in head.lower()
    assert reply.state == "answered" and reply.text.startswith("Sample a is (")
    assert (reply.prompt_tokens, reply.request_id, reply.served) == (20, "req-1", "stub-2026")


def test_pictures_go_out_as_the_bytes_they_are_typed_by_those_bytes() -> None:
    images = (picture("PNG"), picture("WEBP"), picture("JPEG") + b"x" * 40_000)
    with serving() as stub:
        answerer = OpenAIAnswerer("m", stub.url)
        prepared = answerer.prepare(request(images=images))
        ask(stub, request(images=images))
        _, body = sent(stub)
        raw = stub.last.partition(b"\r\n\r\n")[2]
    *pictures, text = body["messages"][0]["content"]
    urls = [part["image_url"]["url"].split(";base64,") for part in pictures]
    assert [kind for kind, _ in urls] == ["data:image/png", "data:image/webp", "data:image/jpeg"]
    assert tuple(base64.b64decode(data, validate=True) for _, data in urls) == images
    assert text == {"type": "text", "text": "Which? sample a"}
    assert prepared.note is None
    for data in images:
        raw = raw.replace(base64.b64encode(data), b"")
    own = short_hash(*images)  # the pictures stand in it by their own hash, which is made once
    assert prepared.sent_hash == request_hash([raw, own.encode()])
    hashed = request(images=images, hashes=asked_hashes("Which? sample a", True, None, images))
    assert answerer.prepare(hashed).sent_hash == prepared.sent_hash
    other = answerer.prepare(request(images=(*images[:2], images[2] + b"x")))
    assert other.sent_hash != prepared.sent_hash


def test_a_picture_that_was_changed_is_hashed_as_it_is_sent() -> None:
    page = BytesIO()
    Image.new("RGB", (4, 4), "red").save(page, "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    hashes = asked_hashes("Which? sample a", True, None, [page.getvalue()])
    prepared = OpenAIAnswerer("m").prepare(request(images=(page.getvalue(),), hashes=hashes))
    _, parts = prepared.sent
    (place,) = (at for at, part in enumerate(parts) if part[:4] == b"iVBO")
    texts = [part for at, part in enumerate(parts) if at != place]
    assert prepared.note is not None and "moving" in prepared.note
    own = short_hash(base64.b64decode(parts[place]))
    assert prepared.sent_hash == request_hash([*texts, own.encode()])


def test_base_models_are_asked_the_text_as_it_is() -> None:
    text = request("Q: sample a A:", chat=False)
    with serving() as stub:
        ask(stub, text)
        head, body = sent(stub)
        assert head.startswith(b"POST /v1/completions") and body["prompt"] == "Q: sample a A:"
        ask(stub, text, raw=True)
        head, body = sent(stub)
        assert head.startswith(b"POST /v1/chat/completions") and body["raw"] is True
        with pytest.raises(InputError, match="cannot be sent with pictures"):
            ask(stub, request(images=(picture("PNG"),), chat=False))
        ask(stub, request(images=(picture("PNG"),), chat=False), raw=True)
        assert sent(stub)[1]["raw"] is True


def test_the_hosted_api_gets_the_names_it_knows() -> None:
    _, parts = OpenAIAnswerer("m").prepare(request()).sent
    body = json.loads(b"".join(parts))
    assert body["max_completion_tokens"] == 16 and "max_tokens" not in body


@pytest.mark.parametrize(
    ("message", "finish", "state", "text"),
    [
        ({"content": "(A)"}, "stop", "answered", "(A)"),
        ({"content": "(A) bec"}, "length", "cut-off", "(A) bec"),
        ({"content": ""}, "length", "cut-off", ""),
        ({"content": None}, "stop", "empty", ""),
        ({"content": " \n"}, "stop", "empty", " \n"),
        ({"content": "(A"}, "content_filter", "filtered", "(A"),
        ({"content": None, "refusal": "I can't."}, "stop", "answered", "I can't."),
        ({"content": [{"type": "text", "text": "(A"}, {"type": "text", "text": ")"}]}, None, "answered", "(A)"),
    ],
)
def test_finish_reasons_become_states(message: Any, finish: str | None, state: str, text: str) -> None:
    found = failing(200, {"choices": [{"message": message, "finish_reason": finish}]})
    assert isinstance(found, Reply)
    assert (found.state, found.text, found.finish) == (state, text, finish or "")


@pytest.mark.parametrize(
    ("status", "body", "kind", "hopeless"),
    [
        (400, {"error": {"message": "bad"}}, "permanent", False),
        (413, "too large", "permanent", False),
        (401, {"error": {"message": "key"}}, "permanent", True),
        (403, {"error": {"message": "no"}}, "permanent", True),
        (404, {"detail": "Not Found"}, "permanent", True),
        (400, {"error": {"message": "no such", "code": "model_not_found"}}, "permanent", True),
        (302, "", "permanent", False),
        (402, {"error": {"message": "pay"}}, "quota", False),
        (429, {"error": {"message": "no", "code": "insufficient_quota"}}, "quota", False),
        (429, {"error": {"message": "slow", "code": "rate_limit_exceeded"}}, "throttled", False),
        (429, {"error": {"message": "slow", "code": 429}}, "throttled", False),
        (408, "", "transient", False),
        (500, "<html>", "transient", False),
        (502, {"error": "bad gateway"}, "transient", False),
        (503, "", "transient", False),
        (200, "<html>", "transient", False),
        (200, '{"choices":[{"message":{"content":"(A)"', "transient", False),
        (200, {"choices": []}, "transient", False),
        (200, {"choices": [{"message": {"content": 7}}]}, "transient", False),
        (200, "[" * 100_000, "transient", False),
        (200, {"error": {"message": "upstream", "code": 502}}, "transient", False),
        (200, {"error": {"message": "slow down", "code": 429}}, "throttled", False),
        (200, {"error": {"message": "who are you", "code": 401}}, "permanent", True),
    ],
)
def test_errors_are_classed(status: int, body: Any, kind: str, hopeless: bool) -> None:
    error = failing(status, body)
    assert isinstance(error, AskError)
    assert (error.kind, error.hopeless) == (kind, hopeless)


@pytest.mark.parametrize(
    ("status", "error", "finish"),
    [
        (400, {"code": "content_policy_violation"}, "content_policy_violation"),
        (400, {"code": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}, "ResponsibleAIPolicyViolation"),
        (403, {"code": 403, "metadata": {"flagged_input": "..."}}, "flagged"),
    ],
)
def test_a_request_turned_away_for_its_content_is_a_state(status: int, error: Any, finish: str) -> None:
    found = failing(status, {"error": {"message": "no", **error}})
    assert isinstance(found, Reply)
    assert (found.state, found.finish, found.text, found.request_id) == ("refused-by-api", finish, "", "req-1")


def test_a_pause_that_is_asked_for_is_told() -> None:
    for headers, seconds in (({"Retry-After": "2.5"}, 2.5), ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5)):
        error = failing(429, "", **headers)
        assert isinstance(error, AskError) and error.retry_after == seconds
    error = failing(503, "", **{"Retry-After": "3"})
    assert isinstance(error, AskError) and (error.kind, error.retry_after) == ("throttled", 3.0)
    assert _retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert _retry_after({"retry-after": "soon"}) is None and _retry_after({"retry-after": "nan"}) is None


def test_the_key_is_in_no_error_and_follows_no_redirect() -> None:
    echo = failing(401, {"error": {"message": f"bad key {KEY}, that is {KEY[:10]}..{KEY[-8:]}"}})
    assert isinstance(echo, AskError)
    assert not any(KEY[at : at + 8] in str(echo) for at in range(len(KEY) - 7))
    with serving() as other:
        moved = failing(307, "", Location=f"{other.url}/chat/completions")
        assert isinstance(moved, AskError) and moved.kind == "permanent" and other.requests == 0


def test_no_server_is_transient() -> None:
    with serving() as stub:
        pass
    with pytest.raises(AskError) as caught:
        ask(stub, request())
    assert caught.value.kind == "transient"


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        (None, "", "OPENAI_API_KEY: not set"),
        ("http://example.com/v1", KEY, "in the clear"),
        ("https://user:word@example.com/v1", KEY, "holds a user name"),
        ("ftp://example.com", KEY, "not an http"),
        ("example.com/v1", "", "not an http"),
        ("http://127.0.0.1:1", "two words\n", "holds blanks"),
        ("http://[::1", "", "base URL"),
    ],
)
def test_urls_and_keys_that_cannot_be_used(
    url: str | None, key: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match=said) as caught:
        OpenAIAnswerer("m", url)
    assert "word" not in str(caught.value).replace("password", "")
