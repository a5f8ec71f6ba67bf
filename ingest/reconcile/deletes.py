"""Deletes: rows that are proven to be deleted upstream leave their tables, unless too many would at once.

    due ──▶ within the budget ──────▶ kept aside as deleted, cascades follow
     │ └──▶ beyond it: held ──▶ ▲ let go by a person
     └────────┴──▶ stated anew: void (the loader's business)

What counts is what a run deletes, cascades included, and what a run before it deleted whose window is still
open. A held row stays as it is, and so do the rows below it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog, Reference
from ingest.engines.base import Engine
from ingest.keys import Keys, dump_key, load_key, raw
from ingest.leaving import is_here
from ingest.ledger import BUDGET, DELETES, LOGS
from ingest.reconcile.references import References
from ingest.reconcile.scope import Scope
from ingest.report import Certificate, HeldDeletes
from ingest.types import Key

#: proofs that are named for each table
_EXPLAINED = 3
#: rows by table
Rows: TypeAlias = dict[str, set[Key]]


class Allowance(NamedTuple):
    """How much of a table one run may delete: beyond both, it is held back."""

    rows: int = 20
    #: of the rows there were
    share: float = 0.02


#: where nothing else is said
ALLOWANCE = Allowance()


class _Spent(NamedTuple):
    """What is known of a table's budget."""

    had: int = 0
    deleted: int = 0
    settled_to: int = 0


@dataclass(slots=True)
class DeleteCounts:
    """What the step did; all zero when it is run again."""

    deleted: int = 0
    #: held back now, by table
    held: Counter[str] = field(default_factory=Counter)


class Deletes:
    """The step, on one connection."""

    def __init__(
        self, catalog: Catalog, engine: Engine, keys: Keys, references: References, allowance: Allowance
    ) -> None:
        self._catalog, self._engine, self._keys = catalog, engine, keys
        self._references, self._allowance = references, allowance

    def settle(self, connection: sa.Connection, scope: Scope, *, allow: bool) -> DeleteCounts:
        """Carry out what is due, or hold it back; `allow`: all of it, and what was held before."""
        counts = DeleteCounts()
        # held before all of it was loaded once more, and stated anew since
        connection.execute(sa.delete(DELETES).where(DELETES.c.state == "kept"))
        states = ("due", "held") if allow else ("due",)
        due, free = self._due(connection, states)
        if not due:
            return counts
        spent = self._spent(connection)
        reached = {name: self._reached(connection, name, keys) for name, keys in due.items()}
        counted = {
            name: self._reached(connection, name, keys - free.get(name, set()))
            for name, keys in due.items()
            if not allow
        }
        for name in self._beyond(counted, spent):
            some = {dump_key(key) for key in due[name] - free.get(name, set())}
            counts.held[name] = len(some)
            self._state(connection, name, some, "held")
            due[name] &= free.get(name, set())
            reached[name] = self._reached(connection, name, due[name])
        for name, keys in sorted(due.items()):
            counts.deleted += self._references.delete(connection, self._catalog.tables[name], keys, scope)
            self._state(connection, name, map(dump_key, keys), None)
        self._spend(connection, _together(reached.values()), spent)
        return counts

    def _due(self, connection: sa.Connection, states: Iterable[str]) -> tuple[Rows, Rows]:
        """What is to be deleted; and what of it was let go before, and is deleted once more."""
        settled = {row.table: row.settled_to for row in connection.execute(sa.select(BUDGET))}
        due: Rows = defaultdict(set)
        free: Rows = defaultdict(set)
        rows = sa.select(DELETES).where(DELETES.c.state.in_(tuple(states)))
        for row in connection.execute(rows):
            if row.table not in self._catalog.tables:
                continue
            due[row.table].add(load_key(row.key))
            if row.stamp <= settled.get(row.table, 0) and row.state == "due":
                free[row.table].add(load_key(row.key))
        return due, free

    def held(self, connection: sa.Connection) -> tuple[HeldDeletes, ...]:
        """What is held back: how much of which table, why, and what would go with it."""
        return tuple([self._with_cascades(connection, one) for one in held(connection, self._catalog)])

    def _with_cascades(self, connection: sa.Connection, one: HeldDeletes) -> HeldDeletes:
        mine = (DELETES.c.table == one.table, DELETES.c.state == "held")
        some = set(map(load_key, connection.scalars(sa.select(DELETES.c.key).where(*mine))))
        reached = self._reached(connection, one.table, some)
        reached[one.table] = reached.get(one.table, set()) - some
        cascades = {name: len(keys) for name, keys in sorted(reached.items()) if keys}
        return msgspec.structs.replace(one, cascades=cascades)

    # -- the budget ------------------------------------------------------------------------------

    @staticmethod
    def _spent(connection: sa.Connection) -> dict[str, _Spent]:
        rows = connection.execute(sa.select(BUDGET))
        return {row.table: _Spent(row.had, row.deleted, row.settled_to) for row in rows}

    def _beyond(self, reached: Mapping[str, Rows], spent: Mapping[str, _Spent]) -> list[str]:
        """The tables whose deletes are held, so that what is left of all is within every table's budget."""
        left, held = dict(reached), []
        while left:
            gone = {name: len(keys) for name, keys in _together(left.values()).items()}
            over = {name for name, many in gone.items() if self._exceeds(many, spent.get(name, _Spent()))}
            if not over:
                break
            # what takes most with it goes first
            heaviest = max(left, key=lambda one: (sum(len(left[one].get(name, ())) for name in over), one))
            held.append(heaviest)
            del left[heaviest]
        return held

    def _exceeds(self, many: int, spent: _Spent) -> bool:
        many += spent.deleted
        # a table that was empty when the last certificate was given had nothing to lose
        return spent.had > 0 and many > self._allowance.rows and many > self._allowance.share * spent.had

    def _reached(self, connection: sa.Connection, name: str, keys: set[Key]) -> Rows:
        """These rows, and those that would be kept aside with them."""
        reached: Rows = defaultdict(set)
        frontier = {name: set(keys)}
        while frontier:
            table, some = frontier.popitem()
            some -= reached[table]
            if not some:
                continue
            reached[table] |= some
            self._keys.fill(connection, table, some)
            for reference in self._catalog.references_to(table):
                if reference.ondelete == "CASCADE" or not reference.nullable:
                    below = self._below(connection, reference)
                    frontier[reference.table] = frontier.get(reference.table, set()) | below
        return {table: rows for table, rows in reached.items() if rows}

    def _below(self, connection: sa.Connection, reference: Reference) -> set[Key]:
        """The rows whose reference leads to one of the keys last filled in for its target."""
        child, parent = self._catalog.tables[reference.table], self._catalog.tables[reference.target]
        stated = [child.sql.c[reference.columns[reference.target_columns.index(name)]] for name in parent.key]
        key = [raw(self._engine, child.sql.c[name]) for name in child.key]
        rows = sa.select(*key).where(is_here(child.sql), self._keys.among(parent.name, stated))
        return {tuple(row) for row in connection.execute(rows)}

    @staticmethod
    def _spend(connection: sa.Connection, gone: Rows, spent: Mapping[str, _Spent]) -> None:
        for name, keys in gone.items():
            if name in spent:
                more = {"deleted": spent[name].deleted + len(keys)}
                connection.execute(sa.update(BUDGET).where(BUDGET.c.table == name).values(more))

    def _state(self, connection: sa.Connection, name: str, texts: Iterable[str], state: str | None) -> None:
        """What is decided of these rows; None: they are deleted, and no more to be said of them."""
        self._keys.fill(connection, name, map(load_key, texts))
        mine = sa.and_(DELETES.c.table == name, DELETES.c.key.in_(self._keys.texts(name)))
        if state is None:
            connection.execute(sa.delete(DELETES).where(mine))
        else:
            connection.execute(sa.update(DELETES).where(mine).values(state=state))


