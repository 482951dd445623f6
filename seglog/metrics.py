"""A log's figures for Prometheus. Needs the extra `metrics` (prometheus-client), which is imported when it is used.

    from prometheus_client import start_http_server, REGISTRY
    REGISTRY.register(seglog.metrics.Collector(log))     # or, without any registry of yours: Collector(log).text()

A registry has one collector, and `Collector.add` gives it more logs: two of them would give each figure twice.

Only what the library counts is there. What a log says of itself is asked of it at each collection, in bounded time
whatever the backlog; nothing runs in between, and no registry is touched but the one that it is registered with.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from seglog.errors import InvalidOption, SeglogError
from seglog.log import Log
from seglog.model import ConsumerStats, LogStats
from seglog.tally import Letters, Tally

if TYPE_CHECKING:
    from prometheus_client import Metric

logger = logging.getLogger("seglog")


class Counts(Protocol):
    """What a `seglog.forward.ForwardStats` holds."""

    @property
    def sent_records(self) -> int: ...

    @property
    def sent_batches(self) -> int: ...

    @property
    def refused_records(self) -> int: ...

    @property
    def failures(self) -> int: ...


class Counting(Protocol):
    """The part of a `seglog.forward.Forwarder` that is asked."""

    def stats(self) -> Counts: ...


class Forwarding(NamedTuple):
    """What goes from a log to one far end. `healthy`: None where nobody knows."""

    consumer: str
    sink: str
    counts: Counts
    healthy: bool | None = None


class Reading(NamedTuple):
    """One log at a moment. `stats` and `letters` are None if they could not be looked at."""

    name: str
    stats: LogStats | None
    letters: Letters | None = None
    forwarding: tuple[Forwarding, ...] = ()


class _Collected(NamedTuple):
    """A log that a collector asks."""

    log: Log[Any]
    name: str
    forwarders: dict[str, Counting]
    tally: Tally


class Collector:
    """A collector of prometheus_client for a log and, if you have them at hand, the forwarders that drain it.

    Args:
        log: an open `seglog.Log`, in whatever mode. One that is closed later is told by `seglog_up` 0.
        name: the label `log` of every figure, like the directory; None: the log's id.
        forwarders: name of the far end (never a URL with a password in it) -> the `Forwarder`.

    Raises InvalidOption if prometheus-client is not installed.
    """

    def __init__(
        self, log: Log[Any], name: str | None = None, forwarders: Mapping[str, Counting] | None = None
    ) -> None:
        check_installed()
        self._collected: list[_Collected] = []
        self.add(log, name, forwarders)

    def add(self, log: Log[Any], name: str | None = None, forwarders: Mapping[str, Counting] | None = None) -> None:
        """Collect from one more log, too; the arguments are those of the class.

        Raises InvalidOption if another one has that name.
        """
        name = log.id if name is None else name
        if any(_label(name) == _label(each.name) for each in self._collected):
            raise InvalidOption(f"another log is called {name} already; each needs a name of its own")
        self._collected.append(_Collected(log, name, dict(forwarders or {}), Tally()))

    def collect(self) -> Iterator[Metric]:
        """For a registry: the figures as they are now."""
        yield from families([_collect(each) for each in tuple(self._collected)])

    def describe(self) -> Iterator[Metric]:
        """For a registry, so that registering does not collect."""
        return iter(())

    def text(self) -> str:
        """Everything in the text format, as a textfile collector reads it."""
        return exposition(list(self.collect()))


def _collect(each: _Collected) -> Reading:
    forwarding = tuple(Forwarding("", sink, one.stats()) for sink, one in each.forwarders.items())
    return reading(each.log, each.name, each.tally, forwarding)


def check_installed() -> None:
    """Raises InvalidOption if prometheus-client is not there."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise InvalidOption(
            "metrics need prometheus-client, which is not installed: pip install 'seglog[metrics]'"
        ) from error


def reading(log: Log[Any], name: str, tally: Tally, forwarding: tuple[Forwarding, ...] = ()) -> Reading:
    """The figures of a log, or that there are none to be had."""
    try:
        stats = log.stats()
        return Reading(name, stats, tally.of(log, stats.dead_letters), forwarding)
    except SeglogError as error:
        logger.warning("no metrics of %s: %s", name, error)
        return Reading(name, None, None, forwarding)


def exposition(found: Iterable[Metric]) -> str:
    """The text format. By a registry of its own, so that no figure of the process comes in."""
    from prometheus_client import CollectorRegistry, generate_latest

    class Found:
        def collect(self) -> Iterable[Metric]:
            return found

        def describe(self) -> Iterable[Metric]:
            return ()

    registry = CollectorRegistry(auto_describe=False)
    made: Any = Found()  # any object with these two methods will do, but the types want an heir
    registry.register(made)
    return generate_latest(registry).decode()


