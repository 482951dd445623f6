"""Disks that crash and fail on purpose and a clock that stands still: for our tests, and for yours."""

from seglog.testing.crash_disk import CrashDisk, Image
from seglog.testing.crash_model import Operation
from seglog.testing.fault_disk import Fault, FaultDisk
from seglog.testing.manual_clock import ManualClock

__all__ = ["CrashDisk", "Fault", "FaultDisk", "Image", "ManualClock", "Operation"]
