"""What it costs to probe how a model thinks, against training steps on the same machine.

    taskset -c 0 python benchmarks/probes.py --json benchmarks/results/probes.json

Two checkpoints: `tiny-base` as it comes, whose thoughts are not closed, and one that has learned the form in so many
steps of the demo's GRPO. `step` is the median of its training steps, 64 rollouts each. Each arm is the time that it
adds to a probe of `as-is` alone: the probe with that arm and without it take turns, and the medians are subtracted;
`all` is a whole probe, `as-is` and eight arms, and `a probe` a ninth of it. The goal: 200 samples cost at most as much
as two training steps, per probe. Pictures are drawn, encoded and read by the vision tower in every measured call.
Seconds are those of the CPU, of all threads of the process, so that what else runs on the machine counts little.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from cleareyed.models.load import load_vlm
from cleareyed.models.vlm import VLM
from cleareyed.recipe import GrpoRecipe, ModelSpec
from cleareyed.recipe_files import load_recipe
from cleareyed.records.environment import describe_environment
from cleareyed.records.run import create_run
from cleareyed.scoring.rewards import load_rewards
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.prompts import prompt_style
from cleareyed.tasks.scenes.task import scenes_task
from cleareyed.thinking.gains import ARMS, AS_IS
from cleareyed.thinking.probes import probe
from cleareyed.training.grpo import train_grpo
from cleareyed.training.observe import Silent

RECIPE = Path(__file__).parents[1] / "recipes" / "demo-grpo.yaml"


class Steps(Silent):
    """CPU seconds of the process at the end of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self.ends.append(time.process_time())


def trained(recipe: GrpoRecipe, folder: Path) -> tuple[VLM, float]:
    """The model after training, and the median seconds of a step."""
    vlm, task = load_vlm(recipe.model), load_task(recipe.task, None)
    steps = Steps()
    run = create_run(folder / "run", recipe)
    train_grpo(recipe, vlm, task, load_rewards(recipe.rewards, task.rule, False, folder), run, observer=steps)
    # The first step warms up.
    return vlm, statistics.median(after - before for before, after in pairwise(steps.ends))


def seconds_of(vlm: VLM, items: int, runs: int, recipe: GrpoRecipe) -> dict[str, Any]:
    """Seconds of the probe's arms, and the tokens of its answers."""
    task = scenes_task("val")
    task = replace(task, samples=[task.samples[index] for index in range(items)])
    style, rules = prompt_style(recipe.prompt), ("any-form", "strict")

    def run(*arms: str) -> Callable[[], Any]:
        return lambda: probe(vlm, task, style, max_tokens=recipe.sampling.max_tokens, arms=arms, rules=rules)

    rows = run(*ARMS)()  # warms up
    cases = {AS_IS: run(), **{arm: run(AS_IS, arm) for arm in ARMS if arm != AS_IS}, "all": run(*ARMS)}
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(runs):
        for name, case in cases.items():
            start = time.process_time()
            case()
            times[name].append(time.process_time() - start)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    added = {arm: medians[arm] - (medians[AS_IS] if arm != AS_IS else 0.0) for arm in ARMS}
    return {
        "seconds": {arm: round(value, 3) for arm, value in added.items()},
        "all": round(medians["all"], 3),
        "a probe": round(medians["all"] / len(ARMS), 3),
        "mean_tokens": {arm: round(statistics.mean(row.tokens or 0 for row in of), 1) for arm, of in rows.items()},
        "times": {name: [round(value, 3) for value in taken] for name, taken in times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--steps", type=int, default=30, help="training steps (default 30)")
    parser.add_argument("--runs", type=int, default=3, help="rounds of the probes (default 3)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = load_recipe(RECIPE, [f"steps={options.steps}", "eval_every=0", f"threads={options.threads}"])
    assert isinstance(recipe, GrpoRecipe)
    with tempfile.TemporaryDirectory() as folder:
        vlm, step = trained(recipe, Path(folder))
    found: dict[str, Any] = {
        "items": options.items,
        "threads": options.threads,
        "rollouts": recipe.prompts_per_step * recipe.sampling.group,
        "step": round(step, 3),
    }
    budget = 2 * step
    for name, one in (("tiny-base", load_vlm(ModelSpec(path="tiny-base"))), (f"after {options.steps} steps", vlm)):
        probed = seconds_of(one, options.items, options.runs, recipe)
        probed["share_of_budget"] = round(probed["a probe"] / budget, 3)
        probed["highest_share_of_budget"] = round(max(probed["seconds"].values()) / budget, 3)
        found[name] = probed
    text = json.dumps({**found, "environment": describe_environment(None)}, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
