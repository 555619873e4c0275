"""Our side of a benchmark: one cell through `train_grpo`, or through the same forwards with nothing shared.

    python own_side.py FOLDER --side shared

Reads FOLDER/cell.json and its pictures, writes FOLDER/result.json. `grpo_step.py` calls it.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cell import STYLE, Cell, Memory, alternate, gaps, medians, read_cell, touch_libraries, write_result
from PIL import Image

from cleareyed.commands import set_up
from cleareyed.models.encode import encode
from cleareyed.models.forward import continuation_logprobs, run_prefix
from cleareyed.models.load import load_vlm
from cleareyed.models.sample import sample
from cleareyed.models.vlm import VLM, SamplingParams
from cleareyed.recipe import GrpoRecipe, ModelSpec, OptimizerSpec, SamplingSpec, TaskSpec
from cleareyed.records.run import create_run
from cleareyed.scoring.rewards import RewardFunction
from cleareyed.tasks.task import Sample, Task
from cleareyed.training.grpo import train_grpo

NEVER = 10**9


@dataclass
class Watch:
    """When each step ended, and what it recorded."""

    enough: int
    moments: list[float] = field(default_factory=list)
    metrics: list[Mapping[str, float]] = field(default_factory=list)

    def status(self, what: str, done: int, total: int) -> None:
        pass

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self.moments.append(time.perf_counter())
        self.metrics.append(metrics)
        if len(self.moments) == self.enough:
            raise Enough


class Enough(Exception):
    """All steps are measured: what comes after the last of a run, such as saving it, is not."""


def load(cell: Cell) -> VLM:
    """The model, with ending tokens banned: a completion ends where its limit is."""
    vlm = load_vlm(
        ModelSpec(
            path=cell.model,
            dtype="bf16" if cell.dtype == "bf16" else "fp32",
            min_pixels=cell.pixels,
            max_pixels=cell.pixels,
            gradient_checkpointing=cell.checkpointing,
        )
    )
    return replace(vlm, eos_ids=(vlm.image_token_id,), banned_ids=cell.suppress)


def open_picture(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def reward(completions: Sequence[str], **columns: Any) -> list[float | None]:
    return [*alternate(len(completions))]


def run_shared(cell: Cell, folder: Path, vlm: VLM, **fields: int | None) -> dict[str, Any]:
    """Steps of `train_grpo`: seconds each, and phases as it records them itself. `fields` of the recipe, if set."""
    samples = [
        Sample(id=str(number), question=question, answer="", images=(partial(open_picture, folder / f"{number}.png"),))
        for number, question in enumerate(cell.questions)
    ]
    recipe = GrpoRecipe(
        method="grpo",
        model=ModelSpec(path=cell.model),
        task=TaskSpec(name="scenes-train"),
        prompt=STYLE,
        prompts_per_step=len(samples),
        sampling=SamplingSpec(group=cell.group, max_tokens=cell.completion_tokens),
        beta=cell.beta,
        optimizer=OptimizerSpec(lr=cell.lr, schedule="constant"),
        steps=NEVER,
        save_every=NEVER,
        max_prompt_tokens=NEVER,
        **{name: value for name, value in fields.items() if value is not None},
    )
    watch = Watch(enough=cell.steps + 1)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            run = create_run(Path(place) / "run", recipe)
            memory = Memory(vlm.device.type)
            train_grpo(
                recipe, vlm, Task("cell", samples), [RewardFunction("alternate", 1.0, reward)], run, observer=watch
            )
    except Enough:
        pass
    for metrics in watch.metrics:
        assert metrics["tokens_per_second"] > 0
        assert not metrics["skipped"]
    phases = [
        {name.removeprefix("seconds/"): value for name, value in row.items() if name.startswith("seconds/")}
        for row in watch.metrics[1:]
    ]
    return {"seconds": gaps(watch.moments), "peak_mb": memory.peak_mb(), "phases": medians(phases)}


def run_unshared(cell: Cell, folder: Path, vlm: VLM, batch: int) -> dict[str, Any]:
    """The same step with the same forwards, but every completion brings its own prompt and picture."""
    memory = Memory(vlm.device.type)
    reference = _frozen(cell) if cell.beta > 0 else None
    optimizer = torch.optim.AdamW(vlm.model.parameters(), lr=cell.lr)
    generator = torch.Generator(device=vlm.device).manual_seed(0)
    device = vlm.device
    sign = torch.tensor(alternate(cell.group), device=device)
    advantages = ((sign - sign.mean()) / sign.std()).repeat(len(cell.texts))  # (N,)
    moments = []
    for _ in range(cell.steps + 1):
        pictures = [open_picture(folder / f"{number}.png") for number in range(len(cell.texts))]
        prompts = [encode(vlm, text, [image]) for text, image in zip(cell.texts, pictures, strict=True)]
        rows = [
            replace(prompt, pixels=None if prompt.pixels is None else prompt.pixels.clone())
            for prompt in prompts
            for _ in range(cell.group)
        ]
        groups = sample(vlm, rows, SamplingParams(cell.completion_tokens), generator)
        ids = torch.tensor([completion.ids for [completion] in groups], device=device)  # (N, T)
        for start in range(0, cell.rows, batch):
            part, chosen = rows[start : start + batch], ids[start : start + batch]
            order, mask = torch.arange(len(part), device=device), torch.ones_like(chosen, dtype=torch.bool)
            logprobs, _ = continuation_logprobs(vlm, run_prefix(vlm, part), order, chosen, mask)
            gain = torch.exp(logprobs - logprobs.detach()) * advantages[start : start + batch, None]
            if reference is not None:
                with torch.no_grad():
                    fixed, _ = continuation_logprobs(reference, run_prefix(reference, part), order, chosen, mask)
                gain = gain - cell.beta * (torch.exp(fixed - logprobs) - (fixed - logprobs) - 1)
            (-gain.mean(dim=1).sum() / cell.rows).backward()
        torch.nn.utils.clip_grad_norm_(vlm.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        moments.append(time.perf_counter())
    return {"seconds": gaps(moments), "peak_mb": memory.peak_mb()}


def _frozen(cell: Cell) -> VLM:
    vlm = load(cell)
    return replace(vlm, model=vlm.model.requires_grad_(False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", choices=["shared", "unshared"], required=True)
    parser.add_argument("--batch", type=int, help="unshared: completions in a forward and backward")
    options = parser.parse_args()
    folder: Path = options.folder
    cell = read_cell(folder)
    set_up(cell.threads)
    vlm = load(cell)
    touch_libraries(vlm.model)
    if options.side == "shared":
        found = run_shared(cell, folder, vlm)
    else:
        found = run_unshared(cell, folder, vlm, options.batch)
    prompts = [encode(vlm, text, [open_picture(folder / f"{number}.png")]) for number, text in enumerate(cell.texts)]
    pixels = torch.cat([prompt.pixels for prompt in prompts if prompt.pixels is not None])
    found["ids"] = [prompt.ids.tolist() for prompt in prompts]
    found["pixels"] = [len(pixels), pixels.double().mean().item()]
    write_result(folder, found)


if __name__ == "__main__":
    main()
