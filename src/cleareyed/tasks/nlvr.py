"""NLVR: is a sentence that a person wrote true of a picture? (Suhr et al., ACL 2017; 400 x 100 px drawings)

Read from `<root>/nlvr/{train,dev}.parquet` with the columns id, group, image, sentence, label. The six pictures of
a group share one sentence, so intervals resample by group.
"""

from functools import partial
from pathlib import Path

from cleareyed.errors import InputError
from cleareyed.tasks.parquet import Cell, read_columns
from cleareyed.tasks.prompts import offer
from cleareyed.tasks.table import cell_image
from cleareyed.tasks.task import Sample, Task

SPLITS = ("train", "dev")
CHOICES = ("true", "false")


def nlvr_task(path: Path, name: str = "nlvr") -> Task:
    """The task in that file. InputError: a missing file or column, or an empty value."""
    rows = read_columns(path, ("id", "group", "sentence", "label"), lazy="image")
    return Task(name=name, samples=tuple(_sample(path, row, cell) for row, cell in rows))


def _sample(path: Path, row: dict[str, object], cell: Cell) -> Sample:
    where = f"{path}, id {row['id']}"
    for field in ("id", "group", "sentence"):
        if not isinstance(row[field], str) or not row[field]:
            raise InputError(f"{where}: field `{field}` is empty; give it some text")
    if not isinstance(row["label"], bool):
        raise InputError(f"{where}: field `label` is neither true nor false; make the column boolean")
    question = f'Is this sentence true of the picture: "{row["sentence"]}"?'
    return Sample(
        id=str(row["id"]),
        question=offer(question, CHOICES),
        answer=CHOICES[0] if row["label"] else CHOICES[1],
        choices=CHOICES,
        images=(partial(cell_image, cell, None, where),),
        group=str(row["group"]),
    )
