"""The processes that the comparisons start: one that writes until it is killed, one that drains and says its memory.

python child.py write DIR RECORDS BATCH    writes, says "ready", goes on one by one until it is killed
python child.py drain DIR CONSUMER BATCH   drains with durable acks, prints its records and its peak memory in KiB
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import seglog

PAYLOAD = b"x" * 200


def write(directory: str, records: int, batch: int) -> None:
    log = seglog.open(directory)
    while records > 0:
        log.append_many([PAYLOAD] * min(batch, records))
        records -= batch
    print("ready", flush=True)
    for _ in range(1_000_000):  # nobody comes to kill it: then it ends by itself
        log.append(PAYLOAD)


def drain(directory: str, name: str, batch: int) -> None:
    count = 0
    with seglog.open(directory) as log, log.consumer(name) as consumer:
        while messages := consumer.receive_many(batch):
            consumer.ack(*messages)
            count += len(messages)
    print(count, peak_kib())


def peak_kib() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss there counts the parent too, from before the exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


if __name__ == "__main__":
    match sys.argv[1:]:
        case "write", directory, records, batch:
            write(directory, int(records), int(batch))
        case "drain", directory, name, batch:
            drain(directory, name, int(batch))
        case _:
            sys.exit(__doc__)
