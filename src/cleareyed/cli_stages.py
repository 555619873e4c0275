"""The commands that ask why and when a model declines. Heavy imports are inside."""

from pathlib import Path
from typing import Annotated

import typer

from cleareyed.cli_evaluate import MinCoverage, extra_fields
from cleareyed.cli_shared import DataRoot, eval_folder, plain_errors

Judge = Annotated[
    str, typer.Option(help="Who says what an answer is: local, lexical, or another of `cleareyed judge`.")
]
Batch = Annotated[int, typer.Option(min=1, help="Models in memory: questions answered together.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Hosted models: requests in flight at most.")]
Timeout = Annotated[float, typer.Option(min=1, help="Hosted models: seconds for one attempt.")]


def stages(
    run: Annotated[Path, typer.Argument(help="A run folder of eval or conditions, or one of its kind by replay.")],
    grader: Annotated[
        str, typer.Option(help="Any model, as for `cleareyed eval`: grades what the model saw and understood.")
    ],
    model: Annotated[str | None, typer.Option(help="The model to ask again; the run's own if left out.")] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="Disambiguated questions: JSON {id: {question, author}}, .jsonl or .csv; author: model, person."
        ),
    ] = None,
    writer: Annotated[str | None, typer.Option(help="A model that writes the questions still missing.")] = None,
    overrides: Annotated[
        Path | None, typer.Option(help="Labels by people, .jsonl or .csv: id, step, label, person, reason.")
    ] = None,
    judge: Judge = "local",
    state: Annotated[
        list[str] | None,
        typer.Option(help="Outcomes that count as refused: refusal if left out; capability, filtered, empty."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many refused items, the first.")] = None,
    grader_tokens: Annotated[int, typer.Option(min=1, help="Longest reply of grader and writer.")] = 400,
    batch: Batch = 64,
    concurrency: Concurrency = 100,
    timeout: Timeout = 300.0,
    base_url: Annotated[str | None, typer.Option(help="The model's server; the run's own if left out.")] = None,
    grader_base_url: Annotated[str | None, typer.Option(help="The grader's server, and the writer's.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder; under runs/ if left out.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on in OUT, or in the latest for this run.")] = False,
    json: Annotated[Path | None, typer.Option(help="Also write the table to this file.")] = None,
    data_root: DataRoot = None,
) -> None:
    """Ask a model again about the items it refused: did it not see, not understand, or not want to?

    \b
    cleareyed stages runs/eval-mossbench-openai-NAME --grader openai:NAME --writer openai:NAME --data-root FOLDER
    cleareyed stages RUN --grader openai:NAME --questions questions.jsonl
    cleareyed stages RUN --grader openai:NAME --resume --overrides read-by-me.csv

    MOSSBench's three stages. Probes: the model describes the image (graded against the data's description: right,
    wrong, or the model refuses to say) and says what the user wants. Intervention: the question is put again behind
    the description, then, if that is declined too, a question that cannot be misread. A refusal recovered by the
    description counts as an error of perception, one recovered by the question as one of intent, the rest as the
    decision; without such a question the rest is intent or decision. A grader's reply that cannot be read is asked
    for again, then counted as undecided.

    OUT holds journal.jsonl (every answer and every reply), labels.jsonl (every label, and by whom), questions.jsonl
    (with the kind of author), overrides.jsonl, stages.json and stages.png. The pictures are shown as the run showed
    them. --resume asks only what is missing.
    """
    with plain_errors("the answers so far are kept; add --resume to the same command to go on"):
        from cleareyed.stages_command import run_stages

        code = run_stages(
            run,
            model=model,
            grader=grader,
            writer=writer,
            base_url=base_url,
            grader_base_url=grader_base_url,
            questions=questions,
            overrides=overrides,
            judge_name=judge,
            states=tuple(state or ("refusal",)),
            limit=limit,
            grader_tokens=grader_tokens,
            batch=batch,
            concurrency=concurrency,
            timeout=timeout,
            folder=out or eval_folder(Path("runs"), run.name, grader, resume, "stages"),
            resume=resume,
            json_path=json,
            data_root=data_root,
        )
    raise typer.Exit(code)


def conditions(
    task: Annotated[str, typer.Argument(help="mossbench, timidity-mini, or your own .jsonl or .parquet.")],
    model: Annotated[str, typer.Option(help="As for `cleareyed eval`; replay cannot be asked anew.")],
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help="none, helpful, scrutiny, safety (system prompts), blank-image, no-image, description, or one of "
            "each joined by +; give it several times. The first is what the others are compared with. All if left out."
        ),
    ] = None,
    judge: Judge = "local",
    prompt: Annotated[
        str | None, typer.Option(help="Prompt style; the task's own, else the bare question, if left out.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a task that has several.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer; the task's own, else 256, if left out.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="The task's own, else 0 (greedy), if left out.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of drawn answers, where the model takes one.")] = None,
    batch: Batch = 64,
    concurrency: Concurrency = 100,
    timeout: Timeout = 300.0,
    base_url: Annotated[str | None, typer.Option(help="Another server, such as http://localhost:8000/v1.")] = None,
    extra: Annotated[
        str | None, typer.Option(help="openai: further fields as JSON; null leaves a field out.", metavar="JSON")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for the runs; under runs/ if left out.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in OUT, or in the latest of this task and model.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Also write what was found to this file.")] = None,
    min_coverage: MinCoverage = 0.95,
    data_root: DataRoot = None,
) -> None:
    """Ask a task under several conditions and compare how often the model declines, item by item.

    \b
    cleareyed conditions mossbench --model openai:NAME --data-root FOLDER
    cleareyed conditions mossbench --model openai:NAME --condition none --condition safety --condition blank-image
    cleareyed conditions timidity-mini --model transformers:PATH --condition description --condition description+safety

    The system prompts are our own texts: those of MOSSBench's ablation were not published. A blank image is grey and
    of the same size; `description` puts the data's description of the picture in front of the question. Each condition
    is a run folder of its own, OUT/CONDITION, which `cleareyed timidity` and `stages` take. Differences are tested by
    McNemar's exact test on the same items, whole groups swapped where items share a question; p-values are adjusted
    by Holm's method.
    """
    with plain_errors("the answers so far are kept; add --resume to the same command to go on"):
        from cleareyed.conditions_command import run_conditions
        from cleareyed.errors import InputError
        from cleareyed.eval_plan import plan
        from cleareyed.evaluation.models import AskedModel
        from cleareyed.oversensitivity.conditions import CONDITIONS
        from cleareyed.oversensitivity.conditions import conditions as named
        from cleareyed.recipe import TaskSpec
        from cleareyed.tasks.protocols import usual_protocol

        asked = AskedModel(path=model, base_url=base_url, extra=extra_fields(extra))
        if asked.kind == "replay":
            raise InputError(f"--model {model}: recorded answers are to other prompts; name a model that can be asked")
        own = task.endswith((".jsonl", ".parquet"))
        spec = TaskSpec(name="table" if own else task, path=task if own else None, split=split, limit=limit)
        rules: tuple[str, ...] = ()
        if usual_protocol(spec.name) is None:
            prompt, rules = prompt or "instruct-no-reasoning", ("any-form",)
        recipes = [
            (
                one,
                plan(
                    spec,
                    asked,
                    prompt=prompt,
                    rules=rules,
                    max_tokens=max_tokens,
                    temperature=temperature,
                    seed=seed,
                    system=one.system,
                    pictures=one.pictures,
                    batch=batch,
                ),
            )
            for one in named(condition or CONDITIONS)
        ]
        code = run_conditions(
            recipes,
            folder=out or eval_folder(Path("runs"), task, model, resume, "conditions"),
            resume=resume,
            data_root=data_root,
            judge_name=judge,
            concurrency=concurrency,
            timeout=timeout,
            min_coverage=min_coverage,
            json_path=json,
        )
    raise typer.Exit(code)
