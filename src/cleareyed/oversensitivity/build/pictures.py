"""The pictures of a benchmark's items: given in a folder by name, or drawn from their plans."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cleareyed.errors import InputError
from cleareyed.oversensitivity.build.draw import Sprites, contact_sheet, draw, save_picture
from cleareyed.oversensitivity.build.items import Item
from cleareyed.tasks.images import FileImage
from cleareyed.tasks.mossbench import Part
from cleareyed.tasks.names import counted

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
CONTRAST = "-contrast"
"""Behind an item's id in the name of its contrast's own picture."""
SHEET = "contact-sheet.png"

SIDES: tuple[Part, ...] = ("benign", "contrast")


@dataclass(frozen=True)
class Made:
    """What `make_pictures` did."""

    given: int
    """Taken as they were from a folder."""
    drawn: int
    missing: tuple[str, ...]
    """Names of pictures that are neither in the folder nor planned."""


def needed(item: Item) -> tuple[str, ...]:
    """The names of the item's pictures, without suffix: one, or two where the contrast has its own."""
    return (item.id, item.id + CONTRAST) if item.contrast_description is not None else (item.id,)


def picture_of(folder: Path, item: Item, side: Part) -> Path | None:
    """The picture file of one side of an item; None if it is not there."""
    return _find(folder, needed(item)[-1] if side == "contrast" else item.id)


def make_pictures(items: Sequence[Item], to: Path, given: Path | None, sprites: Sprites) -> Made:
    """Every picture of `items` in the folder `to`, and all of them on one page, `contact-sheet.png`.

    A picture in `given` whose name is the item's id (behind it `-contrast` for the contrast's own) is taken byte for
    byte; the others are drawn. InputError: one given cannot be decoded, or a plan names what there is not.
    """
    if given is not None and not given.is_dir():
        raise InputError(f"{given}: no such folder; correct --images")
    counts, missing = {"given": 0, "drawn": 0}, []
    shown: list[tuple[str, Path]] = []
    to.mkdir(parents=True, exist_ok=True)
    for item in items:
        for name, plan in zip(needed(item), (item.picture, item.contrast_picture), strict=False):
            found = _find(given, name) if given is not None else None
            if found is not None:
                source = FileImage(found, f"item {item.id}")
                source()  # a picture that cannot be decoded is found here, not by those who load the benchmark
                path = to / f"{name}{found.suffix}"
                path.write_bytes(source.data())
                counts["given"] += 1
            elif plan is not None:
                path = to / f"{name}.png"
                save_picture(draw(plan, sprites, f"item {item.id}"), path)
                counts["drawn"] += 1
            else:
                missing.append(name)
                continue
            shown.append((name, path))
    contact_sheet([(name, FileImage(path, name)()) for name, path in shown]).save(to / SHEET, optimize=True)
    return Made(counts["given"], counts["drawn"], tuple(missing))


def check_pictures(folder: Path, items: Iterable[Item]) -> None:
    """InputError naming the pictures that `folder` does not hold."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; make the pictures with `cleareyed build picture`")
    missing = [name for item in items for name in needed(item) if _find(folder, name) is None]
    if missing:
        named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise InputError(
            f"{folder}: {counted(len(missing), 'picture is', 'pictures are')} missing ({named}); "
            "add them, or leave the items out"
        )


def _find(folder: Path, name: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)
