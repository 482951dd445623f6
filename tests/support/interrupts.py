"""Ctrl-C at every place where it can strike: the interpreter looks for signals after calls and jumps back.

`Interrupt(k)` raises at the k-th such place in seglog's own code, in the thread that runs it, once. The disk is left
out unless asked for: in memory it has places that no real one has.
"""

from __future__ import annotations

import dis
import os
import sys
from types import FrameType
from typing import Any

import seglog

PACKAGE = os.path.dirname(seglog.__file__) + os.sep
DISK = PACKAGE + "disk" + os.sep
_LOOKS = frozenset(
    number for name, number in dis.opmap.items() if name.startswith(("CALL", "RESUME", "JUMP_BACKWARD", "SEND"))
)


class Interrupt:
    """A context in which one Ctrl-C strikes. `struck` says where, "" if the work was over before."""

    def __init__(self, place: int, *, in_disk: bool = False) -> None:
        self._outside = "\0" if in_disk else DISK
        self._left = place
        self._after: dict[FrameType, bool] = {}
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
            self._after[frame] = True  # the interpreter looks when a function begins
            return self._trace
        if event == "opcode" and not self.struck:
            due = self._after.get(frame, False)
            self._after[frame] = frame.f_code.co_code[frame.f_lasti] in _LOOKS
            if due:
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
