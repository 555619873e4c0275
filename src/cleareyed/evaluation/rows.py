"""From what came back to rows: every answer judged as what it is.

| state | accuracy and format | coverage |
|---|---|---|
| answered, cut-off, empty | judged; an empty answer says nothing, so it is wrong | covered |
| filtered, refused-by-api, failed | left out: neither right nor wrong, nor a refusal of the model's | not covered |
| never asked (the model was given up) | no row | not covered |
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import State
from cleareyed.evaluation.compare import UNJUDGED, judged
from cleareyed.evaluation.journal import read_answers
from cleareyed.evaluation.request import request_hash
from cleareyed.records.rows import AnswerRow
from cleareyed.scoring.harness import protocol_rule
from cleareyed.scoring.rules import Rule, well_formed
from cleareyed.tasks.task import Sample, Task

Judges = Mapping[str, Rule]
Hashes = Mapping[str, tuple[str, str]]
"""By sample id: `AnswerRow.prompt_hash`, and the hash of the pictures before anything was done to them."""


@dataclass(frozen=True)
class Collected:
    """A journal, made into rows."""

    rows: list[AnswerRow]
    """In the order of the task; samples without a line in the journal have none."""
    total: int
    """Samples of the task."""
    reasons: Mapping[str, int]
    """Why there is no answer, by how many samples it was: of `refused-by-api` and `failed`."""
    foreign: int
    """Answers in the journal to samples that the task does not have."""
    missing: Sequence[str] = ()
    """Samples that could not be asked (`Sample.missing`), in the order of the task; recorded answers to them count."""

    @property
    def judged(self) -> list[AnswerRow]:
        """The rows that every figure is made of."""
        return [row for row in self.rows if judged(row)]

    @property
    def coverage(self) -> float:
        """The share of the task's samples that are judged."""
        return len(self.judged) / self.total

    @property
    def states(self) -> dict[str, int]:
        """Samples by state, and those never asked as `not asked`."""
        counts = Counter(row.state for row in self.rows)
        if unasked := self.total - len(self.rows):
            counts["not asked"] = unasked
        return dict(counts)


def judges_of(rules: Sequence[str]) -> dict[str, Rule]:
    """The rules by name, other harnesses' among them. InputError for an unknown one."""
    return {name: protocol_rule(name) for name in rules}


def make_row(
    sample: Sample,
    text: str,
    state: State,
    judges: Judges,
    *,
    task: str,
    label: str,
    step: int,
    tokens: int | None,
    finish: str,
    hashes: tuple[str, str] = ("", ""),
) -> AnswerRow:
    """One answer, judged. `text` is what the model said, with what the prompt opened in front."""
    row = AnswerRow(
        task=task,
        step=step,
        label=label,
        sample_id=sample.id,
        skill=sample.skill,
        group=sample.group,
        question=sample.question,
        answer=sample.answer,
        completion=text,
        tokens=tokens,
        finish=finish,
        extracted={},
        correct={},
        well_formed=False,
        state=state,
        prompt_hash=hashes[0],
        images_hash=hashes[1],
    )
    return judge_again(row, sample, judges)


def judge_again(row: AnswerRow, sample: Sample, judges: Judges) -> AnswerRow:
    """The row under other rules, against the gold answer that `sample` has now."""
    if not judged(row):
        nothing, wrong = dict.fromkeys(judges), dict.fromkeys(judges, False)
        return replace(row, answer=sample.answer, extracted=nothing, correct=wrong, well_formed=False)
    verdicts = {name: judge(row.completion, sample) for name, judge in judges.items()}
    return replace(
        row,
        answer=sample.answer,
        extracted={name: verdict.extracted for name, verdict in verdicts.items()},
        correct={name: verdict.correct for name, verdict in verdicts.items()},
        well_formed=well_formed(row.completion),
    )


def collect(journal: Path, task: Task, judges: Judges, *, opens: str, label: str, hashes: Hashes) -> Collected:
    """The rows of a task from the journal of its evaluation. InputError as `journal.read_answers` raises it."""
    answers = {answer.sample_id: answer for answer in read_answers(journal)}
    recorded, rows, missing = len(answers), [], []
    for index in range(len(task.samples)):
        sample = task.samples[index]
        if sample.missing:
            missing.append(sample.id)
        answer = answers.get(sample.id)
        if answer is None:
            continue
        prompt, images = hashes.get(sample.id, ("", ""))
        if images and answer.note:
            images = short_hash(images.encode(), answer.note.encode())
        said = answer.state not in UNJUDGED or answer.text
        row = make_row(
            sample,
            opens + answer.text if said else "",
            answer.state,
            judges,
            task=task.name,
            label=label,
            step=0,
            tokens=answer.completion_tokens,
            finish=answer.finish,
            hashes=(prompt, images),
        )
        rows.append(row)
    reasons = Counter(answers[row.sample_id].error or row.finish for row in rows if row.state in UNJUDGED)
    return Collected(rows, len(task.samples), reasons, recorded - len(rows), missing)


def collect_again(rows: Sequence[AnswerRow], task: Task, judges: Judges) -> Collected:
    """Rows without a journal, judged again as they are."""
    held = {row.sample_id: row for row in rows}
    samples = (task.samples[index] for index in range(len(task.samples)))
    found = [judge_again(held[sample.id], sample, judges) for sample in samples if sample.id in held]
    return Collected(found, len(task.samples), {}, len(held) - len(found))


def refuse_other_questions(rows: Sequence[AnswerRow], task: Task) -> None:
    """InputError if the task now asks something else than what these rows answered."""
    asked = {row.sample_id: row.question for row in rows}
    samples = (task.samples[index] for index in range(len(task.samples)))
    changed = [sample.id for sample in samples if asked.get(sample.id, sample.question) != sample.question]
    if changed:
        raise InputError(
            f"task {task.name}: {len(changed)} questions are not those that were answered ({changed[0]} first); "
            "the data changed, so evaluate anew"
        )


def short_hash(*parts: bytes) -> str:
    """32 hex digits of the parts, each told apart from the next."""
    return request_hash(piece for part in parts for piece in (b"%d " % len(part), part))[:32]
