"""`seglog forward --config FILE`: many routes in one process, for a service manager. The work is seglog.forward's.

This is its main thread: signals, reloading, and what the service manager is told. It never forwards anything.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from seglog.cli import exit_codes
from seglog.cli.listening import listening
from seglog.cli.notify import Notify
from seglog.cli.output import escape, say
from seglog.cli.stopping import Stop
from seglog.errors import InvalidOption

if TYPE_CHECKING:
    from seglog.forward.routes import Route
    from seglog.forward.service import RouteState, Service

TICK_SECONDS = 0.1
STATUS_SECONDS = 1.0  # what is told to the service manager is no older than this


def run(args: argparse.Namespace, once_patience: float) -> int:
    """The command. `once_patience`: seconds, for routes that do not say it, where everything ends at the first failure.

    Raises InvalidOption if the file cannot be meant like this.
    """
    from seglog.forward import routes
    from seglog.forward.service import Service

    found = routes.load(args.config)
    if args.check:
        for route in found:
            print(escape(route.summary()))
        return exit_codes.OK
    if args.once:
        found = [
            dataclasses.replace(route, patience=once_patience) if route.patience is None else route for route in found
        ]
    _name_the_routes()
    notify = Notify(os.environ)
    service = Service(once=args.once)
    with Stop(reload=not args.once) as stop, listening(args.listen, service.snapshot):
        pulse = _Pulse(service, notify)
        service.apply(found)
        notify("READY=1", pulse.status())
        while not stop and not service.wait(0):
            if stop.take_reload():
                _reload(args, service, notify)
            pulse.beat()
            stop.wait(TICK_SECONDS)
        notify("STOPPING=1")
        service.stop()
        while not service.wait(TICK_SECONDS):
            pulse.beat()
    for state in service.snapshot():
        done = state.stats
        say(
            f"{state.name}: forwarded {done.sent_records} records in {done.sent_batches} batches; "
            f"{done.refused_records} refused, {done.failures} failed attempts"
        )
    if stop:
        return exit_codes.OK if stop.exit_code == exit_codes.TERMINATED else stop.exit_code
    return max(map(exit_codes.of_error, service.failures()), default=exit_codes.OK)


class _Pulse:
    """Tells the service manager now and then how things are, and that no thread hangs, as long as that is so."""

    def __init__(self, service: Service, notify: Notify) -> None:
        self._service = service
        self._notify = notify
        self._status = ""
        self._status_due = self._watchdog_due = time.monotonic()
        self._hung = False

    def beat(self) -> None:
        """To be called often; does nothing most of the time."""
        now = time.monotonic()
        every = self._notify.watchdog_seconds
        if every is not None and now >= self._watchdog_due:
            self._watchdog_due = now + every
            self._feed()
        if self._notify and now >= self._status_due:
            self._status_due = now + STATUS_SECONDS
            before = self._status
            if self.status() != before:
                self._notify(self._status)

    def _feed(self) -> None:
        alive = self._service.alive()
        if alive:
            self._notify("WATCHDOG=1")
        elif not self._hung:
            say("a route hangs: the watchdog is not fed any more")
        self._hung = not alive

    def status(self) -> str:
        """The line for `systemctl status`."""
        self._status = f"STATUS={escape(summary(self._service.snapshot()))}"
        return self._status


def summary(states: Sequence[RouteState]) -> str:
    """All routes in one line; what is not well, by name."""
    sent = sum(state.stats.sent_records for state in states)
    lag = sum(state.standing.lag_records for state in states if state.standing is not None)
    ill = [f"; {state.name}: {state.error}" for state in states if not state.healthy]
    return f"{len(states)} routes, {sent} records sent, {lag} waiting{''.join(ill)}"


def _reload(args: argparse.Namespace, service: Service, notify: Notify) -> None:
    """Run what the file says now; if it cannot be meant like this, everything stays as it is."""
    from seglog.forward import routes

    notify.reloading()
    try:
        found: list[Route] = routes.load(args.config)
    except InvalidOption as error:
        said = f"not reloaded, everything goes on as before: {error}"
        say(said)
        notify("READY=1", f"STATUS={escape(said)}")
        return
    changes = service.apply(found)
    told = [f"{what} {', '.join(names)}" for what, names in dataclasses.asdict(changes).items() if names]
    say(f"reloaded: {'; '.join(told)}")
    notify("READY=1")


def _name_the_routes() -> None:
    """What the library logs in the thread of a route begins with the route's name."""
    from seglog.forward.service import THREAD_NAMES

    def name(record: logging.LogRecord) -> bool:
        thread = record.threadName or ""
        if thread.startswith(THREAD_NAMES):
            record.msg, record.args = f"{thread.removeprefix(THREAD_NAMES)}: {record.getMessage()}", ()
        return True

    for handler in logging.getLogger("seglog").handlers:
        handler.addFilter(name)
