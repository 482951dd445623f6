"""Messages that kill the process which handles them: found, kept as dead letters, and nobody else is blamed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import seglog
from tests.support.poison_worker import POISON
from tools.crashtest.zygote import Start

DEATHS_AT_MOST = 30


@pytest.mark.parametrize(
    ("limit", "threads", "poisons"),
    [(50, 1, {37}), (1, 1, {3}), (50, 1, {0, 49, 61}), (5, 4, {20})],
    ids=["among 50", "alone", "three", "four threads"],
)
def test_p5_f76_a_message_that_kills_its_process_is_exhausted_and_all_others_are_handled(
    start: Start, tmp_path: Path, limit: int, threads: int, poisons: set[int]
) -> None:
    directory = str(tmp_path / "log")
    with seglog.open(directory) as log:
        log.append_many([POISON if n in poisons else b"fine" for n in range(70)])
        log.consumer("worker")
    given: dict[int, list[int]] = {}
    acked: list[int] = []
    ended = False
    deaths = 0
    while not ended:
        child = start("tests.support.poison_worker:work", directory, limit, threads)
        for line in child.lines():
            kind, *numbers = line.split()
            if kind == "g":
                given.setdefault(int(numbers[0]), []).append(int(numbers[1]))
            elif kind == "a":
                acked.append(int(numbers[0]))
            ended = kind == "end"
        assert child.wait() == (0 if ended else -signal.SIGKILL)
        child.close()
        deaths += not ended
        assert deaths < DEATHS_AT_MOST
        with seglog.open(directory, "r") as log:
            assert (log.consumers()["worker"].in_flight > 0) == (not ended), "the note tells"
    innocent = set(range(70)) - poisons
    assert len(acked) == len(set(acked)), "acked, and given out again"
    assert set(acked) <= innocent
    assert threads > 1 or set(acked) == innocent  # else a thread may die between an ack and the word of it
    for offset in innocent:
        assert set(given[offset]) == {1}, f"offset {offset} was blamed"
    for offset in poisons:
        assert sorted(set(given[offset])) == [1, 2, 3], given[offset]
    with seglog.open(directory) as log:
        letters = [(d.offset, d.reason, d.attempts, d.consumer) for d in log.dead_letters]
        assert sorted(letters) == [(offset, "exhausted", 3, "worker") for offset in sorted(poisons)]
        assert len(log.consumer("worker")) == 0
    assert seglog.verify(directory).ok
