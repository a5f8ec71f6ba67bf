"""References to a fixed point: what can be shown again comes back, what dangles is kept aside.

    restore   a withheld value whose target is there again is shown         ┐ until nothing
    withhold  a reference whose target is not there: null, stub or park     ┘ changes

Restoring comes first and is generous: rows that wait for each other in a ring all come back, and only
what still dangles then is withheld. So the result is the greatest set of rows whose references
hold, whatever came in which order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog, Reference, Table, stored_births, stored_defaults, stubbable
from ingest.engines.base import Engine
from ingest.keys import Keys, dump_key, given, is_in, is_row, load_key, raw
from ingest.leaving import Leaving, is_here
from ingest.ledger import TOMBSTONES, WITHHELD
from ingest.mirror import LEDGER_COLUMNS
from ingest.reconcile.scope import Scope
from ingest.types import LOWEST_VERSION, Key
from ingest.withheld import BY_ID, FOR, dump_row, load_row

#: keys named in one statement
_CHUNK = 400

#: a row's key and one of its columns
Cell: TypeAlias = tuple[Key, str]


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
        self._leaving = Leaving(catalog, engine)

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
            if not frontier:
                # what leads to a stub that is gone may be withheld again
                frontier = self._drop_stubs(connection, scope, counts)
        scope.fill(connection, self._keys)
        self._leaving.finish(connection, scope.tables, partial(self._looked_at, scope))
        return counts

    def delete(self, connection: sa.Connection, table: Table, keys: Iterable[Key], changed: Scope) -> int:
        """Keep rows aside that were deleted upstream; how many were there. `changed` grows by them."""
        deleted = set(keys)
        self._keys.fill(connection, table.name, deleted)
        parked: dict[Key, list[Action]] = {key: [] for key in self._rows(connection, table)}
        self._park(connection, table, parked, changed)
        if self._keys.fill(connection, table.name, deleted - parked.keys()):
            # they are kept aside for another reason, which may end
            references = sa.and_(self._aside(table), WITHHELD.c.column != "")
            connection.execute(sa.delete(WITHHELD).where(references))
            now = {"reason": "deleted", "target_table": None, "target_key": None}
            connection.execute(sa.update(WITHHELD).where(self._aside(table)).values(now))
            changed.add(table.name, deleted - parked.keys())
        return len(parked)

    def _looked_at(self, scope: Scope, table: Table) -> sa.ColumnElement[bool]:
        return scope.within(self._keys, table.name, [table.sql.c[name] for name in table.key])

    # -- restore ---------------------------------------------------------------------------------

    def _restore(self, connection: sa.Connection, frontier: Scope, counts: ReferenceCounts) -> Scope:
        frontier.fill(connection, self._keys)
        values: dict[str, dict[Cell, Any]] = {}
        rows: dict[str, set[Key]] = {}
        returning = [one for target in frontier.tables for one in self._returning(target, frontier)]
        # another row of the table may have made room
        refused = sa.and_(WITHHELD.c.reason == "refused", WITHHELD.c.table.in_(frontier.tables))
        returning.append(sa.select(WITHHELD).where(refused))
        for entry in (row for one in returning for row in connection.execute(one).mappings()):
            if entry["column"].startswith(FOR):
                rows.setdefault(entry["table"], set()).add(load_key(entry["key"]))
            elif entry["column"]:
                of_table = values.setdefault(entry["table"], {})
                of_table[load_key(entry["key"]), entry["column"]] = msgspec.json.decode(entry["value"])
        changed = Scope({})
        for name, shown in sorted(values.items()):
            counts.restored += self._show_values(connection, self._catalog.tables[name], shown, changed)
        for name, keys in sorted(rows.items()):
            counts.restored += self._show_rows(connection, self._catalog.tables[name], keys, changed)
        return changed

    def _returning(self, target: str, frontier: Scope) -> Iterator[sa.Select[Any]]:
        """Withheld entries that wait for a row of `target` which is there, or known to be deleted by now.

        The latter are shown for a moment, and withheld again by the rules of a deleted parent. Each is
        asked by itself: joined by OR, MariaDB would ask it of every entry.
        """
        table = self._catalog.tables[target].sql
        key = [table.c[name] for name in self._catalog.tables[target].key]
        if frontier.keys(target) is None:
            # few wait, and each looks its own row up; the keys of all that is there would be a long list
            parts = [
                self._engine.key_part(WITHHELD.c.target_key, at, column.type) for at, column in enumerate(key)
            ]
            same = [column == part for column, part in zip(key, parts, strict=True)]
            waits: sa.ColumnElement[bool] = sa.exists().where(*same, is_here(table))
        else:
            there = sa.select(self._engine.key_json(key)).where(
                frontier.within(self._keys, target, list(key)), is_here(table)
            )
            waits = WITHHELD.c.target_key.in_(there)
        gone = sa.union(*_gone(target)).subquery()
        buried = sa.and_(WITHHELD.c.reason == "missing", WITHHELD.c.target_key.in_(sa.select(gone.c.key)))
        for returns in (waits, buried):
            yield sa.select(WITHHELD).where(WITHHELD.c.target_table == target, returns)

    def _show_values(
        self, connection: sa.Connection, table: Table, values: Mapping[Cell, Any], changed: Scope
    ) -> int:
        """Show withheld values again: how many. One that a constraint is against stays aside."""
        # what a refused write leaves as it was has not changed, or it would be tried for ever
        before = Scope({})
        self._touch_watched(connection, table, {key for key, _ in values}, before)
        if not self._allowed(connection, lambda: self._write_values(connection, table, values)):
            if len(values) > 1:
                single = ({cell: value} for cell, value in values.items())
                return sum(self._show_values(connection, table, one, changed) for one in single)
            ((key, column),) = values
            self._refuse(connection, table.name, key, column)
            return 0
        changed.join(before)
        for column in {column for _, column in values}:
            self._keys.fill(connection, table.name, [key for key, name in values if name == column])
            connection.execute(sa.delete(WITHHELD).where(self._aside(table), WITHHELD.c.column == column))
        self._touch_watched(connection, table, {key for key, _ in values}, changed)
        changed.add(table.name, [key for key, _ in values])
        return len(values)

    def _write_values(self, connection: sa.Connection, table: Table, values: Mapping[Cell, Any]) -> None:
        def parameter(called: str, name: str) -> sa.BindParameter[Any]:
            return sa.bindparam(called, type_=self._engine.form(table.sql.c[name].type))

        same = [table.sql.c[name] == parameter(f"key {name}", name) for name in table.key]
        for column in {column for _, column in values}:
            show = sa.update(table.sql).where(*same).values({column: parameter("value shown", column)})
            named = [f"key {name}" for name in table.key]
            connection.execute(
                show,
                [
                    {"value shown": value, **dict(zip(named, key, strict=True))}
                    for (key, name), value in values.items()
                    if name == column
                ],
            )

    def _show_rows(
        self, connection: sa.Connection, table: Table, keys: Collection[Key], changed: Scope
    ) -> int:
        """Show withheld rows again: how many. One that a constraint is against stays aside."""
        self._keys.fill(connection, table.name, keys)
        blank = {**dict.fromkeys(table.names), **self._fresh(table), **dict.fromkeys(LEDGER_COLUMNS)}
        rows = []
        held = sa.select(WITHHELD).where(self._aside(table), WITHHELD.c.column == "")
        for row in connection.execute(held).mappings():
            values, exceptions = load_row(table, row["value"])
            rank = (row["version"], row["stamp"], row["ordinal"])
            shown = {**blank, **values, **dict(zip(LEDGER_COLUMNS, (*rank, exceptions), strict=True))}
            rows.append(tuple(shown.values()))
        insert = partial(self._engine.insert, connection, table.sql, list(blank), rows)
        if not self._allowed(connection, insert):
            if len(keys) > 1:
                return sum(self._show_rows(connection, table, [key], changed) for key in sorted(keys))
            self._refuse(connection, table.name, next(iter(keys)), None)
            return 0
        connection.execute(sa.delete(WITHHELD).where(self._aside(table)))
        self._touch_watched(connection, table, keys, changed)
        changed.add(table.name, keys)
        return len(keys)

    def _aside(self, table: Table) -> sa.ColumnElement[bool]:
        """The withheld entries of the keys last filled in."""
        return sa.and_(WITHHELD.c.table == table.name, WITHHELD.c.key.in_(self._keys.texts(table.name)))

    def _allowed(self, connection: sa.Connection, write: Callable[[], Any]) -> bool:
        """Write something; False, and nothing is written, when a row of it violates a constraint."""
        try:
            with connection.begin_nested():
                write()
        except sa.exc.DBAPIError as error:
            if self._engine.violation(error) is None:
                raise
            return False
        return True

    @staticmethod
    def _refuse(connection: sa.Connection, name: str, key: Key, column: str | None) -> None:
        """Note that a row's entries, or one of them, wait for no parent, but for room beside another row."""
        of_row = (WITHHELD.c.table == name, WITHHELD.c.key == dump_key(key))
        entries = of_row if column is None else (*of_row, WITHHELD.c.column == column)
        connection.execute(sa.update(WITHHELD).where(*entries).values(reason="refused"))

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
        rows: dict[str, dict[Key, list[Action]]] = {}
        for action in self._decide(connection, dangling):
            one = action.dangling
            rows.setdefault(one.reference.table, {}).setdefault(one.key, []).append(action)
        for name, of_table in sorted(rows.items()):
            self._withhold_in(connection, self._catalog.tables[name], of_table, counts, changed)
        return changed

    def _withhold_in(
        self,
        connection: sa.Connection,
        table: Table,
        rows: Mapping[Key, list[Action]],
        counts: ReferenceCounts,
        changed: Scope,
    ) -> None:
        aside = {
            key: actions for key, actions in rows.items() if any(one.policy == "park" for one in actions)
        }
        stay = {key: actions for key, actions in rows.items() if key not in aside}
        # what is done about a reference may violate a constraint: whose row that is, only one by one can
        # tell, and that row is kept aside whole
        if not self._patch(connection, table, stay.values(), counts, changed):
            for key, actions in sorted(stay.items(), key=lambda item: dump_key(item[0])):
                if not self._patch(connection, table, [actions], counts, changed):
                    aside[key] = actions
        self._park(connection, table, aside, changed)
        counts.parked += len(aside)

    def _patch(
        self,
        connection: sa.Connection,
        table: Table,
        rows: Iterable[list[Action]],
        counts: ReferenceCounts,
        changed: Scope,
    ) -> bool:
        """Let rows stay in their table: a placeholder for what they lead to, or NULL for what dangles.

        False, and nothing is done, when a constraint is against it.
        """
        actions = [action for of_row in rows for action in of_row]
        stubs = {one.where: one.dangling for one in actions if one.policy == "stub"}
        nulled = [one for one in actions if one.policy == "null"]

        made: list[Dangling] = []

        def patch() -> None:
            made.extend(one for one in stubs.values() if self._stub(connection, one, changed))
            self._null(connection, table, nulled, changed)

        if not self._allowed(connection, patch):
            return False
        counts.stubs += len(made)
        counts.nulled += len(nulled)
        return True

    def _dangling(
        self, connection: sa.Connection, reference: Reference, frontier: Scope
    ) -> Iterable[Dangling]:
        child, parent = self._catalog.tables[reference.table], self._catalog.tables[reference.target]
        other = parent.sql.alias()
        stated = [child.sql.c[name] for name in reference.columns]
        key = [child.sql.c[name] for name in child.key]
        told = [is_here(child.sql), *(column.is_not(None) for column in stated)]
        if frontier.keys(child.name) is None:
            # every target is looked up once, however many rows state it, and mostly all are there
            targets = sa.select(*stated).distinct().subquery()
            gone = sa.select(targets).where(
                *(column.is_not(None) for column in targets.c),
                sa.not_(_is_there(reference, other, targets.c)),
            )
            # counted, for a database that is asked for the first one goes about it in an index's order
            if not connection.scalar(sa.select(sa.func.count()).select_from(gone.subquery())):
                return
            absent = is_in(stated, gone)
        else:
            absent = sa.not_(_is_there(reference, other, stated))
        in_key_order = [stated[reference.target_columns.index(name)] for name in parent.key]
        sides = (child.name, key), (parent.name, in_key_order)
        rows = sa.select(*(raw(self._engine, one) for one in (*key, *in_key_order))).where(*told, absent)
        asked = [rows.where(looked_at) for looked_at in frontier.each_within(self._keys, *sides)]
        # a row may be looked at for its own sake and for its parent's
        for row in dict.fromkeys(tuple(row) for one in asked for row in connection.execute(one)):
            yield Dangling(reference, row[: len(key)], row[len(key) :])

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
        """Which targets are known to be deleted."""
        wanted = sorted({(one.reference.target, dump_key(one.target)) for one in dangling})
        found: set[tuple[str, str]] = set()
        for name in {table for table, _ in wanted}:
            keys = [key for table, key in wanted if table == name]
            for start in range(0, len(keys), _CHUNK):
                for gone in _gone(name):
                    some = gone.where(gone.selected_columns.key.in_(keys[start : start + _CHUNK]))
                    found |= {(name, key) for key in connection.scalars(some)}
        return found

    def _null(self, connection: sa.Connection, table: Table, actions: list[Action], changed: Scope) -> None:
        """Show NULL; keep the stated values aside."""
        if not actions:
            return
        keys = {one.dangling.key for one in actions}
        self._touch_watched(connection, table, keys, changed)
        rows = self._rows(connection, table)
        entries = []
        of_reference: dict[Reference, list[Key]] = {}
        for action in actions:
            one = action.dangling
            row, target = rows[one.key], (one.reference.target, dump_key(one.target))
            of_reference.setdefault(one.reference, []).append(one.key)
            for name in one.reference.nullable:
                if row[name] is not None:
                    cell = (table.name, dump_key(one.key), name, _json(row[name]))
                    entries.append((*cell, *_column_rank(row, name), action.reason, *target))
        self._engine.insert(connection, WITHHELD, WITHHELD.c.keys(), entries, new_only=True)
        for reference, dangling in of_reference.items():
            self._keys.fill(connection, table.name, dangling)
            connection.execute(
                sa.update(table.sql).where(self._filled(table)).values(dict.fromkeys(reference.nullable))
            )
        changed.add(table.name, keys)

    def _park(
        self, connection: sa.Connection, table: Table, parked: Mapping[Key, list[Action]], changed: Scope
    ) -> None:
        """Keep whole rows aside, and note every reference they wait for; none: they were deleted."""
        if not parked:
            return
        self._touch_watched(connection, table, parked, changed)
        held: dict[str, dict[str, Any]] = {}
        for entry in connection.execute(sa.select(WITHHELD).where(self._aside(table))):
            if entry.column and entry.value is not None:
                held.setdefault(entry.key, {})[entry.column] = msgspec.json.decode(entry.value)
        rows, entries = self._rows(connection, table), []
        for key, actions in parked.items():
            row, text = rows[key], dump_key(key)
            exceptions = msgspec.json.decode(row["ingest_exceptions"]) if row["ingest_exceptions"] else {}
            values = {name: row[name] for name in table.names if exceptions.get(name, True) is not None}
            values |= held.get(text, {})
            rank = tuple(row[name] for name in LEDGER_COLUMNS[:3])
            reason = "cascade" if any(action.reason == "cascade" for action in actions) else "missing"
            reason = reason if actions else "deleted"
            if row["ingest_stamp"] == 0 and row["ingest_version"] == LOWEST_VERSION:
                continue  # a stub has nothing to be kept
            stated = dump_row(values, row["ingest_exceptions"])
            entries.append((table.name, text, "", stated, *rank, reason, None, None))
            for action in actions:
                one = action.dangling
                target = (one.reference.target, dump_key(one.target))
                entries.append(
                    (table.name, text, FOR + one.reference.name, None, *rank, action.reason, *target)
                )
        connection.execute(sa.delete(WITHHELD).where(self._aside(table)))
        self._engine.insert(connection, WITHHELD, WITHHELD.c.keys(), entries)
        self._leaving.remove(connection, table, self._filled(table))
        changed.add(table.name, parked)

    def _stub(self, connection: sa.Connection, one: Dangling, changed: Scope) -> bool:
        """A placeholder parent: its key, constant defaults, and the lowest rank; False if it is there."""
        parent = self._catalog.tables[one.reference.target]
        there = is_row(self._engine, parent, one.target)
        stamp = connection.scalar(sa.select(parent.sql.c.ingest_stamp).where(there))
        if stamp is not None and stamp >= 0:
            return False
        exceptions = msgspec.json.encode(dict.fromkeys((*parent.names, ""))).decode()
        stated = dict(zip(parent.key, one.target, strict=True))
        stated = {**self._fresh(parent), **stated}
        columns = (*stated, *LEDGER_COLUMNS)
        row = (*stated.values(), LOWEST_VERSION, 0, 0, exceptions)
        if stamp is None:
            self._engine.insert(connection, parent.sql, columns, [row])
        else:
            # a row on its way out stays after all
            blank = {**dict.fromkeys(parent.names), **dict(zip(columns, row, strict=True))}
            values = {name: given(self._engine, value, parent.sql.c[name]) for name, value in blank.items()}
            connection.execute(sa.update(parent.sql).where(there).values(values))
        changed.add(parent.name, [one.target])
        return True

    def _drop_stubs(self, connection: sa.Connection, scope: Scope, counts: ReferenceCounts) -> Scope:
        """A stub that nobody needs any more goes away; which did."""
        dropped = Scope({})
        scope.fill(connection, self._keys)
        for name in scope.tables:
            holding = [one for one in self._catalog.references_to(name) if "stub" in one.policies]
            if not holding:
                continue
            table = self._catalog.tables[name]
            key = [table.sql.c[part] for part in table.key]
            stubs = sa.select(*(raw(self._engine, part) for part in key)).where(
                table.sql.c.ingest_stamp == 0,
                table.sql.c.ingest_version == LOWEST_VERSION,
                scope.within(self._keys, name, list(key)),
            )
            idle = {tuple(row) for row in connection.execute(stubs)}
            if self._keys.fill(connection, name, idle):
                dropped.add(name, idle.difference(*(self._wanted(connection, one) for one in holding)))
        for name in dropped.tables:
            table, keys = self._catalog.tables[name], dropped.keys(name) or ()
            counts.stubs_removed += self._keys.fill(connection, name, keys)
            self._leaving.remove(connection, table, self._filled(table))
        return dropped

    def _wanted(self, connection: sa.Connection, reference: Reference) -> set[Key]:
        """Those of the keys last filled in for its target that a reference leads to."""
        child, parent = self._catalog.tables[reference.table], self._catalog.tables[reference.target]
        stated = [child.sql.c[reference.columns[reference.target_columns.index(name)]] for name in parent.key]
        rows = sa.select(*(raw(self._engine, one) for one in stated)).where(
            is_here(child.sql), self._keys.among(parent.name, stated)
        )
        return {tuple(row) for row in connection.execute(rows.distinct())}

    def _fresh(self, table: Table) -> dict[str, Any]:
        """What a row has in the columns that nobody stated."""
        return {**stored_defaults(table), **stored_births(table)}

    # -- shared ----------------------------------------------------------------------------------

    def _rows(self, connection: sa.Connection, table: Table) -> dict[Key, sa.RowMapping]:
        """The rows of the keys last filled in, as stored."""
        columns = [raw(self._engine, table.sql.c[name]) for name in (*table.names, *LEDGER_COLUMNS)]
        rows = connection.execute(sa.select(*columns).where(self._filled(table))).mappings()
        return {tuple(row[name] for name in table.key): row for row in rows}

    def _filled(self, table: Table) -> sa.ColumnElement[bool]:
        """The rows of the keys last filled in."""
        return self._keys.among(table.name, [table.sql.c[name] for name in table.key])

    def _touch_watched(
        self, connection: sa.Connection, table: Table, keys: Iterable[Key], changed: Scope
    ) -> None:
        """Fill in the keys; add the parents whose pointers, counters or stubs hang on their rows now."""
        self._keys.fill(connection, table.name, keys)
        for columns, target in self._catalog.watched(table.name):
            watched = sa.select(*(raw(self._engine, table.sql.c[name]) for name in columns)).where(
                self._filled(table)
            )
            rows = connection.execute(watched.distinct())
            changed.add(target, [tuple(row) for row in rows if None not in row])


