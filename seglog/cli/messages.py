"""How `read` and `consume` write messages: the payload as it is, or one JSON object per line."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

from seglog.cli import arguments
from seglog.cli.output import escape, say
from seglog.json_bytes import put, put_headers
from seglog.model import Gap, Message

Render = Callable[[Message[bytes]], bytes]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that choose the form."""
    parser.add_argument(
        "--delimiter",
        type=arguments.separator,
        default=b"\n",
        metavar="STRING",
        help=r"written after each payload; knows \0 \n \r \t \\ \xNN; may be empty (default: \n)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="one object per line: offset, id, timestamp (Unix seconds), attempts, key, headers, payload; "
        "bytes that are no UTF-8 stand base64-encoded under NAME_base64 instead",
    )


def renderer(args: argparse.Namespace) -> Render:
    """The function that turns a message into bytes for stdout."""
    if args.json:
        return as_json
    delimiter: bytes = args.delimiter
    if os.isatty(1):
        return lambda message: for_terminal(message.payload) + delimiter
    return lambda message: message.payload + delimiter


def for_terminal(payload: bytes) -> bytes:
    """The payload with control characters escaped: a terminal would obey them."""
    return escape(payload.decode("utf-8", "backslashreplace"), keep="\n\t").encode()


def as_json(message: Message[bytes]) -> bytes:
    """One line of JSON."""
    shown: dict[str, Any] = {
        "offset": message.offset,
        "id": message.id,
        "timestamp": message.timestamp,
        "attempts": message.attempts,
    }
    if message.key is None:
        shown["key"] = None
    else:
        put(shown, "key", message.key)
    shown["headers"] = {}
    put_headers(shown, message.headers)
    put(shown, "payload", message.payload)
    return json.dumps(shown).encode() + b"\n"


def tell_gap(gap: Gap) -> None:
    """One line on stderr."""
    say(f"gap: offsets {gap.first_offset}-{gap.last_offset} are not delivered: {gap.reason}")
