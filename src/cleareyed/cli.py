"""The command line. Heavy imports are inside the commands, so that `--help` is instant."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from cleareyed.errors import InputError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
EVAL_RULES = ("paper-eval", "strict", "any-form")

RecipePath = Annotated[Path, typer.Argument(help="A recipe: a YAML file such as recipes/demo-grpo.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Recipe fields to set, such as optimizer.lr=1e-5.")
]
DataRoot = Annotated[
    Path | None,
    typer.Option(envvar="CLEAREYED_DATA", help="The folder that holds nlvr/, blink/ and other data sets."),
]
Name = Annotated[str | None, typer.Option(help="The run's name; the recipe's file name if left out.")]
Runs = Annotated[Path, typer.Option(help="The folder that holds the runs.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run of this name where it stopped.")]


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
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let the recipe's FILE.py:FUNCTION rewards run. Read them first.")
    ] = False,
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
    with _plain_errors("add --resume to the same command to go on"):
        from cleareyed.recipe_files import load_recipe

        loaded = load_recipe(recipe, overrides or [])  # before the seconds that importing torch takes
        from cleareyed import commands

        commands.train(
            loaded,
            recipe,
            folder=_run_folder(runs, name or recipe.stem),
            resume=resume,
            data_root=data_root,
            allow_code=allow_code,
        )


@app.command("eval")
def evaluate(
    task: Annotated[
        str, typer.Argument(help="blink, nlvr, scenes-val, scenes-bench, or your own .jsonl or .parquet file.")
    ],
    model: Annotated[str, typer.Option(help="A checkpoint folder, a hub id, or tiny-base.")],
    prompt: Annotated[str, typer.Option(help="Prompt style: how the question is put.")] = "base",
    rule: Annotated[list[str] | None, typer.Option(help="Accuracy rule; may be given several times.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a task that has several, such as nlvr's dev.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Questions asked at a time.")] = 64,
    out: Annotated[Path | None, typer.Option(help="A new folder for the answers; under runs/ if left out.")] = None,
    data_root: DataRoot = None,
) -> None:
    """Measure a model on a task, with 95 % intervals.

    \b
    cleareyed eval scenes-bench --model tiny-base --limit 600
    cleareyed eval blink --model runs/demo-grpo/best --data-root FOLDER
    cleareyed eval mine.jsonl --model Qwen/Qwen2-VL-2B-Instruct --prompt instruct-no-reasoning --rule strict

    Answers are read under the rules paper-eval, strict and any-form unless --rule names others, and are kept
    as a run folder.
    """
    with _plain_errors("the answers so far are kept"):
        from cleareyed import commands
        from cleareyed.recipe import EvalSpec, ModelSpec, TaskSpec

        own = task.endswith((".jsonl", ".parquet"))
        spec = TaskSpec(name="table" if own else task, path=task if own else None, split=split, limit=limit)
        title = "-".join(("eval", Path(task).stem, *Path(model).parts[-2:]))
        commands.eval_task(
            EvalSpec(task=spec, prompt=prompt, max_tokens=max_tokens, batch=batch),
            ModelSpec(path=model),
            folder=out or _unused(Path("runs"), title),
            rules=rule or EVAL_RULES,
            data_root=data_root,
        )


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
    with _plain_errors("add --resume to the same command to go on"):
        from cleareyed.recipe_files import load_recipe

        loaded = load_recipe(recipe, overrides or [])
        from cleareyed import commands

        commands.pretrain_model(loaded, recipe, folder=_run_folder(runs, name or recipe.stem), resume=resume)


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
    with _plain_errors("the old report, if any, is unchanged"):
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
    with _plain_errors(f"the records so far are in {out}; the next demo moves them aside and starts anew"):
        from cleareyed.demo import run_demo

        run_demo(out, seed=seed, model=model, steps=steps, items=items)


def _run_folder(runs: Path, name: str) -> Path:
    if not name or name in (".", "..") or Path(name).name != name:
        raise typer.BadParameter(f"{name!r} is no run name; a name has no slashes", param_hint="--name")
    return runs / name


def _unused(runs: Path, name: str) -> Path:
    """The first of NAME, NAME-2, NAME-3, ... that does not exist."""
    number = 1
    while (folder := runs / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


@contextmanager
def _plain_errors(interrupted: str) -> Iterator[None]:
    """What the user can mend becomes one line and exit code 2; an interruption says how to go on (130)."""
    try:
        yield
    except InputError as error:
        _say(f"error: {error}")
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        _say(f"interrupted; {interrupted}")
        raise typer.Exit(130) from None
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _say(f"error: {where}{os.strerror(error.errno)}; free space, then go on with --resume")
        raise typer.Exit(2) from None


def _say(text: str) -> None:
    print(" ".join(text.split()), file=sys.stderr)
