"""Reads the end of one partition of Kafka: how far a log is there, and which of its late messages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from seglog.clock import Clock
from seglog.forward.sinks.kafka_errors import Heard

ID = "seglog-id"
NEWEST = "seglog-newest"

_LATE_MAX = 10_000  # newest records that are looked through for a message that was delayed
_SLICE_SECONDS = 0.1
_ASK_SECONDS = 1.0
# Reading a partition by its number needs no group, but the library asks for one.
_OF_THE_GROUP = frozenset(("GROUP_AUTHORIZATION_FAILED", "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS"))


class TooSlow(Exception):
    """The time is over."""


class Found(NamedTuple):
    """Whose a record of the partition is, and the highest offset of that log up to there."""

    log_id: str
    offset: int
    highest: int


class Reader:
    """Reads the end of the partition."""

    def __init__(
        self, library: Any, consumer: Any, heard: Heard, place: tuple[str, int], until: tuple[float, Clock]
    ) -> None:
        self._library = library
        self._consumer = consumer
        self._heard = heard
        self._topic, self._partition = place
        self._deadline, self._clock = until
        self._end = 0

    def newest(self) -> tuple[Found | None, int]:
        """The newest record, or None if none is left, and where the partition ends.

        What ends a transaction, and what was compacted away, takes an offset and is no record: so it looks farther
        and farther back.
        """
        low, self._end = self._bounds()
        newest, back, start = None, 1, self._end
        while newest is None and start > low:
            start = max(low, self._end - back)
            for newest in self._records(start):  # noqa: B007  # the last one counts
                pass
            back *= 32
        return newest, self._end

    def offsets(self, end: int, log_id: str) -> set[int]:
        """Those of this log among the last records before the partition's offset `end`."""
        low, self._end = self._bounds()
        start = max(low, end - _LATE_MAX)
        return {found.offset for found in self._records(start) if found.log_id == log_id} if start < end else set()

    def _left(self) -> float:
        left = self._deadline - self._clock.monotonic()
        if left <= 0:
            raise TooSlow
        return left

    def _bounds(self) -> tuple[int, int]:
        """The first offset, and the one behind the last. Raises KafkaException, at once where waiting is no use."""
        topic = self._metadata().topics[self._topic]
        if topic.error is not None:
            raise self._library.KafkaException(topic.error)
        if self._partition not in topic.partitions:
            unknown = self._library.KafkaError
            raise self._library.KafkaException(unknown(unknown._UNKNOWN_PARTITION, "the topic has no such partition"))
        place = self._library.TopicPartition(self._topic, self._partition)
        low, high = self._consumer.get_watermark_offsets(place, timeout=self._left())
        return low, high

    def _metadata(self) -> Any:
        while True:
            try:
                return self._consumer.list_topics(self._topic, timeout=min(_ASK_SECONDS, self._left()))
            except self._library.KafkaException:
                self._consumer.poll(0)  # lets it say why
                if self._heard.hopeless:
                    raise

    def _records(self, start: int) -> Iterator[Found]:
        """All from there on, to the end as it is by then."""
        self._consumer.assign([self._library.TopicPartition(self._topic, self._partition, start)])
        while True:
            message = self._consumer.poll(min(_SLICE_SECONDS, self._left()))
            if message is None:
                continue
            error = message.error()
            if error is None:
                self._end = max(self._end, message.offset() + 1)
                yield _found(message.headers() or [])
            elif error.name() == "_PARTITION_EOF":
                return
            elif error.name() not in _OF_THE_GROUP:
                raise self._library.KafkaException(error)


def _found(headers: Sequence[tuple[str, bytes | None]]) -> Found:
    """The first of a name is ours: a record may have a header that is called the same."""
    ours = dict(reversed(headers))
    log_id, _, offset = (ours.get(ID) or b"").decode("utf-8", "replace").rpartition(":")
    if not re.fullmatch(r"[0-9]{1,19}", offset):
        return Found("", -1, -1)
    newest = ours.get(NEWEST) or b""
    return Found(log_id, int(offset), max(int(offset), int(newest) if newest.isdigit() else -1))
