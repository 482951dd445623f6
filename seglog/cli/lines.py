"""A stream of bytes cut into records at a delimiter. Nothing is decoded, so any bytes come through.

Only the delimiter itself divides: a carriage return or a Unicode line separator is part of the record. An
empty line is an empty record, and a delimiter at the very end begins no further one.
"""

from __future__ import annotations


class Splitter:
    """Cuts what it is fed. Holds the unfinished line and nothing else."""

    def __init__(self, delimiter: bytes = b"\n") -> None:
        self._delimiter = delimiter
        self._unfinished = bytearray()

    @property
    def unfinished_bytes(self) -> int:
        """How long the line is whose end was not yet seen."""
        return len(self._unfinished)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end in this chunk."""
        if self._unfinished:
            # What was there before holds no delimiter, so only its last bytes can be the beginning of one.
            seen = max(0, len(self._unfinished) - len(self._delimiter) + 1)
            self._unfinished += chunk
            if self._unfinished.find(self._delimiter, seen) < 0:
                return []
            chunk = bytes(self._unfinished)
            self._unfinished.clear()
        *lines, rest = chunk.split(self._delimiter)
        self._unfinished += rest
        return lines

    def end(self) -> list[bytes]:
        """At the end of the input: the last line, if no delimiter ended it."""
        rest = bytes(self._unfinished)
        self._unfinished.clear()
        return [rest] if rest else []
