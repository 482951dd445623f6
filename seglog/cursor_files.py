"""What the cursor files of a log say, for those who open none of their consumers (FORMAT.md §7.3)."""

from __future__ import annotations

from seglog.disk.base import Directory
from seglog.format import layout as L
from seglog.format.cursor_state import CursorState, decode_cursor
from seglog.format.names import CURSOR_SUFFIX
from seglog.slot_file import SlotFile


def read_cursors(cursors: Directory, log_id: bytes | None = None) -> dict[str, CursorState | None]:
    """Every cursor file's state by consumer name; None where it does not read back, or is another log's."""
    found: dict[str, CursorState | None] = {}
    for entry in cursors.list():
        name = entry.removesuffix(CURSOR_SUFFIX)
        if name == entry:
            continue
        try:
            file = cursors.open(entry)
        except FileNotFoundError:
            continue  # removed since it was listed
        try:
            slots = SlotFile(file, kind=L.KIND_CURSOR, log_id=log_id or bytes(16), slot_bytes=L.CURSOR_SLOT_BYTES)
            payload = slots.load()
            ours = log_id is None or slots.log_id == log_id
            state = decode_cursor(payload) if payload is not None and ours else None
        except ValueError:
            state = None
        finally:
            file.close()
        found[name] = state if state is not None and state.name == name else None
    return found
