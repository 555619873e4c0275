"""The model's layers and the choice of a token on a GPU under bf16 autocast.

What stands between the matrix products is bound by memory there. Each such stretch is one function that torch.compile
makes one kernel of, forward and backward; what the backward needs is kept in bf16, and the gate's output, the widest
of a layer, is computed again. Logits are kept in bf16, as the product makes them, and the backward turns them into
their gradient where they stand. The mathematics is that of `layers` and of a log-softmax, the weights are the model's.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakTensorKeyDictionary

Attention = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
"""(attention module, queries (N, Hq, T, d), keys and values (N, Hkv, T, d)) to (N, T, Hq, d)."""
PIECE = 2**30
"""Most logits in one tensor, 2 GB in bf16: kernels count them in 32 bits."""


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as one kernel, or few; made when first called on a GPU, and once more for sizes that change."""
    made: Callable[..., Any] = torch.compile(function)
    return made


def wanted(device: torch.device) -> bool:
    """Whether these take the place of the ordinary ones."""
    return device.type == "cuda" and torch.is_autocast_enabled("cuda")


def run(function: Callable[..., Any], first: Tensor, *rest: Any) -> Any:
    """Compiled on a GPU; as it stands elsewhere, which is how it is tested without one."""
    return (compiled(function) if first.is_cuda else function)(first, *rest)


def layer(module: Any, x: Tensor, *, cos: Tensor, sin: Tensor, attention: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """One decoder layer: x (N, T, D) float32, cos and sin (N, T, 1, d / 2) -> x, keys and values (N, Hkv, T, d).

    The entries of queries and keys are in the order of `layers.pairs`.
    """
    own, mlp = module.self_attn, module.mlp
    h = normed(x, module.input_layernorm)
    linears = own.q_proj, own.k_proj, own.v_proj
    query, key, value = (product(h, linear).unflatten(-1, (-1, own.head_dim)) for linear in linears)
    query, key = _apply(_Turned, query, key, cos, sin, _turn, _turn_back)
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    x = x + product(attention(own, query, key, value).flatten(2), own.o_proj)
    h = normed(x, module.post_attention_layernorm)
    gate, up = product(h, mlp.gate_proj), product(h, mlp.up_proj)
    down = mlp.down_proj
    if plain(down) and down.bias is None and mlp.config.hidden_act == "silu":
        return x + _apply(_GatedDown, gate, up, down.weight, half(down.weight)), key, value
    return x + product(mlp.act_fn(gate) * up, down), key, value


def vision_block(module: Any, x: Tensor, position_embeddings: tuple[Tensor, Tensor], lengths: Sequence[int]) -> Tensor:
    """A block of Qwen2-VL's vision tower (arXiv 2409.12191, section 2.1): x (S, D) float32 of images in a row.

    position_embeddings: cosines and sines (S, d) each; lengths: the patches of each image.
    """
    own, mlp = module.attn, module.mlp
    cos, sin = (part.float().chunk(2, dim=-1)[0][:, None] for part in position_embeddings)  # (S, 1, d / 2) each
    h = product(_apply(_LayerNormed, x, module.norm1.weight, module.norm1.bias, module.norm1.eps), own.qkv)
    heads = h.unflatten(-1, (3 * own.num_heads, -1))  # (S, 3 H, d)
    query, key, value = heads.chunk(3, dim=1)
    query, key = _apply(_Turned, query, key, cos, sin, _turn_seen, _turn_seen_back)
    seen = each_image(lambda *qkv: F.scaled_dot_product_attention(*qkv).transpose(1, 2), query, key, value, lengths)
    x = x + product(seen.flatten(1), own.proj)
    h = product(_apply(_LayerNormed, x, module.norm2.weight, module.norm2.bias, module.norm2.eps), mlp.fc1)
    result: Tensor = x + product(_apply(_QuickGelu, h), mlp.fc2)
    return result


def each_image(
    attention: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int]
) -> Tensor:
    """Attention within each of the images with `lengths` patches that stand in a row: three of (S, H, d) -> (S, H, d).

    `attention` takes three of (N, H, T, d) and gives (N, T, H, d); images as long as each other go through it at once.
    """
    alike = len(set(lengths)) == 1
    images, runs = (len(lengths), [len(query)]) if alike else (1, list(lengths))
    pieces = zip(*(part.split(runs) for part in (query, key, value)), strict=True)
    seen = [
        attention(*(part.unflatten(0, (images, -1)).transpose(1, 2) for part in piece)).flatten(0, 1)
        for piece in pieces
    ]
    return torch.cat(seen) if len(seen) > 1 else seen[0]


