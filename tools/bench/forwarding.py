"""Forwarding against the engine's own client: how much of its best batched publish rate is left.

Both send the same records to the same real server, in batches of the same size, by turns; the forwarder also reads them
from the log and makes its acknowledgements durable. Engines whose server is not installed are left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import seglog
from seglog.forward import Forwarder, open_sink
from tools.bench.publishers import PAYLOAD, PUBLISHERS
from tools.bench.rounds import Result, faster
from tools.engines.registry import ENGINES
from tools.engines.server import Engine, running

if TYPE_CHECKING:
    from tools.bench.comparisons import Sizes

BATCH_RECORDS = 500
AT_LEAST = 0.7


def forwarding(directory: Path, sizes: Sizes) -> Iterator[Result]:
    """One line for each engine."""
    for kind in ENGINES:
        if kind.__name__ in sizes.forward_to and not kind.without():
            with running(kind(directory / kind.__name__)) as engine:
                yield _compared(engine, directory / f"{kind.__name__}-log", sizes)


def _compared(engine: Engine, directory: Path, sizes: Sizes) -> Result:
    taken: dict[str, list[float]] = {"seglog": [], "client": []}
    count = sizes.forward_records
    for target in ("ours", "theirs"):
        engine.prepare(target)
    with ExitStack() as ended:
        log = ended.enter_context(seglog.open(directory))
        consumer = ended.enter_context(log.consumer("forward"))
        sink = open_sink(engine.url("ours"))
        ended.callback(getattr(sink, "close", lambda: None))
        publish = ended.enter_context(PUBLISHERS[type(engine)](engine, "theirs"))
        forwarder = Forwarder(consumer, sink, batch_records=BATCH_RECORDS)
        for number in range(sizes.forward_rounds + 1):  # the first is to get warm
            for _ in range(0, count, BATCH_RECORDS):
                log.append_many([PAYLOAD] * BATCH_RECORDS)
            begun = time.perf_counter()
            forwarder.run(once=True)
            between = time.perf_counter()
            for first in range(number * count, (number + 1) * count, BATCH_RECORDS):
                publish(first, BATCH_RECORDS)
            if number:
                taken["seglog"].append(between - begun)
                taken["client"].append(time.perf_counter() - between)
    return faster(f"forward to {engine.name}", taken, "seglog", "client", AT_LEAST)
