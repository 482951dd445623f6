"""What people write on a command line, and what it is taken for."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglog.cli import arguments

refused = pytest.raises(argparse.ArgumentTypeError)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("65536", 65536),
        ("7B", 7),
        ("64K", 64 << 10),
        ("64KiB", 64 << 10),
        ("64kib", 64 << 10),
        ("64 KiB", 64 << 10),
        ("64KB", 64_000),
        ("64MiB", 64 << 20),
        ("64MB", 64_000_000),
        ("2G", 2 << 30),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert arguments.size(text) == expected


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "1.5MiB", "64iB", "64 MiB MiB", "1e6", "0x10", "٣", "6Mb1", "9" * 19]
)
def test_what_is_no_size(text: str) -> None:
    with refused:
        arguments.size(text)


@given(st.integers(0, 10**18 - 1))
def test_a_plain_number_is_bytes(value: int) -> None:
    assert arguments.size(str(value)) == value


def test_offsets_and_times() -> None:
    utc = datetime.UTC
    assert arguments.where("0") == 0
    assert arguments.where("9223372036854775807") == (1 << 63) - 1
    assert arguments.where("2025-01-31T13:45:00Z") == datetime.datetime(2025, 1, 31, 13, 45, tzinfo=utc)
    assert arguments.where("2025-01-31T13:45:00+02:00") == datetime.datetime(2025, 1, 31, 11, 45, tzinfo=utc)
    local = datetime.datetime(2025, 1, 31, 13, 45).astimezone()
    assert arguments.where("2025-01-31 13:45") == local
    day = arguments.where("2025-01-31")
    assert isinstance(day, datetime.datetime)
    assert (day.hour, day.tzinfo is not None) == (0, True)


@pytest.mark.parametrize(
    "text",
    ["", "-1", "+1", "1.5", "yesterday", "9223372036854775808", "1" * 5000, "٣", "2025-13-01", "1_0"],
)
def test_what_is_no_offset_and_no_time(text: str) -> None:
    with refused:
        arguments.where(text)


def test_where_a_consumer_starts() -> None:
    assert arguments.start("earliest") == "earliest"
    assert arguments.start("latest") == "latest"
    assert arguments.start("17") == 17
    with refused:
        arguments.start("newest")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\n", b"\n"),
        (r"\0", b"\0"),
        (r"\r\n", b"\r\n"),
        (r"\x1e", b"\x1e"),
        (r"\xFF\xfe", b"\xff\xfe"),
        (r"\\n", b"\\n"),
        ("--\n", b"--\n"),
        ("\udcff", b"\xff"),  # how Python hands over a byte that is no UTF-8
        ("é", "é".encode()),
    ],
)
def test_delimiters(text: str, expected: bytes) -> None:
    assert arguments.delimiter(text) == arguments.separator(text) == expected


@pytest.mark.parametrize("text", ["\\", r"\q", r"\x1", r"\xgg", "a\\"])
def test_unknown_escapes(text: str) -> None:
    with refused:
        arguments.separator(text)


def test_an_empty_delimiter_can_be_written_but_not_searched_for() -> None:
    assert arguments.separator("") == b""
    with refused:
        arguments.delimiter("")


@pytest.mark.parametrize("name", ["", "../x", "/etc", ".hidden", "a b", "a\nb", "x" * 65, "é"])
def test_f79_consumer_names(name: str) -> None:
    with refused:
        arguments.consumer_name(name)
    assert arguments.consumer_name("uploader-2.a_B") == "uploader-2.a_B"


def test_an_unset_variable_is_not_the_current_directory() -> None:
    with refused:
        arguments.directory("")
    assert arguments.directory(":memory:") == Path(":memory:")


def test_numbers_durations_headers() -> None:
    assert arguments.count("12") == 12
    assert arguments.seconds("0.5") == 0.5
    assert arguments.header("X-Key:  a: b ") == ("X-Key", "a: b")
    for bad in ("0", "-1", "1.5", "x", "9" * 30):
        with refused:
            arguments.count(bad)
    for bad in ("-1", "nan", "inf", "x", ""):
        with refused:
            arguments.seconds(bad)
    for bad in ("X-Key", ": v", "X Key: v", "X\nKey: v", "K: a\r\nEvil: b"):
        with refused:
            arguments.header(bad)
