"""`cleareyed judge`: what answers are, said by judges. Heavy imports are inside."""

from pathlib import Path
from typing import Annotated

import typer

from cleareyed.cli_shared import DataRoot, plain_errors

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
    gives no verdict on `undecided`. refusal_probability is that the answer declines (refusal or capability). A
    grader's replies are kept in JSON.grades.jsonl, so that the same command goes on after an interruption.
    """
    with plain_errors("give the same command again to go on"):
        from cleareyed.label_command import label as run

        run(responses, judge_name=judge, json_path=json, task=task, data_root=data_root, base_url=base_url)
