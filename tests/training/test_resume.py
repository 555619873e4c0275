"""A run killed at any moment and resumed ends as an undisturbed one, byte for byte."""

import multiprocessing
import os
import signal
import sys
from multiprocessing import forkserver
from pathlib import Path

import pytest
from training.interrupted import run_training

from cleareyed.records.parts import read_probes, read_rollouts
from cleareyed.records.run import RunFolder, read_metrics

NEVER = (-1, "")
KILLS = {
    "grpo": [(1, "sample"), (3, "update"), (6, "save")],
    "sft": [(2, "save"), (4, "save"), (5, "update")],
}
"""(steps done, phase): before the first checkpoint; between two; with steps recorded, and a best
model kept, that no checkpoint knows of."""


@pytest.fixture(scope="module")
def forked() -> multiprocessing.context.ForkServerContext:
    """Processes that have the imports behind them and nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.interrupted"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # where the server looks for what it imports beforehand
        forkserver.ensure_running()
    return context


@pytest.mark.parametrize("method", ["grpo", "sft"])
def test_three_kills_leave_no_trace(
    method: str, forked: multiprocessing.context.ForkServerContext, tmp_path: Path
) -> None:
    def start(folder: Path, resume: bool, after: int, phase: str) -> int | None:
        process = forked.Process(target=run_training, args=(method, folder, resume, after, phase))
        process.start()
        process.join()
        return process.exitcode

    calm, shaken = RunFolder(tmp_path / "calm"), RunFolder(tmp_path / "shaken")
    assert start(calm.path, False, *NEVER) == 0
    for number, kill in enumerate(KILLS[method]):
        assert start(shaken.path, number > 0, *kill) == -signal.SIGKILL
    assert start(shaken.path, True, *NEVER) == 0

    files = ("final/model.safetensors", "best/model.safetensors", "checkpoint/optimizer.safetensors")
    for file in (*files, "checkpoint/weights.safetensors", "checkpoint/state.json"):
        assert (shaken.path / file).read_bytes() == (calm.path / file).read_bytes(), file
    assert (calm.path / files[0]).read_bytes() != (calm.path / files[1]).read_bytes()
    assert timeless(shaken) == timeless(calm)
    assert [row["step"] for row in timeless(calm)] == list(range(7))
    rollouts = read_rollouts(calm)
    assert len(rollouts) == (6 * 4 * 3 if method == "grpo" else 0)
    assert read_rollouts(shaken) == rollouts
    probes = read_probes(calm)
    assert {row.step for row in probes} == {0, 3, 6} and len({row.label for row in probes}) == 9
    assert read_probes(shaken) == probes
    assert ["thinking/thinking_gain" in row for row in timeless(calm)] == [step % 3 == 0 for step in range(7)]
    assert {path.name for path in shaken.path.iterdir()} == {path.name for path in calm.path.iterdir()}


def timeless(run: RunFolder) -> list[dict[str, float | None]]:
    """The metrics without those that measure time."""
    return [
        {name: value for name, value in row.items() if "seconds" not in name and "per_second" not in name}
        for row in read_metrics(run)
    ]
