"""From JSON to what the ORM would have stored: every spelling that is taken, and every one refused."""

from __future__ import annotations

import enum
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

from ingest.catalog import NO_DEFAULT, Column
from ingest.engines import engine_for
from ingest.errors import ModelError, SetAside
from ingest.load.convert import (
    compile_python,
    compile_stored,
    from_epoch,
    integer_bounds,
    refuse_null,
    text_limit,
)
from ingest.mirror import UtcDateTime

ENGINE = engine_for("sqlite:///unused.db")


class Role(enum.Enum):
    ADMIN = "administrator"
    GUEST = "guest-user"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 9


class Shouted(TypeDecorator[str]):
    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return value.upper()


def column(type_: Any) -> Column:
    made = sa.Column("c", type_)
    return Column(name="c", type=made.type, nullable=True, default=NO_DEFAULT, paths=(("c",),))


def python(type_: Any, value: Any) -> Any:
    return compile_python(column(type_))(value)


def stored(type_: Any, value: Any) -> Any:
    return compile_stored(column(type_))(value)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]


TAKEN: list[tuple[Any, Any, Any]] = [
    (sa.Integer, 5, 5),
    (sa.Integer, "5", 5),
    (sa.Integer, "-5", -5),
    (sa.Integer, -(2**31), -(2**31)),
    (sa.SmallInteger, 32767, 32767),
    (sa.BigInteger, 2**63 - 1, 2**63 - 1),
    (sa.BigInteger, "9223372036854775807", 2**63 - 1),
    (sa.BigInteger, "-9223372036854775808", -(2**63)),
    (sa.String(3), "abc", "abc"),
    (sa.String(3), "😀é漢", "😀é漢"),
    (sa.String(3), "", ""),
    (sa.Text, "x" * 5000, "x" * 5000),
    (sa.String, 12345678901234567890, "12345678901234567890"),
    (sa.Boolean, True, True),
    (sa.Boolean, 0, False),
    (sa.Boolean, 1, True),
    (sa.Float, 1.5, 1.5),
    (sa.Float, 2, 2.0),
    (sa.Float, "1.5e3", 1500.0),
    (sa.Numeric(6, 2), "1234.56", Decimal("1234.56")),
    (sa.Numeric(6, 2), 9999, Decimal(9999)),
    (sa.Numeric(6, 2), 0.1, Decimal("0.1")),
    (sa.Numeric(2, 2), "0.99", Decimal("0.99")),
    (sa.Numeric(2, 2), 0, Decimal(0)),
    (sa.Numeric, "1234.0000000005", Decimal("1234.0000000005")),
    (sa.Numeric(6, 2), "1.500", Decimal("1.500")),
    (sa.Numeric(6, 2, asdecimal=False), "1.5", 1.5),
    (sa.Enum(Role), "administrator", Role.ADMIN),
    (sa.Enum(Role), "guest-user", Role.GUEST),
    (sa.Enum(Role), "GUEST", Role.GUEST),
    (sa.Enum(Level), 9, Level.HIGH),
    (sa.Enum(Level), "1", Level.LOW),
    (sa.Enum("red", "green"), "red", "red"),
    (sa.Uuid, "12345678-1234-5678-1234-567812345678", uuid.UUID("12345678123456781234567812345678")),
    (sa.Uuid, "12345678123456781234567812345678", uuid.UUID("12345678123456781234567812345678")),
    (sa.Uuid(as_uuid=False), "12345678123456781234567812345678", "12345678-1234-5678-1234-567812345678"),
    (sa.LargeBinary, "AAEC/w==", b"\x00\x01\x02\xff"),
    (sa.LargeBinary, "", b""),
    (sa.Date, "2024-02-29", date(2024, 2, 29)),
    (sa.Date, "2024-02-29T23:59:59-02:00", date(2024, 3, 1)),
    (sa.Date, 1_700_000_000, date(2023, 11, 14)),
    (sa.Time, "10:20:30.000405", time(10, 20, 30, 405)),
    (sa.JSON, {"a": [1, None, "ü"]}, {"a": [1, None, "ü"]}),
    (sa.JSON, "\\u0000", "\\u0000"),
]


