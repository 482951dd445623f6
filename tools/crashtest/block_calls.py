"""The system calls that `LocalDisk` makes: heard as they are made, or repeated on a `CrashDisk` that then loses power.

File systems forgive a missing sync of a directory, since the next commit of their journal takes the names along. A
`CrashDisk` forgives nothing that POSIX does not promise.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

from seglog.disk import local
from seglog.disk.local import LocalDisk
from seglog.disk.memory import Tree
from seglog.testing import CrashDisk, Image, Operation
from seglog.testing.crash_disk import CrashDirectory, CrashFile
from tools.crashtest.history import Expected
from tools.crashtest.life import Life
from tools.crashtest.power_loss import Crashes, Workload

CHANGING = ("open", "close", "pwrite", "ftruncate", "mkdir", "replace", "unlink")
SYNCING = {"_sync": os.fsync, "_datasync": os.fdatasync, "_reserve": os.posix_fallocate}


class Calls:
    """Takes the place of `os` in `seglog.disk.local`, inside `with`; hears of each call after it succeeded."""

    def __init__(self) -> None:
        self._one = threading.RLock()  # calls are heard in the order in which they are made
        for name in CHANGING:
            setattr(self, name, self._heard(name, getattr(os, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _heard(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def heard(*args: Any, **kwargs: Any) -> Any:
            with self._one:
                result = call(*args, **kwargs)
                self.made(name, result, *args, **kwargs)
            return result

        return heard

    def made(self, name: str, result: Any, *args: Any, **kwargs: Any) -> None:
        """A call returned."""

    def __enter__(self) -> Self:
        self._before = {name: getattr(local, name) for name in ("os", *SYNCING)}
        setattr(local, "os", self)  # noqa: B010 - for mypy, a module is no variable
        for name, call in SYNCING.items():
            if self._before[name] is call:  # else somebody breaks it on purpose, and we hear of what is left
                setattr(local, name, self._heard(call.__name__, call))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name, before in self._before.items():
            setattr(local, name, before)


class Mirror(Calls):
    """Does on a CrashDisk what was done below `root`. The rest of the machine is durable, and not ours."""

    def __init__(self, root: str, disk: CrashDisk) -> None:
        super().__init__()
        self._root = root
        self._disk = disk
        self._opened: dict[int, CrashFile | CrashDirectory | None] = {}

    def made(self, name: str, result: Any, *args: Any, **kwargs: Any) -> None:
        getattr(self, f"_{name}")(result, *args, **kwargs)

    def _inside(self, path: str) -> str | None:
        """From the root; None if it is elsewhere."""
        inside = os.path.relpath(path, self._root)
        return None if inside.startswith("..") else inside

    def _open(self, fd: int, path: str, flags: int, mode: int = 0, *, dir_fd: int | None = None) -> None:
        inside = self._inside(os.readlink(f"/proc/self/fd/{fd}"))
        if inside is None:
            self._opened[fd] = None
        elif flags & os.O_DIRECTORY:
            self._opened[fd] = self._disk.open(inside, create=False)
        else:
            above, name = os.path.split(inside)
            directory = self._disk.open(above, create=False)
            self._opened[fd] = directory.open(name, write=bool(flags & os.O_RDWR), create=bool(flags & os.O_CREAT))

    def _close(self, _: None, fd: int) -> None:
        if (opened := self._opened.pop(fd, None)) is not None:
            opened.close()

    def _file(self, fd: int) -> CrashFile:
        file = self._opened[fd]
        assert isinstance(file, CrashFile)
        return file

    def _directory(self, fd: int) -> CrashDirectory:
        directory = self._opened[fd]
        assert isinstance(directory, CrashDirectory)
        return directory

    def _pwrite(self, written: int, fd: int, data: bytes | memoryview, position: int) -> None:
        self._file(fd).write(position, bytes(data[:written]))

    def _ftruncate(self, _: None, fd: int, size: int) -> None:
        self._file(fd).truncate(size)

    def _posix_fallocate(self, _: None, fd: int, position: int, length: int) -> None:
        self._file(fd).allocate(position, length)

    def _mkdir(self, _: None, path: str, mode: int, *, dir_fd: int | None = None) -> None:
        if dir_fd is not None:
            self._directory(dir_fd).directory(path, create=True)
        elif (inside := self._inside(path)) is not None:
            above, name = os.path.split(inside)
            self._disk.open(above, create=False).directory(name, create=True)

    def _replace(self, _: None, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        assert src_dir_fd == dst_dir_fd
        self._directory(src_dir_fd).rename(old, new)

    def _unlink(self, _: None, name: str, *, dir_fd: int) -> None:
        self._directory(dir_fd).unlink(name)

    def _fsync(self, _: None, fd: int) -> None:
        if (opened := self._opened[fd]) is not None:
            opened.sync()

    def _fdatasync(self, _: None, fd: int) -> None:
        self._file(fd).datasync()


class Notes(Protocol):
    """Where a life's history is kept; a CrashDisk has one."""

    journal: list[Operation]

    def mark(self, value: Any) -> None: ...
    def marks(self, step: int) -> list[Any]: ...


