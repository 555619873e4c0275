"""What people say of a benchmark's items, in one SQLite file: entries, reviewers, who sees what, every answer.

A reviewer sees a picture and a question, and answers whether helping would be harmless and how natural the question
is. Names of entries say nothing about the item, its kind or its side; everybody has an order of their own. Some
entries are attention checks, whose question says what to answer. Answers are added and never overwritten: the last
one counts, the others stay. What cannot be placed (an unknown reviewer or entry, an answer that is none) is kept too,
and finds its place once the reviewer is added.
"""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from cleareyed.errors import InputError
from cleareyed.oversensitivity.build.answers import (
    ANSWERS,
    ASKED,
    BLANK,
    TURNED_DOWN,
    Entry,
    Kind,
    Label,
    Reviewer,
    Ruling,
    Taken,
)
from cleareyed.oversensitivity.build.items import Item
from cleareyed.oversensitivity.build.pictures import SIDES, check_pictures, picture_of
from cleareyed.tasks.names import unknown

APPLICATION = 0x636C7272
"""Marks an SQLite file as one of these."""
VERSION = 1


class Reviews:
    """An open file of reviews. Made by `create` or `open`; use it in a `with` statement."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self._db = db
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA foreign_keys = ON")

    @classmethod
    def create(
        cls, path: Path, items: Sequence[Item], pictures: Path, *, k: int = 3, seed: int = 0, checks: int = 4
    ) -> Self:
        """A new file with both sides of every item and `checks` attention checks; `k` reviewers an entry.

        InputError: the file is there already; pictures are missing.
        """
        if path.exists():
            raise InputError(f"{path}: is there already; name another file, or go on with it")
        check_pictures(pictures, items)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _plainly(path), _whole(path):
            reviews = cls(path, sqlite3.connect(path))
            schema = files("cleareyed.oversensitivity.build").joinpath("reviews.sql").read_text("utf-8")
            reviews._db.executescript(schema)
            reviews._db.execute(f"PRAGMA application_id = {APPLICATION}")
            reviews._db.execute(f"PRAGMA user_version = {VERSION}")
            with reviews._db:
                about = {"k": k, "seed": seed, "checks": checks, "items": len(items), "began": now()}
                reviews._db.executemany("INSERT INTO about VALUES (?, ?)", [(n, str(v)) for n, v in about.items()])
                for entry, picture in _entries(items, pictures, seed, checks):
                    row = (entry.entry, entry.item, entry.side, entry.question, entry.suffix, picture)
                    expected = entry.expected or (None, None)
                    reviews._db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, *expected))
        return reviews

    @classmethod
    def open(cls, path: Path) -> Self:
        """InputError: no such file, or not one that `create` made."""
        if not path.is_file():
            raise InputError(f"{path}: no such file; begin one with `cleareyed build verify start`")
        with _plainly(path):
            reviews = cls(path, sqlite3.connect(path))
            found = [
                reviews._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
            ]
        if found != [APPLICATION, VERSION]:
            reviews.close()
            raise InputError(f"{path}: holds no reviews of this version; name a file that `build verify start` made")
        return reviews

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def about(self) -> dict[str, str]:
        """`k`, `seed`, `checks`, `items` and when it began."""
        return {row["key"]: row["value"] for row in self._rows("SELECT key, value FROM about")}

    def entries(self) -> dict[str, Entry]:
        """All entries by name, attention checks among them."""
        return {row["entry"]: _entry(row) for row in self._rows(f"SELECT {_ENTRY} FROM entries ORDER BY entry")}

    def picture(self, entry: str) -> bytes:
        """The entry's picture, encoded. InputError: there is no such entry."""
        rows = self._rows("SELECT picture FROM entries WHERE entry = ?", entry)
        if not rows:
            raise InputError(f"{self.path}: no entry `{entry}`; `build verify report` lists them")
        return bytes(rows[0]["picture"])

    def add(self, names: Sequence[str], kind: Kind = "person", *, deal: bool = True) -> dict[str, int]:
        """Add reviewers, deal out to them what has fewer than k reviewers of their kind, and say how much each got.

        What was imported for them before they were known is placed. Without `deal` they get nothing: their answers
        come from elsewhere. InputError: a name that is there or is blank.
        """
        known = {one.name: one for one in self.reviewers()}
        for name in names:
            if not name.strip() or len(name) > 200:
                raise InputError(f"{self.path}: reviewer {name!r} has no usable name; write 1 to 200 characters")
            if name in known or names.count(name) > 1:
                raise InputError(f"{self.path}: reviewer `{name}` is there already; leave the name out")
        counted = [one.name for one in known.values() if one.kind == kind and one.attentive]
        dealt = self._deal(names, counted) if deal else {name: [] for name in names}
        with _plainly(self.path), self._db:
            self._db.executemany("INSERT INTO reviewers VALUES (?, ?, ?)", [(name, kind, now()) for name in names])
            self._db.executemany(
                "INSERT INTO assignments VALUES (?, ?)", [(name, entry) for name, of in dealt.items() for entry in of]
            )
            self._place_again()
        return {name: len(of) for name, of in dealt.items()}

    def drop(self, name: str) -> int:
        """Give back what the reviewer has not answered, for others to be added; what they said stays.

        Returns how many entries. InputError: there is no such reviewer.
        """
        self._refuse_unknown(name)
        given_back = (
            "DELETE FROM assignments WHERE reviewer = ? AND entry NOT IN (SELECT entry FROM labels WHERE reviewer = ?)"
        )
        with _plainly(self.path), self._db:
            return self._db.execute(given_back, (name, name)).rowcount

    def reviewers(self) -> list[Reviewer]:
        """Everybody, by name."""
        expected = {name: entry.expected for name, entry in self.entries().items()}
        own: dict[str, list[Label]] = {}
        for label in self._latest():
            own.setdefault(label.reviewer, []).append(label)
        assigned = {
            row["reviewer"]: row["n"]
            for row in self._rows("SELECT reviewer, count(*) AS n FROM assignments GROUP BY reviewer")
        }
        found = []
        for row in self._rows("SELECT reviewer, kind FROM reviewers ORDER BY reviewer"):
            name = row["reviewer"]
            labels = own.get(name, [])
            checks = [label for label in labels if expected[label.entry] is not None]
            right = sum((label.harmless, label.natural) == expected[label.entry] for label in checks)
            found.append(Reviewer(name, row["kind"], assigned.get(name, 0), len(labels), len(checks), right))
        return found

    def waiting(self, name: str) -> list[Entry]:
        """What the reviewer has still to answer, in their own order. InputError: no such reviewer."""
        self._refuse_unknown(name)
        seed, entries = self.about()["seed"], self.entries()
        left = self._rows(f"SELECT entry FROM assignments {_UNANSWERED}", name, name)
        return sorted((entries[row["entry"]] for row in left), key=lambda entry: _hash(seed, name, entry.entry))

    def shuffled(self) -> list[Entry]:
        """All entries, attention checks among them, in an order that is nobody's."""
        seed = self.about()["seed"]
        return sorted(self.entries().values(), key=lambda entry: _hash(seed, "anybody", entry.entry))

    def label(self, label: Label, origin: str = "") -> Literal["new", "changed", "known"]:
        """Add one answer. InputError: an unknown reviewer or entry, or an answer that is none."""
        with _plainly(self.path), self._db:
            wrong = self._wrong(label)
            if wrong is not None:
                raise InputError(f"{self.path}: {wrong}")
            return self._add(label, origin)

    def take(self, rows: Iterable[Label | tuple[str, Mapping[str, Any]]], origin: str) -> Taken:
        """Import answers, all or (if the disk is full or the program is stopped) none of them.

        A row that could not be read as a label comes as its reason and what it held. Rows without a place are kept.
        """
        taken = Taken()
        with _plainly(self.path), self._db:
            for row in rows:
                if isinstance(row, Label):
                    wrong = self._wrong(row)
                    if wrong is None:
                        outcome = self._add(row, origin)
                        setattr(taken, outcome, getattr(taken, outcome) + 1)
                        continue
                    reason, held = wrong, asdict(row)
                else:
                    reason, held = row[0], dict(row[1])
                    if reason in (BLANK, TURNED_DOWN):
                        taken.blank += reason == BLANK
                        taken.turned_down += reason == TURNED_DOWN
                        continue
                self._keep(reason, held, origin)
                taken.unplaced[reason] += 1
        return taken

    def unplaced(self) -> list[tuple[str, dict[str, Any], str]]:
        """Imported rows that have no place: reason, what the row held, where it came from."""
        rows = self._rows("SELECT reason, held, origin FROM unplaced ORDER BY number")
        return [(row["reason"], json.loads(row["held"]), row["origin"]) for row in rows]

    def labels(self, kind: Kind = "person") -> list[Label]:
        """The answers that count: each reviewer's last about each entry, without attention checks and without those of
        reviewers who failed them."""
        counted = {one.name for one in self.reviewers() if one.kind == kind and one.attentive}
        checks = {name for name, entry in self.entries().items() if entry.item is None}
        return [one for one in self._latest() if one.reviewer in counted and one.entry not in checks]

    def history(self) -> list[Label]:
        """Every answer ever given, in the order in which it came."""
        return [_label(row) for row in self._rows(f"SELECT {_LABEL} FROM labels ORDER BY number")]

    def rule(self, ruling: Ruling) -> None:
        """Settle an entry; a later ruling on it counts in place of an earlier one, which stays.

        InputError: no such entry, an answer that is none, no name.
        """
        wrong = self._wrong_answers(ruling.entry, ruling.harmless, ruling.natural)
        if wrong is None and not ruling.by.strip():
            wrong = "a ruling needs the name of who makes it"
        if wrong is not None:
            raise InputError(f"{self.path}: {wrong}")
        with _plainly(self.path), self._db:
            row = (ruling.entry, ruling.harmless, ruling.natural, ruling.by, ruling.reason, now())
            self._db.execute("INSERT INTO rulings VALUES (NULL, ?, ?, ?, ?, ?, ?)", row)

    def rulings(self) -> dict[str, Ruling]:
        """The last ruling on each entry that has one."""
        rows = self._rows('SELECT entry, harmless, natural, "by", reason FROM rulings ORDER BY number')
        return {row["entry"]: Ruling(**dict(row)) for row in rows}

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with _plainly(self.path):
            return list(self._db.execute(query, values))

    def _refuse_unknown(self, name: str) -> None:
        names = [row["reviewer"] for row in self._rows("SELECT reviewer FROM reviewers ORDER BY reviewer")]
        if name not in names and names:
            raise InputError(f"{self.path}: {unknown('reviewer', name, names)}; or add them with `build verify add`")
        if name not in names:
            raise InputError(f"{self.path}: has no reviewers yet; add `{name}` with `cleareyed build verify add`")

    def _latest(self) -> list[Label]:
        last = {(label.reviewer, label.entry): label for label in self.history()}
        return list(last.values())

    def _deal(self, names: Sequence[str], counted: Sequence[str]) -> dict[str, list[str]]:
        """To each new reviewer: every attention check, and a fair share of what has too few reviewers."""
        about = self.about()
        held = Counter(
            row["entry"] for row in self._rows("SELECT reviewer, entry FROM assignments") if row["reviewer"] in counted
        )
        dealt: dict[str, list[str]] = {name: [] for name in names}
        everything = self.entries().values()
        for entry in sorted(everything, key=lambda entry: _hash(about["seed"], "deal", entry.entry)):
            most = len(names) if entry.item is None else max(0, int(about["k"]) - held[entry.entry])
            order = sorted(names, key=lambda name: (len(dealt[name]), _hash(about["seed"], name, entry.entry)))
            for name in order[:most]:
                dealt[name].append(entry.entry)
        return dealt

    def _wrong(self, label: Label) -> str | None:
        if not self._rows("SELECT 1 FROM reviewers WHERE reviewer = ?", label.reviewer):
            return f"unknown reviewer `{label.reviewer}`"
        return self._wrong_answers(label.entry, label.harmless, label.natural)

    def _wrong_answers(self, entry: str, harmless: int, natural: int) -> str | None:
        if not self._rows("SELECT 1 FROM entries WHERE entry = ?", entry):
            return f"unknown entry `{entry}`"
        for asked, value in zip(ASKED, (harmless, natural), strict=True):
            if value not in ANSWERS[asked].values():
                return f"{asked}: {value} is not one of {', '.join(map(str, ANSWERS[asked].values()))}"
        return None

    def _add(self, label: Label, origin: str) -> Literal["new", "changed", "known"]:
        mine = self._of(label.reviewer, label.entry)
        same = [one for one in mine if (one.harmless, one.natural, one.comment) == _said(label)]
        if any(label.at is None or one.at == label.at for one in same):
            return "known"
        row = (label.reviewer, label.entry, label.harmless, label.natural, label.comment, label.at, now(), origin)
        self._db.execute("INSERT INTO labels VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        return "changed" if mine and (mine[-1].harmless, mine[-1].natural) != _said(label)[:2] else "new"

    def _of(self, reviewer: str, entry: str) -> list[Label]:
        query = f"SELECT {_LABEL} FROM labels WHERE reviewer = ? AND entry = ? ORDER BY number"
        return [_label(row) for row in self._rows(query, reviewer, entry)]

    def _keep(self, reason: str, held: Mapping[str, Any], origin: str) -> None:
        row = json.dumps(held, sort_keys=True, default=str)
        self._db.execute("INSERT OR IGNORE INTO unplaced VALUES (NULL, ?, ?, ?, ?)", (reason, row, origin, now()))

    def _place_again(self) -> None:
        """Move kept rows into place that have one by now."""
        for row in self._rows("SELECT number, held, origin FROM unplaced WHERE reason LIKE 'unknown reviewer%'"):
            label = Label(**json.loads(row["held"]))
            if self._wrong(label) is None:
                self._add(label, row["origin"])
                self._db.execute("DELETE FROM unplaced WHERE number = ?", (row["number"],))


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


_ENTRY = "entry, item, side, question, suffix, harmless, natural"
_UNANSWERED = "WHERE reviewer = ? AND entry NOT IN (SELECT entry FROM labels WHERE reviewer = ?)"
_LABEL = "reviewer, entry, harmless, natural, comment, at"


def _entry(row: sqlite3.Row) -> Entry:
    expected = None if row["harmless"] is None else (row["harmless"], row["natural"])
    return Entry(row["entry"], row["question"], row["suffix"], row["item"], row["side"], expected)


def _label(row: sqlite3.Row) -> Label:
    return Label(**dict(row))


def _said(label: Label) -> tuple[int, int, str]:
    return label.harmless, label.natural, label.comment


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(list(map(str, parts))).encode()).hexdigest()


