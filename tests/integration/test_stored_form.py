"""What the loader stores of a JSON value is what the ORM stores of the python value that it means."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.errors import ModelError
from ingest.ledger import DEAD_LETTERS
from ingest.source import Source
from tests.harness import mirrored, page
from tests.integration import typed_models
from tests.integration.typed_models import Base, Colour, Level, Owner, Thing

SOURCE = msgspec.convert(
    {
        "streams": {
            "things": {"path": "/things", "entity": "Thing"},
            "owners": {"path": "/owners", "entity": "Owner"},
        }
    },
    Source,
)
MOMENT = datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
ID = UUID("0e984725-c51c-4bf4-9960-e1c80e27aba0")
ODD_ID = UUID("01234567-89ab-8def-7123-456789abcdef")
WILD = "👩‍👩‍👧 שלום \u202e e\u0301 '); DROP TABLE things; -- \ufeff"
DEEP: Any = {"b": [1, 2.5, None, True, {"ü": "x"}], "a": {"": 9007199254740993}, "text": WILD}

#: column: (JSON value, the python value it means)
CASES: dict[str, list[tuple[Any, Any]]] = {
    "integer": [(0, 0), (-(2**31), -(2**31)), ("2147483647", 2**31 - 1), ("-5", -5)],
    "small": [(-(2**15), -(2**15)), ("32767", 32767)],
    "big": [(2**63 - 1, 2**63 - 1), (str(-(2**63)), -(2**63)), (2**53 + 1, 2**53 + 1)],
    "string": [("", ""), ("null", "null"), (WILD[:40], WILD[:40]), (17, "17"), ("1.0", "1.0")],
    "text": [(WILD, WILD), ("line\r\n\u2028end", "line\r\n\u2028end"), (10**25, str(10**25))],
    "unicode": [("𠮷野家", "𠮷野家")],
    "boolean": [(True, True), (False, False), (1, True), (0, False)],
    "checked": [(True, True), (0, False)],
    "float": [(0.1, 0.1), (3, 3.0), (-0.0, -0.0), ("1e-7", 1e-7), (10**20, 1e20)],
    "double": [(1.7976931348623157e308, 1.7976931348623157e308), (5e-324, 5e-324)],
    "numeric": [
        ("1234.50", Decimal("1234.50")),
        (0.1, Decimal("0.1")),
        (7, Decimal(7)),
        ("-999999999999.99", Decimal("-999999999999.99")),
        ("1E+3", Decimal("1E+3")),
    ],
    "unbounded": [("3.14159", Decimal("3.14159")), (2, Decimal(2))],
    "as_float": [("12.25", 12.25), (3, 3.0)],
    "date": [
        ("2024-02-29", date(2024, 2, 29)),
        ("2024-02-29T23:59:59.123456Z", date(2024, 2, 29)),
        (1714564800, date(2024, 5, 1)),
    ],
    "time": [("23:59:59.123456", time(23, 59, 59, 123456)), ("07:00", time(7))],
    "naive": [("2024-05-01T12:00:00Z", NOON.replace(tzinfo=None)), (1714564800, NOON.replace(tzinfo=None))],
    "zoned": [("2024-05-01T17:30:00+05:30", NOON), ("2024-05-01 12:00:00", NOON), (1714564800000, NOON)],
    "utc": [
        ("2024-02-29T23:59:59.123456Z", MOMENT),
        ("2024-03-01T05:29:59.123456+05:30", MOMENT.astimezone(timezone(timedelta(hours=5, minutes=30)))),
        ("2024-05-01T12:00:00", NOON),
        (1714564800, NOON),
        (1714564800000, NOON),
        (1714564800.5, NOON.replace(microsecond=500_000)),
        (1709251199123456, MOMENT),
        (-1, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
    # the last is of no known kind, which MariaDB's own type has no place for
    "uuid": [(str(ID), ID), (ID.hex.upper(), ID), (f"{{{ID}}}", ID), (str(ODD_ID), ODD_ID)],
    "uuid_text": [(str(ID), str(ID)), (str(ID).upper(), str(ID))],
    "colour": [("red-ish", Colour.RED), ("GREEN", Colour.GREEN)],
    "colour_name": [("red-ish", Colour.RED), ("RED", Colour.RED)],
    "level": [(20, Level.HIGH), ("1", Level.LOW)],
    "word": [("one", "one"), ("two", "two")],
    "json": [
        (DEEP, DEEP),
        ([], []),
        ({}, {}),
        ("", ""),
        (0, 0),
        (False, False),
        (2.0, 2.0),
        ("null", "null"),
    ],
    "json_or_null": [(DEEP, DEEP), ([None], [None])],
    "binary": [("", b""), (base64.b64encode(b"\x00\xff'").decode(), b"\x00\xff'")],
    "shouted": [("quiet", "quiet"), (5, "5")],
}
NAMES = [column.name for column in Thing.__table__.columns if not column.name.startswith("ingest_")]


async def written_by_the_orm(file: Path, *rows: Base) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session, session.begin():
            session.add_all(rows)
    finally:
        await engine.dispose()


async def read_by_the_orm(file: Path) -> dict[int, dict[str, Any]]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    try:
        async with AsyncSession(engine) as session:
            things = await session.scalars(sa.select(Thing))
            return {one.id: {name: getattr(one, name) for name in NAMES} for one in things}
    finally:
        await engine.dispose()


def stored(file: Path, names: Sequence[str] = NAMES) -> dict[int, dict[str, Any]]:
    """Every value of `things` with its storage class, past any processor."""
    with closing(sqlite3.connect(file)) as connection:
        columns = ", ".join(f'typeof("{name}"), quote("{name}")' for name in names)
        rows = connection.execute(f"SELECT id, {columns} FROM things").fetchall()
    return {row[0]: dict(zip(names, zip(row[1::2], row[2::2], strict=True), strict=True)) for row in rows}


def everything() -> tuple[list[dict[str, Any]], list[Thing]]:
    """Records, and the rows they mean: as many as the longest list of cases."""
    records: list[dict[str, Any]] = []
    things: list[Thing] = []
    for index in range(max(map(len, CASES.values()))):
        pairs = {name: cases[index] for name, cases in CASES.items() if index < len(cases)}
        records.append({"id": index, **{name: told for name, (told, _) in pairs.items()}})
        things.append(Thing(id=index, **{name: meant for name, (_, meant) in pairs.items()}))
    return records, things


def assert_same(ours: Path, orms: Path) -> None:
    mirrored_rows, orm_rows = stored(ours), stored(orms)
    assert mirrored_rows.keys() == orm_rows.keys()
    for key, row in orm_rows.items():
        assert mirrored_rows[key] == row


async def test_the_loader_stores_every_type_as_the_orm_does(tmp_path: Path) -> None:
    records, things = everything()
    await written_by_the_orm(tmp_path / "orm.db", *things)
    async with mirrored(tmp_path, typed_models, SOURCE) as mirror:
        counts = await mirror.load([page(1, "things", records)])
        assert (counts.rejected, counts.written) == (0, len(records))

    assert_same(tmp_path / "mirror.db", tmp_path / "orm.db")
    assert repr(await read_by_the_orm(tmp_path / "mirror.db")) == repr(
        await read_by_the_orm(tmp_path / "orm.db")
    )


async def test_what_goes_through_the_merge_is_stored_in_the_same_form(tmp_path: Path) -> None:
    records, things = everything()
    await written_by_the_orm(tmp_path / "orm.db", *things)
    async with mirrored(tmp_path, typed_models, SOURCE) as mirror:
        halves = [{name: record[name] for name in list(record)[:9]} for record in records]
        others = [
            {"id": record["id"], **{name: record[name] for name in list(record)[9:]}} for record in records
        ]
        await mirror.load([page(1, "things", halves)])
        await mirror.load([page(2, "things", others)])

    assert_same(tmp_path / "mirror.db", tmp_path / "orm.db")


async def test_what_is_said_again_is_nothing_new_on_the_fast_path_and_in_the_merge(tmp_path: Path) -> None:
    records, _ = everything()
    for record in records:
        if type(record.get("json")) in (int, float):
            del record["json"]
    full = [{**dict.fromkeys(NAMES), **record} for record in records]
    async with mirrored(tmp_path, typed_models, SOURCE) as mirror:
        assert (await mirror.load([page(1, "things", full)])).written == len(full)
        assert (await mirror.load([page(2, "things", full)])).written == 0
        assert (await mirror.load([page(3, "things", records)])).written == 0


@pytest.mark.parametrize("number", [0, 2.0])
async def test_a_json_number_said_again_is_nothing_new(tmp_path: Path, number: Any) -> None:
    async with mirrored(tmp_path, typed_models, SOURCE) as mirror:
        await mirror.load([page(1, "things", [{"id": 1, "json": number}])])
        assert (await mirror.load([page(2, "things", [{"id": 1, "json": number}])])).written == 0


async def test_a_row_that_was_kept_aside_comes_back_in_the_same_form(tmp_path: Path) -> None:
    records, things = everything()
    for record, thing in zip(records, things, strict=True):
        record["owner_id"] = thing.owner_id = 5
    await written_by_the_orm(tmp_path / "orm.db", Owner(id=5), *things)
    async with mirrored(tmp_path, typed_models, SOURCE) as mirror:
        await mirror.load([page(1, "things", records)])
        assert (await mirror.settle()).holds
        assert await mirror.rows("things") == {}
        await mirror.load([page(2, "owners", [{"id": 5}])])
        assert (await mirror.settle()).holds

    assert_same(tmp_path / "mirror.db", tmp_path / "orm.db")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "id"])
async def test_null_is_stored_as_the_orm_stores_none(tmp_path: Path, name: str) -> None:
    await written_by_the_orm(tmp_path / "orm.db", Thing(id=1, **{name: None}))
    async with mirrored(tmp_path, typed_models, SOURCE) as mirror:
        await mirror.load([page(1, "things", [{"id": 1, name: None}])])

    assert stored(tmp_path / "mirror.db", [name]) == stored(tmp_path / "orm.db", [name])


#: values that a column cannot hold: a dead letter, and nothing bent
REFUSED: dict[str, list[Any]] = {
    "integer": [2**31, "2147483648", 1.5, "1.0", "", "٣", True, [], {}, "--5", "1_000"],
    "small": [2**15, -(2**15) - 1],
    "big": [2**63, 10**20, "100000000000000000000"],
    "string": ["x" * 41, "nul\0", 1.5, True, ["x"], {}],
    "text": ["a\0b"],
    "boolean": ["true", 2, -1, "1", 1.0],
    "float": ["one", True, "NaN", "Infinity", [], 10**400],
    "numeric": ["1000000000000", "NaN", "1e400", True, "1,5"],
    "date": ["2024-02-30", "yesterday", True, 10**30],
    "time": ["25:00", 1200, "noon"],
    "utc": ["2024-13-01", "", "now", 10**30, True, {}, "24:00"],
    "uuid": ["not-a-uuid", 5, ""],
    "colour": ["blue-ish", 3, "", True],
    "word": ["three", "ONE"],
    "json": [{"nul\0": 1}, ["a\0"]],
    "binary": ["not base64!", 5, "YQ"],
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_value_that_the_column_cannot_hold_is_a_dead_letter_and_its_neighbours_load(
    tmp_path: Path, name: str
) -> None:
    bad = [{"id": 100 + index, name: value} for index, value in enumerate(REFUSED[name])]
    good = [{"id": 1, name: CASES[name][0][0]}, {"id": 2, name: None}]
    async with mirrored(tmp_path, typed_models, SOURCE) as mirror:
        counts = await mirror.load([page(1, "things", [good[0], *bad, good[1]])])
        assert set(await mirror.rows("things")) == {(1,), (2,)}
        assert (counts.written, counts.rejected) == (2, len(bad))
        letters = await mirror.ledger(DEAD_LETTERS)
    assert [msgspec.json.decode(letter["raw"]) for letter in letters] == bad
    assert all(letter["reason"].startswith(f"{name}: ") for letter in letters)


async def test_a_type_without_a_meaning_in_json_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    class Own(DeclarativeBase):
        pass

    class Thing(Own):
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)
        odd: Mapped[Any | None] = mapped_column(sa.Interval)

    models = ModuleType("models")
    models.Thing = Thing  # type: ignore[attr-defined]
    source = msgspec.convert({"streams": {"things": {"path": "/things", "entity": "Thing"}}}, Source)
    with pytest.raises(ModelError, match="odd"):
        async with mirrored(tmp_path, models, source) as mirror:
            await mirror.load([page(1, "things", [{"id": 1, "odd": 5}])])
