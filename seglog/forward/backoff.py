"""How long to wait after the n-th failure in a row: exponential, with full jitter. Never waits itself.

Full jitter (anywhere between nothing and the step) spreads many forwarders that lost the same far end; a
`Retry-After` comes on top of it for the same reason: all of them were told the same moment.
"""

from __future__ import annotations

from seglog.clock import Clock

FIRST_SECONDS = 0.1
MOST_SECONDS = 30.0
RETRY_AFTER_MAX_SECONDS = 300.0  # a far end that says "next week" is asked again before that


class Backoff:
    """The waits of one sequence of failures."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._step = FIRST_SECONDS

    def reset(self) -> None:
        """It worked: the next failure begins a new sequence."""
        self._step = FIRST_SECONDS

    def next(self, retry_after: float | None = None) -> float:
        """Seconds to wait after one more failure; at least `retry_after`, as far as that is reasonable."""
        share = int.from_bytes(self._clock.random_bytes(8), "little") / (1 << 64)
        jittered = share * self._step
        self._step = min(self._step * 2, MOST_SECONDS)
        return jittered + min(max(retry_after or 0.0, 0.0), RETRY_AFTER_MAX_SECONDS)
