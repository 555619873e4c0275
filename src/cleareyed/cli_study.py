"""The commands that run studies. Heavy imports are inside."""

from pathlib import Path
from typing import Annotated

import typer

from cleareyed.cli_shared import DataRoot, Runs, plain_errors

study = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

StudyFile = Annotated[Path, typer.Argument(help="A study: a YAML file such as studies/smoke.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Study fields to set, such as seeds=[1] or models.base=FOLDER."),
]
Only = Annotated[
    list[str] | None, typer.Option(help="Only this arm, and what it starts from; may be given several times.")
]
Seeds = Annotated[list[int] | None, typer.Option("--seed", help="Only this seed; may be given several times.")]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Let the recipes' FILE.py:FUNCTION rewards run. Read them first.")
]


@study.callback()
def _about() -> None:
    """Run the experiments of a study file, each with several seeds, and report what they show.

    \b
    cleareyed study run studies/smoke.yaml
    cleareyed study status studies/smoke.yaml
    cleareyed study report studies/smoke.yaml
    """


@study.command()
def run(
    file: StudyFile,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    only: Only = None,
    seed: Seeds = None,
    data_root: DataRoot = None,
    allow_code: AllowCode = False,
) -> None:
    """Do what is missing of a study, run by run.

    \b
    cleareyed study run studies/visualthinker.yaml
    cleareyed study run studies/visualthinker.yaml --only grpo --seed 1
    cleareyed study run studies/visualthinker-2b.yaml models.base=FOLDER --data-root FOLDER

    Runs are kept in RUNS/STUDY/ARM-seedN. A finished run is never done again, an interrupted one goes on from its
    last checkpoint: give the same command again. Several processes may work on one study; each takes what no other
    has. The exit code is 1 if a run failed.
    """
    with plain_errors("what was done is kept; the same command goes on"):
        from cleareyed.study.command import run_command

        code = run_command(file, overrides or [], runs, only or [], seed or [], data_root, allow_code)
    raise typer.Exit(code)


@study.command()
def status(
    file: StudyFile,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    only: Only = None,
    seed: Seeds = None,
) -> None:
    """Show which runs of a study are done, running and missing, and the time that is left.

    \b
    cleareyed study status studies/visualthinker.yaml
    """
    with plain_errors("nothing was written"):
        from cleareyed.study.command import status_command

        status_command(file, overrides or [], runs, only or [], seed or [])


@study.command()
def preflight(
    file: StudyFile,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    only: Only = None,
    data_root: DataRoot = None,
    allow_code: AllowCode = False,
) -> None:
    """Say what each arm of a study needs: memory, disk and time, as `cleareyed preflight` does for a recipe.

    \b
    cleareyed study preflight studies/visualthinker-2b.yaml models.base=FOLDER --data-root FOLDER

    An arm that starts from another whose model is not there yet is looked at with that one's start. The exit code is
    1 if an arm cannot begin as it is.
    """
    with plain_errors("nothing was written"):
        from cleareyed.study.command import preflight_command

        code = preflight_command(file, overrides or [], runs, only or [], data_root, allow_code)
    raise typer.Exit(code)


@study.command()
def report(
    file: StudyFile,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    data_root: DataRoot = None,
) -> None:
    """Write a study's report.html and report.json from what there is, also while it runs.

    \b
    cleareyed study report studies/visualthinker.yaml
    cleareyed study report studies/visualthinker.yaml --runs benchmarks/results    (from summaries alone)
    """
    with plain_errors("the old report, if any, is unchanged"):
        from cleareyed.study.command import report_command

        report_command(file, overrides or [], runs, data_root)
