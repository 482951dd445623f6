"""Which records the batch under way holds, kept in a small file: after a kill the same batch is sent again.

A far end that drops repeats by a key of the batch (`Idempotency-Key`) can do so only if the same key comes with the
same records. Within one process a retry sends the same batch anyhow. After a kill the next forwarder would cut its
batches elsewhere: by then there are other records to fill them with. So the bounds are durable before a batch is sent
for the first time, and whoever comes next begins with them.

The file holds one line, `<crc> <log id> <records> <ranges of offsets>`, and is overwritten in place. It needs no second
copy: it is written anew only after the far end has settled the batch before, confirmed or refused, so a line that is
torn by a crash names nothing that was ever sent. What is behind the line is left over from a longer one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from seglog.disk.base import Directory, File
from seglog.disk.local import LocalDisk
from seglog.errors import storage_errors
from seglog.format.checksum import crc32c
from seglog.format.names import CURSORS, batch_file_name
from seglog.forward.sinks.base import SinkError, Verdict
from seglog.model import Message

Batch = list[Message[Any]]

FILE_BYTES = 64 << 10  # more ranges than that are more than any server takes as a key
_PREALLOCATED = 4096
_LINE = re.compile(r"([0-9a-f]{8}) (([0-9a-f-]{1,64}) ([0-9]{1,9}) ([0-9,-]+))\n")
_RANGE = re.compile(r"([0-9]{1,19})-([0-9]{1,19})")


class Backlog(Protocol):
    """The part of `seglog.Consumer` that finding a batch again needs."""

    def unacked(self) -> Iterator[Message[Any]]: ...


class Bounds:
    """The file of one forwarder: the bounds of the batch that it sent last."""

    def __init__(self, directory: Directory, name: str) -> None:
        self._directory = directory
        self._name = name
        self._file: File | None = None
        self._line = b""  # what is known to be durable in the file

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Bounds:
        """A file of the local disk, made when it is needed, in a directory that is there. Raises StorageError."""
        directory, name = os.path.split(os.path.abspath(path))
        with storage_errors(f"opening {directory}"):
            return cls(LocalDisk().open(directory, create=False), name)

    def note(self, batch: Sequence[Message[Any]]) -> None:
        """This batch is sent next. Durable on return; costs one sync, and nothing if the batch is sent again.

        Raises StorageError, and SinkError (refused, so that the batch is halved) if its offsets are too scattered.
        """
        line = _line(batch)
        if len(line) > FILE_BYTES:
            raise SinkError("the offsets of the batch are too scattered to be noted", verdict=Verdict.REFUSED)
        if line == self._line:
            return
        self._line = b""  # until it is durable, nothing is
        with storage_errors(f"writing {self._name}"):
            if self._file is None:
                self._file = self._open()
            self._file.write(0, line)
            self._file.datasync()
        self._line = line

    def _open(self) -> File:
        """Whoever made the name may have died before it was durable."""
        file = self._opened()
        if file is None:
            file = self._directory.open(self._name, write=True, create=True)
            file.allocate(0, _PREALLOCATED)  # so that noting needs no space later
            file.sync()
        self._directory.sync()
        return file

    def _opened(self) -> File | None:
        try:
            return self._directory.open(self._name, write=True)
        except FileNotFoundError:
            return None

    def unsettled(self, backlog: Backlog) -> Batch:
        """The batch that was noted last, as it was, if none of it is handled yet; else nothing.

        Nothing as well if something else should go first: then the consumer was set back, and its records are cut
        anew. What had a due or an expiry time may have been passed over and proves nothing. Raises StorageError.
        """
        with storage_errors(f"reading {self._name}"):
            if self._file is None:
                self._file = self._opened()
            data = b"" if self._file is None else self._file.read(0, FILE_BYTES)
        noted = _parsed(data)
        if noted is None:
            return []
        log_id, offsets = noted
        found: dict[int, Message[Any]] = {}
        wanted, last = set(offsets), max(offsets)
        for message in backlog.unacked():
            if message.origin.log_id != log_id or message.offset > last:
                break
            if message.offset in wanted:
                found[message.offset] = message
            elif not _may_be_passed_over(message):
                break
            if len(found) == len(wanted):
                self._line = data[: data.index(b"\n") + 1]  # sent as it is, it need not be written again
                return [found[offset] for offset in offsets]
        return []

    def close(self) -> None:
        """Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
        self._directory.close()


def beside_cursor(directory: str | os.PathLike[str], consumer: str) -> str:
    """Where the file of a consumer belongs, by the log's directory: whoever may write the cursor may write it."""
    return os.path.join(directory, CURSORS, batch_file_name(consumer))


def ranges(batch: Iterable[Message[Any]]) -> str:
    """Their offsets in their order, `<first>-<last>`, with a comma between ranges where offsets are missing."""
    found: list[list[int]] = []
    for message in batch:
        if found and message.offset == found[-1][1] + 1:
            found[-1][1] = message.offset
        else:
            found.append([message.offset, message.offset])
    return ",".join(f"{first}-{last}" for first, last in found)


def _line(batch: Sequence[Message[Any]]) -> bytes:
    content = f"{batch[0].origin.log_id} {len(batch)} {ranges(batch)}"
    return f"{crc32c(content.encode()):08x} {content}\n".encode()


def _parsed(data: bytes) -> tuple[str, list[int]] | None:
    """Log id and offsets, or None where there is no whole line."""
    match = _LINE.match(data.decode("latin-1"))
    if match is None or crc32c(match[2].encode()) != int(match[1], 16):
        return None
    pairs = [(int(one[1]), int(one[2])) for one in map(_RANGE.fullmatch, match[5].split(",")) if one is not None]
    if sum(last - first + 1 for first, last in pairs) != int(match[4]):
        return None
    return match[3], [offset for first, last in pairs for offset in range(first, last + 1)]


def _may_be_passed_over(message: Message[Any]) -> bool:
    extras = message.extras
    return extras is not None and (extras.due_ns != 0 or extras.expiry_ns != 0)
