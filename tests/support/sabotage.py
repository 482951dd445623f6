"""Deliberate bugs that only a kill at the right moment brings to light.

Each breaks seglog in this process, then goes on with what the process is for.
"""

from __future__ import annotations

import importlib
from typing import Any

from seglog.appender import Appender
from seglog.compact import _Compaction
from seglog.consumers.diversion import Diversion
from seglog.disk.base import File
from seglog.segment_writer import SegmentWriter
from tools.crashtest.zygote import Hear, Say


def _go_on(say: Say, hear: Hear, function: str, *arguments: Any) -> None:
    module, _, name = function.partition(":")
    getattr(importlib.import_module(module), name)(say, hear, *arguments)


class _Late:
    """A file that keeps each write in memory until the next one."""

    def __init__(self, inner: File) -> None:
        self._inner = inner
        self._kept: tuple[int, bytes] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, position: int, data: bytes | memoryview) -> None:
        self._flush()
        self._kept = position, bytes(data)

    def close(self) -> None:
        self._flush()
        self._inner.close()

    def _flush(self) -> None:
        if self._kept is not None:
            self._inner.write(*self._kept)
        self._kept = None


def answered_before_written(*rest: Any) -> None:
    """An append is acknowledged when the process has it, not when the kernel has."""
    install = Appender._install

    def late(self: Appender, writer: SegmentWriter) -> None:
        writer.file = _Late(writer.file)
        install(self, writer)

    Appender._install = late  # type: ignore[method-assign]
    _go_on(*rest)


def unlinked_before_meta(*rest: Any) -> None:
    """Compaction takes segments away before `meta` says that they may be gone."""
    remove = _Compaction._remove

    def hasty(self: _Compaction, removable: list[int]) -> tuple[int, int]:
        for index in removable:
            self.catalog.segments.unlink(self.names[index].file_name)
        return remove(self, removable)

    _Compaction._remove = hasty  # type: ignore[method-assign]
    _go_on(*rest)


def handled_before_kept(*rest: Any) -> None:
    """The cursor passes a rejected message before its dead letter is there."""
    keep = Diversion.keep

    def hasty(self: Diversion[Any], messages: Any, reason: str, detail: str) -> None:
        cursor, acked = self._cursor, self._cursor.acked.copy()
        for message in messages:
            acked.add(message.offset, message.offset + 1)
        cursor.store(cursor.watermark, acked, cursor.attempts, self._source.durable())
        keep(self, messages, reason, detail)

    Diversion.keep = hasty  # type: ignore[method-assign]
    _go_on(*rest)
