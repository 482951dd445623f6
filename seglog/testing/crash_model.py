"""What a disk may hold after power was lost: the model under `CrashDisk`.

A file is durable as of its last sync. Of what came later, each 512-byte sector and each change of size survives
or not, independently. A directory is durable as of its last sync; of the names made, moved and removed later, each
change survives or not, independently; a rename is old or new, never both. The model never looks at what the
bytes mean. Bytes that no surviving size covers are lost, bytes that no surviving sector covers are zero. What a failed
sync was to write is lost in a power cut, although it reads back until then. What was durable is never touched: not
even its neighbours in a sector that comes back spoilt.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from seglog.disk.memory import Node, Tree

SECTOR = 512  # what a device writes as a whole
_ZERO = bytes(SECTOR)

Item = Node | Tree


@dataclass(frozen=True, slots=True)
class Operation:
    """One call that changed the disk, or a sync of it.

    Attributes:
        kind: create, mkdir, write, truncate, allocate, sync, datasync, rename, unlink, sync_directory.
        path: of the file or directory, by its name at that time; of a rename, the old name.
        position: of a write, in bytes.
        data: of a write.
        size: of truncate and allocate, the size of the file afterwards.
        new_name: of a rename.
        ignored: a sync that the disk answered and did not do.
        failed: a sync that raised; what it was to write is on no way to the disk any more (names still are).
        item: the file or directory itself, whatever its name; of rename and unlink, what had the name.
        tree: the directory that holds the name.
    """

    kind: str
    path: str
    item: Item
    tree: Tree | None = None
    position: int = 0
    data: bytes = b""
    size: int = 0
    new_name: str = ""
    ignored: bool = False
    failed: bool = False

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class Put(NamedTuple):
    """A sector on its way to the disk. `mark` stands for number and bytes, 0 for zeros.

    `begin` to `end` is what of the sector was written since the last sync; the rest is as before.
    """

    node: Node
    number: int
    data: bytes
    mark: int
    begin: int = 0
    end: int = SECTOR

    def joined(self, earlier: Put) -> Put:
        """This one, which was written over an earlier one. Not across a hole: that may be durable."""
        if earlier.begin > self.end or self.begin > earlier.end:
            return self
        return self._replace(begin=min(self.begin, earlier.begin), end=max(self.end, earlier.end))

    def spoilt(self, other: bytes) -> Put:
        """The same sector, if something else came to the disk where it was written."""
        data = self.data[: self.begin] + other[self.begin : self.end] + self.data[self.end :]
        return self._replace(data=data, mark=_mark(self.number, data))


class Resize(NamedTuple):
    """A size on its way to the disk."""

    node: Node
    size: int


class Rename(NamedTuple):
    """A name on its way to the disk: made (no `removed`), moved, or unlinked (no `added`)."""

    tree: Tree
    item: Item
    removed: str
    added: str


def _mark(number: int, data: bytes) -> int:
    if data == _ZERO:
        return 0
    return int.from_bytes(blake2b(data, digest_size=16, salt=number.to_bytes(8, "little")).digest(), "little")


class Content:
    """Size and sectors of one file. Zero sectors are not kept; the sum of the marks stands for the rest."""

    __slots__ = ("_flat", "sectors", "size", "total")

    def __init__(self) -> None:
        self.size = 0
        self.sectors: dict[int, tuple[bytes, int]] = {}
        self.total = 0
        self._flat: bytes | None = None

    def copy(self) -> Content:
        twin = Content.__new__(Content)
        twin.size, twin.sectors, twin.total, twin._flat = self.size, self.sectors.copy(), self.total, self._flat
        return twin

    def put(self, number: int, data: bytes, mark: int) -> None:
        self._flat = None
        old = self.sectors.pop(number, None)
        if old is not None:
            self.total -= old[1]
        if mark:
            self.sectors[number] = (data, mark)
            self.total += mark

    def resize(self, size: int) -> None:
        if size < self.size:
            self.size = size
            self.clip(list(self.sectors))
        self.size = size
        self._flat = None

    def clip(self, numbers: Iterable[int]) -> None:
        """What lies beyond the size is lost."""
        last, kept = divmod(self.size, SECTOR)
        for number in numbers:
            if number == last and kept and number in self.sectors:
                data = self.sectors[number][0][:kept].ljust(SECTOR, b"\0")
                self.put(number, data, _mark(number, data))
            elif number >= last:
                self.put(number, _ZERO, 0)

    def apply(self, effect: Put | Resize) -> None:
        if isinstance(effect, Put):
            self.put(effect.number, effect.data, effect.mark)
        else:
            self.resize(effect.size)

    def sector(self, number: int) -> bytes:
        return self.sectors.get(number, (_ZERO, 0))[0]

    def flat(self) -> bytes:
        if self._flat is None:  # kept, as most images share most files
            data = bytearray(self.size)
            for number, (sector, _) in self.sectors.items():
                data[number * SECTOR : (number + 1) * SECTOR] = sector
            self._flat = bytes(data[: self.size])
        return self._flat

    def digest(self) -> bytes:
        return (self.total % (1 << 128)).to_bytes(16, "little") + self.size.to_bytes(8, "little")


Entries = dict[Tree, dict[str, Item]]
Names = list[tuple[str, Item]]


class Model:
    """The durable state of a disk, and what is on its way there."""

    def __init__(self, root: Tree) -> None:
        self.root = root
        self.entries: Entries = {root: {}}  # durable names of each directory
        self.contents: dict[Node, Content] = {}  # durable bytes of each file; never changed in place
        self.moving_names: list[Rename] = []  # not durable yet, oldest first
        self.moving_data: list[Put | Resize] = []  # the same
        self._live: dict[Node, Content] = {}  # what the process sees, of files that have moving data
        self._unwritten: set[Node] = set()  # files of which it sees more than is, or will be, on the disk

    def copy(self) -> Model:
        twin = Model(self.root)
        twin.entries = {tree: names.copy() for tree, names in self.entries.items()}
        twin.contents = self.contents.copy()
        twin.moving_names = self.moving_names.copy()
        twin.moving_data = self.moving_data.copy()
        twin._live = {node: content.copy() for node, content in self._live.items()}
        twin._unwritten = self._unwritten.copy()
        return twin

    def apply(self, operation: Operation) -> None:
        """Go on by one operation."""
        kind, item, tree = operation.kind, operation.item, operation.tree
        if isinstance(item, Node):
            if kind == "create":
                self.contents[item] = Content()
            elif kind == "write":
                self._write(item, operation.position, operation.data)
            elif kind in ("truncate", "allocate"):
                self._resize(item, operation.size)
            elif kind in ("sync", "datasync") and operation.failed:
                self._forget(item)
            elif kind in ("sync", "datasync") and not operation.ignored:
                self._sync(item)
        elif kind == "mkdir":
            self.entries[item] = {}
        elif kind == "sync_directory" and not (operation.ignored or operation.failed):
            self._sync_directory(item)
        if tree is not None:
            removed = operation.name if kind in ("rename", "unlink") else ""
            added = operation.new_name if kind == "rename" else "" if kind == "unlink" else operation.name
            self.moving_names.append(Rename(tree, item, removed, added))

    def _sync(self, node: Node) -> None:
        mine = [effect for effect in self.moving_data if effect.node is node]
        if node in self._unwritten:
            self.contents[node] = self.written(mine).get(node, self.contents[node])
        else:
            self.contents[node] = self._live.pop(node, self.contents[node])
        self.moving_data = [effect for effect in self.moving_data if effect.node is not node]

    def _forget(self, node: Node) -> None:
        """As Linux does when a sync fails: the pages count as written from now on. The process goes on seeing them,
        and no later sync brings them to the disk, though it succeeds. (A size may still get there.)"""
        kept = [effect for effect in self.moving_data if effect.node is not node or isinstance(effect, Resize)]
        if len(kept) < len(self.moving_data):
            self._unwritten.add(node)
        self.moving_data = kept

    def _live_content(self, node: Node) -> Content:
        content = self._live.get(node)
        if content is None:
            content = self._live[node] = self.contents[node].copy()
        return content

    def _resize(self, node: Node, size: int) -> None:
        content = self._live_content(node)
        if size != content.size:
            content.resize(size)
            self.moving_data.append(Resize(node, size))

    def _write(self, node: Node, position: int, data: bytes) -> None:
        content = self._live_content(node)
        self._resize(node, max(content.size, position + len(data)))
        end = position + len(data)
        for number in range(position // SECTOR, -(-end // SECTOR)):
            start = number * SECTOR
            piece = data[max(0, start - position) : start + SECTOR - position]
            at = max(0, position - start)
            stop = at + len(piece)
            if len(piece) < SECTOR:
                old = content.sector(number)
                piece = old[:at] + piece + old[stop:]
            put = Put(node, number, piece, _mark(number, piece), at, stop)
            content.apply(put)
            self.moving_data.append(put)

    def _sync_directory(self, tree: Tree) -> None:
        mine = [change for change in self.moving_names if change.tree is tree]
        self.entries[tree] = self.renamed(mine)[tree]
        self.moving_names = [change for change in self.moving_names if change.tree is not tree]
        named = self._named()
        self.moving_data = [effect for effect in self.moving_data if effect.node in named]

    def _named(self) -> set[Item]:
        """Everything but what no name leads to any more: that cannot come back, and need not be tried."""
        named: set[Item] = {item for names in self.entries.values() for item in names.values()}
        named.update(change.item for change in self.moving_names)
        return named

    def renamed(self, changes: Iterable[Rename]) -> Entries:
        """The names if these changes survive; directories without a change are shared."""
        entries = self.entries.copy()
        copied: set[Tree] = set()
        for tree, item, removed, added in changes:
            if tree not in copied:
                copied.add(tree)
                entries[tree] = entries[tree].copy()
            names = entries[tree]
            if removed:
                for name in [name for name, found in names.items() if found is item]:
                    del names[name]
            if added:
                names[added] = item
        return entries

    def latest_data(self) -> list[Put | Resize]:
        """The moving data without sectors that were written again, and without growth that went on."""
        latest: dict[object, Put | Resize] = {}
        sizes: dict[Node, int] = {}
        cuts = 0
        for effect in self.moving_data:
            key: object
            if isinstance(effect, Put):
                key = (effect.node, effect.number)
            else:
                # A cut drops sectors, so it may not change places with growth before or after it.
                cut = effect.size < sizes.get(effect.node, self.contents[effect.node].size)
                sizes[effect.node] = effect.size
                cuts += cut
                key = (effect.node, "size", cuts)
                cuts += cut
            earlier = latest.pop(key, None)
            latest[key] = effect.joined(earlier) if isinstance(effect, Put) and isinstance(earlier, Put) else effect
        return list(latest.values())

    def unwritten(self, data: Iterable[Put | Resize], most: int) -> list[Put]:
        """Sectors, at most so many of a file, by which it grew and which nobody has written: as zeros."""
        sizes: dict[Node, int] = {}
        taken: dict[Node, set[int]] = {}
        for effect in data:
            if isinstance(effect, Resize):
                sizes[effect.node] = effect.size
            else:
                taken.setdefault(effect.node, set()).add(effect.number)
        found: list[Put] = []
        for node, size in sizes.items():
            first = -(-self.contents[node].size // SECTOR)
            free = [n for n in range(first, size // SECTOR) if n not in taken.get(node, ())]
            found += [Put(node, number, _ZERO, 0) for number in free[:most]]
        return found

    def has(self, put: Put) -> bool:
        """Whether that sector is durable as it is."""
        return self.contents[put.node].sector(put.number) == put.data

    def foreign(self, put: Put, chance: float) -> bytes:
        """What may stand in a sector instead. Noise, if it was written over something: that place was nobody else's.
        Else bytes that stand elsewhere on the disk, at this place of another file if any has one."""
        mine = self.contents[put.node].sectors
        if put.number in mine:
            return blake2b(put.data + repr(chance).encode()).digest() * (SECTOR // 64)
        others = [content for node, content in self.contents.items() if node is not put.node]
        found = [other.sectors[put.number][0] for other in others if put.number in other.sectors]
        found += [data for _, (data, _) in sorted(mine.items())[:4]]
        found = found or [data for other in others for data, _ in other.sectors.values()] or [b"\xdb" * SECTOR]
        return found[int(chance * len(found))]

    def written(self, effects: Iterable[Put | Resize]) -> dict[Node, Content]:
        """The files that these effects touch, if they survive."""
        changed: dict[Node, Content] = {}
        puts: list[Put] = []
        for effect in effects:
            content = changed.get(effect.node)
            if content is None:
                content = changed[effect.node] = self.contents[effect.node].copy()
            content.apply(effect)
            if isinstance(effect, Put):
                puts.append(effect)
        for put in puts:
            if (put.number + 1) * SECTOR > changed[put.node].size:
                changed[put.node].clip((put.number,))
        return changed

    def seen(self) -> dict[Node, Content]:
        """The files that look other than what is durable, as the process sees them."""
        return {**self.written(self.moving_data), **{node: self._live[node] for node in self._unwritten}}

    def reachable(self, entries: Entries) -> Names:
        """Every path that can be walked to, parents first."""
        found: Names = []

        def walk(tree: Tree, prefix: str) -> None:
            for name, item in sorted(entries[tree].items()):
                found.append((prefix + name, item))
                if isinstance(item, Tree):
                    walk(item, f"{prefix}{name}/")

        walk(self.root, "")
        return found

    def digest(self, names: Names, changed: dict[Node, Content]) -> bytes:
        """Stands for all names and bytes of one possible state."""
        parts: list[bytes] = []
        for path, item in names:
            parts.append(path.encode("utf-8", "surrogateescape"))
            content = None if isinstance(item, Tree) else changed.get(item) or self.contents[item]
            parts.append(b"/" if content is None else content.digest())
        return blake2b(b"\0".join(parts), digest_size=16).digest()

    def settled(self, entries: Entries, names: Names, changed: dict[Node, Content]) -> Model:
        """The model of a disk that holds this state and nothing more."""
        settled = Model(self.root)
        settled.entries = {self.root: entries[self.root]}
        for _, item in names:
            if isinstance(item, Tree):
                settled.entries[item] = entries[item]
            else:
                settled.contents[item] = changed.get(item) or self.contents[item]
        return settled

    def moved(self) -> Model:
        """The same model on files and directories of its own, which hold what a process would see now."""
        files: dict[Node, Node] = {}
        trees: dict[Tree, Tree] = {self.root: Tree()}
        named_items = self._named()
        for tree in self.entries:
            if tree in named_items:
                trees[tree] = Tree()
        for node, content in self.contents.items():  # in an order that is the same each time
            if node in named_items:
                files[node] = Node()
                files[node].data += self._live.get(node, content).flat()
        twins: dict[Item, Item] = dict([*files.items(), *trees.items()])

        def named(entries: Entries) -> Entries:
            return {twin: {name: twins[item] for name, item in entries[tree].items()} for tree, twin in trees.items()}

        for twin, names in named(self.renamed(self.moving_names)).items():
            twin.entries = names
        model = Model(trees[self.root])
        model.entries = named(self.entries)
        model.contents = {twin: self.contents[node] for node, twin in files.items()}
        model.moving_names = [
            change._replace(tree=trees[change.tree], item=twins[change.item]) for change in self.moving_names
        ]
        model.moving_data = [
            effect._replace(node=files[effect.node]) for effect in self.moving_data if effect.node in files
        ]
        model._live = {files[node]: content for node, content in self._live.items() if node in files}
        model._unwritten = {files[node] for node in self._unwritten if node in files}
        return model
