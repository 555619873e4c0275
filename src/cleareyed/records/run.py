"""The run folder: everything one run leaves behind, under names that do not change.

A run folder is made whole or not at all and never overwritten. While the run lives, every file in it can be read:
`metrics.jsonl` grows by whole lines, rows arrive as part files that are renamed into place (`records.parts`).
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from cleareyed.errors import InputError
from cleareyed.records.environment import describe_environment
from cleareyed.records.parts import drop_rollouts_after


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe as resolved."""
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, in the order of steps."""
        return self.path / "metrics.jsonl"

    @property
    def rollouts(self) -> Path:
        """Part files of `RolloutRow` (`records.parts`)."""
        return self.path / "rollouts"

    @property
    def answers(self) -> Path:
        """Part files of `AnswerRow` (`records.parts`)."""
        return self.path / "answers"

    @property
    def checkpoint(self) -> Path:
        """The latest training state, to resume from."""
        return self.path / "checkpoint"

    @property
    def best(self) -> Path:
        """The model with the best validation accuracy, as a loadable checkpoint."""
        return self.path / "best"

    @property
    def final(self) -> Path:
        """The model after the last step, as a loadable checkpoint."""
        return self.path / "final"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"


def create_run(path: Path, recipe: BaseModel) -> RunFolder:
    """A new run folder with `recipe.yaml` and `environment.json`.

    Raises:
        InputError: `path` exists (a run is never overwritten) or cannot be written.
    """
    if path.exists():
        raise InputError(f"{path}: exists already; continue that run with --resume, or give this one another name")
    settings = recipe.model_dump(mode="json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            run = RunFolder(aside)
            run.rollouts.mkdir()
            run.answers.mkdir()
            run.metrics.touch()
            run.recipe.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
            environment = json.dumps(describe_environment(settings.get("seed")), indent=2)
            run.environment.write_text(environment + "\n", encoding="utf-8")
            aside.chmod(0o755)  # mkdtemp makes it private
            aside.rename(path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    except OSError as error:
        raise InputError(f"{path}: the run folder cannot be made ({error.strerror}); choose another place") from error
    return RunFolder(path)


def open_run(path: Path) -> RunFolder:
    """The run folder at `path`.

    Raises:
        InputError: there is none.
    """
    run = RunFolder(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such run folder; give the path of one, such as runs/NAME")
    if not run.recipe.is_file():
        raise InputError(f"{path}: not a run folder (it has no recipe.yaml); give the path of one, such as runs/NAME")
    return run


def append_metrics(run: RunFolder, row: Mapping[str, float | None]) -> None:
    """Add one line to `metrics.jsonl`. A number that is not finite is written as null."""
    line = json.dumps({name: _finite(value) for name, value in row.items()}, allow_nan=False) + "\n"
    try:
        with run.metrics.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise InputError(f"{run.metrics}: cannot be written ({error.strerror}); free space and --resume") from error


def read_metrics(run: RunFolder) -> list[dict[str, float | None]]:
    """The rows of `metrics.jsonl`, without a last line that is still being written.

    Raises:
        InputError: a line is not JSON.
    """
    if not run.metrics.exists():
        return []
    rows: list[dict[str, float | None]] = []
    for number, line in enumerate(run.metrics.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{run.metrics}: line {number} is not JSON ({error}); remove it") from error
    return rows


def truncate_after(run: RunFolder, step: int) -> None:
    """Drop the metrics and rollouts of steps later than `step`: what a killed run did after its last checkpoint.

    Answers stay: measuring again replaces them by name.
    """
    kept = [row for row in read_metrics(run) if (row["step"] or 0) <= step]
    aside = run.metrics.with_suffix(".jsonl.aside")
    try:
        aside.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in kept), encoding="utf-8")
        os.replace(aside, run.metrics)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise InputError(f"{run.metrics}: cannot be written ({error.strerror}); free space and --resume") from error
    drop_rollouts_after(run, step)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
