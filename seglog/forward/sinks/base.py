"""What a forwarder asks of a sink, and how a sink says what a failure means.

A sink is anything with `send(batch)`; a plain function will do. Beside `send` it may have:

- `attach(log_id)`, called once, before all else: every record that follows is of that log. A record's identity at the
  far end is `message.id`, which is `log_id:offset`, for ever.
- `resume_point() -> int | None`: the far end has every record of *this* log below that offset, so they are
  acknowledged without being sent again. None: it cannot say. Asked before the first send, and again after each one
  that failed: what became of that, only the far end knows.
- `classify(error) -> Verdict` for errors of its own that are no `SinkError`. It may raise the error instead of
  answering: then there is no point in going on, and `Forwarder.run` ends with that error.
- `same_batches = True`: the far end drops repeats by a key of the batch, so a batch of which nobody knows whether it
  arrived must come again as it was, even after a kill: see `Forwarder`, `batch_file`.
- `begin(batch)` and `finish() -> int`, beside `resume_point`: then several batches are under way, and `send` is not
  called. `begin` gives a batch to the client, and does not wait for the far end to have all of it; if it fails, what
  was begun before is finished, and the far end asked, before that batch is begun again. `finish` waits until the far
  end has the oldest batch that was begun, and returns how many of them it has by then. It may raise whatever `send`
  may, about the oldest. Whatever was begun is forgotten, or settled, when the far end is asked. What is confirmed is
  acknowledged for up to three batches at once, so a crash may bring them again, unless `resume_point` tells that they
  are there. Only for a far end that leaves out whatever follows a record that it did not take: else there would be
  holes.
- `close()`, which gives connections back. Whoever made the sink calls it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Protocol

from seglog.errors import InvalidOption, SeglogError
from seglog.model import Message


class Verdict(enum.Enum):
    """What a failed `send` means for the records."""

    RETRY = "retry"  # the far end, or the way to it, is away: the same again later
    REFUSED = "refused"  # the far end will never take this: halve the batch until the record is found
    CONFIGURATION = "configuration"  # no fault of the records: somebody must look; keep everything meanwhile


class SinkError(SeglogError):
    """The far end did not confirm the batch, or not all of it.

    What is neither in `confirmed` nor in `refused` is not known to be there: the verdict is about that.

    Attributes:
        verdict: what that means for the records.
        retry_after: seconds that the far end asked to be left alone, or None. 0, with `confirmed`: nothing is wrong,
            the rest of the batch may follow at once; so a send that takes long gives the forwarder a turn.
        detail: more than the message, for the dead letter of a refused record; it may quote the far end's answer,
            which may quote the payload, so it is never logged.
        confirmed: records of the batch that the far end has. They are acknowledged.
        refused: records of the batch that must not be sent again. They go to the dead-letter queue as they are, and
            `max_refused` does not count them: nothing is found out by halving or by waiting.
    """

    def __init__(
        self,
        message: str,
        *,
        verdict: Verdict = Verdict.RETRY,
        retry_after: float | None = None,
        detail: str | None = None,
        confirmed: Sequence[Message[Any]] = (),
        refused: Sequence[Message[Any]] = (),
    ) -> None:
        super().__init__(message)
        self.verdict = verdict
        self.retry_after = retry_after
        self.detail = message if detail is None else detail
        self.confirmed = confirmed
        self.refused = refused


class Sink(Protocol):
    """Where records go."""

    def send(self, batch: Sequence[Message[Any]], /) -> object:
        """Returning confirms the whole batch: every record of it is the far end's from now on.

        Raising anything means that none of it is known to be there, but for what a SinkError says of single
        records; it will be sent again. What is returned is not looked at. Must return in bounded time: a stopping
        forwarder waits for it.
        """
        ...


def missing(extra: str, library: str) -> InvalidOption:
    """What to say when the client library of a sink is not installed."""
    return InvalidOption(f"this sink needs {library}, which is not installed: pip install 'seglog[{extra}]'")
