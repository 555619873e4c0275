"""Checking a data set whole and writing it in the prepared schema, with nothing left out in silence."""

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from cleareyed.errors import InputError
from cleareyed.tasks import mossbench
from cleareyed.tasks.choices import LETTERS
from cleareyed.tasks.hub import hub_folder
from cleareyed.tasks.images import Looked, decode_image, picture_bytes
from cleareyed.tasks.names import unknown
from cleareyed.tasks.prepared import write_prepared
from cleareyed.tasks.published import PUBLISHED, default_seed, split_of
from cleareyed.tasks.rows import read_rows
from cleareyed.tasks.table import table_task
from cleareyed.tasks.task import Sample

NAMES = (*PUBLISHED, *mossbench.TASKS, "table")


@dataclass(frozen=True)
class Wanted:
    """Which samples of the data are to be prepared, and how."""

    skills: tuple[str, ...] = ()
    """Only these (SAT: question types); all if empty."""
    multi_image: Literal["keep", "drop"] | None = None
    """Samples with several pictures. `sat` holds both kinds, so there it must be said."""
    limit: int | None = None
    """So many at most, drawn by `seed` and kept in the order of the data."""
    seed: int | None = None
    """Orders choices (`sat` only) and draws; choices stay as published if left out, but for SAT's training splits."""
    leave_out_bad: bool = False
    """Leave bad rows out and list them, rather than stop."""


@dataclass(frozen=True)
class Prepared:
    """What was written, and what was found."""

    task: str
    split: str
    file: str
    sources: list[str]
    wanted: Wanted
    samples: int
    skills: dict[str, int]
    gold: dict[str, int]
    """Letter of the right choice's place to the number of samples."""
    left_out: dict[str, int]
    """Reason to number."""
    bad_rows: list[str]
    """Each row that was left out as bad: where, and what is wrong with it."""
    duplicates: int
    """Samples with the pictures, question and answer of an earlier one; kept."""
    contradictions: int
    """Samples with the pictures and question of an earlier one but another answer; kept."""
    missing: dict[str, str]
    """Samples that are kept although they cannot be asked, by id: why."""
    multi_image: int
    pictures: int
    distinct_pictures: int
    picture_bytes: int
    """Of the distinct pictures together."""
    sides: tuple[int, int, int]
    """Shortest, median and longest side of the distinct pictures, in pixels."""
    notes: list[str]


Progress = Callable[[int, int], None]


