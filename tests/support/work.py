"""How much one call does: lines of seglog that run, calls to the disk, names that are listed. Counted, never timed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

import seglog
from seglog.disk.base import Directory
from seglog.disk.memory import MemoryDisk
from seglog.testing.fault_disk import FaultDirectory, FaultDisk

PACKAGE = os.path.dirname(seglog.__file__) + os.sep
OUTSIDE = (PACKAGE + "disk" + os.sep, PACKAGE + "testing" + os.sep)  # no real disk has their loops
_ROUNDS = 5


class Work(NamedTuple):
    """What one call cost."""

    lines: int
    calls: tuple[str, ...]  # to the disk, in order
    listed: int


class CountingDisk(FaultDisk):
    """A disk in memory that also counts the names that it lists."""

    def __init__(self) -> None:
        super().__init__(MemoryDisk())
        self.listed = 0

    def open(self, path: str, *, create: bool, file_mode: int = 0o600, directory_mode: int = 0o700) -> FaultDirectory:
        root = super().open(path, create=create, file_mode=file_mode, directory_mode=directory_mode)
        return _CountingDirectory(self, root.inner)


class _CountingDirectory(FaultDirectory):
    def __init__(self, disk: CountingDisk, inner: Directory) -> None:
        super().__init__(disk, inner)
        self._counting = disk

    def list(self) -> list[str]:
        names = super().list()
        self._counting.listed += len(names)
        return names

    def directory(self, name: str, *, create: bool = False) -> FaultDirectory:
        return _CountingDirectory(self._counting, super().directory(name, create=create).inner)


def least_work(disk: CountingDisk, call: Callable[[], Any]) -> Work:
    """What a call costs once it is warm: the least of a few, as now and then one of them preallocates."""
    call()
    return min(_work(disk, call) for _ in range(_ROUNDS))


def _work(disk: CountingDisk, call: Callable[[], Any]) -> Work:
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        file = frame.f_code.co_filename
        if not file.startswith(PACKAGE) or file.startswith(OUTSIDE):
            return None
        lines += event == "line"
        return trace

    disk.calls.clear()
    disk.listed = 0
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return Work(lines, tuple(operation for operation, _ in disk.calls), disk.listed)
