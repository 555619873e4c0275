"""`cleareyed data`: check a data set, prepare it, and say what was found."""

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from cleareyed.tasks.names import counted
from cleareyed.tasks.prepare import Prepared, Wanted, prepare

SHOWN_BAD = 10


def data(name: str, source: str, to: Path, split: str | None, images: Path | None, wanted: Wanted) -> None:
    """Prepare `source` as `TO/NAME/SPLIT.parquet` and print what was found. InputError as `prepare` raises it."""
    console = Console(highlight=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        pictures = bar.add_task("pictures", total=None)
        found = prepare(
            name,
            source,
            to,
            split=split,
            images=images,
            wanted=wanted,
            progress=lambda done, total: bar.update(pictures, completed=done, total=total),
        )
    for line in summary(found):
        console.print(line, markup=False, soft_wrap=True)


def summary(found: Prepared) -> list[str]:
    """What was written and found, a line each."""
    low, middle, high = found.sides
    size = found.picture_bytes / 1e6
    lines = [f"{found.file}: {counted(found.samples, 'sample')} of task {found.task}, split {found.split}"]
    lines += [f"  {skill}: {count}" for skill, count in found.skills.items() if skill]
    lines.append(
        f"pictures: {found.pictures}, distinct {found.distinct_pictures} ({size:.1f} MB, sides {low} to {high} px, "
        f"median {middle}); samples with several: {found.multi_image}"
    )
    if found.gold:
        places = ", ".join(f"{letter} {count / found.samples:.1%}" for letter, count in found.gold.items())
        lines.append(f"right choice by place: {places}")
    lines.append(f"duplicates: {found.duplicates}; same question, other answer: {found.contradictions}; both kept")
    if found.missing:
        lines.append(f"without their pictures, kept and not asked: {len(found.missing)} ({', '.join(found.missing)})")
    left_out = [f"  {reason}: {count}" for reason, count in found.left_out.items()]
    lines += [f"left out: {sum(found.left_out.values())}", *left_out]
    lines += [f"  {line}" for line in found.bad_rows[:SHOWN_BAD]]
    if len(found.bad_rows) > SHOWN_BAD:
        lines.append(f"  ... and {len(found.bad_rows) - SHOWN_BAD} more bad rows in {Path(found.file).stem}.json")
    return lines + [f"note: {note}" for note in found.notes]
