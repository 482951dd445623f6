"""`stdout:` writes lines and ends with its pipe."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time

import pytest

from seglog.errors import InvalidOption
from seglog.forward import Forwarder, open_sink
from tests.support.fake_consumer import FakeClock, FakeConsumer, message


def test_payloads_and_a_newline_each(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    open_sink("stdout:").send([message(0, b"a\xff"), message(1, b""), message(2, b"two\nlines")])
    assert capfdbinary.readouterr().out == b"a\xff\n\ntwo\nlines\n"


def test_the_envelope(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    open_sink("stdout:", format="envelope").send([message(3, b"two\nlines")])
    assert json.loads(capfdbinary.readouterr().out)["payload"] == "two\nlines"


def test_a_full_disk_behind_stdout_ends_the_forwarding_and_keeps_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    consumer = FakeConsumer([b"a", b"b"], clock)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(OSError) as caught:
            Forwarder(consumer, open_sink("stdout:"), clock=clock).run(once=True)
        monkeypatch.undo()
        full.buffer.raw.close()  # type: ignore[attr-defined]
    assert caught.value.errno == errno.ENOSPC
    assert consumer.journal == [("nack", [0, 1])]


@pytest.mark.parametrize("non_blocking", [False, True])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_nothing_is_confirmed_that_the_pipe_has_no_room_for(unbuffered: str, non_blocking: bool) -> None:
    """A part of it is written, and the rest has to wait for the reader."""
    program = f"""
import os, sys
from seglog.forward import open_sink
from tests.support.fake_consumer import message
os.set_blocking(1, {not non_blocking})
open_sink("stdout:").send([message(0, b"x" * 300_000)])
print("confirmed", file=sys.stderr)
"""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as child:
        assert child.stdout is not None
        time.sleep(0.2)  # it has begun, and the pipe is full
        out, said = child.communicate(timeout=30)
    assert (len(out), said) == (300_001, b"confirmed\n")


def test_headers_make_no_sense_for_stdout() -> None:
    with pytest.raises(InvalidOption):
        open_sink("stdout:", headers={"A": "b"})


def test_forwarding_imports_no_client_library() -> None:
    program = (
        "import sys, seglog.forward as f; f.open_sink('stdout:'); print({'urllib3', 'ssl', 'http'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"
