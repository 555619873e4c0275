"""Attention in pieces: by hand here what a GPU's kernel makes of the same table."""

from dataclasses import replace

import pytest
import torch

from cleareyed.models import pieces
from cleareyed.models.graphs import _joined

SHAPES = [  # prompts, their room, rows behind each, room of each, heads of keys, queries that share one, head size
    (3, 70, 4, 40, 2, 6, 32),
    (2, 5, 1, 9, 1, 3, 16),
    (1, 200, 7, 150, 2, 20, 64),
    (3, 9, 2, 8, 1, 3, 8),
]


def given(shape):
    torch.manual_seed(0)
    prompts, longest, behind, room, heads, shared, size = shape
    rows = prompts * behind
    lengths = torch.randint(1, longest + 1, (prompts,), dtype=torch.int32)
    cut = pieces.pieces_of((prompts, longest), (rows, room), shared, lengths)
    keys, values = torch.randn(2, prompts * longest + rows * room, heads, size)
    return cut, torch.randn(rows * shared, heads, size), keys, values


def by_hand(query, keys, values, cut):
    parts = sum(pieces.CUTS)
    output = torch.full((parts, *query.shape), torch.nan)
    height = torch.full((parts, query.shape[1], len(query)), torch.nan)
    for first, many, part, number, cuts, start, whose in cut.table.tolist():
        whole = int(cut.lengths[whose])
        each = -(-whole // cuts)
        seen = torch.arange(whole)[number * each : (number + 1) * each] + start
        scores = torch.einsum("rhd,khd->hrk", query[first : first + many], keys[seen])
        height[part, :, first : first + many] = scores.logsumexp(2)
        output[part, first : first + many] = torch.einsum("hrk,khd->rhd", scores.softmax(2), values[seen])
    return output, height


@pytest.mark.parametrize("shape", SHAPES)
def test_pieces_make_up_the_whole(shape):
    cut, query, keys, values = given(shape)
    shared, room = shape[5], shape[3]
    assert cut.table[:, 1].max() <= pieces.ROWS
    for own in (1, 2, room // 2, room):  # fewer than pieces at first
        pieces.see(cut, torch.tensor([own]))
        whole = _joined(*pieces.attend_pieces(query, keys, values, cut), shared)
        found = _joined(*by_hand(query, keys, values, cut), shared)
        assert torch.allclose(found, whole, atol=1e-5)
        assert not torch.equal(found, whole)  # it did go another way


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_kernel_attends_as_the_plain_sums_do(shape):
    cut, *parts = given(shape)
    query, keys, values = (part.cuda().bfloat16() for part in parts)
    cut = replace(cut, lengths=cut.lengths.cuda(), table=cut.table.cuda())
    for own in (1, 2, shape[3] // 2, shape[3]):
        pieces.see(cut, torch.tensor([own]).cuda())
        found = _joined(*pieces.attend_pieces(query, keys, values, cut), shape[5]).float()
        whole = _joined(*pieces.attend_pieces(query.float(), keys.float(), values.float(), cut), shape[5])
        assert (found - whole).norm() < 1e-2 * whole.norm()
