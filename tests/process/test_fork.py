"""fork() with an open log: the child's handle is dead, the parent's is untouched."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import seglog
from tests.support.place import offsets, payloads
from tests.support.zygote import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # that is what is tested here


def in_child(work: Callable[[], None]) -> int:
    """Run it in a forked child of this very process; its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            warnings.simplefilter("error")
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_f58_p11_the_childs_handles_say_so_and_the_parent_goes_on(tmp_path: Path) -> None:
    log = seglog.open(tmp_path / "log", segment_bytes=4096)
    log.append_many([b"a", b"b"])
    consumer = log.consumer("c")
    message = consumer.receive()
    assert message is not None
    reading = log.read()

    def child() -> None:
        calls: list[Callable[[], object]] = [
            lambda: log.append(b"child"),
            lambda: log.append_many([b"child"]),
            lambda: log.submit(b"child"),
            log.sync,
            lambda: log.get(0),
            log.read,
            lambda: next(reading),
            log.stats,
            log.compact,
            lambda: log.consumer("d"),
            lambda: log.next_offset,
            consumer.receive,
            lambda: consumer.ack(0),
            lambda: consumer.seek(0),
        ]
        for call in calls:
            with pytest.raises(seglog.LogForked):
                call()
        consumer.close()
        log.close()
        log.close()

    assert in_child(child) == 0
    assert log.append(b"c") == 2
    consumer.ack(message)
    with pytest.raises(seglog.LogLocked):
        seglog.open(tmp_path / "log")
    for _ in range(10):
        log.append(bytes(1500))
    assert offsets(consumer.drain()) == list(range(1, 13))
    log.close()
    assert seglog.verify(tmp_path / "log").ok
    with seglog.open(tmp_path / "log") as again:
        assert again.report.clean
        assert payloads(again.read())[:3] == [b"a", b"b", b"c"]


def test_f58_a_child_opens_logs_of_its_own_and_reads_its_parents(tmp_path: Path) -> None:
    log = seglog.open(tmp_path / "log")
    log.append(b"a")

    def child() -> None:
        with pytest.raises(seglog.LogLocked):
            seglog.open(tmp_path / "log")
        with seglog.open(tmp_path / "log", "r") as reader:
            assert payloads(reader.read()) == [b"a"]
        with seglog.open(tmp_path / "own") as own:
            own.append(b"b")

    assert in_child(child) == 0
    log.append(b"c")
    log.close()
    with seglog.open(tmp_path / "own") as own:
        assert payloads(own.read()) == [b"b"]


def test_f58_the_lock_is_free_when_the_parent_closes_although_a_child_lives(tmp_path: Path) -> None:
    log = seglog.open(tmp_path / "log")
    heard, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        os.read(heard, 1)  # until the parent closes its end
        os._exit(0)
    try:
        os.close(heard)
        log.close()
        with seglog.open(tmp_path / "log") as again:
            again.append(b"x")
    finally:
        os.close(told)
        os.waitpid(pid, 0)


SCRIPT = """
import os, sys, threading, seglog
path, how = sys.argv[1:]
log = seglog.open(path)
consumer = log.consumer("c")
log.append(b"parent")
busy = threading.Event()
def work():
    for n in range(200):
        log.append(b"busy")
        busy.set()
thread = threading.Thread(target=work)
thread.start()
busy.wait(30)
pid = os.fork()
if pid == 0:
    if how == "exit":
        sys.exit(0)          # runs what atexit and the interpreter's end run
    if how == "collect":
        import gc
        del log, consumer, thread
        gc.collect()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
thread.join()
log.append(b"last")
print(log.next_offset)
log.close()
"""


@pytest.mark.parametrize("how", ["exit", "collect", "at once"])
def test_f58_a_child_forked_from_a_busy_parent_may_exit_in_any_way(how: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT, str(tmp_path / "log"), how],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout.strip()) == (0, "202"), done.stderr
    report = seglog.verify(tmp_path / "log")
    assert report.ok
    assert report.records == 202
