"""Google's Gemini models through Google's own SDK (extra `google`), by `generateContent`."""

from typing import Any

import aiohttp

from cleareyed.evaluation.answers import AskError, Reply, State, redact
from cleareyed.evaluation.providers import vendor
from cleareyed.evaluation.providers.images import GOOGLE, check_images
from cleareyed.evaluation.request import AskParams, Prepared, Request

KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
STATES: dict[str, State] = {
    "STOP": "answered",
    "MAX_TOKENS": "cut-off",
    "CONTINUATION": "cut-off",
    **dict.fromkeys(
        (
            "SAFETY",
            "RECITATION",
            "LANGUAGE",
            "BLOCKLIST",
            "PROHIBITED_CONTENT",
            "SPII",
            "IMAGE_SAFETY",
            "IMAGE_PROHIBITED_CONTENT",
            "IMAGE_RECITATION",
            "ESCALATION",
            "MODEL_ARMOR",
        ),
        "filtered",
    ),
}
"""By finish reason (ai.google.dev/api/generate-content, FinishReason). Any other, OTHER among them, has failed."""
PASSING = {408, 409, 425, 499}
HOPELESS = {401, 403, 404}
HOPELESS_REASONS = {"API_KEY_INVALID", "API_KEY_SERVICE_BLOCKED", "SERVICE_DISABLED"}


class GoogleAnswerer:
    """An `Answerer` for one Gemini model of the Developer API. Use it within one event loop.

    Safety settings are left as the provider has them.
    """

    def __init__(self, model: str, base_url: str | None = None) -> None:
        """`base_url` or GOOGLE_GEMINI_BASE_URL, else the hosted API; the key is GEMINI_API_KEY or GOOGLE_API_KEY.

        InputError: the SDK is not installed, or a key or URL that cannot be used.
        """
        self.name = f"google:{model}"
        self.revision: str | None = None
        self._model = model
        self._sdk = vendor.load_sdk("google.genai", "google")
        self._types = vendor.load_sdk("google.genai.types", "google")
        self._errors = vendor.load_sdk("google.genai.errors", "google")
        self._key = vendor.read_key(*KEYS)
        self._client = self._sdk.Client(
            vertexai=False,
            api_key=self._key,
            http_options=self._types.HttpOptions(
                base_url=vendor.checked_url(base_url, "GOOGLE_GEMINI_BASE_URL"),
                retry_options=self._types.HttpRetryOptions(attempts=1),
            ),
        )

    def prepare(self, request: Request) -> Prepared:
        """What the SDK is given. AskError (permanent): a picture that this provider does not take.

        InputError: a prompt for base models.
        """
        vendor.check_chat(request, self.name)
        images = check_images(request.images, GOOGLE)
        config = _config(request.params)
        part = self._types.Part
        parts = [part.from_bytes(data=image.data, mime_type=image.media_type) for image in images]
        sent = {
            "model": self._model,
            "contents": [self._types.Content(role="user", parts=[*parts, part.from_text(text=request.prompt)])],
            "config": self._types.GenerateContentConfig(**config),
        }
        fields = {"model": self._model, "config": config, "text": request.prompt}
        return Prepared(sent, vendor.body_hash(fields, images), vendor.image_notes(images))

    async def send(self, prepared: Prepared) -> Reply:
        """One call of the SDK, which is told not to retry."""
        try:
            response = await self._client.aio.models.generate_content(**prepared.sent)
        except self._errors.APIError as error:
            raise self._classed(error) from None
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a 200 that is no response
            raise AskError("transient", self._redacted(f"{type(error).__name__}: {error}")) from None
        return _reply(response)

    async def close(self) -> None:
        await self._client.aio.aclose()
        self._client.close()

    def _classed(self, error: Any) -> AskError:
        status = int(error.code or 0)
        message = self._redacted(f"HTTP {status} {error.status or ''}: {error.message or ''}")
        details = _details(error.details)
        reasons = {str(detail.get("reason")) for detail in details}
        quotas = {
            str(violation.get("quotaId"))
            for detail in details
            for violation in detail.get("violations") or []
            if isinstance(violation, dict)
        }
        wait = next((vendor.seconds(detail["retryDelay"]) for detail in details if "retryDelay" in detail), None)
        if status == 402 or (status == 429 and any("PerDay" in quota for quota in quotas)):
            return AskError("quota", message)
        if status in (429, 503):  # 503: the model is overloaded
            return AskError("throttled", message, wait)
        if status >= 500 or status in PASSING:
            return AskError("transient", message, wait)
        return AskError("permanent", message, hopeless=status in HOPELESS or bool(reasons & HOPELESS_REASONS))

    def _redacted(self, text: str) -> str:
        return redact(text, self._key)


def _config(params: AskParams) -> dict[str, Any]:
    config: dict[str, Any] = {"max_output_tokens": params.max_tokens, "temperature": params.temperature}
    if params.top_p is not None:
        config["top_p"] = params.top_p
    if params.stop:
        config["stop_sequences"] = list(params.stop)
    if params.seed is not None:
        config["seed"] = params.seed
    if params.system is not None:
        config["system_instruction"] = params.system
    return config


def _details(body: Any) -> list[dict[str, Any]]:
    """The list `error.details` of Google's error format (cloud.google.com/apis/design/errors)."""
    error = body.get("error") if isinstance(body, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    return [detail for detail in details or [] if isinstance(detail, dict)]


def _reply(response: Any) -> Reply:
    """A candidate, or a prompt that was turned away; a transient AskError if it is neither."""
    usage = response.usage_metadata
    prompt_tokens = usage.prompt_token_count if usage else None
    written = [usage.candidates_token_count, usage.thoughts_token_count] if usage else []
    known = [count for count in written if count is not None]
    completion_tokens = sum(known) if known else None
    about = (prompt_tokens, completion_tokens, response.response_id, response.model_version)
    blocked = response.prompt_feedback.block_reason if response.prompt_feedback else None
    if blocked is not None:
        reason = _word(blocked)
        return Reply("refused-by-api", "", reason, *about, error=f"the prompt was blocked: {reason}")
    if not response.candidates or response.candidates[0].finish_reason is None:
        raise AskError("transient", "the answer holds no finished candidate")
    candidate = response.candidates[0]
    finish = _word(candidate.finish_reason)
    state = STATES.get(finish, "failed")
    parts = (candidate.content.parts if candidate.content else None) or []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    if state == "answered" and not text.strip():
        state = "empty"
    error = f"finish reason {finish}: {candidate.finish_message or 'no text'}" if state == "failed" else None
    return Reply(state, text, finish, *about, error=error)


def _word(reason: Any) -> str:
    return str(getattr(reason, "value", reason))
