"""Real text that is on this machine, as events: one JSON line each, numbered, so that no two are the same."""

from __future__ import annotations

import itertools
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from seglog.errors import SeglogError

PACKAGE_LISTS = Path("/var/lib/dpkg/info")


class Source(NamedTuple):
    """Where the text is, for people, and its files in order."""

    name: str
    files: list[Path]


def sources() -> Iterator[Source]:
    """The best first: which files each installed package has; else the source of the Python standard library."""
    yield Source(f"the package database ({PACKAGE_LISTS}/*.list)", sorted(PACKAGE_LISTS.glob("*.list")))
    library = Path(sysconfig.get_paths()["stdlib"])
    yield Source(f"the Python standard library ({library}/**/*.py)", sorted(library.rglob("*.py")))


def write_events(path: Path, count: int) -> tuple[str, list[bytes]]:
    """Write up to `count` events to `path`; returns where the text comes from, and the events.

    Raises:
        SeglogError: there is no readable text in any of the places.
    """
    for name, files in sources():
        events = list(itertools.islice(_events(files), count))
        if events:
            path.write_bytes(b"\n".join(events) + b"\n")
            return name, events
    raise SeglogError("found no text on this machine to make events of")


def _events(files: list[Path]) -> Iterator[bytes]:
    number = 0
    for file in files:
        try:
            text = file.read_text("utf-8", "backslashreplace")
        except OSError:
            continue  # not ours to read: there are others
        for line in text.splitlines():
            if line.strip():
                yield json.dumps({"line": number, "source": file.name, "text": line}).encode()
                number += 1
