"""The model that is asked, from one flag: `PREFIX:NAME`."""

import hashlib
import re
from pathlib import Path
from typing import Any

from pydantic import Field

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import Answerer
from cleareyed.evaluation.ask import Limits
from cleareyed.recipe import ModelSpec
from cleareyed.tasks.names import unknown

KINDS = ("local", "transformers", "openai", "anthropic", "google", "replay")
IN_MEMORY = ("local", "transformers")
HOSTED = ("openai", "anthropic", "google")
PATIENCE = 30 * 86400.0
"""Seconds that a request may wait for a model in memory: there is no connection that could have died."""


class AskedModel(ModelSpec):
    """A model to ask; what does not belong to its kind is left as it is."""

    base_url: str | None = None
    """`openai`, `anthropic`, `google`: another server."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """`openai`: further fields of every request."""
    raw: bool = False
    """`openai`: the server takes texts as they are, without chat roles (`cleareyed serve`)."""
    weights: str | None = None
    """What told the model from others of its name when it was asked: a hash of its weights, a commit."""

    @property
    def kind(self) -> str:
        """Of `KINDS`; a path, a hub id and `tiny-base` are `local`. InputError for a prefix that is none."""
        prefix, colon, _ = self.path.partition(":")
        if not colon or not re.fullmatch(r"[a-z-]+", prefix):
            return "local"
        if prefix not in KINDS:
            raise unknown("kind of model", prefix, KINDS)
        return prefix

    @property
    def name(self) -> str:
        """Without the prefix."""
        return self.path.removeprefix(f"{self.kind}:")

    @property
    def speaks_chat(self) -> bool:
        """Whether it is asked as a conversation where nothing else is said. Local models are taken for base models."""
        return self.kind != "local" and not self.raw


def open_answerer(model: AskedModel, batch: int) -> Answerer:
    """Load the model or make ready to reach it. InputError: it can't be, or a setting that its kind does not have."""
    kind, name = model.kind, model.name
    if not name:
        raise InputError(f"--model {model.path}: name the model after the colon, such as {kind}:NAME")
    _check_settings(model)
    if kind == "local":
        from cleareyed.evaluation.local import LocalAnswerer, revision_of
        from cleareyed.models.load import load_vlm

        vlm = load_vlm(ModelSpec(**{**_spec(model), "path": name}))
        return LocalAnswerer(vlm, revision_of(name, vlm.model), batch)
    if kind == "transformers":
        from cleareyed.evaluation.providers.transformers import TransformersAnswerer

        return TransformersAnswerer(name, model.revision, model.dtype, batch)
    if kind == "openai":
        from cleareyed.evaluation.providers.openai import OpenAIAnswerer

        return OpenAIAnswerer(name, model.base_url, extra=model.extra, raw=model.raw)
    if kind == "anthropic":
        from cleareyed.evaluation.providers.anthropic import AnthropicAnswerer

        return AnthropicAnswerer(name, model.base_url)
    if kind == "google":
        from cleareyed.evaluation.providers.google import GoogleAnswerer

        return GoogleAnswerer(name, model.base_url)
    from cleareyed.evaluation.providers.replay import ReplayAnswerer

    recorded = ReplayAnswerer(Path(name))
    recorded.revision = _file_hash(Path(name))
    return recorded


def limits_of(model: AskedModel, batch: int, concurrency: int, timeout: float) -> Limits:
    """How hard to ask: models in memory get two batches, one that runs and one that waits."""
    if model.kind in HOSTED:
        return Limits(most=concurrency, start=min(20, concurrency), timeout=timeout)
    most = 2 * batch
    return Limits(most=most, start=most, timeout=PATIENCE)


def _spec(model: AskedModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in ModelSpec.model_fields}


def _check_settings(model: AskedModel) -> None:
    kinds_of = {
        "base_url": HOSTED,
        "extra": ("openai",),
        "raw": ("openai",),
        "revision": IN_MEMORY,
        "min_pixels": ("local",),
        "max_pixels": ("local",),
    }
    for field, kinds in kinds_of.items():
        if getattr(model, field) and model.kind not in kinds:
            option = field.replace("_", "-")
            raise InputError(f"--{option}: goes with {' or '.join(kinds)} models, not with {model.path}; leave it out")
    if model.base_url and any(mark in model.base_url for mark in "?#"):
        raise InputError("--base-url: holds ? or #; give the address alone, and keys by the environment")
    if model.dtype != "fp32" and model.kind not in IN_MEMORY:
        raise InputError(f"--dtype: goes with {' or '.join(IN_MEMORY)} models, not with {model.path}; leave it out")


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
