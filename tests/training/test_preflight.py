import json
import platform
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import picture, tiny_qwen2_5_vl, tiny_qwen2_vl
from training.small import colour_task, grpo_recipe, sft_recipe

from cleareyed.commands import set_up
from cleareyed.errors import InputError
from cleareyed.models.encode import encode
from cleareyed.models.forward import run_prefix
from cleareyed.models.ghost import KNOWN, Ledger, Outline, ghost_tensor, ghost_vlm, outline
from cleareyed.models.vlm import VLM
from cleareyed.preflight_command import preflight
from cleareyed.recipe import ModelSpec
from cleareyed.tasks.images import FileImage
from cleareyed.tasks.prompts import prompt_style, prompt_text
from cleareyed.tasks.task import Sample, Task
from cleareyed.training.footprint import PromptShape, count_parameters, footprint
from cleareyed.training.preflight import LOOKED_AT, advise, peaks, scan
from cleareyed.training.trial import peak_memory

CPU = torch.device("cpu")


def outline_of(vlm: VLM, **changes: Any) -> Outline:
    return Outline(ModelSpec(**changes), vlm.model.config, vlm.tokenizer, vlm.image_processor, has_weights=False)


def quiet(what: str, done: int, total: int) -> None:
    pass


@pytest.mark.parametrize("make", [tiny_qwen2_vl, tiny_qwen2_5_vl])
def test_a_ghost_has_the_parameters_of_the_model(make: Callable[[], VLM]) -> None:
    vlm = make()
    ghost = ghost_vlm(outline_of(vlm, freeze_vision=True), CPU)
    shapes = {name: tuple(parameter.shape) for name, parameter in vlm.model.named_parameters()}
    assert {name: tuple(parameter.shape) for name, parameter in ghost.model.named_parameters()} == shapes
    numbers = count_parameters(ghost)
    assert numbers.total == sum(parameter.numel() for parameter in vlm.model.parameters())
    assert numbers.trained == numbers.total - sum(p.numel() for p in vlm.model.model.visual.parameters())


