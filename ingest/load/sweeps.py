"""Listings proven complete: what one leaves out of its scope, and nobody has spoken of since, is gone.

    pages of a walk ──▶ counted ──▶ all loaded, without a dead letter ──▶ the scope's sweep ──▶ deletes

A scope is what the stream sets the same in every record of a page: the columns of its partition, or the
whole table. Unlike a complete list, which is all that keeps its rows alive, a sweep voids no statement: a
row lives while it was stated at its top since the listing's first page, wherever that was, and keeps what
older pages have said of it. So each scope needs to remember its newest listing only, and a late old copy
finds it there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from ingest.catalog import Table
from ingest.errors import SetAside
from ingest.keys import dump_key, given, load_key, raw, touch_keys
from ingest.leaving import is_here
from ingest.ledger import DELETES, LISTINGS, SWEEPS, WITHHELD
from ingest.load.batch import ABSENT, Batch, Listed, Scope, SetOf, rank_of
from ingest.load.merge import Sweep
from ingest.load.shape import Shape
from ingest.load.store import Store
from ingest.load.straight import is_of_page, of_page
from ingest.types import Envelope, Key
from ingest.withheld import LEFT_OUT, load_row


class Swept:
    """What the listings of one stream are of."""

    def __init__(self, shape: Shape, sets: Mapping[str, str]) -> None:
        self._shape = shape
        self._sets = {name: said for name, said in sorted(sets.items()) if name in shape.place}
        self._sets = {name: said for name, said in self._sets.items() if is_of_page(said)}
        self._of = SetOf(shape.table.name, tuple(self._sets))

    def note(self, stamp: int, envelope: Envelope, batch: Batch) -> None:
        """Count a page of a walk that may prove itself complete."""
        proof = envelope.covered.listing if envelope.covered is not None else None
        if envelope.walk.kind != "full" or (envelope.status >= 400 and proof is None):
            return
        owner = self._owner(envelope.partition)
        if owner is None:
            return
        listed = batch.listed.setdefault(envelope.walk.id, Listed(Scope(self._of, owner)))
        listed.stamps.add(stamp)
        if proof is not None:
            listed.pages, listed.first, listed.last = proof.pages, proof.first or stamp, stamp

    def _owner(self, partition: str) -> Key | None:
        """The scope's values in stored form; None where a record of the page could not have them."""
        parameters = msgspec.json.decode(partition)
        values = {name: of_page(said, parameters) for name, said in self._sets.items()}
        if any(value is ABSENT or value is None for value in values.values()):
            return None
        try:
            return tuple(self._shape.convert(self._shape.place[name], one) for name, one in values.items())
        except SetAside:
            return None


