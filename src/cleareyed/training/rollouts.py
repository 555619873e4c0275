"""The rollouts of a GRPO step: prompts made ready, completions drawn, judged, put into rows, and summed up."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial

import torch

from cleareyed.errors import InputError
from cleareyed.models.encode import encode
from cleareyed.models.forward import Features, Prefix, image_features, run_prefix, trains_vision
from cleareyed.models.kept import Kept, Replayed
from cleareyed.models.sample import sample as sample_here
from cleareyed.models.vlm import VLM, Completion, EncodedPrompt, SamplingParams
from cleareyed.recipe import GrpoRecipe
from cleareyed.records.rows import RolloutRow
from cleareyed.scoring.rewards import RewardFunction, Scored, score
from cleareyed.scoring.rules import accuracy_rule, well_formed
from cleareyed.tasks.prompts import PromptStyle, prompt_text
from cleareyed.tasks.task import Sample, Task
from cleareyed.training.loop import Clock, check_length, draw, seed_for
from cleareyed.training.losses import group_advantages
from cleareyed.training.observe import Observer

Groups = Sequence[Sequence[Completion]]
"""B groups of G completions."""


@dataclass(frozen=True)
class Batch:
    """B samples and the prompts made of them."""

    samples: list[Sample]
    texts: list[str]
    prompts: list[EncodedPrompt]


@dataclass(frozen=True)
class Round:
    """B prompts with their rollouts. A step has one round, and more where groups without signal are replaced."""

    batch: Batch
    features: Features | None
    """Of the prompts' images, where the vision tower is frozen."""
    prefix: Prefix | None
    """The prompts as the rollouts continued them, with their graph; None where they are to be run again."""
    groups: Groups
    scored: Scored
    totals: torch.Tensor  # (B, G) float64
    advantages: torch.Tensor  # (B, G) float64
    kept: Kept | None = None
    """What sampling computed of the completions, if the update may go on from there."""

    def replayed(self, b: int, members: Sequence[int]) -> Replayed | None:
        """What is kept of some completions of prompt b; None if nothing is."""
        return None if self.kept is None else Replayed(self.kept, b * len(self.groups[b]) + torch.tensor(members))

    @property
    def with_signal(self) -> int:
        """Groups whose rewards are not all equal."""
        return int(self.advantages.any(dim=1).sum())


Sampler = Callable[[Sequence[EncodedPrompt], SamplingParams], list[list[Completion]]]
"""Draws `params.group` completions of each prompt, with token ids and the logprobs they were drawn at."""


class Source:
    """The batches of a run; each step's is made on another thread during the step before."""

    def __init__(self, vlm: VLM, task: Task, style: PromptStyle, recipe: GrpoRecipe, aside: Executor) -> None:
        self._vlm, self._task, self._style, self._recipe, self._aside = vlm, task, style, recipe, aside
        self._coming: tuple[int, Future[Batch]] | None = None

    def take(self, step: int) -> Batch:
        """The batch of `step`, from what `cleareyed.training.loop.draw` gives it.

        Raises:
            InputError: a prompt longer than the recipe's limit, an image that cannot be read.
        """
        recipe, total = self._recipe, len(self._task.samples)
        if self._coming is not None and self._coming[0] == step:
            batch = self._coming[1].result()
        else:
            batch = self._make(draw(recipe.seed, step, recipe.prompts_per_step, total))
        if step < recipe.steps:
            following = draw(recipe.seed, step + 1, recipe.prompts_per_step, total)
            self._coming = (step + 1, self._aside.submit(self._make, following))
        return batch

    def refill(self, step: int, number: int, wanted: int) -> Batch:
        """The batch of a step's round `number` >= 1: `wanted` samples of a walk of their own."""
        recipe = self._recipe
        window = draw(
            seed_for("refill", recipe.seed, 0), step, recipe.prompts_per_step * recipe.refills, len(self._task.samples)
        )
        return self._make(window[recipe.prompts_per_step * (number - 1) :][:wanted])

    def _make(self, indices: Sequence[int]) -> Batch:
        samples = [self._task.samples[i] for i in indices]
        texts = [prompt_text(self._style, sample.question) for sample in samples]
        prompts = []
        for sample, text in zip(samples, texts, strict=True):
            prompt = encode(self._vlm, text, [load() for load in sample.images], chat=self._style.chat)
            check_length(sample, prompt, self._recipe.max_prompt_tokens)
            prompts.append(prompt)
        return Batch(samples, texts, prompts)


