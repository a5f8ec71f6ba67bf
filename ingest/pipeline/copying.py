"""A mirror and its ledger, moved from one database to another, and proven to be the same.

    both locked ─▶ window open ─▶ every table, a chunk a transaction ─▶ indexes ─▶ digests equal, all proven
                   (it says what is copied)                                     ─▶ foreign keys, window closed

Killed anywhere, the same command goes on after the greatest key that is there: nothing else is remembered.
Where the mirror has changed since, it begins anew, for two moments do not make one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import sqlalchemy as sa

from ingest.catalog import Catalog, read_catalog
from ingest.clock import Clock, SystemClock
from ingest.config import Config, models_of
from ingest.database import Database, open_reader, open_writer
from ingest.digest import digest
from ingest.engines import Engine, engine_for
from ingest.errors import NotProven, UsageError
from ingest.keys import given, raw
from ingest.ledger import DEAD_LETTERS, LEDGER, LOADS, LOCK, RUNS
from ingest.migrate import lineages
from ingest.pipeline.machine import said
from ingest.pipeline.questions import count
from ingest.reconcile.reconciler import Reconciler
from ingest.report import Copied, CopiedTable, Observer, unobserved
from ingest.window import build, close_window, open_window, put_off, refuse_half_copy, window

#: rows that go over in one transaction
_CHUNK = 20_000


async def copy(
    config: Config, source: str, target: str, *, observe: Observer = unobserved, clock: Clock | None = None
) -> Copied:
    """Copy the mirror in the database `source` into the empty database `target` (URLs); what went over."""
    clock = clock or SystemClock()
    catalog = read_catalog(models_of(config))
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(
            _opened(config, catalog, engine_for(source), clock, there=True)
        )
        theirs = await stack.enter_async_context(_opened(config, catalog, engine_for(target), clock))
        if ours.engine.place == theirs.engine.place:
            raise UsageError("the mirror is there already", where=ours.engine.place)
        return await _Copy(catalog, ours, theirs, observe).carry_out()


@asynccontextmanager
async def _opened(
    config: Config, catalog: Catalog, engine: Engine, clock: Clock, *, there: bool = False
) -> AsyncIterator[Database]:
    """A database with its lock; `there`: one that holds a mirror already."""
    its = lineages(config, catalog)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.close)
        if there:
            async with open_reader(engine, catalog, its, clock=clock):
                pass
        database = await stack.enter_async_context(open_writer(engine, catalog, its, clock=clock))
        if database.behind is not None:
            raise database.behind
        stack.push_async_callback(database.release_lock)
        await database.take_lock(since=said(clock))
        yield database


class _Copy:
    """One copy, from one locked database to another."""

    def __init__(self, catalog: Catalog, source: Database, target: Database, observe: Observer) -> None:
        self._catalog, self._observe = catalog, observe
        self._source, self._target = source, target
        self._tables = [table.sql for _, table in sorted(catalog.tables.items())]
        self._tables += [table for table in LEDGER.sorted_tables if table is not LOCK]

    async def carry_out(self) -> Copied:
        await self._source.read(partial(refuse_half_copy, place=self._source.engine.place))
        held = await self._source.read(window)
        if held is not None:
            raise UsageError(
                f"its integrity window is open: {held.why}",
                where=self._source.engine.place,
                hint="run `ingest recover` first",
            )
        told = await self._digest(self._source)
        newest = await self._source.read(
            lambda connection: connection.scalar(sa.select(sa.func.max(RUNS.c.id)))
        )
        await self._target.write(partial(self._begin, moment=f"run {newest}, {told}"))
        tables = [CopiedTable(table=one.name, rows=await self._copy(one)) for one in self._tables]
        await self._target.write(self._build)
        found = await self._digest(self._target)
        if found != told:
            raise NotProven(
                f"its digest is {found}, and the original's is {told}",
                where=self._target.engine.place,
                hint="run the copy again, into an empty database",
            )
        await self._target.write(self._prove)
        return Copied(
            source=self._source.engine.place,
            target=self._target.engine.place,
            tables=tuple(tables),
            digest=told,
        )

    @staticmethod
    async def _digest(database: Database) -> str:
        return await database.read(partial(digest, catalog=database.catalog, engine=database.engine))

    def _begin(self, connection: sa.Connection, *, moment: str) -> None:
        """Open the target's window, or go on within it."""
        held = window(connection)
        if held is not None and held.copying == moment:
            return
        if held is not None and held.copying is not None:
            for table in self._tables:
                connection.execute(sa.delete(table))
        elif held is not None or any(count(connection, table) for table in self._tables):
            raise UsageError(
                "this database holds a mirror already",
                where=self._target.engine.place,
                hint="copy into an empty database",
            )
        why = f"a copy of the mirror in {self._source.engine.place} is not finished"
        open_window(connection, why, copying=moment)
        put_off(connection, self._catalog, self._target.engine, emptied=True)

    async def _copy(self, table: sa.Table) -> int:
        """Bring one table over, from where it was left; how many rows it has then."""
        theirs = self._target
        while True:
            last = await theirs.read(partial(_greatest, engine=theirs.engine, table=table))
            rows = await self._source.read(
                partial(_chunk, engine=self._source.engine, table=table, after=last)
            )
            if not rows:
                return await theirs.read(lambda connection: count(connection, table))
            await theirs.write(partial(theirs.engine.insert, table=table, columns=table.c.keys(), rows=rows))
            self._observe("copy.chunk", table=table.name, rows=len(rows))

    def _build(self, connection: sa.Connection) -> None:
        """Build the indexes; numbers go on above those that came over."""
        build(connection)
        for table in (LOADS, DEAD_LETTERS):
            self._target.engine.go_on_counting(connection, table)

    def _prove(self, connection: sa.Connection) -> None:
        """Prove that everything holds, and close the window."""
        keys, engine = self._target.keys, self._target.engine
        keys.create(connection)
        if not Reconciler(self._catalog, engine, keys).prove(connection, whole=True).holds:
            raise NotProven("a reference, pointer or counter does not hold", where=engine.place)
        close_window(connection)


def _greatest(connection: sa.Connection, *, engine: Engine, table: sa.Table) -> tuple[Any, ...] | None:
    """The greatest key of a table, in stored form; None when it is empty."""
    key = list(table.primary_key.columns)
    order = [engine.in_order(column).desc() for column in key]
    row = connection.execute(sa.select(*(raw(engine, one) for one in key)).order_by(*order).limit(1)).first()
    return None if row is None else tuple(row)


def _chunk(
    connection: sa.Connection,
    *,
    engine: Engine,
    table: sa.Table,
    after: tuple[Any, ...] | None,
) -> list[tuple[Any, ...]]:
    """The next rows after a key, in stored form."""
    key = list(table.primary_key.columns)
    order = [engine.in_order(column) for column in key]
    rows = sa.select(*(raw(engine, one) for one in table.c)).order_by(*order).limit(_CHUNK)
    if after is not None:
        values = [given(engine, value, column) for value, column in zip(after, key, strict=True)]
        beyond = sa.tuple_(*order) > sa.tuple_(*values) if len(key) > 1 else order[0] > values[0]
        rows = rows.where(beyond)
    return [tuple(row) for row in connection.execute(rows)]
