"""Processes that work on one log, each killed at a random time, and started anew (see `kill_worker`)."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import seglog
from seglog.verify import verify
from tools.crashtest.kill_oracle import Oracle
from tools.crashtest.kill_worker import CONSUMERS
from tools.crashtest.killing import Killing
from tools.crashtest.zygote import WAIT_SECONDS, Child, wait_for

ROUNDS = 8  # a share
ALONE = ("work",)
SEVERAL = ("write", *CONSUMERS, "compact")


@dataclass(frozen=True)
class Setting:
    """Which processes there are, and the options of the writer."""

    processes: tuple[str, ...] = ALONE
    options: dict[str, Any] = field(default_factory=dict)


SETTINGS = {
    "always": Setting(),
    "several": Setting(SEVERAL),
    "compressed": Setting(options={"compression": "zstd"}),
    "interval": Setting(options={"durability": "interval", "sync_interval": 0.005}),
    "never": Setting(options={"durability": "never"}),
    "several_never": Setting(SEVERAL, {"durability": "never"}),
}


class Siege:
    """The processes, and what they said. The seed decides who is killed and how long each may live."""

    def __init__(self, killing: Killing, directory: str, setting: Setting, seed: str) -> None:
        self.killing, self.directory, self.setting = killing, directory, setting
        self.dice = random.Random(seed)
        self.oracle = Oracle()
        self.children: dict[str, Child] = {}
        self.lives = 0

    def close(self) -> None:
        for child in self.children.values():
            child.close()

    def rounds(self) -> Iterator[int]:
        """After each round, how many were killed in it."""
        if len(self.setting.processes) > 1:
            with seglog.open(self.directory, **self.setting.options) as log:
                for name in CONSUMERS:  # who comes later does not get what was consumed before
                    log.consumer(name)
        for _ in range(ROUNDS):
            for name in self.setting.processes:
                self._begin(name)
            self._listen(self.dice.choice((0, 0, 1, self.dice.randrange(60), self.dice.randrange(200))))
            kills = len(self.children)
            if kills > 1:
                self._kill(self.dice.choice(self.setting.processes))
                kills += self._go_on()
            for name in self.dice.sample(list(self.children), len(self.children)):
                self._kill(name)
            self._judge()
            yield kills

    def _begin(self, name: str) -> None:
        self.lives += 1
        if name in ("work", "write"):
            child = self.killing.start(name, self.directory, self.oracle.next_generation(), self.setting.options)
        elif name == "compact":
            child = self.killing.start("compact_beside", self.directory)
        else:
            child = self.killing.start("consume_beside", self.directory, self.lives, name)
        self.children[name] = child

    def _listen(self, acknowledgements: int) -> None:
        """Until so many appends and acks were answered, and a moment more."""
        written = False
        while acknowledgements > 0:
            children = list(self.children.values())
            said = [child for child in children if child.has_said()]
            assert said or wait_for(children, WAIT_SECONDS), "nobody says anything"
            for child in said:
                line = child.line()
                assert line is not None, "it ended by itself"
                acknowledgements -= self._heard(line)
                written |= line.startswith("a ")
        if written and self.dice.random() < 0.2:
            self._intrude()
        time.sleep(self.dice.random() ** 2 * 0.02)  # not a wait: the moment of the kill is what is varied

    def _intrude(self) -> None:
        """Somebody opens the log while its writer lives."""
        try:
            seglog.open(self.directory).close()
        except seglog.LogLocked:
            return
        raise AssertionError("two writers at once")

    def _heard(self, line: str) -> bool:
        return line != "c" and self.oracle.heard(line)

    def _kill(self, name: str) -> None:
        child = self.children.pop(name)
        child.kill()
        for line in child.lines():
            self._heard(line)
        status = child.wait()
        child.close()
        assert status == -signal.SIGKILL, f"{name} ended by itself, with {status}"
        if name == "write" and self.children:
            # Its last batch may be consumed and reclaimed before anybody here has seen whether it is there.
            self.oracle.batches.clear()
        if os.path.exists(self.directory):  # else it was killed before it began
            report = verify(self.directory)
            assert report.ok, report

    def _go_on(self) -> int:
        """One is dead, and the others do not wait for it; a dead writer has a successor. How many are begun."""
        begun = "write" not in self.children
        if begun:
            self._begin("write")
        self._listen(1 + self.dice.randrange(20))
        return int(begun)

    def _judge(self) -> None:
        """All are dead. Everything that can be asked of the directory, without recovering it, or mostly with."""
        if not os.path.exists(self.directory):
            return
        if self.dice.random() < 0.3 and self.setting.options.get("durability") != "interval":
            # The next process recovers it, and may be killed while it does.
            try:
                with seglog.open(self.directory, "r") as log:
                    self.oracle.check_log(log)
                return
            except seglog.LogNotFound:  # killed in its creation
                assert not self.oracle.names
        with seglog.open(self.directory, **self.setting.options) as log:
            assert (log.report.damage, log.report.missing, log.report.suspect) == ((), (), ()), log.report
            self.oracle.check_log(log)
            self.oracle.settle()
            for name in set(log.consumers()) & set(CONSUMERS):
                self.oracle.check_consumer(name, {message.offset for message in log.consumer(name).unacked()})
        report = verify(self.directory)
        assert report.ok, report
