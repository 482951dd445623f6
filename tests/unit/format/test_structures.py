"""Every on-disk structure but the batch: what is written is read, other bytes are None or a documented error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seglog.errors import UnsupportedVersion
from seglog.format import layout as L
from seglog.format.checksum import crc32c
from seglog.format.cursor_state import (
    CursorState,
    DeliveryNote,
    Seen,
    decode_cursor,
    decode_note,
    encode_cursor,
    encode_note,
)
from seglog.format.dead_letter import Envelope, decode_letter, encode_letter
from seglog.format.extended import check_extended, decode_extended, encode_extended
from seglog.format.footer import Footer, IndexEntry, decode_footer, encode_footer, footer_length
from seglog.format.hint import Hint, decode_hint, encode_hint
from seglog.format.meta_state import NO_TAIL, MetaState, RemovedRange, Retention, decode_meta, encode_meta
from seglog.format.names import SegmentName, parse_segment_name
from seglog.format.segment_header import (
    Predecessor,
    SegmentHeader,
    decode_segment_header,
    encode_segment_header,
)
from seglog.format.slots import Slot, decode_slot, encode_slot, slot_length
from seglog.model import Extras

LOG_ID = bytes(range(16))
SALT = 0x0123456789ABCDEF

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
counts = st.integers(0, 2**63 - 1)
ids = st.binary(min_size=16, max_size=16)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
limits = st.integers(0, 2**64 - 2)
pairs = st.lists(st.tuples(u64, u64), max_size=5).map(tuple)
headers_map = st.dictionaries(st.text(max_size=10), st.binary(max_size=20), max_size=4)

segment_headers = st.builds(
    SegmentHeader,
    log_id=ids,
    segment_id=u32,
    base_offset=u64,
    salt=u64,
    durability=st.integers(0, 2),
    jump_reason=st.integers(0, len(L.JUMP_REASONS) - 1),
    max_record_bytes=u32,
    max_batch_bytes=u32,
    bytes_before=counts,
    records_before=counts,
    born_position=counts,
    born_offset=counts,
    floor_offset=counts,
    predecessor=st.none() | st.builds(Predecessor, st.integers(0, L.SEGMENT_ID_MAX), counts, counts, counts, u64),
    created_ns=u64,
    write_version=st.integers(0, 2**16 - 1),
)
footers = st.builds(
    Footer, segment_headers, u64, u64, u64, u64, st.lists(st.builds(IndexEntry, u64, u64, u64), max_size=4).map(tuple)
)
cursors = st.builds(
    CursorState, names, u64, u64, st.builds(Seen, u32, u64, u64), pairs, st.lists(st.tuples(u64, u32)).map(tuple)
)
metas = st.builds(
    MetaState,
    u64,
    u64,
    st.lists(st.tuples(names, u64), max_size=4).map(tuple),
    st.lists(st.builds(RemovedRange, u32, u32, u64, u64), max_size=4).map(tuple),
    pairs,
    st.tuples(u64, u64),
    u64,
    st.builds(Retention, st.none() | limits, st.none() | limits),
)
letters = st.builds(
    Envelope,
    reason=st.sampled_from(L.REASONS),
    detail=st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
    consumer=names | st.just(""),
    offset=u64,
    last_offset=u64,
    attempts=u32,
    time_ns=u64,
    segment_id=u32,
    position=u64,
    length=u64,
    payload=st.binary(max_size=50),
    key=st.none() | st.binary(max_size=10),
    headers=st.none() | headers_map.filter(bool),
)

# -- round trips


@given(segment_headers)
def test_segment_header_round_trip(header: SegmentHeader) -> None:
    area = encode_segment_header(header)
    assert decode_segment_header(area) == decode_segment_header(area[L.HEADER_COPY_AT :]) == header


@pytest.mark.parametrize("field", ["bytes_before", "records_before", "born_position", "born_offset", "floor_offset"])
def test_f25_a_header_whose_numbers_nobody_can_have_counted_does_not_hold(field: str) -> None:
    most: dict[str, Any] = {field: 2**63 - 1}
    more: dict[str, Any] = {field: 2**63}
    assert decode_segment_header(encode_segment_header(HEADER._replace(**most))) is not None
    assert decode_segment_header(encode_segment_header(HEADER._replace(**more))) is None


@given(footers)
def test_footer_round_trip(footer: Footer) -> None:
    data = encode_footer(footer)
    assert footer_length(data[-16:]) == len(data) == 220 + 24 * len(footer.entries)
    assert decode_footer(data) == footer


@given(st.builds(Hint, u64, u32, u64, u64, u64, ids))
def test_hint_round_trip(hint: Hint) -> None:
    assert decode_hint(encode_hint(hint)) == hint
    assert decode_hint(encode_hint(hint) + b"what follows") == hint


@given(st.builds(Slot, u32, u64, ids, st.binary(max_size=100), st.integers(0, 2**16 - 1)))
def test_slot_round_trip(slot: Slot) -> None:
    data = encode_slot(slot, 4096)
    assert slot_length(data) == len(data)
    assert decode_slot(data + b"left over from a longer payload") == slot


def test_a_payload_that_does_not_fit_its_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode_slot(Slot(1, 1, LOG_ID, bytes(100)), 100)


@given(cursors)
def test_cursor_round_trip(state: CursorState) -> None:
    assert decode_cursor(encode_cursor(state)) == state


@given(st.builds(DeliveryNote, u32, u32, pairs))
def test_delivery_note_round_trip(note: DeliveryNote) -> None:
    assert decode_note(encode_note(note)) == note


@given(metas)
def test_meta_round_trip(meta: MetaState) -> None:
    assert decode_meta(encode_meta(meta)) == meta
    whole = encode_meta(meta) if encode_meta(meta).endswith(tail_of(meta)) else encode_meta(meta) + NO_TAIL
    assert decode_meta(whole + b"more, from a newer writer") == meta


def tail_of(meta: MetaState) -> bytes:
    kept = (2**64 - 1 if limit is None else limit for limit in meta.retention)
    return L.META_TAIL.pack(*meta.dropped, meta.dropped_records, *kept)


@given(letters)
def test_dead_letter_round_trip(letter: Envelope) -> None:
    assert decode_letter(encode_letter(letter)) == letter


@given(st.binary(max_size=50), st.builds(Extras, st.none() | st.binary(max_size=9), headers_map, u64, u64))
@example(b"payload", Extras(b"", {"\udcff": b"a name from undecodable bytes"}))
def test_extended_record_round_trip(payload: bytes, extras: Extras) -> None:
    assert decode_extended(encode_extended(payload, extras)) == (payload, extras)


@given(st.binary(max_size=200), st.booleans(), st.integers(0, 40), st.integers(0, 3))
def test_an_extended_record_is_fine_exactly_where_it_can_be_decoded(
    rest: bytes, keyed: bool, key: int, headers: int
) -> None:
    record = L.EXTENDED.pack(0, 0, key if keyed else L.NO_KEY, headers, 0) + rest
    for cut in (record, record[: L.EXTENDED.size], record[:-1]):
        try:
            decode_extended(cut)
        except ValueError:
            with pytest.raises(ValueError, match="record"):
                check_extended(cut)
        else:
            check_extended(cut)


def test_a_plain_record_among_extended_ones_has_an_empty_block() -> None:
    assert decode_extended(encode_extended(b"p", None)) == (b"p", Extras())


@given(st.builds(SegmentName, st.integers(0, 10**20 - 1), u32))
def test_segment_name_round_trip(name: SegmentName) -> None:
    assert parse_segment_name(name.file_name) == name


@pytest.mark.parametrize(
    "name",
    [
        "0-0.seg",
        "00000000000000000000-00000000.seg.tmp",
        "00000000000000000000-00000000.SEG",
        "00000000000000000000-0000000G.seg",
        "00000000000000000000-0000000A.seg",
        "00000000000000000000-00000000.seg\n",
        "\u0660" * 20 + "-00000000.seg",
        "",
    ],
)
def test_other_names_are_no_segments(name: str) -> None:
    assert parse_segment_name(name) is None


def test_p4_f72_names_sort_by_offset_across_every_boundary() -> None:
    names_at = [SegmentName(offset, 1).file_name for n in (31, 32, 53, 63) for offset in (2**n - 1, 2**n)]
    assert names_at == sorted(names_at)


# -- frozen bytes of version 1

HEADER = SegmentHeader(
    LOG_ID, 3, 20, SALT, 0, 1, 1 << 24, 1 << 26, 100, 20, 8192, 20, 20, Predecessor(2, 9000, 18, 9000, SALT + 2), 7
)


@pytest.mark.parametrize(
    ("made", "frozen"),
    [
        (
            encode_hint(Hint(3, 0, 8432, 2, SALT, bytes(range(16, 32)))),
            "89534c480d0a1a0a0300000000000000000000001683bdc6f0200000000000000200000000000000efcdab89674523011011121314"
            "15161718191a1b1c1d1e1f",
        ),
        (
            encode_slot(Slot(1, 7, LOG_ID, b"payload"), 4096),
            "89534c530d0a1a0a01000100010000000700000000000000000102030405060708090a0b0c0d0e0f07000000b89ed85e7061796c"
            "6f6164",
        ),
        (
            encode_cursor(CursorState("up", 1, 5, Seen(2, 8300, 9), ((7, 9),), ((8, 3),))),
            "0100000000000000050000000000000002000000000000006c200000000000000900000000000000010000000100000002000000"
            "757007000000000000000900000000000000080000000000000003000000",
        ),
        (
            encode_note(DeliveryNote(1, 3, ((9, 10),))),
            "89534c4e0d0a1a0a01000000030000000100000040affa8f09000000000000000a00000000000000",
        ),
        (
            encode_meta(MetaState(5, 6, (("up", 1),), (RemovedRange(1, 2, 3, 4),), ((8, 9),))),
            "05000000000000000600000000000000010000000100000001000000020100000000000000757001000000020000000300000000"
            "000000040000000000000008000000000000000900000000000000",
        ),
        (
            encode_letter(Envelope("damaged", "why", "", 3, 4, 0, 5, 6, 8192, 88, b"bytes")),
            "89534c440d0a1a0a0000000000000000030000000000000004000000000000000500000000000000060000000000000000200000"
            "000000005800000000000000000003000000ffffffff00007768796279746573",
        ),
        (
            encode_extended(b"p", Extras(b"k", {"h": b"v"}, 1, 2)),
            "0100000000000000020000000000000001000000010000006b010001000000687670",
        ),
        (
            encode_segment_header(HEADER)[:156],
            "89534c470d0a1a0a0100010000010000000102030405060708090a0b0c0d0e0f03000000000000001400000000000000efcdab89"
            "6745230100000001000000046400000000000000140000000000000000200000000000001400000000000000140000000000000002"
            "00000000000000282300000000000012000000000000002823000000000000f1cdab89674523010700000000000000",
        ),
        (
            encode_footer(Footer(HEADER, 9000, 25, 11, 12, (IndexEntry(20, 8192, 11),)))[:48],
            "89534c460d0a1a0a0100000000000000282300000000000019000000000000000b000000000000000c00000000000000",
        ),
    ],
    ids=["hint", "slot", "cursor", "note", "meta", "letter", "extended", "segment header", "footer"],
)
def test_frozen_bytes(made: bytes, frozen: str) -> None:
    assert made.hex()[: len(frozen)] == frozen
    assert len(made) - len(frozen) // 2 in (0, 4)  # a checksum of its own covers these bytes


# -- hits and other bytes

SAMPLES: list[tuple[bytes, Callable[[bytes], Any]]] = [
    (encode_segment_header(HEADER)[:156], decode_segment_header),
    (encode_footer(Footer(HEADER, 9000, 25, 11, 12, (IndexEntry(20, 8192, 11),))), decode_footer),
    (encode_hint(Hint(3, 0, 8432, 2, SALT, LOG_ID)), decode_hint),
    (encode_slot(Slot(1, 7, LOG_ID, b"payload"), 4096), decode_slot),
    (encode_note(DeliveryNote(7, 0, ((9, 15), (20, 21)))), decode_note),
]
CHECKED = [decode for _, decode in SAMPLES]


@pytest.mark.parametrize(("data", "decode"), SAMPLES, ids=lambda value: getattr(value, "__name__", ""))
def test_p6_f21_every_flipped_bit_and_every_cut_of_a_checked_structure_is_noticed(
    data: bytes, decode: Callable[[bytes], Any]
) -> None:
    assert decode(data) is not None
    for position in range(len(data)):
        assert decode(data[:position]) is None
        for bit in range(8):
            hit = bytearray(data)
            hit[position] ^= 1 << bit
            assert decode(bytes(hit)) is None, (position, bit)


@pytest.mark.parametrize("decode", CHECKED, ids=lambda decode: decode.__name__)
@given(data=st.binary(max_size=400))
def test_arbitrary_bytes_are_none(decode: Callable[[bytes], Any], data: bytes) -> None:
    assert decode(data) is None


@pytest.mark.parametrize(
    ("decode", "sample"),
    [
        (decode_cursor, encode_cursor(CursorState("up", 1, 5, Seen(2, 8300, 9), ((7, 9),), ((8, 3),)))),
        (decode_meta, encode_meta(MetaState(5, 6, (("up", 1),), (RemovedRange(1, 2, 3, 4),), ((8, 9),)))),
        (decode_letter, encode_letter(Envelope("rejected", "w", "c", 3, 3, 1, 5, 0, 0, 0, b"p", b"k", {"h": b"v"}))),
        (decode_extended, encode_extended(b"p", Extras(b"k", {"h": b"v"}, 1, 2))),
    ],
    ids=["cursor", "meta", "letter", "extended"],
)
@given(data=st.data())
def test_what_has_no_checksum_of_its_own_gives_a_value_or_valueerror(
    decode: Callable[[bytes], Any], sample: bytes, data: st.DataObject
) -> None:
    hit = bytearray(sample)
    for _ in range(data.draw(st.integers(0, 4))):
        hit[data.draw(st.integers(0, len(hit) - 1))] = data.draw(st.integers(0, 255))
    chosen = data.draw(st.sampled_from([bytes(hit), bytes(hit[: data.draw(st.integers(0, len(hit)))])]) | st.binary())
    try:
        decode(chosen)
    except ValueError:
        return


# -- versions


def newer(data: bytes, at: int, checked_to: int, check_at: int) -> bytes:
    """The same with a read version of the future, under a checksum that holds."""
    made = bytearray(data)
    made[at : at + 2] = L.TEST_VERSION.to_bytes(2, "little")
    made[check_at : check_at + 4] = crc32c(bytes(made[:checked_to])).to_bytes(4, "little")
    return bytes(made)


def test_f34_a_newer_version_is_told_apart_from_damage() -> None:
    header = encode_segment_header(HEADER)[:156]
    with pytest.raises(UnsupportedVersion, match="65535"):
        decode_segment_header(newer(header, 8, 152, 152))
    slot = bytearray(encode_slot(Slot(1, 7, LOG_ID, b""), 4096))
    with pytest.raises(UnsupportedVersion, match="65535"):
        decode_slot(newer(bytes(slot), 8, 44, 44))
    assert decode_segment_header(header[:8] + b"\xff\xff" + header[10:]) is None  # without the checksum: damage


@pytest.mark.parametrize("at", [12, 13], ids=["durability class", "jump reason"])
def test_f34_an_unknown_class_or_reason_is_of_a_newer_format(at: int) -> None:
    header = bytearray(encode_segment_header(HEADER)[:156])
    header[at] = 77
    header[152:156] = crc32c(bytes(header[:152])).to_bytes(4, "little")
    with pytest.raises(UnsupportedVersion):
        decode_segment_header(bytes(header))
