"""The command that looks at how a model thinks. Heavy imports are inside."""

from pathlib import Path
from typing import Annotated

import typer

from cleareyed.cli_shared import DataRoot, plain_errors


def think(
    source: Annotated[Path, typer.Argument(help="A run folder, or a .jsonl file of answers.", metavar="RUN|FILE")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Also probe this model: a checkpoint folder or tiny-base. Its thoughts are cut, replaced "
            "and removed, and it is shown other pictures."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="What to ask it, or to judge a file by; what the run measured if left out.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a task that has several.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Prompt style; the run's own, else base, if left out.")] = None,
    items: Annotated[int, typer.Option(min=1, help="Questions of the task, from its first on.")] = 200,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest completion of the probed model.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Questions probed together.")] = 64,
    rule: Annotated[str, typer.Option(help="Accuracy rule of recorded answers.")] = "strict",
    grader: Annotated[
        str | None, typer.Option(help="A model that confirms reflection by understand-r1-zero, such as openai:NAME.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="The grader's server, such as http://localhost:8000/v1.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write all figures to this file.")] = None,
    data_root: DataRoot = None,
) -> None:
    """Say how long a model thinks, whether it reflects, whether its thoughts are needed, and whether it looks.

    \b
    cleareyed think runs/demo-grpo
    cleareyed think runs/demo-grpo --model runs/demo-grpo/final --items 200
    cleareyed think answers.jsonl --json thinking.json
    cleareyed think answers.jsonl --task scenes-bench --items 3000      (gold answers by sample_id)
    cleareyed think runs/demo-grpo --grader openai:NAME

    A file has one JSON object a line: text, and answer or correct; choices, question, sample_id, group, step, tokens
    and finish where known. What is found of a run goes into its report.html too.
    """
    with plain_errors("the records are unchanged; give the same command again"):
        from cleareyed.recipe import TaskSpec
        from cleareyed.think_command import think as study

        own = task is not None and task.endswith((".jsonl", ".parquet"))
        spec = TaskSpec(name="table" if own else task, path=task if own else None, split=split) if task else None
        study(
            source,
            model=model,
            task=spec,
            prompt=prompt,
            items=items,
            max_tokens=max_tokens,
            batch=batch,
            rule=rule,
            grader=grader,
            base_url=base_url,
            data_root=data_root,
            json_path=json,
        )
