"""Missing parents: which references lead nowhere, since when, and what was tried.

wanted ──fetch──▶ (arrived: forgotten, counted as healed)
   │ └──────────▶ forbidden | gone
   └ no policy asks for it ──▶ external
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

import sqlalchemy as sa

from ingest.catalog import Catalog, Reference
from ingest.engines.base import Engine
from ingest.keys import Keys, load_key
from ingest.ledger import MISSING, WITHHELD
from ingest.reconcile.scope import Scope
from ingest.types import LOWEST_VERSION, Key
from ingest.withheld import FOR

_WAITING = ("missing", "incomplete")
#: keys in one statement
_SOME = 1000


class Missed(NamedTuple):
    """A key that stated values refer to, and that is not in the mirror."""

    table: str
    key: str


class Missing:
    """Keeps `ingest_missing` equal to what is withheld for want of a parent."""

    def __init__(
        self, catalog: Catalog, engine: Engine, keys: Keys, fetchable: frozenset[str] | None
    ) -> None:
        self._catalog, self._engine, self._keys = catalog, engine, keys
        #: tables whose rows can be asked for by id; None when any can
        self._fetchable = fetchable

    def settle(self, connection: sa.Connection, scope: Scope) -> int:
        """Add what is newly missing, forget what is not missing any more; how many of those arrived."""
        known = {Missed(*row) for row in connection.execute(sa.select(MISSING.c.table, MISSING.c.key))}
        absent = self._wanting(connection)
        for stub in self._stubs(connection, scope, known - absent.keys()):
            fetch = any("fetch" in one.policies for one in self._catalog.references_to(stub.table))
            absent[stub] = absent.get(stub, False) or fetch
        self._add(connection, {where: fetch for where, fetch in absent.items() if where not in known})
        settled = _by_table(known - absent.keys())
        return sum(self._forget(connection, table, keys) for table, keys in settled.items())

    def _wanting(self, connection: sa.Connection) -> dict[Missed, bool]:
        """What something is kept aside for, and whether any reference's policies ask for it by id."""
        whole = WITHHELD.alias()
        # a target that is itself kept aside whole is known, and not wanted: its own parent is
        known = sa.exists().where(
            whole.c.table == WITHHELD.c.target_table,
            whole.c.key == WITHHELD.c.target_key,
            whole.c.column == "",
            whole.c.reason != "incomplete",
        )
        entries = sa.select(
            WITHHELD.c.table,
            WITHHELD.c.column,
            WITHHELD.c.reason,
            WITHHELD.c.target_table,
            WITHHELD.c.target_key,
        ).where(WITHHELD.c.reason.in_(_WAITING), WITHHELD.c.target_table.is_not(None), sa.not_(known))
        asked: dict[Missed, bool] = {}
        for entry in connection.execute(entries.distinct()):
            where = Missed(entry.target_table, entry.target_key)
            fetch = entry.reason == "incomplete" or self._asks(entry.table, entry.column)
            asked[where] = asked.get(where, False) or fetch
        return asked

    def _asks(self, table: str, column: str) -> bool:
        return any(
            "fetch" in one.policies for one in self._catalog.references_of(table) if _holds(one, column)
        )

    def _stubs(self, connection: sa.Connection, scope: Scope, others: Iterable[Missed]) -> Iterator[Missed]:
        """The stubs among what was touched and others: no other row has become one, or been filled in."""
        listed = _by_table(others)
        for name in {*scope.tables, *listed}:
            if not any("stub" in one.policies for one in self._catalog.references_to(name)):
                continue
            table, touched = self._catalog.tables[name].sql, scope.keys(name)
            stub = sa.and_(table.c.ingest_stamp == 0, table.c.ingest_version == LOWEST_VERSION)
            keys = None if touched is None else {*touched, *map(load_key, listed[name])}
            yield from (Missed(name, key) for key in self._shown(connection, name, keys, stub))

    def _shown(
        self, connection: sa.Connection, name: str, keys: Collection[Key] | None, *how: sa.ColumnElement[bool]
    ) -> set[str]:
        """The canonical keys of those of these rows that are there, or are so."""
        table = self._catalog.tables[name]
        key = [table.sql.c[part] for part in table.key]
        rows = sa.select(self._engine.key_json(key)).where(*how)
        if keys is not None:
            self._keys.fill(connection, name, keys)
            rows = rows.where(self._keys.among(name, key))
        return set(connection.scalars(rows))

    def _add(self, connection: sa.Connection, absent: Mapping[Missed, bool]) -> None:
        rows = [
            (*where, "wanted" if fetch and self._is_fetchable(where.table) else "external", 0, 0)
            for where, fetch in absent.items()
        ]
        self._engine.insert(connection, MISSING, ["table", "key", "state", "attempts", "stamp"], rows)

    def _is_fetchable(self, table: str) -> bool:
        return self._fetchable is None or table in self._fetchable

    def _forget(self, connection: sa.Connection, table: str, keys: list[str]) -> int:
        """How many of them are there by now."""
        for at in range(0, len(keys), _SOME):
            some = MISSING.c.key.in_(keys[at : at + _SOME])
            connection.execute(sa.delete(MISSING).where(MISSING.c.table == table, some))
        return len(self._shown(connection, table, set(map(load_key, keys))))


def _by_table(missed: Iterable[Missed]) -> defaultdict[str, list[str]]:
    found = defaultdict[str, list[str]](list)
    for one in sorted(missed):
        found[one.table].append(one.key)
    return found


def _holds(reference: Reference, column: str) -> bool:
    return column == FOR + reference.name or column in reference.columns
