"""What this process holds: descriptors, memory, threads."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path


def open_descriptors() -> int:
    """How many file descriptors are open."""
    return len(os.listdir("/dev/fd")) - 1  # the listing itself has one


def resident_bytes() -> int:
    """Memory of this process now (on macOS: the most it ever had)."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        return peak_bytes()


def peak_bytes() -> int:
    """The most memory this process ever had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
