"""A job: fetch into the page log, load, reconcile, certify. The only place that wires the rooms together.

lock ─▶ staged pages of an earlier run ─▶ fetch ─▶ load + reconcile, in one transaction ─▶ certificate
                                           │             │  ▲
                                           │             ▼  │ missing parents, asked for by id
                                           │           rollback, fetch, again
                                           └ 50,000 staged records: the integrity window opens,
                                             and loading begins while fetching goes on
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from ingest import lock
from ingest.catalog import Catalog, read_catalog
from ingest.clock import Clock, SystemClock
from ingest.config import Config, ConfiguredSource, import_package
from ingest.database import Database, open_reader, open_writer
from ingest.digest import digest
from ingest.engines import engine_for
from ingest.errors import LogDrift, UsageError
from ingest.fetch.auth import prove
from ingest.fetch.client import Client
from ingest.fetch.fetcher import Fetcher, Wanted
from ingest.fetch.known import gaps, recall
from ingest.fetch.peek import peek
from ingest.heal import Ask, Healer
from ingest.ledger import DEAD_LETTERS, KEYS, LOADS, LOCK, LOGS, MISSING, PAGES, RUNS, TOMBSTONES, WITHHELD
from ingest.load.batch import Batch
from ingest.load.loader import Loader
from ingest.migrate import lineages
from ingest.reconcile.reconciler import Proven, Reconciler
from ingest.reconcile.verify import counted
from ingest.replay import ReplayTransport, write_exchanges
from ingest.report import (
    Certificate,
    DeadLetter,
    FetchReport,
    Gap,
    MissingParent,
    Observer,
    Preview,
    PreviewTable,
    Status,
    TableReport,
    unobserved,
)
from ingest.staging import PageLog, SqlitePageLog
from ingest.types import Envelope, LoadCounts, Page
from ingest.window import build_indexes, close_window, open_window, put_off_indexes, read_window, window
from ingest.withheld import FOR

#: staged records beyond which loading begins before fetching has ended
BULK = 50_000
#: staged records beyond which fetching waits for loading
BACKLOG = 4 * BULK
#: records, and bytes of bodies, loaded in one transaction
BATCH = 50_000
BATCH_BYTES = 128 * 2**20
#: pages read from the log at once
_READ = 50


@asynccontextmanager
async def open_job(
    config: Config, *, observe: Observer = unobserved, clock: Clock | None = None, write: bool = True
) -> AsyncIterator[Job]:
    """A job's database and page log, open for a run, or (without `write`) for a question."""
    catalog = read_catalog(
        import_package(f"{package}.models", config.file.parent)
        for package in dict.fromkeys(source.package for source in config.sources.values())
    )
    engine = engine_for(config.database_url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.close)
        opened = open_writer if write else open_reader
        database = await stack.enter_async_context(opened(engine, catalog, lineages(config, catalog)))
        log = await SqlitePageLog.open(config.log_path, readonly=not write)
        stack.push_async_callback(log.close)
        job = Job(config, catalog, database, log, observe=observe, clock=clock or SystemClock())
        if write:
            stack.push_async_callback(job.release)
            if database.behind is None:
                await job.prepare()
        else:
            await job.warn()
        yield job


