"""The stored form: one plain value for everything that a column can hold, the same on every engine.

Times are text in UTC, UUIDs 32 hexadecimal digits, booleans 0 and 1, decimals the nearest float, JSON its
text, bytes themselves. It is what SQLAlchemy stores where a database has no types of its own for these. Keys
in the ledger, withheld values and the digest are made of it; an engine says how its own types go in and come
out (`Engine.form`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.types import TypeDecorator

from ingest.mirror import UtcDateTime

#: from one form of a value, never None, to the other
Turn: TypeAlias = Callable[[Any], Any]

#: lengths of ISO texts in UTC, to the millisecond and to the microsecond, and what makes them six digits
_FRACTIONS = {24: "000", 27: ""}


class Raw(sa.types.UserDefinedType[Any]):
    """A value as the driver gives and takes it, past the column type's processors."""

    cache_ok = True


RAW = Raw()


def storer(type_: sa.types.TypeEngine[Any]) -> Turn | None:
    """Makes the stored form of what the ORM is given; None where they are the same."""
    if isinstance(type_, UtcDateTime):
        return _stored_time
    bind: Turn | None = type_.dialect_impl(_DIALECT).bind_processor(_DIALECT)
    told = next((turn for base, turn, _ in _TURNS if isinstance(plain(type_), base)), None)
    return _one_after_another(bind, told)


def reader(type_: sa.types.TypeEngine[Any]) -> Turn | None:
    """Makes what the ORM gives of the stored form; None where they are the same."""
    read: Turn | None = type_.dialect_impl(_DIALECT).result_processor(_DIALECT, None)
    parsed = next((turn for base, _, turn in _TURNS if isinstance(plain(type_), base)), None)
    return _one_after_another(parsed, read)


def stored(type_: sa.types.TypeEngine[Any], value: Any) -> Any:
    """The stored form of a python value."""
    turn = storer(type_)
    return value if turn is None or value is None else turn(value)


def plain(type_: sa.types.TypeEngine[Any], dialect: sa.Dialect | None = None) -> sa.types.TypeEngine[Any]:
    """What a type of the user's own, or one with variants, is on a dialect; by default on none."""
    impl = type_.dialect_impl(dialect or _DIALECT)
    return plain(impl.impl_instance, dialect) if isinstance(impl, TypeDecorator) else impl


def time_text(text: str) -> str | None:
    """The stored form of a time in the ISO form of most APIs, `2024-01-02T03:04:05.678Z`; else None.

    Without taking the time to pieces and writing it again; the text must be known to be a time.
    """
    if text[4:20:3] != "--T::." or text[-1] != "Z" or text[11:13] == "24":
        return None
    digits = _FRACTIONS.get(len(text))
    return None if digits is None else f"{text[:10]} {text[11:-1]}{digits}"


def shortest(value: Any) -> Any:
    """A number as a column of decimals gives it back: an integer where it is one, 0 where it is -0."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**63 else value


def _stored_time(value: datetime) -> str:
    """What SQLAlchemy's own processor makes of a time, at a twentieth of its cost: the zone is not stored."""
    return value.replace(tzinfo=None).isoformat(" ", "microseconds")


def _one_after_another(first: Turn | None, second: Turn | None) -> Turn | None:
    if first is None or second is None:
        return first or second
    return lambda value: second(first(value))


#: one that has no types of its own, so that SQLAlchemy makes them of others
_DIALECT: sa.Dialect = DefaultDialect()
#: what it leaves to drivers: to the stored form, and from it
_TURNS: tuple[tuple[Any, Turn | None, Turn | None], ...] = (
    (sa.DateTime, _stored_time, datetime.fromisoformat),
    (sa.Date, date.isoformat, date.fromisoformat),
    (sa.Time, lambda value: value.isoformat("microseconds"), time.fromisoformat),
    (sa.Float, None, None),
    (sa.Numeric, shortest, None),
)
