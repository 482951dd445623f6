"""The bytes printed in FORMAT.md §13 are the bytes that the code writes."""

from __future__ import annotations

import re
from pathlib import Path

from seglog.format import layout as L
from seglog.format.batch import encode_batch
from seglog.format.checksum import crc32c, record_seed, seed
from seglog.format.hint import Hint, encode_hint
from seglog.format.segment_header import SegmentHeader, encode_segment_header

SALT = 0x0123456789ABCDEF
CREATED_NS = 1_700_000_000 * 10**9
SECOND = 10**9


def printed() -> list[bytes]:
    text = (Path(__file__).parents[3] / "FORMAT.md").read_text("utf-8")
    section = text[text.index("## 13 ") : text.index("## 14 ")]
    blocks = re.findall(r"```text\n(.*?)```", section, re.DOTALL)
    return [b"".join(bytes.fromhex(line[6:]) for line in block.splitlines()) for block in blocks]


def test_the_worked_example_is_what_the_encoders_make() -> None:
    header = SegmentHeader(
        log_id=bytes(range(16)),
        segment_id=0,
        base_offset=0,
        salt=SALT,
        durability=0,
        jump_reason=0,
        max_record_bytes=16 << 20,
        max_batch_bytes=64 << 20,
        bytes_before=0,
        records_before=0,
        born_position=L.DATA_START,
        born_offset=0,
        floor_offset=0,
        predecessor=None,
        created_ns=CREATED_NS,
    )
    batch = encode_batch(
        [b"hello", b"world!"],
        salt=SALT,
        position=8192,
        base_offset=0,
        time_ns=CREATED_NS + SECOND,
        durable=(8192, 0),
    )
    marker = encode_batch(
        [],
        salt=SALT,
        position=8360,
        base_offset=2,
        time_ns=CREATED_NS + 2 * SECOND,
        durable=(8360, 2),
        flags=L.FLAG_CLOSE,
    )
    hint = encode_hint(Hint(3, 0, 8432, 2, SALT, bytes(range(16, 32))))
    area = encode_segment_header(header)
    assert printed() == [area[: L.SEGMENT_HEADER.size], bytes(batch), bytes(marker), hint]
    assert area[: L.BLOCK] == area[L.BLOCK :]
    assert len(area) == L.DATA_START


def test_the_printed_checksums() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"56789", crc32c(b"1234")) == 0xE3069283
    assert seed(SALT, 8192) == 0x754098ED
    assert seed(SALT, 0) == 0x0C93A7B7
    assert record_seed(0x0C93A7B7, 1) == 0xAACB2168
    assert seed(SALT, 8360) == 0x346624DF
    assert seed(SALT, 8432) == 0x8651A9FE


def test_struct_sizes_are_those_of_the_tables() -> None:
    assert {
        "segment header": L.SEGMENT_HEADER.size,
        "footer head": L.FOOTER_HEAD.size,
        "footer entry": L.FOOTER_ENTRY.size,
        "footer tail": L.FOOTER_TAIL.size,
        "batch header": L.BATCH_HEADER.size,
        "end mark": L.END_MARK.size,
        "end mark input": L.END_MARK_INPUT.size,
        "extended": L.EXTENDED.size,
        "header entry": L.HEADER_ENTRY.size,
        "slot header": L.SLOT_HEADER.size,
        "cursor": L.CURSOR_HEAD.size,
        "note": L.NOTE.size,
        "hint": L.HINT.size,
        "letter": L.LETTER.size,
        "meta": L.META_HEAD.size,
    } == {
        "segment header": 156,
        "footer head": 48,
        "footer entry": 24,
        "footer tail": 16,
        "batch header": 64,
        "end mark": 8,
        "end mark input": 9,
        "extended": 24,
        "header entry": 6,
        "slot header": 48,
        "cursor": 52,
        "note": 24,
        "hint": 64,
        "letter": 76,
        "meta": 28,
    }
