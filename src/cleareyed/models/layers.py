"""The language model's layers over the model's own weights, with fewer passes over memory than the library's.

Qwen2-VL and Qwen2.5-VL share them (arXiv 2407.10671, section 2.2). On a CPU what stands between the matrix products
takes as long as these do. So projections that read the same states are one product, with the scale of the norm before
them inside it; residuals are added by the product that makes them; norms, gates and the choice of a token have
backwards of their own, which keep little and make few passes; and the two entries of a head that turn by one angle
(M-RoPE, arXiv 2409.12191, section 2.1) stand side by side, as one complex number: attention does not mind the order.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cleareyed.models import fused
from cleareyed.models.attention import attend
from cleareyed.models.fused import Attention, plain


def pairs(size: int) -> Tensor:
    """The order that puts entry i of a head beside entry i + d/2, the two that are turned by one angle: (d,) int64."""
    return torch.arange(size).view(2, -1).T.flatten()


def turning_order(heads: int, turning: int, size: int) -> Tensor:
    """The places (heads * size,) of heads in a row, of which the first so many turn: these in the order of `pairs`."""
    order = torch.arange(heads * size).view(heads, size)
    order[:turning] = order[:turning, pairs(size)]
    return order.flatten()


def turning_angles(language: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (N, T, 1, d / 2) for positions (3, N, T), in the precision of x."""
    cos, sin = language.rotary_emb(x, positions)  # (N, T, d) each, the second half as the first
    half = cos.shape[-1] // 2
    return cos[..., :half][:, :, None].contiguous(), sin[..., :half][:, :, None].contiguous()


def turned(heads: Tensor, angles: Tensor, turning: int, sizes: Sequence[int]) -> Sequence[Tensor]:
    """heads (..., H, d) in groups of `sizes`, the first so many times `angles` (..., 1, d / 2), complex.

    These are in the order of `pairs`. Where heads have no graph, their memory is taken.
    """
    if heads.dtype == torch.float32 and not heads.requires_grad:
        _turn(heads[..., :turning, :], angles)
        groups: Sequence[Tensor] = heads.split(list(sizes), dim=-2)
        return groups
    result: Sequence[Tensor] = _Turned.apply(heads, angles, turning, sizes)  # type: ignore[no-untyped-call]
    return result


class _Turned(torch.autograd.Function):
    """The groups lie side by side in one tensor, and so do their gradients."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, angles: Tensor, turning: int, sizes: Sequence[int]) -> Sequence[Tensor]:
        ctx.save_for_backward(angles)
        ctx.of = heads.dtype, turning
        wide = heads.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        _turn(wide[..., :turning, :], angles)
        groups: Sequence[Tensor] = wide.to(heads.dtype).split(list(sizes), dim=-2)
        return groups

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        [angles] = ctx.saved_tensors
        dtype, turning = ctx.of
        wide = torch.cat([grad.float() for grad in grads], dim=-2)
        _turn(wide[..., :turning, :], angles.conj())
        return wide.to(dtype), None, None, None


def _turn(heads: Tensor, angles: Tensor) -> None:
    torch.view_as_complex(heads.unflatten(-1, (-1, 2))).mul_(angles)


def run_layers(
    language: Any, embeds: Tensor, positions: Tensor, attention: Attention, mask: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """embeds (N, T, D), positions (3, N, T) -> states (N, T, D) after the last norm; by layer keys and values.

    With `mask` (N, T) bool, not the padding on the right, the states are those of each row's last token, (N, D), and
    the last layer makes no others. On a GPU under bf16 autocast the layers are those of `fused`.

    Keys (N, Hkv, T, d) are rotated, the entries of each in the order of `pairs`.
    """
    x = embeds.float()  # the residual stream
    cos, sin = turning_angles(language, x, positions)
    angles = None if fused.wanted(x.device) else torch.complex(cos, sin)
    run = partial(fused.layer, cos=cos, sin=sin) if angles is None else partial(_layer, angles=angles)
    run = last = partial(run, attention=attention)
    if mask is not None and angles is not None:
        last = partial(_last_layer, angles=angles, mask=mask)
    keys, values = [], []
    for layer in language.layers:
        step = last if layer is language.layers[-1] else run
        if layer.gradient_checkpointing and torch.is_grad_enabled():
            x, key, value = checkpoint(step, layer, x, use_reentrant=False)
        else:
            x, key, value = step(layer, x)
        keys.append(key)
        values.append(value)
    if mask is not None:
        x = x[:, 0] if last is not run else _at_end(x, mask)
    return language.norm(x), tuple(keys), tuple(values)


def _layer(layer: Any, x: Tensor, *, angles: Tensor, attention: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """One layer: x (N, T, D) -> x, keys and values (N, Hkv, T, d)."""
    own = layer.self_attn
    queries, shared = own.config.num_attention_heads, own.config.num_key_value_heads
    linears, sizes = (own.q_proj, own.k_proj, own.v_proj), (queries, shared, shared)
    query, key, value = _heads(layer, x, linears, queries + shared, sizes, angles)
    return _behind_attention(layer, x, attention(own, query, key, value)), key, value


def _last_layer(layer: Any, x: Tensor, *, angles: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same of the last layer, whose keys and values are wanted of all tokens, and x (N, 1, D) of the last that
    are in `mask` (N, T)."""
    own = layer.self_attn
    queries, shared = own.config.num_attention_heads, own.config.num_key_value_heads
    key, value = _heads(layer, x, (own.k_proj, own.v_proj), shared, (shared, shared), angles)
    x, angles = (_at_end(part, mask)[:, None] for part in (x, angles))
    [query] = _heads(layer, x, (own.q_proj,), queries, (queries,), angles)
    return _behind_attention(layer, x, attend(own, query, key, value, mask[:, None, None])), key, value


