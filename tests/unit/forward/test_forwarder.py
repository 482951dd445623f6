"""The pump: order, acknowledgement after confirmation, what each verdict does, stopping. Nothing waits for real."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from seglog.errors import InvalidOption, StorageError
from seglog.forward import Forwarder, SinkError, Verdict
from seglog.model import Message
from tests.support.fake_consumer import LOG_ID, FakeClock, FakeConsumer, message

Batch = Sequence[Message[Any]]


class FarEnd:
    """A sink that does what its script says, send by send, and then accepts; it never takes what is `poison`."""

    def __init__(self, *script: Exception | None, poison: frozenset[int] = frozenset()) -> None:
        self.script = list(script)
        self.poison = poison
        self.seen: list[list[int]] = []
        self.accepted: list[int] = []
        self.before_each: Callable[[Batch], None] = lambda batch: None

    def send(self, batch: Batch) -> None:
        self.before_each(batch)
        offsets = [one.offset for one in batch]
        self.seen.append(offsets)
        error = self.script.pop(0) if self.script else None
        if error is None and self.poison.intersection(offsets):
            error = SinkError("HTTP 400 Bad Request", verdict=Verdict.REFUSED, detail="no such field: x")
        if error is not None:
            raise error
        self.accepted += offsets


One = FarEnd  # where a script is about one batch after the other


class Several(FarEnd):
    """The same, with batches begun before the oldest is finished. None is taken behind one that failed."""

    def __init__(self, *script: Exception | None, poison: frozenset[int] = frozenset()) -> None:
        super().__init__(*script, poison=poison)
        self.begun: list[Batch] = []
        self.most = 0

    def resume_point(self) -> int | None:
        self.begun.clear()
        return None

    def begin(self, batch: Batch) -> None:
        self.begun.append(batch)
        self.most = max(self.most, len(self.begun))

    def finish(self) -> int:
        self.send(self.begun.pop(0))
        return 1


@pytest.fixture(autouse=True, params=[FarEnd, Several])
def kind_of_far_end(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds with one batch at a time holds with several under way."""
    monkeypatch.setitem(globals(), "FarEnd", request.param)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_everything_arrives_in_order_and_is_acknowledged(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 1234, clock), FarEnd()
    forwarder = Forwarder(consumer, far_end, clock=clock)
    forwarder.run(once=True)
    assert far_end.accepted == list(range(1234)) == consumer.acked()
    assert [len(batch) for batch in far_end.seen] == [500, 500, 234]
    assert forwarder.stats().sent_records == 1234
    assert forwarder.stats().sent_batches == 3
    assert clock.slept == []


def test_batches_are_under_way_together_only_while_whole_ones_wait(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 59, clock), Several()
    forwarder = Forwarder(consumer, far_end, batch_records=10, clock=clock)
    forwarder.run(once=True)
    assert far_end.most == 3
    assert [len(batch) for batch in far_end.seen] == [10] * 5 + [9]
    assert far_end.accepted == list(range(59)) == consumer.acked()
    assert forwarder.stats().sent_batches == 6
    consumer, far_end = FakeConsumer([b"x"] * 19, clock), Several()
    Forwarder(consumer, far_end, batch_records=10, clock=clock).run(once=True)
    assert far_end.most == 1


def test_a_sink_may_say_that_it_has_finished_several(clock: FakeClock) -> None:
    class Quick(Several):
        def finish(self) -> int:
            count = len(self.begun)
            while self.begun:
                super().finish()
            return count

    consumer, far_end = FakeConsumer([b"x"] * 60, clock), Quick()
    Forwarder(consumer, far_end, batch_records=10, clock=clock).run(once=True)
    assert consumer.journal == [("ack", list(range(10))), ("ack", list(range(10, 40))), ("ack", list(range(40, 60)))]


def test_what_was_begun_behind_a_failure_is_begun_again(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 50, clock), Several(None, OSError("gone"))
    Forwarder(consumer, far_end, batch_records=10, clock=clock).run(once=True)
    assert far_end.accepted == list(range(50)) == consumer.acked()


def ranges(journal: list[tuple[str, list[int]]]) -> list[tuple[str, int, int]]:
    return [(what, offsets[0], offsets[-1] + 1) for what, offsets in journal]


