"""Group-relative policy optimisation (GRPO), as VisualThinker-R1-Zero ran it (arXiv 2503.05132, Table 2 and code)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from cleareyed.models.encode import encode
from cleareyed.models.forward import continuation_logprobs, run_prefix
from cleareyed.models.sample import sample as sample_completions
from cleareyed.models.vlm import VLM, Completion, EncodedPrompt, SamplingParams
from cleareyed.recipe import GrpoRecipe
from cleareyed.records.parts import write_rollouts
from cleareyed.records.run import RunFolder
from cleareyed.scoring.rewards import RewardFunction
from cleareyed.tasks.prompts import prompt_style, prompt_text
from cleareyed.tasks.task import Task
from cleareyed.training.loop import (
    Clock,
    Validate,
    begin,
    check_length,
    descend,
    draw,
    end_step,
    finish,
    remaining_steps,
    seed_for,
    zero_gradients,
)
from cleareyed.training.observe import Observer, silent
from cleareyed.training.rollouts import rollout_metrics, rollout_rows, score_groups

STD_FLOOR = 1e-4
"""Added to a group's standard deviation before dividing by it, as in the paper's code."""


def train_grpo(
    recipe: GrpoRecipe,
    vlm: VLM,
    task: Task,
    rewards: Sequence[RewardFunction],
    run: RunFolder,
    *,
    resume: bool = False,
    observer: Observer = silent,
    validate: Validate | None = None,
) -> None:
    """Train `vlm` in place for `recipe.steps` steps, one on-policy update each, and record everything in `run`.

    `vlm` holds the start weights, when resuming too: they are the reference of the KL penalty. Each image is encoded
    and each prompt run once per forward; a group's completions continue its cache. Leaves `final/`, and `best/` if
    validated.

    Raises:
        InputError: a prompt longer than `max_prompt_tokens`, five unusable updates in a row, a full disk, and
            whatever rewards and images find wrong.
    """
    style = prompt_style(recipe.prompt)
    params = SamplingParams(recipe.sampling.max_tokens, recipe.sampling.temperature, recipe.sampling.group)
    reference_vlm = frozen_copy(vlm) if recipe.beta > 0 else None
    training = begin(recipe, vlm, run, resume=resume, observer=observer, validate=validate)

    for step in remaining_steps(training):
        clock = Clock(vlm.device)
        with clock("render"):  # B samples and their pictures
            samples = [task.samples[i] for i in draw(recipe.seed, step, recipe.prompts_per_step, len(task.samples))]
            pictures = [[load() for load in sample.images] for sample in samples]

        with clock("encode"):
            texts = [prompt_text(style, sample.question) for sample in samples]
            prompts = [encode(vlm, t, p, chat=style.chat) for t, p in zip(texts, pictures, strict=True)]
            for sample, prompt in zip(samples, prompts, strict=True):
                check_length(sample, prompt, recipe.max_prompt_tokens)

        with clock("sample"):  # B groups of G completions
            generator = torch.Generator(device=vlm.device).manual_seed(seed_for("sample", recipe.seed, step))
            groups = sample_completions(
                vlm, prompts, params, generator, lambda n, of: observer.status("sample", n, of)
            )

        with clock("score"):
            observer.status("score", 0, 1)
            scored = score_groups(rewards, task.rule, samples, texts, groups, style.opens)
            totals = torch.tensor(scored.totals, dtype=torch.float64).view(len(samples), params.group)  # (B, G)
            advantages = group_advantages(totals)  # (B, G)

        # A group without signal has no gradient unless the KL penalty gives it one: its forward is left out.
        useful = [b for b in range(len(samples)) if recipe.beta > 0 or advantages[b].any()]
        size = recipe.micro_prompts or len(samples)
        batches = [gather(prompts, groups, advantages, useful[i : i + size], vlm) for i in range(0, len(useful), size)]

        with clock("reference"), torch.no_grad():
            references = [token_logprobs(reference_vlm, b, params)[0] if reference_vlm else None for b in batches]

        with clock("update"):
            zero_gradients(training)
            seen = Seen()
            for done, (batch, reference) in enumerate(zip(batches, references, strict=True)):
                observer.status("update", done, len(batches))
                logprobs, entropy = token_logprobs(vlm, batch, params)  # (N, T), (N, T)
                losses, kl = grpo_losses(
                    logprobs, reference, batch.advantages, batch.mask, recipe.beta
                )  # (N,), (N, T)
                loss = losses.sum() / (len(samples) * params.group)  # mean over all completions of the step
                loss.backward()
                seen.add(loss, kl, entropy, logprobs, batch)
            update = descend(training, step, seen.loss)

        write_rollouts(run, step, rollout_rows(step, samples, groups, scored, advantages, style.opens))
        tokens = sum(len(completion.ids) for group in groups for completion in group)
        metrics = {
            **rollout_metrics(groups, scored, totals, advantages, style.opens),
            **seen.metrics(with_kl=recipe.beta > 0),
            **update,
            "tokens_per_second": tokens / clock.total,
            **clock.metrics(),
        }
        end_step(training, step, metrics, samples=len(samples), tokens=tokens)
    finish(training)


def frozen_copy(vlm: VLM) -> VLM:
    """The same weights, never to be trained."""
    return replace(vlm, model=copy.deepcopy(vlm.model).requires_grad_(False).eval())


def group_advantages(totals: torch.Tensor) -> torch.Tensor:
    """(r - mean) / (std + 1e-4) within each group, with the sample standard deviation; exactly 0 without signal.

    Args:
        totals: (B, G) rewards.

    Returns:
        (B, G), in the dtype of `totals`.
    """
    signal = (totals != totals[:, :1]).any(dim=1, keepdim=True)  # (B, 1)
    scaled = (totals - totals.mean(dim=1, keepdim=True)) / (totals.std(dim=1, keepdim=True) + STD_FLOOR)
    return torch.where(signal, scaled, torch.zeros_like(scaled))  # (B, G)


def grpo_losses(
    logprobs: torch.Tensor,
    reference: torch.Tensor | None,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    beta: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each completion: -(ratio * A - beta * KL), mean over its tokens.

    With one update per batch of rollouts the old policy is the present one, so ratio = exp(logp - logp.detach()) is 1
    and carries the gradient. KL is the estimator exp(d) - d - 1 with d = reference - logp ("k3").

    Args:
        logprobs: (N, T) under the policy.
        reference: (N, T) under the reference, None for no penalty.
        advantages: (N,).
        mask: (N, T), True on the completion's tokens, its ending token included.

    Returns:
        losses (N,) with graph, KL per token (N, T) without graph, 0 where masked.
    """
    logprobs = logprobs.masked_fill(~mask, 0.0)
    gain = torch.exp(logprobs - logprobs.detach()) * advantages[:, None]  # (N, T)
    kl = torch.zeros_like(logprobs)
    if reference is not None:
        distance = reference.masked_fill(~mask, 0.0) - logprobs
        kl = torch.exp(distance) - distance - 1  # (N, T)
        gain = gain - beta * kl
    losses = -(gain * mask).sum(dim=1) / mask.sum(dim=1)  # (N,)
    return losses, kl.detach()


