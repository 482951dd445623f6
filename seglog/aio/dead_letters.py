"""The dead-letter queue as asyncio sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable

from seglog.aio.bridge import Bridge
from seglog.dead_letters import DeadLetters as SyncDeadLetters
from seglog.model import DeadLetter, Gap


class DeadLetters:
    """The dead letters of one log, for the tasks of one event loop; `async for` gives them, oldest first."""

    def __init__(self, bridge: Bridge, letters: SyncDeadLetters) -> None:
        self._bridge = bridge
        self._letters = letters

    def __aiter__(self) -> AsyncIterator[DeadLetter]:
        return self.read()

    def read(self, on_gap: Callable[[Gap], None] | None = None) -> AsyncIterator[DeadLetter]:
        """Iterate over the entries, oldest first; as `seglog.DeadLetters.read`. `on_gap` is called in the loop."""
        return self._bridge.stream(
            lambda tell: self._letters.read(None if on_gap is None else tell),
            lambda letter: len(letter.payload),
            on_gap,
        )

    async def get(self, id: int) -> DeadLetter | None:
        """The entry with this id; None if there never was one, or it was deleted."""
        return await self._bridge.run(lambda: self._letters.get(id))

    async def delete(self, ids: Iterable[int]) -> int:
        """Delete the entries with these `ids` and return how many went; as `seglog.DeadLetters.delete`."""
        kept = ids if isinstance(ids, int) else list(ids)
        return await self._bridge.run(lambda: self._letters.delete(kept))

    async def purge(self, older_than: float | None = None) -> int:
        """Delete all entries, or those that were made more than `older_than` seconds ago; returns how many went."""
        return await self._bridge.run(lambda: self._letters.purge(older_than))

    async def replay(self, ids: Iterable[int], timeout: float | None = None) -> list[int]:
        """Append the payloads of these entries as new records, then delete the entries; returns the new offsets.

        As `seglog.DeadLetters.replay`. Cancelled, it goes on.
        """
        kept = ids if isinstance(ids, int) else list(ids)
        return await self._bridge.run_aside(lambda: self._letters.replay(kept, timeout))

    def __len__(self) -> int:
        """How many entries there are; does not read them."""
        return len(self._letters)

    def __bool__(self) -> bool:
        return True