def test_while_more_is_under_way_an_acknowledgement_waits_for_two_others(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 105, clock), Several()
    Forwarder(consumer, far_end, batch_records=10, clock=clock).run(once=True)
    assert ranges(consumer.journal) == [
        ("ack", 0, 10),
        ("ack", 10, 40),
        ("ack", 40, 70),
        ("ack", 70, 100),
        ("ack", 100, 105),
    ]


def test_p5_what_arrived_is_acknowledged_before_anything_is_waited_for(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 50, clock), Several(None, None, OSError("gone"))
    sleep = clock.sleep
    journals = []

    def sleeping(seconds: float) -> None:
        journals.append(ranges(consumer.journal))
        sleep(seconds)

    clock.sleep = sleeping  # type: ignore[method-assign]
    Forwarder(consumer, far_end, batch_records=10, clock=clock).run(once=True)
    assert journals[0] == [("ack", 0, 10), ("ack", 10, 20)]
    assert far_end.accepted == list(range(50)) == consumer.acked()


def test_p5_what_arrived_before_an_interrupt_is_not_sent_again(clock: FakeClock) -> None:
    class Interrupted(Several):
        def resume_point(self) -> int | None:
            super().resume_point()
            return len(self.accepted)

        def finish(self) -> int:
            if len(self.seen) == 3:
                self.seen.append([])
                raise KeyboardInterrupt
            return super().finish()

    consumer, far_end = FakeConsumer([b"x"] * 80, clock), Interrupted()
    forwarder = Forwarder(consumer, far_end, batch_records=10, clock=clock)
    with pytest.raises(KeyboardInterrupt):
        forwarder.run(once=True)
    assert consumer.in_flight == {}
    forwarder.run(once=True)
    assert far_end.accepted == list(range(80)) == sorted(consumer.acked())


class Together(Several):
    """What is begun is taken or refused as one, as a broker does it with what it gets in one request."""

    def finish(self) -> int:
        offsets = [one.offset for batch in self.begun for one in batch]
        if self.poison.intersection(offsets):
            raise SinkError("one of these", verdict=Verdict.REFUSED)
        return super().finish()


@pytest.mark.parametrize("poison", range(20, 30))
def test_a_refusal_is_not_blamed_on_what_was_under_way_beside_it(clock: FakeClock, poison: int) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 80, clock), Together(poison=frozenset({poison, 71}))
    Forwarder(consumer, far_end, batch_records=10, clock=clock).run(once=True)
    assert list(consumer.dead) == [poison, 71]
    assert far_end.accepted == [offset for offset in range(80) if offset not in (poison, 71)]
    assert clock.slept == []


@pytest.mark.parametrize("fails", ["ack", "receive_many", "__len__"])
def test_an_error_of_the_consumer_ends_it_with_several_under_way(clock: FakeClock, fails: str) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 80, clock), Several()

    def broken(*_: Any, **__: Any) -> Any:
        if far_end.accepted:
            raise StorageError("the disk")
        return works(*_, **__)

    works = getattr(consumer, fails)
    kind = type("Broken", (FakeConsumer,), {fails: lambda self, *given, **named: broken(*given, **named)})
    consumer.__class__ = kind
    forwarder = Forwarder(consumer, far_end, batch_records=10, clock=clock)
    with pytest.raises(StorageError):
        forwarder.run(once=True)
    consumer.__class__ = FakeConsumer
    acked = set(consumer.acked())
    assert acked <= set(far_end.accepted)
    forwarder.run(once=True)
    assert consumer.acked() == list(range(80))
    assert set(far_end.accepted) == set(range(80))


def test_what_is_left_of_a_run_that_ended_confirms_nothing_in_the_next(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 80, clock), Several()
    nack, ack = consumer.nack, consumer.ack

    def broken(*_: Any, **__: Any) -> None:
        raise StorageError("the disk is full")

    forwarder = Forwarder(consumer, far_end, batch_records=10, clock=clock)
    consumer.ack = broken  # type: ignore[method-assign]
    consumer.nack = broken  # type: ignore[method-assign]
    with pytest.raises(StorageError):
        forwarder.run(once=True)
    consumer.ack, consumer.nack = ack, nack  # type: ignore[method-assign]
    forwarder.run(once=True)
    assert set(consumer.acked()) <= set(far_end.accepted), "acknowledged, and not there"


