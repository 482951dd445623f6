"""What only the real disk can get wrong: links, FIFOs, modes, short writes, locks of other processes."""

from __future__ import annotations

import errno
import gc
import os
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seglog.disk import local
from seglog.disk.local import LocalDirectory, LocalDisk
from seglog.disk.memory import MemoryDisk
from seglog.testing import ManualClock


@pytest.fixture
def root(tmp_path: Path) -> LocalDirectory:
    return LocalDisk().open(str(tmp_path / "root"), create=True)


@pytest.fixture
def umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:  # tmp_path first, with its own mode
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_p12_symbolic_links_below_the_root_are_refused(root: LocalDirectory, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"precious")
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "outside", f"{root.path}/link")
    os.symlink(tmp_path / "elsewhere", f"{root.path}/below")
    os.symlink(tmp_path / "made", f"{root.path}/dangling")
    for refused in (
        lambda: root.open("link"),
        lambda: root.open("link", write=True),
        lambda: root.open("link", create=True),
        lambda: root.open("dangling", create=True),
        lambda: root.directory("below"),
        lambda: root.directory("below", create=True),
        lambda: root.directory("dangling", create=True),
    ):
        with pytest.raises(OSError) as caught:
            refused()
        assert caught.value.errno in (errno.ELOOP, errno.EINVAL, errno.EEXIST)
        assert os.path.dirname(caught.value.filename) == root.path
    assert (tmp_path / "outside").read_bytes() == b"precious"
    assert not (tmp_path / "made").exists()


def test_p12_unlink_and_rename_act_on_the_link_not_on_its_target(root: LocalDirectory, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"precious")
    os.symlink(tmp_path / "outside", f"{root.path}/link")
    root.open("new", create=True).write(0, b"new")
    root.rename("new", "link")
    assert root.open("link").read(0, 9) == b"new"
    os.symlink(tmp_path / "outside", f"{root.path}/other")
    root.unlink("other")
    assert (tmp_path / "outside").read_bytes() == b"precious"


def test_the_root_may_be_reached_through_a_link(root: LocalDirectory, tmp_path: Path) -> None:
    root.open("file", create=True).close()
    os.symlink(root.path, tmp_path / "link")
    assert LocalDisk().open(str(tmp_path / "link"), create=True).list() == ["file"]


def test_a_dangling_root_is_not_made_behind_its_link(tmp_path: Path) -> None:
    os.symlink(tmp_path / "gone", tmp_path / "link")
    with pytest.raises(FileNotFoundError):
        LocalDisk().open(str(tmp_path / "link"), create=True)
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("write", [False, True])
def test_a_fifo_is_refused_and_does_not_hang(root: LocalDirectory, write: bool) -> None:
    os.mkfifo(f"{root.path}/fifo")
    with pytest.raises(OSError) as caught:
        root.open("fifo", write=write)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.filename == f"{root.path}/fifo"


def test_the_directory_stays_the_one_that_was_opened(root: LocalDirectory, tmp_path: Path) -> None:
    os.rename(root.path, tmp_path / "moved")
    os.mkdir(root.path)
    root.open("file", create=True).close()
    assert (tmp_path / "moved" / "file").exists()
    assert os.listdir(root.path) == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777], indirect=True)
def test_p12_modes_hold_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    for name, options, file_mode, directory_mode in (
        ("default", {}, 0o600, 0o700),
        ("group", {"file_mode": 0o660, "directory_mode": 0o770}, 0o660, 0o770),
    ):
        top = LocalDisk().open(str(tmp_path / name / "root"), create=True, **options)
        top.directory("below", create=True).open("file", create=True).close()
        found = [mode(tmp_path / name / each) for each in ("", "root", "root/below", "root/below/file")]
        assert found == [directory_mode, directory_mode, directory_mode, file_mode]


