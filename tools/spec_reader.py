"""A second reader and verifier, written from FORMAT.md alone.

It shares no code with the library, so that comparing what both say about a directory is worth something. It writes
nothing and takes no lock. As a module: `read_records(path)` and `check(path)`. As a command, `python
tools/spec_reader.py DIR [--records]` prints JSON lines, and exits with 0 (nothing acknowledged is lost), 1 (something
is) or 3 (cannot be checked). Whatever the bytes are, the only exception is `CannotCheck`. "§": a section of FORMAT.md.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import stat
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import crc32c
import zstandard

JUMP = 1 << 24  # §5.2: the most records a segment holds, and the width of a jump of unknown size
NONE32 = 0xFFFFFFFF
NONE64 = 0xFFFFFFFFFFFFFFFF
FIRST = 8192  # §5: where batches begin
MAX_FILE = 1 << 32  # a larger segment is not read into memory
SEGMENT_HEADER = struct.Struct("<8sHHBBH16sIIQQIIQQQQQIIQQQQQI")  # §5.1
BATCH_HEADER = struct.Struct("<4sBBHIIIIQQQQII")  # §6.1
BLOCK = struct.Struct("<QQIHH")  # §6.3
SLOT = struct.Struct("<8sHHIQ16sII")  # §7.1
CURSOR = struct.Struct("<QQIIQQIII")  # §7.3
NOTE = struct.Struct("<8sIIII")  # §7.4
HINT = struct.Struct("<8sQIIQQQ16s")  # §8
ENVELOPE = struct.Struct("<8sBBHIQQQIIQQHIIH")  # §9
SEGMENT_NAME = re.compile(r"([0-9]{20})-([0-9a-f]{8})\.seg")  # §3
CURSOR_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})\.cursor")  # §3


class CannotCheck(Exception):
    """Not a log, not readable, or of a newer version (§14): nothing can be said."""


class Span(NamedTuple):
    """Offsets from first to end; the end is not included."""

    first: int
    end: int


class Damage(NamedTuple):
    """Bad bytes (§10.8), and the offsets they cost; None where they cost none."""

    segment: str
    position: int
    length: int
    first_offset: int | None
    last_offset: int | None
    reason: str


@dataclass(frozen=True)
class Record:
    """One record as the reader sees it (§6.2, §6.3)."""

    offset: int
    payload: bytes
    key: bytes | None
    headers: list[tuple[str, bytes]]
    due: int
    expiry: int
    append_time: int


@dataclass(frozen=True)
class Meta:
    """§7.2. With `ok` False it was rebuilt."""

    log_id: bytes = b""
    start: int = 0
    consumers: dict[str, int] = field(default_factory=dict)
    removed: list[tuple[int, int, int, int]] = field(default_factory=list)
    repaired: list[Span] = field(default_factory=list)
    dropped: Span = field(default_factory=lambda: Span(0, 0))
    dropped_records: int = 0
    retention_bytes: int | None = None
    retention_ns: int | None = None
    ok: bool = False
    whole: bool = False


class Note(NamedTuple):
    """§7.4."""

    in_flight: int
    attempt: int
    ranges: list[Span]


@dataclass(frozen=True)
class Cursor:
    """§7.3. With `ok` False the consumer begins again at the start offset of the log."""

    name: str
    watermark: int
    ok: bool = False
    acked: list[Span] = field(default_factory=list)
    seen_id: int = NONE32
    seen_position: int = 0
    seen_offset: int = 0
    failed: dict[int, int] = field(default_factory=dict)
    note: Note | None = None

    @property
    def known(self) -> int:
        """The highest end offset that this cursor knows (§10.6)."""
        return max([self.watermark, self.seen_offset, *(r.end for r in self.acked)])

    def handled(self, offset: int) -> bool:
        """Whether it was acked, or lies below the watermark."""
        return offset < self.watermark or any(r.first <= offset < r.end for r in self.acked)


class Letter(NamedTuple):
    """A dead letter (§9)."""

    reason: int
    attempts: int
    offset: int
    last_offset: int
    consumer: str
    detail: str
    key: bytes | None
    headers: list[tuple[str, bytes]]
    payload: bytes


@dataclass
class Findings:
    """What a verifier says (§10.8)."""

    records: int = 0
    first_offset: int = 0
    next_offset: int = 0
    torn_tail_bytes: int = 0
    damage: list[Damage] = field(default_factory=list)
    suspect: list[Span] = field(default_factory=list)
    missing: list[Span] = field(default_factory=list)
    skipped: list[Span] = field(default_factory=list)
    repaired: list[Span] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    meta: Meta = field(default_factory=Meta)
    cursors: dict[str, Cursor] = field(default_factory=dict)
    dead_letters: list[Letter] = field(default_factory=list)
    dead: Findings | None = None

    @property
    def loss(self) -> bool:
        """The loss statement of §10.8: a record is damaged or an offset missing."""
        return bool(self.missing) or any(d.first_offset is not None for d in self.damage)


class Hint(NamedTuple):
    """§8."""

    segment: int
    position: int
    end_offset: int
    salt: int
    boot: bytes


class Head(NamedTuple):
    """The fields of a segment header (§5.1) that a reader needs."""

    durability: int
    reason: int
    log_id: bytes
    salt: int
    largest: int
    born: tuple[int, int]
    floor: int
    before: int
    before_end: tuple[int, int]
    suspect: int
    before_salt: int


class Hole(NamedTuple):
    """Bad bytes from position to end_position, and the offsets lost with them (§10.3)."""

    position: int
    end_position: int
    first: int
    end: int


@dataclass(frozen=True)
class Batch:
    """A batch header that holds, or the copy of one (§6.1, §6.5)."""

    position: int
    codec: int
    flags: int
    count: int
    stored: int
    raw: int
    zeros: int
    base: int
    time: int
    mark: tuple[int, int]
    body_crc: int

    @property
    def copy_at(self) -> int:
        """Where the header copy stands if there is one (§6.5)."""
        return self.position + 64 + _padded(self.stored)

    @property
    def end(self) -> int:
        """The end position (§6)."""
        return self.copy_at + (64 if self.count > 1 else 0) + 8

    @property
    def end_offset(self) -> int:
        """The offset behind the last record."""
        return self.base + self.count


def _padded(n: int) -> int:
    """§6."""
    return (n + 7) & ~7


def _seed(n: int, salt: int) -> int:
    """§4."""
    return (((n + 0x9E3779B97F4A7C15) * salt) & 0xFFFFFFFFFFFFFFFF) >> 32


def _crc(data: bytes, seed: int = 0) -> int:
    """§4."""
    return int(crc32c.crc32c(data, seed))


def _all_zero(data: bytes) -> bool:
    return data.count(0) == len(data)


class Dir:
    """A directory, read relative to its descriptor and never through a symbolic link (§3)."""

    def __init__(self, path: str, parent: int | None = None) -> None:
        nofollow = 0 if parent is None else os.O_NOFOLLOW
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | nofollow, dir_fd=parent)
        except (OSError, ValueError) as error:
            raise CannotCheck(f"{path}: {error}") from error

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            self.close()

    def names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.fd))
        except OSError as error:
            raise CannotCheck(str(error)) from error

    def sub(self, name: str) -> Dir | None:
        """A directory below, or None if there is none."""
        return Dir(name, self.fd) if name in self.names() else None

    def read(self, name: str, parts: tuple[tuple[int, int], ...] = ((0, MAX_FILE),)) -> tuple[int, list[bytes]] | None:
        """The size of a regular file and parts of it (position, from the end if negative; length); None: no file."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CannotCheck(f"{name}: {error}") from error
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_FILE:
                raise CannotCheck(f"{name}: not a regular file, or too large")
            return info.st_size, [_pread(fd, p if p >= 0 else max(0, info.st_size + p), n) for p, n in parts]
        except (OSError, MemoryError) as error:
            raise CannotCheck(f"{name}: {error}") from error
        finally:
            os.close(fd)


