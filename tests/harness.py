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
from ingest.keys import Keys, load_key
from ingest.ledger import LEDGER, WITHHELD
from ingest.load.loader import Loader
from ingest.reconcile.reconciler import Proven, Reconciler
from ingest.source import Source
from ingest.types import Envelope, LoadCounts, Page, Request, Walk

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
        self.keys = Keys(catalog, engine)
        self.loader = Loader({"test": source}, catalog, engine, self.keys)
        self.reconciler = Reconciler(catalog, engine, self.keys)

    async def prepare(self) -> None:
        def create(connection: sa.Connection) -> None:
            for metadata in (*self.catalog.metadatas, LEDGER):
                metadata.create_all(connection)
            self.keys.create(connection)
            self.loader.create(connection)

        async with self.connection.begin():
            await self.connection.run_sync(create)

    async def load(self, pages: Sequence[Page], *, in_order: bool = True) -> LoadCounts:
        async with self.connection.begin():
            return await self.connection.run_sync(
                lambda c: self.loader.load(c, pages, log=LOG, run="run", in_order=in_order)
            )

    async def settle(self) -> Proven:
        """Reconcile, prove what was touched and everything, and forget what was touched."""

        def settle(connection: sa.Connection) -> Proven:
            self.reconciler.settle(connection)
            touched = self.reconciler.prove(connection, whole=False)
            assert touched.holds, touched
            self.reconciler.clear(connection)
            return self.reconciler.prove(connection, whole=True)

        async with self.connection.begin():
            return await self.connection.run_sync(settle)

    async def rows(self, table: str) -> dict[Any, dict[str, Any]]:
        """The table's rows in stored form, by key, without the ledger's columns."""
        names = [name for name in self.catalog.tables[table].sql.c.keys() if not name.startswith("ingest_")]  # noqa: SIM118
        quoted = ", ".join(f'"{name}"' for name in names)
        async with self.connection.begin():
            found = (
                (await self.connection.exec_driver_sql(f'SELECT {quoted} FROM "{table}"')).mappings().all()
            )
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
    path: Path, models: ModuleType | Iterable[ModuleType], source: Source
) -> AsyncIterator[Mirrored]:
    """A fresh mirror of `models` in a file under `path`."""
    engine = engine_for(f"sqlite:///{path / 'mirror.db'}")
    catalog = read_catalog([models] if isinstance(models, ModuleType) else models)
    await engine.create()
    try:
        async with engine.writer() as connection:
            mirror = Mirrored(connection, engine, catalog, source)
            await mirror.prepare()
            yield mirror
    finally:
        await engine.close()
