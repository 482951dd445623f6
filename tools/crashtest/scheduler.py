"""Threads that run one at a time, in an order that somebody chooses: what is left to luck elsewhere is replayed here.

Inside `Scheduler.run` the locks that the code under test makes (and with them Condition, Event, Semaphore and Future,
which stand on locks) are its own, and so are the threads it starts. A thread goes on until it comes to a switch point:
before it takes a lock, after it gave one back, or wherever `switch` is called. Then `choose` says who is next. Time
stands still; where nobody can go on, the thread that waits with the earliest deadline is woken by it, and time with it.

As CHESS does it (Musuvathi and Qadeer, 2007), without its analysis of races: between two switch points nothing can
come. Never for code whose threads meet elsewhere than in locks, or block in the operating system.
"""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from seglog.testing import ManualClock

STEPS_MAX = 20_000  # switch points; who needs more goes round in circles
_PATIENCE = 30.0  # real seconds for a whole run
_RealThread = threading.Thread
_new_lock = _thread.allocate_lock
_new_rlock = threading.RLock
_Choose = Callable[[list["Task"], bool], int]


class Stuck(Exception):
    """Nobody can go on."""


class Abandoned(BaseException):
    """This run is over; thrown into every thread that still waits."""


class Task:
    """One thread of a run."""

    def __init__(self, name: str, daemon: bool) -> None:
        self.number = -1  # in the order in which they were started
        self.name = name
        self.daemon = daemon
        self.baton = _new_lock()
        self.baton.acquire()
        self.ready: Callable[[], bool] | None = None  # what it waits for
        self.deadline: float | None = None
        self.sleeping = False
        self.timed_out = False
        self.done = False
        self.ended = _new_lock()
        self.ended.acquire()
        self.error: BaseException | None = None

    def enabled(self) -> bool:
        return not self.done and (self.ready is None or self.timed_out or self.ready())


