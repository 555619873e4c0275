"""Decoding in steps that never change: buffers of fixed size and no look at a value, captured once as a CUDA graph.

On a GPU a step of a small batch takes longer to launch, kernel by kernel, than to run. A graph is launched at once.
The functions are those of `Decoder`; on other devices they run eagerly, with the same result.
"""

from typing import Any

import torch
from torch import Tensor

from cleareyed.models.decode import Decoder, DecoderWeights
from cleareyed.models.forward import Prefix

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
        unseen = torch.zeros(span, dtype=self.own.dtype, device=self._at.device)
        unseen.masked_fill_(self._slots_of_room[:span] > self._at, -torch.inf)
        angles = self.angles.index_select(0, self._begins + self._at)  # (places, 1, d / 2)
        self._states.copy_(self._forward(self._fed, angles, self.own[:, :, :, :span], self._at, unseen))

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
