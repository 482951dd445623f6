"""Users' own code under every crash and every fault: right code passes, wrong code is caught, and its state named."""

from __future__ import annotations

import re
from typing import Any

import pytest

import seglog
from seglog.disk.base import Disk
from seglog.testing import every_crash, every_fault
from seglog.testing.trials import Note

pytest_plugins = ["seglog.testing.fixtures"]
ORDERS = [b"order 1", b"order 2", b"order 3"]


def appends(disk: Disk, note: Note) -> None:
    with seglog.open("spool", disk=disk, segment_bytes=4096) as log:
        for order in ORDERS:
            log.append(order)
            note(order)


def all_there(disk: Disk, noted: list[Any]) -> None:
    with seglog.open("spool", disk=disk) as log:
        there = [message.payload for message in log.read()]
    assert there[: len(noted)] == noted
    assert there == ORDERS[: len(there)]


def ships(disk: Disk, note: Note) -> None:
    """First the work, then the ack."""
    appends(disk, lambda value: None)
    with seglog.open("spool", disk=disk) as log, log.consumer("shipping") as consumer:
        for message in consumer.drain():
            note(message.payload)
            consumer.ack(message)


def acks_too_early(disk: Disk, note: Note) -> None:
    appends(disk, lambda value: None)
    with seglog.open("spool", disk=disk) as log, log.consumer("shipping") as consumer:
        for message in consumer.drain():
            consumer.ack(message)
            note(message.payload)


def nothing_is_forgotten(disk: Disk, noted: list[Any]) -> None:
    """Whatever is in the log was shipped, or will be."""
    with seglog.open("spool", disk=disk) as log:
        there = [message.payload for message in log.read()]
        left = [message.payload for message in log.consumer("shipping").unacked()]
    assert sorted({*noted, *left}) == there


def test_right_code_passes_in_every_state() -> None:
    assert every_crash(appends, all_there) > 50
    assert every_crash(ships, nothing_is_forgotten) > 100


def test_a_consumer_that_acks_too_early_is_caught_and_its_state_can_be_run_alone() -> None:
    with pytest.raises(AssertionError) as caught:
        every_crash(acks_too_early, nothing_is_forgotten)
    (told,) = caught.value.__notes__
    name = re.search(r"only='(\d+/\d+)'", told)
    assert name is not None
    with pytest.raises(AssertionError):
        every_crash(acks_too_early, nothing_is_forgotten, only=name[1])
    assert every_crash(ships, nothing_is_forgotten, only="3/0") == 1
    with pytest.raises(ValueError, match="no state '9999/0'"):
        every_crash(ships, nothing_is_forgotten, only="9999/0")


@pytest.mark.parametrize("onwards", [False, True])
def test_every_call_to_the_disk_fails_once(onwards: bool) -> None:
    assert every_fault(appends, all_there, onwards=onwards) > 100


def swallows(disk: Disk, note: Note) -> None:
    with seglog.open("spool", disk=disk) as log:
        for order in ORDERS:
            try:
                log.append(order)
            except seglog.SeglogError:
                continue  # wrong: it goes on, and says that it is done
            finally:
                note(order)


def test_code_that_swallows_an_error_is_caught_and_its_fault_can_be_run_alone() -> None:
    with pytest.raises(AssertionError) as caught:
        every_fault(swallows, all_there)
    (told,) = caught.value.__notes__
    name = re.search(r"call \d+, \w+ of '.*', fails with \w+ \(only='(\w+/\d+)'\)", told)
    assert name is not None
    with pytest.raises(AssertionError):
        every_fault(swallows, all_there, only=name[1])


def test_what_else_the_code_raises_is_not_taken_for_the_fault() -> None:
    def wrong(disk: Disk, note: Note) -> None:
        try:
            appends(disk, note)
        except seglog.SeglogError:
            raise KeyError("wrong") from None

    with pytest.raises(KeyError) as caught:
        every_fault(wrong, all_there)
    assert "call 1," in caught.value.__notes__[0]


def test_the_fixtures_are_new_and_empty(crash_disk: Any, fault_disk: Any, manual_clock: Any) -> None:
    for disk in (crash_disk, fault_disk):
        with seglog.open("spool", disk=disk, clock=manual_clock) as log:
            assert log.append(b"x") == 0
