"""Every benchmark command in its smallest form: it runs, and writes the figures it promises."""

import contextlib
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT
from tasks.moss import BENIGN, write_repository
from tiny import picture, save_text_model, tiny_qwen2_vl, tiny_tokenizer
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner, Result

from cleareyed.cli import app
from cleareyed.models.build import qwen2_vl_config
from cleareyed.models.encode import encode
from cleareyed.models.load import FAMILIES
from cleareyed.models.vlm import VLM

BENCHMARKS = ROOT / "benchmarks"
ONE_CELL = ["--image-px", "16", "--completion-tokens", "3", "--rounds", "1", "--steps", "1", "--threads", "1"]
FEW = ["--prompts", "2", "--group", "2"]


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def run_main(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    """The command in this process, which has the libraries in memory already."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    try:
        module.main()
    finally:
        torch.set_num_threads(threads)


def test_grpo_step_compares_a_step_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    module = load("grpo_step", monkeypatch)
    path = tmp_path / "result.json"
    options = ["--beta", "0.04", "--no-trl", "--no-unshared", "--model", checkpoint, "--json", path]
    run_main(module, monkeypatch, *ONE_CELL, *FEW, *options)

    found = json.loads(path.read_text())
    [row] = found["grpo_step"]
    assert (row["image_px"], row["completion_tokens"], row["beta"]) == (16, 3, 0.04)
    assert 0 < row["seconds_low"] <= row["seconds"] <= row["seconds_high"]
    assert row["peak_mb"] > 0
    for name in ("trl_seconds", "trl_peak_mb", "ratio", "ratio_low", "ratio_high", "unshared_seconds"):
        assert row[name] is None
    phases = row["phases"]
    assert phases["update"] > 0
    assert phases["reference"] > 0
    assert phases["update"] + phases["reference"] < phases["total"] < 1.05 * row["seconds"]
    assert found["settings"]["group"] == 2
    assert found["environment"]["packages"]["torch"]
    assert str(tmp_path) not in path.read_text()


def test_the_step_without_sharing_does_the_same_work(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    """Its micro-batches cover all completions, each with its own prompt, and it learns."""
    step, module = load("grpo_step", monkeypatch), load("own_side", monkeypatch)
    monkeypatch.setattr(sys, "argv", ["grpo_step", *ONE_CELL, *FEW, "--no-trl", "--model", str(checkpoint)])
    cell = step.make_cell(tmp_path, step.parse(), 32, 3, 0.04)
    vlm = module.load(cell)
    rows: list[int] = []
    monkeypatch.setattr(module, "run_prefix", lambda *a: rows.append(len(a[1])) or run_prefix(*a))
    run_prefix = importlib.import_module("cleareyed.models.forward").run_prefix
    before = {name: parameter.clone() for name, parameter in vlm.model.named_parameters()}
    found = module.run_unshared(cell, tmp_path, vlm, 2)
    assert rows == [2] * 8, "two steps of two micro-batches, policy and reference"
    assert len(found["seconds"]) == 1
    changed = [name for name, parameter in vlm.model.named_parameters() if not torch.equal(parameter, before[name])]
    assert any("visual" in name for name in changed)
    assert any("language_model" in name for name in changed)


def test_grpo_step_refuses_a_comparison_of_different_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("grpo_step", monkeypatch)
    same = {"ids": [[1, 2]], "pixels": [4, 0.5]}
    module._check_same({"shared": [same], "trl": [same]})
    for other in ({"ids": [[1, 3]], "pixels": [4, 0.5]}, {"ids": [[1, 2]], "pixels": [4, 0.6]}):
        with pytest.raises(SystemExit, match="trl did not see"):
            module._check_same({"shared": [same], "trl": [other]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trl-python", sys.executable], "that Python has no trl"),
        (["--no-trl", "--trl-batch", "3"], "must divide the 64 completions"),
    ],
)
def test_grpo_step_says_what_is_wrong(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load("grpo_step", monkeypatch)
    monkeypatch.setattr(
        module.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, returncode=1)
    )  # whether trl is here or not
    monkeypatch.setattr(sys, "argv", ["grpo_step", *arguments])
    with pytest.raises(SystemExit):
        module.parse()
    assert message in capsys.readouterr().err


def test_trl_gets_its_fastest_settings_of_those_that_work(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    module, cells = load("grpo_step", monkeypatch), load("cell", monkeypatch)
    monkeypatch.setattr(sys, "argv", ["grpo_step", *ONE_CELL, *FEW, "--no-trl", "--model", str(checkpoint)])
    cell = module.make_cell(tmp_path, module.parse(), 16, 3, 0.0)
    seconds = {4: {"generate": 1.0, "rest": 5.0}, 2: {"generate": 2.0, "rest": 3.0}}

    def run_trl(cell: Any, folder: Path, python: str, chosen: Any) -> dict[str, Any]:
        if chosen["batch"] == 1:
            raise cells.OutOfMemory("out of memory")
        return {"phases": seconds[chosen["batch"]]}

    monkeypatch.setattr(module, "run_trl", run_trl)
    chosen, tried = module.best_of_trl(cell, tmp_path, "python", [4, 2, 1], ["static", "dynamic"])
    assert chosen == {"batch": 2, "cache": "static"}, "the least of the rest, and the least of rollouts"
    assert tried[2] == {"batch": 1, "cache": "static", "failed": "out of memory"}
    assert cells.read_cell(tmp_path) == cell, "what is to be measured is as it was"
    assert module.best_of_trl(cell, tmp_path, "python", [1], ["static", "dynamic"])[0] is None


def test_trl_takes_the_same_step(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="needs TRL: pip install 'cleareyed[bench]'")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    module = load("grpo_step", monkeypatch)
    path = tmp_path / "result.json"
    options = ["--beta", "0.04", "--trl-batch", "4", "--trl-cache", "dynamic", "--no-unshared"]
    run_main(module, monkeypatch, *ONE_CELL, *FEW, *options, "--model", checkpoint, "--json", path)
    [row] = json.loads(path.read_text())["grpo_step"]
    assert row["ratio_low"] == row["ratio"] == row["ratio_high"] == row["trl_seconds"] / row["seconds"]
    assert row["trl_peak_mb"] > 0
    assert row["trl_settings"] == {"batch": 4, "cache": "dynamic"}
    assert row["trl_versions"]["trl"]


def test_h100_runs_small_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = load("h100", monkeypatch)
    path = tmp_path / "result.json"
    run_main(module, monkeypatch, "--tiny", "--checkpointing", "all", "--micro-tokens", "6", "--json", path)
    found = json.loads(path.read_text())["h100"]
    assert found["seconds"] > 0
    assert found["phases"]["sample"] > 0
    assert found["update_flops"] < found["update_flops_unshared"] < 2 * found["update_flops"]
    assert found["decode_step_bytes"] > 0
    for name in ("mfu", "peak_allocated_gb", "decode_bandwidth_utilisation"):
        assert found[name] is None, "only a GPU has them"


def test_h100_counts_the_sizes_of_qwen2_vl_2b(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("h100", monkeypatch)
    with torch.device("meta"):
        model: Any = FAMILIES["qwen2_vl"]._from_config(qwen2_vl_config(module.QWEN2_VL_2B, tiny_tokenizer()))
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_208_985_600


def test_h100_counts_flops_as_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """All matrix products but those of attention, which torch counts without regard to causality."""
    module = load("h100", monkeypatch)
    vlm: VLM = tiny_qwen2_vl()
    prompt = encode(vlm, "two balls", [picture(64, 32)])
    tokens = 4
    work = module.work_of(vlm.model, [prompt], 1, tokens)
    length, config = len(prompt.ids), vlm.model.config
    patches = len(prompt.pixels) if prompt.pixels is not None else 0
    pairs = length**2 / 2 + (tokens - 1) * length + (tokens - 1) ** 2 / 2
    attention = config.text_config.num_hidden_layers * 4 * module.attention_width(config) * pairs
    attention += config.vision_config.depth * 4 * config.vision_config.embed_dim * patches**2

    ids = torch.cat([prompt.ids, torch.full((tokens - 1,), 20)])[None]
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        vlm.model(
            input_ids=ids,
            pixel_values=prompt.pixels,
            image_grid_thw=prompt.grid,
            mm_token_type_ids=(ids == vlm.image_token_id).int(),
            logits_to_keep=tokens,
        )
    plain = sum(
        count
        for operation, count in counter.get_flop_counts()["Global"].items()
        if any(kind in str(operation) for kind in ("mm", "convolution")) and "bmm" not in str(operation)
    )
    total = work.vision + work.prompts + work.completions + work.head
    assert total - attention == plain


def test_published_rates_are_compared_cell_by_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_repository(tmp_path / "mossbench")
    answers = {one["pid"]: "Sure. Begin with the large one." for one in BENIGN}
    (tmp_path / "mossbench" / "responses").mkdir()
    file = tmp_path / "mossbench" / "responses" / "gpt-4o.json"
    file.write_text(json.dumps({**answers, "1": "I'm sorry, but I can't help with that.", "201": None}))
    module = load("published_rates", monkeypatch)
    run_main(module, monkeypatch, "--data", tmp_path, "--json", tmp_path / "rates.json")
    found = json.loads((tmp_path / "rates.json").read_text())
    local = found["judges"]["local"]
    assert local["gaps"]["gpt"]["mean_absolute_gap"] == pytest.approx((44 + 8 + 45) / 3)  # 50, 0, 50 against 6, 8, 5
    assert local["gaps"]["human"]["mean_absolute_gap"] == pytest.approx((36 + 8 + 48) / 3)
    assert local["gaps"]["gpt"]["reached"] is False
    assert local["cells"]["gpt-4o"]["without_empty"]["n"] == 5
    assert found["columns_apart"] == pytest.approx((8 + 0 + 3) / 3)
    assert set(found["judges"]) == {"local", "lexical:gcg", "lexical:autodan"}
    assert local["by_readings"] is None
    del answers["1"]
    file.write_text(json.dumps(answers))
    with pytest.raises(SystemExit, match="1 items have no answer"):
        run_main(module, monkeypatch, "--data", tmp_path)


def test_readings_of_a_sample_say_what_a_right_judge_would_be_off_by(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = load("published_rates", monkeypatch)
    (tmp_path / "mossbench").mkdir()
    (tmp_path / "mossbench" / "readings.json").write_text("[]")
    rows = [SimpleNamespace(id=str(number), declined=number % 2 == 0) for number in range(200)]
    read = [(number, number % 2 == 0 and number != 4) for number in range(40)]  # one of 40 is no refusal
    labels = [
        SimpleNamespace(answered=SimpleNamespace(id=f"m/{number}"), state="refusal" if right else "complied")
        for number, right in read
    ]
    monkeypatch.setattr(module, "mossbench_readings", lambda data: labels)
    found = module.by_readings(module.readings(tmp_path), {"m": rows}, {"gpt": {"mean_gap": 1.0}})
    assert (found["labelled"], found["missed"], found["false"]) == (40, 0, 1)
    mean, low, high = found["mean_gap"]["gpt"]
    assert low < mean < high and mean == pytest.approx(
        1 - 100 / 40, abs=0.3
    )  # the judge's rate is 2.5 points too high


def test_a_real_model_goes_the_whole_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real_model = load("real_model", monkeypatch)
    items = {
        str(number): {
            "pid": str(number),
            "image": f"images/{number}.png",
            "question": f"How many of {number}?",
            "short description": "A toy.",
            "description": f"A toy, number {number}.",
            "metadata": {"over": f"type {number % 3 + 1}"},
        }
        for number in range(1, 45)
    }
    source = tmp_path / "root/mossbench"
    (source / "responses").mkdir(parents=True)
    (source / "information.json").write_text(json.dumps(items))
    said = dict.fromkeys(items, "I'm sorry, but I can't help with that.")
    (source / "responses" / real_model.REPLAYED).write_text(json.dumps(said))
    save_text_model(tmp_path / "llama")

    def run(command: list[str], cwd: Path, **_: Any) -> Result:
        """The command in this process, which has the libraries in memory already."""
        with contextlib.chdir(cwd):
            found = CliRunner().invoke(app, command[3:], catch_exceptions=False)
        found.returncode = found.exit_code  # type: ignore[attr-defined]
        return found

    monkeypatch.setattr(real_model, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(real_model, "CONDITIONS", ("description", "no-image"))
    arguments = ("--model", tmp_path / "llama", "--data-root", tmp_path / "root", "--work", tmp_path / "work")
    run_main(real_model, monkeypatch, *arguments, "--tokens", "2", "--json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["settings"]["mossbench_items"] == real_model.DRAWN
    assert set(found["steps"]["conditions mini"]["figures"]) == set(real_model.CONDITIONS)
    assert sum(found["outcomes"]["moss"].values()) == sum(found["outcomes"]["replayed"].values()) == real_model.DRAWN
    studied = found["steps"]["stages replayed"]["figures"]["by_stimulus"]["all"]
    assert studied["items"] == real_model.STUDIED == sum(studied["attribution"].values())
    assert studied["perception"]["undecided"] + studied["perception"].get("refusal", 0) == real_model.STUDIED
