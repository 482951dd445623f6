"""`http://` and `https://`: one POST per batch; any 2xx answer confirms it. Needs the extra `http` (urllib3).

Never follows a redirect (a POST would arrive as a GET without its body), never reads proxy settings from the
environment, never skips TLS verification, and never logs a payload or the query of the URL.

Every request carries `Idempotency-Key: <log id>:<first>-<last>`: the offsets of the records in it, so that the n-th
line has the n-th of these offsets. Where offsets are missing in between (a message that is not due yet), the key
lists the ranges, `<log id>:0-6,8-499`: the same key always means the same records.

    answer                                   what follows
    2xx                                      confirmed
    400, 413, 422                            refused: the batch is halved until the record is found
    431 for several records                  the key was too long for the far end: halved as well
    408, 409, 425, 429, 5xx, no answer       retried; 409 is how a far end says "still at work on this very key"
    3xx, other 4xx, TLS errors               configuration: everything is kept
"""

from __future__ import annotations

import email.utils
import http
import re
import ssl
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seglog import options
from seglog.clock import Clock, SystemClock
from seglog.errors import InvalidOption
from seglog.forward.sinks.base import SinkError, Verdict, missing
from seglog.forward.sinks.encoding import encoder
from seglog.model import Message

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

_REFUSED = frozenset((400, 413, 422))
_RETRY = frozenset((408, 409, 425, 429))
_ANSWER_BYTES = 64 * 1024  # read of an answer's body, so that the connection can be used again; more is cut off
_DETAIL_CHARACTERS = 1000
_OURS = frozenset(("content-length", "transfer-encoding", "idempotency-key"))
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x20-\x7e\x80-\xff\t]*")


