"""The same faults for other stores: seglog keeps its promises, and the counting can tell who does not."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from tools.crashtest import peers
from tools.crashtest.peer_power import Disk, has_strace, replayed
from tools.crashtest.peer_stores import STORES, installed
from tools.crashtest.peers import LAYER

SEGLOG, SQLITE = list(STORES)[:2]
CARELESS = "SQLite:WAL, synchronous=NORMAL"  # as its documentation says: a power cut may take what was committed
ALL = [
    pytest.param(name, marks=pytest.mark.skipif(not installed(store), reason=name)) for name, store in STORES.items()
]

needs_strace = pytest.mark.skipif(sys.platform != "linux" or not has_strace(), reason="needs strace")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "FLIPS", 6)
    monkeypatch.setattr(peers, "KILLS", 1)
    monkeypatch.setattr(peers, "CUTS", 3)


def lost(name: str, fault: str) -> tuple[int, int]:
    """In how many faults, and how many records at most; nothing of seglog is lost against its promises."""
    tally = LAYER.work(f"{fault}/{name}/1")
    assert tally.findings == []
    times, _, most = peers.mean_and_max(tally.counts, f"{name} {fault}")
    assert times == tally.counts["faults"] > 0
    return times, most


@pytest.mark.parametrize("name", ALL)
def test_a_flipped_bit_is_counted_for_every_store(name: str) -> None:
    assert lost(name, "flip")[0] == 6


def test_p6_a_flipped_bit_costs_seglog_one_record_and_sqlite_may_read_it_wrong() -> None:
    assert lost(SEGLOG, "flip")[1] <= 1
    tally = LAYER.work(f"flip/{SQLITE}/1")
    assert tally.counts[f"{SQLITE} flip wrong"] > 0


@pytest.mark.parametrize("name", [SEGLOG, SQLITE])
def test_p2_nothing_acknowledged_is_lost_by_a_kill(name: str) -> None:
    assert lost(name, "kill") == (1, 0)


@needs_strace
def test_p1_nothing_acknowledged_is_lost_by_a_power_cut_and_the_careless_are_caught() -> None:
    assert lost(SEGLOG, "power")[1] == 0
    assert lost(CARELESS, "power")[1] > 1


@needs_strace
def test_what_seglog_would_lose_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STORES, CARELESS, STORES[CARELESS]._replace(name="seglog"))
    assert "lost" in LAYER.work(f"power/{CARELESS}/1").findings[0].what


def test_one_that_dies_or_hangs_does_not_open_and_the_others_are_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers.written(SQLITE, tmp_path / "good", 5)
    dies = "import os, sys; 'bad' in sys.argv[4] and os.kill(os.getpid(), 9)"
    reads = "from tools.crashtest.peer_stores import main; main(sys.argv[1:])"
    monkeypatch.setattr(peers, "PROGRAM", [sys.executable, "-c", f"{dies}; {reads}"])
    seen = peers.read_back(SQLITE, [tmp_path / "bad", tmp_path / "good"], 5)
    assert [found["opened"] for found in seen] == [False, True]


def test_the_table_adds_up_from_sums() -> None:
    counts = Counter({f"{SEGLOG} flip lost 0": 3, f"{SEGLOG} flip lost 1": 1, f"{SEGLOG} kill lost 0": 2})
    assert "| 0.2, 1 | 0.00 | 0 of 4 | 0 (of 2 kills) | ? |" in LAYER.table(counts)
    assert "SQLite" not in LAYER.table(counts)


# -- the simulated disk


def quoted(text: str) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


def disk_after(tmp_path: Path, *calls: str) -> Disk:
    """As if strace had recorded these calls of a program that works in /d, and then an acknowledgement."""
    trace = tmp_path / "trace"
    trace.write_text("".join(f"7 {call}\n" for call in (*calls, f"write(1, {quoted('0' + chr(10))}, 2) = 2")))
    (disk,) = replayed(trace, Path("/d"))
    return disk


OPEN = f"openat(AT_FDCWD, {quoted('/d/a')}, O_RDWR|O_CREAT|O_CLOEXEC, 0644) = 3"
WRITE = f"pwrite64(3, {quoted('data')}, 4, 0) = 4"


def test_what_was_not_synced_is_lost_with_its_name_or_its_bytes(tmp_path: Path) -> None:
    images = dict(disk_after(tmp_path, OPEN, WRITE).images())
    assert images["nothing unsynced"] == {}
    assert images["names"] == {"a": b""}
    assert images["names and sizes"] == {"a": bytes(4)}
    assert images["all but names"] == {}


def test_a_sync_keeps_bytes_and_name_and_what_follows_is_lost(tmp_path: Path) -> None:
    again = f"write(3, {quoted('over')}, 4) = 4"
    for sync in ("fsync(3) = 0", "fdatasync(3) = 0"):
        for _, image in disk_after(tmp_path, OPEN, WRITE, sync).images():
            assert image == {"a": b"data"}
        images = dict(disk_after(tmp_path, OPEN, WRITE, sync, again).images())
        assert images["nothing unsynced"] == {"a": b"data"}
        assert images["all but names"] == {"a": b"over"}


def test_an_unlinked_name_is_back_until_its_directory_is_synced(tmp_path: Path) -> None:
    gone = f"unlink({quoted('/d/a')}) = 0"
    directory = f"openat(AT_FDCWD, {quoted('/d')}, O_RDONLY|O_DIRECTORY) = 4"
    calls = (OPEN, WRITE, "fsync(3) = 0", gone)
    assert dict(disk_after(tmp_path, *calls).images())["nothing unsynced"] == {"a": b"data"}
    assert dict(disk_after(tmp_path, *calls, directory, "fsync(4) = 0").images())["nothing unsynced"] == {}


def test_a_rename_in_a_directory_and_calls_that_are_cut_in_two_are_understood(tmp_path: Path) -> None:
    directory = f"openat(AT_FDCWD, {quoted('/d')}, O_RDONLY|O_DIRECTORY) = 4"
    rename = f"renameat(4, {quoted('a')}, 4, {quoted('b')}) = 0"
    disk = disk_after(tmp_path, OPEN, WRITE, "fsync(3 <unfinished ...>", "<... fsync resumed>) = 0", directory, rename)
    assert dict(disk.images())["nothing unsynced"] == {"a": b"data"}
    assert dict(disk.images())["names"] == {"b": b"data"}


def test_a_share_without_its_store_is_told() -> None:
    with pytest.raises(LookupError):
        LAYER.work("flip/nothing:at all/0")
