"""Real SIGKILLs, many on one directory. The oracle lives outside the process that is killed."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import seglog
from tests.support.process import open_descriptors, resident_bytes
from tools.crashtest.kill_oracle import Oracle
from tools.crashtest.kill_worker import CONSUMERS, payload
from tools.crashtest.zygote import Start

DEEP = int(os.environ.get("SEGLOG_DEEP", "1"))
WARM_UP = 5  # kills until memory and descriptors must not grow any more


@pytest.mark.slow
@pytest.mark.timeout(120 * DEEP)
@pytest.mark.parametrize(
    ("kills", "options"),
    [
        pytest.param(130, {}, id="always"),
        pytest.param(40, {"compression": "zstd"}, id="compressed"),
        pytest.param(15, {"durability": "interval", "sync_interval": 0.005}, id="interval"),
        pytest.param(15, {"durability": "never"}, id="never"),
    ],
)
def test_p1_p2_p3_p4_p5_nothing_acknowledged_is_lost_to_sigkill(
    start: Start, tmp_path: Path, kills: int, options: dict[str, Any]
) -> None:
    directory = str(tmp_path / "log")
    dice = random.Random(f"kill {sorted(options)}")
    oracle = Oracle()
    lines_before_death = 0
    before: tuple[int, int] | None = None
    for kill in range(kills * DEEP):
        child = start("tools.crashtest.kill_worker:work", directory, oracle.next_generation(), options)
        acknowledgements = dice.choice((0, 0, 1, dice.randrange(60), dice.randrange(200)))
        while acknowledgements > 0:
            line = child.line()
            assert line is not None, "it ended by itself"
            acknowledgements -= oracle.heard(line)
        time.sleep(dice.random() ** 2 * 0.02)  # not a wait: the moment of the kill is what is varied
        child.kill()
        for line in child.lines():
            oracle.heard(line)
            lines_before_death += 1
        assert child.wait() == -signal.SIGKILL
        child.close()
        check(directory, oracle, dice, options)
        if kill == WARM_UP:
            before = open_descriptors(), resident_bytes()
    assert lines_before_death > 0, "no kill met a process that was at work"
    assert oracle.acknowledged > 10 * kills
    assert before is not None
    assert open_descriptors() == before[0]
    assert resident_bytes() - before[1] < 32 << 20


def check(directory: str, oracle: Oracle, dice: random.Random, options: dict[str, Any]) -> None:
    """Everything that can be asked of the directory, without repairing it and then, mostly, with."""
    if not os.path.exists(directory):
        return  # killed before it began
    report = seglog.verify(directory)
    assert report.ok, report
    if dice.random() < 0.3 and report.segments and options.get("durability") != "interval":
        # Not recovered by us: the next process does that, and may be killed while it does.
        with seglog.open(directory, "r") as log:
            oracle.check_log(log)
        return
    with seglog.open(directory, **options) as log:
        assert not log.report.damage
        assert not log.report.missing
        assert not log.report.suspect
        oracle.check_log(log)
        oracle.settle()
        for name in set(log.consumers()) & set(CONSUMERS):
            oracle.check_consumer(name, {message.offset for message in log.consumer(name).unacked()})
    assert seglog.verify(directory).ok


def test_the_oracle_notices_what_is_lost_invented_reused_or_handled_twice() -> None:
    def oracle(*lines: str) -> Oracle:
        made = Oracle()
        made.next_generation()
        for line in lines:
            made.heard(line)
        return made

    submitted, acknowledged = "s single 0 2", "a single 0 2 0"
    with seglog.open(":memory:") as log, log.consumer("fast") as consumer:
        with pytest.raises(AssertionError, match="lost"):
            oracle(submitted, acknowledged).check_log(log)
        log.append_many([payload(1, "single", 0), payload(1, "single", 1)])
        oracle(submitted, acknowledged).check_log(log)
        oracle(submitted).check_log(log)
        with pytest.raises(AssertionError, match="not submitted"):
            oracle().check_log(log)
        with pytest.raises(AssertionError, match=r"given out before|was"):
            oracle("s many 0 1", "a many 0 1 1", submitted).check_log(log)
        with pytest.raises(AssertionError, match="come again"):
            oracle(submitted, acknowledged, "i fast 0", "d fast 0").check_consumer("fast", {0, 1})
        consumer.ack(0)
        with pytest.raises(AssertionError, match="ahead"):
            oracle(submitted, acknowledged).check_log(log)
        with pytest.raises(AssertionError, match="do not come"):
            oracle(submitted, acknowledged).check_consumer("fast", {1})
        oracle(submitted, acknowledged, "i fast 0").check_consumer("fast", {1})
