"""`cleareyed demo` from end to end, in a few steps on a random model."""

import json
from collections.abc import Callable
from pathlib import Path

from conftest import Result


def test_the_demo_leaves_a_comparison_of_three(
    command: Callable[..., Result], checkpoint: Path, tmp_path: Path
) -> None:
    old = tmp_path / "runs/demo/grpo/recipe.yaml"
    old.parent.mkdir(parents=True)
    old.write_text("an earlier demo")

    result = command("demo", "--model", checkpoint, "--steps", 1, "--items", 4)
    assert result.exit_code == 0, result.output

    moved = [path for path in (tmp_path / "runs").iterdir() if path.name.startswith("demo-")]
    assert [(path / "grpo/recipe.yaml").read_text() for path in moved] == ["an earlier demo"]
    summary = json.loads((tmp_path / "runs/demo/summary.json").read_text())
    for label in ("base", "sft", "grpo"):
        found = summary[label]
        low, high = found["interval"]
        assert 0 <= low <= found["accuracy"] <= high <= 1
        assert 0 <= found["accuracy_any_form"] <= 1
        assert 0 <= found["format_rate"] <= 1
        assert found["mean_tokens"] > 0
        assert found["n"] == 4
        assert set(found["by_skill"]) == {"Count", "Relation", "Depth", "Distance"}
        assert sum(skill["n"] for skill in found["by_skill"].values()) == 4
    assert "base/no-reasoning" in summary
    page = (tmp_path / "runs/demo/report.html").read_text()
    assert "data:image/png;base64," in page
    assert result.stdout.splitlines()[-1] == "report: runs/demo/report.html"
    for method in ("grpo", "sft"):
        assert (tmp_path / "runs/demo" / method / "final/model.safetensors").is_file()


def test_the_demo_moves_nothing_that_is_not_a_demo(
    command: Callable[..., Result], checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    result = command("demo", "--model", checkpoint, "--out", "mine")
    assert result.exit_code == 2
    assert "mine: exists and is not an earlier demo" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
