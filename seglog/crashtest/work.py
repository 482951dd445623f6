"""What is done on the disk until its plug is pulled: appends of every kind, consumers, acks, rotation, compaction.

Each acknowledgement is noted elsewhere right after the call returned, and nothing else is done before.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from pathlib import Path

import seglog
from seglog.crashtest.ack_log import Appended, Began, Handled, Notes
from seglog.errors import InvalidOption, LogNotFound

SEGMENT_BYTES = 4 << 20
KEPT_BYTES = 64 << 20  # of what both consumers have passed: enough to see what a disk lost that was written a while ago
PROMPT, LATE = "crashtest-prompt", "crashtest-late"
CONSUMERS = (PROMPT, LATE)
LATE_BY = 1000  # records
COMPACT_EVERY = 200  # steps
_LENGTHS = (0, 20, 200, 200, 500, 1000, 4000)
_LARGE = 100_000  # bytes, now and then
_BATCH_MAX = 50
_TOGETHER = 8


def payload(run: str, number: int) -> bytes:
    """What this record holds: its name, and as many bytes as its name's dice say."""
    dice = random.Random(f"{run}.{number}")
    length = _LARGE if number % 500 == 499 else dice.choice(_LENGTHS)
    return f"{run}.{number}.".encode() + dice.randbytes(length)


def _check_is_ours(directory: Path) -> None:
    """Looked at before it is opened for writing, which would change it."""
    try:
        with seglog.open(directory, "r") as log:
            ours = not log.next_offset or set(CONSUMERS) <= set(log.consumers())
    except LogNotFound:
        return
    if not ours:
        raise InvalidOption(f"{directory} is a log with records of somebody else; name a new directory")


class Work:
    """One run. A context manager: opens the log, and closes it in order if nobody pulls the plug.

    `known`: ids of the logs that the notes are about so far. Raises InvalidOption if the directory holds a log with
    records of somebody else, which would be given back, or one that the notes are not about.
    """

    def __init__(self, directory: Path, notes: Notes, known: Collection[str], seed: int) -> None:
        _check_is_ours(directory)
        self._notes = notes
        self._dice = random.Random(seed)
        self._run = f"{self._dice.getrandbits(64):016x}"
        self._number = self._steps = 0
        self._log: seglog.Log[bytes] = seglog.open(directory, segment_bytes=SEGMENT_BYTES, retention_bytes=KEPT_BYTES)
        try:
            if known and self._log.id not in known:
                raise InvalidOption(f"the ack log is about another log than {directory}; name a new file")
            self._prompt, self._late = (self._log.consumer(name) for name in CONSUMERS)
            notes.write(str(Began(self._log.id)))
        except BaseException:
            self._log.close()
            raise

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()

    @property
    def acknowledged(self) -> int:
        """Records of this run."""
        return self._number

    def step(self) -> None:
        """A few appends, what consumers do then, and now and then a compaction."""
        match self._dice.randrange(4):
            case 0:
                self._append_many(self._dice.randint(1, _BATCH_MAX))
            case 1:
                self._append_together()
            case _:
                self._append()
        self._consume()
        self._steps += 1
        if self._steps % COMPACT_EVERY == 0:
            self._log.compact()

    def _append(self) -> None:
        offset = self._log.append(payload(self._run, self._number))
        self._note(offset, 1)

    def _append_many(self, count: int) -> None:
        numbers = range(self._number, self._number + count)
        offsets = self._log.append_many([payload(self._run, number) for number in numbers])
        self._note(offsets.start, count)

    def _append_together(self) -> None:
        """Several in one group commit."""
        numbers = range(self._number, self._number + _TOGETHER)
        for future in [self._log.submit(payload(self._run, number)) for number in numbers]:
            self._note(future.result(), 1)

    def _note(self, offset: int, count: int) -> None:
        self._notes.write(str(Appended(offset, count, self._run, self._number)))
        self._number += count

    def _consume(self) -> None:
        for consumer, left in ((self._prompt, 0), (self._late, LATE_BY)):
            while len(consumer) > left and (messages := consumer.receive_many(_BATCH_MAX)):
                consumer.ack(*messages)
                self._notes.write(str(Handled(consumer.name, consumer.watermark)))
