"""What the embedded judge reads in a sentence: hashed runs of one to three words, kinds of phrases (`cues.py`), and of
each word the runs of its letters and its vector (`vectors.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from cleareyed.oversensitivity.judges.cue_words import cues_of
from cleareyed.oversensitivity.judges.cues import CUES
from cleareyed.oversensitivity.judges.hashing import PLACES, Ints, run_places
from cleareyed.oversensitivity.judges.text import ITEM, plain, sentences, words

Floats = npt.NDArray[np.float32]

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
    "picture",
    "premise",
    "purpose",
    "quibble",
    "redirect",
    "warning",
)
"""What a sentence does; the sections of `assets/judge/sentences.txt`."""

WIDTH = PLACES + len(CUES)
"""Of a sentence's row: hashed runs, and the cues behind them."""
SENTENCE_WORDS = 30
"""Words of a sentence that are looked at."""
MOST_SENTENCES = 60
"""Sentences of an answer that are looked at: two thirds from its beginning, the others from its end."""
CUE_WEIGHT = 0.35


@dataclass(frozen=True)
class Parsed:
    """An answer's sentences (S of them, at least one)."""

    sentences: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    """Of each sentence, as many as are looked at."""
    cues: tuple[tuple[int, ...], ...]
    lengths: Floats
    """(S,): words."""
    items: Floats
    """(S,): 1 where the sentence opens a list's item."""
    text: str = ""
    total: int = 0
    """Words of the whole text."""
    different: int = 0
    """Different ones among them."""


def parse(response: str) -> Parsed:
    text = plain(response)
    parts = sentences(text) or ["."]
    split = list(map(words, parts))
    total, different = sum(map(len, split)), len(set(chain.from_iterable(split)))
    if len(parts) > MOST_SENTENCES:
        first, last = MOST_SENTENCES * 2 // 3, -MOST_SENTENCES // 3
        parts, split = parts[:first] + parts[last:], split[:first] + split[last:]
    return _parsed(parts, split, text, total, different)


def parse_sentences(parts: Sequence[str]) -> Parsed:
    """Sentences that are no answer, however many."""
    return _parsed(parts, list(map(words, parts)))


def _parsed(
    parts: Sequence[str], split: Sequence[list[str]], text: str = "", total: int = 0, different: int = 0
) -> Parsed:
    return Parsed(
        tuple(parts),
        tuple(tuple(said[:SENTENCE_WORDS]) for said in split),
        tuple(map(cues_of, parts, split)),
        np.array([len(said) for said in split], dtype=np.float32),
        np.array([ITEM.match(part) is not None for part in parts], dtype=np.float32),
        text,
        total,
        different,
    )


def rows(held: Ints, counts: Ints, cues: Sequence[Sequence[int]]) -> tuple[Ints, Floats, Ints]:
    """Sparse rows (S, WIDTH): places (R,) and weights (R,), those of sentence s from starts[s] to starts[s + 1].

    `held` (W, 3) and `counts` (S,) as `run_places` takes them; `cues`: those of each sentence.
    """
    many = np.array([len(found) for found in cues])
    run_line, run_place = run_places(held, counts)
    cue_line = np.repeat(np.arange(len(cues)), many)
    cue_place = PLACES + np.fromiter(chain.from_iterable(cues), dtype=np.int64, count=len(cue_line))
    both = np.sort(np.concatenate([run_line, cue_line]) * WIDTH + np.concatenate([run_place, cue_place]))
    line, places = np.divmod(both[np.append(True, both[1:] != both[:-1])], WIDTH)
    starts = np.searchsorted(line, np.arange(len(cues) + 1))
    of_run = (1 / np.sqrt(np.maximum(1, np.diff(starts) - many))).astype(np.float32)
    return places, np.where(places < PLACES, of_run[line], np.float32(CUE_WEIGHT)), starts
