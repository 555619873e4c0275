"""Any server that speaks OpenAI's chat completions: hosted, vLLM, SGLang, llama.cpp, our own.

Bodies are put together as bytes: a picture is base64-encoded once and never passes a JSON encoder. The wire format is
that of platform.openai.com/docs/api-reference/chat and .../completions; no SDK is used (it takes 2 ms a request), and
the standard library's base64 alone would take 1.2 ms for a picture of 0.7 MB.
"""

import json
import os
import urllib.request
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from time import time
from typing import Any

import aiohttp
import pybase64
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import AskError, Reply, State, redact
from cleareyed.evaluation.request import AskParams, Prepared, Request, request_hash, short_hash

OPENAI_URL = "https://api.openai.com/v1"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
LARGEST_RESPONSE = 32 * 1024 * 1024
CONNECT_SECONDS = 30.0
SMALL = 16 * 1024
"""Pieces of a body shorter than this are joined before they are written."""

POLICY_CODES = {
    "content_policy_violation",
    "content_filter",
    "moderation_blocked",
    "invalid_prompt",
    "image_content_policy_violation",
    "ResponsibleAIPolicyViolation",
}
"""Error codes by which a request is turned away for what it says or shows."""
QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "access_terminated"}
HOPELESS_STATUS = {401, 403, 404}
"""Wrong key, no right to the model, no such model or path: the same for every sample."""
PASSING_STATUS = {408, 409, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}


