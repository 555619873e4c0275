"""Names: which one the user probably meant, and numbers that stand for them."""

import hashlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from cleareyed.errors import InputError


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not known, with the nearest known one and the whole list.

    `what` says what kind of thing the name stands for, e.g. "prompt style".
    """
    names = list(known)
    nearest = get_close_matches(name, names, n=1, cutoff=0.0)
    meant = f"did you mean `{nearest[0]}`? " if nearest else ""
    return InputError(f"unknown {what} `{name}`: {meant}(known: {', '.join(names)})")


def complaint(detail: Mapping[str, Any]) -> str:
    """What pydantic finds wrong with a field, to stand within a sentence; names and values keep their case."""
    if detail["type"] == "string_pattern_mismatch" and detail["ctx"]["pattern"] == r"\S":
        return "is blank"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def number_of(name: str) -> int:
    """63 bits that stand for a name: two of 100,000 names share them once in a thousand million times."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def counted(count: int, one: str, several: str | None = None) -> str:
    """A count with its noun: `1 item`, `2 items`; `several` where an s does not do."""
    return f"{count} {one if count == 1 else several or f'{one}s'}"
