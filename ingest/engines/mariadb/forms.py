"""How MariaDB's types go in and come out in stored form.

In, most values go as they are: the server reads the text of a time as what its column holds. A UUID has the
hyphens that SQLAlchemy gives it. Out, SQL makes the text. A session's collation is `COLLATION`, so that what
SQL makes compares as the columns do: by its bytes, trailing spaces included.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from ingest.form import shortest

Expression: TypeAlias = sa.ColumnElement[Any]

#: tells all texts apart, as the other engines do: by case, accents and trailing spaces
COLLATION = "utf8mb4_nopad_bin"

_DATE, _TIME = "%Y-%m-%d", "%H:%i:%s.%f"
#: the digits of a UUID between its hyphens
_GROUPS = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
#: characters of a key in the ledger, and some: as a text without a length it could not be looked up
_KEY = 768
#: control characters whose number JSON_QUOTE spells in capitals, and msgspec does not
_CAPITALS = r"'[\\x0B\\x0E\\x0F\\x1A-\\x1F]'"
#: how JSON spells what it has a letter for; the backslash first, for the others begin with one
_ESCAPES = {
    "\\": r"\\",
    '"': r"\"",
    "\b": r"\b",
    "\t": r"\t",
    "\n": r"\n",
    "\f": r"\f",
    "\r": r"\r",
}


class Kind(NamedTuple):
    """One kind of type."""

    #: a column's value to its stored form
    read: Callable[[Expression], Expression]
    #: the text of a stored form, out of a key, to a value of the type
    cast: Callable[[Expression, sa.types.TypeEngine[Any]], Expression]
    #: whether the stored form is text, and has quotes around it in JSON
    quoted: bool = True


def kind_of(type_: sa.types.TypeEngine[Any]) -> Kind:
    """The kind of a plain type."""
    return next((kind for base, kind in _KINDS if isinstance(type_, base)), _TEXT)


def is_text(type_: sa.types.TypeEngine[Any]) -> bool:
    """True for a plain type whose values compare by a collation."""
    return isinstance(type_, sa.String | sa.JSON)


def is_decimal(type_: sa.types.TypeEngine[Any]) -> bool:
    """True for a plain type of decimal numbers."""
    return kind_of(type_) is _DECIMAL


def exactly(column: Expression) -> Expression:
    """The text, compared by its bytes whatever its column's collation."""
    return sa.collate(sa.type_coerce(column, sa.Text), COLLATION)


class Stored(sa.types.UserDefinedType[Any]):
    """A plain type's values in stored form."""

    cache_ok = True

    def __init__(self, type_: sa.types.TypeEngine[Any]) -> None:
        self.type_ = type_

    def column_expression(self, column: Expression) -> Expression:
        # of this type, or the result would be taken for what SQL made it of
        return sa.type_coerce(kind_of(self.type_).read(column), self)

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[Any], Any] | None:
        turn = _as_decimal if is_decimal(self.type_) else turn_of(self.type_)
        return None if turn is None else lambda value: None if value is None else turn(value)

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Callable[[Any], Any] | None:
        return _as_number if is_decimal(self.type_) else None


def json_array(columns: list[tuple[Expression, sa.types.TypeEngine[Any]]]) -> Expression:
    """The JSON array of the stored forms of columns of these plain types."""
    parts: list[Any] = []
    for column, type_ in columns:
        parts += [_literal(","), *_json_parts(column, kind_of(type_))]
    text = sa.func.concat(_literal("["), *parts[1:], _literal("]"), type_=sa.Text)
    return sa.cast(text, mysql.CHAR(_KEY))


def json_value(key: Expression, index: int, type_: sa.types.TypeEngine[Any]) -> Expression:
    """One value of a plain type out of a JSON array."""
    text = sa.func.json_value(key, _literal(f"$[{index:d}]"), type_=sa.Text)
    return kind_of(type_).cast(text, type_)


def _json_parts(column: Expression, kind: Kind) -> list[Expression]:
    if kind is _TEXT:
        return [_json_quoted(column)]
    text = kind.read(column)
    return [_literal('"'), text, _literal('"')] if kind.quoted else [text]


