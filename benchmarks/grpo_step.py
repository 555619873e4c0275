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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from cell import STYLE, Cell, OutOfMemory, SideFailed, medians, run_side, write_cell
from PIL import Image

from cleareyed.commands import set_up
from cleareyed.models.load import TINY_BASE, load_vlm
from cleareyed.recipe import ModelSpec
from cleareyed.records.environment import describe_environment
from cleareyed.tasks.prompts import prompt_style, prompt_text
from cleareyed.tasks.scenes.task import scenes_task

PROBE_STEPS = 1


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
    cell: Cell, folder: Path, python: str, batches: Sequence[int], caches: Sequence[str]
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """TRL's fastest settings, and what each of those tried took.

    The kind of cache matters to the rollout and the batch size to the rest, so that both are tried at once. Settings
    with which TRL fails are noted and left (a static cache under bf16 autocast is one); without any left it is None,
    if memory was what lacked.
    """
    if len(batches) == len(caches) == 1:
        return {"batch": batches[0], "cache": caches[0]}, []
    write_cell(folder, replace(cell, steps=PROBE_STEPS))
    tried: list[dict[str, Any]] = []
    failure: SideFailed | None = None
    for turn in range(max(len(batches), len(caches))):
        chosen = {"batch": batches[turn % len(batches)], "cache": caches[turn % len(caches)]}
        try:
            tried.append({**chosen, "seconds": run_trl(cell, folder, python, chosen)["phases"]})
        except SideFailed as error:
            failure = error
            tried.append({**chosen, "failed": str(error).splitlines()[-1]})
    write_cell(folder, cell)
    worked = [one for one in tried if "seconds" in one]
    if not worked and not isinstance(failure, OutOfMemory):
        raise SystemExit(str(failure))
    if not worked:
        return None, tried
    batch = min(worked, key=lambda one: float(one["seconds"]["rest"]))["batch"]
    cache = min(worked, key=lambda one: float(one["seconds"]["generate"]))["cache"]
    return {"batch": batch, "cache": cache}, tried


def run_trl(cell: Cell, folder: Path, python: str, chosen: Mapping[str, Any], use_gpu: bool = False) -> dict[str, Any]:
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
        sides: dict[str, Callable[[], dict[str, Any]]] = {"shared": partial(run_own, "shared", cell, folder)}
        if chosen:
            sides["trl"] = partial(run_trl, cell, folder, options.trl_python, chosen)
        if not options.no_unshared:
            sides["unshared"] = partial(run_own, "unshared", cell, folder, "--batch", str(batch))
        seen: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        lost = dict.fromkeys(sides, 0)
        for _ in range(options.rounds):
            for name, run in sides.items():
                try:
                    seen[name].append(run())
                except OutOfMemory:
                    lost[name] += 1
        _check_same(seen)
    row: dict[str, Any] = {"image_px": side, "completion_tokens": tokens, "beta": beta}
    for name, prefix in (("shared", ""), ("trl", "trl_"), ("unshared", "unshared_")):
        row |= _columns(prefix, seen.get(name, []))
    times, others = _by_round(seen["shared"]), _by_round(seen.get("trl", []))
    paired = bool(times) and len(times) == len(others)
    ratios = [theirs / ours for ours, theirs in zip(times, others, strict=True)] if paired else []
    return row | {
        "ratio": row["trl_seconds"] / row["seconds"] if paired else None,
        "ratio_low": min(ratios, default=None),
        "ratio_high": max(ratios, default=None),
        "phases": medians([found["phases"] for found in seen["shared"]]),
        "trl_phases": medians([found["phases"] for found in seen.get("trl", [])]),
        "trl_settings": chosen,
        "trl_tried": tried,
        "trl_versions": seen["trl"][0]["versions"] if seen.get("trl") else None,
        "unshared_batch": None if options.no_unshared else batch,
        "out_of_memory": lost,
    }


def run_own(side: str, cell: Cell, folder: Path, *arguments: str) -> dict[str, Any]:
    return run_side(sys.executable, "own_side.py", folder, "--side", side, *arguments, threads=cell.threads)


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
    runs = [(name, found) for name, some in seen.items() for found in some]
    _, ours = runs[0]
    for name, found in runs:
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
    options = parse()
    set_up(options.threads)
    rows: list[dict[str, Any]] = []
    names = ("prompts", "group", "dtype", "threads", "rounds", "steps")
    settings = {**{name: getattr(options, name) for name in names}, "model": Path(options.model).name}
    text = ""
    for side, tokens, beta in product(options.image_px, options.completion_tokens, options.beta):
        try:
            rows.append(measure_cell(options, side, tokens, beta))
        except SideFailed as error:
            raise SystemExit(
                f"{error}\n{side} px, {tokens} tokens, beta {beta:g}: a side failed, see above"
            ) from error
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
