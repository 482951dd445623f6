"""Which unsynced effects a crash may leave: the choices that `CrashDisk.images` goes through.

It chooses, and never looks at what the bytes mean; what a choice leaves on the disk says `crash_model`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from seglog.testing.crash_model import SECTOR, Model, Put, Rename, Resize

_T = TypeVar("_T")
_GROWN = 4  # how many sectors of a file's growth come back with something in them
_MOST = 0.8  # of sectors that survive, some way or other, where that is left to chance


class Chance(Protocol):
    """What is asked of a `random.Random`."""

    def random(self) -> float: ...


def sectors(effects: Iterable[Put | Resize]) -> int:
    return len({(effect.node, effect.number) for effect in effects if isinstance(effect, Put)})


def survivals(
    model: Model, rng: Chance, subsets: int, spoil: Sequence[str]
) -> Iterator[tuple[str, str, Sequence[Rename], Sequence[Put | Resize]]]:
    """What survives, with what it is spoilt by and a word on it."""
    for label, names, data in _honest(model, rng, subsets):
        yield "", label, names, data
    for kind in spoil:
        if kind not in ("zeros", "stale"):
            raise ValueError(f"spoil: {kind!r} is neither 'zeros' nor 'stale'")
        for label, data in _spoilt(model, kind, rng, subsets):
            yield kind, f"{label} {kind}, all names", model.moving_names, data


def _spoilt(model: Model, kind: str, rng: Chance, subsets: int) -> Iterator[tuple[str, Sequence[Put | Resize]]]:
    """Sizes survive, and of the unsynced sectors some, or none, come back as something else."""

    def other(put: Put) -> Put:
        return put.spoilt(bytes(SECTOR) if kind == "zeros" else model.foreign(put, rng.random()))

    data = model.latest_data()
    bad = [other(each) if isinstance(each, Put) and not model.has(each) else each for each in data]
    # Who writes what the disk has already changes nothing there, whatever else it does to a sector on its way.
    places = [at for at, each in enumerate(data) if isinstance(each, Put) and not model.has(each)]
    sizes = [effect for effect in data if isinstance(effect, Resize)]
    for number, at in enumerate(places, 1):
        yield f"sector {number} of {len(places)}", [*data[:at], bad[at], *data[at + 1 :]]
    if len(places) > 1:
        yield "all sectors", bad
        for number in range(subsets):
            mixed = [pair[rng.random() < 0.5] for pair in zip(data, bad, strict=True)]
            yield f"subset {number}", [each for each in mixed if isinstance(each, Resize) or rng.random() < _MOST]
    grown = [other(put) for put in model.unwritten(data, _GROWN)] if kind == "stale" else []
    if grown:
        yield "growth, no data,", [*sizes, *grown]
        yield "growth, all data,", [*data, *grown]


def _honest(model: Model, rng: Chance, subsets: int) -> Iterator[tuple[str, Sequence[Rename], Sequence[Put | Resize]]]:
    """Which names and data survive, with a word on it."""
    names, data = model.moving_names, model.moving_data
    for label, some in _choices(model.latest_data()):
        yield f"data {label}, no names", (), some
        yield f"data {label}, all names", names, some
    for number in range(subsets):
        some = _subset(data, rng)
        yield f"data subset {number}, no names", (), some
        yield f"data subset {number}, all names", names, some
    picked = [*_choices(names)]
    if len(names) > 1:
        picked += [(f"subset {number}", _subset(names, rng)) for number in range(subsets)]
    for label, chosen in picked:
        yield f"names {label}, no data", chosen, ()
        yield f"names {label}, all data", chosen, data
        yield f"names {label}, some data", chosen, _subset(data, rng)


def _choices(effects: Sequence[_T]) -> Iterator[tuple[str, Sequence[_T]]]:
    count = len(effects)
    yield "none", ()
    yield "all", effects
    for at in range(count):
        yield f"{at + 1} of {count} alone", effects[at : at + 1]
    for at in range(2, count):
        yield f"first {at} of {count}", effects[:at]
        yield f"last {at} of {count}", effects[-at:]


def _subset(effects: Iterable[_T], rng: Chance) -> list[_T]:
    share = rng.random()  # few survive, or most: both are told apart from half of them
    return [effect for effect in effects if rng.random() < share]
