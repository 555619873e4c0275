"""One cell of a benchmark: what all sides are given, how a side is run, and how its memory is read.

Only the standard library is needed to import this, as the sides run in different environments.
"""

import gc
import json
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CELL = "cell.json"
STYLE = "base"
"""How questions become prompts: `cleareyed.tasks.prompts`."""


@dataclass(frozen=True)
class Cell:
    """One GRPO step, the same for every side. The pictures lie beside it as 0.png, 1.png, ..., one a prompt."""

    model: str
    """Folder of the checkpoint."""
    texts: tuple[str, ...]
    """The prompts, without their pictures."""
    questions: tuple[str, ...]
    """What the texts ask, for who makes the texts himself."""
    pixels: int
    """Width times height of every picture, to which no processor may add or take."""
    group: int
    completion_tokens: int
    """Length of every completion: no ending token may be drawn."""
    suppress: tuple[int, ...]
    """Token ids that may not be drawn: those that end, and those of vision and padding."""
    beta: float
    dtype: str
    """`fp32`, or `bf16`: autocast over fp32 weights."""
    threads: int
    steps: int
    """Steps to measure; one more goes before them."""
    lr: float = 1e-6
    checkpointing: bool | str = False
    """`vision`: of the vision tower alone."""

    @property
    def rows(self) -> int:
        """Completions in a step."""
        return len(self.texts) * self.group


def write_cell(folder: Path, cell: Cell) -> None:
    (folder / CELL).write_text(json.dumps(asdict(cell)), encoding="utf-8")


def read_cell(folder: Path) -> Cell:
    values = json.loads((folder / CELL).read_text(encoding="utf-8"))
    return Cell(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def alternate(count: int) -> list[float]:
    """Rewards 1, 0, 1, 0, ...: a signal in every group, at no cost."""
    return [float(row % 2 == 0) for row in range(count)]


class SideFailed(Exception):
    """A side ended without a result; the message is the end of what it said."""


class OutOfMemory(SideFailed):
    """The machine ran out of memory."""


def run_side(
    python: str, script: str, folder: Path, *arguments: str, threads: int, use_gpu: bool = False
) -> dict[str, Any]:
    """Run one side in a process of its own and return what it wrote.

    Raises:
        OutOfMemory, SideFailed: it wrote nothing.
    """
    kept = {name: value for name, value in os.environ.items() if python == sys.executable or name != "PYTHONPATH"}
    environment = {**kept, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if not use_gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    with (folder / "log.txt").open("w+", encoding="utf-8") as log:
        command = [python, str(HERE / script), str(folder), *arguments]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        if sys.platform == "linux":  # if memory runs out, this one has to go and nothing else on the machine
            Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")
        try:
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        log.seek(0)
        said = log.read()
    if code == -signal.SIGKILL or "OutOfMemoryError" in said:
        raise OutOfMemory("out of memory")
    if code != 0:
        raise SideFailed(f"{said[-4000:].strip()}")
    values: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return values


def write_result(folder: Path, values: dict[str, Any]) -> None:
    (folder / "result.json").write_text(json.dumps(values), encoding="utf-8")


def gaps(moments: Sequence[float]) -> list[float]:
    """Seconds from the end of each step to the end of the next: whole steps, without the first, which warms up."""
    return [after - before for before, after in pairwise(moments)]


def medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of every name over rows; a row without it counts 0."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: statistics.median(row.get(name, 0.0) for row in rows) for name in names}


def touch_libraries(model: Any) -> None:
    """Bring into memory the code that any training step runs, by one on two tokens that changes nothing.

    Libraries load code when it is first called, 100 MB and more: no part of what a step needs for its data.
    """
    import torch

    with suppress(ImportError):
        import pandas  # noqa: F401  # pyarrow takes it along where there is one
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    model(input_ids=torch.tensor([[1, 2]], device=model.device)).logits.sum().backward()
    optimizer.step()
    model.zero_grad(set_to_none=True)


class Memory:
    """Memory above what is held now, in MB of 10**6 bytes.

    To be made when libraries (`touch_libraries`) and model are in memory. On a CPU the high-water mark of the
    process's resident set, which Linux keeps and lets a process set back; on a GPU that of torch's allocator.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        gc.collect()
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._held = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")
            self._held = _resident("VmRSS")

    def peak_mb(self) -> float:
        if self._device == "cuda":
            import torch

            return (torch.cuda.max_memory_allocated() - self._held) / 1e6
        return (_resident("VmHWM") - self._held) / 1e6


def _resident(name: str) -> int:
    """Bytes."""
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024
