"""Labelled answers, and how the labels of each source become states.

Written down after the first trials of fitting, not before.

| source | its label | state |
|---|---|---|
| XSTest | 1_full_compliance, 2_full_refusal, 3_partial_refusal | complied, refusal, partial |
| chatgpt-refusals | complied, disclaimed; rejected | complied; refusal (checking only) |
| chatgpt-refusals | redirected, contradicted, dontknow, counseling, incoherent | not used: several states each |
| PyRIT refusal sets | its own (an answer to another question is a refusal) | checking only, refusal or not |
| MOSSBench readings | our six states | checking only |

For tables of three classes, capability counts as refusal, clarification and off topic as compliance.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleareyed.errors import InputError
from cleareyed.oversensitivity.outcomes import Answered, Outcome

XSTEST: Mapping[str, Outcome] = {
    "1_full_compliance": "complied",
    "2_full_refusal": "refusal",
    "3_partial_refusal": "partial",
}
CHATGPT: Mapping[str, Outcome] = {"complied": "complied", "disclaimed": "complied", "rejected": "refusal"}
XSTEST_MODELS = ("gpt4", "llama2orig", "mistralinstruct")
XSTEST_GROUPS = {
    "homonyms": "homonyms",
    "figurative_language": "figurative",
    "safe_targets": "targets",
    "safe_contexts": "contexts",
    "definitions": "definitions",
    "discr": "discrimination",
    "nons_group_real_discr": "discrimination",
    "real_group_nons_discr": "discrimination",
    "historical_events": "history",
    "privacy_public": "privacy",
    "privacy_fictional": "privacy",
    "privacy": "privacy",
}
"""A prompt type and its contrast type."""
THREE: Mapping[Outcome, Outcome] = {"capability": "refusal", "clarification": "complied", "off_topic": "complied"}


@dataclass(frozen=True)
class Labelled:
    answered: Answered
    state: Outcome
    model: str
    group: str
    """What is left out together with `model`: the prompt type and its contrast; "" outside XSTest."""


def three(state: Outcome) -> Outcome:
    return THREE.get(state, state)


def xstest(root: Path) -> list[Labelled]:
    """The answers of three models to 450 prompts. InputError: a file that is missing or has other columns."""
    found = []
    for model in XSTEST_MODELS:
        path = root / "xstest" / f"{model}.csv"
        for row in _csv(path, ("id", "type", "prompt", "completion", "final_label")):
            group = XSTEST_GROUPS.get(row["type"].removeprefix("contrast_"))
            if group is None or row["final_label"] not in XSTEST:
                raise InputError(f"{path}, id {row['id']}: unknown type or label; take the file as published")
            answered = Answered(f"{model}/{row['id']}", row["prompt"], row["completion"])
            found.append(Labelled(answered, XSTEST[row["final_label"]], model, group))
    return found


def chatgpt_refusals(root: Path) -> list[Labelled]:
    """Those with a label that has a state; for checking only."""
    path = root / "chatgpt-refusals" / "all_hand_labeled.json"
    return [
        Labelled(Answered(str(index), row["prompt"], row["response"]), CHATGPT[row["tone"]], "chatgpt", "")
        for index, row in enumerate(_json(path))
        if row["tone"] in CHATGPT
    ]


def mossbench_readings(root: Path) -> list[Labelled]:
    """Answers on which two readings agree. For checking only: they fit, tune and choose nothing."""
    folder = root / "mossbench"
    questions = _json(folder / "information.json")
    answers: dict[str, dict[str, str]] = {}
    found = []
    for row in _json(folder / "readings.json"):
        model, pid = row["model"], str(row["pid"])
        if row["state_1"] != row["state_2"]:
            continue
        if model not in answers:
            answers[model] = _json(folder / "responses" / f"{model}.json")
        answered = Answered(f"{model}/{pid}", questions[pid]["question"], answers[model][pid] or "")
        found.append(Labelled(answered, row["state_1"], model, ""))
    return found


def pyrit(path: Path) -> list[tuple[Answered, bool]]:
    """A CSV of PyRIT's `refusal_scorer`: the answer, and whether people call it a refusal under its definition."""
    rows = _csv(path, ("assistant_response", "human_score"))
    found = []
    for index, row in enumerate(rows):
        refusal = row["human_score"].strip().lower() in ("1", "1.0", "true")
        found.append((Answered(str(index), row.get("objective"), row["assistant_response"]), refusal))
    return found


def _csv(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
        while text.startswith("#"):  # PyRIT's files begin with comments
            text = text.partition("\n")[2]
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); name the folder with --data-root") from error
    missing = [name for name in columns if not rows or name not in rows[0]]
    if missing:
        raise InputError(f"{path}: column `{missing[0]}` is missing; take the file as published")
    return rows


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); name the folder with --data-root") from error
