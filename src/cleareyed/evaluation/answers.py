"""What comes back: the state of a sample, never a sentinel, and what an answerer must be able to do."""

import re
from dataclasses import dataclass
from typing import Literal, Protocol

from cleareyed.evaluation.request import Prepared, Request

State = Literal["answered", "cut-off", "empty", "filtered", "refused-by-api", "failed"]
"""answered: a whole text. cut-off: it ran into the token limit. empty: the model ended without a text.
filtered: the provider withheld (part of) the answer. refused-by-api: a rule of the API turned the request away.
failed: no answer could be had; it says nothing about the model and is asked again by the next run."""

STATES: tuple[State, ...] = ("answered", "cut-off", "empty", "filtered", "refused-by-api", "failed")

ErrorKind = Literal["permanent", "quota", "throttled", "transient"]
"""permanent: asking again gives the same. quota: nothing more today or before payment. throttled: slow down.
transient: worth another attempt (5xx, resets, time-outs, half answers)."""

ERROR_KINDS: tuple[ErrorKind, ...] = ("permanent", "quota", "throttled", "transient")

LONGEST_ERROR = 300
"""Characters of an error message that are kept."""

SECRETS = re.compile(
    r"(?i:bearer|basic)\s+[\w.~+/=*-]{6,}|\b(?:sk|pk|rk|hf|gsk|xai|key)[-_][\w*.-]{6,}|\bAIza[\w*-]{6,}"
)
PIECE = 8
"""So many characters of a key in a row are never shown, wherever in the key they come from."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What one `Answerer.send` learned. `ask_all` makes an `Answer` of it."""

    state: State
    text: str
    finish: str = ""
    """The provider's own word for why it ended ("stop", "length", "end_turn", a policy code); "" if it gave none.
    Of a failed sample the kind of its last error."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    request_id: str | None = None
    """The provider's id of the request."""
    served: str | None = None
    """The model that the provider says has answered, which is often more exact than the name asked for."""
    error: str | None = None
    """Why there is no text: the API's reason for `refused-by-api`, the cause for `failed`. Redacted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of the journal."""

    sample_id: str
    key: str
    """`cache_key` of what was asked."""
    state: State
    text: str
    finish: str
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    """From sending to the last byte, of the last attempt."""
    request_id: str | None
    sent_hash: str
    """`Prepared.sent_hash`: SHA-256 of what was sent, pictures by their own hashes."""
    attempts: int
    """How often it was sent in this run, the last time included."""
    error: str | None
    """One line, redacted."""
    note: str | None
    """What was done to a picture before it was sent; None where it went out as it is."""
    at: str
    """When it arrived: UTC, ISO 8601."""
    served: str | None = None
    """The model that the provider says has answered."""
    prompt_hash: str = ""
    images_hash: str = ""
    """`asked_hashes`: whether the data changed since. "" in journals from before they were kept."""


class AskError(Exception):
    """A request that brought no answer. `kind` says what to do next; the message is one redacted line."""

    def __init__(
        self, kind: ErrorKind, message: str, retry_after: float | None = None, *, hopeless: bool = False
    ) -> None:
        """`retry_after`: seconds the provider asks to wait. `hopeless`: no other request can fare better
        (a wrong key, an unknown model): the model is given up at once."""
        super().__init__(message)
        self.kind = kind
        self.retry_after = retry_after
        self.hopeless = hopeless


class Answerer(Protocol):
    """A model that can be asked. Calls of `send` overlap; `prepare` is called first, once a request."""

    name: str
    """The model as the user named it: "openai:gpt-5-mini", "local:runs/demo/final"."""
    revision: str | None
    """What tells two models of this name apart (a commit, a hash of the weights); None where nothing does."""

    def prepare(self, request: Request) -> Prepared:
        """The request as it will be sent. AskError (permanent) if this provider cannot take it."""
        ...

    async def send(self, prepared: Prepared) -> Reply:
        """One attempt, without retries of its own; time limits are the caller's. AskError if no answer came."""
        ...

    async def close(self) -> None:
        """Free connections; nothing is in flight by then."""
        ...


def redact(text: str, *secrets: str) -> str:
    """`text` in one line of at most 300 characters, without `secrets`, pieces of them, or what looks like a key."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[redacted]")
        for start in range(len(secret) - PIECE + 1):
            text = text.replace(secret[start : start + PIECE], "[redacted]")
    line = SECRETS.sub("[redacted]", " ".join(text.split()))
    return line if len(line) <= LONGEST_ERROR else line[: LONGEST_ERROR - 1] + "…"


def clean_text(text: str) -> str:
    """`text` with lone surrogates, which JSON can carry and UTF-8 cannot, as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
