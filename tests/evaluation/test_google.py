import base64
import sys
from io import BytesIO
from typing import Any

import pytest
from evaluation.vendor_stub import Said, exchange, request
from PIL import Image

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import AskError
from cleareyed.evaluation.providers.google import GoogleAnswerer

pytest.importorskip("google.genai", reason="the extra google is not installed")

SECRET = "AIzaSyVerySecret0123456789abcdefghijklm"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", SECRET)
    for name in ("GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_GENAI_USE_VERTEXAI"):
        monkeypatch.delenv(name, raising=False)


def make(url: str) -> GoogleAnswerer:
    return GoogleAnswerer("gemini-test", url)


def picture(kind: str = "PNG", side: int = 8) -> bytes:
    page = BytesIO()
    Image.new("RGB", (side, side), "teal").save(page, kind)
    return page.getvalue()


def response(text: str | None = "Two.", finish: str | None = "STOP", **fields: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {} if finish is None else {"finishReason": finish}
    if text is not None:
        candidate["content"] = {"role": "model", "parts": [{"text": text}]}
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 3, "thoughtsTokenCount": 4}
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": "gemini-test-001",
        "responseId": "r9",
    } | fields


def failure(code: int, status: str, text: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "status": status, "message": text, "details": list(details)}}


def exhausted(quota: str, delay: str | None = None) -> dict[str, Any]:
    violation = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota}]}
    retry = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}] if delay else []
    return failure(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota", violation, *retry)


def test_what_goes_over_the_wire() -> None:
    image = picture("JPEG")
    prepared, reply, (seen,) = exchange(
        Said(body=response()),
        make,
        request("How many?", (image,), system="Be brief.", stop=("END",), temperature=0.0, top_p=0.9, seed=5),
    )
    assert seen.path.endswith("/models/gemini-test:generateContent")
    assert seen.headers["x-goog-api-key"] == SECRET
    first, second = seen.body["contents"][0]["parts"]
    assert base64.urlsafe_b64decode(first["inlineData"]["data"].replace("+", "-").replace("/", "_")) == image
    assert "image/jpeg" in first["inlineData"].values()
    assert second == {"text": "How many?"}
    assert seen.body["systemInstruction"]["parts"] == [{"text": "Be brief."}]
    assert seen.body["generationConfig"] == {
        "maxOutputTokens": 20,
        "temperature": 0.0,
        "topP": 0.9,
        "stopSequences": ["END"],
        "seed": 5,
    }
    assert prepared.note is None
    assert (reply.state, reply.text, reply.finish) == ("answered", "Two.", "STOP")
    assert (reply.prompt_tokens, reply.completion_tokens) == (7, 7)
    assert (reply.request_id, reply.served) == ("r9", "gemini-test-001")


@pytest.mark.parametrize(
    ("body", "state", "text"),
    [
        (response("Tw", "MAX_TOKENS"), "cut-off", "Tw"),
        (response(None, "MAX_TOKENS"), "cut-off", ""),
        (response(None), "empty", ""),
        (response(None, "SAFETY"), "filtered", ""),
        (response("The", "RECITATION"), "filtered", "The"),
        (response(None, "PROHIBITED_CONTENT"), "filtered", ""),
        (response(None, "OTHER"), "failed", ""),
        ({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, "refused-by-api", ""),
        (response("Two.", "STOP", promptFeedback={"safetyRatings": []}), "answered", "Two."),
    ],
)
def test_finish_reasons_are_states(body: dict[str, Any], state: str, text: str) -> None:
    _, reply, _ = exchange(Said(body=body), make, request())
    assert (reply.state, reply.text) == (state, text)
    assert (reply.error is not None) == (state in ("failed", "refused-by-api"))


def test_thoughts_are_no_part_of_the_text() -> None:
    parts = [{"text": "hm", "thought": True}, {"text": "Two."}]
    _, reply, _ = exchange(
        Said(body={"candidates": [{"finishReason": "STOP", "content": {"parts": parts}}]}), make, request()
    )
    assert reply.text == "Two."
    assert reply.completion_tokens is None


@pytest.mark.parametrize(
    ("said", "kind", "wait", "hopeless"),
    [
        (Said(400, failure(400, "INVALID_ARGUMENT", "bad image")), "permanent", None, False),
        (
            Said(400, failure(400, "INVALID_ARGUMENT", "API key not valid.", {"reason": "API_KEY_INVALID"})),
            "permanent",
            None,
            True,
        ),
        (Said(403, failure(403, "PERMISSION_DENIED", "no")), "permanent", None, True),
        (Said(404, failure(404, "NOT_FOUND", "models/gemini-test is not found")), "permanent", None, True),
        (Said(429, exhausted("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "33s")), "quota", None, False),
        (Said(429, exhausted("GenerateRequestsPerMinutePerProjectPerModel", "33.5s")), "throttled", 33.5, False),
        (Said(503, failure(503, "UNAVAILABLE", "The model is overloaded.")), "throttled", None, False),
        (Said(500, failure(500, "INTERNAL", "oops")), "transient", None, False),
        (Said(504, text="<html>late</html>"), "transient", None, False),
        (Said(reset=True), "transient", None, False),
        (Said(cut=True), "transient", None, False),
        (Said(text='{"candidates": [{"con'), "transient", None, False),
        (Said(text="[]"), "transient", None, False),
        (Said(body={}), "transient", None, False),
        (Said(body={"candidates": [{"content": 3}]}), "transient", None, False),
        (Said(body=response("Tw", None)), "transient", None, False),
    ],
)
def test_errors_are_classed_and_not_retried(said: Said, kind: str, wait: float | None, hopeless: bool) -> None:
    with pytest.raises(AskError) as error:
        exchange(said, make, request())
    assert (error.value.kind, error.value.retry_after, error.value.hopeless) == (kind, wait, hopeless)


def test_the_key_is_in_no_error() -> None:
    said = Said(400, failure(400, "INVALID_ARGUMENT", f"?key={SECRET} {SECRET[6:20]}"))
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
        request("Which one?", images=(picture(),)),
        request(images=(picture(),), seed=1),
    ]
    assert len({base.sent_hash, *(answerer.prepare(other).sent_hash for other in others)}) == 4


def test_what_this_api_does_not_take_is_changed_or_said_before_anything_is_sent() -> None:
    answerer = make("http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"google:gemini-test: answers in a conversation only"):
        answerer.prepare(request(chat=False))
    note = answerer.prepare(request(images=(picture("GIF"),))).note
    assert note is not None and "image/gif is not taken" in note


def test_a_missing_sdk_or_key_and_a_wrong_url_are_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="in the clear"):
        make("http://example.org")
    monkeypatch.delenv("GEMINI_API_KEY")
    with pytest.raises(InputError, match="GEMINI_API_KEY or GOOGLE_API_KEY: not set"):
        make("http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_API_KEY", SECRET)
    assert make("http://127.0.0.1:9").name == "google:gemini-test"
    monkeypatch.setitem(sys.modules, "google.genai", None)
    with pytest.raises(InputError, match=r"pip install 'cleareyed\[google\]'"):
        make("http://127.0.0.1:9")