@pytest.mark.parametrize(
    ("name", "published"),  # the counts that the hub shows for these checkpoints
    [
        ("Qwen/Qwen2-VL-2B-Instruct", 2_208_985_600),
        ("Qwen/Qwen2.5-VL-7B", 8_292_166_656),
    ],
)
def test_known_models_need_no_file(name: str, published: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert name.removesuffix("-Instruct") in KNOWN
    of = outline(ModelSpec(path=name, max_pixels=401408))
    assert not of.has_weights
    assert count_parameters(ghost_vlm(of, CPU)).total == published
    assert of.image_processor.size["longest_edge"] == 401408


def test_a_folder_with_a_configuration_alone_will_do(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    (tmp_path / "preprocessor_config.json").write_bytes((checkpoint / "preprocessor_config.json").read_bytes())
    of, whole = outline(ModelSpec(path=str(tmp_path))), outline(ModelSpec(path=str(checkpoint)))
    assert (of.has_weights, whole.has_weights) == (False, True)
    assert of.tokenizer is None
    assert of.image_processor.size == whole.image_processor.size
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        outline(ModelSpec(path=str(tmp_path)))
    with pytest.raises(InputError, match="no such folder"):
        outline(ModelSpec(path=str(tmp_path / "elsewhere" / "no")))


def test_the_ledger_counts_what_lives() -> None:
    ghost = ghost_vlm(outline_of(tiny_qwen2_vl()), CPU)
    x = ghost_tensor(ghost, 100, 10)
    ledger = Ledger(ghost)
    with ledger:
        y = x * 2
        with ledger.phase() as phase:
            z = (y + 1)[:50]  # a view keeps the whole
            assert ledger.live == 8000
            del z
        chosen = y[torch.arange(100) < 7]
    assert (phase.peak, ledger.peak) == (8000, 8000)
    assert chosen.shape == (7, 10)
    assert ledger.live == 4000 + 280
    del y, chosen
    assert ledger.live == 0


def test_the_largest_sample_is_found_and_long_prompts_are_named(tmp_path: Path) -> None:
    vlm = tiny_qwen2_vl()
    sizes = [(16, 16), (64, 48), (200, 100), (32, 32)]  # the third is scaled down to the processor's 64 * 64 pixels
    samples = []
    for index, size in enumerate(sizes):
        file = tmp_path / f"{index}.png"
        picture(*size).save(file)
        question = "How many red cubes are there?" + " There are two." * (6 if index == 3 else 0)
        samples.append(Sample(f"s{index}", question, "two", images=(FileImage(file, "here"),) * (index % 2 + 1)))
    style = prompt_style("plain")
    lengths = [len(encode(vlm, prompt_text(style, s.question), [load() for load in s.images]).ids) for s in samples]
    recipe = grpo_recipe(max_prompt_tokens=sorted(lengths)[-2] - 1)
    found = scan(recipe, Task("files", samples), outline_of(vlm), quiet)
    assert found.tokens == max(lengths)
    assert found.index == lengths.index(max(lengths))
    assert found.sample_id == f"s{found.index}"
    assert (found.samples, found.total) == (4, 4)
    limit = recipe.max_prompt_tokens
    assert found.too_long == tuple((f"s{i}", n) for i, n in enumerate(lengths) if n > limit)
    assert len(found.too_long) == 2


def test_an_image_is_not_decoded_to_be_measured_and_a_broken_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(40, 24).save(tmp_path / "a.png")
    sample = Sample("a", "How many?", "two", images=(FileImage(tmp_path / "a.png", "row 1"),))
    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
        assert scan(grpo_recipe(), Task("one", [sample]), outline_of(tiny_qwen2_vl()), quiet).sizes == ((40, 24),)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="row 1"):
        scan(grpo_recipe(), Task("one", [sample]), outline_of(tiny_qwen2_vl()), quiet)


def test_of_samples_that_are_made_when_asked_for_some_are_looked_at() -> None:
    task = colour_task(7)
    many = replace(task, samples=[task.samples[i % 5] for i in range(LOOKED_AT + 100)])
    found = scan(grpo_recipe(), many, outline_of(tiny_qwen2_vl()), quiet)
    assert (found.samples, found.total) == (LOOKED_AT, LOOKED_AT + 100)
    assert found.sample_id == "square-3" or found.sample_id == "square-2"


def test_memory_grows_with_what_is_held() -> None:
    of, prompt = outline_of(tiny_qwen2_vl()), PromptShape(60, ((8, 8),))
    recipe = grpo_recipe(sampling={"group": 4, "max_tokens": 40}, prompts_per_step=4, beta=0.04)
    vlm = tiny_qwen2_vl()
    whole = sum(parameter.numel() for parameter in vlm.model.parameters()) * 4

    def of_recipe(**changes: Any) -> Any:
        return footprint(recipe.model_copy(update=changes), of, prompt, CPU, 10**6)

    base = of_recipe()
    assert base.held == {
        "process": 10**6,
        "weights": whole,
        "gradients": whole,
        "moments": 2 * whole,
        "reference": whole,
        "pictures": 2 * 4 * 64 * 3 * 2 * 8 * 8 * 4,
    }
    assert base.peak == sum(base.held.values()) + base.phases[base.busiest]
    assert base.busiest in ("reference", "update")
    smaller = of_recipe(micro_tokens=40, beta=0.0)
    assert smaller.held["reference"] == 0
    assert "reference" not in smaller.phases
    assert smaller.phases["update"] < base.phases["update"]
    assert of_recipe(micro_tokens=40, micro_prompts=1).phases["update"] < smaller.phases["update"]
    saving = of_recipe(model=ModelSpec(gradient_checkpointing=True))
    assert saving.phases["update"] < base.phases["update"]
    frozen = of_recipe(model=ModelSpec(freeze_vision=True))
    assert frozen.held["gradients"] < whole
    assert frozen.phases["update"] < base.phases["update"]


def test_the_ghost_holds_what_the_model_holds() -> None:
    """The tensors of a real forward, kept for its backward, against those of the ghost's."""
    vlm = tiny_qwen2_vl()
    prompts = [encode(vlm, "How many red cubes?", [picture(64, 64, seed)]) for seed in range(3)]
    kept: dict[int, int] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in (*vlm.model.parameters(), *vlm.model.buffers())}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        prefix = run_prefix(vlm, prompts)
    assert prefix.hidden.requires_grad
    ghost = ghost_vlm(outline_of(vlm), CPU)
    shapes = [
        replace(prompt, pixels=ghost_tensor(ghost, *prompt.pixels.shape))
        for prompt in prompts
        if prompt.pixels is not None
    ]
    ledger = Ledger(ghost)
    with ledger:
        ghostly = run_prefix(ghost, shapes)
        live = ledger.live
    assert ghostly.hidden.shape == prefix.hidden.shape
    assert live == pytest.approx(sum(kept.values()), rel=0.02)


