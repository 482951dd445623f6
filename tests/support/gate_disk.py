"""A disk that holds chosen calls back until it is told to let them go, and knows which threads it was called from."""

from __future__ import annotations

import threading

from seglog.disk.base import Disk
from seglog.testing import Fault, FaultDisk

HELD_SECONDS_MAX = 60.0


class GateDisk(FaultDisk):
    """Around any disk. `reached` is set when a call stands at the gate."""

    def __init__(self, inner: Disk) -> None:
        super().__init__(inner)
        self.threads: list[tuple[str, int]] = []
        self.reached = threading.Event()
        self._held: tuple[str, str] | None = None
        self._open = threading.Event()

    def hold(self, operation: str, name: str = "") -> None:
        """From now on, calls of this operation on files whose names end like this wait."""
        self.reached.clear()
        self._open.clear()
        self._held = operation, name

    def let_go(self) -> None:
        self._held = None
        self._open.set()

    def due(self, operation: str, name: str) -> Fault | None:
        self.threads.append((operation, threading.get_ident()))
        held = self._held
        if held is not None and operation == held[0] and name.endswith(held[1]):
            self.reached.set()
            if not self._open.wait(HELD_SECONDS_MAX):
                raise AssertionError(f"{operation} of {name} was never let go")
        return super().due(operation, name)

    def count(self, *operations: str) -> int:
        """How many calls of these operations there were."""
        return sum(operation in operations for operation, _ in self.calls)
