"""Under durability "interval": the thread that syncs what was written, at most so many seconds after it was.

It knows the appender and the group commit, not the log: a log that nobody closes can still be collected, and warns.
"""

from __future__ import annotations

import logging
import threading

from seglog.appender import Appender
from seglog.errors import SeglogError
from seglog.group_commit import GroupCommit

logger = logging.getLogger("seglog")


class Syncer:
    """Started by the first append; ends at `stop`, or with the first sync that fails."""

    def __init__(self, appender: Appender, commits: GroupCommit, interval: float) -> None:
        self._appender = appender
        self._commits = commits
        self._interval = interval
        self._stop = threading.Event()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Once; costs nothing after that."""
        if self._thread is None:
            with self._start_lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="seglog-sync", daemon=True)
                    self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                if self._appender.written != self._appender.seen:
                    self._commits.exclusively(self._appender.sync_written)
            except SeglogError as error:
                logger.error("syncing stops: %s", error)
                return
