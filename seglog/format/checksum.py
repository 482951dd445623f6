"""CRC32C with its seeds, and zstd behind one door (FORMAT.md §4).

A seed binds a checksum to the segment (by its random salt) and to the place in it, so that stale bytes,
moved blocks and batches inside a payload do not validate. It is multiplied, never XORed or added raw: an
XORed offset cancels against a counter at the start of a payload, because CRC is linear.
"""

from __future__ import annotations

from crc32c import crc32c

__all__ = ["BadFrame", "compress", "crc32c", "decompress", "record_seed", "record_seeds", "seed"]

_MASK64 = (1 << 64) - 1
_OFFSET = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: keeps position 0 from being the one without a seed
_STEP = 0x9E3779B1


class BadFrame(ValueError):
    """The bytes are no zstd frame of the declared size."""


def seed(salt: int, number: int) -> int:
    """Multiply-shift hashing (Dietzfelbinger et al. 1997): 32 bits from an odd random salt and a place."""
    return (((number + _OFFSET) * salt) & _MASK64) >> 32


def record_seed(first: int, index: int) -> int:
    """The seed of record `index` of a batch, from `first` = seed(salt, base offset)."""
    return (first + index * _STEP) & 0xFFFFFFFF


def record_seeds(first: int, count: int) -> range:
    """The seeds of records 0 .. count-1, not yet modulo 2^32: crc32c takes its seed so, and a range costs nothing."""
    return range(first, first + count * _STEP, _STEP)


def compress(data: bytes) -> bytes:
    """One zstd frame that states its content size."""
    import zstandard  # on first use: most logs are not compressed, and a command starts faster without

    return zstandard.ZstdCompressor(level=3, write_content_size=True).compress(data)


def decompress(frame: bytes, raw_length: int) -> bytes:
    """Inflate to exactly `raw_length` bytes. Raises BadFrame, and never allocates more than was declared."""
    import zstandard

    try:
        if zstandard.frame_content_size(frame) != raw_length:
            raise BadFrame(f"zstd frame does not hold the declared {raw_length} bytes")
        data = zstandard.ZstdDecompressor().decompress(frame, max_output_size=raw_length)
    except zstandard.ZstdError as error:
        raise BadFrame(str(error)) from error
    if len(data) != raw_length:
        raise BadFrame(f"zstd frame holds {len(data)} bytes, not {raw_length}")
    return data
