"""`seglog forward --listen`: the endpoint of seglog.forward, and the state of a route that runs without a service."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from seglog.cli.output import say
from seglog.clock import SystemClock
from seglog.errors import InvalidOption

if TYPE_CHECKING:
    from seglog.forward import Forwarder
    from seglog.forward.service import RouteState


def add_option(parser: argparse.ArgumentParser) -> None:
    """The option --listen."""
    parser.add_argument(
        "--listen",
        metavar="[HOST:]PORT",
        help="answer /healthz, /readyz and, with pip install 'seglog[metrics]', /metrics over HTTP; without HOST only "
        "on this machine, with port 0 on one that is free (default: none)",
    )


@contextlib.contextmanager
def listening(where: str | None, states: Callable[[], Sequence[RouteState]]) -> Iterator[None]:
    """In this block it is answered there, if anywhere. Raises InvalidOption, and StorageError if it cannot listen."""
    if where is None:
        yield
        return
    from seglog.forward.endpoint import Endpoint, address
    from seglog.metrics import check_installed

    with Endpoint(*address(where), states) as endpoint:
        say(f"listening on {endpoint.url}")
        try:
            check_installed()
        except InvalidOption as error:
            say(f"without /metrics: {error}")
        yield


class Alone:
    """The one route of a command without --config."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._clock = SystemClock()
        self._forwarder: Forwarder | None = None

    def runs(self, forwarder: Forwarder) -> None:
        """From now on its state is that of this one; before, it waits for the log."""
        self._forwarder = forwarder

    def states(self) -> list[RouteState]:
        """As `Service.snapshot`, of one route."""
        from seglog.forward import ForwardStats
        from seglog.forward.routes import Route
        from seglog.forward.service import RouteState, hangs_seconds

        args, forwarder = self._args, self._forwarder
        alive, trouble, stats = True, None, ForwardStats(0, 0, 0, 0)
        if forwarder is not None:
            last, trouble = forwarder.pulse()
            alive, stats = self._clock.monotonic() - last < hangs_seconds(args.timeout), forwarder.stats()
            if not alive:
                trouble = trouble or "hangs, longer than a send may take"
        state = RouteState(
            name=str(args.directory),
            directory=str(args.directory),
            consumer=args.consumer,
            sink=Route(str(args.directory), args.directory, args.to).sink,
            stats=stats,
            alive=alive,
            healthy=trouble is None,
            error=trouble,
            standing=None,
        )
        return [state]