class Judging:
    """Judges each group on another thread as soon as it is complete, while others are still being drawn."""

    def __init__(self, rewards: Sequence[RewardFunction], rule: str, opens: str, aside: Executor) -> None:
        self._rewards, self._rule, self._opens, self._aside = rewards, rule, opens, aside

    def of(self, batch: Batch) -> tuple[Callable[[int, Sequence[Completion]], None], Callable[[Groups], Scored]]:
        """Two functions: one takes a group when it is complete, the other waits for the scores of all, in order."""
        futures: dict[int, Future[Scored]] = {}

        def take(b: int, group: Sequence[Completion]) -> None:
            futures[b] = self._aside.submit(
                score_groups, self._rewards, self._rule, [batch.samples[b]], [batch.texts[b]], [group], self._opens
            )

        def scores(groups: Groups) -> Scored:
            for b, group in enumerate(groups):
                if b not in futures:
                    take(b, group)
            return join_scores([futures[b].result() for b in range(len(groups))])

        return take, scores


def roll_out(
    recipe: GrpoRecipe,
    vlm: VLM,
    batch: Batch,
    judging: Judging,
    sampler: Sampler | None,
    room: Kept | None,
    place: tuple[int, int],
    clock: Clock,
    observer: Observer,
) -> Round:
    """Draw and judge G completions of each of the batch's B prompts; `place` is the step and the number of its round.

    Images are encoded once and prompts run once here, and unless `micro_prompts` is set, with a graph, so that the
    update goes on from the same run.

    Raises:
        InputError: a sampler that draws what cannot be trained on, a model whose states are not finite, a reward
            function that fails.
    """
    step, number = place
    params = SamplingParams(recipe.sampling.max_tokens, recipe.sampling.temperature, recipe.sampling.group)
    held, kept = recipe.micro_prompts is None, None
    with clock("prompt"), torch.set_grad_enabled(held):
        features = None if trains_vision(vlm) else image_features(vlm, batch.prompts)
        prefix = run_prefix(vlm, batch.prompts, features) if sampler is None else None
        if prefix is not None:
            check_finite(vlm, batch, prefix.hidden)
    with clock("sample"):
        take, scores = judging.of(batch)
        if sampler is not None:
            groups = checked(sampler(batch.prompts, params), batch, params, vlm)
        else:
            purpose = "sample" if number == 0 else f"sample, refill {number}"
            generator = torch.Generator(vlm.device).manual_seed(seed_for(purpose, recipe.seed, step))
            show = partial(observer.status, "sample")
            kept = room.emptied() if room is not None and number == 0 else None
            groups = sample_here(vlm, batch.prompts, params, generator, show, prefix, take, kept)
    with clock("score"):
        observer.status("score", 0, 1)
        scored = scores(groups)
    totals = torch.tensor(scored.totals, dtype=torch.float64).view(len(groups), params.group)  # (B, G)
    advantages = group_advantages(totals, recipe.loss.advantage)  # (B, G)
    return Round(batch, features, prefix if held else None, groups, scored, totals, advantages, kept)


def checked(groups: Groups, batch: Batch, params: SamplingParams, vlm: VLM) -> Groups:
    """What another engine drew, if it can be trained on.

    Raises:
        InputError: too few or too many groups or completions; a completion without tokens, of more than
            `params.max_tokens`, with a token that our sampler may not draw, or without a finite logprob for each.
    """
    if len(groups) != len(batch.prompts):
        raise InputError(
            f"sampler: {len(groups)} groups for {len(batch.prompts)} prompts; draw one for each, in order"
        )
    known = vlm.model.config.get_text_config().vocab_size
    banned = set(vlm.banned_ids)
    for sample, group in zip(batch.samples, groups, strict=True):
        where = f"sampler: sample {sample.id}"
        if len(group) != params.group:
            raise InputError(f"{where}: {len(group)} completions; draw params.group = {params.group}")
        for index, one in enumerate(group):
            each = f"{where}, completion {index}"
            if not 0 < len(one.ids) <= params.max_tokens:
                raise InputError(f"{each}: {len(one.ids)} tokens; draw 1 to params.max_tokens = {params.max_tokens}")
            if len(one.logprobs) != len(one.ids) or not all(map(math.isfinite, one.logprobs)):
                raise InputError(f"{each}: not one finite logprob for each of its {len(one.ids)} tokens; report them")
            if wrong := [token for token in one.ids if not 0 <= token < known or token in banned]:
                raise InputError(f"{each}: token {wrong[0]} is none that may be drawn; ban vlm.banned_ids there")
            if one.finish not in ("stop", "length"):
                raise InputError(f"{each}: finish is {one.finish!r}; say `stop` or `length`")
    return groups


