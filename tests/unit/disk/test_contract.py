"""The contract of `seglog.disk.base`, one suite for every disk."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from seglog.disk.base import Directory, Disk
from seglog.disk.local import LocalDisk
from seglog.disk.memory import MemoryDisk
from seglog.testing import CrashDisk, FaultDisk

DISKS: dict[str, Callable[[], Disk]] = {
    "local": LocalDisk,
    "memory": MemoryDisk,
    "crash": CrashDisk,
    "fault around local": lambda: FaultDisk(LocalDisk()),
    "fault around crash": lambda: FaultDisk(CrashDisk()),
}


@pytest.fixture(params=DISKS)
def disk(request: pytest.FixtureRequest) -> Disk:
    return DISKS[request.param]()


@pytest.fixture
def root(disk: Disk, tmp_path: Path) -> Directory:
    return disk.open(str(tmp_path / "root"), create=True)


def test_open_without_create_raises_for_a_missing_root(disk: Disk, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        disk.open(str(tmp_path / "a" / "b"), create=False)
    assert caught.value.filename == str(tmp_path / "a" / "b")


def test_open_makes_missing_parents_and_opens_what_is_there(disk: Disk, tmp_path: Path) -> None:
    path = str(tmp_path / "a" / "b" / "c")
    disk.open(path, create=True).open("file", create=True).write(0, b"x")
    assert disk.open(path, create=True).open("file").read(0, 9) == b"x"
    assert disk.open(path + "/", create=False).list() == ["file"]


def test_open_of_a_file_as_root_raises(disk: Disk, root: Directory) -> None:
    root.open("file", create=True).close()
    for path in (f"{root.path}/file", f"{root.path}/file/below"):
        with pytest.raises(NotADirectoryError):
            disk.open(path, create=True)


def test_create_is_exclusive(root: Directory) -> None:
    root.open("file", create=True).close()
    with pytest.raises(FileExistsError) as caught:
        root.open("file", create=True)
    assert caught.value.filename == f"{root.path}/file"


def test_open_of_a_missing_file_raises(root: Directory) -> None:
    for write in (False, True):
        with pytest.raises(FileNotFoundError) as caught:
            root.open("file", write=write)
        assert caught.value.filename == f"{root.path}/file"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "../x", "a\0b"])
def test_names_are_single_components(root: Directory, name: str) -> None:
    root.open("old", create=True).close()
    for refused in (
        lambda: root.open(name, create=True),
        lambda: root.open(name),
        lambda: root.directory(name, create=True),
        lambda: root.rename("old", name),
        lambda: root.unlink(name),
    ):
        with pytest.raises(OSError) as caught:
            refused()
        assert caught.value.errno == errno.EINVAL
    assert root.list() == ["old"]


def test_read_returns_fewer_bytes_only_at_the_end(root: Directory) -> None:
    file = root.open("file", create=True)
    file.write(0, b"0123456789")
    assert file.read(0, 10) == b"0123456789"
    assert file.read(3, 4) == b"3456"
    assert file.read(8, 10) == b"89"
    assert file.read(10, 1) == b""
    assert file.read(100, 1) == b""
    assert type(file.read(0, 1)) is bytes


def test_write_takes_views_overwrites_and_leaves_zeros_in_holes(root: Directory) -> None:
    file = root.open("file", create=True)
    file.write(4, memoryview(b"abcdef")[1:4])
    file.write(5, b"X")
    file.write(20, b"")
    assert file.read(0, 99) == b"\0\0\0\0bXd"
    assert file.size() == 7


def test_truncate_cuts_and_grows_with_zeros(root: Directory) -> None:
    file = root.open("file", create=True)
    file.write(0, b"abcdef")
    file.truncate(2)
    file.truncate(4)
    assert file.read(0, 9) == b"ab\0\0"


def test_allocate_extends_with_zeros_and_never_touches_what_is_there(root: Directory) -> None:
    file = root.open("file", create=True)
    file.write(0, b"abc")
    file.allocate(1, 100)
    assert file.size() == 101
    file.allocate(0, 10)
    assert file.size() == 101
    assert file.read(0, 200) == b"abc" + bytes(98)


def test_syncs_return(root: Directory) -> None:
    file = root.open("file", create=True)
    file.write(0, b"abc")
    file.datasync()
    file.sync()
    root.sync()
    root.sync_parents()
    below = root.directory("below", create=True)
    below.sync()
    below.sync_parents()


def test_two_openings_see_the_same_bytes(root: Directory) -> None:
    one, other = root.open("file", create=True), root.open("file", write=True)
    one.write(0, b"abc")
    other.write(1, b"X")
    assert one.read(0, 9) == other.read(0, 9) == b"aXc"


def test_a_file_opened_for_reading_cannot_be_changed(root: Directory) -> None:
    root.open("file", create=True).write(0, b"abc")
    file = root.open("file")
    for refused in (lambda: file.write(0, b"x"), lambda: file.truncate(0)):
        with pytest.raises(OSError) as caught:
            refused()
        assert caught.value.errno in (errno.EBADF, errno.EINVAL)
        assert caught.value.filename == f"{root.path}/file"
    assert file.read(0, 9) == b"abc"


def test_rename_replaces_and_open_files_go_along(root: Directory) -> None:
    moved = root.open("a.tmp", create=True)
    replaced = root.open("a", create=True)
    replaced.write(0, b"old")
    root.rename("a.tmp", "a")
    moved.write(0, b"new")
    assert root.list() == ["a"]
    assert root.open("a").read(0, 9) == b"new"
    assert replaced.read(0, 9) == b"old"
    with pytest.raises(FileNotFoundError) as caught:
        root.rename("gone", "a")
    assert caught.value.filename == f"{root.path}/gone"


def test_unlinked_files_stay_readable_while_open(root: Directory) -> None:
    file = root.open("file", create=True)
    file.write(0, b"abc")
    root.unlink("file")
    file.write(3, b"def")
    file.sync()
    assert root.list() == []
    assert file.read(0, 9) == b"abcdef"
    with pytest.raises(FileNotFoundError) as caught:
        root.unlink("file")
    assert caught.value.filename == f"{root.path}/file"


def test_list_is_sorted(root: Directory) -> None:
    for name in ("b", "a", "c"):
        root.open(name, create=True).close()
    root.directory("0", create=True)
    assert root.list() == ["0", "a", "b", "c"]


def test_directories_are_made_once_and_opened_after(root: Directory) -> None:
    with pytest.raises(FileNotFoundError):
        root.directory("below")
    root.directory("below", create=True).open("file", create=True).close()
    assert root.directory("below", create=True).list() == ["file"]
    assert root.directory("below").list() == ["file"]
    assert root.directory("below").path == f"{root.path}/below"


def test_the_wrong_kind_is_refused(root: Directory) -> None:
    root.directory("directory", create=True)
    root.open("file", create=True).close()
    for refused, name in (
        (lambda: root.open("directory"), "directory"),
        (lambda: root.open("directory", write=True), "directory"),
        (lambda: root.directory("file"), "file"),
        (lambda: root.directory("file", create=True), "file"),
    ):
        with pytest.raises(OSError) as caught:
            refused()
        assert caught.value.errno == errno.EINVAL
        assert caught.value.filename == f"{root.path}/{name}"


def test_lock_conflicts_between_openings_of_one_process(root: Directory) -> None:
    one, other = root.open("lock", create=True), root.open("lock", write=True)
    assert one.lock()
    assert one.lock()  # its own is no conflict
    assert not other.lock()
    assert not other.lock(wait=0.02)
    other.unlock()  # not other's to drop
    assert not other.lock()
    one.unlock()
    assert other.lock()
    other.close()
    assert one.lock()


def test_shared_locks_live_beside_each_other_and_keep_an_exclusive_one_away(root: Directory) -> None:
    root.open("lock", create=True).close()
    one, two, writer = (root.open("lock", write=True) for _ in range(3))
    assert one.lock(shared=True)
    assert two.lock(shared=True)
    assert not writer.lock()
    one.unlock()
    assert not writer.lock()
    two.close()
    assert writer.lock()
    assert not one.lock(shared=True)
    writer.unlock()
    assert one.lock(shared=True)
    assert one.lock()  # its own shared one is no conflict
    assert not writer.lock(shared=True)


def test_lock_waits_until_it_is_dropped(root: Directory) -> None:
    one, other = root.open("lock", create=True), root.open("lock", write=True)
    assert one.lock()
    waiting = threading.Event()
    taken: list[bool] = []

    def wait() -> None:
        waiting.set()
        taken.append(other.lock(wait=30))

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(10)
    one.close()
    thread.join(30)
    assert taken == [True]


def test_locks_are_of_the_file_not_of_its_name(root: Directory) -> None:
    assert root.open("a", create=True).name == "a"
    first = root.open("b", create=True)
    assert first.lock()
    root.rename("a", "b")
    assert root.open("b", write=True).lock()


def test_close_is_idempotent_and_final(root: Directory) -> None:
    file = root.open("file", create=True)
    file.close()
    file.close()
    for refused in (lambda: file.read(0, 1), lambda: file.write(0, b"x"), file.sync, file.datasync):
        with pytest.raises(OSError) as caught:
            refused()
        assert caught.value.errno == errno.EBADF
        assert caught.value.filename == f"{root.path}/file"
    root.close()
    root.close()
    with pytest.raises(OSError) as caught:
        root.list()
    assert caught.value.errno == errno.EBADF


def test_a_file_outlives_the_closing_of_its_directory(root: Directory) -> None:
    file = root.open("file", create=True)
    root.close()
    file.write(0, b"abc")
    assert file.read(0, 3) == b"abc"


def test_what_the_disk_says_of_itself(disk: Disk, root: Directory) -> None:
    assert len(disk.boot_id()) == 16
    assert disk.boot_id() == disk.boot_id()
    assert disk.free_bytes(root) > 0
    assert disk.holder().startswith("pid ")
    assert root.warnings() == []