@pytest.mark.parametrize(("type_", "value", "expected"), TAKEN, ids=lambda one: repr(one)[:40])
def test_every_spelling_that_a_column_takes(type_: Any, value: Any, expected: Any) -> None:
    found = python(type_, value)
    assert found == expected
    assert type(found) is type(expected)


REFUSED: list[tuple[Any, Any, str]] = [
    (sa.Numeric, "123456789012345678901234567890.5", "more than the column's 28 digits"),
    (sa.Numeric, "0.00000000001", "more digits than the column has"),
    (sa.Numeric(6, 2), "0.005", "more digits than the column has"),
    (sa.Numeric(20, 2), "123456789012345678.25", "more digits than the column has"),
    (sa.Text, "é" * (4 * 2**20 + 1), "8388610 bytes"),
    (sa.JSON, ["a" * 8 * 2**20], "8388612 bytes"),
    (sa.LargeBinary, "AAAA" * (2**23 // 3 + 1), "bytes, but a value has 8388608"),
    (sa.Integer, 2**31, "does not fit the column's 32 bits"),
    (sa.Integer, -(2**31) - 1, "does not fit"),
    (sa.SmallInteger, 32768, "does not fit the column's 16 bits"),
    (sa.BigInteger, 12345678901234567890, "does not fit the column's 64 bits"),
    (sa.BigInteger, "12345678901234567890", "does not fit"),
    (sa.BigInteger, "9" * 5000, "does not fit"),
    (sa.Integer, "1.0", "expected an integer, not '1.0'"),
    (sa.Integer, 1.0, "expected an integer, not 1.0"),
    (sa.Integer, 1.5, "expected an integer"),
    (sa.Integer, "1e3", "expected an integer"),
    (sa.Integer, True, "expected an integer, not True"),
    (sa.Integer, "", "expected an integer"),
    (sa.Integer, "-", "expected an integer"),
    (sa.Integer, "--5", "expected an integer"),
    (sa.Integer, "5-", "expected an integer"),
    (sa.Integer, "1_000", "expected an integer"),
    (sa.Integer, " 5", "expected an integer"),
    (sa.Integer, "\u0665", "expected an integer"),
    (sa.Integer, [5], "expected an integer"),
    (sa.Integer, {"id": 5}, "expected an integer"),
    (sa.String(3), "abcd", "4 characters, but the column holds 3"),
    (sa.String(3), 1234, "4 characters"),
    (sa.String, "a\0b", "NUL"),
    (sa.Text, "\0", "NUL"),
    (sa.String, 1.5, "expected text, not 1.5"),
    (sa.String, True, "expected text, not True"),
    (sa.String, ["a"], "expected text"),
    (sa.Boolean, 2, "expected true or false, not 2"),
    (sa.Boolean, 1.0, "expected true or false"),
    (sa.Boolean, "true", "expected true or false"),
    (sa.Float, True, "expected a number"),
    (sa.Float, "one", "expected a number"),
    (sa.Float, "nan", "expected a finite number"),
    (sa.Float, "-Infinity", "expected a finite number"),
    (sa.Float, float("nan"), "expected a finite number"),
    (sa.Float, 10**400, "expected a number"),
    (sa.Numeric(6, 2), "12345.6", "more than the column's 4 digits before the point"),
    (sa.Numeric(6, 2), 10**4, "more than the column's 4 digits"),
    (sa.Numeric, "NaN", "expected a finite number"),
    (sa.Numeric, "sNaN", "expected a finite number"),
    (sa.Numeric, "Infinity", "expected a finite number"),
    (sa.Numeric, False, "expected a decimal number"),
    (sa.Numeric, "1,5", "expected a decimal number"),
    (sa.Numeric, [], "expected a decimal number"),
    (sa.Enum(Role), "owner", "expected one of ADMIN, GUEST, administrator, guest-user, not 'owner'"),
    (sa.Enum(Role), ["guest-user"], "expected one of"),
    (sa.Enum("red", "green"), "Red", "expected one of red, green"),
    (sa.Uuid, "1234", "expected a UUID"),
    (sa.Uuid, 5, "expected a UUID"),
    (sa.Uuid, ["12345678123456781234567812345678"], "expected a UUID"),
    (sa.LargeBinary, "AAE", "expected base64"),
    (sa.LargeBinary, "AA E=", "expected base64"),
    (sa.LargeBinary, "é", "expected base64"),
    (sa.LargeBinary, 5, "expected base64"),
    (UtcDateTime, "yesterday", "expected a time"),
    (UtcDateTime, "", "expected a time"),
    (UtcDateTime, True, "expected a time"),
    (UtcDateTime, [1], "expected a time"),
    (UtcDateTime, float("nan"), "expected a time"),
    (UtcDateTime, float("inf"), "expected a time"),
    (UtcDateTime, 10**30, "expected a time"),
    (UtcDateTime, 10**400, "expected a time"),
    (UtcDateTime, "0001-01-01T00:00:00+05:00", "expected a time"),
    (UtcDateTime, "2023-02-29T00:00:00Z", "expected a time"),
    (sa.Date, "2023-02-29", "expected a date"),
    (sa.Date, "tomorrow", "expected a time"),
    (sa.Time, "25:00", "expected a time of day"),
    (sa.Time, 5, "expected a time of day"),
    (sa.JSON, {"a": ["\0"]}, "NUL"),
    (sa.JSON, {"\0": 1}, "NUL"),
]


@pytest.mark.parametrize(("type_", "value", "reason"), REFUSED, ids=lambda one: repr(one)[:40])
def test_every_value_that_a_column_refuses_and_why(type_: Any, value: Any, reason: str) -> None:
    with pytest.raises(SetAside) as refused:
        stored(type_, value)
    assert refused.value.message.startswith("c: ")
    assert reason in refused.value.message


def test_a_refusal_shows_little_of_a_long_value() -> None:
    with pytest.raises(SetAside) as refused:
        python(sa.Integer, "x" * 1000)
    assert len(refused.value.message) < 110


# -- times ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-01-02T03:04:05Z", utc(2024, 1, 2, 3, 4, 5)),
        ("2024-01-02T03:04:05.123456Z", utc(2024, 1, 2, 3, 4, 5, 123456)),
        ("2024-01-02T03:04:05.123456789Z", utc(2024, 1, 2, 3, 4, 5, 123456)),
        ("2024-01-02 03:04:05", utc(2024, 1, 2, 3, 4, 5)),
        ("2024-01-02", utc(2024, 1, 2)),
        ("2024-01-02T03:04:05+05:30", utc(2024, 1, 1, 21, 34, 5)),
        ("2024-01-02T03:04:05-08:00", utc(2024, 1, 2, 11, 4, 5)),
        ("9999-12-31T23:59:59.999999Z", utc(9999, 12, 31, 23, 59, 59, 999999)),
    ],
)
def test_a_time_as_text_is_utc_whatever_its_offset_and_when_it_states_none(
    value: str, expected: datetime
) -> None:
    found = python(UtcDateTime, value)
    assert found == expected
    assert found.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, utc(1970, 1, 1)),
        (1_700_000_000, utc(2023, 11, 14, 22, 13, 20)),
        (1_700_000_000.25, utc(2023, 11, 14, 22, 13, 20, 250_000)),
        (1_700_000_000.123456, utc(2023, 11, 14, 22, 13, 20, 123_456)),
        (1_700_000_000_123, utc(2023, 11, 14, 22, 13, 20, 123_000)),
        (1_700_000_000_123.5, utc(2023, 11, 14, 22, 13, 20, 123_500)),
        (1_700_000_000_123_456, utc(2023, 11, 14, 22, 13, 20, 123_456)),
        (-1, utc(1969, 12, 31, 23, 59, 59)),
        (-0.5, utc(1969, 12, 31, 23, 59, 59, 500_000)),
        (-200_000_000_000, utc(1963, 8, 31, 4, 26, 40)),
        (99_999_999_999, utc(5138, 11, 16, 9, 46, 39)),
        (100_000_000_000, utc(1973, 3, 3, 9, 46, 40)),
        (100_000_000_000_000, utc(1973, 3, 3, 9, 46, 40)),
    ],
)
def test_seconds_milliseconds_and_microseconds_are_told_apart_by_their_size(
    value: float, expected: datetime
) -> None:
    assert from_epoch(value) == expected
    assert python(UtcDateTime, value) == expected


