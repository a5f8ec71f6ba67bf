"""One writer: a lock with an epoch, in the ledger.

A run takes the lock and counts the epoch up. Every write transaction asks for the epoch first, and keeps
others from changing it until it ends, so a suspended holder that wakes after a take-over cannot write. Where
a database knows which sessions live, the session's own hold says whether a holder does; elsewhere its
process. The lock of a holder that is gone is taken over without a word.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import sqlalchemy as sa

from ingest.engines.base import Engine
from ingest.errors import LockHeld
from ingest.ledger import LOCK

_THE_LOCK = LOCK.c.id == 1


def acquire(connection: sa.Connection, engine: Engine, *, since: str) -> int:
    """Take the lock and return its epoch; LockHeld when somebody living has it."""
    alone = claim(connection, engine)
    row = connection.execute(sa.select(LOCK).where(_THE_LOCK).with_for_update()).first()
    if row is None:
        connection.execute(sa.insert(LOCK).values(id=1, epoch=1, holder=_me(), since=since))
        return 1
    if not alone and row.holder is not None and row.holder != _me() and _lives(row.holder):
        raise _held(row)
    epoch: int = row.epoch + 1
    connection.execute(sa.update(LOCK).where(_THE_LOCK).values(epoch=epoch, holder=_me(), since=since))
    return epoch


def claim(connection: sa.Connection, engine: Engine) -> bool:
    """Take the session's hold: True when no other session can be a holder. LockHeld when one is."""
    alone = engine.hold(connection)
    if alone is False:
        there = sa.inspect(connection).has_table(LOCK.name)
        raise _held(connection.execute(sa.select(LOCK).where(_THE_LOCK)).first() if there else None)
    return alone is True


def _held(row: sa.Row[Any] | None) -> LockHeld:
    who = f" ({row.holder})" if row is not None and row.holder else ""
    when = f" since {row.since}" if row is not None and row.since else ""
    return LockHeld(
        f"another run{who} is writing to this database{when}", hint="wait for it to end, or stop it"
    )


def check(connection: sa.Connection, epoch: int) -> None:
    """LockHeld when somebody took the lock over since it was acquired."""
    held = connection.execute(sa.select(LOCK).where(_THE_LOCK).with_for_update()).first()
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
