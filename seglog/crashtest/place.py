"""On which file system and device a directory lies, as far as the kernel says. Reads only."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_BLOCK = Path("/sys/dev/block")


@dataclass(frozen=True)
class Place:
    """What is known; "" for what is not.

    Attributes:
        write_cache: "write back": the device may lose what it has not been told to flush. "write through": it says
            that it keeps everything.
    """

    file_system: str = ""
    mount_point: str = ""
    mount_options: str = ""
    device: str = ""
    model: str = ""
    write_cache: str = ""


def place_of(directory: Path) -> Place:
    """Of the directory, or of the one that it would be made in."""
    path = directory.resolve()
    while not path.exists():
        path = path.parent
    number = os.stat(path).st_dev
    found = Place()
    try:
        lines = _MOUNTS.read_text("utf-8", "replace").splitlines()
    except OSError:  # only Linux has it
        return found
    for line in lines:  # a later one may lie over an earlier one
        mount = _mount(line, path)
        if mount is not None and len(mount.mount_point) >= len(found.mount_point):
            found = mount
    return Place(
        found.file_system,
        found.mount_point,
        found.mount_options,
        found.device,
        _told(number, "device/model"),
        _told(number, "queue/write_cache"),
    )


def _mount(line: str, path: Path) -> Place | None:
    """What a line of mountinfo(5) says, if the path lies there."""
    fields, _, rest = line.partition(" - ")
    words, source = fields.split(), rest.split()
    if len(words) < 6 or len(source) < 3:
        return None
    point = _unescaped(words[4])
    if not path.is_relative_to(point):
        return None
    options = dict.fromkeys([*words[5].split(","), *source[2].split(",")])
    return Place(source[0], point, ",".join(options), _unescaped(source[1]))


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)


def _told(number: int, name: str) -> str:
    """What this file of a block device says; a partition's device is one further up."""
    device = (_BLOCK / f"{os.major(number)}:{os.minor(number)}").resolve()
    for each in (device, device.parent):
        try:
            return (each / name).read_text("utf-8", "replace").strip()
        except OSError:
            continue
    return ""