@pytest.mark.parametrize("type_", [UtcDateTime, sa.DateTime, sa.DateTime(timezone=True)])
@pytest.mark.parametrize(
    "value", ["2024-01-02T03:04:05+05:30", "0999-01-01T00:00:00Z", 1_700_000_000.5, -1.5, "2024-01-02"]
)
def test_a_time_is_stored_as_the_orm_stores_it(type_: Any, value: Any) -> None:
    made = column(type_)
    orm = made.type.dialect_impl(ENGINE.dialect).bind_processor(ENGINE.dialect)
    assert orm is not None
    assert stored(type_, value) == orm(python(type_, value))


def test_a_time_of_day_with_a_zone_is_refused_not_bent() -> None:
    with pytest.raises(SetAside):
        stored(sa.Time, "10:00:00+02:00")


# -- the stored form -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        (sa.Boolean, True, 1),
        (sa.Integer, "7", 7),
        (sa.Uuid, "12345678-1234-5678-1234-567812345678", "12345678123456781234567812345678"),
        (sa.Enum(Role), "guest-user", "GUEST"),
        (sa.Enum(Role, values_callable=lambda kind: [one.value for one in kind]), "guest-user", "guest-user"),
        (sa.Date, "2024-02-29", "2024-02-29"),
        (sa.Time, "10:20", "10:20:00.000000"),
        (sa.JSON, {"b": [1], "a": "ü"}, '{"b": [1], "a": "\\u00fc"}'),
        (sa.JSON, "a\\u0000 spelled out", '"a\\\\u0000 spelled out"'),
        (sa.LargeBinary, "AAE=", b"\x00\x01"),
        (Shouted(5), "quiet", "QUIET"),
    ],
)
def test_a_value_is_stored_as_the_orm_stores_it(type_: Any, value: Any, expected: Any) -> None:
    found = stored(type_, value)
    assert (bytes(found) if isinstance(expected, bytes) else found) == expected


