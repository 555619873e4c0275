"""Is the forward that a run trains with right here, on this model and machine? Asked at the start of every run."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cleareyed.errors import InputError
from cleareyed.models.forward import continuation_logprobs, plain_logprobs, run_prefix
from cleareyed.models.kept import Replayed
from cleareyed.models.vlm import VLM, Completion, EncodedPrompt, padded

FP32_LIMIT = 1e-4
"""Largest difference of a token's logprob, nats."""
BF16_LIMIT = 0.02
"""Mean difference of the tokens' logprobs, nats."""


@torch.no_grad()
def check_engine(
    vlm: VLM,
    prompt: EncodedPrompt,
    completions: Sequence[Completion],
    temperature: float,
    replayed: Replayed | None = None,
) -> dict[str, float]:
    """Compare the logprobs of some completions of a prompt with those of the library's own, plain forward.

    With `replayed`, what sampling has kept of them is compared as well: the update goes on from it. Returns `largest`
    and `mean`, the differences in nats.

    Raises:
        InputError: they differ by more than FP32_LIMIT (the largest), or BF16_LIMIT under bf16 autocast (the mean).
    """
    rows = torch.zeros(len(completions), dtype=torch.int64, device=vlm.device)
    ids, mask = (part.to(vlm.device) for part in padded(completions))  # (N, T), (N, T)
    prefix = run_prefix(vlm, [prompt])
    roads = [None] if replayed is None else [None, replayed]
    found = [continuation_logprobs(vlm, prefix, rows, ids, mask, temperature, replayed=road)[0] for road in roads]
    plain = [
        plain_logprobs(vlm, prompt, torch.tensor(completion.ids, dtype=torch.int64), temperature)
        for completion in completions
    ]
    gaps = [compare(vlm, logprobs[mask], torch.cat(plain)) for logprobs in found]
    return {name: max(gap[name] for gap in gaps) for name in gaps[0]}


def compare(vlm: VLM, ours: Tensor, plain: Tensor) -> dict[str, float]:
    """What `check_engine` returns and raises, of logprobs (M,) that a forward of ours and the library's own gave."""
    gaps = (ours - plain).abs()
    largest, mean = gaps.max().item(), gaps.mean().item()
    gap, limit = (mean, BF16_LIMIT) if vlm.autocast else (largest, FP32_LIMIT)
    if not gap <= limit:
        kind = "mean difference, bf16" if vlm.autocast else "largest difference, fp32"
        raise InputError(
            f"{vlm.name}: the shared forward and the library's own disagree on logprobs by {gap:.2g} ({kind}; at "
            f"most {limit:g} is accepted); this model or version of transformers cannot be trained here"
        )
    return {"largest": largest, "mean": mean}
