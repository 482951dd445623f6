"""What may be appended: values become tickets, checked before anything is touched.

Every refusal here means "not accepted", and costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar, cast

from seglog.clock import Clock
from seglog.errors import InvalidOption, RecordTooLarge, SerializeError
from seglog.format.layout import SEGMENT_RECORDS_MAX
from seglog.group_commit import Ticket
from seglog.model import Extras, Origin, Record
from seglog.options import GROUP_COMMIT_BYTES, RECORD_OVERHEAD_BYTES, LogOptions, key_and_headers, seconds

T = TypeVar("T")


class Intake(Generic[T]):
    """Checks and encodes what one log is given."""

    def __init__(self, options: LogOptions, origin: Origin[T], clock: Clock) -> None:
        self._options = options
        self._serializer = origin.serializer
        self._clock = clock

    def plain(self, value: T) -> Ticket:
        """The ticket of one record without extras: the hot path."""
        payload = value if self._serializer is None else self._encoded(value)
        size = len(cast(bytes, payload))
        if size > self._options.max_record_bytes:
            raise self._too_large(size)
        return Ticket((cast(bytes, payload),), None, size + 8)

    def batch(self, values: Iterable[T | Record[T]]) -> Ticket:
        """The ticket of one `append_many`."""
        kept = list(values)
        if self._serializer is None and set(map(type, kept)) == {bytes}:  # looked at as a whole: three times as fast
            payloads = cast(list[bytes], kept)
            largest = max(map(len, payloads))
            if largest > self._options.max_record_bytes:
                raise self._too_large(largest)
            size = sum(map(len, payloads)) + 8 * len(payloads)
            self._check_batch(len(payloads), size)
            return Ticket(payloads, None, size)
        return self.ticket([value if isinstance(value, Record) else Record(value) for value in kept])

    def encoded(self, records: Sequence[Record[bytes]], *, alone: bool) -> list[Ticket]:
        """The tickets of records whose values are payloads already, each `alone` or in batches of a moderate size."""
        batches: list[list[Record[bytes]]] = []
        size = 0
        for record in records:
            size += len(record.value)
            if alone or not batches or size > GROUP_COMMIT_BYTES:
                batches.append([])
                size = len(record.value)
            batches[-1].append(record)
        return [self._ticket(batch, [record.value for record in batch]) for batch in batches]

    def ticket(self, records: list[Record[T]]) -> Ticket:
        """The ticket of these, as one batch."""
        return self._ticket(records, [self._encoded(record.value) for record in records])

    def _ticket(self, records: Sequence[Record[Any]], payloads: list[bytes]) -> Ticket:
        extras: list[Extras | None] = []
        any_extras = False
        size = 0
        limit = self._options.max_record_bytes
        for record, payload in zip(records, payloads, strict=True):
            if len(payload) > limit:
                raise self._too_large(len(payload))
            size += len(payload) + 8
            extra = self._extras(record)
            extras.append(extra)
            if extra is not None:
                any_extras = True
                size += (
                    24 + len(extra.key or b"") + sum(len(k) * 4 + len(v) + 6 for k, v in (extra.headers or {}).items())
                )
        if len(records) == 1 and size > limit + RECORD_OVERHEAD_BYTES:
            raise RecordTooLarge(f"key and headers take more than {RECORD_OVERHEAD_BYTES} bytes beside the payload")
        self._check_batch(len(records), size)
        return Ticket(payloads, extras if any_extras else None, size)

    def _check_batch(self, count: int, size: int) -> None:
        if size > self._options.max_batch_bytes or count > SEGMENT_RECORDS_MAX:
            raise RecordTooLarge(
                f"a batch of {count} records and {size} bytes exceeds the limit of "
                f"{self._options.max_batch_bytes} bytes; append it in parts"
            )

    def _too_large(self, size: int) -> RecordTooLarge:
        return RecordTooLarge(f"a record of {size} bytes exceeds max_record_bytes={self._options.max_record_bytes}")

    def _encoded(self, value: T) -> bytes:
        serializer = self._serializer
        payload: object = value
        if serializer is not None:
            try:
                payload = serializer.dumps(value)
            except (ValueError, TypeError) as error:
                raise SerializeError(f"the serializer refused the value: {error}") from error
        if isinstance(payload, bytes):
            return payload
        if isinstance(payload, (bytearray, memoryview)):
            return bytes(payload)
        if serializer is not None:
            raise SerializeError(f"the serializer made {type(payload).__name__}, not bytes")
        raise InvalidOption(
            f"a payload must be bytes, not {type(payload).__name__}; encode it, or open with a serializer"
        )

    def _extras(self, record: Record[T]) -> Extras | None:
        if record.key is None and record.headers is None and record.delay is None and record.ttl is None:
            return None
        headers = key_and_headers(record.key, record.headers)
        now = self._clock.time_ns()
        due = 0 if record.delay is None else now + int(seconds("delay", record.delay) * 1e9)
        expiry = 0 if record.ttl is None else now + int(seconds("ttl", record.ttl) * 1e9)
        return Extras(record.key, headers, due, expiry)
