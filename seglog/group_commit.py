"""Many waiters, one sync: whoever comes first writes for all that came meanwhile (no file handling here).

A thread that finds nobody at work leads: it commits its own ticket and what is queued, then hands leadership
to the first that came in since. One lock object per waiter, so that a hand-over wakes exactly one thread. A
single thread never switches.

Whatever happens to a leader (KeyboardInterrupt, MemoryError, a dead thread), leadership goes on and every
ticket is answered.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from seglog.errors import LogClosed, LogFailed, StorageError
from seglog.model import Extras

_HELPER_SECONDS = 0.001
_WATCH_SECONDS = 1.0  # how often a waiter looks whether its leader is still alive


class Ticket:
    """Records that are to be committed together, and later their outcome."""

    __slots__ = (
        "__weakref__",
        "base_offset",
        "done",
        "error",
        "extras",
        "future",
        "leader",
        "payloads",
        "size",
        "turn",
    )

    def __init__(
        self,
        payloads: Sequence[bytes],
        extras: Sequence[Extras | None] | None,
        size: int,
        future: Future[int] | None = None,
    ) -> None:
        self.payloads = payloads
        self.extras = extras
        self.size = size
        self.future = future
        self.base_offset = -1
        self.error: BaseException | None = None
        self.done = False
        self.leader: threading.Thread | None = None
        self.turn: threading.Lock | None = None  # taken; released when done, or to lead

    def settle(self, error: BaseException | None = None) -> None:
        """Say the outcome, once; again after an interrupt says what was not said yet."""
        if self.done:
            return
        self.error = error
        future = self.future
        if future is not None and not future.done() and (future.running() or future.set_running_or_notify_cancel()):
            if error is None:
                future.set_result(self.base_offset)
            else:
                future.set_exception(error)
        self.done = True
        if self.turn is not None and self.turn.locked():
            self.turn.release()


def _nothing() -> None:
    return


class GroupCommit:
    """Serialises commits. `write(tickets)` makes them durable and sets their offsets, or raises."""

    def __init__(self, write: Callable[[list[Ticket]], None], *, max_bytes: int) -> None:
        self._write = write
        self._max_bytes = max_bytes
        self.on_settled: Callable[[], None] = _nothing  # called when all tickets of a commit are settled
        self._mutex = threading.Lock()
        self._queue: deque[Ticket] = deque()
        self._leader: Ticket | None = None
        self._helper: threading.Thread | None = None
        self._wake = threading.Semaphore(0)
        self._closed = False
        self._ended = False

    def commit(self, ticket: Ticket) -> None:
        """Returns when the ticket is settled; raises its error."""
        try:
            with self._mutex:
                if self._closed:
                    raise LogClosed("the log is closed")
                if self._leader is None:
                    self._leader = ticket
                else:
                    ticket.turn = threading.Lock()
                    ticket.turn.acquire()
                    self._queue.append(ticket)
            if self._leader is not ticket:
                self._wait(ticket)
            if not ticket.done:
                self._lead(ticket)
        except BaseException:
            self._abandon(ticket)
            raise
        if ticket.error is not None:
            raise ticket.error

    def check_thread(self) -> None:
        """Raises StorageError in the thread that leads: what it appends there (a logging handler may) would wait for
        itself."""
        leader = self._leader
        if leader is not None and leader.leader is threading.current_thread():
            raise StorageError(errno.EDEADLK, "a commit cannot be told of in the log that it is for")

    def _wait(self, ticket: Ticket) -> None:
        """Until the ticket is settled or it is its turn to lead."""
        assert ticket.turn is not None
        # The helper itself waits here when a future's callback appends: nobody else leads for submitted tickets then.
        patience = _HELPER_SECONDS if threading.current_thread() is self._helper else _WATCH_SECONDS
        while not ticket.turn.acquire(timeout=patience):
            if ticket.done or self._leader is ticket:
                return  # whoever was to wake us was interrupted
            with self._mutex:
                unclaimed = self._look_after_the_leader()
            if unclaimed is not None:
                self._lead_for(unclaimed)

    def _look_after_the_leader(self) -> Ticket | None:
        """Under the mutex: nobody may wait for one who does nothing. Returns a ticket for the caller to lead."""
        leader = self._leader
        if leader is None:
            self._pass_on()
        elif leader.leader is not None and not leader.leader.is_alive():
            leader.settle(LogFailed(5, "the thread that led this commit died; reopen the log"))
            self._pass_on()
        elif leader.leader is None and leader.future is not None:
            leader.leader = threading.current_thread()
            return leader
        return None

    def _lead_for(self, ticket: Ticket) -> None:
        """Lead for a submitted ticket, which the caller has claimed."""
        try:
            self._lead(ticket)
        except BaseException as error:
            ticket.settle(LogFailed(5, f"the commit was interrupted by {type(error).__name__}"))
            self._abandon(ticket)
            if not isinstance(error, Exception) and threading.current_thread() is not self._helper:
                raise

    def _lead(self, own: Ticket) -> None:
        own.leader = threading.current_thread()
        tickets = [own]
        failure: Exception | None = None
        try:
            if self._queue:
                self._take_along(tickets)
            try:
                self._write(tickets)
            except Exception as error:
                failure = error
            self._release(own)
            if len(tickets) > 1 or own.future is not None:
                for ticket in tickets:
                    ticket.settle(failure)
            own.error = failure
            own.done = True
            self.on_settled()
        except BaseException as interrupt:
            unknown = LogFailed(5, f"interrupted by {type(interrupt).__name__}: this append is in or out")
            for ticket in tickets:
                if ticket is not own or own.future is not None:
                    ticket.settle(failure or (None if ticket.base_offset >= 0 else unknown))
            raise

    def _take_along(self, tickets: list[Ticket]) -> None:
        """Add what is queued, as far as it fits. Out of the queue last: an interrupt must not lose a ticket."""
        size = tickets[0].size
        with self._mutex:
            while self._queue:
                ticket = self._queue[0]
                if ticket is not tickets[0] and not ticket.done:
                    if size + ticket.size > self._max_bytes:
                        return
                    size += ticket.size
                    tickets.append(ticket)
                self._queue.popleft()

    def _release(self, own: Ticket) -> None:
        with self._mutex:
            if self._leader is own:
                self._pass_on()

    def _pass_on(self) -> None:
        """Under the mutex: the first in the queue that is not settled leads next."""
        while self._queue and self._queue[0].done:
            self._queue.popleft()
        if not self._queue:
            self._leader = None
            return
        following = self._leader = self._queue[0]
        self._queue.popleft()
        if following.turn is not None:
            if following.turn.locked():
                following.turn.release()
        else:
            self._wake.release()  # submitted: the helper leads for it

    def _abandon(self, ticket: Ticket) -> None:
        """The caller is leaving: if it was to lead, somebody else must. Nothing more of it is to come then."""
        with self._mutex:
            if ticket in self._queue:
                self._queue.remove(ticket)
                ticket.done = True
            if self._leader is ticket:
                ticket.done = True
                self._pass_on()
            if ticket.leader is threading.current_thread():
                ticket.done = True  # it led, and was interrupted after it had handed on

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket whose future tells the outcome; a helper thread leads where nobody else does."""
        with self._mutex:
            if self._closed:
                raise LogClosed("the log is closed")
            if self._helper is None:
                helper = threading.Thread(target=self._help, name="seglog-commit", daemon=True)
                helper.start()
                self._helper = helper
            if self._leader is None:
                self._leader = ticket
                self._wake.release()
            else:
                self._queue.append(ticket)

    def _help(self) -> None:
        """Lead for submitted tickets. Looks now and then too: whoever was to wake it may have been interrupted."""
        while True:
            self._wake.acquire(timeout=_WATCH_SECONDS)
            with self._mutex:
                ticket = self._leader
                if ticket is None and self._closed:
                    return
                if ticket is None or ticket.future is None or ticket.leader is not None:
                    continue
                ticket.leader = threading.current_thread()
            self._lead_for(ticket)

    def exclusively(self, action: Callable[[], None], *, last: bool = False) -> None:
        """Run `action` as the leader, with no commit under way; first of all that is queued, or last."""
        ticket = Ticket((), None, self._max_bytes + 1)  # so large that no other leader takes it along
        ticket.turn = threading.Lock()
        ticket.turn.acquire()
        try:
            with self._mutex:
                mine = self._leader is None
                if mine:
                    self._leader = ticket
                elif last:
                    self._queue.append(ticket)
                else:
                    self._queue.appendleft(ticket)
            if not mine:
                self._wait(ticket)
            ticket.leader = threading.current_thread()
            action()
            self._abandon(ticket)
        except BaseException:  # not `finally`: an interrupt may strike in the line above
            self._abandon(ticket)
            raise

    def close(self, action: Callable[[], None]) -> None:
        """Refuse new commits, finish those that are queued, run `action` last; whoever comes second waits for that."""

        def once() -> None:
            if not self._ended:
                self._ended = True
                action()

        with self._mutex:
            self._closed = True
        self.exclusively(once, last=True)
        self._wake.release()
