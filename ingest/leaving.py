"""Rows on their way out.

A row that others refer to is not deleted at once. Where its foreign keys say ON DELETE CASCADE or SET NULL, a
database would change the rows below it, and what these state would be forgotten; here they are kept aside,
and come back with it. So it is marked: nobody states it any more, and everybody takes it for gone.

    remove ──▶ nobody refers to it ───────────────────────────────▶ deleted
           └─▶ marked ──▶ references are settled, nobody refers to it ──┘
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog, Table
from ingest.engines.base import Engine
from ingest.keys import is_in
from ingest.types import LOWEST_VERSION

#: `ingest_stamp` of a marked row
_LEAVING = -1


class _Hold(NamedTuple):
    """A foreign key whose rows something would happen to."""

    child: sa.Table
    #: (the child's column, ours)
    pairs: tuple[tuple[str, str], ...]
    #: kept by the reconciler: it is set anew, whatever it was
    derived: bool


def is_here(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """True for a row that is not on its way out."""
    here: sa.ColumnElement[bool] = table.c.ingest_stamp > _LEAVING
    return here


class Leaving:
    """Removes rows of a catalog's tables."""

    def __init__(self, catalog: Catalog, engine: Engine) -> None:
        self._engine = engine
        self._tables = catalog.tables
        self._holds: dict[str, list[_Hold]] = {}
        derived = {(one.table, one.column) for one in catalog.derived}
        for name, table in catalog.tables.items():
            for constraint in table.sql.foreign_key_constraints:
                if (constraint.ondelete or "NO ACTION").upper() != "NO ACTION":
                    pairs = tuple((one.parent.name, one.column.name) for one in constraint.elements)
                    is_derived = any((name, ours) in derived for ours, _ in pairs)
                    hold = _Hold(table.sql, pairs, is_derived)
                    self._holds.setdefault(constraint.referred_table.name, []).append(hold)

    def remove(self, connection: sa.Connection, table: Table, chosen: sa.ColumnElement[bool]) -> None:
        """Delete the chosen rows that nobody refers to, and mark the others."""
        holds = self._holds.get(table.name)
        if holds:
            referred = sa.or_(*(_refers(hold, table.sql) for hold in holds))
            nothing = msgspec.json.encode(dict.fromkeys((*table.names, ""))).decode()
            mark = {
                "ingest_version": LOWEST_VERSION,
                "ingest_stamp": _LEAVING,
                "ingest_ordinal": 0,
                "ingest_exceptions": nothing,
            }
            connection.execute(
                sa.update(table.sql).where(chosen, referred).values({**mark, **self._freed(table)})
            )
            chosen = sa.and_(chosen, is_here(table.sql))
        connection.execute(sa.delete(table.sql).where(chosen))

    def finish(
        self,
        connection: sa.Connection,
        names: Iterable[str],
        within: Callable[[Table], sa.ColumnElement[bool]],
    ) -> None:
        """Delete the marked rows of these tables that are `within`: nothing that stays refers to them."""
        held = [self._tables[name] for name in names if name in self._holds]
        for table in held:
            for hold in self._holds[table.name]:
                if hold.derived:
                    self._let_go(connection, hold, table, within(table))
        for table in _children_first(held):
            connection.execute(sa.delete(table.sql).where(within(table), sa.not_(is_here(table.sql))))

    @staticmethod
    def _let_go(connection: sa.Connection, hold: _Hold, table: Table, within: sa.ColumnElement[bool]) -> None:
        """Pointers to marked rows point nowhere, until they are computed again."""
        ours = [table.sql.c[name] for _, name in hold.pairs]
        columns = [hold.child.c[name] for name, _ in hold.pairs]
        marked = sa.select(*ours).where(within, sa.not_(is_here(table.sql)))
        nullable = {column: None for column in columns if column.nullable}
        if nullable:
            connection.execute(sa.update(hold.child).where(is_in(columns, marked)).values(nullable))

    def _freed(self, table: Table) -> dict[str, Any]:
        """What a marked row has in unique columns, so that another row can have what it had."""
        freed: dict[str, Any] = {}
        for column in _unique_columns(table.sql):
            if column.nullable:
                freed[column.name] = None
            elif isinstance(column.type, sa.String) and not isinstance(column.type, sa.Enum):
                key = self._engine.key_json([table.sql.c[name] for name in table.key])
                own = sa.literal("~", sa.Text) + key
                freed[column.name] = sa.func.substr(own, 1, column.type.length or 1000)
        return freed


def _refers(hold: _Hold, table: sa.Table) -> sa.ColumnElement[bool]:
    child = hold.child.alias()
    return sa.exists().where(*(child.c[ours] == table.c[theirs] for ours, theirs in hold.pairs))


def _unique_columns(table: sa.Table) -> list[sa.Column[Any]]:
    unique = [*table.constraints, *(index for index in table.indexes if index.unique)]
    columns = [
        column
        for one in unique
        if isinstance(one, sa.UniqueConstraint | sa.Index)
        for column in one.columns
        if not column.primary_key
    ]
    return list(dict.fromkeys(columns))


def unique_names(table: Table) -> list[str]:
    """The columns of a table that are unique beside its key, alone or with others."""
    return [str(column.name) for column in _unique_columns(table.sql)]


def _children_first(tables: list[Table]) -> list[Table]:
    """Rows that refer go before those they refer to; in a ring any order does."""
    order = {table.name: place for place, table in enumerate(_sorted(tables))}
    return sorted(tables, key=lambda table: -order[table.name])


def _sorted(tables: list[Table]) -> list[sa.Table]:
    metadatas = {id(table.sql.metadata): table.sql.metadata for table in tables}
    mine = {table.sql for table in tables}
    return [
        sql
        for metadata in metadatas.values()
        for sql in sa.schema.sort_tables(metadata.tables.values())
        if sql in mine
    ]
