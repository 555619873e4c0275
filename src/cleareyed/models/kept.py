"""What sampling computed of the completions' tokens, so that an update with the same weights need not run them again.

On a CPU in float32, in models without adapters and without checkpointed blocks, and within `KEPT_BYTES`. The decoder
writes what a backward pass needs of a layer into its row here instead of into passing memory; `replay` reads it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cleareyed.models.fused import plain
from cleareyed.models.pages import want_large
from cleareyed.models.vlm import VLM

KEPT_BYTES = 2**30
"""Nothing is kept where completions of full length would take more."""


class KeptLayer(NamedTuple):
    """What a layer computed of R tokens."""

    heads: Tensor  # (R, (Hq + 2 Hkv) d): queries over sqrt(d) and keys, both turned, in the order of `pairs`; values
    seen: Tensor  # (R, Hq d): what attention gave
    height: Tensor  # (R, Hq): the log-sum-exps of its scores
    between: Tensor  # (R, D): the residual stream behind attention
    gate_up: Tensor  # (R, 2 I)
    after: Tensor  # (R, D): the residual stream behind the layer


class Kept:
    """Room for every token that N completions of at most T tokens feed to the model, T - 1 each."""

    def __init__(self, parts: KeptLayer, at: Tensor) -> None:
        self.parts = parts  # of all L layers (L, R, ...)
        self.layers = [KeptLayer(*each) for each in zip(*(part.unbind(0) for part in parts), strict=True)]
        self.at = at  # (N, T - 1) int64: the token's row
        self.used = 0

    def emptied(self) -> "Kept":
        """The same memory for other completions."""
        self.used = 0
        return self

    def rows(self, live: Tensor, place: int) -> KeptLayer:
        """Where the tokens at `place` of the completions `live` (n,) are to be written, (L, n, ...)."""
        start, self.used = self.used, self.used + len(live)
        self.at[live, place] = torch.arange(start, self.used)
        return KeptLayer(*(part[:, start : self.used] for part in self.parts))


@dataclass(frozen=True)
class Replayed:
    """N completions whose forward has been run."""

    kept: Kept
    numbers: Tensor  # (N,) int64: which of those kept they are

    def rows(self, fed: Tensor) -> Tensor:
        """Rows (M,) of the tokens `fed` (N, T)."""
        return self.kept.at[self.numbers][:, : fed.shape[1]][fed]


def is_kept(vlm: VLM, completions: int, max_tokens: int) -> bool:
    """Whether sampling so many completions of at most so many tokens keeps what it computes."""
    language: Any = vlm.model.model.language_model
    config = language.config
    size = 4 * completions * (max_tokens - 1) * sum(_widths(language)) * len(language.layers)
    return (
        vlm.device.type == "cpu"
        and not vlm.autocast
        and config.hidden_act == "silu"
        and size <= KEPT_BYTES
        and all(_bare(layer) and not layer.gradient_checkpointing for layer in language.layers)
    )


def room_for(vlm: VLM, completions: int, max_tokens: int) -> Kept | None:
    """Room for what sampling computes; None where it is not kept.

    Memory is taken only as it is written to.
    """
    if not is_kept(vlm, completions, max_tokens):
        return None
    language: Any = vlm.model.model.language_model
    shape = len(language.layers), completions * (max_tokens - 1)
    parts = KeptLayer(*(torch.empty(*shape, width, device=vlm.device) for width in _widths(language)))
    for part in parts:
        want_large(part)
    return Kept(parts, torch.zeros(completions, max_tokens - 1, dtype=torch.int64))


def _widths(language: Any) -> tuple[int, ...]:
    config, size = language.config, language.layers[0].self_attn.head_dim
    heads = config.num_attention_heads, config.num_key_value_heads
    return widths(*heads, size, config.hidden_size, config.intermediate_size)


def widths(queries: int, shared: int, size: int, width: int, inner: int) -> tuple[int, ...]:
    """The width of each part of a `KeptLayer`: of so many heads for queries and for keys, and their size; D and I."""
    return (queries + 2 * shared) * size, queries * size, queries, width, 2 * inner, width


def _bare(layer: Any) -> bool:
    """Whether a layer's linear ones are no more than that, and only those of queries, keys and values have a bias."""
    own, mlp = layer.self_attn, layer.mlp
    inner = (own.q_proj, own.k_proj, own.v_proj)
    others = (own.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    return all(map(plain, (*inner, *others))) and not any(part.bias is not None for part in others)
