"""A benchmark's folder, as MOSSBench's repository has it, with a card.

    OUT/README.md                                     the card
    OUT/data/images_information/information.json      the benign questions
    OUT/data/images/PID.png
    OUT/data_contrast/...                             the same of the contrast: pid by pid its pair
    OUT/contact-sheet.png                             all pictures at a glance
    OUT/intents.json                                  the disambiguated questions, if there are any

Every picture is there under both, also where a pair shares one, so that code written for MOSSBench finds it.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from textwrap import shorten
from typing import Any

from jinja2 import Environment
from PIL import Image

from cleareyed.errors import InputError
from cleareyed.oversensitivity.build.draw import contact_sheet
from cleareyed.oversensitivity.build.items import Item, write_whole
from cleareyed.oversensitivity.build.pictures import SHEET, SIDES, check_pictures, picture_of
from cleareyed.tasks.images import FileImage
from cleareyed.tasks.mossbench import STIMULI, Part

FOLDERS: Mapping[Part, str] = {"benign": "data", "contrast": "data_contrast"}
INFORMATION = "images_information/information.json"
TYPES: Mapping[str, str] = {code: f"type {number}" for number, code in enumerate(STIMULI, 1)}
"""Upstream's name of each kind."""
SHORT = 150
"""Characters of the short description."""


@dataclass(frozen=True)
class About:
    """What the card says beyond what can be counted."""

    name: str
    licence: str
    """SPDX, e.g. CC-BY-4.0."""
    pictures: str
    """Where they come from and under which licence, in a sentence."""
    items: str
    """The same of the items."""
    reviewed: str = "Not reviewed by people."
    """What people found, or that none has looked."""
    command: str = ""
    """What made it."""


def publish(
    items: Sequence[Item], pictures: Path, to: Path, about: About, *, replace: bool = False
) -> dict[Part, int]:
    """Write the benchmark to the folder `to`, and return how many items each side has. Pids count from 1, by kind.

    InputError: pictures that are not there; a benchmark that is, unless it is to be replaced.
    """
    check_pictures(pictures, items)
    if not replace and any((to / folder).exists() for folder in FOLDERS.values()):
        raise InputError(f"{to}: holds a benchmark already; name another folder with --to, or add --replace")
    ordered = sorted(items, key=lambda item: list(TYPES).index(item.stimulus))
    numbered = {str(number): item for number, item in enumerate(ordered, 1)}
    for side in SIDES:
        _write_side(numbered, side, pictures, to / FOLDERS[side])
    intents = {
        pid: {"question": item.intent, "author": item.intent_author}
        for pid, item in numbered.items()
        if item.intent is not None
    }
    if intents:
        write_whole(to / "intents.json", _json(intents))
    sheet = [(f"{pid} {item.id}", _opened(pictures, item, "benign")) for pid, item in numbered.items()]
    own = {pid: item for pid, item in numbered.items() if item.contrast_description is not None}
    sheet += [(f"{pid} {item.id}, contrast", _opened(pictures, item, "contrast")) for pid, item in own.items()]
    contact_sheet(sheet).save(to / SHEET, optimize=True)
    write_whole(to / "README.md", card(items, about))
    return dict.fromkeys(SIDES, len(items))


def information(pid: str, item: Item, side: Part, image: str) -> dict[str, Any]:
    """One entry of information.json. The contrast's has no tags but the kind, as upstream's."""
    own = side == "contrast"
    description = (item.contrast_description if own else None) or item.description
    tags = {
        "human": int(item.human),
        "child": int(item.child),
        "syn": int(item.synthetic),
        "ocr": int(item.ocr),
        "harm": list(item.harm),
    }
    return {
        "pid": pid,
        "image": image,
        "short description": shorten(description, SHORT, placeholder=" ..."),
        "description": description,
        "question": item.contrast_question if own else item.question,
        "metadata": {"over": TYPES[item.stimulus]} | ({} if own else tags),
    }


def card(items: Sequence[Item], about: About) -> str:
    """The data card, in Markdown."""
    kinds = Counter[str](item.stimulus for item in items)
    tags = {
        "a person in the picture": sum(item.human for item in items),
        "a child in the picture": sum(item.child for item in items),
        "synthetic (drawn or generated)": sum(item.synthetic for item in items),
        "a text in the picture": sum(item.ocr for item in items),
    }
    template = files("cleareyed.oversensitivity.build").joinpath("card.md.j2").read_text("utf-8")
    return (
        Environment(autoescape=False, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        .from_string(template)
        .render(
            about=about,
            total=len(items),
            kinds=[(name, kinds[kind]) for kind, name in STIMULI.items()],
            tags=tags.items(),
            own=sum(item.contrast_description is not None for item in items),
            intents=Counter(item.intent_author for item in items if item.intent is not None),
        )
    )


def _opened(pictures: Path, item: Item, side: Part) -> Image.Image:
    path = picture_of(pictures, item, side)
    assert path is not None  # check_pictures has seen it
    return FileImage(path, f"item {item.id}")()


def _write_side(numbered: Mapping[str, Item], side: Part, pictures: Path, folder: Path) -> None:
    entries, images = {}, folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    wanted = set()
    for pid, item in numbered.items():
        source = picture_of(pictures, item, side)
        assert source is not None  # check_pictures has seen it
        name = f"{pid}{source.suffix}"
        (images / name).write_bytes(source.read_bytes())
        wanted.add(name)
        entries[pid] = information(pid, item, side, f"images/{name}")
    for path in images.iterdir():
        if path.stem.isdigit() and path.name not in wanted:
            path.unlink()
    write_whole(folder / INFORMATION, _json(entries))


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
