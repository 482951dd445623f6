"""Open, verify or repair a log directory without blocking the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial

from seglog.aio.bridge import Bridge
from seglog.aio.log import Log
from seglog.aio.opening import Opening
from seglog.audit import Progress
from seglog.clock import Clock
from seglog.disk.base import Disk
from seglog.log import Log as SyncLog
from seglog.model import RepairReport, Serializer, Value, VerifyReport
from seglog.open_log import open_log as open_sync
from seglog.options import MIB
from seglog.repair import repair as repair_sync
from seglog.verify import verify as verify_sync


def open_log(
    path: str | os.PathLike[str],
    mode: str = "rw",
    *,
    durability: str = "always",
    sync_interval: float = 0.1,
    segment_bytes: int = 64 * MIB,
    max_record_bytes: int = 16 * MIB,
    compression: str | None = None,
    file_mode: int = 0o600,
    max_bytes: int | None = None,
    max_records: int | None = None,
    when_full: str = "block",
    retention_bytes: int | str | None = None,
    retention_seconds: float | str | None = None,
    dead_letter_bytes: int = 64 * MIB,
    serializer: Serializer[Value] | None = None,
    strict: bool = False,
    disk: Disk | None = None,
    clock: Clock | None = None,
) -> Opening[Log[Value]]:
    """Open a log directory; as `seglog.open`, with the same options.

    To be awaited, or entered with `async with`. Cancelled, the log is closed again.
    """
    return Opening(
        partial(
            _open,
            partial(
                open_sync,
                path,
                mode,
                durability=durability,
                sync_interval=sync_interval,
                segment_bytes=segment_bytes,
                max_record_bytes=max_record_bytes,
                compression=compression,
                file_mode=file_mode,
                max_bytes=max_bytes,
                max_records=max_records,
                when_full=when_full,
                retention_bytes=retention_bytes,
                retention_seconds=retention_seconds,
                dead_letter_bytes=dead_letter_bytes,
                serializer=serializer,
                strict=strict,
                disk=disk,
                clock=clock,
            ),
        )
    )


async def _open(open_: Callable[[], SyncLog[Value]]) -> Log[Value]:
    bridge = Bridge()
    try:
        log = await bridge.run(open_, lambda opened: opened.close())
    except BaseException:
        bridge.let_go()
        raise
    return Log(bridge, log)


async def verify(
    path: str | os.PathLike[str], progress: Progress | None = None, *, disk: Disk | None = None
) -> VerifyReport:
    """Read the whole log and say what is lost; as `seglog.verify`. `progress` is called in the thread that reads."""
    return await asyncio.to_thread(verify_sync, path, progress, disk=disk)


async def repair(
    path: str | os.PathLike[str],
    dry_run: bool = False,
    progress: Progress | None = None,
    *,
    file_mode: int = 0o600,
    dead_letter_bytes: int = 64 * MIB,
    disk: Disk | None = None,
    clock: Clock | None = None,
) -> RepairReport:
    """Deal with everything that `verify` finds; as `seglog.repair`. Cancelled, it goes on in its thread.

    `progress` is called in that thread.
    """
    return await asyncio.to_thread(
        repair_sync,
        path,
        dry_run,
        progress,
        file_mode=file_mode,
        dead_letter_bytes=dead_letter_bytes,
        disk=disk,
        clock=clock,
    )