def begin_budget(
    connection: sa.Connection, engine: Engine, had: Mapping[str, int], *, settled_to: int
) -> None:
    """A certificate was given: from here on it counts anew what is deleted."""
    connection.execute(sa.delete(BUDGET))
    rows = [(name, many, 0, settled_to) for name, many in sorted(had.items())]
    engine.insert(connection, BUDGET, BUDGET.c.keys(), rows)


def held(connection: sa.Connection, catalog: Catalog) -> list[HeldDeletes]:
    """What is held back, without what would go with it."""
    of_table: dict[str, Counter[str]] = defaultdict(Counter)
    rows = sa.select(DELETES.c.table, DELETES.c.proof, sa.func.count()).where(DELETES.c.state == "held")
    for name, proof, many in connection.execute(rows.group_by(DELETES.c.table, DELETES.c.proof)):
        if name in catalog.tables:
            of_table[name][proof] = many
    found = []
    for name, proofs in sorted(of_table.items()):
        there = sa.select(sa.func.count()).select_from(catalog.tables[name].sql)
        most = sorted(proofs.items(), key=lambda one: (-one[1], one[0]))[:_EXPLAINED]
        found.append(
            HeldDeletes(
                table=name,
                rows=proofs.total(),
                of=connection.scalar(there) or 0,
                why=tuple([f"{proof}: {many:,}" for proof, many in most]),
            )
        )
    return found


def resume_budget(
    connection: sa.Connection, engine: Engine, newest: Callable[[], Certificate | None]
) -> None:
    """Where none was begun, what the newest certificate says is what there was."""
    known = connection.execute(sa.select(BUDGET.c.table).limit(1)).first()
    last = newest() if known is None else None
    if last is not None:
        settled_to = connection.scalar(sa.select(sa.func.max(LOGS.c.loaded_to))) or 0
        begin_budget(connection, engine, {one.table: one.rows for one in last.tables}, settled_to=settled_to)


def keep_held(connection: sa.Connection) -> None:
    """All rows are about to be loaded once more: what was held back is to be held again."""
    connection.execute(sa.delete(DELETES).where(DELETES.c.state != "held"))
    connection.execute(sa.update(DELETES).values(state="kept"))
    connection.execute(sa.update(BUDGET).values(deleted=0))


def _together(some: Iterable[Rows]) -> Rows:
    """Every row that is in one of them, once."""
    joined: Rows = defaultdict(set)
    for rows in some:
        for name, keys in rows.items():
            joined[name] |= keys
    return joined
