"""The truth: rows as they should be, which the simulated upstream tells and a mirror must come to equal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from types import ModuleType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase

from ingest.mirror import Latest, said
from ingest.types import Key
from tests.upstream.models import Models, Reference, Row


class Truth:
    """Tables of rows in python values. Every change has a number; what was deleted is remembered."""

    def __init__(
        self,
        models: Models | ModuleType | type[DeclarativeBase],
        rows: Mapping[str, Iterable[Row]] | None = None,
    ) -> None:
        self.models = models if isinstance(models, Models) else Models(models)
        #: grows with every change
        self.revision = 0
        self._rows: dict[str, dict[Key, Row]] = {name: {} for name in self.models.tables}
        self._changed: dict[tuple[str, Key], int] = {}
        self._arrived: dict[tuple[str, Key], int] = {}
        self._deleted: dict[str, dict[Key, Row]] = {name: {} for name in self.models.tables}
        self._derived: dict[str, dict[Key, Row]] = {}
        self._indexes: dict[tuple[str, tuple[str, ...]], dict[Key, list[Row]]] = {}
        for table, several in (rows or {}).items():
            for row in several:
                self.upsert(table, row)

    @classmethod
    def load(cls, models: Models | ModuleType | type[DeclarativeBase], connection: sa.Connection) -> Truth:
        """The truth as a database holds it."""
        truth = cls(models)
        for table in truth.models.tables:
            for row in truth._stored(table, connection).values():
                truth.upsert(table, row)
        return truth

    # -- reading ---------------------------------------------------------------------------------------

    def rows(self, table: str) -> list[Row]:
        """Every row of a table, the earliest change first."""
        return list(self._rows[table].values())

    def keys(self, table: str) -> list[Key]:
        """Every key of a table, the earliest change first."""
        return list(self._rows[table])

    def get(self, table: str, key: Any) -> Row | None:
        """The row with this key (a tuple, or the value of a key of one column)."""
        return self._rows[table].get(_key(key))

    def changed(self, table: str, key: Key) -> int:
        """The number of the row's last change, its deletion included."""
        return self._changed[table, key]

    def arrived(self, table: str, key: Key) -> int:
        """The number of the change that first brought the row."""
        return self._arrived[table, key]

    def matching(self, table: str, columns: tuple[str, ...], wanted: Key) -> list[Row]:
        """The rows whose columns have these values; none for a value that is NULL."""
        if None in wanted:
            return []
        if (table, columns) not in self._indexes:
            index: dict[Key, list[Row]] = {}
            for row in self._rows[table].values():
                index.setdefault(tuple(row[name] for name in columns), []).append(row)
            self._indexes[table, columns] = index
        return self._indexes[table, columns].get(wanted, [])

    def deleted(self, table: str) -> dict[Key, Row]:
        """The rows that were deleted and have not come back."""
        return self._deleted[table]

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    # -- changing --------------------------------------------------------------------------------------

    def upsert(self, table: str, row: Row) -> Row:
        """Add a row, or change the columns named of the row with its key; the row afterwards."""
        key = self.models.key(table, row)
        names = {column.name for column in self.models.columns(table)}
        if unknown := row.keys() - names:
            raise ValueError(f"{table} has no column {', '.join(sorted(unknown))} that an upstream states")
        known = self._rows[table].pop(key, None) or _blank(self.models.columns(table))
        self._rows[table][key] = {**known, **row}
        self._deleted[table].pop(key, None)
        self._note(table, key)
        return self._rows[table][key]

    def delete(self, table: str, key: Any) -> None:
        """Delete a row, and do what `ondelete` says to those that refer to it; ValueError when it forbids."""
        key = _key(key)
        row = self._rows[table].pop(key)
        self._deleted[table][key] = row
        self._note(table, key)
        for reference in self.models.references_to(table):
            for referring in list(self._referring(reference, row)):
                self._let_go(reference, referring)

    def align(self, table: str, by: str, *columns: str) -> None:
        """Deal the columns' values out anew so that they sort as `by` does, as ids that grow with time do."""
        rows = sorted(self.rows(table), key=lambda row: row[by])
        for column in columns:
            values = sorted((row[column] for row in rows), key=lambda value: (value is not None, value))
            for row, value in zip(rows, values, strict=True):
                row[column] = value
        for row in self.rows(table):
            self.upsert(table, row)

    def _referring(self, reference: Reference, target: Row) -> list[Row]:
        wanted = tuple(target[theirs] for theirs in reference.target_columns)
        return self.matching(reference.table, reference.columns, wanted)

    def _let_go(self, reference: Reference, row: Row) -> None:
        key = self.models.key(reference.table, row)
        if key not in self._rows[reference.table]:
            return
        if reference.ondelete == "CASCADE":
            self.delete(reference.table, key)
        elif reference.ondelete == "SET NULL":
            columns = self.models.tables[reference.table].c
            cleared = dict.fromkeys(name for name in reference.columns if columns[name].nullable)
            self.upsert(reference.table, {**row, **cleared})
        else:
            raise ValueError(
                f"{reference.table} {key} refers to the row, and its foreign key has no ondelete"
            )

    def _note(self, table: str, key: Key) -> None:
        self.revision += 1
        self._changed[table, key] = self.revision
        self._arrived.setdefault((table, key), self.revision)
        self._derived.clear()
        self._indexes.clear()

    # -- derived columns -------------------------------------------------------------------------------

    def derived(self, table: str) -> dict[Key, Row]:
        """What the pointers and counters of every row should be, asked of an SQL engine.

        Their conditions are SQL expressions, and SQLite is a more trustworthy reader of those than
        anything written for a test.
        """
        if table not in self._derived:
            values: dict[Key, Row] = {key: {} for key in self._rows[table]}
            for column in self.models.derived(table):
                found = self._compute(table, column)
                empty = None if isinstance(said(column.info).derived, Latest) else 0
                for key, row in values.items():
                    row[column.name] = found.get(key, empty)
            self._derived[table] = values
        return self._derived[table]

    def _compute(self, table: str, column: sa.Column[Any]) -> dict[Key, Any]:
        rule = said(column.info).derived
        assert rule is not None
        follows = _columns(rule.follows())
        child = follows[0].table
        follows = _in_key_order(self.models.tables[table], child, follows)
        own = tuple(child.primary_key.columns)
        by = _columns(rule.by()) if isinstance(rule, Latest) else ()
        value = next((f.column for f in column.foreign_keys if f.column.table is child), own[0])
        query = sa.select(*follows, value).order_by(*by, *own)
        if rule.where is not None:
            query = query.where(rule.where())
        found: dict[Key, Any] = {}
        for *parent, pointed in _ask(child, self.rows(child.name), query):
            key = tuple(parent)
            found[key] = pointed if isinstance(rule, Latest) else found.get(key, 0) + 1
        return found

    # -- databases -------------------------------------------------------------------------------------

    def write(self, connection: sa.Connection) -> None:
        """Insert every row into an empty SQLite database, foreign keys checked at the end."""
        connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        for name, table in self.models.tables.items():
            if self._rows[name]:
                connection.execute(sa.insert(table), self.rows(name))

    def differences(self, connection: sa.Connection, *, ignoring: Collection[str] = ()) -> list[str]:
        """One line for everything in which a mirror differs from the truth; none when it is right.

        `ignoring` names tables, or columns as `table.column`.
        """
        return [
            line
            for table in self.models.tables
            if table not in ignoring
            for line in self._differences(table, connection, frozenset(ignoring))
        ]

    def _differences(self, table: str, connection: sa.Connection, ignoring: frozenset[str]) -> Iterator[str]:
        stored = self._stored(table, connection, derived=True)
        derived = self.derived(table)
        for key in sorted(self._rows[table].keys() | stored.keys(), key=repr):
            if key not in stored:
                yield f"{table} {key}: missing in the mirror"
            elif key not in self._rows[table]:
                yield f"{table} {key}: in the mirror, but not true"
            else:
                for name, value in {**self._rows[table][key], **derived[key]}.items():
                    if f"{table}.{name}" not in ignoring and plain(stored[key][name]) != plain(value):
                        yield f"{table} {key}: {name} is {stored[key][name]!r}, should be {value!r}"

    def _stored(self, table: str, connection: sa.Connection, *, derived: bool = False) -> dict[Key, Row]:
        columns = self.models.columns(table) + (self.models.derived(table) if derived else ())
        rows = (dict(row._mapping) for row in connection.execute(sa.select(*columns)))
        return {self.models.key(table, row): row for row in rows}


