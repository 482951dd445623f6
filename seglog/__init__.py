"""seglog: a local event spool. An append-only, segmented log that keeps every acknowledged event.

with seglog.open("spool") as log:
    log.append(b"an event")               # returns when it is on disk
    with log.consumer("uploader") as c:
        for message in c.drain():
            c.ack(message)                # handled, whatever happens next
"""

import logging

from seglog import serializers
from seglog.consumers.consumer import Consumer
from seglog.dead_letters import DeadLetters
from seglog.errors import (
    ConsumerBusy,
    DamageFound,
    DeadLetterWriteFailed,
    DiskFull,
    InvalidOption,
    LogClosed,
    LogFailed,
    LogForked,
    LogFull,
    LogLocked,
    LogNotFound,
    NotALog,
    OffsetOutOfRange,
    ReadOnly,
    RecordTooLarge,
    SeglogError,
    SerializeError,
    StorageError,
    UnknownConsumer,
    UnsupportedVersion,
)
from seglog.log import Log
from seglog.model import (
    CompactReport,
    ConsumerStats,
    CursorReport,
    Damage,
    DeadLetter,
    Gap,
    LogStats,
    Message,
    OffsetRange,
    OpenReport,
    PinnedSegment,
    Record,
    RepairAction,
    RepairReport,
    VerifyReport,
)
from seglog.open_log import open_log as open
from seglog.repair import repair
from seglog.verify import verify

__version__ = "0.1.0"

__all__ = [
    "CompactReport",
    "Consumer",
    "ConsumerBusy",
    "ConsumerStats",
    "CursorReport",
    "Damage",
    "DamageFound",
    "DeadLetter",
    "DeadLetterWriteFailed",
    "DeadLetters",
    "DiskFull",
    "Gap",
    "InvalidOption",
    "Log",
    "LogClosed",
    "LogFailed",
    "LogForked",
    "LogFull",
    "LogLocked",
    "LogNotFound",
    "LogStats",
    "Message",
    "NotALog",
    "OffsetOutOfRange",
    "OffsetRange",
    "OpenReport",
    "PinnedSegment",
    "ReadOnly",
    "Record",
    "RecordTooLarge",
    "RepairAction",
    "RepairReport",
    "SeglogError",
    "SerializeError",
    "StorageError",
    "UnknownConsumer",
    "UnsupportedVersion",
    "VerifyReport",
    "open",
    "repair",
    "serializers",
    "verify",
]

logging.getLogger("seglog").addHandler(logging.NullHandler())
