"""A disk on which a process kills itself at a named place: around the real one, for child processes only.

A place is a site and a side. The site is what the code is at, what it asks of the disk, and which kind of file:
`rotation.rename.segment-tmp`. The side is before the operation, after it, or with half of a write done. What the code
is at is read off the stack, so seglog knows nothing of this.
"""

from __future__ import annotations

import builtins
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn, TypeVar

from seglog.disk.base import Directory, Disk, File

_T = TypeVar("_T")
SECTOR = 512
SIDES = ("before", "half", "after")

# What a function is for. A site belongs to the first of these that is being run, from wherever it was called.
PHASES = {
    "repair:_Repair.run": "repair",
    "dead_letters:DeadLetters.replay": "replay",
    "dead_letters:DeadLetters._delete": "deletion",
    "dead_letters:DeadLetters.divert": "diversion",
    "dead_letters:DeadLetters.prepare": "creation",
    "limits:Limits._drop": "dropping",
    "housekeeping:Housekeeping.purge": "purge",
    "compact:_Compaction.run": "compaction",
    "consumers.roster:Roster.consumer": "registration",
    "consumers.roster:Roster.remove": "removal",
    "consumers.consumer:Consumer._dead_letter": "rejection",
    "consumers.consumer:Consumer.nack": "nack",
    "consumers.consumer:Consumer.ack": "ack",
    "consumers.consumer:Consumer.receive_many": "receiving",
    "consumers.consumer:Consumer.close": "close",
    "appender:Appender.rotate": "rotation",
    "log:Log.sync": "sync",
    "log:Log.close": "close",
    "appender:Appender.commit": "append",
    "opening:_Opening._succeed": "recovery",
    "opening:_remove_temporary": "recovery",
}
PRECEDENCE = {function: number for number, function in enumerate(PHASES)}


class Target(NamedTuple):
    """Where to die: the n-th time that the process comes to this site, from 1; site "": to any."""

    site: str
    side: str
    nth: int


def phase(created: bool) -> str:
    """What seglog is at, by the stack; opening is a creation where nothing was there."""
    best = len(PRECEDENCE)
    for function in _running():
        best = min(best, PRECEDENCE.get(function, best))
    return list(PHASES.values())[best] if best < len(PHASES) else "creation" if created else "opening"


def _running() -> Iterator[str]:
    frame = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        yield f"{module.removeprefix('seglog.')}:{frame.f_code.co_qualname}"
        frame = frame.f_back  # type: ignore[assignment]


def kind(inside: str) -> str:
    """What a file is, by its path inside the log; a directory's ends with a slash."""
    *parents, name = inside.rstrip("/").split("/")
    if not name:
        return "root"
    if inside.endswith("/"):
        found = name
    else:
        found = {".lock": "cursors-lock"}.get(name, name)
        for suffix, word in ((".seg", "segment"), (".cursor", "cursor"), (".evidence", "evidence")):
            found = word + found.partition(suffix)[2].replace(".", "-") if suffix in found else found
        found = "manifest" + found.partition(".manifest.json")[2].replace(".", "-") if "manifest" in found else found
        found = found.replace(".", "-")
    return f"dead-{found}" if "dead" in parents else found