def normed(x: Tensor, norm: Any) -> Tensor:
    """RMS norm of x (..., D) float32, in bf16."""
    result: Tensor = _apply(_Normed, x, norm.weight, norm.variance_epsilon)
    return result


def chosen_logprobs(
    states: Tensor, weight: Tensor, ids: Tensor, banned: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens and entropies, both (M,) float32 in nats, the latter without a graph.

    states (M, D), weight (V, D), ids (M,), banned (V,) bool: tokens that are never drawn.
    """
    size, rough = max(1, PIECE // len(weight)), half(weight)
    pieces = [
        _apply(_Chosen, part, weight, rough, targets, banned, temperature)
        for part, targets in zip(states.to(torch.bfloat16).split(size), ids.split(size), strict=True)
    ]
    return torch.cat([piece[0] for piece in pieces]), torch.cat([piece[1] for piece in pieces])


_halves: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Weights in bf16, each with the version that it was made of."""


def half(weight: Tensor) -> Tensor:
    """The weight in bf16, without a graph. While it is trained, one copy serves all forwards with the same values."""
    if not (torch.is_grad_enabled() and weight.requires_grad):
        return weight.detach().to(torch.bfloat16)
    version, copy = _halves.get(weight, (None, None))
    if version != weight._version:
        copy = weight.detach().to(torch.bfloat16)
        _halves[weight] = weight._version, copy
    result: Tensor = copy
    return result


# Fused AdamW changes weights without changing their version: after any optimizer's step no copy is right any more.
register_optimizer_step_post_hook(lambda *_: _halves.clear())


def plain(linear: Any) -> bool:
    """Whether a linear layer holds nothing but its own weight and bias."""
    return type(linear) is nn.Linear


def product(x: Tensor, linear: Any) -> Tensor:
    """linear(x) of x (..., K) bf16, in bf16.

    The gradient of a bare layer's weight is made in float32 and goes straight to where gradients gather,
    `weight.grad`; `torch.autograd.grad` does not see it.
    """
    if not plain(linear) or not linear.weight.requires_grad:
        result: Tensor = linear(x)
    else:
        result = _apply(_Product, x, linear.weight, half(linear.weight), linear.bias)
    return result


def _gather(weight: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left^T right, of (M, O) and (M, K), to the gradient of weight (O, K)."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    if left.is_cuda and type(left) is Tensor:  # a ghost's has no such product
        torch.addmm(weight.grad, left.T, right, out_dtype=torch.float32, out=weight.grad)
    else:
        weight.grad.addmm_(left.float().T, right.float())


def _apply(kind: Any, *given: Any) -> Any:
    return kind.apply(*given)


# Each operation with a backward of its own, and the stretches that are compiled


class _Product(torch.autograd.Function):
    """x (..., K) bf16, weight (O, K), the same in bf16, bias (O,) or None -> (..., O) bf16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rough: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, rough)
        ctx.weight = weight
        return F.linear(x, rough, None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, rough = ctx.saved_tensors
        flat = grads[0].flatten(0, -2)  # (M, O)
        _gather(ctx.weight, flat, x.flatten(0, -2))
        to_bias = flat.sum(0, dtype=torch.float32) if ctx.needs_input_grad[3] else None
        return grads[0] @ rough, None, None, to_bias


class _Normed(torch.autograd.Function):
    """x (..., D) float32, weight (D,) -> (..., D) bf16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        result: Tensor
        result, scale = run(_norm, x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        return *run(_norm_back, grads[0], x, weight, scale), None


def _norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return (x * scale * weight).to(torch.bfloat16), scale


def _norm_back(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    grad, bare = grad.float(), x * scale
    inner = grad * weight
    dx = (inner - bare * (inner * bare).mean(-1, keepdim=True)) * scale
    return dx, (grad * bare).flatten(0, -2).sum(0)


class _LayerNormed(torch.autograd.Function):
    """x (S, D) float32, weight and bias (D,) -> (S, D) bf16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        result: Tensor
        result, middle, scale = run(_layer_norm, x, weight, bias, eps)
        ctx.save_for_backward(x, weight, middle, scale)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *run(_layer_norm_back, grads[0], *ctx.saved_tensors), None


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    middle = x.mean(-1, keepdim=True)
    scale = torch.rsqrt((x - middle).square().mean(-1, keepdim=True) + eps)
    return ((x - middle) * scale * weight + bias).to(torch.bfloat16), middle, scale


def _layer_norm_back(
    grad: Tensor, x: Tensor, weight: Tensor, middle: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad, bare = grad.float(), (x - middle) * scale
    inner = grad * weight
    dx = (inner - inner.mean(-1, keepdim=True) - bare * (inner * bare).mean(-1, keepdim=True)) * scale
    return dx, (grad * bare).sum(0), grad.sum(0)


class _QuickGelu(torch.autograd.Function):
    """x sigmoid(1.702 x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        result: Tensor = run(_quick_gelu, x)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        result: Tensor = run(_quick_gelu_back, grads[0], *ctx.saved_tensors)
        return result


def _quick_gelu(x: Tensor) -> Tensor:
    return (x.float() * torch.sigmoid(1.702 * x.float())).to(x.dtype)


def _quick_gelu_back(grad: Tensor, x: Tensor) -> Tensor:
    wide = x.float()
    share = torch.sigmoid(1.702 * wide)
    return (grad.float() * share * (1 + 1.702 * wide * (1 - share))).to(x.dtype)


class _Turned(torch.autograd.Function):
    """Queries and keys (..., H, d) turned by their angles; entry i and i + d/2 come to stand side by side."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, turn: Any, back: Any
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.back = back
        turned: tuple[Tensor, Tensor] = run(turn, query, key, cos, sin)
        return turned

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *run(ctx.back, *grads, *ctx.saved_tensors), None, None, None, None


def _turn(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    def turned(heads: Tensor) -> Tensor:
        first, second = heads.float().chunk(2, dim=-1)
        both = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)
        return both.flatten(-2).to(heads.dtype)

    return turned(query), turned(key)


def _turn_back(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    def turned(grad: Tensor) -> Tensor:
        first, second = grad.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1).to(grad.dtype)

    return turned(query), turned(key)


def _turn_seen(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    """Of the vision tower, whose heads have another size: compiled by itself."""
    return _turn(query, key, cos, sin)


def _turn_seen_back(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    return _turn_back(query, key, cos, sin)


class _GatedDown(torch.autograd.Function):
    """gate and up (..., I), weight (D, I), the same in bf16 -> (silu(gate) up) weight^T, whose product is not kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, rough: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up, rough)
        ctx.weight = weight
        return F.linear(run(_gate, gate, up), rough)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, rough = ctx.saved_tensors
        inner = grads[0] @ rough
        both, to_gate, to_up = run(_gate_back, inner, gate, up)
        if ctx.needs_input_grad[2]:
            _gather(ctx.weight, grads[0].flatten(0, -2), both.flatten(0, -2))
        return to_gate, to_up, None, None


def _gate(gate: Tensor, up: Tensor) -> Tensor:
    return (F.silu(gate.float()) * up.float()).to(gate.dtype)


def _gate_back(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    kind, grad, gate, up = gate.dtype, grad.float(), gate.float(), up.float()
    share = torch.sigmoid(gate)
    open_ = gate * share
    slope = share * (1 + gate - open_)
    return (open_ * up).to(kind), (grad * up * slope).to(kind), (grad * open_).to(kind)


class _Chosen(torch.autograd.Function):
    """states (M, D) bf16, weight (V, D), the same in bf16, ids (M,), banned (V,) -> logprobs and entropy (M,)."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, rough: Tensor, ids: Tensor, banned: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        logits = F.linear(states, rough)
        height, logprobs, entropy = run(_choice, logits, ids, banned, temperature)
        ctx.save_for_backward(states, rough, logits, height, ids, banned)
        ctx.weight, ctx.temperature = weight, temperature
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        states, rough, logits, height, ids, banned = ctx.saved_tensors
        run(_to_gradient_, logits, height, ids, banned, grads[0], ctx.temperature)
        if ctx.needs_input_grad[1]:
            _gather(ctx.weight, logits, states)
        return logits @ rough, None, None, None, None, None


def _choice(logits: Tensor, ids: Tensor, banned: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    heights = (logits.float() / temperature).masked_fill(banned, -torch.inf)
    height = torch.logsumexp(heights, dim=1)  # (M,)
    logprobs = heights - height[:, None]
    entropy = -(logprobs.exp() * logprobs.masked_fill(banned, 0.0)).sum(1)
    return height, heights.gather(1, ids[:, None])[:, 0] - height, entropy


def _to_gradient_(
    logits: Tensor, height: Tensor, ids: Tensor, banned: Tensor, grad: Tensor, temperature: float
) -> None:
    """Logits (M, V) become their gradient, in place."""
    shares = torch.exp((logits.float() / temperature).masked_fill(banned, -torch.inf) - height[:, None])
    hit = torch.arange(logits.shape[1], device=ids.device) == ids[:, None]
    logits.copy_((hit.float() - shares) * (grad / temperature)[:, None])
