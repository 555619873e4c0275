"""A page to review on, for one reviewer: a single HTML file that needs no network and gives back JSON Lines."""

import base64
import json
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment

from cleareyed.oversensitivity.build.answers import ANSWERS, ASKED, QUESTIONS
from cleareyed.oversensitivity.build.items import write_whole
from cleareyed.oversensitivity.build.reviews import Reviews

MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


def write_page(reviews: Reviews, name: str, path: Path) -> int:
    """Write the page with everything `name` has still to answer; returns how many entries.

    InputError: no such reviewer.
    """
    shown = []
    for entry in reviews.waiting(name):
        data = base64.b64encode(reviews.picture(entry.entry)).decode()
        shown.append(
            {
                "entry": entry.entry,
                "question": entry.question,
                "image": f"data:{MEDIA.get(entry.suffix, 'image/png')};base64,{data}",
            }
        )
    held = {
        "reviewer": name,
        "entries": shown,
        "asked": [{"name": asked, "question": QUESTIONS[asked], "answers": list(ANSWERS[asked])} for asked in ASKED],
    }
    template = files("cleareyed.oversensitivity.build").joinpath("page.html.j2").read_text("utf-8")
    page = Environment(autoescape=True).from_string(template)
    write_whole(path, page.render(reviewer=name, data=_for_script(json.dumps(held))))
    return len(shown)


def _for_script(text: str) -> str:
    """JSON that cannot end the element it stands in."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
