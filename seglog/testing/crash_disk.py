"""A disk that can lose power: run your code on it, then open what may be left after any operation.

    disk = CrashDisk()
    run(disk)                                   # your code; disk.mark("...") where it acknowledged something
    for step in range(len(disk.journal) + 1):
        for image in disk.images(step, rng=random.Random(step)):
            check(image.disk(), disk.marks(step))   # your code again, on what the crash left

It is a `seglog.disk.base.Disk` in memory that keeps a journal of every operation; `crash_model` says what of the
unsynced operations may survive. It never forgets anything by itself: the running code sees an ordinary disk.
"""

from __future__ import annotations

import builtins
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from seglog.disk.base import Directory
from seglog.disk.memory import MemoryDirectory, MemoryDisk, MemoryFile, Node, Tree
from seglog.testing.crash_model import SECTOR, Entries, Model, Names, Operation, Rename
from seglog.testing.survivals import Chance, sectors, survivals

_SYNCS = ("sync", "datasync", "sync_directory")
_KILL_CUTS = 8  # in how many places a write is cut by a kill


class Image:
    """One state that a crash may leave.

    Attributes:
        label: how it came about, for the message of a failed test.
        digest: equal for images that hold the same; a crash looks the same from inside, but what had been
            acknowledged before it need not be, so skip an image only if its digest *and* the marks were seen.
        killed: only the process died, the machine did not: all its writes are there, synced or not.
        torn: of what was written and not synced some is there, and some is not.
        spoilt: "zeros" or "stale" if some of that holds what nobody wrote there, see `CrashDisk.images`; else "".
    """

    __slots__ = ("_boot_id", "_model", "digest", "killed", "label", "spoilt", "torn")

    def __init__(
        self,
        model: Model,
        digest: bytes,
        label: str,
        boot_id: bytes,
        *,
        killed: bool,
        torn: bool = False,
        spoilt: str = "",
    ) -> None:
        self._model = model
        self.digest = digest
        self.label = label
        self.killed = killed
        self.torn = torn
        self.spoilt = spoilt
        self._boot_id = boot_id

    def __repr__(self) -> str:
        return f"<Image {self.label}>"

    def disk(
        self,
        *,
        ignore: Callable[[Operation], bool] | None = None,
        fail: Callable[[Operation], bool] | None = None,
    ) -> CrashDisk:
        """A new disk that holds this image, each time a fresh one; it can crash again. Arguments as of CrashDisk.

        After a power loss it has a new boot id and all on it is durable. After a kill it has the same boot id, and
        what was not synced before can still be lost.
        """
        disk = CrashDisk(ignore=ignore, fail=fail)
        disk._start_from(self._model.moved(), self._boot_id)
        return disk