class Job:
    """Everything that can be done with one configured mirror."""

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        database: Database,
        log: PageLog,
        *,
        observe: Observer,
        clock: Clock,
    ) -> None:
        self._config, self._catalog, self._database, self._log = config, catalog, database, log
        self._observe, self._clock = observe, clock
        sources = {name: one.source for name, one in config.sources.items()}
        modules = {name: f"{one.package}.models" for name, one in config.sources.items()}
        self._healer = Healer(sources, catalog, database.engine, modules=modules)
        self._loader = Loader(sources, catalog, database.engine, database.keys, modules=modules)
        self._reconciler = Reconciler(
            catalog, database.engine, database.keys, fetchable=self._healer.tables, observe=observe
        )

    # -- commands that write -----------------------------------------------------------------------

    async def sync(self, sources: Sequence[str] = ()) -> Certificate:
        """Fetch what changed, load it, settle it, and certify."""
        chosen = self._chosen(sources)
        return await self._run("sync", chosen, lambda fetcher: fetcher.sync())

    async def backfill(
        self, source: str, *, stream: str | None = None, since: str | None = None, until: str | None = None
    ) -> Certificate:
        """Fetch older history between two coverage keys, or fill the gaps; resumable."""
        streams = None if stream is None else [stream]
        return await self._run(
            "backfill",
            self._chosen([source]),
            lambda fetcher: fetcher.backfill(streams, since=since, until=until),
        )

    async def recover(self) -> Certificate:
        """Finish what is staged, without the network."""
        return await self._run("recover", [], None)

    async def replay(self, path: Path | None, *, rebuild: bool = False) -> Certificate:
        """Run recorded pages through the same pipeline; `rebuild`: make the database anew from the log."""
        if rebuild:
            staged = [(stamp, one.source, one.stream) async for stamp, _, one in self._log.envelopes()]
            self._loader.check(staged)
            await self._database.write(self._empty)
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
        """Audit everything, and certify it."""
        return await self._run("verify", [], None, whole=True, load=False)

    async def retry_dead_letters(self) -> Certificate:
        """Decode the pages of open dead letters again, under today's models."""
        await self._database.write(self._reopen_letters)
        return await self._run("dead-letters retry", [], None)

    async def retry_missing(self) -> int:
        """Want every missing parent again that was gone or forbidden; how many."""
        again = sa.update(MISSING).where(MISSING.c.state.in_(("gone", "forbidden"))).values(state="wanted")
        return await self._database.write(lambda connection: int(connection.execute(again).rowcount))

    async def migrate(self) -> list[str]:
        """Bring the database to this version and these models; what was done, one line a step."""
        if self._database.behind is not None:
            await self._database.migrate(since=self._clock.now().isoformat(timespec="seconds"))
            await self.prepare()
        return self._database.steps

    # -- questions ---------------------------------------------------------------------------------

    async def record(self, source: str, to: Path) -> int:
        """Write a source's staged pages as fixtures, without credentials; how many."""
        (configured,) = self._chosen([source])
        pages = (page async for page in self._pages() if page.envelope.source == source)
        return await write_exchanges(to, pages, configured)

    async def digest(self) -> str:
        """The canonical digest of what the mirror holds."""
        return await self._database.read(lambda connection: digest(connection, self._catalog))

    async def status(self) -> Status:
        """What is known, pending and open."""
        identity, top = self._log.identity, await self._log.top()

        def ask(connection: sa.Connection) -> Status:
            held = connection.execute(sa.select(LOCK)).first()
            marked = connection.scalar(sa.select(sa.func.count()).where(PAGES.c.log == identity.id)) or 0
            return Status(
                database=self._database.engine.place,
                log=str(self._config.log_path),
                log_id=identity.id,
                top_stamp=top,
                loaded_pages=marked,
                holder=held.holder if held else None,
                since=held.since if held else None,
                window=opened.why if (opened := read_window(held.window if held else None)) else None,
                last=self._certificates(connection)[-1:],
                rows=self._count_rows(connection),
                dead_letters=_count(connection, DEAD_LETTERS, DEAD_LETTERS.c.state == "open"),
                unmapped=_unmapped(connection),
            )

        known = await self._database.read(ask)
        pending = [envelope async for _, _, envelope in self._log.envelopes(await self._loaded_to())]
        return msgspec.structs.replace(
            known, pending_pages=len(pending), pending_records=sum(envelope.records for envelope in pending)
        )

    async def missing(self) -> list[MissingParent]:
        """References whose target is not in the mirror."""
        return await self._database.read(partial(_missing, catalog=self._catalog))

    async def dead_letters(self) -> list[DeadLetter]:
        """Pages and records that could not be stored."""

        def ask(connection: sa.Connection) -> list[DeadLetter]:
            rows = connection.execute(sa.select(DEAD_LETTERS).order_by(DEAD_LETTERS.c.id)).mappings()
            return [
                DeadLetter(
                    id=row["id"],
                    stamp=row["stamp"],
                    ordinal=row["ordinal"],
                    table=row["table"],
                    key=row["key"],
                    reason=row["reason"],
                    state=row["state"],
                    raw=row["raw"].decode("utf-8", "backslashreplace"),
                )
                for row in rows
            ]

        return await self._database.read(ask)

    async def runs(self) -> list[Certificate]:
        """Past certificates, oldest first."""
        return await self._database.read(self._certificates)

    async def gaps(self) -> list[Gap]:
        """Holes in what has been fetched."""
        found: list[Gap] = []
        for name, source in self._config.sources.items():
            found += gaps(await recall(self._log, name), source.source.streams)
        return found

    async def preview(self, source: str, stream: str) -> Preview:
        """One page, mapped: its rows by table and the keys that no column takes. Nothing is written."""
        (configured,) = self._chosen([source])
        async with self._client(configured) as client:
            page = await peek(source, configured.source, client, stream)
        batch = self._loader.decode([page])
        tables = []
        for name in sorted(batch.tables()):
            names = self._catalog.tables[name].names
            rows = [dict(zip(names, one, strict=False)) for one in batch.full.get(name, {}).values()]
            rows += [dict(one.values) for group in batch.partial.get(name, {}).values() for one in group]
            tables.append(PreviewTable(table=name, rows=tuple(rows)))
        return Preview(
            request=f"{page.envelope.request.method} {page.envelope.request.path}",
            records=batch.records,
            tables=tuple(tables),
            unmapped=tuple(path for _, _, path in batch.unmapped),
            rejected=tuple(one.reason for one in batch.letters),
        )

    # -- a run -------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Take the lock, make the temporary tables, and see that log and ledger belong together."""
        since = self._clock.now().isoformat(timespec="seconds")
        self._database.epoch = await self._database.write(
            lambda connection: lock.acquire(connection, since=since)
        )

        def create(connection: sa.Connection) -> None:
            self._database.keys.create(connection)
            self._loader.create(connection)
            # put off by a run that is gone
            build_indexes(connection)

        await self._database.write(create)
        await self._attach()

    async def warn(self) -> None:
        """Say that the integrity window is open, if it is."""
        held = await self._database.read(window)
        if held is not None:
            self._observe("window.open", why=held.why)

    async def release(self) -> None:
        """Let go of the lock."""
        epoch, self._database.epoch = self._database.epoch, None
        if epoch is not None:
            await self._database.write(lambda connection: lock.release(connection, epoch))

    async def _attach(self) -> None:
        """Note the log in the ledger; a log that is behind it, or new to it, begins a generation above."""
        identity, top = self._log.identity, await self._log.top()

        def look(connection: sa.Connection) -> tuple[int, bool]:
            rows = connection.execute(sa.select(LOGS)).all()
            return max((row.top_stamp for row in rows), default=0), any(
                row.log == identity.id for row in rows
            )

        highest, known = await self._database.read(look)
        if (known and top < highest) or (not known and highest > 0 and top <= highest):
            if not known and top:
                raise LogDrift(
                    "this database was filled from another page log",
                    where=str(self._config.log_path),
                    hint="put that log back, or mirror into a new database",
                )
            identity = await self._log.new_generation(highest)
            self._observe("log.generation", generation=identity.generation, above=highest)
        if not known:
            await self._database.write(
                lambda connection: connection.execute(
                    sa.insert(LOGS).values(
                        log=identity.id, generation=identity.generation, top_stamp=0, loaded_to=0
                    )
                )
            )

    async def _run(
        self,
        command: str,
        sources: Sequence[ConfiguredSource],
        fetch: Callable[[Fetcher], Any] | None,
        *,
        whole: bool = False,
        load: bool = True,
    ) -> Certificate:
        now = self._clock.now()
        run = _Run(
            self, f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", command, now.isoformat(timespec="seconds")
        )
        self._observe("run.started", run=run.id, command=command)
        await self._database.write(run.begin)
        certificate = await run.go(sources, fetch, whole=whole, load=load)
        self._observe("run.finished", exit=certificate.exit)
        return certificate

    def _chosen(self, names: Sequence[str]) -> list[ConfiguredSource]:
        for name in names:
            if name not in self._config.sources:
                raise UsageError(
                    f"there is no source {name!r}",
                    where=str(self._config.file),
                    hint=f"known: {', '.join(self._config.sources)}",
                )
        return [one for name, one in self._config.sources.items() if not names or name in names]

    def _client(self, source: ConfiguredSource) -> Client:
        if source.replay is None:
            concurrency = self._config.fetch.concurrency
            return Client(source, clock=self._clock, observe=self._observe, concurrency=concurrency)
        ignoring = source.source.auth.query or () if source.source.auth else ()
        transport = ReplayTransport(source.replay, source.base_url, ignoring=ignoring)
        open_source = msgspec.structs.replace(source.source, auth=None, check=None, rate=None)
        return Client(
            msgspec.structs.replace(source, source=open_source),
            transport=transport,
            clock=self._clock,
            observe=self._observe,
        )

    def _fetcher(self, source: ConfiguredSource, client: Client, run: str, **ways: Any) -> Fetcher:
        return Fetcher(
            source,
            self._log,
            client,
            run=run,
            clock=self._clock,
            concurrency=self._config.fetch.concurrency,
            observe=self._observe,
            **ways,
        )

    async def _loaded_to(self) -> int:
        identity = self._log.identity

        def ask(connection: sa.Connection) -> int:
            return connection.scalar(sa.select(LOGS.c.loaded_to).where(LOGS.c.log == identity.id)) or 0

        return await self._database.read(ask)

    async def _pages(self, after: int = 0) -> AsyncIterator[Page]:
        while pages := await self._log.read(after, limit=_READ):
            for page in pages:
                yield page
            after = pages[-1].stamp

    def _empty(self, connection: sa.Connection) -> None:
        """Empty every mirrored table and all of the ledger but its runs: the page log has it all."""
        open_window(connection, "the database is being rebuilt from the page log")
        for table in self._catalog.tables.values():
            connection.execute(sa.delete(table.sql))
        for ledger in (PAGES, LOADS, WITHHELD, MISSING, TOMBSTONES, DEAD_LETTERS, KEYS):
            connection.execute(sa.delete(ledger))
        connection.execute(sa.text("DELETE FROM ingest_sets"))
        connection.execute(sa.text("DELETE FROM ingest_touched"))
        connection.execute(sa.update(LOGS).values(loaded_to=0))
        put_off_indexes(connection, self._catalog, self._database.engine)

    @staticmethod
    def _reopen_letters(connection: sa.Connection) -> None:
        stamps = list(
            connection.scalars(
                sa.select(DEAD_LETTERS.c.stamp).where(DEAD_LETTERS.c.state == "open").distinct()
            )
        )
        if stamps:
            connection.execute(
                sa.update(DEAD_LETTERS).where(DEAD_LETTERS.c.stamp.in_(stamps)).values(state="settled")
            )
            marked = counted(connection, PAGES.c.state, PAGES.c.stamp.in_(stamps))
            connection.execute(sa.delete(PAGES).where(PAGES.c.stamp.in_(stamps)))
            # these pages will be counted by the load that takes them again
            taken_back = {"pages": -sum(marked.values()), "quarantined": -marked.get("quarantined", 0)}
            none = dict.fromkeys(("records", "written", "kept", "rejected"), 0)
            connection.execute(sa.insert(LOADS).values(run="dead-letters retry", **taken_back, **none))
            connection.execute(sa.update(LOGS).values(loaded_to=min(stamps) - 1))

    @staticmethod
    def _certificates(connection: sa.Connection) -> list[Certificate]:
        rows = connection.scalars(sa.select(RUNS.c.certificate).order_by(RUNS.c.started, RUNS.c.id))
        return [msgspec.json.decode(row, type=Certificate) for row in rows if row is not None]

    def _count_rows(self, connection: sa.Connection) -> dict[str, int]:
        return {name: _count(connection, table.sql) for name, table in sorted(self._catalog.tables.items())}


