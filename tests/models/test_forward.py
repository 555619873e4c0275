from dataclasses import replace

import pytest
import torch
from tiny import batch, gradients, tiny_qwen2_5_vl, tiny_qwen2_vl

from cleareyed.errors import InputError
from cleareyed.models import forward, layers
from cleareyed.models.forward import (
    checkpoint_blocks,
    continuation_logprobs,
    cut,
    image_features,
    join,
    plain_logprobs,
    prompt_states,
    run_prefix,
)

FAMILIES = [tiny_qwen2_vl, tiny_qwen2_5_vl]


def plain(vlm, prompts, rows, ids, mask, weights, temperature):
    """The same loss from one whole forward per completion."""
    result = torch.zeros(ids.shape)
    for n, row in enumerate(rows.tolist()):
        length = int(mask[n].sum())
        result[n, :length] = plain_logprobs(vlm, prompts[row], ids[n, :length], temperature)
    return result, (result * weights).sum()


@pytest.mark.parametrize("build", FAMILIES)
@pytest.mark.parametrize(("temperature", "checkpointing"), [(1.0, False), (0.7, True)])
def test_logprobs_and_gradients_are_those_of_the_plain_forward(build, temperature, checkpointing):
    vlm = build()
    if checkpointing:
        checkpoint_blocks(vlm.model)
    prompts, rows, ids, mask, weights = batch(vlm)
    logprobs, _ = continuation_logprobs(
        vlm, run_prefix(vlm, prompts), rows, ids, mask, temperature, chunk_floats=5 * 320 if checkpointing else 2**25
    )
    shared = gradients(vlm, (logprobs * weights).sum())
    expected, loss = plain(vlm, prompts, rows, ids, mask, weights, temperature)
    assert torch.allclose(logprobs, expected, atol=1e-5)
    for name, gradient in gradients(vlm, loss).items():
        assert gradient.norm() > 0, name
        assert (shared[name] - gradient).norm() < 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("build", FAMILIES)
@pytest.mark.parametrize("group", [2, 16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_split_completions_gather_their_gradients_behind_one_run_of_the_prompts(build, group, checkpointing):
    """Three micro-batches behind one run of prompts and images: gradients as if nothing was split."""
    vlm = build()
    if checkpointing:
        checkpoint_blocks(vlm.model)
    prompts = batch(vlm)[0]
    rows = torch.arange(len(prompts)).repeat_interleave(group)
    generator = torch.Generator().manual_seed(7)
    lengths = torch.randint(1, 8, (len(rows),), generator=generator)
    ids = torch.randint(8, 300, (len(rows), 7), generator=generator)
    mask = torch.arange(7) < lengths[:, None]
    weights = torch.randn(ids.shape, generator=generator) * mask
    logprobs, _ = continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask)
    whole = gradients(vlm, (logprobs * weights).sum())

    vlm.model.zero_grad()
    prefix = run_prefix(vlm, prompts)
    leaves = cut(prefix)
    for part in torch.randperm(len(rows), generator=generator).chunk(3):
        logprobs, _ = continuation_logprobs(vlm, leaves, rows[part], ids[part], mask[part])
        (logprobs * weights[part]).sum().backward()
    join(prefix, leaves)
    for name, parameter in vlm.model.named_parameters():
        assert (parameter.grad - whole[name]).norm() < 1e-5 * whole[name].norm(), name


def test_completions_that_are_one_token_long_need_no_run_of_their_own():
    vlm = tiny_qwen2_vl()
    prompts, rows, ids, mask, _ = batch(vlm)
    one = mask.clone()
    one[:, 1:] = False
    logprobs, _ = continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, one)
    full, _ = continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask)
    assert torch.equal(logprobs[:, 0], full[:, 0]) and (logprobs[:, 1:] == 0).all()


def test_the_padded_road_that_other_devices_take_agrees(monkeypatch):
    vlm = tiny_qwen2_vl()
    prompts, rows, ids, mask, weights = batch(vlm)
    packed, _ = continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask)
    expected = gradients(vlm, (packed * weights).sum())
    monkeypatch.setattr(forward, "_packed_states", forward._padded_states)
    padded, _ = continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask)
    assert torch.allclose(packed, padded, atol=1e-5)
    for name, gradient in gradients(vlm, (padded * weights).sum()).items():
        assert (gradient - expected[name]).norm() < 1e-5 * expected[name].norm(), name


