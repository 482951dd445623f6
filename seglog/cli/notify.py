"""What systemd wants to hear of a service (sd_notify), and how often its watchdog wants to be fed.

Without NOTIFY_SOCKET in the environment nobody listens, and nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping


class Notify:
    """Sends states to the service manager that started this process, if one did.

    Attributes:
        watchdog_seconds: how often WATCHDOG=1 is due, half of what the manager waits; None: it does not wait for it.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path  # "@": a socket that is in no directory
        self.watchdog_seconds: float | None = None
        microseconds = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if self._address and meant and microseconds.isdecimal() and int(microseconds) > 0:
            self.watchdog_seconds = int(microseconds) / 2e6

    def __bool__(self) -> bool:
        return self._address != ""

    def __call__(self, *states: str) -> None:
        """Send lines like "READY=1", together."""
        if not self:
            return
        with (
            contextlib.suppress(OSError),  # a manager that does not listen is no reason to stop forwarding
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out,
        ):
            out.settimeout(1.0)
            out.sendto("\n".join(states).encode(), self._address)

    def reloading(self) -> None:
        """READY=1 has to follow."""
        self("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
