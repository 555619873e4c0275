"""Attention: ordinary, and of completions that continue shared prompts.

Models are loaded with `attn_implementation=NAME`, vision tower and all; what is saved does not show it. Without a
`Behind` it is torch's scaled-dot-product attention. With one, the tokens of all completions stand in one row without
padding; each attends to its prompt's keys, which are there once however many completions continue the prompt, and to
its own completion up to itself. The two parts are computed by torch's fused kernel and joined by their log-sum-exps;
the backward pass hands the joined result to the kernel's own backward, which makes each part's gradient exact (the
decomposition of blockwise attention, Liu et al., arXiv 2310.01889).

Under bf16 autocast the CPU computes attention in fp32: its fused kernel is several times slower in bf16 for short
sequences, while the matrix products around it are faster.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "cleareyed"
"""Under which transformers knows it."""
_forward: Callable[..., tuple[Tensor, Tensor]] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward: Callable[..., tuple[Tensor, Tensor, Tensor]] = (
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
)


@dataclass(frozen=True)
class Behind:
    """What M packed tokens of N completions stand behind: B prompts, and the layouts in which to attend to them.

    The layouts are indices of packed tokens, padded with M; `at_prompt` and `at_own` lead back.
    """

    keys: Sequence[Tensor]  # by layer (B, kv heads, P, d)
    values: Sequence[Tensor]  # by layer (B, kv heads, P, d)
    bias: Tensor | None  # (B, 1, 1, P) fp32: -inf on the prompts' padding; None if there is none
    by_prompt: Tensor  # (B, Q) the tokens behind each prompt
    by_own: Tensor  # (N, T) the tokens of each completion
    at_prompt: Tensor  # (M,) each token's place in `by_prompt`, flat
    at_own: Tensor  # (M,) each token's place in `by_own`, flat


def lay_out(
    keys: Sequence[Tensor], values: Sequence[Tensor], prompt_mask: Tensor, rows: Tensor, lengths: Tensor
) -> Behind:
    """The layouts for N completions with `lengths` (N,) packed tokens each, in order, behind the prompts `rows` (N,).

    keys, values: by layer (B, kv heads, P, d); prompt_mask (B, P) bool.
    """
    device, count = rows.device, int(lengths.sum())
    owner = torch.repeat_interleave(torch.arange(len(rows), device=device), lengths)  # (M,)
    starts = lengths.cumsum(0) - lengths  # (N,)
    step = torch.arange(count, device=device) - starts[owner]  # (M,) place in its completion
    at_own = owner * max(int(lengths.max()), 1) + step
    prompt = rows[owner]  # (M,)
    order = torch.argsort(prompt, stable=True)
    behind = torch.bincount(prompt, minlength=len(prompt_mask))  # (B,)
    widest = max(int(behind.max()), 1)
    first = behind.cumsum(0) - behind  # (B,)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(count, device=device)
    at_prompt = prompt * widest + rank - first[prompt]
    tokens = torch.arange(count, device=device)
    by_prompt = torch.full((len(prompt_mask) * widest,), count, device=device).scatter(0, at_prompt, tokens)
    by_own = torch.full((len(rows) * max(int(lengths.max()), 1),), count, device=device).scatter(0, at_own, tokens)
    bias = None
    if not bool(prompt_mask.all()):
        bias = torch.zeros(prompt_mask.shape, device=device).masked_fill(~prompt_mask, -torch.inf)[:, None, None]
    return Behind(
        keys, values, bias, by_prompt.view(len(prompt_mask), -1), by_own.view(len(rows), -1), at_prompt, at_own
    )


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    behind: Behind | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The interface of transformers: (1 or N, heads, T, d) to (1 or N, T, heads, d)."""
    on_cpu = query.device.type == "cpu"
    with torch.autocast(query.device.type, enabled=False):
        q, k, v = (part.float() if on_cpu else part for part in (query, key, value))
        if behind is None:
            output, _ = sdpa_attention_forward(module, q, k, v, attention_mask, **kwargs)
        else:
            layer: int = module.layer_idx  # type: ignore[assignment]
            past = (part[layer].to(q.dtype) for part in (behind.keys, behind.values))
            tokens = (part[0].transpose(0, 1) for part in (q, k, v))  # each (M, heads, d)
            output = _SharedPrefix.apply(*tokens, *past, behind)[None]  # type: ignore[no-untyped-call]
    return output.to(query.dtype), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


