"""Batches: round trips, hits, seeds, compression, and which records of a bad body are intact (FORMAT.md §6, §10.4)."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from seglog.errors import UnsupportedVersion
from seglog.format import layout as L
from seglog.format.batch import (
    BatchHeader,
    batch_length,
    body_holds,
    check_bounds,
    decode_copy,
    decode_header,
    encode_batch,
    split_records,
    trailer_fault,
    zero_sectors,
)
from seglog.format.checksum import BadFrame, compress, crc32c, decompress, record_seed, seed
from seglog.format.salvage import salvage

SALT = 0x0123456789ABCDEF
PLACE = 8192 + 456

payloads = st.lists(st.binary(max_size=40), max_size=6)
salts = st.integers(0, 2**63 - 1).map(lambda n: 2 * n + 1)
places = st.integers(1024, 2**40).map(lambda n: 8 * n)


def batch(records: Sequence[bytes], *, compressed: bool = False, base: int = 7) -> bytes:
    return bytes(
        encode_batch(
            records,
            salt=SALT,
            position=PLACE,
            base_offset=base,
            time_ns=5,
            durable=(8192, 3),
            compress=compress if compressed else None,
        )
    )


def header_of(data: bytes) -> BatchHeader:
    header = decode_header(data, 0, salt=SALT, position=PLACE)
    assert header is not None
    return header


def body_of(data: bytes, header: BatchHeader) -> bytes:
    return data[64 : 64 + L.aligned(header.stored_length)]


def intact(data: bytes) -> list[bytes | None]:
    """All that a reader gets of a batch: through the header or its copy, with salvage."""
    header = decode_header(data, 0, salt=SALT, position=PLACE)
    if header is None:
        for at in range(64, len(data) - 63, 8):
            copy = decode_copy(data, at, salt=SALT, position=PLACE + at)
            if copy is not None and copy[0] == PLACE:
                header = copy[1]
    if header is None:
        return []
    body = body_of(data, header)
    if body_holds(header, body, salt=SALT, position=PLACE):
        return list(split_records(header, body))
    return salvage(header, body, salt=SALT, position=PLACE)


@given(payloads, salts, places, st.integers(0, 2**62), st.booleans())
def test_round_trip(records: list[bytes], salt: int, position: int, base: int, compressed: bool) -> None:
    data = bytes(
        encode_batch(
            records,
            salt=salt,
            position=position,
            base_offset=base,
            time_ns=9,
            durable=(8192, base),
            compress=compress if compressed else None,
        )
    )
    header = decode_header(data, 0, salt=salt, position=position)
    assert header is not None
    assert len(data) == header.length == batch_length(header.stored_length, len(records))
    assert len(data) % 8 == 0
    assert (header.base_offset, header.count, header.time_ns) == (base, len(records), 9)
    assert (header.durable_position, header.durable_offset) == (8192, base)
    body = data[64 : 64 + L.aligned(header.stored_length)]
    assert body_holds(header, body, salt=salt, position=position)
    assert split_records(header, body) == records
    assert trailer_fault(header, data, salt=salt, position=position) == ""
    assert check_bounds(header, limit=sum(map(len, records)) + 8 * len(records))
    if len(records) > 1:
        at = len(data) - 72
        assert decode_copy(data, at, salt=salt, position=position + at) == (position, header)


@given(places, st.lists(st.sampled_from([bytes(700), b"x" * 300, bytes(512)]), min_size=1, max_size=5))
def test_zero_sectors_counts_whole_aligned_sectors(position: int, pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    sectors = range(-(-position // 512) * 512, (position + len(body)) // 512 * 512, 512)
    expected = sum(not any(body[at - position : at - position + 512]) for at in sectors)
    assert zero_sectors(body, position) == expected


# -- one flipped bit


@pytest.mark.parametrize(
    "records",
    [
        [b"abc", b"", b"defgh", b"0123456789"],
        [b"", b""],
        [bytes(9), bytes(9), bytes(9)],
        [b"\xff" * 8, b"\x00" * 8],
        [(n * 0x01000193 & 0xFFFFFFFF).to_bytes(4, "little") for n in range(12)],
    ],
    ids=["mixed", "empty", "zeros", "extremes", "counters"],
)
def test_p6_f21_one_flipped_bit_of_a_batch_costs_at_most_the_record_it_is_in(records: list[bytes]) -> None:
    data = batch(records)
    header = header_of(data)
    first = 64 + 8 * len(records)
    owner = {}
    for index, record in enumerate(records):
        owner.update(dict.fromkeys(range(first, first + len(record)), index))
        first += len(record)
    for position in range(header.length):
        for bit in range(8):
            hit = bytearray(data)
            hit[position] ^= 1 << bit
            expected: list[bytes | None] = list(records)
            if position in owner:
                expected[owner[position]] = None
            assert intact(bytes(hit)) == expected, (position, bit)


@pytest.mark.parametrize("records", [[b"alone"], [b""], [b"x" * 1000]])
def test_p6_one_flipped_bit_behind_the_header_of_a_single_record_costs_only_the_record(records: list[bytes]) -> None:
    data = batch(records)
    for position in range(64, len(data)):
        for bit in range(8):
            hit = bytearray(data)
            hit[position] ^= 1 << bit
            inside = 72 <= position < 72 + len(records[0])
            assert intact(bytes(hit)) == ([None] if inside else records), (position, bit)


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=8), st.data())
def test_p6_however_a_body_is_hit_no_record_is_invented_or_moved(records: list[bytes], data: st.DataObject) -> None:
    whole = batch(records)
    header = header_of(whole)
    body = bytearray(body_of(whole, header))
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    size = data.draw(st.just(len(body)) | st.integers(0, len(body)))
    found = salvage(header, bytes(body[:size]), salt=SALT, position=PLACE)
    assert len(found) == len(records)
    for record, original in zip(found, records, strict=True):
        assert record in (None, original)


def test_two_hit_records_do_not_cost_those_between_and_around_them() -> None:
    records = [b"one", b"two", b"three", b"four", b"five"]
    data = bytearray(batch(records))
    start = 64 + 40
    data[start + 4] ^= 1
    data[start + 12] ^= 1
    assert intact(bytes(data)) == [b"one", None, b"three", None, b"five"]


def test_two_hit_lengths_cost_what_lies_between_them() -> None:
    records = [b"one", b"two", b"three", b"four", b"five"]
    data = bytearray(batch(records))
    data[64 + 4] ^= 1
    data[64 + 12] ^= 4
    assert intact(bytes(data)) == [b"one", None, None, None, b"five"]


@given(st.lists(st.binary(min_size=20, max_size=60).map(lambda b: b * 4), min_size=1, max_size=5), st.data())
def test_p6_a_hit_compressed_batch_is_lost_whole_or_not_at_all(records: list[bytes], data: st.DataObject) -> None:
    whole = batch(records, compressed=True)
    header = header_of(whole)
    if header.codec == L.CODEC_NONE:
        return
    hit = bytearray(whole)
    position = data.draw(st.integers(64, 63 + L.aligned(header.stored_length)))
    hit[position] ^= 1 << data.draw(st.integers(0, 7))
    padding = position >= 64 + header.stored_length
    assert intact(bytes(hit)) == (records if padding else [None] * len(records))


# -- seeds


@given(st.integers(1, 2**62), st.integers(2, 64))
def test_equal_crcs_do_not_come_of_a_counter_at_the_start_of_the_payloads(base: int, count: int) -> None:
    """With a seed that is XORed with the offset, a counter in the payload cancels it: all records have one CRC."""
    for width in (4, 8):
        records = [(base + index & (1 << 8 * width) - 1).to_bytes(width, "little") + b"event" for index in range(count)]
        data = batch(records, base=base)
        checks = [data[64 + 4 * count + 4 * index : 64 + 4 * count + 4 * index + 4] for index in range(count)]
        assert len(set(checks)) == count


def test_f10_a_batch_is_valid_at_its_place_in_its_segment_only() -> None:
    data = batch([b"one", b"two"])
    at = len(data) - 72
    for salt, position in ((SALT + 2, PLACE), (SALT, PLACE + 8), (SALT, PLACE - 512), (SALT ^ 1 << 40, PLACE)):
        assert decode_header(data, 0, salt=salt, position=position) is None
        assert decode_copy(data, at, salt=salt, position=position + at) is None
    assert seed(SALT, PLACE) != seed(SALT, PLACE + 8)


def test_records_swapped_inside_a_batch_are_noticed() -> None:
    data = bytearray(batch([b"aaaa", b"bbbb"]))
    data[64 + 16 : 64 + 24] = b"bbbbaaaa"
    assert intact(bytes(data)) == [None, None]
    data = bytearray(batch([b"aaaa", b"bbbb"]))
    data[64 + 16 : 64 + 24] = b"bbbbaaaa"
    data[64 + 8 : 64 + 16] = data[64 + 12 : 64 + 16] + data[64 + 8 : 64 + 12]  # with their checks
    assert intact(bytes(data)) == [None, None]


# -- arbitrary bytes, hostile bytes


@given(st.binary(max_size=200), st.integers(0, 100))
def test_arbitrary_bytes_are_no_header(data: bytes, at: int) -> None:
    for magic in (L.BATCH_MAGIC, L.COPY_MAGIC, b""):
        assert decode_header(magic + data, 0, salt=SALT, position=PLACE) is None
        assert decode_header(data, at, salt=SALT, position=PLACE) is None
        assert decode_copy(magic + data, 0, salt=SALT, position=PLACE) is None


def forged(header: bytes, at: int, value: int, size: int) -> bytes:
    """One field changed, and the header's checksum with it."""
    made = bytearray(header[:64])
    made[at : at + size] = value.to_bytes(size, "little")
    made[60:64] = crc32c(bytes(made[4:60]), seed(SALT, PLACE)).to_bytes(4, "little")
    return bytes(made)


