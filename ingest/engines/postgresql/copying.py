"""Rows in stored form to PostgreSQL by COPY: binary through asyncpg, comma-separated text through psycopg."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.util import await_only

from ingest.engines.postgresql.forms import kind_of

Row: TypeAlias = tuple[Any, ...]
#: rows in stored form to what a driver takes
Turn: TypeAlias = Callable[[Sequence[Row]], list[Any]]


def copy(
    connection: sa.Connection,
    table: sa.Table,
    columns: Sequence[str],
    types: Sequence[sa.types.TypeEngine[Any]],
    rows: Sequence[Row],
) -> None:
    """Copy rows in stored form into the columns, of these plain types; DBAPIError as of any statement."""
    driver: Any = connection.connection.driver_connection
    try:
        if connection.dialect.driver == "asyncpg":
            await_only(_through_asyncpg(driver, connection, table, columns, types, rows))
        else:
            await_only(
                _through_psycopg(driver, _statement(connection, table, columns, "csv"), text_of(types, rows))
            )
    except Exception as error:
        if getattr(error, "sqlstate", None) is None and not isinstance(error, OSError):
            raise
        raise sa.exc.DBAPIError.instance(
            "COPY", None, error, Exception, hide_parameters=True, dialect=connection.dialect
        ) from error


def _statement(connection: sa.Connection, table: sa.Table, columns: Sequence[str], form: str) -> str:
    quote = connection.dialect.identifier_preparer
    names = ", ".join(map(quote.quote, columns))
    return f"COPY {quote.format_table(table)} ({names}) FROM STDIN (FORMAT {form})"


async def _through_asyncpg(
    driver: Any,
    connection: sa.Connection,
    table: sa.Table,
    columns: Sequence[str],
    types: Sequence[sa.types.TypeEngine[Any]],
    rows: Sequence[Row],
) -> None:
    """Copy in binary; times as the integers that they are on the wire.

    Made by the driver out of an object each, times take two thirds of all that a row does. So it is told that
    their columns are integers, by the way in which it asks for the others' types. That way is not promised by
    the driver: where it has changed, the objects are made.
    """
    quote = connection.dialect.identifier_preparer
    kinds = [
        "NULL::int8" if isinstance(type_, sa.DateTime) else quote.quote(name)
        for name, type_ in zip(columns, types, strict=True)
    ]
    known = await driver.prepare(f"SELECT {', '.join(kinds)} FROM {quote.format_table(table)} LIMIT 0")
    records = _turn(tuple(map(_wire, types)), "({values},)")(rows)
    try:
        statement = _statement(connection, table, columns, "binary")
        await driver._protocol.copy_in(statement, None, None, records, known._state, None)
    except (AttributeError, TypeError):
        records = _turn(tuple(map(_object, types)), "({values},)")(rows)
        await driver.copy_records_to_table(
            table.name, records=records, columns=columns, schema_name=table.schema
        )


async def _through_psycopg(driver: Any, statement: str, data: bytes) -> None:
    async with driver.cursor() as cursor, cursor.copy(statement) as target:
        await target.write(data)


def text_of(types: Sequence[sa.types.TypeEngine[Any]], rows: Sequence[Row]) -> bytes:
    """Rows as comma-separated text: nothing is NULL, and what is text has quotes around it."""
    return ("\n".join(_turn(tuple(map(_text, types)), "','.join(({values},))")(rows)) + "\n").encode()


@lru_cache(maxsize=1000)
def _turn(spelled: tuple[tuple[str, Any], ...], row: str) -> Turn:
    """A loop over rows, written for their columns and compiled once: it is where a bulk load's time goes."""
    names = [f"v{place}" for place in range(len(spelled))]
    values = ", ".join(
        how.format(v=name, f=f"f{place}")
        for place, (name, (how, _)) in enumerate(zip(names, spelled, strict=True))
    )
    bound = {f"f{place}": function for place, (_, function) in enumerate(spelled)}
    turn: Turn = eval(f"lambda rows: [{row.format(values=values)} for {', '.join(names)}, in rows]", bound)
    return turn


#: a value as it is, and by way of a function
_AS_IT_IS, _BY = "{v}", "None if {v} is None else {f}({v})"


def _object(type_: sa.types.TypeEngine[Any]) -> tuple[str, Any]:
    """How asyncpg's object is made of a value in stored form."""
    if isinstance(type_, sa.DateTime):
        return (_BY, _in_utc if type_.timezone else datetime.fromisoformat)
    for base, function in _OBJECTS:
        if isinstance(type_, base):
            return (_BY, function) if function is not None else (_AS_IT_IS, None)
    return _AS_IT_IS, None


def _wire(type_: sa.types.TypeEngine[Any]) -> tuple[str, Any]:
    """The same, but for times: microseconds since 2000, in UTC where they have a zone."""
    return (_BY, _since_2000) if isinstance(type_, sa.DateTime) else _object(type_)


def _since_2000(text: str) -> int:
    return (_read_time(text) - _2000) // _MICROSECOND


def _in_utc(text: str) -> datetime:
    return datetime.fromisoformat(text + "Z")


_read_time, _2000, _MICROSECOND = datetime.fromisoformat, datetime(2000, 1, 1), timedelta(microseconds=1)

_OBJECTS: tuple[tuple[Any, Any], ...] = (
    (sa.Float, None),
    (sa.Numeric, lambda value: Decimal(repr(value))),
    (sa.Boolean, bool),
    (sa.Date, date.fromisoformat),
    (sa.Time, time.fromisoformat),
)


def _text(type_: sa.types.TypeEngine[Any]) -> tuple[str, Any]:
    """How a value's text is made."""
    if isinstance(type_, sa.LargeBinary):
        return "'' if {v} is None else {f}({v})", lambda value: f'"\\x{value.hex()}"'
    if kind_of(type_).quoted:
        return "'' if {v} is None else {f}({v})", lambda value: '"' + value.replace('"', '""') + '"'
    return "'' if {v} is None else {f}({v})", repr