class OpenAIAnswerer:
    """An `Answerer` for one model behind one base URL. Use it within one event loop."""

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        revision: str | None = None,
        extra: Mapping[str, Any] | None = None,
        raw: bool = False,
    ) -> None:
        """`base_url` or OPENAI_BASE_URL, else the hosted API; the key is OPENAI_API_KEY, which only hosts need.

        `extra`: further fields of the body ({"reasoning_effort": "low"}); None as a value leaves a field out
        ({"temperature": None} for models that refuse it). `raw`: the server takes `"raw": true`, which asks the text
        as it is (`cleareyed serve`); without it only texts without pictures can be asked of base models.
        InputError: a URL or key that cannot be used.
        """
        self.name = f"openai:{model}"
        self.revision = revision
        base = (base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL).rstrip("/")
        self._chat, self._completions = _checked_url(base, "/chat/completions"), _checked_url(base, "/completions")
        self._key = _checked_key(os.environ.get("OPENAI_API_KEY", ""), base)
        self._model, self._raw = model, raw
        self._extra = dict(extra or {})
        self._hosted = self._chat.host == "api.openai.com"
        self._session: aiohttp.ClientSession | None = None
        self._proxy = _proxy(self._chat)

    def prepare(self, request: Request) -> Prepared:
        """The body in pieces. AskError (permanent): a picture that this provider does not take."""
        if not request.chat and not self._raw:
            if request.images:
                raise InputError(
                    f"{self.name}: a prompt for base models cannot be sent with pictures to this API; ask a chat "
                    f"prompt, or a server that takes the text as it is (`cleareyed serve`)"
                )
            head = self._head(request.params, False)
            parts: tuple[bytes, ...] = (head, b'"prompt":', json.dumps(request.prompt).encode(), b"}")
            return Prepared((self._completions, parts), request_hash(parts))
        head = self._head(request.params, True)
        text = json.dumps(request.prompt).encode()
        end = b'}],"raw":true}' if not request.chat else b"}]}"
        if not request.images:
            parts = (head, text, end)
            return Prepared((self._chat, parts), request_hash(parts))
        from cleareyed.evaluation.providers.images import HOSTED, OPENAI, check_images

        images = check_images(request.images, OPENAI if self._hosted else HOSTED)
        pieces, shown = [head, b"["], []
        for image in images:
            pieces.append(b'{"type":"image_url","image_url":{"url":"data:%s;base64,' % image.media_type.encode())
            shown.append(len(pieces))
            pieces += [pybase64.b64encode(image.data), b'"}},']
        pieces += [b'{"type":"text","text":', text, b"}]", end]
        notes = "; ".join(image.note for image in images if image.note)
        pictures = request.hashes[1] if request.hashes[1] and not notes else short_hash(*(one.data for one in images))
        texts = (piece for at, piece in enumerate(pieces) if at not in shown)
        return Prepared((self._chat, tuple(pieces)), request_hash([*texts, pictures.encode()]), notes or None)

    async def send(self, prepared: Prepared) -> Reply:
        """One POST. Redirects are not followed, so the key goes to no other place."""
        url, parts = prepared.sent
        try:
            async with self._opened().post(
                url, data=_Body(parts), allow_redirects=False, proxy=self._proxy
            ) as response:
                content = await _read(response)
                status, headers = response.status, response.headers
        except (aiohttp.ClientError, OSError) as error:
            hopeless = isinstance(error, aiohttp.ClientConnectorCertificateError)
            message = self._redacted(f"{type(error).__name__}: {error}")
            raise AskError("permanent" if hopeless else "transient", message, hopeless=hopeless) from None
        reply = _loaded(content)
        error_body = reply.get("error") if reply is not None else None
        if status == 200 and reply is not None and not error_body:
            return _reply(reply, headers.get("x-request-id"))
        if status == 200 and reply is None:
            raise AskError("transient", "the answer is not JSON")
        return self._refused(status, error_body or reply, content, headers)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _head(self, params: AskParams, chat: bool) -> bytes:
        return _head(self._model, params, chat, self._hosted, json.dumps(self._extra))

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "cleareyed"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            )
        return self._session

    def _refused(self, status: int, body: Any, content: bytes, headers: Mapping[str, str]) -> Reply:
        """Every answer that is none, by class (raised), or as turned away for its content (returned)."""
        fields = body if isinstance(body, dict) else {}
        if status == 200 and isinstance(fields.get("code"), int):
            status = fields["code"]  # some gateways put the error of the host behind them into a 200
        said = fields.get("message") or fields.get("detail") or content[:1000].decode(errors="replace")
        message = self._redacted(f"HTTP {status}: {said}")
        codes = {str(value) for value in (fields.get("code"), fields.get("type")) if value}
        inner, metadata = fields.get("innererror"), fields.get("metadata")
        if isinstance(inner, dict):
            codes.add(str(inner.get("code")))
        flagged = isinstance(metadata, dict) and "flagged_input" in metadata
        if 400 <= status < 500 and (flagged or codes & POLICY_CODES):
            code = next(iter(sorted(codes & POLICY_CODES)), "flagged")
            request_id = headers.get("x-request-id")
            return Reply("refused-by-api", "", finish=code, request_id=request_id, error=message)
        wait = _retry_after(headers)
        if status == 402 or (status == 429 and codes & QUOTA_CODES):
            raise AskError("quota", message)
        if status == 429 or (status in (503, 529) and wait is not None):
            raise AskError("throttled", message, wait)
        if status in PASSING_STATUS or status == 200:
            raise AskError("transient", message, wait)
        raise AskError("permanent", message, hopeless=status in HOPELESS_STATUS or "model_not_found" in codes)

    def _redacted(self, text: str) -> str:
        return redact(text, self._key)


class _Body(aiohttp.Payload):
    """The pieces of a body, written one after the other without being joined."""

    _autoclose = True

    def __init__(self, parts: tuple[bytes, ...]) -> None:
        super().__init__(parts, content_type="application/json")
        self._size = sum(map(len, parts))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        small: list[bytes] = []
        for part in self._value:
            if len(part) < SMALL:
                small.append(part)
            else:
                await writer.write(b"".join(small))
                await writer.write(part)
                small = []
        await writer.write(b"".join(small))


