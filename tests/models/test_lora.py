import json
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from tiny import picture, save_plainly, tiny_qwen2_5_vl, tiny_qwen2_vl
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration

from cleareyed.errors import InputError
from cleareyed.models.encode import encode
from cleareyed.models.forward import checkpoint_blocks, continuation_logprobs, plain_logprobs, run_prefix
from cleareyed.models.load import load_vlm
from cleareyed.models.lora import adapted_layers, adapters_off, add_adapters, merged_state
from cleareyed.models.sample import sample
from cleareyed.models.save import save_vlm
from cleareyed.models.vlm import SamplingParams
from cleareyed.recipe import LoraSpec, ModelSpec
from cleareyed.training.checkpoints import OPTIMIZER, WEIGHTS, TrainState, load_checkpoint, save_checkpoint

peft = pytest.importorskip("peft", reason="adapters need peft: pip install 'cleareyed[lora]'")
FAMILIES = [tiny_qwen2_vl, tiny_qwen2_5_vl]
LORA = LoraSpec(rank=3, alpha=5.0)
LIBRARY = {tiny_qwen2_vl: Qwen2VLForConditionalGeneration, tiny_qwen2_5_vl: Qwen2_5_VLForConditionalGeneration}


def adapted(build, lora=LORA):
    """A tiny model whose adapters already say something."""
    vlm = build()
    add_adapters(vlm.model, lora, "base")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in adapted_layers(vlm.model).values():
            b = layer.lora_B["default"].weight
            b.copy_(torch.randn(b.shape, generator=generator) * 0.3)
    return vlm


def batch(vlm):
    prompts = [encode(vlm, "How many red cubes?", [picture(32, 48)]), encode(vlm, "No picture", [])]
    ids = torch.randint(8, 300, (4, 5), generator=torch.Generator().manual_seed(5))
    return prompts, torch.tensor([0, 0, 1, 1]), ids, torch.arange(5) < torch.tensor([5, 2, 4, 1])[:, None]


def logprobs(vlm):
    prompts, rows, ids, mask = batch(vlm)
    return continuation_logprobs(vlm, run_prefix(vlm, prompts), rows, ids, mask)[0]


def gradients(vlm, loss):
    vlm.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in vlm.model.named_parameters() if p.grad is not None}


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("build", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_plain_forward(build, checkpointing):
    vlm = adapted(build, LORA.model_copy(update={"targets": (*LORA.targets, "visual.qkv")}))
    if checkpointing:
        checkpoint_blocks(vlm.model)
    prompts, rows, ids, mask = batch(vlm)
    weights = torch.randn(ids.shape, generator=torch.Generator().manual_seed(6)) * mask
    found = logprobs(vlm)
    shared = gradients(vlm, (found * weights).sum())
    expected = torch.zeros(ids.shape)
    for n, row in enumerate(rows.tolist()):
        length = int(mask[n].sum())
        expected[n, :length] = plain_logprobs(vlm, prompts[row], ids[n, :length])
    assert torch.allclose(found, expected, atol=1e-5)
    plain = gradients(vlm, (expected * weights).sum())
    trained = {name for name, parameter in vlm.model.named_parameters() if parameter.requires_grad}
    assert shared.keys() == plain.keys() == trained and all("lora_" in name for name in trained)
    for name, gradient in plain.items():
        assert gradient.norm() > 0, name
        assert (shared[name] - gradient).norm() < 1e-5 * gradient.norm(), name


def test_a_loaded_model_with_adapters_begins_as_the_base_and_always_the_same(checkpoint):
    base = load_vlm(ModelSpec(path=str(checkpoint)))
    torch.manual_seed(1)
    expected_draw = torch.rand(3)
    torch.manual_seed(1)
    one = load_vlm(ModelSpec(path=str(checkpoint), lora=LORA, dtype="bf16"))
    assert torch.equal(torch.rand(3), expected_draw)
    other = load_vlm(ModelSpec(path=str(checkpoint), lora=LORA, freeze_vision=True, gradient_checkpointing=True))
    assert same(state(one.model), state(other.model))
    assert torch.equal(logprobs(base), logprobs(other))
    assert type(one.model) is type(base.model) and one.autocast and not one.model.training
    assert one.model.lm_head.weight is one.model.get_input_embeddings().weight
    first = adapted_layers(one.model)["model.language_model.layers.0.mlp.up_proj"]
    assert first.lora_A["default"].weight.abs().min() > 0 and first.scaling["default"] == 5 / 3
    for name, parameter in one.model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name) and parameter.dtype == torch.float32, name


