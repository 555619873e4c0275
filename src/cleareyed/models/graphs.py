"""Decoding in steps that never change: buffers of fixed size and no look at a value, captured once as a CUDA graph.

On a GPU a step of a small batch takes longer to launch, kernel by kernel, than to run. A graph is launched at once.
Between the matrix products stand one kernel each (`fused.run`) and, in bf16, flash attention; on other devices
all of it runs eagerly, with the same result.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cleareyed.models import fused
from cleareyed.models.decode import Decoder
from cleareyed.models.flash import attend_used, groups_of
from cleareyed.models.forward import Prefix


class GraphDecoder(Decoder):
    """A `Decoder` whose batch has one size until half of it would do. Keys and values have the weights' precision.

    Prompts' keys and values are by layer (B, P, Hkv, d), those of completions (L, 2, B * places, max_tokens, Hkv, d).
    """

    _graph: Any

    def _hold(self, prefix: Prefix) -> None:
        weights, dtype = self.weights, self.weights.head.dtype
        self.keys = [part.detach().transpose(1, 2).to(dtype).contiguous() for part in prefix.keys]
        self.values = [part.detach().transpose(1, 2).to(dtype).contiguous() for part in prefix.values]
        self.lengths = prefix.mask.sum(1, dtype=torch.int32)  # (B,)
        shape = (len(weights.layers), 2, len(self.live), self.max_tokens, weights.kv_heads, weights.head_size)
        self.own = torch.zeros(shape, dtype=dtype, device=prefix.mask.device)
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
        self.own = self.own.index_select(2, source.flatten())
        if len(left) < self.prompts:
            self.keys = [part.index_select(0, left) for part in self.keys]
            self.values = [part.index_select(0, left) for part in self.values]
            self.lengths = self.lengths[left]

    def _settle(self) -> None:
        """Buffers for a step of all places, and no graph."""
        places, device = self.prompts * self.places, self.slots.device
        self._fed = torch.zeros(places, dtype=torch.int64, device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._begins = self._fed.index_copy(0, self.slots, self.position)  # (places,) what positions count from
        self._states = torch.zeros(places, self.weights.embedding.shape[1], device=device)
        shared = self.weights.query_heads // self.weights.kv_heads
        self._by_prompt = groups_of(self.places * shared, self.keys[0].shape[1], self.lengths)
        self._by_row = groups_of(shared, self.max_tokens, self._fed.int())
        self._graph = None

    def _run(self) -> None:
        """One step of all n places, from `_fed` and `_at` to `_states`."""
        w = self.weights
        shared, rows, run = w.query_heads // w.kv_heads, len(self._fed), fused.run
        heads = (w.query_heads, w.kv_heads)
        turn = self.angles.index_select(0, self._begins + self._at)  # (n, 1, d / 2)
        cos, sin = turn.real.contiguous(), turn.imag.contiguous()
        self._by_row.used.copy_((self._at + 1).expand(rows))
        x = F.embedding(self._fed, w.embedding)  # (n, D) float32, the residual stream
        h = run(_normed, x, w.eps).to(w.head.dtype)
        for index, layer in enumerate(w.layers):
            h = F.linear(h, layer.qkv, layer.qkv_bias).view(rows, -1, w.head_size)
            query, new = run(_spread, h, cos, sin, heads)  # (n * shared, Hkv, d), (2, n, 1, Hkv, d)
            own = self.own[index]
            own.index_copy_(2, self._at, new)
            first = attend_used(query, self.keys[index], self.values[index], self._by_prompt)
            second = attend_used(query, own[0], own[1], self._by_row)
            out = run(_joined, *first, *second, shared)  # (n, Hq d)
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


def _joined(first: Tensor, first_height: Tensor, second: Tensor, second_height: Tensor, shared: int) -> Tensor:
    """Two parts (n * Hq / Hkv, Hkv, d) of an attention, by their log-sum-exps (Hkv, n * Hq / Hkv), to (n, Hq d)."""
    share = torch.sigmoid(second_height - first_height).T[..., None]
    out = first.float() * (1 - share) + second.float() * share
    joined: Tensor = out.to(first.dtype).unflatten(0, (-1, shared))  # (n, Hq / Hkv, Hkv, d)
    return joined.transpose(1, 2).flatten(1).contiguous()


def _gated(both: Tensor, activation: Any) -> Tensor:
    gate, up = both.chunk(2, dim=1)
    product: Tensor = activation(gate.float()) * up.float()
    return product.to(both.dtype)
