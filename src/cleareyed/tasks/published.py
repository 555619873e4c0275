"""The benchmarks that are read as their authors publish them: their files, splits and rows."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cleareyed.errors import InputError
from cleareyed.tasks import blink, cvbench, nlvr, sat, vsr
from cleareyed.tasks.names import unknown
from cleareyed.tasks.rows import Row, read_samples
from cleareyed.tasks.task import Sample


@dataclass(frozen=True)
class Published:
    splits: tuple[str, ...]
    """The first is taken where none is named, unless `split_needed`."""
    pictures: tuple[str, ...]
    """The columns that may hold pictures."""
    files: Callable[[Path, str], list[Path]]
    """The data files of a split in a folder."""
    sample: Callable[[Row, str, int | None], Sample]
    """A row of that split as a sample; the number is the seed that orders its choices, None as published."""
    split_needed: bool = False
    hub: str = ""
    """Where it is published on the hub."""
    hub_files: tuple[str, ...] = ()
    sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By split, the numbers of items by skill that its authors state, as far as we know them."""

    def split(self, name: str, given: str | None) -> str:
        """The split to read. InputError: none given where one is needed, or an unknown one."""
        if given is None and self.split_needed:
            options = " or ".join(f"`split: {split}`" for split in self.splits)
            raise InputError(f"task `{name}`: field `split` is missing; write {options}")
        if given is not None and given not in self.splits:
            raise unknown(f"split of task `{name}`", given, self.splits)
        return given or self.splits[0]


def read_published(name: str, split: str, files: Sequence[Path]) -> tuple[Sample, ...]:
    """The samples in files as published. InputError as `read_samples` raises it."""
    published = PUBLISHED[name]
    make = partial(_made, published, split, default_seed(name, split))
    return read_samples(files, published.pictures, make)


def _made(published: Published, split: str, seed: int | None, row: Row) -> Sample:
    return published.sample(row, split, seed)


def default_seed(name: str, split: str) -> int | None:
    """The seed that orders choices where none is given; None: as published."""
    return 0 if name == "sat" and split in sat.SHUFFLED else None


def split_of(name: str, file: Path, given: str | None) -> str:
    """The split of one named file: the given one, else one that its name says, else the only one there is.

    InputError: none of these, or an unknown one.
    """
    published = PUBLISHED[name]
    if given is None and len(published.splits) > 1:
        words = re.split(r"[^a-z]+", file.stem.lower())
        given = next((split for split in published.splits if split in words), None)
        if given is None:
            raise InputError(f"{file}: its name does not say the split; give it as {' or '.join(published.splits)}")
    return published.split(name, given)


def _first_set(folder: Path, *sets: Sequence[str]) -> list[Path]:
    for names in sets:
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in names]
    wanted = ", or ".join(" and ".join(names) for names in sets)
    raise InputError(f"{folder}: holds none of {wanted}; name the file, or put it there with `cleareyed data`")


PUBLISHED: Mapping[str, Published] = {
    "cvbench": Published(
        splits=("test",),
        pictures=cvbench.PICTURES,
        files=lambda folder, split: _first_set(folder, *cvbench.FILES),
        sample=lambda row, split, seed: cvbench.cvbench_sample(row),
        hub="nyu-visionx/CV-Bench",
        hub_files=("*.parquet",),
        sizes={"test": cvbench.SIZES},
    ),
    "sat": Published(
        splits=sat.SPLITS,
        pictures=sat.PICTURES,
        files=lambda folder, split: _first_set(folder, (f"SAT_{split}.parquet",), (f"{split}.parquet",)),
        sample=sat.sat_sample,
        split_needed=True,
        hub="array/SAT",
        hub_files=("SAT_{split}.parquet",),
    ),
    "vsr": Published(
        splits=("test", "dev", "train"),
        pictures=vsr.PICTURES,
        files=lambda folder, split: _first_set(folder, (f"{split}.parquet",), (f"{split}.jsonl",)),
        sample=lambda row, split, seed: vsr.vsr_sample(row, split),
        hub="cambridgeltl/vsr_random",
        hub_files=("{split}.jsonl",),
    ),
    "nlvr": Published(
        splits=nlvr.SPLITS,
        pictures=nlvr.PICTURES,
        files=lambda folder, split: [folder / f"{split}.parquet"],
        sample=lambda row, split, seed: nlvr.nlvr_sample(row),
        split_needed=True,
    ),
    "blink": Published(
        splits=("val",),
        pictures=blink.PICTURES,
        files=lambda folder, split: blink.blink_files(folder, blink.PAPER),
        sample=lambda row, split, seed: blink.blink_sample(row),
        hub="BLINK-Benchmark/BLINK",
        hub_files=tuple(f"{subtask}/val-*.parquet" for subtask in blink.PAPER),
        sizes={"val": {"Relative Depth": 124, "Spatial Relation": 143}},
    ),
    "blink-all": Published(
        splits=("val",),
        pictures=blink.PICTURES,
        files=lambda folder, split: blink.blink_files(folder, blink.SUBTASKS),
        sample=lambda row, split, seed: blink.blink_sample(row),
        hub="BLINK-Benchmark/BLINK",
        hub_files=("*/val-*.parquet",),
    ),
}
