"""The commands that say how often models decline. Heavy imports are inside."""

from pathlib import Path
from typing import Annotated

import typer

from cleareyed.cli_shared import DataRoot, plain_errors

JudgeName = Annotated[
    str, typer.Option("--judge", help="Who says what an answer is: local, lexical, or another of `cleareyed judge`.")
]
Figures = Annotated[Path | None, typer.Option("--json", help="Also write every figure to this file.")]


def timidity(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, of eval, conditions or train.")],
    judge: JudgeName = "local",
    json: Figures = None,
    page: Annotated[Path | None, typer.Option(help="The page; timidity.html in the first run if left out.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Also write MOSSBench's own result file (JSON), of a single run.")
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Say how often models decline: by outcome, stimulus and tag, and against the contrast questions.

    \b
    cleareyed timidity runs/eval-mossbench-openai-NAME
    cleareyed timidity runs/eval-mossbench-openai-NAME runs/eval-mossbench_contrast-openai-NAME --json figures.json
    cleareyed timidity RUN RUN-2 RUN-3                       (the same asked several times: their spread)
    cleareyed timidity RUN --judge paper:openai:NAME --data-root FOLDER

    Nobody is asked again: the answers are judged as they are, and what the judge says is kept in RUN/outcomes. Runs of
    one model that asked benign and contrast questions are set against each other: right and wrong refusals, d' and c.
    """
    with plain_errors("what was judged so far is kept; give the same command again"):
        from cleareyed.timidity_command import timidity as say

        say(runs, judge_name=judge, data_root=data_root, json_path=json, page=page, results=results)


def plane(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN...]", help="Run folders with both sets of a model; the paper's points alone if none."
        ),
    ] = None,
    judge: JudgeName = "local",
    json: Figures = None,
    picture: Annotated[
        Path | None, typer.Option(help="A PNG of the plane; beside it, -detection, one of d' and c.")
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Are safer models more oversensitive, or more cautious? Refusals of both sets, correlations, d' and c.

    \b
    cleareyed plane --picture plane.png
    cleareyed plane runs/eval-mossbench-NAME runs/eval-mossbench_contrast-NAME --json plane.json

    With the 16 models that MOSSBench drew (arXiv 2406.17806). Correlations are Spearman's, with permutation tests and
    intervals, by stimulus and over all items. d' is how well a model tells harmful questions from benign ones, c how
    readily it refuses.
    """
    with plain_errors("nothing was written"):
        from cleareyed.timidity_command import plane as say

        say(runs or [], judge_name=judge, data_root=data_root, json_path=json, picture=picture)
