import getpass
import json
import math
import os
import platform
from pathlib import Path

import pytest
import torch
import yaml

import cleareyed
from cleareyed.errors import InputError
from cleareyed.recipe import GrpoRecipe
from cleareyed.records.parts import read_rollouts, write_rollouts
from cleareyed.records.rows import RolloutRow
from cleareyed.records.run import append_metrics, create_run, open_run, read_metrics, truncate_after

RECIPE = GrpoRecipe.model_validate(
    {"method": "grpo", "seed": 11, "optimizer": {"lr": 1e-4}, "steps": 3, "task": {"name": "scenes-train"}}
)


def test_a_new_run_holds_its_recipe_as_resolved(tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs" / "one", RECIPE)
    assert GrpoRecipe.model_validate(yaml.safe_load(run.recipe.read_text())) == RECIPE
    assert yaml.safe_load(run.recipe.read_text())["sampling"]["group"] == 8  # defaults are written out
    assert read_metrics(run) == []
    assert open_run(run.path) == run
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["one"]


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    run = create_run(tmp_path / "one", RECIPE)
    append_metrics(run, {"step": 1})
    with pytest.raises(InputError, match=r"one: exists already.*--resume"):
        create_run(run.path, RECIPE)
    assert read_metrics(run) == [{"step": 1}]


def test_a_place_that_cannot_hold_a_run_is_refused_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match="cannot be made"):
        create_run(tmp_path / "file" / "one", RECIPE)
    assert (tmp_path / "file").read_text() == "kept"


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run folder"):
        open_run(tmp_path / "none")
    with pytest.raises(InputError, match=r"no recipe\.yaml"):
        open_run(tmp_path)


def test_the_environment_tells_versions_and_no_names(tmp_path: Path) -> None:
    text = create_run(tmp_path / "one", RECIPE).environment.read_text()
    environment = json.loads(text)
    assert environment["seed"] == 11
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["torch_threads"] == torch.get_num_threads()
    assert environment["cpu_count"] == os.cpu_count()
    assert environment["started"].endswith("+00:00")
    private = [platform.node(), str(Path.home()), str(tmp_path), str(Path(cleareyed.__file__).parent)]
    if len(getpass.getuser()) > 4:
        private.append(getpass.getuser())
    assert not [name for name in private if len(name) > 1 and name in text]


def test_metrics_are_lines_of_json(tmp_path: Path) -> None:
    run = create_run(tmp_path / "one", RECIPE)
    append_metrics(run, {"step": 1, "reward": 0.5, "grad_norm": math.inf, "kl": math.nan})
    append_metrics(run, {"step": 2, "reward": 0.75})
    assert read_metrics(run) == [
        {"step": 1, "reward": 0.5, "grad_norm": None, "kl": None},
        {"step": 2, "reward": 0.75},
    ]


def test_a_line_still_being_written_is_not_read(tmp_path: Path) -> None:
    run = create_run(tmp_path / "one", RECIPE)
    append_metrics(run, {"step": 1})
    with run.metrics.open("a") as file:
        file.write('{"step": 2, "rew')
    assert read_metrics(run) == [{"step": 1}]
    truncate_after(run, 5)  # as when resuming: the torn line goes
    append_metrics(run, {"step": 2})
    assert read_metrics(run) == [{"step": 1}, {"step": 2}]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    run = create_run(tmp_path / "one", RECIPE)
    run.metrics.write_text('{"step": 1}\nnonsense\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 2 is not JSON"):
        read_metrics(run)


def test_truncation_drops_later_steps_only(tmp_path: Path) -> None:
    run = create_run(tmp_path / "one", RECIPE)
    for step in range(4):
        append_metrics(run, {"step": step})
        write_rollouts(run, step, [rollout(step)])
    truncate_after(run, 1)
    assert [row["step"] for row in read_metrics(run)] == [0, 1]
    assert [row.step for row in read_rollouts(run)] == [0, 1]
    truncate_after(run, -1)
    assert read_metrics(run) == [] and read_rollouts(run) == []


def rollout(step: int) -> RolloutRow:
    return RolloutRow(step, "s", 0, 0, "?", "a", "a", 1, "stop", {"accuracy": 1.0}, 1.0, 0.0, "a", True)
