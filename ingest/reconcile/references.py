"""References to a fixed point: what can be shown again comes back, what dangles is kept aside.

    restore   a withheld value whose target is there again is shown         ┐ until nothing
    withhold  a reference whose target is not there: null, stub or park     ┘ changes

Restoring comes first and is generous: rows that wait for each other in a ring all come back, and only
what still dangles then is withheld. So the result is the greatest set of rows whose references
hold, whatever came in which order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog, Reference, Table, stored_births, stored_defaults, stubbable
from ingest.engines.base import Engine
from ingest.keys import Keys, dump_key, is_in, is_row, load_key, raw, stored
from ingest.ledger import TOMBSTONES, WITHHELD
from ingest.mirror import LEDGER_COLUMNS
from ingest.reconcile.scope import Scope
from ingest.types import LOWEST_VERSION, Key
from ingest.withheld import FOR, dump_row, load_row

#: keys named in one statement
_CHUNK = 400


class Dangling(NamedTuple):
    """A row whose reference leads nowhere."""

    reference: Reference
    key: Key
    target: Key


class Action(NamedTuple):
    """What is done about one dangling reference."""

    dangling: Dangling
    #: null | stub | park
    policy: str
    #: missing | cascade | deleted
    reason: str

    @property
    def where(self) -> tuple[str, Key]:
        """The row that is not there."""
        return self.dangling.reference.target, self.dangling.target


@dataclass(slots=True)
class ReferenceCounts:
    """What the step did; all zero when it is run again."""

    restored: int = 0
    nulled: int = 0
    parked: int = 0
    stubs: int = 0
    stubs_removed: int = 0


class References:
    """The step, on one connection."""

    def __init__(self, catalog: Catalog, engine: Engine, keys: Keys) -> None:
        self._catalog, self._engine, self._keys = catalog, engine, keys

    def settle(self, connection: sa.Connection, scope: Scope) -> ReferenceCounts:
        """Bring all that `scope` may have changed to its fixed point; `scope` grows by what changed."""
        counts = ReferenceCounts()
        frontier = scope
        while frontier:
            frontier = self._restore(connection, frontier, counts)
            scope.join(frontier)
        frontier = scope
        while frontier:
            frontier = self._withhold(connection, frontier, counts)
            scope.join(frontier)
        self._drop_stubs(connection, scope, counts)
        return counts

    # -- restore ---------------------------------------------------------------------------------

    def _restore(self, connection: sa.Connection, frontier: Scope, counts: ReferenceCounts) -> Scope:
        frontier.fill(connection, self._keys)
        values: list[sa.RowMapping] = []
        rows: set[tuple[str, str]] = set()
        returning = [self._returning(target, frontier) for target in frontier.tables]
        # another row of the table may have made room
        refused = sa.and_(WITHHELD.c.reason == "refused", WITHHELD.c.table.in_(frontier.tables))
        returning.append(sa.select(WITHHELD).where(refused))
        seen: set[tuple[str, str, str]] = set()
        for entry in (row for one in returning for row in connection.execute(one).mappings()):
            where = entry["table"], entry["key"], entry["column"]
            if where in seen:
                continue
            seen.add(where)
            if entry["column"].startswith(FOR):
                rows.add((entry["table"], entry["key"]))
            elif entry["column"]:
                values.append(entry)
        changed = Scope({})
        counts.restored += sum(self._show_value(connection, entry, changed) for entry in values)
        counts.restored += sum(self._show_row(connection, *where, changed) for where in sorted(rows))
        return changed

    def _returning(self, target: str, frontier: Scope) -> sa.Select[Any]:
        """Withheld entries that wait for a row of `target` which is there, or known to be deleted by now.

        The latter are shown for a moment, and withheld again by the rules of a deleted parent.
        """
        table = self._catalog.tables[target].sql
        key = [table.c[name] for name in self._catalog.tables[target].key]
        if frontier.keys(target) is None:
            # few wait, and each looks its own row up; the keys of all that is there would be a long list
            parts = [raw(self._engine.key_part(WITHHELD.c.target_key, at)).element for at in range(len(key))]
            same = [column == part for column, part in zip(key, parts, strict=True)]
            waits: sa.ColumnElement[bool] = sa.exists().where(*same)
        else:
            there = sa.select(self._engine.key_json(key)).where(
                frontier.within(self._keys, target, list(key))
            )
            waits = WITHHELD.c.target_key.in_(there)
        gone = sa.select(TOMBSTONES.c.key).where(TOMBSTONES.c.table == target)
        buried = sa.and_(WITHHELD.c.reason == "missing", WITHHELD.c.target_key.in_(gone))
        return sa.select(WITHHELD).where(WITHHELD.c.target_table == target, sa.or_(waits, buried))

    def _show_value(self, connection: sa.Connection, entry: sa.RowMapping, changed: Scope) -> bool:
        """Show a withheld value again; False, and it stays aside, where a constraint is against it."""
        table, key = self._catalog.tables[entry["table"]], load_key(entry["key"])
        stated = stored(msgspec.json.decode(entry["value"]))
        show = sa.update(table.sql).where(is_row(table, key)).values({table.sql.c[entry["column"]]: stated})
        self._touch_watched(connection, table, [key], changed)
        if not self._allowed(connection, lambda: connection.execute(show)):
            self._refuse(connection, table.name, entry["key"], entry["column"])
            return False
        self._forget(connection, table.name, key, entry["column"])
        changed.add(table.name, [key])
        self._touch_watched(connection, table, [key], changed)
        return True

    def _show_row(self, connection: sa.Connection, name: str, text: str, changed: Scope) -> bool:
        """Show a withheld row again; False, and it stays aside, where a constraint is against it."""
        table, key = self._catalog.tables[name], load_key(text)
        held = connection.execute(
            sa.select(WITHHELD).where(
                WITHHELD.c.table == name, WITHHELD.c.key == text, WITHHELD.c.column == ""
            )
        )
        for row in held.mappings().all():
            values, exceptions = load_row(table, row["value"])
            rank = (row["version"], row["stamp"], row["ordinal"])
            shown = {**dict.fromkeys(table.names), **self._fresh(table), **values}
            shown.update(zip(LEDGER_COLUMNS, (*rank, exceptions), strict=True))
            insert = partial(self._engine.insert, connection, table.sql, list(shown), [tuple(shown.values())])
            if not self._allowed(connection, insert):
                self._refuse(connection, name, text, None)
                return False
        self._forget(connection, name, key, None)
        changed.add(name, [key])
        self._touch_watched(connection, table, [key], changed)
        return True

    def _allowed(self, connection: sa.Connection, write: Callable[[], Any]) -> bool:
        """Write what concerns one row; False, and nothing is written, when it violates a constraint."""
        try:
            with connection.begin_nested():
                write()
        except sa.exc.DBAPIError as error:
            if self._engine.violation(error) is None:
                raise
            return False
        return True

    @staticmethod
    def _refuse(connection: sa.Connection, name: str, key: str, column: str | None) -> None:
        """Note that a row's entries, or one of them, wait for no parent, but for room beside another row."""
        of_row = (WITHHELD.c.table == name, WITHHELD.c.key == key)
        entries = of_row if column is None else (*of_row, WITHHELD.c.column == column)
        connection.execute(sa.update(WITHHELD).where(*entries).values(reason="refused"))

    @staticmethod
    def _forget(connection: sa.Connection, name: str, key: Key, column: str | None) -> None:
        """Drop a withheld entry, or all of a row's."""
        gone = sa.delete(WITHHELD).where(WITHHELD.c.table == name, WITHHELD.c.key == dump_key(key))
        connection.execute(gone if column is None else gone.where(WITHHELD.c.column == column))

    # -- withhold --------------------------------------------------------------------------------

    def _withhold(self, connection: sa.Connection, frontier: Scope, counts: ReferenceCounts) -> Scope:
        frontier.fill(connection, self._keys)
        dangling = [
            one
            for reference in self._catalog.references
            if reference.table in frontier or reference.target in frontier
            for one in self._dangling(connection, reference, frontier)
        ]
        changed = Scope({})
        by_row: dict[tuple[str, Key], list[Action]] = {}
        for action in self._decide(connection, dangling):
            by_row.setdefault((action.dangling.reference.table, action.dangling.key), []).append(action)
        stubs: set[tuple[str, Key]] = set()
        for (name, key), actions in sorted(
            by_row.items(), key=lambda item: (item[0][0], dump_key(item[0][1]))
        ):
            table = self._catalog.tables[name]
            made = {one.where: one for one in actions if one.policy == "stub" and one.where not in stubs}
            nulled = [one for one in actions if one.policy == "null"]
            # what is done about one reference may violate a constraint: then the row is kept aside whole
            if any(one.policy == "park" for one in actions) or not self._allowed(
                connection, partial(self._patch, connection, table, made.values(), nulled, changed)
            ):
                self._park(connection, table, key, actions, changed)
                counts.parked += 1
                continue
            stubs |= made.keys()
            counts.stubs += len(made)
            counts.nulled += len(nulled)
        return changed

    def _patch(
        self,
        connection: sa.Connection,
        table: Table,
        stubs: Iterable[Action],
        nulled: Iterable[Action],
        changed: Scope,
    ) -> None:
        """Let a row stay in its table: a placeholder for what it leads to, or NULL for what dangles."""
        for action in stubs:
            self._stub(connection, action.dangling, changed)
        for action in nulled:
            self._null(connection, table, action, changed)

    def _dangling(
        self, connection: sa.Connection, reference: Reference, frontier: Scope
    ) -> Iterable[Dangling]:
        child, parent = self._catalog.tables[reference.table], self._catalog.tables[reference.target]
        other = parent.sql.alias()
        stated = [child.sql.c[name] for name in reference.columns]
        key = [child.sql.c[name] for name in child.key]
        told = [column.is_not(None) for column in stated]
        if frontier.keys(child.name) is None:
            # every target is looked up once, however many rows state it
            targets = sa.select(*stated).where(*told).distinct().subquery()
            absent = is_in(stated, sa.select(targets).where(sa.not_(_is_there(reference, other, targets.c))))
        else:
            absent = sa.not_(_is_there(reference, other, stated))
        in_key_order = [stated[reference.target_columns.index(name)] for name in parent.key]
        looked_at = sa.or_(
            frontier.within(self._keys, child.name, list(key)),
            frontier.within(self._keys, parent.name, list(in_key_order)),
        )
        rows = sa.select(*map(raw, key), *map(raw, in_key_order)).where(*told, looked_at, absent)
        for row in connection.execute(rows):
            yield Dangling(reference, tuple(row[: len(key)]), tuple(row[len(key) :]))

    def _decide(self, connection: sa.Connection, dangling: list[Dangling]) -> Iterable[Action]:
        deleted = self._deleted(connection, dangling)
        for one in dangling:
            reference = one.reference
            if (reference.target, dump_key(one.target)) in deleted:
                if reference.ondelete == "CASCADE":
                    yield Action(one, "park", "cascade")
                    continue
                if reference.ondelete == "SET NULL" and reference.nullable:
                    yield Action(one, "null", "deleted")
                    continue
                yield Action(
                    one,
                    "null" if reference.nullable else "park",
                    "deleted" if reference.nullable else "cascade",
                )
                continue
            yield Action(one, self._policy(reference), "missing")

    def _policy(self, reference: Reference) -> str:
        """The first policy that can be carried out here; asking by id was tried before."""
        for policy in reference.policies:
            if policy == "null" and reference.nullable:
                return policy
            if policy == "stub" and stubbable(self._catalog.tables[reference.target].sql):
                return policy
            if policy == "park":
                return policy
        return "null" if reference.nullable else "park"

    @staticmethod
    def _deleted(connection: sa.Connection, dangling: list[Dangling]) -> set[tuple[str, str]]:
        """Which targets are tombstoned."""
        wanted = sorted({(one.reference.target, dump_key(one.target)) for one in dangling})
        found: set[tuple[str, str]] = set()
        for name in {table for table, _ in wanted}:
            keys = [key for table, key in wanted if table == name]
            for start in range(0, len(keys), _CHUNK):
                held = sa.select(TOMBSTONES.c.key).where(
                    TOMBSTONES.c.table == name, TOMBSTONES.c.key.in_(keys[start : start + _CHUNK])
                )
                found |= {(name, key) for key in connection.scalars(held)}
        return found

    def _null(self, connection: sa.Connection, table: Table, action: Action, changed: Scope) -> None:
        """Show NULL; keep the stated value aside."""
        one = action.dangling
        columns = one.reference.nullable
        row = self._row(connection, table, one.key)
        target = (one.reference.target, dump_key(one.target))
        entries = [
            (
                table.name,
                dump_key(one.key),
                name,
                _json(row[name]),
                *_column_rank(row, name),
                action.reason,
                *target,
            )
            for name in columns
            if row[name] is not None
        ]
        self._touch_watched(connection, table, [one.key], changed)
        self._engine.insert(connection, WITHHELD, WITHHELD.c.keys(), entries, new_only=True)
        connection.execute(
            sa.update(table.sql)
            .where(is_row(table, one.key))
            .values({table.sql.c[name]: None for name in columns})
        )
        changed.add(table.name, [one.key])

    def _park(
        self, connection: sa.Connection, table: Table, key: Key, actions: list[Action], changed: Scope
    ) -> None:
        """Keep the whole row aside, and note every reference it waits for."""
        row = self._row(connection, table, key)
        text = dump_key(key)
        exceptions = msgspec.json.decode(row["ingest_exceptions"]) if row["ingest_exceptions"] else {}
        values = {name: row[name] for name in table.names if exceptions.get(name, True) is not None}
        for entry in connection.execute(
            sa.select(WITHHELD).where(WITHHELD.c.table == table.name, WITHHELD.c.key == text)
        ):
            if entry.column and entry.value is not None:
                values[entry.column] = msgspec.json.decode(entry.value)
        rank = tuple(row[name] for name in LEDGER_COLUMNS[:3])
        reason = "cascade" if any(action.reason == "cascade" for action in actions) else "missing"
        entries = [
            (table.name, text, "", dump_row(values, row["ingest_exceptions"]), *rank, reason, None, None)
        ]
        for action in actions:
            one = action.dangling
            target = (one.reference.target, dump_key(one.target))
            entries.append((table.name, text, FOR + one.reference.name, None, *rank, action.reason, *target))
        self._touch_watched(connection, table, [key], changed)
        self._forget(connection, table.name, key, None)
        self._engine.insert(connection, WITHHELD, WITHHELD.c.keys(), entries)
        connection.execute(sa.delete(table.sql).where(is_row(table, key)))
        changed.add(table.name, [key])

    def _stub(self, connection: sa.Connection, one: Dangling, changed: Scope) -> None:
        """A placeholder parent: its key, constant defaults, and the lowest rank there is."""
        parent = self._catalog.tables[one.reference.target]
        exceptions = msgspec.json.encode(dict.fromkeys((*parent.names, ""))).decode()
        stated = dict(zip(parent.key, one.target, strict=True))
        stated = {**self._fresh(parent), **stated}
        columns = (*stated, *LEDGER_COLUMNS)
        row = (*stated.values(), LOWEST_VERSION, 0, 0, exceptions)
        self._engine.insert(connection, parent.sql, columns, [row])
        changed.add(parent.name, [one.target])

    def _drop_stubs(self, connection: sa.Connection, scope: Scope, counts: ReferenceCounts) -> None:
        """A stub nobody refers to any more goes away."""
        scope.fill(connection, self._keys)
        for name in scope.tables:
            holding = [one for one in self._catalog.references_to(name) if "stub" in one.policies]
            if not holding:
                continue
            table = self._catalog.tables[name]
            key = [table.sql.c[part] for part in table.key]
            wanted = [
                sa.not_(is_in(list(key), _stated_targets(self._catalog.tables[one.table], one, table)))
                for one in holding
            ]
            counts.stubs_removed += connection.execute(
                sa.delete(table.sql).where(
                    table.sql.c.ingest_stamp == 0,
                    table.sql.c.ingest_version == LOWEST_VERSION,
                    scope.within(self._keys, name, list(key)),
                    *wanted,
                )
            ).rowcount

    def _fresh(self, table: Table) -> dict[str, Any]:
        """What a row has in the columns that nobody stated."""
        dialect = self._engine.dialect
        return {**stored_defaults(table, dialect), **stored_births(table, dialect)}

    # -- shared ----------------------------------------------------------------------------------

    @staticmethod
    def _row(connection: sa.Connection, table: Table, key: Key) -> sa.RowMapping:
        columns = [raw(table.sql.c[name]) for name in (*table.names, *LEDGER_COLUMNS)]
        return connection.execute(sa.select(*columns).where(is_row(table, key))).mappings().one()

    def _touch_watched(
        self, connection: sa.Connection, table: Table, keys: list[Key], changed: Scope
    ) -> None:
        """The parents whose pointers, counters or stubs hang on these rows as they are now."""
        for columns, target in self._catalog.watched(table.name):
            for key in keys:
                watched = sa.select(*(raw(table.sql.c[name]) for name in columns)).where(is_row(table, key))
                for row in connection.execute(watched):
                    if None not in row:
                        changed.add(target, [tuple(row)])


def _is_there(
    reference: Reference, parent: sa.FromClause, stated: Iterable[sa.ColumnElement[Any]]
) -> sa.ColumnElement[bool]:
    """True where the parent has a row that `stated`, in the order of the reference's columns, names."""
    pairs = zip(stated, reference.target_columns, strict=True)
    return sa.exists().where(*(parent.c[theirs] == ours for ours, theirs in pairs))


def _stated_targets(child: Table, reference: Reference, parent: Table) -> sa.Select[Any]:
    columns = [child.sql.c[reference.columns[reference.target_columns.index(name)]] for name in parent.key]
    return sa.select(*columns).where(*(column.is_not(None) for column in columns))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _column_rank(row: sa.RowMapping, name: str) -> tuple[int, int, int]:
    exceptions = msgspec.json.decode(row["ingest_exceptions"]) if row["ingest_exceptions"] else {}
    if exceptions.get(name):
        version, stamp, ordinal = exceptions[name]
        return version, stamp, ordinal
    return row["ingest_version"], row["ingest_stamp"], row["ingest_ordinal"]
