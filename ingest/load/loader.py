"""One load: a transaction of pages, with their marks and counts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog
from ingest.engines.base import Engine
from ingest.errors import LogDrift
from ingest.keys import Keys, dump_key, load_key, touch_keys
from ingest.ledger import DEAD_LETTERS, KEYS, LOADS, MISSING, PAGES, REOPENED, TOUCHED, WITHHELD
from ingest.load.batch import Batch, Letter, rank_of
from ingest.load.decoders import Decoders
from ingest.load.sets import settle_sets
from ingest.load.store import Store
from ingest.types import LoadCounts, Page


class Loader:
    """Loads decoded pages through one connection."""

    def __init__(
        self,
        decoders: Decoders,
        catalog: Catalog,
        engine: Engine,
        keys: Keys,
    ) -> None:
        self._decoders, self._engine = decoders, engine
        self._store = Store(catalog, engine, keys)

    def create(self, connection: sa.Connection) -> None:
        """Make the temporary tables on this connection."""
        self._store.create(connection)

    def load(
        self,
        connection: sa.Connection,
        pages: Sequence[Page],
        batch: Batch | None = None,
        *,
        log: str,
        run: str,
        in_order: bool,
        written: Counter[str] | None = None,
    ) -> LoadCounts:
        """Write what the pages say, their marks and the load's counts, all in the caller's transaction.

        `batch`: what they say, if they were decoded before; it is used up. `in_order`: every page of the
        log below these is loaded. A page that is marked already is passed over. `written`: counts the rows
        written, by table.
        """
        unmarked = self._unmarked(connection, log, pages)
        if not unmarked:
            return LoadCounts()
        if batch is None or len(unmarked) < len(pages):
            batch = self._decoders.decode(unmarked)
        pages = unmarked
        self._store.bind(connection)
        # what an open dead letter says is not loaded: where it may speak of a table, pages are not in order
        waiting = self._spoken_of_by_letters(connection) if in_order else frozenset()
        ordered = {name: in_order and name not in waiting for name in batch.tables()}
        total, kept = 0, batch.kept + settle_sets(connection, self._store, batch, ordered)
        refused = 0
        for name in sorted(batch.tables()):
            outcome = self._store.apply(connection, name, batch, in_order=ordered.get(name, in_order))
            total, kept, refused = total + outcome.written, kept + outcome.kept, refused + outcome.rejected
            if written is not None:
                written[name] += outcome.written
            if name in waiting:
                self._settle_letters(connection, name, batch)
        counts = LoadCounts(
            pages=len(pages),
            quarantined=len(batch.quarantined),
            records=batch.records,
            written=total,
            kept=kept,
            rejected=batch.rejected + refused,
        )
        fresh = self._note(connection, pages, batch, log)
        counts = msgspec.structs.replace(counts, letters=fresh)
        self._mark(connection, pages, batch, counts, log=log, run=run)
        return counts

    def settle_claims(self, connection: sa.Connection) -> bool:
        """Let rows that wait for a unique value have it, where it is free or they are newer; if any does."""
        self._store.bind(connection)
        # what came back with its parent and found no room was not touched
        refused = sa.select(WITHHELD.c.table).where(WITHHELD.c.reason == "refused")
        touched = set(connection.scalars(sa.union(sa.select(TOUCHED.c.table), refused)))
        names = sorted(touched & self._store.catalog.tables.keys())
        return any([self._store.settle_claims(connection, name) for name in names])  # noqa: C419 (all of them)

    def _spoken_of_by_letters(self, connection: sa.Connection) -> frozenset[str]:
        """The tables that open dead letters may state rows of; all, where it is not known what one is."""
        opened = sa.select(DEAD_LETTERS.c.table).where(DEAD_LETTERS.c.state == "open").distinct()
        names = set(connection.scalars(opened))
        tables = self._store.catalog.tables
        if not names <= tables.keys():
            return frozenset(tables)
        return frozenset(one for name in names for one in self._store.catalog.stated_with(name))

    def _settle_letters(self, connection: sa.Connection, name: str, batch: Batch) -> None:
        """A dead letter is settled when all that it can have said was said anew, and later."""
        table, letters = self._store.catalog.tables[name], DEAD_LETTERS.c
        if table.mirror.version is not None or self._store.catalog.stated_with(name) != {name}:
            return
        full = batch.full.get(name, {})
        opened = sa.select(letters.id, letters.key, letters.stamp).where(
            letters.table == name, letters.key.is_not(None), letters.state == "open"
        )
        for id, text, stamp in connection.execute(opened).all():
            said = full.get(load_key(text))
            if said is not None and rank_of(said)[1] > stamp:
                connection.execute(sa.update(DEAD_LETTERS).where(letters.id == id).values(state="settled"))

    @staticmethod
    def _unmarked(connection: sa.Connection, log: str, pages: Sequence[Page]) -> list[Page]:
        """The pages that are to be loaded; LogDrift where another page was loaded in the place of one."""
        if not pages:
            return []
        stamps = [page.stamp for page in pages]
        within = PAGES.c.stamp.between(min(stamps), max(stamps))
        marks = sa.select(PAGES.c.stamp, PAGES.c.digest).where(
            PAGES.c.log == log, within, PAGES.c.state != REOPENED
        )
        marked = {row.stamp: row.digest for row in connection.execute(marks)}
        for page in pages:
            if marked.get(page.stamp, page.envelope.digest) != page.envelope.digest:
                raise LogDrift(
                    f"page {page.stamp} is another one in the page log than was loaded",
                    hint="put back the page log that it was filled from, or mirror into a new database",
                )
        return list({page.stamp: page for page in pages if page.stamp not in marked}.values())

    def _note(self, connection: sa.Connection, pages: Sequence[Page], batch: Batch, log: str) -> int:
        """Dead letters (how many are new), what by-id answers said, and keys that no column takes."""
        by_stamp = {page.stamp: page for page in pages}
        fresh = [
            letter
            for letter in (self._with_raw(one, by_stamp) for one in batch.letters)
            if not _is_known(connection, letter)
        ]
        columns = ["log", "stamp", "ordinal", "table", "key", "raw", "reason", "state"]
        self._engine.insert(connection, DEAD_LETTERS, columns, [_letter_row(log, one) for one in fresh])
        for fact in batch.facts:
            self._note_absence(connection, fact.table, dump_key(fact.key), fact.state, fact.stamp)
        rows = [(*where, stamp) for where, stamp in batch.unmapped.items()]
        self._engine.insert(connection, KEYS, KEYS.c.keys(), rows, new_only=True)
        return len(fresh)

    def _with_raw(self, letter: Letter, pages: Mapping[int, Page]) -> Letter:
        """A row that the database refused, with the bytes of the record it came from."""
        page = pages.get(letter.stamp)
        if letter.key is None or page is None:
            return letter
        return dataclasses.replace(letter, raw=self._decoders.raw_of(page, letter.ordinal) or letter.raw)

    def _note_absence(self, connection: sa.Connection, table: str, key: str, state: str, stamp: int) -> None:
        known = connection.execute(
            sa.select(MISSING).where(MISSING.c.table == table, MISSING.c.key == key)
        ).first()
        if known is None:
            connection.execute(
                sa.insert(MISSING).values(table=table, key=key, state=state, attempts=1, stamp=stamp)
            )
        else:
            newest = {"state": state, "stamp": stamp} if stamp > known.stamp else {}
            connection.execute(
                sa.update(MISSING)
                .where(MISSING.c.table == table, MISSING.c.key == key)
                .values(attempts=MISSING.c.attempts + 1, **newest)
            )
        touch_keys(connection, self._engine, table, [key])

    def _mark(
        self,
        connection: sa.Connection,
        pages: Sequence[Page],
        batch: Batch,
        counts: LoadCounts,
        *,
        log: str,
        run: str,
    ) -> None:
        inserted = connection.execute(
            sa.insert(LOADS).values(
                run=run,
                pages=counts.pages,
                quarantined=counts.quarantined,
                records=counts.records,
                written=counts.written,
                kept=counts.kept,
                rejected=counts.rejected,
            )
        ).inserted_primary_key
        load = inserted[0] if inserted else 0
        self._drop_reopened(connection, log, {page.stamp for page in pages})
        state = {True: "quarantined", False: "loaded"}
        self._engine.insert(
            connection,
            PAGES,
            PAGES.c.keys(),
            [
                (
                    log,
                    page.stamp,
                    page.envelope.asked,
                    page.envelope.digest,
                    state[page.stamp in batch.quarantined],
                    load,
                )
                for page in pages
            ],
        )

    @staticmethod
    def _drop_reopened(connection: sa.Connection, log: str, stamps: set[int]) -> None:
        """Take away what is left of the marks of pages that are loaded once more."""
        within = PAGES.c.stamp.between(min(stamps), max(stamps))
        reopened = sa.select(PAGES.c.stamp).where(PAGES.c.log == log, within, PAGES.c.state == REOPENED)
        for stamp in stamps.intersection(connection.scalars(reopened)):
            connection.execute(sa.delete(PAGES).where(PAGES.c.log == log, PAGES.c.stamp == stamp))


def _letter_row(log: str, one: Letter) -> tuple[object, ...]:
    key = dump_key(one.key) if one.key else None
    return (log, one.stamp, one.ordinal, one.table, key, one.raw, one.reason, "open")


def _is_known(connection: sa.Connection, one: Letter) -> bool:
    """True when the same record is a dead letter already, for the same reason."""
    letters = DEAD_LETTERS.c
    same = sa.select(letters.id).where(
        letters.state == "open", letters.reason == one.reason, letters.raw == one.raw
    )
    return connection.scalar(same.limit(1)) is not None