# -- what there is: name -> help, and where the value is; None is no value

REASONS = ("damaged", "undecodable", "rejected", "exhausted", "refused")
_LOG: dict[str, tuple[str, str]] = {
    "seglog_size_bytes": ("bytes", "Size of all segments on the disk."),
    "seglog_segments": ("segments", "Segments on the disk."),
    "seglog_records": ("records", "Records that can be read."),
    "seglog_first_offset": ("first_offset", "Lowest offset that may still be there."),
    "seglog_next_offset": ("next_offset", "Offset that the next record gets, at least."),
    "seglog_durable_offset": ("durable_offset", "All records below it are synced."),
    "seglog_max_size_bytes": ("max_bytes", "Limit on bytes not yet consumed."),
    "seglog_max_records": ("max_records", "Limit on records not yet consumed."),
    "seglog_used_bytes": ("used_bytes", "What counts against the limit on bytes."),
    "seglog_used_records": ("used_records", "What counts against the limit on records."),
}
_CONSUMER = {
    "seglog_consumer_watermark_offset": ("watermark", "The consumer has handled everything below it."),
    "seglog_consumer_lag_records": ("lag_records", "Records that the consumer has not handled."),
    "seglog_consumer_lag_bytes": ("lag_bytes", "Bytes from its watermark to the end."),
    "seglog_consumer_oldest_unacked_seconds": ("oldest_age_seconds", "Age of the oldest record not handled; 0: none."),
    "seglog_consumer_in_flight_records": ("in_flight", "Records given out and not answered, as noted last."),
}
_FORWARD = {
    "seglog_forward_sent_records": ("sent_records", "Records that the far end confirmed."),
    "seglog_forward_sent_batches": ("sent_batches", "Batches that the far end confirmed."),
    "seglog_forward_refused_records": ("refused_records", "Records that the far end refused for good: dead letters."),
    "seglog_forward_failures": ("failures", "Sends that were not confirmed, refusals included."),
}


def families(readings: Iterable[Reading]) -> Iterator[Metric]:
    """The figures of all these logs; each figure once, with a sample for each log that has it."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    logs = [each._replace(name=_label(each.name)) for each in readings]
    known = [(each.name, each.stats) for each in logs if each.stats is not None]
    up = GaugeMetricFamily("seglog_up", "1 if the log could be looked at.", labels=["log"])
    for each in logs:
        up.add_metric([each.name], float(each.stats is not None))
    yield up
    for name, (field, help) in _LOG.items():
        gauge = GaugeMetricFamily(name, help, labels=["log"])
        for log, stats in known:
            value = getattr(stats, field)
            if value is not None:  # a limit that this log has not
                gauge.add_metric([log], value)
        if gauge.samples:
            yield gauge
    dropped = CounterMetricFamily("seglog_dropped_records", "Records given up to stay in a limit.", labels=["log"])
    for log, stats in known:
        dropped.add_metric([log], stats.dropped)
    yield dropped
    letters = GaugeMetricFamily("seglog_dead_letters", "Dead letters that are kept.", labels=["log", "reason"])
    for each in logs:
        if each.letters is not None:  # where there are none, say 0: what is not there raises no alarm
            for reason, count in {**dict.fromkeys(REASONS, 0), **each.letters.by_reason}.items():
                letters.add_metric([each.name, reason], count)
    yield letters
    yield from _of_consumers(known)
    yield from _of_forwarders(logs)


def _label(text: str) -> str:
    """As text that can be encoded: a name of a directory need not be UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _of_consumers(known: list[tuple[str, LogStats]]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    found = [(log, name, consumer) for log, stats in known for name, consumer in stats.consumers.items()]
    for name, (field, help) in _CONSUMER.items():
        gauge = GaugeMetricFamily(name, help, labels=["log", "consumer"])
        for log, consumer, stats in found:
            gauge.add_metric([log, consumer], _number(stats, field))
        yield gauge


def _number(stats: ConsumerStats, field: str) -> float:
    value: float | None = getattr(stats, field)
    return 0.0 if value is None else value  # of ages: nothing waits, and an alert on age must see that


def _of_forwarders(logs: list[Reading]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    found = [([each.name, one.consumer, _label(one.sink)], one) for each in logs for one in each.forwarding]
    if not found:
        return
    labels = ["log", "consumer", "sink"]
    for name, (field, help) in _FORWARD.items():
        counter = CounterMetricFamily(name, help, labels=labels)
        for values, one in found:
            counter.add_metric(values, getattr(one.counts, field))
        yield counter
    healthy = GaugeMetricFamily("seglog_forward_healthy", "1 if nothing keeps it from forwarding.", labels=labels)
    for values, one in found:
        if one.healthy is not None:
            healthy.add_metric(values, float(one.healthy))
    if healthy.samples:
        yield healthy
