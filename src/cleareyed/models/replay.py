"""The backward pass of completions whose forward sampling has done (`kept`): through the layers by hand.

The same gradients as those of `layers`, from the same stages: what is read here was computed by the decoder with the
same weights. Rows go through the gates in pieces that stay in the core's own cache.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cleareyed.models.attention import Behind, gradients_behind
from cleareyed.models.kept import Kept, KeptLayer
from cleareyed.models.layers import before_gate, before_norm, over_rms, turning_angles, turning_order

PIECE = 512
"""Rows that go through the gates at a time."""


def replay(language: Any, embeds: Tensor, positions: Tensor, behind: Behind, kept: Kept, rows: Tensor) -> Tensor:
    """States (M, D) after the last norm of M packed tokens, as kept, with a graph.

    embeds (M, D) and positions (M,) of the tokens, `rows` (M,) where they are kept.
    """
    angles = torch.complex(*turning_angles(language, embeds, positions.expand(3, 1, -1)))[0]  # (M, 1, d / 2)
    weights = [weight for layer in language.layers for weight in _weights(layer)]
    states: Tensor = _Layers.apply(
        embeds, *behind.keys, *behind.values, *weights, language, angles, behind, kept, rows
    )  # type: ignore[no-untyped-call]
    result: Tensor = language.norm(states[None])[0]
    return result


def _weights(layer: Any) -> tuple[Tensor | None, ...]:
    own, mlp = layer.self_attn, layer.mlp
    inner = (own.q_proj, own.k_proj, own.v_proj)
    return (
        layer.input_layernorm.weight,
        *(part.weight for part in inner),
        *(part.bias for part in inner),
        own.o_proj.weight,
        layer.post_attention_layernorm.weight,
        mlp.gate_proj.weight,
        mlp.up_proj.weight,
        mlp.down_proj.weight,
    )


class _Layers(torch.autograd.Function):
    """embeds (M, D); by layer keys, values (B, Hkv, P, d) and weights -> the residual stream behind them (M, D)."""

    @staticmethod
    def forward(ctx: Any, embeds: Tensor, *others: Any) -> Tensor:
        *_, language, angles, behind, kept, rows = others
        ctx.save_for_backward(embeds)
        ctx.rest = language, angles, behind, kept, rows
        result: Tensor = kept.layers[-1].after.index_select(0, rows)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        language, angles, behind, kept, rows = ctx.rest
        [embeds] = ctx.saved_tensors
        count = len(language.layers)
        keys, values, weights = [], [], []
        g = grads[0]  # (M, D)
        for index in reversed(range(count)):
            layer, held = language.layers[index], kept.layers[index]
            before = kept.layers[index - 1].after.index_select(0, rows) if index else embeds
            g, of_keys, of_values, of_weights = _layer(layer, g, before, held, angles, behind, rows)
            keys.append(of_keys)
            values.append(of_values)
            weights.append(of_weights)
        flat = [grad for found in reversed(weights) for grad in found]
        return g, *reversed(keys), *reversed(values), *flat, None, None, None, None, None


def _layer(
    layer: Any, g: Tensor, before: Tensor, held: KeptLayer, angles: Tensor, behind: Behind, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor, Sequence[Tensor | None]]:
    """From the gradient (M, D) behind a layer: that before it, of the prompts' keys and values, and of `_weights`."""
    g, of_gates = _gates(layer, g, held, rows)
    g, of_keys, of_values, of_attention = _attention(layer, g, before, held, angles, behind, rows)
    return g, of_keys, of_values, (*of_attention, *of_gates)


