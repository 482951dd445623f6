"""Real file systems that lose power: what the layer may leave on a device, that it notices, and that it cleans up."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from seglog.disk.local import LocalFile
from tools.crashtest.block_device import FILE_SYSTEMS, Device, Refused, available, on_device
from tools.crashtest.block_images import BLOCK, SECTOR, Blocks, Entry, crashed, entries_of, pending, written
from tools.crashtest.block_server import ENTRY, FLUSH
from tools.crashtest.campaign import CannotRun
from tools.crashtest.disk import LAYER

ROOT = Path(__file__).resolve().parents[2]


def why_not() -> str:
    """Why no ext4 can be crashed here; "" if one can."""
    try:
        return "" if FILE_SYSTEMS["ext4"] in available() else "needs mkfs.ext4 and the kernel's ext4"
    except CannotRun as error:
        return str(error)


real = pytest.mark.skipif(bool(why_not()), reason=why_not())


# What a device may hold after a crash


def entry(number: int, offset: int, data: bytes = b"") -> Entry:
    return Entry(number, offset, data)


def content(blocks: Blocks, offset: int, length: int) -> bytes:
    first, last = offset // BLOCK, (offset + length - 1) // BLOCK
    whole = b"".join(blocks.get(number, bytes(BLOCK)) for number in range(first, last + 1))
    return whole[offset - first * BLOCK :][:length]


def test_the_log_is_read_as_it_was_written() -> None:
    log = ENTRY.pack(4096, 3) + b"abc" + ENTRY.pack(FLUSH, 0) + ENTRY.pack(0, 5) + b"to"  # cut short
    found = entries_of(log)
    assert [(each.end, each.flush, each.data) for each in found] == [(19, False, b"abc"), (35, True, b"")]


def test_bytes_are_written_across_blocks() -> None:
    blocks: Blocks = {1: b"x" * BLOCK}
    written(blocks, BLOCK - 2, b"abcd")
    assert content(blocks, BLOCK - 3, 6) == b"\0abcdx"


LOG = [
    entry(1, 0, b"A" * BLOCK),
    entry(2, BLOCK, b"B" * BLOCK),
    entry(3, FLUSH),
    entry(4, 0, b"C" * BLOCK),
    entry(5, 2 * BLOCK, b"D" * 2 * BLOCK),
    entry(6, BLOCK, b"E" * SECTOR),
]


def test_what_is_pending_is_what_came_after_the_last_flush() -> None:
    assert pending(LOG) == [0, 1, 2, 0, 1, 2, 3]


def images(step: int) -> list[Blocks]:
    return [crashed({}, LOG, step, random.Random(seed), unit=SECTOR).blocks for seed in range(300)]


def test_what_was_flushed_is_there_and_of_the_rest_whole_sectors() -> None:
    for blocks in images(6):
        assert content(blocks, BLOCK + SECTOR, BLOCK - SECTOR) == b"B" * (BLOCK - SECTOR)
        for at in range(0, 4 * BLOCK, SECTOR):
            assert content(blocks, at, SECTOR) in [bytes([byte]) * SECTOR for byte in b"ABCDE\0"]
            assert at >= BLOCK or content(blocks, at, SECTOR)[:1] in (b"A", b"C")


def test_what_was_not_flushed_survives_in_every_order_and_torn() -> None:
    left = {(content(each, 0, 1), content(each, BLOCK, 1), content(each, 2 * BLOCK, 1)) for each in images(6)}
    assert left >= {(c, e, d) for c in (b"A", b"C") for e in (b"B", b"E") for d in (b"\0", b"D")}
    assert any(0 < content(each, 0, BLOCK).count(b"C") < BLOCK for each in images(6)), "torn"


def test_a_crash_knows_nothing_of_what_comes_after_it() -> None:
    assert {crashed({}, LOG, 3, random.Random(seed), unit=SECTOR).time for seed in range(9)} == {3}
    for blocks in images(3):
        assert content(blocks, 0, 2 * BLOCK) == b"A" * BLOCK + b"B" * BLOCK
        assert content(blocks, 2 * BLOCK, BLOCK) == bytes(BLOCK)


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CannotRun, match="root"):
        list(LAYER.shares(0))


@pytest.mark.parametrize("place", ["ext4", "ext4/acks", "ext5/acks/0/0", "ext4/no-such/0/0", "ext4/acks/0/x"])
def test_a_wrong_place_is_a_wrong_place(place: str) -> None:
    with pytest.raises((LookupError, ValueError)):
        LAYER.replay(place)


# Real ones


def traces() -> list[str]:
    """Loop devices and mounts that are ours, seen from where the tests run."""
    backed = [path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [each for each in [*backed, *Path("/proc/self/mounts").read_text().splitlines()] if "seglog-disk-" in each]


@pytest.fixture
def clean() -> Callable[[], None]:
    """Demand that nothing is left of what this test mounts; others may be at it beside us."""
    before = set(traces())

    def demand() -> None:
        until = time.monotonic() + 30
        while left := set(traces()) - before:
            assert time.monotonic() < until, left
            time.sleep(0.01)

    return demand


@real
def test_p1_ext4_loses_power_and_the_log_loses_nothing() -> None:
    for share in ("ext4/acks/1", "ext4-writeback/rotations/0"):
        tally = LAYER.work(share)
        assert not tally.findings, tally.findings[0].what
        assert tally.counts["images"] >= 10
        assert not [name for name in tally.counts if name.startswith("refused")]


@real
def test_a_sync_that_is_missing_is_noticed_and_replayed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clean: Callable[[], None]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(LocalFile, "datasync", lambda _: None)
    tally = LAYER.work("ext4/rotations/1")
    assert tally.findings
    assert list(tmp_path.glob("*.img")), "the disk is kept"
    assert any(LAYER.replay(found.place).findings for found in tally.findings)
    clean()


@real
def test_every_write_and_flush_is_in_the_log_in_order() -> None:
    def work(device: Device) -> tuple[Blocks, Blocks, int, list[Entry]]:
        made = device.made()
        device.load(made)
        with device.mounted() as directory, (directory / "file").open("wb") as file:
            file.write(b"a record" * 1000)
            file.flush()
            os.fsync(file.fileno())
            synced = device.time()
        return made, device.blocks(), synced, device.entries()

    made, after, synced, entries = on_device(FILE_SYSTEMS["ext4"], work)
    assert crashed(made, [*entries, entry(0, FLUSH)], len(entries) + 1, random.Random(0), unit=SECTOR).blocks == after
    done = [each for each in entries if each.end <= synced]
    assert done[-1].flush, "fsync returns behind a flush"
    assert any(b"a record" * 100 in each.data for each in done)


@real
def test_what_cannot_be_mounted_is_no_finding_of_ours() -> None:
    def work(device: Device) -> None:
        device.load({})
        with pytest.raises(Refused), device.mounted():
            pass

    on_device(FILE_SYSTEMS["ext4"], work)


@real
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind_an_exception(error: type[BaseException], clean: Callable[[], None]) -> None:
    def work(device: Device) -> None:
        device.load(device.made())
        with device.mounted():
            assert traces()
            raise error

    with pytest.raises(error):
        on_device(FILE_SYSTEMS["ext4"], work)
    clean()


KILLED = """
from tools.crashtest.block_device import FILE_SYSTEMS, on_device
def work(device):
    device.load(device.made())
    with device.mounted() as directory, (directory / "file").open("wb") as file:
        file.write(b"not synced")
        file.flush()
        print("mounted", flush=True)
        device.stopping.wait(60)
on_device(FILE_SYSTEMS["ext4"], work)
"""


@real
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_it_is_killed(number: int, tmp_path: Path, clean: Callable[[], None]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}  # an empty directory stays
    with subprocess.Popen([sys.executable, "-c", KILLED], env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "mounted\n"
        assert traces()
        child.send_signal(number)
        assert child.wait(60) != 0
    clean()
