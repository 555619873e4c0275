"""Anthropic's models through Anthropic's own SDK (extra `anthropic`), by the Messages API."""

import base64
from typing import Any

from cleareyed.evaluation.answers import AskError, Reply, State, redact
from cleareyed.evaluation.providers import vendor
from cleareyed.evaluation.providers.images import ANTHROPIC, check_images
from cleareyed.evaluation.request import AskParams, Prepared, Request

KEY = "ANTHROPIC_API_KEY"
WITH_SAMPLING = "2023-06-01"
"""The last API version in which a request may say temperature and top_p."""
STATES: dict[str, State] = {
    "end_turn": "answered",
    "stop_sequence": "answered",
    "max_tokens": "cut-off",
    "model_context_window_exceeded": "cut-off",
    "refusal": "filtered",
}
"""By stop reason (docs: "Handling stop reasons"). `refusal` is a stop by classifiers, not the model's own words."""
PASSING = {408, 409, 425}
HOPELESS = {401, 403, 404}


class AnthropicAnswerer:
    """An `Answerer` for one of Anthropic's models. Use it within one event loop.

    Since its version 2026-10-21 the API takes no temperature and no top_p, and models answer at temperature 1. At
    temperature 1 nothing is sent; at any other, or with top_p, the request says the API version 2023-06-01, which
    older models take and newer ones answer with an error that says so. There is no seed. Pictures larger than the
    model's own input size are scaled down by the provider, unseen from here.
    """

    def __init__(self, model: str, base_url: str | None = None) -> None:
        """`base_url` or ANTHROPIC_BASE_URL, else the hosted API; the key is ANTHROPIC_API_KEY.

        InputError: the SDK is not installed, or a key or URL that cannot be used.
        """
        self.name = f"anthropic:{model}"
        self.revision: str | None = None
        self._model = model
        self._sdk = vendor.load_sdk("anthropic", "anthropic")
        self._key = vendor.read_key(KEY)
        self._client = self._sdk.AsyncAnthropic(
            api_key=self._key,
            base_url=vendor.checked_url(base_url, "ANTHROPIC_BASE_URL"),
            max_retries=0,
            timeout=None,  # time limits are the caller's
        )

    def prepare(self, request: Request) -> Prepared:
        """What the SDK is given. AskError (permanent): a picture or a seed that this provider does not take.

        InputError: a prompt for base models.
        """
        vendor.check_chat(request, self.name)
        if request.params.seed is not None:
            raise AskError("permanent", "this API takes no seed; leave it out", hopeless=True)
        images = check_images(request.images, ANTHROPIC)
        fields = _fields(self._model, request.params)
        text = {"type": "text", "text": request.prompt}
        content = [_block(image.data, image.media_type) for image in images]
        sent = {**fields, "messages": [{"role": "user", "content": [*content, text]}]}
        return Prepared(sent, vendor.body_hash({**fields, "text": request.prompt}, images), vendor.image_notes(images))

    async def send(self, prepared: Prepared) -> Reply:
        """One call of the SDK, which is told not to retry."""
        try:
            message = await self._client.messages.create(**prepared.sent)
        except self._sdk.APIStatusError as error:
            return self._refused(error)
        except self._sdk.APIConnectionError as error:
            raise AskError("transient", self._redacted(f"{error} {error.__cause__ or ''}")) from None
        except (self._sdk.AnthropicError, ValueError) as error:  # a 200 that is no message
            raise AskError("transient", self._redacted(f"{type(error).__name__}: {error}")) from None
        return _reply(message)

    async def close(self) -> None:
        await self._client.close()

    def _refused(self, error: Any) -> Reply:
        """Every answer that is none, by class (raised), or as withheld for its content (returned)."""
        status: int = error.status_code
        said = getattr(error, "api_message", None) or str(error)
        message = self._redacted(f"HTTP {status}: {said}")
        kind, code = str(getattr(error, "type", None)), str(getattr(error, "error_code", None))
        if status == 400 and "content filtering policy" in said:
            return Reply("filtered", "", finish="content_filter", request_id=error.request_id, error=message)
        unpaid = "credit balance is too low" in said or "spend_limit" in code or "billing" in code
        if status == 402 or kind == "billing_error" or unpaid:
            raise AskError("quota", message)
        wait = vendor.seconds(error.response.headers.get("retry-after"))
        if status in (429, 529):
            raise AskError("throttled", message, wait)
        if status >= 500 or status in PASSING:
            raise AskError("transient", message, wait)
        if status == 400 and ("temperature" in said or "top_p" in said):
            message = self._redacted(f"HTTP 400: {said} (ask this model with temperature 1 and without top_p)")
            raise AskError("permanent", message, hopeless=True)
        raise AskError("permanent", message, hopeless=status in HOPELESS)

    def _redacted(self, text: str) -> str:
        return redact(text, self._key)


def _fields(model: str, params: AskParams) -> dict[str, Any]:
    """All but the messages, as arguments of the SDK's `messages.create`."""
    fields: dict[str, Any] = {"model": model, "max_tokens": params.max_tokens}
    if params.system is not None:
        fields["system"] = params.system
    if params.stop:
        fields["stop_sequences"] = list(params.stop)
    sampling = {} if params.temperature == 1 else {"temperature": params.temperature}
    if params.top_p is not None:
        sampling["top_p"] = params.top_p
    if sampling:
        fields |= {"extra_body": sampling, "extra_headers": {"anthropic-version": WITH_SAMPLING}}
    return fields


def _block(data: bytes, media_type: str) -> dict[str, Any]:
    source = {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode()}
    return {"type": "image", "source": source}


def _reply(message: Any) -> Reply:
    try:
        text = "".join(block.text for block in message.content if block.type == "text")
        finish = str(message.stop_reason or "")
        usage = message.usage
        state = STATES.get(finish, "failed")
        return Reply(
            "empty" if state == "answered" and not text.strip() else state,
            text,
            finish,
            int(usage.input_tokens)
            + int(usage.cache_creation_input_tokens or 0)
            + int(usage.cache_read_input_tokens or 0),
            int(usage.output_tokens),
            message._request_id or message.id,
            message.model,
            f"stop reason {finish!r} is not known here" if state == "failed" else None,
        )
    except (
        AttributeError,
        TypeError,
        ValueError,
    ) as error:  # the SDK checks no types: a gateway's 200, half a message
        raise AskError("transient", "the answer is not a whole message") from error