@pytest.mark.parametrize("build", FAMILIES)
def test_frozen_language_lets_gradients_through_to_the_vision_tower(build):
    vlm = build()
    prompts, rows, ids, mask, weights = batch(vlm)
    free = gradients(vlm, (continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask)[0] * weights).sum())
    vlm.model.zero_grad(set_to_none=True)
    vlm.model.requires_grad_(False)
    vlm.model.model.visual.requires_grad_(True)
    prefix = run_prefix(vlm, prompts)
    leaves = cut(prefix)
    (continuation_logprobs(vlm, leaves, rows, ids, mask)[0] * weights).sum().backward()
    join(prefix, leaves)
    for name, parameter in vlm.model.named_parameters():
        if "visual" in name:
            assert (parameter.grad - free[name]).norm() < 1e-5 * free[name].norm(), name
        else:
            assert parameter.grad is None


def test_given_features_spare_the_vision_tower():
    vlm = tiny_qwen2_vl()
    vlm.model.model.visual.requires_grad_(False)
    prompts, rows, ids, mask, _ = batch(vlm)
    expected, _ = continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask)
    features = image_features(vlm, prompts)
    assert not any(part.requires_grad for part in features.values())
    vlm.model.model.visual.forward = None
    found, _ = continuation_logprobs(vlm, run_prefix(vlm, prompts[:3], features), rows[:6], ids[:6], mask[:6])
    assert torch.allclose(found, expected[:6], atol=1e-6)


def test_image_tokens_without_an_image_are_an_error():
    vlm = tiny_qwen2_vl()
    prompts = batch(vlm)[0]
    broken = replace(prompts[1], ids=torch.cat([prompts[1].ids, torch.tensor([vlm.image_token_id])]))
    broken = replace(broken, positions=torch.cat([broken.positions, broken.positions[:, -1:] + 1], dim=1))
    with pytest.raises(InputError, match=r"prompt 2 of 2: \d+ image tokens, but its images make \d+ features"):
        run_prefix(vlm, [prompts[0], broken])


def test_image_tokens_are_an_error_where_no_prompt_has_an_image_too():
    vlm = tiny_qwen2_vl()
    blind = replace(batch(vlm)[0][0], pixels=None, grid=None)
    with pytest.raises(InputError, match=r"prompt 1 of 1: \d+ image tokens, but its images make 0 features"):
        run_prefix(vlm, [blind])


def test_given_features_may_be_of_other_prompts_than_those_without_images():
    vlm = tiny_qwen2_vl()
    prompts = batch(vlm)[0]
    found = run_prefix(vlm, prompts[3:], image_features(vlm, prompts))
    assert torch.equal(found.hidden, run_prefix(vlm, prompts[3:]).hidden)


def test_checkpointing_runs_blocks_again_and_leaves_the_model_as_it_was(monkeypatch):
    vlm = tiny_qwen2_vl()
    checkpoint_blocks(vlm.model)
    prompts, rows, ids, mask, _ = batch(vlm)
    runs = []
    vlm.model.model.visual.blocks[0].norm2.register_forward_pre_hook(lambda *_: runs.append("vision"))
    behind = layers._behind_attention
    monkeypatch.setattr(layers, "_behind_attention", lambda *given: runs.append("language") or behind(*given))
    logprobs, _ = continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask)
    assert runs == ["vision", *["language"] * 4]  # two layers, of prompts and of completions
    logprobs.sum().backward()
    assert runs.count("vision") == 2 and runs.count("language") == 8
    assert not any("forward" in vars(module) for module in vlm.model.modules())
    assert vlm.model.model.language_model.layers[0].gradient_checkpointing


def test_each_image_and_each_prompt_is_run_once(monkeypatch):
    vlm = tiny_qwen2_vl()
    prompts, rows, ids, mask, _ = batch(vlm)
    prompts = [*prompts, prompts[0]]  # the same pixels again
    patches, tokens = [], []
    vlm.model.model.visual.patch_embed.register_forward_hook(lambda _, args, __: patches.append(len(args[0])))
    vlm.model.get_input_embeddings().register_forward_hook(lambda _, args, __: tokens.append(args[0].shape))
    prefix = run_prefix(vlm, prompts)
    continuation_logprobs(vlm, prefix, rows, ids, mask)
    assert patches == [sum(len(prompt.pixels) for prompt in prompts[:3])]
    assert tokens == [(5, max(len(prompt.ids) for prompt in prompts)), (int(mask[:, 1:].sum()),)]  # no padding
    assert torch.allclose(prefix.hidden[0], prefix.hidden[4], atol=1e-6)


