"""`INSERT … ON CONFLICT`, which SQLite and PostgreSQL share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import sqlalchemy as sa

from ingest.engines.base import Newer


class OnConflict:
    """An engine's upserts."""

    #: the dialect's own `insert`
    _insert_into: Callable[[sa.Table], Any]

    def insert_new(
        self, connection: sa.Connection, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]
    ) -> None:
        connection.execute(self._insert_rows(table, columns, rows).on_conflict_do_nothing())

    def upsert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: sa.Select[Any],
        *,
        key: Sequence[str],
        born: Collection[str] = (),
    ) -> None:
        self._upsert(connection, table, columns, rows, key, born)

    def upsert_newer(
        self,
        connection: sa.Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: sa.Select[Any],
        *,
        key: Sequence[str],
        born: Collection[str] = (),
        newer: Newer,
    ) -> int:
        return self._upsert(connection, table, columns, rows, key, born, newer)

    def _upsert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: sa.Select[Any],
        key: Sequence[str],
        born: Collection[str],
        newer: Newer | None = None,
    ) -> int:
        statement = self._insert_rows(table, columns, rows)
        changing = {name: statement.excluded[name] for name in columns if name not in (*key, *born)}
        if changing:
            where = None if newer is None else newer(statement.excluded)
            statement = statement.on_conflict_do_update(index_elements=list(key), set_=changing, where=where)
        else:
            statement = statement.on_conflict_do_nothing(index_elements=list(key))
        return connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount

    def _insert_rows(self, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]) -> Any:
        # "WHERE true": without it SQLite's parser takes ON CONFLICT for a join's ON
        return self._insert_into(table).from_select(
            list(columns), rows.where(sa.true()), include_defaults=False
        )
