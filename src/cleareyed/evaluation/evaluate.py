"""Asking every question of a task: of any model through a journal, or of one in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import Answerer, Reply
from cleareyed.evaluation.ask import Limits, Summary, ask_all
from cleareyed.evaluation.journal import Journal
from cleareyed.evaluation.request import AskParams, Hashes, Request, asked_hashes
from cleareyed.evaluation.rows import judges_of, make_row
from cleareyed.recipe import TaskSpec
from cleareyed.records.rows import AnswerRow
from cleareyed.scoring.rules import rules_of
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.images import Looked, Stored, decoded_size, picture_bytes
from cleareyed.tasks.prompts import PromptStyle, prompt_text
from cleareyed.tasks.protocols import Protocol, protocol_question
from cleareyed.tasks.task import Sample, Task

if TYPE_CHECKING:
    from cleareyed.models.vlm import VLM

SHOWN_PICTURES = 5
"""Of those that cannot be asked about, so many are named."""
HASH_BYTES = 32
"""Of the two hashes of one sample."""


@dataclass(frozen=True)
class Asking:
    """How the questions of a task are put to a model."""

    style: PromptStyle
    params: AskParams
    protocol: Protocol | None = None
    """Whose words come in front of the question; None puts nothing there."""

    def text(self, sample: Sample) -> str:
        """Everything that is asked after the images, chat roles not included."""
        question = protocol_question(self.protocol, sample) if self.protocol else sample.question
        return prompt_text(self.style, question)


def measured_task(spec: TaskSpec, data_root: Path | None) -> Task:
    """The task, named so that answers to its splits and files can be told apart: `nlvr-dev`, `table-mine`."""
    task = load_task(spec, data_root)
    part = spec.split or (Path(spec.path).stem if spec.path else None)
    return replace(task, name=f"{task.name}-{part}") if part else task


class AskedHashes:
    """What the samples of a task are asked now, as `asked_hashes`: 32 bytes a sample.

    Those of samples that `requests` has drawn are known; of others prompt and pictures are read when they are wanted.
    """

    def __init__(self, task: Task, how: Asking) -> None:
        self._how = how
        self._known = bytearray(HASH_BYTES * len(task.samples))

    def set(self, index: int, hashes: Hashes) -> None:
        self._known[index * HASH_BYTES : (index + 1) * HASH_BYTES] = bytes.fromhex("".join(hashes))

    def of(self, index: int, sample: Sample) -> Hashes:
        """Of the task's sample with this index. InputError where a picture can't be read."""
        known = self._known[index * HASH_BYTES : (index + 1) * HASH_BYTES]
        if not any(known):
            return request_of(sample, self._how).hashes
        digits = known.hex()
        return digits[:HASH_BYTES], digits[HASH_BYTES:]


def request_of(sample: Sample, how: Asking) -> Request:
    """The sample as it is asked, pictures as the bytes they are."""
    text, images = how.text(sample), tuple(picture_bytes(load) for load in sample.images)
    hashes = asked_hashes(text, how.style.chat, how.params.system, images)
    return Request(sample.id, text, how.style.opens, images, how.style.chat, how.params, hashes)


def check_pictures(task: Task, progress: Callable[[int, int], None]) -> None:
    """Decode every stored picture of a task once, before the bytes are sent to somebody who might not say that they
    are broken. `progress` is called with (samples looked at, samples).

    InputError: pictures that don't decode, or of more than `tasks.images.MAX_PIXELS` pixels, with file and sample.
    """
    looked, total, bad = Looked(decoded_size), len(task.samples), list[str]()
    for index in range(total):
        sample = task.samples[index]
        for load in () if sample.missing else sample.images:
            if isinstance(load, Stored):  # what is rendered here is whole
                try:
                    looked.look(load, load.data(), sample.id)
                except InputError as error:
                    bad.append(f"sample {sample.id}: {error}")
        progress(index + 1, total)
    if bad:
        more = f" ({len(bad)} such pictures: {'; '.join(bad[1:SHOWN_PICTURES])})" if len(bad) > 1 else ""
        raise InputError(f"{bad[0]}; nothing was asked{more}")


def requests(task: Task, how: Asking, asked: AskedHashes | None = None, recorded: bool = False) -> Iterator[Request]:
    """One request a sample, made when drawn, its hashes noted in `asked`.

    Samples that cannot be asked (`Sample.missing`) are left out, unless their answers are `recorded` already.
    """
    for index in range(len(task.samples)):
        sample = task.samples[index]
        if sample.missing and not recorded:
            continue
        request = request_of(sample, how)
        if asked is not None:
            asked.set(index, request.hashes)
        yield request


async def ask_task(
    task: Task,
    how: Asking,
    answerer: Answerer,
    journal: Journal,
    limits: Limits,
    asked: AskedHashes,
    progress: Callable[[Summary], None],
    recorded: bool = False,
) -> Summary:
    """Ask what `journal` holds no answer to, and close `answerer`. InputError as `ask_all` raises it."""
    drawn = requests(task, how, asked, recorded)
    try:
        return await ask_all(drawn, answerer, journal, limits=limits, total=len(task.samples), progress=progress)
    finally:
        await answerer.close()


def evaluate(
    vlm: "VLM",
    task: Task,
    style: PromptStyle,
    *,
    max_tokens: int,
    batch: int,
    label: str,
    step: int,
    rules: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[AnswerRow]:
    """Ask a model in memory, greedily, `batch` samples at a time, and judge under `rules` (`rules_of` if left out).

    Training measures with it: no journal, each picture loaded once and never encoded. Rows come in the task's order;
    what is judged is `style.opens` + completion. `paper-eval` costs some milliseconds an answer; name the rules where
    that matters. `label` and `step` say in the rows whose answers these are. A sample that cannot be asked has failed.

    Raises InputError for an unknown rule and for whatever the loading of an image finds wrong.
    """
    from cleareyed.evaluation.local import Prompt, complete, reply_of
    from cleareyed.models.vlm import SamplingParams

    judges = judges_of(rules_of(task.rule) if rules is None else rules)
    params, total = SamplingParams(max_tokens=max_tokens, temperature=0.0), len(task.samples)
    rows: list[AnswerRow] = []
    for start in range(0, total, batch):
        samples = [task.samples[index] for index in range(start, min(start + batch, total))]
        asked = [sample for sample in samples if not sample.missing]
        prompts = [Prompt(prompt_text(style, sample.question), sample.images, style.chat) for sample in asked]
        answers = iter(complete(vlm, prompts, params) if prompts else ())
        for sample in samples:
            completed = None if sample.missing else next(answers)
            if isinstance(completed, InputError):
                raise completed
            reply = reply_of(completed) if completed else Reply("failed", "", sample.missing)
            row = make_row(
                sample,
                style.opens + reply.text if completed else "",
                reply.state,
                judges,
                task=task.name,
                label=label,
                step=step,
                tokens=reply.completion_tokens,
                finish=reply.finish,
            )
            rows.append(row)
        if progress is not None:
            progress(len(rows), total)
    return rows
