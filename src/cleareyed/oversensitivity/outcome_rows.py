"""Outcomes kept beside the answers they were given to: `RUN/outcomes/JUDGE.jsonl`, one JSON object a line.

Each row holds what `cleareyed judge label` writes (`id, state, refusal_probability, reason`), which answer it is about
and what the task says of the question, so that tables need no data and a run can be judged again without asking.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cleareyed.errors import InputError
from cleareyed.oversensitivity.labels import came_back, json_lines, lines_of
from cleareyed.oversensitivity.outcomes import DECLINED, Answered, Judge, Judgement, Outcome
from cleareyed.records.rows import AnswerRow
from cleareyed.records.run import RunFolder
from cleareyed.tasks.task import Sample

FOLDER = "outcomes"
ANEW = ("local", "lexical")
"""Judges that cost nothing, and may have changed: they judge all anew. Others keep what they said of the same text."""
AT_ONCE = 20
"""Answers that a judge which costs something is given before what it said is on disk."""
TAGS = ("human", "child", "synthetic", "text_in_image", "harm")
MADE_OF = ("id", "task", "label", "step", "response", "asked")
"""What a row must share with an answer for its judgement to be of that answer."""


@dataclass(frozen=True)
class OutcomeRow:
    """One answer, or one question that has none, and what it counts as."""

    id: str
    state: Outcome
    refusal_probability: float | None
    reason: str
    judge: str
    task: str
    label: str
    step: int
    part: str
    """`benign` or `contrast`; empty where the task does not say."""
    stimulus: str
    """`ER`, `NH`, `CI`, or another part of the task."""
    group: str
    tags: dict[str, bool | None]
    harms: tuple[str, ...]
    asked: str
    """What came back (`evaluation.answers.State`), or `not asked`."""
    question: str
    response: str

    @property
    def declined(self) -> bool:
        return self.state in DECLINED


_ROWS: TypeAdapter[OutcomeRow] = TypeAdapter(OutcomeRow)

See = Callable[[str], tuple[bytes, ...]]
"""The pictures of a sample, for judges that look at them."""


def outcome_rows(answers: Sequence[AnswerRow], samples: Mapping[str, Sample], judge: str) -> list[OutcomeRow]:
    """Rows of one task, label and step, not judged yet (`undecided`); samples without an answer have failed.

    `samples` are the task's, by id. Answers to others are left out; whoever collected the answers has counted them.
    """
    held = {row.sample_id: row for row in answers}
    first = answers[0]
    rows = []
    for name, sample in samples.items():
        answer = held.get(name)
        found = came_back(name, answer.state) if answer else None
        if answer is None:
            found = Judgement(name, "failed", None, f"not asked: {sample.missing or 'the model was given up before'}")
        rows.append(
            OutcomeRow(
                id=name,
                state=found.state if found else "undecided",
                refusal_probability=None,
                reason=found.reason if found else "",
                judge=judge,
                task=first.task,
                label=first.label,
                step=first.step,
                part=str(sample.columns.get("set") or ""),
                stimulus=sample.skill,
                group=sample.group,
                tags={tag: sample.columns.get(tag) for tag in TAGS[:-1] if sample.columns.get(tag) is not None},
                harms=tuple(sample.columns.get("harm") or ()),
                asked=answer.state if answer else "not asked",
                question=answer.question if answer else sample.question,
                response=answer.completion if answer else "",
            )
        )
    return rows


def judge_rows(
    rows: Sequence[OutcomeRow],
    judge: Judge,
    *,
    before: Sequence[OutcomeRow] = (),
    see: See | None = None,
    keep: Callable[[Sequence[OutcomeRow]], None] | None = None,
) -> list[OutcomeRow]:
    """The rows with what `judge` says of those that hold a text, in order.

    A judge that is not in `ANEW` is not asked again of what it decided `before`; what it says is handed to `keep` bit
    by bit, so that an interruption loses little.
    """
    free = judge.name.partition(":")[0] in ANEW
    decided = {_key(row): row for row in before if row.judge == judge.name and row.state != "undecided"}
    done = [row if free else _as_before(row, decided.get(_key(row))) for row in rows]
    done = [replace(row, judge=judge.name) for row in done]
    open_places = [place for place, row in enumerate(done) if row.state == "undecided"]
    size = len(open_places) if free else AT_ONCE
    for start in range(0, len(open_places), max(size, 1)):
        places = open_places[start : start + size]
        asked = [_answered(done[place], see) for place in places]
        for place, said in zip(places, judge.judge(asked), strict=True):
            done[place] = _with(done[place], said)
        if keep is not None and not free:
            keep(done)
    return done


def outcomes_file(run: RunFolder, judge: str) -> Path:
    """Where a judge's outcomes of a run are."""
    return run.path / FOLDER / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', judge)}.jsonl"


def write_outcomes(path: Path, rows: Sequence[OutcomeRow]) -> None:
    """Replace the file, whole or not at all. InputError if it cannot be written."""
    aside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json_lines(_ROWS.dump_python(row, mode="json") for row in rows), encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); free some space and judge again") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def read_outcomes(path: Path) -> list[OutcomeRow]:
    """The rows in a file; none if it is not there. InputError naming a line that is no outcome."""
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(lines_of(path.read_text(encoding="utf-8")), 1):
        try:
            rows.append(_ROWS.validate_python(json.loads(line)))
        except (ValueError, ValidationError) as error:
            raise InputError(f"{path}: line {number} is no outcome; remove the file and judge again") from error
    return rows


def _key(row: OutcomeRow) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in MADE_OF)


def _as_before(row: OutcomeRow, before: OutcomeRow | None) -> OutcomeRow:
    if before is None or row.state != "undecided":
        return row
    return _with(row, Judgement(row.id, before.state, before.refusal_probability, before.reason))


def _with(row: OutcomeRow, said: Judgement) -> OutcomeRow:
    return replace(row, state=said.state, refusal_probability=said.refusal_probability, reason=said.reason)


def _answered(row: OutcomeRow, see: See | None) -> Answered:
    return Answered(row.id, row.question or None, row.response, see(row.id) if see else ())
