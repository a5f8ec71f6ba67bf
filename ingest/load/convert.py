"""From a JSON value to what the ORM would have stored, one function a column, compiled once.

A value that the column cannot hold on every engine is refused on every engine, never bent: integers and
decimals stay exact, text keeps to its length, NUL has no place in text, and a time without a zone is UTC.
So a mirror can move from one database to another, and the same pages make the same rows in each.
"""

from __future__ import annotations

import base64
import binascii
import math
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

from ingest.catalog import Column
from ingest.errors import ModelError, SetAside
from ingest.form import storer, time_text
from ingest.mirror import UtcDateTime

Convert: TypeAlias = Callable[[Any], Any]

#: a number of seconds since 1970 above this is milliseconds, and above its thousandfold microseconds
_MILLISECONDS_FROM = 100_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: bytes of one value: what fits into a statement of every server as it comes (MariaDB's takes 16 MiB), twice
_LONGEST = 8 * 2**20
#: characters that fit into that, whatever they are
_SURELY_SHORT = _LONGEST // 4
#: digits before and after the point that a decimal column without a precision has everywhere
_WHOLE, _FRACTION = 28, 10
_INTEGER_BITS: tuple[tuple[type[sa.types.TypeEngine[Any]], int], ...] = (
    (sa.BigInteger, 63),
    (sa.SmallInteger, 15),
    (sa.Integer, 31),
)


def compile_python(column: Column) -> Convert:
    """A function from a JSON value, never null, to the column's python value; SetAside with the reason."""
    return _python(column.type, column)


def compile_stored(column: Column) -> Convert:
    """A function from a JSON value, never null, to the column's stored form."""
    convert = compile_python(column)
    store = storer(column.type)
    if store is None:
        return convert
    if isinstance(column.type, sa.JSON):
        return _without_nul(column.name, store)
    if is_time(column):
        return _time_by_text(convert, store)
    return lambda value: store(convert(value))


def _time_by_text(convert: Convert, store: Convert) -> Convert:
    """A time's stored form, by way of its text where there is one."""

    def stored(value: Any) -> Any:
        python = convert(value)
        text = time_text(value) if type(value) is str else None
        return store(python) if text is None else text

    return stored


def is_time(column: Column) -> bool:
    """True for a column of moments."""
    type_ = column.type.impl_instance if isinstance(column.type, UtcDateTime) else column.type
    return isinstance(type_, sa.DateTime)


def stored_null(column: Column) -> Any:
    """What the ORM stores for None: NULL, or JSON's null where the model tells them apart."""
    store = storer(column.type)
    return store(None) if isinstance(column.type, sa.JSON) and store is not None else None


def refuse_null(column: Column) -> SetAside:
    """Why a record with null for this column is refused."""
    return SetAside(f"{column.name}: null, but the column takes no NULL")


def _without_nul(name: str, store: Convert) -> Convert:
    """JSON as text; a NUL anywhere in it is looked for only where its escape occurs."""

    empty_list, empty_object = store([]), store({})

    def stored(value: Any) -> Any:
        if not value:
            # most JSON columns are empty most of the time
            if type(value) is list:
                return empty_list
            if type(value) is dict:
                return empty_object
        if type(value) is int and not -(2**63) <= value < 2**63:
            # SQLite takes a number that stands alone for one, and rounds it
            raise SetAside(f"{name}: the integer does not fit 64 bits, which not every database can hold")
        text = store(value)
        if "\\u0000" in text and _has_nul(value):
            raise SetAside(f"{name}: JSON with a NUL in it, which not every database can hold")
        if len(text) > _SURELY_SHORT:
            _fits_a_statement(name, len(text.encode()))
        return text

    return stored


def _python(type_: sa.types.TypeEngine[Any], column: Column) -> Convert:
    if isinstance(type_, TypeDecorator) and not isinstance(type_, sa.Interval):
        return _python(type_.impl_instance, column)
    if isinstance(type_, sa.Enum):
        return _enum(column.name, type_)
    for kind, bits in _INTEGER_BITS:
        if isinstance(type_, kind):
            return _integer(column.name, bits)
    for base, build in _BUILDERS.items():
        if isinstance(type_, base):
            return build(column.name, type_)
    raise ModelError(f"columns of type {type_!r} cannot be mirrored", where=f"column {column.name}")


def integer_bounds(column: Column) -> tuple[int, int] | None:
    """The smallest and largest integer a plain integer column holds; None for other columns."""
    for kind, bits in _INTEGER_BITS:
        if isinstance(column.type, kind):
            return -(2**bits), 2**bits - 1
    return None


def text_limit(column: Column) -> int | None:
    """How many characters a plain text column holds; None for other columns."""
    if not isinstance(column.type, sa.String) or isinstance(column.type, sa.Enum):
        return None
    return _SURELY_SHORT if column.type.length is None else min(column.type.length, _SURELY_SHORT)


def _refuse(name: str, expected: str, value: Any) -> SetAside:
    shown = repr(value)
    return SetAside(f"{name}: expected {expected}, not {shown if len(shown) <= 60 else shown[:57] + '…'}")


def _integer(name: str, bits: int) -> Convert:
    low, high = -(2**bits), 2**bits - 1

    def integer(value: Any) -> int:
        if type(value) is not int:
            if not isinstance(value, str) or not value.removeprefix("-").isdecimal() or not value.isascii():
                raise _refuse(name, "an integer", value)
            value = int(value) if len(value) < 40 else high + 1
        if low <= value <= high:
            return int(value)
        wider = "" if bits == 63 else "; a BigInteger has 64"
        raise SetAside(f"{name}: the integer does not fit the column's {bits + 1} bits{wider}")

    return integer


def _text(name: str, type_: Any) -> Convert:
    limit = type_.length

    def text(value: Any) -> str:
        if type(value) is not str:
            if type(value) is not int:
                raise _refuse(name, "text", value)
            value = str(value)
        if limit is not None and len(value) > limit:
            raise SetAside(f"{name}: {len(value)} characters, but the column holds {limit}")
        if "\0" in value:
            raise SetAside(f"{name}: text with a NUL in it, which not every database can hold")
        if len(value) > _SURELY_SHORT:
            _fits_a_statement(name, len(value.encode()))
        return str(value)

    return text


def _fits_a_statement(name: str, size: int) -> None:
    if size > _LONGEST:
        raise SetAside(f"{name}: {size} bytes, but a value has {_LONGEST} at most")


def _enum(name: str, type_: sa.Enum) -> Convert:
    values: Mapping[str, Any] = dict(zip(type_.enums, type_.enums, strict=True))
    if type_.enum_class is not None:
        # an API tells values, whichever of the two the column stores
        members = type_.enum_class.__members__
        values = {**members, **{str(one.value): one for one in members.values()}}

    def enum(value: Any) -> Any:
        found = values.get(value if isinstance(value, str) else str(value))
        if found is None:
            raise _refuse(name, f"one of {', '.join(values)}", value)
        return found

    return enum


def _boolean(name: str, _type: Any) -> Convert:
    def boolean(value: Any) -> bool:
        if value is True or value is False:
            return bool(value)
        if type(value) is int and value in (0, 1):
            return value == 1
        raise _refuse(name, "true or false", value)

    return boolean


def _float(name: str, _type: Any) -> Convert:
    def number(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise _refuse(name, "a number", value)
        try:
            result = float(value)
        except (ValueError, OverflowError):
            raise _refuse(name, "a number", value) from None
        if not math.isfinite(result):
            raise _refuse(name, "a finite number", value)
        return result

    return number


def _numeric(name: str, type_: Any) -> Convert:
    as_decimal = type_.asdecimal

    def numeric(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise _refuse(name, "a decimal number", value)
        try:
            result = Decimal(str(value))
        except InvalidOperation:
            raise _refuse(name, "a decimal number", value) from None
        if not result.is_finite():
            raise _refuse(name, "a finite number", value)
        _fits(name, result, type_)
        return result if as_decimal else float(result)

    return numeric


def _fits(name: str, value: Decimal, type_: Any) -> None:
    whole, fraction = _WHOLE, _FRACTION
    if type_.precision is not None:
        fraction = type_.scale or 0
        whole = type_.precision - fraction
    if value and value.adjusted() >= whole:
        raise SetAside(f"{name}: the number has more than the column's {whole} digits before the point")
    # a database without decimals of its own keeps the nearest float, and gives it back rounded
    if Decimal(f"{float(value):.{fraction}f}") != value:
        raise SetAside(f"{name}: the number has more digits than the column has on every database")


def _datetime(name: str, _type: Any) -> Convert:
    def moment(value: Any) -> datetime:
        try:
            if type(value) is str:
                parsed = datetime.fromisoformat(value)
                zone = parsed.tzinfo
                if zone is UTC:
                    return parsed
                return parsed.replace(tzinfo=UTC) if zone is None else parsed.astimezone(UTC)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return from_epoch(value)
        except (ValueError, OverflowError, OSError):
            pass
        raise _refuse(name, "a time (ISO text, or seconds or milliseconds since 1970)", value)

    return moment


def from_epoch(value: float) -> datetime:
    """Seconds, milliseconds or microseconds since 1970, told apart by their size."""
    scale = 1
    while abs(value) >= _MILLISECONDS_FROM * scale and scale < 1_000_000:
        scale *= 1000
    # through integers: a float of seconds since 1970 does not hold microseconds exactly
    return _EPOCH + timedelta(microseconds=round(value * (1_000_000 // scale)))


def _date(name: str, type_: Any) -> Convert:
    moment = _datetime(name, type_)

    def day(value: Any) -> date:
        if isinstance(value, str) and len(value) == 10:
            try:
                return date.fromisoformat(value)
            except ValueError:
                raise _refuse(name, "a date", value) from None
        parsed: datetime = moment(value)
        return parsed.date()

    return day


def _time(name: str, _type: Any) -> Convert:
    def clock(value: Any) -> time:
        try:
            parsed = time.fromisoformat(value)
        except (TypeError, ValueError):
            raise _refuse(name, "a time of day", value) from None
        if parsed.tzinfo is not None:
            raise _refuse(name, "a time of day without a zone", value)
        return parsed

    return clock


def _uuid(name: str, type_: Any) -> Convert:
    as_uuid = getattr(type_, "as_uuid", True)

    def identity(value: Any) -> Any:
        try:
            found = uuid.UUID(value)
        except (AttributeError, TypeError, ValueError):
            raise _refuse(name, "a UUID", value) from None
        return found if as_uuid else str(found)

    return identity


def _bytes(name: str, _type: Any) -> Convert:
    def binary(value: Any) -> bytes:
        try:
            found = base64.b64decode(value, validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise _refuse(name, "base64", value) from None
        _fits_a_statement(name, len(found))
        return found

    return binary


def _json(name: str, _type: Any) -> Convert:
    def tree(value: Any) -> Any:
        if _has_nul(value):
            raise SetAside(f"{name}: JSON with a NUL in it, which not every database can hold")
        return value

    return tree


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in key or _has_nul(inner) for key, inner in value.items())
    if isinstance(value, list):
        return any(map(_has_nul, value))
    return False


_BUILDERS: dict[type[Any], Callable[[str, Any], Convert]] = {
    sa.Uuid: _uuid,
    sa.Float: _float,
    sa.Numeric: _numeric,
    sa.Boolean: _boolean,
    sa.DateTime: _datetime,
    sa.Date: _date,
    sa.Time: _time,
    sa.JSON: _json,
    sa.LargeBinary: _bytes,
    sa.String: _text,
}
