import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file
from tiny import picture, save_plainly, tiny_qwen2_5_vl, tiny_qwen2_vl
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BertConfig,
    BertModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
)

from cleareyed.errors import InputError
from cleareyed.models import attention, load
from cleareyed.models.encode import encode
from cleareyed.models.forward import continuation_logprobs, run_prefix
from cleareyed.models.load import load_vlm
from cleareyed.models.save import replace_folder, save_vlm, settle_folder
from cleareyed.recipe import LoraSpec, ModelSpec


@pytest.fixture
def folder(tmp_path):
    save_plainly(tiny_qwen2_vl(), tmp_path / "model")
    return tmp_path / "model"


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("build", [tiny_qwen2_vl, tiny_qwen2_5_vl])
def test_what_is_loaded_is_what_was_saved(build, tmp_path):
    vlm = build()
    save_plainly(vlm, tmp_path / "model")
    loaded = load_vlm(ModelSpec(path=str(tmp_path / "model")))
    assert same(state(loaded.model), state(vlm.model))
    assert loaded.eos_ids == vlm.eos_ids == tuple(vlm.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))
    beyond = set(range(len(vlm.tokenizer), 320))
    assert set(loaded.banned_ids) == set(vlm.banned_ids) | beyond
    assert loaded.image_token_id == vlm.image_token_id and not loaded.autocast and not loaded.model.training
    assert loaded.model.config._attn_implementation == attention.NAME
    one, other = (encode(each, "Two?", [picture(100, 30)]) for each in (loaded, vlm))
    assert torch.equal(one.pixels, other.pixels) and torch.equal(one.ids, other.ids)


def test_loading_says_nothing(folder, caplog):
    load_vlm(ModelSpec(path=str(folder)))
    assert not caplog.records


def test_bf16_means_autocast_on_fp32_weights(folder):
    vlm = load_vlm(ModelSpec(path=str(folder), dtype="bf16"))
    assert vlm.autocast and all(parameter.dtype == torch.float32 for parameter in vlm.model.parameters())


def test_pixel_limits_reach_the_image_processor(folder):
    large = encode(load_vlm(ModelSpec(path=str(folder))), "", [picture(64, 64)])
    small = encode(load_vlm(ModelSpec(path=str(folder), max_pixels=32 * 32)), "", [picture(64, 64)])
    raised = encode(load_vlm(ModelSpec(path=str(folder), min_pixels=48 * 48)), "", [picture(16, 16)])
    assert [prompt.grid.tolist() for prompt in (large, small, raised)] == [[[1, 8, 8]], [[1, 4, 4]], [[1, 6, 6]]]
    with pytest.raises(InputError, match="min_pixels"):
        load_vlm(ModelSpec(path=str(folder), min_pixels=100_000))


@pytest.mark.parametrize("frozen", ["vision", "language"])
def test_frozen_weights_do_not_move(folder, frozen):
    vlm = load_vlm(ModelSpec(path=str(folder), **{f"freeze_{frozen}": True}, gradient_checkpointing=True))
    before = state(vlm.model)
    optimizer = torch.optim.AdamW(vlm.model.parameters(), lr=0.01, weight_decay=0.1)
    prefix = run_prefix(vlm, [encode(vlm, "Two?", [picture()])])
    ids = torch.tensor([[30, 40, 50]])
    logprobs, _ = continuation_logprobs(vlm, prefix, torch.tensor([0]), ids, torch.ones(1, 3, dtype=torch.bool))
    logprobs.sum().backward()
    optimizer.step()
    for name, tensor in state(vlm.model).items():
        is_frozen = ("visual" in name) == (frozen == "vision")
        assert torch.equal(tensor, before[name]) == is_frozen, name


def test_freezing_everything_is_refused(folder):
    with pytest.raises(InputError, match="nothing to train"):
        load_vlm(ModelSpec(path=str(folder), freeze_vision=True, freeze_language=True))


def test_adapters_without_peft_are_refused_with_the_remedy(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"model.lora.*pip install 'cleareyed\[lora\]'"):
        load_vlm(ModelSpec(path=str(folder), lora=LoraSpec()))
    save_vlm(load_vlm(ModelSpec(path=str(folder))), folder.parent / "saved")


