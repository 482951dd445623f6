"""The end of the interpreter: what was acknowledged is there, nothing hangs, and forgetting to close is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import seglog
from tools.crashtest.zygote import ROOT

BEGIN = """
import atexit, os, sys, threading, time
import seglog
log = seglog.open(sys.argv[1], {options})
def say(offset): os.write(1, b"%d\\n" % offset)
"""
ENDS = {
    "closed by atexit": "atexit.register(log.close)\nfor n in range(20): say(log.append(b'x'))",
    "submitted, then closed by atexit": """
atexit.register(log.close)
futures = [log.submit(b'x') for n in range(200)]
for future in futures: future.add_done_callback(lambda f: say(f.result()))
""",
    "never closed": "for n in range(20): say(log.append(b'x'))",
    "never closed, in a function": """
def main():
    own = seglog.open(sys.argv[1] + "2")
    own.append(b'x')
main()
for n in range(20): say(log.append(b'x'))
""",
    "daemon threads at work": """
def work():
    while True: say(log.append(b'x'))
for n in range(4): threading.Thread(target=work, daemon=True).start()
while log.next_offset < 50: time.sleep(0.001)
""",
    "daemon threads at work, closed by atexit": """
atexit.register(log.close)
def work():
    while True:
        try: say(log.append(b'x'))
        except seglog.LogClosed: return
for n in range(4): threading.Thread(target=work, daemon=True).start()
while log.next_offset < 50: time.sleep(0.001)
""",
    "a waiting consumer in a daemon thread": """
consumer = log.consumer("c")
threading.Thread(target=lambda: consumer.receive(timeout=None), daemon=True).start()
threading.Thread(target=lambda: list(consumer), daemon=True).start()
for n in range(20): say(log.append(b'x'))
""",
    "os._exit": "for n in range(20): say(log.append(b'x'))\nos._exit(0)",
    "sys.exit in a with block": """
with log:
    for n in range(20): say(log.append(b'x'))
    sys.exit(0)
""",
}


@pytest.mark.parametrize("options", ["", "durability='interval', sync_interval=0.01"], ids=["always", "interval"])
@pytest.mark.parametrize("end", ENDS)
def test_f65_f93_p1_what_was_acknowledged_survives_every_end_of_the_interpreter_and_none_hangs(
    end: str, options: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", BEGIN.format(options=options) + ENDS[end], str(tmp_path / "log")],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Fatal" not in done.stderr
    acknowledged = sorted(map(int, done.stdout.split()))
    assert acknowledged
    assert seglog.verify(tmp_path / "log").ok
    with seglog.open(tmp_path / "log") as log:
        there = [message.offset for message in log.read()]
        assert there == list(range(len(there)))
        assert set(acknowledged) <= set(there)
        assert len(there) >= (200 if end.startswith("submitted") else 20)
        assert log.append(b"y") == len(there)
    if end.startswith("never closed"):
        assert "ResourceWarning" in done.stderr
        assert "never closed" in done.stderr


def test_f65_a_ctrl_c_from_outside_ends_the_program_and_leaves_the_log_whole(tmp_path: Path) -> None:
    script = BEGIN.format(options="segment_bytes=4096") + "with log:\n  while True: say(log.append(bytes(300)))\n"
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "log")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        with process:
            assert process.stdout is not None
            first = process.stdout.readline()
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=60)
        assert b"KeyboardInterrupt" in errors
        acknowledged = [int(line) for line in (first + rest).split(b"\n")[:-1]]
        assert seglog.verify(tmp_path / "log").ok
        with seglog.open(tmp_path / "log") as log:
            assert {message.offset for message in log.read()} >= set(acknowledged)