def test_advice_is_mildest_first_and_ends_with_what_fits() -> None:
    recipe = grpo_recipe(
        prompts_per_step=4, sampling={"group": 4, "max_tokens": 8}, beta=0.1, model={"max_pixels": 4096}
    )
    tried: list[str] = []

    def peak_of(changed: Any) -> int:
        tried.append(repr(changed))
        model = changed.model
        if model.lora is not None:
            raise InputError("peft is not installed")
        return (
            1000
            - (200 if changed.micro_tokens <= 16 else 0)
            - (1 if changed.micro_prompts else 0)  # too little to be worth it
            - (300 if model.gradient_checkpointing else 0)
            - (100 if model.freeze_vision else 0)
            - (100 if model.max_pixels == 1024 else 50 if model.max_pixels == 2048 else 0)
            - (100 if changed.beta == 0 else 0)
        )

    notes: list[str] = []
    changes = advise(recipe, peak_of, 1000, 200, quiet, notes)
    assert [(change.setting, change.peak, change.fits) for change in changes] == [
        ("micro_tokens=8", 800, False),
        ("model.gradient_checkpointing=true", 500, False),
        ("model.freeze_vision=true", 400, False),
        ("model.max_pixels=1024", 300, False),
        ("beta=0", 200, True),
    ]
    assert len(notes) == 1
    assert "model.lora" in notes[0]
    assert [change.setting for change in advise(recipe, peak_of, 1000, 800, quiet, [])] == ["micro_tokens=16"]
    assert advise(recipe, peak_of, 1000, 1000, quiet, []) == []


def test_advice_comes_from_the_model_itself() -> None:
    of = outline_of(tiny_qwen2_vl())
    recipe = sft_recipe(batch=4, train_on_prompt=True)
    found = scan(recipe, colour_task(), of, quiet)
    footprint_of = peaks(of, found, CPU, 0)
    start = footprint_of(recipe).peak
    changes = advise(recipe, lambda one: footprint_of(one).peak, start, start - 1, quiet, [])
    assert [change.setting for change in changes] == ["micro_batch=2"]
    assert changes[0].peak < start


def test_the_peak_of_this_process_is_at_least_what_it_holds() -> None:
    block = torch.ones(50_000_000)
    peak, reserved = peak_memory()
    assert 200e6 < peak <= reserved
    del block
    assert peak_memory()[0] > peak - 5e6  # the kernel's own count is that exact


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_tensors_are_used_again_and_not_given_back_page_by_page() -> None:
    set_up(None)

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(6_000_000) for _ in range(4)]  # 96 MB: 23,438 pages
        del tensors
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert min(faults() for _ in range(3)) < 2_000


def recipe_file(folder: Path, model: Path, **changes: Any) -> Path:
    rows = []
    for index, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (32, 32), colour).save(folder / f"{colour}.png")
        rows.append({"image": f"{colour}.png", "question": "Which colour" + " is" * index + "?", "answer": colour})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields = {
        "method": "grpo",
        "model": {"path": str(model)},
        "task": {"name": "table", "path": str(folder / "rows.jsonl")},
        "prompt": "plain",
        "prompts_per_step": 2,
        "sampling": {"group": 2, "max_tokens": 6},
        "optimizer": {"lr": 0.001},
        "steps": 100,
        "threads": 1,
        "beta": 0,
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(fields))
    return path


def test_a_run_is_tried_and_timed(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = {"task": {"name": "table", "path": str(tmp_path / "rows.jsonl")}}
    path = recipe_file(tmp_path, checkpoint, measure=[measured])
    out = tmp_path / "found.json"
    before = {file: file.stat().st_mtime_ns for file in checkpoint.iterdir()}
    assert preflight(path, [], data_root=None, allow_code=False, json_path=out, runs=tmp_path / "runs") == 0
    found = json.loads(out.read_text())
    assert found["ready"] and found["fits"]
    assert found["scan"]["sample_id"] == "rows-3"
    assert found["scan"]["samples"] == 3
    trial = found["trial"]
    assert found["peak"] == trial["reserved"] > 100e6
    assert trial["seconds_full"] > 0 < trial["seconds_measuring"]
    assert found["seconds"] == pytest.approx(100 * trial["seconds_expected"] + trial["seconds_measuring"])
    assert found["changes"] == []
    shown = capsys.readouterr().out
    assert "fits, and can begin" in shown
    assert "rows-3" in shown
    assert {file: file.stat().st_mtime_ns for file in checkpoint.iterdir()} == before
    assert not (tmp_path / "runs").exists()


def test_prompts_that_would_stop_the_run_are_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe_file(tmp_path, checkpoint)
    out = tmp_path / "found.json"
    code = preflight(path, ["max_prompt_tokens=5"], data_root=None, allow_code=False, json_path=out)
    assert code == 1
    shown = capsys.readouterr().out
    assert "rows-1" in shown and "raise max_prompt_tokens" in shown
    assert "No trial was made" in shown


def test_without_weights_it_is_worked_out(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    (model / "preprocessor_config.json").write_bytes((checkpoint / "preprocessor_config.json").read_bytes())
    path = recipe_file(tmp_path, model)
    assert preflight(path, [], data_root=None, allow_code=False) == 0
    shown = capsys.readouterr().out
    assert "nothing measured" in shown
    assert "about" in shown  # tokens without a tokenizer
    monkeypatch.setattr("cleareyed.preflight_command.memory_available", lambda device: 10**6)
    assert preflight(path, [], data_root=None, allow_code=False) == 1
    shown = capsys.readouterr().out
    assert "does not fit" in shown
    assert "No change that is known here makes it fit" in shown
