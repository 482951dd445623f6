"""append, append_many, submit, sync, wait_durable: what is accepted, refused and promised."""

from __future__ import annotations

import concurrent.futures
import pickle
import threading
from typing import Any

import pytest

import seglog
from seglog import Record
from tests.support.place import Place, offsets, payloads

MAX = 1000


def test_p1_an_appended_record_is_there_and_after_a_reopening_too(place: Place) -> None:
    with place.open() as log:
        assert log.append(b"first") == 0
        assert log.append(b"second") == 1
        assert payloads(log.read()) == [b"first", b"second"]
        assert log.durable_offset == log.next_offset == 2
    with place.open() as log:
        assert log.report.clean
        assert payloads(log.read()) == [b"first", b"second"]
        assert log.append(b"third") == 2
    assert place.verify().ok


def test_p2_append_many_gives_a_range_and_one_batch_is_never_split(place: Place) -> None:
    log = place.open(segment_bytes=4096)
    assert log.append_many([b"%d" % n for n in range(1000)]) == range(1000)
    assert log.append_many(iter([b"x"])) == range(1000, 1001)
    assert log.append_many([]) == range(1001, 1001)
    assert log.stats().records == 1001
    assert log.stats().segments == 2  # all of the thousand in one, although it is larger than a segment should be


def test_p2_one_record_that_is_refused_keeps_the_whole_batch_out(place: Place) -> None:
    log = place.open(max_record_bytes=MAX)
    with pytest.raises(seglog.RecordTooLarge):
        log.append_many([b"good", bytes(MAX + 1), b"good"])
    with pytest.raises(seglog.InvalidOption):
        log.append_many([b"good", "text", b"good"])
    assert log.next_offset == 0
    assert list(log.read()) == []


def test_f95_a_batch_whose_values_fail_half_way_is_not_there_at_all(place: Place) -> None:
    def values() -> object:
        yield b"one"
        raise KeyError("the source of the values failed")

    log = place.open()
    with pytest.raises(KeyError):
        log.append_many(values())  # type: ignore[arg-type]
    assert log.append(b"next") == 0
    assert payloads(log.read()) == [b"next"]


@pytest.mark.parametrize("size", [0, 1, 7, 8, MAX - 1, MAX])
def test_f90_sizes_from_nothing_to_the_maximum_round_trip(place: Place, size: int) -> None:
    data = bytes(range(256)) * 4
    with place.open(max_record_bytes=MAX) as log:
        assert log.append(data[:size]) == 0
        assert log.append(b"behind") == 1
    with place.open(max_record_bytes=MAX) as log:
        assert payloads(log.read()) == [data[:size], b"behind"]


def test_f90_one_byte_more_than_the_maximum_is_refused_before_any_byte_is_written(place: Place) -> None:
    log = place.open(max_record_bytes=MAX)
    log.append(b"before")
    size = log.stats().bytes
    for attempt in (log.append, log.submit, lambda value: log.append_many([value])):
        with pytest.raises(seglog.RecordTooLarge, match="1001 bytes"):
            attempt(bytes(MAX + 1))
    assert (log.next_offset, log.stats().bytes) == (1, size)


def test_f90_a_record_larger_than_a_segment_gets_one_of_its_own(place: Place) -> None:
    with place.open(segment_bytes=4096) as log:
        for _ in range(3):
            log.append(b"small")
            log.append(bytes(100_000))
        assert [len(p) for p in payloads(log.read())] == [5, 100_000] * 3
    report = place.verify()
    assert report.ok
    assert report.records == 6


def test_f90_a_batch_above_the_batch_limit_is_refused(place: Place) -> None:
    log = place.open()
    big = bytes(1 << 20)
    with pytest.raises(seglog.RecordTooLarge, match="append it in parts"):
        log.append_many([big] * 65)
    assert log.next_offset == 0
    assert log.append_many([big] * 60) == range(60)