class Scheduler:
    """One run. `choose` is asked, from those who can go on, the one who runs first if it can (the flag says so).

    Attributes:
        clock: the time of the run.
        vain: who was woken by a deadline while nobody could go on, sleepers apart: nobody else woke them.
    """

    def __init__(self, choose: _Choose) -> None:
        self.clock: ManualClock = SleepingClock(self)
        self.vain: list[str] = []
        self._choose = choose
        self._tasks: list[Task] = []
        self._idents: dict[int, Task] = {}
        self._current: Task | None = None
        self._steps = 0
        self._mode = "loud"
        self._stuck: BaseException | None = None
        self._over = _new_lock()
        self._over.acquire()

    # -- a whole run

    def run(self, work: Callable[[], None]) -> None:
        """`work` in the first thread, and whatever it starts, to the end. Raises Stuck, or what a thread died of."""
        with self._patched():
            with self.mode("raw"):
                first = ControlledThread(self, target=work, name="main")
            first.begin()
            self._hand_to(first.task)
            if not self._over.acquire(timeout=_PATIENCE):
                self._stuck = Stuck("blocked outside of the locks that are watched")
            self._abandon()
        if self._stuck is not None:
            raise self._stuck
        for task in self._tasks:
            if task.error is not None:
                raise task.error

    def _abandon(self) -> None:
        """One by one, whoever is left runs out."""
        for task in [task for task in self._tasks if not task.done]:
            task.baton.release()
            task.ended.acquire(timeout=_PATIENCE)

    @contextmanager
    def _patched(self) -> Iterator[None]:
        def lock() -> Any:
            return ControlledLock(self, self._mode) if self._makes() else _new_lock()

        def waiter() -> Any:  # of a Condition: whoever waits for it goes to sleep, and that is a switch
            return ControlledLock(self, "quiet") if self._makes() else _new_lock()

        def rlock() -> Any:
            return ControlledRLock(self, self._mode) if self._makes() else _new_rlock()

        def thread(*args: Any, **options: Any) -> threading.Thread:
            return ControlledThread(self, *args, **options) if self._makes() else _RealThread(*args, **options)

        def now() -> float:
            return self.clock.monotonic() if self.controls() else time.monotonic()

        mine = {"Lock": lock, "_allocate_lock": waiter, "RLock": rlock, "Thread": thread, "_time": now}
        before = {name: getattr(threading, name) for name in mine}
        for name, value in mine.items():
            setattr(threading, name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(threading, name, value)

    @contextmanager
    def mode(self, mode: str) -> Iterator[None]:
        """Locks that are made in here are "quiet" (no switch point) or "raw" (real ones)."""
        before, self._mode = self._mode, mode
        try:
            yield
        finally:
            self._mode = before

    def _makes(self) -> bool:
        return self._mode != "raw" and self.controls()

    def controls(self) -> bool:
        """Whether the caller is one of this run's threads."""
        return _thread.get_ident() in self._idents

    # -- in its threads

    def switch(self) -> None:
        """Somebody else may go on now."""
        me = self._me()
        if me is not None:
            self._go_on(me)

    def wait(self, ready: Callable[[], bool], timeout: float | None = None, *, sleeping: bool = False) -> bool:
        """Until `ready`, or for `timeout` seconds; whether it is."""
        me = self._me()
        assert me is not None, "nobody else runs who could make it ready"
        me.ready, me.timed_out, me.sleeping = ready, False, sleeping
        me.deadline = None if timeout is None else self.clock.monotonic() + timeout
        self._go_on(me)
        me.ready = me.deadline = None
        return not me.timed_out or ready()

    def wait_for_all(self) -> None:
        """Until all others have ended."""
        me = self._me()
        self.wait(lambda: all(task.done for task in self._tasks if task is not me))

    def _me(self) -> Task | None:
        me = self._idents.get(_thread.get_ident())
        if me is not None and self._stuck is not None:
            raise Abandoned
        return me

    def _go_on(self, me: Task) -> None:
        following = self._next(me)
        if following is not me:
            self._current = following
            following.baton.release()
            me.baton.acquire()
            if self._stuck is not None:
                raise Abandoned

    def _next(self, me: Task | None) -> Task:
        self._steps += 1
        if self._steps > STEPS_MAX:
            self._give_up(f"{STEPS_MAX} steps and no end")
        free = me is None or not me.enabled()
        able = [task for task in self._tasks if task.enabled() and task is not me]
        if me is not None and not free:
            able.insert(0, me)
        if not able:
            return self._timed_out()
        return able[self._choose(able, not free)] if len(able) > 1 else able[0]

    def _timed_out(self) -> Task:
        timed = [task for task in self._tasks if not task.done and task.deadline is not None]
        if not timed:
            self._give_up("deadlock: " + ", ".join(f"{task.name} waits" for task in self._tasks if not task.done))
        first = min(timed, key=lambda task: (task.deadline, task.number))
        assert first.deadline is not None
        self.clock.advance(max(0.0, first.deadline - self.clock.monotonic()))
        if not first.sleeping and any(not task.done and not task.daemon for task in self._tasks):
            self.vain.append(first.name)
        first.timed_out = True
        return first

    def _give_up(self, why: str) -> None:
        self._stuck = Stuck(why)
        self._over.release()
        raise Abandoned

    def _hand_to(self, task: Task) -> None:
        self._current = task
        task.baton.release()

    def enter(self, task: Task) -> None:
        """The thread of this task begins; its turn comes."""
        self._idents[_thread.get_ident()] = task
        task.baton.acquire()

    def leave(self, task: Task) -> None:
        """It ends, and gives the turn to another."""
        task.done = True
        task.ended.release()
        del self._idents[_thread.get_ident()]
        if self._stuck is not None:
            return
        if all(each.done for each in self._tasks):
            self._over.release()
            return
        try:
            following = self._next(None)
        except Abandoned:
            return
        self._hand_to(following)

    def add(self, task: Task) -> None:
        """From now on its turn may come."""
        task.number = len(self._tasks)
        self._tasks.append(task)


class ControlledThread(threading.Thread):
    """A thread whose turns the scheduler gives."""

    def __init__(self, scheduler: Scheduler, *args: Any, **options: Any) -> None:
        self._scheduler = scheduler
        with scheduler.mode("raw"):
            super().__init__(*args, **{**options, "daemon": True})
        self.task = Task(self.name, bool(options.get("daemon")))

    def begin(self) -> None:
        self._scheduler.add(self.task)
        with self._scheduler.mode("raw"):
            super().start()

    def start(self) -> None:
        self.begin()
        self._scheduler.switch()

    def run(self) -> None:
        self._scheduler.enter(self.task)
        try:
            super().run()
        except Abandoned:
            pass  # the run ended before it did
        except BaseException as error:
            self.task.error = error
        finally:
            self._scheduler.leave(self.task)

    def is_alive(self) -> bool:
        return not self.task.done

    def join(self, timeout: float | None = None) -> None:
        self._scheduler.wait(lambda: self.task.done, timeout)


class ControlledLock:
    """A `threading.Lock`."""

    def __init__(self, scheduler: Scheduler, mode: str) -> None:
        self._scheduler = scheduler
        self._quiet = mode == "quiet"
        self._held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not self._quiet:
            self._scheduler.switch()
        if self._held:
            if not blocking:
                return False
            if not self._scheduler.wait(lambda: not self._held, None if timeout < 0 else timeout):
                return False
        self._held = True
        return True

    def release(self) -> None:
        if not self._held:
            raise RuntimeError("release unlocked lock")
        self._held = False
        if not self._quiet:
            self._scheduler.switch()

    def locked(self) -> bool:
        return self._held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class ControlledRLock:
    """A `threading.RLock`, with what a Condition asks of it."""

    def __init__(self, scheduler: Scheduler, mode: str) -> None:
        self._lock = ControlledLock(scheduler, mode)
        self._owner = 0
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._is_owned():
            self._count += 1
            return True
        if not self._lock.acquire(blocking, timeout):
            return False
        self._owner, self._count = _thread.get_ident(), 1
        return True

    def release(self) -> None:
        if not self._is_owned():
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            self._owner = 0
            self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_owned(self) -> bool:
        return self._owner == _thread.get_ident()

    def _release_save(self) -> int:
        count, self._count, self._owner = self._count, 0, 0
        self._lock.release()
        return count

    def _acquire_restore(self, count: int) -> None:
        self._lock.acquire()
        self._owner, self._count = _thread.get_ident(), count


class SleepingClock(ManualClock):
    """Who sleeps lets the others go on."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler

    def sleep(self, seconds: float) -> None:
        self._scheduler.wait(lambda: False, seconds, sleeping=True)
