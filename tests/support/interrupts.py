"""Ctrl-C at every place where it can strike: the interpreter looks for signals after calls and jumps back.

`Interrupt(k)` raises at the k-th such place in seglog's own code, in the thread that runs it, once. The disk is left
out unless asked for: in memory it has places that no real one has.
"""

from __future__ import annotations

import dis
import os
import sys
from functools import cache
from types import CodeType, FrameType
from typing import Any

import seglog

PACKAGE = os.path.dirname(seglog.__file__) + os.sep
DISK = PACKAGE + "disk" + os.sep
_LOOKS = frozenset(
    number for name, number in dis.opmap.items() if name.startswith(("CALL", "RESUME", "JUMP_BACKWARD", "SEND"))
)


@cache
def _handlers(code: CodeType) -> list[tuple[int, int, int]]:
    """Where exceptions go: from instruction, to before, handler; innermost first."""
    entries = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    return sorted(((e.start, e.end, e.target) for e in entries), key=lambda entry: entry[1] - entry[0])


def _handler(code: CodeType, at: int) -> int:
    return next((target for start, end, target in _handlers(code) if start <= at < end), -1)


class Interrupt:
    """A context in which one Ctrl-C strikes. `struck` says where, "" if the work was over before."""

    def __init__(self, place: int, *, in_disk: bool = False) -> None:
        self._outside = "\0" if in_disk else DISK
        self._left = place
        self._after: dict[FrameType, int] = {}  # where the interpreter has just looked; -1: it has not
        self.struck = ""

    def __enter__(self) -> Interrupt:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        self._after.clear()

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(PACKAGE) or file.startswith(self._outside):
            return None
        if event == "call":
            if self._in_finalizer(frame):
                return None
            frame.f_trace_opcodes = True
            self._after[frame] = 0  # the interpreter looks when a function begins
            return self._trace
        if event == "opcode" and not self.struck:
            looked = self._after.get(frame, -1)
            self._after[frame] = frame.f_lasti if frame.f_code.co_code[frame.f_lasti] in _LOOKS else -1
            # What is raised there is handled as of there; here, one instruction later, a `with` may be left already.
            if looked >= 0 and _handler(frame.f_code, looked) == _handler(frame.f_code, frame.f_lasti):
                self._left -= 1
                if self._left < 0:
                    self.struck = f"{os.path.basename(file)}:{frame.f_lineno}"
                    raise KeyboardInterrupt("injected")
        return self._trace

    @staticmethod
    def _in_finalizer(frame: FrameType | None) -> bool:
        """There, an interrupt is only ever printed: it harms nobody."""
        while frame is not None and frame.f_code.co_name != "__del__":
            frame = frame.f_back
        return frame is not None
