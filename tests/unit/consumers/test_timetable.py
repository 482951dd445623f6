"""Offsets in the order of their times, however often they are set anew."""

from __future__ import annotations

import random

from seglog.consumers.timetable import Timetable


def test_the_earliest_comes_first_and_what_was_set_anew_counts_once() -> None:
    table = Timetable()
    assert (table.first(), len(table), table.until(9)) == (None, 0, [])
    for offset, time in ((1, 5.0), (2, 3.0), (3, 4.0), (2, 6.0), (4, 4.0)):
        table.set(offset, time)
    assert table.first() == (4.0, 3)
    assert table.until(5.0) == [3, 4, 1]
    assert (len(table), table.later(4.0), 2 in table, 5 in table) == (4, 2, True, False)
    table.drop(3, 5)
    assert table.first() == (5.0, 1)
    table.drop(0, 1 << 60)
    assert (table.first(), len(table)) == (None, 0)


def test_it_agrees_with_a_dict_and_stays_as_small() -> None:
    dice = random.Random(2)
    table, expected = Timetable(), dict[int, float]()
    for _ in range(20_000):
        offset = dice.randrange(50)
        if dice.random() < 0.3:
            stop = offset + dice.choice((1, 5, 1000))
            table.drop(offset, stop)
            expected = {o: time for o, time in expected.items() if not offset <= o < stop}
        else:
            expected[offset] = dice.choice((1.0, dice.random()))
            table.set(offset, expected[offset])
        assert len(table._heap) <= 2 * 50 + 65
        if dice.random() < 0.1:
            assert table.first() == min(((time, o) for o, time in expected.items()), default=None)
            assert table.until(0.5) == [o for time, o in sorted((t, o) for o, t in expected.items()) if time <= 0.5]
