"""BLINK: fourteen sub-tasks of visual perception over one to four pictures (Fu et al., ECCV 2024).

Read as published (columns idx, question, sub_task, image_1 to image_4, choices, answer, prompt), or with the columns
id, image, prompt, answer. The prompt ends with the lettered choices and is asked as it stands; the answer is a
letter, `(A)`. The published test split holds no answers, so `val` is what is evaluated.
"""

from collections.abc import Sequence
from pathlib import Path

from cleareyed.errors import InputError
from cleareyed.tasks.choices import by_letter, distinct, lettered_lines, listed_choices
from cleareyed.tasks.rows import Row
from cleareyed.tasks.task import Sample

PICTURES = ("image", "image_1", "image_2", "image_3", "image_4")

PAPER = ("Relative_Depth", "Spatial_Relation")
"""The sub-tasks that VisualThinker-R1-Zero reports (arXiv 2503.05132, table 3): the task `blink`."""

SUBTASKS = (
    "Art_Style",
    "Counting",
    "Forensic_Detection",
    "Functional_Correspondence",
    "IQ_Test",
    "Jigsaw",
    "Multi-view_Reasoning",
    "Object_Localization",
    *PAPER,
    "Relative_Reflectance",
    "Semantic_Correspondence",
    "Visual_Correspondence",
    "Visual_Similarity",
)
"""All of them: the task `blink-all`."""


def blink_files(folder: Path, subtasks: Sequence[str]) -> list[Path]:
    """A parquet file for each sub-task: `relative_depth.parquet`, or as published `Relative_Depth/val-*.parquet`.

    InputError naming the first that is missing.
    """
    files: list[Path] = []
    for subtask in subtasks:
        published = sorted((folder / subtask).glob("val-*.parquet"))
        files += published or [folder / f"{subtask.lower()}.parquet"]
        if not files[-1].is_file():
            raise InputError(f"{files[-1]}: no such file, nor {folder / subtask}/val-*.parquet; check the data root")
    return files


def blink_sample(row: Row) -> Sample:
    """One row as a sample. InputError naming the field that is wrong."""
    for field in ("prompt", "answer"):
        if field not in row.values:
            raise InputError(f"{row.path}: column `{field}` is missing (columns: {', '.join(row.values)}); add it")
    identity = row.text("id", "idx")
    where = f"{row.path}, id {identity}"
    prompt = row.text("prompt")
    choices = lettered_lines(prompt)
    if not choices and row.values.get("choices") is None:
        raise InputError(f"{where}: field `prompt` does not list choices as lines `(A) ...`, `(B) ...`; write them so")
    choices = distinct(choices or listed_choices(row, "choices"))
    return Sample(
        id=identity,
        question=prompt,
        answer=by_letter(where, row.text("answer"), choices),
        choices=choices,
        images=row.images(),
        skill=_skill(row),
    )


def _skill(row: Row) -> str:
    given = row.optional("sub_task", "skill", "category") or row.path.stem
    known = {name.lower(): name for name in SUBTASKS}
    return known.get(given.replace(" ", "_").lower(), given.title()).replace("_", " ")
