"""A file, which has no server: it is down while its directory is not there."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from tools.engines.server import Arrived, Engine


class File(Engine):
    name = "file:"
    server = False

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def url(self, target: str) -> str:
        return f"file:{self.folder}/{target}.ndjson?format=envelope&rotate=64KiB"

    def arrived(self, target: str) -> list[Arrived]:
        numbered = re.compile(rf"{re.escape(target)}\.[0-9]+\.ndjson")
        names = sorted(path.name for path in self.folder.iterdir() if numbered.fullmatch(path.name))
        found = b"".join((self.folder / name).read_bytes() for name in (*names, f"{target}.ndjson"))
        return [_arrived(json.loads(line)) for line in found.splitlines()]


def _arrived(line: dict[str, Any]) -> Arrived:
    def text(value: str) -> bytes:
        return value.encode()

    found: dict[str, Any] = {}
    for name, value in line.items():
        decode = base64.b64decode if name.endswith("_base64") else text
        plain = name.removesuffix("_base64")
        if plain == "headers":
            found.setdefault(plain, {}).update((key, decode(each)) for key, each in value.items())
        elif plain in ("payload", "key"):
            found[plain] = decode(value)
    return Arrived(line["id"], found["payload"], found.get("key"), found.get("headers", {}))
