"""What `quarantine/` holds, read by the format's words alone, and whether it has all that it must have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

from seglog.disk.base import Disk


class Kept(NamedTuple):
    """Bytes that were set aside, and where they had been."""

    file: str
    position: int
    data: bytes


def kept(disk: Disk, path: str) -> list[Kept]:
    """Everything that a whole manifest names and its evidence really holds. Raises if a manifest that counts lies."""
    root = disk.open(path, create=False)
    if "quarantine" not in root.list():
        return []
    directory = root.directory("quarantine")
    contents = {}
    for name in directory.list():
        file = directory.open(name)
        contents[name] = file.read(0, file.size())
        file.close()
    found = []
    for name, text in contents.items():
        if not name.endswith(".manifest.json"):
            continue
        manifest = json.loads(text)
        evidence = contents.get(manifest["evidence"])
        if evidence is None or len(evidence) != manifest["size"]:
            continue
        for item in manifest["items"]:
            data = evidence[item["at"] : item["at"] + item["size"]]
            assert hashlib.sha256(data).hexdigest() == item["sha256"], f"{name}: not the bytes it names: {item}"
            found.append(Kept(item["file"], item["position"], data))
    return found


def holds(found: Iterable[Kept], file: str, data: bytes) -> bool:
    """Whether these bytes of that file were kept, perhaps among others."""
    return any(each.file == file and data in each.data for each in found)
