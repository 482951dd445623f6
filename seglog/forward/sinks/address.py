"""What the URL of an engine says: where it is, what takes the records, and who we are. No I/O but a password file.

    scheme://[user[:password]@]host[:port]/target[?option=value&…]

Options that every engine takes: `password_file` (its first line is the password); with TLS also `ca`, `cert` and `key`
(files of PEM; the key, which must not be encrypted, is in that of the certificate where none is named). Without a user
or password in the URL, SEGLOG_SINK_USER and SEGLOG_SINK_PASSWORD of the environment count. Messages name an address by
`Address.name`, which has no secret in it. A URL of plain HTTP is not ours to this extent: see posting.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import urllib.parse
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from seglog.errors import InvalidOption

if TYPE_CHECKING:
    import ssl

COMMON = ("password_file", "ca", "cert", "key")
TLS = ("rediss", "nats+tls", "kafka+tls", "amqp-stream+tls", "otlp+https")  # the schemes with it

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class Address:
    """One engine, and what in it takes the records."""

    scheme: str
    host: str
    port: int
    target: str
    user: str | None
    password: str | None = field(repr=False)
    options: dict[str, str] = field(repr=False)  # those of COMMON, and of the sink

    @property
    def name(self) -> str:
        """For messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/{self.target}"

    def tls(self) -> ssl.SSLContext:
        """What verifies the far end, by the system's authorities or the URL's. Raises InvalidOption."""
        import ssl

        cert, key = self.options.get("cert"), self.options.get("key")
        with self._file_of("ca", "it holds no certificate in PEM"):
            context = ssl.create_default_context(cafile=self.options.get("ca"))
        if cert is not None:
            with self._file_of("cert", "it holds no certificate in PEM"):
                ssl.create_default_context(cafile=cert)  # only to see: what fails behind this is the key
            with self._file_of("cert" if key is None else "key", "it holds no key in PEM that fits the certificate"):
                context.load_cert_chain(cert, key, password=self._no_passphrase)
        return context

    @contextlib.contextmanager
    def _file_of(self, option: str, otherwise: str) -> Iterator[None]:
        """Whatever fails in this block is the fault of that option's file. `otherwise`: how, if not on the disk."""
        import ssl

        try:
            yield
        except InvalidOption:
            raise
        except (OSError, ValueError) as error:
            why = otherwise if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None) or str(error)
            path = self.options.get(option)
            raise InvalidOption(f"{self.name}: the file of the option {option}: {path} cannot be used: {why}") from None

    def _no_passphrase(self) -> str:
        """Without this OpenSSL would ask for it on the terminal, and wait."""
        path = self.options.get("key", self.options["cert"])
        raise InvalidOption(f"{self.name}: the key {path} is encrypted; give one that is not")


def parse(url: str, *, port: int, target: str, default: str = "", known: Collection[str] = ()) -> Address:
    """Take a URL apart.

    Args:
        url: as the user wrote it.
        port: where the engine listens by default.
        target: what the path names, in words for messages ("a stream").
        default: what takes the records where the URL has no path; "": it must have one.
        known: options of this sink, beside COMMON.

    Raises:
        InvalidOption: it cannot be meant like this; the message has no secret in it.
    """
    all_of_it(url)
    try:
        parts = urllib.parse.urlsplit(url)
        given = parts.port
    except ValueError:
        raise InvalidOption(f"the URL is malformed: expected {_shape(url, target)}") from None
    no_password_behind(parts)
    path = _unquoted("path", parts.path.removeprefix("/")) or default
    if _CONTROL.search(path):
        raise InvalidOption(f"the URL names {target} with control characters")
    if not parts.hostname or not path or parts.fragment or given == 0:
        what = "a host" if default else f"a host and {target}"
        raise InvalidOption(f"the URL needs {what}: expected {_shape(url, target)}")
    options = query(parts.query, {*COMMON, *known}, _shape(url, target))
    _tls_is_meant(parts.scheme.lower(), options)
    return Address(parts.scheme.lower(), parts.hostname, given or port, path, *credentials(parts, options), options)


def credentials(parts: urllib.parse.SplitResult, options: Mapping[str, str]) -> tuple[str | None, str | None]:
    """User and password, of the URL, a file that `options` name, or the environment. Raises InvalidOption."""
    user = _unquoted("user", parts.username) or (None if "@" in parts.netloc else _from_environment("SEGLOG_SINK_USER"))
    password = _unquoted("password", parts.password) or _from_file(options) or _from_environment("SEGLOG_SINK_PASSWORD")
    return user, password


def all_of_it(url: str) -> None:
    """Raises InvalidOption for characters that taking a URL apart would drop without a word, and for no text."""
    if not re.fullmatch(r"[\x21-\x7e\x80-\U0010ffff]+", url):
        raise InvalidOption("the URL holds spaces or control characters")
    if re.search(r"[\ud800-\udfff]", url):
        raise InvalidOption("the URL is not UTF-8")


def no_password_behind(parts: urllib.parse.SplitResult) -> None:
    """Raises InvalidOption where what follows the host, as it is written, may be the end of a password: it is shown."""
    rest = parts.path or (parts.query if ":" in parts.netloc else "")
    if "@" in rest:
        raise InvalidOption(
            "the URL has an @ behind a / or ?, and that may be the end of a password: a / in a password is written "
            "%2F, a ? %3F, an @ in a path %40"
        )


def query(text: str, known: Collection[str], shape: str) -> dict[str, str]:
    """The options behind the question mark. `shape`: how such a URL looks. Raises InvalidOption."""
    try:
        pairs = urllib.parse.parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
    except ValueError:
        raise InvalidOption(f"the URL is malformed: expected {shape}?option=value") from None
    options = dict(pairs)
    unknown = sorted(options.keys() - set(known))
    if unknown or len(options) < len(pairs):
        what = f"has no option {unknown[0]!r}" if unknown else "names an option twice"
        raise InvalidOption(f"the URL {what}; there are {', '.join(sorted(known))}")
    return options


def whole(options: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """A number among the options. Raises InvalidOption."""
    text = options.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
        raise InvalidOption(f"the URL's option {name} is a number from {least} to {most}, not {text!r}")
    return int(text)


def _tls_is_meant(scheme: str, options: Mapping[str, str]) -> None:
    given = [name for name in ("ca", "cert", "key") if name in options]
    if given and scheme not in TLS:
        raise InvalidOption(f"the URL's option {given[0]} is for TLS, and {scheme}:// is without TLS")
    for name in given:
        if not options[name]:
            raise InvalidOption(f"the URL's option {name} names no file")
    if "key" in given and "cert" not in given:
        raise InvalidOption("the URL's option key needs cert, the certificate that the key belongs to")


def _unquoted(what: str, text: str | None) -> str | None:
    try:
        return None if text is None else urllib.parse.unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidOption(f"the URL's {what} is not UTF-8") from None


def _from_environment(name: str) -> str | None:
    text = os.environ.get(name) or None
    if text is not None and re.search(r"[\ud800-\udfff]", text):
        raise InvalidOption(f"{name} is not UTF-8")
    return text


def _from_file(options: Mapping[str, str]) -> str | None:
    if "password_file" not in options:
        return None
    path = options["password_file"]
    try:
        first = Path(path).read_text("utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise InvalidOption(f"the password file {path} cannot be read: {reason}") from None
    if not first:
        raise InvalidOption(f"the password file {path} has an empty first line")
    return first


def _shape(url: str, target: str) -> str:
    return f"{url.partition(':')[0].lower()}://host:port/{target.removeprefix('a ').removeprefix('an ').upper()}"
