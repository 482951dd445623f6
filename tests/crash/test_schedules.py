"""Threads in chosen orders: the first schedules of every scenario, and bugs that are only seen in some of them.

The rest is `tools/crashtest/run threads`. SEGLOG_DEEP tries more.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from seglog.appender import Appender
from seglog.consumers.registry import Registry
from seglog.group_commit import GroupCommit, Ticket
from seglog.source import Source
from tools.crashtest import threads
from tools.crashtest.campaign import Tally
from tools.crashtest.scenarios import SCENARIOS
from tools.crashtest.scheduler import Scheduler, Stuck
from tools.crashtest.threads import LAYER, Planned, straight, tried

DEEP = int(os.environ.get("SEGLOG_DEEP", "1"))
MOST = 50 * DEEP  # schedules of each share


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_p11_in_every_order_of_threads_the_promises_hold(name: str) -> None:
    length = len(straight(name))
    tally = Tally()
    for share in (f"{name}/0", f"{name}/{length // 2}", f"{name}/chance/0"):
        tally.add(LAYER.work(share, MOST))
    assert not tally.findings, tally.findings[0]
    assert tally.counts["schedules"] > 60


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_the_same_choices_lead_to_the_same_run(name: str) -> None:
    plan = {len(straight(name)) // 3: 1}
    first, second = Planned(plan), Planned(plan)
    assert tried(name, first) == tried(name, second) == ""
    assert first.choices == second.choices


# -- bugs


def hands_over_without_a_word(patch: pytest.MonkeyPatch) -> None:
    """The next leader is not woken, and finds out when it looks after a second."""
    pass_on = GroupCommit._pass_on

    class Deaf:
        def __init__(self, lock: Any) -> None:
            self.acquire, self.locked, self.release = lock.acquire, lock.locked, lambda: None

    def quiet(self: GroupCommit) -> None:
        following = self._queue[0] if self._queue else None
        turn = None if following is None else following.turn
        if following is not None and turn is not None:
            following.turn = Deaf(turn)  # type: ignore[assignment]
        pass_on(self)
        if following is not None:
            following.turn = turn

    patch.setattr(GroupCommit, "_pass_on", quiet)


def tells_nobody_of_progress(patch: pytest.MonkeyPatch) -> None:
    def quiet(self: Source[Any]) -> None:
        self.changes += 1

    patch.setattr(Source, "progressed", quiet)


def registers_without_the_lock(patch: pytest.MonkeyPatch) -> None:
    """A compaction may see a register without the consumer, and a new consumer segments that go."""

    @contextmanager
    def unlocked(self: Registry, wait: float = 0.0) -> Iterator[None]:
        self.meta.reload()
        yield

    patch.setattr(Registry, "locked", unlocked)


def answers_followers_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    commit = Appender.commit

    def hasty(self: Appender, tickets: list[Ticket]) -> None:
        base = self.next_offset + len(tickets[0].payloads)
        for ticket in tickets[1:]:
            ticket.base_offset, base = base, base + len(ticket.payloads)
            ticket.settle()
        commit(self, tickets)

    patch.setattr(Appender, "commit", hasty)


def leads_without_the_mutex(patch: pytest.MonkeyPatch) -> None:
    """Two may find that nobody leads."""
    init = GroupCommit.__init__

    class Open:
        def __enter__(self) -> None:
            threading.Lock().acquire()  # others may come in here, as they may without a lock

        def __exit__(self, *_: object) -> None:
            return

    def unlocked(self: GroupCommit, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self._mutex = Open()  # type: ignore[assignment]

    patch.setattr(GroupCommit, "__init__", unlocked)

    def commit(self: GroupCommit, ticket: Ticket) -> None:
        if self._leader is None:
            with self._mutex:
                self._leader = ticket
            self._lead(ticket)
        else:
            real(self, ticket)
        if ticket.error is not None:
            raise ticket.error

    real = GroupCommit.commit
    patch.setattr(GroupCommit, "commit", commit)


@pytest.mark.parametrize(
    ("breakage", "name", "words"),
    [
        (hands_over_without_a_word, "leader_and_followers", "in vain"),
        (tells_nobody_of_progress, "waiting_receiver", "in vain"),
        (registers_without_the_lock, "registration_and_compaction", ""),
        (answers_followers_before_the_sync, "leader_and_followers", "not synced"),
        (leads_without_the_mutex, "leader_and_followers", ""),
    ],
)
def test_a_broken_product_is_caught_and_its_place_replays(
    breakage: Callable[[pytest.MonkeyPatch], None], name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breakage(monkeypatch)
    tally = Tally()
    for first in range(len(straight(name))):
        tally.add(LAYER.work(f"{name}/{first}", 40))
        if tally.findings:
            break
    assert any(words in found.what for found in tally.findings), tally.counts
    place = tally.findings[0].place
    assert LAYER.replay(place).findings == tally.findings[:1]
    monkeypatch.undo()
    with suppress(LookupError):  # then threads meet elsewhere in the sound one
        assert not LAYER.replay(place).findings


# -- the scheduler itself


def explored(work: Callable[[], None]) -> dict[str, int]:
    """What came of it, in all schedules with up to two pre-emptions."""
    found: dict[str, int] = {}
    waiting: list[list[threads.Plan]] = [[{}], [], []]
    for cost, plans in enumerate(waiting):
        while plans:
            plan = plans.pop()
            planned = Planned(plan)
            scheduler = Scheduler(planned)
            try:
                scheduler.run(work)
                what = "in vain" if scheduler.vain else "ok"
            except (Stuck, AssertionError) as error:
                what = str(error).partition(":")[0]
            found[what] = found.get(what, 0) + 1
            threads._branch(
                waiting, plan, cost, planned.choices, range(max(plan, default=-1) + 1, len(planned.choices))
            )
    return found


def both(*works: Callable[[], object]) -> None:
    started = [threading.Thread(target=work) for work in works]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


def test_a_deadlock_of_two_locks_is_found_in_some_orders_and_not_in_all() -> None:
    def work() -> None:
        one, two = threading.Lock(), threading.Lock()

        def forth() -> None:
            with one, two:
                pass

        def back() -> None:
            with two, one:
                pass

        both(forth, back)

    found = explored(work)
    assert found["deadlock"] > 0
    assert found["ok"] > 0


def test_an_update_that_is_lost_is_found() -> None:
    def work() -> None:
        lock, count = threading.Lock(), [0]

        def add() -> None:
            with lock:
                seen = count[0]
            with lock:
                count[0] = seen + 1

        both(add, add)
        assert count[0] == 2, "lost: an update"

    assert set(explored(work)) == {"ok", "lost"}


def test_a_wake_up_that_is_lost_ends_by_its_timeout_and_is_told_of() -> None:
    def work() -> None:
        news, said = threading.Condition(), [False]

        def wait() -> None:
            if not said[0]:  # looked at without the lock
                with news:
                    news.wait(timeout=5)

        def say() -> None:
            with news:
                said[0] = True
                news.notify_all()

        both(wait, say)

    assert set(explored(work)) == {"ok", "in vain"}


def test_who_goes_round_in_circles_is_stopped() -> None:
    def work() -> None:
        lock = threading.Lock()
        while True:
            with lock:
                pass

    with pytest.raises(Stuck, match="no end"):
        Scheduler(Planned({})).run(work)


def test_what_a_thread_dies_of_is_raised() -> None:
    def work() -> None:
        both(lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        Scheduler(Planned({})).run(work)


def test_what_is_no_place_is_refused() -> None:
    for place in ("leader_and_followers/0:99", "nothing/straight", "leader_and_followers/x"):
        with pytest.raises((LookupError, ValueError)):
            LAYER.replay(place)
