"""Missing parents: which references lead nowhere, since when, and what was tried.

wanted ──fetch──▶ (arrived: forgotten, counted as healed)
   │ └──────────▶ forbidden | gone
   └ no policy asks for it ──▶ external
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa

from ingest.catalog import Catalog, Reference
from ingest.engines.base import Engine
from ingest.keys import has_row, load_key
from ingest.ledger import MISSING, WITHHELD
from ingest.types import LOWEST_VERSION
from ingest.withheld import FOR

_WAITING = ("missing", "incomplete")


class Absent(NamedTuple):
    """A key that stated values refer to, and that is not in the mirror."""

    table: str
    key: str
    #: whether any reference's policies ask for it by id
    fetch: bool


class Missing:
    """Keeps `ingest_missing` equal to what is withheld for want of a parent."""

    def __init__(self, catalog: Catalog, engine: Engine, fetchable: frozenset[str] | None) -> None:
        self._catalog, self._engine = catalog, engine
        #: tables whose rows can be asked for by id; None when any can
        self._fetchable = fetchable

    def settle(self, connection: sa.Connection) -> int:
        """Add what is newly missing, forget what is not missing any more; how many of those arrived."""
        absent = {(one.table, one.key): one for one in self._absent(connection)}
        known = {(row.table, row.key): row for row in connection.execute(sa.select(MISSING))}
        self._add(connection, [one for where, one in absent.items() if where not in known])
        arrived = 0
        for table, key in known.keys() - absent.keys():
            connection.execute(sa.delete(MISSING).where(MISSING.c.table == table, MISSING.c.key == key))
            arrived += has_row(connection, self._engine, self._catalog.tables[table], load_key(key))
        return arrived

    def _absent(self, connection: sa.Connection) -> Iterable[Absent]:
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
        asked: dict[tuple[str, str], bool] = {}
        for entry in connection.execute(entries.distinct()):
            where = (entry.target_table, entry.target_key)
            fetch = entry.reason == "incomplete" or self._asks(entry.table, entry.column)
            asked[where] = asked.get(where, False) or fetch
        for table, key in self._stubs(connection):
            fetch = any("fetch" in one.policies for one in self._catalog.references_to(table))
            asked[(table, key)] = asked.get((table, key), False) or fetch
        for (table, key), fetch in asked.items():
            yield Absent(table, key, fetch and (self._fetchable is None or table in self._fetchable))

    def _asks(self, table: str, column: str) -> bool:
        return any(
            "fetch" in one.policies for one in self._catalog.references_of(table) if _holds(one, column)
        )

    def _stubs(self, connection: sa.Connection) -> Iterable[tuple[str, str]]:
        for name, table in self._catalog.tables.items():
            if not any("stub" in one.policies for one in self._catalog.references_to(name)):
                continue
            stub = sa.and_(table.sql.c.ingest_stamp == 0, table.sql.c.ingest_version == LOWEST_VERSION)
            for key in connection.scalars(
                sa.select(self._engine.key_json([table.sql.c[part] for part in table.key])).where(stub)
            ):
                yield name, key

    @staticmethod
    def _add(connection: sa.Connection, absent: list[Absent]) -> None:
        for one in absent:
            state = "wanted" if one.fetch else "external"
            connection.execute(
                sa.insert(MISSING).values(table=one.table, key=one.key, state=state, attempts=0, stamp=0)
            )


def _holds(reference: Reference, column: str) -> bool:
    return column == FOR + reference.name or column in reference.columns
