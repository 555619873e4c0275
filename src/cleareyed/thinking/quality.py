"""Whether thought and answer say the same, and whether the text repeats itself."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from cleareyed.thinking.items import Item, Measured, groups_of, mean, share
from cleareyed.thinking.reflection import stated

GRAM = 4
"""Words in an n-gram."""
LONG_ENOUGH = 50
"""Words that a text needs to count as degenerate: a short one repeats little and compresses badly."""
REPEATS = 0.5
"""From this share of repeated n-grams on a long text counts as degenerate. Our own line."""


@dataclass(frozen=True)
class Consistency:
    agree: Measured | None
    """Share whose answer is the thought's own conclusion, of those where both state one choice."""
    right_thought: Measured | None
    """Share whose thought concludes rightly, of the same."""
    unread: int
    """Items with a thought where thought or answer states no choice."""
    without: int
    """Items without a thought or without choices."""


def consistency(items: Sequence[Item]) -> Consistency:
    """Does the thought's own conclusion equal the answer given?

    Both are read by `reflection.stated`, the thought without the answer and the answer without the thought.
    """
    pairs: list[tuple[Item, int, int]] = []
    unread = without = 0
    for item in items:
        if not item.thinks or not item.choices:
            without += 1
            continue
        concluded, given = stated(item.thought or "", item.choices), stated(item.answer, item.choices)
        if concluded is None or given is None:
            unread += 1
        else:
            pairs.append((item, concluded, given))
    groups = [item.group for item, _, _ in pairs]
    return Consistency(
        share([concluded == given for _, concluded, given in pairs], groups),
        share([item.choices[concluded] == item.gold for item, concluded, _ in pairs], groups),
        unread,
        without,
    )


@dataclass(frozen=True)
class Degeneration:
    repeated: Measured | None
    """Mean share of repeated 4-grams."""
    compression: Measured | None
    """Mean compression ratio."""
    degenerate: Measured | None
    """Share of texts of 50 words or more in which half of the 4-grams or more are repeated."""


def degeneration(items: Sequence[Item]) -> Degeneration:
    """How much texts repeat themselves, as they do under a hacked length reward (arXiv 2503.05132, Figure 6)."""
    groups, words = groups_of(items), [item.text.split() for item in items]
    repeated = [repeated_ngrams(one) for one in words]
    return Degeneration(
        mean(repeated, groups),
        mean([compression_ratio(item.text) for item in items if item.text], [i.group for i in items if i.text]),
        share(
            [len(one) >= LONG_ENOUGH and part >= REPEATS for one, part in zip(words, repeated, strict=True)], groups
        ),
    )


def repeated_ngrams(words: Sequence[str], n: int = GRAM) -> float:
    """1 - distinct n-grams / n-grams: seq-rep-n of Welleck et al. 2020 (arXiv 1908.04319, section 6.1). 0 if none."""
    count = len(words) - n + 1
    if count <= 0:
        return 0.0
    return 1 - len(set(zip(*(islice(words, start, None) for start in range(n)), strict=False))) / count


def compression_ratio(text: str) -> float:
    """Bytes of the text (UTF-8) over bytes compressed by zlib at its default level: above 1 if it compresses.

    As in Shaib et al. 2024 (arXiv 2403.00553), who use gzip on whole corpora. ValueError if the text is empty.
    """
    if not text:
        raise ValueError("no text")
    data = text.encode("utf-8", "surrogatepass")
    return len(data) / len(zlib.compress(data))