def _pread(fd: int, position: int, length: int) -> bytes:
    chunks = []
    while length > 0 and (chunk := os.pread(fd, min(length, 1 << 26), position)):
        chunks.append(chunk)
        position, length = position + len(chunk), length - len(chunk)
    return b"".join(chunks)


class Segment:
    """One listed segment: what is known of it without its batches (§5.1, §5.3)."""

    def __init__(self, folder: Dir, name: str) -> None:
        self.folder, self.name = folder, name
        self.base, self.id = int(name[:20]), int(name[21:29], 16)
        self.data = b""
        found = folder.read(name, ((0, 156), (4096, 156), (-16, 16)))
        if found is None:
            raise CannotCheck(f"{name}: gone while it was read")
        self.size, (first, second, tail) = found
        self.heads = [self._head(first), self._head(second)]
        self.limit = self.size  # where the footer begins, or the file ends
        self.footer_end: tuple[int, int] | None = None
        self.spare = self._footer(tail)
        self.believe(b"")

    def believe(self, log_id: bytes) -> None:
        """§5.1: which header counts, if the log is this one."""
        ours = [head if head and head.log_id == log_id else None for head in self.heads]
        self.heads = ours if any(ours) else self.heads
        self.head = self.heads[0] or self.heads[1] or self.spare
        self.salt = self.head.salt if self.head else 0
        self.largest = self.head.largest if self.head else (1 << 30) - 1
        self.born = self.head.born if self.head else (FIRST, self.base)
        self.floor = self.head.floor if self.head else self.base

    def _head(self, raw: bytes) -> Head | None:
        """§5.1: a copy that holds and names this file; §14 for its version."""
        if (
            len(raw) < 156
            or raw[:8] != b"\x89SLG\r\n\x1a\n"
            or _crc(raw[:152]) != int.from_bytes(raw[152:156], "little")
        ):
            return None
        f = SEGMENT_HEADER.unpack(raw)
        if (f[7], f[9]) != (self.id, self.base):
            return None
        if f[1] > 1:
            raise CannotCheck(f"{self.name}: unsupported version")
        if max(*f[13:18], *f[20:23]) >= 1 << 63:
            return None
        return Head(f[3], f[4], f[6], f[10], f[12], (f[15], f[16]), f[17], f[18], (f[20], f[21]), f[22], f[23])

    def _footer(self, tail: bytes) -> Head | None:
        """§5.3: sets the declared end, and returns the header copy."""
        if len(tail) < 16 or tail[8:] != b"\x89SLF\r\n\x1a\n":
            return None
        length, crc = struct.unpack("<II", tail[:8])
        if length < 220 or (length - 220) % 24 or length > self.size - FIRST:
            return None
        raw = (self.folder.read(self.name, ((-length, length),)) or (0, [b""]))[1][0]
        if len(raw) != length or _crc(raw[:-16]) != crc or raw[:8] != tail[8:]:
            return None
        n, _, end, end_offset = struct.unpack_from("<IIQQ", raw, 8)
        head = self._head(raw[48:204])
        if n != (length - 220) // 24 or head is None:
            return None
        self.limit, self.footer_end = self.size - length, (end, end_offset)
        return head

    def load(self) -> None:
        """The whole file, for the time of one segment."""
        found = self.folder.read(self.name)
        if found is None:
            raise CannotCheck(f"{self.name}: gone while it was read")
        self.size, self.data = len(found[1][0]), found[1][0]
        self.limit, listed = self.size, self.footer_end
        self._footer(self.data[-16:])  # a living writer may have written it since the listing,
        self.footer_end = listed  # which then does not say that a successor is missing

    def unload(self) -> None:
        self.data = b""

    def _batch(self, block: bytes, position: int, magic: bytes) -> Batch | None:
        """§6.1: a header that holds, or its copy; unknown content under a good CRC stops (§14)."""
        if len(block) < 64 or block[:4] != magic or not self.salt:
            return None
        f = BATCH_HEADER.unpack(block)
        if _crc(block[4:60], _seed(position, self.salt)) != f[13]:
            return None
        if f[1] > 1 or f[2] > 3 or f[3]:
            raise CannotCheck(f"{self.name}: unsupported version of the batch at {position}")
        return Batch(position, f[1], f[2], f[4], f[5], f[6], f[7], f[8], f[9], (f[10], f[11]), f[12])

    def header_at(self, position: int) -> Batch | None:
        """§6.1."""
        return self._batch(self.data[position : position + 64], position, b"\xb1SLB")

    def copy_at(self, position: int) -> Batch | None:
        """§6.5: a header copy that holds, found at this place."""
        block = self.data[position : position + 64]
        begin = position - _padded(int.from_bytes(block[12:16], "little")) - 64
        batch = self._batch(block, begin, b"\xb2SLC") if begin >= FIRST else None
        return batch if batch and batch.count >= 2 else None

    def plausible(self, b: Batch, end: int) -> bool:
        """§6.1, but for the base offset, which depends on who asks."""
        table = b.count * (4 if b.codec else 8)
        top = self.largest + table
        return b.count <= JUMP and b.stored <= top and table <= b.raw <= top and b.end <= end

    def resync(self, position: int, first: int, end: int, end_offset: int) -> Batch | None:
        """§10.5."""
        for match in re.compile(rb"\xb1SLB|\xb2SLC").finditer(self.data, position, min(end, len(self.data))):
            place = match.start()
            if place % 8:
                continue
            b = self.header_at(place) if match[0][0] == 0xB1 else self.copy_at(place)
            if (
                b
                and b.position >= position
                and self.plausible(b, end)
                and b.base >= first
                and b.end_offset <= end_offset
            ):
                return b
        return None

    def walk(self, position: int, offset: int, end: int, end_offset: int | None) -> Iterator[Batch | Hole]:
        """§10.3: batches and holes up to a logical end; without an end offset as in an active segment (§10.5)."""
        while position < end:
            b = self.header_at(position)
            if b is None or b.base != offset or not self.plausible(b, end):
                b = self.resync(position, offset, end, offset + JUMP if end_offset is None else end_offset)
            if b is None:
                if end_offset is not None:
                    yield Hole(position, end, offset, max(offset, end_offset))
                return
            if (b.position, b.base) != (position, offset):
                yield Hole(position, b.position, offset, b.base)
            yield b
            position, offset = b.end, b.end_offset
        if end_offset is not None and offset < end_offset:
            yield Hole(end, end, offset, end_offset)

    def padded_body(self, b: Batch) -> bytes:
        """§6.2: the body with its padding, as read."""
        return self.data[b.position + 64 : b.copy_at]

    def body_holds(self, b: Batch) -> bool:
        """§6.2: the body CRC."""
        body = self.padded_body(b)
        return len(body) == _padded(b.stored) and _crc(body, _seed(b.position, self.salt)) == b.body_crc

    def run(self, position: int, offset: int, end: int) -> tuple[int, int, Batch | None]:
        """§10.6, 4: the end of the valid batches from here, and the last of them."""
        last = None
        while position < end:
            b = self.here(position, offset, end)
            if b is None or not self.plausible(b, end) or not self.body_holds(b):
                break
            position, offset, last = b.end, b.end_offset, b
        return position, offset, last

    def here(self, position: int, offset: int, end: int) -> Batch | None:
        """§10.6, 5: the header at this place, or else its copy, with the base offset expected."""
        b = self.header_at(position)
        if b is None:
            b = self.resync(position, offset, end, offset + JUMP)
        return b if b and (b.position, b.base) == (position, offset) else None

    def spares(self, b: Batch) -> Iterator[Damage]:
        """§6.5: a header, header copy or end mark that does not hold costs nothing, and is reported."""
        if self.header_at(b.position) is None:
            yield Damage(self.name, b.position, 64, None, None, "header")
        if b.count > 1 and self.copy_at(b.copy_at) != b:
            yield Damage(self.name, b.copy_at, 64, None, None, "header copy")
        if not self.end_mark(b):
            yield Damage(self.name, b.end - 8, 8, None, None, "end mark")

    def end_mark(self, b: Batch) -> bool:
        """§6.5."""
        length = b.end - b.position
        crc = _crc(struct.pack("<IIB", length & NONE32, b.count, b.flags), _seed(b.end, self.salt)) | 0x80000000
        return self.data[b.end - 8 : b.end] == struct.pack("<II", length // 8, crc)


def _cut(body: bytes, lengths: list[int], start: int, stored: int) -> list[bytes | None]:
    """§6.2: records one behind the other; None for one that passes the stored length, or is cut off with the file."""
    out: list[bytes | None] = []
    for n in lengths:
        end = start + n
        out.append(body[start:end] if end <= (len(body) if n else stored) else None)
        start = end
    return out


def stored_records(seg: Segment, b: Batch) -> list[bytes | None]:
    """§6.2, §6.4, and §10.4, 1: the stored records of a batch; None for one that is lost."""
    body = seg.padded_body(b)[: b.stored]
    padding = bytes(_padded(b.stored) - b.stored)
    if not seg.body_holds(b) and (
        len(body) < b.stored or _crc(body + padding, _seed(b.position, seg.salt)) != b.body_crc
    ):
        return salvage(seg, b, body)
    lost: list[bytes | None] = [None] * b.count
    table = (4 if b.codec else 8) * b.count
    if b.codec:
        try:
            if zstandard.get_frame_parameters(body).content_size != b.raw:
                return lost
            body = zstandard.ZstdDecompressor().decompress(body, max_output_size=b.raw, allow_extra_data=False)
        except (zstandard.ZstdError, MemoryError, ValueError):
            return lost
        if len(body) != b.raw:
            return lost
    if len(body) < table:
        return lost
    lengths = list(struct.unpack_from(f"<{b.count}I", body))
    return _cut(body, lengths, table, len(body)) if b.count == 1 or sum(lengths) == len(body) - table else lost


def salvage(seg: Segment, b: Batch, body: bytes) -> list[bytes | None]:
    """§10.4, from 2 on: the records of a bad body that hold."""
    n, table = b.count, 8 * b.count
    if b.codec or not n or len(body) < table:
        return [None] * n
    lengths, crcs = (list(struct.unpack_from(f"<{n}I", body, at)) for at in (0, 4 * n))
    base, total = _seed(b.base, seg.salt), b.stored - table

    def holds(i: int, record: bytes | None) -> bool:
        return record is not None and _crc(record, (base + i * 0x9E3779B1) & NONE32) == crcs[i]

    def intact(records: list[bytes | None]) -> list[bytes | None]:
        return [r if holds(i, r) else None for i, r in enumerate(records)]

    cut = _cut(body, lengths, table, b.stored)
    out = intact(cut)
    if sum(lengths) != total:  # 4
        k = next((i for i, r in enumerate(out) if r is None), n)
        if k < n and lengths[k] + total - sum(lengths) >= 0:
            mended = [*lengths[:k], lengths[k] + total - sum(lengths), *lengths[k + 1 :]]
            again = intact(_cut(body, mended, table, b.stored))
            if None not in again[k + 1 :] and (again[k] is not None or k + 1 < n):
                return again
        out = out[:k] + [None] * (n - k)  # 5
        end = b.stored
        for i in range(n - 1, k - 1, -1):
            begin = end - lengths[i]
            record = body[begin:end] if begin >= table and (end <= len(body) or begin == end) else None
            if not holds(i, record):
                break
            out[i], end = record, begin
    elif out.count(None) == 1 and len(body) == b.stored:  # 6
        i = out.index(None)
        crcs[i] = _crc(cut[i] or b"", (base + i * 0x9E3779B1) & NONE32)
        fixed = body[: 4 * n] + struct.pack(f"<{n}I", *crcs) + body[table:] + bytes(_padded(b.stored) - b.stored)
        if _crc(fixed, _seed(b.position, seg.salt)) == b.body_crc:
            return cut
    return out


def _headers(raw: bytes, at: int, count: int) -> tuple[list[tuple[str, bytes]], int] | None:
    """§6.3: `count` headers from `at` on, and where they end."""
    out = []
    for _ in range(count):
        if at + 6 > len(raw):
            return None
        n, m = struct.unpack_from("<HI", raw, at)
        at += 6 + n + m
        if at > len(raw):
            return None
        try:
            out.append((raw[at - n - m : at - m].decode("utf-8", "surrogatepass"), raw[at - m : at]))
        except UnicodeDecodeError:
            return None
    return out, at


def decode(b: Batch, offset: int, raw: bytes) -> Record | None:
    """§6.3: a stored record; None if its block does not fit."""
    if not b.flags & 1:
        return Record(offset, raw, None, [], 0, 0, b.time)
    if len(raw) < 24:
        return None
    due, expiry, n, count, _ = BLOCK.unpack_from(raw)
    at = 24 + (0 if n == NONE32 else n)
    found = _headers(raw, at, count) if at <= len(raw) else None
    if found is None:
        return None
    return Record(offset, raw[found[1] :], None if n == NONE32 else raw[24:at], found[0], due, expiry, b.time)


def decode_letter(raw: bytes) -> Letter | None:
    """§9: the envelope."""
    if len(raw) < 76 or raw[:8] != b"\x89SLD\r\n\x1a\n":
        return None
    f = ENVELOPE.unpack_from(raw)
    name, detail, key = f[12], f[13], 0 if f[14] == NONE32 else f[14]
    at = 76 + name + detail
    found = _headers(raw, at + key, f[3]) if at + key <= len(raw) else None
    if found is None:
        return None
    texts = [t.decode("utf-8", "replace") for t in (raw[76 : 76 + name], raw[76 + name : at])]
    real_key = None if f[14] == NONE32 else raw[at : at + key]
    return Letter(f[1], f[4], f[5], f[6], texts[0], texts[1], real_key, found[0], raw[found[1] :])


def read_slots(folder: Dir, name: str, kind: int, stride: int, log_id: bytes = b"") -> tuple[bytes, bytes, bool] | None:
    """§7.1: log id and payload of the slot that counts, and whether both slots are valid; None: not readable."""
    raw = (folder.read(name, ((0, 2 * stride),)) or (0, [b""]))[1][0]
    valid = []
    for at in (0, stride):
        slot = raw[at : at + stride]
        if len(slot) < 48 or slot[:8] != b"\x89SLS\r\n\x1a\n":
            continue
        _, version, _, its_kind, generation, its_log, length, crc = SLOT.unpack_from(slot)
        payload = slot[48 : 48 + length]
        if its_kind == kind and len(payload) == length and _crc(payload, _crc(slot[:44])) == crc:
            if version > 1:
                raise CannotCheck(f"{name}: unsupported version")
            valid.append((generation, its_log, payload))
    if len({one[1] for one in valid}) == 2:
        valid = [one for one in valid if one[1] == log_id]
    if not valid:
        return None
    if len(valid) == 2 and valid[0][0] == valid[1][0] and valid[0] != valid[1]:
        return None
    best = max(valid)
    return best[1], best[2], len(valid) == 2


def read_meta(folder: Dir) -> Meta | None:
    """§7.2."""
    found = read_slots(folder, "meta", 1, 65536)
    if found is None:
        return None
    log_id, raw, whole = found
    try:
        start, _, c, r, p = struct.unpack_from("<QQIII", raw)
        at, consumers = 28, {}
        for _ in range(c if c <= 512 else len(raw)):
            n, begin = struct.unpack_from("<BQ", raw, at)
            consumers[raw[at + 9 : at + 9 + n].decode("ascii")] = begin
            at += 9 + n
        removed = [struct.unpack_from("<IIQQ", raw, at + 24 * i) for i in range(min(r, len(raw)))]
        at += 24 * len(removed)
        repaired = [Span(*struct.unpack_from("<QQ", raw, at + 16 * i)) for i in range(min(p, len(raw)))]
        at += 16 * len(repaired)
        tail = struct.unpack_from("<QQQQQ", raw, at) if len(raw) > at else (0, 0, 0, NONE64, NONE64)
    except (struct.error, UnicodeDecodeError):
        return None
    return Meta(
        log_id,
        start,
        consumers,
        [(x[0], x[1], x[2], x[3]) for x in removed],
        repaired,
        Span(tail[0], tail[1]),
        tail[2],
        None if tail[3] == NONE64 else tail[3],
        None if tail[4] == NONE64 else tail[4],
        True,
        whole,
    )


def read_cursor(folder: Dir, name: str, log_id: bytes, start: int) -> Cursor:
    """§7.3."""
    found = read_slots(folder, name + ".cursor", 2, 176128, log_id)
    raw = found[1] if found else b""
    bad = Cursor(name, start)
    if found is None or len(raw) < 52 or (log_id and found[0] != log_id):
        return bad
    _, watermark, seen_id, _, position, offset, a, f, n = CURSOR.unpack_from(raw)
    if len(raw) != 52 + n + 16 * a + 12 * f or raw[52 : 52 + n] != name.encode():
        return bad
    acked = [Span(*struct.unpack_from("<QQ", raw, 52 + n + 16 * i)) for i in range(a)]
    failed = dict(struct.unpack_from("<QI", raw, 52 + n + 16 * a + 12 * i) for i in range(f))
    return Cursor(name, watermark, True, acked, seen_id, position, offset, failed, read_note(folder, name))


def read_note(folder: Dir, name: str) -> Note | None:
    """§7.4: what was in flight, if the note holds."""
    raw = (folder.read(name + ".cursor", ((352256, 280),)) or (0, [b""]))[1][0]
    if len(raw) < 24 or raw[:8] != b"\x89SLN\r\n\x1a\n":
        return None
    _, in_flight, attempt, r, crc = NOTE.unpack_from(raw)
    ranges = raw[24 : 24 + 16 * r]
    if r > 16 or len(ranges) != 16 * r or _crc(ranges, _crc(raw[:20])) != crc:
        return None
    return Note(in_flight, attempt, [Span(*struct.unpack_from("<QQ", ranges, 16 * i)) for i in range(r)])


def read_hint(folder: Dir) -> Hint | None:
    """§8: the hint, if it holds."""
    raw = (folder.read("lock", ((0, 64),)) or (0, [b""]))[1][0]
    if len(raw) < 64 or raw[:8] != b"\x89SLH\r\n\x1a\n":
        return None
    f = HINT.unpack(raw)
    return Hint(f[2], f[4], f[5], f[6], f[7]) if _crc(raw[:20] + bytes(4) + raw[24:]) == f[3] else None


def boot_id() -> bytes | None:
    """A11: the boot id, or None where it is not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError):
        return None


def writer_lives(folder: Dir) -> bool | None:
    """§10.3, "by other means": whether /proc/locks names the file `lock`; None where that cannot be told."""
    try:
        inode = os.stat("lock", dir_fd=folder.fd, follow_symlinks=False).st_ino
        with open("/proc/locks", encoding="ascii", errors="replace") as file:
            return any(f":{inode} " in line and "FLOCK" in line for line in file)
    except FileNotFoundError as error:
        return False if error.filename == "lock" else None
    except OSError:
        return None


class Ending(NamedTuple):
    """The logical end of a segment (§5.4), and where its suspect bytes begin."""

    position: int
    offset: int
    suspect: int | None
    judge: bool = True  # False: what follows is a living writer's affair (§10.3)


def proven_end(seg: Segment, hint: Hint | None, cursors: list[Cursor]) -> tuple[int, int]:
    """§10.6, "Proof"."""
    proofs = [(FIRST, seg.base), seg.born]
    if hint and (hint.segment, hint.salt) == (seg.id, seg.salt):
        proofs.append((hint.position, hint.end_offset))
    proofs += [(c.seen_position, c.seen_offset) for c in cursors if c.seen_id == seg.id]
    for b in seg.walk(FIRST, seg.base, seg.size, None):
        if isinstance(b, Batch):
            proofs.append(b.mark)
            if b.flags & 2:
                proofs.append((b.position, b.base))
    return max(proofs)


def visible_run(seg: Segment, hint: Hint | None, lives: bool | None) -> bool:
    """§10.3, the table: whether a reader reads to the end of the longest valid run."""
    boot = boot_id()
    if lives is False or boot is None:
        return True
    same = hint is not None and hint.boot == boot
    if same and hint is not None and hint.segment < seg.id:
        return False
    if seg.head and seg.head.durability == 2:
        return True
    covers = hint is not None and (hint.segment, hint.salt) == (seg.id, seg.salt)
    return covers and not same


def examine(seg: Segment, hint: Hint | None, cursors: list[Cursor], lives: bool | None) -> Ending:
    """§10.6 and §10.7: the end of the active segment."""
    proven = proven_end(seg, hint, cursors)
    if not visible_run(seg, hint, lives):
        rotating = hint is not None and hint.boot == boot_id() and hint.segment < seg.id
        return Ending(*(max((FIRST, seg.base), seg.born) if rotating else proven), None, False)
    r, o, _ = seg.run(*proven, seg.size)
    if lives or _all_zero(seg.data[r:]):
        return Ending(r, o, None, not lives)
    bad = seg.here(r, o, seg.size)
    end = bad.end if bad else r + 64
    if torn(seg, r, end, bad):
        return Ending(r, o, None)
    last = _padded(len(seg.data.rstrip(b"\0")))
    found = seg.walk(r, o, seg.size, None)
    batches = [b for b in found if isinstance(b, Batch)]
    high = max([o, *(b.end_offset for b in batches)])
    known = bool(batches) and _all_zero(seg.data[batches[-1].end :])
    return Ending(max(last, end), high if known else high + JUMP, r)


def torn(seg: Segment, r: int, end: int, bad: Batch | None) -> bool:
    """§10.6, 5: whether the extent [r, end) of the bad batch shows a sector that was never written."""
    if end > seg.size:
        return True
    head, tail = seg.data[r : min(end, (r // 512 + 1) * 512)], seg.data[max(r, (end - 1) // 512 * 512) : end]
    if _all_zero(head) or _all_zero(tail):
        return True
    sectors = range((r + 511) // 512 * 512, end - 511, 512)
    return bad is not None and sum(_all_zero(seg.data[s : s + 512]) for s in sectors) > bad.zeros


class Scan:
    """One pass over a log directory: yields its records and fills in the findings."""

    def __init__(self, folder: Dir, nested: bool = False) -> None:
        self.folder, self.found, self.nested = folder, Findings(), nested
        names = set(folder.names())
        ours = {"lock", "meta", "segments", "cursors", "dead", "quarantine"}
        tmp = {n for n in names if n.endswith(".tmp")}
        if names - tmp - {"lost+found"} and not names & (ours | tmp):
            raise CannotCheck("not a log (§3)")
        self.found.warnings += [f"not part of the log: {n}" for n in sorted(names - ours - tmp - {"lost+found"})]
        self.hint = read_hint(folder)
        self.lives = writer_lives(folder)
        self.segments_dir = folder.sub("segments")
        listed = self._listing()
        meta = read_meta(folder)
        if meta is None:  # §7.2: rebuilt
            log_id = next((s.head.log_id for s in listed if s.head), b"")
            meta = Meta(log_id, listed[0].base if listed else 0)
            if listed or "meta" in names:
                self.found.warnings.append("meta does not read back")
        elif not meta.whole:
            self.found.warnings.append("a slot of meta does not read back")
        self.meta = self.found.meta = meta
        for segment in listed:
            segment.believe(meta.log_id)
        foreign = {s.name for s in listed if s.head and meta.log_id and s.head.log_id != meta.log_id}  # §5.1
        self.found.warnings += [f"foreign segment: {n}" for n in sorted(foreign)]
        self.segments = [s for s in listed if s.name not in foreign]
        if len({s.id for s in self.segments}) < len(self.segments):
            raise CannotCheck("two files with the same segment id (§12, 6)")
        self.by_id = {s.id: s for s in self.segments}
        self.cursors = self._cursors()

    def _listing(self) -> list[Segment]:
        """§3, §5.2: the segments by id; once more if a living writer has rotated meanwhile (§10.3)."""
        folder = self.segments_dir
        names: list[str] = []
        have: dict[str, Segment] = {}
        for _ in range(64):
            before, names = names, folder.names() if folder else []
            if names == before:
                break
            matches = {n: m for n in names if (m := SEGMENT_NAME.fullmatch(n))}
            good = [n for n, m in matches.items() if int(m[1]) < 1 << 63 and int(m[2], 16) != NONE32]
            have = {n: have.get(n) or Segment(folder, n) for n in good if folder}
        odd = [n for n in names if n not in have and not n.endswith(".tmp")]
        self.found.warnings += [f"not part of the log: segments/{n}" for n in odd]
        return sorted(have.values(), key=lambda s: s.id)

    def _cursors(self) -> dict[str, Cursor]:
        """§7.2, §10.9: the consumers that meta names; every file while a slot of meta is bad."""
        folder = self.folder.sub("cursors")
        files = {m[1] for n in (folder.names() if folder else []) if (m := CURSOR_NAME.fullmatch(n))}
        names = set(self.meta.consumers) | (set() if self.meta.whole else files)
        self.found.warnings += [f"a cursor of no consumer: {n}" for n in sorted(files - names)]
        out = {}
        for n in sorted(names):
            out[n] = Cursor(n, self.meta.start)
            if folder and n in files:
                out[n] = read_cursor(folder, n, self.meta.log_id, self.meta.start)
        if folder:
            folder.close()
        return out

    def _complete(self, seg: Segment) -> None:
        """§5.1: where both header copies and the footer are bad."""
        after = self.by_id.get(seg.id + 1)
        if seg.head:
            return
        if after:
            seg.salt = after.head.before_salt if after.head else 0
            seg.largest = max(seg.largest, after.largest)
        elif seg is self.segments[-1] and self.hint and self.hint.segment == seg.id:
            seg.salt = self.hint.salt

    def _ending(self, seg: Segment, cursors: list[Cursor]) -> Ending:
        """§5.4; and §5.1 where the batches of a segment are unreadable and nothing says how many there were."""
        after = self.by_id.get(seg.id + 1)
        if after and after.head and after.head.before == seg.id:
            end, suspect = after.head.before_end, after.head.suspect
            return Ending(*end, suspect if suspect not in (0, end[0]) else None)
        if seg.footer_end:
            return Ending(*seg.footer_end, None)
        last = seg is self.segments[-1]
        if not seg.salt:
            top = seg.base + JUMP
            return Ending(seg.size, top if last else min(top, self.segments[self.segments.index(seg) + 1].base), None)
        seg.load()
        try:
            if last:
                return examine(seg, self.hint, cursors, self.lives)
            end = (FIRST, seg.base)
            for b in seg.walk(FIRST, seg.base, seg.size, None):
                end = (b.end, b.end_offset) if isinstance(b, Batch) else end
            return Ending(*end, None)
        finally:
            seg.unload()

    def _usable(self, end: int) -> list[Cursor]:
        """§7.3: a cursor far ahead of the end of the log is damaged."""
        for name, c in self.cursors.items():
            if c.ok and c.known > end + JUMP:
                self.cursors[name] = Cursor(name, self.meta.start)
        return [c for c in self.cursors.values() if c.ok]

    def run(self) -> Iterator[Record]:
        """§10.8, from the first to the last offset."""
        for seg in self.segments:
            self._complete(seg)
        ends = {s.id: self._ending(s, []) for s in self.segments}
        last = self.segments[-1] if self.segments else None
        usable = self._usable(ends[last.id].offset if last else self.meta.start)
        if last:
            ends[last.id] = self._ending(last, usable)
        start, before = self.meta.start, None
        kept = [s for s in self.segments if s is last or not self._reclaimed(s, ends[s.id])]
        offset = self.found.first_offset = start
        for seg in kept:
            self._gap(before, offset, seg)
            self._tops(seg)
            yield from self._segment(seg, ends[seg.id])
            before, offset = seg, max(ends[seg.id].offset, start)
        top = -1 if last is None else last.id
        seen = [c.seen_id for c in usable if c.seen_id != NONE32]
        lost_all = last is None and self.meta.ok
        if lost_all or (last and last.footer_end) or max([*seen, self.hint.segment if self.hint else -1]) > top:  # 4
            known = [c.known for c in usable] + ([self.hint.end_offset] if self.hint else [])
            end = max([offset, *known]) + JUMP
            self.found.missing.append(Span(offset, end))
            offset = end
        self.found.missing = self._without_repaired(self.found.missing)
        self.found.next_offset = offset
        self.found.cursors = self.cursors
        self._dead()

    def _reclaimed(self, seg: Segment, end: Ending) -> bool:
        """§10.8, 1."""
        return end.offset <= self.meta.start or any(a <= seg.id <= b for a, b, _, _ in self.meta.removed)

    def _gap(self, before: Segment | None, offset: int, seg: Segment) -> None:
        """§10.8, 2 and 3: the offsets between two listed segments."""
        spans = [Span(offset, seg.base)] if offset < seg.base else []
        if before is None:
            self.found.missing += spans
            return
        lacking = before.id + 1
        for first, last, begin, end in sorted(self.meta.removed):
            split = [(Span(s.first, min(s.end, begin)), Span(max(s.first, end), s.end)) for s in spans]
            spans = [s for pair in split for s in pair if s.first < s.end]
            lacking = last + 1 if first <= lacking <= last else lacking
        for s in spans:
            middle = s.first
            if lacking < seg.id:
                middle = min(max(s.first, seg.head.before_end[1]), s.end) if seg.head else s.end
            declared = seg.head is None or seg.head.reason != 3
            if s.first < middle:
                _add(self.found.missing, s.first, middle)
            if middle < s.end:
                _add(self.found.skipped if declared else self.found.missing, middle, s.end)

    def _tops(self, seg: Segment) -> None:
        """§5.1: a bad header copy by itself loses nothing and is reported."""
        for at, head in zip((0, 4096), seg.heads, strict=True):
            if head is None:
                self.found.damage.append(Damage(seg.name, at, 156, None, None, "segment header copy"))

    def _segment(self, seg: Segment, end: Ending) -> Iterator[Record]:
        """§10.3 and §10.8, 5 and 6."""
        seg.load()
        try:
            for item in seg.walk(FIRST, seg.base, end.position, end.offset):
                suspect = end.suspect is not None and item.position >= end.suspect
                if isinstance(item, Hole):
                    length = item.end_position - item.position
                    self._lose(seg, item.position, length, item.first, item.end, "unreadable", suspect)
                    continue
                self.found.damage += seg.spares(item)
                yield from self._batch(seg, item, suspect)
            if end.judge and seg.salt:
                r, _, _ = seg.run(end.position, end.offset, seg.limit)
                self.found.torn_tail_bytes += len(seg.data[r : seg.limit].rstrip(b"\0"))
        finally:
            seg.unload()

    def _batch(self, seg: Segment, b: Batch, suspect: bool) -> Iterator[Record]:
        """§10.8, 5: the records of one batch, and a row of neighbouring lost ones at a time."""
        lost, rows = None, 0
        for i, raw in enumerate(stored_records(seg, b)):
            record = None if raw is None else decode(b, b.base + i, raw)
            if record is None:
                lost = b.base + i if lost is None else lost
                continue
            if lost is not None:
                self._lose(seg, b.position, b.end - b.position, lost, b.base + i, "records", suspect)
                lost, rows = None, rows + 1
            if record.offset >= self.meta.start:
                self.found.records += 1
                yield record
        if lost is not None:
            self._lose(seg, b.position, b.end - b.position, lost, b.end_offset, "records", suspect)
        elif not rows and not seg.body_holds(b):
            self.found.damage.append(Damage(seg.name, b.position, b.end - b.position, None, None, "body"))

    def _lose(self, seg: Segment, at: int, length: int, first: int, end: int, reason: str, suspect: bool) -> None:
        """§10.8, 5: offsets lost with the bytes at a position."""
        first = max(first, self.meta.start)
        if first >= end:
            self.found.damage.append(Damage(seg.name, at, length, None, None, reason))
        for s in self._without_repaired([Span(first, end)] if first < end else []):
            if suspect:
                _add(self.found.suspect, s.first, s.end)
            else:
                self.found.damage.append(Damage(seg.name, at, length, s.first, s.end - 1, reason))

    def _without_repaired(self, spans: list[Span]) -> list[Span]:
        """§10.8, 7: what of these lost offsets no repair has declared; the rest is noted."""
        left = []
        for first, end in spans:
            at = first
            for r in sorted(self.meta.repaired):
                a, b = max(at, r.first), min(end, r.end)
                if a < b:
                    _add(self.found.repaired, a, b)
                    if at < a:
                        left.append(Span(at, a))
                    at = b
            if at < end:
                left.append(Span(at, end))
        return left

    def _dead(self) -> None:
        """§9: the dead letters; damage among them is reported on its own."""
        folder = None if self.nested else self.folder.sub("dead")
        if folder is None:
            return
        try:
            scan = Scan(folder, nested=True)
            letters = [(r.offset, decode_letter(r.payload)) for r in scan.run()]
            deleted = scan.found.cursors.get("deleted")
            self.found.dead_letters = [x for at, x in letters if x and not (deleted and deleted.handled(at))]
            self.found.dead = scan.found
        finally:
            folder.close()


def _add(spans: list[Span], first: int, end: int) -> None:
    """One more span; neighbours become one."""
    if spans and spans[-1].end == first:
        first = spans.pop().first
    spans.append(Span(first, end))


def _scan(path: str, found: list[Findings]) -> Iterator[Record]:
    folder = Dir(path)
    try:
        scan = Scan(folder)
        found.append(scan.found)
        yield from scan.run()
    except (OSError, MemoryError) as error:
        raise CannotCheck(str(error)) from error
    finally:
        folder.close()


def read_records(path: str) -> Iterator[Record]:
    """Every record that can be read, in order (§10.3)."""
    return _scan(path, [])


def check(path: str) -> Findings:
    """What became of each offset (§10.8)."""
    found: list[Findings] = []
    for _ in _scan(path, found):
        pass
    return found[0]


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def main(arguments: list[str]) -> int:
    """The command: records first if asked for, then the findings."""
    paths = [a for a in arguments if a != "--records"]
    if len(paths) != 1:
        print("usage: spec_reader.py DIR [--records]", file=sys.stderr)
        return 3
    found: list[Findings] = []
    try:
        for record in _scan(paths[0], found):
            if "--records" in arguments:
                print(json.dumps(dataclasses.asdict(record), default=_plain))
    except CannotCheck as error:
        print(json.dumps({"error": str(error)}))
        return 3
    print(json.dumps({"loss": found[0].loss, **dataclasses.asdict(found[0])}, default=_plain))
    return 1 if found[0].loss else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
