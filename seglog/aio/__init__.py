"""seglog for asyncio: the same names, methods awaited, `async for` where there was `for`.

async with seglog.aio.open("spool") as log:
    await log.append(b"an event")                 # returns when it is on disk; many tasks share a sync
    async with log.consumer("uploader") as c:
        async for message in c.drain():
            await c.ack(message)                  # handled, whatever happens next

Nothing here blocks the event loop: whatever waits for the disk does so in threads that belong to the log. Objects
belong to the loop they were made in. Properties and `len` are plain, and cost a look at memory or a small file.

Cancellation is safe at every await. A cancelled `receive` gives its message back; a cancelled `ack`, `append` or
other change has happened or has not, and of an append a `Ticket` tells which (see `Log.submit`).
"""

from seglog.aio.consumer import Consumer
from seglog.aio.dead_letters import DeadLetters
from seglog.aio.log import Log
from seglog.aio.open_log import open_log as open
from seglog.aio.open_log import repair, verify
from seglog.aio.ticket import Ticket

__all__ = ["Consumer", "DeadLetters", "Log", "Ticket", "open", "repair", "verify"]
