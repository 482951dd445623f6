"""What is forwarded where, as a file of TOML says it: configuration in, values out. Contacts nothing.

    [defaults]                  # for the routes that do not say it themselves; all but `name` and `directory`
    linger = "200ms"

    [[route]]
    directory = "spool/orders"
    to = "redis://localhost/orders"

Everything in the file is checked when it is loaded, the sinks by making each once. Messages name the file, the route
and the key, and no value that may be a secret.
"""

from __future__ import annotations

import os
import re
import tomllib
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seglog import options
from seglog.errors import InvalidOption
from seglog.forward.bounds import beside_cursor
from seglog.forward.forwarder import Forwarder, Source
from seglog.forward.sinks import open_sink
from seglog.forward.sinks.base import Sink

DEFAULT_CONSUMER = "forward"
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?(ms|s|m|h)?", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_FILES = ("password_file", "ca", "cert", "key", "creds", "nkey")  # options of a URL that name files

_NOBODY: Any = None  # who a forwarder receives from that is made only to check what it was given

Table = dict[str, Any]


@dataclass(frozen=True)
class Route:
    """One log, one consumer, one far end. Equal to another if nothing has to be restarted to become that.

    Attributes:
        files: the files of its credentials as they were when the route was loaded, so that new ones make it another.
    """

    name: str
    directory: Path
    to: str = field(repr=False)
    consumer: str = DEFAULT_CONSUMER
    batch_records: int = 500
    batch_bytes: int = 1 << 20
    linger: float = 0.2
    max_refused: int = 10
    patience: float | None = None
    timeout: float = 30.0
    format: str | None = None
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    content_encoding: str | None = None
    password_file: str | None = None
    files: tuple[tuple[int, int, int] | None, ...] = field(default=(), repr=False)

    @property
    def key(self) -> tuple[str, str]:
        """What only one route may have: the log, however it is spelled, and the consumer."""
        return os.path.realpath(self.directory), self.consumer

    @property
    def sink(self) -> str:
        """The URL without user, password and query, as messages have it. Its path is shown: no place for a secret."""
        scheme, _, rest = self.to.partition(":")
        try:
            parts = urllib.parse.urlsplit(self.to)
        except ValueError:  # of a sink that others made
            return f"{scheme}:…"
        if not parts.netloc:
            return f"{scheme}:{parts.path if scheme.lower() == 'file' else rest and '…'}"
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def open_sink(self) -> Sink:
        """A new one. Nothing is contacted yet. Raises InvalidOption."""
        url = self.to
        if self.password_file is not None:
            if "://" not in url or url.partition(":")[0].lower() in ("http", "https"):  # their options are not ours
                raise InvalidOption("takes no password_file; over HTTP, a request header says who we are")
            url += f"{'&' if '?' in url else '?'}password_file={urllib.parse.quote(self.password_file, safe='/')}"
        return open_sink(
            url,
            format=self.format,
            headers=self.headers or None,
            encoding=self.content_encoding,
            timeout=self.timeout,
        )

    def forwarder(self, consumer: Source, sink: Sink) -> Forwarder:
        """What pumps from one to the other. Raises InvalidOption."""
        return Forwarder(
            consumer,
            sink,
            batch_records=self.batch_records,
            batch_bytes=self.batch_bytes,
            linger=self.linger,
            max_refused=self.max_refused,
            patience=self.patience,
            batch_file=beside_cursor(self.directory, self.consumer),
        )

    def summary(self) -> str:
        """One line for people: everything that counts, but of headers only the names."""
        shown = [name for name in KEYS if name not in ("name", "directory", "to", "consumer", "headers")]
        said = {name: getattr(self, name) for name in shown if getattr(self, name) is not None}
        if self.headers:
            said["headers"] = ",".join(self.headers)
        told = " ".join(f"{name}={value}" for name, value in said.items())
        return f"{self.name}: {self.directory} as {self.consumer} to {self.sink} ({told})"


def load(path: str | os.PathLike[str]) -> list[Route]:
    """The routes that a file describes, at least one.

    Raises:
        InvalidOption: the file cannot be read, or cannot be meant like this; the message names file, route and key.
    """
    name = os.fspath(path)
    try:
        text = Path(path).read_text("utf-8")
        document = tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or no TOML
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidOption(f"{name}: {reason}") from None
    try:
        return _routes(document)
    except InvalidOption as error:
        raise InvalidOption(f"{name}: {error}") from error