def test_f26_a_record_of_the_largest_size_stays_readable_when_the_limit_is_lowered(place: Place) -> None:
    with place.open(max_record_bytes=5000) as log:
        log.append(bytes(5000))
    with place.open(max_record_bytes=10) as log:
        assert [len(p) for p in payloads(log.read())] == [5000]
        with pytest.raises(seglog.RecordTooLarge):
            log.append(bytes(11))
        log.append(bytes(10))
    with place.open(max_record_bytes=5000) as log:
        log.append(bytes(5000))
        assert [len(p) for p in payloads(log.read())] == [5000, 10, 5000]
    assert place.verify().ok


def test_a_bytearray_or_a_view_is_copied_when_it_is_appended(place: Place) -> None:
    log = place.open()
    data = bytearray(b"abc")
    future = log.submit(data)
    log.append(memoryview(data))
    data[:] = b"xyz"
    future.result(10)
    assert payloads(log.read()) == [b"abc", b"abc"]


@pytest.mark.parametrize("value", ["text", 1, None, [b"x"], object()])
def test_what_is_not_bytes_is_refused(place: Place, value: object) -> None:
    log = place.open()
    with pytest.raises(seglog.InvalidOption, match="payload must be bytes"):
        log.append(value)
    assert log.next_offset == 0


def test_key_and_headers_come_back_and_records_without_them_stay_plain(place: Place) -> None:
    with place.open() as log:
        log.append(b"a", key=b"k", headers={"type": b"x", "ünï": b""})
        log.append_many([b"b", Record(b"c", key=b"", headers={}), Record(b"d", headers={"h": b"1"})])
    with place.open() as log:
        a, b, c, d = log.read()
        assert (a.key, a.headers) == (b"k", {"type": b"x", "ünï": b""})
        assert (b.key, b.headers) == (None, {})
        assert (c.key, c.headers) == (b"", {})
        assert (d.payload, d.key, d.headers) == (b"d", None, {"h": b"1"})


@pytest.mark.parametrize(
    "options",
    [
        {"key": "text"},
        {"key": bytes(65 * 1024)},
        {"headers": [("a", b"b")]},
        {"headers": {"a": "b"}},
        {"headers": {1: b"b"}},
        {"delay": -1},
        {"delay": "soon"},
        {"ttl": -0.001},
        {"ttl": float("nan")},
    ],
)
def test_extras_that_cannot_be_meant_are_refused(place: Place, options: dict[str, Any]) -> None:
    log = place.open()
    with pytest.raises(seglog.InvalidOption):
        log.append(b"x", **options)
    assert log.next_offset == 0


def test_headers_that_do_not_fit_beside_the_payload_are_refused(place: Place) -> None:
    log = place.open()
    with pytest.raises(seglog.RecordTooLarge, match="beside the payload"):
        log.append(bytes(16 << 20), headers={"h": bytes(70_000)})
    assert log.next_offset == 0


def test_submit_gives_a_future_that_is_done_when_the_record_is_durable(place: Place) -> None:
    log = place.open()
    futures = [log.submit(b"%d" % n) for n in range(200)]
    done, waiting = concurrent.futures.wait(futures, timeout=30)
    assert not waiting
    assert len(done) == 200
    assert [future.result() for future in futures] == list(range(200))
    assert log.durable_offset == 200
    assert payloads(log.read()) == [b"%d" % n for n in range(200)]


def test_a_submitted_record_whose_future_is_cancelled_is_in_or_out_and_nothing_hangs(place: Place) -> None:
    log = place.open()
    futures = [log.submit(b"%d" % n) for n in range(50)]
    for future in futures:
        future.cancel()
    assert log.append(b"behind") <= 50
    log.close()
    assert payloads(place.open().read())[-1] == b"behind"


def test_p3_each_threads_records_are_in_its_order_and_every_offset_is_one_records(place: Place) -> None:
    log = place.open(segment_bytes=8192)
    given: list[tuple[int, bytes]] = []

    def run(number: int) -> None:
        for count in range(60):
            data = b"%d:%d" % (number, count)
            if count % 10 == 9:
                given.extend(zip(log.append_many([data, data + b"+"]), [data, data + b"+"], strict=True))
            else:
                given.append((log.append(data), data))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    there = [(message.offset, message.payload) for message in log.read()]
    assert there == sorted(given)
    for number in range(8):
        own = [int(data.rstrip(b"+").split(b":")[1]) for _, data in there if data.startswith(b"%d:" % number)]
        assert own == sorted(own)


