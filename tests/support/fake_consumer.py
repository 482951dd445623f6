"""A consumer in memory for forwarder tests, with a journal of what was asked of it, and a clock without waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from seglog.errors import DeadLetterWriteFailed
from seglog.model import Extras, Message, Origin
from seglog.testing import ManualClock

LOG_ID = "6f1f7a5e-9f4e-4f5c-8f1d-2b8a3f0c9d11"


class FakeClock(ManualClock):
    """A manual clock that writes down who slept how long. Randomness is always `share` of the whole range."""

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.slept: list[float] = []
        self.share = share

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)

    def random_bytes(self, count: int) -> bytes:
        most: int = 256**count - 1
        return min(int(self.share * (most + 1)), most).to_bytes(count, "little")


def message(offset: int, payload: bytes = b"x", **extras: Any) -> Message[bytes]:
    """A message as a consumer would give it out."""
    return Message(
        offset, payload, 1_700_000_000 * 10**9, Origin(LOG_ID, None), Extras(**extras) if extras else None, 1
    )


class FakeConsumer:
    """Gives out what it was fed, in order. `journal` has every ack, nack and refusal, with offsets, in order."""

    def __init__(self, messages: Iterable[Message[bytes] | bytes], clock: FakeClock, *, one_at_a_time: bool = False):
        self.clock = clock
        self.one_at_a_time = one_at_a_time  # as after a crash of the consumer before
        self.ready: deque[Message[bytes]] = deque()
        self.in_flight: dict[int, Message[bytes]] = {}
        self.journal: list[tuple[str, list[int]]] = []
        self.dead: dict[int, str] = {}
        self.dead_letters_full = False
        self.receives = 0
        self.feed(messages)

    def feed(self, messages: Iterable[Message[bytes] | bytes]) -> None:
        for one in messages:
            self.ready.append(message(len(self.ready), one) if isinstance(one, bytes) else one)

    def receive_many(self, limit: int, timeout: float | None = 0, max_bytes: int | None = None) -> list[Message[bytes]]:
        self.receives += 1
        assert self.receives < 100_000, "the forwarder spins"
        assert timeout is not None, "a forwarder that waits without limit cannot be stopped"
        if self.one_at_a_time:
            limit = 0 if self.in_flight else 1
        given: list[Message[bytes]] = []
        size = 0
        while self.ready and len(given) < limit:
            size += len(self.ready[0].payload)
            if given and max_bytes is not None and size > max_bytes:
                break
            given.append(self.ready.popleft())
        if not given:
            self.clock.advance(timeout)
        self.in_flight.update((one.offset, one) for one in given)
        return given

    def ack(self, *messages: Message[Any]) -> None:
        self._done("ack", messages)

    def refuse(self, *messages: Message[Any], detail: str = "") -> None:
        if self.dead_letters_full:
            raise DeadLetterWriteFailed("the dead-letter queue is full")
        self._done("refuse", messages)
        self.dead.update((one.offset, detail) for one in messages)

    def nack(self, *messages: Message[Any], delay: float | None = None) -> None:
        assert delay == 0
        self._done("nack", messages)
        self.ready.extendleft(reversed(messages))

    def unacked(self) -> Iterator[Message[bytes]]:
        yield from sorted([*self.in_flight.values(), *self.ready], key=lambda one: one.offset)

    def _done(self, what: str, messages: Iterable[Message[Any]]) -> None:
        offsets = [one.offset for one in messages]
        for offset in offsets:
            del self.in_flight[offset]  # KeyError: it was not given out, or is done already
        self.journal.append((what, offsets))

    def __len__(self) -> int:
        return len(self.ready) + len(self.in_flight)

    def acked(self) -> list[int]:
        return [offset for what, offsets in self.journal if what == "ack" for offset in offsets]
