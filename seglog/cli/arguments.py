"""What people write on a command line, as values: sizes, offsets and times, names, delimiters.

Every function raises ArgumentTypeError for what cannot be meant, which argparse turns into exit code 2.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shlex
from pathlib import Path

from seglog import options
from seglog.errors import InvalidOption
from seglog.format.layout import OFFSET_MAX

_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|(.?))", re.DOTALL)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_ESCAPES = {b"0": b"\0", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"\\": b"\\"}


def directory(text: str) -> Path:
    """A path; the name ":memory:" is not special here, and an unset shell variable is not the current directory."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def size(text: str) -> int:
    """Bytes: 65536, 64MiB (or 64M) for powers of 1024, 64MB for powers of 1000."""
    try:
        return options.size(text)
    except InvalidOption as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    """A whole number, at least 1."""
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def seconds(text: str) -> float:
    """A duration in seconds, 0 or more."""
    try:
        return options.seconds("duration", float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration in seconds, like 0.2 or 30") from None


def pause(text: str) -> float:
    """A duration in seconds between two looks: not so short that there is nothing else any more."""
    found = seconds(text)
    if found < 0.1:
        raise argparse.ArgumentTypeError(f"{text!r} is too short, the least is 0.1 seconds")
    return found


def age(text: str) -> float:
    """A duration in seconds, or with a unit: 90, 90s, 15m, 12h, 7d, 2w."""
    number, unit = (text[:-1], text[-1]) if text[-1:].isalpha() else (text, "s")
    if unit not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write it like 90, 15m, 12h or 7d")
    return seconds(number) * _UNITS[unit]


def id(text: str) -> int:
    """The id of a dead letter."""
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no id, a whole number")
    return int(text)


def where(text: str) -> int | datetime.datetime:
    """An offset, or an ISO 8601 time; a time without a zone is local time."""
    if re.fullmatch(r"\d+", text, re.ASCII):
        if len(text) > 19 or int(text) > OFFSET_MAX:
            raise argparse.ArgumentTypeError(f"offset {text[:40]} is out of range; the largest is {OFFSET_MAX}")
        return int(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
        return moment if moment.tzinfo is not None else moment.astimezone()
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither an offset nor a time like 2025-01-31T13:45 or 2025-01-31T13:45:00Z"
        ) from None


def start(text: str) -> str | int | datetime.datetime:
    """Where a new consumer begins: earliest, latest, an offset or a time."""
    if text in ("earliest", "latest"):
        return text
    try:
        return where(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error} (or: earliest, latest)") from None


def consumer_name(text: str) -> str:
    """A name that a consumer may have."""
    try:
        return options.consumer_name(text)
    except InvalidOption as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def separator(text: str) -> bytes:
    r"""Bytes written between records, perhaps none; knows \0 \n \r \t \\ and \xNN."""

    def byte(match: re.Match[bytes]) -> bytes:
        if match[1] is not None:
            return bytes([int(match[1], 16)])
        if match[2] not in _ESCAPES:
            raise argparse.ArgumentTypeError(rf"{text!r}: the escapes are \0 \n \r \t \\ and \xNN")
        return _ESCAPES[match[2]]

    return _ESCAPE.sub(byte, os.fsencode(text))


def delimiter(text: str) -> bytes:
    """Like `separator`, and at least one byte long, so that it can be searched for."""
    found = separator(text)
    if not found:
        raise argparse.ArgumentTypeError("the delimiter is empty; to append a whole file use --whole-file")
    return found


def command(text: str) -> list[str]:
    """A command and its arguments, quoted as for a shell, which is not asked."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    if not words:
        raise argparse.ArgumentTypeError("the command is empty")
    return words


def header(text: str) -> tuple[str, str]:
    """A request header, "Name: value"."""
    name, colon, value = text.partition(":")
    if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(r"[\r\n\0]", value):
        raise argparse.ArgumentTypeError("a header is written like 'Authorization: Bearer TOKEN'")
    return name, value.strip()
