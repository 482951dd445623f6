"""What people use instead, behind one small face; and the child process that writes to it or reads from it.

Each setting is used as its documentation says. `write` says each acknowledgement: the number of a record, once the call
that stores it has returned. `open` gives what takes the next record, None at the end; it may raise, and so may the
taking: then the next one is tried. As a program: `write STORE COUNT DIR` (left as a kill leaves it), `close STORE COUNT
DIR` (closed as its documentation says), `read STORE COUNT DIR…`.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, NamedTuple

Writer = tuple[Callable[[bytes], object], Callable[[], object]]  # stores one record; closes
Take = Callable[[], bytes | str | None]
ERRORS_MAX = 3  # in a row: then nothing more comes
SPACE_MAX = 1 << 30


class Store(NamedTuple):
    """One row of the table. `module`: what must be installed."""

    name: str
    setting: str
    module: str
    put: Callable[[str], Writer]
    open: Callable[[str, int], Take]


def payload(number: int) -> bytes:
    """Text, as one of the stores takes nothing else; no two alike."""
    return b"%08d " % number + hashlib.sha256(b"%d" % number).hexdigest().encode()


# -- seglog


def seglog_put(directory: str) -> Writer:
    import seglog

    log = seglog.open(f"{directory}/log")
    return log.append, log.close


def seglog_open(directory: str, _count: int) -> Take:
    import seglog

    messages = seglog.open(f"{directory}/log").read(on_gap=lambda gap: None)
    return lambda: message.payload if (message := next(messages, None)) is not None else None


# -- SQLite: a table and one transaction a record


def sqlite_opened(directory: str, *pragmas: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{directory}/log.db")
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def sqlite_put(*pragmas: str) -> Callable[[str], Writer]:
    def put(directory: str) -> Writer:
        connection = sqlite_opened(directory, *pragmas)
        connection.execute("CREATE TABLE IF NOT EXISTS log (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        connection.commit()

        def one(body: bytes) -> None:
            with connection:
                connection.execute("INSERT INTO log (body) VALUES (?)", (body,))

        return one, connection.close

    return put


def sqlite_read(*pragmas: str) -> Callable[[str, int], Take]:
    def opened(directory: str, count: int) -> Take:
        connection = sqlite_opened(directory, *pragmas)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        return every_row(connection, range(1, count + 1))

    return opened


def every_row(connection: sqlite3.Connection, ids: Iterator[int] | range) -> Take:
    """Each by its key: more comes out of a damaged file than by reading it in one go."""
    left = iter(ids)

    def take() -> Any:
        for id in left:
            with suppress(sqlite3.DatabaseError):
                row = connection.execute("SELECT body FROM log WHERE id = ?", (id,)).fetchone()
                if row is not None:
                    return row[0]
        return None

    return take


# -- the queues


def persist_queue(directory: str, *, safest: bool) -> Any:
    import persistqueue

    return persistqueue.SQLiteQueue(directory, auto_commit=True) if safest else persistqueue.Queue(directory)


def persist_put(directory: str, *, safest: bool) -> Writer:
    queue = persist_queue(directory, safest=safest)
    return queue.put, getattr(queue, "close", lambda: None)  # Queue of older versions has none


def persist_take(directory: str, *, safest: bool) -> Take:
    from persistqueue.exceptions import Empty

    queue = persist_queue(directory, safest=safest)

    def take() -> Any:
        try:
            return queue.get(block=False)
        except Empty:
            return None

    return take


def queuelib_queue(directory: str, *, safest: bool) -> Any:
    import queuelib
    from queuelib.queue import FifoSQLiteQueue

    return FifoSQLiteQueue(f"{directory}/queue.db") if safest else queuelib.FifoDiskQueue(f"{directory}/queue")


def queuelib_put(directory: str, *, safest: bool) -> Writer:
    queue = queuelib_queue(directory, safest=safest)
    return queue.push, queue.close


def diskcache_deque(directory: str, *, safest: bool) -> Any:
    import diskcache

    if not safest:
        return diskcache.Deque(directory=directory)
    return diskcache.Deque.fromcache(diskcache.Cache(directory, eviction_policy="none", sqlite_synchronous=2))


def diskcache_put(directory: str, *, safest: bool) -> Writer:
    deque = diskcache_deque(directory, safest=safest)
    return deque.append, deque.cache.close


def diskcache_take(directory: str, *, safest: bool) -> Take:
    deque = diskcache_deque(directory, safest=safest)

    def take() -> Any:
        try:
            return deque.popleft()
        except IndexError:
            return None

    return take


def litequeue_queue(directory: str, *, safest: bool) -> Any:
    from litequeue import LiteQueue

    queue = LiteQueue(f"{directory}/queue.db")
    if safest:
        queue.conn.execute("PRAGMA synchronous = FULL")
    return queue


def litequeue_put(directory: str, *, safest: bool) -> Writer:
    queue = litequeue_queue(directory, safest=safest)
    return lambda body: queue.put(body.decode()), queue.close


def litequeue_take(directory: str, *, safest: bool) -> Take:
    queue = litequeue_queue(directory, safest=safest)
    return lambda: message.data if (message := queue.pop()) is not None else None


def pair(name: str, module: str, settings: tuple[str, str], put: Any, take: Any) -> list[Store]:
    """A queue at its defaults and at its safest."""
    return [
        Store(
            name,
            setting,
            module,
            lambda directory, safest=safest: put(directory, safest=safest),  # type: ignore[misc]
            lambda directory, _count, safest=safest: take(directory, safest=safest),  # type: ignore[misc]
        )
        for setting, safest in zip(settings, (False, True), strict=True)
    ]


def sqlite(setting: str, *pragmas: str) -> Store:
    return Store("SQLite", setting, "sqlite3", sqlite_put(*pragmas), sqlite_read(*pragmas))


STORES = {
    f"{store.name}:{store.setting}": store
    for store in (
        Store("seglog", "defaults (nothing is safer)", "seglog", seglog_put, seglog_open),
        sqlite("defaults (rollback journal, synchronous=FULL)"),
        sqlite("WAL, synchronous=NORMAL", "journal_mode=WAL", "synchronous=NORMAL"),
        sqlite("WAL, synchronous=FULL", "journal_mode=WAL", "synchronous=FULL"),
        sqlite("safest (DELETE, synchronous=EXTRA)", "journal_mode=DELETE", "synchronous=EXTRA"),
        *pair("persist-queue", "persistqueue", ("defaults (Queue)", "safest (SQLiteQueue)"), persist_put, persist_take),
        *pair(
            "queuelib",
            "queuelib",
            ("defaults (FifoDiskQueue)", "safest (FifoSQLiteQueue)"),
            queuelib_put,
            lambda directory, safest: queuelib_queue(directory, safest=safest).pop,
        ),
        *pair(
            "diskcache",
            "diskcache",
            ("defaults (Deque)", "safest (Deque, synchronous=FULL)"),
            diskcache_put,
            diskcache_take,
        ),
        *pair(
            "litequeue",
            "litequeue",
            ("defaults (LiteQueue)", "safest (synchronous=FULL)"),
            litequeue_put,
            litequeue_take,
        ),
    )
}


def installed(store: Store) -> bool:
    return find_spec(store.module) is not None


# -- the child process


def write(store: Store, directory: str, count: int, *, closes: bool) -> None:
    put, close = store.put(directory)
    for number in range(count):
        put(payload(number))
        os.write(1, b"%d\n" % number)
    if closes:
        close()
    os._exit(0)  # nobody else closes anything


def read(store: Store, directory: str, count: int) -> dict[str, Any]:
    """Which records come out, how many others came out, and whether it opened at all."""
    got, wrong, errors = set[int](), 0, 0
    known = {payload(number): number for number in range(count)}
    try:
        take = store.open(directory, count)
    except Exception as error:
        return {"got": [], "wrong": 0, "opened": False, "error": f"{type(error).__name__}: {error}"[:200]}
    told = ""
    for _ in range(4 * count):
        try:
            item: object = take()
        except Exception as error:
            told = f"{type(error).__name__}: {error}"[:200]
            errors += 1
            if errors == ERRORS_MAX:
                break
            continue
        errors = 0
        if item is None:
            break
        number = known.get(item.encode() if isinstance(item, str) else item) if isinstance(item, str | bytes) else None
        if number is None:
            wrong += 1
        else:
            got.add(number)
    return {"got": sorted(got), "wrong": wrong, "opened": bool(got or not told), "error": told}


def main(arguments: list[str]) -> None:
    what, name, count, *directories = arguments
    resource.setrlimit(resource.RLIMIT_AS, (SPACE_MAX, resource.getrlimit(resource.RLIMIT_AS)[1]))
    store = STORES[name]
    if what in ("write", "close"):
        write(store, directories[0], int(count), closes=what == "close")
    for directory in directories:
        print(json.dumps(read(store, directory, int(count))), flush=True)
    os._exit(0)  # some of them write when they are closed


if __name__ == "__main__":
    main(sys.argv[1:])