def _half(position: int, length: int) -> int:
    """How much of a write is done when it is cut in the middle: a kernel looks for a signal between pages of the file,
    never inside a sector. A write in one sector has no half: nothing of it is done."""
    middle = (position + length // 2) // SECTOR * SECTOR - position
    first = SECTOR - position % SECTOR
    return max(middle, first if first < length else 0)


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


class KillDisk:
    """A disk that keeps a journal of what changes or syncs it, and on which its process may be killed.

    Args:
        inner: the disk that does the work.
        path: of the log, as it will be opened.
        target: where to die; None: nowhere.
        heard: told each mark, see `life`.
        dying: told the point right before death.
    """

    def __init__(
        self,
        inner: Disk,
        path: str,
        target: Target | None = None,
        heard: Callable[[Any], None] = lambda mark: None,
        dying: Callable[[str], None] = lambda point: None,
    ) -> None:
        self.inner = inner
        self.path = path.rstrip("/")
        self.mark = heard
        self.journal: list[str] = []
        self._target = target
        self._left = 0 if target is None else target.nth
        self._dying = dying
        self._created = False

    def open(self, path: str, *, create: bool, file_mode: int = 0o600, directory_mode: int = 0o700) -> KillDirectory:
        self._created = not os.path.exists(os.path.join(self.path, "meta"))

        def work() -> Directory:
            return self.inner.open(path, create=create, file_mode=file_mode, directory_mode=directory_mode)

        if create and not os.path.exists(path):
            return KillDirectory(self, self.do("mkdir", path + "/", work))
        return KillDirectory(self, work())

    def boot_id(self) -> bytes:
        return self.inner.boot_id()

    def free_bytes(self, directory: Directory) -> int:
        return self.inner.free_bytes(directory.inner if isinstance(directory, KillDirectory) else directory)

    def holder(self) -> str:
        return self.inner.holder()

    def do(self, operation: str, path: str, work: Callable[[], _T], half: Callable[[], object] | None = None) -> _T:
        """Do it, or die of it."""
        site = f"{phase(self._created)}.{operation}.{kind(path[len(self.path) + 1 :])}"
        self.journal.append(site)
        target = self._target
        due = target is not None and target.site in ("", site)
        self._left -= due
        if target is None or not due or self._left:
            return work()
        side = "after" if target.side == "half" and half is None else target.side
        self._dying(f"{site}.{side}")
        if side == "half" and half is not None:
            half()
        elif side == "after":
            work()
        die()


class KillFile:
    """An open file of a `KillDisk`."""

    def __init__(self, disk: KillDisk, inner: File, directory: str) -> None:
        self._disk = disk
        self._inner = inner
        self._directory = directory

    @property
    def name(self) -> str:
        return self._inner.name

    @name.setter
    def name(self, name: str) -> None:
        self._inner.name = name

    def _do(self, operation: str, work: Callable[[], None], half: Callable[[], None] | None = None) -> None:
        self._disk.do(operation, f"{self._directory}/{self.name}", work, half)

    def read(self, position: int, length: int) -> bytes:
        return self._inner.read(position, length)

    def write(self, position: int, data: bytes | memoryview) -> None:
        self._do(
            "write",
            lambda: self._inner.write(position, data),
            lambda: self._inner.write(position, data[: _half(position, len(data))]),
        )

    def size(self) -> int:
        return self._inner.size()

    def truncate(self, size: int) -> None:
        self._do("truncate", lambda: self._inner.truncate(size))

    def allocate(self, position: int, length: int) -> None:
        self._do("allocate", lambda: self._inner.allocate(position, length))

    def sync(self) -> None:
        self._do("sync", self._inner.sync)

    def datasync(self) -> None:
        self._do("sync", self._inner.datasync)

    def lock(self, *, wait: float = 0.0, shared: bool = False) -> bool:
        return self._inner.lock(wait=wait, shared=shared)

    def unlock(self) -> None:
        self._inner.unlock()

    def close(self) -> None:
        self._inner.close()


class KillDirectory:
    """An open directory of a `KillDisk`."""

    def __init__(self, disk: KillDisk, inner: Directory) -> None:
        self._disk = disk
        self.inner = inner
        self.path = inner.path

    def list(self) -> list[str]:
        return self.inner.list()

    def open(self, name: str, *, write: bool = False, create: bool = False) -> KillFile:
        def work() -> File:
            return self.inner.open(name, write=write, create=create)

        return KillFile(
            self._disk, self._disk.do("create", f"{self.path}/{name}", work) if create else work(), self.path
        )

    def directory(self, name: str, *, create: bool = False) -> KillDirectory:
        def work() -> Directory:
            return self.inner.directory(name, create=create)

        made = self._disk.do("mkdir", f"{self.path}/{name}/", work) if create else work()
        return KillDirectory(self._disk, made)

    def rename(self, old: str, new: str) -> None:
        self._disk.do("rename", f"{self.path}/{old}", lambda: self.inner.rename(old, new))

    def unlink(self, name: str) -> None:
        self._disk.do("unlink", f"{self.path}/{name}", lambda: self.inner.unlink(name))

    def sync(self) -> None:
        self._disk.do("sync", f"{self.path}/", self.inner.sync)

    def sync_parents(self) -> None:
        self._disk.do("sync-parents", f"{self.path}/", self.inner.sync_parents)

    def warnings(self) -> builtins.list[str]:
        return self.inner.warnings()

    def close(self) -> None:
        self.inner.close()
