"""How PostgreSQL's types go in and come out in stored form: as text, and cast in SQL.

Casts in SQL, and not in a driver, are the same for every driver. A session's time zone is UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from ingest.form import shortest

Expression: TypeAlias = sa.ColumnElement[Any]

_TIME = "HH24:MI:SS.US"
_DATE = "YYYY-MM-DD"


class Kind(NamedTuple):
    """One kind of type."""

    #: a column's value to its stored form
    read: Callable[[Expression], Expression]
    #: the stored form to a value of the type
    write: Callable[[Expression, sa.types.TypeEngine[Any]], Expression]
    #: whether the stored form is text, and has quotes around it in JSON
    quoted: bool = True


def kind_of(type_: sa.types.TypeEngine[Any]) -> Kind:
    """The kind of a plain type."""
    return next((kind for base, kind in _KINDS if isinstance(type_, base)), _TEXT)


class Stored(sa.types.UserDefinedType[Any]):
    """A plain type's values in stored form."""

    cache_ok = True

    def __init__(self, type_: sa.types.TypeEngine[Any]) -> None:
        self.type_ = type_

    def bind_expression(self, bindvalue: sa.BindParameter[Any]) -> Expression:
        return kind_of(self.type_).write(bindvalue, self.type_)

    def column_expression(self, column: Expression) -> Expression:
        # of this type, or the result would be taken for what SQL made it of
        return sa.type_coerce(kind_of(self.type_).read(column), self)

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[Any], Any] | None:
        return _as_text if kind_of(self.type_) is _DECIMAL else None

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Callable[[Any], Any] | None:
        return shortest if kind_of(self.type_) is _DECIMAL else None


def json_text(column: Expression, type_: sa.types.TypeEngine[Any]) -> Expression:
    """The JSON text of a value's stored form."""
    kind = kind_of(type_)
    text = sa.cast(kind.read(column), sa.Text)
    if kind is _TEXT:
        return sa.cast(sa.func.to_json(text), sa.Text)
    return sa.literal('"', sa.Text) + text + sa.literal('"', sa.Text) if kind.quoted else text


def _as_text(value: Any) -> Any:
    return None if value is None else repr(value)


def _same(value: Expression) -> Expression:
    return value


def _by_text(value: Expression, type_: sa.types.TypeEngine[Any]) -> Expression:
    # text first: a driver that is told the type would want a python object of it
    return sa.cast(sa.cast(value, sa.Text), type_)


def _reads(pattern: str) -> Callable[[Expression], Expression]:
    return lambda column: sa.func.to_char(column, sa.literal_column(f"'{pattern}'"))


def _casts(*types: sa.types.TypeEngine[Any]) -> Callable[..., Expression]:
    def cast(value: Expression, _type: Any = None) -> Expression:
        for type_ in types:
            value = sa.cast(value, type_)
        return value

    return cast


_TEXT = Kind(_casts(sa.Text()), _casts(sa.Text()))
_DECIMAL = Kind(_casts(sa.Double()), _casts(sa.Text(), sa.Numeric()), quoted=False)
#: a type is of the first of these that it is one of
_KINDS: tuple[tuple[type[Any], Kind], ...] = (
    (postgresql.ENUM, Kind(_casts(sa.Text()), _by_text)),
    (sa.Uuid, Kind(lambda column: sa.func.replace(sa.cast(column, sa.Text), "-", ""), _by_text)),
    (sa.Boolean, Kind(_casts(sa.Integer()), _casts(sa.Integer(), sa.Boolean()), quoted=False)),
    (sa.Integer, Kind(_same, _casts(sa.BigInteger()), quoted=False)),
    (sa.Float, Kind(_same, _casts(sa.Double()), quoted=False)),
    (sa.Numeric, _DECIMAL),
    (sa.DateTime, Kind(_reads(f"{_DATE} {_TIME}"), _by_text)),
    (sa.Date, Kind(_reads(_DATE), _by_text)),
    (sa.Time, Kind(_reads(_TIME), _by_text)),
    (sa.JSON, Kind(_casts(sa.Text()), _by_text)),
    (sa.LargeBinary, Kind(_same, _casts(sa.LargeBinary()))),
)