class HttpSink:
    """POSTs batches to one URL over a connection that is kept open. See `seglog.forward.open_sink`.

    The certificate authorities are the system's; SSL_CERT_FILE and SSL_CERT_DIR name others, as for all of OpenSSL.
    """

    def __init__(
        self,
        url: str,
        *,
        format: str = "lines",
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        options.number("timeout", timeout, "seconds", 0.001, 3600.0)
        self._encode = encoder(format)
        self._url, self._name = _checked(url)
        self._headers = {"Content-Type": "application/x-ndjson", "User-Agent": "seglog"}
        for name, value in (headers or {}).items():
            self._set_header(name, value)
        try:
            import urllib3
            from urllib3.util import parse_url
        except ImportError as error:
            raise missing("http", "urllib3") from error
        self._clock = SystemClock() if clock is None else clock
        self._library_errors = (urllib3.exceptions.HTTPError, OSError)
        self._tls_error = urllib3.exceptions.SSLError
        self._pool = urllib3.PoolManager(
            num_pools=1, maxsize=1, timeout=urllib3.Timeout(connect=timeout, read=timeout), retries=False
        )
        try:
            parse_url(self._url)  # what urlsplit lets pass: host names that cannot be looked up
        except urllib3.exceptions.LocationParseError as error:
            raise InvalidOption(f"the URL {self._name} has no valid host name") from error

    def _set_header(self, name: str, value: str) -> None:
        if not _TOKEN.fullmatch(name) or name.lower() in _OURS:
            raise InvalidOption(f"{name!r} cannot be set as a request header")
        if not _VALUE.fullmatch(value):
            raise InvalidOption(f"the value of request header {name} holds characters that HTTP does not allow")
        self._headers = {known: old for known, old in self._headers.items() if known.lower() != name.lower()}
        self._headers[name] = value

    def send(self, batch: Sequence[Message[Any]]) -> None:
        """One POST. Raises SinkError, which says what the answer means, unless it was a 2xx."""
        body = self._encode(batch)
        try:
            response = self._pool.urlopen(
                "POST",
                self._url,
                body=body,
                headers={**self._headers, "Idempotency-Key": idempotency_key(batch)},
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            status, retry_after = response.status, response.headers.get("Retry-After")
            answer = self._rest_of(response)
        except self._library_errors as error:
            raise self._no_answer(error) from error
        if not 200 <= status < 300:
            raise self._unconfirmed(status, retry_after, answer, len(batch))

    def close(self) -> None:
        """Give the connection back. A later `send` opens a new one."""
        self._pool.clear()

    def _rest_of(self, response: BaseHTTPResponse) -> bytes:
        """The start of the answer's body. If that is all of it, the connection goes back to the pool by itself.

        What goes wrong from here on does not matter: the status has been said.
        """
        try:
            return response.read(_ANSWER_BYTES)
        except self._library_errors:
            return b""
        finally:
            response.close()

    def _no_answer(self, error: Exception) -> SinkError:
        inner = next((one for one in (error.__cause__, *error.args) if isinstance(one, Exception)), error)
        reason = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
        # A connection that was cut is the network's affair, also where TLS noticed it first.
        cut = isinstance(inner, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
        tls = isinstance(error, (self._tls_error, ssl.SSLError)) and not cut
        return SinkError(f"{self._name}: {reason}", verdict=Verdict.CONFIGURATION if tls else Verdict.RETRY)

    def _unconfirmed(self, status: int, retry_after: str | None, answer: bytes, records: int) -> SinkError:
        phrase = http.HTTPStatus(status).phrase if status in http.HTTPStatus._value2member_map_ else ""
        summary = f"HTTP {status} {phrase}".rstrip()
        text = answer.decode("utf-8", "replace")[:_DETAIL_CHARACTERS].strip()
        return SinkError(
            f"{self._name}: {summary}",
            verdict=_verdict(status, records),
            retry_after=_seconds_until(retry_after, self._clock),
            detail=f"{summary}: {text}" if text else summary,
        )


def idempotency_key(batch: Sequence[Message[Any]]) -> str:
    """`<log id>:<first>-<last>`, with a comma between ranges where offsets are missing."""
    ranges: list[list[int]] = []
    for message in batch:
        if ranges and message.offset == ranges[-1][1] + 1:
            ranges[-1][1] = message.offset
        else:
            ranges.append([message.offset, message.offset])
    log_id = batch[0].id.rpartition(":")[0]
    return f"{log_id}:{','.join(f'{first}-{last}' for first, last in ranges)}"


def _verdict(status: int, records: int) -> Verdict:
    if status in _REFUSED or (status == http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE and records > 1):
        return Verdict.REFUSED
    if status in _RETRY or 500 <= status < 600:
        return Verdict.RETRY
    return Verdict.CONFIGURATION


def _seconds_until(retry_after: str | None, clock: Clock) -> float | None:
    """A Retry-After header in either form; None if there is none or it is nonsense."""
    if retry_after is None:
        return None
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", retry_after):
        return float(retry_after)
    try:
        moment = email.utils.parsedate_to_datetime(retry_after).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment - clock.time_ns() / 1e9)


def _checked(url: str) -> tuple[str, str]:
    """The URL, and how it is named in messages (no query: it may be a secret); or InvalidOption."""
    if not re.fullmatch(r"[\x21-\x7e\x80-\U0010ffff]+", url):
        raise InvalidOption("the URL holds spaces or control characters")
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")  # what connecting will do with it
    except ValueError as error:
        raise InvalidOption(f"the URL is malformed: {error}") from None
    if not parts.hostname or port == 0:
        raise InvalidOption(
            f"the URL needs a host{' and a port from 1 to 65535' if port == 0 else ''}, as in http://host:8080/path"
        )
    if "@" in parts.netloc:
        raise InvalidOption("no user name or password in the URL: send them as a request header, Authorization: …")
    if parts.fragment:
        raise InvalidOption("the URL ends with a #fragment, which is never sent to a server")
    return url, f"{parts.scheme}://{parts.netloc}{parts.path}"
