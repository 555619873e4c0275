"""The thinking in all that a run recorded."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cleareyed.errors import InputError
from cleareyed.records.parts import read_answers, read_probes, read_rollouts
from cleareyed.records.run import RunFolder
from cleareyed.thinking.collect import Thinking, add_answers, add_probes, add_rollouts
from cleareyed.thinking.items import CountTokens

MARKER = "thinking.json"
"""In a run's folder, once `cleareyed think` has looked at it: the rule that its answers are judged under there."""
TINY_BASE = Path(__file__).parent.parent / "assets" / "tiny-base"


def is_studied(run: RunFolder) -> bool:
    """Whether the run's report says how it thinks: if it was probed, or looked at by `cleareyed think`."""
    return run.thinking.is_dir() or (run.path / MARKER).is_file()


def thinking_of_run(
    run: RunFolder, rule: str | None = None, choices: Mapping[str, Sequence[str]] | None = None
) -> Thinking:
    """Answers, rollouts and probes of a run; without a `rule`, answers under that of its marker, else `strict`.

    InputError: nothing is recorded yet, or the recipe cannot be read.
    """
    found, count = Thinking(), tokens_of_run(run)
    add_probes(found, read_probes(run), count, choices)
    add_answers(found, read_answers(run), rule or _marked(run) or "strict", count, choices)
    add_rollouts(found, read_rollouts(run), count, choices)
    if not found.measures:
        raise InputError(
            f"{run.path}: no answers under rule {rule or 'strict'}, rollouts or probes to study; name another --rule, "
            "or let the run go on"
        )
    return found


def tokens_of_run(run: RunFolder) -> CountTokens | None:
    """Counts tokens as the run's model does, by the tokenizer beside its weights; None if there is none at hand."""
    path = str((settings_of(run).get("model") or {}).get("path") or "").removeprefix("local:")
    own = [TINY_BASE if path == "tiny-base" else Path(path).expanduser()] if path else []
    for folder in (run.final, run.best, *own):
        file = folder / "tokenizer.json"
        if file.is_file():
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(file))
            return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
    return None


def settings_of(run: RunFolder) -> dict[str, Any]:
    """The recipe of a run as plain data. InputError if it cannot be read."""
    try:
        settings = yaml.safe_load(run.recipe.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        settings = None
    if not isinstance(settings, dict):
        raise InputError(f"{run.recipe}: not as cleareyed wrote it; restore it")
    return settings


def _marked(run: RunFolder) -> str | None:
    try:
        held = json.loads((run.path / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    rule = held.get("rule") if isinstance(held, dict) else None
    return rule if isinstance(rule, str) else None
