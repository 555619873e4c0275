"""What the embedded judge reads in a sentence: hashed runs of one to three words, kinds of phrases (`cues.py`), and of
each word the runs of its letters and its vector (`vectors.py`).
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

import numpy as np
import numpy.typing as npt

from cleareyed.oversensitivity.judges.cue_words import NEEDS
from cleareyed.oversensitivity.judges.cues import CUES
from cleareyed.oversensitivity.judges.text import ITEM, plain, sentences, words

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

KINDS = (
    "alternative",
    "capability",
    "clarify",
    "condemn",
    "content",
    "decline",
    "disclaimer",
    "improper",
    "lecture",
    "opening",
    "premise",
    "purpose",
    "redirect",
    "warning",
)
"""What a sentence does; the sections of `assets/judge/sentences.txt`."""

PLACES = 2**14
"""Of hashed runs; the cues stand behind them."""
WIDTH = PLACES + len(CUES)
LETTER_PLACES = 2**12
LETTERS = (3, 4, 5)
"""Letters of a run inside a word, whose ends are marked."""
LONGEST_RUN = 3
SENTENCE_WORDS = 30
"""Words of a sentence that are looked at."""
MOST_SENTENCES = 60
"""Sentences of an answer that are looked at: two thirds from its beginning, the others from its end."""
CUE_WEIGHT = 0.35
_CUES = tuple((pattern, NEEDS.get(name, ("",))) for name, pattern in CUES.items())


@dataclass(frozen=True)
class Parsed:
    """An answer as sparse rows, one a sentence (S of them, at least one)."""

    text: str
    sentences: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    """Of each sentence, as many as are looked at."""
    places: tuple[Ints, ...]
    """Of each sentence: where its row is not 0."""
    weights: tuple[Floats, ...]
    cues: tuple[tuple[int, ...], ...]
    lengths: Floats
    """(S,): words."""
    items: Floats
    """(S,): 1 where the sentence opens a list's item."""


def parse(response: str) -> Parsed:
    text = plain(response)
    parts = sentences(text) or ["."]
    if len(parts) > MOST_SENTENCES:
        parts = parts[: MOST_SENTENCES * 2 // 3] + parts[-MOST_SENTENCES // 3 :]
    return parse_sentences(parts, text)


def parse_sentences(parts: Sequence[str], text: str = "") -> Parsed:
    cues = _cues([part.lower() for part in parts])
    split = [words(part) for part in parts]
    rows = [_row(said[:SENTENCE_WORDS], cue) for said, cue in zip(split, cues, strict=True)]
    return Parsed(
        text,
        tuple(parts),
        tuple(tuple(said[:SENTENCE_WORDS]) for said in split),
        tuple(places for places, _ in rows),
        tuple(weights for _, weights in rows),
        tuple(map(tuple, cues)),
        np.array([len(said) for said in split], dtype=np.float32),
        np.array([ITEM.match(part) is not None for part in parts], dtype=np.float32),
    )


def _cues(parts: list[str]) -> list[list[int]]:
    """The cues of each sentence: every pattern runs once over all of them, a sentence a line."""
    text = "\n".join(part.replace("\n", " ") for part in parts)
    starts, at = [], 0
    for part in parts:
        starts.append(at)
        at += len(part) + 1
    found: list[list[int]] = [[] for _ in parts]
    for index, (pattern, needs) in enumerate(_CUES):
        for word in needs:
            if word in text:
                break
        else:
            continue
        for hit in pattern.finditer(text):
            row = found[bisect_right(starts, hit.start()) - 1]
            if not row or row[-1] != index:
                row.append(index)
    return found


def _row(said: list[str], cues: list[int]) -> tuple[Ints, Floats]:
    places = np.array(sorted(_places(said)) + [PLACES + index for index in cues], dtype=np.int64)
    many = len(places) - len(cues)
    weights = np.full(len(places), 1 / max(1, many) ** 0.5, dtype=np.float32)
    weights[many:] = CUE_WEIGHT
    return places, weights


def _places(said: Sequence[str]) -> set[int]:
    """`place` of all `runs`; a run's sum goes on from that of its beginning."""
    found = set()
    one, two = crc32(b"^"), 0
    for at, word in enumerate(said):
        code = word.encode()
        follows = b" " + code
        if at:
            found.add(crc32(follows, two) % PLACES)
        two = crc32(follows, one)
        one = crc32(code)
        found.add(two % PLACES)
        found.add(one % PLACES)
    if said:
        found.add(crc32(b" $", two) % PLACES)
    found.add(crc32(b" $", one) % PLACES)
    return found


def runs(said: Sequence[str]) -> list[str]:
    """Runs of one to three words; `^` and `$` stand for the sentence's ends."""
    line = ["^", *said, "$"]
    found = list(line[1:-1])
    for size in range(2, LONGEST_RUN + 1):
        found += [" ".join(line[at : at + size]) for at in range(len(line) - size + 1)]
    return found


def place(run: str) -> int:
    return crc32(run.encode()) % PLACES


@lru_cache(maxsize=50_000)
def letters(word: str) -> Ints:
    """Where the runs of a word's letters stand, of which its row holds 1 / sqrt(their number)."""
    marked = f"<{word[:24]}>"
    found = {marked[at : at + size] for size in LETTERS for at in range(len(marked) - size + 1)} or {marked}
    return np.array(sorted({crc32(run.encode()) % LETTER_PLACES for run in found}), dtype=np.int64)
