"""Primary keys between python, the ledger's JSON and typed temporary tables; and what was touched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog, Table
from ingest.engines.base import Engine
from ingest.ledger import TOUCHED
from ingest.types import Key

#: touched keys of one table beyond which the whole table is marked instead
TOUCHED_LIMIT = 20_000
#: the mark for a whole table
WHOLE = "*"


def dump_key(key: Key) -> str:
    """The canonical JSON array of a key in stored form."""
    return msgspec.json.encode(key).decode()


def load_key(text: str) -> Key:
    """A key in stored form out of its canonical JSON array."""
    return tuple(msgspec.json.decode(text))


def raw(engine: Engine, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The column in stored form, not as the ORM would read it."""
    return sa.type_coerce(column, engine.form(column.type)).label(getattr(column, "name", None))


def given(engine: Engine, value: Any, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """A value of the column that is in stored form already."""
    return sa.literal(value, engine.form(column.type))


def is_row(engine: Engine, table: Table, key: Key) -> sa.ColumnElement[bool]:
    """The row with this key, in stored form."""
    columns = [table.sql.c[name] for name in table.key]
    return sa.and_(*(one == given(engine, value, one) for one, value in zip(columns, key, strict=True)))


def has_row(connection: sa.Connection, engine: Engine, table: Table, key: Key) -> bool:
    """True when the table shows a row with this key."""
    return connection.execute(sa.select(sa.literal(1)).where(is_row(engine, table, key))).first() is not None


class Keys:
    """Typed temporary tables of keys, one a mirrored table, for `IN (SELECT …)`."""

    def __init__(self, catalog: Catalog, engine: Engine) -> None:
        self._catalog, self._engine = catalog, engine
        self.tables = {
            name: engine.temporary(f"ingest_keys_{name}", [table.sql.c[part] for part in table.key])
            for name, table in catalog.tables.items()
        }
        self._transaction: sa.RootTransaction | None = None
        self._empty: set[str] = set()

    def create(self, connection: sa.Connection) -> None:
        """Make the temporary tables on this connection."""
        for table in self.tables.values():
            table.create(connection, checkfirst=False)

    def fill(self, connection: sa.Connection, table: str, keys: Iterable[Key]) -> int:
        """Replace the table's keys; how many there are."""
        temporary, rows = self.tables[table], list(keys)
        if table not in self._known_empty(connection):
            self._engine.clear(connection, temporary)
        if rows:
            self._empty.discard(table)
            self._engine.insert(connection, temporary, temporary.c.keys(), rows)
        elif not connection.in_nested_transaction():
            # what is cleared under a savepoint may come back
            self._empty.add(table)
        return len(rows)

    def _known_empty(self, connection: sa.Connection) -> set[str]:
        """The tables that this transaction has found empty: most are, and asking a server takes its time."""
        if connection.get_transaction() is not self._transaction:
            self._transaction, self._empty = connection.get_transaction(), set()
        return self._empty

    def texts(self, table: str) -> sa.Select[Any]:
        """The canonical keys last filled in for `table`."""
        return sa.select(self._engine.key_json(list(self.tables[table].c)))

    def among(self, table: str, columns: Sequence[sa.ColumnElement[Any]]) -> sa.ColumnElement[bool]:
        """True where `columns` are one of the keys last filled in for `table`."""
        temporary = self.tables[table]
        return is_in(columns, sa.select(*temporary.c))


def is_in(columns: Sequence[sa.ColumnElement[Any]], rows: sa.Select[Any]) -> sa.ColumnElement[bool]:
    """`(a, b) IN (SELECT …)`, or `a IN (SELECT …)` of a single column."""
    return columns[0].in_(rows) if len(columns) == 1 else sa.tuple_(*columns).in_(rows)


def touch(connection: sa.Connection, engine: Engine, table: str, keys: sa.Select[Any]) -> None:
    """Remember that the rows with these keys (one canonical JSON column) may have changed."""
    rows = keys.subquery()
    engine.insert_new(
        connection, TOUCHED, ["table", "key"], sa.select(sa.literal(table), rows.c[0]).distinct()
    )


def touch_keys(connection: sa.Connection, engine: Engine, table: str, keys: Iterable[str]) -> None:
    """Remember that the rows with these canonical keys may have changed."""
    engine.insert(connection, TOUCHED, ["table", "key"], [(table, key) for key in keys], new_only=True)


def touch_whole(connection: sa.Connection, engine: Engine, table: str) -> None:
    """Mark a whole table; single keys say nothing more then."""
    connection.execute(sa.delete(TOUCHED).where(TOUCHED.c.table == table))
    touch_keys(connection, engine, table, [WHOLE])


def touched(connection: sa.Connection, table: str) -> list[Key] | None:
    """The touched keys of a table; None when the whole table is marked."""
    keys = list(connection.scalars(sa.select(TOUCHED.c.key).where(TOUCHED.c.table == table)))
    return None if WHOLE in keys else [load_key(key) for key in keys]
