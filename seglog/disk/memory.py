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


class _Node:
    """One file: its bytes, and which opening holds its lock. It outlives its name."""

    __slots__ = ("data", "holder")

    def __init__(self) -> None:
        self.data = bytearray()
        self.holder: MemoryFile | None = None


class _Tree(dict[str, "_Node | _Tree"]):
    """One directory: name to file or directory."""


class MemoryFile:
    """One opening of a file in memory."""

    def __init__(self, disk: MemoryDisk, node: _Node, name: str, path: str, writable: bool) -> None:
        self._disk = disk
        self._node: _Node | None = node
        self.name = name
        self._path = path
        self._writable = writable

    def _open_node(self, *, write: bool = False) -> _Node:
        node = self._node
        if node is None or (write and not self._writable):
            raise _error(errno.EBADF, self._path)
        return node

    def read(self, position: int, length: int) -> bytes:
        with self._disk.guard:
            return bytes(memoryview(self._open_node().data)[position : position + length])

    def write(self, position: int, data: bytes | memoryview) -> None:
        with self._disk.guard:
            node = self._open_node(write=True)
            if data:
                self._extend(node, position)
                self._disk.take(max(0, position + len(data) - len(node.data)), self._path)
                node.data[position : position + len(data)] = data

    def _extend(self, node: _Node, size: int) -> None:
        growth = size - len(node.data)
        if growth > 0:
            self._disk.take(growth, self._path)
            node.data += bytes(growth)

    def size(self) -> int:
        return len(self._open_node().data)

    def truncate(self, size: int) -> None:
        with self._disk.guard:
            node = self._open_node(write=True)
            if size < len(node.data):
                self._disk.give_back(len(node.data) - size)
                del node.data[size:]
            else:
                self._extend(node, size)

    def allocate(self, position: int, length: int) -> None:
        with self._disk.guard:
            self._extend(self._open_node(write=True), position + length)

    def sync(self) -> None:
        self._open_node()

    def datasync(self) -> None:
        self._open_node()

    def lock(self, *, wait: float = 0.0) -> bool:
        with self._disk.guard:
            node = self._open_node()
            free = self._disk.guard.wait_for(lambda: node.holder in (None, self), timeout=max(0.0, wait))
            if free:
                node.holder = self
            return free

    def unlock(self) -> None:
        with self._disk.guard:
            self._drop_lock(self._open_node())

    def _drop_lock(self, node: _Node) -> None:
        if node.holder is self:
            node.holder = None
            self._disk.guard.notify_all()

    def close(self) -> None:
        with self._disk.guard:
            if self._node is not None:
                self._drop_lock(self._node)
                self._node = None


class MemoryDirectory:
    """One opening of a directory in memory."""

    def __init__(self, disk: MemoryDisk, tree: _Tree, path: str) -> None:
        self._disk = disk
        self._tree: _Tree | None = tree
        self.path = path

    def _open_tree(self) -> _Tree:
        if self._tree is None:
            raise _error(errno.EBADF, self.path)
        return self._tree

    def _child(self, name: str) -> str:
        path = f"{self.path}/{name}"
        if not name or name in (".", "..") or "/" in name or "\0" in name:
            raise _error(errno.EINVAL, path)
        return path

    def list(self) -> list[str]:
        with self._disk.guard:
            return sorted(self._open_tree())

    def open(self, name: str, *, write: bool = False, create: bool = False) -> MemoryFile:
        with self._disk.guard:
            tree, path = self._open_tree(), self._child(name)
            node = tree.get(name)
            if create:
                if node is not None:
                    raise _error(errno.EEXIST, path)
                node = tree[name] = _Node()
            if node is None:
                raise _error(errno.ENOENT, path)
            if not isinstance(node, _Node):
                raise _error(errno.EINVAL, path)
            return MemoryFile(self._disk, node, name, path, write or create)

    def directory(self, name: str, *, create: bool = False) -> MemoryDirectory:
        with self._disk.guard:
            tree, path = self._open_tree(), self._child(name)
            node = tree.get(name)
            if node is None and create:
                node = tree[name] = _Tree()
            if node is None:
                raise _error(errno.ENOENT, path)
            if not isinstance(node, _Tree):
                raise _error(errno.EINVAL, path)
            return MemoryDirectory(self._disk, node, path)

    def rename(self, old: str, new: str) -> None:
        with self._disk.guard:
            tree, path = self._open_tree(), self._child(old)
            self._child(new)
            if old not in tree:
                raise _error(errno.ENOENT, path)
            if isinstance(tree.get(new), _Tree):
                raise _error(errno.EISDIR, path)
            if old != new:
                self._forget(tree.get(new))
                tree[new] = tree.pop(old)

    def unlink(self, name: str) -> None:
        with self._disk.guard:
            tree, path = self._open_tree(), self._child(name)
            node = tree.get(name)
            if node is None:
                raise _error(errno.ENOENT, path)
            if isinstance(node, _Tree):
                raise _error(errno.EISDIR, path)
            self._forget(tree.pop(name))

    def _forget(self, node: _Node | _Tree | None) -> None:
        # Space comes back with the name, not with the last close: simpler, and only `capacity` can tell.
        if isinstance(node, _Node):
            self._disk.give_back(len(node.data))

    def sync(self) -> None:
        self._open_tree()

    def sync_parents(self) -> None:
        self._open_tree()

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
        self._used = 0
        self._root = _Tree()
        self._boot_id = bytes(15) + b"\x01"

    def take(self, count: int, path: str) -> None:
        """Account for `count` more bytes; OSError(ENOSPC) if they do not fit."""
        if self.capacity is not None and count > 0 and self._used + count > self.capacity:
            raise _error(errno.ENOSPC, path)
        self._used += count

    def give_back(self, count: int) -> None:
        self._used -= count

    def open(self, path: str, *, create: bool, file_mode: int = 0o600, directory_mode: int = 0o700) -> MemoryDirectory:
        with self.guard:
            tree = self._root
            for name in path.split("/"):
                if name in ("", "."):
                    continue
                node = tree.get(name)
                if node is None and create:
                    node = tree[name] = _Tree()
                if node is None:
                    raise _error(errno.ENOENT, path)
                if not isinstance(node, _Tree):
                    raise _error(errno.ENOTDIR, path)
                tree = node
            return MemoryDirectory(self, tree, path)

    def boot_id(self) -> bytes:
        return self._boot_id

    def set_boot_id(self, boot_id: bytes) -> None:
        """From now on, this is another boot of the machine."""
        self._boot_id = boot_id

    def free_bytes(self, directory: Directory) -> int:
        return 1 << 50 if self.capacity is None else max(0, self.capacity - self._used)

    def holder(self) -> str:
        return f"pid {os.getpid()} (in memory)"