def test_targets_are_linear_layers_of_the_language_model_unless_they_say_otherwise():
    names = [f"model.language_model.layers.{n}.{end}" for n in range(2) for end in ("self_attn.q_proj", "mlp.up_proj")]
    vlm = adapted(tiny_qwen2_5_vl, LoraSpec(targets=("up_proj", "q_proj")))  # up_proj: the vision tower has some too
    assert sorted(adapted_layers(vlm.model)) == sorted(names)
    vlm = adapted(tiny_qwen2_5_vl, LoraSpec(targets=("visual.up_proj",)))
    assert list(adapted_layers(vlm.model)) == [f"model.visual.blocks.{n}.mlp.up_proj" for n in range(2)]


@pytest.mark.parametrize("targets", [("q_proj", "query"), ("lm_head",), ("qkv",), ("q_proj|k_proj",), ()])
def test_an_unknown_target_is_refused_with_the_known_ones(targets):
    vlm = tiny_qwen2_vl()
    with pytest.raises(InputError, match=r"model.lora.targets.*known are.*o_proj, q_proj.*visual.fc1") as caught:
        add_adapters(vlm.model, LoraSpec(targets=targets), "base")
    assert "\n" not in str(caught.value)
    assert all(parameter.requires_grad for parameter in vlm.model.parameters())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"freeze_language": True}, "freeze_language"),
        ({"freeze_vision": True, "lora": LoraSpec(targets=("visual.qkv",))}, "freeze_vision"),
    ],
)
def test_adapters_where_all_is_frozen_are_refused(changes, says):
    with pytest.raises(InputError, match=says):
        load_vlm(ModelSpec(path="/nowhere", **({"lora": LORA} | changes)))


@pytest.mark.parametrize("build", FAMILIES)
def test_with_adapters_off_it_is_the_base_model(build):
    base, vlm = build(), adapted(build)
    expected, policy = logprobs(base), logprobs(vlm)
    assert (policy - expected).abs().max() > 0.01
    with adapters_off(vlm), torch.no_grad():
        assert torch.equal(logprobs(vlm), expected)
        with adapters_off(vlm):
            pass
        assert torch.equal(logprobs(vlm), expected)
    with pytest.raises(RuntimeError, match="inside"), adapters_off(vlm):
        raise RuntimeError("inside")
    assert torch.equal(logprobs(vlm), policy)
    # A graph from before the reference pass gives the same gradients after it.
    found = gradients(vlm, policy.sum())
    for name, gradient in gradients(vlm, logprobs(vlm).sum()).items():
        assert torch.equal(found[name], gradient), name
    assert found and all("lora_" in name for name in found)


@pytest.mark.parametrize("build", FAMILIES)
def test_sampling_sees_the_adapters_and_that_they_are_off(build):
    vlm = adapted(build)
    prompt = batch(vlm)[0][0]
    for switch in (nullcontext, partial(adapters_off, vlm)):
        with switch(), torch.no_grad():
            [drawn] = sample(vlm, [prompt], SamplingParams(6, group=3), torch.Generator().manual_seed(1))
            for completion in drawn:
                expected = plain_logprobs(vlm, prompt, torch.tensor(completion.ids))
                assert torch.allclose(torch.tensor(completion.logprobs), expected, atol=1e-4)


