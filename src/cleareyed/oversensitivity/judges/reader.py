"""What the sentences of answers do: a linear reading, of many answers at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cleareyed.oversensitivity.judges.features import KINDS, Floats, Parsed, rows
from cleareyed.oversensitivity.judges.hashing import Ints, codes, letters
from cleareyed.oversensitivity.judges.vectors import SIZE, vector

FIRST_WORDS = 5
"""Words of a sentence whose vectors are looked at for themselves."""
MOST_SEEN = 50_000
"""Words that are kept from one call to the next."""


@dataclass(frozen=True)
class Reader:
    """What a sentence does: logits, linear in its row, in the mean of its words' letters and in two means of their
    vectors, of all and of the first."""

    rows: Floats
    """(WIDTH, K)"""
    letters: Floats
    """(LETTER_PLACES, K)"""
    vectors: Floats
    """(2 SIZE, K)"""
    bias: Floats
    """(K,)"""
    seen: "_Seen" = field(default_factory=lambda: _Seen(), repr=False, compare=False)

    def logits(self, read: Sequence[Parsed]) -> list[Floats]:
        """(S, K) of each answer; the others change nothing in it."""
        counts = np.array([len(said) for one in read for said in one.words])
        at = self._places([word for one in read for said in one.words for word in said])
        words = self.seen.held[at]
        places, weights, starts = rows(words["codes"], counts, [cues for one in read for cues in one.cues])
        found = _sums(self.rows[places] * weights[:, None], starts) + self.bias
        parts, known = words["parts"], words["known"]  # (W, 3, K), (W,)
        starts = np.cumsum([0, *counts])
        found += _sums(parts[:, 0], starts) / np.sqrt(np.maximum(counts, 1))[:, None]
        before: Ints = np.cumsum(known) - known  # known words before each, in all answers
        first = before - np.repeat(np.append(before, 0)[starts[:-1]], counts) < FIRST_WORDS
        for index, among in ((1, known), (2, known & first)):
            many = _sums(among[:, None].astype(np.float32), starts)
            found += _sums(parts[:, index] * among[:, None], starts) / np.maximum(many, 1)
        return np.split(found, np.cumsum([len(one.words) for one in read])[:-1])

    def _places(self, said: Sequence[str]) -> Ints:
        """(W,): where words stand in `seen`, which takes in those that are new."""
        at = self.seen.at
        self.seen.make_room(len(said))
        for word in dict.fromkeys(said):
            if word not in at:
                self.seen.add(word, *self._parts(word))
        return np.fromiter(map(at.__getitem__, said), dtype=np.int64, count=len(said))

    def _parts(self, word: str) -> tuple[Floats, bool]:
        """(3, K): what a word adds by its letters, by its vector anywhere, and by its vector among the first; and
        whether it has a vector."""
        places, found = letters(word), vector(word)
        parts = np.zeros((3, self.letters.shape[1]), dtype=np.float32)
        parts[0] = self.letters[places].sum(0) / np.float32(len(places) ** 0.5)
        if found is not None:
            parts[1], parts[2] = found @ self.vectors[:SIZE], found @ self.vectors[SIZE:]
        return parts, found is not None


class _Seen:
    """Words as they were met."""

    def __init__(self) -> None:
        self.at: dict[str, int] = {}
        self.held = np.zeros(
            1024, dtype=[("codes", np.int64, 3), ("parts", np.float32, (3, len(KINDS))), ("known", np.bool_)]
        )

    def make_room(self, words: int) -> None:
        """Forget all words if this many more were too many; only between answers, as their places change."""
        if len(self.at) + words > MOST_SEEN:
            self.at.clear()

    def add(self, word: str, parts: Floats, known: bool) -> None:
        at = self.at[word] = len(self.at)
        if at == len(self.held):
            self.held = np.concatenate([self.held, self.held])
        self.held[at] = codes(word), parts, known


def _sums(rows: Floats, starts: Ints) -> Floats:
    """Rows (R, K) to the sums (S, K) of those from one start (S + 1,) to the next."""
    end = np.zeros((1, rows.shape[1]), dtype=rows.dtype)
    made: Floats = np.add.reduceat(np.concatenate([rows, end]), starts)[:-1]
    made[starts[:-1] == starts[1:]] = 0
    return made


def softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    made: Floats = raised / raised.sum(-1, keepdims=True)
    return made
