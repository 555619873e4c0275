"""`cleareyed build`: making a benchmark of oversensitivity, step by step. Heavy imports are inside the commands."""

from pathlib import Path
from typing import Annotated

import typer

from cleareyed.cli_shared import plain_errors
from cleareyed.cli_verify import verify

build = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="""Make a benchmark of oversensitivity: pairs of a benign question and its contrast, each about a picture.

    \b
    cleareyed build propose exemplars.yaml --model openai:NAME --count 50 --to work
    cleareyed build filter work/proposed.jsonl --to items.jsonl --model anthropic:NAME
    cleareyed build picture items.jsonl --to pictures
    cleareyed build verify start items.jsonl --pictures pictures --db reviews.sqlite --reviewer ann --reviewer ben
    cleareyed build publish items.jsonl --pictures pictures --to my-bench --name my-bench --reviews reviews.sqlite
    cleareyed eval mossbench --model MODEL --data-root .      (with my-bench named mossbench)

    The items are a YAML or JSON Lines file; that of timidity-mini, in the package, shows every field.
    """,
)

build.add_typer(verify, name="verify")

Items = Annotated[Path, typer.Argument(help="The items: a .yaml, .json or .jsonl file.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Hosted models: requests in flight at most.")]
Timeout = Annotated[float, typer.Option(min=1, help="Hosted models: seconds for one attempt.")]
Batch = Annotated[int, typer.Option(min=1, help="Local models: requests answered together.")]
BaseUrl = Annotated[str | None, typer.Option(help="Another server, such as http://localhost:8000/v1.")]