def test_a_model_without_adapters_cannot_switch_them_off():
    with pytest.raises(ValueError, match="no adapters"), adapters_off(tiny_qwen2_vl()):
        pass


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("build", FAMILIES)
def test_saved_models_load_with_the_libraries_alone(build, dtype, tmp_path):
    vlm = adapted(build)
    before, expected = state(vlm.model), logprobs(vlm)
    save_vlm(vlm, tmp_path / "saved", dtype)
    assert same(state(vlm.model), before) and torch.equal(logprobs(vlm), expected)

    model, report = LIBRARY[build].from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report.values())
    assert model.dtype == (torch.float32 if dtype == "fp32" else torch.bfloat16)
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    prompts, _, ids, _ = batch(vlm)
    answer = plain_logprobs(replace(vlm, model=model.float().eval()), prompts[0], ids[0])
    assert torch.allclose(answer, expected[0], atol=1e-4 if dtype == "fp32" else 0.3)
    assert not adapted_layers(load_vlm(ModelSpec(path=str(tmp_path / "saved"))).model)

    wrapped = peft.PeftModel.from_pretrained(build().model, str(tmp_path / "saved" / "adapter"))
    assert torch.equal(logprobs(replace(vlm, model=wrapped.base_model.model)), expected)
    config = json.loads((tmp_path / "saved" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base" and config["inference_mode"]
    weights = load_file(tmp_path / "saved" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_the_merged_state_is_the_base_s_plus_the_products():
    base, vlm = tiny_qwen2_vl().model, adapted(tiny_qwen2_vl)
    merged, plain, raw = merged_state(vlm.model), base.state_dict(), vlm.model.state_dict()
    assert list(merged) == list(plain)
    for name, tensor in plain.items():
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_A.default.weight" in raw:
            b, a = raw[f"{stem}.lora_B.default.weight"], raw[f"{stem}.lora_A.default.weight"]
            assert torch.allclose(merged[name], tensor + 5 / 3 * (b @ a), atol=1e-6)
            assert not torch.allclose(merged[name], tensor, atol=1e-3), name
        else:
            assert torch.equal(merged[name], tensor), name
    with adapters_off(vlm):
        assert same(merged_state(vlm.model), merged)
    assert same(merged_state(base), plain)


def train(vlm, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        logprobs(vlm).sum().backward()
        optimizer.step()


def fresh(path):
    vlm = load_vlm(ModelSpec(path=str(path), lora=LORA))
    trained = [parameter for parameter in vlm.model.parameters() if parameter.requires_grad]
    return vlm, torch.optim.AdamW(trained, lr=0.01)


def test_a_resumed_run_ends_as_an_undisturbed_one(checkpoint, tmp_path):
    vlm, optimizer = fresh(checkpoint)
    train(vlm, optimizer, 2)
    save_checkpoint(tmp_path / "half", vlm.model, optimizer, TrainState(step=2))
    held = load_file(tmp_path / "half" / WEIGHTS)
    assert held.keys() == {name for name, _ in vlm.model.named_parameters() if "lora_" in name}
    train(vlm, optimizer, 2)
    save_checkpoint(tmp_path / "calm", vlm.model, optimizer, TrainState(step=4))

    again, optimizer = fresh(checkpoint)
    assert load_checkpoint(tmp_path / "half", again.model, optimizer) == TrainState(step=2)
    train(again, optimizer, 2)
    save_checkpoint(tmp_path / "shaken", again.model, optimizer, TrainState(step=4))
    for file in (WEIGHTS, OPTIMIZER):
        assert (tmp_path / "shaken" / file).read_bytes() == (tmp_path / "calm" / file).read_bytes(), file
    assert not same(load_file(tmp_path / "calm" / WEIGHTS), held)
    assert same(state(again.model), state(vlm.model))


def test_a_checkpoint_of_adapters_is_for_its_own_base_only(checkpoint, tmp_path):
    vlm, optimizer = fresh(checkpoint)
    save_checkpoint(tmp_path / "own", vlm.model, optimizer, TrainState())
    whole = load_vlm(ModelSpec(path=str(checkpoint)))
    save_checkpoint(tmp_path / "whole", whole.model, torch.optim.AdamW(whole.model.parameters()), TrainState())
    save_plainly(tiny_qwen2_vl(seed=1), tmp_path / "other")
    other = fresh(tmp_path / "other")
    before = state(other[0].model)
    wider = load_vlm(ModelSpec(path=str(checkpoint), lora=LoraSpec(rank=4)))
    for folder, model, says in (
        ("own", other[0].model, "other weights"),
        ("own", wider.model, "another shape"),
        ("own", whole.model, "only in one of"),
        ("whole", vlm.model, "only in one of"),
    ):
        with pytest.raises(InputError, match=says):
            load_checkpoint(tmp_path / folder, model, torch.optim.AdamW(model.parameters()))
    assert same(state(other[0].model), before)
    assert not any(isinstance(layer, nn.Dropout) for layer in vlm.model.modules())
