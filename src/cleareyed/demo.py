"""`cleareyed demo`: the embedded base model, its GRPO run and its SFT twin, measured on the same questions."""

import datetime
import time
from pathlib import Path
from typing import TypeVar

from rich.text import Text

from cleareyed.commands import Measurement, TrainingRecipe, best_or_last, measure, measurement_of, set_up, train_with
from cleareyed.console import Display, clock, table_console
from cleareyed.errors import InputError
from cleareyed.models.load import load_vlm
from cleareyed.models.vlm import VLM
from cleareyed.recipe import GrpoRecipe, SftRecipe
from cleareyed.recipe_files import load_recipe, shipped_recipe
from cleareyed.records.parts import compact
from cleareyed.records.rows import AnswerRow
from cleareyed.records.run import RunFolder, create_run, read_metrics
from cleareyed.report.pages import DEMO_LABELS, DEMO_PAIRS, demo_report
from cleareyed.report.summary import by_label, chance_by_skill, paired_tests, run_cost, summarise, write_summary
from cleareyed.report.table import comparison_table
from cleareyed.scoring.rewards import load_rewards
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.prompts import prompt_style

RULE = "strict"

R = TypeVar("R", GrpoRecipe, SftRecipe)


def run_demo(out: Path, *, seed: int, model: str, steps: int | None, items: int | None) -> None:
    """Train and measure all three, and leave `summary.json`, `report.html` and two run folders in `out`.

    An earlier `out` is moved to `out-TIME` first.

    Raises:
        InputError: the model cannot be loaded, or `out` cannot be moved or written.
    """
    console = table_console()
    grpo = _recipe("demo-grpo.yaml", GrpoRecipe, seed, model, steps, items)
    sft = _recipe("demo-sft.yaml", SftRecipe, seed, model, steps, items)
    bench = grpo.measure[0]
    task = load_task(bench.task, None)
    asked = {
        recipe.method: Measurement(task, prompt_style(recipe.prompt), bench.max_tokens or length, bench.batch)
        for recipe, length in ((grpo, grpo.sampling.max_tokens), (sft, sft.max_tokens))
    }
    set_up(grpo.threads)
    vlm = load_vlm(grpo.model)  # a model that cannot be loaded leaves an earlier demo where it is
    moved = _move_aside(out)
    runs = {recipe.method: create_run(out / recipe.method, recipe) for recipe in (grpo, sft)}
    with Display("cleareyed demo", console) as display:
        if moved:
            display.note(f"the earlier {out} is now {moved}")
        rows = _measure_and_train(grpo, vlm, asked["grpo"], runs["grpo"], display)
        rows += _measure_and_train(sft, load_vlm(sft.model), asked["sft"], runs["sft"], display)
        rows.sort(key=lambda row: DEMO_LABELS.index(row.label))  # stable: each label's answers keep the task's order
        display.status("writing the report", 0, 0)
        summary = summarise(rows, RULE)
        extra = {
            "rule": RULE,
            "task": task.name,
            "seed": seed,
            "chance": chance_by_skill(task.samples),
            "tests": paired_tests(by_label(rows), DEMO_PAIRS, RULE),
            "cost": {method: run_cost(read_metrics(run)) for method, run in runs.items()},
        }
        write_summary(out / "summary.json", summary, extra)
        page = demo_report(out, runs["grpo"], runs["sft"], rows, task, rule=RULE)
    console.print(comparison_table(summary))
    console.print(Text(f"report: {page}"), soft_wrap=True)


def _recipe(name: str, kind: type[R], seed: int, model: str, steps: int | None, items: int | None) -> R:
    overrides = [f"seed={seed}", *([f"steps={steps}"] if steps else [])]
    overrides += [f"validate_on.task.limit={items}", f"measure.0.task.limit={items}"] if items else []
    recipe = load_recipe(shipped_recipe(name), overrides)
    if not isinstance(recipe, kind):
        raise InputError(f"{shipped_recipe(name)}: method is {recipe.method}; the demo needs another")
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": model})})


def _move_aside(out: Path) -> Path | None:
    """Move an earlier demo to OUT-TIME; its new place, or None if there was none."""
    if not out.exists():
        return None
    if not (out / "grpo" / "recipe.yaml").is_file():
        raise InputError(f"{out}: exists and is not an earlier demo; name another place: --out")
    target = out.with_name(f"{out.name}-{datetime.datetime.now():%Y%m%d-%H%M%S}")
    try:
        out.rename(target)
    except OSError as error:
        raise InputError(f"{out}: cannot be moved to {target} ({error.strerror}); name another place: --out") from None
    return target


def _measure_and_train(
    recipe: TrainingRecipe, vlm: VLM, what: Measurement, run: RunFolder, display: Display
) -> list[AnswerRow]:
    """The answers before training and those after it, of the checkpoint that was best in validation."""
    validation = measurement_of(recipe.validate_on, recipe, None) if recipe.validate_on else None
    base = "base" if recipe.method == "grpo" else f"base/{recipe.prompt}"
    before = measure(vlm, what, run, base, 0, display)
    started = time.monotonic()
    task = load_task(recipe.task, None)
    display.start(f"cleareyed demo: {recipe.method.upper()}")
    display.note(f"{recipe.method}: training, {recipe.steps} steps on {task.name}")
    rewards = load_rewards(recipe.rewards, task.rule, False, Path()) if recipe.method == "grpo" else ()
    train_with(recipe, vlm, task, rewards, run, display, validation)
    display.note(f"{recipe.method}: trained in {clock(time.monotonic() - started)}")
    trained, step = best_or_last(recipe, vlm, run)
    after = measure(trained, what, run, recipe.method, step, display)
    compact(run)
    return before + after