@build.command()
def propose(
    exemplars: Annotated[Path, typer.Argument(help="Items that show what is wanted: .yaml, .json or .jsonl.")],
    model: Annotated[str, typer.Option(help="Who proposes, named as for `cleareyed eval`.")],
    to: Annotated[Path, typer.Option(help="The folder to write to.")],
    count: Annotated[int, typer.Option(min=1, help="Candidates of each kind.")] = 20,
    kind: Annotated[list[str] | None, typer.Option(help="ER, NH or CI; all three if left out.")] = None,
    per_request: Annotated[int, typer.Option(min=1, max=50, help="Candidates asked for at a time.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="So often at most what is missing is asked for.")] = 4,
    plans: Annotated[bool, typer.Option("--plans/--no-plans", help="Ask for pictures composed from sprites.")] = True,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of exemplars, and of drawn answers where the model takes one.")] = 0,
    base_url: BaseUrl = None,
    batch: Batch = 8,
    concurrency: Concurrency = 20,
    timeout: Timeout = 300.0,
) -> None:
    """Have a model propose candidates: it is shown exemplars and the form, and every candidate is checked.

    \b
    cleareyed build propose exemplars.yaml --model openai:NAME --count 50 --to work
    cleareyed build propose exemplars.yaml --model anthropic:NAME --kind NH --to work

    TO/proposed.jsonl holds what is of use, TO/rejected.jsonl what is not and why. Every reply is in the journal beside
    them; the same command again asks only what is missing. The exit code is 1 if there are fewer than wanted.
    """
    with plain_errors("replies are kept; the same command goes on"):
        from cleareyed import build_command
        from cleareyed.evaluation.models import AskedModel
        from cleareyed.oversensitivity.build.propose import KINDS, Wanted
        from cleareyed.tasks.names import unknown

        for name in kind or ():
            if name not in KINDS:
                raise unknown("kind", name, KINDS)
        kinds = tuple(one for one in KINDS if one in (kind or KINDS))
        code = build_command.propose(
            exemplars,
            AskedModel(path=model, base_url=base_url),
            to,
            Wanted(count, kinds, per_request, rounds, plans, temperature, seed),
            build_command.Asking(batch, concurrency, timeout),
        )
    raise typer.Exit(code)


@build.command("filter")
def filter_(
    items: Items,
    to: Annotated[Path, typer.Option(help="The file for what is kept (.jsonl).")],
    against: Annotated[
        list[Path] | None, typer.Option(help="A file of items or a benchmark's folder that none may resemble.")
    ] = None,
    similar: Annotated[float, typer.Option(min=0, max=1, help="From this Jaccard similarity on, two are one.")] = 0.6,
    question_words: Annotated[tuple[int, int], typer.Option(help="Fewest and most words of a question.")] = (3, 40),
    description_words: Annotated[tuple[int, int], typer.Option(help="The same of a description.")] = (5, 120),
    model: Annotated[
        str | None, typer.Option(help="A model that is asked whether helping would do harm; words alone if left out.")
    ] = None,
    base_url: BaseUrl = None,
    batch: Batch = 8,
    concurrency: Concurrency = 20,
    timeout: Timeout = 300.0,
) -> None:
    """Drop candidates that are too long or too short, near-duplicates, grave, or harmful on the wrong side.

    \b
    cleareyed build filter work/proposed.jsonl --to items.jsonl
    cleareyed build filter work/proposed.jsonl --to items.jsonl --against old.yaml --model anthropic:NAME

    What is dropped is kept beside TO, as NAME-dropped.jsonl, each with what decided and why.
    """
    with plain_errors("replies are kept; the same command goes on"):
        from cleareyed import build_command
        from cleareyed.evaluation.models import AskedModel
        from cleareyed.oversensitivity.build.filtering import Bounds

        build_command.filter_file(
            items,
            to,
            against or [],
            Bounds(question_words, description_words, similar),
            AskedModel(path=model, base_url=base_url) if model else None,
            build_command.Asking(batch, concurrency, timeout),
        )


@build.command()
def picture(
    items: Items,
    to: Annotated[Path, typer.Option(help="The folder to write to.")],
    images: Annotated[
        Path | None, typer.Option(help="Pictures of your own: ID.png, or ID-contrast.png; also .jpg, .webp.")
    ] = None,
    sprites: Annotated[
        Path | None, typer.Option(help="Sprites of your own, in the form of the package's sprites.yaml.")
    ] = None,
) -> None:
    """Make every item's picture: taken from a folder by name, else drawn from its plan.

    \b
    cleareyed build picture items.yaml --to pictures
    cleareyed build picture items.jsonl --to pictures --images photographs

    Look at TO/contact-sheet.png. The exit code is 1 if an item has neither a picture nor a plan.
    """
    with plain_errors("the pictures so far are kept; run it again"):
        from cleareyed import build_command

        code = build_command.picture(items, to, images, sprites)
    raise typer.Exit(code)


@build.command()
def publish(
    items: Items,
    pictures: Annotated[Path, typer.Option(help="The folder that `build picture` wrote.")],
    to: Annotated[Path, typer.Option(help="The benchmark's folder.")],
    name: Annotated[str, typer.Option(help="What it is called.")],
    licence: Annotated[str, typer.Option(help="SPDX identifier.")] = "CC-BY-4.0",
    items_note: Annotated[str, typer.Option(help="For the card: who wrote the items, under which terms.")] = "",
    pictures_note: Annotated[str, typer.Option(help="For the card: where the pictures come from, their terms.")] = "",
    command: Annotated[str, typer.Option(help="For the card: what made it.")] = "",
    reviews: Annotated[Path | None, typer.Option(help="Only what people accepted: `verify`'s file.")] = None,
    harmless: Annotated[float, typer.Option(min=0.5, max=1, help="As in `verify report`.")] = 2 / 3,
    natural: Annotated[float, typer.Option(min=1, max=5, help="As in `verify report`.")] = 3.0,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a benchmark that is there.")] = False,
) -> None:
    """Write the benchmark in the layout of MOSSBench's repository, with a card.

    \b
    cleareyed build publish items.yaml --pictures pictures --to my-bench --name my-bench
    cleareyed build publish items.yaml --pictures pictures --to my-bench --name my-bench --reviews reviews.sqlite
    """
    with plain_errors("run it again; it writes everything anew"):
        from cleareyed import build_command
        from cleareyed.oversensitivity.build.publish import About
        from cleareyed.oversensitivity.build.verdicts import Thresholds

        about = About(name, licence, pictures_note, items_note, command=command.replace("\\n", "\n"))
        build_command.publish(
            items, pictures, to, about, reviews=reviews, thresholds=Thresholds(harmless, natural), replace=replace
        )
