"""What is asked of a model: one request a sample, and the name under which its answer is kept."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Hashes = tuple[str, str]
"""Of what was asked, apart from the model and how it samples: the prompt's, and the pictures'."""


@dataclass(frozen=True)
class AskParams:
    """How every request of an evaluation is sampled."""

    max_tokens: int
    """The longest answer, in tokens."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    system: str | None = None
    """The system message; None sends none."""


@dataclass(frozen=True, slots=True)
class Request:
    """One sample as it is asked."""

    sample_id: str
    prompt: str
    """The final text, `opens` included."""
    opens: str
    """What the prompt opened and the answer belongs behind ("<think>"): what is judged is `opens` + answer."""
    images: tuple[bytes, ...]
    """The pictures as they are in the source, undecoded, in the order in which the text speaks of them."""
    chat: bool
    """True: one user turn of the model's chat template. False: the text as it is, for base models."""
    params: AskParams
    hashes: Hashes = ("", "")
    """`asked_hashes` of it; "" where nobody will ask whether the data changed."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request in the form in which one answerer sends it."""

    sent: Any
    """What `Answerer.send` needs: for HTTP the parts of the body (tuple of bytes), else what SDK or engine takes."""
    sent_hash: str
    """`request_hash` of the bytes sent; a picture may stand in it by a hash of its own bytes, so that none is hashed
    twice."""
    note: str | None = None
    """What was done to a picture so that the provider takes it; None where all bytes went out as they are."""


def request_hash(parts: Iterable[bytes]) -> str:
    """SHA-256 (hex) of the bytes sent, given in pieces: how they are cut does not matter."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def asked_hashes(prompt: str, chat: bool, system: str | None, images: Iterable[bytes]) -> Hashes:
    """32 hex digits each: of the prompt with its system message, and of the pictures before anything is done to them.

    They are the same whatever model is asked.
    """
    return short_hash(f"[{json.dumps(prompt)}, {json.dumps(chat)}, {json.dumps(system)}]".encode()), short_hash(
        *images
    )


def row_hashes(asked: Hashes, note: str | None) -> Hashes:
    """As rows hold them: what was done to a picture before it was sent makes it another one."""
    return asked[0], short_hash(asked[1].encode(), note.encode()) if note else asked[1]


def short_hash(*parts: bytes) -> str:
    """32 hex digits of the parts, each told apart from the next."""
    return request_hash(piece for part in parts for piece in (b"%d " % len(part), part))[:32]


def cache_key(model: str, revision: str | None, params: AskParams, sent_hash: str) -> str:
    """SHA-256 (hex) of all that decides an answer: model, revision, sampling parameters and the bytes sent.

    A stored answer is used again only under an equal key.
    """
    return hashlib.sha256(f'{_asked_of(model, revision, params)}, "{sent_hash}"]'.encode()).hexdigest()


@lru_cache(maxsize=16)
def _asked_of(model: str, revision: str | None, params: AskParams) -> str:
    """The JSON of all in a key that is the same for every request of an evaluation, open at its end."""
    fields = [model, revision, params.max_tokens, params.temperature, params.top_p, params.stop, params.seed]
    return json.dumps([*fields, params.system]).removesuffix("]")
