"""Pages read the straight way say exactly what they say the long way."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import JSON, BigInteger, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.catalog import read_catalog
from ingest.load.batch import Batch
from ingest.load.decoders import Decoders
from ingest.load.reader import Reader, learn_reader
from ingest.load.shape import Shape
from ingest.load.straight import Straight
from ingest.mirror import Mirror, UtcDateTime, field
from ingest.source import Source, Stream
from ingest.types import LOWEST_VERSION, Page
from tests.harness import page

#: keys that would do harm, were they ever written into code
HOSTILE = (
    "); import os; raise SystemExit('owned') #",
    "{v0} raise SystemExit",
    "__import__('os')",
    "v0",
    "f0",
    "inner",
    "",
)
#: keys that a decoder cannot be given a name of
UNNAMEABLE = ('a"b', "a\\b", "a\nb", "\0")


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
    tree: Mapped[Any | None] = mapped_column(JSON)


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
    a: Mapped[str | None] = mapped_column('"); raise SystemExit #', String(9), info=field('"); raise x"'))


CATALOG = read_catalog([sys.modules[__name__]])
ENTITIES = ("Moment", "Number", "Plain", "Strict")
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31, -(2**31), 2**63, 12345678901234567890, 1_700_000_000_123, 0.5, "1.0"]),
    st.sampled_from(
        ["", "abc", "abcd", "abcde", "a\0", "7", "2024-01-02T03:04:05+02:00", "é漢😀", "漢漢漢漢漢"]
    ),
    st.sampled_from([[], {}, [1], {"id": 1}, ["\0"]]),
)
#: what a column mostly holds, so that most pages are alike
USUAL: dict[str, st.SearchStrategy[Any]] = {
    "id": st.integers(0, 40),
    "rev": st.integers(0, 3),
    "name": st.sampled_from(["a", "abcd"]),
    "note": st.sampled_from([None, "long enough"]),
    "ok": st.sampled_from([True, False, None]),
    "tree": st.sampled_from([[], {"a": [1, 2.5]}, None]),
    "at": st.sampled_from([0, 1_700_000_000, "2024-01-02T03:04:05.678Z", "2024-01-02"]),
    "level": st.integers(0, 3),
    "a": st.sampled_from(["a", "b", "c"]),
    "b": st.integers(0, 9),
    "extra": st.integers(),
}


def source(entity: str, **more: Any) -> Source:
    made: Source = msgspec.convert({"streams": {"s": {"path": "/s", "entity": entity, **more}}}, Source)
    return made


def decode(made: Source, *pages: Page) -> Batch:
    return Decoders({"test": made}, CATALOG).decode(pages)


def told(*batches: Batch) -> Any:
    """All that batches say, with types: 1 is not True here."""
    statements, letters, unmapped = [], [], set()
    for batch in batches:
        for table, full in batch.full.items():
            names = CATALOG.tables[table].names
            statements += [(table, batch.as_statement(names, key, row)) for key, row in full.items()]
        for table, partial in batch.partial.items():
            statements += [(table, one) for many in partial.values() for one in many]
        letters += batch.letters
        unmapped |= batch.unmapped.keys()
    said = [
        (
            one.rank,
            table,
            one.key,
            [(name, type(value), value) for name, value in one.values.items()],
            one.top,
        )
        for table, one in statements
    ]
    counts = sum(batch.records for batch in batches), sum(batch.rejected for batch in batches)
    return sorted(said, key=lambda one: one[0]), letters, unmapped, counts


@st.composite
def stories(draw: st.DrawFn) -> tuple[Source, list[Page]]:
    """A stream and two pages of it, alike or nearly."""
    entity = draw(st.sampled_from(ENTITIES))
    omits = draw(st.sampled_from([{}, {"omits": "null"}]))
    names = list(CATALOG.entities[entity].names)
    names += draw(st.sampled_from([[], ["extra"]]))
    wraps = draw(st.sampled_from(["", "data", "data.items"]))
    sets = draw(st.sampled_from([{}, {"set": {names[1]: "$partition.p"}}]))
    made = source(entity, records=wraps, **omits, **sets)
    oddity = draw(st.sampled_from([0.0, 0.0, 0.1]))
    pages = []
    for stamp in (3, 8):
        records = []
        for _ in range(draw(st.integers(1, 4))):
            kept = [one for one in names if not omits or draw(st.integers(0, 9))]
            odd = oddity and draw(st.floats(0, 1)) < oddity
            records.append({one: draw(ODD if odd else USUAL[one]) for one in kept})
        body: Any = records
        for step in reversed(wraps.split(".") if wraps else []):
            body = {step: body, "total": 3} if draw(st.integers(0, 5)) else {step: body, "more": []}
        partition = msgspec.json.encode({"p": draw(USUAL[names[1]])}).decode() if sets else "{}"
        pages.append(page(stamp, "s", body, partition=partition))
    return made, pages


@given(stories())
def test_the_straight_way_and_the_long_way_say_the_same_of_every_page(
    story: tuple[Source, list[Page]],
) -> None:
    made, (first, second) = story
    # a page that is the first of its loader goes the long way
    assert told(decode(made, first, second)) == told(decode(made, first), decode(made, second))


def learned(entity: str, records: list[Any], *, omits: bool = False) -> Reader | None:
    shape = Shape(CATALOG.entities[entity], omits_null=omits)
    return learn_reader(shape, ("data",), {"data": records}, ())


def read(reader: Reader | None, *records: Any) -> Any:
    assert reader is not None
    return reader.rows(msgspec.json.encode({"data": records}), 5, ())


NUMBER = {"id": 1, "rev": 7, "name": "abcd", "note": "n", "ok": True, "tree": []}


@pytest.mark.parametrize(
    ("entity", "like", "record", "expected"),
    [
        ("Number", NUMBER, NUMBER, (1, 7, "abcd", "n", 1, "[]", 7, 5, 0, None)),
        (
            "Number",
            NUMBER,
            {**NUMBER, "rev": None, "ok": None, "note": None},
            (1, None, "abcd", None, None, "[]", LOWEST_VERSION, 5, 0, None),
        ),
        # where a column was learned as text, numbers in text are read
        (
            "Number",
            {**NUMBER, "id": "1"},
            {**NUMBER, "id": "12"},
            (12, 7, "abcd", "n", 1, "[]", 7, 5, 0, None),
        ),
        (
            "Moment",
            {"id": "x", "level": 1, "at": 1},
            {"id": "y", "level": 2, "at": 1},
            ("1970-01-01 00:00:01.000000", 2, "y", 1_000_000, 5, 0, None),
        ),
        (
            "Moment",
            {"id": "x", "level": 1, "at": 1},
            {"id": "y", "level": 2, "at": None},
            (None, 2, "y", LOWEST_VERSION, 5, 0, None),
        ),
        ("Plain", {"a": "k", "b": 2}, {"b": 3, "a": "l"}, (3, "l", LOWEST_VERSION, 5, 0, None)),
    ],
)
def test_a_page_of_full_plain_records_is_read_straight(
    entity: str, like: dict[str, Any], record: dict[str, Any], expected: Any
) -> None:
    assert read(learned(entity, [like]), record) == [expected]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "abcde"},
        {"name": None},
        {"id": None},
        {"id": 2**31},
        {"id": True},
        {"note": "\0"},
        {"tree": {"a": "\0"}},
        {"ok": "yes"},
        {"new": 1},
    ],
)
def test_a_page_with_a_record_that_is_not_as_learned_goes_the_long_way(change: dict[str, Any]) -> None:
    reader = learned("Number", [NUMBER])
    assert read(reader, NUMBER, NUMBER) is not None
    assert read(reader, NUMBER, {**NUMBER, **change}) is None


def test_a_page_with_a_record_that_leaves_a_column_out_goes_the_long_way() -> None:
    assert read(learned("Number", [NUMBER]), {**NUMBER}, {"id": 1, "name": "a"}) is None
    assert learned("Number", [{"id": 1, "name": "a"}]) is None


def test_where_absent_keys_state_null_they_are_read_straight_with_constant_defaults() -> None:
    reader = learned("Moment", [{"id": "x", "level": 1}], omits=True)
    assert read(reader, {"id": "x"}, {"id": "y", "level": 7}) == [
        (None, 3, "x", LOWEST_VERSION, 5, 0, None),
        (None, 7, "y", LOWEST_VERSION, 5, 1, None),
    ]
    assert read(reader, {"level": 1}) is None  # without its key it is nothing


def test_a_required_column_without_a_default_cannot_be_left_out() -> None:
    assert learned("Number", [{"id": 1}], omits=True) is None


def test_a_record_with_nested_ones_is_never_learned() -> None:
    assert learned("Plain", [{"a": "x", "b": 1}, 3]) is None
    assert learned("Plain", []) is None
    assert learn_reader(Shape(CATALOG.entities["Plain"], omits_null=False), ("x",), [], ()) is None


@pytest.mark.parametrize("key", HOSTILE)
def test_a_servers_key_is_never_part_of_the_code(key: str) -> None:
    reader = learned("Plain", [{key: 1, "a": "x", "b": 1}])
    assert reader is not None
    assert reader.unknown == (key,)
    assert read(reader, {key: [], "a": "x", "b": 1}) == [(1, "x", LOWEST_VERSION, 5, 0, None)]


@pytest.mark.parametrize("key", UNNAMEABLE)
def test_a_key_that_cannot_be_named_is_left_to_the_long_way(key: str) -> None:
    assert learned("Plain", [{key: 1, "a": "x", "b": 1}]) is None


def test_a_models_names_are_never_part_of_the_code() -> None:
    reader = learned("Hostile", [{"id": 1, "); raise x": "fine"}])
    assert read(reader, {"id": 1, "); raise x": "good"}) == [(1, "good", LOWEST_VERSION, 5, 0, None)]
    assert read(reader, {"id": 1, "); raise x": "x" * 10}) is None


def test_the_straight_way_is_given_up_where_pages_are_never_alike() -> None:
    shape = Shape(CATALOG.entities["Plain"], omits_null=False)
    straight = Straight(shape, (), {})
    for stamp in range(9):
        record = {"a": "x", "b": 1, f"k{stamp}": 0}
        assert straight.take(page(stamp, "s", [record]), Batch(asked={stamp: 0})) is None
        straight.learn([record])
    assert straight.take(page(9, "s", [record]), Batch(asked={9: 0})) is None


def test_a_stream_reads_its_second_page_straight() -> None:
    made: Stream = msgspec.convert({"path": "/s", "entity": "Plain"}, Stream)
    assert made.entities.default == ("Plain",)
    decoders = Decoders({"test": source("Plain")}, CATALOG)
    decoder = decoders._decoders[("test", "s")]
    assert decoder._straight is not None
    decoders.decode([page(1, "s", [{"a": "x", "b": 1}])])
    assert decoder._straight.take(page(2, "s", [{"a": "y", "b": 1}]), Batch(asked={2: 0})) is not None


def test_plans_are_forgotten_when_a_server_makes_keys_up() -> None:
    shape = Shape(CATALOG.entities["Plain"], omits_null=False)
    for number in range(1200):
        shape.plan({"a": "x", "b": 1, f"k{number}": 0})
    assert len(shape._plans) <= 500
