"""The command that hands a run to other programs. Heavy imports are inside."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cleareyed.cli_shared import DataRoot, plain_errors


def export(
    run: Annotated[Path, typer.Argument(help="A run folder that eval made.")],
    out: Annotated[Path, typer.Argument(help="The file to write; it ends in .eval.")],
    to: Annotated[Literal["inspect"], typer.Option(help="The format: a log of inspect_ai.")] = "inspect",
    inline: Annotated[
        bool, typer.Option("--inline", help="Put the pictures into the log, too; it may grow by hundreds of MB.")
    ] = False,
    data_root: DataRoot = None,
) -> None:
    """Write an eval run as a log of inspect_ai, which `inspect view` opens.

    \b
    cleareyed export runs/eval-blink-tiny-base blink.eval --data-root FOLDER
    cleareyed export RUN logs/mine.eval --to inspect --inline

    Every answer with its prompt, state, tokens and what each rule read; failed samples are errors. The other way
    round, `cleareyed eval TASK --model replay:LOG.eval` judges the answers of a log. inspect_ai itself can ask our
    tasks: pip install 'cleareyed[inspect]'; inspect eval cleareyed/cvbench --model openai/NAME
    """
    with plain_errors("nothing was written"):
        from cleareyed.export_command import export as write

        write(run, out, inline=inline, data_root=data_root)
