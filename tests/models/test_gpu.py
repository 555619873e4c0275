"""On a GPU: what only runs there."""

from dataclasses import replace

import pytest
import torch
from tiny import batch, gradients, prompts_of, tiny_qwen2_5_vl, tiny_qwen2_vl

from cleareyed.models.forward import continuation_logprobs, cut, join, plain_logprobs, run_prefix
from cleareyed.models.sample import sample
from cleareyed.models.vlm import SamplingParams, padded

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
FAMILIES = [tiny_qwen2_vl, tiny_qwen2_5_vl]


def on_gpu(vlm, autocast=False):
    return replace(vlm, model=vlm.model.cuda(), autocast=autocast)


def plain(vlm, prompts, rows, ids, mask, weights):
    result = torch.zeros(ids.shape, device="cuda")
    for n, row in enumerate(rows.tolist()):
        length = int(mask[n].sum())
        result[n, :length] = plain_logprobs(vlm, prompts[row], ids[n, :length], 1.0)
    return result, (result * weights).sum()


@pytest.mark.parametrize("build", FAMILIES)
def test_gradients_in_fp32_are_those_of_the_plain_forward(build, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # in which convolutions have their backward
    vlm = on_gpu(build())
    prompts, rows, ids, mask, weights = batch(vlm)
    rows, ids, mask, weights = (part.cuda() for part in (rows, ids, mask, weights))
    prefix = run_prefix(vlm, prompts)
    logprobs, _ = continuation_logprobs(vlm, prefix, rows, ids, mask)
    shared = gradients(vlm, (logprobs * weights).sum())
    _, loss = plain(vlm, prompts, rows, ids, mask, weights)
    for name, gradient in gradients(vlm, loss).items():
        assert (shared[name] - gradient).norm() < 2e-5 * gradient.norm(), name


@pytest.mark.parametrize("build", FAMILIES)
@pytest.mark.parametrize("parts", [1, 3])
def test_packed_flash_attention_strays_no_further_than_the_plain_forward_in_bf16(build, parts):
    exact = on_gpu(build())
    prompts, rows, ids, mask, weights = batch(exact)
    rows, ids, mask, weights = (part.cuda() for part in (rows, ids, mask, weights))
    truth, loss = plain(exact, prompts, rows, ids, mask, weights)
    true = gradients(exact, loss)
    half = on_gpu(build(), autocast=True)
    rough, loss = plain(half, prompts, rows, ids, mask, weights)
    plainly = gradients(half, loss)

    half.model.zero_grad()
    prefix = run_prefix(half, prompts)
    leaves = cut(prefix)
    found = torch.zeros_like(truth)
    for part in torch.arange(len(rows), device="cuda").chunk(parts):
        logprobs, _ = continuation_logprobs(half, leaves, rows[part], ids[part], mask[part])
        (logprobs * weights[part]).sum().backward()
        found[part] = logprobs.detach()
    join(prefix, leaves)
    assert (found - truth).norm() < 1.5 * (rough - truth).norm() + 1e-3 * truth.norm()
    worst = 0.0
    for name, parameter in half.model.named_parameters():
        wrong, before = (parameter.grad - true[name]).norm(), (plainly[name] - true[name]).norm()
        worst = max(worst, (wrong / true[name].norm()).item())
        assert wrong < 1.7 * before + 1e-2 * true[name].norm(), name
    print("largest relative error of a gradient", worst)


@pytest.mark.parametrize("autocast", [False, True])
def test_what_a_graph_draws_has_the_logprobs_that_training_gives_it(autocast):
    vlm = on_gpu(tiny_qwen2_vl(), autocast)
    prompts = prompts_of(vlm)
    groups = sample(vlm, prompts, SamplingParams(150, 1.0, 6), torch.Generator("cuda").manual_seed(3))
    flat = [completion for group in groups for completion in group]
    assert len({len(completion.ids) for completion in flat}) > 3  # rows left at different times
    rows = torch.arange(len(prompts), device="cuda").repeat_interleave(6)
    ids, mask = (part.cuda() for part in padded(flat))
    with torch.no_grad():
        logprobs, _ = continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask)
    sampled = torch.tensor([value for completion in flat for value in completion.logprobs], device="cuda")
    gaps = (logprobs[mask] - sampled).abs()
    assert gaps.mean() < 0.02 if autocast else gaps.max() < 1e-3


def test_a_step_in_bf16_trains_the_weights_that_the_step_before_has_left():
    """Copies of weights that outlive an update would be seen here."""
    vlm = on_gpu(tiny_qwen2_vl(), autocast=True)
    prompts, rows, ids, mask, _ = batch(vlm)
    rows, ids, mask = rows.cuda(), ids.cuda(), mask.cuda()
    optimizer = torch.optim.AdamW(vlm.model.parameters(), lr=0.01, fused=True)
    seen = []
    for _ in range(3):
        logprobs, _ = continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask)
        with torch.no_grad():
            plainly = torch.cat([plain_logprobs(vlm, prompts[row], ids[n][mask[n]]) for n, row in enumerate(rows)])
        assert (logprobs[mask] - plainly).abs().mean() < 0.02
        seen.append(plainly.mean().item())
        optimizer.zero_grad()
        (-logprobs[mask].mean()).backward()
        optimizer.step()
    assert seen[0] + 0.1 < seen[1] and seen[1] + 0.1 < seen[2]
