from collections import Counter
from dataclasses import replace

import pytest
import torch
from tiny import prompts_of, tiny_qwen2_5_vl, tiny_qwen2_vl
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cleareyed.models.decode import Decoder, decoder_weights, effective_weight
from cleareyed.models.forward import plain_logprobs, run_prefix
from cleareyed.models.graphs import GraphDecoder
from cleareyed.models.sample import sample
from cleareyed.models.vlm import SamplingParams


class Adapted(nn.Module):
    """A linear layer with two adapters, by the names that peft gives its parts."""

    def __init__(self, linear):
        super().__init__()
        self.base_layer = linear
        self.lora_A = nn.ModuleDict({name: nn.Linear(linear.in_features, 2, bias=False) for name in ("one", "two")})
        self.lora_B = nn.ModuleDict({name: nn.Linear(2, linear.out_features, bias=False) for name in ("one", "two")})
        self.scaling = {"one": 0.5, "two": 2.0}
        self.active_adapters = ["one", "two", "of other layers"]
        self.disable_adapters = False

    def forward(self, x):
        out = self.base_layer(x)
        for name in ("one", "two"):
            out = out + self.scaling[name] * self.lora_B[name](self.lora_A[name](x))
        return out


def test_the_effective_weight_is_what_an_adapted_layer_does():
    torch.manual_seed(0)
    linear, x = nn.Linear(5, 7), torch.randn(3, 5)
    layer = Adapted(linear)
    weight, bias = effective_weight(layer)
    assert torch.allclose(nn.functional.linear(x, weight, bias), layer(x), atol=1e-6)
    assert not weight.requires_grad
    layer.active_adapters = ["two"]
    only = linear.weight + 2 * layer.lora_B["two"].weight @ layer.lora_A["two"].weight
    assert torch.allclose(effective_weight(layer)[0], only, atol=1e-6)
    layer.disable_adapters = True
    assert torch.equal(effective_weight(layer)[0], linear.weight)
    weight, bias = effective_weight(nn.Linear(5, 7, bias=False))
    assert weight.shape == (7, 5) and bias is None


def test_the_effective_weight_is_that_of_a_peft_layer():
    peft = pytest.importorskip("peft", reason="needs peft")
    model = nn.Sequential(nn.Linear(5, 7))
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0"], init_lora_weights=False)
    peft.inject_adapter_in_model(config, model)
    x = torch.randn(3, 5)
    assert type(model[0]) is not nn.Linear
    assert torch.allclose(nn.functional.linear(x, *effective_weight(model[0])), model(x), atol=1e-6)
    model[0].merge()
    assert torch.allclose(nn.functional.linear(x, *effective_weight(model[0])), model(x), atol=1e-6)


@pytest.mark.parametrize("kind", [Decoder, GraphDecoder])
@pytest.mark.parametrize("build", [tiny_qwen2_vl, tiny_qwen2_5_vl])
def test_steps_give_the_plain_forwards_logprobs_while_rows_and_prompts_leave(build, kind, monkeypatch):
    """Any tokens, forced on a batch that is thinned out unevenly, also to places with nobody in them."""
    monkeypatch.setattr("cleareyed.models.decode.BLOCK", 2)
    vlm = adapted(build())
    prompts, group, length = prompts_of(vlm), 4, 7
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 250, (3 * group, length), generator=generator)
    ids = torch.where(torch.isin(ids, torch.tensor(vlm.banned_ids)), 250, ids)
    # Which completions are left after each step: all, then uneven ones, then none of prompt 1.
    left = {1: [0, 1, 2, 3, 5, 8, 11], 3: [1, 3, 8, 11], 4: [3, 8, 11]}
    with torch.no_grad():
        prefix = run_prefix(vlm, prompts)
        decoder = kind(decoder_weights(vlm), prefix, group, length)
        plain = torch.stack([plain_logprobs(vlm, prompts[row // group], ids[row]) for row in range(3 * group)])
        logits = decoder.logits(prefix.hidden)[decoder.prompt]
        for step in range(length):
            logprobs = logits.log_softmax(1).gather(1, ids[decoder.live, step, None])[:, 0]
            assert torch.allclose(logprobs, plain[decoder.live, step], atol=1e-4), step
            assert logits[:, list(vlm.banned_ids)].isneginf().all()
            if step in left:
                decoder.keep(torch.isin(decoder.live, torch.tensor(left[step])).nonzero()[:, 0])
                assert decoder.live.tolist() == left[step]
            logits = decoder.logits(decoder.step(ids[decoder.live, step]))
    assert (decoder.prompts, decoder.places) == (2, 2)


def adapted(vlm):
    """The same model with adapters on some of its linear layers."""
    torch.manual_seed(0)
    for layer in vlm.model.model.language_model.layers:
        layer.self_attn.q_proj = Adapted(layer.self_attn.q_proj)
        layer.self_attn.o_proj = Adapted(layer.self_attn.o_proj)
        layer.mlp.up_proj = Adapted(layer.mlp.up_proj)
    return vlm


class NoLooks(TorchDispatchMode):
    """Refuses what a graph cannot hold: reading a value, and results whose size depends on one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        looks = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "_unique2", "bincount"}
        assert func.overloadpacket.__name__ not in looks, func
        return func(*args, **(kwargs or {}))


def test_a_step_that_can_be_captured_looks_at_no_value_and_stays_where_it_is():
    vlm = tiny_qwen2_vl()
    with torch.no_grad():
        decoder = GraphDecoder(decoder_weights(vlm), run_prefix(vlm, prompts_of(vlm)), 2, 4)
        held = [part.data_ptr() for part in (decoder._fed, decoder._at, decoder._states, decoder.cache)]
        ids = torch.full((6,), 9)
        with NoLooks():
            first = decoder.step(ids)
            second = decoder.step(ids)
    assert not torch.equal(first, second)
    assert held == [part.data_ptr() for part in (decoder._fed, decoder._at, decoder._states, decoder.cache)]
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoLooks():
        int(ids[0])


def test_greedy_sampling_through_fixed_steps_is_that_through_growing_ones(monkeypatch):
    vlm = tiny_qwen2_vl()
    # The token that most completions come to ends them, so that rows leave the batch.
    prompts = [*prompts_of(vlm), *prompts_of(vlm)[:1]]
    params = SamplingParams(max_tokens=9, temperature=0, group=2)

    def drawn(vlm):
        return [one for group in sample(vlm, prompts, params, torch.Generator()) for one in group]

    common = Counter(token for one in drawn(vlm) for token in one.ids[2:7]).most_common(1)[0][0]
    vlm = replace(vlm, eos_ids=(common,))
    expected = drawn(vlm)
    assert len({len(one.ids) for one in expected}) > 1
    monkeypatch.setattr("cleareyed.models.sample.Decoder", GraphDecoder)
    for one, other in zip(drawn(vlm), expected, strict=True):
        assert one.ids == other.ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_weights_are_in_the_precision_asked_for():
    vlm = tiny_qwen2_vl()
    single, half = decoder_weights(vlm), decoder_weights(replace(vlm, autocast=True))
    assert single.head.data_ptr() == vlm.model.lm_head.weight.data_ptr()  # not copied
    for layer, other in zip(single.layers, half.layers, strict=True):
        for name, weight in vars(layer).items():
            assert weight.dtype == torch.float32 and getattr(other, name).dtype == torch.bfloat16
    assert half.head.dtype == torch.bfloat16 and half.embedding.dtype == torch.float32
