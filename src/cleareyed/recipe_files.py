"""Recipe files: YAML and `key=value` overrides, read into the strict schema of `cleareyed.recipe`."""

import difflib
import json
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cleareyed.errors import InputError
from cleareyed.recipe import GrpoRecipe, PretrainRecipe, Recipe, SftRecipe

METHODS: dict[str, type[GrpoRecipe] | type[SftRecipe] | type[PretrainRecipe]] = {
    "grpo": GrpoRecipe,
    "sft": SftRecipe,
    "pretrain": PretrainRecipe,
}


PLACES = {"recipe": "recipes", "study": "studies"}


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, apply overrides such as `optimizer.lr=1e-4` or `rewards.0.weight=0.5`, and validate it.

    Values are read as YAML 1.2 reads them: `1e-4` is a number, `no` is text. Nothing is converted: text where a
    number is asked for is an error.

    Raises:
        InputError: one line with the file, the dotted field, what is wrong and the remedy.
    """
    data = read_yaml(path)
    recipe = validated(data, _method(data, path, overrides), path, overrides)
    if not isinstance(recipe, PretrainRecipe) and recipe.eval_every and recipe.validate_on is None:
        raise InputError(
            f"{path}: eval_every is set without validate_on; add the task to measure, or set eval_every to 0"
        )
    return recipe


S = TypeVar("S", bound=BaseModel)


def validated(data: dict[str, Any], schema: type[S], path: Path, overrides: Sequence[str]) -> S:
    """The content of a file, changed by overrides, as its strict schema; InputError as `load_recipe` raises it."""
    from_overrides = {}
    for override in overrides:
        key, value = _split(override)
        _put(data, key, value, schema, override)
        from_overrides[key] = override
    try:
        return schema.model_validate_json(_as_json(data, path), strict=True)
    except ValidationError as error:
        raise InputError(_explain(error, schema, path, from_overrides)) from None


def shipped_recipe(name: str) -> Path:
    """The path of a recipe that comes with cleareyed: the checkout's `recipes/`, else the package's own copy."""
    package = Path(__file__).parent
    for folder in (package.parents[1] / "recipes", package / "recipes"):
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"the recipe {name} does not come with this installation; install cleareyed again")


def nearest(word: str, known: Sequence[str]) -> str:
    """A remedy for an unknown word: the known one it most resembles, or all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema, without aliases, merge keys or duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own name)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = parent.start_mark if parent else None
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not read; write it out", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key_node.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is not text", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key `{key}` stands twice; keep one", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^{_pattern}$"), _first)


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: makes plain data only
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise InputError(f"{where}:{line} {problem}".replace("::", ":")) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: not readable as YAML: {' '.join(str(error).split())}") from None