def _gates(layer: Any, g: Tensor, held: KeptLayer, rows: Tensor) -> tuple[Tensor, Sequence[Tensor | None]]:
    """From the gradient (M, D) behind a layer: that between its attention and its gates, and of the gates' weights."""
    mlp, norm = layer.mlp, layer.post_attention_layernorm
    pair = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])  # (2 I, D)
    fused, down = pair * norm.weight, mlp.down_proj.weight
    trained = down.requires_grad
    to_fused, to_down = (torch.zeros_like(part) if trained else None for part in (fused, down))
    g = g.clone()
    for at in range(0, len(g), PIECE):
        piece, some = g[at : at + PIECE], rows[at : at + PIECE]  # (R, D), (R,)
        both = held.gate_up.index_select(0, some)  # (R, 2 I)
        gate, up = both.chunk(2, dim=1)
        lifted = F.silu(gate)
        if to_down is not None:
            to_down.addmm_(piece.t(), lifted * up)
        to_both = before_gate(piece @ down, both, lifted)  # (R, 2 I)
        _before_product(piece, to_both, fused, held.between.index_select(0, some), norm.variance_epsilon, to_fused)
    if to_fused is None:
        return g, (None,) * 4
    return g, (*_parted(to_fused, pair, norm.weight, (len(pair) // 2,) * 2), to_down)


def _attention(
    layer: Any, g: Tensor, before: Tensor, held: KeptLayer, angles: Tensor, behind: Behind, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor, Sequence[Tensor | None]]:
    """The same from behind attention to before the layer, with the gradients of the prompts' keys and values.

    before (M, D): the residual stream that the layer was given.
    """
    own, norm, size = layer.self_attn, layer.input_layernorm, layer.self_attn.head_dim
    queries, shared = own.config.num_attention_heads, own.config.num_key_value_heads
    turning = queries + shared
    seen, height = held.seen.index_select(0, rows), held.height.index_select(0, rows)  # (M, Hq d), (M, Hq)
    heads = held.heads.index_select(0, rows).view(len(g), -1, size)
    query, key, value = heads.split([queries, shared, shared], dim=1)
    *to_parts, of_keys, of_values = gradients_behind(
        (g @ own.o_proj.weight).view(len(g), queries, size),
        query,
        key,
        value,
        behind.keys[own.layer_idx],
        behind.values[own.layer_idx],
        seen.view(len(g), queries, size),
        height,
        behind,
        scale=1.0,
    )
    to_heads = torch.cat(to_parts, dim=1)  # (M, Hq + 2 Hkv, d)
    to_heads[:, :queries] *= own.scaling
    torch.view_as_complex(to_heads[:, :turning].unflatten(2, (-1, 2))).mul_(angles.conj())
    to_heads = to_heads.flatten(1)

    inner = (own.q_proj, own.k_proj, own.v_proj)
    order = turning_order(turning + shared, turning, size)
    whole = torch.cat([part.weight for part in inner])  # ((Hq + 2 Hkv) d, D)
    fused = (whole * norm.weight)[order]
    trained = own.o_proj.weight.requires_grad
    of_out = g.t() @ seen if trained else None
    to_fused = torch.zeros_like(fused) if trained else None
    _before_product(g, to_heads, fused, before, norm.variance_epsilon, to_fused)
    if to_fused is None:
        return g, of_keys, of_values, (None,) * 8
    sizes = [len(part.weight) for part in inner]
    straight, bias = (torch.empty_like(part).index_copy_(0, order, part) for part in (to_fused, to_heads.sum(0)))
    of_norm, *of_inner = _parted(straight, whole, norm.weight, sizes)
    of_biases = [grad if part.bias is not None else None for grad, part in zip(bias.split(sizes), inner, strict=True)]
    return g, of_keys, of_values, (of_norm, *of_inner, *of_biases, of_out)


def _before_product(g: Tensor, to_out: Tensor, fused: Tensor, x: Tensor, eps: float, to_fused: Tensor | None) -> None:
    """Add to g (R, D) the gradient that reaches x (R, D) through its norm h and the product h fused^T (R, O), whose
    gradient is `to_out`; and that of `fused` (O, D) to `to_fused`."""
    scale = over_rms(x, eps)
    h = x * scale
    if to_fused is not None:
        to_fused.addmm_(to_out.t(), h)
    g.add_(before_norm(to_out @ fused, h, scale))


def _parted(to_fused: Tensor, whole: Tensor, scale: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """From the gradient of `whole` (O, D) times `scale` (D,): those of the scale and of the whole's parts."""
    return [(to_fused * whole).sum(0), *(to_fused * scale).split(list(sizes))]
