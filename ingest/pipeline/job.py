"""Everything that can be done with one configured mirror."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog, read_catalog
from ingest.clock import Clock, SystemClock
from ingest.config import Config, ConfiguredSource, models_of
from ingest.database import open_reader, open_writer
from ingest.digest import digest
from ingest.engines import Engine, engine_for
from ingest.errors import UsageError
from ingest.fetch.fetcher import Fetcher
from ingest.ledger import (
    DEAD_LETTERS,
    KEYS,
    LISTINGS,
    LOADS,
    LOGS,
    MISSING,
    PAGES,
    REOPENED,
    SETS,
    SWEEPS,
    TOMBSTONES,
    TOUCHED,
    TRIES,
    WITHHELD,
)
from ingest.migrate import lineages
from ingest.pipeline import questions
from ingest.pipeline.erasing import erase
from ingest.pipeline.machine import Machine, said
from ingest.pipeline.pruning import prune
from ingest.pipeline.run import Run
from ingest.pipeline.tracing import Tracer, asked_for
from ingest.reconcile.deletes import keep_held
from ingest.reconcile.verify import counted
from ingest.replay import write_exchanges
from ingest.report import (
    Certificate,
    DeadLetter,
    Erased,
    Gap,
    MissingParent,
    Observer,
    Pruned,
    Status,
    Trace,
    unobserved,
)
from ingest.source import seconds
from ingest.staging import SqlitePageLog
from ingest.window import build, open_window, put_off, refuse_half_copy, window


@asynccontextmanager
async def open_job(
    config: Config, *, observe: Observer = unobserved, clock: Clock | None = None, write: bool = True
) -> AsyncIterator[Job]:
    """A job's database and page log, open for a run, or (without `write`) for a question."""
    catalog = read_catalog(models_of(config))
    engine = engine_for(config.database_url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.close)
        opened = open_writer if write else open_reader
        clock = clock or SystemClock()
        database = await stack.enter_async_context(
            opened(engine, catalog, lineages(config, catalog), clock=clock)
        )
        if write:
            stack.push_async_callback(database.release_lock)
            if database.behind is None:
                # before the page log: whoever is writing both is told of with the time
                await database.take_lock(since=said(clock))
        log = await SqlitePageLog.open(config.log_path, readonly=not write)
        stack.push_async_callback(log.close)
        job = Job(Machine(config, catalog, database, log, observe=observe, clock=clock))
        if not write:
            await job.warn()
        elif database.behind is None:
            await job.prepare()
        yield job


