"""The batch, the unit of writing: header, lengths, record CRCs, records, padding, trailer (FORMAT.md §6).

A batch is *valid* when its header CRC and its body CRC hold. Trailer and header copy are spares: a bad one
loses nothing. Decoding answers with values; what a bad batch means (torn or damaged) is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from seglog.errors import UnsupportedVersion
from seglog.format import layout as L
from seglog.format.checksum import BadFrame, crc32c, decompress, record_seeds, seed

_ZERO_SECTOR = bytes(L.SECTOR)
_HEADER_SPACE = bytes(L.BATCH_HEADER_BYTES)
_TWO_WORDS = Struct("<II")
_HEADER_REST = Struct("<BBHIIIIQQQQI")  # between magic and header CRC
_WORD = Struct("<I")


class BatchHeader(NamedTuple):
    """A batch header whose checksum held."""

    codec: int
    flags: int
    count: int  # type: ignore[assignment]  # a field, not tuple.count
    stored_length: int
    raw_length: int
    zero_sectors: int
    base_offset: int
    time_ns: int
    durable_position: int
    durable_offset: int
    body_crc: int

    @property
    def length(self) -> int:
        """Bytes from header to end mark."""
        return batch_length(self.stored_length, self.count)

    @property
    def end_offset(self) -> int:
        return self.base_offset + self.count

    @property
    def is_close_marker(self) -> bool:
        return bool(self.flags & L.FLAG_CLOSE)


@lru_cache(maxsize=64)
def words(count: int) -> Struct:
    """`count` 32-bit numbers."""
    return Struct(f"<{count}I")


def batch_length(stored_length: int, count: int) -> int:
    """Bytes of a batch with this body."""
    spare = L.BATCH_HEADER_BYTES if count > 1 else 0
    return L.BATCH_HEADER_BYTES + L.aligned(stored_length) + spare + L.END_MARK_BYTES


def zero_sectors(data: bytes | bytearray, position: int, start: int = 0, stop: int | None = None) -> int:
    """How many aligned 512-byte sectors lie wholly in `data[start:stop]`, all zero; `data` is found at `position`."""
    end = len(data) if stop is None else stop
    if data.find(_ZERO_SECTOR, start, end) < 0:
        return 0
    first = start + -(position + start) % L.SECTOR
    return sum(data.startswith(_ZERO_SECTOR, at) for at in range(first, end - L.SECTOR + 1, L.SECTOR))


def encode_batch(
    records: Sequence[bytes],
    *,
    salt: int,
    position: int,
    base_offset: int,
    time_ns: int,
    durable: tuple[int, int],
    flags: int = 0,
    compress: Callable[[bytes], bytes] | None = None,
) -> bytearray:
    """The bytes of one batch at `position`; `durable` is its mark: position and end offset known fsynced."""
    count = len(records)
    raw_length = stored_length = 8 * count + sum(map(len, records))
    codec = L.CODEC_NONE
    body: Sequence[bytes] = ()
    if compress is not None and count:
        raw = b"".join((words(count).pack(*map(len, records)), *records))
        frame = compress(raw)
        if len(frame) < raw_length:  # what does not shrink is stored as it is
            codec, body, stored_length, raw_length = L.CODEC_ZSTD, (frame,), len(frame), len(raw)
    if codec == L.CODEC_NONE:
        first = seed(salt, base_offset)
        if count == 1:
            body = (_TWO_WORDS.pack(len(records[0]), crc32c(records[0], first)), records[0])
        else:
            table = words(count)
            checks = map(crc32c, records, record_seeds(first, count))
            body = (table.pack(*map(len, records)), table.pack(*checks), *records)
    # Joined once, with room for what is known only then: the copies of a big batch would cost more than its checks.
    start, length = L.BATCH_HEADER_BYTES, batch_length(stored_length, count)
    end = start + L.aligned(stored_length)
    data = bytearray().join((_HEADER_SPACE, *body, bytes(length - start - stored_length)))
    here = seed(salt, position)
    rest = _HEADER_REST.pack(
        codec,
        flags,
        0,
        count,
        stored_length,
        raw_length,
        zero_sectors(data, position, start, end) if stored_length >= L.SECTOR else 0,
        base_offset,
        time_ns,
        *durable,
        crc32c(memoryview(data)[start:end], here),
    )
    rest += _WORD.pack(crc32c(rest, here))
    data[:start] = L.BATCH_MAGIC + rest
    mark = end_mark(salt, position + length, length, count, flags)
    data[end:] = L.COPY_MAGIC + rest + mark if count > 1 else mark
    return data


def encode_again(header: BatchHeader, body: bytes, *, salt: int, position: int) -> bytes:
    """The bytes of a batch as they were written, from its header and its padded body, whose checksum holds."""
    rest = _HEADER_REST.pack(header.codec, header.flags, 0, *header[2:])
    rest += _WORD.pack(crc32c(rest, seed(salt, position)))
    copy = L.COPY_MAGIC + rest if header.count > 1 else b""
    mark = end_mark(salt, position + header.length, header.length, header.count, header.flags)
    return b"".join((L.BATCH_MAGIC, rest, body, copy, mark))


def end_mark(salt: int, end: int, length: int, count: int, flags: int) -> bytes:
    """The last 8 bytes of a batch that ends at position `end`; never all zero, by the top bit."""
    check = crc32c(L.END_MARK_INPUT.pack(length, count, flags), seed(salt, end)) | L.TOP_BIT
    return L.END_MARK.pack(length >> 3, check)


def decode_header(data: bytes | memoryview, at: int, *, salt: int, position: int) -> BatchHeader | None:
    """The header at `data[at:]`, read from `position` of the segment; None if it does not validate.

    Raises UnsupportedVersion for a codec or flag of a newer format under a valid checksum.
    """
    if data[at : at + 4] != L.BATCH_MAGIC:
        return None
    return _decode_rest(data, at, salt, position)


def decode_copy(data: bytes | memoryview, at: int, *, salt: int, position: int) -> tuple[int, BatchHeader] | None:
    """The header copy at `data[at:]`, read from `position`: where its batch starts, and the header."""
    if data[at : at + 4] != L.COPY_MAGIC or len(data) - at < L.BATCH_HEADER_BYTES:
        return None
    stored_length = _WORD.unpack_from(data, at + 12)[0]
    start = position - L.aligned(stored_length) - L.BATCH_HEADER_BYTES
    if start < L.DATA_START:
        return None
    header = _decode_rest(data, at, salt, start)
    return None if header is None or header.count < 2 else (start, header)


def _decode_rest(data: bytes | memoryview, at: int, salt: int, position: int) -> BatchHeader | None:
    if len(data) - at < L.BATCH_HEADER_BYTES:
        return None
    end = at + L.BATCH_HEADER_BYTES
    fields = _HEADER_REST.unpack_from(data, at + 4)
    if crc32c(data[at + 4 : end - 4], seed(salt, position)) != _WORD.unpack_from(data, end - 4)[0]:
        return None
    if fields[0] > L.CODEC_ZSTD or fields[1] & ~L.FLAGS_KNOWN or fields[2]:
        raise UnsupportedVersion(
            f"batch at position {position}: codec {fields[0]}, flags {fields[1]:#x} are of a newer format; "
            "read it with a newer seglog"
        )
    return BatchHeader(*fields[:2], *fields[3:])


def body_holds(header: BatchHeader, body: bytes | memoryview, *, salt: int, position: int) -> bool:
    """Whether the padded body's checksum holds."""
    return crc32c(body, seed(salt, position)) == header.body_crc


