"""A few real steps in a process of their own, to see what they take: `python -m cleareyed.training.trial`.

Reads a `Request` as JSON from standard input. Writes a line of JSON for each piece of progress, and last one with
the `Trial`. Nothing is kept: the run folder is a temporary one and the learning rate so small that no weight moves.
"""

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from cleareyed.errors import InputError
from cleareyed.evaluation.evaluate import evaluate
from cleareyed.models.load import load_vlm
from cleareyed.models.vlm import VLM
from cleareyed.recipe import EvalSpec, GrpoRecipe, SftRecipe, probed
from cleareyed.records.run import create_run, read_metrics
from cleareyed.scoring.rewards import RewardFunction, load_rewards
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.prompts import prompt_style
from cleareyed.tasks.task import Sample, Task
from cleareyed.thinking.gains import ARMS
from cleareyed.training.grpo import train_grpo
from cleareyed.training.observe import Observer
from cleareyed.training.sft import train_sft

TrainingRecipe = GrpoRecipe | SftRecipe
STILL = 1e-30
"""A learning rate at which fp32 weights stay where they are."""
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Trial:
    """What was measured; memory in bytes, on the GPU where there is one, else in RAM (the whole process)."""

    device: str
    peak: int
    """The most that was in use, full-length steps and a measurement's first batch included."""
    reserved: int
    """The most that was set aside; on a CPU the same."""
    seconds_full: float
    """Of a step on the largest sample with completions of full length."""
    seconds_expected: float
    """Of a step on the run's first samples with completions as the start model writes them."""
    seconds_measuring: float
    """Of all measurements together, before, during and after training."""


@dataclass(frozen=True)
class Request:
    recipe: dict[str, Any]
    folder: str
    """What reward files are relative to."""
    data_root: str | None
    index: int
    """The place of the largest sample."""
    allow_code: bool


Status = Callable[[str, int, int], None]


class OutOfMemory(Exception):
    """The trial did not fit."""


def run_trial(
    recipe: TrainingRecipe, folder: Path, data_root: Path | None, index: int, allow_code: bool, status: Status
) -> Trial:
    """Make the trial in a process of its own. `index` is the largest sample's place in the task.

    Raises:
        OutOfMemory: the system stopped it, or the GPU had no more.
        InputError: whatever the run itself would find wrong.
    """
    root = None if data_root is None else str(data_root)
    request = Request(recipe.model_dump(mode="json"), str(folder), root, index, allow_code)
    command = [sys.executable, "-m", "cleareyed.training.trial"]
    found: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(asdict(request)))
            process.stdin.close()
            for line in process.stdout:
                found = json.loads(line)
                if "status" in found:
                    status(*found["status"])
        finally:
            process.stdout.close()
            if sys.exc_info()[0] is not None:
                process.kill()
            code = process.wait()
        if "trial" in found:
            return Trial(**found["trial"])
        if "error" in found:
            raise InputError(found["error"])
        if "full" in found or code == -9:
            raise OutOfMemory
        errors.seek(0)
        last = (errors.read().strip().splitlines() or [f"exit code {code}"])[-1]
        raise InputError(f"the trial step ended early: {last}; the run would too")


class Enough(Exception):
    """The steps that were wanted are done."""


@dataclass(frozen=True)
class Watcher:
    """Passes progress on, and ends the training after so many steps, before anything is saved."""

    enough: int
    say: Status
    title: str

    def status(self, what: str, done: int, total: int) -> None:
        self.say(f"{self.title}: {what}", done, total)

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        if step >= self.enough:
            raise Enough


