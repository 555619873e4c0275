import sys

import pytest
import torch

from cleareyed.models import pages


def told(monkeypatch):
    """What is asked of the kernel: (start, bytes, advice)."""
    asked = []
    monkeypatch.setattr(
        pages, "_advise", lambda: lambda start, size, what: asked.append((start.value, size.value, what))
    )
    return asked


def test_whole_large_pages_of_a_tensor_are_asked_for(monkeypatch):
    asked = told(monkeypatch)
    tensor = torch.empty(3 * pages.HUGE // 4)
    pages.want_large(tensor)
    [(start, size, what)] = asked
    assert start % pages.HUGE == size % pages.HUGE == 0 and size >= 2 * pages.HUGE and what == 14
    assert tensor.data_ptr() <= start and start + size <= tensor.data_ptr() + tensor.nbytes
    pages.want_large(torch.empty(8))  # lies within none
    assert len(asked) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
def test_the_heap_is_gathered_and_holds_what_it_held(monkeypatch):
    held = [torch.full((2**16,), float(number)) for number in range(64)]  # of 256 kB each, 16 MB
    pages.gather_heap()
    assert all(bool((part == number).all()) for number, part in enumerate(held))
    asked = told(monkeypatch)
    pages.gather_heap()
    [(start, size, what)] = asked
    assert start % pages.HUGE == 0 and size >= pages.HUGE and what == 25


def test_nothing_is_asked_where_large_pages_are_switched_off(monkeypatch, tmp_path):
    switch = tmp_path / "enabled"
    switch.write_text("always madvise [never]\n")
    monkeypatch.setattr(pages, "Path", lambda place: switch if "hugepage" in place else pytest.fail("maps were read"))
    pages._advise.cache_clear()
    pages.gather_heap()
    pages.want_large(torch.empty(2**21))
    pages._advise.cache_clear()
