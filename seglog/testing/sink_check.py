"""Does a sink keep what `seglog.forward.Sink` promises? Records through a real forwarder, and what it must survive.

For whoever writes a sink. It needs a far end that belongs to the test, and that can be read back.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from seglog.model import Message, Record
from seglog.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from seglog.forward import Sink

PAYLOADS = (b"plain", b"", b"bin\x00\xff\r\n", "größer\n".encode(), b"{}", b" ", b"x" * 20_000)
_KEYS_AND_HEADERS: tuple[tuple[bytes | None, dict[str, bytes] | None], ...] = (
    (b"k", None),
    (b"", None),
    (None, {"type": b"a", "empty": b""}),
    (b"k\xfe", {"bin": b"\xff\x00"}),
)
_BATCH_RECORDS = 3
_DELAY_SECONDS = 3600.0
_PATIENCE_SECONDS = 60.0  # of a clock that does not wait: about ten tries
_AWAY_SENDS = 5  # enough to halve a batch down to a record, for who takes that for a refusal
_SHOWN = 5

Make = Callable[[], "Sink | Callable[[Sequence[Message[Any]]], object]"]
Arrived = Callable[[], Iterable[tuple[Any, ...]]]


def check_sink(
    make: Make,
    arrived: Arrived,
    *,
    payloads: Sequence[bytes] = PAYLOADS,
    order: bool = True,
    duplicates: bool = False,
    refused: bytes | None = None,
) -> None:
    """Send records of a log in memory through a real forwarder, and see that each arrives as promised.

    What goes in: payloads of all kinds, with and without key and headers; a sink that is closed and used again; one
    that is made anew and asked where to go on; errors before and after the far end had a batch; messages that were
    delayed and come when others have passed them. Waits for nothing: time is a `ManualClock`.

    Args:
        make: makes the sink, several times, always for the same far end, which is empty at first. The one before is
            closed by then.
        arrived: what is at the far end, in its order: (message.id, payload) each, or with key (None without one) and
            headers (a dict) behind it. Called after each send; it may wait for what the far end shows late.
        payloads: those that this far end takes; the first ones are those that come most often.
        order: False for a far end without an order of its own.
        duplicates: True for a sink that cannot say what the far end has, and a far end that takes a record twice:
            what was sent again after a failure may then be there again.
        refused: a payload that the far end never takes. It must become a dead letter, alone.

    Raises:
        AssertionError: a promise is broken; the message says which, and in which records.
    """
    check = _Check(make, arrived, payloads, order=order, duplicates=duplicates)
    try:
        check.plain_sends()
        check.a_new_sink()
        check.failures()
        check.delayed()
        if refused is not None:
            check.refusals(refused)
    finally:
        check.end()


class _Broken(BaseException):
    """Found while the forwarder runs, which takes every Exception for a failure of the far end."""


class _Killed(BaseException):
    """The forwarder's process died here."""


class _Watched:
    """The sink, with a far end that fails when it is told so. What else the sink has, the forwarder finds as it is."""

    def __init__(self, sink: Any, fault: str, arrived: Arrived) -> None:
        self._sink = sink
        self._away = _AWAY_SENDS if fault == "away" else 0
        self._fault = fault
        self._arrived = arrived
        self._begun: deque[Sequence[Message[Any]]] = deque()

    def send(self, batch: Sequence[Message[Any]]) -> None:
        self._go_there()
        getattr(self._sink, "send", self._sink)(batch)
        self._is_there("send", batch)

    def _begin(self, batch: Sequence[Message[Any]]) -> None:
        self._go_there()
        self._sink.begin(batch)
        self._begun.append(batch)

    def _finish(self) -> int:
        try:
            count: int = self._sink.finish()
        except BaseException:
            self._begun.clear()
            raise
        if not 1 <= count <= len(self._begun):
            raise _Broken(f"finish returned {count!r}: how many batches it is done with, of {len(self._begun)} begun")
        self._is_there("finish", [message for _ in range(count) for message in self._begun.popleft()])
        return count

    def _go_there(self) -> None:
        if self._away:
            self._away -= 1
            raise ConnectionError("the far end is away (this is a test)")

    def _is_there(self, said: str, batch: Sequence[Message[Any]]) -> None:
        fault, self._fault = self._fault, ""
        there = {each[0] for each in self._arrived()}
        lacking = [message.id for message in batch if message.id not in there]
        if lacking:
            what = f"{said} returned, and that confirms the batch, but the far end does not have {_some(lacking)}"
            raise _Broken(what)
        if fault == "answer":
            raise ConnectionError("the answer is lost (this is a test)")
        if fault == "kill":
            raise _Killed

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._sink, name)
        return {"begin": self._begin, "finish": self._finish}.get(name, found)


