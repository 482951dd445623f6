"""Bytes before an offset, and the offset behind so many bytes: against a plain count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import seglog
from seglog.disk.memory import MemoryDisk
from seglog.format import layout as L
from seglog.gauge import Gauge
from tests.support.place import Place

BATCHES = [1, 3, 1, 40, 2, 1, 1, 7, 5, 1]


def filled(**options: Any) -> seglog.Log[bytes]:
    """Batches of several sizes over some segments; in each, the records differ in size."""
    log = seglog.open("log", disk=MemoryDisk(), segment_bytes=4096, **options)
    for count in BATCHES:
        log.append_many([bytes(50 + 37 * n % 200) for n in range(count)])
    return log


def gauge_of(log: seglog.Log[bytes]) -> tuple[Gauge, Any]:
    opened = log._opened
    assert opened is not None
    return Gauge(opened.catalog), opened.appender.written


def shares(log: seglog.Log[bytes]) -> Iterator[int]:
    """What each record adds: its own bytes and eight more; the last one of a batch all that is left of the batch."""
    for count in BATCHES:
        sizes = [50 + 37 * n % 200 + 8 for n in range(count)]
        length = L.BATCH_HEADER_BYTES * (1 + (count > 1)) + L.aligned(sum(sizes)) + L.END_MARK_BYTES
        yield from sizes[:-1]
        yield length - sum(sizes[:-1])


def test_every_offset_has_the_bytes_of_all_records_before_it() -> None:
    with filled() as log:
        assert log.stats().segments > 2
        total, expected = 0, [0]
        for share in shares(log):
            total += share
            expected.append(total)
        forward, end = gauge_of(log)
        assert [forward.bytes_before(offset, end) for offset in range(len(expected))] == expected
        back, _ = gauge_of(log)
        assert [back.bytes_before(offset, end) for offset in reversed(range(len(expected)))] == expected[::-1]
        opened = log._opened
        assert opened is not None
        assert opened.appender.totals == (total, sum(BATCHES))
        for gauge in (forward, back):
            gauge.close()


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}])
def test_the_offset_behind_so_many_bytes_is_the_first_one(options: dict[str, Any]) -> None:
    with filled(**options) as log:
        gauge, end = gauge_of(log)
        before = [gauge.bytes_before(offset, end) for offset in range(end.end_offset + 1)]
        assert before == sorted(before)
        for offset, count in enumerate(before):
            for wanted in (count, count + 1):
                first = next((o for o, size in enumerate(before) if size >= wanted), end.end_offset)
                assert gauge.offset_behind(wanted, 0, end) == first
                assert gauge.offset_behind(wanted, offset, end) == max(first, offset)
        gauge.close()


@pytest.mark.parametrize("which", [1, -1])
@pytest.mark.parametrize("lost", ["batch", "header"])
def test_damage_counts_with_what_follows_and_ends_nothing(lost: str, which: int, tmp_path: Any) -> None:
    path = tmp_path / "log"
    with seglog.open(path, segment_bytes=4096) as log:
        for n in range(30):
            log.append(b"%d." % n * 100)
    segments = sorted((path / "segments").iterdir())
    content = bytearray(segments[which].read_bytes())
    if lost == "header":
        content[: L.DATA_START] = bytes(L.DATA_START)
        content[-64:] = bytes(64)  # and the footer
    else:
        at = content.index(L.BATCH_MAGIC, L.DATA_START)
        content[at : at + 64] = bytes(64)
    segments[which].write_bytes(bytes(content))
    with Place(str(path), None).open() as log:
        gauge, end = gauge_of(log)
        counted = [gauge.bytes_before(offset, end) for offset in range(end.end_offset + 1)]
        assert counted == sorted(counted)
        opened = log._opened
        assert opened is not None
        assert opened.appender.totals is not None
        assert counted[-1] == opened.appender.totals[0]
        assert gauge.offset_behind(counted[-1], 0, end) == end.end_offset
        gauge.close()