def trailer_fault(header: BatchHeader, batch: bytes | memoryview, *, salt: int, position: int) -> str:
    """ "" if the spares behind the body are as written, else which of them is bad. `batch`: all its bytes."""
    mark = end_mark(salt, position + header.length, header.length, header.count, header.flags)
    if batch[-L.END_MARK_BYTES :] != mark:
        return "end mark"
    if header.count > 1:
        at = header.length - L.END_MARK_BYTES - L.BATCH_HEADER_BYTES
        if batch[at : at + 4] != L.COPY_MAGIC or batch[at + 4 : at + 64] != batch[4 : L.BATCH_HEADER_BYTES]:
            return "header copy"
    return ""


def split_records(header: BatchHeader, data: bytes, start: int = 0) -> list[bytes]:
    """The stored records of the body at `data[start:]`, whose checksum held.

    Raises BadFrame if it cannot be inflated or split.
    """
    count = header.count
    end = start + header.stored_length
    if header.codec == L.CODEC_NONE:
        raw, table, at = data, start, start + 8 * count
    else:
        raw, table, at = decompress(data[start:end], header.raw_length), 0, 4 * count
        end = header.raw_length
    if at > end:
        raise BadFrame("the table of lengths passes the end of the body")
    if count == 1:
        return [raw[at:end]]
    records = [raw[at : (at := at + length)] for length in words(count).unpack_from(raw, table)]
    if at != end:
        raise BadFrame("the lengths do not add up to the body")
    return records


def check_bounds(header: BatchHeader, *, limit: int) -> bool:
    """Whether the header's lengths can be meant: under a valid CRC only a writer's fault breaks this."""
    table = header.count * (8 if header.codec == L.CODEC_NONE else 4)
    return (
        header.count <= L.SEGMENT_RECORDS_MAX
        and header.stored_length <= limit + table
        and table <= header.raw_length <= limit + table
    )
