"""Attention of completions to shared prompts on a GPU: the tokens of all stand in one row, without padding or copies.

As in `attention.attend_behind`, but torch's flash kernel takes rows of different lengths by where they start: each
token attends to its prompt's keys and to its own completion up to itself, and the two parts are joined by their
log-sum-exps; handed the joined result, the kernel's own backward makes each part's gradient exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cleareyed.models import fused

_forward: Callable[..., tuple[Tensor, ...]] = torch.ops.aten._flash_attention_forward
_backward: Callable[..., tuple[Tensor, Tensor, Tensor]] = torch.ops.aten._flash_attention_backward


@dataclass(frozen=True)
class Rows:
    """Where sequences start in a row of tokens."""

    starts: Tensor  # (R + 1,) int32
    longest: int


@dataclass(frozen=True)
class PackedBehind:
    """What M packed tokens of N completions stand behind: prompts with S real tokens in all."""

    keys: Sequence[Tensor]  # by layer (B, kv heads, P, d)
    values: Sequence[Tensor]  # by layer (B, kv heads, P, d)
    real: Tensor  # (S,) places of the prompts' tokens among all B * P
    prompts: Rows
    behind: Rows  # the tokens behind each prompt
    own: Rows  # the tokens of each completion
    order: tuple[Tensor, Tensor] | None  # (M,) twice: tokens in order of prompt and the way back, if they aren't so


def pack(
    keys: Sequence[Tensor], values: Sequence[Tensor], prompt_mask: Tensor, rows: Tensor, lengths: Tensor
) -> PackedBehind:
    """For N completions with `lengths` (N,) packed tokens each, in order, behind the prompts `rows` (N,).

    keys, values: by layer (B, kv heads, P, d); prompt_mask (B, P) bool.
    """
    prompt = torch.repeat_interleave(rows, lengths)  # (M,)
    order = None
    if not bool((rows[1:] >= rows[:-1]).all()):
        there = torch.argsort(prompt, stable=True)
        order = there, torch.argsort(there)
    return PackedBehind(
        keys,
        values,
        prompt_mask.flatten().nonzero()[:, 0],
        _rows(prompt_mask.sum(1)),
        _rows(torch.bincount(prompt, minlength=len(prompt_mask))),
        _rows(lengths),
        order,
    )


def _rows(lengths: Tensor) -> Rows:
    starts = torch.zeros(len(lengths) + 1, dtype=torch.int32, device=lengths.device)
    starts[1:] = lengths.cumsum(0)
    return Rows(starts, int(lengths.max()))


def attend_packed(behind: PackedBehind, module: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of M packed tokens, bf16: (1, Hq, M, d), twice (1, Hkv, M, d) -> (1, M, Hq, d)."""
    tokens = (part[0].transpose(0, 1) for part in (query, key, value))  # each (M, heads, d)
    past = (
        part[module.layer_idx].transpose(1, 2).flatten(0, 1).index_select(0, behind.real)
        for part in (behind.keys, behind.values)
    )  # each (S, kv heads, d)
    output: Tensor = _PackedPrefix.apply(*tokens, *past, behind)[None]  # type: ignore[no-untyped-call]
    return output


class _PackedPrefix(torch.autograd.Function):
    """q (M, H, d), k and v (M, K, d), prompts' keys and values (S, K, d) -> (M, H, d)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, behind: PackedBehind
    ) -> Tensor:
        first, first_height, *rest = _flash(_there(behind, q), keys, values, behind.behind, behind.prompts, False)
        second, second_height, *_ = _flash(q, k, v, behind.own, behind.own, True)
        parts = _back(behind, first), _back(behind, first_height, 1), second, second_height
        output: Tensor
        output, height = fused.run(_together, *parts)
        ctx.save_for_backward(q, k, v, keys, values, output, height, rest[0], rest[1])
        ctx.behind = behind
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, keys, values, output, height, *state = ctx.saved_tensors
        behind: PackedBehind = ctx.behind
        gradient = grads[0].contiguous()
        dq_first, dkeys, dvalues = _flash_back(
            _there(behind, gradient),
            _there(behind, q),
            keys,
            values,
            _there(behind, output),
            _there(behind, height, 1),
            behind.behind,
            behind.prompts,
            False,
            state,
        )
        dq, dk, dv = _flash_back(gradient, q, k, v, output, height, behind.own, behind.own, True, state)
        return _back(behind, dq_first).add_(dq), dk, dv, dkeys, dvalues, None


def _there(behind: PackedBehind, part: Tensor, dim: int = 0) -> Tensor:
    """What the packed tokens have, along `dim`, in order of prompt."""
    return part if behind.order is None else part.index_select(dim, behind.order[0])


def _back(behind: PackedBehind, part: Tensor, dim: int = 0) -> Tensor:
    return part if behind.order is None else part.index_select(dim, behind.order[1])


def _together(first: Tensor, first_height: Tensor, second: Tensor, second_height: Tensor) -> tuple[Tensor, Tensor]:
    """Two parts (M, H, d) of an attention, by their log-sum-exps (H, M): the whole, and its own."""
    top = torch.maximum(first_height, second_height)
    height = top + torch.log(torch.exp(first_height - top) + torch.exp(second_height - top))  # (H, M)
    shares = (torch.exp(part - height).T[..., None] for part in (first_height, second_height))  # (M, H, 1)
    output = first.float() * next(shares) + second.float() * next(shares)
    return output.to(first.dtype), height


def _flash(
    q: Tensor, k: Tensor, v: Tensor, queries: Rows, keys: Rows, causal: bool, **more: Any
) -> tuple[Tensor, ...]:
    """Output (M, H, d), log-sum-exp (H, M), and the two that the backward wants back; `more` for the kernel."""
    sizes = queries.starts, keys.starts, queries.longest, keys.longest
    return _forward(q, k, v, *sizes, 0.0, causal, return_debug_mask=False, **more)


def _flash_back(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    output: Tensor,
    height: Tensor,
    queries: Rows,
    keys: Rows,
    causal: bool,
    state: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    sizes = queries.starts, keys.starts, queries.longest, keys.longest
    return _backward(gradient, q, k, v, output, height, *sizes, 0.0, causal, *state)
