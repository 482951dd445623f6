"""seglog: a local event spool. An append-only, segmented log that keeps every acknowledged event.

    with seglog.open("spool") as log:
        log.append(b"an event")               # returns when it is on disk
        with log.consumer("uploader") as c:
            for message in c.drain():
                c.ack(message)                # handled, whatever happens next
"""

import logging

from seglog import errors
from seglog.consumer import Consumer
from seglog.dead_letters import DeadLetters
from seglog.errors import *  # noqa: F403  # the whole tree is public
from seglog.log import Log, open
from seglog.verify import verify
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
    VerifyReport,
)

__version__ = "0.1.0"

logging.getLogger("seglog").addHandler(logging.NullHandler())