def test_after_an_interrupt_in_a_send_the_far_end_is_asked_first(clock: FakeClock) -> None:
    class Interrupted(FarEnd):
        def resume_point(self) -> int | None:
            return len(self.accepted)

        def send(self, batch: Batch) -> None:
            super().send(batch)
            if len(self.seen) == 2:
                raise KeyboardInterrupt  # all of it was on its way

    consumer, far_end = FakeConsumer([b"x"] * 30, clock), Interrupted()
    forwarder = Forwarder(consumer, far_end, batch_records=10, clock=clock)
    with pytest.raises(KeyboardInterrupt):
        forwarder.run(once=True)
    forwarder.run(once=True)
    assert far_end.accepted == list(range(30)) == consumer.acked()


def test_a_run_that_ended_well_leaves_nothing_to_be_asked_of_the_far_end(clock: FakeClock) -> None:
    class Asked(Several):
        asked = 0

        def resume_point(self) -> int | None:
            self.asked += 1
            return super().resume_point()

    consumer, far_end = FakeConsumer([b"x"] * 80, clock), Asked()
    forwarder = Forwarder(consumer, far_end, batch_records=10, clock=clock)
    for _ in range(3):
        forwarder.run(once=True)
        consumer.feed([message(100 + len(far_end.accepted))])
    assert far_end.asked == 1


@pytest.mark.parametrize("said", [0, 4, None, "1"])
def test_a_finish_that_says_what_cannot_be_is_a_fault_of_the_sink(clock: FakeClock, said: Any) -> None:
    class Says(Several):
        def finish(self) -> int:
            super().finish()
            result: int = said
            return result

    consumer = FakeConsumer([b"x"] * 80, clock)
    with pytest.raises(SinkError, match=r"finish\(\) returned"):
        Forwarder(consumer, Says(), batch_records=10, patience=60, clock=clock).run(once=True)
    assert consumer.acked() == []


@pytest.mark.parametrize("lacks", ["begin", "finish", "resume_point"])
def test_several_under_way_need_all_that_belongs_to_it(clock: FakeClock, lacks: str) -> None:
    names = {"begin", "finish", "resume_point", "send"} - {lacks}
    sink = type("Sink", (), dict.fromkeys(names, lambda self, *_: 1))()
    with pytest.raises(InvalidOption, match="it needs begin, finish and resume_point"):
        Forwarder(FakeConsumer([], clock), sink, clock=clock)


def test_where_the_same_batches_must_come_again_there_is_one_under_way(clock: FakeClock) -> None:
    class Same(Several):
        same_batches = True

    far_end = Same()
    Forwarder(FakeConsumer([b"x"] * 80, clock), far_end, batch_records=10, clock=clock).run(once=True)
    assert far_end.most == 1


def test_what_the_far_end_has_is_asked_for_only_with_nothing_under_way(clock: FakeClock) -> None:
    class Asked(Several):
        asked = 0

        def begin(self, batch: Batch) -> None:
            if batch[0].offset == 20 and self.asked == 1:
                raise SinkError("no room")
            super().begin(batch)

        def resume_point(self) -> int | None:
            assert not self.begun
            self.asked += 1
            return len(self.accepted)

    consumer, far_end = FakeConsumer([b"x"] * 50, clock), Asked()
    forwarder = Forwarder(consumer, far_end, batch_records=10, clock=clock)
    forwarder.run(once=True)
    assert far_end.accepted == list(range(50)) == consumer.acked()
    assert far_end.asked == 2
    assert forwarder.stats().failures == 0, "behind the others it was taken"


def test_parts_that_are_there_already_stand_between_those_under_way(clock: FakeClock) -> None:
    class Ahead(Several):
        def resume_point(self) -> int | None:
            return 15

    consumer, far_end = FakeConsumer([b"x"] * 40, clock), Ahead()
    forwarder = Forwarder(consumer, far_end, batch_records=10, clock=clock)
    forwarder.run(once=True)
    assert far_end.accepted == list(range(15, 40))
    assert consumer.acked() == list(range(40))
    assert (forwarder.stats().sent_records, forwarder.stats().sent_batches) == (25, 3)


