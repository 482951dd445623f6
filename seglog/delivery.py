"""What a consumer is given next: put back first, then the scan; gaps kept and passed over (FORMAT.md §10.3, §10.10).

Not thread-safe; the consumer serialises. Nothing here acks: the position moves only over gaps.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Generic, TypeVar

from seglog.cursor import Cursor
from seglog.format.dead_letter import Envelope
from seglog.format.extended import decode_extended
from seglog.format.layout import CURSOR_RANGES_MAX, LETTER_PAYLOAD_MAX, NO_SEGMENT, OFFSET_MAX
from seglog.intervals import Intervals
from seglog.model import Extras, Gap, Message, plain_messages
from seglog.reader import Hole, Run
from seglog.source import Source

T = TypeVar("T")

NO_LIMIT = 1 << 62  # bytes


class Delivery(Generic[T]):
    """Gives out messages and remembers which are in flight."""

    def __init__(self, source: Source[T], cursor: Cursor, max_in_flight: int) -> None:
        self._source = source
        self._cursor = cursor
        self._max_in_flight = max_in_flight
        self._scan = source.scan(cursor.watermark)
        self._run: Run | None = None  # what the scan gave last
        self._run_at = 0  # how many of its records were given out
        self._held: Hole | None = None  # met, and not yet dealt with
        self._flying = Intervals()
        self._returned: list[tuple[float, int]] = []  # heap: when due, offset
        self._in_line: set[int] = set()  # the offsets in that heap
        self.gaps: list[Gap] = []  # passed over, and not yet told
        self.in_flight = 0

    @property
    def awaited(self) -> int:
        """The offset that must become visible before there is more to give; none will do while there is no room."""
        full = self.in_flight >= self._max_in_flight or self._storable() <= 0
        return OFFSET_MAX if full else self._scan.offset

    def seek(self, offset: int) -> None:
        """Begin anew at `offset`."""
        self._scan.seek(offset)
        self._run = self._held = None
        self._flying, self.in_flight, self._returned = Intervals(), 0, []
        self._in_line.clear()

    def close(self) -> None:
        self._scan.close()

    def pause(self) -> float:
        """How long to wait at most before looking again."""
        if not self._returned:
            return 1.0
        return min(1.0, max(0.001, self._returned[0][0] - self._source.clock.monotonic()))

    def take(self, limit: int, max_bytes: int | None) -> list[Message[T]]:
        """What can be given out now, at most so many messages and payload bytes (but one, if there is one)."""
        found: list[Message[T]] = []
        # What is given out must be storable in whichever order it is acked.
        limit = min(limit, self._max_in_flight - self.in_flight, self._storable())
        room = NO_LIMIT if max_bytes is None else max_bytes
        try:
            while self._returned and len(found) < limit and self._take_returned(found):
                room -= len(found[-1].payload)
                if room < 0 and len(found) > 1:
                    self.put_back([found.pop()])
                    return found
            self._take_new(found, limit, room)
        except BaseException:
            self.put_back(found)  # nobody will see them: they must not stay in flight
            raise
        return found

    def _storable(self) -> int:
        return CURSOR_RANGES_MAX - len(self._cursor.acked) - self.in_flight

    def _take_returned(self, found: list[Message[T]]) -> bool:
        """The first message that was put back and is due again."""
        now = self._source.clock.monotonic()
        while self._returned and self._returned[0][0] <= now:
            offset = self._returned[0][1]
            message = None
            if not self._cursor.handled(offset):
                message = self.fetch(offset)  # may raise: then it stays in line
            heapq.heappop(self._returned)
            self._in_line.discard(offset)
            if message is not None:
                self._fly(offset, offset + 1)
                found.append(message)
                return True
        return False

    def _line_up(self, due: float, offset: int) -> None:
        if offset not in self._in_line:
            self._in_line.add(offset)
            heapq.heappush(self._returned, (due, offset))

    def put_back(self, messages: Sequence[Message[T]]) -> None:
        """These were not given out after all: they come first the next time."""
        for message in messages:
            self.land(message.offset, message.offset + 1)
            self._line_up(0.0, message.offset)

    def fetch(self, offset: int) -> Message[T] | None:
        scan = self._source.scan(offset)
        try:
            found = scan.next()
        finally:
            scan.close()
        if found is None:
            return None
        if isinstance(found, Hole):
            self._meet_hole(found)
            return None
        made = self._messages(found, 0, 1, fetched=True)
        return made[0] if made else None

    def _take_new(self, found: list[Message[T]], limit: int, room: int) -> None:
        """Messages from the scan, gaps handled on the way, until limit, `room` bytes, or the end is reached."""
        while len(found) < limit:
            run = self._run
            if run is None:
                item = self._next_item(bool(found))
                if item is None:
                    return
                if isinstance(item, Hole):
                    self._meet_hole(item)
                    self._held = None
                    continue
                run, self._run_at = item, 0
                self._run = run
            first = run.first + self._run_at
            stop = min(first + limit - len(found), run.first + len(run.records))
            handled = self._cursor.handled_until(first)
            if handled > first:
                stop = min(handled, run.first + len(run.records))
            else:
                stop = next(self._cursor.acked.holes(first, stop))[1]
                if room < NO_LIMIT:
                    stop, room = _fitting(run, first, stop, room, must=not found)
                    if stop == first:
                        return
                made = self._messages(run, first - run.first, stop - run.first)
                if made:
                    self._fly_all(made)
                    found += made
            self._run_at = stop - run.first
            if self._run_at == len(run.records):
                self._run = None

    def _next_item(self, have_some: bool) -> Run | Hole | None:
        """What the scan gives next; a hole, or an error of the disk, only when nothing waits to be given out."""
        if self._held is not None:
            return None if have_some else self._held
        handled = self._cursor.handled_until(self._scan.offset)
        if handled > self._scan.offset:
            self._scan.seek(handled)
        try:
            item = self._scan.next()
        except OSError:
            if have_some:
                return None
            raise
        if isinstance(item, Hole):
            self._held = item
            return None if have_some else item
        return item

    def _messages(self, run: Run, start: int, stop: int, *, fetched: bool = False) -> list[Message[T]]:
        """Messages of a run's records; those expired, not yet due or undecodable are dealt with here."""
        origin, time_ns, first = self._source.origin, run.time_ns, run.first + start
        records = run.records[start:stop]
        if not run.extended and origin.serializer is None and not self._cursor.attempts:
            return plain_messages(first, records, time_ns, origin)
        made = []
        for offset, stored in enumerate(records, first):
            if offset in self._in_line and not fetched:
                continue  # met before; something behind it failed then
            payload, extras = stored, None
            if run.extended:
                payload, extras = decode_extended(stored)
                if not self._is_current(offset, extras, fetched):
                    continue
            message = Message(offset, payload, time_ns, origin, extras, 1 + self._cursor.attempts.get(offset, 0))
            decoded = self._decoded(message)
            if decoded is not None:
                made.append(decoded)
        return made

    def _is_current(self, offset: int, extras: Extras, fetched: bool) -> bool:
        """Whether a record is neither expired (then it becomes a gap) nor still to wait (then it is remembered)."""
        now = self._source.clock.time_ns()
        if extras.expiry_ns and extras.expiry_ns <= now:
            self._pass_over(Gap(offset, offset, "expired"))
            return False
        if extras.due_ns > now and not fetched:
            self._line_up(self._source.clock.monotonic() + (extras.due_ns - now) / 1e9, offset)
            return False
        return True

    def _decoded(self, message: Message[T]) -> Message[T] | None:
        """The message with its value, or None where the serializer does not read it: then it is a dead letter."""
        if self._source.origin.serializer is None:
            return message
        try:
            return message._replace(decoded=message.value)
        except ValueError as error:
            self.divert([message], "undecodable", str(error))
            self._cursor.pass_over(message.offset, message.offset + 1)
            return None

    def _fly_all(self, messages: Sequence[Message[T]]) -> None:
        first, last = messages[0].offset, messages[-1].offset
        if last - first + 1 == len(messages):
            self._fly(first, last + 1)
        else:
            for message in messages:
                self._fly(message.offset, message.offset + 1)

    def _fly(self, first: int, stop: int) -> None:
        already = sum(end - start for start, end in self._flying.overlap(first, stop))
        self._flying.add(first, stop)
        self.in_flight += stop - first - already

    def land(self, first: int, stop: int) -> None:
        for start, end in self._flying.overlap(first, stop):
            self._flying.remove(start, end)
            self.in_flight -= end - start

    def give_back(self, offsets: Sequence[int], due: float) -> None:
        """Put messages in flight back, to be given out first once the monotonic clock says `due`."""
        for offset in offsets:
            self.land(offset, offset + 1)
            self._line_up(due, offset)

    def flying(self, first: int, stop: int) -> list[int]:
        """The offsets of first .. stop-1 that are in flight."""
        return [offset for start, end in self._flying.overlap(first, stop) for offset in range(start, end)]

    def _meet_hole(self, hole: Hole) -> None:
        """Keep damaged bytes, then move past them, then say so."""
        if hole.reason in ("damaged", "suspect") and hole.segment is not None:
            length = min(hole.length, LETTER_PAYLOAD_MAX)
            file = self._source.catalog.segments.open(hole.segment.file_name)
            try:
                data = file.read(hole.position, length)
            finally:
                file.close()
            letter = Envelope(
                reason="damaged",
                detail=f"{hole.detail}: {hole.segment.file_name}, {hole.length} bytes at {hole.position}",
                consumer="",
                offset=hole.whole[0],
                last_offset=hole.whole[1] - 1,
                attempts=0,
                time_ns=self._source.clock.time_ns(),
                segment_id=hole.segment.segment_id,
                position=hole.position,
                length=hole.length,
                payload=data,
            )
            self._source.dead_letters.divert([letter])
        self._pass_over(Gap(hole.first, hole.stop - 1, hole.reason))

    def _pass_over(self, gap: Gap) -> None:
        self._cursor.pass_over(gap.first_offset, gap.last_offset + 1)
        self.gaps.append(gap)  # told once the consumer's lock is let go: whoever hears it may call back

    def take_gaps(self) -> list[Gap]:
        """What was passed over since the last time."""
        gaps, self.gaps = self.gaps, []
        return gaps

    def divert(self, messages: Sequence[Message[T]], reason: str, detail: str) -> None:
        """Keep these as dead letters, durably; each once, however often it is tried."""
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
        self._source.dead_letters.divert(letters)


def _fitting(run: Run, first: int, stop: int, room: int, *, must: bool) -> tuple[int, int]:
    """Where to stop so that the records fit into `room` bytes (after one, if one `must` be), and what room is left."""
    for offset in range(first, stop):
        size = len(run.records[offset - run.first])
        if size > room and not (must and offset == first):
            return offset, 0
        room -= size
    return stop, max(room, 0)
