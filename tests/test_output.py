"""Stop strings: text before them comes out as early as it can, and nothing of them or after them ever does."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mlxr.output import StopWatch


def feed(stops, pieces):
    watch, out = StopWatch(stops), ""
    for i, piece in enumerate(pieces):
        out += watch.add(piece, last=i == len(pieces) - 1)
        if watch.found:
            break
    return out, watch.found


def test_holds_back_what_may_become_a_stop_string():
    watch = StopWatch(("END",))
    assert watch.add("abcE") == "abc"
    assert watch.add("N") == ""
    assert watch.add("x") == "ENx"
    assert watch.add("EN") == ""
    assert watch.add("D tail") == "" and watch.found == "END"


def test_what_was_held_comes_out_at_the_end():
    assert feed(("END",), ["so EN"]) == ("so EN", None)


def test_the_earliest_stop_string_wins():
    assert feed(("b", "ab"), ["xxab"]) == ("xx", "ab")


@settings(max_examples=200)
@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=3), st.lists(st.text("abc", max_size=4), min_size=1, max_size=8))
def test_same_as_searching_the_whole_text(stops, pieces):
    text, (out, found) = "".join(pieces), feed(tuple(stops), pieces)
    hits = [text.find(s) for s in stops if s in text]
    if found is None:
        assert not hits and out == text
    else:
        # A piecewise search may end at a stop string that is complete before an earlier, longer one is.
        assert hits and text.startswith(out + found)
