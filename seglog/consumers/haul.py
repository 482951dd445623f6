"""What one receive collects: so many messages, and so many bytes of payload."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from seglog.model import Message
from seglog.reader import Run

T = TypeVar("T")

NO_LIMIT = 1 << 62  # bytes

_AT_ONCE = 64  # sizes that are added up without a step of Python for each


@dataclass
class Haul(Generic[T]):
    """Never fewer than one message, if there is one, however large."""

    limit: int
    room: int = NO_LIMIT  # payload bytes
    messages: list[Message[T]] = field(default_factory=list)

    @property
    def left(self) -> int:
        """How many messages more."""
        return self.limit - len(self.messages)

    def holds(self, size: int) -> bool:
        """Whether so many bytes still fit."""
        return size <= self.room or not self.messages

    def add(self, message: Message[T]) -> None:
        self.messages.append(message)
        self.room -= len(message.payload)

    def add_all(self, messages: list[Message[T]], payloads: list[bytes]) -> None:
        """`payloads`: theirs."""
        self.messages += messages
        if self.room < NO_LIMIT:
            self.room -= sum(map(len, payloads))

    def fitting(self, run: Run, first: int, stop: int) -> int:
        """Up to which offset the run's records fit, from `first` on."""
        room = self.room
        if room == NO_LIMIT or sum(map(len, run.records[first - run.first : stop - run.first])) <= room:
            return stop
        for begin in range(first, stop, _AT_ONCE):
            end = min(begin + _AT_ONCE, stop)
            sizes = list(map(len, run.records[begin - run.first : end - run.first]))
            if sum(sizes) <= room:
                room -= sum(sizes)
                continue
            for offset, size in enumerate(sizes, begin):
                if size > room and (self.messages or offset > first):
                    return offset
                room -= size
        return stop
