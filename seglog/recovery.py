"""What was found at the end of a log, and what follows from it: one pure table (FORMAT.md §10.6, §10.7).

Opening for writing and `verify` both ask here, so they cannot disagree.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Ending(Enum):
    """How the longest valid run of the last segment ends."""

    ZERO = "only zero bytes follow"
    CLOSED = "the close marker, and only zero bytes follow"
    TORN = "bad bytes that show an unwritten sector"
    SUSPECT = "bad bytes that nothing explains"


class Action(Enum):
    """What an opening for writing does."""

    CONTINUE = "append behind the run"
    SUCCEED = "make a successor that declares the end, with a copy of what nothing proves durable"


class Situation(NamedTuple):
    """The three things that decide."""

    ending: Ending
    unproven: bool  # part of the valid run is not proven durable
    jump: bool  # the run must not go on in its file: offsets jump, or the file was cut short


class Verdict(NamedTuple):
    """What open does, and what verify says of the tail."""

    action: Action
    clean: bool
    finding: str  # "", "torn" or "suspect"


_CONTINUE_CLEAN = Verdict(Action.CONTINUE, True, "")
_CONTINUE = Verdict(Action.CONTINUE, False, "")
_SUCCEED = Verdict(Action.SUCCEED, False, "")
_TORN = Verdict(Action.SUCCEED, False, "torn")
_SUSPECT = Verdict(Action.SUCCEED, False, "suspect")

RULES: dict[Situation, Verdict] = {
    # Killed while idle: the synced end is all there is, so the file just goes on.
    Situation(Ending.ZERO, False, False): _CONTINUE,
    # Offsets jump only at a segment boundary, where a header can say why.
    Situation(Ending.ZERO, False, True): _SUCCEED,
    # Killed in a commit: the run reads well, but the page cache is not the disk. It is written anew, elsewhere.
    Situation(Ending.ZERO, True, False): _SUCCEED,
    Situation(Ending.ZERO, True, True): _SUCCEED,
    # The marker was written only after all before it was durable.
    Situation(Ending.CLOSED, False, False): _CONTINUE_CLEAN,
    Situation(Ending.CLOSED, False, True): _SUCCEED,
    # The marker is believed only where the hint covers it or the machine restarted: then nothing is unproven.
    Situation(Ending.CLOSED, True, False): _SUCCEED,
    Situation(Ending.CLOSED, True, True): _SUCCEED,
    # An interrupted append: never acknowledged. Cut by the successor's header; the bytes stay where they are.
    Situation(Ending.TORN, False, False): _TORN,
    Situation(Ending.TORN, False, True): _TORN,
    Situation(Ending.TORN, True, False): _TORN,
    Situation(Ending.TORN, True, True): _TORN,
    # Reads like rot, but nothing proves that it was durable: kept inside the segment, and said for ever.
    Situation(Ending.SUSPECT, False, False): _SUSPECT,
    Situation(Ending.SUSPECT, False, True): _SUSPECT,
    Situation(Ending.SUSPECT, True, False): _SUSPECT,
    Situation(Ending.SUSPECT, True, True): _SUSPECT,
}


def decide(situation: Situation) -> Verdict:
    """The one row for this situation."""
    return RULES[situation]
