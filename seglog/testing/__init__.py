"""Disks that crash and fail on purpose, a clock that stands still, trials of your own code on them, and of your sinks.

For our tests, and for yours; `seglog.testing.fixtures` offers them to pytest.
"""

from seglog.testing.crash_disk import CrashDisk, Image
from seglog.testing.crash_model import Operation
from seglog.testing.fault_disk import Fault, FaultDisk
from seglog.testing.manual_clock import ManualClock
from seglog.testing.sink_check import check_sink
from seglog.testing.trials import every_crash, every_fault

__all__ = [
    "CrashDisk",
    "Fault",
    "FaultDisk",
    "Image",
    "ManualClock",
    "Operation",
    "check_sink",
    "every_crash",
    "every_fault",
]
