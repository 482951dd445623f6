"""Magics, versions, struct shapes and hard limits (FORMAT.md §3 to §9). All numbers are little-endian."""

from __future__ import annotations

from struct import Struct

READ_VERSION = 1  # who may read: a reader needs at least this
WRITE_VERSION = 1  # who may write: a writer needs at least this
TEST_VERSION = 0xFFFF  # never given to a real format; tests use it for "newer than us"

# PNG's trick: a high bit, CR LF, ctrl-Z and LF show what a text-mode copy did to the file.
SEGMENT_MAGIC = b"\x89SLG\r\n\x1a\n"
FOOTER_MAGIC = b"\x89SLF\r\n\x1a\n"
SLOT_MAGIC = b"\x89SLS\r\n\x1a\n"
HINT_MAGIC = b"\x89SLH\r\n\x1a\n"
NOTE_MAGIC = b"\x89SLN\r\n\x1a\n"
LETTER_MAGIC = b"\x89SLD\r\n\x1a\n"
BATCH_MAGIC = b"\xb1SLB"
COPY_MAGIC = b"\xb2SLC"

ALIGNMENT = 8
SECTOR = 512
BLOCK = 4096

# §5.1 segment header: magic, read version, write version, durability class, jump reason, reserved, log id,
# segment id, reserved, base offset, salt, max record bytes, max batch bytes, bytes before, records before,
# born end position, born end offset, floor offset, predecessor: id, reserved, end position, end offset,
# suspect position, salt; created (ns), CRC.
SEGMENT_HEADER = Struct("<8sHHBBH16sIIQQIIQQQQQIIQQQQQI")
HEADER_COPY_AT = BLOCK
DATA_START = 2 * BLOCK
NO_SEGMENT = 0xFFFFFFFF
SEGMENT_ID_MAX = 0xFFFFFFFE
OFFSET_MAX = (1 << 63) - 1
SEGMENT_RECORDS_MAX = 1 << 24  # and the width of a jump over an unknown number of records

# §5.3 footer
FOOTER_HEAD = Struct("<8sIIQQQQ")  # magic, entries, reserved, end position, end offset, first time, last time
FOOTER_ENTRY = Struct("<QQQ")  # offset, position, time (ns)
FOOTER_TAIL = Struct("<II8s")  # footer length, CRC, magic

# §6.1 batch header: magic, codec, flags, reserved, count, stored length, raw length, zero sectors, base
# offset, append time (ns), durable position, durable end offset, body CRC, header CRC.
BATCH_HEADER = Struct("<4sBBHIIIIQQQQII")
BATCH_HEADER_BYTES = 64
END_MARK = Struct("<II")  # batch length / 8, CRC with the top bit set
END_MARK_BYTES = 8
END_MARK_INPUT = Struct("<IIB")  # batch length, count, flags: what the end mark's CRC covers
TOP_BIT = 0x80000000

CODEC_NONE = 0
CODEC_ZSTD = 1
FLAG_EXTENDED = 1  # every record begins with the block of §6.3
FLAG_CLOSE = 2  # the close marker
FLAGS_KNOWN = FLAG_EXTENDED | FLAG_CLOSE

# §6.3 extended record: due (ns), expiry (ns), key length, header count, reserved
EXTENDED = Struct("<QQIHH")
NO_KEY = 0xFFFFFFFF
HEADER_ENTRY = Struct("<HI")  # name length, value length

# §7 two-slot files: magic, read version, write version, kind, generation, log id, payload length, CRC
SLOT_HEADER = Struct("<8sHHIQ16sII")
KIND_META = 1
KIND_CURSOR = 2
META_SLOT_BYTES = 16 * BLOCK
CURSOR_SLOT_BYTES = 43 * BLOCK

# §7.2 meta payload
META_HEAD = Struct("<QQIII")  # start offset, created (ns), consumers, removed ranges, repaired ranges
META_CONSUMER = Struct("<BQ")  # name length, start offset; the name follows
META_REMOVED = Struct("<IIQQ")  # first id, last id, first offset, end offset
META_REPAIRED = Struct("<QQ")  # first offset, end offset
META_TAIL = Struct("<QQQQQ")  # dropped: first offset, end offset, records; retention: bytes, nanoseconds
NO_RETENTION = 0xFFFFFFFFFFFFFFFF
META_CONSUMERS_MAX = 512
META_RANGES_MAX = 256
META_REPAIRED_MAX = 1024  # a rotten disk has many separate spots; more do not fit a slot

# §7.3 cursor payload: start, watermark, seen: segment id, reserved, position, end offset; ranges, attempts, name length
CURSOR_HEAD = Struct("<QQIIQQIII")
CURSOR_RANGE = Struct("<QQ")
CURSOR_ATTEMPT = Struct("<QI")
CURSOR_RANGES_MAX = 10240  # above max_in_flight, so that acks in any order always fit
CURSOR_ATTEMPTS_MAX = 512

# §7.4 the delivery note behind a cursor's slots: magic, in flight, attempt, ranges, CRC; the ranges follow
NOTE = Struct("<8sIIII")
NOTE_RANGE = Struct("<QQ")
NOTE_RANGES_MAX = 16
NOTE_BYTES = NOTE.size + NOTE_RANGES_MAX * NOTE_RANGE.size  # all of it in one sector
NOTE_AT = 2 * CURSOR_SLOT_BYTES

# §8 the hint in `lock`: magic, generation, segment id, CRC, position, end offset, salt, boot id
HINT = Struct("<8sQIIQQQ16s")
HOLDER_AT = 512
HOLDER_BYTES = 256
LOCK_BYTES = BLOCK

# §9 dead letter: magic, reason, reserved, header count, attempts, offset, last offset, time (ns), segment id,
# reserved, position, length, lengths of: consumer, detail, key; reserved; the payload is the rest
LETTER = Struct("<8sBBHIQQQIIQQHIIH")
REASONS = ("damaged", "undecodable", "rejected", "exhausted", "refused")
DURABILITY_CLASSES = 3  # always, interval, never
JUMP_REASONS = ("", "torn", "unclean", "missing", "cursor", "suspect")

LETTER_PAYLOAD_MAX = 16 << 20


def aligned(length: int) -> int:
    """`length` rounded up to the alignment of batches."""
    return (length + 7) & ~7