def test_sync_makes_durable_what_was_only_written(place: Place) -> None:
    log = place.open(durability="interval", sync_interval=3600)
    log.append(b"x")
    assert (log.next_offset, log.durable_offset) == (1, 0)
    assert list(log.read()) == []  # readers see it once it is synced
    log.sync()
    assert log.durable_offset == 1
    assert payloads(log.read()) == [b"x"]


def test_under_interval_the_sync_follows_by_itself(place: Place) -> None:
    log = place.open(durability="interval", sync_interval=0.005)
    offset = log.append(b"x")
    log.wait_durable(offset, timeout=30)
    assert log.durable_offset == 1
    assert payloads(log.read()) == [b"x"]


def test_under_never_readers_see_what_is_written_and_close_makes_it_durable(place: Place) -> None:
    log = place.open(durability="never")
    log.append(b"x")
    assert payloads(log.read()) == [b"x"]
    assert log.durable_offset == 0
    log.sync()
    assert log.durable_offset == 1
    log.append(b"y")
    log.close()
    assert payloads(place.open(durability="never").read()) == [b"x", b"y"]


def test_wait_durable_returns_at_once_times_out_or_says_that_the_log_is_closed(place: Place) -> None:
    log = place.open(durability="interval", sync_interval=3600)
    log.append(b"x")
    with pytest.raises(TimeoutError):
        log.wait_durable(0, timeout=0)
    with pytest.raises(TimeoutError):
        log.wait_durable(0, timeout=0.01)
    log.sync()
    log.wait_durable(0, timeout=0)
    outcome: concurrent.futures.Future[None] = concurrent.futures.Future()

    def wait() -> None:
        try:
            log.wait_durable(1)
        except seglog.SeglogError as error:
            outcome.set_exception(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    log.close()
    assert isinstance(outcome.exception(30), seglog.LogClosed)
    waiter.join(30)


def test_f93_after_close_every_call_says_so_and_close_twice_is_fine(place: Place) -> None:
    log = place.open()
    consumer = log.consumer("c")
    log.append(b"x")
    reading = log.read()
    log.close()
    log.close()
    calls = [
        lambda: log.append(b"y"),
        lambda: log.append_many([b"y"]),
        lambda: log.append_many([]),
        lambda: log.submit(b"y"),
        log.sync,
        lambda: log.wait_durable(0),
        lambda: log.get(0),
        log.read,
        lambda: next(reading),
        lambda: log.consumer("c"),
        log.consumers,
        log.compact,
        log.stats,
        lambda: log.next_offset,
        lambda: log.remove_consumer("c"),
        consumer.receive,
        lambda: consumer.ack(0),
        lambda: consumer.nack(0),
        lambda: consumer.seek(0),
        lambda: list(consumer.unacked()),
    ]
    for call in calls:
        with pytest.raises(seglog.LogClosed):
            call()
    assert offsets(place.open().read()) == [0]


def test_a_log_is_true_does_not_pickle_and_shows_no_payload(place: Place) -> None:
    log = place.open()
    log.append(b"secret")
    assert bool(log)
    assert "secret" not in repr(log) + repr(next(log.read())) + repr(Record(b"secret"))
    with pytest.raises(TypeError, match="pass its path"):
        pickle.dumps(log)
    message = log.get(0)
    assert message is not None
    again = pickle.loads(pickle.dumps(message))
    assert (again.offset, again.payload, again.id) == (0, b"secret", f"{log.id}:0")


def test_a_log_that_is_never_closed_warns() -> None:
    log: seglog.Log[bytes] | None = seglog.open(":memory:")
    assert log
    with pytest.warns(ResourceWarning, match="never closed"):
        log = None  # nothing refers back to it, so this is its end
