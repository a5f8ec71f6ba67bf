"""The target database as a job uses it: brought up to date, written one guarded transaction at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ingest import lock
from ingest.catalog import Catalog
from ingest.engines import Engine
from ingest.errors import UsageError
from ingest.keys import Keys
from ingest.ledger import LEDGER

T = TypeVar("T")
P = ParamSpec("P")


class Database:
    """A mirror's database: one writer's connection, or a reader's."""

    def __init__(self, engine: Engine, catalog: Catalog, connection: AsyncConnection) -> None:
        self.engine, self.catalog, self._connection = engine, catalog, connection
        self.keys = Keys(catalog, engine)
        #: the epoch of the lock while we hold it
        self.epoch: int | None = None

    async def read(self, question: Callable[[sa.Connection], T]) -> T:
        """Ask something in a transaction of its own, which is not kept."""
        transaction = await self._connection.begin()
        try:
            return await self._connection.run_sync(question)
        finally:
            await transaction.rollback()

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Do something in one transaction, under the lock when we hold it."""
        async with self._connection.begin():
            return await self._connection.run_sync(self._guarded, work)

    async def attempt(self, work: Callable[[sa.Connection], tuple[bool, T]]) -> T:
        """Do something in one transaction, and keep it only when it says so."""
        async with self._connection.begin() as transaction:
            keep, result = await self._connection.run_sync(self._guarded, work)
            if not keep:
                await transaction.rollback()
            return result

    def _guarded(self, connection: sa.Connection, work: Callable[[sa.Connection], T]) -> T:
        if self.epoch is not None:
            lock.check(connection, self.epoch)
        return work(connection)


@asynccontextmanager
async def open_writer(engine: Engine, catalog: Catalog) -> AsyncIterator[Database]:
    """The database for a run: made when there is none, its tables too."""
    await engine.create()
    async with engine.writer() as connection:
        database = Database(engine, catalog, connection)
        await database.write(lambda connection: create_tables(connection, catalog))
        yield database


@asynccontextmanager
async def open_reader(engine: Engine, catalog: Catalog) -> AsyncIterator[Database]:
    """The database for a question; UsageError when there is no mirror yet."""
    if not Path(engine.place).exists():
        raise UsageError("there is no mirror yet", where=engine.place, hint="run `ingest sync`")
    async with engine.reader() as connection:
        database = Database(engine, catalog, connection)
        there = await database.read(lambda connection: sa.inspect(connection).has_table("ingest_runs"))
        if not there:
            raise UsageError("this database holds no mirror", where=engine.place, hint="run `ingest sync`")
        yield database


def create_tables(connection: sa.Connection, catalog: Catalog) -> None:
    """Make every table that is not there."""
    LEDGER.create_all(connection)
    for metadata in catalog.metadatas:
        metadata.create_all(connection)
