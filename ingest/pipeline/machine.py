"""The rooms of one job, wired."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog
from ingest.clock import Clock
from ingest.config import Config, ConfiguredSource
from ingest.database import Database
from ingest.errors import UsageError
from ingest.fetch.client import Client
from ingest.fetch.fetcher import Fetcher
from ingest.fetch.known import gaps, recall
from ingest.heal import Healer
from ingest.ledger import LOGS
from ingest.load.decoders import Decoders
from ingest.load.loader import Loader
from ingest.pipeline import limits
from ingest.pipeline.drift import Drift
from ingest.reconcile.deletes import Allowance
from ingest.reconcile.reconciler import Reconciler
from ingest.replay import ReplayTransport
from ingest.report import Gap, Observer
from ingest.source import Source
from ingest.staging import PageLog
from ingest.types import Page


class Machine:
    """What a job and its runs work with."""

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
        self.config, self.catalog, self.database, self.log = config, catalog, database, log
        self.observe, self.clock = observe, clock
        self.drift = Drift(database, log, config.log_path)
        #: how log and database differ, for every certificate
        self.remarks: tuple[str, ...] = ()
        self.healer = Healer(_sources(config), catalog, database.engine, modules=_modules(config))
        self.decoders = decoders_of(config, catalog)
        self.loader = Loader(self.decoders, catalog, database.engine, database.keys)
        bounds = config.deletes
        self.reconciler = Reconciler(
            catalog,
            database.engine,
            database.keys,
            fetchable=self.healer.tables,
            allowance=Allowance(bounds.rows, bounds.percent / 100),
            observe=observe,
        )

    def now(self) -> str:
        """The time as the ledger keeps it."""
        return said(self.clock)

    def chosen(self, names: tuple[str, ...]) -> list[ConfiguredSource]:
        """The named sources, all of them when none is; UsageError for a name that is not configured."""
        return chosen(self.config, names)

    def client(self, source: ConfiguredSource) -> Client:
        """An HTTP client of a source, or of its recorded pages."""
        return client_of(self.config, source, clock=self.clock, observe=self.observe)

    def fetcher(self, source: ConfiguredSource, client: Client, run: str, **ways: Any) -> Fetcher:
        """What asks for a source's pages, in a run."""
        return Fetcher(
            source,
            self.log,
            client,
            run=run,
            clock=self.clock,
            concurrency=self.config.fetch.concurrency,
            observe=self.observe,
            proving=self.decoders.proving(source.name),
            **ways,
        )

    def settle(self, connection: sa.Connection, *, allow_deletes: bool = False) -> None:
        """Reconcile; what is kept aside then makes room for rows that wait, and what they lead to is next."""
        self.reconciler.settle(connection, allow_deletes=allow_deletes)
        for _ in range(limits.ROUNDS):
            if not self.loader.settle_claims(connection):
                break
            self.reconciler.settle(connection, allow_deletes=allow_deletes)
        self.healer.schedule(connection, self.database.engine, self.clock)

    async def pages(self, after: int = 0) -> AsyncIterator[Page]:
        """Every staged page above a stamp."""
        while pages := await self.log.read(after, limit=limits.READ):
            for page in pages:
                yield page
            after = pages[-1].stamp

    async def loaded_to(self) -> int:
        """The stamp at or below which every page is marked as loaded."""
        identity = self.log.identity

        def ask(connection: sa.Connection) -> int:
            return connection.scalar(sa.select(LOGS.c.loaded_to).where(LOGS.c.log == identity.id)) or 0

        return await self.database.read(ask)

    async def pending(self) -> tuple[int, int]:
        """Pages that are staged and not loaded, and their records."""
        after = await self.loaded_to()
        staged = [envelope.records async for _, _, envelope in self.log.envelopes(after)]
        return len(staged), sum(staged)

    async def gaps(self, fetchers: Mapping[str, Fetcher]) -> list[Gap]:
        """Holes in what has been fetched, of every source; those who have just fetched know theirs."""
        found: list[Gap] = []
        for name, source in self.config.sources.items():
            if name in fetchers:
                found += fetchers[name].gaps()
            else:
                found += gaps(await recall(self.log, name), source.source.streams)
        return found


def said(clock: Clock) -> str:
    """The time as the ledger keeps it."""
    return clock.now().isoformat(timespec="milliseconds")


def chosen(config: Config, names: tuple[str, ...]) -> list[ConfiguredSource]:
    """The named sources, all of them when none is; UsageError for a name that is not configured."""
    for name in names:
        if name not in config.sources:
            raise UsageError(
                f"there is no source {name!r}",
                where=str(config.file),
                hint=f"known: {', '.join(config.sources)}",
            )
    return [one for name, one in config.sources.items() if not names or name in names]


def client_of(config: Config, source: ConfiguredSource, *, clock: Clock, observe: Observer) -> Client:
    """An HTTP client of a source, or of its recorded pages."""
    if source.replay is None:
        return Client(source, clock=clock, observe=observe, concurrency=config.fetch.concurrency)
    ignoring = source.source.auth.query or () if source.source.auth else ()
    transport = ReplayTransport(source.replay, source.base_url, ignoring=ignoring)
    open_source = msgspec.structs.replace(source.source, auth=None, check=None, rate=None)
    recorded = msgspec.structs.replace(source, source=open_source)
    return Client(recorded, transport=transport, clock=clock, observe=observe)


def decoders_of(config: Config, catalog: Catalog) -> Decoders:
    """What takes the pages of a job's sources apart."""
    return Decoders(_sources(config), catalog, modules=_modules(config))


def _sources(config: Config) -> dict[str, Source]:
    return {name: one.source for name, one in config.sources.items()}


def _modules(config: Config) -> dict[str, str]:
    """The module of models that each source's entities are looked for in."""
    return {name: f"{one.package}.models" for name, one in config.sources.items()}
