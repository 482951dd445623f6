"""Dead letters are appended anew: what they were, durably, and only then deleted."""

from __future__ import annotations

import errno
import threading
from typing import Any

import pytest

import seglog
from seglog.disk.memory import MemoryDisk
from seglog.testing import Fault, FaultDisk
from tests.support.place import Place, payloads


class Words:
    """A serializer that refuses what another wrote."""

    def dumps(self, value: str) -> bytes:
        return b"word:" + value.encode()

    def loads(self, payload: bytes) -> str:
        if not payload.startswith(b"word:"):
            raise ValueError("no word")
        return payload[5:].decode()


def rejected(place: Place, *records: Any, **options: Any) -> seglog.Log[Any]:
    log = place.open(**options)
    log.append_many(records)
    log.sync()  # so that it is visible in every durability class
    log.consumer("c").reject(*range(len(records)), reason="not today")
    return log


def test_replayed_is_appended_as_it_was_and_deleted(place: Place) -> None:
    with place.open() as log:
        log.append(b"a", key=b"k", headers={"h": b"\xff"})
        log.append_many([b"b", b""])
        log.consumer("c").reject(0, 1, 2)
        assert log.dead_letters.replay([2, 0]) == [3, 4]
        assert [letter.id for letter in log.dead_letters] == [1]
        assert [(m.payload, m.key, m.headers) for m in log.read(3)] == [(b"", None, {}), (b"a", b"k", {"h": b"\xff"})]
        assert log.dead_letters.replay([1]) == [5]
        assert log.dead_letters.replay([]) == []
        assert log.durable_offset == 6
        assert payloads(log.consumer("c").drain()) == [b"", b"a", b"b"]


def test_an_id_that_is_named_twice_is_appended_once(place: Place) -> None:
    with rejected(place, b"a", b"b") as log:
        assert log.dead_letters.replay([1, 1, 0]) == [2, 3]


def test_payloads_are_not_encoded_again() -> None:
    place = Place("log", MemoryDisk())
    with place.open() as log:
        log.append(b"odd")
    with place.open(serializer=Words()) as log:
        log.append("even")
        log.consumer("c").reject(1)
        assert [m.value for m in log.consumer("c").drain()] == []
        assert [letter.reason for letter in log.dead_letters] == ["rejected", "undecodable"]
        assert log.dead_letters.replay([0, 1]) == [2, 3]
        assert [m.payload for m in log.read(2)] == [b"word:even", b"odd"]


def test_what_cannot_be_replayed_is_refused_before_anything_changes(place: Place) -> None:
    with rejected(place, b"a", b"b", b"c" * 500) as log:
        log.dead_letters.delete([1])
        for unknown in (1, 3, -1):
            with pytest.raises(seglog.InvalidOption, match=f"dead letter {unknown}"):
                log.dead_letters.replay([0, unknown])
        assert log.next_offset == 3
    with place.open(max_record_bytes=100) as log:
        with pytest.raises(seglog.RecordTooLarge):
            log.dead_letters.replay([0, 2])
        assert (log.next_offset, len(log.dead_letters)) == (3, 2)
        with pytest.raises(seglog.InvalidOption):
            log.dead_letters.replay([0], timeout=-1)
        assert (log.next_offset, len(log.dead_letters)) == (3, 2)
    with place.open("r") as log, pytest.raises(seglog.ReadOnly):
        log.dead_letters.replay([0])


def test_damage_is_no_record_to_replay(place: Place) -> None:
    from seglog.format.dead_letter import Envelope

    with rejected(place, b"a") as log:
        damage = Envelope("damaged", "rot", "", 7, 8, 0, 0, 0, 8192, 100, b"rotten")
        log.dead_letters.divert([damage])
        with pytest.raises(seglog.InvalidOption, match="dead letter 1"):
            log.dead_letters.replay([0, 1])
        assert (log.next_offset, len(log.dead_letters)) == (1, 2)


