"""Group commit by itself: one batch for many, leadership handed on, every waiter answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

import seglog
from seglog.group_commit import GroupCommit, Ticket

BOUND_SECONDS = 30.0


class Writer:
    """What a commit does in these tests: counts, and gives offsets. `gate` holds a commit in the middle."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.next_offset = 0
        self.gate = threading.Event()
        self.gate.set()
        self.error: BaseException | None = None

    def __call__(self, tickets: list[Ticket]) -> None:
        assert self.gate.wait(BOUND_SECONDS)
        if self.error is not None:
            raise self.error
        self.batches.append(len(tickets))
        for ticket in tickets:
            ticket.base_offset = self.next_offset
            self.next_offset += len(ticket.payloads)


def ticket(size: int = 1, *, submitted: bool = False) -> Ticket:
    future: Future[int] | None = Future() if submitted else None
    return Ticket((b"x",), None, size, future)


def in_threads(count: int, work: Callable[[int], Any]) -> tuple[list[threading.Thread], dict[int, Any]]:
    outcomes: dict[int, Any] = {}

    def run(number: int) -> None:
        try:
            outcomes[number] = work(number)
        except BaseException as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    return threads, outcomes


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def joined(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(BOUND_SECONDS)
        assert not thread.is_alive(), "a waiter hangs"


def test_what_came_meanwhile_is_written_together() -> None:
    writer = Writer()
    commits = GroupCommit(writer, max_bytes=1000)
    writer.gate.clear()
    threads, _ = in_threads(9, lambda _: commits.commit(ticket()))
    until(lambda: len(commits._queue) == 8)
    writer.gate.set()
    joined(threads)
    assert writer.batches == [1, 8]
    assert writer.next_offset == 9


def test_a_batch_is_capped_and_the_order_stays() -> None:
    writer = Writer()
    commits = GroupCommit(writer, max_bytes=10)
    writer.gate.clear()
    tickets = [ticket(4) for _ in range(7)]
    threads: list[threading.Thread] = []
    for number, each in enumerate(tickets):
        threads += in_threads(1, lambda _, each=each: commits.commit(each))[0]  # type: ignore[misc]
        until(lambda number=number: len(commits._queue) == number)  # type: ignore[misc]
    writer.gate.set()
    joined(threads)
    assert writer.batches == [1, 2, 2, 2]
    assert [each.base_offset for each in tickets] == list(range(7))


def test_a_single_thread_leads_itself_and_needs_no_other() -> None:
    writer = Writer()
    commits = GroupCommit(writer, max_bytes=10)
    before = threading.active_count()
    for _ in range(100):
        commits.commit(ticket())
    assert threading.active_count() == before
    assert writer.batches == [1] * 100


def test_an_error_is_everybodys_and_the_next_commit_is_tried() -> None:
    writer = Writer()
    commits = GroupCommit(writer, max_bytes=1000)
    writer.gate.clear()
    writer.error = seglog.DiskFull(28, "full")
    threads, outcomes = in_threads(5, lambda _: commits.commit(ticket()))
    until(lambda: len(commits._queue) == 4)
    writer.gate.set()
    joined(threads)
    assert {type(outcome) for outcome in outcomes.values()} == {seglog.DiskFull}
    writer.error = None
    commits.commit(ticket())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit(), MemoryError()], ids=repr)
def test_f64_a_leader_that_is_struck_answers_its_waiters_and_hands_on(error: BaseException) -> None:
    writer = Writer()
    commits = GroupCommit(writer, max_bytes=5)
    writer.gate.clear()
    threads, outcomes = in_threads(9, lambda _: commits.commit(ticket()))
    until(lambda: len(commits._queue) == 8)
    writer.error = error
    writer.gate.set()
    joined(threads)
    kinds = {type(outcome) for outcome in outcomes.values()}
    assert kinds <= {type(error), seglog.LogFailed}
    assert type(error) in kinds
    writer.error = None
    commits.commit(ticket())
    assert writer.batches == [1]


def test_f64_a_leader_whose_thread_ends_without_a_word_is_noticed() -> None:
    writer = Writer()
    commits = GroupCommit(writer, max_bytes=1000)
    dead = ticket()
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    dead.leader = thread
    commits._leader = dead
    threads, outcomes = in_threads(3, lambda _: commits.commit(ticket()))
    joined(threads)
    assert set(outcomes.values()) == {None}
    assert isinstance(dead.error, seglog.LogFailed)


