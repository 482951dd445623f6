"""Many waiters, one sync: whoever comes first writes for all that came meanwhile (no file handling here).

A thread that finds nobody at work leads: it commits its own ticket and what is queued, then hands leadership
to the first that came in since. One lock object per waiter, so that a hand-over wakes exactly one thread. A
single thread never switches.

Whatever happens to a leader (KeyboardInterrupt, MemoryError, a dead thread), leadership goes on and every
ticket is answered.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from seglog.errors import LogClosed, LogFailed
from seglog.model import Extras

_WATCH_SECONDS = 1.0  # how often a waiter looks whether its leader is still alive


class Ticket:
    """Records that are to be committed together, and later their outcome."""

    __slots__ = ("base_offset", "done", "error", "extras", "future", "leader", "payloads", "size", "turn")

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
        """Say the outcome, once."""
        if self.done:
            return
        self.error = error
        self.done = True
        if self.turn is not None and self.turn.locked():
            self.turn.release()
        if self.future is not None and self.future.set_running_or_notify_cancel():
            if error is None:
                self.future.set_result(self.base_offset)
            else:
                self.future.set_exception(error)


class GroupCommit:
    """Serialises commits. `write(tickets)` makes them durable and sets their offsets, or raises."""

    def __init__(self, write: Callable[[list[Ticket]], None], *, max_bytes: int) -> None:
        self._write = write
        self._max_bytes = max_bytes
        self._mutex = threading.Lock()
        self._queue: deque[Ticket] = deque()
        self._leader: Ticket | None = None
        self._helper: threading.Thread | None = None
        self._wake = threading.Semaphore(0)
        self._closed = False

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

    def _wait(self, ticket: Ticket) -> None:
        """Until the ticket is settled or it is its turn to lead."""
        assert ticket.turn is not None
        while not ticket.turn.acquire(timeout=_WATCH_SECONDS):
            leader = self._leader
            if leader is None or leader.leader is None or leader.leader.is_alive():
                continue
            with self._mutex:  # the leading thread died without a word
                if self._leader is leader:
                    leader.settle(LogFailed(5, "the thread that led this commit died; reopen the log"))
                    self._pass_on()

    def _lead(self, own: Ticket) -> None:
        own.leader = threading.current_thread()
        tickets = [own]
        if self._queue:
            size = own.size
            with self._mutex:
                while self._queue and size + self._queue[0].size <= self._max_bytes:
                    size += self._queue[0].size
                    tickets.append(self._queue.popleft())
        try:
            self._write(tickets)
        except Exception as error:
            own.leader = None
            self._release(own)
            for ticket in tickets:
                ticket.settle(error)
            return
        except BaseException as interrupt:
            failure = LogFailed(
                5, f"the commit was interrupted by {type(interrupt).__name__}; its outcome is not known"
            )
            for ticket in tickets:
                if ticket is not own:
                    ticket.settle(None if ticket.base_offset >= 0 else failure)
            raise
        self._release(own)
        own.done = True
        if len(tickets) > 1 or own.future is not None:
            own.done = False
            for ticket in tickets:
                ticket.settle()

    def _release(self, own: Ticket) -> None:
        with self._mutex:
            if self._leader is own:
                self._pass_on()

    def _pass_on(self) -> None:
        """Under the mutex: the first in the queue leads next."""
        if not self._queue:
            self._leader = None
            return
        following = self._queue.popleft()
        self._leader = following
        if following.turn is not None:
            following.turn.release()
        else:
            self._wake.release()  # submitted: the helper leads for it

    def _abandon(self, ticket: Ticket) -> None:
        """The caller is leaving by an exception: if it was to lead, somebody else must."""
        with self._mutex:
            if self._leader is ticket:
                self._pass_on()
            elif ticket in self._queue:
                self._queue.remove(ticket)

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket whose future tells the outcome; a helper thread leads where nobody else does."""
        with self._mutex:
            if self._closed:
                raise LogClosed("the log is closed")
            if self._helper is None:
                self._helper = threading.Thread(target=self._help, name="seglog-commit", daemon=True)
                self._helper.start()
            if self._leader is None:
                self._leader = ticket
                self._wake.release()
            else:
                self._queue.append(ticket)

    def _help(self) -> None:
        while True:
            self._wake.acquire()
            with self._mutex:
                ticket = self._leader
                if ticket is None and self._closed:
                    return
            if ticket is None or ticket.future is None or ticket.done:
                continue
            try:
                self._lead(ticket)
            except BaseException as error:
                ticket.settle(LogFailed(5, f"the commit was interrupted by {type(error).__name__}"))
                self._abandon(ticket)

    def exclusively(self, action: Callable[[], None]) -> None:
        """Run `action` as the leader, with no commit under way. Raises what it raises."""
        ticket = Ticket((), None, 0)
        ticket.extras = None
        ticket.turn = threading.Lock()
        ticket.turn.acquire()
        try:
            with self._mutex:
                mine = self._leader is None
                if mine:
                    self._leader = ticket
                else:
                    self._queue.appendleft(ticket)
                    ticket.size = self._max_bytes + 1  # never taken along by another leader
            if not mine:
                self._wait(ticket)
            ticket.leader = threading.current_thread()
            action()
        finally:
            self._abandon(ticket)

    def close(self, action: Callable[[], None]) -> None:
        """Refuse new commits, finish those that are queued, run `action` last."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
        ticket = Ticket((), None, self._max_bytes + 1)
        ticket.turn = threading.Lock()
        ticket.turn.acquire()
        with self._mutex:
            mine = self._leader is None
            if mine:
                self._leader = ticket
            else:
                self._queue.append(ticket)
        if not mine:
            self._wait(ticket)
        try:
            action()
        finally:
            self._abandon(ticket)
            self._wake.release()
