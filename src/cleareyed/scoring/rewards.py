"""Reward functions, with the signature that TRL gives them.

    def reward(prompts, completions, **columns) -> list[float | None]

All arguments are given by keyword and hold one item per completion: `prompts` and `completions` as plain strings
(also for chat models; a completion includes what its prompt opened, such as `<think>`), `completion_ids` as lists of
token ids, then `question`, `answer`, `choices` (list of strings), `id` and `skill` of the sample, and every further
column of the data. None means that the function does not apply to that completion. A function may be async.
"""

import asyncio
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, SupportsFloat, cast

from cleareyed.errors import InputError
from cleareyed.recipe import RewardSpec
from cleareyed.scoring.rules import Rule, Verdict, accuracy_rule, well_formed
from cleareyed.tasks.names import unknown
from cleareyed.tasks.task import Sample

Rewards = list[float | None]

LENGTH_PER_TOKEN = 0.001


@dataclass(frozen=True)
class RewardFunction:
    name: str
    weight: float
    call: Callable[..., Rewards]


@dataclass(frozen=True)
class Scored:
    """The scores of N completions."""

    rewards: list[dict[str, float | None]]
    """By function, unweighted; None where the function did not apply."""
    totals: list[float]
    """The weighted sums; None counts as 0."""
    verdicts: list[Verdict]


def accuracy(
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    answer: Sequence[str],
    choices: Sequence[Sequence[str] | None] | None = None,
    question: Sequence[str] | None = None,
    rule: str = "strict",
    **columns: Any,
) -> Rewards:
    """1 if the accuracy rule of that name finds the completion correct, else 0."""
    judge = accuracy_rule(rule)
    offered, asked = choices or [None] * len(completions), question or [""] * len(completions)
    return [
        float(judge(text, Sample(id="", question=one, answer=gold, choices=tuple(these or ()))).correct)
        for text, gold, these, one in zip(completions, answer, offered, asked, strict=True)
    ]


def format(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> Rewards:
    """1 if the completion is a thought and an answer in their tags and nothing else, else 0."""
    return [float(well_formed(text)) for text in completions]


def length(
    prompts: Sequence[str], completions: Sequence[str], *, completion_ids: Sequence[Sequence[int]], **columns: Any
) -> Rewards:
    """0.001 per token of the completion, the ending token included (the length reward of arXiv 2503.05132)."""
    return [LENGTH_PER_TOKEN * len(ids) for ids in completion_ids]


BUILT_IN: dict[str, Callable[..., Rewards]] = {"accuracy": accuracy, "format": format, "length": length}


def load_rewards(specs: Sequence[RewardSpec], rule: str, allow_code: bool, base: Path) -> tuple[RewardFunction, ...]:
    """The reward functions of a recipe.

    `rule` is the accuracy rule where a spec names none; `base` is the folder that `FILE.py` is relative to.
    InputError: no function at all, an unknown name or rule, a function listed twice, code without `allow_code`, a
    file that is missing, fails when run or lacks the function, a weight that is not finite.
    """
    if not specs:
        raise InputError("field `rewards` is empty; name at least one function")
    functions: list[RewardFunction] = []
    for spec in specs:
        function = _load(spec, rule, allow_code, base)
        if function.name in {other.name for other in functions}:
            raise InputError(f"reward function `{function.name}` is listed twice; rename or remove one")
        functions.append(function)
    return tuple(functions)


def score(
    functions: Sequence[RewardFunction],
    rule: Rule,
    samples: Sequence[Sample],
    prompts: Sequence[str],
    texts: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
) -> Scored:
    """Judge N completions; all arguments but the first two have N items.

    `texts` are the completions with what their prompts opened put back. InputError naming the function: it raised,
    or gave another number of results than N, or something that is neither a finite number nor None.
    """
    columns = _columns(samples)
    columns |= {"prompts": list(prompts), "completions": list(texts)}
    columns["completion_ids"] = [list(ids) for ids in completion_ids]
    rewards: list[dict[str, float | None]] = [{} for _ in texts]
    totals = [0.0] * len(texts)
    for function in functions:
        for index, value in enumerate(_call(function, columns, len(texts))):
            rewards[index][function.name] = value
            totals[index] += function.weight * (value or 0.0)
    verdicts = [rule(text, sample) for text, sample in zip(texts, samples, strict=True)]
    return Scored(rewards=rewards, totals=totals, verdicts=verdicts)


def _columns(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for sample in samples for name in sample.columns)
    columns: dict[str, list[Any]] = {name: [sample.columns.get(name) for sample in samples] for name in names}
    return columns | {
        "question": [sample.question for sample in samples],
        "answer": [sample.answer for sample in samples],
        "choices": [list(sample.choices) for sample in samples],
        "id": [sample.id for sample in samples],
        "skill": [sample.skill for sample in samples],
    }


def _call(function: RewardFunction, columns: dict[str, list[Any]], count: int) -> Rewards:
    where = f"reward function `{function.name}`"
    try:
        # A shallow copy of each list, so that a function that edits its arguments does not reach the next one.
        result: Any = function.call(**{name: list(values) for name, values in columns.items()})
        if inspect.iscoroutine(result):
            result = asyncio.run(cast(Coroutine[Any, Any, Any], result))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{where} raised {_summary(error)}; mend it") from error
    try:
        values = list(result)
    except TypeError as error:
        raise InputError(f"{where} returned {type(result).__name__}; return a list of numbers") from error
    if len(values) != count:
        raise InputError(f"{where} returned {len(values)} values for {count} completions; return one for each")
    return [_number(where, index, value) for index, value in enumerate(values)]


def _number(where: str, index: int, value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, SupportsFloat):
        raise InputError(f"{where} returned a {type(value).__name__} at place {index}; return numbers or None")
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{where}: value at place {index} is no single number; return numbers or None") from error
    if not math.isfinite(number):
        raise InputError(f"{where} returned {number} at place {index}; return finite numbers or None")
    return number


def _load(spec: RewardSpec, rule: str, allow_code: bool, base: Path) -> RewardFunction:
    if not math.isfinite(spec.weight):
        raise InputError(f"reward function `{spec.function}`: field `weight` is {spec.weight}; give a finite number")
    if spec.function == "accuracy":
        name = spec.rule or rule
        accuracy_rule(name)
        return RewardFunction("accuracy", spec.weight, partial(accuracy, rule=name))
    if spec.rule is not None:
        raise InputError(f"reward function `{spec.function}`: field `rule` belongs to `accuracy` only; leave it out")
    if spec.function in BUILT_IN:
        return RewardFunction(spec.function, spec.weight, BUILT_IN[spec.function])
    file, colon, name = spec.function.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise unknown("reward function", spec.function, [*BUILT_IN, "FILE.py:FUNCTION"])
    if not allow_code:
        raise InputError(f"reward function `{spec.function}` is code that would be run; allow that with --allow-code")
    return RewardFunction(name, spec.weight, _from_file(base / file, name))


def _from_file(path: Path, name: str) -> Callable[..., Rewards]:
    if not path.is_file():
        raise InputError(f"reward function `{name}`: no file {path}; correct the path")
    module_name = f"cleareyed_reward_{path.stem}_{abs(hash(path.resolve())):x}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"reward function `{name}`: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickles look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise InputError(f"reward file {path} fails when run: {_summary(error)}; mend it") from error
    functions = {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
    if name not in functions:
        raise unknown(f"function in {path}", name, functions)
    return cast(Callable[..., Rewards], functions[name])


def _summary(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{place}"
