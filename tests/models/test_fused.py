"""The GPU's functions on a CPU, eagerly: the same mathematics, in bf16 where a GPU has it."""

from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from tiny import batch, gradients, tiny_qwen2_vl
from torch.nn import functional as F

from cleareyed.models import fused
from cleareyed.models.forward import checkpoint_blocks, continuation_logprobs, run_prefix


def relative(found, wanted):
    return ((found.float() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_logprobs_and_gradients_stray_no_further_than_those_of_the_ordinary_layers_in_bf16(monkeypatch, checkpointing):
    exact, half = tiny_qwen2_vl(), replace(tiny_qwen2_vl(), autocast=True)
    prompts, rows, ids, mask, weights = batch(exact)
    if checkpointing:
        checkpoint_blocks(half.model)

    def run(vlm):
        logprobs, entropy = continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask, 0.7)
        return logprobs.detach(), entropy, gradients(vlm, (logprobs * weights).sum())

    truth, ordinary = run(exact), run(half)
    monkeypatch.setattr(fused, "wanted", lambda device: torch.is_autocast_enabled("cpu"))
    monkeypatch.setattr(fused, "PIECE", 5 * 320)
    blocks = Mock(wraps=fused.vision_block)
    monkeypatch.setattr(fused, "vision_block", blocks)
    found = run(half)
    assert blocks.called
    assert not torch.equal(found[0], ordinary[0])  # it did go another way
    for part in (0, 1):
        assert relative(found[part], truth[part]) < 1.5 * relative(ordinary[part], truth[part]) + 1e-3
    for name, gradient in truth[2].items():
        assert relative(found[2][name], gradient) < 1.5 * relative(ordinary[2][name], gradient) + 1e-2, name


def test_each_backward_is_that_of_the_plain_formula():
    torch.manual_seed(0)
    x, weight = torch.randn(5, 7, 16, requires_grad=True), torch.rand(16, requires_grad=True)
    gate, up = (torch.randn(5, 7, 16, requires_grad=True) for _ in range(2))
    down = torch.randn(4, 16, requires_grad=True)
    angle = torch.randn(5, 7, 1, 4)
    heads = torch.randn(5, 7, 2, 8, requires_grad=True)

    def gradients_of(loss, *inputs):
        for part in inputs:
            part.grad = None
        loss.backward()
        return [part.grad.clone() for part in inputs]

    pull = torch.randn(5, 7, 16)
    found = gradients_of((fused._Normed.apply(x, weight, 1e-6).float() * pull).sum(), x, weight)
    plain = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight
    for one, other in zip(found, gradients_of((plain * pull).sum(), x, weight), strict=True):
        assert relative(one, other) < 1e-2

    pull = torch.randn(5, 7, 4)
    found = gradients_of((fused._GatedDown.apply(gate, up, down, down.detach()) * pull).sum(), gate, up, down)
    plain = F.linear(F.silu(gate) * up, down)
    for one, other in zip(found, gradients_of((plain * pull).sum(), gate, up, down), strict=True):
        assert relative(one, other) < 1e-5

    turned, other = fused._Turned.apply(heads, -heads, angle.cos(), angle.sin(), fused._turn, fused._turn_back)
    assert torch.equal(turned, -other)
    plain = torch.view_as_complex(torch.stack(heads.chunk(2, -1), -1)) * torch.polar(torch.ones(()), angle)
    plain = torch.view_as_real(plain).flatten(-2)
    assert torch.allclose(turned, plain, atol=1e-6)
    pull = torch.randn(5, 7, 2, 8)
    [one], [other] = gradients_of((turned * pull).sum(), heads), gradients_of((plain * pull).sum(), heads)
    assert torch.allclose(one, other, atol=1e-5)


def test_logprobs_of_tokens_are_those_of_a_log_softmax():
    torch.manual_seed(0)
    states, weight = (torch.randn(9, 16) * 0.5).requires_grad_(), torch.randn(50, 16, requires_grad=True)
    ids, banned, pull = torch.randint(10, 50, (9,)), torch.arange(50) < 10, torch.randn(9)
    logprobs, entropy = fused.chosen_logprobs(states, weight, ids, banned, 0.7)
    exact = torch.log_softmax((F.linear(states, weight) / 0.7).masked_fill(banned, -torch.inf), 1)
    assert relative(logprobs, exact.gather(1, ids[:, None])[:, 0]) < 1e-2
    assert relative(entropy, -(exact.exp() * exact.masked_fill(banned, 0)).sum(1)) < 1e-2
    (logprobs * pull).sum().backward()
    found = states.grad, weight.grad
    plain = torch.autograd.grad((exact.gather(1, ids[:, None])[:, 0] * pull).sum(), (states, weight))
    for one, other in zip(found, plain, strict=True):
        assert relative(one, other) < 2e-2
    assert not found[1][:10].any()


@pytest.mark.parametrize("way", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_the_copy_in_bf16_is_that_of_the_weights_as_they_are_now(way):
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(16, 8), torch.randn(3, 16)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=0.1, **way)
    for _ in range(3):
        copy = fused.half(linear.weight)
        assert torch.equal(copy, linear.weight.detach().to(torch.bfloat16))
        assert fused.half(linear.weight) is copy
        linear(x).square().sum().backward()
        optimizer.step()
    linear.load_state_dict({"weight": torch.ones(8, 16), "bias": torch.zeros(8)})
    assert (fused.half(linear.weight) == 1).all()
    with torch.no_grad():
        assert fused.half(linear.weight) is not fused.half(linear.weight)


def test_a_product_adds_to_the_gradient_that_is_there():
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(16, 8), torch.randn(2, 3, 16).bfloat16().requires_grad_()
    plain, y = torch.nn.Linear(16, 8), x.detach().float().requires_grad_()
    plain.load_state_dict(linear.state_dict())
    pull = torch.randn(2, 3, 8)
    for _ in range(2):
        (fused.product(x, linear).float() * pull).sum().backward()
        (plain(y) * pull).sum().backward()
    for one, other in ((x, y), (linear.weight, plain.weight), (linear.bias, plain.bias)):
        assert relative(one.grad, other.grad) < 1e-2
    linear.weight.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        assert relative(fused.product(x, linear), plain(y)) < 1e-2
