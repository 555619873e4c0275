"""The completions of a step as tensors, in the parts that go through the model at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from cleareyed.models.forward import Features, Prefix, continuation_logprobs, run_prefix
from cleareyed.models.kept import Kept, Replayed
from cleareyed.models.vlm import VLM, Completion, EncodedPrompt, padded
from cleareyed.recipe import GrpoRecipe
from cleareyed.training.losses import (
    Mismatch,
    TokenLosses,
    add_mismatch,
    importance_weights,
    mismatch,
    mismatch_metrics,
    row_scales,
)
from cleareyed.training.rollouts import Round


@dataclass
class MicroBatch:
    """N completions that go through the model together; what the first update finds is kept for later ones."""

    samples: tuple[str, ...]  # (N,): each completion's sample
    rows: Tensor  # (N,) int64: each completion's prompt, within its unit
    ids: Tensor  # (N, T) int64
    mask: Tensor  # (N, T) bool
    sampled: Tensor  # (N, T) logprobs when sampled
    advantages: Tensor  # (N,)
    scales: Tensor  # (N,): weight of each token in the step's loss
    reference: Tensor | None = None  # (N, T) logprobs under the reference
    old: Tensor | None = None  # (N, T) logprobs under the policy that the step began with
    weights: Tensor | None = None  # (N, T) truncated importance weights
    replayed: Replayed | None = field(default=None, kw_only=True)
    """What sampling has left for the first update."""


@dataclass(frozen=True)
class Unit:
    """Prompts whose graph is held at a time, with the completions behind them."""

    prompts: list[EncodedPrompt]
    features: Features | None
    prefix: Prefix | None
    """What the rollouts have left of the prompts, with its graph; None where they are to be run (again)."""
    batches: list[MicroBatch] = field(default_factory=list)


def used_groups(rounds: Sequence[Round], wanted: int) -> list[list[int]]:
    """By round, the groups that make up the step's batch of `wanted`: those with signal, then others to fill it up."""
    signal = [turn.advantages.any(dim=1).tolist() for turn in rounds]
    chosen = [[b for b, has in enumerate(flags) if has] for flags in signal]
    missing = wanted - sum(map(len, chosen))
    for flags, groups in zip(signal, chosen, strict=True):
        fill = [b for b, has in enumerate(flags) if not has][: max(missing, 0)]
        groups[:] = sorted(groups + fill)
        missing -= len(fill)
    return chosen


def split(rounds: Sequence[Round], recipe: GrpoRecipe, device: torch.device) -> list[Unit]:
    """The step's batch in units and micro-batches.

    A group without signal has no gradient unless the KL penalty gives it one, and is left out; the loss is divided
    by the counts of the whole batch all the same. Where more than a third of a round's prompts is left out, running
    the others again costs less than sending gradients of zero through all of them.
    """
    chosen = used_groups(rounds, recipe.prompts_per_step)
    flat = [c for turn, groups in zip(rounds, chosen, strict=True) for b in groups for c in turn.groups[b]]
    lengths = torch.tensor([len(completion.ids) for completion in flat])
    kept = torch.tensor([not recipe.mask_truncated or completion.finish == "stop" for completion in flat])
    scales = row_scales(lengths, kept, recipe.loss.aggregate, recipe.sampling.max_tokens).float()  # (all,)
    by_group = iter(scales.split(recipe.sampling.group))
    units = []
    for turn, groups in zip(rounds, chosen, strict=True):
        scaled = {b: next(by_group) for b in groups}
        useful = [b for b in groups if recipe.beta > 0 or turn.advantages[b].any()]
        useful = [b for b in useful if scaled[b].any()]
        held = turn.prefix is not None and 3 * len(useful) >= 2 * len(turn.batch.prompts)
        size = len(turn.batch.prompts) if held else recipe.micro_prompts or max(len(useful), 1)
        for start in range(0, len(useful), size):
            some = useful[start : start + size]
            rows = {b: b if held else place for place, b in enumerate(some)}
            prompts = turn.batch.prompts if held else [turn.batch.prompts[b] for b in some]
            unit = Unit(prompts, turn.features, turn.prefix if held else None)
            each = [
                Item(
                    sample=turn.batch.samples[b].id,
                    row=rows[b],
                    number=b * len(turn.groups[b]) + g,
                    completion=completion,
                    advantage=turn.advantages[b, g].item(),
                    scale=scaled[b][g].item(),
                )
                for b in some
                for g, completion in enumerate(turn.groups[b])
                if scaled[b][g] > 0
            ]
            unit.batches.extend(_batch(part, device, turn.kept) for part in _parts(each, recipe.micro_tokens))
            units.append(unit)
    return units


