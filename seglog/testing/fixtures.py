"""pytest fixtures: `pytest_plugins = ["seglog.testing.fixtures"]` in a conftest.py gives `crash_disk`, `fault_disk` and
`manual_clock`, each new for every test."""

from __future__ import annotations

import pytest

from seglog.disk.memory import MemoryDisk
from seglog.testing.crash_disk import CrashDisk
from seglog.testing.fault_disk import FaultDisk
from seglog.testing.manual_clock import ManualClock


@pytest.fixture
def crash_disk() -> CrashDisk:
    """An empty disk in memory that can lose power: `seglog.open("spool", disk=crash_disk)`."""
    return CrashDisk()


@pytest.fixture
def fault_disk() -> FaultDisk:
    """An empty disk in memory whose calls fail when it is told so: `fault_disk.arm(Fault(3, errno.ENOSPC))`."""
    return FaultDisk(MemoryDisk())


@pytest.fixture
def manual_clock() -> ManualClock:
    """A clock that stands still until it is moved: leases, delays and ages without waiting."""
    return ManualClock()
