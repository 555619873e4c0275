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