def test_p5_nothing_is_acknowledged_before_it_is_confirmed(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 30, clock), FarEnd(OSError("gone"), None, OSError("gone"))

    def in_hand_is_not_acked(batch: Batch) -> None:
        assert not set(consumer.acked()) & {one.offset for one in batch}
        assert {one.offset for one in batch} <= consumer.in_flight.keys()

    far_end.before_each = in_hand_is_not_acked
    Forwarder(consumer, far_end, batch_records=10, clock=clock).run(once=True)
    assert far_end.accepted == list(range(30)) == consumer.acked()
    assert far_end.seen[0] == far_end.seen[1]


def test_a_plain_function_is_a_sink(clock: FakeClock) -> None:
    seen: list[bytes] = []
    consumer = FakeConsumer([b"a", b"b"], clock)
    Forwarder(consumer, lambda batch: seen.extend(one.payload for one in batch), clock=clock).run(once=True)
    assert seen == [b"a", b"b"]
    assert consumer.acked() == [0, 1]


def test_batches_keep_to_their_bytes_and_a_larger_record_goes_alone(clock: FakeClock) -> None:
    sizes = [40, 40, 40, 500, 10, 100]
    consumer, far_end = FakeConsumer([b"x" * size for size in sizes], clock), FarEnd()
    Forwarder(consumer, far_end, batch_bytes=100, clock=clock).run(once=True)
    assert far_end.seen == [[0, 1], [2], [3], [4], [5]]


