"""The canonical digest: one text for what a mirror holds, the same on every engine.

It covers every model column of every row, derived ones included, and every withheld value, in stored form;
not the ranks, which depend on when equal records were met. Two mirrors of one upstream have the same. Only a
mirror and its copy have the same digest of everything, which `digest_of_all` is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog
from ingest.engines.base import Engine
from ingest.form import shortest
from ingest.keys import raw
from ingest.ledger import WITHHELD
from ingest.mirror import LEDGER_COLUMNS

#: rows read at once, each as long as it may be
_CHUNK = 100
_encode = msgspec.json.Encoder(order="sorted").encode


def digest(connection: sa.Connection, catalog: Catalog, engine: Engine) -> str:
    """The digest of everything the catalog's tables show and the ledger withholds, hexadecimal."""
    whole = hashlib.sha256()
    for name in sorted(catalog.tables):
        table = catalog.tables[name]
        stated = [column for column in table.sql.columns if column.name not in LEDGER_COLUMNS]
        _add_table(connection, engine, table.sql, stated, whole)
    whole.update(b"withheld\n")
    _add_withheld(connection, engine, catalog, whole)
    return whole.hexdigest()


def digest_of_all(connection: sa.Connection, tables: Iterable[sa.Table], engine: Engine) -> str:
    """The digest of every column of every row of these tables, ranks and all, hexadecimal."""
    whole = hashlib.sha256()
    for table in tables:
        _add_table(connection, engine, table, list(table.columns), whole)
    return whole.hexdigest()


def _add_table(
    connection: sa.Connection, engine: Engine, table: sa.Table, columns: Sequence[sa.Column[Any]], whole: Any
) -> None:
    whole.update(f"{table.name}\n".encode())
    rows = connection.execute(
        sa.select(*(raw(engine, column) for column in columns))
        .order_by(*map(engine.in_order, table.primary_key.columns))
        .execution_options(yield_per=_CHUNK)
    )
    turns = [canonical(column.type) for column in columns]
    for row in rows:
        whole.update(_encode([turn(value) for turn, value in zip(turns, row, strict=True)]) + b"\n")


def _add_withheld(connection: sa.Connection, engine: Engine, catalog: Catalog, whole: Any) -> None:
    columns = (WITHHELD.c.table, WITHHELD.c.key, WITHHELD.c.column)
    rows = (
        sa.select(*columns, WITHHELD.c.value)
        .where(WITHHELD.c.value.is_not(None))
        .order_by(*map(engine.in_order, columns))
    )
    for name, key, column, value in connection.execute(rows):
        stated = msgspec.json.decode(value)
        sql = catalog.tables[name].sql if name in catalog.tables else None
        values = {column: stated} if column else stated["values"]
        if sql is not None:
            values = {one: canonical(sql.c[one].type)(told) for one, told in values.items()}
        whole.update(_encode([name, key, column, values]) + b"\n")


def canonical(type_: sa.types.TypeEngine[Any]) -> Callable[[Any], Any]:
    """One value for what equal stored forms of a type may still spell differently."""
    if isinstance(type_, sa.JSON):
        return _json
    return shortest if isinstance(type_, sa.Numeric | sa.Float) else _as_it_is


def _json(text: Any) -> Any:
    """What a JSON text says: engines have orders of members and spellings of numbers of their own."""
    # a bare number may come back as one
    return _plain(msgspec.json.decode(text) if isinstance(text, str) else text)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return shortest(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _as_it_is(value: Any) -> Any:
    return value