def _is_there(
    reference: Reference, parent: sa.FromClause, stated: Iterable[sa.ColumnElement[Any]]
) -> sa.ColumnElement[bool]:
    """True where the parent has a row that `stated`, in the order of the reference's columns, names."""
    pairs = zip(stated, reference.target_columns, strict=True)
    return sa.exists().where(*(parent.c[theirs] == ours for ours, theirs in pairs), is_here(parent))


def _gone(name: str) -> list[sa.Select[Any]]:
    """The keys of a table that are known to be deleted: upstream said so, or a row that was stated is.

    What was only not there when it was asked for by id, and nobody has ever stated, is missing as before.
    """
    aside = WITHHELD.alias()
    told = sa.select(TOMBSTONES.c.key).where(
        TOMBSTONES.c.table == name, TOMBSTONES.c.proof.not_like(f"{BY_ID}%")
    )
    stated = sa.select(aside.c.key).where(
        aside.c.table == name, aside.c.column == "", aside.c.reason == "deleted"
    )
    return [told, stated]


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _column_rank(row: sa.RowMapping, name: str) -> tuple[int, int, int]:
    exceptions = msgspec.json.decode(row["ingest_exceptions"]) if row["ingest_exceptions"] else {}
    if exceptions.get(name):
        version, stamp, ordinal = exceptions[name]
        return version, stamp, ordinal
    return row["ingest_version"], row["ingest_stamp"], row["ingest_ordinal"]
