"""KeyboardInterrupt and its like at every place of the calls that change a log."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import seglog
from seglog.consumers import waiting
from seglog.consumers.schedule import Schedule
from seglog.disk.memory import MemoryDisk
from seglog.testing import ManualClock
from tests.support.interrupts import Interrupt
from tests.support.place import Place, offsets, payloads
from tests.support.process import open_descriptors

PLACES_MAX = 2000
BOUND_SECONDS = 10.0


def bounded(work: Callable[[], Any]) -> Any:
    """What it returns; AssertionError if it hangs. In a thread of its own, as a leaked lock would hang it."""
    outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcome.result(BOUND_SECONDS)
    except concurrent.futures.TimeoutError:
        raise AssertionError("it hangs") from None


def interrupted(
    work: Callable[[], Any], place: int, *, in_disk: bool = False
) -> tuple[Interrupt, Any, BaseException | None]:
    """Run it with an interrupt at that place."""
    interrupt = Interrupt(place, in_disk=in_disk)
    result, error = None, None
    try:
        with interrupt:
            result = work()
    except BaseException as raised:
        error = raised
    return interrupt, result, error


def every_place(step: int = 1) -> Iterator[tuple[int, Place]]:
    """Every place, each with a disk of its own in memory; a test leaves when nothing was struck."""
    for place in range(0, PLACES_MAX * step, step):
        yield place, Place("log", MemoryDisk())
    raise AssertionError("it never ends")


def some_places(directory: Path, step: int = 11) -> Iterator[tuple[int, Place]]:
    """Some places, those in the disk included, each with a real directory."""
    for place in range(0, PLACES_MAX * step, step):
        yield place, Place(str(directory / str(place)), None)
    raise AssertionError("it never ends")


def accepted(log: seglog.Log[bytes], value: bytes) -> bool:
    """Whether an append after the interrupt works; if not, it must be because the log says so."""
    try:
        bounded(lambda: log.append(value))
    except seglog.LogFailed:
        return False
    return True


def closed(log: seglog.Log[bytes]) -> None:
    with contextlib.suppress(seglog.LogFailed):  # said already: the outcome of the append is not known
        bounded(log.close)
    bounded(log.close)


CALLS: dict[str, tuple[Callable[[seglog.Log[bytes]], Any], list[bytes]]] = {
    "append": (lambda log: log.append(b"x"), [b"x"]),
    "append_rotating": (lambda log: log.append(b"x" * 5000), [b"x" * 5000]),
    "append_many": (lambda log: log.append_many([b"x", b"y", b"z"]), [b"x", b"y", b"z"]),
    "submit": (lambda log: log.submit(b"x").result(BOUND_SECONDS), [b"x"]),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("real", [False, True])
def test_f63_an_append_that_is_interrupted_anywhere_is_in_or_out_and_the_log_goes_on(
    name: str, real: bool, tmp_path: Path
) -> None:
    call, values = CALLS[name]
    for place, at in some_places(tmp_path) if real else every_place():
        log = at.open(segment_bytes=4096)
        log.append(b"before")
        interrupt, _, error = interrupted(lambda log=log: call(log), place, in_disk=real)  # type: ignore[misc]
        goes_on = accepted(log, b"next")
        closed(log)
        log = at.open()
        there = payloads(log.read())
        outcomes = [[b"before", *middle, *[b"next"] * goes_on] for middle in ([], values)]
        assert there in outcomes, f"{interrupt.struck}: {there}"
        assert error is not None or values[0] in there, interrupt.struck
        log.append(b"after")
        log.close()
        assert at.verify().ok, interrupt.struck
        if not interrupt.struck:
            return


def test_f63_f64_waiters_are_answered_when_the_one_that_leads_them_is_interrupted() -> None:
    for place, at in every_place():
        log = at.open()
        log.append(b"before")
        interrupt, answers = lead_and_be_interrupted(log, place)
        goes_on = accepted(log, b"next")
        closed(log)
        with at.open() as log:
            there = payloads(log.read())
        for value, answer in answers.items():
            if isinstance(answer, int):
                assert there[answer] == value, interrupt.struck
            elif not isinstance(answer, (seglog.LogFailed, KeyboardInterrupt)):
                assert value not in there, f"{interrupt.struck}: {answer!r}, and it is there"
            assert there.count(value) <= 1
        assert (b"next" in there) == goes_on
        if not interrupt.struck:
            assert len(there) == 6
            return


def lead_and_be_interrupted(log: seglog.Log[bytes], place: int) -> tuple[Interrupt, dict[bytes, Any]]:
    """This thread leads a commit for three others, and is interrupted at that place. What each one was answered."""
    commits = log._commits
    assert commits is not None
    gate, over = threading.Event(), threading.Event()
    answers: dict[bytes, Any] = {}

    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + BOUND_SECONDS
        while not condition() and not over.is_set() and time.monotonic() < deadline:
            time.sleep(0)

    def wait(value: bytes) -> None:
        try:
            answers[value] = log.append(value)
        except BaseException as error:
            answers[value] = error

    waiters = [threading.Thread(target=wait, args=(b"w%d" % n,), daemon=True) for n in range(3)]

    def conduct() -> None:
        until(lambda: len(commits._queue) == 1)
        for waiter in waiters:
            waiter.start()
        until(lambda: len(commits._queue) == 4)
        gate.set()

    held = threading.Event()
    holder = threading.Thread(target=lambda: commits.exclusively(lambda: (held.set(), gate.wait())))  # type: ignore[func-returns-value, arg-type]
    holder.start()
    held.wait(BOUND_SECONDS)
    conductor = threading.Thread(target=conduct)
    conductor.start()
    interrupt, result, error = interrupted(lambda: log.append(b"led"), place)
    answers[b"led"] = result if error is None else error
    over.set()
    for thread in (conductor, holder, *waiters):
        thread.join(BOUND_SECONDS)
        assert not thread.is_alive(), f"interrupted at {interrupt.struck}: a waiter hangs"
    return interrupt, answers


@pytest.mark.parametrize("durability", ["always", "interval"])
def test_f63_a_sync_that_is_interrupted_anywhere_leaves_the_log_whole(durability: str) -> None:
    for place, at in every_place():
        log = at.open(durability=durability, sync_interval=3600)
        log.append(b"before")
        interrupt, _, _ = interrupted(log.sync, place)
        goes_on = accepted(log, b"next")
        closed(log)
        with at.open() as log:
            assert payloads(log.read()) == [b"before", b"next"][: 1 + goes_on], interrupt.struck
        if not interrupt.struck:
            return


@pytest.mark.parametrize("real", [False, True])
def test_f63_a_close_that_is_interrupted_anywhere_may_be_repeated_and_nothing_is_lost(
    real: bool, tmp_path: Path
) -> None:
    for place, at in some_places(tmp_path) if real else every_place():
        log = at.open()
        log.append(b"x")
        log.consumer("c").receive()
        interrupt, _, _ = interrupted(log.close, place, in_disk=real)
        closed(log)
        with at.open() as log:
            assert payloads(log.read()) == [b"x"], interrupt.struck
            assert log.append(b"y") == 1
        assert at.verify().ok, interrupt.struck
        if not interrupt.struck:
            return


ANSWERS: dict[str, Callable[[Any, Any], None]] = {
    "ack": lambda consumer, message: consumer.ack(message),
    "nack": lambda consumer, message: consumer.nack(message),
    "nack later": lambda consumer, message: consumer.nack(message, delay=60),
    "extend": lambda consumer, message: consumer.extend(message, seconds=60),
    "reject": lambda consumer, message: consumer.reject(message),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_f63_an_answer_that_is_interrupted_anywhere_counts_or_does_not(what: str) -> None:
    for place, at in every_place(step=7 if what == "reject" else 1):  # that opens a log of its own
        with at.open() as log:
            log.append_many([b"a", b"b", b"c"])
            consumer = log.consumer("c", lease=3600)
            first, second, _ = consumer.receive_many(3)
            interrupt, _, error = interrupted(lambda c=consumer, m=first: ANSWERS[what](c, m), place)  # type: ignore[misc]
            left = offsets(consumer.unacked())
            outcomes = [[0, 1, 2]] if what in ("nack", "nack later", "extend") or error else []
            assert left in [*outcomes, [1, 2]], interrupt.struck
            try:
                bounded(lambda c=consumer, m=second: c.ack(0, m))  # type: ignore[misc]
            except seglog.LogFailed:  # its sync was interrupted: what the file holds is known when it is opened again
                with contextlib.suppress(seglog.LogFailed):
                    consumer.close()
                log.consumer("c").ack(0, 1)
        with at.open() as log:
            assert offsets(log.consumer("c").unacked()) == [2], interrupt.struck
            assert len(log.dead_letters) <= 1
        assert at.verify().ok, interrupt.struck
        if not interrupt.struck:
            return


def test_f63_a_receive_that_is_interrupted_anywhere_loses_no_message() -> None:
    for place, at in every_place():
        with at.open() as log:
            log.append_many([b"a", b"b", b"c"])
            consumer = log.consumer("c")
            interrupt, given, _ = interrupted(lambda c=consumer: c.receive_many(2), place)  # type: ignore[misc]
            rest = bounded(lambda c=consumer: c.receive_many(10))  # type: ignore[misc]
            assert len(set(offsets((given or []) + rest))) == len(given or []) + len(rest), interrupt.struck
            consumer.ack(2)
        with at.open() as log:
            assert offsets(log.consumer("c").drain()) == [0, 1], interrupt.struck
        if not interrupt.struck:
            return


WAITING: dict[str, Callable[[seglog.Consumer[bytes]], Any]] = {
    "new": lambda consumer: None,
    "failed": lambda consumer: consumer.nack(*consumer.receive_many(4)),
    "leases ended": lambda consumer: consumer.receive_many(4),
    "scheduled": lambda consumer: consumer.receive(),
}


@pytest.mark.parametrize("what", WAITING)
def test_f63_what_an_interrupted_receive_was_about_to_give_comes_the_next_time(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "Schedule", lambda: Schedule(nearest=3))
    delays = [5.0 + n if what in ("new", "scheduled") else None for n in range(9)]
    for place, at in every_place(step=7):
        clock = ManualClock()
        with at.open(clock=clock) as log:
            log.append_many([seglog.Record(b"%d" % n, delay=delay) for n, delay in enumerate(delays)])
            consumer = log.consumer("c", lease=60 if what == "leases ended" else None)
            WAITING[what](consumer)
            clock.advance(0 if what == "new" else 61)
            interrupt, given, _ = interrupted(lambda c=consumer: c._delivery.take(3, None), place)  # type: ignore[misc]
            clock.advance(30)
            try:
                rest = bounded(lambda c=consumer: list(c.drain()))  # type: ignore[misc]
            except seglog.LogFailed:  # its sync was interrupted: what the file holds is known when it is opened again
                with contextlib.suppress(seglog.LogFailed):
                    consumer.close()
                continue
            assert sorted(offsets((given or []) + rest)) == list(range(9)), interrupt.struck
            assert consumer.stats().in_flight == 9, interrupt.struck
        if not interrupt.struck:
            return


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a log that was just made, and given to nobody
def test_f63_an_open_that_is_interrupted_anywhere_lets_go_of_the_lock_and_its_files(tmp_path: Path) -> None:
    directory = str(tmp_path / "log")
    with seglog.open(directory) as log:
        log.append(b"x")
    before = open_descriptors()
    for place in range(0, PLACES_MAX * 10, 23):
        interrupt, opened, error = interrupted(lambda: seglog.open(directory), place)
        if opened is not None:
            opened.close()
        del opened, error
        gc.collect()  # the traceback holds what was open
        with seglog.open(directory) as log:
            assert payloads(log.read()) == [b"x"], interrupt.struck
        del log
        assert open_descriptors() <= before, interrupt.struck
        if not interrupt.struck:
            break
    assert seglog.verify(directory).ok


FILLED = range(24)  # offsets in six segments


def filled(at: Place, **options: Any) -> seglog.Log[bytes]:
    """Six segments; one consumer that has acked the first two of them and more, one that holds a message."""
    log = at.open(segment_bytes=4096, **options)
    for number in range(0, len(FILLED), 4):
        log.append_many([b"%d" % n + bytes(900) for n in range(number, number + 4)])
    log.consumer("c").ack(*range(10))
    return log


Found = tuple[list[int], dict[str, list[int]]]  # offsets that can be read, and those that each consumer gets
END = len(FILLED)
LEFT = list(FILLED)[10:]
NOT_DONE: Found = (LEFT, {"c": LEFT})

CHANGES: dict[str, tuple[Callable[[seglog.Log[bytes]], Any], list[Found]]] = {  # and what may be found if it is done
    "compact": (lambda log: log.compact(), []),
    "purge": (lambda log: log.purge(), [([], {"c": []})]),
    "seek": (lambda log: log.consumer("c").seek(20), [(LEFT, {"c": [20, 21, 22, 23]})]),
    "seek back": (lambda log: log.consumer("c").seek("earliest"), [(LEFT, {"c": list(FILLED)})]),
    "register": (lambda log: log.consumer("new", start=12), [(LEFT, {"c": LEFT, "new": list(range(12, END))})]),
    "remove": (lambda log: log.remove_consumer("c"), [(LEFT, {})]),
}


@pytest.mark.parametrize("what", CHANGES)
def test_f63_a_change_that_is_interrupted_anywhere_is_done_or_not_done(what: str, tmp_path: Path) -> None:
    work, outcomes = CHANGES[what]
    # A lock on a file that nobody has any more is let go by the real disk alone.
    places = some_places(tmp_path, step=37) if what in ("register", "remove") else every_place(step=41)
    struck = 0
    for place, at in places:
        log = filled(at)
        interrupt = interrupted(lambda log=log: work(log), place)[0]  # type: ignore[misc]
        struck += bool(interrupt.struck)
        gc.collect()  # the traceback held what was open
        with contextlib.suppress(seglog.LogFailed, seglog.LogClosed):  # its sync was interrupted: known after reopening
            assert isinstance(bounded(log.stats), seglog.LogStats)
        closed(log)
        assert at.verify().ok, interrupt.struck
        with at.open(segment_bytes=4096) as log:
            assert (log.report.damage, log.report.missing, log.report.suspect) == ((), (), ()), interrupt.struck
            there = [offset for offset in offsets(log.read(on_gap=lambda gap: None)) if offset >= LEFT[0]]
            found = there, {name: offsets(log.consumer(name).drain()) for name in log.consumers()}
            assert found in [NOT_DONE, *outcomes], interrupt.struck
            assert log.compact().remaining
            assert log.append(b"y") == END
        if not interrupt.struck:
            assert found in (outcomes or [NOT_DONE])
            assert struck > 5
            return


LETTERS: dict[str, tuple[Callable[[seglog.Log[bytes]], Any], list[tuple[list[bytes], list[bytes]]]]] = {
    # the letters and the new records that may be found
    "delete": (lambda log: log.dead_letters.delete([0]), [([b"a", b"b"], []), ([b"b"], [])]),
    "purge": (lambda log: log.dead_letters.purge(), [([b"a", b"b"], []), ([], [])]),
    "replay": (
        lambda log: log.dead_letters.replay([0]),
        [([b"a", b"b"], []), ([b"a", b"b"], [b"a"]), ([b"b"], [b"a"])],
    ),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # one that strikes a finalizer
@pytest.mark.parametrize("what", LETTERS)
def test_f63_dead_letters_whose_deletion_or_replay_is_interrupted_anywhere_are_there_or_gone(
    what: str, tmp_path: Path
) -> None:
    work, outcomes = LETTERS[what]
    struck = 0
    for place, at in some_places(
        tmp_path, step=131
    ):  # a lock that nobody has any more is let go by the real disk alone
        log = at.open(segment_bytes=4096)
        log.append_many([b"a", b"b"])
        log.consumer("c").reject(0, 1)
        interrupt = interrupted(lambda log=log: work(log), place)[0]  # type: ignore[misc]
        struck += bool(interrupt.struck)
        gc.collect()  # the traceback held what was open
        closed(log)
        assert at.verify().ok, interrupt.struck
        with at.open(segment_bytes=4096) as log:
            found = [letter.payload for letter in log.dead_letters], payloads(log.read())[2:]
            assert found in outcomes, interrupt.struck
            log.consumer("c").reject(log.append(b"more"))
            assert [letter.payload for letter in log.dead_letters] == [*found[0], b"more"], interrupt.struck
        if not interrupt.struck:
            assert found == outcomes[-1]
            assert struck > 5
            return


def test_f63_an_append_that_drops_the_oldest_and_is_interrupted_anywhere_is_in_or_out() -> None:
    for place, at in every_place(step=3):
        log = filled(at, max_records=14, when_full="drop_oldest")
        interrupt, _, _ = interrupted(lambda log=log: log.append(b"x"), place)  # type: ignore[misc]
        goes_on = accepted(log, b"next")
        closed(log)
        assert at.verify().ok, interrupt.struck
        with at.open(segment_bytes=4096) as log:
            gaps: list[seglog.Gap] = []
            there = [m.payload for m in log.read(10, on_gap=gaps.append)]
            after = [b"x", b"next"][: 1 + goes_on]
            appended = [value for value in there if value in (b"x", b"next")]
            assert appended in (after, after[1:]), interrupt.struck
            assert len(there) >= 14 - 2, interrupt.struck
            assert {gap.reason for gap in gaps} <= {"dropped"}, interrupt.struck
            assert there[: len(there) - len(appended)] == [
                b"%d" % n + bytes(900) for n in range(len(FILLED) - len(there) + len(appended), len(FILLED))
            ], interrupt.struck
        if not interrupt.struck:
            return
