"""Who was promised what, and what arrived. Kept by the demo itself, outside of every process that it kills."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Balance:
    """The account, settled. All but `written_twice` count events; `delivered_twice`: same offset, more than once.

    `written_twice` counts events that the writer appended again because it was killed before it heard that they
    were in; under another offset, so that the far end can tell them from a second delivery.
    """

    acknowledged: int
    delivered: int
    delivered_twice: int
    written_twice: int
    unaccounted: int
    altered: int
    out_of_order: int
    offsets_reused: int


class Account:
    """Filled while the demo runs: acknowledgements from the writer's pipe, deliveries from the collector's file."""

    def __init__(self, events: list[bytes], received: Path) -> None:
        self.events = events
        self.acknowledged: list[int] = []  # offset of each event, by its number: the writer goes in order
        self.records: dict[int, bytes] = {}  # offset -> what the collector got first
        self._received = received
        self._read_to = 0
        self._again: set[int] = set()
        self._out_of_order = 0
        self._altered = 0
        self._highest = -1

    def acknowledge(self, line: str) -> None:
        """One line of the writer's: the batch of events that it says is durable."""
        first, count, offset = map(int, line.split())
        if first != len(self.acknowledged):
            raise ValueError(f"the writer went from event {len(self.acknowledged)} to {first}")
        self.acknowledged.extend(range(offset, offset + count))

    def read_deliveries(self) -> None:
        """Go on in the collector's file; a line that is not whole yet waits for the next call."""
        if not self._received.exists():
            return
        with self._received.open("rb") as file:
            file.seek(self._read_to)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            number, _, record = line.partition(b"\t")
            self._deliver(int(number), record)

    def _deliver(self, offset: int, record: bytes) -> None:
        if offset in self.records:
            self._again.add(offset)
            self._altered += self.records[offset] != record
            return
        self._out_of_order += offset < self._highest
        self._highest = max(offset, self._highest)
        self.records[offset] = record

    def everything_arrived(self) -> bool:
        return all(offset in self.records for offset in self.acknowledged)

    def balance(self) -> Balance:
        number_of = {event: number for number, event in enumerate(self.events)}
        promised = set(self.acknowledged)
        delivered = sum(
            self.records.get(offset) == self.events[number] for number, offset in enumerate(self.acknowledged)
        )
        return Balance(
            acknowledged=len(self.acknowledged),
            delivered=delivered,
            delivered_twice=len(self._again),
            written_twice=sum(
                record in number_of and offset not in promised for offset, record in self.records.items()
            ),
            unaccounted=len(self.acknowledged) - delivered,
            altered=self._altered + sum(record not in number_of for record in self.records.values()),
            out_of_order=self._out_of_order,
            offsets_reused=len(self.acknowledged) - len(promised),
        )
