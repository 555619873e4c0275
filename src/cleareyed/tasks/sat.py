"""SAT: spatial questions over one or two pictures, most of them rendered (Ray et al., arXiv 2412.07755).

Columns as published: image_bytes (a list), question, answers (a list), question_type, correct_answer. The splits
are train (static and dynamic questions), static, val and test (150 real photographs' questions). A question is asked
in the words that VisualThinker-R1-Zero trained on (arXiv 2503.05132, its code):
`Answer in natural language. QUESTION Choose between the following options: a, b or c`.

Its authors' preparation took the first 15,000 rows of the file, shuffled choices without a seed, and split the list
of choices at ", ", which breaks choices that contain commas. Here choices are read as a list, their order is a
function of (seed, id), and which rows are kept is for `cleareyed data` to say and to count.
"""

from hashlib import sha256

from cleareyed.errors import InputError
from cleareyed.tasks.choices import listed_choices
from cleareyed.tasks.prompts import offer
from cleareyed.tasks.rows import Row
from cleareyed.tasks.task import Sample

PICTURES = ("image_bytes",)
SPLITS = ("train", "static", "val", "test")
SHUFFLED = ("train", "static")
"""The splits whose choices are shuffled unless told otherwise; the others are evaluated as published."""

_WORDS = "Answer in natural language."


def sat_sample(row: Row, split: str, seed: int | None = None) -> Sample:
    """One row as a sample; its skill is the question type, its id the row's number in the published file.

    With a `seed` the choices come in an order drawn from (seed, id); without one as published. Choices listed
    twice are one choice. InputError naming the field that is wrong.
    """
    identity = f"sat-{split}/{row.number:06d}"
    answer = row.text("correct_answer")
    choices = list(dict.fromkeys(listed_choices(row, "answers")))
    if answer not in choices:
        raise InputError(
            f"{row.where}: field `answers` ({'; '.join(choices)[:200]}) does not hold the correct answer "
            f"`{answer[:80]}`; write it as one of them, word for word"
        )
    if len(choices) < 2:
        raise InputError(f"{row.where}: field `answers` holds one choice only; list at least two")
    if seed is not None:
        choices.sort(key=lambda choice: sha256(f"{seed}\n{identity}\n{choice}".encode()).digest())
    question = row.text("question").removeprefix("<image>").strip()
    asked = question if question.startswith(_WORDS) else f"{_WORDS} {question}"
    return Sample(
        id=identity,
        question=offer(asked, choices),
        answer=answer,
        choices=tuple(choices),
        images=row.images(),
        skill=row.text("question_type"),
    )
