"""Why a row is as it is: from its values to the pages that stated them, to what was asked, and to the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog, Table
from ingest.credential import without_signatures
from ingest.database import Database
from ingest.errors import SetAside, UsageError
from ingest.keys import dump_key, is_row, raw
from ingest.leaving import is_here
from ingest.ledger import DEAD_LETTERS, DELETES, MISSING, PAGES, RUNS, TOMBSTONES, WITHHELD
from ingest.load.convert import compile_stored
from ingest.load.decoders import Decoders
from ingest.load.merge import RankTuple, load_stated
from ingest.mirror import LEDGER_COLUMNS
from ingest.report import Trace, TracedPage, TracedValue
from ingest.staging import PageLog
from ingest.types import FOREVER, LOWEST_VERSION, Key, Request
from ingest.withheld import FOR, load_row


class _Told(NamedTuple):
    """What the database says of one key."""

    state: str
    values: list[TracedValue]
    events: list[str]
    #: where it was stated: (stamp, ordinal); -1 is the whole page
    places: set[tuple[int, int]]


class Tracer:
    """Traces rows of a mirror, through its database and its page log."""

    def __init__(self, catalog: Catalog, database: Database, log: PageLog, decoders: Decoders) -> None:
        self._catalog, self._database, self._log, self._decoders = catalog, database, log, decoders

    async def trace(self, name: str, texts: Sequence[str]) -> Trace:
        """Why the row with this key is as it is; UsageError when there can be no such row."""
        table, key = addressed(self._catalog, name, texts)
        told = await self._database.read(partial(self._told, table=table, key=key))
        ordinals: dict[int, list[int]] = {}
        for stamp, ordinal in sorted(told.places, reverse=True):
            ordinals.setdefault(stamp, []).append(ordinal)
        return Trace(
            table=table.name,
            key=dump_key(key),
            state=told.state,
            values=tuple(told.values),
            events=tuple(told.events),
            pages=tuple([await self._page(stamp, within) for stamp, within in ordinals.items()]),
        )

    def _told(self, connection: sa.Connection, *, table: Table, key: Key) -> _Told:
        return _Asking(connection, self._database, table, key).told()

    async def _page(self, stamp: int, ordinals: list[int]) -> TracedPage:
        """One page, and the records in it that spoke of the row."""
        page = await self._log.page(stamp)
        if page is None:
            return TracedPage(stamp=stamp, body="not in the page log")
        envelope, records = page.envelope, []
        if page.body is not None:
            found = [self._decoders.raw_of(page, one) for one in sorted(ordinals)]
            records = [one.decode("utf-8", "backslashreplace") for one in found if one is not None]
        state, ran = await self._database.read(partial(_mark, log=self._log.identity.id, stamp=stamp))
        run = await self._database.read(partial(_run, id=envelope.run))
        return TracedPage(
            stamp=stamp,
            body="kept" if page.body is not None else "pruned",
            loaded=state,
            load=ran,
            source=envelope.source,
            stream=envelope.stream,
            partition=envelope.partition,
            request=asked_for(envelope.request),
            status=envelope.status,
            run=envelope.run,
            command=run[0],
            started=run[1],
            records=tuple(dict.fromkeys(records)),
        )


class _Asking:
    """What the tables and the ledger say of one key, in one moment."""

    def __init__(self, connection: sa.Connection, database: Database, table: Table, key: Key) -> None:
        self._connection, self._engine = connection, database.engine
        self._table, self._key, self._text = table, key, dump_key(key)
        self._places: set[tuple[int, int]] = set()

    def told(self) -> _Told:
        row, aside = self._row(), self._aside()
        whole = aside.pop("", None)
        if row is not None:
            state = "shown" if self._stated(row) else "a stub: nobody has stated it"
            values = list(self._values(row, aside))
        elif whole is not None:
            state = f"withheld: {whole['reason']}"
            values = list(self._values_aside(whole))
        else:
            state, values = "not in the mirror", []
        return _Told(state, values, list(self._events(aside)), self._places)

    def _row(self) -> dict[str, Any] | None:
        table = self._table.sql
        columns = [raw(self._engine, table.c[name]) for name in (*self._table.names, *LEDGER_COLUMNS)]
        mine = is_row(self._engine, self._table, self._key)
        found = self._connection.execute(sa.select(*columns).where(mine, is_here(table))).mappings().first()
        return None if found is None else dict(found)

    def _aside(self) -> dict[str, dict[str, Any]]:
        """The withheld entries of the key, by column."""
        mine = sa.select(WITHHELD).where(WITHHELD.c.table == self._table.name, WITHHELD.c.key == self._text)
        return {row["column"]: dict(row) for row in self._connection.execute(mine).mappings()}

    @staticmethod
    def _stated(row: dict[str, Any]) -> bool:
        return bool(row["ingest_stamp"] > 0 or row["ingest_version"] != LOWEST_VERSION)

    def _values(self, row: dict[str, Any], aside: dict[str, dict[str, Any]]) -> Iterator[TracedValue]:
        """A shown row's values, and what is stated where it is not shown."""
        rank = (row["ingest_version"], row["ingest_stamp"], row["ingest_ordinal"])
        ranks = self._ranks({name: row[name] for name in self._table.names}, rank, row["ingest_exceptions"])
        for name in self._table.names:
            held = aside.get(name)
            stated = msgspec.json.decode(held["value"]) if held and held["value"] else row[name]
            yield self._value(name, row[name], stated, held["reason"] if held else None, ranks.get(name))

    def _values_aside(self, whole: dict[str, Any]) -> Iterator[TracedValue]:
        values, exceptions = load_row(self._table, whole["value"])
        padded = {**dict.fromkeys(self._table.names), **values}
        ranks = self._ranks(padded, (whole["version"], whole["stamp"], whole["ordinal"]), exceptions)
        for name, stated in values.items():
            yield self._value(name, None, stated, whole["reason"], ranks.get(name))

    def _ranks(self, values: dict[str, Any], rank: RankTuple, exceptions: str | None) -> dict[str, RankTuple]:
        return load_stated(self._table, values, rank, exceptions, lambda _: -1).ranks

    def _value(
        self, name: str, shown: Any, stated: Any, reason: str | None, rank: RankTuple | None
    ) -> TracedValue:
        if rank is not None:
            self._places.add(rank[1:])
        version = None if rank is None or rank[0] == LOWEST_VERSION else rank[0]
        stamp = None if rank is None else rank[1]
        return TracedValue(
            column=name, shown=shown, stated=stated, reason=reason, version=version, stamp=stamp
        )

    def _events(self, aside: dict[str, dict[str, Any]]) -> Iterator[str]:
        """What happened to the row beside being stated."""
        for column, entry in sorted(aside.items()):
            if column.startswith(FOR):
                yield f"waits for {entry['target_table']} {entry['target_key']} ({entry['reason']})"
        for row in self._of(TOMBSTONES):
            if row["stamp"] == FOREVER:
                page = int(row["proof"].rpartition(" ")[2])
                self._places.add((page, -1))
                yield f"erased by page {page}: what is said of it since is not shown, and is to be erased too"
                continue
            self._places.add((row["stamp"], -1))
            yield f"deleted upstream: {row['proof']}"
        for row in self._of(DELETES):
            self._places.add((row["stamp"], -1))
            yield f"proven to be deleted, and held back: {row['proof']}"
        for row in self._of(MISSING):
            if row["stamp"] > 0:
                self._places.add((row["stamp"], -1))
            yield f"missing: {row['state']}, asked for {row['attempts']} times"
        for row in self._of(DEAD_LETTERS):
            self._places.add((row["stamp"], row["ordinal"]))
            yield f"dead letter {row['id']} ({row['state']}): {row['reason']}"

    def _of(self, ledger: sa.Table) -> list[dict[str, Any]]:
        mine = sa.select(ledger).where(ledger.c.table == self._table.name, ledger.c.key == self._text)
        return [dict(row) for row in self._connection.execute(mine).mappings()]


