"""`INSERT … ON CONFLICT`, which SQLite and PostgreSQL share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import sqlalchemy as sa

from ingest.engines.base import Newer

#: the dialect's own `insert`
Insert = Callable[[sa.Table], Any]


def insert_new(insert: Insert, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]) -> Any:
    """Insert the rows whose key is not there yet."""
    # "WHERE true": without it SQLite's parser takes ON CONFLICT for a join's ON
    chosen = insert(table).from_select(list(columns), rows.where(sa.true()), include_defaults=False)
    return chosen.on_conflict_do_nothing()


def upsert(
    insert: Insert,
    table: sa.Table,
    columns: Sequence[str],
    rows: sa.Select[Any],
    *,
    key: Sequence[str],
    born: Collection[str],
    newer: Newer | None = None,
) -> Any:
    """Insert the rows, or replace `columns` where the key is there, but for those in `born`.

    `newer`: whether a row is replaced at all.
    """
    statement = insert(table).from_select(list(columns), rows.where(sa.true()), include_defaults=False)
    changing = {name: statement.excluded[name] for name in columns if name not in (*key, *born)}
    if not changing:
        return statement.on_conflict_do_nothing(index_elements=list(key))
    where = None if newer is None else newer(statement.excluded)
    return statement.on_conflict_do_update(index_elements=list(key), set_=changing, where=where)