class _Run:
    """One run, from its first event to its certificate."""

    def __init__(self, job: Job, id: str, command: str, started: str) -> None:
        self.id, self._command, self._started = id, command, started
        self._job = job
        self._database, self._log, self._observe = job._database, job._log, job._observe
        self._fetchers: dict[str, Fetcher] = {}
        self._fetch = FetchReport()
        self._counts = LoadCounts()
        self._written: Counter[str] = Counter()
        self._asked: set[tuple[str, str]] = set()
        self._requests = 0
        self._windowed = False
        self._pending = 0
        self._changed = asyncio.Condition()

    def begin(self, connection: sa.Connection) -> None:
        """Write the run down; an open window is said before anything else."""
        held = window(connection)
        self._windowed = held is not None
        if held is not None:
            self._observe("window.open", why=held.why)
        connection.execute(
            sa.insert(RUNS).values(
                id=self.id, command=self._command, epoch=self._database.epoch or 0, started=self._started
            )
        )

    async def go(
        self,
        sources: Sequence[ConfiguredSource],
        fetch: Callable[[Fetcher], Any] | None,
        *,
        whole: bool,
        load: bool,
    ) -> Certificate:
        self._pending = sum(
            [envelope.records async for _, _, envelope in self._log.envelopes(await self._job._loaded_to())]
        )
        async with AsyncExitStack() as stack:
            for source in sources:
                client = await stack.enter_async_context(self._job._client(source))
                self._fetchers[source.name] = self._job._fetcher(
                    source, client, self.id, gate=self._gate, on_page=self._page_staged
                )
                if fetch is not None:
                    await prove(client)
            if fetch is not None:
                await self._fetch_and_load(fetch)
            first = not await self._database.read(lambda c: _count(c, RUNS, RUNS.c.exit.in_(_CERTIFIED)))
            certificate = await self._settle(whole=whole or first or self._windowed, load=load)
            holes = [gap for fetcher in self._fetchers.values() for gap in fetcher.gaps()] if fetch else []
        return await self._finish(certificate, len(holes))

    # -- fetching, and loading beside it -----------------------------------------------------------

    def _page_staged(self, _stamp: int, envelope: Envelope) -> None:
        self._pending += envelope.records

    async def _gate(self) -> None:
        """Fetching waits while too much is unloaded."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._pending < BACKLOG)

    async def _fetch_and_load(self, fetch: Callable[[Fetcher], Any]) -> None:
        tasks = [asyncio.ensure_future(fetch(fetcher)) for fetcher in self._fetchers.values()]
        done = asyncio.gather(*tasks)
        try:
            while not done.done():
                if self._pending >= BULK:
                    await self._open_window()
                    await self._load_pending(at_least=BATCH // 2)
                await asyncio.wait([done], timeout=_LOOK)
            for report in await done:
                self._fetch += report
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _open_window(self) -> None:
        if not self._windowed:
            self._windowed = True
            why = f"run {self.id} is loading more than one transaction holds"
            await self._database.write(partial(self._begin_window, why=why))
            self._observe("window.opened", why=why)

    def _begin_window(self, connection: sa.Connection, *, why: str) -> None:
        open_window(connection, why)
        put_off_indexes(connection, self._job._catalog, self._database.engine)

    async def _load_pending(self, *, at_least: int = 0) -> None:
        """Load staged pages in transactions of their own, while more than `at_least` records are pending."""
        pages, batch = await self._next_batch()
        while pages and self._pending > at_least:
            self._observe("load.started", pages=len(pages))
            writing = asyncio.ensure_future(
                self._database.write(partial(self._load, pages=pages, batch=batch))
            )
            try:
                # what comes next is decoded while the database is busy with this
                following = await self._next_batch(pages[-1].stamp)
            finally:
                counts, written = await writing
            await self._loaded(counts, written, sum(page.envelope.records for page in pages))
            pages, batch = following
        if not pages:
            self._pending = 0

    async def _loaded(self, counts: LoadCounts, written: Counter[str], records: int) -> None:
        self._counts += counts
        self._written += written
        async with self._changed:
            self._pending = max(0, self._pending - records)
            self._changed.notify_all()
        self._observe("load.finished", **msgspec.structs.asdict(counts))

    async def _next_batch(self, after: int | None = None) -> tuple[list[Page], Batch]:
        """The next staged pages, and what they say."""
        pages = await self._next_pages(after)
        return pages, await self._decoded(pages)

    async def _decoded(self, pages: list[Page]) -> Batch:
        batch = Batch()
        for page in pages:
            self._job._loader.add(page, batch)
            # fetching, and what the database answers, need not wait for all of them
            await asyncio.sleep(0)
        return batch

    async def _next_pages(self, after: int | None = None) -> list[Page]:
        """The next staged pages, as many as one transaction takes."""
        after = await self._job._loaded_to() if after is None else after
        chosen: list[Page] = []
        records = size = 0
        async for page in self._job._pages(after):
            chosen.append(page)
            records += page.envelope.records
            size += len(page.body or b"")
            if records >= BATCH or size >= BATCH_BYTES:
                break
        return chosen

    async def _last_pages(self) -> list[Page]:
        """Load what more than one transaction takes, in a window; the pages for the last one."""
        while (pages := await self._next_pages()) and pages[-1].stamp < await self._log.top():
            await self._open_window()
            batch = await self._decoded(pages)
            counts, written = await self._database.write(partial(self._load, pages=pages, batch=batch))
            await self._loaded(counts, written, sum(page.envelope.records for page in pages))
        return pages

    def _load(
        self, connection: sa.Connection, pages: list[Page], batch: Batch
    ) -> tuple[LoadCounts, Counter[str]]:
        log = self._log.identity.id
        written: Counter[str] = Counter()
        counts = self._job._loader.load(
            connection, pages, batch, log=log, run=self.id, in_order=True, written=written
        )
        connection.execute(
            sa.update(LOGS)
            .where(LOGS.c.log == log)
            .values(loaded_to=pages[-1].stamp, top_stamp=pages[-1].stamp)
        )
        return counts, written

    # -- settling ----------------------------------------------------------------------------------

    async def _settle(self, *, whole: bool, load: bool) -> Certificate:
        """Load what is left, reconcile and prove; in between, ask for missing parents until none is left."""
        while True:
            if load and self._pending > BULK:
                await self._open_window()
            if load and self._windowed:
                await self._load_pending()
            pages = await self._last_pages() if load else []
            asks, certificate, loaded = await self._database.attempt(
                partial(self._attempt, pages=pages, batch=await self._decoded(pages), whole=whole)
            )
            if certificate is not None:
                if certificate.exit == 0 or self._windowed:
                    await self._loaded(*loaded, sum(page.envelope.records for page in pages))
                return msgspec.structs.replace(
                    certificate, load=self._counts, tables=self._tables(certificate)
                )
            await self._heal(asks)

    def _attempt(
        self, connection: sa.Connection, pages: list[Page], batch: Batch, *, whole: bool
    ) -> tuple[bool, tuple[list[Ask], Certificate | None, tuple[LoadCounts, Counter[str]]]]:
        """One try at the whole: kept when nothing is left to ask for and it is proven, or in a window."""
        loaded = self._load(connection, pages, batch) if pages else (LoadCounts(), Counter[str]())
        build_indexes(connection)
        self._job._reconciler.settle(connection)
        asks = self._asks(connection)
        if asks:
            return self._windowed, (asks, None, loaded)
        proven = self._job._reconciler.prove(connection, whole=whole)
        certificate = self._certificate(connection, proven, whole=whole, loaded=loaded[0])
        if proven.holds:
            self._job._reconciler.clear(connection)
            close_window(connection)
        return proven.holds or self._windowed, ([], certificate, loaded)

    def _asks(self, connection: sa.Connection) -> list[Ask]:
        left = self._job._config.heal.max_requests - self._requests
        if not self._fetchers or left <= 0:
            return []
        asks = self._job._healer.asks(connection, self._asked, limit=left)
        return [ask for ask in asks if ask.source in self._fetchers]

    async def _heal(self, asks: list[Ask]) -> None:
        """Ask for missing parents by id; what comes, and that nothing came, is staged."""
        self._observe("heal.asked", wanted=len(asks))
        for name, fetcher in self._fetchers.items():
            wanted = [Wanted(ask.stream, ask.key, ask.referrer) for ask in asks if ask.source == name]
            if wanted:
                report = await fetcher.by_id(wanted)
                self._requests += report.requests
                self._fetch += report
        self._asked |= {ask.where for ask in asks}

    # -- the certificate ---------------------------------------------------------------------------

    def _certificate(
        self, connection: sa.Connection, proven: Proven, *, whole: bool, loaded: LoadCounts
    ) -> Certificate:
        missing = counted(connection, MISSING.c.state)
        withheld = counted(connection, WITHHELD.c.reason, WITHHELD.c.value.is_not(None))
        rows = self._job._count_rows(connection)
        absent = {
            (row.table, row.key) for row in connection.execute(sa.select(MISSING.c.table, MISSING.c.key))
        }
        return Certificate(
            run=self.id,
            command=self._command,
            started=self._started,
            ended=self._job._clock.now().isoformat(timespec="seconds"),
            exit=0 if proven.holds else 4,
            scope="whole" if whole else "touched",
            fetch=self._fetch,
            load=self._counts + loaded,
            tables=tuple(TableReport(table=name, rows=count, written=0) for name, count in rows.items()),
            references=proven.references,
            derived=proven.derived,
            missing=missing,
            healed=len(self._asked - absent),
            withheld=withheld,
            tombstones=_count(connection, TOMBSTONES),
            dead_letters=_count(connection, DEAD_LETTERS, DEAD_LETTERS.c.state == "open"),
            unmapped=tuple(_unmapped(connection)),
            remarks=tuple(proven.accounting),
        )

    def _tables(self, certificate: Certificate) -> tuple[TableReport, ...]:
        return tuple(
            msgspec.structs.replace(one, written=self._written[one.table]) for one in certificate.tables
        )

    async def _finish(self, certificate: Certificate, gaps: int) -> Certificate:
        """Give the certificate its exit status and write it down."""
        remarks = [*certificate.remarks, *self._remarks(certificate, gaps)]
        exit = certificate.exit or (3 if self._incomplete(certificate, gaps) else 0)
        final = msgspec.structs.replace(
            certificate, exit=exit, gaps=gaps, remarks=tuple(remarks), fetch=self._fetch
        )
        text = msgspec.json.encode(final).decode()
        await self._database.write(
            lambda connection: connection.execute(
                sa.update(RUNS)
                .where(RUNS.c.id == self.id)
                .values(ended=final.ended, exit=exit, certificate=text)
            )
        )
        return final

    @staticmethod
    def _incomplete(certificate: Certificate, gaps: int) -> bool:
        return bool(certificate.fetch.failures or gaps or certificate.load.letters)

    @staticmethod
    def _remarks(certificate: Certificate, gaps: int) -> list[str]:
        remarks = []
        if certificate.exit == 4:
            remarks.append("the references, pointers or counters could not be proven")
        if certificate.fetch.failures:
            remarks.append(
                f"{len(certificate.fetch.failures)} partitions gave up; the next sync goes on with them"
            )
        if gaps:
            remarks.append(f"{gaps} gaps in what was fetched: `ingest gaps` shows them")
        if certificate.load.letters:
            remarks.append("some records could not be stored: `ingest dead-letters` shows them")
        return remarks


#: exit statuses of runs that gave a certificate
_CERTIFIED = (0, 3)
#: seconds between looks at how much is staged, while fetching
_LOOK = 0.05


def _count(connection: sa.Connection, table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(table).where(*where)) or 0


def _unmapped(connection: sa.Connection) -> list[str]:
    rows = connection.execute(sa.select(KEYS).order_by(KEYS.c.source, KEYS.c.stream, KEYS.c.path))
    return [f"{row.source}.{row.stream}: {row.path}" for row in rows]


def _missing(connection: sa.Connection, catalog: Catalog) -> list[MissingParent]:
    found = []
    for row in connection.execute(sa.select(MISSING).order_by(MISSING.c.table, MISSING.c.key)).mappings():
        held = sa.and_(WITHHELD.c.target_table == row["table"], WITHHELD.c.target_key == row["key"])
        by = connection.execute(sa.select(WITHHELD.c.table, WITHHELD.c.column).where(held).limit(1)).first()
        found.append(
            MissingParent(
                table=row["table"],
                key=row["key"],
                state=row["state"],
                attempts=row["attempts"],
                references=_count(connection, WITHHELD, held),
                by=_referring(catalog, by.table, by.column) if by else "",
            )
        )
    return found


def _referring(catalog: Catalog, table: str, column: str) -> str:
    """The columns that a withheld entry is about, by their names."""
    name = column.removeprefix(FOR)
    reference = next((one for one in catalog.references_of(table) if one.name == name), None)
    return str(reference) if reference is not None else f"{table}.{column}"