def test_an_existing_root_keeps_its_mode_and_unsafe_ones_are_told(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o757)
    directory = LocalDisk().open(str(tmp_path), create=True)
    assert mode(tmp_path) == 0o757
    assert directory.warnings() == [f"{tmp_path} is writable by everybody on this machine"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_foreign_root_is_told(root: LocalDirectory) -> None:
    os.chown(root.path, 12345, 0)
    assert root.warnings() == [f"{root.path} belongs to user 12345, not to user 0 who runs this"]


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_short_writes_and_reads_are_continued(root: LocalDirectory, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    pwrite, pread = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda fd, data, position: pwrite(fd, data[:step], position))
    monkeypatch.setattr(os, "pread", lambda fd, length, position: pread(fd, min(step, length), position))
    file = root.open("file", create=True)
    file.write(2, b"0123456789")
    file.write(12, memoryview(b"abc"))
    assert file.read(0, 100) == b"\0\x000123456789abc"


def test_a_write_that_gets_nowhere_fails(root: LocalDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, position: 0)
    with pytest.raises(OSError) as caught:
        root.open("file", create=True).write(0, b"abc")
    assert caught.value.errno == errno.EIO


def test_an_error_after_a_short_write_names_the_file(root: LocalDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite

    def full_after_three(fd: int, data: bytes, position: int) -> int:
        if position >= 3:
            raise OSError(errno.ENOSPC, "full")
        return pwrite(fd, data[:3], position)

    monkeypatch.setattr(os, "pwrite", full_after_three)
    file = root.open("file", create=True)
    with pytest.raises(OSError) as caught:
        file.write(0, b"abcdef")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == f"{root.path}/file"
    assert file.read(0, 9) == b"abc"


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_allocate_writes_zeros_where_nothing_can_be_reserved(
    root: LocalDirectory, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(fd: int, position: int, length: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(local, "_reserve", refuse)
    file = root.open("file", create=True)
    file.write(0, b"abc")
    file.allocate(0, 1_000_000)
    assert file.read(0, 2_000_000) == b"abc" + bytes(999_997)


def test_allocate_on_a_full_disk_says_so(root: LocalDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, position: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(local, "_reserve", refuse)
    file = root.open("file", create=True)
    with pytest.raises(OSError) as caught:
        file.allocate(0, 4096)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, f"{root.path}/file")
    assert file.size() == 0


def synced(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> list[str]:
    """Which directories `work` syncs, in order."""
    found: list[str] = []
    monkeypatch.setattr(local, "_sync", lambda fd: found.append(os.readlink(f"/proc/self/fd/{fd}")))
    work()
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are looked up in /proc")
def test_p1_sync_parents_syncs_every_directory_we_may_have_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    above = [str(tmp_path / "a" / "b"), str(tmp_path / "a"), str(tmp_path)]
    made = LocalDisk().open(str(tmp_path / "a" / "b" / "root"), create=True)
    assert synced(monkeypatch, made.sync_parents)[:3] == above
    again = LocalDisk().open(str(tmp_path / "a" / "b" / "root"), create=True)  # as after a process that died
    assert synced(monkeypatch, again.sync_parents)[:3] == above
    os.symlink(made.path, tmp_path / "link")
    linked = LocalDisk().open(str(tmp_path / "link"), create=True)
    assert synced(monkeypatch, linked.sync_parents)[:3] == above


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can give a directory away")
def test_sync_parents_stops_above_a_directory_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    os.chown(tmp_path / "a", 12345, 0)
    made = LocalDisk().open(str(tmp_path / "a" / "root"), create=True)
    assert synced(monkeypatch, made.sync_parents) == [str(tmp_path / "a")]


def test_sync_parents_tolerates_a_parent_that_may_not_be_opened(
    root: LocalDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, *rest: object, **more: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "open", refuse)
    root.sync_parents()


def test_p9_sync_parents_does_not_hide_a_failed_sync(root: LocalDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(local, "_sync", fail)
    for refused in (root.sync_parents, root.sync, root.open("file", create=True).sync):
        with pytest.raises(OSError) as caught:
            refused()
        assert caught.value.errno == errno.EIO
        assert caught.value.filename.startswith(root.path)


HOLDER = """
import sys
from seglog.disk.local import LocalDisk
file = LocalDisk().open(sys.argv[1], create=False).open("lock", write=True)
print(file.lock(), flush=True)
sys.stdin.read()
"""


def test_p11_a_lock_excludes_another_process_and_dies_with_it(root: LocalDirectory) -> None:
    file = root.open("lock", create=True)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, root.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert not file.lock()
        holder.kill()
    assert file.lock(wait=10)


def test_p11_a_forked_child_cannot_drop_the_lock(root: LocalDirectory) -> None:
    file = root.open("lock", create=True)
    assert file.lock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads of the test run
        pid = os.fork()
    if pid == 0:
        file.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert not root.open("lock", write=True).lock()


def test_waiting_for_a_lock_follows_the_clock(tmp_path: Path) -> None:
    clock = ManualClock()
    root = LocalDisk(clock).open(str(tmp_path), create=True)
    assert root.open("lock", create=True).lock() is True
    held = root.open("lock", write=True)
    assert held.lock()
    assert not root.open("lock", write=True).lock(wait=5.0)
    assert clock.monotonic() == pytest.approx(5.0)


def test_lists_of_several_threads_do_not_disturb_each_other(root: LocalDirectory) -> None:
    names = [f"{number:04}" for number in range(500)]
    for name in names:
        root.open(name, create=True).close()
    wrong: list[int] = []

    def look() -> None:
        wrong.extend(len(found) for _ in range(30) if (found := root.list()) != names)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
def test_no_descriptor_stays_open_and_nothing_warns(root: LocalDirectory) -> None:
    os.mkfifo(f"{root.path}/fifo")
    root.open("file", create=True).close()
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            kept = [root.open("file"), root.directory("below", create=True)]
            root.list()
            root.sync_parents()
            with pytest.raises(OSError):
                root.open("fifo")
            del kept
        gc.collect()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_descriptors_are_not_inherited(root: LocalDirectory) -> None:
    file = root.open("file", create=True)
    assert not os.get_inheritable(file._fd)
    assert not os.get_inheritable(root._fd)


def test_free_bytes_wants_a_directory_of_this_disk() -> None:
    with pytest.raises(TypeError):
        LocalDisk().free_bytes(MemoryDisk().open("x", create=True))


def test_holder_names_pid_program_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/some/where/app.py", "--secret=x"])
    assert f"pid {os.getpid()} (" in LocalDisk().holder()
    assert " app.py) on " in LocalDisk().holder()
    assert "secret" not in LocalDisk().holder()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a boot id")
def test_boot_id_is_that_of_the_kernel() -> None:
    text = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    assert LocalDisk().boot_id().hex() == text.replace("-", "")