def _json_quoted(column: Expression) -> Expression:
    """The text as msgspec spells it in JSON."""
    spelled: Expression = column
    others = {chr(code): f"\\u{code:04x}" for code in range(32) if chr(code) not in _ESCAPES}
    for character, escape in (_ESCAPES | others).items():
        spelled = sa.func.replace(spelled, _literal(character), _literal(escape))
    return sa.case(
        (
            column.op("REGEXP")(sa.literal_column(_CAPITALS)),
            sa.func.concat(_literal('"'), exactly(spelled), _literal('"')),
        ),
        # its result has a collation of its own
        else_=exactly(sa.func.json_quote(column)),
    )


def _literal(text: str) -> Expression:
    """A text as it is written into a statement."""
    escaped = text.replace("\\", r"\\").replace("\0", r"\0").replace("'", "''")
    return sa.literal_column(f"'{escaped}'", sa.Text)


def turn_of(type_: sa.types.TypeEngine[Any]) -> Callable[[Any], Any] | None:
    """What is done to values of a plain type on their way in; None when nothing."""
    if isinstance(type_, sa.Uuid):
        return _hyphenated
    return float if is_decimal(type_) else None


def _hyphenated(digits: str) -> str:
    return "-".join(digits[first:last] for first, last in _GROUPS)


def _with_hyphens(digits: Expression, _type: Any = None) -> Expression:
    parts = [sa.func.substr(digits, first + 1, last - first) for first, last in _GROUPS]
    return sa.func.concat_ws(_literal("-"), *parts, type_=sa.Text)


def _as_decimal(value: Any) -> Any:
    return Decimal(repr(value))


def _as_number(value: Any) -> Any:
    return None if value is None else shortest(float(value))


def _same(value: Expression, _type: Any = None) -> Expression:
    return value


def _formatted(function: str, pattern: str) -> Callable[[Expression], Expression]:
    def read(column: Expression) -> Expression:
        return sa.Function(function, column, sa.literal_column(f"'{pattern}'"), type_=sa.Text)

    return read


def _casts(make: Callable[[Any], sa.types.TypeEngine[Any]]) -> Callable[..., Expression]:
    return lambda text, type_: sa.cast(text, make(type_))


def _double(column: Expression) -> Expression:
    return sa.cast(column, mysql.DOUBLE(asdecimal=False))


def _digits(column: Expression) -> Expression:
    return sa.func.replace(column, _literal("-"), _literal(""), type_=sa.Text)


_TEXT = Kind(_same, _same)
_WHOLE = Kind(_same, _casts(lambda _: sa.BigInteger()), quoted=False)
_DECIMAL = Kind(
    _double, _casts(lambda type_: mysql.DECIMAL(type_.precision or 38, _scale(type_))), quoted=False
)
#: a type is of the first of these that it is one of
_KINDS: tuple[tuple[type[Any], Kind], ...] = (
    (sa.Uuid, Kind(_digits, _with_hyphens)),
    (sa.Boolean, _WHOLE),
    (sa.Integer, _WHOLE),
    (sa.Float, Kind(_same, _casts(lambda _: mysql.DOUBLE(asdecimal=False)), quoted=False)),
    (sa.Numeric, _DECIMAL),
    (
        sa.DateTime,
        Kind(_formatted("date_format", f"{_DATE} {_TIME}"), _casts(lambda _: mysql.DATETIME(fsp=6))),
    ),
    (sa.Date, Kind(_formatted("date_format", _DATE), _casts(lambda _: sa.Date()))),
    (sa.Time, Kind(_formatted("time_format", _TIME), _casts(lambda _: mysql.TIME(fsp=6)))),
    (sa.LargeBinary, Kind(_same, _same)),
)


def _scale(type_: Any) -> int:
    """Digits behind the point of a decimal type; where it states none, as many as its column is given."""
    return type_.scale or 0 if type_.precision is not None else 10