@lru_cache(maxsize=64)
def _head(model: str, params: AskParams, chat: bool, hosted: bool, extra: str) -> bytes:
    """The body up to the prompt. Hosted models have renamed `max_tokens`; other servers know the old name."""
    fields: dict[str, Any] = {"model": model, "temperature": params.temperature}
    fields["max_completion_tokens" if hosted and chat else "max_tokens"] = params.max_tokens
    if params.top_p is not None:
        fields["top_p"] = params.top_p
    if params.stop:
        fields["stop"] = list(params.stop)
    if params.seed is not None:
        fields["seed"] = params.seed
    fields |= json.loads(extra)
    head = json.dumps({name: value for name, value in fields.items() if value is not None})[:-1] + ","
    if chat:
        system = [] if params.system is None else [json.dumps({"role": "system", "content": params.system})]
        head += '"messages":[' + ",".join([*system, '{"role":"user","content":'])
    return head.encode()


def _reply(body: dict[str, Any], request_id: str | None) -> Reply:
    """A completion; a transient AskError if a part of it is missing."""
    try:
        choice = body["choices"][0]
        message = choice["message"] if "message" in choice else {"content": choice["text"]}
        text = _text(message.get("content")) or _text(message.get("refusal"))
        finish = str(choice.get("finish_reason") or "")
        usage = body.get("usage") or {}
        prompt_tokens, completion_tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise AskError("transient", "the answer holds no choices[0].message.content") from error
    served = body.get("model")
    return Reply(
        _state(finish, text),
        text,
        finish,
        prompt_tokens,
        completion_tokens,
        request_id or (body["id"] if isinstance(body.get("id"), str) else None),
        served if isinstance(served, str) else None,
    )


def _state(finish: str, text: str) -> State:
    if finish == "content_filter":
        return "filtered"
    if finish == "length":
        return "cut-off"
    return "answered" if text.strip() else "empty"


def _text(content: Any) -> str:
    """Text, or a list of parts of which the texts are joined. `refusal`, the model's own words, is text too."""
    if isinstance(content, list):
        return "".join(str(part["text"]) for part in content if part.get("type") == "text")
    if content is None or isinstance(content, str):
        return content or ""
    raise TypeError


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) else None


def _loaded(content: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait (RFC 9110, 10.2.3: a number or a date; `retry-after-ms` is finer)."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        return seconds if 0 <= seconds < float("inf") else None
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time())
    except (KeyError, ValueError):
        return None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, up to a size no answer has."""
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > LARGEST_RESPONSE:
            raise AskError("permanent", f"the answer is longer than {LARGEST_RESPONSE} bytes")
    return b"".join(pieces)


def _checked_url(base: str, path: str) -> URL:
    try:
        url = URL(base + path)
    except ValueError as error:
        raise InputError(f"base URL {redact(base)!r}: {error}; give one such as {OPENAI_URL}") from error
    if url.user or url.password:
        raise InputError("base URL: holds a user name or password; put the key into OPENAI_API_KEY instead")
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(f"base URL {redact(base)!r}: not an http or https address; give one such as {OPENAI_URL}")
    return url


def _checked_key(key: str, base: str) -> str:
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError("OPENAI_API_KEY: holds blanks or characters no key has; set it anew")
    if not key and base == OPENAI_URL:
        raise InputError("OPENAI_API_KEY: not set; export it, or name another server by base URL or OPENAI_BASE_URL")
    url = URL(base)
    if key and url.scheme == "http" and url.host not in LOOPBACK:
        raise InputError(
            f"base URL {redact(base)!r}: the key would go over the network in the clear; use https, an ssh tunnel to "
            f"localhost, or unset OPENAI_API_KEY"
        )
    return key


def _proxy(url: URL) -> str | None:
    """The proxy that the environment names for this URL; none for this machine."""
    if url.host is None or url.host in LOOPBACK or urllib.request.proxy_bypass(url.host):
        return None
    return urllib.request.getproxies().get(url.scheme)
