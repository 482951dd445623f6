"""`http://` and `https://`: one POST per batch; any 2xx answer confirms it. Needs the extra `http` (urllib3).

What is never done, and what each answer means, is in posting.py.

Every request carries `Idempotency-Key: <log id>:<first>-<last>`: the offsets of the records in it, so that the n-th
line has the n-th of these offsets. Where offsets are missing in between (a message that is not due yet), the key
lists the ranges, `<log id>:0-6,8-499`: the same key always means the same records, and the same bytes as long as
format and encoding stay what they are. What was sent and not answered is sent again under its key, also by the next
process, where `Forwarder` was given a `batch_file`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seglog import options
from seglog.clock import Clock
from seglog.forward.bounds import ranges
from seglog.forward.sinks import cloudevents
from seglog.forward.sinks.encoding import ENCODERS
from seglog.forward.sinks.posting import Poster
from seglog.model import Message

FORMATS = {**ENCODERS, "cloudevents": cloudevents.cloudevents}


class HttpSink:
    """POSTs batches to one URL. See `seglog.forward.open_sink`."""

    same_batches = True

    def __init__(
        self,
        url: str,
        *,
        format: str = "lines",
        headers: Mapping[str, str] | None = None,
        encoding: str = "identity",
        timeout: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        options.one_of("format", format, tuple(FORMATS))
        self._encode = FORMATS[format]
        self._poster = Poster(
            url,
            extra="http",
            content_type=cloudevents.CONTENT_TYPE if format == "cloudevents" else "application/x-ndjson",
            headers=headers,
            encoding=encoding,
            timeout=timeout,
            clock=clock,
        )

    def send(self, batch: Sequence[Message[Any]]) -> None:
        """One POST. Raises SinkError, which says what the answer means, unless it was a 2xx."""
        self._poster.post(self._encode(batch), len(batch), {"Idempotency-Key": idempotency_key(batch)})

    def close(self) -> None:
        """Give the connection back. A later `send` opens a new one."""
        self._poster.close()


def idempotency_key(batch: Sequence[Message[Any]]) -> str:
    """`<log id>:<first>-<last>`, with a comma between ranges where offsets are missing."""
    return f"{batch[0].origin.log_id}:{ranges(batch)}"
