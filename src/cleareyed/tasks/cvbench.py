"""CV-Bench: counting, relation, depth and distance, 2,638 items (Tong et al., Cambrian-1, arXiv 2406.16860).

Columns as published: idx, type (2D or 3D), task, image, question, choices, answer (`(A)`), prompt, filename, source
(ADE20K, COCO or Omni3D), source_dataset, source_filename, target_class, target_size, bbox. Also read: its JSONL,
whose `filename` names the picture, and the TSV form with a column for each letter. The `prompt` column, which ends
with the lettered choices, is asked as it stands.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cleareyed.errors import InputError
from cleareyed.tasks.choices import by_letter, distinct, lettered_lines, listed_choices
from cleareyed.tasks.names import unknown
from cleareyed.tasks.rows import Row
from cleareyed.tasks.task import Sample

PICTURES = ("image",)
SKILLS = ("Count", "Relation", "Depth", "Distance")
FILES = (
    ("test.parquet",),
    ("test_2d.parquet", "test_3d.parquet"),
    ("test.jsonl",),
    ("test_2d.jsonl", "test_3d.jsonl"),
    ("CV-Bench-2D.tsv", "CV-Bench-3D.tsv"),
)
"""What the published files are called; the first of these sets that is there is read."""

SIZES: Mapping[str, int] = {"Count": 788, "Relation": 650, "Depth": 600, "Distance": 600}

_USED = ("image", "question", "choices", "answer", "prompt", "task", "category", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def cvbench_sample(row: Row) -> Sample:
    """One row as a sample. InputError naming the field that is wrong."""
    kind, source = row.text("type", "split"), row.text("source")
    skill = row.text("task", "category")
    if skill not in SKILLS:
        raise unknown(f"task in {row.where}", skill, SKILLS)
    prompt = row.text("prompt")
    held = listed_choices(row, "choices")
    choices = lettered_lines(prompt) or held
    if len(choices) != len(held):
        raise InputError(
            f"{row.where}: field `prompt` lists {len(choices)} choices, `choices` {len(held)}; correct it"
        )
    choices = distinct(choices)
    shared = row.optional("source_filename")
    return Sample(
        id=f"{kind}/{row.text('idx', 'index')}",
        question=prompt,
        answer=by_letter(row.where, row.text("answer"), choices),
        choices=choices,
        images=row.images(),
        skill=skill,
        group=f"{source}/{shared}" if shared else "",
        columns={"type": kind, "source": source, **row.others(*_USED, "type", "split", "source", "idx", "index")},
    )


@dataclass(frozen=True)
class CvBenchTotals:
    """CV-Bench's totals, as shares from 0 to 1."""

    micro: float
    """Over all items alike, as VisualThinker-R1-Zero and lmms-eval report it."""
    by_source: Mapping[str, tuple[int, int]]
    """Source to the numbers of right answers and of items."""
    two_d: float | None
    """The mean of the accuracies on ADE20K and COCO; None where either has no items."""
    three_d: float | None
    """The accuracy on Omni3D; None where it has no items."""
    averaged: float | None
    """The benchmark's own total: the mean of `two_d` and `three_d` (Cambrian-1, appendix C)."""


def cvbench_totals(rows: Iterable[tuple[str, bool]]) -> CvBenchTotals:
    """Both totals from each item's source and whether its answer was right. ValueError: no rows.

    The sources are told apart without regard to case.
    """
    counts: dict[str, tuple[int, int]] = {}
    for source, correct in rows:
        right, items = counts.get(source.lower(), (0, 0))
        counts[source.lower()] = (right + bool(correct), items + 1)
    if not counts:
        raise ValueError("no rows to total")
    share = {source: right / items for source, (right, items) in counts.items()}
    two_d = (share["ade20k"] + share["coco"]) / 2 if {"ade20k", "coco"} <= share.keys() else None
    three_d = share.get("omni3d")
    return CvBenchTotals(
        micro=sum(right for right, _ in counts.values()) / sum(items for _, items in counts.values()),
        by_source=counts,
        two_d=two_d,
        three_d=three_d,
        averaged=(two_d + three_d) / 2 if two_d is not None and three_d is not None else None,
    )
