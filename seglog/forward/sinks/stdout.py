"""`stdout:`, for pipes and for looking: each payload as it is, and a newline. Confirmed when it has left the process.

Whoever reads the other end sets the pace: as long as nobody reads, a send waits. A payload of several lines is written
as such, as `seglog read` does; the format "envelope" keeps records apart.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from typing import Any

from seglog import options
from seglog.errors import InvalidOption
from seglog.forward.sinks import encoding
from seglog.forward.sinks.base import Verdict
from seglog.model import Message


class StdoutSink:
    """Writes records to this process's standard output."""

    def __init__(self, url: str, *, format: str = "lines") -> None:
        if url.lower() != "stdout:":
            raise InvalidOption(f"{url!r}: write it as stdout: with nothing behind the colon")
        options.one_of("format", format, tuple(encoding.ENCODERS))
        self._encode = encoding.envelope if format == "envelope" else encoding.joined

    def send(self, batch: Sequence[Message[Any]]) -> None:
        left = memoryview(self._encode(batch))
        try:
            sys.stdout.flush()
            # By its number: a stream without a buffer (PYTHONUNBUFFERED) writes a part and says so to nobody.
            number = sys.stdout.fileno()
            while left:
                try:
                    left = left[os.write(number, left) :]
                except BlockingIOError:  # somebody made it non-blocking
                    select.select([], [number], [])
        except OSError as error:
            error.filename = "stdout"  # not a file of the log
            raise

    def classify(self, error: Exception) -> Verdict:
        """Every error ends the forwarding: nobody can come back to a pipe whose reader went away."""
        raise error
