"""Which records of a batch with a bad body are intact (FORMAT.md §10.4).

The record CRCs are looked at only here. One bad record is found by its CRC; one hit CRC is proven by putting
the computed one in its place and checking the body CRC again; one hit length follows from the sum; where
more is hit, records are taken from the front and from the back as long as their CRCs hold.
"""

from __future__ import annotations

from collections.abc import Sequence

from seglog.format import layout as L
from seglog.format.batch import BatchHeader, body_holds, split_records, words
from seglog.format.checksum import BadFrame, crc32c, record_seed, seed


def salvage(header: BatchHeader, body: bytes, *, salt: int, position: int) -> list[bytes | None]:
    """The stored records, None where damaged. `body` is padded, as read; its CRC does not hold."""
    count = header.count
    unpadded = body[: header.stored_length]
    padded = unpadded + bytes(L.aligned(header.stored_length) - header.stored_length)  # a file may be cut short in it
    if body_holds(header, padded, salt=salt, position=position):
        try:
            return list(split_records(header, body))  # only the padding was hit
        except BadFrame:
            return [None] * count
    if header.codec != L.CODEC_NONE or not count or len(body) < 8 * count:
        return [None] * count
    table = words(count)
    lengths = list(table.unpack_from(body))
    checks = table.unpack_from(body, 4 * count)
    first = seed(salt, header.base_offset)
    total = header.stored_length - 8 * count
    records: list[bytes | None] | None
    if sum(lengths) == total:
        records = _by_lengths(body, lengths, checks, first)
    else:
        records = _with_one_length_mended(body, lengths, checks, first, total)
    if records is None:
        records = _from_both_ends(body, lengths, checks, first, header.stored_length)
    return _prove_one_check(header, body, records, lengths, first, salt, position)


def whole_body(header: BatchHeader, body: bytes, *, salt: int, position: int) -> bytes | None:
    """The padded body as it was written, where all its records are intact; None if its checksum cannot be met."""
    if body_holds(header, body, salt=salt, position=position):
        return body
    padding = bytes(L.aligned(header.stored_length) - header.stored_length)
    found = body[: header.stored_length] + padding
    if body_holds(header, found, salt=salt, position=position):
        return found
    records = salvage(header, body, salt=salt, position=position)
    intact = [record for record in records if record is not None]
    if header.codec != L.CODEC_NONE or len(intact) < header.count:
        return None
    table, first = words(header.count), seed(salt, header.base_offset)
    checks = (crc32c(record, record_seed(first, index)) for index, record in enumerate(intact))
    found = b"".join((table.pack(*map(len, intact)), table.pack(*checks), *intact, padding))
    return found if body_holds(header, found, salt=salt, position=position) else None


def _holds(record: bytes, index: int, checks: Sequence[int], first: int) -> bool:
    return crc32c(record, record_seed(first, index)) == checks[index]


def _by_lengths(body: bytes, lengths: Sequence[int], checks: Sequence[int], first: int) -> list[bytes | None]:
    records: list[bytes | None] = []
    at = 8 * len(lengths)
    for index, length in enumerate(lengths):
        record = body[at : at + length]
        records.append(record if _holds(record, index, checks, first) else None)
        at += length
    return records


def _front(body: bytes, lengths: Sequence[int], checks: Sequence[int], first: int, end: int) -> list[bytes]:
    """The records whose CRCs hold, from the first on."""
    records = []
    at = 8 * len(lengths)
    for index, length in enumerate(lengths):
        record = body[at : at + length]
        at += length
        if at > end or not _holds(record, index, checks, first):
            break
        records.append(record)
    return records


def _with_one_length_mended(
    body: bytes, lengths: Sequence[int], checks: Sequence[int], first: int, total: int
) -> list[bytes | None] | None:
    """The first record that does not hold gets the length that the sum asks for; None if that mends nothing."""
    bad = len(_front(body, lengths, checks, first, len(body)))
    if bad == len(lengths):
        return None
    mended = list(lengths)
    mended[bad] += total - sum(lengths)
    if mended[bad] < 0:
        return None
    records = _by_lengths(body, mended, checks, first)
    rest_holds = all(record is not None for record in records[bad + 1 :])
    return records if rest_holds and (records[bad] is not None or bad + 1 < len(lengths)) else None


def _from_both_ends(
    body: bytes, lengths: Sequence[int], checks: Sequence[int], first: int, stored_length: int
) -> list[bytes | None]:
    count = len(lengths)
    front = _front(body, lengths, checks, first, stored_length)
    records: list[bytes | None] = [*front, *[None] * (count - len(front))]
    end = stored_length
    for index in range(count - 1, len(front) - 1, -1):
        start = end - lengths[index]
        if start < 8 * count or not _holds(body[start:end], index, checks, first):
            break
        records[index] = body[start:end]
        end = start
    return records


def _prove_one_check(
    header: BatchHeader,
    body: bytes,
    records: list[bytes | None],
    lengths: Sequence[int],
    first: int,
    salt: int,
    position: int,
) -> list[bytes | None]:
    """If one record alone fails, perhaps only its stored CRC was hit: then the body CRC holds with the right one."""
    bad = [index for index, record in enumerate(records) if record is None]
    if len(bad) != 1 or sum(lengths) != header.stored_length - 8 * len(records):
        return records
    index = bad[0]
    at = 8 * len(records) + sum(lengths[:index])
    record = body[at : at + lengths[index]]
    check = crc32c(record, record_seed(first, index)).to_bytes(4, "little")
    place = 4 * len(records) + 4 * index
    if body_holds(header, body[:place] + check + body[place + 4 :], salt=salt, position=position):
        records[index] = record
    return records
