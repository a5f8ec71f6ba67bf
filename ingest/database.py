"""The target database as a job uses it: brought up to date, written one guarded transaction at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ingest import lock, migrate
from ingest.catalog import Catalog
from ingest.clock import Clock, SystemClock
from ingest.engines import Engine
from ingest.errors import NotProven, Stop, UsageError
from ingest.keys import Keys
from ingest.migrations.lineage import Lineage
from ingest.window import build, enforce, refuse_half_copy

T = TypeVar("T")
#: seconds between two tries of a transaction that others were in the way of
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)
#: characters of a statement that tell which one it was
_STATEMENT = 100


class Database:
    """A mirror's database: one writer's connection, or a reader's."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        lineages: Sequence[Lineage],
        connection: AsyncConnection,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.engine, self.catalog, self._connection = engine, catalog, connection
        self._clock = clock or SystemClock()
        self.lineages = lineages
        self.keys = Keys(catalog, engine)
        #: the epoch of the lock while we hold it
        self.epoch: int | None = None
        #: what was done to the tables since it was opened
        self.steps: list[str] = []
        #: why nothing can be written before `migrate`
        self.behind: UsageError | None = None

    async def read(self, question: Callable[[sa.Connection], T]) -> T:
        """Ask something in a transaction of its own, which is not kept."""
        return await to_its_end(self._read(question))

    async def stream(self, rows: sa.Select[Any], *, many: int) -> AsyncGenerator[Sequence[sa.Row[Any]], None]:
        """The rows of one query, so many at a time, in a transaction of its own; none is kept in memory."""
        transaction = await self._connection.begin()
        try:
            result = await to_its_end(self._connection.stream(rows, execution_options={"yield_per": many}))
            try:
                while some := await to_its_end(result.fetchmany(many)):
                    yield some
            finally:
                await result.close()
        finally:
            await transaction.rollback()

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Do something in one transaction, under the lock when we hold it."""
        return await to_its_end(self._attempt(lambda connection: (True, work(connection))))

    async def attempt(self, work: Callable[[sa.Connection], tuple[bool, T]]) -> T:
        """Do something in one transaction, and keep it only when it says so."""
        return await to_its_end(self._attempt(work))

    async def _read(self, question: Callable[[sa.Connection], T]) -> T:
        transaction = await self._connection.begin()
        try:
            return await self._connection.run_sync(question)
        finally:
            await transaction.rollback()

    async def _attempt(self, work: Callable[[sa.Connection], tuple[bool, T]]) -> T:
        for pause in _PAUSES:
            try:
                return await self._once(work)
            except sa.exc.DBAPIError as error:
                if not self.engine.passing(error):
                    raise
            # others were in the way: they have had their turn, and all of ours was undone
            await self._clock.sleep(pause)
        try:
            return await self._once(work)
        except sa.exc.DBAPIError as error:
            if not self.engine.passing(error):
                raise
            raise await self._still_in_the_way(error) from error

    async def _once(self, work: Callable[[sa.Connection], tuple[bool, T]]) -> T:
        transaction = await self._connection.begin()
        # a row's own violation is dealt with where it is written
        violated: type[Stop] = Stop
        try:
            keep, result = await self._connection.run_sync(self._guarded, work)
            # what was proven a moment before: another program writes to these tables
            violated = NotProven
            await (transaction.commit() if keep else transaction.rollback())
        except BaseException as error:
            # also after a commit that failed: until then no other transaction can begin
            await transaction.rollback()
            if isinstance(error, sa.exc.IntegrityError):
                raise self._in_the_way(error, violated) from error
            raise
        return result

    def _in_the_way(self, error: sa.exc.IntegrityError, kind: type[Stop]) -> Stop:
        """Something of another program's: a table outside the mirror that refers to its rows, say."""
        hint = "nothing was written; another program's table or rows are in the way"
        return kind(_said(error), where=self.engine.place, hint=hint)

    async def _still_in_the_way(self, error: sa.exc.DBAPIError) -> Stop:
        """What it was that others did not let us do, and who they are."""
        tables = [table.sql for table in self.catalog.tables.values()]
        holders = await self._read(lambda connection: self.engine.holders(connection, tables))
        statement = " ".join((error.statement or "").split())
        if len(statement) > _STATEMENT:
            statement = f"{statement[:_STATEMENT]}…"
        told = "; ".join([f"{_said(error)} ({statement})", *holders])
        hint = "the run goes on from here when it is put right"
        return Stop(told, where=self.engine.place, hint=hint)

    async def take_lock(self, *, since: str) -> None:
        """Become the one writer; LockHeld when somebody else is."""
        self.epoch = await self.write(lambda connection: lock.acquire(connection, self.engine, since=since))

    async def release_lock(self) -> None:
        """Let go of the lock, if we hold it."""
        epoch, self.epoch = self.epoch, None
        if epoch is not None:
            # a courtesy: where the database cannot be reached any more, the lock is taken over by the next
            with suppress(sa.exc.SQLAlchemyError, OSError, Stop):
                await self.write(lambda connection: lock.release(connection, epoch))

    async def migrate(self, *, since: str) -> None:
        """Take tables that are behind to their newest revision, and the lock with them: all or nothing."""
        place = self.engine.place

        def work(connection: sa.Connection) -> tuple[list[str], int]:
            refuse_half_copy(connection, place=place)
            # a migration takes the tables as their models say they are
            build(connection)
            enforce(connection)
            moves = migrate.plan(connection, self.lineages, place=place)
            steps = migrate.carry_out(connection, self.lineages, moves, place=place)
            # asked last, of the ledger as it is now; when another run has the lock, all of it is undone
            return steps, lock.acquire(connection, self.engine, since=since)

        late, self.behind = self.behind, None
        try:
            steps, self.epoch = await self.write(work)
        except BaseException:
            self.behind = late
            raise
        self.steps += steps

    def _guarded(self, connection: sa.Connection, work: Callable[[sa.Connection], T]) -> T:
        if self.behind is not None:
            raise self.behind
        if self.epoch is not None:
            lock.check(connection, self.epoch)
        return work(connection)


