"""Bytes in JSON: as text where they are UTF-8, else as base64 under another name. The one form that all output has.

Names of headers may hold half a surrogate pair (FORMAT.md §6.3), which UTF-8 has no bytes for: whoever
writes JSON with characters beyond ASCII encodes it by `encoded`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any


def put(fields: dict[str, Any], name: str, value: bytes) -> None:
    """`name`, or `name`_base64 where the value is no UTF-8."""
    try:
        fields[name] = value.decode()
    except UnicodeDecodeError:
        fields[f"{name}_base64"] = base64.b64encode(value).decode("ascii")


def put_headers(fields: dict[str, Any], headers: Mapping[str, bytes]) -> None:
    """An object `headers`, and one `headers_base64` for those that are no UTF-8; neither where there is nothing."""
    for name, value in headers.items():
        one: dict[str, Any] = {}
        put(one, "headers", value)
        for group, text in one.items():
            fields.setdefault(group, {})[name] = text


def encoded(text: str) -> bytes:
    """The JSON in UTF-8, with a question mark for half a surrogate pair."""
    return text.encode("utf-8", "replace")
