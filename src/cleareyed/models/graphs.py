"""Decoding in steps that never change: buffers of fixed size and no look at a value, captured once as a CUDA graph.

On a GPU a step of a small batch takes longer to launch, kernel by kernel, than to run. A graph is launched at once.
Its layers are compiled; on other devices they run eagerly, with the same result.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cleareyed.models.decode import Decoder, DecoderWeights, LayerWeights
from cleareyed.models.forward import Prefix
from cleareyed.models.fused import compiled

SPAN = 128
"""Completion tokens that a graph reads more than the one before it: beyond those there are, they are masked."""


class GraphDecoder(Decoder):
    """A `Decoder` whose batch has one size until half of it would do. Keys and values have the weights' precision."""

    _graph: tuple[int, Any] | None
    """With the span that it reads."""

    def __init__(self, weights: DecoderWeights, prefix: Prefix, group: int, max_tokens: int) -> None:
        super().__init__(weights, prefix, group, max_tokens)
        dtype = weights.head.dtype
        self.keys = [part.to(dtype) for part in self.keys]
        self.values = [part.to(dtype) for part in self.values]
        self.padding = None if self.padding is None else self.padding.to(dtype)
        self.own = self.own.new_zeros(*self.own.shape[:3], max_tokens, self.own.shape[4], dtype=dtype)
        self._settle()

    def step(self, ids: Tensor) -> Tensor:
        """Read one token more of every live row, ids (n,): its last hidden states (n, D), after the final norm."""
        span = min(-(-(self.length + 1) // SPAN) * SPAN, self.max_tokens)
        self._fed.index_copy_(0, self.slots, ids)
        self._at.fill_(self.length)
        if self._fed.device.type != "cuda":
            self._run(span)
        else:
            if self._graph is None or self._graph[0] != span:
                self._graph = span, self._captured(span)
            self._graph[1].replay()
        self.length += 1
        return self._states.index_select(0, self.slots)

    def keep(self, stay: Tensor) -> None:
        """Only the rows `stay` (n',), in ascending order, are carried on."""
        counts = torch.bincount(self.prompt[stay], minlength=self.prompts)  # (B,)
        if 2 * int((counts > 0).sum()) * int(counts.max()) > self.prompts * self.places:
            # Nobody looks any more at what the others' places go on to compute.
            self.prompt, self.position = self.prompt[stay], self.position[stay]
            self.live, self.slots = self.live[stay], self.slots[stay]
            return
        super().keep(stay)
        self._settle()

    def _settle(self) -> None:
        """Buffers for a step of all places, and no graph."""
        places, device = self.prompts * self.places, self.slots.device
        self._fed = torch.zeros(places, dtype=torch.int64, device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._begins = self._fed.index_copy(0, self.slots, self.position)  # (places,) what positions count from
        self._states = torch.zeros(places, self.weights.embedding.shape[1], device=device)
        self._slots_of_room = torch.arange(self.max_tokens, device=device)
        self._graph = None

    def _run(self, span: int) -> None:
        """One step of all places, from `_fed` and `_at` to `_states`."""
        w = self.weights
        unseen = torch.zeros(span, dtype=self.own.dtype, device=self._at.device)
        unseen.masked_fill_(self._slots_of_room[:span] > self._at, -torch.inf)
        turn = self.angles.index_select(0, self._begins + self._at)  # (places, 1, d / 2)
        angles = (turn.real, turn.imag)
        heads = (self.prompts, w.query_heads, w.kv_heads)
        run = compiled(_layer) if self._at.is_cuda else _layer
        x = F.embedding(self._fed, w.embedding)  # (places, D) float32, the residual stream
        for index, layer in enumerate(w.layers):
            past = (self.keys[index], self.values[index], self.padding)
            x = run(x, layer, past, self.own[index, :, :, :span], angles, self._at, unseen, heads, w.eps, w.activation)
        self._states.copy_(F.rms_norm(x, x.shape[1:], w.norm, w.eps))

    def _captured(self, span: int) -> Any:
        """The step as a graph. It is run before, on a stream of its own: libraries may not load while capturing."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._run(span)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run(span)
        return graph


def _layer(
    x: Tensor,
    w: LayerWeights,
    past: tuple[Tensor, Tensor, Tensor | None],
    own: Tensor,
    angles: tuple[Tensor, Tensor],
    at: Tensor,
    unseen: Tensor,
    heads: tuple[int, int, int],
    eps: float,
    activation: Callable[[Tensor], Tensor],
) -> Tensor:
    """A layer of `Decoder` for all n places, in operations that compile well: x (n, D) to x.

    past: the prompts' keys and values (B * Hkv, P, d) and the padding of `Decoder`; own (2, B * Hkv * places, t, d),
    whose slot `at` (1,) is written; angles: cosines and sines (n, 1, d / 2); heads: B, Hq and Hkv.
    """
    keys, values, padding = past
    dtype, (prompts, queries, shared) = w.qkv.dtype, heads
    size, places, each = keys.shape[2], len(x) // prompts, queries // shared
    h = F.linear(_bare_norm(x, eps).to(dtype), w.qkv, w.qkv_bias).view(len(x), -1, size)
    first, second = h[:, : queries + shared].float().unflatten(2, (-1, 2)).unbind(3)  # (n, Hq + Hkv, d / 2) each
    cos, sin = angles
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=3).flatten(2).to(dtype)
    new = torch.stack([turned[:, queries:], h[:, queries + shared :]])  # (2, n, Hkv, d)
    new = new.view(2, prompts, places, shared, size).transpose(2, 3).reshape(2, -1, 1, size)
    own.index_copy_(2, at, new)
    query = turned[:, :queries].reshape(prompts, places, shared, -1).transpose(1, 2)
    query = query.reshape(-1, places * each, size)  # (B * Hkv, places * Hq / Hkv, d)

    to_prompt = torch.bmm(query, keys.transpose(1, 2))  # (B * Hkv, places * Hq / Hkv, P)
    if padding is not None:
        to_prompt = to_prompt + padding
    to_own = torch.bmm(query.view(-1, each, size), own[0].transpose(1, 2)) + unseen
    scores = torch.cat([to_prompt, to_own.view(*to_prompt.shape[:2], -1)], dim=2)
    shares = scores.softmax(dim=2, dtype=torch.float32).to(dtype)
    length = keys.shape[1]
    out = torch.bmm(shares[:, :, :length], values).view(-1, each, size)
    out = out + torch.bmm(shares[:, :, length:].reshape(len(out), each, -1), own[1])
    out = out.view(prompts, shared, places, -1).transpose(1, 2).reshape(len(x), -1)  # (n, Hq d)
    x = x + F.linear(out, w.out)
    gate, up = F.linear(_bare_norm(x, eps).to(dtype), w.gate_up).chunk(2, dim=1)
    return x + F.linear(activation(gate) * up, w.down)


def _bare_norm(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + eps)
