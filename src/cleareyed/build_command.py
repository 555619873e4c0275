"""`cleareyed build`: what its steps print and write."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cleareyed.console import Display, say
from cleareyed.errors import InputError
from cleareyed.evaluation.ask import Summary
from cleareyed.evaluation.models import AskedModel, limits_of, open_answerer
from cleareyed.oversensitivity.build.asking import Asked
from cleareyed.oversensitivity.build.draw import load_sprites
from cleareyed.oversensitivity.build.filtering import Bounds, filter_items
from cleareyed.oversensitivity.build.items import Item, read_items, write_items, write_rows
from cleareyed.oversensitivity.build.pictures import SHEET, make_pictures
from cleareyed.oversensitivity.build.propose import Wanted
from cleareyed.oversensitivity.build.propose import propose as propose_items
from cleareyed.oversensitivity.build.publish import About
from cleareyed.oversensitivity.build.publish import publish as publish_items
from cleareyed.oversensitivity.build.reviews import Reviews
from cleareyed.oversensitivity.build.verdicts import Thresholds, accepted_items, refuse_changed, report
from cleareyed.report.words import visible
from cleareyed.tasks.mossbench import mossbench_samples
from cleareyed.tasks.names import counted

SHOWN = 10
"""Names that are printed one by one."""


@dataclass(frozen=True)
class Asking:
    """How hard a model is asked."""

    batch: int
    concurrency: int
    timeout: float


def propose(exemplars: Path, model: AskedModel, to: Path, wanted: Wanted, asking: Asking) -> int:
    """Have candidates proposed into the folder `to`; 1 if there are fewer than wanted.

    InputError as `propose_items` raises it, or the model cannot be reached.
    """
    shown, sprites = read_items(exemplars), load_sprites()
    with _asked(model, to / "proposals.journal.jsonl", asking, f"proposals by {model.path}") as asked:
        found = propose_items(asked, shown, sprites, wanted)
    write_items(to / "proposed.jsonl", found.items)
    write_rows(to / "rejected.jsonl", found.rejected)
    say(f"{to / 'proposed.jsonl'}: {len(found.items)} candidates; rejected: {sum(found.bad.values())}")
    _say_reasons(found.bad, to / "rejected.jsonl")
    for kind, count in found.missing.items():
        say(f"missing: {count} of kind {kind}; add rounds with --rounds, or ask another model")
    return 1 if found.missing else 0


def filter_file(
    items: Path, to: Path, against: Sequence[Path], bounds: Bounds, model: AskedModel | None, asking: Asking
) -> None:
    """Filter the items of a file into another. InputError as `filter_items` raises it, or no item is left."""
    candidates = read_items(items)
    others = [other for path in against for other in _others(path)]
    dropped_to = to.with_name(f"{to.stem}-dropped.jsonl")
    if model is None:
        found = filter_items(candidates, others, bounds)
    else:
        with _asked(
            model, to.with_name(f"{to.stem}-harm.journal.jsonl"), asking, f"harm check by {model.path}"
        ) as asked:
            found = filter_items(candidates, others, bounds, asked)
    rows = [
        {"by": one.by, "reason": one.reason, "item": one.item.model_dump(mode="json", exclude_defaults=True)}
        for one in found.dropped
    ]
    write_rows(dropped_to, rows)
    say(f"{to}: kept {len(found.kept)} of {len(candidates)}")
    _say_reasons(Counter(f"{one.by}: {one.reason}" for one in found.dropped), dropped_to)
    by = model.path if model is not None else "words alone; name a model with --model to have every side judged"
    say(f"harm was checked by {by}" + (f"; no verdict on {found.undecided} sides" if found.undecided else ""))
    elsewhere = f", to those from elsewhere {found.likest[1]:.2f}" if others else ""
    say(f"greatest similarity among the kept: {found.likest[0]:.2f}{elsewhere}")
    if not found.kept:
        raise InputError(f"{items}: no item is left; see {dropped_to}")
    write_items(to, found.kept)


def picture(items: Path, to: Path, images: Path | None, sprites: Path | None) -> int:
    """Make the pictures; 1 if some are missing. InputError as `make_pictures` raises it."""
    made = make_pictures(read_items(items), to, images, load_sprites(sprites))
    say(f"{to}: {counted(made.given, 'picture')} given, {made.drawn} drawn; all of them on {to / SHEET}")
    if made.missing:
        say(f"missing: {len(made.missing)}, neither given in a folder nor planned:")
        for name in made.missing[:SHOWN]:
            say(f"  {name}")
        if len(made.missing) > SHOWN:
            say(f"  ... and {len(made.missing) - SHOWN} more")
    return 1 if made.missing else 0


@contextmanager
def _asked(model: AskedModel, journal: Path, asking: Asking, title: str) -> Iterator[Asked]:
    from cleareyed.eval_command import quiet  # brings in all of the statistics
    from cleareyed.eval_text import progress_text

    quiet(model)
    answerer = open_answerer(model, asking.batch)
    limits = limits_of(model, asking.batch, asking.concurrency, asking.timeout)
    with Display(title) as display:

        def progress(summary: Summary) -> None:
            display.status(title, summary.reused + summary.asked, summary.total or 0, progress_text(summary))

        with Asked(answerer, limits, model.speaks_chat, journal, progress) as asked:
            yield asked


def _others(path: Path) -> list[Item]:
    """The items of a file, or the benign ones of a benchmark's folder."""
    if not path.is_dir():
        return list(read_items(path))
    samples = mossbench_samples(path, "benign")
    return [
        Item.model_construct(id=f"{path.name}/{one.id}", description=one.columns["description"], question=one.question)
        for one in samples
    ]


def _say_reasons(reasons: Mapping[str, int], where: Path) -> None:
    for reason, count in Counter(reasons).most_common(SHOWN):
        say(f"  {counted(count, 'time')}: {visible(reason)}")
    if len(reasons) > SHOWN:
        say(f"  and {len(reasons) - SHOWN} other reasons: see {where}")


def publish(
    items: Path,
    pictures: Path,
    to: Path,
    about: About,
    *,
    reviews: Path | None,
    thresholds: Thresholds,
    replace: bool,
) -> None:
    """Publish the items, or those that reviewers accepted.

    InputError as `publish_items` raises it; what was reviewed is something else; no item is left.
    """
    kept = read_items(items)
    if reviews is not None:
        with Reviews.open(reviews) as opened:
            refuse_changed(opened, kept, pictures)
            found = report(opened, thresholds)
        kept, out = accepted_items(kept, found)
        about = dataclasses.replace(about, reviewed=f"{found.sentence()} Only what they accepted is here.")
        for status, count in out.items():
            say(f"left out: {count} {status}")
        if not kept:
            raise InputError(f"{reviews}: no item is accepted on both sides; see `cleareyed build verify report`")
    sides = publish_items(kept, pictures, to, about, replace=replace)
    say(f"{to}: {sides['benign']} benign and {sides['contrast']} contrast questions, in pairs; see {to / 'README.md'}")
