"""What is not due yet: nothing forgotten for good, in the order of due times, in bounded memory."""

from __future__ import annotations

import os
import random
import tracemalloc

import pytest

from seglog.consumers.schedule import Schedule

DEEP = int(os.environ.get("SEGLOG_DEEP", "1"))


def drained(schedule: Schedule, dues: dict[int, int], now: int) -> tuple[Schedule, list[int]]:
    """All that is due, as an owner takes it who can read the whole log again, and what is left."""
    taken: list[int] = []
    while True:
        again = schedule.look_again(now)
        if again is not None:
            schedule = Schedule(nearest=10)
            for offset, due in dues.items():
                if offset >= again:
                    schedule.add(due, offset)
        found = schedule.first(now)
        if found is None:
            if again is None:
                return schedule, taken
            continue
        schedule.pop()
        if found in dues:
            taken.append(found)
            del dues[found]


@pytest.mark.parametrize("count", [0, 1, 9, 10, 19, 20, 21, 100, 1000])
@pytest.mark.parametrize("order", ["rising", "falling", "shuffled", "same"])
def test_p5_everything_is_taken_when_it_is_due_in_order_and_once(count: int, order: str) -> None:
    dues = {offset: 10 * offset for offset in range(count)}
    if order == "falling":
        dues = {offset: 10 * (count - offset) for offset in range(count)}
    elif order == "shuffled":
        dues = dict(enumerate(random.Random(count).choices(range(10 * count), k=count)))
    elif order == "same":
        dues = dict.fromkeys(range(count), 500)
    schedule = Schedule(nearest=10)
    for offset, due in dues.items():
        schedule.add(due, offset)
    expected = sorted(dues, key=lambda offset: (dues[offset], offset))
    times = dues.copy()
    assert len(schedule) == count
    taken: list[int] = []
    for now in range(0, 10 * count + 510, 37):
        wake_up = schedule.next_due()
        assert (wake_up is None) == (not dues)
        assert wake_up is None or wake_up <= min(dues.values()), "in time"
        schedule, found = drained(schedule, dues, now)
        assert [times[offset] for offset in found] == sorted(times[offset] for offset in found)
        taken += found
        assert all(due > now for due in dues.values())
    assert sorted(taken) == sorted(expected)
    if order != "same":
        assert [times[offset] for offset in taken] == sorted(times.values())


def test_p10_memory_does_not_grow_with_what_is_scheduled() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        schedule = Schedule(nearest=500)
        for offset in range(count):
            schedule.add(10**18 + (offset * 7919) % count, offset)
        assert len(schedule) == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2000)
    few, many = peak(10_000), peak(200_000 * DEEP)
    assert many < 1.5 * few
    assert peak(100) < few / 4, "the measure notices growth"
