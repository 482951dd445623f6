"""The values that cross the public API: records, messages, gaps, reports and statistics.

Everything a report or statistic holds is plain data, so that `--json` can print exactly its fields.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import repeat
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar, cast

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    Value = TypeVarWithDefault("Value", default=bytes)  # what a log holds: bytes, unless a serializer says otherwise
else:
    Value = TypeVar("Value")

Where = int | datetime.datetime
Start = str | int | datetime.datetime


class Serializer(Protocol[T]):
    """Turns values into payloads and back. Raise ValueError for what cannot be encoded or decoded."""

    def dumps(self, value: T, /) -> bytes: ...

    def loads(self, payload: bytes, /) -> T: ...


class Record(Generic[T]):
    """One value to append, with what may accompany it.

    Args:
        value: the payload (bytes, or what the log's serializer takes).
        key: bytes that name what the record is about; stored, never interpreted.
        headers: name -> bytes, at most 65,535 of them.
        delay: seconds before consumers get it.
        ttl: seconds after which consumers no longer get it.
    """

    __slots__ = ("delay", "headers", "key", "ttl", "value")

    def __init__(
        self,
        value: T,
        key: bytes | None = None,
        headers: Mapping[str, bytes] | None = None,
        delay: float | None = None,
        ttl: float | None = None,
    ) -> None:
        self.value = value
        self.key = key
        self.headers = headers
        self.delay = delay
        self.ttl = ttl

    def __repr__(self) -> str:
        return f"Record(key={self.key!r}, delay={self.delay!r}, ttl={self.ttl!r})"


@dataclass(frozen=True, slots=True)
class Origin(Generic[T]):
    """What all messages of one opening share: the log's id and its serializer."""

    log_id: str
    serializer: Serializer[T] | None


class Undecoded(Enum):
    """The mark of a message whose payload was not decoded yet; an enum, so that it is itself after pickling."""

    UNDECODED = "undecoded"


UNDECODED = Undecoded.UNDECODED


class Extras:
    """The optional part of a stored record (FORMAT.md §6.3); times are Unix nanoseconds, 0 for none."""

    __slots__ = ("due_ns", "expiry_ns", "headers", "key")

    def __init__(
        self,
        key: bytes | None = None,
        headers: dict[str, bytes] | None = None,
        due_ns: int = 0,
        expiry_ns: int = 0,
    ) -> None:
        self.key = key
        self.headers = headers
        self.due_ns = due_ns
        self.expiry_ns = expiry_ns

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Extras):
            return NotImplemented
        return (self.key, self.headers or {}, self.due_ns, self.expiry_ns) == (
            other.key,
            other.headers or {},
            other.due_ns,
            other.expiry_ns,
        )

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value


class Message(NamedTuple, Generic[T]):
    """One record as a reader or consumer sees it: `payload` as it was stored, at `offset`.

    `attempts` is 1 at the first delivery, and 0 when the message was read rather than received. Messages are made
    by the thousand, and nothing in Python is made faster than a tuple.
    """

    offset: int
    payload: bytes
    time_ns: int
    origin: Origin[T]
    extras: Extras | None = None
    attempts: int = 0
    decoded: object = UNDECODED

    @property
    def id(self) -> str:
        """Stable for ever and unique everywhere: "<log id>:<offset>"."""
        return f"{self.origin.log_id}:{self.offset}"

    @property
    def value(self) -> T:
        """The payload as the serializer reads it (bytes without one). Raises ValueError if it cannot."""
        serializer = self.origin.serializer
        if serializer is None:
            return self.payload  # type: ignore[return-value]  # a Log[bytes]
        return serializer.loads(self.payload) if self.decoded is UNDECODED else cast(T, self.decoded)

    @property
    def key(self) -> bytes | None:
        """What it was appended with, or None."""
        return None if self.extras is None else self.extras.key

    @property
    def headers(self) -> dict[str, bytes]:
        """What it was appended with; empty if nothing."""
        return {} if self.extras is None or self.extras.headers is None else self.extras.headers

    @property
    def timestamp(self) -> float:
        """Append time in Unix seconds, for people: order never depends on it."""
        return self.time_ns / 1e9

    def __hash__(self) -> int:
        return hash((self.origin.log_id, self.offset))

    def __repr__(self) -> str:
        return f"<Message {self.offset}, {len(self.payload)} bytes>"  # never the payload: it may be a secret


def plain_messages(first: int, payloads: Sequence[bytes], time_ns: int, origin: Origin[T]) -> list[Message[T]]:
    """First deliveries without extras, made in one go."""
    fields = zip(
        range(first, first + len(payloads)),
        payloads,
        repeat(time_ns),
        repeat(origin),
        repeat(None),
        repeat(1),
        repeat(UNDECODED),
        strict=False,
    )
    return cast("list[Message[T]]", list(map(tuple.__new__, repeat(Message), fields)))


@dataclass(frozen=True)
class Gap:
    """Offsets, both ends included, that will not be delivered.

    `reason`: damaged, missing, dropped, purged, expired, skipped, or suspect.
    """

    first_offset: int
    last_offset: int
    reason: str