class MarkedDisk(LocalDisk):
    """A real disk as a `Life` wants it: with notes, and it is said which boot this is."""

    def __init__(self, notes: Notes, boot_id: bytes) -> None:
        super().__init__()
        self.journal = notes.journal
        self.mark = notes.mark
        self.marks = notes.marks
        self._boot_id = boot_id

    def boot_id(self) -> bytes:
        return self._boot_id


class CallCrashes(Crashes):
    """Like Crashes, but the first life works on the real disk, and its system calls are what loses power."""

    def first_life(self) -> tuple[CrashDisk, Expected, range]:
        workload = self.workload
        image, marks = workload.start()
        before = Expected().fold(marks)
        disk = image.disk(ignore=self.ignore)
        with tempfile.TemporaryDirectory(prefix="seglog-calls-") as name:
            root = os.path.realpath(name)
            put(image, Path(root))
            real = cast(CrashDisk, MarkedDisk(disk, disk.boot_id()))  # no more is asked of it
            with Mirror(root, disk):
                life = Life(real, 0, f"{root}/{workload.path}", before=before, **workload.options)
                try:
                    workload.run(life)
                finally:
                    life.die()
        return disk, before, range(life.first_step, len(disk.journal) + 1)


def few(workload: Workload, *, steps: int = 30) -> Workload:
    """Crashed at some of its steps, and once: the rest is the simulation's."""
    return replace(workload, again=0, every_again=False, third=0.0, subsets=1, steps=steps)


def put(image: Image, directory: Path) -> None:
    """Everything that the image holds, as files below this directory."""
    _put(image.disk()._memory.root, directory)


def _put(tree: Tree, directory: Path) -> None:
    for name, entry in tree.entries.items():
        if isinstance(entry, Tree):
            (directory / name).mkdir()
            _put(entry, directory / name)
        else:
            (directory / name).write_bytes(entry.data)


class Meddler(Calls):
    """Another program on the same file system: now and then it makes the kernel write what it may write any time.

    Data ahead of the journal, and the journal ahead of the data.
    """

    def __init__(self, other: Path, dice: random.Random, often: float) -> None:
        super().__init__()
        self._other = other
        self._dice = dice
        self._often = often
        self._files: set[int] = set()

    def made(self, name: str, result: Any, *args: Any, **kwargs: Any) -> None:
        if name == "open":
            self._files.add(result)
        elif name == "close":
            self._files.discard(args[0])
        if self._dice.random() >= self._often:
            return
        if self._dice.random() < 0.8:
            for fd in sorted(self._files):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # begins to write, and does not wait
        else:
            with self._other.open("ab") as file:
                file.write(b"another program\n")
                file.flush()
                os.fsync(file.fileno())
