"""The proof, put differently from the steps it checks: set differences, windows and aggregates.

The steps look for missing parents row by row and look pointers up one by one. Here references are
proven by EXCEPT, pointers by an aggregate over all children and a window over those that share it,
counters by GROUP BY, so that a mistake in a step is not made twice.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from ingest.catalog import Catalog, Derived, Reference
from ingest.engines.base import Engine, Proves
from ingest.keys import Keys, is_in
from ingest.ledger import LOADS, PAGES, REOPENED
from ingest.reconcile.derived import as_of
from ingest.reconcile.scope import Scope
from ingest.report import DerivedProof, ReferenceProof


class Proof:
    """Checks every reference, pointer and counter of a scope."""

    def __init__(self, catalog: Catalog, engine: Engine, keys: Keys) -> None:
        self._catalog, self._engine, self._keys = catalog, engine, keys

    def references(
        self, connection: sa.Connection, scope: Scope, proven: Collection[Proves] = ()
    ) -> tuple[ReferenceProof, ...]:
        """Every foreign key, derived pointers included, with how many stated targets are not there.

        `proven`: those for which the database has looked through every row in this transaction.
        """
        scope.fill(connection, self._keys)
        return tuple(
            ReferenceProof(table=one.table, columns=one.columns, target=one.target, dangling=0)
            if _spoken_of(one) in proven
            else self._reference(connection, one, scope)
            for one in self._catalog.references
        )

    def _reference(self, connection: sa.Connection, one: Reference, scope: Scope) -> ReferenceProof:
        child, parent = self._catalog.tables[one.table], self._catalog.tables[one.target]
        stated = [child.sql.c[one.columns[one.target_columns.index(name)]] for name in parent.key]
        key = [child.sql.c[name] for name in child.key]
        told = sa.select(*stated).where(*(column.is_not(None) for column in stated))
        sides = (child.name, key), (parent.name, stated)
        wanted = [told.where(looked_at) for looked_at in scope.each_within(self._keys, *sides)]
        whole = None in (scope.keys(child.name), scope.keys(parent.name))
        count = _absent(connection, wanted, [parent.sql.c[name] for name in parent.key], whole=whole)
        return ReferenceProof(table=one.table, columns=one.columns, target=one.target, dangling=count)

    def derived(self, connection: sa.Connection, scope: Scope) -> tuple[DerivedProof, ...]:
        """Every pointer and counter, with how many rows differ from the recomputation."""
        scope.fill(connection, self._keys)
        return tuple(self._derived(connection, one, scope) for one in self._catalog.derived)

    def _derived(self, connection: sa.Connection, one: Derived, scope: Scope) -> DerivedProof:
        parent = self._catalog.tables[one.table]
        truth = self._newest(one, scope) if one.kind == "pointer" else self._counted(one, scope)
        own = parent.sql.alias()
        joined = own.outerjoin(
            truth, sa.and_(*(own.c[key] == truth.c[f"k{i}"] for i, key in enumerate(parent.key)))
        )
        right: Any = truth.c.value if one.kind == "pointer" else sa.func.coalesce(truth.c.value, 0)
        looked_at = scope.within(self._keys, parent.name, [own.c[name] for name in parent.key])
        is_set = own.c[one.column].is_not(None) if one.kind == "pointer" else own.c[one.column] > 0
        row = connection.execute(
            sa.select(
                sa.func.coalesce(sa.func.sum(sa.case((is_set, 1), else_=0)), 0),
                sa.func.coalesce(
                    sa.func.sum(sa.case((own.c[one.column].is_distinct_from(right), 1), else_=0)), 0
                ),
            )
            .select_from(joined)
            .where(looked_at)
        ).one()
        return DerivedProof(
            table=one.table, column=one.column, kind=one.kind, set=int(row[0]), wrong=int(row[1])
        )

    def _newest(self, one: Derived, scope: Scope) -> sa.Subquery:
        """Of every parent, the child that a window puts first among those that share the greatest time.

        (Or whatever children are ordered by first: few share it, so that few need to be sorted.)
        """
        child = self._catalog.tables[one.child].sql.alias()
        follows = [child.c[name] for name in one.follows]
        place = sa.func.row_number().over(
            partition_by=follows, order_by=[self._engine.newest_first(as_of(part, child)) for part in one.by]
        )
        among: sa.FromClause = child
        if not isinstance(one.by[0].type, _UNAGGREGATED):
            top = self._greatest(one, scope)
            shares = [column == top.c[f"k{index}"] for index, column in enumerate(follows)]
            greatest = self._engine.in_order(as_of(one.by[0], child)).is_not_distinct_from(top.c.value)
            among = top.join(child, sa.and_(*shares, greatest))
        ranked = (
            sa.select(
                *(column.label(f"k{index}") for index, column in enumerate(follows)),
                child.c[one.value or ""].label("value"),
                place.label("place"),
            )
            .select_from(among)
            .where(*self._of_scope(one, child, scope))
            .subquery()
        )
        return sa.select(ranked).where(ranked.c.place == 1).subquery()

    def _greatest(self, one: Derived, scope: Scope) -> sa.Subquery:
        """Of every parent, the greatest of what its children are ordered by first; NULL where all are."""
        child = self._catalog.tables[one.child].sql.alias()
        follows = [child.c[name] for name in one.follows]
        return (
            sa.select(
                *(column.label(f"k{index}") for index, column in enumerate(follows)),
                sa.func.max(self._engine.in_order(as_of(one.by[0], child))).label("value"),
            )
            .where(*self._of_scope(one, child, scope))
            .group_by(*follows)
            .subquery()
        )

    def _counted(self, one: Derived, scope: Scope) -> sa.Subquery:
        child = self._catalog.tables[one.child].sql.alias()
        follows = [child.c[name] for name in one.follows]
        return (
            sa.select(
                *(column.label(f"k{index}") for index, column in enumerate(follows)),
                sa.func.count().label("value"),
            )
            .where(*self._of_scope(one, child, scope))
            .group_by(*follows)
            .subquery()
        )

    def _of_scope(self, one: Derived, child: sa.FromClause, scope: Scope) -> list[sa.ColumnElement[bool]]:
        follows = [child.c[name] for name in one.follows]
        conditions: list[sa.ColumnElement[bool]] = [column.is_not(None) for column in follows]
        conditions.append(scope.within(self._keys, one.table, list(follows)))
        if one.where is not None:
            conditions.append(as_of(one.where, child))
        return conditions


def _spoken_of(one: Reference) -> Proves:
    """The reference as a database speaks of it."""
    return Proves(one.table, tuple(one.columns), one.target, tuple(one.target_columns))


def _absent(
    connection: sa.Connection, wanted: list[sa.Select[Any]], key: list[sa.Column[Any]], *, whole: bool
) -> int:
    """How many of the wanted keys are not there."""
    if not wanted:
        return 0
    asked, there = sa.select(sa.union(*wanted).cte("wanted")), sa.select(*key)
    # of a whole table all keys are wanted anyway
    dangling = sa.except_(asked, there if whole else there.where(is_in(key, asked))).subquery()
    return connection.scalar(sa.select(sa.func.count()).select_from(dangling)) or 0


def accounting(connection: sa.Connection) -> list[str]:
    """Where the ledger's counts do not add up, in words; nothing when they do."""
    sums = connection.execute(
        sa.select(*(sa.func.coalesce(sa.func.sum(LOADS.c[name]), 0) for name in _COUNTS))
    ).one()
    pages, quarantined, records, written, kept, rejected = map(int, sums)
    marked = counted(connection, PAGES.c.state, PAGES.c.state != REOPENED)
    wrong = []
    if records != written + kept + rejected:
        wrong.append(
            f"{records} records were read, but {written} written + {kept} kept + {rejected} rejected"
        )
    if pages != sum(marked.values()):
        wrong.append(f"{pages} pages were loaded, but {sum(marked.values())} are marked")
    if quarantined != marked.get("quarantined", 0):
        wrong.append(
            f"{quarantined} pages were quarantined, but {marked.get('quarantined', 0)} are marked so"
        )
    return wrong


def counted(
    connection: sa.Connection, column: sa.Column[str], *where: sa.ColumnElement[bool]
) -> dict[str, int]:
    """How many rows there are of every value."""
    rows = connection.execute(sa.select(column, sa.func.count()).where(*where).group_by(column))
    return {value: count for value, count in rows}  # noqa: C416 (rows are no pairs to a type checker)


#: types that not every database has a greatest value of
_UNAGGREGATED = (sa.Uuid, sa.Boolean, sa.JSON, sa.LargeBinary)
_COUNTS = ("pages", "quarantined", "records", "written", "kept", "rejected")
