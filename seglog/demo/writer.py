"""The demo's application: appends events to the log, durably, and says on stdout what was acknowledged.

It says so only after the append returned, so whoever reads the pipe knows what was promised even if this process
is killed in the next instruction. One line for each batch: the first event's number, how many, the first offset.
"""

from __future__ import annotations

import argparse
import itertools
import os
from pathlib import Path

import seglog
from seglog.clock import SystemClock

BATCH_EVENTS_MAX = 200
NAP_SECONDS = 0.002


def main() -> None:
    parser = argparse.ArgumentParser(prog="seglog.demo.writer", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("events", type=Path, help="a file with one event per line")
    parser.add_argument("--first", type=int, default=0, help="the number of the event to begin with")
    parser.add_argument("--rate", type=float, required=True, help="events per second")
    parser.add_argument("--segment-bytes", type=int, required=True)
    parser.add_argument("--also-for", required=True, metavar="CONSUMER", help="a second consumer, which reads later")
    args = parser.parse_args()

    with args.events.open("rb") as file:
        events = [line.rstrip(b"\n") for line in itertools.islice(file, args.first, None)]
    clock = SystemClock()
    with seglog.open(args.directory, segment_bytes=args.segment_bytes) as log:
        with log.consumer(args.also_for):
            pass  # registered, so nothing is reclaimed before it has read it: the demo reads all of it once more
        begun, done = clock.monotonic(), 0
        while done < len(events):
            due = 1 + int((clock.monotonic() - begun) * args.rate) - done
            if due <= 0:
                clock.sleep(NAP_SECONDS)
                continue
            batch = events[done : done + min(due, BATCH_EVENTS_MAX)]
            offsets = log.append_many(batch)
            os.write(1, b"%d %d %d\n" % (args.first + done, len(batch), offsets[0]))
            done += len(batch)


if __name__ == "__main__":
    main()
