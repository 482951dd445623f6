"""A set of offsets against a plain Python set (the model)."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from seglog.intervals import Intervals

small = st.integers(0, 40)
steps = st.lists(st.tuples(st.sampled_from(["add", "remove"]), small, small), max_size=30)


def built(changes: list[tuple[str, int, int]]) -> tuple[Intervals, set[int]]:
    ranges, model = Intervals(), set[int]()
    for what, first, stop in changes:
        if what == "add":
            ranges.add(first, stop)
            model |= set(range(first, stop))
        else:
            ranges.remove(first, stop)
            model -= set(range(first, stop))
    return ranges, model


@given(steps)
def test_it_is_the_set_that_was_built_as_sorted_ranges_that_do_not_touch(changes: list[tuple[str, int, int]]) -> None:
    ranges, model = built(changes)
    pairs = list(ranges)
    assert {offset for first, stop in pairs for offset in range(first, stop)} == model
    assert all(first < stop for first, stop in pairs)
    assert all(left[1] < right[0] for left, right in pairwise(pairs))
    assert len(ranges) == len(pairs)
    assert ranges.count() == len(model)
    assert list(Intervals(pairs)) == pairs


@given(steps, small, small)
def test_questions(changes: list[tuple[str, int, int]], first: int, stop: int) -> None:
    ranges, model = built(changes)
    assert (first in ranges) is (first in model)
    held = ranges.range_at(first)
    assert (held is not None) is (first in model)
    assert held is None or held[0] <= first < held[1]
    holes = [offset for start, end in ranges.holes(first, stop) for offset in range(start, end)]
    assert holes == [offset for offset in range(first, stop) if offset not in model]


@given(steps)
def test_a_copy_is_independent(changes: list[tuple[str, int, int]]) -> None:
    ranges, _ = built(changes)
    before = list(ranges)
    other = ranges.copy()
    other.add(0, 100)
    other.remove(10, 20)
    assert list(ranges) == before
