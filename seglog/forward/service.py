"""Several routes in one process: each forwards in a thread of its own, and none takes another with it.

A route that fails for good, as far as its forwarder can say, is told and tried again, with growing pauses. Routes
come and go while the others run; nothing here waits for a thread unless it is asked to.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from seglog.clock import SystemClock
from seglog.consumers.consumer import Consumer
from seglog.errors import LogNotFound, SeglogError
from seglog.forward.backoff import Backoff
from seglog.forward.forwarder import Forwarder, ForwardStats
from seglog.forward.routes import Route
from seglog.log import Log
from seglog.model import ConsumerStats, Gap, Message
from seglog.open_log import open_log

_logger = logging.getLogger("seglog")

THREAD_NAMES = "route "  # and then the route's: the log records of a thread are that route's
LOOK_SECONDS = 0.2  # how often a log that is not there yet is looked for
# Connecting, asking what is there, sending: a send may wait that often, for `timeout` seconds each. Whoever has given
# no sign of life for longer hangs, with some seconds for a machine that is busy.
_WAITS = 3
_BUSY_SECONDS = 2.0
_NOTE_SECONDS = 0.2  # what is shown of where a consumer stands is little older, while its route does not hang
_NOTHING = ForwardStats(0, 0, 0, 0)


def hangs_seconds(timeout: float) -> float:
    """After so long without a sign of life a route counts as hung."""
    return _WAITS * timeout + _BUSY_SECONDS


@dataclass(frozen=True)
class RouteState:
    """How one route is doing; a value, for whoever shows or watches it.

    Attributes:
        name: of the route, unique in its service.
        directory: of the log, as configured.
        consumer: whose position is used.
        sink: the URL, without user, password, options or anything else that may be secret.
        stats: since the service was started, or the route changed; over all attempts.
        alive: its thread gave a sign of life within the time that a send may take. A thread that waits, for records
            or for a far end that is away, is alive; one that hangs is not.
        healthy: alive, and nothing keeps it from forwarding.
        error: what keeps it from forwarding at this moment, in one line; None: nothing does.
        standing: where the consumer stood a moment ago (`lag_records`, `lag_bytes`, `oldest_age_seconds`, …); None
            while the log is not open: it is not there yet, or the route has failed and waits for its next attempt.
    """

    name: str
    directory: str
    consumer: str
    sink: str
    stats: ForwardStats
    alive: bool
    healthy: bool
    error: str | None
    standing: ConsumerStats | None


@dataclass(frozen=True)
class Changes:
    """What `Service.apply` did, by the names of the routes."""

    started: tuple[str, ...]
    stopped: tuple[str, ...]
    restarted: tuple[str, ...]
    unchanged: tuple[str, ...]


class Service:
    """Runs routes until it is stopped. All of it may be used from any thread; signal handlers set a flag instead.

    Args:
        once: each route ends when nothing is left to receive, or with its first failure (see `failures`); a log that
            is not there is one.
    """

    def __init__(self, *, once: bool = False) -> None:
        self._once = once
        self._lock = threading.Lock()
        self._workers: dict[tuple[str, str], _Worker] = {}  # in the order of the configuration
        self._leaving: list[_Worker] = []  # asked to stop, perhaps still in a send

    def apply(self, routes: Sequence[Route]) -> Changes:
        """Make these the routes that run: those that run as they are go on undisturbed, others end in order.

        Returns at once. A route that changed starts anew when its old thread has ended: its consumer has one holder.
        """
        wanted = {route.key: route for route in routes}
        with self._lock:
            before, self._workers = self._workers, {}
            ended = {key: worker for key, worker in before.items() if wanted.get(key) != worker.route}
            for worker in ended.values():
                worker.stop()
            self._leaving = [worker for worker in self._leaving if not worker.ended] + list(ended.values())
            new = []
            for key, route in wanted.items():
                if key in before and key not in ended:
                    self._workers[key] = before[key]
                    continue
                predecessors = [worker for worker in self._leaving if worker.route.key == key]
                self._workers[key] = _Worker(route, self._once, predecessors)
                new.append(self._workers[key])
            for worker in new:
                worker.start()
        return Changes(
            started=tuple(route.name for key, route in wanted.items() if key not in before),
            stopped=tuple(worker.route.name for key, worker in ended.items() if key not in wanted),
            restarted=tuple(wanted[key].name for key in ended if key in wanted),
            unchanged=tuple(route.name for key, route in wanted.items() if key in before and key not in ended),
        )

    def stop(self) -> None:
        """Ask every route to finish what is under way and end. Returns at once; final."""
        for worker in self._all():
            worker.stop()

    def wait(self, seconds: float) -> bool:
        """Whether every route has ended, after at most so many seconds."""
        deadline = SystemClock.monotonic() + seconds
        return all(worker.join(max(0.0, deadline - SystemClock.monotonic())) for worker in self._all())

    def alive(self) -> bool:
        """Whether no thread hangs, those of routes that were taken away included."""
        return all(worker.alive() for worker in self._all())

    def snapshot(self) -> list[RouteState]:
        """Every route, in the order of the configuration."""
        with self._lock:
            workers = list(self._workers.values())
        return [worker.state() for worker in workers]

    def failures(self) -> list[Exception]:
        """With `once`: what ended routes before they were done."""
        with self._lock:
            return [worker.failure for worker in self._workers.values() if worker.failure is not None]

    def _all(self) -> list[_Worker]:
        with self._lock:
            return [*self._leaving, *self._workers.values()]


class _Worker:
    """One route and its thread. Daemonic: who does not want to wait for a send that hangs can leave."""

    def __init__(self, route: Route, once: bool, predecessors: Sequence[_Worker]) -> None:
        self.route = route
        self.failure: Exception | None = None  # what keeps it from running; with `once`, what it ended with
        self._once = once
        self._predecessors = tuple(predecessors)
        self._clock = SystemClock()
        self._backoff = Backoff(self._clock)
        self._hangs_seconds = hangs_seconds(route.timeout)
        self._stopping = threading.Event()
        self._alive_at = self._clock.monotonic()
        self._told: str | None = None  # the failure that was logged last; each is logged once, not at every try
        self._ran = False  # the last attempt got as far as forwarding
        self._lock = threading.Lock()  # for what follows
        self._running: tuple[Forwarder, _Observed] | None = None
        self._before = _NOTHING  # what attempts did that have ended
        self._thread = threading.Thread(target=self._run, name=f"{THREAD_NAMES}{route.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._stopping.set()
            if self._running is not None:
                self._running[0].stop()

    def join(self, seconds: float) -> bool:
        """Whether it has ended, after at most so long."""
        self._thread.join(seconds)
        return self.ended

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def alive(self) -> bool:
        """Whether it does not hang."""
        with self._lock:
            last = max(self._alive_at, 0.0 if self._running is None else self._running[0].pulse()[0])
        return self.ended or self._clock.monotonic() - last < self._hangs_seconds

    def state(self) -> RouteState:
        with self._lock:
            running, stats = self._running, self._before
            failure = None if self.failure is None else describe(self.failure)
            if running is not None:
                stats, failure = _sum(stats, running[0].stats()), running[0].pulse()[1]
        alive = self.alive()
        if not alive:
            failure = failure or "hangs, longer than a send may take"
        return RouteState(
            name=self.route.name,
            directory=str(self.route.directory),
            consumer=self.route.consumer,
            sink=self.route.sink,
            stats=stats,
            alive=alive,
            healthy=failure is None,
            error=failure,
            standing=None if running is None or not alive else running[1].standing,
        )

    def _run(self) -> None:
        for predecessor in self._predecessors:
            while not predecessor.join(LOOK_SECONDS):
                self._sign()
        self._predecessors = ()  # each would keep its own
        while True:
            try:
                self._attempt()
                return
            except Exception as error:  # whatever it is, the other routes go on
                self._on_failure(error)
            if self._once:
                return
            self._pause(self._backoff.next())
            if self._stopping.is_set():
                return

    def _attempt(self) -> None:
        """Forward until it is stopped, or with `once` done. What it raises ends the attempt, never the route."""
        again, self._ran = self._told is not None and not self._ran, False
        sink = self.route.open_sink()
        with contextlib.ExitStack() as ended:
            ended.callback(getattr(sink, "close", lambda: None))
            log = self._open()
            if log is None:
                return
            ended.enter_context(log)
            consumer = _Observed(ended.enter_context(log.consumer(self.route.consumer, on_gap=_tell_gap)))
            forwarder = self.route.forwarder(consumer, sink)
            self._ran = True
            if again:
                _logger.info("forwarding again")
                self._told = None
            with self._shown(forwarder, consumer):
                forwarder.run(once=self._once)

    def _open(self) -> Log[bytes] | None:
        """The log, opened beside its writer; None if asked to stop before there is one."""
        told = False
        while not self._stopping.is_set():
            try:
                return open_log(self.route.directory, mode="r")
            except LogNotFound:
                if self._once:
                    raise
            self.failure = None
            if not told:
                _logger.info("%s: no log yet, waiting for one", self.route.directory)
                told = True
            self._pause(LOOK_SECONDS)
        return None

    @contextlib.contextmanager
    def _shown(self, forwarder: Forwarder, consumer: _Observed) -> Iterator[None]:
        """In this block the state of the route is that of this forwarder."""
        with self._lock:
            self._running = forwarder, consumer
            if self._stopping.is_set():
                forwarder.stop()
        self.failure = None
        try:
            yield
        finally:
            self._sign()
            done = forwarder.stats()
            with self._lock:
                self._running = None
                self._before = _sum(self._before, done)
            if done.sent_records or done.refused_records:
                self._backoff.reset()
                self._told = None

    def _on_failure(self, error: Exception) -> None:
        self.failure = error
        said = describe(error)
        if said == self._told:
            return
        self._told = said
        if self._once:
            _logger.error("%s", said)
        elif not self._stopping.is_set():
            _logger.warning("%s; everything is kept, and tried again", said)

    def _pause(self, seconds: float) -> None:
        """In slices, so that each is a sign of life; it ends when the route is to stop."""
        deadline = self._clock.monotonic() + seconds
        while (left := deadline - self._clock.monotonic()) > 0:
            self._sign()
            if self._stopping.wait(min(left, LOOK_SECONDS)):
                return

    def _sign(self) -> None:
        self._alive_at = self._clock.monotonic()


def _sum(one: ForwardStats, other: ForwardStats) -> ForwardStats:
    return ForwardStats(
        one.sent_records + other.sent_records,
        one.sent_batches + other.sent_batches,
        one.refused_records + other.refused_records,
        one.failures + other.failures,
    )


class _Observed:
    """A consumer that notes where it stands as it is used, for others to see: asking it, they might have to wait for a
    disk that hangs."""

    def __init__(self, consumer: Consumer[Any]) -> None:
        self._consumer = consumer
        self._noted_at = 0.0
        self.standing: ConsumerStats | None = None
        self.ack, self.nack, self.refuse, self.unacked = consumer.ack, consumer.nack, consumer.refuse, consumer.unacked

    def receive_many(self, limit: int, timeout: float | None = 0, max_bytes: int | None = None) -> list[Message[Any]]:
        now = SystemClock.monotonic()
        if self.standing is None or now - self._noted_at > _NOTE_SECONDS:
            with contextlib.suppress(SeglogError):  # whatever it is, receiving tells
                self.standing = self._consumer.stats()
            self._noted_at = now
        return self._consumer.receive_many(limit, timeout, max_bytes)

    def __len__(self) -> int:
        return len(self._consumer)


def _tell_gap(gap: Gap) -> None:
    _logger.warning("gap: offsets %d-%d are not delivered: %s", gap.first_offset, gap.last_offset, gap.reason)


def describe(error: Exception) -> str:
    """One line. What is no error of ours, and none of the system's, is named by its type."""
    text = str(error)
    known = isinstance(error, SeglogError | OSError) and text
    return text if known else f"{type(error).__name__}: {text}".removesuffix(": ")