def measure(request: Request, say: Status) -> Trial:
    """Two steps on the largest sample at full length and two as the run begins, the second of each timed; a batch of
    each measurement."""
    recipe: TrainingRecipe = (GrpoRecipe if request.recipe["method"] == "grpo" else SftRecipe).model_validate_json(
        json.dumps(request.recipe)
    )
    data_root = Path(request.data_root) if request.data_root else None
    task = load_task(recipe.task, data_root)
    rewards: tuple[RewardFunction, ...] = ()
    if isinstance(recipe, GrpoRecipe):
        rewards = load_rewards(recipe.rewards, task.rule, request.allow_code, Path(request.folder))
    measurements = [(spec, load_task(spec.task, data_root), times) for spec, times in _measurements(recipe)]
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    say("loading the model", 0, 1)
    vlm = load_vlm(recipe.model)
    still = recipe.model_copy(
        update={
            "optimizer": recipe.optimizer.model_copy(update={"lr": STILL, "weight_decay": 0.0}),
            "steps": max(recipe.steps, 3),
            "save_every": max(recipe.steps, 3) + 1,
            "eval_every": 0,
            "thinking": None,
            "log_tensorboard": False,
        }
    )
    count = recipe.prompts_per_step if isinstance(recipe, GrpoRecipe) else recipe.batch
    largest = replace(task, samples=[_same(task.samples[request.index], i) for i in range(count)])
    if isinstance(recipe, GrpoRecipe):
        endless = replace(vlm, eos_ids=vlm.banned_ids[:1])  # never drawn, so that every completion is cut off
        full = still.model_copy(update={"mask_truncated": False, "refills": 0})
        _, seconds_full = _steps(full, endless, largest, rewards, Watcher(2, say, "largest sample"))
    else:
        _, seconds_full = _steps(still, vlm, largest, rewards, Watcher(2, say, "largest sample"))
    # The first step also checks the engine and warms up, which a run does once.
    _, seconds_expected = _steps(still, vlm, task, rewards, Watcher(2, say, "first samples"))
    seconds_measuring = 0.0
    for spec, asked, times in measurements:
        say(f"measuring on {asked.name}", 0, 1)
        seconds_measuring += times * _measuring(recipe, vlm, spec, asked)
    peak, reserved = peak_memory()
    return Trial(str(vlm.device.type), peak, reserved, seconds_full, seconds_expected, seconds_measuring)


def _steps(
    recipe: TrainingRecipe, vlm: VLM, task: Task, rewards: Sequence[RewardFunction], watcher: Watcher
) -> list[float]:
    """The seconds of each step."""
    observer: Observer = watcher
    with tempfile.TemporaryDirectory() as folder:
        run = create_run(Path(folder) / "trial", recipe)
        try:
            if isinstance(recipe, GrpoRecipe):
                train_grpo(recipe, vlm, task, (*rewards, SIGNAL), run, observer=observer)
            else:
                train_sft(recipe, vlm, task, run, observer=observer)
        except Enough:
            pass
        return [row["seconds/total"] or 0.0 for row in read_metrics(run)]


def _alternate(completions: Sequence[str], **columns: Any) -> list[float | None]:
    return [float(index % 2) for index, _ in enumerate(completions)]


SIGNAL = RewardFunction("alternate", math.pi, _alternate)
"""Makes sure that every group has a signal, and so costs an update."""


def _same(sample: Sample, number: int) -> Sample:
    return replace(sample, id=f"{sample.id}/{number}")


def _measurements(recipe: TrainingRecipe) -> list[tuple[EvalSpec, int]]:
    """What is measured, and how often: validation also before the first step and after the last."""
    found = [(spec, 2) for spec in recipe.measure]
    if recipe.validate_on is not None and recipe.eval_every:
        found.append((recipe.validate_on, 1 + math.ceil(recipe.steps / recipe.eval_every)))
    if recipe.thinking is not None and (asked := probed(recipe)) is not None:
        answers = len(ARMS) if recipe.thinking.counterfactual else 1
        found.append((asked, answers * (1 + math.ceil(recipe.steps / recipe.thinking.every))))
    return found


def _measuring(recipe: TrainingRecipe, vlm: VLM, spec: EvalSpec, task: Task) -> float:
    """Seconds for the whole task, from those of its first batch."""
    own = recipe.sampling.max_tokens if isinstance(recipe, GrpoRecipe) else recipe.max_tokens
    first = [task.samples[index] for index in range(min(spec.batch, len(task.samples)))]
    start = time.perf_counter()
    with torch.no_grad():
        evaluate(
            vlm,
            replace(task, samples=first),
            prompt_style(spec.prompt or recipe.prompt),
            max_tokens=spec.max_tokens or own,
            batch=spec.batch,
            label="trial",
            step=0,
        )
    return (time.perf_counter() - start) * len(task.samples) / len(first)


def peak_memory() -> tuple[int, int]:
    """The most bytes that this process has used and set aside so far: on the GPU where there is one, else in RAM."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    if STATUS.exists():  # unlike getrusage, not what the parent had when it started this process
        high = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        peak = int(high.split()[1]) * 1024
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak, peak


def main() -> None:
    request = Request(**json.loads(sys.stdin.read()))
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    say_at = 0.0

    def say(what: str, done: int, total: int) -> None:
        nonlocal say_at
        if time.monotonic() - say_at > 0.2:
            say_at = time.monotonic()
            print(json.dumps({"status": (what, done, total)}), flush=True)

    found: dict[str, Any]
    try:
        found = {"trial": asdict(measure(request, say))}
    except InputError as error:
        found = {"error": str(error)}
    except (torch.OutOfMemoryError, MemoryError):
        found = {"full": {}}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
