"""fork() with an open log: the child's handle is dead, the parent's is untouched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.disk.local import LocalDirectory, LocalFile
from seglog.source import Source
from tests.support.place import offsets, payloads
from tools.crashtest.zygote import ROOT

BOUND_SECONDS = 30.0  # far more than any of this takes

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


class Gate:
    """Holds the first call of a method of the disk that another thread makes, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: type, name: str) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        inner, ours, first = getattr(where, name), threading.current_thread(), [True]

        def held(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not ours and first:
                first.clear()
                self.entered.set()
                assert self.opened.wait(BOUND_SECONDS)
            return inner(*args, **kwargs)

        monkeypatch.setattr(where, name, held)


STATES: dict[str, tuple[type, str, Callable[[seglog.Log[bytes], seglog.Consumer[bytes]], object]]] = {
    "a commit": (LocalFile, "datasync", lambda log, c: log.append(b"busy")),
    "a rotation": (LocalDirectory, "rename", lambda log, c: log.append(bytes(4000))),
    "a compaction": (LocalDirectory, "unlink", lambda log, c: log.compact()),
    "an ack": (LocalFile, "datasync", lambda log, c: c.ack(log.next_offset - 1)),
    "a nack": (LocalFile, "datasync", lambda log, c: c.nack(log.next_offset - 1)),
    "a rejection": (LocalFile, "datasync", lambda log, c: c.reject(log.next_offset - 1)),
    "registering a consumer": (LocalDirectory, "rename", lambda log, c: log.consumer("new")),
    "a step back": (LocalFile, "datasync", lambda log, c: c.seek("earliest")),
    "reading": (LocalFile, "read", lambda log, c: list(log.read())),
    "statistics": (LocalFile, "size", lambda log, c: log.stats()),
    "closing": (LocalFile, "datasync", lambda log, c: log.close()),
    "waiting for a message": (Source, "wait_beyond", lambda log, c: c.receive(timeout=1)),
    "waiting for room": (Source, "wait_for_change", lambda log, c: log.append(bytes(89_500), timeout=1)),
}


@pytest.mark.parametrize("state", STATES)
def test_f58_p11_fork_in_every_state_leaves_a_dead_handle_in_the_child_and_a_whole_log_to_the_parent(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    log = seglog.open(path, segment_bytes=4096, max_bytes=90_000)
    log.append_many([b"x" * 900] * 4)
    log.append_many([b"x" * 900] * 4)
    consumer = log.consumer("c")
    consumer.ack(*consumer.receive_many(7))
    log.consumer("d").ack(*range(7))
    assert consumer.receive() is not None
    where, name, work = STATES[state]
    gate = Gate(monkeypatch, where, name)
    outcome: list[BaseException] = []

    def busy() -> None:
        try:
            work(log, consumer)
        except seglog.LogFull:
            assert state == "waiting for room"
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=busy)
    thread.start()
    assert gate.entered.wait(BOUND_SECONDS), "it never came there"
    told, heard = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(int(BOUND_SECONDS))  # a hang ends, and is seen
            every_call_says_so(log, consumer)
            os.write(told[1], b"+")
            os.close(heard[1])
            os.read(heard[0], 1)  # until the parent closes its end
            os._exit(0)
        except BaseException:
            os.write(told[1], traceback.format_exc().encode())
        finally:
            os._exit(1)
    os.close(told[1])
    said = os.read(told[0], 4096).decode()
    gate.opened.set()
    thread.join(BOUND_SECONDS)
    assert said == "+", said or "the child hangs"
    assert not thread.is_alive()
    assert outcome == []
    log.close()
    with seglog.open(path, segment_bytes=4096) as again:  # at once, although the child lives
        assert again.report.clean
        assert offsets(again.read())[-1] == again.append(b"y") - 1
        again.consumer("c").ack(0)
        again.consumer("d")
        again.compact()
    for fd in (told[0], heard[0], heard[1]):
        os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert seglog.verify(path).ok


def every_call_says_so(log: seglog.Log[bytes], consumer: seglog.Consumer[bytes]) -> None:
    """None hangs, none answers."""
    calls: list[Callable[[], object]] = [
        lambda: log.append(b"child"),
        lambda: log.append_many([b"child"]),
        lambda: log.submit(b"child"),
        log.sync,
        lambda: log.wait_durable(0),
        lambda: log.get(0),
        lambda: list(log.read()),
        log.stats,
        log.consumers,
        log.compact,
        log.purge,
        lambda: log.consumer("c"),
        lambda: log.consumer("another"),
        lambda: log.remove_consumer("c"),
        lambda: log.first_offset,
        lambda: log.next_offset,
        lambda: log.durable_offset,
        lambda: len(log.dead_letters),
        lambda: list(log.dead_letters),
        consumer.receive,
        lambda: next(iter(consumer)),
        lambda: list(consumer.drain()),
        lambda: list(consumer.unacked()),
        lambda: consumer.ack(7),
        lambda: consumer.nack(7),
        lambda: consumer.reject(7),
        lambda: consumer.extend(7, seconds=1),
        lambda: consumer.seek(0),
        lambda: len(consumer),
        consumer.stats,
    ]
    wrong = []
    for number, call in enumerate(calls):
        try:
            wrong.append((number, call()))
        except seglog.LogForked:
            continue
        except Exception as error:
            wrong.append((number, error))
    assert wrong == []
    consumer.close()
    log.close()
    repr(log), repr(consumer), bool(log), bool(consumer)
