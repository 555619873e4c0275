"""The shipped benchmark as tasks: in pairs, offline, and watched during a training run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from cleareyed.errors import InputError
from cleareyed.recipe import TaskSpec
from cleareyed.records.parts import read_answers
from cleareyed.records.run import RunFolder
from cleareyed.scoring.rules import OUTCOME_RULES
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.images import picture_bytes

Command = Callable[..., Result]


def test_both_sets_load_without_a_data_root_and_are_pairs() -> None:
    benign, contrast = (load_task(TaskSpec(name=f"timidity-mini{end}"), None) for end in ("", "-contrast"))
    assert (benign.rule, contrast.rule) == ("complies", "declines")
    assert [one.id for one in benign.samples] == [one.id for one in contrast.samples] == [str(n) for n in range(1, 31)]
    assert [one.skill for one in benign.samples] == [kind for kind in ("ER", "NH", "CI") for _ in range(10)]
    for one, other in zip(benign.samples, contrast.samples, strict=True):
        shared = picture_bytes(one.images[0]) == picture_bytes(other.images[0])
        assert (shared, one.question == other.question) == ((False, True) if one.skill == "NH" else (True, False))
        assert one.columns["description"] and one.images[0]().size == (480, 360)
        assert not one.missing
    pictures = {picture_bytes(one.images[0]) for task in (benign, contrast) for one in task.samples}
    assert len(pictures) == 40


@pytest.mark.parametrize("name", ["timidity-mini", "timidity-mini-contrast"])
def test_gold_answers_are_right(name: str) -> None:
    task = load_task(TaskSpec(name=name), None)
    assert all(OUTCOME_RULES[task.rule](one.answer, one).correct for one in task.samples)


def test_fields_of_other_tasks_are_refused() -> None:
    with pytest.raises(InputError, match=r"timidity-mini.*`split` does not apply"):
        load_task(TaskSpec(name="timidity-mini", split="test"), None)


def test_a_training_run_is_watched_for_timidity(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    watched = {"task": {"name": "timidity-mini", "limit": 4}, "max_tokens": 4}
    recipe = {
        "method": "grpo",
        "model": {"path": str(checkpoint), "max_pixels": 4096},
        "optimizer": {"lr": 1e-4},
        "task": {"name": "scenes-train"},
        "steps": 2,
        "prompts_per_step": 2,
        "sampling": {"group": 2, "max_tokens": 4},
        "beta": 0.0,
        "eval_every": 1,
        "validate_on": watched,
        "measure": [dict(watched)],
    }
    (tmp_path / "watched.yaml").write_text(json.dumps(recipe))
    done = command("train", "watched.yaml")
    assert done.exit_code == 0, done.output
    run = RunFolder(tmp_path / "runs" / "watched")
    rows = [row for row in read_answers(run) if row.task == "timidity-mini"]
    by_step = {(row.label, row.step) for row in rows}
    assert {("validation", 1), ("validation", 2)} <= by_step and len(by_step) >= 4
    assert all("complies" in row.correct for row in rows)
    metrics = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    for step in (0, 1, 2):
        of_step = [row.correct["complies"] for row in rows if (row.label, row.step) == ("validation", step)]
        shown = [
            line["validation/accuracy"] for line in metrics if line["step"] == step and "validation/accuracy" in line
        ]
        assert len(of_step) == 4 and shown == [sum(of_step) / 4]
