"""The two-slot file: one value that survives any crash between and inside its writes (FORMAT.md §7.1)."""

from __future__ import annotations

import errno
import random

import pytest

from seglog.disk.memory import MemoryDirectory, MemoryDisk, Node
from seglog.errors import LogFailed
from seglog.format import layout as L
from seglog.format.slots import Slot, encode_slot
from seglog.slot_file import SlotFile
from seglog.testing import CrashDisk, Fault, FaultDisk

LOG_ID = bytes(range(16))
SLOT = 8192


def made(payload: bytes = b"first") -> tuple[MemoryDisk, MemoryDirectory]:
    disk = MemoryDisk()
    directory = disk.open("d", create=True)
    SlotFile.create(directory, "f", payload, kind=L.KIND_META, log_id=LOG_ID, slot_bytes=SLOT, tail=512).close()
    return disk, directory


def opened(directory: MemoryDirectory, kind: int = L.KIND_META) -> SlotFile:
    return SlotFile(directory.open("f", write=True), kind=kind, log_id=bytes(16), slot_bytes=SLOT)


def content(directory: MemoryDirectory) -> bytearray:
    node = directory.tree.entries["f"]
    assert isinstance(node, Node)
    return node.data


def test_a_new_file_has_both_slots_and_its_whole_size() -> None:
    _, directory = made()
    slots = opened(directory)
    assert (slots.load(), slots.whole, slots.log_id) == (b"first", True, LOG_ID)
    assert len(content(directory)) == 2 * SLOT + 512


def test_a_write_goes_to_the_slot_that_does_not_count() -> None:
    _, directory = made()
    slots = opened(directory)
    slots.load()
    previous = b"first"
    for number in range(5):
        before = bytes(content(directory))
        slots.write(b"value %d" % number)
        after = bytes(content(directory))
        changed = [at for at in (0, SLOT) if before[at : at + SLOT] != after[at : at + SLOT]]
        assert len(changed) == 1
        other = bytearray(after)
        other[changed[0] : changed[0] + 100] = bytes(100)
        content(directory)[:] = other
        assert opened(directory).load() == previous, "the other slot is the value before"
        content(directory)[:] = after
        assert opened(directory).load() == b"value %d" % number
        previous = b"value %d" % number


@pytest.mark.parametrize("kept", range(0, 70, 3))
def test_f4_a_write_that_is_torn_anywhere_leaves_the_old_value_or_the_new_one(kept: int) -> None:
    _, directory = made(b"old value of some length")
    before = bytes(content(directory))
    slots = opened(directory)
    slots.load()
    slots.write(b"new value")
    after = bytes(content(directory))
    start = 0 if before[:SLOT] != after[:SLOT] else SLOT
    for torn in (after[: start + kept] + before[start + kept :], before[: start + kept] + after[start + kept :]):
        content(directory)[:] = torn
        assert opened(directory).load() in (b"old value of some length", b"new value")


def test_a_write_into_both_slots_outlives_the_loss_of_either() -> None:
    _, directory = made()
    slots = opened(directory)
    slots.load()
    slots.write_both(b"in both")
    whole = bytes(content(directory))
    for at in (0, SLOT):
        content(directory)[:] = whole[:at] + bytes(64) + whole[at + 64 :]
        again = opened(directory)
        assert (again.load(), again.whole) == (b"in both", False)
        again.write(b"goes on")
        assert opened(directory).load() == b"goes on"


def test_f5_equal_generations_with_different_content_are_unreadable() -> None:
    _, directory = made()
    for at, payload in ((0, b"one"), (SLOT, b"two")):
        slot = encode_slot(Slot(L.KIND_META, 5, LOG_ID, payload), SLOT)
        content(directory)[at : at + len(slot)] = slot
    slots = opened(directory)
    assert slots.load() is None
    assert not slots.whole


def test_f5_equal_generations_with_the_same_content_read() -> None:
    _, directory = made()
    for at in (0, SLOT):
        slot = encode_slot(Slot(L.KIND_META, 5, LOG_ID, b"same"), SLOT)
        content(directory)[at : at + len(slot)] = slot
    assert opened(directory).load() == b"same"


def test_another_kind_is_not_believed() -> None:
    _, directory = made()
    assert opened(directory, L.KIND_CURSOR).load() is None