def _routes(document: Table) -> list[Route]:
    _refuse_unknown(document, ("defaults", "route"))
    defaults, tables = document.get("defaults", {}), document.get("route", [])
    if not isinstance(defaults, dict) or not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise InvalidOption("expected one table [defaults] and tables [[route]]")
    if not tables:
        raise InvalidOption("there is no [[route]]")
    common = _within("[defaults]", lambda: _values(defaults, [key for key in KEYS if key not in ("name", "directory")]))
    found: dict[tuple[str, str], Route] = {}
    names: set[str] = set()
    for number, table in enumerate(tables, 1):
        called = table.get("name", table.get("directory"))
        where = f"route {number} ({called})" if isinstance(called, str) else f"route {number}"
        route = _within(where, lambda table=table: _route({**common, **_values(table, KEYS)}))  # type: ignore[misc]
        if (other := found.setdefault(route.key, route)) is not route:
            raise InvalidOption(
                f"{where}: directory, consumer: route {other.name!r} has the same log and consumer {route.consumer!r}"
            )
        if route.name in names:
            raise InvalidOption(f"{where}: name: another route is called {route.name!r}")
        names.add(route.name)
    return list(found.values())


def _route(values: Table) -> Route:
    for key in ("directory", "to"):
        if key not in values:
            raise InvalidOption(f"{key} is missing")
    if "name" not in values:
        consumer = values.get("consumer", DEFAULT_CONSUMER)
        values["name"] = f"{values['directory']}{'' if consumer == DEFAULT_CONSUMER else f':{consumer}'}"
    options.number("timeout", values.get("timeout", 1), "seconds", 0.001, 3600.0)
    route = Route(**values)
    sink = _within("to", route.open_sink)
    try:
        route.forwarder(_NOBODY, sink)
    finally:
        getattr(sink, "close", lambda: None)()
    return replace(route, files=_stamps(route))


def _stamps(route: Route) -> tuple[tuple[int, int, int] | None, ...]:
    named = dict(urllib.parse.parse_qsl(route.to.partition("?")[2]))
    paths = [route.password_file, *map(named.get, _FILES)]
    return tuple(None if path is None else _stamp(path) for path in paths)


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # whoever needs the file says so
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _within(where: str, make: Callable[[], Any]) -> Any:
    """What `make` returns; its complaint gets the place in front."""
    try:
        return make()
    except InvalidOption as error:
        raise InvalidOption(f"{where}: {error}") from error


def _refuse_unknown(table: Table, known: tuple[str, ...] | list[str]) -> None:
    unknown = [key for key in table if key not in known]
    if unknown:
        raise InvalidOption(f"unknown key {unknown[0]!r}; there are {', '.join(known)}")


def _values(table: Table, known: list[str] | dict[str, Any]) -> Table:
    _refuse_unknown(table, list(known))
    return {key: _within(key, lambda key=key, raw=raw: KEYS[key](raw)) for key, raw in table.items()}  # type: ignore[misc]


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidOption(f"expected text, not {_kind(value)}")
    if not value.isprintable():
        raise InvalidOption("expected text without control characters")
    return value


def _directory(value: object) -> Path:
    return Path(_text(value))


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidOption(f"expected a whole number, not {_kind(value)}")
    return value


def _size(value: object) -> int:
    return options.size(value) if isinstance(value, str) else _whole(value)


def _seconds(value: object) -> float:
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise InvalidOption(f'{value!r} is no duration; write it like 0.2, "200ms", "30s" or "5m"')
        return float(match[1]) * _UNITS[match[2] or "s"]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidOption(f"expected a duration in seconds, not {_kind(value)}")
    return options.seconds("duration", value)


def _headers(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise InvalidOption('expected a table of texts, like { Authorization = "Bearer …" }')
    return dict(value)


def _kind(value: object) -> str:
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return "an empty text" if value == "" else names.get(type(value), f"a {type(value).__name__}")


# Key of a table -> what makes a value of it; in the order of the command line's options.
KEYS: dict[str, Callable[[object], Any]] = {
    "name": _text,
    "directory": _directory,
    "to": _text,
    "consumer": options.consumer_name,
    "patience": _seconds,
    "batch_records": _whole,
    "batch_bytes": _size,
    "linger": _seconds,
    "max_refused": _whole,
    "timeout": _seconds,
    "format": _text,
    "headers": _headers,
    "content_encoding": _text,
    "password_file": _text,
}