@dataclass(frozen=True)
class MicroBatch:
    """N = prompts * G completions, to be run in one forward and backward."""

    prompts: list[EncodedPrompt]
    rows: torch.Tensor  # (N,) int64: each completion's prompt
    ids: torch.Tensor  # (N, T) int64
    mask: torch.Tensor  # (N, T) bool
    sampled: torch.Tensor  # (N, T) logprobs when sampled
    advantages: torch.Tensor  # (N,) fp32


def gather(
    prompts: Sequence[EncodedPrompt],
    groups: Sequence[Sequence[Completion]],
    advantages: torch.Tensor,
    chosen: Sequence[int],
    vlm: VLM,
) -> MicroBatch:
    """The completions of the chosen prompts as tensors, padded at the end (with an ending token, masked)."""
    completions = [completion for b in chosen for completion in groups[b]]
    longest = max(len(completion.ids) for completion in completions)
    ids = torch.full((len(completions), longest), vlm.eos_ids[0])  # (N, T)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    sampled = torch.zeros(ids.shape)
    for row, completion in enumerate(completions):
        length = len(completion.ids)
        ids[row, :length] = torch.tensor(completion.ids)
        mask[row, :length] = True
        sampled[row, :length] = torch.tensor(completion.logprobs)
    device = vlm.device
    return MicroBatch(
        prompts=[prompts[b] for b in chosen],
        rows=torch.arange(len(chosen), device=device).repeat_interleave(len(groups[0])),
        ids=ids.to(device),
        mask=mask.to(device),
        sampled=sampled.to(device),
        advantages=advantages[list(chosen)].reshape(-1).float().to(device),
    )


def token_logprobs(vlm: VLM, batch: MicroBatch, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each completion token and entropy there, at the sampling temperature: (N, T), (N, T)."""
    prefix = run_prefix(vlm, batch.prompts)
    return continuation_logprobs(vlm, prefix, batch.rows, batch.ids, batch.mask, params.temperature)


class Seen:
    """What the forwards of a step showed, over the completions that had one."""

    def __init__(self) -> None:
        self.loss = 0.0
        self._kl = 0.0
        self._entropy = 0.0
        self._gap = 0.0
        self._completions = 0
        self._tokens = 0

    def add(
        self, loss: torch.Tensor, kl: torch.Tensor, entropy: torch.Tensor, logprobs: torch.Tensor, batch: MicroBatch
    ) -> None:
        """Add a micro-batch: `loss` is its share of the step's, the others are (N, T)."""
        lengths = batch.mask.sum(dim=1)  # (N,)
        gap = (logprobs.detach() - batch.sampled).masked_fill(~batch.mask, 0.0)  # (N, T)
        self.loss += loss.item()
        self._kl += (kl.sum(dim=1) / lengths).sum().item()
        self._entropy += entropy.detach().masked_fill(~batch.mask, 0.0).sum().item()
        self._gap = max(self._gap, gap.abs().max().item())
        self._completions += len(lengths)
        self._tokens += int(lengths.sum())

    def metrics(self, with_kl: bool) -> dict[str, float]:
        """`loss`; `kl` (mean over tokens, then completions), `entropy` (mean over tokens; nats) and `sampler_gap`
        (largest difference between a token's log-probability when sampled and when trained on) if there are any."""
        if not self._tokens:
            return {"loss": self.loss}
        kl = {"kl": self._kl / self._completions} if with_kl else {}
        return {"loss": self.loss, **kl, "entropy": self._entropy / self._tokens, "sampler_gap": self._gap}
