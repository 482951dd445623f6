"""What keeps a forwarder from going on: told once and not at every try, and for how long it has lasted. Never waits."""

from __future__ import annotations

import logging

from seglog.clock import Clock
from seglog.errors import SeglogError
from seglog.forward.backoff import Backoff
from seglog.forward.sinks.base import SinkError, Verdict

_logger = logging.getLogger("seglog")


class Trouble:
    """Of one forwarder. `patience`: seconds without any progress after which it ends; None: never."""

    def __init__(self, clock: Clock, patience: float | None) -> None:
        self._clock = clock
        self._patience = patience
        self._backoff = Backoff(clock)
        self._since: float | None = None
        self._told: tuple[Verdict, type[Exception], str] | None = None  # what was logged last

    @property
    def words(self) -> str | None:
        """What it is at this moment; None: there is none."""
        return None if self._since is None or self._told is None else self._told[2] or self._told[1].__name__

    def tell(self, verdict: Verdict, problem: Exception, refused_in_a_row: int) -> None:
        trouble = (verdict, type(problem), str(problem))
        if trouble == self._told:
            return
        self._told = trouble
        _logger.debug("what was raised", exc_info=problem)
        if verdict is Verdict.RETRY:
            _logger.warning("not forwarded, trying again: %s", _named(problem))
        elif isinstance(problem, SinkError) and problem.verdict is Verdict.REFUSED:
            what = "%d records in a row were refused; the rest is kept, not dead-lettered, and tried again: %s"
            _logger.warning(what, refused_in_a_row, problem)
        else:
            _logger.warning("not forwarded, everything is kept until this is put right: %s", problem)

    def pause(self, error: Exception) -> float:
        """How long to wait before the next try, in seconds. Raises SinkError if the patience is at an end by then."""
        delay = self._backoff.next(error.retry_after if isinstance(error, SinkError) else None)
        now = self._clock.monotonic()
        if self._since is None:
            self._since = now
        if self._patience is not None and now + delay > self._since + self._patience:
            raise SinkError(f"nothing could be forwarded for {self._patience:g} s: {error}") from error
        return delay

    def progress(self) -> None:
        """Some records are settled: the next failure begins a new sequence."""
        self._backoff.reset()
        self._since = None

    def is_over(self) -> None:
        """A whole batch has arrived."""
        self.progress()
        if self._told is not None:
            _logger.info("forwarding works again")
            self._told = None


def _named(error: Exception) -> str:
    """Where it may be a mistake in a sink and no trouble of the far end, its kind tells more than its text."""
    kind = "" if isinstance(error, (SeglogError, OSError)) else type(error).__name__
    return ": ".join(filter(None, (kind, str(error)))) or type(error).__name__
