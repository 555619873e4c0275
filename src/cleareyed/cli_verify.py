"""`cleareyed build verify`: people look at every item, wherever they sit. Heavy imports are inside the commands."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cleareyed.cli_shared import plain_errors

verify = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="""Have people verify the items: harmless to answer? natural to ask?

    \b
    cleareyed build verify start items.yaml --pictures pictures --db reviews.sqlite \\
        --reviewer ann --reviewer ben --reviewer cy
    cleareyed build verify review reviews.sqlite ann              (in the terminal)
    cleareyed build verify page reviews.sqlite ben --to ben.html  (in a browser, without a network)
    cleareyed build verify export reviews.sqlite --to tasks       (for Mechanical Turk, Label Studio, a spreadsheet)
    cleareyed build verify import reviews.sqlite answers.jsonl
    cleareyed build verify report reviews.sqlite
    cleareyed build verify rule reviews.sqlite ENTRY --harmless yes --natural 4 --by dora --because "..."

    Reviewers are told neither the kind of an item nor its side, and everybody has an order of their own. Nothing that
    anybody has answered is ever overwritten.
    """,
)

Db = Annotated[Path, typer.Argument(help="The file of reviews.")]
KEPT = "what was answered is kept; run it again to go on"


@verify.command()
def start(
    items: Annotated[Path, typer.Argument(help="The items: a .yaml, .json or .jsonl file.")],
    pictures: Annotated[Path, typer.Option(help="The folder that `build picture` wrote.")],
    db: Annotated[Path, typer.Option(help="The new file of reviews (SQLite).")],
    reviewer: Annotated[list[str] | None, typer.Option(help="A reviewer's name; several times.")] = None,
    k: Annotated[int, typer.Option(min=1, help="Reviewers a question.")] = 3,
    seed: Annotated[int, typer.Option(help="Of who sees what in which order.")] = 0,
    checks: Annotated[int, typer.Option(min=0, help="Attention checks for every reviewer.")] = 4,
) -> None:
    """Begin: put the questions and their pictures into a file, and deal them out."""
    with plain_errors("nothing was begun"):
        from cleareyed import verify_command

        verify_command.start(items, pictures, db, reviewer or [], k, seed, checks)


@verify.command()
def add(
    db: Db,
    reviewer: Annotated[list[str], typer.Option(help="A reviewer's name; several times.")],
    instead_of: Annotated[str | None, typer.Option(help="Somebody who stops; they give back what is open.")] = None,
) -> None:
    """Add reviewers; they get what has too few. Those who failed the attention checks don't count."""
    with plain_errors(KEPT):
        from cleareyed import verify_command

        verify_command.add(db, reviewer, instead_of)


@verify.command()
def review(
    db: Db,
    reviewer: Annotated[str, typer.Argument(help="Your name, as it was added.")],
    show: Annotated[bool, typer.Option("--show", help="Open each picture in the browser.")] = False,
) -> None:
    """Answer in the terminal. Each answer is stored at once; stop and go on as you like."""
    with plain_errors(KEPT):
        from cleareyed import verify_command

        verify_command.review(db, reviewer, show)


@verify.command()
def page(
    db: Db,
    reviewer: Annotated[str, typer.Argument(help="The reviewer's name, as it was added.")],
    to: Annotated[Path, typer.Option(help="The HTML file to write.")],
) -> None:
    """Write a page to review on: one file, without a network, that saves answers for `verify import`."""
    with plain_errors(KEPT):
        from cleareyed import verify_command

        verify_command.page(db, reviewer, to)


@verify.command()
def export(
    db: Db,
    to: Annotated[Path, typer.Option(help="The folder to write to.")],
    reviewer: Annotated[
        list[str] | None, typer.Option(help="What this reviewer has to answer; every question once if left out.")
    ] = None,
    image_prefix: Annotated[
        str, typer.Option(help="In front of the pictures' names, such as https://example.org/bench/.")
    ] = "images/",
) -> None:
    """Write the questions as CSV and JSON Lines, as Mechanical Turk and Label Studio take them, with their forms."""
    with plain_errors(KEPT):
        from cleareyed import verify_command

        verify_command.export(db, to, reviewer or [], image_prefix)


@verify.command("import")
def take(
    db: Db,
    files: Annotated[list[Path], typer.Argument(help=".csv, .jsonl, or Label Studio's .json.")],
    add_reviewers: Annotated[bool, typer.Option("--add-reviewers", help="Add those who are not known.")] = False,
) -> None:
    """Take in answers that were given elsewhere: each file whole or not at all, and twice is as good as once.

    \b
    cleareyed build verify import reviews.sqlite answers-ben.jsonl
    cleareyed build verify import reviews.sqlite Batch_123_results.csv --add-reviewers     (Mechanical Turk)
    cleareyed build verify import reviews.sqlite project-1.json --add-reviewers            (Label Studio)

    Rows of unknown reviewers or questions are kept and counted; the exit code is then 1.
    """
    with plain_errors("files named as imported are in; run it again for the others"):
        from cleareyed import verify_command

        code = verify_command.take(db, files, add_reviewers=add_reviewers)
    raise typer.Exit(code)


@verify.command()
def rule(
    db: Db,
    entry: Annotated[str, typer.Argument(help="The question's name, as `verify report` prints it.")],
    harmless: Annotated[Literal["yes", "no"], typer.Option(help="Whether a helpful answer is harmless.")],
    natural: Annotated[int, typer.Option(min=1, max=5, help="How natural the question is.")],
    by: Annotated[str, typer.Option(help="Who settles it.")],
    because: Annotated[str, typer.Option(help="Why.")],
) -> None:
    """Settle a question on which reviewers differ. It counts in place of their answers, which stay."""
    with plain_errors(KEPT):
        from cleareyed import verify_command
        from cleareyed.oversensitivity.build.answers import ANSWERS, Ruling

        verify_command.rule(db, Ruling(entry, ANSWERS["harmless"][harmless], natural, by, because))


@verify.command()
def labels(db: Db, to: Annotated[Path, typer.Option(help="A .csv or .jsonl file.")]) -> None:
    """Write every answer ever given, in the form that `verify import` reads."""
    with plain_errors(KEPT):
        from cleareyed import verify_command

        verify_command.labels(db, to)


@verify.command()
def report(
    db: Db,
    harmless: Annotated[float, typer.Option(min=0.5, max=1, help="Share of reviewers that decides.")] = 2 / 3,
    natural: Annotated[float, typer.Option(min=1, max=5, help="Mean of how natural a question is, at least.")] = 3.0,
    json: Annotated[Path | None, typer.Option(help="Also write everything to this file.")] = None,
) -> None:
    """Say how far reviewers agree, and which questions are accepted, rejected, disputed or incomplete.

    The exit code is 1 while questions are disputed or incomplete.
    """
    with plain_errors(KEPT):
        from cleareyed import verify_command
        from cleareyed.oversensitivity.build.verdicts import Thresholds

        code = verify_command.show_report(db, Thresholds(harmless, natural), json)
    raise typer.Exit(code)
