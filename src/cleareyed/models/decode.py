"""One token more for every live completion: the Qwen2 decoder as plain functions over weights put together once.

Qwen2-VL and Qwen2.5-VL share this language model (Yang et al. 2024, arXiv 2407.10671, section 2.2). A completion's
positions are the same on all three axes of M-RoPE (arXiv 2409.12191, section 2.1), so that its rotary embedding is the
ordinary one. The keys and values of a prompt are held and read once for all its completions: these stand in a grid of
prompts and places, and their queries meet the prompt in one product. A completion's own keys and values are in buffers
that each step writes one slot of.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cleareyed.models.forward import Prefix
from cleareyed.models.kept import Kept, KeptLayer, widths
from cleareyed.models.layers import pairs
from cleareyed.models.step import Attention, Places, passing, views
from cleareyed.models.vlm import VLM

BLOCK = 16
"""Room is made for this many completion tokens at first."""


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer. Its matrices hold the norms' scales times sqrt(D), and 1/sqrt(d) where they make queries.

    The entries of a query and of a key are in the order of `pairs`. On a CPU the matrices are laid out by columns.
    """

    qkv: Tensor  # ((Hq + 2 Hkv) d, D)
    qkv_bias: Tensor  # ((Hq + 2 Hkv) d,)
    out: Tensor  # (D, Hq d)
    gate_up: Tensor  # (2 I, D)
    down: Tensor  # (D, I)


@dataclass(frozen=True)
class DecoderWeights:
    """The language model of a VLM, ready for decoding: Hq query heads of size d share Hkv key-value heads."""

    layers: tuple[LayerWeights, ...]
    embedding: Tensor  # (V, D) float32
    norm: Tensor  # (D,) float32, the scale of the last norm
    head: Tensor  # (V, D)
    head_bias: Tensor  # (V,): -inf where a token may never be drawn, else 0
    query_heads: int
    kv_heads: int
    head_size: int
    eps: float
    activation: Callable[[Tensor], Tensor]
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def effective_weight(linear: Any) -> tuple[Tensor, Tensor | None]:
    """Weight (out, in) and bias (out,) of a linear layer, with what its active LoRA adapters add.

    An adapter adds scaling * B A to the weight (Hu et al. 2021, arXiv 2106.09685, section 4.1). A layer of peft is
    known by its attributes; one whose adapters are merged already is taken as it is.
    """
    base = getattr(linear, "base_layer", linear)
    weight, bias = base.weight.detach(), base.bias.detach() if base.bias is not None else None
    if base is linear or linear.disable_adapters:
        return weight, bias
    for name in linear.active_adapters:
        if name in linear.lora_A and name not in getattr(linear, "merged_adapters", ()):
            down, up = linear.lora_A[name].weight.detach(), linear.lora_B[name].weight.detach()
            weight = torch.addmm(weight, up.to(weight.dtype), down.to(weight.dtype), alpha=linear.scaling[name])
    return weight, bias


def decoder_weights(vlm: VLM) -> DecoderWeights:
    """The present weights of the language model, fused: bf16 matrices if `vlm.autocast`, else float32.

    A copy of the layers, and of the head if bf16: the memory of the language model once more while it lives.
    """
    model: Any = vlm.model
    language = model.model.language_model
    first = language.layers[0].self_attn
    dtype = torch.bfloat16 if vlm.autocast else torch.float32
    head = effective_weight(model.lm_head)[0]
    head_bias = torch.zeros(len(head), device=head.device)
    head_bias[list(vlm.banned_ids)] = -torch.inf
    return DecoderWeights(
        layers=tuple(_layer_weights(layer, dtype) for layer in language.layers),
        embedding=language.embed_tokens.weight.detach(),
        norm=language.norm.weight.detach(),
        head=head.to(dtype),
        head_bias=head_bias.to(dtype),
        query_heads=language.config.num_attention_heads,
        kv_heads=language.config.num_key_value_heads,
        head_size=first.head_dim,
        eps=language.norm.variance_epsilon,
        activation=language.layers[0].mlp.act_fn,
        rotary=language.rotary_emb,
    )


def _layer_weights(layer: Any, dtype: torch.dtype) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    before, between = (norm.weight.detach() * len(norm.weight) ** 0.5 for norm in norms)
    weights, biases = [], []
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
        weight, bias = effective_weight(linear)
        both = torch.cat([weight * before, (weight.new_zeros(len(weight)) if bias is None else bias)[:, None]], dim=1)
        if linear is attention.q_proj:
            both = both * attention.scaling
        if linear is not attention.v_proj:
            both = both.view(-1, attention.head_dim, both.shape[1])[:, pairs(attention.head_dim)].flatten(0, 1)
        weights.append(both[:, :-1])
        biases.append(both[:, -1])
    return LayerWeights(
        qkv=_laid_out(torch.cat(weights), dtype),
        qkv_bias=torch.cat(biases).to(dtype),
        out=_laid_out(effective_weight(attention.o_proj)[0], dtype),
        gate_up=_laid_out(
            torch.cat([effective_weight(part)[0] * between for part in (mlp.gate_proj, mlp.up_proj)]), dtype
        ),
        down=_laid_out(effective_weight(mlp.down_proj)[0], dtype),
    )


