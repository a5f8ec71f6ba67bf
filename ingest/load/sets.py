"""Complete lists: a set-valued column of its owner. The newest list of an owner is its set.

A row of a set lives while its own rank is not below its set's. So an old list that comes late adds
nothing, a newer one removes what it omits, and the order in which they came does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from ingest.catalog import Catalog, Table
from ingest.engines.base import Engine
from ingest.keys import dump_key, given, load_key, raw, touch_keys
from ingest.leaving import is_here
from ingest.ledger import SETS, WITHHELD
from ingest.load.batch import Batch, SetOf, StatedSet, rank_of
from ingest.load.merge import RankTuple, Statement
from ingest.load.store import Store
from ingest.types import Key
from ingest.withheld import load_row

#: owners looked up in one statement
_CHUNK = 400


def settle_sets(connection: sa.Connection, store: Store, batch: Batch, in_order: Mapping[str, bool]) -> int:
    """Apply the batch's complete lists before its rows are written; how many records they supersede.

    `in_order`: by table, whether every lower stamp is loaded.
    """
    superseded = 0
    for of in _governed(connection, store.catalog, batch):
        superseded += _Settling(connection, store, batch, of).settle(in_order=in_order[of.table])
    return superseded


def _governed(connection: sa.Connection, catalog: Catalog, batch: Batch) -> list[SetOf]:
    """Every kind of set the batch has rows of, or lists."""
    stored = connection.execute(sa.select(SETS.c.table, SETS.c.columns).distinct())
    kinds = {SetOf(name, load_key(columns)) for name, columns in stored} | set(batch.sets)
    spoken_of = batch.tables()
    return sorted(one for one in kinds if one.table in spoken_of and one.table in catalog.tables)


class _Settling:
    """One kind of set, in one batch."""

    def __init__(self, connection: sa.Connection, store: Store, batch: Batch, of: SetOf) -> None:
        self._connection, self._store, self._batch, self._of = connection, store, batch, of
        self._table: Table = store.catalog.tables[of.table]
        self._places = [self._table.names.index(name) for name in of.columns]

    def settle(self, *, in_order: bool) -> int:
        lists = self._batch.sets.get(self._of, {})
        owners = lists.keys() | set(self._owners())
        ranks = self._ranks(owners)
        existing = self._members(lists) if lists else {}
        for owner, stated in lists.items():
            there = existing.get(owner, {})
            if owner in ranks and stated.rank <= ranks[owner]:
                continue
            # older lists of this very batch are superseded even where the set stays as it is
            ranks[owner] = stated.rank
            if not (in_order and there.keys() == stated.members):
                self._advance(owner, stated, there)
        return self._drop_superseded(ranks)

    def _owners(self) -> Iterable[Key]:
        """Owners of the rows that the batch states."""
        for full in self._batch.full.get(self._of.table, {}).values():
            yield tuple(full[place] for place in self._places)
        for statements in self._batch.partial.get(self._of.table, {}).values():
            for statement in statements:
                owner = self._owner(statement)
                if owner is not None:
                    yield owner

    def _owner(self, statement: Statement) -> Key | None:
        values = [statement.values.get(name) for name in self._of.columns]
        return None if None in values else tuple(values)

    def _ranks(self, owners: Iterable[Key]) -> dict[Key, RankTuple]:
        texts = [dump_key(owner) for owner in owners]
        found: dict[Key, RankTuple] = {}
        for start in range(0, len(texts), _CHUNK):
            rows = sa.select(SETS).where(
                SETS.c.table == self._of.table,
                SETS.c.columns == dump_key(self._of.columns),
                SETS.c.key.in_(texts[start : start + _CHUNK]),
            )
            for row in self._connection.execute(rows).mappings():
                found[load_key(row["key"])] = (row["version"], row["stamp"], row["ordinal"])
        return found

    def _members(self, lists: dict[Key, StatedSet]) -> dict[Key, dict[Key, RankTuple]]:
        """The rows that the owners have now, shown or withheld, and their ranks."""
        sql, key, rank = (
            self._table.sql,
            self._table.key,
            ("ingest_version", "ingest_stamp", "ingest_ordinal"),
        )
        engine, owner = self._store.engine, [sql.c[name] for name in self._of.columns]
        found: dict[Key, dict[Key, RankTuple]] = {}
        pending = list(lists)
        for start in range(0, len(pending), _CHUNK):
            chunk = pending[start : start + _CHUNK]
            columns = [raw(engine, sql.c[name]) for name in (*self._of.columns, *key, *rank)]
            for row in self._connection.execute(
                sa.select(*columns).where(_one_of(engine, owner, chunk), is_here(sql))
            ):
                width = len(owner)
                found.setdefault(tuple(row[:width]), {})[tuple(row[width : width + len(key)])] = tuple(
                    row[-3:]
                )
        for one in self._withheld():
            found.setdefault(one[0], {})[one[1]] = one[2]
        return found

    def _withheld(self) -> Iterable[tuple[Key, Key, RankTuple]]:
        rows = sa.select(WITHHELD).where(WITHHELD.c.table == self._of.table, WITHHELD.c.column == "")
        for row in self._connection.execute(rows).mappings():
            values, _ = load_row(self._table, row["value"])
            owner = tuple(values.get(name) for name in self._of.columns)
            yield owner, load_key(row["key"]), (row["version"], row["stamp"], row["ordinal"])

    def _advance(self, owner: Key, stated: StatedSet, existing: dict[Key, RankTuple]) -> None:
        """A newer list: remember its rank, remove what it omits, write its members whatever they say."""
        name, columns, key = self._of.table, dump_key(self._of.columns), dump_key(owner)
        connection, engine = self._connection, self._store.engine
        connection.execute(
            sa.delete(SETS).where(SETS.c.table == name, SETS.c.columns == columns, SETS.c.key == key)
        )
        engine.insert(connection, SETS, SETS.c.keys(), [(name, columns, key, *stated.rank)])
        omitted = [
            member for member, rank in existing.items() if member not in stated.members and rank < stated.rank
        ]
        self._forget(omitted)
        for member in stated.members:
            self._force(member)

    def _forget(self, keys: list[Key]) -> None:
        if not keys:
            return
        connection, store, table = self._connection, self._store, self._table
        texts = [dump_key(key) for key in keys]
        touch_keys(connection, store.engine, table.name, texts)
        store.keys.fill(connection, table.name, keys)
        among = store.keys.among(table.name, [table.sql.c[name] for name in table.key])
        for columns, target in store.catalog.watched(table.name):
            watched = sa.select(*(raw(store.engine, table.sql.c[name]) for name in columns)).where(among)
            parents = (dump_key(tuple(row)) for row in connection.execute(watched) if None not in row)
            touch_keys(connection, store.engine, target, parents)
        store.leaving.remove(connection, table, among)
        for start in range(0, len(texts), _CHUNK):
            connection.execute(
                sa.delete(WITHHELD).where(
                    WITHHELD.c.table == table.name, WITHHELD.c.key.in_(texts[start : start + _CHUNK])
                )
            )

    def _force(self, member: Key) -> None:
        """A member's own rank must not stay below its new set's, even where it says nothing new."""
        full = self._batch.full.get(self._of.table, {})
        partial = self._batch.partial.setdefault(self._of.table, {})
        if member in full:
            moved = self._batch.as_statement(self._table.names, member, full.pop(member))
            partial.setdefault(member, []).append(moved)
        for statement in partial.get(member, ()):
            statement.forced = True

    def _drop_superseded(self, ranks: dict[Key, RankTuple]) -> int:
        """Leave out the rows of lists that a newer list has replaced."""
        dropped = 0
        full = self._batch.full.get(self._of.table, {})
        for key in [
            key
            for key, one in full.items()
            if _below(rank_of(one), tuple(one[place] for place in self._places), ranks)
        ]:
            del full[key]
            dropped += 1
        partial = self._batch.partial.get(self._of.table, {})
        for key, statements in list(partial.items()):
            kept = [one for one in statements if not _below(one.rank, self._owner(one), ranks)]
            dropped += len(statements) - len(kept)
            if kept:
                partial[key] = kept
            else:
                del partial[key]
        return dropped


def _below(rank: RankTuple, owner: Any, ranks: dict[Key, RankTuple]) -> bool:
    return owner in ranks and rank < ranks[owner]


def _one_of(engine: Engine, columns: list[sa.Column[Any]], owners: list[Key]) -> sa.ColumnElement[bool]:
    rows = [
        [given(engine, value, column) for column, value in zip(columns, owner, strict=True)]
        for owner in owners
    ]
    if len(columns) == 1:
        return columns[0].in_([row[0] for row in rows])
    return sa.tuple_(*columns).in_([sa.tuple_(*row) for row in rows])
