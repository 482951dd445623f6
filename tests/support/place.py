"""A place for one log, on a disk in memory or in a real directory: opened, closed, opened again, verified."""

from __future__ import annotations

from typing import Any

import seglog
from seglog.disk.base import Disk


class Place:
    """Every log opened here is closed at the end of the test."""

    def __init__(self, path: str, disk: Disk | None) -> None:
        self.path = path
        self.disk = disk
        self._opened: list[seglog.Log[Any]] = []

    def open(self, mode: str = "rw", **options: Any) -> seglog.Log[Any]:
        self._opened.append(seglog.open(self.path, mode, disk=self.disk, **options))
        return self._opened[-1]

    def opened(self) -> list[seglog.Log[Any]]:
        """All that were ever opened here."""
        return self._opened

    def verify(self) -> seglog.VerifyReport:
        return seglog.verify(self.path, disk=self.disk)

    def close(self) -> None:
        for log in self._opened:
            log.close()


def payloads(messages: Any) -> list[bytes]:
    """Of a list of messages, or of a log or whatever else iterates over them."""
    return [message.payload for message in messages]


def offsets(messages: Any) -> list[int]:
    return [message.offset for message in messages]