def prepare(
    name: str,
    source: str,
    to: Path,
    *,
    split: str | None = None,
    images: Path | None = None,
    wanted: Wanted = Wanted(),
    progress: Progress | None = None,
) -> Prepared:
    """Check a data set and write `TO/NAME/SPLIT.parquet`, and beside it `SPLIT.json`, which says what was found.

    `source` is a data file, a folder of them, `hub` (where the authors publish it) or `hub:OWNER/NAME[@REVISION]`.
    `images` is the folder of the pictures that rows name. Every picture is decoded once; what is written are its
    bytes as they were.

    InputError, and nothing written: an unknown task or split, data that are not there or malformed, bad rows unless
    `leave_out_bad`, no samples left, a skill that no row has, an output that exists.
    """
    if name not in NAMES:
        raise unknown("task to prepare", name, NAMES)
    files, split, sources = _files(name, source, split)
    file, report = to / name / f"{split}.parquet", to / name / f"{split}.json"
    for path in (file, report):
        if path.exists():
            raise InputError(f"{path}: exists already; delete it, or give another folder with --to")
    bad: list[str] = []
    samples = _samples(name, split, files, images, wanted, bad)
    chosen, left_out = _chosen(name, samples, wanted)
    _refuse_bad(bad, wanted)
    check = _Check(chosen, bad, progress)
    file.parent.mkdir(parents=True, exist_ok=True)
    parts = [path.with_name(f".{path.name}.part") for path in (file, report)]
    try:
        about = {"task": name, "split": split, "sources": sources, "wanted": asdict(wanted)}
        write_prepared(parts[0], about, check.rows())
        _refuse_bad(bad, wanted)
        if not check.kept:
            raise InputError(f"{source}: no samples are left; see what was left out: {dict(left_out)}")
        if bad:
            left_out["bad row"] = len(bad)
        found = check.found(name, split, file, sources, wanted, left_out)
        parts[1].write_text(json.dumps(asdict(found), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        parts[1].replace(report)
        parts[0].replace(file)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    return found


def _files(name: str, source: str, split: str | None) -> tuple[list[Path], str, list[str]]:
    """The data files, their split, and how to name them in the record."""
    if name == "table":
        if split is not None or source.split(":")[0] == "hub":
            raise InputError("task `table` has no splits and is not on the hub; give one .jsonl or .parquet file")
        return [Path(source)], Path(source).stem, [Path(source).name]
    if name in mossbench.TASKS:
        return _mossbench_files(name, source, split)
    published = PUBLISHED[name]
    if source == "hub" or source.startswith("hub:"):
        split = published.split(name, split)
        repository = source.removeprefix("hub").removeprefix(":") or published.hub
        if not repository:
            raise InputError(f"task `{name}` is not on the hub as far as we know; give a file or folder")
        patterns = [pattern.replace("{split}", split) for pattern in published.hub_files or ("*.parquet",)]
        folder, commit = hub_folder(repository, patterns)
        files = published.files(folder, split)
        return files, split, [f"hub:{repository.partition('@')[0]}@{commit}/{_inside(path, folder)}" for path in files]
    place = Path(source)
    if not place.exists():
        raise InputError(f"{place}: no such file or folder; give one, or hub:OWNER/NAME")
    if place.is_file():
        return [place], split_of(name, place, split), [place.name]
    split = published.split(name, split)
    files = published.files(place, split)
    return files, split, [_inside(path, place) for path in files]


def _mossbench_files(name: str, source: str, split: str | None) -> tuple[list[Path], str, list[str]]:
    part = mossbench.TASKS[name]
    if split is not None:
        raise InputError(f"task `{name}` has no splits; leave --split out")
    folder, commit = Path(source), ""
    if source == "hub" or source.startswith("hub:"):
        repository = source.removeprefix("hub").removeprefix(":") or mossbench.HUB
        folder, commit = hub_folder(repository, mossbench.HUB_FILES)
        source = f"hub:{repository.partition('@')[0]}@{commit}"
    elif not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give MOSSBench's folder, hub, or hub:OWNER/NAME")
    file = mossbench.locate(folder, part).file
    return [folder], part, [f"{source}/{_inside(file, folder)}" if commit else _inside(file, folder)]


def _inside(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _samples(
    name: str, split: str, files: Sequence[Path], images: Path | None, wanted: Wanted, bad: list[str]
) -> list[Sample]:
    """Every good row; what is wrong with the others is added to `bad`."""
    if name == "table":
        return list(table_task(files[0]).samples)
    found: dict[str, Sample] = {}
    if name in mossbench.TASKS:
        part = mossbench.TASKS[name]
        for one in mossbench.read_mossbench(mossbench.locate(files[0], part), part):
            if isinstance(one, InputError):
                bad.append(str(one))
            else:
                found[one.id] = one
        return list(found.values())
    seed = wanted.seed if wanted.seed is not None else default_seed(name, split)
    published = PUBLISHED[name]
    for path in files:
        for row in read_rows(path, published.pictures, images):
            try:
                sample = published.sample(row, split, seed)
                if sample.id in found:
                    raise InputError(f"{row.where}: the id `{sample.id}` has been used before; make ids unique")
            except InputError as error:
                bad.append(str(error))
            else:
                found[sample.id] = sample
    return list(found.values())


def _refuse_bad(bad: list[str], wanted: Wanted) -> None:
    if bad and not wanted.leave_out_bad:
        more = f" ({len(bad) - 1} more rows are bad)" if len(bad) > 1 else ""
        raise InputError(f"{bad[0]}{more}, or leave bad rows out with --leave-out-bad")


def _chosen(name: str, samples: list[Sample], wanted: Wanted) -> tuple[list[Sample], Counter[str]]:
    """The samples that are wanted, and how many were left out for which reason."""
    left_out: Counter[str] = Counter()
    skills = {sample.skill for sample in samples}
    for skill in wanted.skills:
        if skill not in skills:
            raise unknown("skill", skill, sorted(skills))
    several = sum(len(sample.images) > 1 for sample in samples)
    if name == "sat" and several and wanted.multi_image is None:
        raise InputError(
            f"{several} of {len(samples)} rows have several pictures; say --multi-image keep or --multi-image drop"
        )
    chosen: list[Sample] = []
    for sample in samples:
        if wanted.skills and sample.skill not in wanted.skills:
            left_out[f"skill `{sample.skill}` not asked for"] += 1
        elif len(sample.images) > 1 and wanted.multi_image == "drop":
            left_out["several pictures"] += 1
        else:
            chosen.append(sample)
    if wanted.limit is not None and len(chosen) > wanted.limit:
        left_out["beyond the limit, by lot"] = len(chosen) - wanted.limit
        lots = {sample.id: sha256(f"{wanted.seed or 0}\n{sample.id}".encode()).digest() for sample in chosen}
        drawn = set(sorted(lots, key=lots.__getitem__)[: wanted.limit])
        chosen = [sample for sample in chosen if sample.id in drawn]
    return chosen, left_out


class _Check:
    """Looks at every picture as it passes by, and counts."""

    def __init__(self, samples: list[Sample], bad: list[str], progress: Progress | None) -> None:
        self.samples, self.bad, self.progress = samples, bad, progress
        self.kept: list[Sample] = []
        self.looked = Looked(lambda data, where: decode_image(data, where).size)
        self.answers: dict[bytes, set[str]] = {}
        """Digest of pictures and question to the answers given."""
        self.duplicates = self.contradictions = 0

    def rows(self) -> Iterator[tuple[Sample, list[bytes]]]:
        for number, sample in enumerate(self.samples, start=1):
            try:
                pictures = [picture_bytes(load) for load in sample.images]
                pairs = zip(sample.images, pictures, strict=True)
                digests = [self.looked.look(load, data, sample.id) for load, data in pairs]
            except InputError as error:
                self.bad.append(str(error))
            else:
                self._compare(sample, digests)
                self.kept.append(sample)
                yield sample, pictures
            if self.progress is not None:
                self.progress(number, len(self.samples))

    def _compare(self, sample: Sample, digests: list[bytes]) -> None:
        answers = self.answers.setdefault(sha256(b"".join([*digests, sample.question.encode()])).digest(), set())
        self.duplicates += sample.answer in answers
        self.contradictions += bool(answers) and sample.answer not in answers
        answers.add(sample.answer)

    def found(
        self, name: str, split: str, file: Path, sources: list[str], wanted: Wanted, left_out: Counter[str]
    ) -> Prepared:
        kept = self.kept
        sides = sorted(side for width, height, _ in self.looked.sizes.values() for side in (width, height)) or [0]
        skills = Counter(sample.skill for sample in kept)
        gold = Counter(LETTERS[sample.choices.index(sample.answer)] for sample in kept if sample.choices)
        return Prepared(
            task=name,
            split=split,
            file=str(file),
            sources=sources,
            wanted=wanted,
            samples=len(kept),
            skills=dict(sorted(skills.items())),
            gold=dict(sorted(gold.items())),
            left_out=dict(left_out),
            bad_rows=self.bad,
            duplicates=self.duplicates,
            contradictions=self.contradictions,
            missing={sample.id: sample.missing for sample in kept if sample.missing},
            multi_image=sum(len(sample.images) > 1 for sample in kept),
            pictures=sum(len(sample.images) for sample in kept),
            distinct_pictures=len(self.looked.sizes),
            picture_bytes=sum(size for *_, size in self.looked.sizes.values()),
            sides=(sides[0], int(statistics.median(sides)), sides[-1]),
            notes=_notes(name, split, skills, left_out),
        )


def _notes(name: str, split: str, skills: Counter[str], left_out: Counter[str]) -> list[str]:
    stated = PUBLISHED[name].sizes.get(split, {}) if name in PUBLISHED else {}
    if left_out or not stated:
        return []
    return [
        f"skill {skill}: {skills[skill]} samples, the benchmark's authors state {count}"
        for skill, count in stated.items()
        if skills[skill] != count
    ]
