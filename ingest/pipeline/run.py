"""One run, from its first event to its certificate."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from ingest.config import ConfiguredSource
from ingest.fetch.auth import prove
from ingest.fetch.fetcher import Fetcher, Wanted
from ingest.heal import Ask
from ingest.ledger import LOGS, RUNS
from ingest.pipeline import limits
from ingest.pipeline.certify import Facts, certify, finished
from ingest.pipeline.feed import Feed, Load
from ingest.pipeline.machine import Machine
from ingest.pipeline.questions import certificates
from ingest.reconcile.deletes import begin_budget, resume_budget
from ingest.report import CERTIFIED, Certificate, FetchReport
from ingest.types import Envelope, LoadCounts, collected_seldom
from ingest.window import build, close_window, open_window, put_off, try_to_enforce, window


class _Attempt(NamedTuple):
    """What one try at the whole came to."""

    #: what it wrote stays
    kept: bool
    #: missing parents to ask for before the next try
    asks: list[Ask]
    #: None while there is something to ask for
    certificate: Certificate | None
    counts: LoadCounts
    written: Counter[str]


class Run:
    """One run of a job's machine."""

    def __init__(self, machine: Machine, id: str, command: str, *, allow_deletes: bool = False) -> None:
        #: `allow_deletes`: however many rows go, and those that were held back before
        self._allow_deletes = allow_deletes
        self.id, self._command, self._started = id, command, machine.now()
        self._machine = machine
        self._database, self._log, self._observe = machine.database, machine.log, machine.observe
        self._fetchers: dict[str, Fetcher] = {}
        self._fetch = FetchReport()
        self._counts = LoadCounts()
        self._written: Counter[str] = Counter()
        self._asked: set[tuple[str, str]] = set()
        self._requests = 0
        self._windowed = False
        #: missing parents are being asked for: nothing is loaded meanwhile
        self._healing = False
        #: records that are staged and not loaded
        self._pending = 0
        self._changed = asyncio.Condition()
        self._staged = asyncio.Event()

    async def go(
        self,
        sources: Sequence[ConfiguredSource],
        fetch: Callable[[Fetcher], Any] | None,
        *,
        whole: bool,
        load: bool,
    ) -> Certificate:
        """Fetch from the sources, load what is staged, settle and certify."""
        self._observe("run.started", run=self.id, command=self._command)
        await self._database.write(self._begin)
        after = await self._machine.loaded_to()
        _, self._pending = await self._machine.pending()
        self._feed = Feed(self._machine, after)
        self._feed.expect(self._pending)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._feed.close)
            stack.enter_context(collected_seldom())
            for source in sources:
                client = await stack.enter_async_context(self._machine.client(source))
                self._fetchers[source.name] = self._machine.fetcher(
                    source, client, self.id, gate=self._gate, on_page=self._page_staged
                )
                if fetch is not None:
                    await prove(client)
            if fetch is not None:
                await self._fetch_and_load(fetch)
            certificate = await self._settle(whole=whole or await self._covers_all(), load=load)
        pending, _ = (0, 0) if load else await self._machine.pending()
        gaps = len(await self._machine.gaps(self._fetchers if fetch is not None else {}))
        final = finished(certificate, self._fetch, gaps=gaps, pending=pending, said=self._machine.remarks)
        await self._database.write(partial(self._end, final=final))
        self._observe("run.finished", exit=final.exit)
        return final

    def _begin(self, connection: sa.Connection) -> None:
        """Write the run down; an open window is said before anything else."""
        resume_budget(connection, self._database.engine, partial(_newest, connection))
        held = window(connection)
        self._windowed = held is not None
        if held is not None:
            self._observe("window.open", why=held.why)
        connection.execute(
            sa.insert(RUNS).values(
                id=self.id, command=self._command, epoch=self._database.epoch or 0, started=self._started
            )
        )

    def _end(self, connection: sa.Connection, *, final: Certificate) -> None:
        text = msgspec.json.encode(final).decode()
        connection.execute(
            sa.update(RUNS)
            .where(RUNS.c.id == self.id)
            .values(ended=final.ended, exit=final.exit, certificate=text)
        )

    async def _covers_all(self) -> bool:
        """A certificate covers everything where the last one is none to build on, or a window is open."""
        told = RUNS.c.certificate.is_not(None)
        newest = sa.select(sa.func.max(RUNS.c.started)).where(told).scalar_subquery()
        last = sa.select(RUNS.c.exit).where(told, RUNS.c.started == newest)
        exits = set(await self._database.read(lambda connection: connection.scalars(last).all()))
        return self._windowed or not exits or not exits <= CERTIFIED

    # -- fetching, and loading beside it -----------------------------------------------------------

    def _page_staged(self, _stamp: int, envelope: Envelope) -> None:
        self._pending += envelope.records
        self._feed.expect(self._pending)
        self._staged.set()

    async def _gate(self) -> None:
        """Fetching waits while too much is unloaded, and loading goes on beside it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._pending < limits.BACKLOG or self._healing)

    async def _fetch_and_load(self, fetch: Callable[[Fetcher], Any]) -> None:
        tasks = [asyncio.ensure_future(fetch(fetcher)) for fetcher in self._fetchers.values()]
        done = asyncio.gather(*tasks)
        try:
            while not done.done():
                self._staged.clear()
                news = await self._feed.read_on()
                if self._feed.full or (self._pending >= limits.BULK and not news):
                    await self._load_in_window()
                elif not news:
                    await self._until_staged(done)
            for report in await done:
                self._fetch += report
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(done, *tasks, return_exceptions=True)

    async def _load_in_window(self) -> None:
        """Write what was decoded in a transaction of its own; what comes next is decoded beside it."""
        await self._open_window()
        load = self._feed.take()
        self._observe("load.started", pages=len(load.pages))
        writing = asyncio.ensure_future(self._database.write(partial(self._load, load=load)))
        try:
            while not writing.done():
                self._staged.clear()
                if not await self._feed.read_on():
                    await self._until_staged(writing)
        finally:
            counts, written = await writing
        await self._loaded(load, counts, written)

    async def _until_staged(self, ended: asyncio.Future[Any]) -> None:
        """Wait for another page, unless there is no place for it, or for the end of something."""
        page = asyncio.ensure_future(self._staged.wait())
        await asyncio.wait([ended] if self._feed.full else [ended, page], return_when=asyncio.FIRST_COMPLETED)
        page.cancel()

    async def _open_window(self) -> None:
        if not self._windowed:
            self._windowed = True
            why = f"run {self.id} is loading more than one transaction holds"
            await self._database.write(partial(self._begin_window, why=why))
            self._observe("window.opened", why=why)

    def _begin_window(self, connection: sa.Connection, *, why: str) -> None:
        open_window(connection, why)
        put_off(connection, self._machine.catalog, self._database.engine)

    def _load(self, connection: sa.Connection, *, load: Load) -> tuple[LoadCounts, Counter[str]]:
        log, written = self._log.identity.id, Counter[str]()
        if not load.pages:
            return LoadCounts(), written
        counts = self._machine.loader.load(
            connection, load.pages, load.take(), log=log, run=self.id, in_order=True, written=written
        )
        top = load.pages[-1].stamp
        # pages that are loaded once more lie below what was loaded before
        highest = sa.case((LOGS.c.top_stamp > top, LOGS.c.top_stamp), else_=top)
        connection.execute(sa.update(LOGS).where(LOGS.c.log == log).values(loaded_to=top, top_stamp=highest))
        return counts, written

    async def _loaded(self, load: Load, counts: LoadCounts, written: Counter[str]) -> None:
        self._counts += counts
        self._written += written
        async with self._changed:
            self._pending -= load.records
            self._changed.notify_all()
        self._observe("load.finished", **msgspec.structs.asdict(counts))

    # -- settling ----------------------------------------------------------------------------------

    async def _settle(self, *, whole: bool, load: bool) -> Certificate:
        """Load what is left, reconcile and prove; in between, ask for missing parents until none is left."""
        while True:
            last = await self._last_load() if load else Load(0)
            tried = await self._database.attempt(
                partial(self._attempt, load=last, whole=whole, all_loaded=load)
            )
            if tried.kept:
                await self._loaded(last, tried.counts, tried.written)
            elif load:
                self._feed.go_back(last)
            if tried.certificate is not None:
                return tried.certificate
            await self._heal(tried.asks)

    async def _last_load(self) -> Load:
        """What one last transaction takes. The rest, if there is more, is loaded before, in a window."""
        await self._feed.read_on()
        while self._feed.full and not await self._feed.at_end():
            await self._load_in_window()
            await self._feed.read_on()
        return self._feed.take()

    def _attempt(
        self, connection: sa.Connection, *, load: Load, whole: bool, all_loaded: bool
    ) -> tuple[bool, _Attempt]:
        """One try at the whole: kept when nothing is left to ask for and it is proven, or in a window."""
        counts, written = self._load(connection, load=load)
        build(connection)
        self._machine.settle(connection, allow_deletes=self._allow_deletes)
        asks = self._asks(connection)
        if asks:
            return self._windowed, _Attempt(self._windowed, asks, None, counts, written)
        enforced = try_to_enforce(connection) if self._windowed and all_loaded else ()
        proven = self._machine.reconciler.prove(connection, whole=whole, enforced=enforced)
        held = self._machine.reconciler.held(connection)
        certificate = certify(connection, self._facts(counts, written, whole=whole), proven, held)
        if proven.holds:
            self._machine.reconciler.clear(connection)
        if proven.holds and all_loaded:
            close_window(connection)
            self._begin_budget(connection, certificate)
        kept = proven.holds or self._windowed
        return kept, _Attempt(kept, [], certificate, counts, written)

    def _begin_budget(self, connection: sa.Connection, certificate: Certificate) -> None:
        log = LOGS.c.log == self._log.identity.id
        settled_to = connection.scalar(sa.select(LOGS.c.loaded_to).where(log)) or 0
        had = {one.table: one.rows for one in certificate.tables}
        begin_budget(connection, self._database.engine, had, settled_to=settled_to)

    def _facts(self, counts: LoadCounts, written: Counter[str], *, whole: bool) -> Facts:
        return Facts(
            run=self.id,
            command=self._command,
            started=self._started,
            ended=self._machine.now(),
            catalog=self._machine.catalog,
            asked=frozenset(self._asked),
            load=self._counts + counts,
            written=self._written + written,
            whole=whole,
        )

    def _asks(self, connection: sa.Connection) -> list[Ask]:
        left = self._machine.config.heal.max_requests - self._requests
        if not self._fetchers or left <= 0:
            return []
        asks = self._machine.healer.asks(connection, self._asked, now=self._machine.now(), limit=left)
        return [ask for ask in asks if ask.source in self._fetchers]

    async def _heal(self, asks: list[Ask]) -> None:
        """Ask for missing parents by id; what comes, and that nothing came, is staged."""
        self._observe("heal.asked", wanted=len(asks))
        self._healing = True
        try:
            for name, fetcher in self._fetchers.items():
                wanted = [Wanted(ask.stream, ask.key, ask.referrer) for ask in asks if ask.source == name]
                if wanted:
                    report = await fetcher.by_id(wanted)
                    self._requests += report.requests
                    self._fetch += report
        finally:
            self._healing = False
        self._asked |= {ask.where for ask in asks}


def _newest(connection: sa.Connection) -> Certificate | None:
    return next(iter(certificates(connection)[-1:]), None)
