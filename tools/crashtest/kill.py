"""The layer of real kills: SIGKILL at named points and at random times, of real processes on the real disk.

Shares: `points/PHASE/N` kills once at each site of a phase; N says on which side, and once all sides had their turn, in
which scene and at which visit, with a second kill in what follows now and then. `random/SETTING/SEED` kills processes
that work at random times, again and again on one log. After every kill somebody from outside judges what is left.
"""

from __future__ import annotations

import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from itertools import count

from tools.crashtest import points
from tools.crashtest.campaign import Finding, Tally
from tools.crashtest.kill_disk import SIDES, Target
from tools.crashtest.kill_oracle import damaged, judge, judge_repair
from tools.crashtest.kill_random import SETTINGS, Setting, Siege
from tools.crashtest.killing import Killing, open_descriptors, resident_bytes

SECOND_WITHIN = 15  # operations of an opening, more or less: where the second kill may be
SECOND_SHARE = 0.5
GROWTH_BYTES = 32 << 20
RANDOM_EACH_ROUND = 6  # shares, between two rounds of the points
REPAIR = "repair"


class Kill:
    """The layer. `sabotage` ("module:function") runs in each child first, and breaks seglog there: for tests."""

    unit = "kills"

    def __init__(self, sabotage: str = "") -> None:
        self._sabotage = sabotage

    def shares(self, seed: int) -> Iterator[str]:
        settings = list(SETTINGS)
        for number in count(seed * 10_000):
            yield from (f"points/{phase}/{number}" for phase in points.POINTS)
            for each in range(RANDOM_EACH_ROUND):
                at = number * RANDOM_EACH_ROUND + each
                yield f"random/{settings[at % len(settings)]}/{at}"

    def work(self, share: str) -> Tally:
        """Raises LookupError or ValueError for a share that there is not."""
        kind, name, number = share.split("/")
        if kind == "random":
            return self._counted(share, lambda killing: self._random(killing, SETTINGS[name], share), in_memory=False)
        if kind != "points":
            raise LookupError(kind)
        sites = list(points.sites(name))
        if not sites:
            raise LookupError(name)
        places = []
        for at, site in enumerate(sites, int(number)):
            sides = points.sides(site)
            places.append(f"points/{site}.{sides[at % len(sides)]}/{number}")
        return self._counted(share, lambda killing: self._points(killing, places), in_memory=True)

    def replay(self, place: str) -> Tally:
        kind, name, number = place.split("/")
        if kind == "points" and name in points.points():
            places = [f"points/{name}/{int(number)}"]
            return self._counted(place, lambda killing: self._points(killing, places), in_memory=True)
        return self.work(place)

    def table(self, counts: Counter[str]) -> str:
        """Each named point with its kills."""
        hits = {point: counts[f"at {point}"] for point in points.points()}
        lines = [f"{number:7,}  {point}" for point, number in hits.items()]
        lines.append(f"{counts['random']:7,}  at random times")
        lines.append(f"{sum(hits.values()):7,}  at {len(hits)} named points, {counts['second']:,} of them in recovery")
        lines += [f"NEVER HIT: {point}" for point, number in hits.items() if not number]
        return "\n".join(lines)

    def _counted(self, share: str, run: Callable[[Killing], Iterator[Tally]], *, in_memory: bool) -> Tally:
        """The sum, and whether this process, which judges, holds more at the end than in the beginning."""
        total = Tally()
        before, resident = open_descriptors(), 0
        with closing(Killing(self._sabotage, in_memory=in_memory)) as killing:
            for tally in run(killing):
                total.add(tally)
                resident = resident or resident_bytes()
        if open_descriptors() != before:
            total.findings.append(Finding(share, f"{before} descriptors before, and {open_descriptors()} behind it"))
        if resident_bytes() - resident > GROWTH_BYTES:
            total.findings.append(
                Finding(share, f"{resident} bytes of memory before, and {resident_bytes()} behind it")
            )
        return total

    def _points(self, killing: Killing, places: list[str]) -> Iterator[Tally]:
        for place in places:
            tally = Tally()
            try:
                with killing.directory() as directory:
                    self._point(killing, directory, place, tally.counts)
            except Exception:
                tally.findings.append(Finding(place, f"{traceback.format_exc(limit=-3)}  the log is in {directory}"))
            yield tally

    def _point(self, killing: Killing, directory: str, place: str, counts: Counter[str]) -> None:
        """One kill at a point, perhaps another one behind it, and the judgement."""
        _, name, text = place.split("/")
        site, _, side = name.rpartition(".")
        number = int(text)
        dice = random.Random(place)
        scene_name, nth = visits()[site][0][0], 1
        if number >= len(points.sides(site)):
            scene_name, visited = dice.choice(visits()[site])
            nth = dice.randint(1, visited)
        target, second = Target(site, side, nth), None
        if number >= len(points.sides(site)) and dice.random() < SECOND_SHARE:
            second = Target("", dice.choice(SIDES), dice.randint(1, SECOND_WITHIN))
        if scene_name == REPAIR:
            path = f"{directory}/log"
            damaged(path)
            lives = [killing.lived("repairing", path, each) for each in (target, second) if each]
        else:
            scene = points.scene(scene_name)
            path, begun = killing.begun(scene, directory)
            number = len(scene.before)
            lives = [killing.lived("live", path, scene_name, number, target)]
            if second:
                lives.append(killing.lived("recover", path, scene_name, number + 1, second))
        assert lives[0].dying == name, f"it was to be killed at {name}, and was at {lives[0].dying}"
        for life in lives:
            if life.dying:
                counts.update(["kills", f"at {life.dying}"])
                counts["second"] += life is not lives[0]
        if scene_name == REPAIR:
            judge_repair(path, used_first=dice.random() < 0.5)
        else:
            judge(path, scene.options, [*begun, *lives[0].marks])

    def _random(self, killing: Killing, setting: Setting, place: str) -> Iterator[Tally]:
        tally = Tally()
        siege = None
        try:
            with killing.directory() as directory:
                siege = Siege(killing, f"{directory}/log", setting, place)
                for kills in siege.rounds():
                    tally.counts.update(kills=kills, random=kills)
                    yield tally
                    tally = Tally()
        except Exception:
            tally.findings.append(Finding(place, f"{traceback.format_exc(limit=-3)}  the log is in {directory}"))
        finally:
            if siege is not None:
                siege.close()
                tally.counts["acknowledged"] += siege.oracle.acknowledged
        yield tally


@cache
def visits() -> dict[str, list[tuple[str, int]]]:
    """What the scenes come to when nobody kills them: by site, in which scenes, how often."""
    found: dict[str, list[tuple[str, int]]] = {}
    with closing(Killing(in_memory=True)) as killing:
        for scene in points.SCENES:
            with killing.directory() as directory:
                if scene.name == REPAIR:
                    path = f"{directory}/log"
                    damaged(path)
                    life = killing.lived("repairing", path, None)
                else:
                    path, _ = killing.begun(scene, directory)
                    life = killing.lived("live", path, scene.name, len(scene.before), None)
            for site, times in Counter(life.journal).items():
                found.setdefault(site, []).append((scene.name, times))
    return found


LAYER = Kill()
