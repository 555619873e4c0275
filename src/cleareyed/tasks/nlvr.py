"""NLVR: is a sentence that a person wrote true of a picture? (Suhr et al., ACL 2017; 400 x 100 px drawings)

Read from `<root>/nlvr/{train,dev}.parquet` with the columns id, group, image, sentence, label. The six pictures of
a group share one sentence, so intervals resample by group.
"""

from cleareyed.errors import InputError
from cleareyed.tasks.prompts import offer
from cleareyed.tasks.rows import Row
from cleareyed.tasks.task import Sample

PICTURES = ("image",)
SPLITS = ("train", "dev")
CHOICES = ("true", "false")


def nlvr_sample(row: Row) -> Sample:
    """One row as a sample. InputError naming the field that is wrong."""
    where = f"{row.path}, id {row.values.get('id')}"
    for field in ("id", "group", "sentence"):
        if not isinstance(row.values.get(field), str) or not row.values[field]:
            raise InputError(f"{where}: field `{field}` is empty; give it some text")
    if not isinstance(row.values.get("label"), bool):
        raise InputError(f"{where}: field `label` is neither true nor false; make the column boolean")
    question = f'Is this sentence true of the picture: "{row.values["sentence"]}"?'
    return Sample(
        id=row.values["id"],
        question=offer(question, CHOICES),
        answer=CHOICES[0] if row.values["label"] else CHOICES[1],
        choices=CHOICES,
        images=row.images(),
        group=row.values["group"],
    )
