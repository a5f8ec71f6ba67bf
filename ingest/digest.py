"""The canonical digest: one text for what a mirror holds, the same on every engine.

It covers every model column of every row, derived ones included, and every withheld value; not the
ranks, which depend on when equal records were met.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog, Table
from ingest.ledger import WITHHELD
from ingest.mirror import LEDGER_COLUMNS

#: rows read at once
_CHUNK = 10_000


def digest(connection: sa.Connection, catalog: Catalog) -> str:
    """The digest of everything the catalog's tables show and the ledger withholds, hexadecimal."""
    whole = hashlib.sha256()
    for name in sorted(catalog.tables):
        whole.update(f"{name}\n".encode())
        _add_table(connection, catalog.tables[name], whole)
    whole.update(b"withheld\n")
    _add_withheld(connection, whole)
    return whole.hexdigest()


def _add_table(connection: sa.Connection, table: Table, whole: Any) -> None:
    columns = [column for column in table.sql.columns if column.name not in LEDGER_COLUMNS]
    rows = connection.execute(
        sa.select(*columns)
        .order_by(*(table.sql.c[name] for name in table.key))
        .execution_options(yield_per=_CHUNK)
    )
    for row in rows:
        whole.update(msgspec.json.encode([portable(value) for value in row], order="sorted") + b"\n")


def _add_withheld(connection: sa.Connection, whole: Any) -> None:
    columns = (WITHHELD.c.table, WITHHELD.c.key, WITHHELD.c.column)
    rows = sa.select(*columns, WITHHELD.c.value).where(WITHHELD.c.value.is_not(None)).order_by(*columns)
    for table, key, column, value in connection.execute(rows):
        stated = msgspec.json.decode(value)
        whole.update(
            msgspec.json.encode([table, key, column, stated if column else stated["values"]], order="sorted")
        )
        whole.update(b"\n")


def portable(value: Any) -> Any:
    """A python value as JSON that no engine spells differently."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value.normalize())
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value
