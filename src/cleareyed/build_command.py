"""`cleareyed build`: what its steps print and write."""

import dataclasses
from pathlib import Path

from rich.console import Console

from cleareyed.errors import InputError
from cleareyed.oversensitivity.build.draw import load_sprites
from cleareyed.oversensitivity.build.items import read_items
from cleareyed.oversensitivity.build.pictures import SHEET, make_pictures
from cleareyed.oversensitivity.build.publish import About
from cleareyed.oversensitivity.build.publish import publish as publish_items
from cleareyed.oversensitivity.build.reviews import Reviews
from cleareyed.oversensitivity.build.verdicts import Thresholds, accepted_items, refuse_changed, report

SHOWN = 10
"""Names that are printed one by one."""


def say(text: str) -> None:
    """A line on the terminal, whatever is in it."""
    Console(highlight=False).print(text, markup=False, soft_wrap=True)


def picture(items: Path, to: Path, images: Path | None, sprites: Path | None) -> int:
    """Make the pictures; 1 if some are missing. InputError as `make_pictures` raises it."""
    made = make_pictures(read_items(items), to, images, load_sprites(sprites))
    say(f"{to}: {made.given} pictures given, {made.drawn} drawn; all of them on {to / SHEET}")
    if made.missing:
        say(f"missing: {len(made.missing)}, neither given in a folder nor planned:")
        for name in made.missing[:SHOWN]:
            say(f"  {name}")
        if len(made.missing) > SHOWN:
            say(f"  ... and {len(made.missing) - SHOWN} more")
    return 1 if made.missing else 0


def publish(
    items: Path,
    pictures: Path,
    to: Path,
    about: About,
    *,
    reviews: Path | None,
    thresholds: Thresholds,
    replace: bool,
) -> None:
    """Publish the items, or those that reviewers accepted.

    InputError as `publish_items` raises it; what was reviewed is something else; no item is left.
    """
    kept = read_items(items)
    if reviews is not None:
        with Reviews.open(reviews) as opened:
            refuse_changed(opened, kept, pictures)
            found = report(opened, thresholds)
        kept, out = accepted_items(kept, found)
        about = dataclasses.replace(about, reviewed=f"{found.sentence()} Only what they accepted is here.")
        for status, count in out.items():
            say(f"left out: {count} {status}")
        if not kept:
            raise InputError(f"{reviews}: no item is accepted on both sides; see `cleareyed build verify report`")
    sides = publish_items(kept, pictures, to, about, replace=replace)
    say(f"{to}: {sides['benign']} benign and {sides['contrast']} contrast questions, in pairs; see {to / 'README.md'}")
