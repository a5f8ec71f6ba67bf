"""A mirror and its ledger, moved from one database to another, and proven to be the same.

    both locked ─▶ window open ─▶ every table, a chunk a transaction ─▶ indexes ─▶ all of it equal, all proven
                   (it says what moment is copied)                              ─▶ foreign keys, window closed

A moment is known by the digest of everything that goes over. Killed anywhere, the same command goes on after
the greatest key that is there: nothing else is remembered. Where what is there is of another moment, it
begins anew, for two moments do not make one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import Any

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog, read_catalog
from ingest.clock import Clock, SystemClock
from ingest.config import Config, log_path, models_of
from ingest.database import Database, open_still, open_writer
from ingest.digest import digest, digest_of_all
from ingest.engines import Engine, engine_for
from ingest.errors import NotProven, UsageError
from ingest.keys import given, raw
from ingest.ledger import DEAD_LETTERS, LEDGER, LOADS, LOCK
from ingest.migrate import lineages
from ingest.pipeline.machine import said
from ingest.pipeline.questions import count
from ingest.reconcile.reconciler import Reconciler
from ingest.report import Copied, CopiedTable, Observer, unobserved
from ingest.window import build, close_window, open_window, put_off, refuse_half_copy, window

#: rows that go over in one transaction, and bytes of text in them, whichever is reached first
_CHUNK, _BYTES = 20_000, 16 << 20
#: rows that are read at once, each as long as it may be
_FETCH = 100


async def copy(
    config: Config, source: str, target: str, *, observe: Observer = unobserved, clock: Clock | None = None
) -> Copied:
    """Copy the mirror in the database `source` into the empty database `target` (URLs); what went over."""
    clock = clock or SystemClock()
    catalog = read_catalog(models_of(config))
    its = lineages(config, catalog)
    ours, theirs = engine_for(source), engine_for(target)
    if ours.place == theirs.place:
        raise UsageError("the mirror is there already", where=ours.place)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(ours.close)
        stack.push_async_callback(theirs.close)
        original = await stack.enter_async_context(
            open_still(ours, catalog, its, since=said(clock), clock=clock)
        )
        database = await stack.enter_async_context(open_writer(theirs, catalog, its, clock=clock))
        if database.behind is not None:
            raise database.behind
        stack.push_async_callback(database.release_lock)
        await database.take_lock(since=said(clock))
        copied = await _Copy(catalog, original, database, observe).carry_out()
    log = log_path(config.staging, source, config.file)
    moved = log_path(config.staging, target, config.file) != log
    return msgspec.structs.replace(
        copied, configured=config.database_url == target, log=str(log) if moved else None
    )


class _Copy:
    """One copy, from one locked database to another."""

    def __init__(self, catalog: Catalog, source: Database, target: Database, observe: Observer) -> None:
        self._catalog, self._observe = catalog, observe
        self._source, self._target = source, target
        self._tables = [table.sql for _, table in sorted(catalog.tables.items())]
        self._tables += [table for table in LEDGER.sorted_tables if table is not LOCK]
        self._why = f"a copy of the mirror in {source.engine.place} is not finished"

    async def carry_out(self) -> Copied:
        told = await self._source.read(self._moment)
        already = await self._target.read(partial(self._holds, told=told))
        if not already:
            await self._target.write(partial(self._begin, told=told))
            for table in self._tables:
                await self._bring(table)
            await self._target.write(self._build)
            await self._compare(told)
            await self._target.write(self._prove)
        return await self._target.read(partial(self._report, already=already))

    def _moment(self, connection: sa.Connection) -> str:
        """The digest of all that is to go over; UsageError while something is unfinished there."""
        place = self._source.engine.place
        refuse_half_copy(connection, place=place)
        held = window(connection)
        if held is not None:
            raise UsageError(
                f"its integrity window is open: {held.why}", where=place, hint="run `ingest recover` first"
            )
        return digest_of_all(connection, self._tables, self._source.engine)

    def _here(self, connection: sa.Connection) -> str:
        """The digest of all that is in the target."""
        return digest_of_all(connection, self._tables, self._target.engine)

    def _holds(self, connection: sa.Connection, *, told: str) -> bool:
        """True when all of it is in the target already."""
        return window(connection) is None and self._here(connection) == told

    def _begin(self, connection: sa.Connection, *, told: str) -> None:
        """Open the target's window, or go on within it; UsageError when there is something else."""
        held = window(connection)
        if held is None or held.copying is None:
            self._refuse_filled(connection)
        if held is None or held.copying != told:
            self._begin_anew(connection, told)

    def _refuse_filled(self, connection: sa.Connection) -> None:
        """UsageError where something is in the target that no copy has brought there."""
        if any(count(connection, table) for table in self._tables):
            raise UsageError(
                "this database holds another mirror, or this one at another moment",
                where=self._target.engine.place,
                hint="copy into an empty database",
            )

    def _begin_anew(self, connection: sa.Connection, told: str) -> None:
        """Empty the target of what another moment's copy has left, and open its window."""
        for table in self._tables:
            connection.execute(sa.delete(table))
        open_window(connection, self._why, copying=told)
        put_off(connection, self._catalog, self._target.engine, emptied=True)

    async def _bring(self, table: sa.Table) -> None:
        """Bring one table over, from where it was left."""
        theirs, columns = self._target, table.c.keys()
        last = await theirs.read(partial(_greatest, engine=theirs.engine, table=table))
        rest = _rows(self._source.engine, table, after=last)
        async with aclosing(_chunks(self._source.stream(rest, many=_FETCH))) as chunks:
            async for rows in chunks:
                await theirs.write(partial(theirs.engine.insert, table=table, columns=columns, rows=rows))
                self._observe("copy.chunk", table=table.name, rows=len(rows))

    def _build(self, connection: sa.Connection) -> None:
        """Build the indexes; numbers go on above those that came over."""
        build(connection)
        for table in (LOADS, DEAD_LETTERS):
            self._target.engine.go_on_counting(connection, table)

    async def _compare(self, told: str) -> None:
        """NotProven when what came over is not what is in the original."""
        found = await self._target.read(self._here)
        if found == told:
            return
        # what is there is of no moment that there was: the next try begins anew
        await self._target.write(partial(open_window, why=self._why, copying=found))
        raise NotProven(
            f"its digest is {found}, and the original's is {told}",
            where=self._target.engine.place,
            hint="run the same `ingest copy` again, which begins anew",
        )

    def _prove(self, connection: sa.Connection) -> None:
        """Prove that everything holds, and close the window."""
        keys, engine = self._target.keys, self._target.engine
        keys.create(connection)
        if not Reconciler(self._catalog, engine, keys).prove(connection, whole=True).holds:
            raise NotProven("a reference, pointer or counter does not hold", where=engine.place)
        close_window(connection)

    def _report(self, connection: sa.Connection, *, already: bool) -> Copied:
        engine = self._target.engine
        return Copied(
            source=self._source.engine.place,
            target=engine.place,
            already=already,
            tables=tuple(
                CopiedTable(table=str(one.name), rows=count(connection, one)) for one in self._tables
            ),
            digest=digest(connection, self._catalog, engine),
        )


