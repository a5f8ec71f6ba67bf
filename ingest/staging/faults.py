"""What SQLite's errors mean to the person who runs a mirror."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ingest.errors import Stop

DAMAGED_HINT: Final = "restore it from a backup; without one, move it away and sync again"

#: primary result code → what happened, what to do
_MEANINGS: Final[dict[int, tuple[str, str]]] = {
    sqlite3.SQLITE_FULL: (
        "there is no room left for the page log",
        "make room and run again: every staged page is kept",
    ),
    sqlite3.SQLITE_IOERR: (
        "the disk failed under the page log",
        "check the disk, then run again: every staged page is kept",
    ),
    sqlite3.SQLITE_CORRUPT: ("the page log is damaged", DAMAGED_HINT),
    sqlite3.SQLITE_NOTADB: ("the page log is damaged", DAMAGED_HINT),
    sqlite3.SQLITE_BUSY: ("another program keeps the page log locked", "end it, then run again"),
    sqlite3.SQLITE_LOCKED: ("another program keeps the page log locked", "end it, then run again"),
    sqlite3.SQLITE_READONLY: (
        "the page log may not be written",
        "check the rights on the file and its folder",
    ),
    sqlite3.SQLITE_PERM: ("the page log may not be opened", "check the rights on the file and its folder"),
    sqlite3.SQLITE_CANTOPEN: ("the page log cannot be opened", "check the rights on the file and its folder"),
}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise SQLite's errors as Stop, with what to do; the original stays in `__cause__`.

    Errors that are the caller's own (a value SQLite cannot hold, bad SQL) pass as they are.
    """
    try:
        yield
    except sqlite3.Error as error:
        meaning = _MEANINGS.get(primary_code(error))
        if meaning is None:
            raise
        message, hint = meaning
        raise Stop(f"{message} ({error})", where=str(path), hint=hint) from error


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without its extension; 0 for errors that Python raised by itself."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