def _entries(items: Sequence[Item], pictures: Path, seed: int, checks: int) -> Iterator[tuple[Entry, bytes]]:
    """Both sides of every item, and the attention checks, each with its picture."""
    for item in items:
        for side in SIDES:
            path = picture_of(pictures, item, side)
            assert path is not None  # check_pictures has seen it
            question = item.question if side == "benign" else item.contrast_question
            yield Entry(_hash(seed, item.id, side)[:12], question, path.suffix, item.id, side), path.read_bytes()
    for number in range(checks):
        key = _hash(seed, "check", number)
        item = items[int(key[12:20], 16) % len(items)]
        path = picture_of(pictures, item, "benign")
        assert path is not None
        harmless, natural = number % 2, 1 + int(key[20:24], 16) % 5
        word = next(name for name, value in ANSWERS["harmless"].items() if value == harmless)
        question = f"This shows that you read with care: whatever you see, answer `{word}`, and then {natural}."
        yield Entry(key[:12], question, path.suffix, expected=(harmless, natural)), path.read_bytes()


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Leave no half-made file behind."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _plainly(path: Path) -> Iterator[None]:
    """What SQLite finds wrong with the file as an InputError."""
    try:
        yield
    except sqlite3.Error as error:
        raise InputError(f"{path}: {error}; check the file and the disk, and that nobody else writes to it") from error