@pytest.mark.parametrize("durability", ["always", "interval", "never"])
def test_p1_replayed_is_durable_in_every_class(durability: str, place: Place) -> None:
    with rejected(place, b"a", b"b", durability=durability, sync_interval=3600) as log:
        assert log.dead_letters.replay([0, 1]) == [2, 3]
        assert log.durable_offset == 4


def test_p5_where_the_deletion_fails_the_entry_stays_beside_its_record() -> None:
    disk = FaultDisk(MemoryDisk())
    log = rejected(Place("log", disk), b"a", b"b")
    log.dead_letters.delete([])

    disk.arm(
        Fault(6, errno.EIO, onwards=True),  # each replay confirms the cursor twice, and then writes the deletion
        match=lambda operation, name: (operation, name) == ("write", "deleted.cursor"),
    )
    log.append(b"between")
    assert log.dead_letters.replay([0]) == [3]
    with pytest.raises(seglog.StorageError):
        log.dead_letters.replay([1])
    disk.arm(None)
    assert payloads(log.read(2)) == [b"between", b"a", b"b"]
    assert [letter.id for letter in log.dead_letters] == [1]
    log.close()


def test_p9_where_the_append_fails_the_entry_stays() -> None:
    disk = FaultDisk(MemoryDisk())
    log = rejected(Place("log", disk), b"a", b"b")
    in_log = log.next_offset
    disk.arm(
        Fault(1, errno.ENOSPC, onwards=True), match=lambda operation, name: operation == "write" and ".seg" in name
    )
    with pytest.raises(seglog.DiskFull):
        log.dead_letters.replay([0, 1])
    disk.arm(None)
    assert (log.next_offset, len(log.dead_letters)) == (in_log, 2)
    assert log.dead_letters.replay([0, 1]) == [2, 3]
    log.close()


def test_many_are_replayed_in_batches_each_deleted_once_it_is_durable() -> None:
    place = Place("log", MemoryDisk())
    with rejected(place, *[b"%d" % n + bytes(400_000) for n in range(7)]) as log:
        assert log.dead_letters.replay(range(7)) == list(range(7, 14))
        assert [m.payload[:1] for m in log.read(7)] == [b"%d" % n for n in range(7)]
        assert len(log.dead_letters) == 0


def test_p10_replay_keeps_to_the_limits_as_append_does(place: Place) -> None:
    with place.open() as log:
        log.append_many([b"%d" % n for n in range(5)])
        log.consumer("c").reject(*range(5))
    with place.open(max_records=3, when_full="error") as log:
        with pytest.raises(seglog.LogFull):
            log.dead_letters.replay(range(5))
        assert payloads(log.read(5)) == [b"0", b"1", b"2"]
        assert [letter.id for letter in log.dead_letters] == [3, 4]
        assert payloads(log.consumer("c").drain()) == [b"0", b"1", b"2"]
        log.consumer("c").ack(5, 6, 7)
        assert log.dead_letters.replay([3, 4]) == [8, 9]


def test_p10_replay_waits_for_room_while_consumers_divert(place: Place) -> None:
    """It must not hold what a consumer needs to make that room."""
    with place.open() as log:
        log.append_many([b"%d" % n for n in range(5)])
        log.consumer("c").reject(*range(5))
    with place.open(max_records=1) as log:
        replayed: list[int] = []
        thread = threading.Thread(target=lambda: replayed.extend(log.dead_letters.replay(range(5), timeout=30)))
        thread.start()
        try:
            consumer = log.consumer("c")
            for _ in range(5):
                message = consumer.receive(timeout=30)
                assert message is not None
                consumer.reject(message, reason="again")
        finally:
            thread.join(60)
        assert replayed == [5, 6, 7, 8, 9]
        assert [(letter.offset, letter.detail) for letter in log.dead_letters] == [(n, "again") for n in range(5, 10)]
