"""One writer, any number of readers; one holder of a consumer: kernel locks, between processes and inside one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import seglog
from tests.support.place import payloads
from tools.crashtest.zygote import Start

CHILDREN = "tests.support.children:"


def test_p11_f55_a_second_writer_is_told_who_holds_the_log(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    holder = start(CHILDREN + "hold", path)
    assert holder.line() == "open"
    with pytest.raises(seglog.LogLocked, match=rf"pid {holder.pid} "):
        seglog.open(path)
    other = start(CHILDREN + "try_to_open", path, "rw")
    assert f"pid {holder.pid} " in (other.line() or "")
    holder.tell()
    assert holder.line() is None
    with seglog.open(path) as log:
        assert log.report.clean  # whoever was refused disturbed nothing
        assert payloads(log.read()) == [b"held"]


def test_f55_a_second_writer_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with seglog.open(tmp_path / "log") as log:
        for _ in range(3):
            with pytest.raises(seglog.LogLocked, match=f"pid {os.getpid()} "):
                seglog.open(tmp_path / "log")
        assert log.append(b"x") == 0
    with seglog.open(tmp_path / "log") as log:
        assert log.append(b"y") == 1


@pytest.mark.parametrize("by", ["symlink", "relative", "dots", "hard link"])
def test_f55_the_same_log_by_another_name_is_the_same_log(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    with seglog.open(path):
        if by == "symlink":
            other = tmp_path / "link"
            other.symlink_to(path)
        elif by == "relative":
            monkeypatch.chdir(tmp_path)
            other = Path("log")
        elif by == "dots":
            other = path / "segments" / ".."
        else:
            other = tmp_path / "twin"
            (other / "segments").mkdir(parents=True)
            os.link(path / "lock", other / "lock")
        with pytest.raises(seglog.LogLocked):
            seglog.open(other)


def test_p11_f56_a_lock_dies_with_its_holder(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    for _ in range(3):
        holder = start(CHILDREN + "hold", path)
        assert holder.line() == "open"
        holder.kill()
        assert holder.wait() == -signal.SIGKILL
        with seglog.open(path) as log:  # at once: nothing has to grow stale
            assert set(payloads(log.read())) == {b"held"}


def test_f59_other_openings_of_the_lock_file_that_are_closed_do_not_drop_the_lock(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with seglog.open(path) as log:
        with (path / "lock").open("rb") as file:
            file.read()
        seglog.verify(path)
        seglog.open(path, "r").close()
        other = start(CHILDREN + "try_to_open", str(path), "rw")
        assert (other.line() or "").startswith("LogLocked")
        log.append(b"x")


def test_f89_p11_a_consumer_is_held_by_one_process(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with seglog.open(path) as log:
        holder = start(CHILDREN + "hold_consumer", path, "r", "c")
        assert holder.line() == "open"
        with pytest.raises(seglog.ConsumerBusy, match="'c'"):
            log.consumer("c")
        with pytest.raises(seglog.ConsumerBusy):
            log.remove_consumer("c")
        log.consumer("other").close()
        assert list(log.consumers()) == ["c", "other"]
        holder.kill()
        holder.wait()
        log.consumer("c")


def test_p11_any_number_of_readers_open_beside_the_writer(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with seglog.open(path) as log:
        log.append(b"x")
        readers = [start(CHILDREN + "try_to_open", path, "r") for _ in range(5)]
        assert [reader.line() for reader in readers] == ["open 1"] * 5


def test_p11_verify_beside_a_writer_that_opens_and_closes_never_makes_it_fail(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    seglog.open(path).close()
    for _ in range(20):
        opener = start(CHILDREN + "try_to_open", path, "rw")
        assert seglog.verify(path).ok  # holds the lock for an instant, to learn whether a writer lives
        assert opener.line() == "open 0"