class _Check:
    """One log, one far end, and the sinks between them, one after the other."""

    def __init__(
        self, make: Make, arrived: Arrived, payloads: Sequence[bytes], *, order: bool, duplicates: bool
    ) -> None:
        from seglog.open_log import open_log

        if not payloads:
            raise ValueError("payloads: at least one")
        self._make = make
        self._arrived = arrived
        self._payloads = payloads
        self._order = order
        self._duplicates = duplicates
        self._clock = ManualClock()
        self._log = open_log(":memory:", clock=self._clock)
        self._log.consumer("witness").close()  # so that nothing is reclaimed
        self._expected: list[int] = []  # offsets, in the order in which they are due at the far end
        self._again: set[str] = set()  # may be there more than once
        self._dead = 0
        self._sink: Any = make()

    def end(self) -> None:
        try:
            self._close()
        finally:
            self._log.close()

    # What happens

    def plain_sends(self) -> None:
        everything = [Record(payload) for payload in self._payloads]
        everything += [Record(self._payloads[0], key, headers) for key, headers in _KEYS_AND_HEADERS]
        self._append(everything)
        self._forward("records of all kinds")
        self._append(self._records(7))
        self._forward("more records through the same sink")
        self._close()
        self._close()
        self._append(self._records(4))
        self._forward("after close()")

    def a_new_sink(self) -> None:
        """As after the death of a machine that took the consumer's position with it."""
        self._anew()
        self._append(self._records(1))
        doing = "a new sink, asked from the log's beginning on"
        highest = self._log.next_offset - 2  # of what the far end has
        point = self._resume_point()
        if point is None:
            assert self._duplicates, (
                f"{doing}: resume_point() does not say what the far end has, so everything is sent to it again; if "
                f"nobody can say that, pass duplicates=True"
            )
        else:
            assert point <= highest + 1, (
                f"{doing}: resume_point() is {point}, but nothing from offset {highest + 1} on was ever sent"
            )
        self._anew()
        self._forward(doing, consumer="anew")
        with self._log.consumer("forward") as consumer:
            consumer.seek("latest")  # the other one has sent that

    def failures(self) -> None:
        for fault, doing in (
            ("away", "an error before the far end had the batch"),
            ("answer", "an error after the far end had the batch"),
        ):
            self._append(self._records(8))
            self._forward(doing, fault)
        self._append(self._records(8))
        self._killed_and_started_again("killed after the far end had the batch")

    def delayed(self) -> None:
        for fault in ("", "answer", "kill"):
            (late,) = self._append([Record(self._payloads[0], delay=_DELAY_SECONDS)], due=False)
            self._append(self._records(4))
            self._forward("records that pass a delayed one")
            self._clock.advance(_DELAY_SECONDS + 1)
            self._expected.append(late)
            doing = "a delayed message, which comes when others have passed it"
            if fault == "kill":
                self._append(self._records(1))
                self._killed_and_started_again(f"{doing}, killed when the far end had it")
            else:
                self._forward(doing + (", after an answer that is lost" if fault else ""), fault)
                self._anew()  # the newest record at the far end is not the one with the highest offset
                self._forward(f"{doing}, and then a new sink, asked from there on", start=late + 1)

    def refusals(self, payload: bytes) -> None:
        self._append(self._records(1))
        (offset,) = self._append([Record(payload)], due=False)
        self._append(self._records(2))
        self._dead += 1
        doing = "a record that the far end never takes"
        self._forward(doing)
        others = [letter.offset for letter in self._log.dead_letters if letter.offset != offset]
        assert not others, f"{doing}: others were refused with it: {others}"

    # How

    def _records(self, count: int) -> list[Record[bytes]]:
        return [Record(self._payloads[number % len(self._payloads)]) for number in range(count)]

    def _append(self, records: Sequence[Record[bytes]], *, due: bool = True) -> list[int]:
        offsets = list(self._log.append_many(records))
        if due:
            self._expected += offsets
        return offsets

    def _anew(self) -> None:
        self._close()
        self._sink = self._make()

    def _close(self) -> None:
        getattr(self._sink, "close", lambda: None)()

    def _resume_point(self) -> int | None:
        getattr(self._sink, "attach", lambda log_id: None)(self._log.id)
        point: int | None = getattr(self._sink, "resume_point", lambda: None)()
        return point

    def _killed_and_started_again(self, doing: str) -> None:
        try:
            self._run(doing, "kill", "forward")
        except _Killed:
            self._anew()
        self._forward(doing)

    def _forward(self, doing: str, fault: str = "", consumer: str = "forward", start: int | None = None) -> None:
        if start is not None:
            consumer = f"from-{start}"
            self._log.consumer(consumer, start=start).close()
        try:
            self._run(doing, fault, consumer)
        except ConnectionError as error:
            if not fault:
                raise AssertionError(f"{doing}: {error}") from error
            self._run(doing, "", consumer)  # classify() said that there is no going on: then it is started again
        self._compare(doing)

    def _run(self, doing: str, fault: str, name: str) -> None:
        from seglog.forward import Forwarder, SinkError

        if self._duplicates and (fault in ("answer", "kill") or name != "forward"):
            self._again |= {f"{self._log.id}:{offset}" for offset in self._expected}
        options: dict[str, Any] = {"batch_records": _BATCH_RECORDS, "linger": 0, "patience": _PATIENCE_SECONDS}
        with self._log.consumer(name) as consumer:
            try:
                watched = _Watched(self._sink, fault, self._arrived)
                Forwarder(consumer, watched, clock=self._clock, **options).run(once=True)
            except _Broken as broken:
                raise AssertionError(f"{doing}: {broken}") from None
            except SinkError as error:
                raise AssertionError(f"{doing}: the sink does not take what it should: {error}") from error

    def _compare(self, doing: str) -> None:
        """What is at the far end, with what should be."""
        letters = [letter for letter in self._log.dead_letters if letter.reason == "refused"]
        assert len(letters) >= self._dead, f"{doing}: it was not refused, or is no dead letter"
        assert len(letters) == self._dead, (
            f"{doing}: record {letters[-1].offset} was refused ({letters[-1].detail}); is classify() right? If the far "
            f"end takes only certain payloads, pass them as payloads=[…]"
        )
        found = list(self._arrived())
        wanted = {message.id: message for message in self._log.read()}
        expected = [f"{self._log.id}:{offset}" for offset in self._expected]
        ids = [each[0] for each in found]
        strange = [id for id in ids if id not in expected]
        assert not strange, f"{doing}: the far end has what should not be there: {_some(strange)}"
        lost = [id for id in expected if id not in ids]
        assert not lost, f"{doing}: acknowledged, and lost: {_some(lost)}"
        for id, *fields in found:
            message = wanted[id]
            same = [message.payload, message.key, message.headers][: len(fields)]
            assert fields == same, f"{doing}: {id} arrived changed: {fields!r:.200} instead of {same!r:.200}"
        twice = [id for id, times in Counter(ids).items() if times > 1 and id not in self._again]
        assert not twice, f"{doing}: more than once at the far end: {_some(twice)}"
        if self._order:
            first = list(dict.fromkeys(ids))
            moved = [id for id, other in zip(first, expected, strict=True) if id != other]
            assert not moved, f"{doing}: in another order than they were sent: {_some(moved)}"


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_SHOWN]) + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")
