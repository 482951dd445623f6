"""What errors of librdkafka mean, by their names, and what its clients say beside the answers. No I/O."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from seglog.forward.sinks.base import Verdict

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

_logger = logging.getLogger("seglog")

_REFUSED = frozenset(("MSG_SIZE_TOO_LARGE", "INVALID_RECORD", "INVALID_TIMESTAMP"))
_CONFIGURATION = frozenset((
    *("_AUTHENTICATION", "_SSL", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION", "_UNSUPPORTED_FEATURE", "_INVALID_ARG"),
    *("UNKNOWN_TOPIC_OR_PART", "TOPIC_EXCEPTION", "POLICY_VIOLATION", "UNSUPPORTED_FOR_MESSAGE_FORMAT"),
    *("TOPIC_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED", "SECURITY_DISABLED"),
    *("SASL_AUTHENTICATION_FAILED", "UNSUPPORTED_SASL_MECHANISM", "ILLEGAL_SASL_STATE"),
))  # fmt: skip
_CUT = ("Disconnected", "transport error", "unexpected eof")
# What befalls messages because of another one, whose error tells more.
AFTERMATH = frozenset(("_FATAL", "_GAPLESS_GUARANTEE", "_PURGE_QUEUE", "_PURGE_INFLIGHT"))


def verdict_of(error: KafkaError) -> Verdict:
    """By the error's name."""
    name = error.name()
    if name in _REFUSED:
        return Verdict.REFUSED
    if name in _CONFIGURATION and not (name == "_SSL" and any(word in error.str() for word in _CUT)):
        return Verdict.CONFIGURATION
    return Verdict.RETRY


def words(error: KafkaError) -> str:
    """Without what differs each time."""
    text = re.sub(r" \((after [^)]*|[0-9]+ identical [^)]*)\)", "", error.str())
    return f"{text} ({error.name().lstrip('_')})"


class Heard:
    """What a client says about its connections, and logs, while it goes on trying. Served when it is polled."""

    def __init__(self) -> None:
        self.error: KafkaError | None = None
        self.all_down = False

    def __call__(self, error: KafkaError) -> None:
        if error.name() == "_ALL_BROKERS_DOWN":
            self.all_down = True  # why, has been said
        elif not self._of_configuration:
            self.error = error  # else it follows from that, and says less

    def cause(self, error: KafkaError) -> KafkaError:
        """What this error comes from, if that was heard; it is but the consequence where it says nothing definite."""
        return error if self.error is None or verdict_of(error) is not Verdict.RETRY else self.error

    @property
    def hopeless(self) -> bool:
        return self.all_down or self._of_configuration

    def forget(self) -> None:
        """It works now."""
        self.error, self.all_down = None, False

    @property
    def _of_configuration(self) -> bool:
        return self.error is not None and verdict_of(self.error) is Verdict.CONFIGURATION

    def log(self, level: int, text: str, *values: object) -> None:
        """Stands for a logger: whatever the library takes for an error, the forwarder says what came of it."""
        _logger.debug(text, *values)