def plain(value: Any) -> Any:
    """A value in the form in which two engines' answers can be compared."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, Decimal):
        return value.normalize()
    return bytes(value) if isinstance(value, bytearray | memoryview) else value


def _key(key: Any) -> Key:
    return key if isinstance(key, tuple) else (key,)


def _blank(columns: Iterable[sa.Column[Any]]) -> Row:
    return {
        column.name: column.default.arg
        if isinstance(column.default, sa.ColumnDefault) and column.default.is_scalar
        else None
        for column in columns
    }


def _columns(expressions: Any) -> tuple[sa.Column[Any], ...]:
    parts = expressions if isinstance(expressions, tuple | list) else (expressions,)
    clauses = (part.__clause_element__() if hasattr(part, "__clause_element__") else part for part in parts)
    return tuple(clause.table.c[clause.name] for clause in clauses)


def _in_key_order(
    table: sa.Table, child: Any, follows: Iterable[sa.Column[Any]]
) -> tuple[sa.Column[Any], ...]:
    wanted = {column.name for column in follows}
    for constraint in child.foreign_key_constraints:
        pairs = {element.column.name: element.parent for element in constraint.elements}
        if constraint.referred_table is table and wanted <= {parent.name for parent in pairs.values()}:
            return tuple(pairs[column.name] for column in table.primary_key.columns)
    raise ValueError(f"{child.name}.{'+'.join(sorted(wanted))} is no foreign key to {table.name}")


def _ask(table: Any, rows: list[Row], query: sa.Select[Any]) -> list[Any]:
    """The query's answer from a database in memory that holds this one table."""
    engine = sa.create_engine("sqlite://")
    try:
        with engine.connect() as connection:
            table.create(connection)
            if rows:
                connection.execute(sa.insert(table), rows)
            return list(connection.execute(query))
    finally:
        engine.dispose()
