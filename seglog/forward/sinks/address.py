"""What the URL of an engine says: where it is, what takes the records, and who we are. No I/O but a password file.

    scheme://[user[:password]@]host[:port]/target[?option=value&…]

Options that every engine takes: `password_file` (its first line is the password), `ca`, `cert` and `key` (files of
PEM, for TLS). Without a user or password in the URL, SEGLOG_SINK_USER and SEGLOG_SINK_PASSWORD of the environment
count. Messages name an address by `Address.name`, which has no secret in it.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from seglog.errors import InvalidOption

if TYPE_CHECKING:
    import ssl

COMMON = ("password_file", "ca", "cert", "key")


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

        try:
            context = ssl.create_default_context(cafile=self.options.get("ca"))
            if "cert" in self.options:
                context.load_cert_chain(self.options["cert"], self.options.get("key"))
        except (OSError, ssl.SSLError) as error:
            raise InvalidOption(f"{self.name}: a file of the TLS options cannot be used: {error}") from None
        return context


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
    path = urllib.parse.unquote(parts.path.removeprefix("/")) or default
    if not parts.hostname or not path or parts.fragment or given == 0:
        what = "a host" if default else f"a host and {target}"
        raise InvalidOption(f"the URL needs {what}: expected {_shape(url, target)}")
    options = query(parts.query, {*COMMON, *known}, _shape(url, target))
    user = _unquoted(parts.username) or os.environ.get("SEGLOG_SINK_USER") or None
    password = _unquoted(parts.password) or _from_file(options) or os.environ.get("SEGLOG_SINK_PASSWORD") or None
    return Address(parts.scheme.lower(), parts.hostname, given or port, path, user, password, options)


def all_of_it(url: str) -> None:
    """Raises InvalidOption for characters that taking a URL apart would drop without a word."""
    if not re.fullmatch(r"[\x21-\x7e\x80-\U0010ffff]+", url):
        raise InvalidOption("the URL holds spaces or control characters")


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


def _unquoted(text: str | None) -> str | None:
    return None if text is None else urllib.parse.unquote(text)


def _from_file(options: dict[str, str]) -> str | None:
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