@pytest.mark.parametrize(("at", "value", "size"), [(4, 2, 1), (5, 4, 1), (5, 255, 1), (6, 1, 2)])
def test_f34_f84_an_unknown_codec_flag_or_field_is_a_newer_format_and_not_damage(
    at: int, value: int, size: int
) -> None:
    data = batch([b"x"])
    with pytest.raises(UnsupportedVersion):
        decode_header(forged(data, at, value, size), 0, salt=SALT, position=PLACE)
    unchecked = data[:at] + value.to_bytes(size, "little") + data[at + size :]
    assert decode_header(unchecked, 0, salt=SALT, position=PLACE) is None


@pytest.mark.parametrize("at", [8, 12, 16], ids=["count", "stored length", "raw length"])
@pytest.mark.parametrize("value", [2**24 + 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_p10_f25_lengths_that_cannot_be_meant_are_out_of_bounds(at: int, value: int) -> None:
    header = decode_header(forged(batch([b"x" * 100]), at, value, 4), 0, salt=SALT, position=PLACE)
    assert header is not None
    assert not check_bounds(header, limit=100)


def test_f25_lengths_that_do_not_add_up_under_checksums_that_hold_are_a_bad_frame() -> None:
    data = batch([b"one", b"two"])
    for count in (3, 100):
        header = header_of(data)._replace(count=count)
        with pytest.raises(BadFrame):
            split_records(header, body_of(data, header))


def test_p12_f84_a_frame_that_holds_more_than_declared_is_not_inflated() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(64 << 20))
    assert len(bomb) < 10_000
    # One that declares 1000 bytes and holds 64 MiB, and one that declares 10 GiB: a frame header, then blocks.
    small = zstandard.ZstdCompressor().compress(bytes(1000))
    blocks = bomb[5 + zstandard.get_frame_parameters(bomb).content_size.bit_length() // 32 :]
    claims_little = b"\x28\xb5\x2f\xfd\xa0" + (1000).to_bytes(4, "little") + blocks
    claims_much = b"\x28\xb5\x2f\xfd\xe0" + (10 << 30).to_bytes(8, "little") + blocks
    assert decompress(small, 1000) == bytes(1000)
    tracemalloc.start()
    try:
        for frame in (bomb, claims_little, claims_much, b"", bomb[:3]):
            with pytest.raises(BadFrame):
                decompress(frame, 1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@given(st.binary(max_size=200), st.integers(0, 1000))
def test_arbitrary_bytes_inflate_to_the_declared_length_or_badframe(data: bytes, raw_length: int) -> None:
    try:
        assert len(decompress(data, raw_length)) == raw_length
    except BadFrame:
        return


def test_frames_without_a_content_size_are_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100)
    with pytest.raises(BadFrame):
        decompress(frame, 100)


@given(st.binary(max_size=300))
def test_compression_round_trip(data: bytes) -> None:
    assert decompress(compress(data), len(data)) == data


def test_a_frame_that_is_no_batch_body_under_checksums_that_hold_costs_the_batch_and_nothing_else() -> None:
    """Only a faulty writer makes this: neither reading nor salvage may fall over it."""
    raw = (5).to_bytes(4, "little") + (9).to_bytes(4, "little") + b"lengths do not add up" * 3
    frame = compress(raw)
    padded = frame.ljust(L.aligned(len(frame)), b"\0")
    header = BatchHeader(1, 0, 2, len(frame), len(raw), 0, 7, 5, 8192, 3, crc32c(padded, seed(SALT, PLACE)))
    with pytest.raises(BadFrame):
        split_records(header, padded)
    if len(padded) > len(frame):
        hit = padded[:-1] + b"\1"
        assert salvage(header, hit, salt=SALT, position=PLACE) == [None, None]


def test_record_seeds_differ_inside_a_batch() -> None:
    assert len({record_seed(seed(SALT, 5), index) for index in range(10_000)}) == 10_000
