"""What the queries of a decoding step see, cut into pieces that together keep a GPU busy.

A completion's query sees its prompt's keys and its own. Few queries meet many keys, so that the time goes into reading
these: the queries behind a prompt read its keys together (Juravsky et al. 2024, arXiv 2402.05099), and keys are cut
into pieces that are read side by side. Each gives an output and its log-sum-exp, by which they are joined (Dao et al.,
Flash-Decoding, 2023).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 16
"""Most queries in a piece: the fewest that a GPU's matrix units take."""
CUTS = 4, 2
"""Into how many pieces a prompt's keys are cut, and a completion's own."""


@dataclass(frozen=True)
class Pieces:
    """Of N rows in order of B prompts, as many behind each; the keys of all prompts come first, then those of rows."""

    prompts: tuple[int, int]  # B and the room for the keys of one, P
    rows: tuple[int, int]  # N and the room for the keys of one, K
    lengths: Tensor  # (B + N,) int32: the keys that are seen of each; those of rows change
    table: Tensor  # (pieces, 7) int32: first query, how many, part of the output; cut, of how many, first key, whose


def pieces_of(prompts: tuple[int, int], rows: tuple[int, int], queries: int, lengths: Tensor) -> Pieces:
    """For prompts of `lengths` (B,), and `queries` of each row with each head of the keys; see `Pieces`."""
    (count, size), (n, room) = prompts, rows
    device, (shared, own) = lengths.device, CUTS
    behind = _table(shared, n // count * queries, count, size, device)
    after = torch.tensor([0, 0, shared, 0, 0, count * size, count], device=device)  # what is of the prompts
    alone = _table(own, queries, n, room, device) + after
    lengths = torch.cat([lengths, lengths.new_zeros(n)]).int()
    return Pieces(prompts, rows, lengths, torch.cat([alone, behind]).int())


def _table(cuts: int, queries: int, groups: int, room: int, device: torch.device) -> Tensor:
    """The lines (pieces, 7) of so many groups of queries, each with its own keys."""
    cut, group, first = torch.meshgrid(
        *(torch.arange(end, device=device) for end in (cuts, groups)),
        torch.arange(0, queries, ROWS, device=device),
        indexing="ij",
    )
    many = (queries - first).clamp(max=ROWS)
    whole = torch.full_like(cut, cuts)
    columns = (group * queries + first, many, cut, cut, whole, group * room, group)
    return torch.stack(columns, dim=-1).flatten(0, 2)


def see(pieces: Pieces, own: Tensor) -> None:
    """From now on every row sees so many of its own keys, (1,)."""
    pieces.lengths[pieces.prompts[0] :].copy_(own.expand(pieces.rows[0]))


def attend_pieces(query: Tensor, keys: Tensor, values: Tensor, pieces: Pieces) -> tuple[Tensor, Tensor]:
    """Attention of a step's R queries with each of H heads, (R, H, d), to keys and values (B P + N K, H, d), unscaled.

    Returns what each of C parts gives, (C, R, H, d), and its log-sum-exps (C, H, R) float32: -inf if it has no keys.
    No value is looked at, so that a CUDA graph can hold it. On a GPU in bf16 it is one kernel; elsewhere it is
    computed plainly, in a part for prompts and one for rows.
    """
    if query.is_cuda and query.dtype == torch.bfloat16:
        from cleareyed.models.kernels import attend  # triton comes with torch for GPUs only

        return attend(query, keys, values, pieces.lengths, pieces.table, sum(CUTS), ROWS)
    (count, _), end = pieces.prompts, pieces.prompts[0] * pieces.prompts[1]
    found = [
        _attend(query, keys[part].unflatten(0, size), values[part].unflatten(0, size), lengths)
        for part, size, lengths in (
            (slice(end), pieces.prompts, pieces.lengths[:count]),
            (slice(end, None), pieces.rows, pieces.lengths[count:]),
        )
    ]
    return torch.stack([output for output, _ in found]), torch.stack([height for _, height in found])


def _attend(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of G groups of queries, (R, H, d), to the first `lengths` (G,) of keys and values (G, K, H, d)."""
    query = query.unflatten(0, (len(keys), -1))
    scores = torch.einsum("grhd,gkhd->hgrk", query, keys).float()
    unseen = torch.arange(keys.shape[1], device=keys.device) >= lengths[:, None]  # (G, K)
    scores = scores.masked_fill(unseen[:, None], -torch.inf)
    shares = scores.softmax(3).to(values.dtype)
    output = torch.einsum("hgrk,gkhd->grhd", shares, values)
    return output.flatten(0, 1), scores.logsumexp(3).flatten(1)
