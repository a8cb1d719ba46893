"""Pages are conserved whatever is taken, shared and released."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxr.errors import OutOfPages
from mlxr.pages.allocator import PageAllocator


def test_takes_each_page_once_and_never_page_zero():
    a = PageAllocator(5)
    pages = a.take(5)
    assert sorted(pages) == [1, 2, 3, 4, 5]
    assert (a.free, a.used) == (0, 5)


def test_refuses_more_than_there_are_and_takes_none():
    a = PageAllocator(3)
    a.take(1)
    with pytest.raises(OutOfPages, match="3 pages wanted, 2 of 3 are free"):
        a.take(3)
    assert a.free == 2


def test_shared_page_is_free_after_the_last_holder_lets_go():
    a = PageAllocator(2)
    pages = a.take(1)
    a.share(pages)
    a.release(pages)
    assert a.free == 1
    a.release(pages)
    assert a.free == 2
    for wrong in (a.release, a.share):
        with pytest.raises(ValueError, match="is free"):
            wrong(pages)


def test_check_finds_a_lost_page():
    a = PageAllocator(4)
    table = a.take(2)
    a.check([table])
    with pytest.raises(AssertionError, match="counted"):
        a.check([table[:1]])


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["take", "share", "release"]), st.integers(0, 6)), max_size=60))
def test_conservation(steps):
    a, tables = PageAllocator(20), []
    for what, n in steps:
        if what == "take" and n <= a.free:
            tables.append(a.take(n))
        elif what == "share" and tables:
            tables.append(list(tables[n % len(tables)]))
            a.share(tables[-1])
        elif what == "release" and tables:
            a.release(tables.pop(n % len(tables)))
        a.check(tables)
        assert a.free + a.used == 20
        assert a.used == len({p for t in tables for p in t})
