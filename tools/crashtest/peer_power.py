"""What a power cut may leave of files that any program writes: rebuilt from its system calls, which strace records.

The model is the simplest honest one. A file keeps what it had at its last fsync or fdatasync. A name is durable once
its directory was synced, or its file was (so do ext4, xfs and btrfs for a new file). Of the rest: nothing is left;
names are left but no data; sizes are left, with zeros; all is left but the data of one file; all is left but names.

Limits: no torn sectors and no reordering inside one file, so it is kind to all; directories are durable when they are
made; what is written through mmap is not seen (SQLite's -shm, which is no data and is left out); one process, whose
threads share their files. Linux only.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "openat,open,creat,read,write,writev,pwrite64,pwritev,pwritev2,lseek,fsync,fdatasync,sync_file_range,"
    "ftruncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,close"
)
_CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)(?:<.*>)?(?: .*)?$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_UNFINISHED = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")


def strace(output: Path) -> list[str]:
    """The command that records; put the program behind it."""
    return ["strace", "-f", "-xx", "-s", "10000000", "-e", "signal=none", "-e", f"trace={CALLS}", "-o", str(output)]


def has_strace() -> bool:
    return shutil.which("strace") is not None


@dataclass(eq=False)
class Node:
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


@dataclass
class Opened:
    path: str
    node: Node | None  # None: a directory
    position: int = 0
    appends: bool = False


Image = dict[str, bytes]


class Disk:
    """The files below `root` as the calls leave them, and what of that is durable."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.names: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}
        self.files: dict[int, Opened] = {}
        self.acknowledged = 0

    def call(self, name: str, arguments: str, result: int) -> bool:
        """Take in one call; whether it was an acknowledgement."""
        if result < 0:
            return False
        texts = [bytes.fromhex(text.replace("\\x", "")) for text in _TEXT.findall(arguments)]
        match name:
            case "openat" | "open" | "creat":
                self._open(os.fsdecode(texts[0]), name == "creat" or "O_TRUNC" in arguments, arguments, result)
            case "rename" | "renameat" | "renameat2":
                old, new = map(os.fsdecode, texts)
                if (node := self.names.pop(self._full(old, arguments), None)) is not None:
                    self.names[self._full(new, arguments[arguments.index('", ') + 3 :])] = node
            case "unlink" | "unlinkat":
                self.names.pop(self._full(os.fsdecode(texts[0]), arguments), None)
            case "mkdir" | "mkdirat":
                pass
            case _:
                return self._on_file(name, int(arguments.split(",", maxsplit=1)[0]), arguments, b"".join(texts), result)
        return False

    def _full(self, path: str, arguments: str) -> str:
        at = re.match(r"(\d+), ", arguments.lstrip())
        opened = self.files.get(int(at[1])) if at and not path.startswith("/") else None
        return os.path.normpath(os.path.join(opened.path if opened else self.root, path))

    def _open(self, path: str, empties: bool, arguments: str, result: int) -> None:
        full = self._full(path, arguments)
        if not full.startswith(self.root):
            self.files.pop(result, None)
            return
        node = self.names.get(full)
        if node is None and ("O_CREAT" in arguments or empties):
            node = self.names[full] = Node()
        if node is not None and empties:
            node.data.clear()
        self.files[result] = Opened(full, node, appends="O_APPEND" in arguments)

    def _on_file(self, name: str, number: int, arguments: str, data: bytes, result: int) -> bool:
        if name == "write" and number == 1:
            self.acknowledged += data.count(b"\n")
            return True
        opened = self.files.get(number)
        if opened is None:
            return False
        last = re.search(r", (\d+)$", arguments.removesuffix(", 0") if name == "pwritev2" else arguments)
        node = opened.node
        match name:
            case "close":
                del self.files[number]
            case "fsync" | "fdatasync":
                self._sync(opened)
            case "lseek":
                opened.position = result
            case "read":
                opened.position += result
            case "write" | "writev" if node is not None:
                at = len(node.data) if opened.appends else opened.position
                self._put(node, at, data[:result])
                opened.position = at + result
            case "pwrite64" | "pwritev" | "pwritev2" if node is not None and last is not None:
                self._put(node, int(last[1]), data[:result])
            case "ftruncate" if node is not None and last is not None:
                del node.data[int(last[1]) :]
                node.data.extend(bytes(int(last[1]) - len(node.data)))
            case "fallocate" if node is not None:
                _, mode, start, length = arguments.split(", ")
                if mode == "0":
                    node.data.extend(bytes(max(0, int(start) + int(length) - len(node.data))))
        return False

    @staticmethod
    def _put(node: Node, at: int, data: bytes) -> None:
        node.data.extend(bytes(max(0, at - len(node.data))))
        node.data[at : at + len(data)] = data

    def _sync(self, opened: Opened) -> None:
        if opened.node is None:
            inside = {path: node for path, node in self.names.items() if os.path.dirname(path) == opened.path}
            others = {path: node for path, node in self.durable.items() if os.path.dirname(path) != opened.path}
            self.durable = others | inside
            return
        opened.node.synced = bytes(opened.node.data)
        self.durable = {path: node for path, node in self.durable.items() if node is not opened.node}
        self.durable |= {path: node for path, node in self.names.items() if node is opened.node}

    def images(self) -> Iterator[tuple[str, Image]]:
        """What a power cut now may leave; see the module. Paths are relative to the root."""
        for what, names in (("nothing unsynced", self.durable), ("names", self.names)):
            yield what, self._image({path: node.synced for path, node in names.items()})
        sizes = {path: node.synced.ljust(len(node.data), b"\0") for path, node in self.names.items()}
        yield "names and sizes", self._image(sizes)
        yield "all but names", self._image({path: bytes(node.data) for path, node in self.durable.items()})
        for path, node in self.names.items():
            if node.synced != node.data:
                whole = {other: bytes(found.data) for other, found in self.names.items()}
                yield f"all but {os.path.basename(path)}", self._image({**whole, path: node.synced})

    def _image(self, files: Image) -> Image:
        return {path[len(self.root) + 1 :]: data for path, data in files.items() if not path.endswith("-shm")}


def replayed(trace: Path, root: Path) -> Iterator[Disk]:
    """The disk right after each acknowledgement: that is when the most is promised."""
    disk = Disk(root)
    halves: dict[str, str] = {}
    for line in trace.read_text("ascii").splitlines():
        if (cut := _UNFINISHED.match(line)) is not None:
            halves[cut[1]] = cut[0].removesuffix(" <unfinished ...>")
            continue
        if (rest := _RESUMED.match(line)) is not None:
            line = halves.pop(rest[1], "") + rest[2]  # noqa: PLW2901
        if (call := _CALL.match(line)) is not None and disk.call(call[1], call[2], int(call[3])):
            yield disk


def laid_out(image: Image, root: Path) -> None:
    """Write an image to a real directory. An empty one is one in which nothing was durable."""
    root.mkdir(parents=True)
    for path, data in image.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
