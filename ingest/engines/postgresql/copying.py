"""Rows to PostgreSQL by COPY, as comma-separated text; one way in for each driver."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.util import await_only


def copy(connection: sa.Connection, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Carry out `COPY … FROM STDIN (FORMAT csv)`; DBAPIError as of any other statement."""
    driver: Any = connection.connection.driver_connection
    try:
        if connection.dialect.driver == "asyncpg":
            source = io.BytesIO(text_of(rows))
            await_only(driver._copy_in(statement, source, None))
        else:
            await_only(_through_psycopg(driver, statement, text_of(rows)))
    except Exception as error:
        if getattr(error, "sqlstate", None) is None and not isinstance(error, OSError):
            raise
        raise sa.exc.DBAPIError.instance(
            "COPY", None, error, Exception, hide_parameters=True, dialect=connection.dialect
        ) from error


async def _through_psycopg(driver: Any, statement: str, data: bytes) -> None:
    async with driver.cursor() as cursor, cursor.copy(statement) as target:
        await target.write(data)


def text_of(rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows as comma-separated text: nothing is NULL, and what is text has quotes around it."""
    return ("\n".join([",".join(map(_value, row)) for row in rows]) + "\n").encode()


def _value(value: Any) -> str:
    if value is None:
        return ""
    if type(value) is str:
        return f'"{value}"' if '"' not in value else f'"{value.replace(chr(34), chr(34) * 2)}"'
    return f'"\\x{value.hex()}"' if isinstance(value, bytes) else repr(value)