class Job:
    """One configured mirror, open."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._allow_deletes = False
        self._config, self._catalog = machine.config, machine.catalog
        self._database, self._log, self._loader = machine.database, machine.log, machine.loader

    # -- commands that write -----------------------------------------------------------------------

    def allow_deletes(self) -> None:
        """The runs from here on carry out all deletes, however many, and those that were held back."""
        self._allow_deletes = True

    async def sync(self, sources: Sequence[str] = ()) -> Certificate:
        """Fetch what changed, load it, settle it, and certify."""
        chosen = self._machine.chosen(tuple(sources))
        return await self._run("sync", chosen, lambda fetcher: fetcher.sync())

    async def backfill(
        self, source: str, *, stream: str | None = None, since: str | None = None, until: str | None = None
    ) -> Certificate:
        """Fetch older history between two coverage keys, or fill the gaps; resumable."""
        streams = None if stream is None else [stream]
        return await self._run(
            "backfill",
            self._machine.chosen((source,)),
            lambda fetcher: fetcher.backfill(streams, since=since, until=until),
        )

    async def recover(self) -> Certificate:
        """Finish what is staged, without the network."""
        return await self._run("recover", [], None)

    async def replay(self, path: Path | None, *, rebuild: bool = False) -> Certificate:
        """Run recorded pages through the same pipeline; `rebuild`: make the database anew from the log."""
        if rebuild:
            staged = [(stamp, one.source, one.stream) async for stamp, _, one in self._log.envelopes()]
            self._machine.decoders.check(staged)
            await self._machine.drift.refuse_loss()
            await self._database.write(partial(_empty, catalog=self._catalog, engine=self._database.engine))
            return await self._run("replay --rebuild", [], None, whole=True)
        if path is None:
            raise UsageError(
                "there is nothing to replay", hint="say the folder of recorded pages, or --rebuild"
            )
        sources = [msgspec.structs.replace(one, replay=path) for one in self._config.sources.values()]
        if len(sources) != 1:
            raise UsageError("a replay is of one source", hint="use a config.toml that names the one")
        return await self._run("replay", sources, lambda fetcher: fetcher.sync())

    async def verify(self) -> Certificate:
        """Audit everything, and certify it; LogDrift when the page log is not the one it was loaded from."""
        self._machine.remarks += await self._machine.drift.audit()
        return await self._run("verify", [], None, whole=True, load=False)

    async def retry_dead_letters(self) -> Certificate:
        """Decode the pages of open dead letters again, under today's models."""
        log = self._log.identity.id
        stamps = await self._database.read(partial(_letters, log=log))
        # of a page that is pruned, or not in this log, the letter is all there is
        kept = [one for one in stamps if (page := await self._log.page(one)) and page.body is not None]
        await self._database.write(partial(_reopen_letters, log=log, stamps=kept))
        return await self._run("dead-letters retry", [], None)

    async def retry_missing(self) -> int:
        """Want every missing parent again that was gone or forbidden; how many."""
        again = sa.update(MISSING).where(MISSING.c.state.in_(("gone", "forbidden"))).values(state="wanted")

        def retry(connection: sa.Connection) -> int:
            connection.execute(sa.update(TRIES).values(next_try=None))
            return int(connection.execute(again).rowcount)

        return await self._database.write(retry)

    async def migrate(self) -> list[str]:
        """Bring the database to this version and these models; what was done, one line a step."""
        if self._database.behind is not None:
            await self._database.migrate(since=self._machine.now())
            await self.prepare()
        return self._database.steps

    async def prune(self, keep: str, *, carry_out: bool = True) -> Pruned:
        """Drop the bodies of pages older than `keep` (`90d`) that nothing needs, or say which would go."""
        try:
            before = self._machine.clock.now() - timedelta(seconds=seconds(keep))
        except OverflowError:
            raise UsageError(f"there was no time yet {keep} ago", hint="write 90d, or 12h") from None
        return await prune(
            self._database,
            self._log,
            before=before.isoformat(timespec="milliseconds"),
            carry_out=carry_out,
        )

    async def erase(self, table: str, key: Sequence[str], *, carry_out: bool = True) -> Erased:
        """Take a row's values out of all that is kept, and prove it; `key` as a person writes it."""
        run = Run(self._machine, self._new_id(), "erase")
        return await erase(self._machine, table, key, run=run, carry_out=carry_out)

    # -- questions ---------------------------------------------------------------------------------

    async def record(self, source: str, to: Path) -> int:
        """Write a source's staged pages as fixtures, without credentials; how many."""
        (configured,) = self._machine.chosen((source,))
        # what was erased here is nothing that the source ever said
        pages = (
            page
            async for page in self._machine.pages()
            if page.envelope.source == source and page.envelope.walk.kind != "erased"
        )
        return await write_exchanges(to, pages, configured)

    async def digest(self) -> str:
        """The canonical digest of what the mirror holds."""
        return await self._database.read(partial(digest, catalog=self._catalog, engine=self._database.engine))

    async def status(self) -> Status:
        """What is known, pending and open."""
        known = await self._database.read(
            partial(
                questions.status,
                catalog=self._catalog,
                database=self._database.engine.place,
                log=str(self._config.log_path),
                log_id=self._log.identity.id,
                top=await self._log.top(),
            )
        )
        pages, records = await self._machine.pending()
        return msgspec.structs.replace(known, pending_pages=pages, pending_records=records)

    async def missing(self, *, explain: bool = False) -> list[MissingParent]:
        """References whose target is not in the mirror; `explain`: who refers to it, what was answered."""
        ask = partial(questions.missing, catalog=self._catalog, explain=explain)
        found = await self._database.read(ask)
        if not explain:
            return [parent for parent, _ in found]
        return [
            msgspec.structs.replace(parent, answered=await self._answered(stamp)) for parent, stamp in found
        ]

    async def _answered(self, stamp: int) -> str | None:
        """What the server said when it was asked by id."""
        page = await self._log.page(stamp) if stamp else None
        if page is None:
            return None
        envelope = page.envelope
        return f"{asked_for(envelope.request)} -> {envelope.status} (page {stamp}, run {envelope.run})"

    async def dead_letters(self) -> list[DeadLetter]:
        """Pages and records that could not be stored."""
        return await self._database.read(questions.dead_letters)

    async def runs(self) -> list[Certificate]:
        """Past certificates, oldest first."""
        return await self._database.read(questions.certificates)

    async def trace(self, table: str, key: Sequence[str]) -> Trace:
        """Why a row is as it is; `key` as a person writes it, part by part."""
        tracer = Tracer(self._catalog, self._database, self._log, self._machine.decoders)
        return await tracer.trace(table, key)

    async def gaps(self) -> list[Gap]:
        """Holes in what has been fetched."""
        return await self._machine.gaps({})

    # -- opening and closing -----------------------------------------------------------------------

    async def prepare(self) -> None:
        """Make the temporary tables, and see that log and ledger belong together; the lock is ours."""

        def create(connection: sa.Connection) -> None:
            refuse_half_copy(connection, place=self._database.engine.place)
            self._database.keys.create(connection)
            self._loader.create(connection)
            # put off by a run that is gone
            build(connection)

        await self._database.write(create)
        self._machine.remarks = await self._machine.drift.attach(self._machine.observe)

    async def warn(self) -> None:
        """Say that the integrity window is open, if it is."""
        held = await self._database.read(window)
        if held is not None:
            self._machine.observe("window.open", why=held.why)

    async def _run(
        self,
        command: str,
        sources: Sequence[ConfiguredSource],
        fetch: Callable[[Fetcher], Any] | None,
        *,
        whole: bool = False,
        load: bool = True,
    ) -> Certificate:
        run = Run(self._machine, self._new_id(), command, allow_deletes=self._allow_deletes)
        return await run.go(sources, fetch, whole=whole, load=load)

    def _new_id(self) -> str:
        return f"{self._machine.clock.now():%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