def spoil_nothing_there(folder):
    shutil.rmtree(folder)


def spoil_config(folder):
    (folder / "config.json").unlink()


def spoil_config_text(folder):
    (folder / "config.json").write_text("{not json")


def spoil_weights(folder):
    (folder / "model.safetensors").unlink()


def spoil_truncated(folder):
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)


def spoil_garbage(folder):
    (folder / "model.safetensors").write_bytes(b"\x80\x04nonsense" * 40)


def spoil_pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def spoil_other_model(folder):
    shutil.rmtree(folder)
    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    ).save_pretrained(folder)


def spoil_unknown_model(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mystery_vl"}))


def spoil_next_family(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "qwen3_vl"}))


def spoil_one_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if name.endswith("input_layernorm.weight"))]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def spoil_shape(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("norm.weight"))
    save_file({**weights, name: torch.zeros(7)}, folder / "model.safetensors", metadata={"format": "pt"})


def spoil_shard(folder):
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def spoil_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def spoil_processor(folder):
    (folder / "preprocessor_config.json").unlink()


def spoil_window(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["layer_types"][1] = "sliding_attention"
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_nothing_there, "no such folder"),
        (spoil_config, "no config.json"),
        (spoil_config_text, "config.json cannot be read"),
        (spoil_weights, "no model.safetensors"),
        (spoil_truncated, "weights cannot be read"),
        (spoil_garbage, "weights cannot be read"),
        (spoil_pickled, "pytorch_model.bin is a pickled file"),
        (spoil_other_model, "model_type bert"),
        (spoil_unknown_model, "model_type mystery_vl"),
        (spoil_next_family, "model_type qwen3_vl: its deepstack"),
        (spoil_one_weight, "1 weights are missing"),
        (spoil_shape, "weights cannot be read"),
        (spoil_shard, "model-00001-of-00002.safetensors is missing"),
        (spoil_tokenizer, "tokenizer"),
        (spoil_processor, "image processor"),
        (spoil_window, "use_sliding_window"),
    ],
)
def test_a_spoilt_checkpoint_is_named_in_one_line(folder, spoil, says):
    spoil(folder)
    with pytest.raises(InputError, match=says) as caught:
        load_vlm(ModelSpec(path=str(folder)))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_pickle_beside_is_not_opened(folder):
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    load_vlm(ModelSpec(path=str(folder)))


@pytest.mark.parametrize(
    "path", ["runs/demo/checkpoints", "./model", "/nowhere/model", "~/model-x", "tests/nothing", "x"]
)
def test_a_local_path_that_is_not_there_never_reaches_the_hub(path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("went to the network"))
    with pytest.raises(InputError, match="no such folder"):
        load_vlm(ModelSpec(path=path))


def test_a_hub_that_cannot_be_reached_is_an_input_error(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="nobody-here/no-such-model") as caught:
        load_vlm(ModelSpec(path="nobody-here/no-such-model"))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_s_own_code_is_not_run(folder):
    (folder / "own.py").write_text("raise SystemExit('ran')")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        content = json.loads((folder / name).read_text())
        own = {"AutoConfig": "own.A", "AutoTokenizer": ["own.B", "own.B"], "AutoImageProcessor": "own.C"}
        (folder / name).write_text(json.dumps({**content, "auto_map": own}))
    load_vlm(ModelSpec(path=str(folder)))


def test_tiny_base_is_the_package_s_folder(folder, monkeypatch):
    monkeypatch.setattr(load, "TINY_BASE", folder)
    assert load_vlm(ModelSpec()).name == "tiny-base"
    monkeypatch.setattr(load, "TINY_BASE", folder / "gone")
    with pytest.raises(InputError, match="tiny-base"):
        load_vlm(ModelSpec())


