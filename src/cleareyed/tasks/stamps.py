"""Files that are read again while they are in use: whether they are still the same."""

from pathlib import Path

from cleareyed.errors import InputError

Stamp = tuple[int, int, int]
"""Inode, bytes, and nanoseconds of the last change."""


def stamp_of(path: Path) -> Stamp:
    """InputError if it is gone."""
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return found.st_ino, found.st_size, found.st_mtime_ns


def refuse_changed(path: Path, stamp: Stamp) -> None:
    """InputError if it is another file than when `stamp` was taken."""
    if stamp_of(path) != stamp:
        raise InputError(f"{path}: changed while it was in use; give the command again")
