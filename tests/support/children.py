"""What child processes of the tests do. Each runs in a process of its own, see `zygote`."""

from __future__ import annotations

import os
import resource

import seglog
from tools.crashtest.zygote import Hear, Say


def hold(say: Say, hear: Hear, path: str) -> None:
    """Open for writing, and hold until told to go on."""
    with seglog.open(path) as log:
        log.append(b"held")
        say("open")
        hear()


def hold_consumer(say: Say, hear: Hear, path: str, mode: str, name: str) -> None:
    """Hold a consumer until told to go on."""
    with seglog.open(path, mode) as log, log.consumer(name):
        say("open")
        hear()


def try_to_open(say: Say, hear: Hear, path: str, mode: str) -> None:
    """Say how opening ended."""
    try:
        with seglog.open(path, mode) as log:
            say(f"open {log.next_offset}")
    except seglog.SeglogError as error:
        say(f"{type(error).__name__} {error}")


def append_slowly(say: Say, hear: Hear, path: str, count: int) -> None:
    """Append one record each time it is told to."""
    with seglog.open(path) as log:
        say("open")
        for n in range(count):
            hear()
            say(f"appended {log.append(b'%d' % n)}")


def append_fast(say: Say, hear: Hear, path: str, count: int) -> None:
    """Append singles and batches over many small segments, then say so and wait."""
    with seglog.open(path, segment_bytes=8192) as log:
        say("open")
        n = 0
        while n < count:
            batch = [b"%d." % k + bytes(k % 700) for k in range(n, min(count, n + 1 + n % 5))]
            if len(batch) == 1:
                log.append(batch[0])
            else:
                log.append_many(batch)
            n += len(batch)
        say(f"done {log.next_offset}")
        hear()


def consume_all(say: Say, hear: Hear, path: str, count: int) -> None:
    """Consume beside the writer, ack, and say what came."""
    with seglog.open(path, "r") as log, log.consumer("beside") as consumer:
        say("open")
        seen: list[int] = []
        for message in consumer:
            assert message.payload.startswith(b"%d." % message.offset)
            seen.append(message.offset)
            consumer.ack(message)
            if len(seen) == count:
                break
        say(f"in order {seen == list(range(count))}")


def under_umask(say: Say, hear: Hear, path: str, umask: int) -> None:
    """Make every kind of file there is."""
    os.umask(umask)
    with seglog.open(path, segment_bytes=4096) as log:
        consumer = log.consumer("c")
        for _ in range(3):
            log.append_many([bytes(2000)] * 3)
        consumer.reject(0)
        consumer.ack(*range(1, 9))
        log.compact()
        log.append(b"x")
    say("done")


def with_few_descriptors(say: Say, hear: Hear, path: str, limit: int) -> None:
    """Open, read, consume, compact and verify with hardly any descriptors."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with seglog.open(path) as log:
        count = sum(1 for _ in log.read())
        consumer = log.consumer("c")
        while messages := consumer.receive_many(100):
            consumer.ack(*messages)
        report = seglog.verify(path)
        assert report.ok, report
        removed = log.compact().removed_segments
    say(f"read {count} removed {removed}")


def out_of_descriptors(say: Say, hear: Hear, path: str) -> None:
    """Every call that opens something, with 0, 1, 2 … descriptors left: typed errors, and later all is well."""
    log = seglog.open(path, segment_bytes=4096)
    consumer = log.consumer("c")
    appended = 0
    kinds = set()
    for spare in range(12):
        hoard = []
        try:
            while True:
                hoard.append(os.dup(0))
        except OSError:
            for fd in hoard[len(hoard) - spare :]:
                os.close(fd)
            del hoard[len(hoard) - spare :]
        calls = (
            lambda: log.append_many([bytes(1500)] * 3),
            log.compact,
            lambda: consumer.ack(*consumer.receive_many(2)),
            lambda: consumer.reject(*consumer.receive_many(1)),
            lambda: log.consumer(f"new{spare}"),  # noqa: B023
            lambda: list(log.read()),
            lambda: seglog.verify(path),
            lambda: seglog.open(path + "2").close(),
            lambda: seglog.open(path, "r").close(),
        )
        for number, call in enumerate(calls):
            try:
                call()
                appended += 3 if number == 0 else 0
            except (seglog.StorageError, seglog.DeadLetterWriteFailed) as error:
                kinds.add(type(error).__name__)
        for fd in hoard:
            os.close(fd)
    appended += len(log.append_many([bytes(1500)] * 3))
    assert log.next_offset == appended, (log.next_offset, appended)
    log.close()
    report = seglog.verify(path)
    assert report.ok, report
    with seglog.open(path) as log:
        assert not log.report.damage
        assert not [name for name in os.listdir(path + "/segments") if name.endswith(".tmp")]
    say(" ".join(sorted(kinds)))


def limit_descriptors(say: Say, hear: Hear, path: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    out_of_descriptors(say, hear, path)


def ack_when_told(say: Say, hear: Hear, path: str, name: str) -> None:
    """Consume beside the writer: ack the offsets that it is told, one by one."""
    with seglog.open(path, "r") as log, log.consumer(name) as consumer:
        say("open")
        while (told := hear()) != "end":
            consumer.ack(int(told))
            say("acked")


def drain_when_told(say: Say, hear: Hear, path: str, name: str) -> None:
    """Consume beside the writer whenever told to, up to the end; say what comes and what does not."""

    def tell(gap: seglog.Gap) -> None:
        say(f"gap {gap.first_offset} {gap.last_offset} {gap.reason}")

    with seglog.open(path, "r") as log, log.consumer(name, on_gap=tell) as consumer:
        say("open")
        while hear() != "end":
            assert log.first_offset >= 0  # a look at what the writer says now
            for message in consumer.drain():
                say(f"message {message.offset}")
            say("drained")


def reject_when_told(say: Say, hear: Hear, path: str, name: str) -> None:
    """Reject everything, one by one, beside others who do the same."""
    with seglog.open(path, "r") as log, log.consumer(name) as consumer:
        say("open")
        hear()
        count = 0
        for message in consumer.drain():
            consumer.reject(message)
            count += 1
        say(f"rejected {count}")
