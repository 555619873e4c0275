"""Memory in pages of 2 MB on Linux, where addresses are found faster than in pages of 4 kB.

Training on a CPU goes through the same hundreds of MB in every step. Where transparent huge pages are switched off
(`/sys/kernel/mm/transparent_hugepage/enabled`) or unknown, nothing happens.
"""

import ctypes
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

HUGE = 2**21
_WANTED, _COLLAPSE = 14, 25  # MADV_HUGEPAGE and, of Linux 6.1, MADV_COLLAPSE, of <linux/mman.h>


def gather_heap() -> None:
    """Put what the process's heap holds into large pages, and leave what is in such already."""
    if _advise() is None:
        return
    found = re.search(r"^([0-9a-f]+)-([0-9a-f]+) .*\[heap\]$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    if found is not None:
        start, end = (int(part, 16) for part in found.groups())
        _tell(start, end, _COLLAPSE)


def want_large(tensor: Tensor) -> None:
    """Have memory on the CPU, not written to yet, come in large pages."""
    if type(tensor) is not Tensor:  # one without memory, by which sizes are worked out
        return
    start = tensor.data_ptr()
    _tell(start, start + tensor.nbytes, _WANTED)


def _tell(start: int, end: int, what: int) -> None:
    """Advice that the kernel may leave; it is given on the whole large pages between two addresses."""
    start, end = -(-start // HUGE) * HUGE, end // HUGE * HUGE
    advise = _advise()
    if advise is not None and start < end:
        advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), what)


@lru_cache(maxsize=1)
def _advise() -> Any:
    """`madvise` of the C library, if there are large pages."""
    switch = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not sys.platform.startswith("linux") or not switch.is_file() or "[never]" in switch.read_text():
        return None
    return getattr(ctypes.CDLL(None), "madvise", None)