class Sweeping:
    """The listings of one batch, around the writing of its rows."""

    def __init__(self, connection: sa.Connection, store: Store, batch: Batch) -> None:
        self._connection, self._store, self._batch = connection, store, batch
        self._open = {row.walk: row for row in connection.execute(sa.select(LISTINGS))}
        #: listings that begin and end in the batch, and leave nothing out
        self._idle: set[str] = set()
        #: rows that are kept aside, asked for once before the batch is written and once after it
        self._aside: dict[SetOf, dict[Key | None, list[Key]]] = {}

    def renewed(self, in_order: Mapping[str, bool]) -> set[str]:
        """The tables whose rows are to be written even where they are equal: when they were stated counts.

        `in_order`: by table, whether every lower stamp is loaded.
        """
        tables = {row.table for row in self._open.values()}
        broken = self._broken()
        for walk, one in self._batch.listed.items():
            name = one.scope.of.table
            whole = walk not in self._open and one.pages == len(one.stamps) and not one.stamps & broken
            if whole and in_order.get(name, False) and name not in tables and not self._leaves_out(one):
                self._idle.add(walk)
        return tables | {
            one.scope.of.table for walk, one in self._batch.listed.items() if walk not in self._idle
        }

    def finish(self) -> None:
        """Count what is loaded now; sweep where all pages of a listing are."""
        broken, self._aside = self._broken(), {}
        for walk, one in self._batch.listed.items():
            if walk in self._idle:
                # what it lists was not written anew: by itself it proves nothing any more
                continue
            scope, before = one.scope, self._open.get(walk)
            sound, pages = len(one.stamps - broken), one.pages
            first, last = one.first or min(one.stamps), one.last or max(one.stamps)
            if before is not None:
                sound, pages = sound + before.sound, before.pages if pages is None else pages
                first, last = min(first, before.first), max(last, before.last)
                self._connection.execute(sa.delete(LISTINGS).where(LISTINGS.c.walk == walk))
            if pages is not None and sound >= pages:
                self._sweep(scope, Sweep(first, last))
            else:
                row = (walk, *_stored(scope), sound, pages, first, last)
                self._store.engine.insert(self._connection, LISTINGS, LISTINGS.c.keys(), [row])

    def _broken(self) -> set[int]:
        """Pages that do not say all that they list."""
        return {letter.stamp for letter in self._batch.letters} | self._batch.quarantined

    # -- what is left out --------------------------------------------------------------------------

    def _leaves_out(self, one: Listed) -> bool:
        """True unless all that the scope had, or gets in this batch, is stated since the listing began."""
        table = self._store.catalog.tables[one.scope.of.table]
        since, before = set[Key](), set[Key]()
        for key, full in self._batch.full.get(table.name, {}).items():
            (since if rank_of(full)[1] >= one.first else before).add(key)
        for key, statements in self._batch.partial.get(table.name, {}).items():
            # a mention, or what a redaction says, counts only of a row that nobody states at its top
            counting = [said for said in statements if said.top] or statements
            lately = any(said.rank[1] >= one.first for said in counting)
            if counting[0].top or not lately:
                (since if lately else before).add(key)
        if before:
            return True
        left = {key for key in self._within(table, one.scope) if key not in since}
        # of those that are held back it is known already
        mine = sa.select(DELETES.c.key).where(DELETES.c.table == table.name, DELETES.c.state != "kept")
        return bool(left) and not left <= set(map(load_key, self._connection.scalars(mine)))

    def _sweep(self, scope: Scope, sweep: Sweep) -> None:
        """Remember the listing, where none is newer; what it leaves out is due."""
        connection, store, of = self._connection, self._store, scope.of
        newest = connection.scalar(sa.select(SWEEPS.c.first).where(*_same(SWEEPS, scope)))
        older = (*_same(LISTINGS, scope), LISTINGS.c.first < sweep.first)
        connection.execute(sa.delete(LISTINGS).where(*older))
        if newest is not None and newest >= sweep.first:
            return
        connection.execute(sa.delete(SWEEPS).where(*_same(SWEEPS, scope)))
        row = (*_stored(scope), sweep.first, sweep.last)
        store.engine.insert(connection, SWEEPS, SWEEPS.c.keys(), [row])
        table = store.catalog.tables[of.table]
        candidates = list(self._within(table, scope, before=sweep.first))
        found = store.known(connection, table, candidates)
        gone = {
            key: one
            for key, one in found.items()
            if one.stated.known
            and sweep.voids(one.stated)
            and tuple(one.stated.values.get(name) for name in of.columns) == scope.owner
        }
        shown = [dump_key(key) for key, one in gone.items() if one.shown]
        if store.keys.fill(connection, of.table, map(load_key, shown)):
            # what was held, in a database that is loaded once more, stays held
            mine = (DELETES.c.table == of.table, DELETES.c.key.in_(store.keys.texts(of.table)))
            kept = sa.update(DELETES).where(*mine, DELETES.c.state == "kept")
            connection.execute(kept.values(state="held"))
        due = [(of.table, text, "due", sweep.last, f"{LEFT_OUT}{sweep.last}") for text in shown]
        store.engine.insert(connection, DELETES, DELETES.c.keys(), due, new_only=True)
        self._void([dump_key(key) for key, one in gone.items() if not one.shown], of.table)
        touch_keys(connection, store.engine, of.table, map(dump_key, gone))

    def _void(self, texts: list[str], name: str) -> None:
        """Rows that were kept aside for another reason are deleted now."""
        for text in texts:
            mine = (WITHHELD.c.table == name, WITHHELD.c.key == text)
            self._connection.execute(sa.delete(WITHHELD).where(*mine, WITHHELD.c.column != ""))
            deleted = {"reason": "deleted", "target_table": None, "target_key": None}
            self._connection.execute(sa.update(WITHHELD).where(*mine).values(deleted))

    def _within(self, table: Table, scope: Scope, *, before: int | None = None) -> Iterator[Key]:
        """The rows of a scope, shown or kept aside but not deleted; `before`: not those stated since."""
        engine, sql = self._store.engine, table.sql
        key = [raw(engine, sql.c[name]) for name in table.key]
        owned = [
            sql.c[name] == given(engine, value, sql.c[name])
            for name, value in zip(scope.of.columns, scope.owner, strict=True)
        ]
        held = self._held(table, scope)
        if before is not None:
            owned.append(sa.or_(sql.c.ingest_stamp < before, sql.c.ingest_exceptions.is_not(None)))
        found = self._connection.execute(sa.select(*key).where(is_here(sql), *owned)).all()
        yield from (tuple(row) for row in found)
        yield from held

    def _held(self, table: Table, scope: Scope) -> list[Key]:
        """The rows of a scope that are kept aside whole; and all of which a column of a scope is."""
        if scope.of not in self._aside:
            self._aside[scope.of] = self._kept_aside(table, scope.of)
        aside = self._aside[scope.of]
        return [*aside.get(scope.owner, ()), *aside.get(None, ())]

    def _kept_aside(self, table: Table, of: SetOf) -> dict[Key | None, list[Key]]:
        """By the scope they are in; None where only a column is kept aside, which may say so."""
        aside = sa.select(WITHHELD.c.key, WITHHELD.c.column, WITHHELD.c.value).where(
            WITHHELD.c.table == table.name,
            WITHHELD.c.reason != "deleted",
            WITHHELD.c.column.in_(("", *of.columns)),
            WITHHELD.c.value.is_not(None),
        )
        found: dict[Key | None, list[Key]] = {}
        for row in self._connection.execute(aside):
            owner = None
            if row.column == "":
                values: Mapping[str, Any] = load_row(table, row.value)[0]
                owner = tuple(values.get(name) for name in of.columns)
            found.setdefault(owner, []).append(load_key(row.key))
        return found


def _stored(scope: Scope) -> tuple[str, str, str]:
    """A scope as the ledger has it."""
    return scope.of.table, dump_key(scope.of.columns), dump_key(scope.owner)


def _same(ledger: sa.Table, scope: Scope) -> list[sa.ColumnElement[bool]]:
    """What the ledger has of the scope."""
    named = (ledger.c.table, ledger.c.columns, ledger.c.key)
    return [column == stored for column, stored in zip(named, _stored(scope), strict=True)]
