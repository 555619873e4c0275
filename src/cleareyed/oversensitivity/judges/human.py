"""What people said, from files of labels: CSV (`id, state`, further columns kept out), JSON Lines or a JSON array of
the same, as `cleareyed judge label` writes them."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import clean_text
from cleareyed.oversensitivity.outcomes import Answered, Judgement, Outcome


class _Labelled(BaseModel):
    """A line of a file of labels."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: str
    state: Outcome
    reviewer: str = ""
    reason: str = ""

    @field_validator("*", mode="before")
    @classmethod
    def _as_utf8(cls, value: Any) -> Any:
        return clean_text(value) if isinstance(value, str) else value


class HumanJudge:
    """A `Judge` that looks labels up. What nobody labelled, or reviewers label differently, is undecided."""

    def __init__(self, path: Path) -> None:
        """InputError: the file cannot be read, or a line of it is no label."""
        self.name = f"human:{path.name}"
        self._labels: dict[str, list[_Labelled]] = {}
        for label in _read(path):
            self._labels.setdefault(label.id, []).append(label)

    def judge(self, answers: Sequence[Answered]) -> list[Judgement]:
        return [self._one(answer.id) for answer in answers]

    def unused(self, ids: Sequence[str]) -> list[str]:
        """Labels of answers that are not there, in the order of the file."""
        known = set(ids)
        return [name for name in self._labels if name not in known]

    def _one(self, name: str) -> Judgement:
        labels = self._labels.get(name, [])
        states = sorted({label.state for label in labels})
        if not labels:
            return Judgement(name, "undecided", None, "nobody labelled it")
        if len(states) > 1:
            return Judgement(name, "undecided", None, f"people disagree: {', '.join(states)}")
        by = ", ".join(dict.fromkeys(label.reviewer or "a person" for label in labels))
        reason = "; ".join(dict.fromkeys(label.reason for label in labels if label.reason))
        return Judgement(name, labels[0].state, None, f"{by}: {reason}" if reason else f"labelled by {by}")


def _read(path: Path) -> list[_Labelled]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                rows = [(number, row) for number, row in enumerate(csv.DictReader(file, strict=True), 2)]
            elif path.suffix.lower() == ".json":
                rows = list(enumerate(json.load(file), 1))
            else:
                rows = [(number, json.loads(line)) for number, line in enumerate(file, 1) if line.strip()]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, RecursionError, csv.Error) as error:
        raise InputError(f"{path}: neither CSV nor JSON ({error}); name a file of id and state") from error
    labels = []
    for number, row in rows:
        try:
            labels.append(_Labelled.model_validate({key: value for key, value in row.items() if value is not None}))
        except (ValidationError, AttributeError) as error:
            known = ", ".join(get_args(Outcome))
            place = "row" if path.suffix.lower() == ".json" else "line"
            raise InputError(f"{path}: {place} {number} is no label; give id and state (one of {known})") from error
    return labels
