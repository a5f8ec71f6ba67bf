"""A mirror without a network: pages made by hand, loaded and settled in any order."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ingest.catalog import Catalog, read_catalog
from ingest.engines import Engine, engine_for
from ingest.keys import Keys, load_key, raw
from ingest.ledger import LEDGER, LOCK, WITHHELD
from ingest.load.decoders import Decoders
from ingest.load.loader import Loader
from ingest.reconcile.deletes import Allowance, begin_budget
from ingest.reconcile.reconciler import Proven, Reconciler
from ingest.source import Source
from ingest.types import Envelope, LoadCounts, Page, Request, Walk
from ingest.window import build, close_window, open_window, put_off

LOG = "log"


def page(stamp: int, stream: str, records: Any, *, asked: int = 0, **envelope: Any) -> Page:
    """A page of `records` (any JSON) with just enough of an envelope."""
    body = records if isinstance(records, bytes) else msgspec.json.encode(records)
    return Page(
        stamp=stamp,
        after=0,
        body=body,
        envelope=Envelope(
            run="run",
            source="test",
            stream=stream,
            stream_hash="",
            walk=envelope.pop("walk", Walk(id="w", kind="full")),
            asked=asked,
            request=Request(path=f"/{stream}"),
            digest=hashlib.sha256(body).hexdigest(),
            **envelope,
        ),
    )


class Mirrored:
    """One database, its loader and its reconciler."""

    def __init__(self, connection: AsyncConnection, engine: Engine, catalog: Catalog, source: Source) -> None:
        self.connection, self.engine, self.catalog = connection, engine, catalog
        self._source = source
        self._begin()

    def _begin(self) -> None:
        self.keys = Keys(self.catalog, self.engine)
        decoders = Decoders({"test": self._source}, self.catalog)
        self.loader = Loader(decoders, self.catalog, self.engine, self.keys)
        self.reconciler = Reconciler(self.catalog, self.engine, self.keys)

    async def prepare(self) -> None:
        def create(connection: sa.Connection) -> None:
            for metadata in (*self.catalog.metadatas, LEDGER):
                metadata.create_all(connection)
            connection.execute(sa.insert(LOCK).values(id=1, epoch=1))
            self.keys.create(connection)
            self.loader.create(connection)

        async with self.connection.begin():
            await self.connection.run_sync(create)

    async def open_window(self) -> None:
        """From here on loads may leave references that lead nowhere."""

        def open_it(connection: sa.Connection) -> None:
            open_window(connection, "a test")
            put_off(connection, self.catalog, self.engine)

        async with self.connection.begin():
            await self.connection.run_sync(open_it)

    async def close_window(self) -> None:
        """The foreign keys come back, where there are any to come back."""
        async with self.connection.begin():
            await self.connection.run_sync(close_window)

    async def load(self, pages: Sequence[Page], *, in_order: bool = True) -> LoadCounts:
        async with self.connection.begin():
            return await self.connection.run_sync(lambda c: self._load(c, pages, in_order))

    def _load(self, connection: sa.Connection, pages: Sequence[Page], in_order: bool) -> LoadCounts:
        return self.loader.load(connection, pages, log=LOG, run="run", in_order=in_order)

    async def settle(self, *, allow: bool = False, whole: bool = True) -> Proven:
        """Reconcile, prove what was touched and, if `whole`, everything; forget what was touched."""
        async with self.connection.begin():
            return await self.connection.run_sync(lambda c: self._settle(c, allow=allow, whole=whole))

    async def hold_deletes(self) -> None:
        """From here on all deletes are held that nobody allows."""
        self.reconciler = Reconciler(self.catalog, self.engine, self.keys, allowance=Allowance(0, 0.0))
        had = dict.fromkeys(self.catalog.tables, 1)
        async with self.connection.begin():
            await self.connection.run_sync(lambda c: begin_budget(c, self.engine, had, settled_to=0))

    def _settle(self, connection: sa.Connection, *, allow: bool = False, whole: bool = True) -> Proven:
        build(connection)
        self.reconciler.settle(connection, allow_deletes=allow)
        while self.loader.settle_claims(connection):
            self.reconciler.settle(connection)
        touched = self.reconciler.prove(connection, whole=False)
        assert touched.holds, touched
        self.reconciler.clear(connection)
        return self.reconciler.prove(connection, whole=True) if whole else touched

    async def load_and_settle(
        self, pages: Sequence[Page], *, in_order: bool = True
    ) -> tuple[LoadCounts, Proven]:
        """Both in one transaction, at whose end the foreign keys hold."""
        async with self.connection.begin():
            return await self.connection.run_sync(lambda c: (self._load(c, pages, in_order), self._settle(c)))

    async def forget(self) -> None:
        """Empty all of it, and know nothing: what is begun now begins with a new mirror."""

        def empty(connection: sa.Connection) -> None:
            for metadata in (*self.catalog.metadatas, LEDGER):
                for table in metadata.tables.values():
                    connection.execute(sa.delete(table))
            connection.execute(sa.insert(LOCK).values(id=1, epoch=1))

        async with self.connection.begin():
            await self.connection.run_sync(empty)
        self._begin()

    async def rows(self, table: str) -> dict[Any, dict[str, Any]]:
        """The table's rows in stored form, by key, without the ledger's columns."""
        columns = [
            raw(self.engine, column)
            for column in self.catalog.tables[table].sql.c
            if not column.name.startswith("ingest_")
        ]
        async with self.connection.begin():
            found = (await self.connection.execute(sa.select(*columns))).mappings().all()
        key = self.catalog.tables[table].key
        return {tuple(row[name] for name in key): dict(row) for row in found}

    async def withheld(self) -> dict[tuple[str, Any, str], Any]:
        """Every withheld value: (table, key, column) to the value; '' is a whole row's stated values."""
        async with self.connection.begin():
            rows = (await self.connection.execute(sa.select(WITHHELD))).mappings().all()
        found = {}
        for row in rows:
            if row["value"] is not None:
                value = msgspec.json.decode(row["value"])
                found[(row["table"], load_key(row["key"]), row["column"])] = (
                    value if row["column"] else value["values"]
                )
        return found

    async def ledger(self, table: sa.Table) -> list[Mapping[str, Any]]:
        async with self.connection.begin():
            return [dict(row) for row in (await self.connection.execute(sa.select(table))).mappings()]


@asynccontextmanager
async def mirrored(
    where: Path | str | Engine, models: ModuleType | Iterable[ModuleType], source: Source
) -> AsyncIterator[Mirrored]:
    """A fresh mirror of `models` in a file under a folder, or in an empty database."""
    made = f"sqlite:///{where / 'mirror.db'}" if isinstance(where, Path) else where
    engine = engine_for(made) if isinstance(made, str) else made
    catalog = read_catalog([models] if isinstance(models, ModuleType) else models)
    await engine.create()
    try:
        async with engine.writer() as connection:
            mirror = Mirrored(connection, engine, catalog, source)
            await mirror.prepare()
            yield mirror
    finally:
        if engine is not where:
            await engine.close()
