"""One GRPO step of cleareyed against one of TRL's GRPOTrainer, and against our own engine with sharing off.

    python benchmarks/grpo_step.py --json benchmarks/results/grpo_step.json --trl-python PATH/TO/python

Same weights, pictures, prompts, group size, precision and threads; every completion has the same length, since no side
may draw an ending token. A step is all of it: loading pictures, rollout, rewards, update. Each side runs in a process
of its own, the processes take turns, and each drops its first step. TRL gets the batch size and the kind of cache
that are fastest for it in each cell, found by trying before. CPU only: see `h100.py` for a GPU.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from cell import Cell, Memory, alternate, gaps, medians, read_cell, run_side, touch_libraries, write_cell, write_result
from PIL import Image

from cleareyed.commands import set_up
from cleareyed.models.encode import encode
from cleareyed.models.forward import continuation_logprobs, run_prefix
from cleareyed.models.load import TINY_BASE, load_vlm
from cleareyed.models.sample import sample
from cleareyed.models.vlm import VLM, SamplingParams
from cleareyed.recipe import GrpoRecipe, ModelSpec, OptimizerSpec, SamplingSpec, TaskSpec
from cleareyed.records.environment import describe_environment
from cleareyed.records.run import create_run
from cleareyed.scoring.rewards import RewardFunction
from cleareyed.tasks.prompts import prompt_style, prompt_text
from cleareyed.tasks.scenes.task import scenes_task
from cleareyed.tasks.task import Sample, Task
from cleareyed.training.grpo import train_grpo

STYLE = "base"
PROBE_STEPS = 1
NEVER = 10**9


# Our side, in a process of its own


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


def be_a_side(options: argparse.Namespace) -> None:
    folder: Path = options.cell
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


# The comparison


def make_cell(folder: Path, options: argparse.Namespace, side: int, tokens: int, beta: float) -> Cell:
    """Write a cell of scenes, drawn at `side` x `side` pixels, into `folder`."""
    model = str(TINY_BASE if options.model == "tiny-base" else options.model)
    vlm = load_vlm(ModelSpec(path=model))
    block = vlm.image_processor.patch_size * vlm.image_processor.merge_size
    if side % block:
        raise SystemExit(f"--image-px {side}: not a multiple of {block}, the model would see another size")
    samples = scenes_task("train").samples[: options.prompts]
    for number, one in enumerate(samples):
        [render] = one.images
        render().resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    questions = tuple(one.question for one in samples)
    cell = Cell(
        model=model,
        texts=tuple(prompt_text(prompt_style(STYLE), question) for question in questions),
        questions=questions,
        pixels=side * side,
        group=options.group,
        completion_tokens=tokens,
        suppress=tuple(sorted({*vlm.banned_ids, *vlm.eos_ids})),
        beta=beta,
        dtype=options.dtype,
        threads=options.threads,
        steps=options.steps,
    )
    write_cell(folder, cell)
    return cell


def best_of_trl(
    cell: Cell, folder: Path, python: str, batches: Sequence[int], caches: Sequence[str], use_gpu: bool = False
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """TRL's fastest settings, and what each of those tried took.

    The kind of cache matters to the rollout and the batch size to the rest, so that both are tried at once.
    """
    write_cell(folder, replace(cell, steps=PROBE_STEPS))
    tried: list[dict[str, Any]] = []
    for turn in range(max(len(batches), len(caches))):
        chosen = {"batch": batches[turn % len(batches)], "cache": caches[turn % len(caches)]}
        found = run_trl(cell, folder, python, chosen, use_gpu)
        tried.append({**chosen, "out_of_memory": True} if found is None else {**chosen, "seconds": found["phases"]})
    write_cell(folder, cell)
    worked = [one for one in tried if "seconds" in one]
    if not worked:
        return None, tried
    batch = min(worked, key=lambda one: float(one["seconds"]["rest"]))["batch"]
    cache = min(worked, key=lambda one: float(one["seconds"]["generate"]))["cache"]
    return {"batch": batch, "cache": cache}, tried


def run_trl(
    cell: Cell, folder: Path, python: str, chosen: Mapping[str, Any], use_gpu: bool = False
) -> dict[str, Any] | None:
    arguments = ["--batch", str(chosen["batch"]), "--cache", chosen["cache"]]
    return run_side(python, "trl_side.py", folder, *arguments, threads=cell.threads, use_gpu=use_gpu)


def measure_cell(options: argparse.Namespace, side: int, tokens: int, beta: float) -> dict[str, Any]:
    """One row of the result."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cell = make_cell(folder, options, side, tokens, beta)
        batches = options.trl_batch or [cell.rows, *(cell.rows // part for part in (4, 8) if cell.rows % part == 0)]
        chosen, tried = None, []
        if options.trl_python:
            chosen, tried = best_of_trl(cell, folder, options.trl_python, batches, options.trl_cache)
        batch = chosen["batch"] if chosen else cell.rows
        sides: dict[str, Callable[[], dict[str, Any] | None]] = {"shared": partial(run_own, "shared", cell, folder)}
        if chosen:
            sides["trl"] = partial(run_trl, cell, folder, options.trl_python, chosen)
        if not options.no_unshared:
            sides["unshared"] = partial(run_own, "unshared", cell, folder, "--batch", str(batch))
        rounds: dict[str, list[dict[str, Any] | None]] = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name, run in sides.items():
                rounds[name].append(run())
        seen = {name: [found for found in runs if found is not None] for name, runs in rounds.items()}
        _check_same(seen)
    row: dict[str, Any] = {"image_px": side, "completion_tokens": tokens, "beta": beta}
    for name, prefix in (("shared", ""), ("trl", "trl_"), ("unshared", "unshared_")):
        row |= _columns(prefix, seen.get(name, []))
    times, others = _by_round(seen["shared"]), _by_round(seen.get("trl", []))
    complete = len(others) == options.rounds
    ratios = [theirs / ours for ours, theirs in zip(times, others, strict=True)] if complete else []
    row["ratio"] = row["trl_seconds"] / row["seconds"] if ratios else None
    row["ratio_low"], row["ratio_high"] = (min(ratios), max(ratios)) if ratios else (None, None)
    row |= {"phases": medians([found["phases"] for found in seen["shared"]])}
    row |= {"trl_phases": medians([found["phases"] for found in seen.get("trl", [])])}
    row |= {"trl_settings": chosen, "trl_tried": tried, "unshared_batch": None if options.no_unshared else batch}
    row |= {"trl_versions": seen["trl"][0]["versions"] if seen.get("trl") else None}
    return row


def run_own(side: str, cell: Cell, folder: Path, *arguments: str) -> dict[str, Any] | None:
    return run_side(sys.executable, "grpo_step.py", folder, "--side", side, *arguments, threads=cell.threads)


def _by_round(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    return [statistics.median(found["seconds"]) for found in runs]


def _columns(prefix: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds of a step, the median over rounds of each round's median with the extremes, and the median peak."""
    times = _by_round(runs)
    return {
        f"{prefix}seconds": statistics.median(times) if times else None,
        f"{prefix}seconds_low": min(times, default=None),
        f"{prefix}seconds_high": max(times, default=None),
        f"{prefix}peak_mb": statistics.median(found["peak_mb"] for found in runs) if runs else None,
    }


def _check_same(seen: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """All sides were given the same tokens and the same pictures."""
    ours = seen["shared"][0]
    for name, found in ((name, one) for name, runs in seen.items() for one in runs):
        same_pixels = found["pixels"][0] == ours["pixels"][0] and abs(found["pixels"][1] - ours["pixels"][1]) < 1e-5
        if found["ids"] != ours["ids"] or not same_pixels:
            raise SystemExit(f"{name} did not see the tokens and pixels that our side saw; the comparison is void")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here, after every cell")
    parser.add_argument("--image-px", type=int, nargs="+", default=[64, 128, 256, 448], help="side of the pictures")
    parser.add_argument("--completion-tokens", type=int, nargs="+", default=[48, 128])
    parser.add_argument("--beta", type=float, nargs="+", default=[0.0, 0.04])
    parser.add_argument("--rounds", type=int, default=5, help="processes of each side in each cell (default 5)")
    parser.add_argument("--steps", type=int, default=3, help="steps measured in each process (default 3)")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast over fp32 weights")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="tiny-base", help="a folder, or tiny-base")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--trl-python", default=sys.executable, help="a Python that has trl (default this one)")
    parser.add_argument("--no-trl", action="store_true", help="leave TRL out")
    parser.add_argument("--no-unshared", action="store_true", help="leave our engine with sharing off out")
    parser.add_argument("--trl-batch", type=int, nargs="+", help="completions in a forward of TRL's, to choose from")
    parser.add_argument("--trl-cache", nargs="+", choices=["dynamic", "static"], default=["dynamic", "static"])
    options = parser.parse_args()
    if options.no_trl:
        options.trl_python = None
    elif subprocess.run([options.trl_python, "-c", "import trl"], capture_output=True).returncode:
        parser.error(
            "--trl-python: that Python has no trl; pip install 'cleareyed[bench]' there, name another, or say --no-trl"
        )
    if options.trl_batch and any((options.prompts * options.group) % batch for batch in options.trl_batch):
        parser.error(f"--trl-batch: must divide the {options.prompts * options.group} completions of a step")
    return options


def save(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(text + "\n", encoding="utf-8")
    aside.replace(path)


def main() -> None:
    if "--side" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("cell", type=Path)
        parser.add_argument("--side", choices=["shared", "unshared"])
        parser.add_argument("--batch", type=int)
        be_a_side(parser.parse_args())
        return
    options = parse()
    set_up(options.threads)
    rows: list[dict[str, Any]] = []
    names = ("prompts", "group", "dtype", "threads", "rounds", "steps")
    settings = {**{name: getattr(options, name) for name in names}, "model": Path(options.model).name}
    text = ""
    for side, tokens, beta in product(options.image_px, options.completion_tokens, options.beta):
        rows.append(measure_cell(options, side, tokens, beta))
        found = {"grpo_step": rows, "settings": settings, "environment": describe_environment(None)}
        text = json.dumps(found, indent=2)
        if options.json:
            save(options.json, text)
        shown = ("seconds", "trl_seconds", "ratio", "unshared_seconds", "peak_mb", "trl_peak_mb")
        figures = ", ".join(f"{name} {rows[-1][name]:.2f}" for name in shown if rows[-1][name] is not None)
        print(f"{side} px, {tokens} tokens, beta {beta:g}: {figures}", file=sys.stderr, flush=True)
    print(text)


if __name__ == "__main__":
    main()
