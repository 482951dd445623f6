"""A disk in memory: what `seglog.open(":memory:")` and fast tests stand on (FORMAT.md §2).

It keeps the same promises as the real disk as long as the process lives, and none after; syncs do nothing.
It never touches the file system.
"""

from __future__ import annotations

import builtins
import errno
import os
import threading

from seglog.disk.base import Directory


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)  # the constructor picks FileNotFoundError and its like


class Node:
    """One file: its bytes, and which openings hold its lock. It outlives its name."""

    __slots__ = ("data", "holder", "sharers")

    def __init__(self) -> None:
        self.data = bytearray()
        self.holder: MemoryFile | None = None
        self.sharers: set[MemoryFile] = set()


class Tree:
    """One directory: name to file or directory."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: dict[str, Node | Tree] = {}


class MemoryFile:
    """One opening of a file in memory."""

    def __init__(self, disk: MemoryDisk, node: Node, name: str, path: str, writable: bool) -> None:
        self._disk = disk
        self._node: Node | None = node
        self.name = name
        self.path = path
        self._writable = writable

    def opened(self, *, write: bool = False) -> Node:
        """The file itself; OSError(EBADF) if this opening is closed, or may not write and should."""
        node = self._node
        if node is None or (write and not self._writable):
            raise _error(errno.EBADF, self.path)
        return node

    def read(self, position: int, length: int) -> bytes:
        with self._disk.guard:
            return bytes(memoryview(self.opened().data)[position : position + length])

    def write(self, position: int, data: bytes | memoryview) -> None:
        with self._disk.guard:
            node = self.opened(write=True)
            if data:
                self._extend(node, position + len(data))
                node.data[position : position + len(data)] = data

    def _extend(self, node: Node, size: int) -> None:
        growth = size - len(node.data)
        if growth > 0:
            if growth > self._disk.room():
                raise _error(errno.ENOSPC, self.path)
            node.data += bytes(growth)

    def size(self) -> int:
        return len(self.opened().data)

    def truncate(self, size: int) -> None:
        with self._disk.guard:
            node = self.opened(write=True)
            self._extend(node, size)
            del node.data[size:]

    def allocate(self, position: int, length: int) -> None:
        with self._disk.guard:
            self._extend(self.opened(write=True), position + length)

    def sync(self) -> None:
        self.opened()

    def datasync(self) -> None:
        self.opened()

    def lock(self, *, wait: float = 0.0, shared: bool = False) -> bool:
        with self._disk.guard:
            node = self.opened()

            def free() -> bool:
                return node.holder in (None, self) and (shared or node.sharers <= {self})

            if not self._disk.guard.wait_for(free, timeout=max(0.0, wait)):
                return False
            node.holder = None if shared else self
            node.sharers = node.sharers | {self} if shared else set()
            return True

    def unlock(self) -> None:
        with self._disk.guard:
            self._drop_lock(self.opened())

    def _drop_lock(self, node: Node) -> None:
        if node.holder is self or self in node.sharers:
            node.holder = None
            node.sharers.discard(self)
            self._disk.guard.notify_all()

    def close(self) -> None:
        with self._disk.guard:
            if self._node is not None:
                self._drop_lock(self._node)
                self._node = None


class MemoryDirectory:
    """One opening of a directory in memory."""

    def __init__(self, disk: MemoryDisk, tree: Tree, path: str) -> None:
        self._disk = disk
        self._tree: Tree | None = tree
        self.path = path

    @property
    def tree(self) -> Tree:
        if self._tree is None:
            raise _error(errno.EBADF, self.path)
        return self._tree

    def child_path(self, name: str) -> str:
        path = f"{self.path.rstrip('/')}/{name}" if self.path else name
        if not name or name in (".", "..") or "/" in name or "\0" in name:
            raise _error(errno.EINVAL, path)
        return path

    def list(self) -> list[str]:
        with self._disk.guard:
            return sorted(self.tree.entries)

    def open(self, name: str, *, write: bool = False, create: bool = False) -> MemoryFile:
        with self._disk.guard:
            entries, path = self.tree.entries, self.child_path(name)
            node = entries.get(name)
            if create:
                if node is not None:
                    raise _error(errno.EEXIST, path)
                node = entries[name] = Node()
            if node is None:
                raise _error(errno.ENOENT, path)
            if not isinstance(node, Node):
                raise _error(errno.EINVAL, path)
            return MemoryFile(self._disk, node, name, path, write or create)

    def directory(self, name: str, *, create: bool = False) -> MemoryDirectory:
        with self._disk.guard:
            entries, path = self.tree.entries, self.child_path(name)
            node = entries.get(name)
            if node is None and create:
                node = entries[name] = Tree()
            if node is None:
                raise _error(errno.ENOENT, path)
            if not isinstance(node, Tree):
                raise _error(errno.EINVAL, path)
            return MemoryDirectory(self._disk, node, path)

    def rename(self, old: str, new: str) -> None:
        with self._disk.guard:
            entries, path = self.tree.entries, self.child_path(old)
            self.child_path(new)
            if old not in entries:
                raise _error(errno.ENOENT, path)
            if isinstance(entries.get(new), Tree):
                raise _error(errno.EISDIR, path)
            entries[new] = entries.pop(old)

    def unlink(self, name: str) -> None:
        with self._disk.guard:
            entries, path = self.tree.entries, self.child_path(name)
            node = entries.get(name)
            if node is None:
                raise _error(errno.ENOENT, path)
            if isinstance(node, Tree):
                raise _error(errno.EISDIR, path)
            del entries[name]

    def sync(self) -> None:
        _ = self.tree  # raises if it was closed

    def sync_parents(self) -> None:
        _ = self.tree  # raises if it was closed

    def warnings(self) -> builtins.list[str]:
        return []

    def close(self) -> None:
        self._tree = None


class MemoryDisk:
    """A private file system in memory, empty at first. Modes are ignored; there are no links.

    Args:
        capacity: bytes that all files together may hold (None: no limit); beyond it, OSError(ENOSPC).
    """

    def __init__(self, *, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.guard = threading.Condition(threading.RLock())
        self.root = Tree()
        self._boot_id = bytes(15) + b"\x01"

    def open(self, path: str, *, create: bool, file_mode: int = 0o600, directory_mode: int = 0o700) -> MemoryDirectory:
        with self.guard:
            tree = self.root
            for name in path.split("/"):
                if name in ("", "."):
                    continue
                node = tree.entries.get(name)
                if node is None and create:
                    node = tree.entries[name] = Tree()
                if node is None:
                    raise _error(errno.ENOENT, path)
                if not isinstance(node, Tree):
                    raise _error(errno.ENOTDIR, path)
                tree = node
            return MemoryDirectory(self, tree, path)

    def boot_id(self) -> bytes:
        return self._boot_id

    def set_boot_id(self, boot_id: bytes) -> None:
        """From now on, this is another boot of the machine."""
        self._boot_id = boot_id

    def free_bytes(self, directory: Directory) -> int:
        return self.room()

    def room(self) -> int:
        """How many more bytes fit. Counted afresh, as hardly anybody asks; a file without a name counts no more."""
        if self.capacity is None:
            return 1 << 50
        with self.guard:
            return max(0, self.capacity - _bytes_in(self.root))

    def holder(self) -> str:
        return f"pid {os.getpid()} (in memory)"


def _bytes_in(item: Node | Tree) -> int:
    if isinstance(item, Node):
        return len(item.data)
    return sum(map(_bytes_in, item.entries.values()))