def _at_end(part: Tensor, mask: Tensor) -> Tensor:
    """What part (N, T, ...) holds of the last tokens in mask (N, T): (N, ...)."""
    last = torch.arange(len(mask), device=mask.device) * mask.shape[1] + mask.sum(1) - 1
    return part.flatten(0, 1).index_select(0, last)


def _heads(
    layer: Any, x: Tensor, linears: Sequence[Any], turning: int, sizes: Sequence[int], angles: Tensor
) -> Sequence[Tensor]:
    """What linear layers make of x (N, T, D), normed, in groups of `sizes`: (N, H, T, d) each. The first so many heads
    turn."""
    size = layer.self_attn.head_dim
    order = turning_order(sum(sizes), turning, size).to(x.device)
    heads = _projected(x, layer.input_layernorm, linears, order).unflatten(-1, (-1, size))  # (N, T, H, d)
    return [part.transpose(1, 2) for part in turned(heads, angles, turning, sizes)]


def _behind_attention(layer: Any, x: Tensor, seen: Tensor) -> Tensor:
    """x (N, T, D) behind a layer, from that before it and what its attention gave, (N, T, Hq, d)."""
    mlp = layer.mlp
    x = _added(x, seen.flatten(2), layer.self_attn.o_proj)
    gate_up = _projected(x, layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj), None)  # (N, T, 2 I)
    if mlp.config.hidden_act == "silu":
        gated: Tensor = _Gated.apply(gate_up)  # type: ignore[no-untyped-call]
    else:
        gate, up = gate_up.chunk(2, dim=-1)
        gated = mlp.act_fn(gate) * up
    return _added(x, gated, mlp.down_proj)


def _projected(x: Tensor, norm: Any, linears: Sequence[Any], order: Tensor | None) -> Tensor:
    """x (N, T, D), normed, through linear layers: their outputs side by side, in `order` if given."""
    h = _normed(x, norm)
    if not all(map(plain, linears)):  # some hold adapters
        h = h * norm.weight
        out = torch.cat([linear(h) for linear in linears], dim=-1)
        return out if order is None else out.index_select(-1, order)
    weight = torch.cat([linear.weight for linear in linears]) * norm.weight
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    if order is not None:
        weight, bias = weight[order], None if bias is None else bias[order]
    return product(h, weight, bias)


