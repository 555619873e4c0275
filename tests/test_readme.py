"""What the README shows is what runs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from test_cli import PROGRAM, QUICK, environment

from cleareyed.records.parts import read_rollouts
from cleareyed.records.run import RunFolder

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_own_data_example_runs(tmp_path: Path, checkpoint: Path) -> None:
    """The README's own commands, from a folder that holds nothing but the example, on a very small model."""
    section = README.split("## Your own data")[1].split("\n## ")[0]
    lines = re.findall(r"^((?:python|cleareyed) .+)$", section.split("```sh")[1].split("```")[0], re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["python", "cleareyed"]
    source = ROOT / "examples/own_data"
    shutil.copytree(source, tmp_path / "examples/own_data", ignore=shutil.ignore_patterns("data", "__pycache__"))
    for line in lines:
        program, *arguments = line.split()
        whole = [sys.executable, *arguments]
        if program == "cleareyed":
            whole = [*PROGRAM, *arguments, f"model.path={checkpoint}", "steps=2", "measure.0.task.limit=4", *QUICK]
        done = subprocess.run(whole, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    run = RunFolder(tmp_path / "runs/recipe")
    rows = read_rollouts(run)
    assert len(rows) == 2 * 2 * 2
    assert any(name.endswith("names_the_shapes") for name in rows[0].rewards)
    assert run.report.is_file()
    assert done.stdout.splitlines()[-1] == "report: runs/recipe/report.html"


def test_the_reward_in_the_readme_is_the_examples() -> None:
    shown = README.split("```python\n")[1].split("```")[0]
    assert shown.strip() in (ROOT / "examples/own_data/reward.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_in_the_readme_lead_somewhere(target: str) -> None:
    made_later = {"docs/demo.png", "recipes/tiny-base.yaml", "src/cleareyed/assets/tiny-base/README.md"}
    if target in made_later and not (ROOT / target).exists():
        pytest.skip(f"{target} comes with the trained model")
    assert (ROOT / target).exists()
