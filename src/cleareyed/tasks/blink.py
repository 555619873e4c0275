"""BLINK's relative depth and spatial relation: real photographs, two choices each (Fu et al., ECCV 2024).

Read from `<root>/blink/{relative_depth,spatial_relation}.parquet` with the columns id, image, prompt, answer. The
prompt ends with the lettered choices and is asked as it stands; the answer is a letter, `(A)`.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cleareyed.errors import InputError
from cleareyed.tasks.parquet import Cell, read_columns
from cleareyed.tasks.table import cell_image
from cleareyed.tasks.task import Sample, Task

FILES = ("relative_depth.parquet", "spatial_relation.parquet")

_CHOICE = re.compile(r"^\(([A-Z])\) (.+?)\s*$", re.MULTILINE)


def blink_task(paths: Sequence[Path], name: str = "blink") -> Task:
    """The sub-tasks in those files, one skill each. InputError: a missing file or column, or a malformed row."""
    samples = tuple(
        _sample(path, row, cell)
        for path in paths
        for row, cell in read_columns(path, ("id", "prompt", "answer"), lazy="image")
    )
    return Task(name=name, samples=samples)


def _sample(path: Path, row: dict[str, object], cell: Cell) -> Sample:
    where = f"{path}, id {row['id']}"
    prompt, answer = str(row["prompt"] or ""), str(row["answer"] or "")
    choices = dict(_CHOICE.findall(prompt))
    if list(choices) != [chr(ord("A") + index) for index in range(len(choices))] or len(choices) < 2:
        raise InputError(f"{where}: field `prompt` does not list choices as lines `(A) ...`, `(B) ...`; write them so")
    letter = answer.strip("()")
    if letter not in choices:
        raise InputError(f"{where}: field `answer` is `{answer}`, not one of ({'), ('.join(choices)}); correct it")
    return Sample(
        id=str(row["id"]),
        question=prompt,
        answer=choices[letter],
        choices=tuple(choices.values()),
        images=(partial(cell_image, cell, None, where),),
        skill=path.stem.replace("_", " ").title(),
    )
