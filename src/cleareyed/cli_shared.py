"""What the commands of the command line share: options, names of run folders, errors in one line."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cleareyed.errors import InputError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

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


def run_folder(runs: Path, name: str) -> Path:
    """RUNS/NAME; a name that is a path is refused."""
    if not name or name in (".", "..") or Path(name).name != name:
        raise typer.BadParameter(f"{name!r} is no run name; a name has no slashes", param_hint="--name")
    return runs / name


def eval_folder(runs: Path, task: str, model: str, resume: bool, kind: str = "eval") -> Path:
    """The first of KIND-TASK-MODEL, -2, -3, ... that does not exist; to resume, the last that does."""
    name = re.sub(r"[^\w.-]+", "-", "-".join((kind, Path(task).stem, *Path(model).parts[-2:])))
    number = 1
    while (folder := runs / _numbered(name, number)).exists():
        number += 1
    return runs / _numbered(name, max(number - 1, 1)) if resume else folder


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


@contextmanager
def plain_errors(interrupted: str) -> Iterator[None]:
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