def _said(error: sa.exc.DBAPIError) -> str:
    """What went wrong, without the values of a row, which stand below."""
    told = getattr(error.orig, "args", None) or (error.orig,)
    return str(told[-1]).partition("\n")[0].rpartition(">: ")[2]


async def to_its_end(transaction: Awaitable[T]) -> T:
    """Run a transaction; one who asks us to stop in its middle waits for its end.

    Cancelled half-way, the driver's thread would go on with a statement on a connection that is given up,
    and leave the database locked: the end of a transaction is the safe point.
    """
    task = asyncio.ensure_future(transaction)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # whoever cancelled us hears of that, and not of this
        raise


@asynccontextmanager
async def open_writer(
    engine: Engine, catalog: Catalog, lineages: Sequence[Lineage], *, clock: Clock | None = None
) -> AsyncIterator[Database]:
    """The database for a run: made when there is none, its tables too. Only `migrate` may change those."""
    await engine.create()
    async with engine.writer() as connection:
        database = Database(engine, catalog, lineages, connection, clock=clock)
        database.steps, database.behind = await database.write(
            lambda connection: create_tables(connection, engine, lineages)
        )
        yield database


@asynccontextmanager
async def open_reader(
    engine: Engine, catalog: Catalog, lineages: Sequence[Lineage], *, clock: Clock | None = None
) -> AsyncIterator[Database]:
    """The database for a question; UsageError when there is no mirror yet, or not one that is known here."""
    if not await engine.exists():
        raise UsageError("there is no mirror yet", where=engine.place, hint="run `ingest sync`")
    async with engine.reader() as connection:
        database = Database(engine, catalog, lineages, connection, clock=clock)
        there = await database.read(lambda connection: sa.inspect(connection).has_table("ingest_runs"))
        if not there:
            raise UsageError("this database holds no mirror", where=engine.place, hint="run `ingest sync`")
        await database.read(lambda connection: migrate.readable(connection, lineages, place=engine.place))
        yield database


@asynccontextmanager
async def open_still(
    engine: Engine, catalog: Catalog, lineages: Sequence[Lineage], *, since: str, clock: Clock | None = None
) -> AsyncIterator[Database]:
    """The database for a question, locked: nobody else writes to it meanwhile, and nor do we."""
    async with (
        open_reader(engine, catalog, lineages, clock=clock) as reader,
        engine.writer() as connection,
    ):
        holder = Database(engine, catalog, lineages, connection, clock=clock)
        await holder.take_lock(since=since)
        try:
            yield reader
        finally:
            await holder.release_lock()


def create_tables(
    connection: sa.Connection, engine: Engine, lineages: Sequence[Lineage]
) -> tuple[list[str], UsageError | None]:
    """Make every table that is not there: the steps. None, and why, while others must be migrated first."""
    # two first runs would both make them
    lock.claim(connection, engine)
    moves = migrate.plan(connection, lineages, place=engine.place)
    late = migrate.behind(moves, place=engine.place)
    if late is not None:
        return [], late
    steps = migrate.carry_out(connection, lineages, moves, place=engine.place)
    tables = [table for lineage in lineages for table in lineage.tables.values()]
    return [*steps, *engine.prepare(connection, tables)], None