def _greatest(connection: sa.Connection, *, engine: Engine, table: sa.Table) -> tuple[Any, ...] | None:
    """The greatest key of a table, in stored form; None when it is empty."""
    key = list(table.primary_key.columns)
    order = [engine.in_order(column).desc() for column in key]
    row = connection.execute(sa.select(*(raw(engine, one) for one in key)).order_by(*order).limit(1)).first()
    return None if row is None else tuple(row)


def _rows(engine: Engine, table: sa.Table, *, after: tuple[Any, ...] | None) -> sa.Select[Any]:
    """The rows after a key, all of them without one, in the order of their keys and in stored form."""
    key = list(table.primary_key.columns)
    order = [engine.in_order(column) for column in key]
    rows = sa.select(*(raw(engine, one) for one in table.c)).order_by(*order)
    if after is None:
        return rows
    last = [_sorted_as(engine, column, value) for column, value in zip(key, after, strict=True)]
    return rows.where(sa.tuple_(*order) > sa.tuple_(*last) if len(key) > 1 else order[0] > last[0])


def _sorted_as(engine: Engine, column: sa.Column[Any], value: Any) -> sa.ColumnElement[Any]:
    """A value in stored form as its column is sorted: an enum of PostgreSQL's, say, as text."""
    # without the label the parameter itself would be of the column's type, and not in stored form any more
    return engine.in_order(sa.type_coerce(given(engine, value, column).label(None), column.type))


async def _chunks(
    pieces: AsyncGenerator[Sequence[sa.Row[Any]], None],
) -> AsyncGenerator[list[tuple[Any, ...]], None]:
    """The same rows, as many at a time as one transaction takes."""
    chunk: list[tuple[Any, ...]] = []
    size = 0
    async with aclosing(pieces):
        async for few in pieces:
            chunk += map(tuple, few)
            size += sum(map(_bytes, few))
            if len(chunk) >= _CHUNK or size >= _BYTES:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def _bytes(row: Sequence[Any]) -> int:
    """How long a row's texts are."""
    return sum(len(value) for value in row if isinstance(value, str | bytes))