def _added(x: Tensor, h: Tensor, linear: Any) -> Tensor:
    """x (N, T, D) + linear(h)."""
    if not plain(linear) or linear.bias is not None or torch.is_autocast_enabled(x.device.type):
        result: Tensor = x + linear(h)
        return result
    return torch.addmm(x.flatten(0, 1), h.flatten(0, 1), linear.weight.t()).view(x.shape)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., K) times weight (O, K) transposed, plus bias (O,).

    In float32 with a backward that has the weight's gradient made with its shorter side in rows: MKL is up to a third
    faster so. Of `F.linear` it is the longer one if O > K.
    """
    if weight.shape[0] <= weight.shape[1] or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    result: Tensor = _Widening.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


class _Widening(torch.autograd.Function):
    """x (..., K), weight (O, K), bias (O,) -> (..., O), of which there are more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = grads[0].reshape(-1, weight.shape[0])  # (M, O)
        wanted = ctx.needs_input_grad
        to_x = (gradient @ weight).view(x.shape) if wanted[0] else None
        to_weight = (x.reshape(-1, x.shape[-1]).t() @ gradient).t() if wanted[1] else None
        return to_x, to_weight, gradient.sum(0) if wanted[2] else None


def _normed(x: Tensor, norm: Any) -> Tensor:
    """x / rms(x), without the norm's scale."""
    result: Tensor = _Normed.apply(x, norm.variance_epsilon)  # type: ignore[no-untyped-call]
    return result


class _Normed(torch.autograd.Function):
    """x (..., D) float32 -> x r with r = 1 / sqrt(mean(x^2) + eps)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        scale = over_rms(x, eps)
        result: Tensor = x * scale
        ctx.save_for_backward(result, scale)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return before_norm(grads[0], *ctx.saved_tensors), None


def over_rms(x: Tensor, eps: float) -> Tensor:
    """x (..., D) float32 -> 1 / sqrt(mean(x^2) + eps), (..., 1)."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def before_norm(gradient: Tensor, normed: Tensor, scale: Tensor) -> Tensor:
    """From the gradient of normed = x scale (..., D), where scale is `over_rms(x)`, that of x."""
    share = (gradient * normed).sum(dim=-1, keepdim=True).div_(-normed.shape[-1])
    return torch.addcmul(gradient, normed, share).mul_(scale)


class _Gated(torch.autograd.Function):
    """gate and up (..., 2 I) -> silu(gate) up (..., I), of which only the former is kept."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        [both] = ctx.saved_tensors
        return before_gate(grads[0], both, F.silu(both.chunk(2, dim=-1)[0]))


def before_gate(gradient: Tensor, both: Tensor, lifted: Tensor) -> Tensor:
    """From the gradient of lifted * up (..., I), that of both = gate and up (..., 2 I); lifted is silu(gate)."""
    gate, up = both.chunk(2, dim=-1)
    result = torch.empty_like(both)
    to_gate, to_up = result.chunk(2, dim=-1)
    torch.mul(lifted, gradient, out=to_up)
    torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=to_gate)
    return result


def chosen_logprobs(
    states: Tensor, weight: Tensor, ids: Tensor, banned: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens and entropies, both (M,) in nats, the latter without a graph.

    states (M, D), weight (V, D), ids (M,), banned (K,) int64: tokens that are never drawn.
    """
    result: tuple[Tensor, Tensor] = _Chosen.apply(states, weight, ids, banned, temperature)  # type: ignore[no-untyped-call]
    return result


class _Chosen(torch.autograd.Function):
    """The logits' memory takes the shares (M, V) of all tokens, which the backward turns into the logits' gradient."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, ids: Tensor, banned: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        logits = F.linear(states, weight).index_fill_(1, banned, -torch.inf)  # (M, V)
        logprobs = torch.log_softmax(logits.div_(temperature) if temperature != 1.0 else logits, dim=1)
        shares = torch.exp(logprobs, out=logits)
        chosen = logprobs.gather(1, ids[:, None])[:, 0]
        entropy = logprobs.index_fill_(1, banned, 0.0).mul_(shares).sum(1).neg_()
        ctx.save_for_backward(states, weight, shares, ids, banned)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return chosen, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, shares, ids, banned = ctx.saved_tensors
        gradient = (grads[0] / ctx.temperature)[:, None]  # (M, 1)
        to_logits = shares.mul_(-gradient).scatter_add_(1, ids[:, None], gradient).index_fill_(1, banned, 0.0)
        to_weight = to_logits.t() @ states if ctx.needs_input_grad[1] else None
        return to_logits @ weight, to_weight, None, None, None
