"""The answers of run folders as outcomes: judged, kept beside the run, and put together by model and set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePath

from cleareyed.oversensitivity.outcome_rows import (
    FOLDER,
    OutcomeRow,
    See,
    judge_rows,
    outcome_rows,
    outcomes_file,
    read_outcomes,
    write_outcomes,
)
from cleareyed.oversensitivity.outcomes import Judge
from cleareyed.oversensitivity.rates import Rates, Repeated, rates, repeated
from cleareyed.records.rows import AnswerRow
from cleareyed.records.run import RunFolder
from cleareyed.tasks.images import picture_bytes
from cleareyed.tasks.task import MISSING, Sample, Task

SEEING = "paper"
"""Judges whose name begins so are shown the pictures."""


@dataclass(frozen=True)
class Asked:
    """One model, asked one set of questions, once or several times."""

    model: str
    task: str
    part: str
    """`benign`, `contrast`, or empty where the task does not say."""
    step: int
    runs: tuple[tuple[OutcomeRow, ...], ...]

    @cached_property
    def rates(self) -> Rates:
        return rates(self.rows)

    @cached_property
    def repeated(self) -> Repeated | None:
        """None where it was asked once."""
        return repeated(self.runs)

    @cached_property
    def rows(self) -> list[OutcomeRow]:
        """Of all runs. Where there are several, an item is a group, so that it is drawn with its repetitions."""
        if len(self.runs) == 1:
            return list(self.runs[0])
        return [replace(row, group=row.group or f"item {row.id}") for rows in self.runs for row in rows]


def judge_answers(
    run: RunFolder, answers: Sequence[AnswerRow], samples: Mapping[str, Sample], judge: Judge
) -> list[OutcomeRow]:
    """Judge a run's answers to one task and keep the outcomes in its folder, beside those of its other tasks.

    Each label and step is judged for itself. A judge that costs something is not asked again what it has said.
    """
    file = outcomes_file(run, judge.name)
    before = read_outcomes(file)
    task = answers[0].task
    others = [row for row in before if row.task != task]
    parts: dict[tuple[str, int], list[AnswerRow]] = {}
    for row in answers:
        parts.setdefault((row.label, row.step), []).append(row)
    rows = [row for part in parts.values() for row in outcome_rows(part, samples, judge.name)]
    see = pictures_of(samples) if judge.name.startswith(SEEING) else None
    done = judge_rows(rows, judge, before=before, see=see, keep=lambda some: write_outcomes(file, [*others, *some]))
    write_outcomes(file, [*others, *done])
    return done


def known_samples(run: RunFolder, task: str) -> dict[str, Sample]:
    """The task's samples as far as outcomes kept with the run hold them, by id: without pictures. Empty if none do."""
    found: dict[str, Sample] = {}
    for file in sorted((run.path / FOLDER).glob("*.jsonl")):
        for row in read_outcomes(file):
            if row.task == task and row.id not in found:
                columns = {"set": row.part, "harm": list(row.harms), **row.tags}
                if row.asked == "not asked":
                    columns[MISSING] = row.reason.removeprefix("not asked: ")
                found[row.id] = Sample(row.id, row.question, "", skill=row.stimulus, group=row.group, columns=columns)
    return found


def by_id(task: Task) -> dict[str, Sample]:
    return {sample.id: sample for sample in (task.samples[index] for index in range(len(task.samples)))}


def pictures_of(samples: Mapping[str, Sample]) -> See:
    """The pictures of a sample, as they are stored."""
    return lambda name: tuple(picture_bytes(load) for load in samples[name].images)


def model_name(label: str) -> str:
    """A model as tables name it: of recorded answers the file's name, of a checkpoint its path."""
    if not label.startswith("replay:"):
        return label
    stem = PurePath(label.removeprefix("replay:")).stem
    for ending in ("-contrast", "_contrast", ".contrast"):
        stem = stem.removesuffix(ending)
    return stem


def together(measured: Sequence[tuple[str, Sequence[OutcomeRow]]]) -> list[Asked]:
    """Rows of runs, each with a remark on how it was asked that belongs to the model's name, by model and set.

    A run that asked the same of the same model is a repetition.
    """
    found: dict[tuple[str, str, str, int], list[tuple[OutcomeRow, ...]]] = {}
    for remark, rows in measured:
        parts: dict[tuple[str, str, str, int], list[OutcomeRow]] = {}
        for row in rows:
            name = model_name(row.label) + remark
            parts.setdefault((name, row.task, row.part, row.step), []).append(row)
        for key, part in parts.items():
            found.setdefault(key, []).append(tuple(part))
    return [Asked(*key, tuple(runs)) for key, runs in found.items()]


def pairs_of(asked: Sequence[Asked]) -> list[tuple[Asked, Asked]]:
    """Benign and contrast of one model and step; where there is one of each alone, these."""
    benign = [one for one in asked if one.part == "benign"]
    contrast = [one for one in asked if one.part == "contrast"]
    if len(benign) == len(contrast) == 1:
        return [(benign[0], contrast[0])]
    return [
        (one, other)
        for one in benign
        for other in contrast
        if (one.model, one.step) == (other.model, other.step) and other.task.startswith(one.task)
    ]