def test_f64_leadership_that_was_lost_in_an_interrupt_is_found_again() -> None:
    """Each state that an interrupt may leave behind, and a waiter that comes upon it."""
    for submitted in (False, True):
        writer = Writer()
        commits = GroupCommit(writer, max_bytes=1000)
        commits.submit(ticket(submitted=True))  # so that there is a helper
        until(lambda w=writer: w.batches == [1])  # type: ignore[misc]
        writer.gate.clear()
        first = ticket(submitted=submitted)
        threads: list[threading.Thread] = []
        if submitted:
            with commits._mutex:
                commits._leader = first  # made the leader, and nobody was woken
        else:
            threads += in_threads(1, lambda _, c=commits, f=first: c.commit(f))[0]  # type: ignore[misc]
            until(lambda c=commits, f=first: c._leader is f)  # type: ignore[misc]
        others, outcomes = in_threads(2, lambda _, c=commits: c.commit(ticket()))  # type: ignore[misc]
        until(lambda c=commits: len(c._queue) == 2)  # type: ignore[misc]
        writer.gate.set()
        joined([*threads, *others])
        assert set(outcomes.values()) == {None}


def test_submitted_tickets_are_led_by_a_helper_thread_or_taken_along() -> None:
    writer = Writer()
    commits = GroupCommit(writer, max_bytes=1000)
    futures = []
    for n in range(50):
        each = ticket(submitted=True)
        assert each.future is not None
        futures.append(each.future)
        commits.submit(each)
        if n % 7 == 0:
            commits.commit(ticket())
    assert len({future.result(BOUND_SECONDS) for future in futures}) == 50


def test_a_callback_of_a_future_may_append() -> None:
    with seglog.open(":memory:") as log:
        done: Future[int] = Future()
        log.submit(b"x").add_done_callback(lambda _: done.set_result(log.append(b"y")))
        assert done.result(BOUND_SECONDS) == 1


def test_exclusively_waits_for_the_commit_under_way_and_comes_before_what_is_queued() -> None:
    writer = Writer()
    commits = GroupCommit(writer, max_bytes=1000)
    writer.gate.clear()
    threads, _ = in_threads(1, lambda _: commits.commit(ticket()))
    until(lambda: commits._leader is not None)
    threads += in_threads(2, lambda _: commits.commit(ticket()))[0]
    until(lambda: len(commits._queue) == 2)
    seen: list[int] = []
    threads += in_threads(1, lambda _: commits.exclusively(lambda: seen.append(len(writer.batches))))[0]
    until(lambda: len(commits._queue) == 3)
    writer.gate.set()
    joined(threads)
    assert seen == [1]
    assert writer.batches == [1, 2]


def test_exclusively_raises_what_its_action_raises_and_hands_on() -> None:
    commits = GroupCommit(Writer(), max_bytes=1000)
    for error in (KeyError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            commits.exclusively(lambda error=error: (_ for _ in ()).throw(error))  # type: ignore[misc]
        commits.commit(ticket())


def test_f93_close_finishes_what_is_queued_refuses_the_rest_and_runs_its_action_once() -> None:
    writer = Writer()
    commits = GroupCommit(writer, max_bytes=1)
    writer.gate.clear()
    threads, outcomes = in_threads(5, lambda _: commits.commit(ticket()))
    until(lambda: len(commits._queue) == 4)
    ran: list[int] = []
    closers, closed = in_threads(3, lambda _: commits.close(lambda: ran.append(len(writer.batches))))
    until(lambda: commits._closed)
    with pytest.raises(seglog.LogClosed):
        commits.commit(ticket())
    with pytest.raises(seglog.LogClosed):
        commits.submit(ticket(submitted=True))
    writer.gate.set()
    joined([*threads, *closers])
    assert ran == [5]
    assert set(outcomes.values()) == set(closed.values()) == {None}


def test_f93_closing_races_with_everything_and_nobody_waits_for_ever() -> None:
    for _ in range(30):
        log = seglog.open(":memory:")
        consumer = log.consumer("c")
        log.append(b"x")
        calls: list[Callable[[], Any]] = [
            lambda log=log: log.append(b"y"),  # type: ignore[misc]
            lambda log=log: log.append_many([b"y", b"z"]),  # type: ignore[misc]
            lambda log=log: log.submit(b"y").result(BOUND_SECONDS),  # type: ignore[misc]
            log.sync,
            lambda log=log: list(log.read()),  # type: ignore[misc]
            log.stats,
            log.compact,
            lambda c=consumer: c.receive(timeout=BOUND_SECONDS),  # type: ignore[misc]
            lambda c=consumer: c.ack(0),  # type: ignore[misc]
            lambda c=consumer: list(c),  # type: ignore[misc]
            log.close,
            log.close,
        ]
        threads, outcomes = in_threads(len(calls), lambda n, calls=calls: calls[n]())  # type: ignore[misc]
        joined(threads)
        for outcome in outcomes.values():
            assert not isinstance(outcome, BaseException) or isinstance(outcome, seglog.LogClosed), repr(outcome)
