"""What is peculiar to a far end that is a file: lines without identities, and a reader that comes for the full ones."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import seglog
from tools.engines.effectively_once import forwarding
from tools.engines.server import wait_until


@pytest.mark.slow
def test_p5_lines_that_do_not_say_which_they_are_arrive_once_too(tmp_path: Path) -> None:
    dice = random.Random(7)
    payloads: list[bytes] = []
    url = f"file:{tmp_path}/out.ndjson?rotate=8KiB"
    out = tmp_path / "out.ndjson"
    with (
        seglog.open(tmp_path / "log", durability="never") as log,
        log.consumer("watcher"),
        forwarding(tmp_path / "log", url) as forwarder,
    ):
        for life in range(5):
            new = [b"life %d line %d" % (life, number) for number in range(400)]
            log.append_many(new)
            payloads += new
            target = len(payloads) - dice.randrange(1, 400)
            wait_until(lambda target=target: written(out).count(b"\n") >= target, what=forwarder.stuck)  # type: ignore[misc]
            forwarder.end()
            if life == 2:
                (tmp_path / "log" / "cursors" / "forward.cursor").unlink()
            forwarder.start()
        wait_until(lambda: log.consumers()["forward"].lag_records == 0, what=forwarder.stuck)
        assert written(out).splitlines() == payloads
        assert len(list(tmp_path.glob("out.0*.ndjson"))) >= 3


def written(path: Path) -> bytes:
    """All parts; one may get its number while they are read."""
    found = {part: part.read_bytes() for part in sorted(path.parent.glob("out.0*.ndjson"))}
    try:
        return b"".join(found.values()) + path.read_bytes()
    except FileNotFoundError:
        return b"".join(found.values())
