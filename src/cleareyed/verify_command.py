"""`cleareyed build verify`: reviewing in the terminal, and what its commands print."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table
from rich.text import Text

from cleareyed.console import say, table_console
from cleareyed.errors import InputError
from cleareyed.oversensitivity.build.agreement import Agreement
from cleareyed.oversensitivity.build.answers import ANSWERS, ASKED, QUESTIONS, Asked, Label, Ruling
from cleareyed.oversensitivity.build.exchange import export_labels, export_tasks, read_labels
from cleareyed.oversensitivity.build.items import read_items, write_whole
from cleareyed.oversensitivity.build.page import write_page
from cleareyed.oversensitivity.build.reviews import Reviews, now
from cleareyed.oversensitivity.build.verdicts import STATUSES, Report, Thresholds, report
from cleareyed.report.words import percent, visible
from cleareyed.tasks.names import counted

SHOWN = 10
"""Names and reasons that are printed one by one."""
SKIP, BACK, STOP = "s", "b", "q"


def start(items: Path, pictures: Path, db: Path, reviewers: Sequence[str], k: int, seed: int, checks: int) -> None:
    """Begin a file of reviews. InputError as `Reviews.create` and `add` raise it."""
    if len(set(reviewers)) < len(reviewers):
        raise InputError("--reviewer: a name is given twice; name every reviewer once")
    with Reviews.create(db, read_items(items), pictures, k=k, seed=seed, checks=checks) as reviews:
        say(f"{db}: {len(reviews.entries()) - checks} questions and {checks} attention checks, {k} reviewers each")
        _say_dealt(reviews.add(reviewers))
    if len(reviewers) < k:
        say(f"so far {len(reviewers)} of at least {k} reviewers; add others with `cleareyed build verify add`")


def add(db: Path, names: Sequence[str], instead_of: str | None) -> None:
    """Add reviewers, the first in place of one who stops. InputError as `Reviews.add` raises it."""
    with Reviews.open(db) as reviews:
        if instead_of is not None:
            say(f"{instead_of}: gives back {reviews.drop(instead_of)} questions; what is answered stays")
        _say_dealt(reviews.add(names))


def review(db: Path, name: str, show: bool) -> None:
    """Answer in the terminal; each answer is stored at once. InputError: no such reviewer."""
    with Reviews.open(db) as reviews, TemporaryDirectory(prefix="cleareyed-review-") as folder:
        waiting, place = reviews.waiting(name), 0
        say(
            f"{counted(len(waiting), 'question')} to answer. `{SKIP}` skips, `{BACK}` goes back, `{STOP}` "
            "stops; all is kept."
        )
        while place < len(waiting):
            entry = waiting[place]
            path = Path(folder) / f"{entry.entry}{entry.suffix}"
            path.write_bytes(reviews.picture(entry.entry))
            say(f"\n{place + 1} of {len(waiting)}   picture: {path}\n  {visible(entry.question)}")
            if show:
                _open(path)
            answers = _ask()
            if answers == STOP:
                break
            if isinstance(answers, str):
                place = place + 1 if answers == SKIP else max(0, place - 1)
                continue
            reviews.label(Label(name, entry.entry, *answers, at=now()), origin="terminal")
            place += 1
        left = len(reviews.waiting(name))
    say(f"{left} left; go on with the same command" if left else "All answered. Thank you.")


def export(db: Path, to: Path, names: Sequence[str], image_prefix: str) -> None:
    """Write tasks for elsewhere. InputError as `export_tasks` raises it."""
    with Reviews.open(db) as reviews:
        rows = export_tasks(reviews, to, names, image_prefix)
    say(f"{to}: {rows} rows in tasks.csv and tasks.jsonl; pictures in images/; forms: label-studio.xml, mturk.html")


def take(db: Path, files: Sequence[Path], *, add_reviewers: bool) -> int:
    """Import answers; 1 if some have no place yet. InputError: a file cannot be read; those before it are in."""
    code = 0
    with Reviews.open(db) as reviews:
        for file in files:
            rows = read_labels(file)
            if add_reviewers:
                known = {one.name for one in reviews.reviewers()}
                strangers = sorted({row.reviewer for row in rows if isinstance(row, Label)} - known)
                if strangers:
                    reviews.add(strangers, deal=False)
                    say(f"added {counted(len(strangers), 'reviewer')}: {_named(strangers)}")
            taken = reviews.take(rows, origin=str(file.name))
            say(
                f"{file}: {taken.new} new answers, {taken.changed} changed, {taken.known} held before, "
                f"{taken.blank} not filled in, {taken.turned_down} turned down there, "
                f"{sum(taken.unplaced.values())} without a place"
            )
            for reason, count in taken.unplaced.most_common(SHOWN):
                say(f"  {counted(count, 'time')}: {visible(reason)}")
            code = 1 if taken.unplaced else code
        _say_missing(reviews)
    if code:
        say("what has no place is kept in the file; add unknown reviewers with `verify add`, or use --add-reviewers")
    return code


def page(db: Path, name: str, to: Path) -> None:
    """Write the review page. InputError: no such reviewer."""
    with Reviews.open(db) as reviews:
        count = write_page(reviews, name, to)
    say(f"{to}: {counted(count, 'question')} for {name}; import what it saves with `cleareyed build verify import`")


def rule(db: Path, ruling: Ruling) -> None:
    """Settle an entry. InputError as `Reviews.rule` raises it."""
    with Reviews.open(db) as reviews:
        reviews.rule(ruling)
    say(f"{db}: {ruling.entry} settled by {ruling.by}")


def labels(db: Path, to: Path) -> None:
    """Write every answer ever given."""
    with Reviews.open(db) as reviews:
        history = reviews.history()
    export_labels(history, to)
    say(f"{to}: {counted(len(history), 'answer')}")


def show_report(db: Path, thresholds: Thresholds, to: Path | None) -> int:
    """Print where the entries stand; 1 while some are disputed or incomplete."""
    with Reviews.open(db) as reviews:
        found = report(reviews, thresholds)
        _print(reviews, found)
    if to is not None:
        write_whole(to, json.dumps(as_json(found), indent=1, ensure_ascii=False) + "\n")
        say(f"written to {to}")
    return 1 if found.counts["disputed"] or found.counts["incomplete"] else 0


def as_json(found: Report) -> dict[str, object]:
    """The report as JSON holds it."""
    return {
        "kind": found.kind,
        "reviewers": found.reviewers,
        "left_out": found.left_out,
        "counts": {status: found.counts[status] for status in STATUSES},
        "accepted": sorted(found.accepted()),
        "agreement": [asdict(one) for one in found.agreements],
        "entries": [
            {
                "entry": one.entry.entry,
                "item": one.entry.item,
                "side": one.entry.side,
                "question": one.entry.question,
                "status": one.status,
                "n": one.n,
                "harmless": one.harmless,
                "natural": one.natural,
                "reason": one.reason,
                "comments": list(one.comments),
            }
            for one in found.verdicts
        ],
    }


def _print(reviews: Reviews, found: Report) -> None:
    console = table_console()
    people = Table(title=Text("reviewers"), title_justify="left")
    for heading in ("reviewer", "kind", "given", "answered", "checks right"):
        people.add_column(heading, justify="left" if heading in ("reviewer", "kind") else "right")
    for one in reviews.reviewers():
        checks = f"{one.right} of {one.checks}" + ("" if one.attentive else ": left out")
        people.add_row(Text(visible(one.name)), one.kind, str(one.assigned), str(one.done), checks)
    console.print(people)
    console.print(_agreement_table(found.agreements))
    say(found.sentence())
    say(f"items of which both sides are accepted: {len(found.accepted())}")
    open_ones = [one for one in found.verdicts if one.status in ("disputed", "rejected")]
    for verdict in open_ones[:SHOWN]:
        entry = verdict.entry
        say(f"  {entry.entry} {verdict.status} ({entry.item}, {entry.side}): {visible(verdict.reason)}")
        for comment in verdict.comments:
            say(f"      {visible(comment)}")
    if len(open_ones) > SHOWN:
        say(f"  ... and {len(open_ones) - SHOWN} more; all are in --json")
    _say_missing(reviews)


def _agreement_table(found: Sequence[Agreement]) -> Table:
    table = Table(title=Text("agreement (95 % interval)"), title_justify="left")
    for heading in ("question", "entries", "Krippendorff's alpha", "pairs: same answer", "Cohen's kappa"):
        table.add_column(heading, justify="left" if heading == "question" else "right")
    for one in found:
        interval = f" ({one.interval[0]:.2f} to {one.interval[1]:.2f})" if one.interval else ""
        table.add_row(one.asked, str(one.entries), _number(one.alpha) + interval, "", "")
        for pair in one.pairs:
            names = Text(f"  {visible(pair.first)}, {visible(pair.second)}")
            same = "none in common" if pair.same is None else f"{percent(pair.same)} %"
            table.add_row(names, str(pair.n), "", same, _number(pair.kappa))
    return table


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _say_dealt(dealt: dict[str, int]) -> None:
    for name, count in dealt.items():
        say(f"  {name}: {counted(count, 'question')}, attention checks among them")


def _say_missing(reviews: Reviews) -> None:
    left = {one.name: len(reviews.waiting(one.name)) for one in reviews.reviewers()}
    missing = [f"{name} {count}" for name, count in left.items() if count]
    if missing:
        say(f"answers still missing: {sum(left.values())} ({_named(missing)})")
    if unplaced := reviews.unplaced():
        say(f"imported rows without a place: {len(unplaced)}")


def _named(names: Sequence[str]) -> str:
    return ", ".join(map(visible, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _ask() -> tuple[int, int] | str:
    """Both answers, or `SKIP`, `BACK`, `STOP`; the end of the input stops."""
    given: list[int] = []
    for asked in ASKED:
        answer = _ask_one(asked)
        if isinstance(answer, str):
            return answer
        given.append(answer)
    return given[0], given[1]


def _ask_one(asked: Asked) -> int | str:
    words = ANSWERS[asked]
    while True:
        try:
            said = input(f"  {QUESTIONS[asked]} [{', '.join(words)}] ").strip().lower()
        except EOFError:
            return STOP
        if said in (SKIP, BACK, STOP):
            return said
        meant = [word for word in words if said and word.startswith(said)]
        if len(meant) == 1:
            return words[meant[0]]
        say(f"  please answer {', '.join(words)}; or {SKIP}, {BACK}, {STOP}")


def _open(path: Path) -> None:
    import webbrowser

    webbrowser.open(path.as_uri())