@dataclass(frozen=True)
class DeadLetter:
    """One entry of the dead-letter queue: a message with its `payload`, `key` and `headers`, or damaged bytes.

    `id` names the entry. `reason`: damaged, undecodable, rejected, exhausted, refused; `detail` for people. `consumer`
    gave it up at `offset` after so many `attempts`; `timestamp`: when it was kept, in Unix seconds.

    For damage, `payload` holds the damaged bytes as they were read, `consumer` is "" and `offset` .. `last_offset` are
    the records they held.
    """

    id: int
    reason: str
    detail: str
    consumer: str
    payload: bytes
    key: bytes | None
    headers: dict[str, bytes]
    offset: int
    last_offset: int
    attempts: int
    timestamp: float


@dataclass(frozen=True)
class OffsetRange:
    """Offsets, both ends included."""

    first_offset: int
    last_offset: int


@dataclass(frozen=True)
class Damage:
    """Bytes that were durable once and do not read back as written.

    `first_offset` and `last_offset` are None where no record is lost (a spare copy was hit).
    """

    segment: str
    position: int
    length: int
    first_offset: int | None
    last_offset: int | None
    reason: str


@dataclass(frozen=True)
class OpenReport:
    """What open() found and did. `clean`: closed properly, or created by this opening."""

    created: bool = False
    clean: bool = True
    recovered_records: int = 0
    torn_tail_bytes: int = 0
    damage: tuple[Damage, ...] = ()
    suspect: tuple[OffsetRange, ...] = ()
    missing: tuple[OffsetRange, ...] = ()
    skipped: tuple[OffsetRange, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CursorReport:
    """A consumer's position as verify finds it; `ok` is False if its file does not read back."""

    watermark: int
    lag_records: int
    ok: bool


@dataclass(frozen=True)
class VerifyReport:
    """What a log directory holds, and what it lost."""

    ok: bool
    acknowledged_loss: bool
    segments: int
    records: int
    first_offset: int
    next_offset: int
    bytes: int
    torn_tail_bytes: int
    damage: tuple[Damage, ...]
    suspect: tuple[OffsetRange, ...]
    missing: tuple[OffsetRange, ...]
    skipped: tuple[OffsetRange, ...]
    repaired: tuple[OffsetRange, ...]
    cursors: dict[str, CursorReport]
    dead_letters: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class RepairAction:
    """One thing that is not well, and what a repair does about it.

    `file`: relative to the log's directory; "" for records whose file is gone. `first_offset` and `last_offset` are
    the records that are lost (below "dead/": the dead letters), None where none is. `action`:

    - divert: the bytes go to the dead letters, and the offsets are declared lost
    - declare: there are no bytes; the offsets are declared lost
    - restore: the bytes are written as they were, which the rest of the file proves
    - rebuild: `meta` is written anew, from what it still says, else from segments and cursors
    - restart: the consumer begins again at the start of the log
    - "": nothing can be done; it costs no record
    """

    file: str
    position: int
    length: int
    first_offset: int | None
    last_offset: int | None
    reason: str
    action: str


@dataclass(frozen=True)
class RepairReport:
    """What a repair did, or would do.

    `ok`: what verify says now. `actions`: what was found. `left`: what is still not well, or with `dry_run` what a
    repair cannot mend. `repaired`: the offsets that this repair declared lost. `quarantine`: its manifests, relative to
    the log's directory.
    """

    dry_run: bool
    ok: bool
    actions: tuple[RepairAction, ...]
    left: tuple[RepairAction, ...]
    repaired: tuple[OffsetRange, ...]
    quarantine: tuple[str, ...]


@dataclass(frozen=True)
class ConsumerStats:
    """Where a consumer stands. Ages in seconds, by the records' advisory append times.

    Of what is not yet handled (`lag_records`), `in_flight` was given out, `delayed` waits for its due time or to be
    tried again, as far as it was met, and the rest is `ready`. `expired`: skipped since the consumer was opened. These
    three are None for a consumer that this log does not hold open; its `in_flight` is what it noted last.
    `acked_ranges`: separate ranges acked above the watermark. At 10,240 a message that would add one waits for older
    ones to be acked.
    """

    watermark: int
    lag_records: int
    lag_bytes: int
    oldest_age_seconds: float | None
    in_flight: int
    ready: int | None = None
    delayed: int | None = None
    expired: int | None = None
    acked_ranges: int = 0


@dataclass(frozen=True)
class LogStats:
    """The log as it stands.

    `pinned_by`: the consumers whose watermark keeps the oldest segment. `dropped`: records given up to stay within a
    limit, ever. `used_bytes`, `used_records`: what counts against a limit, None where this opening has no such limit.
    """

    first_offset: int
    next_offset: int
    durable_offset: int
    records: int
    bytes: int
    segments: int
    consumers: dict[str, ConsumerStats]
    dead_letters: int
    pinned_by: tuple[str, ...]
    dropped: int
    used_bytes: int | None
    used_records: int | None
    max_bytes: int | None
    max_records: int | None


@dataclass(frozen=True)
class PinnedSegment:
    """A segment that compaction left, and why: consumer names, or "active", "retention", "no consumers"."""

    segment: str
    pinned_by: tuple[str, ...]


@dataclass(frozen=True)
class CompactReport:
    """What compaction gave back."""

    removed_segments: int = 0
    removed_bytes: int = 0
    first_offset: int = 0
    remaining: tuple[PinnedSegment, ...] = field(default=())
