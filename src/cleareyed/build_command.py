"""`cleareyed build`: what its steps print and write."""

from pathlib import Path

from rich.console import Console

from cleareyed.oversensitivity.build.draw import load_sprites
from cleareyed.oversensitivity.build.items import read_items
from cleareyed.oversensitivity.build.pictures import SHEET, make_pictures
from cleareyed.oversensitivity.build.publish import About
from cleareyed.oversensitivity.build.publish import publish as publish_items

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


def publish(items: Path, pictures: Path, to: Path, about: About, *, replace: bool) -> None:
    """Publish the items. InputError as `publish_items` raises it."""
    sides = publish_items(read_items(items), pictures, to, about, replace=replace)
    say(f"{to}: {sides['benign']} benign and {sides['contrast']} contrast questions, in pairs; see {to / 'README.md'}")