def addressed(catalog: Catalog, name: str, texts: Sequence[str]) -> tuple[Table, Key]:
    """A table, and a key of it in stored form, as a person wrote them; UsageError where there can be none."""
    table = catalog.tables.get(name)
    if table is None:
        known = ", ".join(sorted(catalog.tables))
        raise UsageError(f"there is no table {name!r}", hint=f"known: {known}")
    if len(texts) != len(table.key):
        raise UsageError(
            f"a key of {name} has {len(table.key)} parts, and {len(texts)} are given",
            hint=f"say {' '.join(table.key).upper()}",
        )
    columns = [table.column(part) for part in table.key]
    try:
        stored = [compile_stored(column)(text) for column, text in zip(columns, texts, strict=True)]
    except SetAside as error:
        raise UsageError(error.message, where=name) from error
    return table, tuple(stored)


def _mark(connection: sa.Connection, *, log: str, stamp: int) -> tuple[str, int | None]:
    """How a page was loaded, and by which load."""
    mark = sa.select(PAGES.c.state, PAGES.c.load).where(PAGES.c.log == log, PAGES.c.stamp == stamp)
    found = connection.execute(mark).first()
    return ("pending", None) if found is None else (found.state, found.load)


def _run(connection: sa.Connection, *, id: str) -> tuple[str | None, str | None]:
    """A run's command, and when it began."""
    found = connection.execute(sa.select(RUNS.c.command, RUNS.c.started).where(RUNS.c.id == id)).first()
    return (None, None) if found is None else (found.command, found.started)


def asked_for(request: Request) -> str:
    """What was asked, in one line; credentials were never part of it, and signatures are masked."""
    said = "&".join(f"{name}={value}" for name, value in request.query)
    return f"{request.method} {without_signatures(request.path)}{'?' if said else ''}{said}"
