"""What the providers that are asked through their vendor's own SDK have in common."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from cleareyed.errors import InputError
from cleareyed.evaluation.providers.images import SentImage
from cleareyed.evaluation.request import Request, request_hash

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def load_sdk(module: str, extra: str) -> Any:
    """The vendor's SDK, imported when it is used; InputError naming the extra if it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"{extra}: needs the package {module.replace('.', '-')}; pip install 'cleareyed[{extra}]'"
        ) from error


def read_key(*names: str) -> str:
    """The key in the first of these environment variables that is set; InputError if none is or it can't be one."""
    for name in names:
        key = os.environ.get(name, "").strip()
        if not key:
            continue
        if not key.isascii() or not key.isprintable() or " " in key:
            raise InputError(f"{name}: holds blanks or characters no key has; set it anew")
        return key
    raise InputError(f"{' or '.join(names)}: not set; export the key there")


def checked_url(base_url: str | None, variable: str) -> str | None:
    """`base_url`, or what the environment variable says; None for the vendor's own.

    InputError: not an address, or one over which the key would travel in the clear.
    """
    base = base_url or os.environ.get(variable) or None
    if base is None:
        return None
    try:
        parts = urlsplit(base)
        host = parts.hostname
    except ValueError as error:
        raise InputError("base URL: not an address; give one such as https://host/path") from error
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.password:
        raise InputError("base URL: not an http or https address without user name; give one such as https://host")
    if parts.scheme == "http" and host not in LOOPBACK:
        raise InputError(f"base URL: the key would go to {host} over the network in the clear; use https")
    return base.rstrip("/")


def check_chat(request: Request, name: str) -> None:
    """InputError if the prompt is for a base model: the vendors' models only take turns of a conversation."""
    if not request.chat:
        raise InputError(f"{name}: answers in a conversation only; ask with a chat prompt such as instruct")


def body_hash(fields: Mapping[str, Any], images: Sequence[SentImage]) -> str:
    """`request_hash` of what the SDK is given: the fields as JSON, and each picture by the SHA-256 of its bytes."""
    shown = [[image.media_type, hashlib.sha256(image.data).hexdigest()] for image in images]
    return request_hash([json.dumps([fields, shown], sort_keys=True).encode()])


def image_notes(images: Sequence[SentImage]) -> str | None:
    return "; ".join(image.note for image in images if image.note) or None


def seconds(value: object) -> float | None:
    """A wait such as "3", "0.5" or "33s" in seconds; None if it says nothing."""
    try:
        wait = float(str(value).removesuffix("s"))
    except ValueError:
        return None
    return wait if 0 <= wait < float("inf") else None
