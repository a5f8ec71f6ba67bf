"""One writer: who may take the lock, and what a holder that lost it may still do."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest import lock
from ingest.catalog import read_catalog
from ingest.database import Database
from ingest.engines import engine_for
from ingest.errors import LockHeld
from ingest.ledger import LEDGER, LOCK, TOUCHED
from ingest.window import Window, close_window, open_window, window


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    engine = engine_for(f"sqlite:///{tmp_path / 'mirror.db'}")
    await engine.create()
    async with engine.writer() as connection:
        made = Database(engine, read_catalog([sys.modules[__name__]]), [], connection)
        await made.write(lambda connection: LEDGER.create_all(connection))
        yield made
    await engine.close()


def dead_process() -> int:
    """The id of a process that has ended and was waited for."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def held_by(holder: str | None) -> sa.Executable:
    return sa.insert(LOCK).values(id=1, epoch=7, holder=holder, since="then")


async def acquired(database: Database) -> int:
    return await database.write(lambda connection: lock.acquire(connection, database.engine, since="now"))


async def holder(database: Database) -> tuple[int, str | None]:
    row = await database.read(lambda connection: connection.execute(sa.select(LOCK)).one())
    return row.epoch, row.holder


ME = f"{socket.gethostname()}:{os.getpid()}"


async def test_the_first_run_takes_the_lock_at_the_first_epoch(database: Database) -> None:
    assert await acquired(database) == 1
    assert await holder(database) == (1, ME)


async def test_a_living_holder_keeps_the_lock_and_the_refusal_says_who_and_since_when(
    database: Database,
) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        name = f"{socket.gethostname()}:{child.pid}"
        await database.write(lambda connection: connection.execute(held_by(name)))
        with pytest.raises(LockHeld, match=f"{name}.*since then.*wait for it to end"):
            await acquired(database)
        assert await holder(database) == (7, name)
    finally:
        child.communicate(b"\n")


async def test_a_process_of_another_user_lives_as_far_as_we_can_tell(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    await database.write(lambda connection: connection.execute(held_by(f"{socket.gethostname()}:1")))
    with pytest.raises(LockHeld):
        await acquired(database)


async def test_a_holder_on_another_machine_is_never_taken_for_dead(database: Database) -> None:
    await database.write(lambda connection: connection.execute(held_by(f"elsewhere:{dead_process()}")))
    with pytest.raises(LockHeld, match="elsewhere"):
        await acquired(database)


async def test_the_lock_of_a_process_that_is_gone_is_taken_over_at_the_next_epoch(
    database: Database,
) -> None:
    gone = f"{socket.gethostname()}:{dead_process()}"
    await database.write(lambda connection: connection.execute(held_by(gone)))
    assert await acquired(database) == 8
    assert await holder(database) == (8, ME)


async def test_a_released_lock_is_free_and_the_epoch_goes_on(database: Database) -> None:
    epoch = await acquired(database)
    await database.write(lambda connection: lock.release(connection, epoch))
    assert await holder(database) == (1, None)
    assert await acquired(database) == 2


async def test_a_holder_that_lost_the_lock_does_not_release_it_for_the_next(database: Database) -> None:
    first = await acquired(database)
    await acquired(database)
    await database.write(lambda connection: lock.release(connection, first))
    assert await holder(database) == (2, ME)


async def test_a_holder_that_wakes_after_a_take_over_writes_nothing_more(database: Database) -> None:
    database.epoch = await acquired(database)
    mark = sa.insert(TOUCHED).values(table="rows", key="[1]")
    await database.write(lambda connection: connection.execute(mark))

    taken = sa.update(LOCK).values(epoch=2, holder="other:1", since="later")
    stolen, database.epoch = database.epoch, None
    await database.write(lambda connection: connection.execute(taken))
    database.epoch = stolen

    late = sa.insert(TOUCHED).values(table="rows", key="[2]")
    with pytest.raises(LockHeld, match="taken over by other:1 since later"):
        await database.write(lambda connection: connection.execute(late))
    with pytest.raises(LockHeld):
        await database.attempt(lambda connection: (True, connection.execute(late)))
    keys = await database.read(lambda connection: connection.scalars(sa.select(TOUCHED.c.key)).all())
    assert keys == ["[1]"]


async def test_a_lock_that_nobody_ever_took_guards_nothing_for_its_holder(database: Database) -> None:
    with pytest.raises(LockHeld, match="taken over by nobody"):
        await database.read(lambda connection: lock.check(connection, 1))


async def test_an_attempt_that_says_so_leaves_nothing_behind(database: Database) -> None:
    mark = sa.insert(TOUCHED).values(table="rows", key="[1]")

    def attempt(connection: sa.Connection, keep: bool) -> tuple[bool, str]:
        connection.execute(mark)
        return keep, "said"

    assert await database.attempt(lambda connection: attempt(connection, False)) == "said"
    there = sa.select(sa.func.count()).select_from(TOUCHED)
    assert await database.read(lambda connection: connection.scalar(there)) == 0
    await database.attempt(lambda connection: attempt(connection, True))
    assert await database.read(lambda connection: connection.scalar(there)) == 1


async def test_the_integrity_window_is_remembered_until_it_is_closed(database: Database) -> None:
    await acquired(database)
    assert await database.read(window) is None
    await database.write(lambda connection: open_window(connection, "a bulk load"))
    assert await database.read(window) == Window(why="a bulk load")
    await acquired(database)  # a take-over does not close it
    assert await database.read(window) == Window(why="a bulk load")
    await database.write(close_window)
    assert await database.read(window) is None


async def test_many_that_make_one_sqlite_file_at_once_wait_for_each_other(tmp_path: Path) -> None:
    async def make(file: Path) -> None:
        engine = engine_for(f"sqlite:///{file}")
        await engine.create()
        async with engine.writer() as connection, connection.begin():
            pass
        await engine.close()

    # it went wrong for one in ten
    for number in range(100):
        await asyncio.gather(*(make(tmp_path / f"{number}.db") for _ in range(4)))