def test_a_batch_fills_for_as_long_as_it_may_linger(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([], clock), FarEnd()
    receive_many, arrivals = consumer.receive_many, iter(range(100))

    def trickle(limit: int, timeout: float | None = 0, max_bytes: int | None = None) -> list[Message[bytes]]:
        offset = next(arrivals)
        consumer.feed([message(offset, b"x" * 10)])
        clock.advance(0.0625)
        return receive_many(limit, timeout, max_bytes)

    consumer.receive_many = trickle  # type: ignore[method-assign]
    far_end.before_each = lambda batch: forwarder.stop()
    forwarder = Forwarder(consumer, far_end, linger=0.25, clock=clock)
    forwarder.run()
    assert far_end.seen == [[0, 1, 2, 3, 4]]  # one, then four more in 0.25 s


def test_what_would_overfill_a_filling_batch_is_sent_next(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([b"x" * 60], clock), FarEnd()
    receive_many = consumer.receive_many

    def then_a_large_one(limit: int, timeout: float | None = 0, max_bytes: int | None = None) -> list[Message[bytes]]:
        given = receive_many(limit, timeout, max_bytes)
        if consumer.receives == 1:
            consumer.feed([message(1, b"y" * 60)])
        return given

    consumer.receive_many = then_a_large_one  # type: ignore[method-assign]
    far_end.before_each = lambda batch: forwarder.stop() if len(far_end.seen) == 1 else None
    forwarder = Forwarder(consumer, far_end, batch_bytes=100, clock=clock)
    forwarder.run()
    assert far_end.seen == [[0], [1]]
    assert consumer.acked() == [0, 1]


def test_it_does_not_linger_over_what_a_crash_gives_out_one_at_a_time(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 500, clock, one_at_a_time=True), FarEnd()
    before = clock.monotonic()
    far_end.before_each = lambda batch: forwarder.stop() if batch[0].offset == 498 else None
    forwarder = Forwarder(consumer, far_end, clock=clock)
    forwarder.run()
    assert len(far_end.seen) == 499
    assert clock.monotonic() == before


def test_retries_the_same_batch_with_growing_waits_and_says_so_once(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "seglog")
    consumer = FakeConsumer([b"x"] * 3, clock)
    far_end = FarEnd(*[SinkError("connection refused")] * 8, SinkError("HTTP 503"))
    start = clock.monotonic()
    forwarder = Forwarder(consumer, far_end, clock=clock)
    forwarder.run(once=True)
    assert far_end.seen == [[0, 1, 2]] * 10
    assert consumer.journal == [("ack", [0, 1, 2])]
    assert clock.monotonic() - start == pytest.approx(sum(0.05 * 2**n for n in range(9)), rel=1e-6)
    assert warnings(caplog) == [
        "not forwarded, trying again: connection refused",
        "not forwarded, trying again: HTTP 503",
    ]
    assert caplog.records[-1].getMessage() == "forwarding works again"
    assert forwarder.stats().failures == 9


def test_success_lets_the_waits_begin_anew(clock: FakeClock) -> None:
    away = OSError("gone")
    consumer, far_end = FakeConsumer([b"x"] * 2, clock), FarEnd(*[away] * 8, None, away)
    Forwarder(consumer, far_end, batch_records=1, clock=clock).run(once=True)
    assert max(clock.slept) > 0.09
    assert clock.slept[-1] == pytest.approx(0.05)


def test_retry_after_is_honoured_on_top_of_the_jitter(clock: FakeClock) -> None:
    consumer, start = FakeConsumer([b"x"], clock), clock.monotonic()
    Forwarder(consumer, FarEnd(SinkError("HTTP 503", retry_after=7.0)), clock=clock).run(once=True)
    assert 7.0 < clock.monotonic() - start < 7.2


def test_any_error_of_a_sink_is_retried_where_nothing_says_otherwise(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    errors = ZeroDivisionError(), KeyError("x"), ConnectionError("gone")
    consumer, far_end = FakeConsumer([b"x"], clock), FarEnd(*errors)
    Forwarder(consumer, far_end, clock=clock).run(once=True)
    assert consumer.acked() == [0]
    said = [line.removeprefix("not forwarded, trying again: ") for line in warnings(caplog)]
    assert said == ["ZeroDivisionError", "KeyError: 'x'", "gone"]
    traced = [record for record in caplog.records if record.levelno == logging.DEBUG and record.exc_info]
    assert len(traced) == 3, "whoever writes a sink wants to know where"


def test_the_poison_record_is_found_and_the_others_arrive_in_order(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 100, clock), FarEnd(poison=frozenset({37, 99}))
    forwarder = Forwarder(consumer, far_end, clock=clock)
    forwarder.run(once=True)
    assert far_end.accepted == [offset for offset in range(100) if offset not in (37, 99)] == consumer.acked()
    assert consumer.dead == {37: "no such field: x", 99: "no such field: x"}
    assert forwarder.stats().refused_records == 2
    assert clock.slept == []
    assert len(far_end.seen) < 30  # halving, not one by one


def test_after_max_refused_in_a_row_everything_is_kept(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 40, clock), FarEnd(poison=frozenset(range(40)))

    def the_far_end_is_mended_at_last(batch: Batch) -> None:
        if clock.monotonic() > 600:
            far_end.poison = frozenset()

    far_end.before_each = the_far_end_is_mended_at_last
    Forwarder(consumer, far_end, max_refused=10, clock=clock).run(once=True)
    assert list(consumer.dead) == list(range(10))
    assert consumer.acked() == list(range(10, 40))
    kept = [text for text in warnings(caplog) if "in a row" in text]
    assert len(kept) == 1
    assert "10 records in a row were refused; the rest is kept" in kept[0]


def test_a_success_between_refusals_starts_the_count_again(clock: FakeClock) -> None:
    poison = frozenset(range(0, 60, 2))
    consumer, far_end = FakeConsumer([b"x"] * 60, clock), FarEnd(poison=poison)
    Forwarder(consumer, far_end, max_refused=2, clock=clock).run(once=True)
    assert consumer.dead.keys() == poison
    assert len(consumer.acked()) == 30


def test_with_max_refused_0_nothing_is_ever_dead_lettered(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([b"x"], clock), FarEnd(poison=frozenset({0}))
    with pytest.raises(SinkError):
        Forwarder(consumer, far_end, max_refused=0, patience=60, clock=clock).run(once=True)
    assert consumer.dead == {}
    assert consumer.journal == [("nack", [0])]


def test_what_a_sink_confirms_of_a_batch_that_failed_is_not_sent_again(clock: FakeClock) -> None:
    batch = [message(offset) for offset in range(6)]
    half_done = SinkError("HTTP 503", confirmed=batch[:2])
    poisoned = SinkError("HTTP 400", verdict=Verdict.REFUSED, confirmed=batch[2:3])
    consumer, far_end = FakeConsumer(batch, clock), FarEnd(half_done, poisoned, poison=frozenset({3}))
    forwarder = Forwarder(consumer, far_end, clock=clock)
    forwarder.run(once=True)
    assert far_end.seen[:3] == [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5], [3]]
    assert consumer.acked() == [0, 1, 2, 4, 5]
    assert list(consumer.dead) == [3]
    assert (forwarder.stats().sent_records, forwarder.stats().refused_records) == (5, 1)


def test_a_sink_may_do_a_part_of_a_batch_and_give_a_turn(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    class Slow(One):
        def send(self, batch: Batch) -> None:
            super().send(batch[:2])
            if len(batch) > 2:
                raise SinkError("that was long", confirmed=batch[:2], retry_after=0)

    consumer, far_end = FakeConsumer([b"x"] * 10, clock), Slow()
    forwarder = Forwarder(consumer, far_end, batch_records=10, patience=0, clock=clock)
    forwarder.run(once=True)
    assert far_end.accepted == list(range(10)) == consumer.acked()
    assert (forwarder.stats().failures, clock.slept, warnings(caplog)) == (0, [], [])


def test_a_record_confirmed_between_refusals_starts_the_count_again(clock: FakeClock) -> None:
    batch = [message(offset) for offset in range(4)]
    refused = SinkError("HTTP 400", verdict=Verdict.REFUSED)
    far_end = One(refused, refused, SinkError("late", confirmed=batch[1:2]), refused, refused)
    consumer = FakeConsumer(batch, clock)
    Forwarder(consumer, far_end, batch_records=2, max_refused=1, patience=60, clock=clock).run(once=True)
    assert list(consumer.dead) == [0, 2]
    assert consumer.acked() == [1, 3]


def test_a_batch_that_is_confirmed_as_a_whole_by_its_error_is_done(clock: FakeClock) -> None:
    batch = [message(0), message(1)]
    consumer, far_end = FakeConsumer([*batch, message(2)], clock), FarEnd(SinkError("late", confirmed=batch))
    Forwarder(consumer, far_end, batch_records=2, clock=clock).run(once=True)
    assert far_end.seen == [[0, 1], [2]]
    assert clock.slept == []


def test_what_a_sink_names_as_refused_is_a_dead_letter_without_halving_or_counting(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    batch = [message(offset) for offset in range(6)]
    error = SinkError("4 of 6", verdict=Verdict.REFUSED, detail="bad", confirmed=batch[:1], refused=batch[1:5])
    consumer, far_end = FakeConsumer(batch, clock), FarEnd(error, poison=frozenset({5}))
    forwarder = Forwarder(consumer, far_end, max_refused=1, patience=60, clock=clock)
    forwarder.run(once=True)
    assert far_end.seen == [[0, 1, 2, 3, 4, 5], [5]]
    assert consumer.journal == [("ack", [0]), ("refuse", [1, 2, 3, 4]), ("refuse", [5])]
    assert consumer.dead == {**dict.fromkeys(range(1, 5), "bad"), 5: "no such field: x"}
    assert forwarder.stats().refused_records == 5
    assert f"{LOG_ID}:1 and 3 more" in caplog.text


@pytest.mark.parametrize(("max_refused", "full"), [(0, False), (10, True)])
def test_what_a_sink_names_as_refused_is_kept_where_no_dead_letter_may_be_made(
    clock: FakeClock, max_refused: int, full: bool
) -> None:
    batch = [message(offset) for offset in range(3)]
    error = SinkError("1 of 3", verdict=Verdict.REFUSED, refused=batch)
    consumer, far_end = FakeConsumer(batch, clock), FarEnd(*[error] * 1000)
    consumer.dead_letters_full = full
    with pytest.raises(SinkError):
        Forwarder(consumer, far_end, max_refused=max_refused, patience=60, clock=clock).run(once=True)
    assert consumer.dead == {}
    assert consumer.journal == [("nack", [0, 1, 2])]


def test_f75_a_full_dead_letter_queue_keeps_the_record(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 3, clock), FarEnd(poison=frozenset({1}))
    consumer.dead_letters_full = True

    def room_at_last(batch: Batch) -> None:
        consumer.dead_letters_full = clock.monotonic() < 100

    far_end.before_each = room_at_last
    Forwarder(consumer, far_end, clock=clock).run(once=True)
    assert consumer.acked() == [0, 2]
    assert list(consumer.dead) == [1]
    assert any("dead-letter queue is full" in text for text in warnings(caplog))
    assert sum(clock.slept) > 10


def test_a_configuration_error_keeps_everything_and_says_so_once(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    error = SinkError("HTTP 401 Unauthorized", verdict=Verdict.CONFIGURATION)
    consumer, far_end = FakeConsumer([b"x"] * 5, clock), FarEnd(*[error] * 6)
    Forwarder(consumer, far_end, clock=clock).run(once=True)
    assert far_end.seen == [[0, 1, 2, 3, 4]] * 7
    assert consumer.journal == [("ack", [0, 1, 2, 3, 4])]
    assert warnings(caplog) == ["not forwarded, everything is kept until this is put right: HTTP 401 Unauthorized"]


def test_a_sink_may_classify_errors_of_its_own(clock: FakeClock) -> None:
    class Picky(One):
        def classify(self, error: Exception) -> Verdict:
            return Verdict.REFUSED if isinstance(error, ValueError) else Verdict.RETRY

    consumer, far_end = FakeConsumer([b"x", b"y"], clock), Picky(OSError(), ValueError("both?"), ValueError("bad x"))
    Forwarder(consumer, far_end, clock=clock).run(once=True)
    assert consumer.dead == {0: "bad x"}
    assert consumer.acked() == [1]


def test_a_sink_may_end_the_forwarding_by_raising_in_classify(clock: FakeClock) -> None:
    class Final(FarEnd):
        def classify(self, error: Exception) -> Verdict:
            raise error

    consumer = FakeConsumer([b"x"] * 4, clock)
    with pytest.raises(BrokenPipeError):
        Forwarder(consumer, Final(None, BrokenPipeError()), batch_records=2, clock=clock).run()
    assert consumer.journal == [("ack", [0, 1]), ("nack", [2, 3])]


def test_stop_while_sending_acknowledges_what_was_confirmed(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 20, clock), FarEnd()
    far_end.before_each = lambda batch: forwarder.stop()
    forwarder = Forwarder(consumer, far_end, batch_records=10, clock=clock)
    forwarder.run()
    assert consumer.journal == [("ack", list(range(10)))]
    assert len(consumer) == 10


def test_stop_finishes_what_is_under_way(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 60, clock), Several()
    far_end.before_each = lambda batch: forwarder.stop() if batch[0].offset == 10 else None
    forwarder = Forwarder(consumer, far_end, batch_records=10, clock=clock)
    forwarder.run()
    assert far_end.accepted == list(range(40)) == consumer.acked()
    assert {what for what, _ in consumer.journal} == {"ack"}


def test_stop_while_backing_off_ends_at_once_and_gives_the_batch_back(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 3, clock), FarEnd(SinkError("HTTP 503", retry_after=120.0))
    sleep = clock.sleep

    def stopped_during_the_third_nap(seconds: float) -> None:
        sleep(seconds)
        if len(clock.slept) == 3:
            forwarder.stop()

    clock.sleep = stopped_during_the_third_nap  # type: ignore[method-assign]
    forwarder = Forwarder(consumer, far_end, clock=clock)
    forwarder.run()
    assert len(clock.slept) == 3
    assert sum(clock.slept) < 0.5
    assert consumer.journal == [("nack", [0, 1, 2])]
    assert [one.offset for one in consumer.receive_many(10)] == [0, 1, 2]


def test_stop_before_run_sends_nothing(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([b"x"], clock), FarEnd()
    forwarder = Forwarder(consumer, far_end, clock=clock)
    forwarder.stop()
    forwarder.run()
    assert far_end.seen == []
    assert consumer.journal == []


def test_stop_in_the_middle_of_halving_gives_the_rest_back_in_order(clock: FakeClock) -> None:
    consumer, far_end = FakeConsumer([b"x"] * 8, clock), FarEnd(poison=frozenset({5}))
    far_end.before_each = lambda batch: forwarder.stop() if len(far_end.seen) == 1 else None
    forwarder = Forwarder(consumer, far_end, clock=clock)
    forwarder.run()
    assert consumer.journal == [("ack", [0, 1, 2, 3]), ("nack", [4, 5, 6, 7])]


def test_an_error_of_the_consumer_ends_it_and_nothing_is_lost(clock: FakeClock) -> None:
    consumer = FakeConsumer([b"x"] * 4, clock)

    def ack(*messages: Message[Any]) -> None:
        raise StorageError(5, "Input/output error")

    consumer.ack = ack  # type: ignore[method-assign]
    with pytest.raises(StorageError):
        Forwarder(consumer, FarEnd(), clock=clock).run()
    assert consumer.journal == [("nack", [0, 1, 2, 3])]


def test_an_interrupt_in_send_gives_the_batch_back(clock: FakeClock) -> None:
    def interrupted(batch: Batch) -> None:
        raise KeyboardInterrupt

    consumer = FakeConsumer([b"x"] * 2, clock)
    with pytest.raises(KeyboardInterrupt):
        Forwarder(consumer, interrupted, clock=clock).run()
    assert consumer.journal == [("nack", [0, 1])]


def test_patience_counts_from_the_last_progress(clock: FakeClock) -> None:
    away = SinkError("connection refused")
    consumer, far_end = FakeConsumer([b"x"] * 20, clock), FarEnd(*[away] * 10, None, *[away] * 1000)
    with pytest.raises(SinkError, match=r"nothing could be forwarded for 60 s: connection refused") as caught:
        Forwarder(consumer, far_end, batch_records=10, patience=60, clock=clock).run(once=True)
    assert caught.value.__cause__ is away
    assert consumer.journal == [("ack", list(range(10))), ("nack", list(range(10, 20)))]
    assert 51 + 30 < clock.monotonic() < 51 + 60 + 1


def test_what_the_far_end_says_it_has_is_acknowledged_without_sending(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    class Remembering(FarEnd):
        answers: list[int | Exception]

        def resume_point(self) -> int | None:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    far_end = Remembering()
    far_end.answers = [SinkError("connection refused"), 5]
    waiting = [message(2, due_ns=1), *(message(offset) for offset in range(3, 9))]
    consumer = FakeConsumer(waiting, clock)
    forwarder = Forwarder(consumer, far_end, batch_records=4, clock=clock)
    forwarder.run(once=True)
    assert far_end.seen == [[2, 5], [6, 7, 8]]  # 2 was delayed: that others passed it proves nothing
    assert consumer.acked() == [2, 3, 4, 5, 6, 7, 8]
    assert forwarder.stats().sent_records == 5
    said = [record.getMessage() for record in caplog.records]
    assert said.count("not sent again: the far end says that it has all of this log below offset 5") == 1


def test_payloads_are_never_logged(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    error = SinkError("HTTP 422", verdict=Verdict.REFUSED, detail="cannot parse 'hunter2'")
    consumer, far_end = FakeConsumer([b"hunter2", b"other"], clock), One(OSError("gone"), error, error)
    Forwarder(consumer, far_end, clock=clock).run(once=True)
    assert "hunter2" in consumer.dead[0]
    assert "hunter2" not in caplog.text
    assert f"{LOG_ID}:0" in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"batch_records": 0},
        {"batch_records": True},
        {"batch_bytes": 0},
        {"linger": -1},
        {"linger": float("nan")},
        {"max_refused": -1},
        {"patience": "5"},
    ],
)
def test_bad_options(clock: FakeClock, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        Forwarder(FakeConsumer([], clock), FarEnd(), **options)


def test_a_sink_must_be_able_to_send(clock: FakeClock) -> None:
    with pytest.raises(InvalidOption, match="send"):
        Forwarder(FakeConsumer([], clock), object())  # type: ignore[arg-type]
