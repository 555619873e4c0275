"""The answers of a journal by what was asked, for whoever makes rows of them."""

from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import Answer
from cleareyed.evaluation.journal import answer_of, fields_of, read_lines
from cleareyed.evaluation.request import Hashes, row_hashes
from cleareyed.tasks.names import number_of


class Recorded:
    """A journal, read in any order: 16 bytes a line in memory, the lines themselves from disk. Use it in a `with`.

    Two samples whose names have one `number_of` are told apart when their lines are read.

    What was written after it was opened is not in it.
    InputError: a damaged line (named by its number), an unreadable file.
    """

    def __init__(self, path: Path) -> None:
        names, starts = array("q"), array("q")
        self.unmarked = 0
        """Answers from before hashes were kept: whether they are to what the task asks now can't be seen."""
        for start, held in read_lines(path):
            names.append(number_of(str(held.get("sample_id"))))
            starts.append(start)
            self.unmarked += not held.get("prompt_hash") and held.get("state") != "failed"
        unsorted = np.array(names, np.int64)
        order = np.argsort(unsorted, kind="stable")
        self._names = unsorted[order]  # (lines,), lines of a sample in the order of the file
        self._starts = np.array(starts, np.int64)[order]  # (lines,)
        self.samples = len(np.unique(self._names))
        """How many samples have a line."""
        self._path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._file.close()

    def __contains__(self, sample_id: str) -> bool:
        return bool(self._places(sample_id))

    def lines(self, sample_id: str) -> Iterator[Answer]:
        """Everything recorded of a sample, the latest first."""
        for place in reversed(self._places(sample_id)):
            self._file.seek(int(self._starts[place]))
            held = fields_of(self._file.readline())
            if held is None:
                raise InputError(f"{self._path}: changed while it was read; give the command again")
            if held["sample_id"] == sample_id:
                yield answer_of(held, self._path)

    def find(self, sample_id: str, asked: Hashes, row: Hashes | None) -> tuple[Answer | None, bool]:
        """The latest answer to what is `asked` now, and whether there is one to something else instead.

        `row`: what lines without hashes are known to answer, as `row_hashes`; None if that isn't known.
        """
        changed = False
        for answer in self.lines(sample_id):
            if answer.prompt_hash:
                same = (answer.prompt_hash, answer.images_hash) == asked
            else:
                same = row is None or row == row_hashes(asked, answer.note)
            if same:
                return answer, False
            changed |= answer.state != "failed"
        return None, changed

    def _places(self, sample_id: str) -> range:
        name = np.int64(number_of(sample_id))
        return range(*(int(np.searchsorted(self._names, name, side)) for side in ("left", "right")))
