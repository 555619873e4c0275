"""From rewards and log-probabilities to the loss: advantages, clipped surrogates, KL penalty, weights, mismatch.

Plain tensors in and out, no model. A step's loss is

    sum over completions n of scale[n] * (sum over tokens t of loss[n, t])

with `scale` from `row_scales`, which counts over the whole step, and `loss` from `token_losses`. So it is a plain sum
over micro-batches, however the step is split into them.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cleareyed.recipe import LossSpec

STD_FLOOR = 1e-4
"""Added to a group's standard deviation before dividing by it, as in the code of VisualThinker-R1-Zero."""


def group_advantages(totals: Tensor, kind: Literal["grpo", "dr-grpo", "rloo"]) -> Tensor:
    """How much better each completion is than its group; exactly 0 in a group whose rewards are all equal.

    - grpo: (r - mean) / (std + 1e-4) with the sample standard deviation (arXiv 2402.03300, section 4.1.2).
    - dr-grpo: r - mean (arXiv 2503.20783, section 3.2).
    - rloo: r - mean of the group's other rewards (arXiv 2402.14740).

    Args:
        totals: (B, G) rewards, G at least 2.

    Returns:
        (B, G), in the dtype of `totals`.
    """
    signal = (totals != totals[:, :1]).any(dim=1, keepdim=True)  # (B, 1)
    if kind == "rloo":
        others = (totals.sum(dim=1, keepdim=True) - totals) / (totals.shape[1] - 1)  # (B, G)
        advantages = totals - others
    else:
        advantages = totals - totals.mean(dim=1, keepdim=True)  # (B, G)
        if kind == "grpo":
            advantages = advantages / (totals.std(dim=1, keepdim=True) + STD_FLOOR)
    return torch.where(signal, advantages, torch.zeros_like(advantages))


def row_scales(
    lengths: Tensor, kept: Tensor, aggregate: Literal["sequence", "token", "constant"], max_tokens: int
) -> Tensor:
    """The weight of each token of each completion in the step's loss.

    Both arguments are about all completions of the step, those of groups without signal included.

    - sequence: 1 / (own tokens * kept completions), GRPO (arXiv 2402.03300, equation 3).
    - token: 1 / tokens of the kept completions, DAPO (arXiv 2503.14476, section 3.3).
    - constant: 1 / (kept completions * max_tokens), Dr. GRPO (arXiv 2503.20783, section 3.2).

    Args:
        lengths: (N,) tokens of each completion.
        kept: (N,) bool, False for completions that are left out of the loss.
        max_tokens: the longest completion that sampling allows.

    Returns:
        (N,) float64, 0 where not kept.
    """
    count = kept.sum()
    if aggregate == "sequence":
        denominators = lengths * count  # (N,)
    elif aggregate == "token":
        denominators = (lengths * kept).sum().expand_as(lengths)
    else:
        denominators = (count * max_tokens).expand_as(lengths)
    return kept / denominators.clamp(min=1).double()  # a denominator of 0 belongs to a row without a kept token


@dataclass(frozen=True)
class TokenLosses:
    """The loss of each token of N completions of up to T tokens, before it is weighed by `row_scales`."""

    losses: Tensor  # (N, T) with graph, 0 where masked
    kl: Tensor  # (N, T) nats, without graph, 0 where masked or without a reference
    clipped: Tensor  # (N, T) bool: the clip took the policy term's gradient away


def token_losses(
    logprobs: Tensor,
    old: Tensor,
    reference: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    spec: LossSpec,
    beta: float,
    weights: Tensor | None = None,
) -> TokenLosses:
    """The clipped surrogate and the KL penalty: weight * -min(min(r, ceiling) * A, clip(r) * A) + beta * KL.

    The ratio r is exp(logprobs - old) of each token (PPO, arXiv 1707.06347, equation 7), or for all tokens of a
    completion the exponential of its mean (GSPO, arXiv 2507.18071, equation 7). It is clipped to
    [1 - clip_low, 1 + clip_high] (clip-higher: arXiv 2503.14476, section 3.1). `clip_ceiling` bounds it for negative
    advantages as well (two-sided clipping: arXiv 2505.07291; dual-clip PPO: arXiv 1912.09729). On the first update r
    is 1 and carries the gradient.

    KL(policy || reference) of each token is estimated at the token drawn, with d = reference - logprobs, by
    k1 = -d, k2 = d^2 / 2 or k3 = exp(d) - 1 - d (Schulman, "Approximating KL divergence", 2020). The gradient is that
    of the estimate: on-policy its mean is 0 for k1, the gradient of KL(policy || reference) for k2, and that of
    KL(reference || policy) for k3.

    What stands in masked places, not a number included, reaches neither losses nor gradients.

    Args:
        logprobs: (N, T) under the policy, with graph.
        old: (N, T) under the policy that the step began with; `logprobs.detach()` on the first update.
        reference: (N, T) under the reference, None for no penalty.
        advantages: (N,).
        mask: (N, T) bool, True on a completion's tokens, its ending token included.
        beta: weight of the KL penalty.
        weights: (N, T) of `importance_weights`, for the surrogate only.
    """
    padding = ~mask
    logprobs = logprobs.masked_fill(padding, 0.0)  # (N, T)
    log_ratio = logprobs - old.detach().masked_fill(padding, 0.0)  # (N, T)
    if spec.ratio == "sequence":
        lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)  # (N, 1)
        log_ratio = (log_ratio.sum(dim=1, keepdim=True) / lengths).expand_as(logprobs)
    gains, clipped = _surrogate(log_ratio, advantages[:, None].to(logprobs.dtype), spec)  # (N, T)
    if weights is not None:
        gains = gains * weights.detach()

    losses, kl = -gains, torch.zeros_like(logprobs)
    if reference is not None:
        distance = reference.detach().masked_fill(padding, 0.0) - logprobs  # (N, T)
        kl = _divergence(distance, spec.kl)
        losses = losses + beta * kl
    return TokenLosses(losses.masked_fill(padding, 0.0), kl.detach(), clipped & mask)


