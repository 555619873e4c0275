import base64
import sys
from io import BytesIO
from typing import Any

import pytest
from evaluation.vendor_stub import Said, exchange, request
from PIL import Image

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import AskError
from cleareyed.evaluation.providers.anthropic import AnthropicAnswerer

pytest.importorskip("anthropic", reason="the extra anthropic is not installed")

SECRET = "sk-ant-api03-very-secret-0123456789"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)


def make(url: str) -> AnthropicAnswerer:
    return AnthropicAnswerer("claude-test", url)


def picture(kind: str = "PNG", side: int = 8) -> bytes:
    page = BytesIO()
    Image.new("RGB", (side, side), "teal").save(page, kind)
    return page.getvalue()


def message(text: str | None = "Two.", stop: str = "end_turn", **fields: Any) -> dict[str, Any]:
    content = [] if text is None else [{"type": "text", "text": text}]
    usage = {"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 5}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test-20261101",
        "content": content,
        "stop_reason": stop,
        "usage": usage,
    } | fields


def failure(kind: str, text: str, **details: Any) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": text, "details": details or None}}


def test_what_goes_over_the_wire() -> None:
    image = picture("WEBP")
    prepared, reply, (seen,) = exchange(
        Said(body=message(), headers={"request-id": "req_9"}),
        make,
        request("How many?", (image,), system="Be brief.", stop=("END",)),
    )
    assert seen.path == "/v1/messages"
    assert SECRET in seen.headers["authorization"] + seen.headers.get("x-api-key", "")
    source = {"type": "base64", "media_type": "image/webp", "data": base64.b64encode(image).decode()}
    assert seen.body == {
        "model": "claude-test",
        "max_tokens": 20,
        "system": "Be brief.",
        "stop_sequences": ["END"],
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image", "source": source}, {"type": "text", "text": "How many?"}],
            }
        ],
    }
    assert prepared.note is None
    assert (reply.state, reply.text, reply.finish) == ("answered", "Two.", "end_turn")
    assert (reply.prompt_tokens, reply.completion_tokens) == (12, 3)
    assert (reply.request_id, reply.served) == ("req_9", "claude-test-20261101")


@pytest.mark.parametrize(
    ("params", "sent"),
    [
        ({"temperature": 0.0}, {"temperature": 0.0}),
        ({"temperature": 1.0, "top_p": 0.9}, {"top_p": 0.9}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
    ],
)
def test_sampling_other_than_the_api_s_own_asks_the_version_that_takes_it(
    params: dict[str, float], sent: dict[str, float]
) -> None:
    _, _, (seen,) = exchange(Said(body=message()), make, request(**params))
    assert {name: seen.body[name] for name in ("temperature", "top_p") if name in seen.body} == sent
    assert seen.headers["anthropic-version"] == "2023-06-01"


@pytest.mark.parametrize(
    ("body", "state", "text"),
    [
        (message("Two.", "stop_sequence"), "answered", "Two."),
        (message("Tw", "max_tokens"), "cut-off", "Tw"),
        (message(None, "max_tokens"), "cut-off", ""),
        (message("Tw", "model_context_window_exceeded"), "cut-off", "Tw"),
        (message(None), "empty", ""),
        (message(" \n"), "empty", " \n"),
        (message(None, "refusal"), "filtered", ""),
        (message("As far as", "refusal"), "filtered", "As far as"),
        (message("Two.", "a_new_reason"), "failed", "Two."),
    ],
)
def test_stop_reasons_are_states(body: dict[str, Any], state: str, text: str) -> None:
    _, reply, _ = exchange(Said(body=body), make, request())
    assert (reply.state, reply.text) == (state, text)
    assert (reply.error is not None) == (state == "failed")


def test_thinking_is_no_part_of_the_text() -> None:
    content = [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "Two."}]
    _, reply, _ = exchange(Said(body=message(content=content)), make, request())
    assert reply.text == "Two."


