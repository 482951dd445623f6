"""From records to messages, and what becomes of the records that are none: gaps, and dead letters (FORMAT.md §10.10).

What is damaged, unreadable or exhausted is kept in the dead letters, durably; only then the position moves past it.
What is expired or not there at all is passed over. Not thread-safe; the consumer serialises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from seglog.consumers.cursor import Cursor
from seglog.consumers.damage_letter import damage_letter
from seglog.errors import storage_errors
from seglog.format.dead_letter import Envelope
from seglog.format.extended import decode_extended
from seglog.format.layout import NO_SEGMENT
from seglog.model import Gap, Message
from seglog.reader import Hole, Run
from seglog.source import Source

T = TypeVar("T")


class Diversion(Generic[T]):
    """For one consumer."""

    def __init__(self, source: Source[T], cursor: Cursor) -> None:
        self._source = source
        self._cursor = cursor
        self._gaps: list[Gap] = []
        self.expired = 0

    # -- messages

    def stored(self, run: Run, offset: int) -> Message[T]:
        """The message as it is stored, whether or not anybody could handle it."""
        payload, extras = run.records[offset - run.first], None
        if run.extended:
            payload, extras = decode_extended(payload)
        attempts = 1 + self._cursor.attempts.get(offset, 0)
        return Message(offset, payload, run.time_ns, self._source.origin, extras, attempts)

    def message(self, run: Run, offset: int) -> Message[T] | None:
        """The message; None where it is expired or the serializer does not read it, and so was passed over.

        Raises DeadLetterWriteFailed, and what the serializer raises except for ValueError.
        """
        message = self.stored(run, offset)
        if message.extras is not None and 0 < message.extras.expiry_ns <= self._source.clock.time_ns():
            self.expired += 1
            self.pass_over(Gap(offset, offset, "expired"))
            return None
        if self._source.origin.serializer is None:
            return message
        try:
            return message._replace(decoded=message.value)
        except ValueError as error:
            self.keep([message], "undecodable", str(error))
            self._cursor.pass_over(offset, offset + 1)
            return None

    # -- gaps

    def meet_hole(self, hole: Hole) -> None:
        """Keep damaged bytes, then move past them, then say so."""
        with storage_errors("keeping damaged bytes"):
            letter = damage_letter(self._source, hole)
        if letter is not None:
            self._source.dead_letters.divert([letter])
        self.pass_over(Gap(hole.first, hole.stop - 1, hole.reason))

    def pass_over(self, gap: Gap) -> None:
        self._cursor.pass_over(gap.first_offset, gap.last_offset + 1)
        self._gaps.append(gap)  # told once the consumer's lock is let go: whoever hears it may call back

    def take_gaps(self) -> list[Gap]:
        """What was passed over since the last time."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def tell_later(self, gaps: Sequence[Gap]) -> None:
        """These were taken, and could not be told: the next time they come first."""
        self._gaps[:0] = gaps

    # -- dead letters

    def give_up(self, message: Message[T]) -> None:
        """No attempt is left: keep it, then move past it."""
        self.keep_exhausted([message])
        self._cursor.pass_over(message.offset, message.offset + 1)

    def keep_exhausted(self, messages: Sequence[Message[T]]) -> None:
        """Of each, this delivery was the last."""
        for message in messages:
            self.keep([message], "exhausted", f"delivery {message.attempts} failed, the last")

    def keep(self, messages: Sequence[Message[T]], reason: str, detail: str) -> None:
        """Durable on return; each is there once, however often it is tried. Raises DeadLetterWriteFailed."""
        now = self._source.clock.time_ns()
        letters = [
            Envelope(
                reason=reason,
                detail=detail,
                consumer=self._cursor.name,
                offset=message.offset,
                last_offset=message.offset,
                attempts=message.attempts,
                time_ns=now,
                segment_id=NO_SEGMENT,
                position=0,
                length=0,
                payload=message.payload,
                key=message.key,
                headers=message.headers or None,
            )
            for message in messages
        ]
        if letters:
            self._source.dead_letters.divert(letters)
