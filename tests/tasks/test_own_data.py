"""The example in examples/own_data: its pictures, its data file and its reward, as its recipe names them."""

import subprocess
import sys
from pathlib import Path

import yaml

from cleareyed.recipe import GrpoRecipe
from cleareyed.scoring.rewards import load_rewards, score
from cleareyed.scoring.rules import accuracy_rule
from cleareyed.tasks.catalog import load_task

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_data"


def test_the_example_of_own_data_is_scored_by_its_own_reward(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(EXAMPLE / "make_data.py"), str(tmp_path)], check=True)
    recipe = GrpoRecipe.model_validate(yaml.safe_load((EXAMPLE / "recipe.yaml").read_text()))
    tasks = {
        name: load_task(recipe.task.model_copy(update={"path": str(tmp_path / f"{name}.jsonl")}), None)
        for name in ("train", "val")
    }
    assert {name: len(task.samples) for name, task in tasks.items()} == {"train": 48, "val": 24}
    samples = tasks["train"].samples
    assert {sample.skill for sample in samples} == {"Count", "Relation"}
    assert all(sample.images[0]().size == (96, 96) for sample in samples)

    functions = load_rewards(recipe.rewards, "strict", True, EXAMPLE)
    sample = samples[0]
    thought = " and ".join(sample.columns["colours"])
    texts = [f"<think>{thought}</think> <answer>{sample.answer}</answer>", "<think>no end"]
    scored = score(functions, accuracy_rule("strict"), [sample, sample], ["", ""], texts, [[1], [1]])
    assert scored.rewards == [
        {"accuracy": 1.0, "format": 1.0, "names_the_shapes": 1.0},
        {"accuracy": 0.0, "format": 0.0, "names_the_shapes": None},
    ]
    assert scored.totals == [2.2, 0.0]
