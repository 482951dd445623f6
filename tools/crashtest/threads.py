"""Threads of one program are stopped and let go in chosen orders: with up to two pre-emptions in all, then by chance.

A share is `scenario/N`: the schedules that leave the straight one at its N-th choice, or `scenario/chance/N`: with
priorities and more changes of mind, by seed N. A place lists the choices that were not the first: `scenario/12:1,40:2`.
"""

from __future__ import annotations

import gc
import logging
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tools.crashtest.campaign import FINDINGS_MAX, Finding, Tally
from tools.crashtest.history import Broken
from tools.crashtest.scenarios import SCENARIOS, World
from tools.crashtest.scheduler import Scheduler, Stuck, Task

PREEMPTIONS = 2
SCHEDULES_MAX = 1000  # of one share; what is beyond is drawn by lot
CHANCES = 100  # schedules of one share that is left to chance
CHANGES = 4  # of priority, in each of them
Plan = dict[int, int]  # at which choice another than the first was taken


@dataclass(frozen=True)
class Choice:
    """What could be chosen, and whether the first could have gone on."""

    count: int
    free: bool


class Planned:
    """Chooses as planned, and otherwise lets go on who runs."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.choices: list[Choice] = []
        self.met = 0  # choices that were there

    def __call__(self, able: list[Task], goes_on: bool) -> int:
        chosen = self.plan.get(len(self.choices), 0)
        self.choices.append(Choice(len(able), not goes_on))
        if chosen < len(able):
            self.met += 1
            return chosen
        return 0


class Chance:
    """The highest priority runs; at a few random points whoever runs gets the lowest (as PCT does it)."""

    def __init__(self, seed: str, length: int) -> None:
        rng = random.Random(seed)
        self._changes = set(rng.sample(range(max(length, CHANGES)), CHANGES))
        self._rng = rng
        self._priorities: dict[int, float] = {}
        self.plan: Plan = {}
        self._met = 0

    def __call__(self, able: list[Task], goes_on: bool) -> int:
        for task in able:
            self._priorities.setdefault(task.number, self._rng.random())
        if self._met in self._changes:
            self._priorities[able[0].number] = -self._met
        chosen = max(range(len(able)), key=lambda at: self._priorities[able[at].number])
        if chosen:
            self.plan[self._met] = chosen
        self._met += 1
        return chosen


def tried(name: str, choose: Planned | Chance) -> str:
    """Run a scenario in that order; what was wrong."""
    scenario = SCENARIOS[name]
    scheduler = Scheduler(choose)
    logger = logging.getLogger("seglog")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    worlds: dict[int, World] = {}
    gc.disable()  # what it finalizes would be a matter of luck
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            scheduler.run(lambda: scenario.run(worlds.setdefault(0, World(scheduler, scenario.start()))))
        if scheduler.vain and scenario.patient:
            return f"{', '.join(scheduler.vain)} waited in vain: only its timeout woke it"
    except (Broken, Stuck) as broken:
        return str(broken)[:1000]
    finally:
        for world in worlds.values():
            world.leave()
        gc.enable()
        logger.setLevel(level)
    return ""


def _place(name: str, plan: Plan) -> str:
    return f"{name}/" + (",".join(f"{at}:{chosen}" for at, chosen in sorted(plan.items())) or "straight")


class Threads:
    """The layer; see the module."""

    unit = "schedules"

    def shares(self, seed: int) -> Iterator[str]:
        """Each scenario's early choices first, as all have some; then chance, without end."""
        lengths = {name: len(straight(name)) for name in SCENARIOS}
        for number in range(max(lengths.values())):
            for name, length in lengths.items():
                if number < length:
                    yield f"{name}/{number}"
        while True:
            for name in SCENARIOS:
                yield f"{name}/chance/{seed}"
            seed += 1

    def work(self, share: str, most: int = SCHEDULES_MAX) -> Tally:
        """`most`: how many schedules; what is beyond is drawn by lot."""
        tally = Tally()
        name, *rest = share.split("/")
        if rest[0] == "chance":
            length = len(straight(name))
            for number in range(min(CHANCES, most)):
                chance = Chance(f"{share}/{number}", length)
                self._note(tally, name, chance.plan, tried(name, chance))
        else:
            self._explore(tally, name, int(rest[0]), most)
        gc.collect()
        return tally

    def _explore(self, tally: Tally, name: str, first: int, most: int) -> None:
        """Depth first by the number of pre-emptions: those with fewer come before those with more."""
        lots = random.Random(f"{name}/{first}")
        waiting: list[list[Plan]] = [[] for _ in range(PREEMPTIONS + 1)]
        choices = straight(name)
        if first >= len(choices):
            raise LookupError(f"{name} has {len(choices)} choices")
        if first == 0:
            waiting[0].append({})
        _branch(waiting, {}, 0, choices, range(first, first + 1))
        done = 0
        for cost, plans in enumerate(waiting):
            while plans and done < most and len(tally.findings) < FINDINGS_MAX:
                at = lots.randrange(len(plans))
                plans[at], plans[-1] = plans[-1], plans[at]
                plan = plans.pop()
                planned = Planned(plan)
                self._note(tally, name, plan, tried(name, planned))
                done += 1
                tally.counts[f"{cost} pre-emptions"] += 1
                if plan:
                    _branch(waiting, plan, cost, planned.choices, range(max(plan) + 1, len(planned.choices)))
        tally.counts["left out"] += sum(map(len, waiting))

    def _note(self, tally: Tally, name: str, plan: Plan, what: str) -> None:
        tally.counts["schedules"] += 1
        tally.counts[f"in {name}"] += 1
        if what:
            tally.findings.append(Finding(_place(name, plan), f"{name}: {what}"))

    def replay(self, place: str) -> Tally:
        name, choices = place.split("/")
        if name not in SCENARIOS:
            raise LookupError(place)
        pairs = [] if choices == "straight" else [pair.split(":") for pair in choices.split(",")]
        plan = {int(at): int(chosen) for at, chosen in pairs}
        tally = Tally()
        planned = Planned(plan)
        self._note(tally, name, plan, tried(name, planned))
        if planned.met < len(planned.choices) or max(plan, default=0) >= len(planned.choices):
            raise LookupError("threads meet elsewhere now")
        return tally

    def table(self, counts: Counter[str]) -> str:
        names = sorted(name for name in counts if name.startswith("in "))
        costs = [f"{cost} pre-emptions" for cost in range(PREEMPTIONS + 1)]
        return "\n".join(f"{counts[name]:>10,} {name}" for name in [*names, *costs, "left out"])


def straight(name: str) -> list[Choice]:
    """The choices of the schedule in which everybody goes on as long as they can."""
    planned = Planned({})
    tried(name, planned)
    return planned.choices


def _branch(waiting: list[list[Plan]], plan: Plan, cost: int, choices: list[Choice], points: range) -> None:
    for at in points:
        spent = cost if choices[at].free else cost + 1
        if spent <= PREEMPTIONS:
            waiting[spent] += [{**plan, at: chosen} for chosen in range(1, choices[at].count)]


LAYER = Threads()
