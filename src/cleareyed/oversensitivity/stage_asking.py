"""Asking through the three stages: model, judge, grader and writer in turn, every answer in one journal."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import Answer, Answerer
from cleareyed.evaluation.ask import Limits, Summary, ask_all
from cleareyed.evaluation.evaluate import Asking
from cleareyed.evaluation.journal import Journal, read_answers
from cleareyed.evaluation.request import AskParams, Request
from cleareyed.oversensitivity.labels import came_back
from cleareyed.oversensitivity.outcome_rows import ANEW
from cleareyed.oversensitivity.outcomes import DECLINED, UNREAD, Answered, Judge, Judgement
from cleareyed.oversensitivity.stage_notes import Notes, Override, Question
from cleareyed.oversensitivity.stages import (
    ATTEMPTS,
    INTENT,
    PERCEPTION,
    PROBES,
    UNDECIDED,
    Case,
    Label,
    Step,
    grading_prompt,
    read_grade,
    read_question,
    writing_prompt,
)
from cleareyed.tasks.images import picture_bytes
from cleareyed.tasks.task import Sample

GRADER_TOKENS = 400
"""The longest reply of a grader or writer where nothing else is said."""
Progress = Callable[[str, Summary], None]
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Studied:
    cases: Sequence[Case]
    labels: Sequence[Label]
    """All of them, by item and step."""
    questions: Mapping[str, Question]
    """The disambiguated ones that were there or were written."""
    unused: Sequence[Override]
    """Overrides of items or steps that there are no answers to."""
    asked: int
    """Requests that were sent in this call; the others were answered before."""


@dataclass(frozen=True)
class Model:
    """One model to ask, and how hard."""

    answerer: Answerer
    limits: Limits


class Study:
    """The refused items of a run on their way through the stages."""

    def __init__(
        self,
        samples: Sequence[Sample],
        how: Asking,
        model: Model,
        grader: Model,
        writer: Model | None,
        judge: Judge,
        journal: Journal,
        notes: Notes,
        *,
        grader_tokens: int = GRADER_TOKENS,
        before: Sequence[Label] = (),
        progress: Progress | None = None,
        keep: Callable[[Sequence[Label]], None] | None = None,
    ) -> None:
        """`samples` as the run asked them. `before`: labels of an earlier call; what a judge said there of the same
        text is not asked again. `keep` is handed all labels after each round."""
        self._samples = {sample.id: sample for sample in samples}
        self._how, self._model, self._grader, self._writer = how, model, grader, writer
        self._judge, self._journal, self._notes = judge, journal, notes
        self._grading = AskParams(max_tokens=grader_tokens)
        free = judge.name.partition(":")[0] in ANEW
        self._said = {} if free else {(one.step, one.id, one.text): one for one in before}
        self._progress, self._keep = progress, keep
        self._given: dict[tuple[str, Step], Label] = {}
        """By judge and grader; `_now` puts people's in their place."""
        self._questions = {name: one for name, one in notes.questions.items() if name in self._samples}
        self._sent = 0

    async def run(self) -> Studied:
        """Ask what the journal does not hold, round by round, and close the models.

        InputError: a model was given up; what it answered is in the journal.
        """
        try:
            await self._write_questions()
            await self._first_round()
            await self._grade()
            await self._last_round()
        finally:
            for answerer in {id(one.answerer): one.answerer for one in self._models()}.values():
                await answerer.close()
        by_item: dict[str, dict[Step, str]] = {name: {} for name in self._samples}
        for name, step in self._given:
            by_item[name][step] = self._now((name, step)).label
        cases = [Case(name, one.skill, one.group, by_item[name]) for name, one in self._samples.items()]
        unused = [one for key, one in self._notes.overrides.items() if key not in self._given]
        return Studied(cases, self._ordered(), self._questions, unused, self._sent)

    async def _write_questions(self) -> None:
        """A disambiguated question for each item that has none, where there is a writer."""
        if self._writer is None:
            return
        for attempt in range(1, ATTEMPTS + 1):
            prompts = {
                name: writing_prompt(description=_description(one), question=one.question, attempt=attempt)
                for name, one in self._samples.items()
                if name not in self._questions
            }
            for name, answer in (await self._ask_plainly(self._writer, "question", prompts)).items():
                written = read_question(answer.text, self._samples[name].question)
                if written is not None:
                    by = self._writer.answerer.name
                    self._questions[name] = Question(id=name, question=written, author="model", name=by)

    async def _first_round(self) -> None:
        """Both probes, and the question behind the description."""
        asked: dict[tuple[str, Step], Sample] = {}
        for name, sample in self._samples.items():
            intent = INTENT.format(question=sample.question)
            asked[name, "perception"] = replace(sample, question=PERCEPTION)
            asked[name, "intent"] = replace(sample, question=intent)
            asked[name, "with-description"] = _behind(sample, sample.question)
        await self._ask_and_judge("asking again and probing", asked)

    async def _last_round(self) -> None:
        """The disambiguated question behind the description, where the description did not help."""
        asked: dict[tuple[str, Step], Sample] = {}
        for name, question in self._questions.items():
            if self._now((name, "with-description")).label in DECLINED:
                asked[name, "with-question"] = _behind(self._samples[name], question.question)
        await self._ask_and_judge("asking with other questions", asked)

    async def _ask_and_judge(self, what: str, asked: Mapping[tuple[str, Step], Sample]) -> None:
        texts = {key: self._how.text(sample) for key, sample in asked.items()}
        images = {name: tuple(picture_bytes(load) for load in one.images) for name, one in self._samples.items()}
        requests = {
            key: Request(
                _name(key[0], key[1], self._model, text, images[key[0]], self._how.params),
                text,
                self._how.style.opens,
                images[key[0]],
                self._how.style.chat,
                self._how.params,
            )
            for key, text in texts.items()
        }
        answers = await self._ask(what, self._model, requests)
        opens = self._how.style.opens
        open_keys, shown = [], []
        for key, answer in answers.items():
            text = opens + answer.text if answer.text else ""
            if (unsaid := came_back(key[0], answer.state)) is not None:
                self._take(key, unsaid, "asking", texts[key], text)
            elif (known := self._as_before(key, text)) is not None:
                self._take(key, known, self._judge.name, texts[key], text)
            else:
                open_keys.append((key, text))
                shown.append(Answered(key[0], asked[key].question, text, images[key[0]]))
        judgements = await asyncio.to_thread(self._judge.judge, shown) if shown else []
        for (key, text), judgement in zip(open_keys, judgements, strict=True):
            self._take(key, judgement, self._judge.name, texts[key], text)
        self._kept()

    def _take(self, key: tuple[str, Step], said: Judgement, by: str, asked: str, text: str) -> None:
        """A judgement as a label. Of a probe it says only whether the model declined; the grader says the rest."""
        label: str = said.state
        if key[1] in PROBES and label not in UNREAD:
            label = "refusal" if label in DECLINED else UNDECIDED
        self._given[key] = Label(key[0], key[1], label, by, said.reason, asked, text)

    async def _grade(self) -> None:
        """What the model said to the probes, against the description; asked again where a reply cannot be read."""
        ungraded = [key for key, one in self._given.items() if key[1] in PROBES and one.label == UNDECIDED]
        for attempt in range(1, ATTEMPTS + 1):
            for step in PROBES:
                prompts = {
                    name: self._grader_prompt(name, step, attempt) for name, probed in ungraded if probed == step
                }
                answers = await self._ask_plainly(self._grader, f"grade-{step}", prompts)
                for name, answer in answers.items():
                    grade = read_grade(answer.text)
                    said = " ".join(answer.text.split())[:200] or f"state of the reply: {answer.state}"
                    by = self._grader.answerer.name
                    own = self._given[name, step]
                    self._given[name, step] = replace(
                        own, label=grade or UNDECIDED, by=by, reason=said, attempts=attempt
                    )
                    if grade is not None:
                        ungraded.remove((name, step))
        self._kept()

    def _grader_prompt(self, name: str, step: Step, attempt: int) -> str:
        sample, meant = self._samples[name], self._questions.get(name)
        return grading_prompt(
            step,
            description=_description(sample),
            question=sample.question,
            meant=meant.question if meant else None,
            text=self._given[name, step].text,
            attempt=attempt,
        )

    async def _ask_plainly(self, model: Model, kind: str, prompts: Mapping[str, str]) -> dict[str, Answer]:
        """Texts without pictures, as conversations; by item."""
        requests = {
            name: Request(_name(name, kind, model, text, (), self._grading), text, "", (), True, self._grading)
            for name, text in prompts.items()
        }
        return await self._ask(f"{kind}, by {model.answerer.name}", model, requests)

    async def _ask(self, what: str, model: Model, requests: Mapping[_Key, Request]) -> dict[_Key, Answer]:
        if not requests:
            return {}
        summary = await ask_all(
            requests.values(),
            model.answerer,
            self._journal,
            limits=model.limits,
            total=len(requests),
            progress=None if self._progress is None else lambda so_far: self._show(what, so_far),
        )
        self._sent += summary.asked
        if summary.stopped is not None:
            raise InputError(f"{model.answerer.name}: given up: {summary.stopped}; go on with --resume")
        wanted = {request.sample_id for request in requests.values()}
        found = {one.sample_id: one for one in read_answers(self._journal.path) if one.sample_id in wanted}
        return {key: found[request.sample_id] for key, request in requests.items()}

    def _show(self, what: str, summary: Summary) -> None:
        if self._progress is not None:
            self._progress(what, summary)

    def _now(self, key: tuple[str, Step]) -> Label:
        """The label in force: a person's, where there is one."""
        given, override = self._given[key], self._notes.overrides.get(key)
        if override is None:
            return given
        return replace(
            given,
            label=override.label,
            by=f"person:{override.person}",
            reason=override.reason,
            overruled=f"{given.label} by {given.by}",
        )

    def _as_before(self, key: tuple[str, Step], text: str) -> Judgement | None:
        """What the judge said of this text in an earlier call; a probe that came to be graded was not declined."""
        known = self._said.get((key[1], key[0], text))
        if known is None or known.overruled or known.label == UNDECIDED:
            return None
        if key[1] in PROBES:
            return Judgement(key[0], "refusal" if known.label == "refusal" else "complied", None, known.reason)
        return Judgement(key[0], known.label, None, known.reason) if known.by == self._judge.name else None  # type: ignore[arg-type]

    def _models(self) -> list[Model]:
        return [one for one in (self._model, self._grader, self._writer) if one is not None]

    def _ordered(self) -> list[Label]:
        places = {name: place for place, name in enumerate(self._samples)}
        return sorted(map(self._now, self._given), key=lambda one: places[one.id])

    def _kept(self) -> None:
        if self._keep is not None:
            self._keep(self._ordered())


def _behind(sample: Sample, question: str) -> Sample:
    return replace(sample, question=f"{_description(sample)} {question}")


def _description(sample: Sample) -> str:
    return str(sample.columns.get("description") or "").strip()


def _name(item: str, kind: str, model: Model, text: str, images: Sequence[bytes], params: AskParams) -> str:
    """The name of a request in the journal: another text, picture or model is another request."""
    about = [model.answerer.name, model.answerer.revision, repr(params), text]
    digest = hashlib.sha256(json.dumps(about).encode())
    for data in images:
        digest.update(hashlib.sha256(data).digest())
    return f"{item} {kind} {digest.hexdigest()[:12]}"