def _surrogate(log_ratio: Tensor, advantages: Tensor, spec: LossSpec) -> tuple[Tensor, Tensor]:
    """log_ratio (N, T), advantages (N, 1) -> gains (N, T) with graph, clipped (N, T) bool."""
    low, high, ceiling = 1 - spec.clip_low, 1 + spec.clip_high, spec.clip_ceiling or math.inf
    with torch.no_grad():
        ratio = log_ratio.exp()
        capped, inside = ratio.clamp(max=ceiling), ratio.clamp(low, high)
        # The smaller product with a positive advantage is that of the smaller ratio, with a negative of the larger.
        counts = torch.where(advantages >= 0, torch.minimum(capped, inside), torch.maximum(capped, inside))
        bounded = counts != ratio
    # A bounded ratio is kept out of exp, where one beyond all floats would turn a gradient of 0 into NaN.
    free = log_ratio.masked_fill(bounded, 0.0).exp()
    return torch.where(bounded, counts, free) * advantages, bounded & (advantages != 0)


def _divergence(distance: Tensor, kind: Literal["k1", "k2", "k3"]) -> Tensor:
    """Estimates of KL(p || q) at tokens drawn from p, from distance = log q - log p."""
    if kind == "k1":
        return -distance
    if kind == "k2":
        return distance.square() / 2
    return torch.expm1(distance) - distance


def importance_weights(policy: Tensor, sampled: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Truncated importance weights min(policy / sampled probability, cap) of each token (Ionides, 2008).

    Args:
        policy: (N, T) logprobs under the policy that the step began with, as the training forward computes them.
        sampled: (N, T) logprobs as the sampler reported them.
        mask: (N, T) bool.
        cap: the largest weight.

    Returns:
        (N, T), without graph, finite where masked.
    """
    return (policy.detach() - sampled).masked_fill(~mask, 0.0).exp().clamp(max=cap)


@dataclass(frozen=True)
class Mismatch:
    """How far the logprobs at which completions were sampled are from those they are trained at; `Mismatch()` is 0."""

    tokens: int = 0
    completions: int = 0
    sum_k3: float = 0.0
    """Over tokens, nats."""
    largest_gap: float = 0.0
    """Of a token, nats."""
    log_sum_w: float = -math.inf
    """Logarithm of the sum of the completions' weights: long completions have weights beyond any float."""
    log_sum_w2: float = -math.inf
    """Logarithm of the sum of their squares."""


def mismatch(policy: Tensor, sampled: Tensor, mask: Tensor) -> Mismatch:
    """The mismatch of a micro-batch: policy, sampled (N, T) logprobs, mask (N, T) bool. Rows without tokens don't
    count."""
    counted = mask.any(dim=1)  # (N,)
    gaps = (policy.detach() - sampled).masked_fill(~mask, 0.0)[counted].double()  # (n, T)
    if not gaps.numel():
        return Mismatch()
    log_weights = gaps.sum(dim=1)  # (n,)
    return Mismatch(
        tokens=int(mask.sum()),
        completions=len(gaps),
        sum_k3=_divergence(gaps, "k3").sum().item(),
        largest_gap=gaps.abs().max().item(),
        log_sum_w=log_weights.logsumexp(dim=0).item(),
        log_sum_w2=(2 * log_weights).logsumexp(dim=0).item(),
    )


def add_mismatch(a: Mismatch, b: Mismatch) -> Mismatch:
    """The mismatch of two micro-batches together."""
    return Mismatch(
        tokens=a.tokens + b.tokens,
        completions=a.completions + b.completions,
        sum_k3=a.sum_k3 + b.sum_k3,
        largest_gap=max(a.largest_gap, b.largest_gap),
        log_sum_w=_log_add(a.log_sum_w, b.log_sum_w),
        log_sum_w2=_log_add(a.log_sum_w2, b.log_sum_w2),
    )


def mismatch_metrics(total: Mismatch) -> dict[str, float]:
    """`mismatch/...` for the record; empty without tokens.

    - kl: KL(sampler || policy) in nats per token, by k3, whose mean is right because the sampler drew the tokens.
    - largest_ratio: over tokens, of the larger to the smaller of the two probabilities.
    - largest_gap: its logarithm, nats.
    - ess: effective sample size (sum w)^2 / sum w^2 (Kish, 1965) of the completions' weights w = policy / sampled
      probability, as a share of their number: 1 where both agree.
    """
    if not total.tokens:
        return {}
    return {
        "mismatch/kl": total.sum_k3 / total.tokens,
        "mismatch/largest_ratio": math.exp(total.largest_gap) if total.largest_gap < 700 else math.inf,
        "mismatch/largest_gap": total.largest_gap,
        "mismatch/ess": math.exp(2 * total.log_sum_w - total.log_sum_w2) / total.completions,
    }


def _log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    return float(np.logaddexp(a, b))
