"""What the layer of kills works with: a helper that forks, a directory for logs, and processes that live a scene."""

from __future__ import annotations

import ast
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.crashtest.history import Mark
from tools.crashtest.points import Scene
from tools.crashtest.zygote import Child, Zygote

MEMORY = "/dev/shm"  # mkdtemp makes a name of its own in it
WORKER = "tools.crashtest.kill_worker"


class Life:
    """What a process said that lived a scene, or a part of one."""

    def __init__(self, child: Child) -> None:
        self.marks: list[Mark] = []
        self.journal: list[str] = []
        self.dying = ""  # the point at which it was killed
        for line in child.lines():
            word, _, rest = line.partition(" ")
            match word:
                case "mark":
                    self.marks.append(ast.literal_eval(rest))
                case "lived":
                    self.journal = rest.split()
                case "dying":
                    self.dying = rest
        status = child.wait()
        assert status == (-signal.SIGKILL if self.dying else 0), f"it ended with {status}"


class Killing:
    """For as long as a share takes.

    `in_memory`: on a file system in memory, if there is one. A kill takes nothing from the page cache, so where no time
    is measured the disk only makes it slow.
    """

    def __init__(self, sabotage: str = "", *, in_memory: bool = False) -> None:
        self._sabotage = sabotage
        self._zygote = Zygote()
        somewhere = MEMORY if in_memory and os.access(MEMORY, os.W_OK) else None
        self._place = tempfile.mkdtemp(prefix="seglog-kill-", dir=somewhere)
        self._made = 0
        self._begun: dict[str, tuple[str, list[Mark]]] = {}

    def close(self) -> None:
        self._zygote.close()
        for template, _ in self._begun.values():
            shutil.rmtree(template)
        if not os.listdir(self._place):  # else there is evidence in it
            os.rmdir(self._place)

    def start(self, function: str, *arguments: Any) -> Child:
        """Start a function of the worker in a process of its own."""
        name = f"{WORKER}:{function}"
        if self._sabotage:
            return self._zygote.start(self._sabotage, name, *arguments)
        return self._zygote.start(name, *arguments)

    def lived(self, function: str, *arguments: Any) -> Life:
        """Let a process live until it is killed, or ends."""
        child = self.start(function, *arguments)
        try:
            return Life(child)
        finally:
            child.close()

    @contextmanager
    def directory(self) -> Iterator[str]:
        """A place for a log; after an error it stays."""
        self._made += 1
        made = os.path.join(self._place, str(self._made))
        os.mkdir(made)
        evidence = False
        try:
            yield made
        except Exception:
            evidence = True
            raise
        finally:
            if not evidence:
                shutil.rmtree(made)

    def begun(self, scene: Scene, directory: str) -> tuple[str, list[Mark]]:
        """The path of a log on which all but the last process of a scene have lived, and what they said."""
        path = os.path.join(directory, scene.below or "log")
        if not scene.before:
            return path, []
        if scene.name not in self._begun:
            template = os.path.join(self._place, scene.name)
            marks = []
            for number, before in enumerate(scene.before):
                life = self.lived("live", template, scene.name, number, before.target)
                assert bool(life.dying) == bool(before.target), f"{scene.name}: its past is not as it was"
                marks += life.marks
            self._begun[scene.name] = template, marks
        template, marks = self._begun[scene.name]
        shutil.copytree(template, path)
        return path, marks


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def resident_bytes() -> int:
    """Memory of this process now (where that is not told: the most it ever had)."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
