"""A worker that one message kills: `os.kill` is what a fault in a C library, or the kernel short of memory, looks like.

It says `g OFFSET ATTEMPTS` when it has been given a message, `a OFFSET` when that is acked, and `end` when nothing is
left.
"""

from __future__ import annotations

import os
import signal
import threading

import seglog
from tools.crashtest.zygote import Hear, Say

POISON = b"poison"


def work(say: Say, hear: Hear, directory: str, limit: int, threads: int) -> None:
    """`limit` messages at a time, in so many threads, until there is none left to receive or to wait for."""
    with seglog.open(directory) as log, log.consumer("worker", max_attempts=3) as consumer:

        def run() -> None:
            while len(consumer):
                messages = consumer.receive_many(limit, timeout=0.05)
                for message in messages:
                    say(f"g {message.offset} {message.attempts}")
                for message in messages:
                    if message.payload == POISON:
                        os.kill(os.getpid(), signal.SIGKILL)
                    consumer.ack(message)
                    say(f"a {message.offset}")

        workers = [threading.Thread(target=run) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    say("end")
