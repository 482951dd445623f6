"""Cutting a stream into records, whatever its pieces are."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from seglog.cli.lines import Splitter

# Few different bytes, so that delimiters are met, and met half, all the time.
pieces = st.lists(st.text("ab\n\r\0", max_size=8).map(str.encode), max_size=20)
delimiters = st.text("ab\n", min_size=1, max_size=4).map(str.encode)


def cut(chunks: Iterable[bytes], delimiter: bytes = b"\n") -> list[bytes]:
    splitter = Splitter(delimiter)
    found = [line for chunk in chunks for line in splitter.feed(chunk)]
    return found + splitter.end()


@given(pieces, delimiters)
def test_the_pieces_make_no_difference(chunks: list[bytes], delimiter: bytes) -> None:
    *lines, rest = b"".join(chunks).split(delimiter)
    assert cut(chunks, delimiter) == lines + ([rest] if rest else [])


@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b""))))
def test_what_was_joined_comes_apart_again(lines: list[bytes]) -> None:
    assert cut([b"".join(line + b"\n" for line in lines)]) == lines


def test_only_the_delimiter_divides() -> None:
    text = "a\rb\x0bc\x0cd\x85e\u2028f\r\ng".encode()
    assert cut([text]) == ["a\rb\x0bc\x0cd\x85e\u2028f\r".encode(), b"g"]


def test_empty_lines_are_records_and_the_last_newline_is_none() -> None:
    assert cut([b"\n\na\n\n"]) == [b"", b"", b"a", b""]
    assert cut([]) == cut([b""]) == []
    assert cut([b"\n"]) == [b""]
    assert cut([b"a"]) == [b"a"]


def test_a_line_is_given_out_as_soon_as_it_ends() -> None:
    splitter = Splitter()
    assert splitter.feed(b"one\ntw") == [b"one"]
    assert splitter.unfinished_bytes == 2
    assert splitter.feed(b"o\n") == [b"two"]
    assert splitter.unfinished_bytes == 0
    assert splitter.end() == []