class Item(NamedTuple):
    """A completion that goes into a micro-batch."""

    sample: str
    row: int
    number: int
    """Which it is among all of its round."""
    completion: Completion
    advantage: float
    scale: float


def _parts(each: list[Item], limit: int) -> list[list[Item]]:
    """Runs of at most `limit` tokens, or of one completion."""
    parts: list[list[Item]] = []
    room = 0
    for item in each:
        tokens = len(item.completion.ids)
        if not parts or tokens > room:
            parts.append([])
            room = limit
        parts[-1].append(item)
        room -= tokens
    return parts


def _batch(part: list[Item], device: torch.device, kept: Kept | None) -> MicroBatch:
    """Tensors, padded at the end."""
    samples, rows, numbers, completions, advantages, scales = zip(*part, strict=True)
    ids, mask = padded(completions)  # (N, T), (N, T)
    sampled = torch.zeros(mask.shape)
    sampled[mask] = torch.tensor([logprob for completion in completions for logprob in completion.logprobs])
    parts = (torch.tensor(rows), ids, mask, sampled, torch.tensor(advantages), torch.tensor(scales))
    on_device = [part.to(device) for part in parts]
    replayed = None if kept is None else Replayed(kept, torch.tensor(numbers))
    return MicroBatch(samples, *on_device, replayed=replayed)


@torch.no_grad()
def add_reference(reference: VLM, units: Sequence[Unit], temperature: float, share_features: bool) -> None:
    """The reference's logprobs, its prompts shared as well, and its image features too if it sees as the policy."""
    for unit in units:
        prefix = run_prefix(reference, unit.prompts, unit.features if share_features else None)
        for batch in unit.batches:
            found = continuation_logprobs(reference, prefix, batch.rows, batch.ids, batch.mask, temperature)
            batch.reference = found[0]


def remember(part: MicroBatch, logprobs: Tensor, cap: float | None) -> Tensor:
    """Keep what the step's first update finds, and return the logprobs (N, T) that the step began with."""
    if part.old is None:
        part.old = logprobs.detach()
        part.weights = None if cap is None else importance_weights(part.old, part.sampled, part.mask, cap)
    return part.old


class Seen:
    """What the forwards of an update showed, over the completions that had one."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.not_finite: set[str] = set()
        """Samples with a completion whose loss was not finite."""
        self._kl = self._entropy = 0.0
        self._completions = self._tokens = self._clipped = 0
        self._mismatch = Mismatch()

    def add(self, batch: MicroBatch, logprobs: Tensor, entropy: Tensor, terms: TokenLosses, loss: Tensor) -> None:
        """Add a micro-batch: `loss` is its share of the step's, the others are (N, T)."""
        lengths = batch.mask.sum(dim=1)  # (N,)
        share = loss.item()
        self.loss += share
        if not math.isfinite(share):
            finite = terms.losses.isfinite().all(dim=1).tolist()  # (N,)
            self.not_finite.update(name for name, fine in zip(batch.samples, finite, strict=True) if not fine)
        self._kl += (terms.kl.sum(dim=1) / lengths).sum().item()
        self._entropy += entropy.sum().item()
        self._clipped += int(terms.clipped.sum())
        self._completions += len(lengths)
        self._tokens += int(lengths.sum())
        self._mismatch = add_mismatch(self._mismatch, mismatch(logprobs, batch.sampled, batch.mask))

    def metrics(self, with_kl: bool) -> dict[str, float]:
        """`loss`; `kl` (mean over tokens, then completions), `entropy` (mean over tokens; nats) and `mismatch/...`
        (`losses.mismatch_metrics`) if there are any."""
        if not self._tokens:
            return {"loss": self.loss}
        kl = {"kl": self._kl / self._completions} if with_kl else {}
        return {"loss": self.loss, **kl, "entropy": self._entropy / self._tokens, **mismatch_metrics(self._mismatch)}

    @property
    def share_clipped(self) -> float:
        """Of tokens: those whose gradient the clip took away."""
        return self._clipped / max(self._tokens, 1)