def _laid_out(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The same matrix in the memory order in which a few rows are multiplied fastest: on a CPU by columns."""
    weight = weight.to(dtype)
    return weight.t().contiguous().t() if weight.device.type == "cpu" else weight


class Decoder:
    """The completions that are still being written, `group` for each of B prompts, and what their next step needs.

    The n live rows are in order of prompt. For attention they stand in a grid: (prompts, places), where a prompt with
    fewer live rows than another has places with nobody in them. `live` names the completion that each row is.
    """

    def __init__(
        self, weights: DecoderWeights, prefix: Prefix, group: int, max_tokens: int, kept: Kept | None = None
    ) -> None:
        device = prefix.mask.device
        self.weights = weights
        self.length = 0
        """Tokens of each completion that keys and values have been computed of."""
        self.live = torch.arange(len(prefix.mask) * group, device=device)  # (n,)
        self.prompts, self.places = len(prefix.mask), group
        self.prompt = self.live // group  # (n,)
        self.slots = self.live  # (n,) each row's place in the grid, counted through
        start = prefix.next_positions.min()
        self.position = (prefix.next_positions - start)[self.prompt]  # (n,) of each row's next token, from `start`
        span = int(prefix.next_positions.max() - start) + max_tokens
        positions = start + torch.arange(span, device=device)
        cos, sin = weights.rotary(weights.norm, positions.expand(3, 1, -1))  # (1, span, d) each
        angles = torch.complex(cos[0], sin[0])[:, : weights.head_size // 2]  # the second half repeats the first
        self.angles = angles[:, None]  # (span, 1, d / 2) complex
        self.max_tokens = max_tokens
        self.kept = kept
        self.least = torch.tensor((weights.eps * weights.embedding.shape[1]) ** 0.5, device=device)  # of `_normed`
        self._hold(prefix)

    def _hold(self, prefix: Prefix) -> None:
        """Take the prompts' keys and values, and make room for those of completions."""
        weights, device = self.weights, prefix.mask.device
        # By layer (B * Hkv, d, P) and (B * Hkv, P, d), float32, each in the order in which every step reads it.
        self.keys = [keys.detach().float().flatten(0, 1).transpose(1, 2).contiguous() for keys in prefix.keys]
        self.values = [values.detach().float().flatten(0, 1).contiguous() for values in prefix.values]
        padding = torch.zeros(prefix.mask.shape, device=device).masked_fill(~prefix.mask, -torch.inf)
        shortest = int(prefix.mask.sum(1).min())
        # (B * Hkv, 1, p): -inf on padding, of which there is none but at the last p places
        self.padding = padding[:, shortest:].repeat_interleave(weights.kv_heads, 0)[:, None]
        # By layer keys and values: (L, 2, B * Hkv * places, room, d)
        shape = (len(weights.layers), 2, self.prompts * weights.kv_heads * self.places, 0, weights.head_size)
        self.own = torch.zeros(shape, device=device)
        self.scale = weights.norm * len(weights.norm) ** 0.5  # of `_normed`
        parts = ((layer.qkv, layer.out, layer.gate_up, layer.down) for layer in weights.layers)
        self.matrices = [[matrix.t() for matrix in some] for some in parts]

    def step(self, ids: Tensor) -> Tensor:
        """Read one token more of every live row, ids (n,): its last hidden states (n, D), after the final norm."""
        if self.length == self.own.shape[3]:
            self._make_room()
        w = self.weights
        if self.kept is not None:
            to = self.kept.rows(self.live, self.length)
        else:
            sizes = widths(w.query_heads, w.kv_heads, w.head_size, *w.layers[0].down.shape)
            to = passing(len(ids), sizes, len(w.layers), ids.device)
        angles = self.angles[self.position + self.length]  # (n, 1, d / 2)
        self.length += 1
        x = self._forward(F.embedding(ids, w.embedding), angles, to)  # (n, D)
        return _normed(x, self.least, torch.empty_like(x)).mul_(self.scale)

    def _forward(self, x: Tensor, angles: Tensor, to: KeptLayer) -> Tensor:
        """The residual stream (n, D) float32 behind the layers, from that before them.

        The tokens' keys and values are written to the last slot of `own` that is in use; what a backward pass needs of
        each layer, to `to` (L, n, ...).
        """
        w = self.weights
        places = Places(self.prompts, self.places, w.query_heads, w.kv_heads, w.head_size)
        heights = x.new_empty(2, len(w.layers), self.prompts * w.kv_heads, self.places * places.shared)
        by_layer = views(to, self.own[:, :, :, : self.length], heights, places)
        attend = Attention(places, self.keys[0].shape[2], self.length, x.device)
        full = len(x) == self.prompts * self.places
        h, gated = torch.empty_like(x), torch.empty_like(by_layer[0].up)
        for index, (view, layer, matrices) in enumerate(zip(by_layer, w.layers, self.matrices, strict=True)):
            qkv, out, gate_up, down = matrices
            _product(_normed(x, self.least, h), qkv, view.heads, layer.qkv_bias)
            view.turning.mul_(angles)
            if not full:
                view.grid.index_copy_(0, self.slots, view.heads)
            view.slot.copy_(view.new)
            attend(view, self.keys[index], self.values[index], self.padding)
            if not full:
                torch.index_select(view.placed, 0, self.slots, out=view.seen)
            _product(view.seen, out, view.between, x)
            _product(_normed(view.between, self.least, h), gate_up, view.gate_up)
            torch.mul(w.activation(view.gate), view.up, out=gated)
            _product(gated, down, view.after, view.between)
            x = view.after
        if self.kept is not None:
            self._keep_heights(heights, to.height)
        return x

    def _keep_heights(self, heights: Tensor, to: Tensor) -> None:
        """Log-sum-exps of the scores, from the largest and the sums of exponentials (2, L, B * Hkv, places * G), to
        the live rows (L, n, Hq)."""
        top, total = heights.view(2, len(to), self.prompts, -1, self.places, heights.shape[3] // self.places)
        found = total.log_().add_(top).transpose(2, 3).reshape(len(to), self.prompts * self.places, -1)
        to.copy_(found if found.shape == to.shape else found.index_select(1, self.slots))

    def logits(self, states: Tensor) -> Tensor:
        """Logits (n, V) float32 of the next token after states (n, D); -inf for tokens that may not be drawn."""
        w = self.weights
        return F.linear(states.to(w.head.dtype), w.head, w.head_bias).float()

    def keep(self, stay: Tensor) -> None:
        """Only the rows `stay` (n',), in ascending order, are carried on; prompts without a row are let go."""
        prompt = self.prompt[stay]
        counts = torch.bincount(prompt, minlength=self.prompts)  # (B,)
        left = counts.nonzero()[:, 0]  # (B',)
        places = int(counts.max())
        rank = torch.arange(len(stay), device=stay.device) - (counts.cumsum(0) - counts)[prompt]
        self.prompt = ((counts > 0).cumsum(0) - 1)[prompt]
        slots = self.prompt * places + rank
        # A place with nobody in it may hold anything finite: it takes what stands in the first of its prompt.
        source = (left * self.places).repeat_interleave(places)  # (B' * places,)
        source[slots] = self.slots[stay]
        self._take(left, source.view(len(left), places))
        self.position = self.position[stay]
        self.live, self.slots = self.live[stay], slots
        self.prompts, self.places = len(left), places

    def _take(self, left: Tensor, source: Tensor) -> None:
        """Keep the keys and values of the prompts `left` (B',) and of the places `source` (B', places)."""
        kv_heads = self.weights.kv_heads
        heads = torch.arange(kv_heads, device=left.device)[:, None]
        column, line = (source % self.places)[:, None], (source // self.places)[:, None]  # (B', 1, places)
        self.own = self.own.index_select(2, ((line * kv_heads + heads) * self.places + column).flatten())
        if len(left) < self.prompts:
            rows = (left[:, None] * kv_heads + heads.T).flatten()
            self.keys = [part.index_select(0, rows) for part in self.keys]
            self.values = [part.index_select(0, rows) for part in self.values]
            self.padding = self.padding[rows]

    def _make_room(self) -> None:
        own = self.own.new_empty(*self.own.shape[:3], grown(self.length, self.max_tokens), self.own.shape[4])
        own[:, :, :, : self.length] = self.own
        self.own = own


def grown(room: int, most: int) -> int:
    """Tokens that room is made for where there has been room for so many: twice as many, `most` in the end."""
    return min(max(BLOCK, 2 * room), most)


def _normed(x: Tensor, least: Tensor, to: Tensor) -> Tensor:
    """x (n, D) / sqrt(|x|^2 + D eps), `least` being the root of the latter: the RMS norm of x over sqrt(D)."""
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return torch.div(x, torch.hypot(length, least, out=length), out=to)


def _product(h: Tensor, matrix: Tensor, to: Tensor, more: Tensor | None = None) -> None:
    """h (n, K) float32 times matrix (K, O) of any precision, and `more` added, to `to` (n, O) float32."""
    if matrix.dtype != torch.float32:
        product = h.to(matrix.dtype) @ matrix
        to.copy_(product if more is None else more + product)
    elif more is None:
        torch.mm(h, matrix, out=to)
    else:
        torch.addmm(more, h, matrix, out=to)
