"""Where records can go, by URL. Each sink is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping

from seglog.clock import Clock
from seglog.errors import InvalidOption
from seglog.forward.sinks.base import Sink


def open_sink(
    url: str,
    *,
    format: str = "lines",
    headers: Mapping[str, str] | None = None,
    timeout: float = 30.0,
    clock: Clock | None = None,
) -> Sink:
    """The sink that this URL names. Nothing is contacted yet.

    Args:
        url: `http://…`, `https://…`, or `stdout:`.
        format: "lines": payloads as they are, one per line. "envelope": a JSON object per line, for payloads that
            are binary or of several lines, with key, headers, offset and id.
        headers: further request headers (HTTP only).
        timeout: seconds for connecting, and for each wait on the far end (HTTP only).

    Raises:
        InvalidOption: the URL or an option cannot be meant like this, or the extra of this sink is not installed.
    """
    scheme = url.partition(":")[0].lower()
    if scheme in ("http", "https"):
        from seglog.forward.sinks.http import HttpSink

        return HttpSink(url, format=format, headers=headers, timeout=timeout, clock=clock)
    if scheme == "stdout":
        from seglog.forward.sinks.stdout import StdoutSink

        if url.lower() != "stdout:":
            raise InvalidOption(f"{url!r}: write it as stdout: with nothing behind the colon")
        if headers:
            raise InvalidOption("stdout: takes no request headers")
        return StdoutSink(format=format)
    raise InvalidOption(f"no sink for {_scheme_only(url)!r}: expected http://…, https://… or stdout:")


def _scheme_only(url: str) -> str:
    """The URL without what may be a secret in it."""
    scheme, colon, rest = url.partition(":")
    return f"{scheme}:…" if colon and rest else url
