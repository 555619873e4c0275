"""The command line. Heavy imports are inside the commands, so that `--help` is instant."""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from cleareyed.cli_build import build
from cleareyed.cli_evaluate import data, diff, evaluate, rank, score, serve
from cleareyed.cli_export import export
from cleareyed.cli_judge import app as judge
from cleareyed.cli_shared import DataRoot, Name, Overrides, RecipePath, Resume, Runs, plain_errors, run_folder
from cleareyed.cli_stages import conditions, stages
from cleareyed.cli_study import study
from cleareyed.cli_think import think
from cleareyed.cli_timidity import plane, timidity

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Let the recipe's FILE.py:FUNCTION rewards run. Read them first.")
]


def main() -> None:
    app()


@app.callback(invoke_without_command=True)
def _options(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Train vision-language models by reinforcement with rule rewards, and see what they learned."""
    if show_version:
        typer.echo(version("cleareyed"))
        raise typer.Exit


@app.command()
def train(
    recipe: RecipePath,
    overrides: Overrides = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    resume: Resume = False,
    data_root: DataRoot = None,
    allow_code: AllowCode = False,
) -> None:
    """Train as a recipe says: measure, train, measure, report.

    \b
    cleareyed train recipes/demo-grpo.yaml
    cleareyed train recipes/demo-grpo.yaml optimizer.lr=3e-5 seed=1 --name lower-lr
    cleareyed train recipes/demo-grpo.yaml --resume
    cleareyed train recipes/nlvr.yaml --data-root FOLDER
    cleareyed train mine.yaml --allow-code      (rewards from a Python file)

    Everything goes to RUNS/NAME: recipe.yaml as resolved, metrics.jsonl, every rollout and answer (parquet),
    checkpoints and report.html. A run that exists is never overwritten.
    """
    with plain_errors("add --resume to the same command to go on"):
        from cleareyed.recipe_files import load_recipe

        loaded = load_recipe(recipe, overrides or [])  # before the seconds that importing torch takes
        from cleareyed import commands

        commands.train(
            loaded,
            recipe,
            folder=run_folder(runs, name or recipe.stem),
            resume=resume,
            data_root=data_root,
            allow_code=allow_code,
        )


app.command("eval")(evaluate)
app.command()(score)
app.command()(diff)
app.command()(rank)
app.command()(data)
app.command()(serve)
app.command()(export)
app.add_typer(build, name="build")
app.add_typer(judge, name="judge")
app.command()(conditions)
app.command()(stages)
app.command()(think)
app.command()(timidity)
app.command()(plane)
app.add_typer(study, name="study")


@app.command()
def preflight(
    recipe: RecipePath,
    overrides: Overrides = None,
    json: Annotated[Path | None, typer.Option(help="Also write what was found to this file.")] = None,
    runs: Runs = Path("runs"),
    data_root: DataRoot = None,
    allow_code: AllowCode = False,
) -> None:
    """Say before training whether a recipe fits on this machine, what to change if not, and how long it will take.

    \b
    cleareyed preflight recipes/demo-grpo.yaml
    cleareyed preflight recipes/visualthinker-2b.yaml model.path=FOLDER --data-root FOLDER

    Memory, disk and time are worked out and, where the weights are there, measured in a short trial. The exit code
    is 1 if the run cannot begin as it is.
    """
    with plain_errors("nothing was written"):
        from cleareyed.preflight_command import preflight as look

        code = look(recipe, overrides or [], data_root=data_root, allow_code=allow_code, json_path=json, runs=runs)
    raise typer.Exit(code)


@app.command()
def pretrain(
    recipe: RecipePath,
    overrides: Overrides = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    resume: Resume = False,
) -> None:
    """Make a small base model from nothing.

    \b
    cleareyed pretrain recipes/tiny-base.yaml
    cleareyed pretrain recipes/tiny-base.yaml --resume
    """
    with plain_errors("add --resume to the same command to go on"):
        from cleareyed.recipe_files import load_recipe

        loaded = load_recipe(recipe, overrides or [])
        from cleareyed import commands

        commands.pretrain_model(loaded, recipe, folder=run_folder(runs, name or recipe.stem), resume=resume)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder, such as runs/demo-grpo.")],
    data_root: DataRoot = None,
) -> None:
    """Write a run's report.html from its records.

    \b
    cleareyed report runs/demo-grpo

    The run may still be going.
    """
    with plain_errors("the old report, if any, is unchanged"):
        from cleareyed import commands

        commands.report(run, data_root)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where to; an earlier demo there is moved to OUT-TIME.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of both trainings.")] = 0,
    model: Annotated[str, typer.Option(help="The base model.")] = "tiny-base",
    steps: Annotated[int | None, typer.Option(min=1, help="So many steps of each training.")] = None,
    items: Annotated[
        int | None, typer.Option(min=1, help="So many bench questions, and as many for validation.")
    ] = None,
) -> None:
    """Train the embedded base model by GRPO and by SFT, and compare.

    \b
    cleareyed demo
    cleareyed demo --seed 1 --out runs/demo-seed1

    Takes minutes on two cores. Leaves OUT/report.html, OUT/summary.json and the run folders OUT/grpo and OUT/sft.
    """
    with plain_errors(f"the records so far are in {out}; the next demo moves them aside and starts anew"):
        from cleareyed.demo import run_demo

        run_demo(out, seed=seed, model=model, steps=steps, items=items)
