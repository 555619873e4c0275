"""Is what `cleareyed preflight` says of memory and time so? Its figures against those of real runs of two steps.

python benchmarks/preflight.py --json benchmarks/results/preflight.json

Each real run is a process of its own that trains, saves and ends, on rendered scenes of a stated size; completions
are held at full length, since it is the largest step that preflight speaks of.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from cleareyed.commands import set_up
from cleareyed.console import Display, table_console
from cleareyed.models.load import load_vlm
from cleareyed.preflight_command import gigabytes, look_ahead
from cleareyed.recipe import GrpoRecipe
from cleareyed.records.environment import describe_environment
from cleareyed.records.run import create_run, read_metrics
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.scenes.task import scenes_task
from cleareyed.training.grpo import train_grpo
from cleareyed.training.trial import SIGNAL, peak_memory

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"px": 96, "tokens": 48},
    "penalty": {"px": 256, "tokens": 96, "beta": 0.04, "prompts_per_step": 4},
    "checkpointing": {"px": 256, "tokens": 128, "model": {"gradient_checkpointing": True}},
    "small parts": {"px": 448, "tokens": 64, "beta": 0.04, "micro_prompts": 1, "micro_tokens": 256},
}
"""The four configurations, all of tiny-base."""
LIMITS = {"measured": 0.15, "worked out": 0.30}
"""How far each prediction of the peak may be off."""
PICTURES = 16


def recipe_of(setting: dict[str, Any], table: Path, threads: int) -> GrpoRecipe:
    changes = {name: value for name, value in setting.items() if name not in ("px", "tokens", "model")}
    side = setting["px"] ** 2
    return GrpoRecipe.model_validate(
        {
            "method": "grpo",
            "model": {"path": "tiny-base", "min_pixels": side, "max_pixels": side, **setting.get("model", {})},
            "task": {"name": "table", "path": str(table)},
            "sampling": {"max_tokens": setting["tokens"]},
            "optimizer": {"lr": 1e-6},
            "steps": 2,
            "threads": threads,
            "beta": 0,
            **changes,
        }
    )


def write_table(folder: Path, px: int) -> Path:
    """Scenes as picture files of px x px, and the table that asks about them."""
    rows = []
    for index in range(PICTURES):
        sample = scenes_task("train").samples[index]
        sample.images[0]().resize((px, px)).save(folder / f"{index}.png")
        rows.append({"image": f"{index}.png", "question": sample.question, "answer": sample.answer})
    path = folder / "scenes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def real_run(folder: Path) -> dict[str, float]:
    """In a process of its own: two steps as the recipe in `folder` says, completions at full length."""
    recipe = GrpoRecipe.model_validate_json((folder / "recipe.json").read_text())
    set_up(recipe.threads)
    vlm = load_vlm(recipe.model)
    run = create_run(folder / "run", recipe)
    endless = replace(vlm, eos_ids=vlm.banned_ids[:1])  # never drawn, so that every completion is cut off
    train_grpo(recipe, endless, load_task(recipe.task, None), (SIGNAL,), run)
    return {"peak": peak_memory()[1], "seconds": read_metrics(run)[-1]["seconds/total"] or 0.0}


def compare(setting: dict[str, Any], threads: int, display: Display) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = recipe_of(setting, write_table(folder, setting["px"]), threads)
        found = look_ahead(recipe, folder, None, False, folder, display.status)
        assert found.trial is not None, found.notes
        (folder / "recipe.json").write_text(recipe.model_dump_json())
        command = [sys.executable, __file__, "--real", str(folder)]
        real = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    process = found.computed.held["process"]
    return {
        "peak": real["peak"],
        "measured": found.trial.reserved,
        "worked out": found.computed.peak,
        "measured_off": found.trial.reserved / real["peak"] - 1,
        "worked out_off": found.computed.peak / real["peak"] - 1,
        "worked out_off_without_process": (found.computed.peak - process) / (real["peak"] - process) - 1,
        "seconds": real["seconds"],
        "seconds_predicted": found.trial.seconds_full,
        "held": found.computed.held,
        "phases": found.computed.phases,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--real", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.real:
        print(json.dumps(real_run(options.real)))
        return
    set_up(options.threads)
    rows = []
    with Display("preflight") as display:
        for name in options.only:
            display.note(name)
            rows.append({"name": name, **SETTINGS[name], **compare(SETTINGS[name], options.threads, display)})
            said = " and ".join(f"{rows[-1][f'{way}_off']:+.0%} {way}" for way in LIMITS)
            display.note(f"{name}: {gigabytes(rows[-1]['peak'])}; off by {said}")
    table = Table("setting", "real peak", "measured before", "worked out", "real s/step", "said")
    for row in rows:
        table.add_row(
            row["name"],
            gigabytes(row["peak"]),
            f"{gigabytes(row['measured'])} ({row['measured_off']:+.0%})",
            f"{gigabytes(row['worked out'])} ({row['worked out_off']:+.0%})",
            f"{row['seconds']:.2f}",
            f"{row['seconds_predicted']:.2f}",
        )
    table_console().print(table)
    within = {name: all(abs(row[f"{name}_off"]) <= limit for row in rows) for name, limit in LIMITS.items()}
    print(
        "; ".join(f"{name}: {'all' if good else 'NOT all'} within {LIMITS[name]:.0%}" for name, good in within.items())
    )
    if options.json:
        content = {"rows": rows, "within": within, "limits": LIMITS, "environment": describe_environment(None)}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(within.values()) else 1)


if __name__ == "__main__":
    main()
