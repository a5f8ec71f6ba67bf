"""One writer: a lock with an epoch, in the ledger.

A run takes the lock and counts the epoch up. Every write transaction asks for the epoch first, so a
suspended holder that wakes after a take-over cannot write. The lock of a process that is gone is taken
over without a word.
"""

from __future__ import annotations

import os
import socket

import sqlalchemy as sa

from ingest.errors import LockHeld
from ingest.ledger import LOCK

_THE_LOCK = LOCK.c.id == 1


def acquire(connection: sa.Connection, *, since: str) -> int:
    """Take the lock and return its epoch; LockHeld when a living process has it."""
    row = connection.execute(sa.select(LOCK).where(_THE_LOCK)).first()
    if row is None:
        connection.execute(sa.insert(LOCK).values(id=1, epoch=1, holder=_me(), since=since))
        return 1
    if row.holder is not None and row.holder != _me() and _lives(row.holder):
        raise LockHeld(
            f"another run ({row.holder}) is writing to this database since {row.since}",
            hint="wait for it to end, or stop it",
        )
    epoch: int = row.epoch + 1
    connection.execute(sa.update(LOCK).where(_THE_LOCK).values(epoch=epoch, holder=_me(), since=since))
    return epoch


def check(connection: sa.Connection, epoch: int) -> None:
    """LockHeld when somebody took the lock over since it was acquired."""
    held = connection.execute(sa.select(LOCK.c.epoch, LOCK.c.holder, LOCK.c.since).where(_THE_LOCK)).first()
    if held is None or held.epoch != epoch:
        by = f"{held.holder} since {held.since}" if held else "nobody"
        raise LockHeld(
            f"the lock was taken over by {by}", hint="this run writes nothing more; what is staged is kept"
        )


def release(connection: sa.Connection, epoch: int) -> None:
    """Let go, if it is still ours."""
    connection.execute(
        sa.update(LOCK).where(_THE_LOCK, LOCK.c.epoch == epoch).values(holder=None, since=None)
    )


def _me() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _lives(holder: str) -> bool:
    host, _, pid = holder.rpartition(":")
    if host != socket.gethostname():
        return True  # nobody here can tell; a person must
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
