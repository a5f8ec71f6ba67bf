"""Rows to MariaDB, some thousand a statement: their values in one packet, or spelled out in its text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.util import await_only

from ingest.engines.mariadb import errors
from ingest.errors import Stop

Row = tuple[Any, ...]

#: rows of one statement, and below how many none is prepared for them
_ROWS, _FEW = 2_000, 50
#: characters of one statement; more are not quicker, and stand three times in memory
_CHARACTERS = 1_000_000
#: bytes that a character takes at most, and characters of a number or a time by that measure
_WIDEST, _PLAIN = 4, 8


class Insert(NamedTuple):
    """An INSERT of rows, but for the rows."""

    #: up to VALUES
    head: str
    #: places of values that may be long: texts, bytes
    long: Sequence[int]
    #: after the rows
    tail: str = ""


def insert(connection: sa.Connection, into: Insert, rows: Sequence[Row], *, packet: int) -> int:
    """Insert the rows, in statements of at most `packet` bytes; how many."""
    limit = min(_CHARACTERS, packet // _WIDEST - len(into.head))
    written = 0
    for at in range(0, len(rows), _ROWS):
        for part in _parts(rows[at : at + _ROWS], into.long, limit):
            if len(part) == 1:
                _see_that_it_fits(part[0], into, packet)
            written += _insert(connection, into, part)
    return written


def turned(rows: Sequence[Row], turns: Mapping[int, Callable[[Any], Any]]) -> Sequence[Row]:
    """The rows with something done to the values at these places that are not NULL."""
    if not turns:
        return rows
    return [
        tuple(
            [one if one is None or place not in turns else turns[place](one) for place, one in enumerate(row)]
        )
        for row in rows
    ]


def _see_that_it_fits(row: Row, into: Insert, packet: int) -> None:
    """Stop before a row that the server would hang up on, and on the same row the next time."""
    values = [row[place] for place in into.long if row[place] is not None]
    taken = sum(len(one.encode() if isinstance(one, str) else one) for one in values) + len(into.head)
    if taken > packet:
        raise Stop(
            f"a row has {taken} bytes, and the server takes {packet} at once ({into.head})",
            hint="raise its max_allowed_packet",
        )


def _size(row: Row, long: Sequence[int]) -> int:
    """What a row takes, in characters."""
    return _PLAIN * len(row) + sum([len(row[place]) for place in long if row[place] is not None])


def _parts(rows: Sequence[Row], long: Sequence[int], limit: int) -> Iterator[Sequence[Row]]:
    """The rows in parts that have no more characters than `limit`, but for a row that has more alone."""
    if len(rows) == 1 or sum([_size(row, long) for row in rows]) <= limit:
        yield rows
        return
    half = len(rows) // 2
    yield from _parts(rows[:half], long, limit)
    yield from _parts(rows[half:], long, limit)


def _insert(connection: sa.Connection, into: Insert, rows: Sequence[Row]) -> int:
    if len(rows) >= _FEW and connection.dialect.driver == "asyncmy":
        written = _in_a_packet(connection, into, rows)
        if written is not None:
            return written
    row = f"({', '.join(['%s'] * len(rows[0]))})"
    statement = f"{into.head} {', '.join([row] * len(rows))} {into.tail}"
    return connection.exec_driver_sql(statement, tuple(chain.from_iterable(rows))).rowcount


def _in_a_packet(connection: sa.Connection, into: Insert, rows: Sequence[Row]) -> int | None:
    """Insert by MariaDB's own protocol for many rows, which is about twice as quick; None where it cannot.

    A column's values must be of one type there, and not be all NULL: those are in the statement itself.
    """
    given = [place for place, value in enumerate(rows[0]) if value is not None or _any(rows, place)]
    if len(given) < 2:
        return None
    values = rows if len(given) == len(rows[0]) else list(map(itemgetter(*given), rows))
    row = ", ".join("?" if place in given else "NULL" for place in range(len(rows[0])))
    statement = f"{into.head} ({row}) {into.tail}".replace("%%", "%")
    driver: Any = connection.connection.driver_connection
    driver_errors: Any = connection.dialect.loaded_dbapi
    try:
        written: int = await_only(_execute(driver, statement, values))
    except (ValueError, driver_errors.NotSupportedError):
        return None
    except (driver_errors.Error, OSError) as error:
        told = sa.exc.DBAPIError.instance(
            statement, None, error, Exception, hide_parameters=True, dialect=connection.dialect
        )
        raise errors.as_integrity(told) or told from error
    return written


async def _execute(driver: Any, statement: str, rows: Sequence[Row]) -> int:
    prepared = await driver.prepare(statement)
    try:
        affected: int = (await prepared.execute_bulk(rows)).affected_rows
        return affected
    finally:
        await prepared.close()


def _any(rows: Sequence[Row], place: int) -> bool:
    return any(row[place] is not None for row in rows)
