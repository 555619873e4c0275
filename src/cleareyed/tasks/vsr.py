"""VSR: is a statement about where things are true of a photograph? (Liu et al., TACL 2023)

Columns as published in JSONL: image (a COCO file name), image_link, caption, label (1: true, 0: false), relation,
annotator_id, vote_true_validator_id, vote_false_validator_id. The photographs are COCO 2017's train and validation
pictures, published apart; in parquet the image column may hold them. Asked in the words of VisualThinker-R1-Zero's
evaluation (arXiv 2503.05132, its development code).
"""

from pathlib import PurePosixPath

from cleareyed.errors import InputError
from cleareyed.tasks.rows import Row
from cleareyed.tasks.task import Sample

PICTURES = ("image",)
SPLITS = ("train", "dev", "test")
CHOICES = ("True", "False")

_LABELS = {"1": 0, "true": 0, "0": 1, "false": 1}


def vsr_sample(row: Row, split: str) -> Sample:
    """One row as a sample. Statements about one photograph are one group. InputError naming the wrong field."""
    label = str(row.values.get("label")).strip().lower()
    if label not in _LABELS:
        raise InputError(f"{row.where}: field `label` is `{label[:80]}`; write 1 for true or 0 for false")
    return Sample(
        id=f"vsr-{split}/{row.number:05d}",
        question=(
            f'Please analyze the provided image. Does the statement "{row.text("caption")}" accurately describes '
            "what you see? Choose from (A) True or (B) False."
        ),
        answer=CHOICES[_LABELS[label]],
        choices=CHOICES,
        images=row.images(),
        group=PurePosixPath(row.optional("image_link")).name,
        columns={"relation": row.optional("relation")},
    )
