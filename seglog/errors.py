"""The exception tree. One root, so that `except SeglogError` catches all that seglog raises on purpose.

    SeglogError
    ├── InvalidOption (ValueError)   an argument cannot be meant like this; nothing was touched
    ├── NotALog                      the directory holds other files and none of ours
    ├── LogNotFound                  there is no such directory
    ├── LogLocked                    another writer holds the log; the message names it
    ├── ReadOnly                     the log was opened with mode "r"
    ├── LogClosed                    the log or the consumer was closed
    ├── LogForked                    this handle was inherited through fork(); open the log again
    ├── UnsupportedVersion           written by a newer version of the format; nothing is broken
    ├── LogFull                      max_bytes or max_records is reached
    ├── RecordTooLarge               the record or the batch exceeds the limit; no byte was written
    ├── SerializeError (ValueError)  the serializer refused the value
    ├── OffsetOutOfRange             no such offset can be meant
    ├── UnknownConsumer              no consumer of that name is registered
    ├── ConsumerBusy                 another process holds the consumer
    ├── DamageFound                  the bytes asked for do not read back (segment, position, reason)
    ├── DeadLetterWriteFailed        the dead letter could not be kept, so the record stays where it is
    └── StorageError (OSError)       the disk said no
        ├── DiskFull                 no space; not sticky, appends resume when space is back
        └── LogFailed                outcome of the append unknown; reopen the log to learn it

Every error of append means "not accepted", except LogFailed, which means "not known".
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class SeglogError(Exception):
    """Root of everything that seglog raises on purpose."""


class InvalidOption(SeglogError, ValueError):
    """An argument cannot be meant like this; nothing was touched."""


class NotALog(SeglogError):
    """The path is no log: a file, or a directory that holds other files and none of ours."""


class LogNotFound(SeglogError):
    """There is no log at this path, and this mode does not create one."""


class LogLocked(SeglogError):
    """Another writer holds the log; the message names the holder."""


class ReadOnly(SeglogError):
    """The log was opened with mode "r", which never appends."""


class LogClosed(SeglogError):
    """The log, or the consumer, was closed."""


class LogForked(SeglogError):
    """This handle came through fork(); the parent's log is untouched. Open the log again in the child."""


class UnsupportedVersion(SeglogError):
    """The file was written by a newer version of the format. It is not broken; use a newer seglog."""


class LogFull(SeglogError):
    """`max_bytes` or `max_records` is reached; nothing was accepted."""


class RecordTooLarge(SeglogError):
    """The record, or the batch, exceeds the limit; no byte was written."""


class SerializeError(SeglogError, ValueError):
    """The serializer refused the value; nothing was accepted."""


class OffsetOutOfRange(SeglogError):
    """No record can have this offset."""


class UnknownConsumer(SeglogError):
    """No consumer of this name is registered in the log."""


class ConsumerBusy(SeglogError):
    """Another process holds this consumer."""


class DamageFound(SeglogError):
    """The bytes asked for do not read back.

    Attributes:
        segment: file name of the segment.
        position: byte position in that file.
        reason: what does not hold there.
    """

    def __init__(self, message: str, *, segment: str, position: int, reason: str) -> None:
        super().__init__(message)
        self.segment = segment
        self.position = position
        self.reason = reason


class DeadLetterWriteFailed(SeglogError):
    """The dead letter could not be kept durably, so the record stays with its consumer."""


class StorageError(SeglogError, OSError):
    """The disk or the operating system refused; `errno` and `filename` say what and where."""


class DiskFull(StorageError):
    """No space is left; nothing was accepted. Not sticky: appends work again when space is back."""


class LogFailed(StorageError):
    """A write or sync failed: whether the append is in or out is decided when the log is opened again."""


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def storage_error(error: OSError, doing: str) -> StorageError:
    """The typed form of what the operating system said while `doing` something."""
    if isinstance(error, StorageError):
        return error
    kind = DiskFull if error.errno in _NO_SPACE else StorageError
    reason = error.strerror or str(error)
    return kind(error.errno, f"{doing}: {reason}", error.filename)


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Whatever the operating system says in here, while `doing` something, leaves in its typed form."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(error, doing) from error
