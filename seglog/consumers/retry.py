"""How a consumer deals with messages that fail: how long they are hidden, when they come again, when it gives up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from seglog.errors import InvalidOption
from seglog.options import number, seconds, whole

BACKOFF_SECONDS_MAX = 3600.0

Backoff = float | Callable[[int], float] | None


@dataclass(frozen=True)
class RetryPolicy:
    """The options of `Log.consumer` of these names. Raises InvalidOption for what cannot be meant."""

    lease: float | None = None
    max_attempts: int | None = None
    backoff: Backoff = None

    def __post_init__(self) -> None:
        if self.lease is not None:
            number("lease", self.lease, "seconds above 0 (or None)", 1e-9, 1e10)
        if self.max_attempts is not None:
            whole("max_attempts", self.max_attempts, 1, (1 << 32) - 1)
        if self.backoff is not None and not callable(self.backoff):
            number("backoff", self.backoff, "None, seconds, or a function of the attempts; seconds", 0.0, 1e10)

    def exhausted(self, failures: int) -> bool:
        """Whether a message that failed so often is given up."""
        return self.max_attempts is not None and failures >= self.max_attempts

    def delay(self, failures: int) -> float:
        """Seconds before a message that failed so often comes again. Raises what the caller's function raises."""
        backoff = self.backoff
        if backoff is None:
            return 0.0
        if not callable(backoff):
            return min(backoff * 2.0 ** min(failures - 1, 64), max(backoff, BACKOFF_SECONDS_MAX))
        try:
            return seconds("backoff", backoff(failures))
        except InvalidOption as error:
            raise InvalidOption(f"after {failures} failures: {error}") from error