def test_a_file_is_not_a_folder(folder):
    with pytest.raises(InputError, match="a file"):
        load_vlm(ModelSpec(path=str(folder / "model.safetensors")))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("build", "library"),
    [(tiny_qwen2_vl, Qwen2VLForConditionalGeneration), (tiny_qwen2_5_vl, Qwen2_5_VLForConditionalGeneration)],
)
def test_saved_models_load_with_the_library_alone(build, library, dtype, tmp_path):
    vlm = build()
    save_vlm(vlm, tmp_path / "saved", dtype)
    model, report = library.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report.values())
    expected = vlm.model if dtype == "fp32" else build().model.bfloat16()
    assert same(state(model), state(expected))
    assert model.dtype == (torch.float32 if dtype == "fp32" else torch.bfloat16)
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").get_vocab() == vlm.tokenizer.get_vocab()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "saved", backend="pil")
    assert processor.to_dict() == vlm.image_processor.to_dict()
    assert os.listdir(tmp_path) == ["saved"]
    assert all(parameter.dtype == torch.float32 for parameter in vlm.model.parameters())


def test_a_failed_save_keeps_the_last_good_one(tmp_path, monkeypatch):
    save_vlm(tiny_qwen2_vl(seed=1), tmp_path / "best")
    kept = {path.name: path.read_bytes() for path in (tmp_path / "best").iterdir()}

    def full(tensors, filename, metadata=None):
        Path(filename).write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    with pytest.raises(
        InputError, match=r"could not be saved.*No space left.*earlier one is kept.*go on with --resume"
    ) as caught:
        save_vlm(tiny_qwen2_vl(seed=2), tmp_path / "best")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["best"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "best").iterdir()} == kept


def test_a_disk_that_really_fills_up(tmp_path):
    """The operating system refuses to let any file grow beyond 64 kB."""
    save_vlm(tiny_qwen2_vl(1), tmp_path / "best")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    try:
        with pytest.raises(InputError, match=r"could not be saved.*earlier one is kept"):
            save_vlm(tiny_qwen2_vl(2), tmp_path / "best")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["best"]
    model = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / "best")
    assert same(state(model), state(tiny_qwen2_vl(1).model))


def test_replacing_is_all_or_nothing(tmp_path):
    target = tmp_path / "step"
    replace_folder(lambda folder: (folder / "a").write_text("one"), target)
    replace_folder(lambda folder: (folder / "b").write_text("two"), target)
    assert [path.name for path in target.iterdir()] == ["b"]

    def interrupted(folder):
        (folder / "c").write_text("three")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_folder(interrupted, target)
    assert [path.name for path in target.iterdir()] == ["b"] and os.listdir(tmp_path) == ["step"]


def test_a_replacement_cut_short_is_settled(tmp_path):
    target = tmp_path / "step"
    replace_folder(lambda folder: (folder / "a").write_text("one"), target)
    target.rename(tmp_path / ".step.previous")  # killed between the two renames
    (tmp_path / ".step.partial").mkdir()
    settle_folder(target)
    assert (target / "a").read_text() == "one"
    replace_folder(lambda folder: (folder / "a").write_text("two"), target)
    assert (target / "a").read_text() == "two" and os.listdir(tmp_path) == ["step"]


def replace_and_die(target, renames):
    """Write a new version, and be killed right after so many renames."""
    rename, done = Path.rename, []

    def rename_then_die(path, other):
        rename(path, other)
        done.append(path)
        if len(done) == renames:
            os.kill(os.getpid(), signal.SIGKILL)

    Path.rename = rename_then_die  # in this process alone
    replace_folder(lambda folder: (folder / "a").write_text("two"), target)


@pytest.mark.parametrize(
    ("renames", "left", "settled"),
    [(1, {".step.partial", ".step.previous"}, "one"), (2, {"step", ".step.previous"}, "two")],
)
def test_a_kill_at_the_renames_leaves_one_whole_folder(renames, left, settled, tmp_path):
    target = tmp_path / "step"
    replace_folder(lambda folder: (folder / "a").write_text("one"), target)
    process = multiprocessing.get_context("fork").Process(target=replace_and_die, args=(target, renames))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert set(os.listdir(tmp_path)) == left and (tmp_path / ".step.previous" / "a").read_text() == "one"
    settle_folder(target)
    assert (target / "a").read_text() == settled
    replace_folder(lambda folder: (folder / "a").write_text("three"), target)
    assert (target / "a").read_text() == "three" and os.listdir(tmp_path) == ["step"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="nothing was left behind"):
        save_vlm(tiny_qwen2_vl(), tmp_path / "file" / "model")
