"""Log directories as dictionaries of bytes: built once in memory, damaged by the thousand, opened again."""

from __future__ import annotations

from seglog.disk.memory import MemoryDisk, Node, Tree

Image = dict[str, bytes]  # path below the root -> content; the path of a directory ends with "/"

ROOT = "log"
NEXT_BOOT = bytes(15) + b"\x02"  # a memory disk begins with boot ...01


def image_of(disk: MemoryDisk, root: str = ROOT) -> Image:
    """Every byte below `root`."""
    tree = disk.root.entries[root]
    assert isinstance(tree, Tree)
    image: Image = {}
    _collect(tree, "", image)
    return image


def _collect(tree: Tree, prefix: str, image: Image) -> None:
    for name, entry in sorted(tree.entries.items()):
        if isinstance(entry, Node):
            image[prefix + name] = bytes(entry.data)
        else:
            image[prefix + name + "/"] = b""
            _collect(entry, prefix + name + "/", image)


def disk_with(image: Image, root: str = ROOT, *, boot_id: bytes | None = None) -> MemoryDisk:
    """A disk that holds a copy of the image."""
    disk = MemoryDisk()
    if boot_id is not None:
        disk.set_boot_id(boot_id)
    disk.root.entries[root] = Tree()
    for path, content in image.items():
        *parents, name = [root, *path.rstrip("/").split("/")]
        tree = disk.root
        for parent in parents:
            found = tree.entries.setdefault(parent, Tree())
            assert isinstance(found, Tree)
            tree = found
        if path.endswith("/"):
            tree.entries.setdefault(name, Tree())
        else:
            node = tree.entries[name] = Node()
            node.data = bytearray(content)
    return disk


def flipped(image: Image, path: str, position: int, bit: int) -> Image:
    """One bit is another one."""
    content = bytearray(image[path])
    content[position] ^= 1 << bit
    return {**image, path: bytes(content)}


def cut(image: Image, path: str, size: int) -> Image:
    """The file ends at `size`."""
    return {**image, path: image[path][:size]}


def overwritten(image: Image, path: str, position: int, data: bytes) -> Image:
    """Other bytes stand at `position`; the file keeps its size."""
    content = image[path]
    return {**image, path: (content[:position] + data + content[position + len(data) :])[: len(content)]}


def without(image: Image, path: str) -> Image:
    """The file is gone."""
    return {name: content for name, content in image.items() if name != path}


def segment_paths(image: Image) -> list[str]:
    """The segments of the log, in order."""
    return [path for path in sorted(image) if path.startswith("segments/") and path.endswith(".seg")]
