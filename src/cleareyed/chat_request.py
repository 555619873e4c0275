"""Reading a chat-completions request: what it may say, and the sentence that says what is wrong with it."""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cleareyed.errors import InputError

MOST_IMAGES = 16
DEFAULT_TOKENS = 256
"""Longest answer, in tokens, where the request does not say."""
DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII)


class _Text(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class _Url(BaseModel):
    model_config = ConfigDict(extra="forbid")
    url: str
    detail: Any = None


class _Image(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["image_url"]
    image_url: _Url


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["user"]
    content: str | list[Annotated[_Text | _Image, Field(discriminator="type")]]


class _Body(BaseModel):
    """What a request may say. What would change the answer and is not known here is refused, not ignored."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    model: str
    messages: Annotated[list[_Message], Field(min_length=1, max_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    raw: bool = False
    """The text as it is, without chat roles: for base models."""
    return_token_ids: bool = False
    """Give the sampled ids, the ending token included, as `token_ids` of the choice (vLLM's name for it)."""
    n: Literal[1] | None = None
    stream: Literal[False] | None = None
    logprobs: Literal[False] | None = None
    top_p: Annotated[float, Field(ge=1, le=1)] | None = None
    user: Any = None
    metadata: Any = None
    store: Any = None


class UnknownModel(Exception):
    """The request asks for a model that is not served here."""


@dataclass(frozen=True)
class Ask:
    """One request, read and found right."""

    text: str
    images: tuple[bytes, ...]
    chat: bool
    max_tokens: int
    temperature: float
    seed: int | None
    stop: tuple[str, ...]
    token_ids: bool


def read_ask(body: bytes, name: str, context: int) -> Ask:
    """The request that a body holds.

    `name` is the model served, `context` its longest prompt and completion together, in tokens.

    Raises:
        InputError: not JSON, a field that is missing, wrong or not supported, or a picture that is no data URI.
        UnknownModel: it asks for another one.
    """
    try:
        asked = _Body.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        worst = max(found, key=lambda one: len(one["loc"]))  # the first is that of the shorter form, a plain text
        where = ".".join(str(part) for part in worst["loc"] if re.fullmatch(r"[\w-]+", str(part)))
        raise InputError(f"{where}: {worst['msg']}" if where else worst["msg"]) from None
    if asked.model != name:
        raise UnknownModel(f"model {asked.model[:100]!r} is not served here; ask for {name!r}")
    content = asked.messages[0].content
    parts = [_Text(type="text", text=content)] if isinstance(content, str) else content
    texts = [part.text for part in parts if isinstance(part, _Text)]
    images = [part for part in parts if isinstance(part, _Image)]
    if any(isinstance(part, _Image) for part in parts[len(images) :]):
        raise InputError("messages.0.content: put the images before the text; the model sees them first")
    if len(images) > MOST_IMAGES:
        raise InputError(f"messages.0.content: {len(images)} images; {MOST_IMAGES} at most")
    max_tokens = asked.max_completion_tokens or asked.max_tokens or min(DEFAULT_TOKENS, context)
    if max_tokens > context:
        raise InputError(f"max_tokens: {max_tokens} is more than the model's context of {context} tokens")
    stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    if not all(stop):
        raise InputError("stop: an empty text stops nothing; leave it out")
    return Ask(
        text="".join(texts),
        images=tuple(_picture(part.image_url.url, place) for place, part in enumerate(images)),
        chat=not asked.raw,
        max_tokens=max_tokens,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        seed=asked.seed,
        stop=tuple(stop),
        token_ids=asked.return_token_ids,
    )


def _picture(url: str, place: int) -> bytes:
    where = f"messages.0.content.{place}.image_url.url"
    head = DATA_URI.match(url)
    if head is None:
        raise InputError(f"{where}: give the picture itself, as data:image/png;base64,...; nothing is fetched")
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{where}: not base64") from error