def test_a_type_decorators_limits_are_those_of_what_it_decorates() -> None:
    with pytest.raises(SetAside, match="6 characters"):
        stored(Shouted(5), "abcdef")


def test_a_type_that_nobody_can_convert_is_the_models_error() -> None:
    with pytest.raises(ModelError, match="column c: columns of type"):
        compile_python(column(sa.Interval))


@pytest.mark.parametrize(
    ("type_", "bounds", "limit"),
    [
        (sa.Integer, (-(2**31), 2**31 - 1), None),
        (sa.SmallInteger, (-(2**15), 2**15 - 1), None),
        (sa.BigInteger, (-(2**63), 2**63 - 1), None),
        (sa.String(7), None, 7),
        (sa.Enum(Role), None, None),
        (sa.Boolean, None, None),
    ],
)
def test_the_reader_is_told_the_bounds_of_plain_columns_only(
    type_: Any, bounds: tuple[int, int] | None, limit: int | None
) -> None:
    assert integer_bounds(column(type_)) == bounds
    assert text_limit(column(type_)) == limit


def test_the_reason_of_a_null_names_the_column() -> None:
    assert refuse_null(column(sa.Integer)).message == "c: null, but the column takes no NULL"


def test_an_offset_of_seconds_is_not_lost() -> None:
    zone = timezone(timedelta(hours=1, minutes=2, seconds=3))
    assert python(UtcDateTime, "2024-01-01T00:00:00+01:02:03") == datetime(2024, 1, 1, tzinfo=zone)
