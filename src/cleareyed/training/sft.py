"""Supervised fine-tuning on the bare answer: the paper's baseline (arXiv 2503.05132, and its run_sft_SAT.sh).

With `forms` in the recipe, on other texts than the bare answer, and on several ways of asking at once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from cleareyed.errors import InputError
from cleareyed.models.check import compare
from cleareyed.models.encode import encode, token_ids
from cleareyed.models.forward import next_logprobs, plain_logprobs, prompt_states
from cleareyed.models.vlm import VLM, EncodedPrompt
from cleareyed.recipe import FormSpec, SftRecipe
from cleareyed.records.run import RunFolder, append_check
from cleareyed.tasks.prompts import prompt_style, prompt_text
from cleareyed.tasks.task import Sample, Task
from cleareyed.training.loop import (
    Clock,
    Probe,
    Validate,
    begin,
    check_length,
    descend,
    draw,
    end_step,
    finish,
    remaining_steps,
    zero_gradients,
)
from cleareyed.training.observe import Observer, silent


def train_sft(
    recipe: SftRecipe,
    vlm: VLM,
    task: Task,
    run: RunFolder,
    *,
    resume: bool = False,
    observer: Observer = silent,
    validate: Validate | None = None,
    probe: Probe | None = None,
) -> None:
    """Train `vlm` in place for `recipe.steps` steps and record everything in `run`.

    The target is the sample's bare answer (or what the recipe's `forms` make of it) and an ending token, behind the
    prompt in the recipe's style; the loss is the mean cross-entropy over the target tokens of the step. With the same
    seed, step s sees the same samples as step s of a GRPO run with as many prompts per step. Leaves `final/`, and
    `best/` if validated.

    Raises:
        InputError: a forward that disagrees with the plain one, a prompt longer than `max_prompt_tokens`, a form that
            names a column which a sample lacks, five unusable updates in a row, a full disk, and whatever images find
            wrong.
    """
    forms = [(prompt_style(form.prompt), form.target) for form in forms_of(recipe)]
    training = begin(recipe, vlm, run, resume=resume, observer=observer, validate=validate, probe=probe)

    steps = remaining_steps(training)
    for step in steps:
        clock = Clock(vlm.device)
        with clock("render"):
            samples = [task.samples[i] for i in draw(recipe.seed, step, recipe.batch, len(task.samples))]
            pictures = [[load() for load in sample.images] for sample in samples]

        with clock("encode"):
            prompts, examples = [], []
            for place, (sample, images) in enumerate(zip(samples, pictures, strict=True)):
                style, target = forms[place % len(forms)]
                prompt = encode(vlm, prompt_text(style, sample.question), images, chat=style.chat)
                check_length(sample, prompt, recipe.max_prompt_tokens)
                prompts.append(prompt)
                examples.append(make_example(vlm, prompt, target_text(target, sample), recipe.train_on_prompt))

        if step == steps.start:
            with clock("check"):
                b = next((b for b, prompt in enumerate(prompts) if prompt.pixels is not None), 0)
                append_check(run, {"step": step, **check_targets(vlm, prompts[b], examples[b])})

        with clock("update"):
            zero_gradients(training)
            tokens = sum(int(example.learnt.sum()) for example in examples)
            size = recipe.micro_batch or len(examples)
            loss, right = 0.0, 0
            not_finite: set[str] = set()
            for start in range(0, len(examples), size):
                observer.status("update", start, len(examples))
                logprobs, targets = target_logprobs(vlm, examples[start : start + size])  # (K, V), (K,)
                share = functional.nll_loss(logprobs, targets, reduction="sum") / tokens
                share.backward()
                loss += share.item()
                if not share.isfinite():
                    not_finite.update(sample.id for sample in samples[start : start + size])
                right += int((logprobs.argmax(dim=1) == targets).sum())
            update = descend(training, step, loss, samples, not_finite)

        metrics = {
            "loss": loss,
            "token_accuracy": right / tokens,
            **update,
            "tokens_per_second": tokens / clock.total,
            **clock.metrics(),
        }
        end_step(training, step, metrics, samples=len(samples), tokens=tokens)
    finish(training)


def forms_of(recipe: SftRecipe) -> Sequence[FormSpec]:
    """The ways of asking and answering that take turns: the recipe's `forms`, or `prompt` and the bare answer."""
    return recipe.forms or (FormSpec(prompt=recipe.prompt),)


def target_text(target: str, sample: Sample) -> str:
    """What is to be written: `target` with the answer and columns of the sample in place of their names in braces.

    InputError if a name in braces is no column of the sample.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name == "answer":
            return sample.answer
        if name not in sample.columns:
            known = ", ".join(("answer", *sample.columns))
            raise InputError(f"forms: target `{target}` names {name}, which sample {sample.id} lacks; known: {known}")
        return str(sample.columns[name])

    return re.sub(r"\{(\w+)\}", value, target)


@dataclass(frozen=True)
class Example:
    """A prompt with its target behind it, L tokens in all."""

    whole: EncodedPrompt
    learnt: torch.Tensor  # (L,) bool: the tokens to be predicted from those before them


def make_example(vlm: VLM, prompt: EncodedPrompt, answer: str, train_on_prompt: bool) -> Example:
    """Append `answer` and an ending token; with `train_on_prompt` the prompt's text is learnt too.

    The first token, which nothing comes before, and vision tokens are never learnt.
    """
    end = vlm.tokenizer.eos_token_id
    target = torch.tensor([*token_ids(vlm.tokenizer, answer), end if end in vlm.eos_ids else vlm.eos_ids[0]])  # (T,)
    places = prompt.next_position + torch.arange(len(target))  # (T,)
    learnt = torch.zeros(len(prompt.ids), dtype=torch.bool)  # (P,)
    if train_on_prompt:
        learnt = ~torch.isin(prompt.ids, torch.tensor(vlm.banned_ids))
        learnt[0] = False
    whole = replace(
        prompt,
        ids=torch.cat([prompt.ids, target]),
        positions=torch.cat([prompt.positions, places.expand(3, -1)], dim=1),
        next_position=prompt.next_position + len(target),
    )
    return Example(whole, torch.cat([learnt, torch.ones(len(target), dtype=torch.bool)]))


@torch.no_grad()
def check_targets(vlm: VLM, prompt: EncodedPrompt, example: Example) -> dict[str, float]:
    """Compare the logprobs of a prompt's target, as `target_logprobs` has them, with those of the plain forward.

    Returns and raises what `cleareyed.models.check.check_engine` does.
    """
    target = example.whole.ids[len(prompt.ids) :]  # (T,)
    logprobs, ids = target_logprobs(vlm, [example])  # (K, V), (K,): the target is learnt last
    ours = logprobs.gather(1, ids[:, None])[-len(target) :, 0]  # (T,)
    return compare(vlm, ours, plain_logprobs(vlm, prompt, target))


def target_logprobs(vlm: VLM, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """The K learnt tokens of all examples: log-probabilities (K, V) where each is predicted, and their ids (K,).

    The head sees these places only, so no logits are made for the rest of the prompt.
    """
    states, ids, mask = prompt_states(vlm, [example.whole for example in examples])
    learnt = torch.zeros_like(mask)  # (B, L)
    for row, example in enumerate(examples):
        learnt[row, : len(example.learnt)] = example.learnt.to(learnt.device)
    states = states[:, :-1][learnt[:, 1:]]  # (K, D): the states before the learnt tokens
    return next_logprobs(vlm, states, temperature=1.0), ids[learnt]