class _SharedPrefix(torch.autograd.Function):
    """q (M, H, d), k and v (M, K, d), prompts' keys and values (B, K, P, d) -> (M, H, d)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, behind: Behind) -> Tensor:
        wide, own = _by_prompt(q, behind, k.shape[1]), [_by_own(part, behind, q.shape[1]) for part in (q, k, v)]
        first, first_height = _forward(wide, keys, values, attn_mask=behind.bias)
        second, second_height = _forward(*own, is_causal=True)
        first, first_height = _packed(first, first_height, behind, q.shape[1])
        second, second_height = second.transpose(1, 2), second_height.transpose(1, 2)  # (N, T, H, d), (N, T, H)
        second, second_height = (part.flatten(0, 1)[behind.at_own] for part in (second, second_height))
        height = torch.logaddexp(first_height, second_height)  # (M, H)
        output: Tensor = first * (first_height - height).exp()[..., None]
        output = output + second * (second_height - height).exp()[..., None]
        ctx.save_for_backward(q, k, v, keys, values, output, height)
        ctx.behind = behind
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, keys, values, output, height = ctx.saved_tensors
        behind: Behind = ctx.behind
        heads, shared = q.shape[1], k.shape[1]
        gradient = grads[0].contiguous()
        wide = [_by_prompt(part, behind, shared) for part in (gradient, q, output)]
        tall = _by_prompt(height[..., None], behind, shared)[..., 0]
        dq_wide, dkeys, dvalues = _backward(
            wide[0], wide[1], keys, values, wide[2], _rows_first(tall), 0.0, False, attn_mask=behind.bias
        )
        own = [_by_own(part, behind, heads) for part in (gradient, q, k, v, output)]
        tall = _by_own(height[..., None], behind, heads)[..., 0]
        dq_own, dk, dv = _backward(*own, _rows_first(tall), 0.0, True)
        dq = _packed(dq_wide, None, behind, heads)[0] + dq_own.transpose(1, 2).flatten(0, 1)[behind.at_own]
        dk, dv = (
            part.transpose(1, 2).flatten(0, 1)[behind.at_own].unflatten(1, (shared, heads // shared)).sum(2)
            for part in (dk, dv)
        )
        return dq, dk, dv, dkeys, dvalues, None


def _padded(part: Tensor, index: Tensor) -> Tensor:
    """(M, H, d) at the places of `index` (R, C): (R, C, H, d), zeros where padded."""
    return torch.cat([part, part.new_zeros(1, *part.shape[1:])])[index]


def _by_own(part: Tensor, behind: Behind, heads: int) -> Tensor:
    """(M, H or K, d) to (N, H, T, d), each key head repeated for the query heads that share it."""
    laid: Tensor = _padded(part, behind.by_own).transpose(1, 2)  # (N, H or K, T, d)
    return laid if laid.shape[1] == heads else laid.repeat_interleave(heads // laid.shape[1], dim=1)


def _by_prompt(part: Tensor, behind: Behind, shared: int) -> Tensor:
    """(M, H, d) to (B, K, H / K * Q, d): the heads that share keys follow one another, so that no key is repeated."""
    laid = _padded(part, behind.by_prompt)  # (B, Q, H, d)
    prompts, length, heads, size = laid.shape
    split = laid.view(prompts, length, shared, heads // shared, size).permute(0, 2, 3, 1, 4)  # (B, K, H / K, Q, d)
    return split.reshape(prompts, shared, -1, size)


def _packed(part: Tensor, height: Tensor | None, behind: Behind, heads: int) -> tuple[Tensor, Tensor]:
    """The way back from `_by_prompt`: (B, K, H / K * Q, d) and (B, K, H / K * Q) to (M, H, d) and (M, H)."""
    shared, length = part.shape[1], behind.by_prompt.shape[1]

    def back(laid: Tensor) -> Tensor:
        rest = laid.shape[3:]
        split = laid.view(len(laid), shared, heads // shared, length, *rest).movedim(3, 1)  # (B, Q, K, H / K, ...)
        return split.reshape(-1, heads, *rest)[behind.at_prompt]

    return back(part), part if height is None else back(height)


def _rows_first(height: Tensor) -> Tensor:
    """(B, H, Q) in the memory order that the kernel's forward gives it."""
    return height.transpose(1, 2).contiguous().transpose(1, 2)