@pytest.mark.parametrize("build", FAMILIES)
def test_frozen_vision_builds_no_graph_and_changes_no_other_gradient(build):
    vlm = build()
    prompts, rows, ids, mask, weights = batch(vlm)
    free = gradients(vlm, (continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask)[0] * weights).sum())
    vlm.model.zero_grad()
    vlm.model.model.visual.requires_grad_(False)
    (continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask)[0] * weights).sum().backward()
    for name, parameter in vlm.model.named_parameters():
        if "visual" in name:
            assert parameter.grad is None
        else:
            assert torch.equal(parameter.grad, free[name])


def test_entropy_and_banned_tokens():
    vlm = tiny_qwen2_vl()
    prompts, rows, ids, mask, _ = batch(vlm)
    prefix = run_prefix(vlm, prompts)
    _, entropy = continuation_logprobs(vlm, prefix, rows, ids, mask, temperature=0.5)
    logits = vlm.model.lm_head(prefix.hidden)
    logits[:, list(vlm.banned_ids)] = -1e30
    expected = torch.distributions.Categorical(logits=logits / 0.5).entropy()
    assert torch.allclose(entropy[:, 0], expected[rows], atol=1e-4)
    assert not entropy.requires_grad and (entropy[~mask] == 0).all()
    banned = torch.full((1, 1), vlm.banned_ids[0])
    logprob, _ = continuation_logprobs(vlm, prefix, rows[:1], banned, torch.ones(1, 1, dtype=torch.bool))
    assert logprob.item() == -torch.inf


def test_chunks_bound_the_logits(monkeypatch):
    vlm = tiny_qwen2_vl()
    prompts, rows, ids, mask, _ = batch(vlm)
    sizes = []
    choice = forward.chosen_logprobs
    monkeypatch.setattr(
        forward, "chosen_logprobs", lambda states, *rest: sizes.append(len(states) * 320) or choice(states, *rest)
    )
    whole = continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask)
    assert sizes == [int(mask.sum()) * 320]
    sizes.clear()
    pieces = continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask, chunk_floats=7 * 320)
    assert max(sizes) == 7 * 320 and len(sizes) == 5
    for one, other in zip(whole, pieces, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_choice_of_tokens_has_the_gradients_of_the_plain_formula():
    torch.manual_seed(0)
    states, weight = torch.randn(7, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True)
    ids, banned, weights = torch.arange(7), torch.tensor([9, 19]), torch.randn(7)
    logits = (states @ weight.t()).index_fill(1, banned, -torch.inf) / 0.7
    plain = torch.log_softmax(logits, dim=1)[torch.arange(7), ids]
    found, entropy = layers.chosen_logprobs(states, weight, ids, banned, 0.7)
    assert torch.allclose(found, plain, atol=1e-6) and not entropy.requires_grad
    assert torch.allclose(entropy, torch.distributions.Categorical(logits=logits).entropy(), atol=1e-6)
    wanted = torch.autograd.grad((plain * weights).sum(), (states, weight))
    given = torch.autograd.grad((found * weights).sum(), (states, weight))
    for one, other in zip(given, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    frozen, _ = layers.chosen_logprobs(states, weight.detach(), ids, banned, 0.7)
    assert torch.equal(torch.autograd.grad((frozen * weights).sum(), states)[0], given[0])


def test_a_head_with_a_bias_goes_the_ordinary_way():
    vlm = tiny_qwen2_vl()
    prompts, rows, ids, mask, _ = batch(vlm)
    vlm.model.lm_head.bias = torch.nn.Parameter(torch.linspace(-2, 2, 320))
    logprobs, _ = continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask)
    plain = plain_logprobs(vlm, prompts[int(rows[0])], ids[0][mask[0]])
    assert torch.allclose(logprobs[0][mask[0]], plain, atol=1e-5)


def test_a_prefix_holds_the_last_of_all_states():
    vlm = tiny_qwen2_vl()
    prompts = batch(vlm)[0]
    states, ids, mask = prompt_states(vlm, prompts)
    found = run_prefix(vlm, prompts)
    assert torch.equal(found.ids, ids) and torch.equal(found.mask, mask) and not mask.all()
    for row, prompt in enumerate(prompts):
        assert torch.allclose(found.hidden[row], states[row, len(prompt.ids) - 1], atol=1e-5)


def test_bf16_autocast_keeps_master_weights():
    vlm = tiny_qwen2_vl()
    half = forward.VLM(**{**vars(vlm), "autocast": True})
    prompts, rows, ids, mask, _ = batch(vlm)
    exact, _ = continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask)
    rough, _ = continuation_logprobs(half, run_prefix(half, prompts), rows, ids, mask)
    rough.sum().backward()
    assert rough.dtype == torch.float32
    assert all(parameter.grad.dtype == torch.float32 for parameter in vlm.model.parameters())
    assert 0 < (exact - rough).abs().max() < 0.5
