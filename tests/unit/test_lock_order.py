"""Locks are taken in one order only (tests/support/lock_order.py), so threads never wait for each other in a circle."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest

import seglog
from seglog.disk.memory import MemoryDisk
from seglog.testing import ManualClock
from tests.support.lock_order import LEADERSHIP, LockOrder


def everything(disk: MemoryDisk, **options: Any) -> None:
    """Every call that takes a lock, in states in which it takes more."""
    clock = ManualClock()
    beside_gaps: list[seglog.Gap] = []
    with seglog.open("log", disk=disk, clock=clock, segment_bytes=4096, max_records=40, **options) as log:
        first = log.consumer("first", lease=1.0, backoff=1.0, max_attempts=2, on_gap=beside_gaps.append)
        second = log.consumer("second")
        for number in range(10):
            log.append(b"%d" % number + bytes(900), ttl=0.5 if number == 7 else None)
        log.append_many([b"x", b"y"])
        log.submit(b"later", delay=0.5).result(30)
        log.sync()
        log.wait_durable(0)
        clock.advance(1.0)
        messages = first.receive_many(6)
        first.ack(*messages[:2])
        first.nack(messages[2], delay=0)
        first.extend(messages[3], seconds=5)
        first.reject(messages[4])
        clock.advance(10.0)
        first.receive_many(10)
        clock.advance(10.0)
        first.receive_many(10)  # what failed too often becomes a dead letter
        first.unacked()
        len(first), first.stats(), log.stats(), log.consumers(), list(log.read()), log.get(0)
        second.ack(*range(9))
        second.seek("earliest")
        second.seek("latest")
        log.compact()
        with seglog.open("log", "r", disk=disk, clock=clock) as beside:
            third = beside.consumer("third")
            third.receive()
            beside.compact()
            third.close()
        log.remove_consumer("third")
        letters = list(log.dead_letters)
        assert letters
        len(log.dead_letters)
        with contextlib.suppress(seglog.LogFull):
            for number in range(60):
                log.append(b"%d" % number + bytes(300), timeout=0)  # to the limit, over rotations
        log.purge()
        first.receive()
        second.close()


@pytest.mark.parametrize("when_full", ["block", "error", "drop_oldest"])
@pytest.mark.parametrize("durability", ["always", "never"])
def test_p11_no_two_locks_are_ever_taken_in_both_orders(
    when_full: str, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = LockOrder(monkeypatch)
    everything(MemoryDisk(), when_full=when_full, durability=durability)
    assert order.circle() == []
    seen = {("roster", "cursors/.lock"), ("consumer", "cursors/.lock"), (LEADERSHIP, "catalog")}
    assert seen <= order.edges, sorted(order.edges)


def test_the_record_of_locks_notices_an_inversion(monkeypatch: pytest.MonkeyPatch) -> None:
    order = LockOrder(monkeypatch)
    with seglog.open("log", disk=MemoryDisk()) as log:
        consumer = log.consumer("c")
        with log._roster._lock, consumer._lock:
            consumer.receive()
        assert order.circle() == []
        with consumer._lock:
            log.consumer("d")
        assert set(order.circle()) == {"consumer", "roster"}


def test_a_lock_that_is_taken_again_by_its_holder_is_no_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    order = LockOrder(monkeypatch)
    with seglog.open("log", disk=MemoryDisk()) as log:
        lock = log._roster._lock
        with lock, lock:
            pass
    assert ("roster", "roster") not in order.edges
    assert threading.RLock is not None