def check_finite(vlm: VLM, batch: Batch, states: torch.Tensor) -> None:
    """states (B, D) after each prompt; InputError if one is not finite, since nothing can be drawn from it."""
    bad = (~states.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
    if bad:
        raise InputError(
            f"{vlm.name}: its states after the prompt of sample {batch.samples[bad[0]].id} are not finite "
            f"({len(bad)} of {len(states)} prompts); check the weights, or go back to a checkpoint before this"
        )


def all_of(rounds: Sequence[Round]) -> Round:
    """The rollouts of all rounds together, for the record: more than the step's batch if groups were replaced."""
    batches = [turn.batch for turn in rounds]
    batch = Batch(
        [sample for batch in batches for sample in batch.samples],
        [text for batch in batches for text in batch.texts],
        [prompt for batch in batches for prompt in batch.prompts],
    )
    return Round(
        batch,
        None,
        None,
        [group for turn in rounds for group in turn.groups],
        join_scores([turn.scored for turn in rounds]),
        torch.cat([turn.totals for turn in rounds]),
        torch.cat([turn.advantages for turn in rounds]),
    )


def join_scores(parts: Sequence[Scored]) -> Scored:
    return Scored(
        rewards=[rewards for part in parts for rewards in part.rewards],
        totals=[total for part in parts for total in part.totals],
        verdicts=[verdict for part in parts for verdict in part.verdicts],
    )


def score_groups(
    rewards: Sequence[RewardFunction],
    rule: str,
    samples: Sequence[Sample],
    prompts: Sequence[str],
    groups: Groups,
    opens: str,
) -> Scored:
    """Judge all B * G completions, in order of group and index; `opens` is put back in front of each."""
    each = [(b, completion) for b, group in enumerate(groups) for completion in group]
    return score(
        rewards,
        accuracy_rule(rule),
        [samples[b] for b, _ in each],
        [prompts[b] for b, _ in each],
        [opens + completion.text for _, completion in each],
        [completion.ids for _, completion in each],
    )


def rollout_rows(step: int, turn: Round, opens: str) -> list[RolloutRow]:
    """One row for each of the B * G completions."""
    rows, scored, advantages = [], turn.scored, turn.advantages
    for b, (sample, group) in enumerate(zip(turn.batch.samples, turn.groups, strict=True)):
        for index, completion in enumerate(group):
            i = b * len(group) + index
            rows.append(
                RolloutRow(
                    step=step,
                    sample_id=sample.id,
                    group=b,
                    index=index,
                    question=sample.question,
                    answer=sample.answer,
                    completion=opens + completion.text,
                    tokens=len(completion.ids),
                    finish=completion.finish,
                    rewards=dict(scored.rewards[i]),
                    reward=scored.totals[i],
                    advantage=advantages[b, index].item(),
                    extracted=scored.verdicts[i].extracted,
                    correct=scored.verdicts[i].correct,
                )
            )
    return rows


def rollout_metrics(turn: Round, opens: str) -> dict[str, float]:
    """Rewards, rightness, form and length over the B * G completions of a step.

    `reward_std` is the mean over groups of the sample standard deviation,
    lengths are in tokens with the ending one, `reward/NAME` is unweighted and over the completions it applies to,
    `entropy_sampled` is the mean of -logp over all sampled tokens (nats).
    """
    groups, scored, totals, advantages = turn.groups, turn.scored, turn.totals, turn.advantages
    completions = [completion for group in groups for completion in group]
    count = len(completions)
    lengths = torch.tensor([len(completion.ids) for completion in completions], dtype=torch.float64)
    low, high = torch.quantile(lengths, torch.tensor([0.1, 0.9], dtype=torch.float64)).tolist()
    metrics = {"reward": totals.mean().item()}
    for name in scored.rewards[0]:
        values = [value for rewards in scored.rewards if (value := rewards[name]) is not None]
        if values:
            metrics[f"reward/{name}"] = sum(values) / len(values)
    return {
        **metrics,
        "reward_std": totals.std(dim=1).mean().item(),
        "share_without_signal": 1 - advantages.any(dim=1).double().mean().item(),
        "accuracy": sum(verdict.correct for verdict in scored.verdicts) / count,
        "format_rate": sum(well_formed(opens + completion.text) for completion in completions) / count,
        "completion_tokens": lengths.mean().item(),
        "completion_tokens_p10": low,
        "completion_tokens_p90": high,
        "share_cut_off": sum(completion.finish == "length" for completion in completions) / count,
        "entropy_sampled": -sum(sum(completion.logprobs) for completion in completions) / lengths.sum().item(),
    }
