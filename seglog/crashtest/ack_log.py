"""Where acknowledgements are noted: not on the disk that is tried.

One line each, with a checksum at its end, so that a line that was cut short is not believed:

    log ID                          a process begins; this is the id of its log
    appended OFFSET COUNT RUN FIRST records FIRST .. FIRST+COUNT-1 of run RUN are acknowledged, from this offset on
    handled CONSUMER WATERMARK      the consumer's ack of all below is acknowledged
"""

from __future__ import annotations

import os
import re
import socket
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from seglog.errors import SeglogError

_ADDRESS = re.compile(r"\[?([^/]+?)\]?:(\d{1,5})", re.ASCII)
CONNECT_SECONDS = 10.0


class Notes(Protocol):
    """Takes lines."""

    def write(self, line: str) -> None:
        """The line is out of this process on return; in a file, on its disk too."""
        ...

    def close(self) -> None: ...


class NotesFile:
    """A file on another disk. What an earlier run noted stays."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(self._fd).st_size
            if size and os.pread(self._fd, 1, size - 1) != b"\n":
                os.write(self._fd, b"\n")  # a line that was cut short ends here
            _sync_name(path)
        except BaseException:
            os.close(self._fd)
            raise

    def write(self, line: str) -> None:
        data = _sealed(line)
        while data:
            data = data[os.write(self._fd, data) :]
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def _sync_name(path: Path) -> None:
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class NotesSocket:
    """Whoever listens on another machine and keeps what comes."""

    def __init__(self, host: str, port: int) -> None:
        self._name = f"{host}:{port}"
        try:
            self._socket = socket.create_connection((host, port), CONNECT_SECONDS)
        except OSError as error:
            error.filename = self._name
            raise
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._send(b"\n")  # a line of an earlier run may have been cut short

    def write(self, line: str) -> None:
        self._send(_sealed(line))

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise SeglogError(f"{self._name} takes no more acknowledgements: {error.strerror}") from error

    def close(self) -> None:
        self._socket.close()


def address(text: str) -> tuple[str, int] | None:
    """Host and port, if it is HOST:PORT; a file whose name looks like that is written ./HOST:PORT."""
    match = _ADDRESS.fullmatch(text)
    return None if match is None or not 0 < int(match[2]) < 1 << 16 else (match[1], int(match[2]))


def open_notes(text: str) -> Notes:
    """For writing. Raises OSError."""
    found = address(text)
    return NotesFile(Path(text)) if found is None else NotesSocket(*found)


@dataclass(frozen=True, slots=True)
class Appended:
    """Acknowledged records: those of `run`, numbered from `first`, at the offsets from `offset` on."""

    offset: int
    count: int
    run: str
    first: int

    @property
    def stop(self) -> int:
        return self.offset + self.count

    def __str__(self) -> str:
        return f"appended {self.offset} {self.count} {self.run} {self.first}"


@dataclass(frozen=True, slots=True)
class Handled:
    """An acknowledged ack."""

    consumer: str
    watermark: int

    def __str__(self) -> str:
        return f"handled {self.consumer} {self.watermark}"


@dataclass(frozen=True, slots=True)
class Began:
    """A process opened the log with this id."""

    log_id: str

    def __str__(self) -> str:
        return f"log {self.log_id}"


Note = Appended | Handled | Began


def read_notes(path: Path) -> Iterator[Note | None]:
    """Everything that was noted, in order; None for a line that does not read back. Raises OSError."""
    with path.open("rb") as file:
        for line in file:
            if line != b"\n":
                yield _parsed(line)


def log_ids(text: str) -> set[str]:
    """What the notes are about so far; nothing is known of those that were sent away. Raises OSError."""
    if address(text) is not None or not os.path.exists(text):
        return set()
    return {note.log_id for note in read_notes(Path(text)) if isinstance(note, Began)}


def _sealed(line: str) -> bytes:
    data = line.encode()
    return b"%s %08x\n" % (data, zlib.crc32(data))


def _parsed(line: bytes) -> Note | None:
    text, _, seal = line.rpartition(b" ")
    if seal != b"%08x\n" % zlib.crc32(text):
        return None
    match text.decode("ascii", "replace").split():
        case ["log", log_id]:
            return Began(log_id)
        case ["appended", offset, count, run, first]:
            return Appended(int(offset), int(count), run, int(first))
        case ["handled", consumer, watermark]:
            return Handled(consumer, int(watermark))
    return None
