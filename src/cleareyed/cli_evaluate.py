"""The commands that prepare data, ask models and compare what they said. Heavy imports are inside."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cleareyed.cli_shared import DataRoot, eval_folder, plain_errors
from cleareyed.errors import InputError

MinCoverage = Annotated[
    float, typer.Option(min=0, max=1, help="Exit with 1 if less than this share of the questions can be judged.")
]


def evaluate(
    task: Annotated[
        str,
        typer.Argument(
            help="cvbench, sat, blink, blink-all, vsr, nlvr, mossbench, mossbench_contrast, timidity-mini, "
            "timidity-mini-contrast, scenes-val, scenes-bench, "
            "or your own .jsonl or .parquet."
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option(
            help="A checkpoint folder, a hub id or tiny-base (or local:PATH), transformers:PATH, openai:NAME, "
            "anthropic:NAME, google:NAME, replay:FILE; may be given several times."
        ),
    ],
    protocol: Annotated[
        str | None,
        typer.Option(
            help="paper-eval, strict, lmms-eval (cvbench, blink), paper (mossbench): prompt, length and rule at once."
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Prompt style; base, or instruct-eval for a conversation, if left out.")
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat",
            help="Ask as a conversation or as a base model; local models are base, others converse, if left out.",
        ),
    ] = None,
    rule: Annotated[list[str] | None, typer.Option(help="Accuracy rule; may be given several times.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a task that has several, such as nlvr's dev.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer; the protocol's, else 256, if left out.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 is greedy.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Nucleus sampling, where the model has it.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of drawn answers, where the model takes one.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message, where the model takes one.")] = None,
    pictures: Annotated[
        Literal["own", "blank", "none", "description"],
        typer.Option(help="Blank ones of the same size, none, or the data's description in their place."),
    ] = "own",
    batch: Annotated[int, typer.Option(min=1, help="Local models: questions answered together.")] = 64,
    concurrency: Annotated[int, typer.Option(min=1, help="Hosted models: requests in flight at most.")] = 100,
    timeout: Annotated[float, typer.Option(min=1, help="Hosted models: seconds for one attempt.")] = 300.0,
    base_url: Annotated[str | None, typer.Option(help="Another server, such as http://localhost:8000/v1.")] = None,
    extra: Annotated[
        str | None, typer.Option(help="openai: further fields as JSON; null leaves a field out.", metavar="JSON")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="openai: the server is `cleareyed serve`; ask it as a base model.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Of a hub id: the commit or branch.")] = None,
    dtype: Annotated[Literal["fp32", "bf16"], typer.Option(help="Precision of models in memory.")] = "fp32",
    min_pixels: Annotated[int | None, typer.Option(min=1, help="local: smaller images are scaled up.")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="local: larger images are scaled down.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A new folder for the answers, or of several models for theirs; runs/... if left out."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in OUT, or in the latest run of this task and model.")
    ] = False,
    judge: Annotated[
        str, typer.Option(help="mossbench and the like: who says what an answer is (see `cleareyed timidity`).")
    ] = "local",
    min_coverage: MinCoverage = 0.95,
    data_root: DataRoot = None,
) -> None:
    """Ask a task of any model, judge the answers, and print accuracy with 95 % intervals.

    \b
    cleareyed eval scenes-bench --model tiny-base --limit 600
    cleareyed eval blink --model runs/demo-grpo/best --data-root FOLDER
    cleareyed eval cvbench --model openai:gpt-5-mini --protocol paper-eval     (key: OPENAI_API_KEY)
    cleareyed eval mine.jsonl --model openai:NAME --base-url http://localhost:8000/v1 --concurrency 500
    cleareyed eval blink --model anthropic:NAME --temperature 1 --resume
    cleareyed eval blink --model openai:NAME --model anthropic:NAME            (side by side, ranked at the end)
    cleareyed eval blink --model replay:answers.jsonl --rule any-form          (recorded answers)
    cleareyed eval mossbench --model replay:responses/MODEL.json               (published ones: pid to text)

    Every answer is in OUT/journal.jsonl before it counts; --resume asks only what is missing or has failed. Keys are
    read from OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY or GOOGLE_API_KEY and written nowhere.

    What came back counts as what it is. An answer that was cut off at the longest length is judged as far as it goes;
    an empty one is wrong. Answers that the provider withheld (filtered), questions that its API turned away
    (refused-by-api) and those that brought no answer (failed) are neither right nor wrong: they are left out of
    accuracy and lower the coverage, which is printed with it. Under --min-coverage the exit code is 1.
    """
    with plain_errors("the answers so far are kept; add --resume to the same command to go on"):
        from cleareyed.eval_command import eval_models
        from cleareyed.eval_plan import plan
        from cleareyed.evaluation.models import AskedModel
        from cleareyed.recipe import TaskSpec

        if len(set(model)) < len(model):
            raise InputError(
                f"--model {next(one for one in model if model.count(one) > 1)}: named twice; name it once"
            )
        own = task.endswith((".jsonl", ".parquet"))
        recipes = [
            plan(
                TaskSpec(name="table" if own else task, path=task if own else None, split=split, limit=limit),
                AskedModel(
                    path=one,
                    revision=revision,
                    dtype=dtype,
                    min_pixels=min_pixels,
                    max_pixels=max_pixels,
                    base_url=base_url,
                    extra=extra_fields(extra),
                    raw=raw,
                ),
                protocol=protocol,
                prompt=prompt,
                chat=chat,
                max_tokens=max_tokens,
                temperature=temperature,
                rules=rule or (),
                top_p=top_p,
                seed=seed,
                system=system,
                pictures=pictures,
                batch=batch,
            )
            for one in model
        ]
        folders = [eval_folder(out or Path("runs"), task, one, resume) for one in model]
        code = eval_models(
            recipes,
            [out] if out is not None and len(model) == 1 else folders,
            resume=resume,
            data_root=data_root,
            concurrency=concurrency,
            timeout=timeout,
            min_coverage=min_coverage,
            judge=judge,
        )
    raise typer.Exit(code)


def score(
    run: Annotated[Path, typer.Argument(help="A run folder that eval made, also one that was interrupted.")],
    rule: Annotated[
        list[str] | None, typer.Option(help="Accuracy rule; may be given several times; the run's own if left out.")
    ] = None,
    min_coverage: MinCoverage = 0.95,
    data_root: DataRoot = None,
) -> None:
    """Judge the answers of an eval run again, without asking anyone.

    \b
    cleareyed score runs/eval-blink-tiny-base --rule any-form
    cleareyed score runs/eval-cvbench-openai-NAME --rule strict --rule lmms-eval

    The answers come from the run's journal, the gold answers from the task's data as they are now. The run's own
    rules are judged anew beside those named; the journal does not change.
    """
    with plain_errors("the journal is unchanged; give the same command again"):
        from cleareyed.eval_command import score as judge

        code = judge(run, rules=rule or (), data_root=data_root, min_coverage=min_coverage)
    raise typer.Exit(code)


def diff(
    first: Annotated[Path, typer.Argument(help="A run folder.")],
    second: Annotated[Path, typer.Argument(help="The run folder that is compared with it.")],
    task: Annotated[str | None, typer.Option(help="Only this task; all that both answered if left out.")] = None,
    rule: Annotated[str, typer.Option(help="Accuracy rule.")] = "strict",
    second_rule: Annotated[str | None, typer.Option(help="The second's rule, if it is another.")] = None,
    label: Annotated[str | None, typer.Option(help="Which answers of a run with several, such as base.")] = None,
    second_label: Annotated[str | None, typer.Option(help="The second's label, if it is another.")] = None,
    step: Annotated[int | None, typer.Option(help="Answers of the weights of this training step.")] = None,
    second_step: Annotated[int | None, typer.Option(help="The second's step, if it is another.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write what was found to this file.")] = None,
) -> None:
    """Compare two runs question by question, and say where on the way from prompt to score they part.

    \b
    cleareyed diff runs/eval-blink-tiny-base runs/eval-blink-grpo-best
    cleareyed diff runs/demo/grpo runs/demo/grpo --label base --second-label grpo
    cleareyed diff RUN RUN --rule strict --second-rule lmms-eval

    The difference is split by what differs first: prompt, pixels, model, parameters, extraction or score.
    """
    with plain_errors("nothing was written"):
        from cleareyed.diff_command import diff as compare

        compare(
            first,
            second,
            task=task,
            rule=rule,
            second_rule=second_rule,
            label=label,
            second_label=second_label,
            step=step,
            second_step=second_step,
            json_path=json,
        )


def rank(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; one with several labels will do.")],
    task: Annotated[str | None, typer.Option(help="Of several tasks that all of them measured.")] = None,
    rule: Annotated[str, typer.Option(help="Accuracy rule.")] = "strict",
    json: Annotated[Path | None, typer.Option(help="Also write what was found to this file.")] = None,
) -> None:
    """Order models by accuracy on the questions that all answered, and say which of them cannot be told apart.

    \b
    cleareyed rank runs/eval-blink-*
    cleareyed rank runs/demo/grpo runs/demo/sft --task scenes-bench --rule any-form

    Every pair is tested on the same questions, with Holm's correction for all pairs: exact, whole groups of questions
    swapped. A rank such as "2 to 4" covers what the tests leave open.
    """
    with plain_errors("nothing was written"):
        from cleareyed.rank_command import rank_runs

        rank_runs(runs, task=task, rule=rule, json_path=json)


def data(
    name: Annotated[
        str,
        typer.Argument(
            help="cvbench, sat, blink, blink-all, vsr, nlvr, mossbench, mossbench_contrast, or table (your own file)."
        ),
    ],
    source: Annotated[
        str, typer.Option("--from", help="A data file, a folder of them, hub, or hub:OWNER/NAME[@REVISION].")
    ],
    to: Annotated[
        Path, typer.Option(envvar="CLEAREYED_DATA", help="The data root: TO/NAME/SPLIT.parquet is written.")
    ] = Path("data"),
    split: Annotated[str | None, typer.Option(help="Which split, where the data have several.")] = None,
    images: Annotated[Path | None, typer.Option(help="The folder of the pictures that rows name.")] = None,
    skill: Annotated[
        list[str] | None, typer.Option(help="Only this skill (SAT: question type); may be given several times.")
    ] = None,
    multi_image: Annotated[
        Literal["keep", "drop"] | None, typer.Option(help="Questions about several pictures; SAT asks for it.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many at most, drawn by lot.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the lot, and of SAT's order of choices.")] = None,
    leave_out_bad: Annotated[bool, typer.Option("--leave-out-bad", help="List bad rows and go on.")] = False,
) -> None:
    """Check a data set whole and prepare it, counting everything that is left out.

    \b
    cleareyed data cvbench --from DOWNLOADED/FOLDER
    cleareyed data sat --from SAT_train.parquet --multi-image drop --skill other --limit 15000 --seed 0
    cleareyed data vsr --from test.jsonl --images COCO/train2017

    Nothing is overwritten. Recipes and eval find the result with --data-root TO.
    """
    with plain_errors("nothing was written"):
        from cleareyed.data_command import data as prepare
        from cleareyed.tasks.prepare import Wanted

        wanted = Wanted(tuple(skill or ()), multi_image, limit, seed, leave_out_bad)
        prepare(name, source, to, split, images, wanted)


def serve(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, a hub id, or tiny-base.")],
    host: Annotated[str, typer.Option(help="The address to listen on; others than loopback are open to all.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What requests call the model; MODEL if left out.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Requests answered together.")] = 32,
    dtype: Annotated[Literal["fp32", "bf16"], typer.Option(help="Precision.")] = "fp32",
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Larger images are scaled down.")] = None,
) -> None:
    """Serve a local model as OpenAI's chat completions, for anything that asks models over HTTP.

    \b
    cleareyed serve tiny-base
    cleareyed eval scenes-bench --model openai:tiny-base --base-url http://127.0.0.1:8000/v1 --raw

    Images as data URIs; nothing is fetched. "raw": true in a request asks the text as it is, for base models.
    """
    with plain_errors("the server has ended"):
        from cleareyed.commands import set_up
        from cleareyed.models.load import load_vlm
        from cleareyed.recipe import ModelSpec
        from cleareyed.serve import serve as listen

        set_up(None)
        vlm = load_vlm(ModelSpec(path=model, dtype=dtype, max_pixels=max_pixels))
        listen(vlm, host, port, name=name, batch=batch)


def extra_fields(text: str | None) -> dict[str, Any]:
    from json import loads

    try:
        fields = loads(text or "{}")
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise InputError('--extra: not a JSON object; write it as \'{"reasoning_effort": "low"}\'')
    return fields
