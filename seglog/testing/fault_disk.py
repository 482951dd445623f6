"""A disk whose n-th call fails, around any other disk: a full disk, an I/O error, a Ctrl-C in the wrong place.

It changes nothing but the calls it is told to fail. A fault before the call leaves no effect, unless part of a
write was asked for; `close` and the dropping of locks always take effect, as they do in a kernel.
"""

from __future__ import annotations

import builtins
import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from seglog.disk.base import Directory, Disk, File

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Fault:
    """Which call fails, and how.

    Attributes:
        nth: which of the matching calls, from 1.
        error: an errno, which becomes an OSError with the file's name; or any exception, to raise as it is; or a class
            of exceptions, to raise a new one each time.
        onwards: that call and every matching one after it, not only that one.
        after: the call takes effect first (the answer is lost, not the work).
        written: how many bytes of a write still reach the file, from its length: `lambda length: length // 2`.
    """

    nth: int = 1
    error: int | BaseException | type[BaseException] = errno.EIO
    onwards: bool = False
    after: bool = False
    written: Callable[[int], int] | None = None


class FaultDisk:
    """A disk that fails on purpose.

    Operations have these names: of a file read, write, size, truncate, allocate, sync, datasync, lock, unlock, close;
    of a directory list, open_file, create, open_directory, make_directory, rename, unlink, sync_directory,
    sync_parents, close_directory; of the disk open, free_bytes.

    Args:
        inner: the disk that does the work.
        fault: the first fault; see `arm`.
        match: which calls count, from (operation, file name); None: all. Of a rename it is the old name.

    Attributes:
        calls: (operation, file name) of every call so far, matching or not.
        failed: of these, the ones that were made to fail.
        matched: how many matched since the fault was armed.
    """

    def __init__(
        self, inner: Disk, fault: Fault | None = None, *, match: Callable[[str, str], bool] | None = None
    ) -> None:
        self.inner = inner
        self.calls: list[tuple[str, str]] = []
        self.failed: list[tuple[str, str]] = []
        self._guard = threading.Lock()
        self.arm(fault, match=match)

    def arm(self, fault: Fault | None, *, match: Callable[[str, str], bool] | None = None) -> None:
        """From now on, count from 0 and fail like this; None: fail no more."""
        with self._guard:
            self.fault = fault
            self._match = match
            self.matched = 0

    def due(self, operation: str, name: str) -> Fault | None:
        """Count a call; the fault, if it is the one to fail."""
        with self._guard:
            self.calls.append((operation, name))
            if self._match is not None and not self._match(operation, name):
                return None
            self.matched += 1
            fault = self.fault
            if fault is None or self.matched < fault.nth or (self.matched > fault.nth and not fault.onwards):
                return None
            self.failed.append((operation, name))
            return fault

    def call(self, operation: str, name: str, path: str, work: Callable[[], _T], *, certain: bool = False) -> _T:
        """Do `work`, or fail in its place; what is `certain` is done even then."""
        fault = self.due(operation, name)
        if fault is None:
            return work()
        if fault.after or certain:
            work()
        raise _error(fault, path)

    def open(self, path: str, *, create: bool, file_mode: int = 0o600, directory_mode: int = 0o700) -> FaultDirectory:
        def work() -> Directory:
            return self.inner.open(path, create=create, file_mode=file_mode, directory_mode=directory_mode)

        return FaultDirectory(self, self.call("open", os.fspath(path), path, work))

    def boot_id(self) -> bytes:
        return self.inner.boot_id()

    def free_bytes(self, directory: Directory) -> int:
        inner = directory.inner if isinstance(directory, FaultDirectory) else directory
        return self.call("free_bytes", "", directory.path, lambda: self.inner.free_bytes(inner))

    def holder(self) -> str:
        return self.inner.holder()


def _error(fault: Fault, path: str) -> BaseException:
    if isinstance(fault.error, BaseException):
        return fault.error
    if isinstance(fault.error, type):
        return fault.error("injected")
    return OSError(fault.error, os.strerror(fault.error), path)


class FaultFile:
    """An open file of a `FaultDisk`."""

    def __init__(self, disk: FaultDisk, inner: File, path: str) -> None:
        self._disk = disk
        self._inner = inner
        self._path = path
        self.name = inner.name

    def _call(self, operation: str, work: Callable[[], _T], *, certain: bool = False) -> _T:
        return self._disk.call(operation, self.name, self._path, work, certain=certain)

    def read(self, position: int, length: int) -> bytes:
        return self._call("read", lambda: self._inner.read(position, length))

    def write(self, position: int, data: bytes | memoryview) -> None:
        fault = self._disk.due("write", self.name)
        if fault is None or fault.after:
            self._inner.write(position, data)
        elif fault.written is not None:
            self._inner.write(position, data[: fault.written(len(data))])
        if fault is not None:
            raise _error(fault, self._path)

    def size(self) -> int:
        return self._call("size", self._inner.size)

    def truncate(self, size: int) -> None:
        self._call("truncate", lambda: self._inner.truncate(size))

    def allocate(self, position: int, length: int) -> None:
        self._call("allocate", lambda: self._inner.allocate(position, length))

    def sync(self) -> None:
        self._call("sync", self._inner.sync)

    def datasync(self) -> None:
        self._call("datasync", self._inner.datasync)

    def lock(self, *, wait: float = 0.0, shared: bool = False) -> bool:
        return self._call("lock", lambda: self._inner.lock(wait=wait, shared=shared))

    def unlock(self) -> None:
        self._call("unlock", self._inner.unlock, certain=True)

    def close(self) -> None:
        self._call("close", self._inner.close, certain=True)


class FaultDirectory:
    """An open directory of a `FaultDisk`."""

    def __init__(self, disk: FaultDisk, inner: Directory) -> None:
        self._disk = disk
        self.inner = inner
        self.path = inner.path

    def _call(self, operation: str, name: str, work: Callable[[], _T], *, certain: bool = False) -> _T:
        path = f"{self.path}/{name}" if name else self.path
        return self._disk.call(operation, name or self.path.rpartition("/")[2], path, work, certain=certain)

    def list(self) -> list[str]:
        return self._call("list", "", self.inner.list)

    def open(self, name: str, *, write: bool = False, create: bool = False) -> FaultFile:
        operation = "create" if create else "open_file"
        file = self._call(operation, name, lambda: self.inner.open(name, write=write, create=create))
        return FaultFile(self._disk, file, f"{self.path}/{name}")

    def directory(self, name: str, *, create: bool = False) -> FaultDirectory:
        operation = "make_directory" if create else "open_directory"
        return FaultDirectory(
            self._disk, self._call(operation, name, lambda: self.inner.directory(name, create=create))
        )

    def rename(self, old: str, new: str) -> None:
        self._call("rename", old, lambda: self.inner.rename(old, new))

    def unlink(self, name: str) -> None:
        self._call("unlink", name, lambda: self.inner.unlink(name))

    def sync(self) -> None:
        self._call("sync_directory", "", self.inner.sync)

    def sync_parents(self) -> None:
        self._call("sync_parents", "", self.inner.sync_parents)

    def warnings(self) -> builtins.list[str]:
        return self.inner.warnings()

    def close(self) -> None:
        self._call("close_directory", "", self.inner.close, certain=True)
