"""What the files hold: nothing but what belongs there, and what another version may make of them."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType

import pytest

import seglog
from seglog.catalog import Catalog
from seglog.disk.local import LocalDisk
from seglog.format import layout as L
from seglog.segment_reader import Block
from tests.support.place import offsets, payloads


def test_f85_padding_and_unused_bytes_are_zero(tmp_path: Path) -> None:
    """What was never written reads zero, and what lies between batches is padding: no memory leaks to the disk."""
    with seglog.open(tmp_path, segment_bytes=1 << 20) as log:
        for n in range(50):
            log.append(b"%d" % n * (n % 13))
        log.consumer("c").ack(*range(50))
        data = min((tmp_path / "segments").iterdir()).read_bytes()
        root = LocalDisk().open(str(tmp_path), create=False)
        segments = root.directory("segments")
        catalog = Catalog(segments)
        reader = catalog.open(catalog.names[0])
        end = L.DATA_START
        for block in reader.walk(L.DATA_START, 0, len(data)):
            assert isinstance(block, Block)
            body = data[block.position + L.BATCH_HEADER_BYTES : block.end]
            assert body[block.header.stored_length : L.aligned(block.header.stored_length)].strip(b"\0") == b""
            end = block.end
        for handle in (reader, segments, root):
            handle.close()
    size = L.SEGMENT_HEADER.size
    assert data[end:].strip(b"\0") == b""
    assert data[size : L.HEADER_COPY_AT].strip(b"\0") == b""
    assert data[L.HEADER_COPY_AT + size : L.DATA_START].strip(b"\0") == b""


@pytest.mark.parametrize("segment_bytes", [4096, 1 << 20])
def test_f91_a_compressed_log_goes_on_over_restarts_with_and_without_compression(
    segment_bytes: int, tmp_path: Path
) -> None:
    values = [b"%d " % n * 200 for n in range(60)]
    for part in range(6):
        compression = "zstd" if part % 3 != 2 else None
        with seglog.open(tmp_path, segment_bytes=segment_bytes, compression=compression) as log:
            log.append_many(values[10 * part : 10 * part + 5])
            for value in values[10 * part + 5 : 10 * part + 10]:
                log.append(value)
            assert payloads(log.read()) == values[: 10 * part + 10]
        report = seglog.verify(tmp_path)
        assert (report.ok, report.records, report.torn_tail_bytes) == (True, 10 * part + 10, 0)
    with seglog.open(tmp_path) as log:
        consumer = log.consumer("c")
        assert offsets(consumer.drain()) == list(range(60))
        assert consumer.stats().lag_bytes < sum(map(len, values))


def test_f45_p9_signals_that_come_all_the_time_change_nothing(tmp_path: Path) -> None:
    """A handler that returns: system calls are taken up again. One that raises is what test_interrupts is about."""
    came = 0

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came += 1

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        with seglog.open(tmp_path, segment_bytes=8192) as log:
            consumer = log.consumer("c")
            deadline = time.monotonic() + 30
            count = 0
            while (count < 200 or came < 50) and time.monotonic() < deadline:
                log.append_many([bytes(300)] * 3)
                consumer.ack(*consumer.receive_many(3))
                count += 1
            log.compact()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert came >= 50
    with seglog.open(tmp_path) as log:
        assert log.next_offset == 3 * count
        assert len(log.consumer("c")) == 0
    assert seglog.verify(tmp_path).ok


# Where it strikes in a finalizer, Python prints it and goes on; that is nobody's fault.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_f45_a_handler_that_raises_now_and_then_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    class Struck(BaseException):
        pass

    def handler(number: int, frame: FrameType | None) -> None:
        raise Struck

    before = signal.signal(signal.SIGALRM, handler)
    acknowledged: dict[int, bytes] = {}
    struck = 0
    try:
        for life in range(40):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.002 + life * 0.0003)
                with seglog.open(tmp_path, segment_bytes=8192) as log:
                    for n in range(2000):
                        value = b"%d.%d" % (life, n)
                        acknowledged[log.append(value)] = value
            except (Struck, seglog.LogFailed):
                struck += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            seglog.open(tmp_path).close()  # the lock was let go
    finally:
        signal.signal(signal.SIGALRM, before)
    assert struck > 10
    with seglog.open(tmp_path) as log:
        there = {message.offset: message.payload for message in log.read()}
    for offset, value in acknowledged.items():
        assert there[offset] == value
    assert seglog.verify(tmp_path).ok
