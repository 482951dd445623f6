"""In which order locks are taken: each lock that is taken while others are held is an edge, and no edges may meet in a
circle, for two threads could then wait for each other. One thread that calls everything is enough to see them.

Watched are the locks that seglog's objects make for themselves, the locks on files, and the leadership of a commit.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import seglog
from seglog.disk.memory import MemoryFile
from seglog.group_commit import GroupCommit

PACKAGE = os.path.dirname(seglog.__file__) + os.sep
LEADERSHIP = "leadership"


class LockOrder:
    """Records from its creation on. `edges` are (held, taken), by names such as "consumer" and "cursors/.lock"."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.edges: set[tuple[str, str]] = set()
        self._threads = threading.local()
        for kind in ("Lock", "RLock"):
            patch.setattr(threading, kind, self._maker(getattr(threading, kind)))
        self._watch_files(patch)
        self._watch_leadership(patch)

    @property
    def _held(self) -> list[tuple[str, object]]:
        """What this thread holds."""
        held: list[tuple[str, object]] = self._threads.__dict__.setdefault("held", [])
        return held

    def _maker(self, make: Callable[[], Any]) -> Callable[[], Any]:
        def made() -> Any:
            frame = sys._getframe(1)
            file = frame.f_code.co_filename
            if file.startswith(PACKAGE) and frame.f_code.co_name == "__init__" and os.sep + "disk" not in file:
                return _Watched(self, make(), os.path.basename(file).removesuffix(".py"))
            return make()

        return made

    def take(self, name: str, lock: object) -> None:
        if all(held is not lock for _, held in self._held):  # again by its holder is no waiting
            self.edges.update((held, name) for held, _ in self._held)
        self._held.append((name, lock))

    def let_go(self, lock: object) -> None:
        for index in reversed(range(len(self._held))):
            if self._held[index][1] is lock:
                del self._held[index]
                return

    def _watch_files(self, patch: pytest.MonkeyPatch) -> None:
        lock = MemoryFile.lock

        def taking(file: MemoryFile, *, wait: float = 0.0, **options: Any) -> bool:
            took = lock(file, wait=wait, **options)
            # Who does not wait cannot be in a circle of those who do; what it holds then counts all the same.
            if took and wait:
                self.take(file.path.rpartition("log/")[2], file)
            elif took:
                self._held.append((file.path.rpartition("log/")[2], file))
            return took

        patch.setattr(MemoryFile, "lock", taking)
        for name in ("unlock", "close"):
            patch.setattr(MemoryFile, name, self._dropping(getattr(MemoryFile, name)))

    def _dropping(self, inner: Callable[[MemoryFile], None]) -> Callable[[MemoryFile], None]:
        def dropping(file: MemoryFile) -> None:
            inner(file)
            self.let_go(file)

        return dropping

    def _watch_leadership(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("commit", "exclusively", "submit"):
            inner = getattr(GroupCommit, name)

            def waiting(commits: GroupCommit, *args: Any, inner: Any = inner, **kwargs: Any) -> Any:
                with self._holding(LEADERSHIP, commits):
                    return inner(commits, *args, **kwargs)

            patch.setattr(GroupCommit, name, waiting)

    @contextmanager
    def _holding(self, name: str, lock: object) -> Iterator[None]:
        self.take(name, lock)
        try:
            yield
        finally:
            self.let_go(lock)

    def circle(self) -> list[str]:
        """Names that can wait for each other, in order; empty if there are none."""
        after: dict[str, set[str]] = {}
        for held, taken in self.edges:
            after.setdefault(held, set()).add(taken)

        def walk(path: list[str]) -> list[str]:
            for name in sorted(after.get(path[-1], ())):
                if name in path:
                    return [*path[path.index(name) :], name]
                found = walk([*path, name])
                if found:
                    return found
            return []

        return next((found for name in sorted(after) if (found := walk([name]))), [])


class _Watched:
    """A lock that tells when it is taken."""

    def __init__(self, order: LockOrder, lock: Any, name: str) -> None:
        self._order = order
        self._lock = lock
        self._name = name

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking and timeout != 0:
            self._order.take(self._name, self)
        elif self._lock.acquire(False):
            self._order._held.append((self._name, self))
            return True
        else:
            return False
        taken: bool = self._lock.acquire(blocking, timeout)
        return taken

    def release(self) -> None:
        self._lock.release()
        self._order.let_go(self)

    def locked(self) -> bool:
        return bool(self._lock.locked())

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
