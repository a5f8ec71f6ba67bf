"""The compiled reader says of every flat record exactly what the plain way says of it."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import BigInteger, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.catalog import read_catalog
from ingest.engines import engine_for
from ingest.errors import SetAside
from ingest.load.batch import ABSENT
from ingest.load.decode import plan_value
from ingest.load.shape import Plan, Shape
from ingest.mirror import Mirror, UtcDateTime, field
from ingest.types import LOWEST_VERSION

#: keys that would do harm, were they ever written into code
HOSTILE = (
    '"); import os; raise SystemExit("owned") #',
    "'\\\"\n\t'''",
    "{v0}\nraise SystemExit",
    "__import__('os')",
    "v0",
    "",
)


class Base(DeclarativeBase):
    pass


class Number(Base):
    """Ordered by a plain integer."""

    __tablename__ = "numbers"
    __mirror__ = Mirror(version="rev")
    id: Mapped[int] = mapped_column(primary_key=True)
    rev: Mapped[int | None] = mapped_column(BigInteger)
    name: Mapped[str] = mapped_column(String(4))
    note: Mapped[str | None]
    ok: Mapped[bool | None]


class Moment(Base):
    """Ordered by a time; its key is the last column."""

    __tablename__ = "moments"
    __mirror__ = Mirror(version="at")
    at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    level: Mapped[int] = mapped_column(default=3)
    id: Mapped[str] = mapped_column(String(8), primary_key=True)


class Plain(Base):
    """Ordered by nothing, and with two parts to its key."""

    __tablename__ = "plain"
    b: Mapped[int] = mapped_column(primary_key=True)
    a: Mapped[str] = mapped_column(String(4), primary_key=True)


class Strict(Base):
    """A version that takes no null."""

    __tablename__ = "strict"
    __mirror__ = Mirror(version="at")
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class Hostile(Base):
    __tablename__ = "hostile"
    id: Mapped[int] = mapped_column(primary_key=True)
    a: Mapped[str | None] = mapped_column('"); raise SystemExit #', String(9), info=field('"\\"); raise x"'))


ENGINE = engine_for("sqlite:///unused.db")
CATALOG = read_catalog([sys.modules[__name__]])
SHAPES = {
    (entity, omits): Shape(CATALOG.entities[entity], ENGINE, omits_null=omits)
    for entity in ("Number", "Moment", "Plain", "Strict")
    for omits in (False, True)
}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31, -(2**31), 2**63, 12345678901234567890, 1_700_000_000_123, 0.5, "1.0"]),
    st.sampled_from(["", "abc", "abcd", "abcde", "a\0", "7", "2024-01-02T03:04:05+02:00", "é漢😀"]),
    st.sampled_from([[], {}, [1], {"id": 1}]),
)


def plainly(shape: Shape, plan: Plan, record: dict[str, Any]) -> Any:
    """What `_Reading` does with a record that is not read by compiled code."""
    row = shape.row(plan, record, {})
    shape.omit(row, frozenset())
    key = shape.key(row)
    raw = plan_value(shape, record, {})
    if shape.read_version is None or raw is ABSENT or raw is None:
        return tuple(row), key, LOWEST_VERSION
    return tuple(row), key, shape.read_version(raw)


def outcome(read: Any, *args: Any) -> Any:
    try:
        return read(*args)
    except SetAside as error:
        return error.message


def typed(found: Any) -> Any:
    """The same with types: 1 is not True here."""
    return found if isinstance(found, str) else (found, [type(value) for value in found[0]])


@st.composite
def records(draw: st.DrawFn) -> tuple[Shape, dict[str, Any]]:
    (entity, omits) = draw(st.sampled_from(sorted(SHAPES)))
    shape = SHAPES[(entity, omits)]
    names = draw(st.permutations(shape.names))
    if omits:
        keys = shape.table.key
        names = [name for name in names if name in keys or draw(st.booleans())]
    return shape, {name: draw(VALUES) for name in (*names, *draw(st.sampled_from([(), ("extra",)])))}


@given(records())
def test_the_compiled_reader_and_the_plain_way_agree_on_every_record(
    case: tuple[Shape, dict[str, Any]],
) -> None:
    shape, record = case
    plan = shape.plan(record)
    if plan.read is not None:
        assert typed(outcome(plan.read, record)) == typed(outcome(plainly, shape, plan, record))


@pytest.mark.parametrize(
    ("entity", "record", "expected"),
    [
        (
            "Number",
            {"id": 1, "rev": 7, "name": "abcd", "note": None, "ok": True},
            ((1, 7, "abcd", None, 1), (1,), 7),
        ),
        (
            "Number",
            {"ok": None, "note": "n", "name": 12, "rev": None, "id": "1"},
            ((1, None, "12", "n", None), (1,), LOWEST_VERSION),
        ),
        (
            "Moment",
            {"id": "x", "level": 1, "at": 1},
            (("1970-01-01 00:00:01.000000", 1, "x"), ("x",), 1_000_000),
        ),
        ("Moment", {"id": "x", "level": 1, "at": None}, ((None, 1, "x"), ("x",), LOWEST_VERSION)),
        ("Plain", {"a": "k", "b": 2}, ((2, "k"), (2, "k"), LOWEST_VERSION)),
    ],
)
def test_a_full_flat_record_is_read_by_compiled_code(
    entity: str, record: dict[str, Any], expected: Any
) -> None:
    plan = SHAPES[(entity, False)].plan(record)
    assert plan.read is not None
    assert plan.read(record) == expected


@pytest.mark.parametrize(
    ("entity", "record", "reason"),
    [
        ("Number", {"id": 1, "rev": 1, "name": "abcde", "note": None, "ok": None}, "name: 5 characters"),
        ("Number", {"id": 1, "rev": 1, "name": None, "note": None, "ok": None}, "name: null, but"),
        ("Number", {"id": None, "rev": 1, "name": "a", "note": None, "ok": None}, "id: null, but"),
        ("Number", {"id": 2**31, "rev": 1, "name": "a", "note": None, "ok": None}, "id: the integer"),
        ("Number", {"id": True, "rev": 1, "name": "a", "note": None, "ok": None}, "id: expected an integer"),
        ("Number", {"id": 1, "rev": 1, "name": "a", "note": "\0", "ok": None}, "note: text with a NUL"),
        ("Strict", {"id": 1, "at": None}, "at: null, but"),
        ("Strict", {"id": 1, "at": "soon"}, "at: expected a time"),
    ],
)
def test_the_compiled_reader_refuses_with_the_reason_of_the_plain_way(
    entity: str, record: dict[str, Any], reason: str
) -> None:
    shape = SHAPES[(entity, False)]
    plan = shape.plan(record)
    assert plan.read is not None
    said = outcome(plan.read, record)
    assert said.startswith(reason)
    assert said == outcome(plainly, shape, plan, record)


def test_a_record_that_leaves_a_column_out_is_not_read_whole() -> None:
    assert SHAPES[("Number", False)].plan({"id": 1, "name": "a"}).read is None


def test_where_absent_keys_state_null_they_are_read_whole_with_constant_defaults() -> None:
    shape = SHAPES[("Moment", True)]
    read = shape.plan({"id": "x"}).read
    assert read is not None
    assert read({"id": "x"}) == ((None, 3, "x"), ("x",), LOWEST_VERSION)
    assert shape.plan({"at": 1}).read is None  # without its key it is nothing


def test_a_required_column_without_a_default_cannot_be_left_out() -> None:
    assert SHAPES[("Number", True)].plan({"id": 1}).read is None


@pytest.mark.parametrize("key", HOSTILE)
def test_a_servers_key_is_never_part_of_the_code(key: str) -> None:
    shape = SHAPES[("Plain", False)]
    plan = shape.plan({key: 1, "a": "x", "b": 1})
    assert plan.read is not None
    assert plan.unknown == (key,)
    assert plan.read({key: 1, "a": "x", "b": 1}) == ((1, "x"), (1, "x"), LOWEST_VERSION)


def test_a_models_names_are_never_part_of_the_code() -> None:
    shape = Shape(CATALOG.entities["Hostile"], ENGINE, omits_null=False)
    record = {"id": 1, '"); raise x': "fine"}
    plan = shape.plan(record)
    assert plan.read is not None
    assert plan.read(record) == ((1, "fine"), (1,), LOWEST_VERSION)
    with pytest.raises(SetAside, match="10 characters"):
        plan.read({**record, '"); raise x': "x" * 10})


def test_plans_are_forgotten_when_a_server_makes_keys_up() -> None:
    shape = Shape(CATALOG.entities["Plain"], ENGINE, omits_null=False)
    for number in range(1200):
        shape.plan({"a": "x", "b": 1, f"k{number}": 0})
    assert len(shape._plans) <= 500
