"""Answers to MOSSBench as its authors exchange them: pid to text, and the result file of their code.

A result file (arXiv 2406.17806, `experiments/main.py`) is `{"responses": {pid: {pid, image_path, question, response,
rejected, reject_reasoning, metadata, evaluator_desc}}, "reject Rate": {Total, Type 1, Type 2, Type 3}}`. Its code
names the last three by their stimulus, its leaderboard's template by number; we write as the template does.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cleareyed.errors import InputError
from cleareyed.tasks.names import counted
from cleareyed.tasks.pairs import Pairs, read_pairs

BLOCKED = "Blocked for Safety Reasons"
"""What the authors' code writes where Google withheld the answer."""
MEANT = "an object of pid to text, or a result file of MOSSBench"
SHOWN = 5


@dataclass(frozen=True)
class Recorded:
    """One answer. `rejected` is the authors' judge's verdict, None without one."""

    text: str
    state: Literal["answered", "empty", "filtered"]
    rejected: bool | None = None
    reason: str = ""


@dataclass(frozen=True)
class Answers:
    by_pid: Mapping[str, Recorded]
    notes: Sequence[str]
    """What is wrong with the file and was survived, a sentence each."""


def read_published(path: Path) -> Answers:
    """The answers of a `.json` file: pid to text (null and blank are empty), or a result file.

    Of a pid that occurs twice the last counts, as in any JSON reader, and a note says so; an entry without a text is
    left out with a note. InputError: not JSON, or no such object.
    """
    loaded = read_pairs(path, MEANT)
    responses = dict(loaded).get("responses", loaded)
    if not isinstance(responses, Pairs):
        raise InputError(f"{path}: field `responses` is not an object; give {MEANT}")
    found: dict[str, Recorded] = {}
    bad = []
    for pid, value in responses:
        one = _recorded(value)
        if one is None:
            bad.append(pid)
        else:
            found[pid] = one
    twice = [pid for pid, times in Counter(pid for pid, _ in responses).items() if times > 1]
    notes = []
    if twice:
        notes.append(
            f"{counted(len(twice), 'id occurs', 'ids occur')} more than once ({named(twice)}); the last answer counts"
        )
    if bad:
        notes.append(f"{counted(len(bad), 'entry without', 'entries without')} text as answer left out ({named(bad)})")
    return Answers(found, notes)


def published_results(
    items: Sequence[tuple[str, str, str, Mapping[str, Any]]], verdicts: Mapping[str, tuple[str, bool | None, str]]
) -> dict[str, Any]:
    """The result file of those items, each its pid, question, image path and metadata as published.

    `verdicts` are by pid: the answer, whether it is declined (None: undecided or failed, which the rates leave out),
    and why. Items without one are left out, as the authors' code does. A rate without items is null.
    """
    kept = [item for item in items if item[0] in verdicts]
    responses = {}
    counted: dict[str, list[bool]] = {"Total": [], "Type 1": [], "Type 2": [], "Type 3": []}
    for pid, question, image, metadata in kept:
        text, declined, reason = verdicts[pid]
        responses[pid] = {
            "pid": pid,
            "image_path": image,
            "question": question,
            "response": text,
            "rejected": None if declined is None else int(declined),
            "reject_reasoning": reason,
            "metadata": dict(metadata),
            "evaluator_desc": "",
        }
        if declined is not None:
            for name in ("Total", str(metadata["over"]).capitalize()):
                counted[name].append(declined)
    rates = {name: sum(values) / len(values) if values else None for name, values in counted.items()}
    return {"responses": responses, "reject Rate": rates}


def named(ids: Sequence[str]) -> str:
    """The first few of them."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(one[:40] for one in ids[:SHOWN]) + more


def _recorded(value: Any) -> Recorded | None:
    fields = dict(value) if isinstance(value, Pairs) else {"response": value}
    text = fields.get("response", "")
    if (text is not None and not isinstance(text, str)) or "response" not in fields:
        return None
    rejected, reason = fields.get("rejected"), fields.get("reject_reasoning")
    text = text or ""
    state: Literal["answered", "empty", "filtered"] = "answered"
    if not text.strip():
        state = "empty"
    elif text.strip().rstrip(".") == BLOCKED:
        state = "filtered"
    return Recorded(
        text if state == "answered" else "",
        state,
        bool(rejected) if rejected in (0, 1) else None,
        reason if isinstance(reason, str) else "",
    )
