"""What an evaluation asks, of whom and how it is judged: its recipe, as it is kept in the run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError

from cleareyed.errors import InputError
from cleareyed.evaluation.evaluate import Asking, measured_task
from cleareyed.evaluation.models import AskedModel
from cleareyed.evaluation.request import AskParams
from cleareyed.evaluation.rows import judges_of
from cleareyed.recipe import EvalSpec, NonNegative, Strict, TaskSpec
from cleareyed.records.run import RunFolder
from cleareyed.tasks.pictures import Pictures, with_pictures
from cleareyed.tasks.prompts import prompt_style
from cleareyed.tasks.protocols import Sampling, protocol_of, usual_protocol
from cleareyed.tasks.task import Task

RULES = ("paper-eval", "strict", "any-form")
"""What answers are read under where no rule is named."""
MAX_TOKENS = 256
"""The longest answer where neither it nor a protocol is named."""
FREE = "batch"
"""The field of a measurement that may differ when a run goes on."""


class AskSpec(EvalSpec):
    """How `cleareyed eval` asked: what `EvalSpec` says, and what protocols and hosted models add."""

    protocol: str | None = None
    temperature: NonNegative = 0.0
    top_p: float | None = None
    seed: int | None = None
    system: str | None = None
    pictures: Pictures = "own"


class EvalRecipe(Strict):
    """What `cleareyed eval` ran, kept as the `recipe.yaml` of its run folder."""

    method: Literal["eval"] = "eval"
    model: AskedModel
    measure: tuple[AskSpec, ...]
    rules: tuple[str, ...]


def plan(
    task: TaskSpec,
    model: AskedModel,
    *,
    protocol: str | None = None,
    prompt: str | None = None,
    chat: bool | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    rules: Sequence[str] = (),
    **others: Any,
) -> EvalRecipe:
    """What is asked and how it is judged, where the user names some of it: the protocol fills in the rest.

    `others` are further fields of `AskSpec`. Without a protocol it is the task's own if there is but one way to ask
    it; else the prompt is `base`, or `instruct-eval` for a model that is asked as a conversation, and the rules are
    `RULES`.

    Raises:
        InputError: an unknown protocol, prompt or rule.
    """
    talks = model.speaks_chat if chat is None else chat
    named = protocol_of(task.name, protocol) if protocol else (None if prompt else usual_protocol(task.name))
    sampled = named.sampled(model.kind) if named else Sampling(MAX_TOKENS)
    usual = (named.chat_style if talks else named.style) if named else ("instruct-eval" if talks else "base")
    style = prompt_style(prompt or usual)
    if chat is not None and style.chat != chat:
        raise InputError(
            f"prompt {style.name} is {'' if style.chat else 'not '}a conversation; leave out --chat / --no-chat or it"
        )
    chosen = tuple(dict.fromkeys(rules or ([named.rule] if named else RULES)))
    judges_of(chosen)
    spec = AskSpec(
        task=task,
        prompt=style.name,
        protocol=named.name if named else None,
        max_tokens=max_tokens or sampled.max_tokens,
        temperature=temperature if temperature is not None else sampled.temperature,
        top_p=top_p if top_p is not None else sampled.top_p,
        seed=seed if seed is not None else sampled.seed,
        **others,
    )
    return EvalRecipe(model=model, measure=(spec,), rules=chosen)


def eval_recipe(run: RunFolder) -> EvalRecipe | None:
    """The settings of a run that `cleareyed eval` made; None for a training run."""
    try:
        settings = yaml.safe_load(run.recipe.read_text(encoding="utf-8"))
        return EvalRecipe.model_validate(settings) if settings.get("method") == "eval" else None
    except (yaml.YAMLError, ValidationError, AttributeError, UnicodeDecodeError):
        raise InputError(f"{run.recipe}: not as cleareyed wrote it; restore it, or evaluate again") from None


def asking_of(spec: AskSpec) -> Asking:
    """How a recorded measurement asks."""
    params = AskParams(
        max_tokens=spec.max_tokens or MAX_TOKENS,
        temperature=spec.temperature,
        top_p=spec.top_p,
        seed=spec.seed,
        system=spec.system,
    )
    protocol = protocol_of(spec.task.name, spec.protocol) if spec.protocol else None
    return Asking(prompt_style(spec.prompt or "base"), params, protocol)


def asked_task(spec: AskSpec, data_root: Path | None) -> Task:
    """The task of a recorded measurement, with what it showed in the place of the pictures."""
    return with_pictures(measured_task(spec.task, data_root), spec.pictures)


def label_of(model: AskedModel) -> str:
    """The model as rows name it; `local:` goes without saying."""
    return model.name if model.kind == "local" else model.path


def refuse_other(run: RunFolder, before: BaseModel, recipe: BaseModel) -> None:
    """InputError if the run began with other settings: its answers would be to other questions."""
    old, new = (_flat(one.model_dump(mode="json")) for one in (before, recipe))
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key) and not key.endswith(f".{FREE}"):
            raise InputError(
                f"{run.recipe}: {key} was {old.get(key)!r} and is now {new.get(key)!r}; "
                "go on with the settings the run began with, or name another folder with --out"
            )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {name: value}
    return {key: leaf for part, held in items for key, leaf in _flat(held, f"{name}.{part}".lstrip(".")).items()}