@pytest.mark.parametrize(
    ("said", "kind", "wait", "hopeless"),
    [
        (Said(400, failure("invalid_request_error", "messages: bad")), "permanent", None, False),
        (Said(401, failure("authentication_error", "invalid x-api-key")), "permanent", None, True),
        (Said(403, failure("permission_error", "no")), "permanent", None, True),
        (Said(404, failure("not_found_error", "model: claude-test")), "permanent", None, True),
        (Said(413, failure("request_too_large", "big")), "permanent", None, False),
        (Said(402, failure("billing_error", "pay")), "quota", None, False),
        (Said(400, failure("invalid_request_error", "Your credit balance is too low")), "quota", None, False),
        (
            Said(400, failure("invalid_request_error", "x", error_code="enforced_spend_limit_reached")),
            "quota",
            None,
            0,
        ),
        (Said(429, failure("rate_limit_error", "slow"), {"retry-after": "17"}), "throttled", 17.0, False),
        (Said(529, failure("overloaded_error", "Overloaded")), "throttled", None, False),
        (Said(500, failure("api_error", "oops")), "transient", None, False),
        (Said(503, text="<html>bad gateway</html>"), "transient", None, False),
        (Said(reset=True), "transient", None, False),
        (Said(cut=True), "transient", None, False),
        (Said(text='{"id": "msg_1", "type": "mess'), "transient", None, False),
        (Said(text="[]"), "transient", None, False),
        (Said(body={"id": "msg_1", "type": "message"}), "transient", None, False),
    ],
)
def test_errors_are_classed_and_not_retried(said: Said, kind: str, wait: float | None, hopeless: bool) -> None:
    with pytest.raises(AskError) as error:
        exchange(said, make, request())
    assert (error.value.kind, error.value.retry_after, error.value.hopeless) == (kind, wait, hopeless)


def test_a_model_that_takes_no_temperature_is_given_up_with_the_remedy() -> None:
    said = Said(400, failure("invalid_request_error", "`temperature` is deprecated for this model."))
    with pytest.raises(AskError, match="ask this model with temperature 1") as error:
        exchange(said, make, request(temperature=0.0))
    assert error.value.hopeless


def test_an_answer_withheld_by_a_content_filter_is_a_state() -> None:
    said = Said(400, failure("invalid_request_error", "Output blocked by content filtering policy"))
    _, reply, _ = exchange(said, make, request())
    assert (reply.state, reply.finish) == ("filtered", "content_filter")
    assert reply.error is not None and "HTTP 400" in reply.error


def test_the_key_is_in_no_error() -> None:
    said = Said(400, failure("invalid_request_error", f"you sent Bearer {SECRET} with {SECRET[4:20]}"))
    with pytest.raises(AskError) as error:
        exchange(said, make, request())
    shown = f"{error.value!r} {error.value} {error.value.__cause__!r}"
    assert not any(SECRET[start : start + 8] in shown for start in range(len(SECRET) - 7))


def test_the_hash_is_that_of_all_that_is_sent() -> None:
    answerer = make("http://127.0.0.1:9")
    base = answerer.prepare(request(images=(picture(),)))
    assert base.sent_hash == answerer.prepare(request(images=(picture(),))).sent_hash
    others = [
        request(images=(picture(side=9),)),
        request(images=(picture("WEBP"),)),
        request(images=(picture(), picture())),
        request("Which one?", images=(picture(),)),
        request(images=(picture(),), system="Be brief."),
        request(images=(picture(),), temperature=0.0),
    ]
    assert len({base.sent_hash, *(answerer.prepare(other).sent_hash for other in others)}) == 7


def test_what_this_api_does_not_take_is_said_before_anything_is_sent() -> None:
    answerer = make("http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"anthropic:claude-test: answers in a conversation only"):
        answerer.prepare(request(chat=False))
    with pytest.raises(AskError, match="no seed"):
        answerer.prepare(request(seed=1))
    wide = BytesIO()
    Image.new("RGB", (8001, 4)).save(wide, "PNG")
    note = answerer.prepare(request(images=(wide.getvalue(),))).note
    assert note is not None and "8001 x 4 px, 8000 a side at most" in note


def test_a_missing_sdk_or_key_and_a_wrong_url_are_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="in the clear"):
        make("http://example.org")
    with pytest.raises(InputError, match="not an http or https address"):
        make("example.org/v1")
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(InputError, match="ANTHROPIC_API_KEY: not set"):
        make("http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant with blanks")
    with pytest.raises(InputError, match="ANTHROPIC_API_KEY: holds blanks") as error:
        make("http://127.0.0.1:9")
    assert "sk-ant" not in str(error.value)
    monkeypatch.setitem(sys.modules, "anthropic", None)
    with pytest.raises(InputError, match=r"pip install 'cleareyed\[anthropic\]'"):
        make("http://127.0.0.1:9")