@pytest.mark.parametrize("data", [b"", b"\xff" * 20000, bytes(20000), L.SLOT_MAGIC + b"\xff" * 16384])
def test_p10_other_bytes_are_unreadable_and_no_length_in_them_is_believed(data: bytes) -> None:
    _, directory = made()
    content(directory)[:] = data
    assert opened(directory).load() is None


def test_p9_after_a_failed_sync_nothing_more_is_written() -> None:
    disk, _ = made()
    faulty = FaultDisk(disk)
    directory = faulty.open("d", create=False)
    slots = SlotFile(directory.open("f", write=True), kind=L.KIND_META, log_id=LOG_ID, slot_bytes=SLOT)
    slots.load()
    faulty.arm(Fault(), match=lambda operation, _: operation == "datasync")
    with pytest.raises(OSError):
        slots.write(b"unknown")
    with pytest.raises(LogFailed):
        slots.write(b"refused")
    slots.close()


def test_p9_what_a_failed_sync_left_in_the_page_cache_is_written_again_before_it_is_built_on() -> None:
    """The kernel shows the value, and says that it is written; a sync alone would write nothing (FORMAT.md A7)."""
    fails = [False]
    disk = CrashDisk(fail=lambda operation: fails[0])
    directory = disk.open("d", create=True)
    directory.sync_parents()
    SlotFile.create(directory, "f", b"first", kind=L.KIND_META, log_id=LOG_ID, slot_bytes=SLOT).close()
    directory.sync()
    slots = SlotFile(directory.open("f", write=True), kind=L.KIND_META, log_id=LOG_ID, slot_bytes=SLOT)
    slots.load()
    slots.write(b"acknowledged")
    fails[0] = True
    with pytest.raises(OSError):
        slots.write(b"unknown")
    fails[0] = False
    again = SlotFile(directory.open("f", write=True), kind=L.KIND_META, log_id=LOG_ID, slot_bytes=SLOT)
    assert again.load() == b"unknown"
    again.confirm()
    confirmed = len(disk.journal)
    again.write(b"next")
    for step in range(confirmed, len(disk.journal) + 1):
        for image in disk.images(step, rng=random.Random(step)):
            file = image.disk().open("d", create=False).open("f")
            found = SlotFile(file, kind=L.KIND_META, log_id=LOG_ID, slot_bytes=SLOT).load()
            assert found == b"next" or (found == b"unknown" and step < len(disk.journal)), image.label


def test_what_is_known_to_be_durable_is_not_written_again() -> None:
    disk, _ = made()
    faulty = FaultDisk(disk)
    directory = faulty.open("d", create=False)
    slots = SlotFile(directory.open("f", write=True), kind=L.KIND_META, log_id=LOG_ID, slot_bytes=SLOT)
    slots.load()
    slots.confirm()
    slots.write(b"second")
    before = len(faulty.calls)
    slots.confirm()
    slots.load()
    slots.confirm()
    assert "write" not in [call for call, _ in faulty.calls[before:]]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_p9_a_disk_without_room_for_writing_again_is_no_error(code: int) -> None:
    disk, _ = made()
    faulty = FaultDisk(disk)
    directory = faulty.open("d", create=False)
    slots = SlotFile(directory.open("f", write=True), kind=L.KIND_META, log_id=LOG_ID, slot_bytes=SLOT)
    slots.load()
    faulty.arm(Fault(error=code), match=lambda operation, _: operation == "write")
    slots.confirm()
    faulty.arm(None)
    slots.write(b"second")
    assert slots.load() == b"second"


def test_f32_a_slot_of_another_log_is_none_once_it_is_known_which_log_this_is() -> None:
    """Else the file of a consumer would be lost to one sector that a disk put into the wrong place."""
    _, directory = made()
    slots = opened(directory)
    slots.load()
    slots.write(b"second")
    stranger = encode_slot(Slot(L.KIND_META, 99, b"?" * 16, b"not ours"), SLOT)
    at = content(directory).index(b"first") // SLOT * SLOT
    content(directory)[at : at + len(stranger)] = stranger
    unknown = opened(directory)
    assert (unknown.load(), unknown.whole) == (None, False)
    known = SlotFile(directory.open("f", write=True), kind=L.KIND_META, log_id=LOG_ID, slot_bytes=SLOT)
    assert (known.load(), known.whole, known.log_id) == (b"second", False, LOG_ID)
    known.write(b"third")  # over the stranger
    assert opened(directory).load() == b"third"
