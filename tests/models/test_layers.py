import pytest
import torch
from torch.nn import functional as F

from cleareyed.models.layers import product, turned


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("wide", [3, 17])
def test_a_product_and_its_gradients_are_those_of_a_linear_layer(wide, biased):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 8), (wide, 8), *([(wide,)] if biased else [])]
    parts = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    arguments = parts if biased else [*parts, None]
    upstream = torch.randn(2, 5, wide, generator=generator, dtype=torch.float64)
    found, expected = product(*arguments), F.linear(*arguments)
    assert torch.allclose(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, parts, upstream), torch.autograd.grad(expected, parts, upstream), strict=True
    ):
        assert one.shape == other.shape and torch.allclose(one, other)


def test_heads_that_turn_are_multiplied_and_those_behind_them_stay():
    """Against complex numbers put together entry by entry; one group has no gradient."""
    generator = torch.Generator().manual_seed(0)
    heads = torch.randn(2, 3, 5, 4, generator=generator).requires_grad_()
    angle = torch.randn(2, 3, 1, 2, generator=generator)
    angles = torch.polar(torch.ones_like(angle), angle)
    query, key, value = turned(heads, angles, 4, (3, 1, 1))
    first, second = heads.unflatten(-1, (2, 2)).unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    whole = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)
    expected = torch.cat([whole[..., :4, :], heads[..., 4:, :]], dim=-2)
    assert torch.allclose(torch.cat([query, key, value], dim=-2), expected, atol=1e-6)
    assert [part.shape[-2] for part in (query, key, value)] == [3, 1, 1]
    upstream = torch.randn(2, 3, 4, 4, generator=generator)
    [found] = torch.autograd.grad([query, value], heads, [upstream[..., :3, :], upstream[..., 3:, :]])
    parts = [expected[..., :3, :], expected[..., 4:, :]]
    [wanted] = torch.autograd.grad(parts, heads, [upstream[..., :3, :], upstream[..., 3:, :]])
    assert torch.allclose(found, wanted, atol=1e-6)