#: what the page log says all of
_REBUILT = (
    PAGES,
    LOADS,
    WITHHELD,
    MISSING,
    TRIES,
    TOMBSTONES,
    DEAD_LETTERS,
    KEYS,
    SETS,
    LISTINGS,
    SWEEPS,
    TOUCHED,
)


def _empty(connection: sa.Connection, *, catalog: Catalog, engine: Engine) -> None:
    """Empty every mirrored table, and of the ledger what the page log says all of."""
    open_window(connection, "the database is being rebuilt from the page log")
    put_off(connection, catalog, engine, emptied=True)
    for table in catalog.tables.values():
        connection.execute(sa.delete(table.sql))
    for ledger in _REBUILT:
        connection.execute(sa.delete(ledger))
    keep_held(connection)
    connection.execute(sa.update(LOGS).values(loaded_to=0))


def _letters(connection: sa.Connection, *, log: str) -> list[int]:
    """The stamps of this log's pages with open dead letters."""
    opened = sa.select(DEAD_LETTERS.c.stamp).where(DEAD_LETTERS.c.log == log, DEAD_LETTERS.c.state == "open")
    return sorted(connection.scalars(opened.distinct()))


def _reopen_letters(connection: sa.Connection, *, log: str, stamps: list[int]) -> None:
    """Take the marks off these pages with open dead letters; the next load takes the pages again.

    What fails again becomes a dead letter again.
    """
    if not stamps:
        return
    connection.execute(
        sa.delete(DEAD_LETTERS).where(
            DEAD_LETTERS.c.log == log, DEAD_LETTERS.c.stamp.in_(stamps), DEAD_LETTERS.c.state == "open"
        )
    )
    of_log = sa.and_(PAGES.c.log == log, PAGES.c.stamp.in_(stamps))
    marked = counted(connection, PAGES.c.state, of_log)
    # rows that these pages wrote still want to know when they were asked for
    connection.execute(sa.update(PAGES).where(of_log).values(state=REOPENED))
    # these pages will be counted by the load that takes them again
    taken_back = {"pages": -sum(marked.values()), "quarantined": -marked.get("quarantined", 0)}
    none = dict.fromkeys(("records", "written", "kept", "rejected"), 0)
    connection.execute(sa.insert(LOADS).values(run="dead-letters retry", **taken_back, **none))
    connection.execute(sa.update(LOGS).where(LOGS.c.log == log).values(loaded_to=min(stamps) - 1))
