"""Validated settings; every limit with its unit. Raises InvalidOption before anything is touched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from seglog.errors import InvalidOption

KIB = 1024
MIB = 1024 * KIB

SEGMENT_BYTES_MIN = 4 * KIB
RECORD_BYTES_MAX = 1024 * MIB  # lengths are 32 bits in the format; half of that leaves room for overhead
BATCH_BYTES_MIN = 64 * MIB
GROUP_COMMIT_BYTES = 1 * MIB  # one compressed group commit is then a small loss
RECORD_OVERHEAD_BYTES = 64 * KIB  # room for key and headers beside a payload of the largest size
_SIZE = re.compile(r"(\d{1,18}) ?(?:B|([KMGT])(i?B)?)?", re.ASCII | re.IGNORECASE)
CONSUMER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

DURABILITIES = ("always", "interval", "never")
WHEN_FULL = ("block", "error", "drop_oldest")
KEPT = "kept"  # of a retention: as the log was told before


@dataclass(frozen=True)
class LogOptions:
    """What `seglog.open` was asked for."""

    mode: str = "rw"
    durability: str = "always"
    sync_interval: float = 0.1
    segment_bytes: int = 64 * MIB
    max_record_bytes: int = 16 * MIB
    compression: str | None = None
    file_mode: int = 0o600
    strict: bool = False
    max_bytes: int | None = None
    max_records: int | None = None
    when_full: str = "block"
    retention_bytes: int | str | None = None
    retention_seconds: float | str | None = None

    def __post_init__(self) -> None:
        one_of("mode", self.mode, ("rw", "r"))
        one_of("durability", self.durability, DURABILITIES)
        one_of("compression", self.compression, (None, "zstd"))
        number("sync_interval", self.sync_interval, "seconds", 0.0001, 3600.0)
        whole("segment_bytes", self.segment_bytes, SEGMENT_BYTES_MIN, 1 << 40)
        whole("max_record_bytes", self.max_record_bytes, 1, RECORD_BYTES_MAX)
        whole("file_mode", self.file_mode, 0, 0o777)
        if self.file_mode & 0o600 != 0o600 or self.file_mode & 0o111:
            raise InvalidOption(f"file_mode={self.file_mode:#o}: the owner must read and write, nobody may execute")
        if not isinstance(self.strict, bool):
            raise InvalidOption(f"strict={self.strict!r}: expected True or False")
        one_of("when_full", self.when_full, WHEN_FULL)
        for name in ("max_bytes", "max_records"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 1, 1 << 62)
        if self.retention_bytes not in (None, KEPT):
            whole("retention_bytes", self.retention_bytes, 0, 1 << 62)
        if self.retention_seconds not in (None, KEPT):
            seconds("retention_seconds", self.retention_seconds)

    @property
    def limited(self) -> bool:
        """Whether there is a limit on what is not yet consumed."""
        return self.max_bytes is not None or self.max_records is not None

    @property
    def max_batch_bytes(self) -> int:
        """Bytes of the records of one batch, at most."""
        return max(BATCH_BYTES_MIN, self.max_record_bytes + RECORD_OVERHEAD_BYTES)

    @property
    def directory_mode(self) -> int:
        """Directories get x where files have r."""
        return self.file_mode | (self.file_mode & 0o444) >> 2


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise InvalidOption unless `value` is one of `allowed`."""
    if value not in allowed or isinstance(value, bool):
        raise InvalidOption(f"{name}={value!r}: expected one of {', '.join(map(repr, allowed))}")


def whole(name: str, value: object, low: int, high: int) -> None:
    """Raise InvalidOption unless `value` is an int in low..high."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidOption(f"{name}={value!r}: expected a whole number from {low} to {high}")


def number(name: str, value: object, unit: str, low: float, high: float) -> None:
    """Raise InvalidOption unless `value` is a number in low..high."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidOption(f"{name}={value!r}: expected {unit} from {low} to {high}")


def size(text: str) -> int:
    """Bytes: 65536, 64MiB (or 64M) for powers of 1024, 64MB for powers of 1000; else InvalidOption."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidOption(f"{text!r} is no size; write it like 65536, 64KiB or 64MB")
    prefix, unit = (match[2] or "").upper(), (match[3] or "").upper()
    base = 1000 if unit == "B" else 1024
    return int(match[1]) * int(base ** ("", "K", "M", "G", "T").index(prefix))


def seconds(name: str, value: object) -> float:
    """A duration that somebody may wait, or InvalidOption."""
    number(name, value, "seconds", 0.0, 1e10)
    return float(value)  # type: ignore[arg-type]


def consumer_name(name: object) -> str:
    """The name, if it can be a file name everywhere; else InvalidOption."""
    if not isinstance(name, str) or not CONSUMER_NAME.fullmatch(name):
        raise InvalidOption(
            f"consumer name {name!r}: expected 1 to 64 of A-Z a-z 0-9 . _ - , beginning with a letter or digit"
        )
    return name


def key_and_headers(key: object, headers: object) -> dict[str, bytes] | None:
    """Check a record's key and headers; returns the headers as a dict of their own."""
    if key is not None and not isinstance(key, bytes):
        raise InvalidOption(f"key must be bytes, not {type(key).__name__}")
    if key is not None and len(key) > RECORD_OVERHEAD_BYTES:
        raise InvalidOption(f"key of {len(key)} bytes: at most {RECORD_OVERHEAD_BYTES}")
    if headers is None:
        return None
    if not isinstance(headers, Mapping):
        raise InvalidOption(f"headers must be a mapping of str to bytes, not {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, bytes):
            raise InvalidOption(f"headers must map str to bytes, not {type(name).__name__} to {type(value).__name__}")
    return dict(headers)
