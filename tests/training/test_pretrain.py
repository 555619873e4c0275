"""Pretraining: resumes exactly, learns to name what it sees, and leaves a checkpoint that transformers loads alone."""

import pytest
import torch
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from cleareyed.errors import InputError
from cleareyed.recipe import PretrainRecipe
from cleareyed.records.run import RunFolder, read_metrics
from cleareyed.tasks.scenes.task import scenes_task
from cleareyed.training import pretrain as module
from cleareyed.training.gates import LINE, measure_gates
from cleareyed.training.observe import Silent
from cleareyed.training.pretrain import learn_tokenizer, pretrain, start_vlm

SMALL = {
    "method": "pretrain",
    "shape": {
        "vocab": 512, "hidden": 64, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 64,
        "vision_hidden": 32, "vision_layers": 1, "vision_heads": 2,
    },
    "optimizer": {"lr": 3e-3, "warmup": 2},
    "images_per_step": 2,
    "tokens_per_image": 90,
    "mixture": {"list": 1.0, "direct": 1.0},
    "vision_steps": 2,
    "names_weight": 0.3,
    "save_every": 2,
}  # fmt: skip


class Killed(BaseException):
    """Stands for whatever ends a process: nothing in the program catches it."""


class KillAfter(Silent):
    def __init__(self, step):
        self.last = step

    def step(self, step, total, metrics):
        if step == self.last:
            raise Killed


@pytest.fixture(autouse=True)
def few_pages(monkeypatch):
    monkeypatch.setattr(module, "TOKENIZER_PAGES", 40)


def test_a_run_killed_twice_ends_with_the_same_bytes(tmp_path):
    recipe = PretrainRecipe(**SMALL, steps=6)
    pretrain(recipe, tmp_path / "whole", False, Silent())
    for resume, last in ((False, 3), (True, 4)):
        with pytest.raises(Killed):
            pretrain(recipe, tmp_path / "cut", resume, KillAfter(last))
    pretrain(recipe, tmp_path / "cut", True, Silent())
    for file in ("final/model.safetensors", "checkpoint/optimizer.safetensors", "final/tokenizer.json"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()
    losses = [[row["loss"] for row in read_metrics(RunFolder(tmp_path / name))] for name in ("whole", "cut")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


def test_transformers_alone_loads_what_is_saved(tmp_path):
    pretrain(PretrainRecipe(**SMALL, steps=2), tmp_path / "run", False, Silent())
    model = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / "run" / "final", dtype="auto")
    assert model.dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "final")
    assert len(tokenizer) <= SMALL["shape"]["vocab"]


def test_naming_is_learnt(tmp_path):
    recipe = PretrainRecipe(**{**SMALL, "vision_steps": 40, "images_per_step": 4}, steps=40)
    pretrain(recipe, tmp_path / "run", False, Silent())
    losses = [row["names_loss"] for row in read_metrics(RunFolder(tmp_path / "run"))]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_an_unknown_style_is_named_before_anything_is_written(tmp_path):
    recipe = PretrainRecipe(**{**SMALL, "mixture": {"lists": 1.0}}, steps=2)
    with pytest.raises(InputError, match=r"mixture\.lists is not a style of the corpus; choose from list"):
        pretrain(recipe, tmp_path / "run", False, Silent())
    assert not (tmp_path / "run").exists()


def test_the_gates_run_and_a_random_model_fails_them():
    recipe = PretrainRecipe(**SMALL, steps=1)
    vlm = start_vlm(recipe, learn_tokenizer(recipe))
    found = measure_gates(vlm, scenes_task("train"), scenes_task("bench"), 4, Silent(), scenes=4)
    assert found["sees/train"]["recall"] < 0.5
    assert found["paper_prompt/bench"]["format_rate"] == 0.0
    assert set(found["thinking_pays"]["thought_by_skill"]) == {"Count", "Relation", "Depth", "Distance"}


def test_a_list_is_read_line_by_line():
    assert LINE.match("1. red cube c 5").groups() == ("red cube", "c", "5")
    assert LINE.match("1. red cube c 5 and more") is None
