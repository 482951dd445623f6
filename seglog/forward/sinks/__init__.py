"""Where records can go, by URL. Each sink is imported only when it is asked for.

Sinks of others come in through entry points of the group `seglog.sinks`: the name is the URL's scheme, the object a
function of the URL (and of nothing else) that returns a `seglog.forward.Sink`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module, metadata
from typing import Any, NamedTuple

from seglog.clock import Clock
from seglog.errors import InvalidOption, SeglogError
from seglog.forward.sinks.base import Sink

ENTRY_POINTS = "seglog.sinks"


class _Place(NamedTuple):
    """Where a sink is made, and which of open_sink's options it takes beside the URL and `timeout`."""

    module: str
    made_by: str
    takes: tuple[str, ...] = ()


_HTTP = _Place("http", "HttpSink", ("format", "headers", "encoding", "timeout", "clock"))
_OTLP = _Place("otlp", "OtlpSink", ("headers", "encoding", "timeout", "clock"))
_REDIS = _Place("redis", "RedisSink", ("timeout",))
_KAFKA = _Place("kafka", "KafkaSink", ("timeout", "clock"))
_WORDS = {"headers": "request headers", "encoding": "content encoding"}
_RABBITMQ = _Place("rabbitmq", "RabbitStreamSink", ("timeout", "clock"))
_NATS = _Place("nats", "NatsSink", ("timeout",))
SINKS = {
    "http": _HTTP,
    "https": _HTTP,
    "otlp+http": _OTLP,
    "otlp+https": _OTLP,
    "stdout": _Place("stdout", "StdoutSink", ("format",)),
    "file": _Place("file", "FileSink", ("format",)),
    "exec": _Place("exec", "ExecSink", ("format", "timeout")),
    "redis": _REDIS,
    "rediss": _REDIS,
    "nats": _NATS,
    "nats+tls": _NATS,
    "kafka": _KAFKA,
    "kafka+tls": _KAFKA,
    "amqp-stream": _RABBITMQ,
    "amqp-stream+tls": _RABBITMQ,
}


def open_sink(
    url: str,
    *,
    format: str | None = None,
    headers: Mapping[str, str] | None = None,
    encoding: str | None = None,
    timeout: float = 30.0,
    clock: Clock | None = None,
) -> Sink:
    """The sink that this URL names. Nothing is contacted yet.

    Args:
        url: like `https://host/path` or `redis://host/stream`; README, "Forwarding", has them all.
        format: for sinks whose far end has no fields of its own. "lines" (the default): payloads as they are, one per
            line. "envelope": a JSON object per line, for payloads that are binary or of several lines, with key,
            headers, offset and id. "cloudevents" (HTTP only): one JSON array of CloudEvents.
        headers: further request headers (HTTP and OTLP only).
        encoding: how request bodies are compressed, "gzip", "zstd" or "identity" (HTTP and OTLP only; by default HTTP
            is not compressed, and OTLP is, with gzip).
        timeout: seconds for connecting, and for each wait on the far end.

    Raises:
        InvalidOption: the URL or an option cannot be meant like this, or the extra of this sink is not installed.
    """
    scheme = url.partition(":")[0].lower()
    place = SINKS.get(scheme)
    given: dict[str, Any] = {"format": format, "headers": headers or None, "encoding": encoding}
    if place is None:
        return _others(scheme, url, [name for name, value in given.items() if value is not None])
    for name, value in given.items():
        if value is not None and name not in place.takes:
            raise _takes_no(scheme, name)
    options = {**given, "timeout": timeout, "clock": clock}
    wanted = {name: options[name] for name in place.takes if options[name] is not None}
    made: Callable[..., Sink] = getattr(import_module(f"seglog.forward.sinks.{place.module}"), place.made_by)
    return made(url, **wanted)


def _takes_no(scheme: str, name: str) -> InvalidOption:
    return InvalidOption(f"{scheme}: takes no {_WORDS.get(name, name)}")


def _others(scheme: str, url: str, given: list[str]) -> Sink:
    """The sink of somebody else's package, which takes the URL and nothing else."""
    made = _offered(scheme, url)
    if given:
        raise _takes_no(scheme, given[0])
    try:
        return made(url)
    except SeglogError:
        raise
    except Exception as error:
        raise InvalidOption(f"the sink for {scheme}: cannot be made: {type(error).__name__}: {error}") from error


def _offered(scheme: str, url: str) -> Callable[[str], Sink]:
    """What somebody else's package offers for that scheme."""
    found = list(metadata.entry_points(group=ENTRY_POINTS, name=scheme))
    if not found:
        known = ", ".join(f"{name}:" for name in sorted(SINKS))
        raise InvalidOption(f"no sink for {_scheme_only(url)!r}: there are {known} and what other packages add")
    try:
        made: Callable[[str], Sink] = found[0].load()
    except (ImportError, AttributeError) as error:  # no such module; no such name in it
        raise InvalidOption(f"the sink for {scheme}: of {found[0].value!r} cannot be imported: {error}") from error
    return made


def _scheme_only(url: str) -> str:
    """The URL without what may be a secret in it."""
    scheme, colon, rest = url.partition(":")
    return f"{scheme}:…" if colon and rest else url
