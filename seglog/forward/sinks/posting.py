"""What the sinks that speak HTTP share: one POST, and what its answer means. Needs urllib3.

Never follows a redirect (a POST would arrive as a GET without its body), never reads proxy settings from the
environment, never skips TLS verification, and never logs a payload or the query of the URL. The timeout bounds each of
these: connecting to one address, the handshake of TLS, sending, and the answer from its first byte to its last; and no
answer is waited for when twice the timeout is over.

    answer                                   what follows
    2xx                                      the sink reads it
    400, 413, 422                            refused: the batch is halved until the record is found
    431 for several records                  the headers were too long for the far end: halved as well
    408, 409, 425, 429, 5xx, no answer       retried; 409 is how a far end says "still at work on this very key"
    3xx, other 4xx, TLS errors               configuration: everything is kept

User and password are sent as HTTP's own "Basic"; a password without a user is a token, and sent as "Bearer". They come
from the URL; the password of a user who is named there may also come from SEGLOG_SINK_PASSWORD. A URL without a user
sends nothing of the environment: these may be another engine's. (OTLP is an engine: see address.py.) Where a header
Authorization is given, that is sent and nothing else.

The same body is always the same bytes, compressed or not: whoever drops repeats may compare them.
"""

from __future__ import annotations

import base64
import email.utils
import gzip
import http
import http.client
import io
import re
import ssl
import urllib.parse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from seglog import options
from seglog.clock import Clock, SystemClock
from seglog.errors import InvalidOption
from seglog.format.checksum import compress
from seglog.forward.sinks import address
from seglog.forward.sinks.base import SinkError, Verdict, missing

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "identity": lambda body: body,
    "gzip": lambda body: gzip.compress(body, 6, mtime=0),
    "zstd": compress,
}
_REFUSED = frozenset((400, 413, 422))
_RETRY = frozenset((408, 409, 425, 429))
ANSWER_BYTES = 64 * 1024  # read of an answer's body, so that the connection can be used again; more is cut off
_DETAIL_CHARACTERS = 1000
_OURS = frozenset(("content-length", "content-encoding", "transfer-encoding", "idempotency-key"))
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BEARER = re.compile(r"[!-~]+")
_VALUE = re.compile(r"[\x20-\x7e\x80-\xff\t]*")


class Answer(NamedTuple):
    """A 2xx answer. `body` is what was read of it, up to ANSWER_BYTES."""

    status: int
    content_type: str
    body: bytes
    whole: bool

    @property
    def too_long(self) -> bool:
        """We read no further. If it is not, and not whole either, it broke off or took too much time."""
        return len(self.body) >= ANSWER_BYTES


class _Incoming(io.RawIOBase):
    """The bytes of one answer, all of them within the timeout that the socket has at its beginning.

    That timeout alone begins anew with each byte: a far end that sends one now and then would keep us for ever.
    """

    def __init__(self, socket: Any, bytes_of_it: io.RawIOBase) -> None:
        self._socket = socket
        self._bytes = bytes_of_it
        self._deadline = SystemClock.monotonic() + socket.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        left = self._deadline - SystemClock.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)
        return self._bytes.readinto(buffer)

    def close(self) -> None:
        self._bytes.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Incoming(sock, self.fp.detach()))


class _Connection:
    """What is changed of urllib3's connections. The query is added behind its back, because it logs URLs."""

    response_class = _Response
    query: str

    def putrequest(self, method: str, url: str, *arguments: Any, **options: Any) -> None:
        super().putrequest(method, url + self.query, *arguments, **options)  # type: ignore[misc]