def read_yaml(path: Path, what: str = "recipe", example: str = "method: grpo") -> dict[str, Any]:
    """A YAML file that holds a mapping. `what` it is, and how it could begin, are words for errors (InputError)."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such {what}; the shipped ones are in {PLACES[what]}/") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; a {what} is a YAML file") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; a {what} is a YAML file") from None
    data = _yaml(text, str(path))
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds no `key: value` lines; a {what} starts with e.g. `{example}`")
    return data


def _split(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip() or "" in key.split("."):
        raise InputError(f"command line: `{override}` is no override; write key=value, e.g. optimizer.lr=1e-4")
    return key.strip(), _yaml(text, f"command line: {override}")


def _method(
    data: dict[str, Any], path: Path, overrides: Sequence[str]
) -> type[GrpoRecipe] | type[SftRecipe] | type[PretrainRecipe]:
    method = data.get("method")
    for override in overrides:
        if override.partition("=")[0].strip() == "method":
            raise InputError(f"command line: {override}: the method is fixed; start from a recipe of that method")
    if method is None:
        raise InputError(f"{path}: method is missing; add one of {', '.join(f'`method: {name}`' for name in METHODS)}")
    if not isinstance(method, str) or method not in METHODS:
        raise InputError(f"{path}: method: there is no {reprlib.repr(method)}; {nearest(str(method), list(METHODS))}")
    return METHODS[method]


def _put(data: dict[str, Any], key: str, value: Any, recipe_type: type[BaseModel], override: str) -> None:
    """Set a dotted key; a part that the file leaves out starts from its default."""
    here: Any = data
    *parents, last = key.split(".")
    for depth, name in enumerate([*parents, last]):
        dotted = ".".join(key.split(".")[:depth])
        if isinstance(here, list):
            if not name.isdecimal() or int(name) >= len(here):
                count = len(here)
                raise InputError(
                    f"command line: {override}: {dotted} has {count} entries, counted from 0; no `{name}`"
                )
        elif isinstance(here, dict):
            known = _fields(recipe_type, key.split(".")[:depth])
            if known and name not in known:
                raise InputError(f"command line: {override}: there is no {name}; {nearest(name, known)}")
        else:
            raise InputError(f"command line: {override}: {dotted} holds no further keys")
        if depth == len(parents):
            here[int(name) if isinstance(here, list) else name] = value
        elif isinstance(here, list):
            here = here[int(name)]
        else:
            if here.get(name) is None:
                here[name] = _default(recipe_type, key.split(".")[: depth + 1])
            here = here[name]


def _default(recipe_type: type[BaseModel], location: Sequence[str]) -> Any:
    """What a field holds when left out, as plain data that can be added to."""
    owner = _model_at(recipe_type, location[:-1])
    default = owner.model_fields[location[-1]].default if owner else None
    if isinstance(default, BaseModel):
        return default.model_dump(mode="json", exclude_unset=True)
    if isinstance(default, tuple):
        return [entry.model_dump(mode="json") for entry in default]
    return {}


def _model_at(recipe_type: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel] | None:
    """The schema of the mapping at a place in a recipe; None where keys are free."""
    model = recipe_type
    for name in location:
        if isinstance(name, int) or name.isdecimal():
            continue
        field = model.model_fields.get(name)
        inner = _models_in(field.annotation) if field else []
        if not inner:
            return None
        model = inner[0]
    return model


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _fields(recipe_type: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    model = _model_at(recipe_type, location)
    return list(model.model_fields) if model else []


def _as_json(data: dict[str, Any], path: Path) -> str:
    try:
        return json.dumps(data, allow_nan=False)
    except (TypeError, ValueError):
        raise InputError(
            f"{path}: holds an infinite number or a value that is no plain text, number or list"
        ) from None


def _explain(error: ValidationError, recipe_type: type[BaseModel], path: Path, from_overrides: dict[str, str]) -> str:
    """The first thing wrong, unknown keys first: a mistyped key also makes its field missing."""
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
    first = details[0]
    dotted = ".".join(str(part) for part in first["loc"] if part != "[key]")
    where = next(
        (
            f"command line: {text}"
            for key, text in from_overrides.items()
            if dotted == key or dotted.startswith(f"{key}.")
        ),
        str(path),
    )
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{where}: {_problem(first, dotted, recipe_type)}{more}"


def _problem(detail: ErrorDetails, dotted: str, recipe_type: type[BaseModel]) -> str:
    kind = detail["type"]
    if kind == "value_error" and not detail["loc"]:
        return detail["msg"].removeprefix("Value error, ")
    *parents, last = detail["loc"]
    if kind == "extra_forbidden":
        return f"unknown key {dotted}; {nearest(str(last), _fields(recipe_type, parents))}"
    if kind == "missing":
        return f"{dotted} is missing; add `{last}: ...`" + (f" under {'.'.join(map(str, parents))}" if parents else "")
    if kind == "value_error":
        return f"{dotted}: {detail['msg'].removeprefix('Value error, ')}"
    value = reprlib.repr(detail["input"])
    if dotted == "sampling.group" and kind == "greater_than_equal":
        return (
            f"sampling.group is {value}; GRPO compares the completions of one prompt with each other, "
            "so a group needs at least 2 (the paper takes 8)"
        )
    return f"{dotted} is {value}; it {detail['msg'].removeprefix('Input ')}"
