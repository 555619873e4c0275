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
    def skipped(self) -> Path:
        """One JSON object for each update that was skipped because it was not finite; absent if none was."""
        return self.path / "skipped.jsonl"

    @property
    def checks(self) -> Path:
        """One JSON object for each start of a run of GRPO or SFT: how far its forward was from the library's own."""
        return self.path / "checks.jsonl"

    @property
    def rollouts(self) -> Path:
        """Part files of `RolloutRow` (`records.parts`)."""
        return self.path / "rollouts"

    @property
    def answers(self) -> Path:
        """Part files of `AnswerRow` (`records.parts`)."""
        return self.path / "answers"

    @property
    def thinking(self) -> Path:
        """Part files of `AnswerRow`: answers to the probes of the thinking, labelled by arm; absent if none."""
        return self.path / "thinking"

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
    _append(run.metrics, row)


def append_skipped(run: RunFolder, row: Mapping[str, Any]) -> None:
    """Add one line to `skipped.jsonl`: `step`, `loss`, `grad_norm` (null where not finite) and `samples`, the ids of
    those whose loss was not finite, or of all in the step where that is none's."""
    _append(run.skipped, row)


def append_check(run: RunFolder, row: Mapping[str, float]) -> None:
    """Add one line to `checks.jsonl`: the `step` before which it was made, and what was found (`models/check.py`)."""
    _append(run.checks, row)


def read_metrics(run: RunFolder) -> list[dict[str, float | None]]:
    """The rows of `metrics.jsonl`, without a last line that is still being written.

    Raises:
        InputError: a line is not JSON.
    """
    return _read(run.metrics)


def truncate_after(run: RunFolder, step: int) -> None:
    """Drop what is recorded of steps later than `step`: what a killed run did after its last checkpoint.

    Answers stay: measuring again replaces them by name.
    """
    for path in (run.metrics, run.skipped):
        if path.exists():
            _rewrite(path, [row for row in _read(path) if (row["step"] or 0) <= step])
    drop_rollouts_after(run, step)


def _append(path: Path, row: Mapping[str, Any]) -> None:
    line = json.dumps({name: _finite(value) for name, value in row.items()}, allow_nan=False) + "\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); free space and --resume") from error


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: line {number} is not JSON ({error}); remove it") from error
    return rows


def _rewrite(path: Path, rows: list[dict[str, Any]]) -> None:
    aside = path.with_suffix(".jsonl.aside")
    try:
        aside.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows), encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror}); free space and --resume") from error


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
