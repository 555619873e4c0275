"""The main job with its uncertainty: base, SFT and GRPO on scenes-bench, several seeds.

    python benchmarks/main_job.py --json benchmarks/results/main_job.json

First each method chooses its learning rate among the same three, by its best accuracy on scenes-val with the first
seed. Then it trains with the other seeds too, and the checkpoint that was best on scenes-val answers the bench, which
chooses nothing. Everything is kept under --runs; an interrupted study goes on where it stopped.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cleareyed import commands
from cleareyed.commands import Measurement, best_or_last, measure
from cleareyed.console import Display
from cleareyed.evaluation.stats import Estimate, paired, seeds_and_items
from cleareyed.models.load import load_vlm
from cleareyed.recipe import GrpoRecipe, ModelSpec, SftRecipe, TaskSpec
from cleareyed.recipe_files import load_recipe, shipped_recipe
from cleareyed.records.environment import describe_environment
from cleareyed.records.rows import AnswerRow
from cleareyed.records.run import create_run, open_run, read_metrics
from cleareyed.report.summary import length_windows, run_cost, summarise
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.prompts import prompt_style

RATES = ("3e-5", "1e-4", "3e-4")
METHODS = ("grpo", "sft")
RULES = ("strict", "any-form", "paper-reward")


def train(method: str, rate: str, seed: int, runs: Path) -> Path:
    """Train the demo's recipe without measuring the bench; nothing is done again that is done."""
    folder = runs / f"{method}-lr{rate}-seed{seed}"
    if not (folder / "report.html").is_file():
        path = shipped_recipe(f"demo-{method}.yaml")
        recipe = load_recipe(path, ["measure=[]", f"seed={seed}", f"optimizer.lr={rate}"])
        assert isinstance(recipe, GrpoRecipe | SftRecipe)
        commands.train(
            recipe,
            path,
            folder=folder,
            resume=folder.exists(),
            data_root=None,
            allow_code=False,
        )
    return folder


def best_validation(folder: Path) -> float:
    return max(
        row["validation/accuracy"] or 0.0 for row in read_metrics(open_run(folder)) if "validation/accuracy" in row
    )


def answers(
    folder: Path, model: str, label: str, prompt: str, max_tokens: int, items: int, step: int
) -> list[AnswerRow]:
    """The bench, asked of the model in `model` unless its answers are already kept in `folder`."""
    task = load_task(TaskSpec(name="scenes-bench", limit=items), None)
    spec = ModelSpec(path=model)
    run = open_run(folder) if folder.exists() else create_run(folder, spec)
    what = Measurement(task, prompt_style(prompt), max_tokens, 64)
    with Display(label) as display:
        return measure(load_vlm(spec), what, run, label, step, display, RULES)


def table_of(arms: Sequence[Sequence[AnswerRow]], rule: str) -> np.ndarray:
    """(S, N): whether each item was answered right, by seed."""
    return np.array([[float(row.correct[rule]) for row in rows] for rows in arms])


def shown(estimate: Estimate) -> dict[str, object]:
    return {"value": estimate.value, "interval": [estimate.interval.low, estimate.interval.high]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--items", type=int, default=3000, help="bench items (default 3000, all)")
    parser.add_argument("--runs", type=Path, default=Path("runs/main-job"))
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    runs: Path = options.runs
    commands.set_up(None)

    rates, trials = {}, {}
    for method in METHODS:
        for rate in RATES:
            trials[f"{method}/{rate}"] = best_validation(train(method, rate, options.seeds[0], runs))
        rates[method] = max(RATES, key=lambda rate: trials[f"{method}/{rate}"])

    grpo, sft = load_recipe(shipped_recipe("demo-grpo.yaml")), load_recipe(shipped_recipe("demo-sft.yaml"))
    assert isinstance(grpo, GrpoRecipe)
    assert isinstance(sft, SftRecipe)
    prompts = {"grpo": (grpo.prompt, grpo.sampling.max_tokens), "sft": (sft.prompt, sft.max_tokens)}
    base = {
        label: answers(runs / label.replace("/", "-"), grpo.model.path, label, *prompts[method], options.items, 0)
        for label, method in (("base", "grpo"), (f"base/{sft.prompt}", "sft"))
    }
    trained: dict[str, list[list[AnswerRow]]] = {method: [] for method in METHODS}
    lengths, costs = [], []
    for seed in options.seeds:
        for method in METHODS:
            run = open_run(train(method, rates[method], seed, runs))
            recipe = load_recipe(run.recipe)
            assert isinstance(recipe, GrpoRecipe | SftRecipe)
            _, step = best_or_last(recipe, load_vlm(recipe.model), run)
            model = run.final if step == recipe.steps else run.best
            trained[method].append(
                answers(runs / f"{method}-{seed}-bench", str(model), method, *prompts[method], options.items, step)
            )
            costs.append({"method": method, "seed": seed, "measured_step": step, **run_cost(read_metrics(run))})
        metrics = read_metrics(open_run(train("grpo", rates["grpo"], seed, runs)))
        lengths.append({"seed": seed, "windows": length_windows(metrics)})

    groups = [""] * options.items
    result: dict[str, object] = {"items": options.items, "seeds": options.seeds, "rates": rates, "trials": trials}
    for rule in RULES:
        arms = {**{label: table_of([rows], rule) for label, rows in base.items()}}
        arms |= {method: table_of(rows, rule) for method, rows in trained.items()}
        result[rule] = {
            "accuracy": {label: shown(seeds_and_items(values, groups)) for label, values in arms.items()},
            "by_seed": {method: arms[method].mean(axis=1).tolist() for method in METHODS},
            "grpo - base": shown(seeds_and_items(arms["grpo"] - arms["base"], groups)),
            "grpo - sft": shown(seeds_and_items(arms["grpo"] - arms["sft"], groups)),
            "sft - base/no-reasoning": shown(seeds_and_items(arms["sft"] - arms[f"base/{sft.prompt}"], groups)),
        }
    result["by_skill"] = {
        **{label: next(iter(summarise(rows).values())) for label, rows in base.items()},
        **{
            f"{m}-{s}": next(iter(summarise(r).values()))
            for m in METHODS
            for s, r in zip(options.seeds, trained[m], strict=True)
        },
    }
    result["mcnemar_grpo_sft"] = [
        paired([r.correct["strict"] for r in g], [r.correct["strict"] for r in s], groups).p
        for g, s in zip(trained["grpo"], trained["sft"], strict=True)
    ]
    result["validation"] = {
        method: [best_validation(runs / f"{method}-lr{rates[method]}-seed{seed}") for seed in options.seeds]
        for method in METHODS
    }
    result["length_windows"], result["costs"] = lengths, costs
    text = json.dumps({"main_job": result, "environment": describe_environment(None)}, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
