"""Pointers and counters of the parents whose children may have changed.

One statement a column. Its guard mirrors its SET null-safely, it can go back to NULL or 0, and a
second run changes nothing.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ingest.catalog import Catalog, Derived
from ingest.engines.base import Engine
from ingest.keys import Keys, touch
from ingest.reconcile.scope import Scope


class Derivation:
    """The step, on one connection."""

    def __init__(self, catalog: Catalog, engine: Engine, keys: Keys) -> None:
        self._catalog, self._engine, self._keys = catalog, engine, keys

    def settle(self, connection: sa.Connection, scope: Scope) -> dict[str, int]:
        """Recompute what `scope` may have changed; rows changed, by column."""
        scope.fill(connection, self._keys)
        self._add_parents(connection, scope)
        scope.join(Scope.touched(connection, self._catalog))
        scope.fill(connection, self._keys)
        return {
            str(one): self._update(connection, one, scope)
            for one in self._catalog.derived
            if one.table in scope
        }

    def _add_parents(self, connection: sa.Connection, scope: Scope) -> None:
        """The parents of touched children, as the children are now."""
        for one in self._catalog.derived:
            if one.child not in scope or scope.keys(one.table) is None:
                continue
            child = self._catalog.tables[one.child]
            follows = [child.sql.c[name] for name in one.follows]
            key = [child.sql.c[name] for name in child.key]
            parents = sa.select(self._engine.key_json(follows)).where(
                scope.within(self._keys, child.name, list(key)), *(column.is_not(None) for column in follows)
            )
            touch(connection, self._engine, one.table, parents)

    def _update(self, connection: sa.Connection, one: Derived, scope: Scope) -> int:
        parent = self._catalog.tables[one.table]
        value = recomputed(self._catalog, self._engine, one)
        column = parent.sql.c[one.column]
        looked_at = scope.within(self._keys, parent.name, [parent.sql.c[name] for name in parent.key])
        changed: int = connection.execute(
            sa.update(parent.sql).where(looked_at, column.is_distinct_from(value)).values({column: value})
        ).rowcount
        return changed


def recomputed(catalog: Catalog, engine: Engine, one: Derived) -> sa.ScalarSelect[Any]:
    """The pointer or counter of a parent row, looked up among its children."""
    parent = catalog.tables[one.table]
    # a table may follow itself (replies of a message), so the child always goes by another name
    child = catalog.tables[one.child].sql.alias()
    mine = [child.c[name] == parent.sql.c[key] for name, key in zip(one.follows, parent.key, strict=True)]
    condition = [as_of(one.where, child)] if one.where is not None else []
    if one.kind == "counter":
        return (
            sa.select(sa.func.count())
            .select_from(child)
            .where(*mine, *condition)
            .correlate(parent.sql)
            .scalar_subquery()
        )
    order = [engine.newest_first(as_of(part, child)) for part in one.by]
    return (
        sa.select(child.c[one.value or ""])
        .where(*mine, *condition)
        .order_by(*order)
        .limit(1)
        .correlate(parent.sql)
        .scalar_subquery()
    )


def as_of(expression: sa.ColumnElement[Any], child: sa.FromClause) -> sa.ColumnElement[Any]:
    """The model's expression over the child, spoken of `child`."""
    spoken: sa.ColumnElement[Any] = sa.sql.util.ClauseAdapter(child).traverse(expression)
    return spoken