class Poster:
    """POSTs to one URL over a connection that is kept open.

    The certificate authorities are the system's, unless `tls` says otherwise; SSL_CERT_FILE and SSL_CERT_DIR name
    others, as for all of OpenSSL. `credentials`: user and password, where it is not the URL that says them. Raises
    InvalidOption.
    """

    def __init__(
        self,
        url: str,
        *,
        extra: str,
        content_type: str,
        headers: Mapping[str, str] | None,
        encoding: str,
        timeout: float,
        clock: Clock | None,
        tls: ssl.SSLContext | None = None,
        credentials: tuple[str | None, str | None] | None = None,
    ) -> None:
        options.number("timeout", timeout, "seconds", 0.001, 3600.0)
        options.one_of("encoding", encoding, tuple(ENCODINGS))
        self._url, self.name, said = _checked(url)
        self._headers = {"Content-Type": content_type, "User-Agent": "seglog"}
        for name, value in (headers or {}).items():
            self._set_header(name, value)
        if "authorization" not in map(str.lower, self._headers):
            self._headers |= _authorization(*(said if credentials is None else credentials))
        self._compress = ENCODINGS[encoding]
        if encoding != "identity":
            self._headers["Content-Encoding"] = encoding
        try:
            import urllib3
            from urllib3.util import parse_url
        except ImportError as error:
            raise missing(extra, "urllib3") from error
        self._clock = SystemClock() if clock is None else clock
        self._library_errors = (urllib3.exceptions.HTTPError, OSError)
        self._tls_error = urllib3.exceptions.SSLError
        try:
            parts = parse_url(self._url)  # what urlsplit lets pass: host names that cannot be looked up
        except urllib3.exceptions.LocationParseError:
            raise InvalidOption(f"the URL {self.name} has no valid host name") from None
        self._url = parts._replace(query=None).url
        waits = urllib3.Timeout(connect=timeout, read=timeout, total=2 * timeout)
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=1, timeout=waits, retries=False, ssl_context=tls)
        self._pool.pool_classes_by_scheme = _pools("" if parts.query is None else f"?{parts.query}")

    def _set_header(self, name: str, value: str) -> None:
        if not _TOKEN.fullmatch(name) or name.lower() in _OURS:
            raise InvalidOption(f"{name!r} cannot be set as a request header")
        if not _VALUE.fullmatch(value):
            raise InvalidOption(f"the value of request header {name} holds characters that HTTP does not allow")
        self._headers = {known: old for known, old in self._headers.items() if known.lower() != name.lower()}
        self._headers[name] = value

    def post(self, body: bytes, records: int, headers: Mapping[str, str] | None = None) -> Answer:
        """One POST. Raises SinkError, which says what the answer means, unless it was a 2xx."""
        try:
            response = self._pool.urlopen(
                "POST",
                self._url,
                body=self._compress(body),
                headers={**self._headers, **(headers or {})},
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            status, retry_after = response.status, response.headers.get("Retry-After")
            content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            answer, whole = self._rest_of(response)
        except self._library_errors as error:
            raise self._no_answer(error) from error
        if not 200 <= status < 300:
            raise self._unconfirmed(status, retry_after, answer, records)
        return Answer(status, content_type, answer, whole)

    def close(self) -> None:
        """Give the connection back. A later `post` opens a new one."""
        self._pool.clear()

    def _rest_of(self, response: BaseHTTPResponse) -> tuple[bytes, bool]:
        """The start of the answer's body, and whether that is all. If so, the connection goes back to the pool."""
        body = b""
        try:
            while len(body) < ANSWER_BYTES:
                piece = response.read(ANSWER_BYTES - len(body))
                if not piece:
                    return body, True
                body += piece
            return body, False
        except self._library_errors:
            return body, False  # the status has been said; whoever wants the body asks whether it is whole
        finally:
            response.close()

    def _no_answer(self, error: Exception) -> SinkError:
        inner = next((one for one in (error.__cause__, *error.args) if isinstance(one, Exception)), error)
        reason = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
        # A connection that was cut is the network's affair, also where TLS noticed it first.
        cut = isinstance(inner, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
        tls = isinstance(error, (self._tls_error, ssl.SSLError)) and not cut
        return SinkError(f"{self.name}: {reason}", verdict=Verdict.CONFIGURATION if tls else Verdict.RETRY)

    def _unconfirmed(self, status: int, retry_after: str | None, answer: bytes, records: int) -> SinkError:
        phrase = http.HTTPStatus(status).phrase if status in http.HTTPStatus._value2member_map_ else ""
        summary = f"HTTP {status} {phrase}".rstrip()
        return SinkError(
            f"{self.name}: {summary}",
            verdict=_verdict(status, records),
            retry_after=_seconds_until(retry_after, self._clock),
            detail=with_text(summary, answer.decode("utf-8", "replace")),
        )


def _pools(query: str) -> dict[str, Any]:
    """By scheme, pools of connections that add this query and hear an answer to its end or to the timeout."""
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool

    made = {}
    for scheme, pool in (("http", HTTPConnectionPool), ("https", HTTPSConnectionPool)):
        connection = type("Connection", (_Connection, pool.ConnectionCls), {"query": query})
        made[scheme] = type("Pool", (pool,), {"ConnectionCls": connection})
    return made


def with_text(summary: str, text: str) -> str:
    """What a dead letter says: the far end's own words, if there are any, and not all of a long speech."""
    text = text[:_DETAIL_CHARACTERS].strip()
    return f"{summary}: {text}" if text else summary


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


def _checked(url: str) -> tuple[str, str, tuple[str | None, str | None]]:
    """The URL without who we are, how it is named in messages (no query: it may be a secret), and user and password; or
    InvalidOption."""
    address.all_of_it(url)
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")  # what connecting will do with it
    except ValueError:  # its words may quote a password
        raise InvalidOption("the URL is malformed: expected http://host:port/path") from None
    address.no_password_behind(parts)
    if not parts.hostname or port == 0:
        raise InvalidOption(
            f"the URL needs a host{' and a port from 1 to 65535' if port == 0 else ''}, as in http://host:8080/path"
        )
    if parts.fragment:
        raise InvalidOption("the URL ends with a #fragment, which is never sent to a server")
    said = address.credentials(parts, {}) if parts.username or parts.password else (None, None)
    host = parts.netloc.rpartition("@")[2]
    return url.replace(parts.netloc, host, 1), f"{parts.scheme}://{host}{parts.path}", said


def _authorization(user: str | None, password: str | None) -> dict[str, str]:
    """RFC 7617, with UTF-8; RFC 6750 for a token. Raises InvalidOption."""
    if user is None and password is None:
        return {}
    if user is None:
        if not _BEARER.fullmatch(password or ""):
            raise InvalidOption(
                "a password without a user is sent as a token, and this one has characters that none has"
            )
        return {"Authorization": f"Bearer {password}"}
    if ":" in user:
        raise InvalidOption("the name of the user has a colon, which cannot be sent over HTTP")
    pair = f"{user}:{password or ''}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
