"""Asking every question of a task of a model, once, greedily."""

from collections.abc import Sequence

import torch

from cleareyed.models.encode import encode
from cleareyed.models.sample import sample as sample_completions
from cleareyed.models.vlm import VLM, Completion, Progress, SamplingParams
from cleareyed.records.rows import AnswerRow
from cleareyed.scoring.rules import RULES, Rule, accuracy_rule, well_formed
from cleareyed.tasks.prompts import PromptStyle, prompt_text
from cleareyed.tasks.task import Sample, Task


def evaluate(
    vlm: VLM,
    task: Task,
    style: PromptStyle,
    *,
    max_tokens: int,
    batch: int,
    label: str,
    step: int,
    rules: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[AnswerRow]:
    """Answer each sample of the task greedily, `batch` at a time, and judge it under `rules` (all if left out).

    Rows come in the task's order. What is judged is `style.opens` + completion. Each sample's images are loaded
    once. `paper-eval` costs some milliseconds an answer; name the rules where that matters. `label` and `step`
    say in the rows whose answers these are.

    Raises InputError for an unknown rule and for whatever the loading of an image finds wrong.
    """
    judges = {name: accuracy_rule(name) for name in (RULES if rules is None else rules)}
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    generator = torch.Generator(device=vlm.device).manual_seed(0)  # greedy: never drawn from
    total = len(task.samples)
    rows: list[AnswerRow] = []
    for start in range(0, total, batch):
        samples = [task.samples[index] for index in range(start, min(start + batch, total))]
        prompts = [
            encode(vlm, prompt_text(style, sample.question), [load() for load in sample.images], chat=style.chat)
            for sample in samples
        ]
        for sample, (completion,) in zip(samples, sample_completions(vlm, prompts, params, generator), strict=True):
            rows.append(_judged(sample, completion, style, judges, task.name, label, step))
        if progress is not None:
            progress(len(rows), total)
    return rows


def _judged(
    sample: Sample,
    completion: Completion,
    style: PromptStyle,
    judges: dict[str, Rule],
    task: str,
    label: str,
    step: int,
) -> AnswerRow:
    text = style.opens + completion.text
    verdicts = {name: judge(text, sample) for name, judge in judges.items()}
    return AnswerRow(
        task=task,
        step=step,
        label=label,
        sample_id=sample.id,
        skill=sample.skill,
        group=sample.group,
        question=sample.question,
        answer=sample.answer,
        completion=text,
        tokens=len(completion.ids),
        finish=completion.finish,
        extracted={name: verdict.extracted for name, verdict in verdicts.items()},
        correct={name: verdict.correct for name, verdict in verdicts.items()},
        well_formed=well_formed(text),
    )
