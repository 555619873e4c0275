"""`cleareyed judge`: what answers are, said by judges. Heavy imports are inside."""

from pathlib import Path
from typing import Annotated

import typer

from cleareyed.cli_shared import DataRoot, plain_errors
from cleareyed.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    help="Judge answers: complied, partial, refusal, capability, clarification or off topic.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.command()
def label(
    responses: Annotated[Path, typer.Argument(help="A file of answers: .json, .jsonl, .csv or inspect's .eval.")],
    judge: Annotated[
        str, typer.Option(help="local, lexical, lexical:autodan, paper:MODEL (a model grades) or human:FILE.")
    ] = "local",
    json: Annotated[
        Path | None, typer.Option(help="Where the rows go: a JSON array, or lines if it ends in .jsonl.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The task the ids belong to, such as mossbench: its questions and pictures.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="paper: another server, such as http://localhost:8000/v1.")] = (
        None
    ),
    data_root: DataRoot = None,
) -> None:
    """Label a file of answers: rows of id, state, refusal_probability and reason.

    \b
    cleareyed judge label answers.json --json labels.json                    (an object of id to text)
    cleareyed judge label answers.jsonl --json labels.jsonl                  (lines of id, question, response)
    cleareyed judge label answers.csv                                        (prompt, completion; ids from 0)
    cleareyed judge label log.eval --judge lexical
    cleareyed judge label answers.json --judge paper:openai:NAME --task mossbench --data-root FOLDER --json labels.json

    Every row of the file gives a row: an empty answer is `empty`, one that cannot be read `failed`, one that the judge
    gives no verdict on `undecided`; the exit code is 1 if every row is one of these two. refusal_probability is that
    the answer declines (refusal or capability). A grader's replies are kept in JSON.grades.jsonl, so that the same
    command goes on after an interruption.
    """
    with plain_errors("give the same command again to go on"):
        from cleareyed.label_command import label as run

        code = run(responses, judge_name=judge, json_path=json, task=task, data_root=data_root, base_url=base_url)
    raise typer.Exit(code)


@app.command()
def correct(
    judged: Annotated[Path, typer.Argument(help="What a judge said of all answers: a file of `judge label`.")],
    people: Annotated[Path, typer.Argument(help="What people say of some of them, drawn at random: the same form.")],
) -> None:
    """Correct the rate of declined answers for the judge's errors, by labels of people for some of them.

    \b
    cleareyed judge label answers.json --json judged.json
    cleareyed judge label answers.json --judge human:labels.jsonl --json people.json
    cleareyed judge correct judged.json people.json

    By prediction-powered inference (PPI++, arXiv 2311.01453) and by the judge's sensitivity and specificity (Rogan and
    Gladen 1978). Rows of people that are undecided count as not labelled; at least ten labels are needed.
    """
    with plain_errors("nothing was written"):
        from cleareyed.correct_command import correct as run

        run(judged, people)


@app.command()
def train(
    data_root: DataRoot = None,
    to: Annotated[Path, typer.Option(help="The model's file.")] = Path("judge.safetensors"),
    seed: Annotated[int, typer.Option(min=0, help="0 makes the file that comes with cleareyed.")] = 0,
) -> None:
    """Fit the embedded judge anew; needs scikit-learn (pip install 'cleareyed[judge-train]').

    \b
    cleareyed judge train --data-root FOLDER --to judge.safetensors
    """
    with plain_errors("nothing was written"):
        from cleareyed.judge_command import train as run

        run(_root(data_root), to, seed)


@app.command()
def bench(
    data_root: DataRoot = None,
    pyrit: Annotated[list[Path] | None, typer.Option(help="A CSV of PyRIT's refusal_scorer; may be repeated.")] = None,
    judge: Annotated[list[str] | None, typer.Option(help="A further judge, such as paper:openai:NAME.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write every figure to this file.")] = None,
) -> None:
    """Say how far every judge agrees with every labelled set: the local one out of fold where it was fitted.

    \b
    cleareyed judge bench --data-root FOLDER --json judges.json
    """
    with plain_errors("nothing was written"):
        from cleareyed.judge_command import bench as run

        run(_root(data_root), pyrit or [], json, judge or [])


def _root(data_root: Path | None) -> Path:
    if data_root is None:
        raise InputError("--data-root: name the folder that holds xstest/")
    return data_root
