"""Attention: ordinary, and of completions that continue shared prompts.

Models are loaded with `attn_implementation=NAME`, vision tower and all; what is saved does not show it. That is
torch's scaled-dot-product attention. `attend_behind` is for completions on a CPU: the tokens of all stand in one row
without padding; each attends to its prompt's keys, which are there once however many completions continue the prompt,
and to its own completion up to itself. The two parts are computed by torch's fused kernel and joined by their
log-sum-exps; the backward pass hands the joined result to the kernel's own backward, which makes each part's gradient
exact (the decomposition of blockwise attention, Liu et al., arXiv 2310.01889).

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
    """What M packed tokens of N completions stand behind: B prompts, and the layouts in which to attend to them."""

    keys: Sequence[Tensor]  # by layer (B, kv heads, P, d)
    values: Sequence[Tensor]  # by layer (B, kv heads, P, d)
    bias: Tensor | None  # (B, 1, 1, P) fp32: -inf on the prompts' padding; None if there is none
    prompt_shape: tuple[int, int]  # (B, Q): the tokens behind each prompt, padded
    own_shape: tuple[int, int]  # (N, T): the tokens of each completion, padded
    at_prompt: Tensor | None  # (M,) each token's place in the first layout, counted through; None if in order and full
    at_own: Tensor | None  # (M,) the same of the second


def lay_out(
    keys: Sequence[Tensor], values: Sequence[Tensor], prompt_mask: Tensor, rows: Tensor, lengths: Tensor
) -> Behind:
    """The layouts for N completions with `lengths` (N,) packed tokens each, in order, behind the prompts `rows` (N,).

    keys, values: by layer (B, kv heads, P, d); prompt_mask (B, P) bool.
    """
    device, count = rows.device, int(lengths.sum())
    tokens = torch.arange(count, device=device)  # (M,)
    owner = torch.repeat_interleave(torch.arange(len(rows), device=device), lengths)  # (M,)
    starts = lengths.cumsum(0) - lengths  # (N,)
    own_shape = (len(rows), max(int(lengths.max()), 1))
    at_own = owner * own_shape[1] + tokens - starts[owner]
    prompt = rows[owner]  # (M,)
    order = torch.argsort(prompt, stable=True)
    behind = torch.bincount(prompt, minlength=len(prompt_mask))  # (B,)
    first = behind.cumsum(0) - behind  # (B,)
    rank = torch.empty_like(order)
    rank[order] = tokens
    prompt_shape = (len(prompt_mask), max(int(behind.max()), 1))
    at_prompt = prompt * prompt_shape[1] + rank - first[prompt]

    def places(at: Tensor, shape: tuple[int, int]) -> Tensor | None:
        return None if count == shape[0] * shape[1] and torch.equal(at, tokens) else at

    bias = None
    if not bool(prompt_mask.all()):
        bias = torch.zeros(prompt_mask.shape, device=device).masked_fill(~prompt_mask, -torch.inf)[:, None, None]
    return Behind(
        keys, values, bias, prompt_shape, own_shape, places(at_prompt, prompt_shape), places(at_own, own_shape)
    )


def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Ordinary attention: queries (N, Hq, T, d), keys and values (N, Hkv, S, d) -> (N, T, Hq, d).

    mask (N, 1, T, S) bool says what each token sees; without it, if the module is causal, what came before it.
    """
    return _attend(module, query, key, value, mask)[0]


def attend_behind(behind: Behind, module: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of M packed tokens to what they stand behind: (1, Hq, M, d), twice (1, Hkv, M, d) -> (1, M, Hq, d)."""
    with torch.autocast(query.device.type, enabled=False):
        past = (part[module.layer_idx].float() for part in (behind.keys, behind.values))
        tokens = (part[0].transpose(0, 1).float() for part in (query, key, value))  # each (M, heads, d)
        output: Tensor = _SharedPrefix.apply(*tokens, *past, behind)[None]  # type: ignore[no-untyped-call]
    return output.to(query.dtype)


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The interface of transformers: (N, heads, T, d) to (N, T, heads, d)."""
    on_cpu = query.device.type == "cpu"
    with torch.autocast(query.device.type, enabled=False):
        q, k, v = (part.float() if on_cpu else part.to(value.dtype) for part in (query, key, value))
        output, _ = sdpa_attention_forward(module, q, k, v, attention_mask, **kwargs)
    return output.to(query.dtype), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


class _SharedPrefix(torch.autograd.Function):
    """q (M, H, d), k and v (M, K, d), prompts' keys and values (B, K, P, d) -> (M, H, d)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, behind: Behind) -> Tensor:
        of_prompt = _forward(_by_prompt(q, behind), keys, values, attn_mask=behind.bias)
        of_own = _forward(*(_by_own(part, behind) for part in (q, k, v)), is_causal=True)
        first, first_height = (_taken(part, behind.at_prompt) for part in of_prompt)  # (M, H, d), (M, H)
        second, second_height = (_taken(part, behind.at_own) for part in of_own)
        height = torch.logaddexp(first_height, second_height)  # (M, H)
        output: Tensor = first.mul_(first_height.sub_(height).exp_()[..., None])
        output.addcmul_(second, (second_height - height).exp_()[..., None])
        ctx.save_for_backward(q, k, v, keys, values, output, height)
        ctx.behind = behind
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, keys, values, output, height = ctx.saved_tensors
        gradient = grads[0].contiguous()
        return *gradients_behind(gradient, q, k, v, keys, values, output, height, ctx.behind), None


def gradients_behind(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    output: Tensor,
    height: Tensor,
    behind: Behind,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """From the gradient of `output` (M, H, d), which attention gave, those of q, k, v, keys and values.

    q (M, H, d), k and v (M, K, d), prompts' keys and values (B, K, P, d); height (M, H) the log-sum-exps of the
    scores, which are q k times `scale`, 1/sqrt(d) if left out.
    """
    above, asked, seen, tall = (_by_prompt(part, behind) for part in (gradient, q, output, height))
    dq_wide, dkeys, dvalues = _backward(
        above, asked, keys, values, seen, tall, 0.0, False, attn_mask=behind.bias, scale=scale
    )
    own = [_by_own(part, behind) for part in (gradient, q, k, v, output, height)]
    dq, dk, dv = (_taken(part, behind.at_own) for part in _backward(*own, 0.0, True, scale=scale))
    return dq.add_(_taken(dq_wide, behind.at_prompt)), dk, dv, dkeys, dvalues


def _by_prompt(part: Tensor, behind: Behind) -> Tensor:
    """(M, H, ...) to (B, H, Q, ...)."""
    return _placed(part, behind.at_prompt, behind.prompt_shape)


def _by_own(part: Tensor, behind: Behind) -> Tensor:
    """(M, H, ...) to (N, H, T, ...)."""
    return _placed(part, behind.at_own, behind.own_shape)


def _placed(part: Tensor, places: Tensor | None, shape: tuple[int, int]) -> Tensor:
    """(M, H, ...) at its `places` in rows and columns (R, C): (R, H, C, ...), zeros where padded. No places: in order.

    In memory heads stay innermost, as the kernel has them itself.
    """
    if places is not None:
        part = part.new_zeros(shape[0] * shape[1], *part.shape[1:]).index_copy_(0, places, part)
    return part.view(*shape, *part.shape[1:]).transpose(1, 2)


def _taken(part: Tensor, places: Tensor | None) -> Tensor:
    """The way back from `_placed`."""
    part = part.transpose(1, 2).flatten(0, 1)
    return part if places is None else part.index_select(0, places)
