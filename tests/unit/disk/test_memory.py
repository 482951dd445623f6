"""What only the memory disk has: a capacity, and a settable boot id."""

from __future__ import annotations

import errno
import threading

import pytest

from seglog.disk.memory import MemoryDisk


def test_capacity_bounds_all_files_together_and_space_comes_back() -> None:
    disk = MemoryDisk(capacity=1000)
    root = disk.open("log", create=True)
    one, other = root.open("one", create=True), root.open("other", create=True)
    one.write(0, bytes(600))
    other.allocate(0, 400)
    assert disk.free_bytes(root) == 0
    for refused in (lambda: one.write(600, b"x"), lambda: other.truncate(401), lambda: other.allocate(0, 401)):
        with pytest.raises(OSError) as caught:
            refused()
        assert caught.value.errno == errno.ENOSPC
    assert (one.size(), other.size()) == (600, 400)
    one.write(0, b"in place is always possible")
    root.unlink("other")
    assert disk.free_bytes(root) == 400
    one.truncate(0)
    assert disk.free_bytes(root) == 1000


def test_disks_are_private_and_boots_can_be_told_apart() -> None:
    disk = MemoryDisk()
    disk.open("log", create=True)
    with pytest.raises(FileNotFoundError):
        MemoryDisk().open("log", create=False)
    disk.set_boot_id(b"another boot ...")
    assert disk.boot_id() == b"another boot ..."


def test_threads_lose_no_bytes() -> None:
    root = MemoryDisk().open("log", create=True)
    files = [root.open("file", create=True), *(root.open("file", write=True) for _ in range(3))]

    def fill(number: int) -> None:
        for at in range(number, 4000, 4):
            files[number].write(at * 8, at.to_bytes(8, "little"))

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files[0].read(0, 32_000) == b"".join(at.to_bytes(8, "little") for at in range(4000))