class CrashDisk:
    """A disk in memory with a journal, from which every possible state after a crash can be made.

    Args:
        ignore: asked for each sync, datasync and sync_directory; where it answers True, the disk lies: the call
            returns and nothing becomes durable. A test-suite that does not notice does not need that sync.
        fail: asked for each sync, datasync and sync_directory; where it answers True, the call raises EIO. What a
            file's sync was to write reads back as before, counts as written (a later sync succeeds and does not write
            it), and is gone after a power cut: that is what Linux does. Names stay as undecided as they were.
    """

    def __init__(
        self,
        *,
        ignore: Callable[[Operation], bool] | None = None,
        fail: Callable[[Operation], bool] | None = None,
    ) -> None:
        self.journal: list[Operation] = []
        self._marks: list[tuple[int, Any]] = []
        self._ignore = ignore
        self._fail = fail
        self._start_from(Model(Tree()), bytes(15) + b"\x01")

    def _start_from(self, model: Model, boot_id: bytes) -> None:
        self._memory = MemoryDisk()
        self._memory.root = model.root
        self._memory.set_boot_id(boot_id)
        self.guard = self._memory.guard
        self._start = model
        self._reached: tuple[int, Model] | None = None  # a step, and the model there

    # As a disk

    def open(self, path: str, *, create: bool, file_mode: int = 0o600, directory_mode: int = 0o700) -> CrashDirectory:
        start = "/" if path.startswith("/") else ""
        directory = CrashDirectory(self, self._memory.open(start, create=False), None)
        for name in path.split("/"):
            if name not in ("", "."):
                try:
                    directory = directory.directory(name, create=create)
                except OSError as error:
                    code = errno.ENOTDIR if error.errno == errno.EINVAL else error.errno
                    raise OSError(code, os.strerror(code or 0), path) from None
        return directory

    def boot_id(self) -> bytes:
        return self._memory.boot_id()

    def free_bytes(self, directory: Directory) -> int:
        return self._memory.free_bytes(directory)

    def holder(self) -> str:
        return self._memory.holder()

    def record(self, operation: Operation) -> None:
        """Append to the journal; the caller holds `guard` and has done it."""
        if self._ignore is not None and operation.kind in _SYNCS and self._ignore(operation):
            operation = replace(operation, ignored=True)
        failed = self._fail is not None and operation.kind in _SYNCS and self._fail(operation)
        self.journal.append(replace(operation, failed=True) if failed else operation)
        if failed:
            raise OSError(errno.EIO, os.strerror(errno.EIO), operation.path)

    # As a crash

    def mark(self, value: Any) -> None:
        """Note in the journal that something happened now, for example that a record was acknowledged."""
        with self.guard:
            self._marks.append((len(self.journal), value))

    def marks(self, step: int) -> list[Any]:
        """What was marked when `step` operations were done."""
        return [value for at, value in self._marks if at <= step]

    def images(self, step: int, *, rng: Chance, subsets: int = 4, spoil: Sequence[str] = ()) -> Iterator[Image]:
        """What may be left by a crash after the first `step` operations of the journal, each state once.

        Power loss: of the unsynced sectors and sizes none, all, each alone, every prefix, every suffix and seeded
        subsets survive, each with all and with none of the unsynced names; of the names likewise, each with all,
        none and one seeded subset of the data. A sector that was written again counts once, by its latest bytes;
        earlier ones come back in the seeded subsets (and were the latest at an earlier step). A kill: everything
        survives, also with the front part of the write that would have come next.

        Args:
            step: 0 to len(journal). Ascending steps are fast, going back starts over.
            rng: where the seeded subsets come from.
            subsets: how many of them, at each place where they are used.
            spoil: beyond what survives or does not, let unsynced bytes come back as something else. "zeros": where
                there was something before. "stale": as noise where there was something before; where there was nothing,
                as bytes that stand elsewhere on the disk, also in space by which a file grew and that nobody has
                written. Durable bytes of the same sector stay. A disk that behaves as databases assume does neither, so
                ask less of these images (`Image.spoilt`).
        """
        model = self._model_at(step)
        seen: set[bytes] = set()
        named: dict[tuple[Rename, ...], tuple[Entries, Names]] = {}  # few different ones, each used often
        moving = sectors(model.moving_data)
        for kind, label, names, data in survivals(model, rng, subsets, spoil):
            key = tuple(names)
            if key not in named:
                entries = model.renamed(names)
                named[key] = (entries, model.reachable(entries))
            entries, reachable = named[key]
            changed = model.written(data)
            digest = model.digest(reachable, changed)
            if digest not in seen:
                seen.add(digest)
                yield Image(
                    model.settled(entries, reachable, changed),
                    digest,
                    f"step {step}: power lost, {label}",
                    _next_boot(self.boot_id()),
                    killed=False,
                    torn=0 < sectors(data) < moving,
                    spoilt=kind,
                )
        yield from self._kills(step, model)

    def _kills(self, step: int, model: Model) -> Iterator[Image]:
        yield self._killed(model.copy(), f"step {step}: killed")
        following = self.journal[step] if step < len(self.journal) else None
        if following is not None and following.kind == "write":
            first = SECTOR - following.position % SECTOR
            cuts = range(first, len(following.data), SECTOR)
            for cut in cuts[:: max(1, len(cuts) // _KILL_CUTS)]:
                partial = model.copy()
                partial.apply(replace(following, data=following.data[:cut]))
                yield self._killed(partial, f"step {step}: killed {cut} bytes into the next write", torn=True)

    def _killed(self, model: Model, label: str, *, torn: bool = False) -> Image:
        durable = model.digest(model.reachable(model.entries), {})
        live = model.digest(model.reachable(model.renamed(model.moving_names)), model.seen())
        digest = blake2b(b"killed" + durable + live, digest_size=16).digest()
        return Image(model, digest, label, self.boot_id(), killed=True, torn=torn)

    def _model_at(self, step: int) -> Model:
        if not 0 <= step <= len(self.journal):
            raise ValueError(f"step {step} is not among 0 to {len(self.journal)}")
        at, model = self._reached or (0, self._start.copy())
        if at > step:
            at, model = 0, self._start.copy()
        for operation in self.journal[at:step]:
            model.apply(operation)
        self._reached = (step, model)
        return model


def _next_boot(boot_id: bytes) -> bytes:
    return blake2b(boot_id, digest_size=16).digest()


class CrashFile:
    """An open file of a `CrashDisk`."""

    def __init__(self, disk: CrashDisk, inner: MemoryFile) -> None:
        self._disk = disk
        self._inner = inner
        self.name = inner.name

    def read(self, position: int, length: int) -> bytes:
        return self._inner.read(position, length)

    def write(self, position: int, data: bytes | memoryview) -> None:
        with self._disk.guard:
            self._inner.write(position, data)
            if data:
                self._record("write", position=position, data=bytes(data))

    def size(self) -> int:
        return self._inner.size()

    def truncate(self, size: int) -> None:
        with self._disk.guard:
            self._inner.truncate(size)
            self._record("truncate", size=size)

    def allocate(self, position: int, length: int) -> None:
        with self._disk.guard:
            self._inner.allocate(position, length)
            self._record("allocate", size=self._inner.size())

    def sync(self) -> None:
        with self._disk.guard:
            self._record("sync")

    def datasync(self) -> None:
        with self._disk.guard:
            self._record("datasync")

    def _record(self, kind: str, *, position: int = 0, data: bytes = b"", size: int = 0) -> None:
        node = self._inner.opened()
        self._disk.record(Operation(kind, self._inner.path, node, position=position, data=data, size=size))

    def lock(self, *, wait: float = 0.0, shared: bool = False) -> bool:
        return self._inner.lock(wait=wait, shared=shared)

    def unlock(self) -> None:
        self._inner.unlock()

    def close(self) -> None:
        self._inner.close()


class CrashDirectory:
    """An open directory of a `CrashDisk`."""

    def __init__(self, disk: CrashDisk, inner: MemoryDirectory, above: CrashDirectory | None) -> None:
        self._disk = disk
        self._inner = inner
        self._above = above
        self._tree = inner.tree
        self.path = inner.path

    def list(self) -> list[str]:
        return self._inner.list()

    def open(self, name: str, *, write: bool = False, create: bool = False) -> CrashFile:
        with self._disk.guard:
            file = self._inner.open(name, write=write, create=create)
            if create:
                self._record("create", name, file.opened())
            return CrashFile(self._disk, file)

    def directory(self, name: str, *, create: bool = False) -> CrashDirectory:
        with self._disk.guard:
            made = create and name not in self._inner.tree.entries
            directory = self._inner.directory(name, create=create)
            if made:
                self._record("mkdir", name, directory.tree)
            return CrashDirectory(self._disk, directory, self)

    def rename(self, old: str, new: str) -> None:
        with self._disk.guard:
            self._inner.rename(old, new)
            self._record("rename", old, self._inner.tree.entries[new], new_name=new)

    def unlink(self, name: str) -> None:
        with self._disk.guard:
            item = self._inner.tree.entries.get(name)
            self._inner.unlink(name)
            assert isinstance(item, Node)  # or unlink had refused
            self._record("unlink", name, item)

    def _record(self, kind: str, name: str, item: Node | Tree, *, new_name: str = "") -> None:
        path = self._inner.child_path(name)
        self._disk.record(Operation(kind, path, item, self._tree, new_name=new_name))

    def sync(self) -> None:
        with self._disk.guard:
            self._inner.sync()
            self._disk.record(Operation("sync_directory", self.path, self._tree))

    def sync_parents(self) -> None:
        with self._disk.guard:
            self._inner.sync_parents()
            above = self._above
            while above is not None:
                self._disk.record(Operation("sync_directory", above.path, above._tree))
                above = above._above

    def warnings(self) -> builtins.list[str]:
        return self._inner.warnings()

    def close(self) -> None:
        self._inner.close()
