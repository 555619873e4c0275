"""Where runs of words and of letters stand in a sentence's row: by their CRC-32, so that none can be read back."""

from collections.abc import Sequence
from functools import cache, lru_cache
from zlib import crc32

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

PLACES = 2**14
"""Of hashed runs of words."""
LONGEST_RUN = 3
LETTER_PLACES = 2**12
LETTERS = (3, 4, 5)
"""Letters of a run inside a word, whose ends are marked."""
START, END = "^", "$"
"""Stand for the sentence's ends in a run; no word, as both are signs."""


def runs(said: Sequence[str]) -> list[str]:
    """Runs of one to three words, the sentence's ends among them."""
    line = [START, *said, END]
    found = list(said)
    for size in range(2, LONGEST_RUN + 1):
        found += [" ".join(line[at : at + size]) for at in range(len(line) - size + 1)]
    return found


def place(run: str) -> int:
    return crc32(run.encode()) % PLACES


def codes(word: str) -> tuple[int, int, int]:
    """CRC-32 of the word and of the word after a blank, and the bytes of the latter."""
    held = b" " + word.encode()
    return crc32(held[1:]), crc32(held), len(held)


def run_places(held: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """`place` of all `runs` of many sentences at once: of each run the sentence, and where it stands.

    `held` (W, 3): `codes` of the words of all sentences, of which each has `counts` (S,). The CRC of two texts in a
    row is the first one's, carried over as many zero bytes as the second is long, xor the second one's (zlib's
    `crc32_combine`).
    """
    line = np.repeat(np.arange(len(counts)), counts + 2)  # (T,), with the ends
    ends = np.cumsum(counts + 2)
    lines = np.empty((len(line), 3), dtype=np.int64)
    inside = np.ones(len(line), dtype=np.bool_)
    inside[ends - 1] = inside[ends - counts - 2] = False
    lines[ends - counts - 2], lines[ends - 1], lines[inside] = codes(START), codes(END), held
    one, follows, size = lines.T
    two = _carry(one[:-1], size[1:]) ^ follows[1:]
    three = _carry(two[:-1], size[2:]) ^ follows[2:]
    pair, triple = line[1:] == line[:-1], line[2:] == line[:-2]
    return (
        np.concatenate([line[inside], line[1:][pair], line[2:][triple]]),
        np.concatenate([one[inside], two[pair], three[triple]]) % PLACES,
    )


def _carry(crc: Ints, size: Ints) -> Ints:
    """CRCs (T,) after `size` (T,) more zero bytes: the map of one is squared for each bit of the size."""
    for bit in range(int(size.max(initial=0)).bit_length()):
        table = _after(bit)
        moved = table[0][crc & 255] ^ table[1][crc >> 8 & 255] ^ table[2][crc >> 16 & 255] ^ table[3][crc >> 24]
        crc = np.where(size >> bit & 1, moved, crc)
    return crc


@cache
def _after(bit: int) -> Ints:
    """(4, 256): what each byte of a CRC becomes by 2^bit zero bytes."""
    bytes_of = np.arange(256, dtype=np.int64) << 8 * np.arange(4)[:, None]
    if bit:
        half = np.full(bytes_of.size, 2 ** (bit - 1))
        return _carry(_carry(bytes_of.ravel(), half), half).reshape(bytes_of.shape)
    zero = crc32(b"\0")
    return np.array([[crc32(b"\0", int(value)) ^ zero for value in row] for row in bytes_of], dtype=np.int64)


@lru_cache(maxsize=50_000)
def letters(word: str) -> Ints:
    """Where the runs of a word's letters stand, of which its row holds 1 / sqrt(their number)."""
    marked = f"<{word[:24]}>"
    found = {marked[at : at + size] for size in LETTERS for at in range(len(marked) - size + 1)} or {marked}
    return np.array(sorted({crc32(run.encode()) % LETTER_PLACES for run in found}), dtype=np.int64)
