"""The kernel of `pieces.attend_pieces`, in Triton: imported on a GPU only."""

import torch
import triton
import triton.language as tl
from torch import Tensor

KEYS = 32
"""Keys that are read at a time."""


def attend(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, table: Tensor, parts: int, rows: int
) -> tuple[Tensor, Tensor]:
    """Queries (R, H, d), keys and values (S, H, d), lengths and table as in `pieces.Pieces`, `rows` a piece at most.

    Returns (C, R, H, d) and log-sum-exps (C, H, R) float32 of C `parts`.
    """
    (count, heads, size), width = query.shape, max(16, triton.next_power_of_2(query.shape[2]))
    output = torch.empty((parts, *query.shape), dtype=query.dtype, device=query.device)
    height = torch.empty((parts, heads, count), dtype=torch.float32, device=query.device)
    sizes = {"H": heads, "D": size, "W": width, "M": rows, "N": KEYS, "num_warps": 2, "num_stages": 4}
    _attend[(len(table), heads)](query, keys, values, lengths, table, output, height, count, **sizes)
    return output, height


@triton.jit  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]
    query,
    keys,
    values,
    lengths,
    table,
    output,
    height,
    count,
    H: tl.constexpr,
    D: tl.constexpr,
    W: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
):
    """Each program: the queries of one piece, with one head of the keys."""
    line, head = table + 7 * tl.program_id(0), tl.program_id(1)
    first, many, part, cut = tl.load(line), tl.load(line + 1), tl.load(line + 2), tl.load(line + 3)
    whole = tl.load(lengths + tl.load(line + 6))
    each = tl.cdiv(whole, tl.load(line + 4))
    length = tl.minimum(tl.maximum(whole - cut * each, 0), each)
    begin = (tl.load(line + 5) + cut * each).to(tl.int64)

    row, column, key = tl.arange(0, M), tl.arange(0, W), tl.arange(0, N)
    mine, inside = row < many, column < D
    place = ((first + row)[:, None] * H + head) * D + column[None, :]
    q = tl.load(query + place, mask=mine[:, None] & inside[None, :], other=0.0)  # (M, W)
    top = tl.full([M], -float("inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    sum_ = tl.zeros([M, W], tl.float32)
    for start in range(0, length, N):
        seen = start + key < length
        there = ((begin + start + key)[:, None] * H + head) * D + column[None, :]
        both = seen[:, None] & inside[None, :]
        k = tl.load(keys + there, mask=both, other=0.0)  # (N, W)
        scores = tl.where(seen[None, :], tl.dot(q, tl.trans(k)), -float("inf"))  # (M, N)
        higher = tl.maximum(top, tl.max(scores, 1))
        shares, shrink = tl.exp(scores - higher[:, None]), tl.exp(top - higher)
        v = tl.load(values + there, mask=both, other=0.0)
        sum_ = tl.dot(shares.to(v.dtype), v, sum_ * shrink[:, None])
        total = total * shrink + tl.sum(shares, 1)
        top = higher
    found = tl.where(total > 0, total, 1.0)
    to = part * count
    result = (sum_ / found[:, None]).to(output.dtype.element_ty)
    tl.store(output + to * H * D + place, result, mask=mine[:, None] & inside[None, :])
    tl.store(height + (part * H + head) * count + first + row, top + tl.log(found), mask=mine)
