"""Our tasks for inspect_ai: `inspect eval cleareyed/cvbench --model openai/NAME` (extra `inspect`).

inspect_ai finds them through the entry point `inspect_ai`. Questions are put as the protocol puts them to a model
that is asked as a conversation, and judged by its rule; data are looked for under `data_root` or CLEAREYED_DATA.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset
from inspect_ai.dataset import Sample as InspectSample
from inspect_ai.model import ChatMessageUser, Content, ContentImage, ContentText, GenerateConfig
from inspect_ai.scorer import CORRECT, INCORRECT, Score, Target, accuracy, scorer, stderr
from inspect_ai.solver import TaskState, generate

from cleareyed.evaluation.evaluate import Asking
from cleareyed.evaluation.providers.images import media_type
from cleareyed.evaluation.request import AskParams
from cleareyed.recipe import TaskSpec
from cleareyed.scoring.harness import protocol_rule
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.images import FileImage, picture_bytes
from cleareyed.tasks.prompts import prompt_style
from cleareyed.tasks.protocols import protocol_of, usual_protocol
from cleareyed.tasks.task import LoadImage, Sample

PROTOCOL = "paper-eval"
"""Where none is named and the task has several."""


def inspect_task(spec: TaskSpec, protocol: str | None, data_root: str | None) -> Task:
    """A task of ours as one of inspect's. InputError as `load_task` and `protocol_of` raise it."""
    root = data_root or os.environ.get("CLEAREYED_DATA")
    loaded = load_task(spec, Path(root) if root else None)
    named = protocol_of(spec.name, protocol) if protocol else usual_protocol(spec.name)
    named = named or protocol_of(spec.name, PROTOCOL)
    how = Asking(prompt_style(named.chat_style), AskParams(max_tokens=named.max_tokens), named)
    folder = tempfile.TemporaryDirectory(prefix="cleareyed-")  # goes with the process
    _FOLDERS.append(folder)
    samples = [loaded.samples[index] for index in range(len(loaded.samples))]
    asked = [_sample(sample, how, Path(folder.name)) for sample in samples if not sample.missing]
    return Task(
        dataset=MemoryDataset(asked, name=spec.name, location=f"cleareyed/{spec.name}"),
        solver=generate(),
        scorer=rule_scorer(named.rule, how.style.opens),
        config=GenerateConfig(max_tokens=named.max_tokens, temperature=named.temperature),
        metadata={"protocol": named.name, "prompt": named.chat_style, "unasked": len(samples) - len(asked)},
    )


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
"""Where pictures lie that do not come from files of their own."""


@scorer(metrics=[accuracy(), stderr()], name="cleareyed")
def rule_scorer(rule: str, opens: str = "") -> Callable[[TaskState, Target], Any]:
    """The accuracy rule of that name. Answers that the provider withheld get no score: they are not wrong."""
    judge = protocol_rule(rule)

    async def score(state: TaskState, target: Target) -> Score | None:
        if not state.output.choices or state.output.stop_reason == "content_filter":
            return None
        choices = tuple(choice.value for choice in state.choices)
        sample = Sample(str(state.sample_id), str(state.metadata["question"]), target.text, choices)
        verdict = judge(opens + state.output.completion, sample)
        return Score(value=CORRECT if verdict.correct else INCORRECT, answer=verdict.extracted)

    return score


def _sample(sample: Sample, how: Asking, folder: Path) -> InspectSample:
    pictures: list[Content] = [ContentImage(image=_file(load, folder)) for load in sample.images]
    return InspectSample(
        id=sample.id,
        input=[ChatMessageUser(content=[*pictures, ContentText(text=how.text(sample))])],
        choices=list(sample.choices) or None,
        target=sample.answer,
        metadata={"question": sample.question, "skill": sample.skill, "group": sample.group},
    )


def _file(load: LoadImage, folder: Path) -> str:
    if isinstance(load, FileImage):
        return str(load.path.resolve())
    data = picture_bytes(load)
    kind = (media_type(data) or "image/png").partition("/")[2]
    with tempfile.NamedTemporaryFile(dir=folder, suffix=f".{kind}", delete=False) as file:
        file.write(data)
    return file.name


@task
def cvbench(protocol: str | None = None, data_root: str | None = None, path: str | None = None) -> Task:
    return inspect_task(TaskSpec(name="cvbench", path=path), protocol, data_root)


@task
def sat(
    split: str = "test", protocol: str | None = None, data_root: str | None = None, path: str | None = None
) -> Task:
    return inspect_task(TaskSpec(name="sat", split=split, path=path), protocol, data_root)


@task
def blink(protocol: str | None = None, data_root: str | None = None, path: str | None = None) -> Task:
    return inspect_task(TaskSpec(name="blink", path=path), protocol, data_root)


@task
def blink_all(protocol: str | None = None, data_root: str | None = None, path: str | None = None) -> Task:
    return inspect_task(TaskSpec(name="blink-all", path=path), protocol, data_root)


@task
def vsr(protocol: str | None = None, data_root: str | None = None, path: str | None = None) -> Task:
    return inspect_task(TaskSpec(name="vsr", path=path), protocol, data_root)


@task
def nlvr(
    split: str = "dev", protocol: str | None = None, data_root: str | None = None, path: str | None = None
) -> Task:
    return inspect_task(TaskSpec(name="nlvr", split=split, path=path), protocol, data_root)


@task
def scenes_val(protocol: str | None = None, limit: int | None = None) -> Task:
    return inspect_task(TaskSpec(name="scenes-val", limit=limit), protocol, None)


@task
def scenes_bench(protocol: str | None = None, limit: int | None = None) -> Task:
    return inspect_task(TaskSpec(name="scenes-bench", limit=limit), protocol, None)


@task
def mossbench(data_root: str | None = None, path: str | None = None) -> Task:
    return inspect_task(TaskSpec(name="mossbench", path=path), None, data_root)


@task
def mossbench_contrast(data_root: str | None = None, path: str | None = None) -> Task:
    return inspect_task(TaskSpec(name="mossbench_contrast", path=path), None, data_root)


@task
def timidity_mini() -> Task:
    return inspect_task(TaskSpec(name="timidity-mini"), None, None)


@task
def timidity_mini_contrast() -> Task:
    return inspect_task(TaskSpec(name="timidity-mini-contrast"), None, None)


@task
def table(path: str, protocol: str | None = None) -> Task:
    """Your own data: a .jsonl or .parquet file."""
    return inspect_task(TaskSpec(name="table", path=path), protocol, None)
