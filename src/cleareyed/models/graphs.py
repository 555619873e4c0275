"""Decoding in steps that never change: buffers of fixed size and no look at a value, captured once as a CUDA graph.

On a GPU a step of a small batch takes longer to launch, kernel by kernel, than to run. A graph is launched at once.
Between the matrix products stand one kernel each (`fused.run`) and, in bf16, one for attention (`pieces`); on other
devices all of it runs eagerly, with the same result.
"""

from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cleareyed.models import fused
from cleareyed.models.decode import Decoder
from cleareyed.models.forward import Prefix
from cleareyed.models.pieces import attend_pieces, pieces_of, see


class GraphDecoder(Decoder):
    """A `Decoder` whose batch has one size until half of it would do. Keys and values have the weights' precision.

    All of these stand behind one another, the prompts' first: (L, 2, B * P + B * places * max_tokens, Hkv, d).
    """

    _graph: Any

    def _hold(self, prefix: Prefix) -> None:
        weights = self.weights
        self.lengths = prefix.mask.sum(1, dtype=torch.int32)  # (B,)
        self.longest = prefix.mask.shape[1]
        end = self.prompts * self.longest
        shape = (len(weights.layers), 2, end + len(self.live) * self.max_tokens, weights.kv_heads, weights.head_size)
        self.cache = torch.zeros(shape, dtype=weights.head.dtype, device=prefix.mask.device)
        for layer, parts in zip(self.cache, zip(prefix.keys, prefix.values, strict=True), strict=True):
            for to, part in zip(layer, parts, strict=True):
                to[:end].unflatten(0, (self.prompts, -1)).copy_(part.detach().transpose(1, 2))
        self._settle()

    def step(self, ids: Tensor) -> Tensor:
        """Read one token more of every live row, ids (n,): its last hidden states (n, D), after the final norm."""
        self._fed.index_copy_(0, self.slots, ids)
        self._at.fill_(self.length)
        if self._fed.device.type != "cuda":
            self._run()
        else:
            self._graph = self._graph or self._captured()
            self._graph.replay()
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

    def _take(self, left: Tensor, source: Tensor) -> None:
        end = self.prompts * self.longest
        past = self.cache[:, :, :end].unflatten(2, (self.prompts, -1))  # (L, 2, B, P, Hkv, d)
        own = self.cache[:, :, end:].unflatten(2, (-1, self.max_tokens))  # (L, 2, B * places, max_tokens, Hkv, d)
        kept = past.index_select(2, left), own.index_select(2, source.flatten())
        self.cache = torch.cat([part.flatten(2, 3) for part in kept], dim=2)
        self.lengths = self.lengths[left]

    def _settle(self) -> None:
        """Buffers for a step of all places, and no graph."""
        places, device = self.prompts * self.places, self.slots.device
        self._fed = torch.zeros(places, dtype=torch.int64, device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._begins = self._fed.index_copy(0, self.slots, self.position)  # (places,) what positions count from
        self._states = torch.zeros(places, self.weights.embedding.shape[1], device=device)
        shared = self.weights.query_heads // self.weights.kv_heads
        sizes = (self.prompts, self.longest), (places, self.max_tokens)
        self._pieces = pieces_of(*sizes, shared, self.lengths)
        self._graph = None

    def _run(self) -> None:
        """One step of all n places, from `_fed` and `_at` to `_states`."""
        w = self.weights
        shared, rows, run = w.query_heads // w.kv_heads, len(self._fed), fused.run
        heads = (w.query_heads, w.kv_heads)
        end = self.prompts * self.longest
        turn = self.angles.index_select(0, self._begins + self._at)  # (n, 1, d / 2)
        cos, sin = turn.real.contiguous(), turn.imag.contiguous()
        see(self._pieces, self._at + 1)
        x = F.embedding(self._fed, w.embedding)  # (n, D) float32, the residual stream
        h = run(_normed, x, w.eps).to(w.head.dtype)
        for index, layer in enumerate(w.layers):
            h = F.linear(h, layer.qkv, layer.qkv_bias).view(rows, -1, w.head_size)
            query, new = run(_spread, h, cos, sin, heads)  # (n * shared, Hkv, d), (2, n, 1, Hkv, d)
            held = self.cache[index]  # (2, B * P + n * max_tokens, Hkv, d)
            held[:, end:].unflatten(1, (rows, -1)).index_copy_(2, self._at, new)
            out = run(_joined, *attend_pieces(query, held[0], held[1], self._pieces), shared)  # (n, Hq d)
            x, h = run(_added_and_normed, x, F.linear(out, layer.out), w.eps)
            h = F.linear(run(_gated, F.linear(h, layer.gate_up), w.activation), layer.down)
            x, h = run(_added_and_normed, x, h, w.eps)
        self._states.copy_(F.rms_norm(x, x.shape[1:], w.norm, w.eps))

    def _captured(self) -> Any:
        """The step as a graph. It is run before, on a stream of its own: libraries may not load while capturing."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run()
        return graph


# What stands between the matrix products: each becomes one kernel


def _normed(x: Tensor, eps: float) -> Tensor:
    """The RMS norm of x (n, D) over sqrt(D), which is in the matrices."""
    return x * torch.rsqrt(x.square().sum(1, keepdim=True) + x.shape[1] * eps)


def _added_and_normed(x: Tensor, h: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x (n, D) float32 + h, and that normed, in the precision of h."""
    x = x + h.float()
    return x, _normed(x, eps).to(h.dtype)


def _spread(h: Tensor, cos: Tensor, sin: Tensor, heads: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """h (n, Hq + 2 Hkv, d) -> queries (n * Hq / Hkv, Hkv, d) and new keys and values (2, n, 1, Hkv, d).

    Queries and keys are turned by cos and sin (n, 1, d / 2): entries 2 i and 2 i + 1 together.
    """
    queries, shared = heads
    first, second = h[:, : queries + shared].float().unflatten(2, (-1, 2)).unbind(3)  # (n, Hq + Hkv, d / 2) each
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=3).flatten(2).to(h.dtype)
    query = turned[:, :queries].unflatten(1, (shared, -1)).transpose(1, 2).flatten(0, 1)
    new = torch.stack([turned[:, queries:], h[:, queries + shared :]])[:, :, None]
    return query.contiguous(), new.contiguous()


def _joined(parts: Tensor, heights: Tensor, shared: int) -> Tensor:
    """Parts (C, n * Hq / Hkv, Hkv, d) of an attention, by their log-sum-exps (C, Hkv, n * Hq / Hkv), to (n, Hq d)."""
    height = heights.transpose(1, 2)[..., None].unbind()  # each (n * Hq / Hkv, Hkv, 1)
    top = reduce(torch.maximum, height)
    shares = [torch.exp(one - top) for one in height]
    weighed = [part.float() * share for part, share in zip(parts.unbind(), shares, strict=True)]
    out = reduce(torch.add, weighed) / reduce(torch.add, shares)
    joined: Tensor = out.to(parts.dtype).unflatten(0, (-1, shared))  # (n, Hq / Hkv, Hkv, d)
    return joined.transpose(1, 2).flatten(1).contiguous()


def _gated(both: Tensor, activation: Any) -> Tensor:
    gate, up = both.chunk(2, dim=1)
    product: Tensor = activation(gate.float()) * up.float()
    return product.to(both.dtype)
