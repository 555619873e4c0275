"""A decoding step on a CPU: what all layers write to, cut into views before the first of them runs.

Making a view takes as long as a small operation, and a layer would need some seventy of a few microseconds each.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cleareyed.models.kept import KeptLayer


class Places(NamedTuple):
    """How live rows stand for attention: `each` for each of `prompts`, some with nobody in them."""

    prompts: int  # B
    each: int
    query_heads: int  # Hq = Hkv G
    kv_heads: int  # Hkv
    size: int  # d

    @property
    def shared(self) -> int:
        """Query heads G that share a key-value head."""
        return self.query_heads // self.kv_heads


class Views(NamedTuple):
    """What one layer writes to and reads in a step of n rows that have t tokens."""

    heads: Tensor  # (n, (Hq + 2 Hkv) d)
    turning: Tensor  # (n, Hq + Hkv, d / 2) complex: the queries and keys in them
    grid: Tensor  # (B * each, (Hq + 2 Hkv) d): the heads by place; themselves where every place has somebody
    queries: Tensor  # (B, Hkv, each, G d)
    new: Tensor  # (2, B, Hkv, each, d): keys and values of the new tokens
    slot: Tensor  # (2, B, Hkv, each, d): where these are to stand
    keys: Tensor  # (B * Hkv * each, d, t) own ones, the newest included
    values: Tensor  # (B * Hkv * each, t, d)
    top: Tensor  # (B * Hkv, each * G, 1): the largest score
    top_own: Tensor  # (B * Hkv * each, G, 1) the same memory
    total: Tensor  # (B * Hkv, each * G, 1): the exponentials' sum
    total_own: Tensor  # (B * Hkv * each, G, 1) the same memory
    divisor: Tensor  # (B, Hkv, each, G, 1) the same memory
    found: Tensor  # (B, Hkv, each, G, d): what attention gives
    placed: Tensor  # (B * each, Hq d): the same by place
    seen: Tensor  # (n, Hq d)
    between: Tensor  # (n, D)
    gate_up: Tensor  # (n, 2 I)
    gate: Tensor  # (n, I)
    up: Tensor  # (n, I)
    after: Tensor  # (n, D)


def passing(rows: int, widths: Sequence[int], layers: int, device: torch.device) -> KeptLayer:
    """Memory (L, n, ...) for a step of which nothing is kept: every layer writes to the same."""
    return KeptLayer(*(torch.empty(1, rows, width, device=device).expand(layers, -1, -1) for width in widths))


def views(to: KeptLayer, own: Tensor, heights: Tensor, places: Places) -> list[Views]:
    """By layer, from parts (L, n, ...) to write to, own keys and values (L, 2, B * Hkv * each, t, d) of which the last
    are to be written, and room (2, L, B * Hkv, each * G) for `top` and `total`."""
    layers, rows = to.heads.shape[:2]
    asked, turned = places.query_heads * places.size, (places.query_heads + places.kv_heads) * places.size
    count = places.prompts * places.each
    grid, placed = to.heads, to.seen
    if rows < count:  # empty places take zeros
        grid = to.heads.new_zeros(count, to.heads.shape[2]).expand(layers, -1, -1)
        placed = to.seen.new_empty(count, asked).expand(layers, -1, -1)
    by_prompt = (layers, places.prompts, places.each)
    top, total = heights
    slot = own[:, :, :, -1].view(layers, 2, places.prompts, places.kv_heads, places.each, places.size)
    new = grid[..., asked:].view(*by_prompt, 2, places.kv_heads, places.size)
    parts = Views(
        heads=to.heads,
        turning=torch.view_as_complex(to.heads[..., :turned].view(layers, rows, -1, places.size // 2, 2)),
        grid=grid,
        queries=grid[..., :asked].view(*by_prompt, places.kv_heads, -1).transpose(2, 3),
        new=new.permute(0, 3, 1, 4, 2, 5),
        slot=slot,
        keys=own[:, 0].transpose(2, 3),
        values=own[:, 1],
        top=top[..., None],
        top_own=top.view(layers, -1, places.shared, 1),
        total=total[..., None],
        total_own=total.view(layers, -1, places.shared, 1),
        divisor=total.view(layers, places.prompts, places.kv_heads, places.each, -1, 1),
        found=placed.view(*by_prompt, places.kv_heads, -1, places.size).transpose(2, 3),
        placed=placed,
        seen=to.seen,
        between=to.between,
        gate_up=to.gate_up,
        gate=to.gate_up.chunk(2, dim=2)[0],
        up=to.gate_up.chunk(2, dim=2)[1],
        after=to.after,
    )
    return [Views(*each) for each in zip(*(part.unbind(0) for part in parts), strict=True)]


class Attention:
    """Softmax attention of rows to their prompts and to their own tokens, in memory that serves all layers."""

    def __init__(self, places: Places, prompt: int, own: int, device: torch.device) -> None:
        lines, rows = places.prompts * places.kv_heads, places.each * places.shared
        self._queries = torch.empty(lines, rows, places.size, device=device)  # (B * Hkv, each * G, d)
        self._queries_in = self._queries.view(places.prompts, places.kv_heads, places.each, -1)
        self._queries_own = self._queries.view(-1, places.shared, places.size)  # (B * Hkv * each, G, d)
        self._to_prompt = torch.empty(lines, rows, prompt, device=device)
        self._to_own = torch.empty(lines * places.each, places.shared, own, device=device)
        self._of_own = torch.empty(
            lines * places.each, places.shared, 1, device=device
        )  # what is found of the latter alone
        self._out = torch.empty(lines, rows, places.size, device=device)
        self._out_own = self._out.view(self._queries_own.shape)
        self._out_by_place = self._out.view(places.prompts, places.kv_heads, places.each, -1, places.size)

    def __call__(self, view: Views, keys: Tensor, values: Tensor, padding: Tensor) -> None:
        """From queries, and own keys and values, to `found`, `top` and `total`.

        keys (B * Hkv, d, P) and values (B * Hkv, P, d) of the prompts; padding (B * Hkv, 1, p): -inf where the last p
        of the former are none.
        """
        to_prompt, to_own = self._to_prompt, self._to_own
        self._queries_in.copy_(view.queries)
        torch.bmm(self._queries, keys, out=to_prompt)
        if padding.shape[2]:
            to_prompt[:, :, -padding.shape[2] :].add_(padding)
        torch.bmm(self._queries_own, view.keys, out=to_own)
        # The softmax over both, neither joined nor divided: the product with the values is smaller.
        torch.amax(to_prompt, 2, keepdim=True, out=view.top)
        torch.amax(to_own, 2, keepdim=True, out=self._of_own)
        torch.maximum(view.top_own, self._of_own, out=view.top_own)
        to_prompt.sub_(view.top).exp_()
        to_own.sub_(view.top_own).exp_()
        torch.sum(to_prompt, 2, keepdim=True, out=view.total)
        view.total_own.add_(torch.sum(to_own, 2, keepdim=True, out=self._of_own))
        torch.bmm(to_prompt, values, out=self._out)
        self._out_own.baddbmm_(to_own, view.values)
        torch.div(self._out_by_place, view.divisor, out=view.found)
