"""From what came back to rows: every answer judged as what it is.

| state | accuracy and format | coverage |
|---|---|---|
| answered, cut-off, empty | judged; an empty answer says nothing, so it is wrong | covered |
| filtered, refused-by-api, failed | left out: neither right nor wrong, nor a refusal of the model's | not covered |
| never asked (the model was given up) | no row | not covered |
| asked something else (the data changed since) | no row | not covered |
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import State
from cleareyed.evaluation.compare import UNJUDGED, judged
from cleareyed.evaluation.recorded import Recorded
from cleareyed.evaluation.request import Hashes, row_hashes
from cleareyed.records.rows import AnswerRow
from cleareyed.scoring.harness import protocol_rule
from cleareyed.scoring.rules import Rule, well_formed
from cleareyed.tasks.names import counted
from cleareyed.tasks.task import Sample, Task

Judges = Mapping[str, Rule]


@dataclass(frozen=True)
class Collected:
    """What the rows made of a journal came to, beside the rows."""

    total: int
    """Samples of the task."""
    states: Mapping[str, int]
    """Samples by state, and those never asked as `not asked`."""
    judged: int
    """Samples that every figure is made of."""
    reasons: Mapping[str, int]
    """Why there is no answer, by how many samples it was: of `refused-by-api` and `failed`."""
    foreign: int = 0
    """Answers in the journal to samples that the task does not have."""
    missing: Sequence[str] = ()
    """Samples that could not be asked (`Sample.missing`), in the order of the task; recorded answers to them count."""
    changed: int = 0
    """Samples whose only answers are to another prompt or other pictures than the task has now: not asked."""
    first_changed: str = ""
    unmarked: int = 0
    """Answers of which the journal does not say what they answered."""

    @property
    def coverage(self) -> float:
        """The share of the task's samples that are judged."""
        return self.judged / self.total


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
    hashes: Hashes = ("", ""),
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


def collect(
    recorded: Recorded,
    task: Task,
    judges: Judges,
    *,
    opens: str,
    label: str,
    asked: Callable[[int, Sample], Hashes],
    keep: Callable[[AnswerRow], None],
    before: Mapping[str, Hashes] | None = None,
) -> Collected:
    """Make the rows of a task from its journal, in the order of the task, and hand each to `keep`.

    An answer counts for what was asked: `asked` gives the hashes that each sample has now, and an answer to others
    makes no row. `before` says by sample what answers from before hashes were kept were given to (`row_hashes`).
    InputError for a damaged journal and for a picture that can't be read.
    """
    states: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    missing: list[str] = []
    known, changed, first_changed = 0, 0, ""
    for index in range(len(task.samples)):
        sample = task.samples[index]
        if sample.missing:
            missing.append(sample.id)
        if sample.id not in recorded:
            states["not asked"] += 1
            continue
        hashes = asked(index, sample)
        answer, other = recorded.find(sample.id, hashes, (before or {}).get(sample.id))
        known += answer is not None or other
        if other:
            changed += 1
            first_changed = first_changed or sample.id
        if answer is None:
            states["not asked"] += 1
            continue
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
            hashes=row_hashes(hashes, answer.note),
        )
        _count(row, answer.error, states, reasons)
        keep(row)
    found = _collected(len(task.samples), states, reasons, recorded.samples - known)
    return replace(found, missing=missing, changed=changed, first_changed=first_changed, unmarked=recorded.unmarked)


def collect_again(
    rows: Iterable[AnswerRow], task: Task, judges: Judges, keep: Callable[[AnswerRow], None]
) -> Collected:
    """Rows without a journal, judged again as they are."""
    held = {row.sample_id: row for row in rows}
    states: Counter[str] = Counter()
    for index in range(len(task.samples)):
        sample = task.samples[index]
        if sample.id not in held:
            states["not asked"] += 1
            continue
        row = judge_again(held.pop(sample.id), sample, judges)
        _count(row, None, states, Counter())
        keep(row)
    return _collected(len(task.samples), states, {}, len(held))


def _count(row: AnswerRow, error: str | None, states: Counter[str], reasons: Counter[str]) -> None:
    states[row.state] += 1
    if row.state in UNJUDGED:
        reasons[error or row.finish] += 1


def _collected(total: int, states: Counter[str], reasons: Mapping[str, int], foreign: int) -> Collected:
    unasked = states.pop("not asked", 0)
    judged = sum(count for state, count in states.items() if state not in UNJUDGED)
    shown = dict(states) | ({"not asked": unasked} if unasked else {})
    return Collected(total, shown, judged, reasons, foreign)


def refuse_other_questions(rows: Sequence[AnswerRow], task: Task) -> None:
    """InputError if the task now asks something else than what these rows answered."""
    asked = {row.sample_id: row.question for row in rows}
    samples = (task.samples[index] for index in range(len(task.samples)))
    changed = [sample.id for sample in samples if asked.get(sample.id, sample.question) != sample.question]
    if changed:
        raise InputError(
            f"task {task.name}: {counted(len(changed), 'question is', 'questions are')} not as answered "
            f"({changed[0]} first); the data changed, so evaluate anew"
        )
