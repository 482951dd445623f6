"""Dead letters are deleted and purged: exactly these, durably, and the space comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.disk.memory import MemoryDisk
from seglog.format import layout as L
from seglog.format.names import DELETED, cursor_file_name
from seglog.testing import ManualClock
from tests.support.place import Place, offsets, payloads


def rejected(place: Place, count: int, size: int = 20, **options: Any) -> seglog.Log[Any]:
    """A log whose records are all dead letters, made one by one."""
    log = place.open(**options)
    log.append_many([b"%d " % n + bytes(size) for n in range(count)])
    consumer = log.consumer("c")
    for n in range(count):
        consumer.reject(n, reason=f"number {n}")
    return log


def ids(log: seglog.Log[Any]) -> list[int]:
    return [letter.id for letter in log.dead_letters]


def test_deleted_is_deleted_now_and_after_reopening(place: Place) -> None:
    log = rejected(place, 6)
    assert log.dead_letters.delete([1, 4]) == 2
    assert ids(log) == [0, 2, 3, 5]
    assert len(log.dead_letters) == 4
    log.close()
    with place.open("r") as log:
        assert ids(log) == [0, 2, 3, 5]
        assert log.dead_letters.delete([0]) == 1
        assert log.stats().dead_letters == 3
    assert place.verify().dead_letters == 3
    assert place.verify().warnings == ()


def test_deleting_what_is_not_there_is_fine(place: Place) -> None:
    with rejected(place, 3) as log:
        assert log.dead_letters.delete([1]) == 1
        assert log.dead_letters.delete([1, -1, 3, 1 << 62]) == 0
        assert log.dead_letters.delete([]) == 0
        assert ids(log) == [0, 2]
        log.consumer("d").reject(0)
        assert ids(log) == [0, 2, 3]  # what was deleted ahead of its time is an entry all the same


def test_a_log_without_a_queue_has_nothing_to_delete(place: Place) -> None:
    place.open().close()
    with place.open("r") as log:
        assert log.dead_letters.delete([0]) == 0
        assert log.dead_letters.purge() == 0
        assert len(log.dead_letters) == 0
        assert log.dead_letters.get(0) is None


@pytest.mark.parametrize("wrong", [["1"], [1.0], [True], [None], 3])
def test_ids_are_whole_numbers(wrong: Any, place: Place) -> None:
    with rejected(place, 2) as log:
        with pytest.raises(seglog.InvalidOption):
            log.dead_letters.delete(wrong)
        assert ids(log) == [0, 1]


def test_get_gives_the_entry_as_long_as_it_is_there(place: Place) -> None:
    with rejected(place, 3) as log:
        letter = log.dead_letters.get(1)
        assert letter is not None
        assert (letter.id, letter.detail, letter.offset) == (1, "number 1", 1)
        log.dead_letters.delete([1])
        assert log.dead_letters.get(1) is None
        assert log.dead_letters.get(3) is None
        with pytest.raises(seglog.InvalidOption):
            log.dead_letters.get(-1)


def test_ids_are_never_used_again(place: Place) -> None:
    log = rejected(place, 3)
    assert log.dead_letters.purge() == 3
    log.close()
    with place.open() as log:
        log.append(b"next")
        log.consumer("c").reject(3)
        assert ids(log) == [3]


def test_purge_takes_what_is_older(tmp_path: Path) -> None:
    clock = ManualClock()
    log = seglog.open("log", disk=MemoryDisk(), clock=clock)
    log.append_many([b"a", b"b", b"c"])
    for offset in range(3):
        log.consumer("c").reject(offset)
        clock.advance(100)
    assert log.dead_letters.purge(older_than=250) == 1
    assert ids(log) == [1, 2]
    assert log.dead_letters.purge(older_than=200.5) == 0
    assert log.dead_letters.purge(older_than=0) == 2
    with pytest.raises(seglog.InvalidOption):
        log.dead_letters.purge(older_than=-1)
    log.close()


def test_deletions_too_scattered_to_be_noted_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(L, "CURSOR_RANGES_MAX", 3)
    with rejected(Place("log", MemoryDisk()), 10) as log:
        log.dead_letters.delete([2, 4])
        with pytest.raises(seglog.LogFull, match="oldest"):
            log.dead_letters.delete([6, 8])
        with pytest.raises(seglog.LogFull, match="oldest"):
            log.dead_letters.replay([6, 8])
        assert len(log.dead_letters) == 8
        assert log.next_offset == 10
        assert log.dead_letters.delete([0, 1, 3, 6, 8]) == 5


@pytest.mark.parametrize("size", [10, 300, 3000])
def test_deleting_everything_gives_the_space_back_with_a_small_cap(size: int, place: Place) -> None:
    log = place.open(dead_letter_bytes=4096)
    consumer = log.consumer("c")
    for _ in range(4):
        made = 0
        try:
            for _ in range(100):
                consumer.reject(log.append(bytes(size)))
                made += 1
        except seglog.DeadLetterWriteFailed:
            pass
        assert 0 < made < 100
        left = offsets(consumer.unacked())
        assert len(left) == 1  # the one that did not fit stays
        consumer.ack(*left)
        assert log.dead_letters.delete([letter.id for letter in log.dead_letters]) == made
    log.close()


def test_deleting_the_oldest_makes_room_for_new_ones(place: Place) -> None:
    log = rejected(place, 10, size=200, dead_letter_bytes=4600)
    log.append(bytes(200))
    with pytest.raises(seglog.DeadLetterWriteFailed, match="dead_letter_bytes"):
        log.consumer("c").reject(10)
    log.dead_letters.delete([0])
    log.consumer("c").reject(10)
    assert ids(log) == list(range(1, 11))
    log.close()


def test_an_entry_that_stays_holds_back_its_neighbours_only(place: Place) -> None:
    """Segments of the queue are small against the cap."""
    log = rejected(place, 10, size=200, dead_letter_bytes=4600)
    assert log.dead_letters.delete([0, 1, 3, 4, 5, 7, 8, 9]) == 8
    for _ in range(6):
        log.consumer("c").reject(log.append(bytes(200)))
    assert ids(log)[:2] == [2, 6]
    log.close()
    assert place.verify().ok


def test_p6_damage_that_was_deleted_is_not_kept_again_while_its_entry_is_on_disk(tmp_path: Path) -> None:
    with seglog.open(tmp_path, segment_bytes=4096) as log:
        log.append_many([b"%d" % n + bytes(600) for n in range(6)])
        log.append(bytes(3000))
    segment = min((tmp_path / "segments").iterdir())
    data = bytearray(segment.read_bytes())
    data[data.index(b"2" + bytes(600)) + 300] ^= 0x40
    segment.write_bytes(data)
    with seglog.open(tmp_path) as log:
        list(log.consumer("a").drain())
        log.consumer("a").reject(0)
        assert log.dead_letters.delete([0]) == 1  # its neighbour keeps it on disk
        list(log.consumer("b").drain())
        assert ids(log) == [1]
    with seglog.open(tmp_path) as log:
        list(log.consumer("c").drain())
        assert ids(log) == [1]
        log.dead_letters.purge()
        list(log.consumer("d").drain())
        assert [letter.reason for letter in log.dead_letters] == ["damaged"]  # forgotten with the bytes of its entry


def test_p5_a_message_rejected_anew_after_its_entry_was_deleted_is_kept_anew(place: Place) -> None:
    with rejected(place, 2) as log:
        log.dead_letters.delete([0])
        consumer = log.consumer("c")
        consumer.seek("earliest")
        consumer.reject(0, reason="again")
        consumer.reject(1, reason="again")
        assert [(letter.id, letter.detail) for letter in log.dead_letters] == [(1, "number 1"), (2, "again")]


def test_p5_an_unreadable_note_of_what_was_deleted_brings_entries_back_and_loses_none(tmp_path: Path) -> None:
    with rejected(Place(str(tmp_path), None), 4) as log:
        log.dead_letters.delete([1, 2])
    cursor = tmp_path / "dead" / "cursors" / cursor_file_name(DELETED)
    cursor.write_bytes(b"\xff" * cursor.stat().st_size)
    with seglog.open(tmp_path) as log:
        assert ids(log) == [0, 1, 2, 3]
        assert log.dead_letters.delete([1]) == 1
        assert ids(log) == [0, 2, 3]
    assert seglog.verify(tmp_path).ok


def test_a_queue_from_before_there_was_deleting_reads_and_can_be_deleted_from(tmp_path: Path) -> None:
    with rejected(Place(str(tmp_path), None), 3):
        pass
    with seglog.open(tmp_path / "dead") as dead:
        dead.remove_consumer(DELETED)
    with seglog.open(tmp_path, "r") as log:
        assert ids(log) == [0, 1, 2]
        assert log.dead_letters.delete([1]) == 1
        assert payloads(log.dead_letters) == [b"0 " + bytes(20), b"2 " + bytes(20)]


def test_a_closed_log_has_no_dead_letters_to_change(place: Place) -> None:
    log = rejected(place, 2)
    letters = log.dead_letters
    log.close()
    for action in (
        letters.purge,
        letters.read,
        lambda: letters.delete([0]),
        lambda: letters.get(0),
        lambda: len(letters),
    ):
        with pytest.raises(seglog.LogClosed):
            action()


def test_f77_what_does_not_read_back_is_told_and_can_be_deleted(tmp_path: Path) -> None:
    with rejected(Place(str(tmp_path), None), 5, size=600):
        pass
    segment = min((tmp_path / "dead" / "segments").iterdir())
    data = bytearray(segment.read_bytes())
    data[data.index(b"2 " + bytes(600)) + 300] ^= 1
    segment.write_bytes(data)
    report = seglog.verify(tmp_path)
    assert report.ok
    assert report.dead_letters == 5
    assert "dead letters 2 to 2" in report.warnings[0]
    with seglog.open(tmp_path) as log:
        gaps: list[seglog.Gap] = []
        assert [letter.id for letter in log.dead_letters.read(gaps.append)] == [0, 1, 3, 4]
        assert gaps == [seglog.Gap(2, 2, "damaged")]
        with pytest.raises(seglog.DamageFound):
            log.dead_letters.get(2)
        with pytest.raises(seglog.DamageFound):
            log.dead_letters.replay([1, 2])
        assert log.next_offset == 5
        assert log.dead_letters.delete([2]) == 1
        assert ids(log) == [0, 1, 3, 4]
        assert log.dead_letters.purge() == 4
    assert seglog.verify(tmp_path).warnings == ()  # its segment went with the last entry
