"""JSON in which a key may occur twice, and nothing of it is lost."""

import json
from pathlib import Path
from typing import Any

from cleareyed.errors import InputError


class Pairs(list[tuple[str, Any]]):
    """An object with all its pairs, in their order."""


def read_pairs(path: Path, meant: str) -> Pairs:
    """The object in a file; objects within it are `Pairs` as well. `meant` says what the file should hold.

    InputError: the file cannot be read, is not JSON, or no object.
    """
    try:
        loaded = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=Pairs)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({' '.join(str(error).split())[:120]}); give {meant}") from error
    if not isinstance(loaded, Pairs):
        raise InputError(f"{path}: not an object; give {meant}")
    return loaded


def plain(value: Any) -> Any:
    """`Pairs` as dictionaries; of a key that occurs twice the last value counts."""
    if isinstance(value, Pairs):
        return {key: plain(one) for key, one in value}
    return [plain(one) for one in value] if isinstance(value, list) else value
