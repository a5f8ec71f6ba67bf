"""The canonical digest changes with every cell and every withheld value, and with nothing else."""

from __future__ import annotations

import enum
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import JSON, BigInteger, ForeignKey, LargeBinary, Numeric
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.catalog import read_catalog
from ingest.digest import digest
from ingest.engines import engine_for
from ingest.ledger import LEDGER, TOUCHED, WITHHELD
from ingest.mirror import UtcDateTime, count


class Base(DeclarativeBase):
    pass


class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"


class Everything(Base):
    __tablename__ = "everything"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("everything.id"))
    whole: Mapped[int | None] = mapped_column(BigInteger)
    text: Mapped[str | None]
    flag: Mapped[bool | None]
    number: Mapped[float | None]
    money: Mapped[Decimal | None] = mapped_column(Numeric(12, 4))
    colour: Mapped[Colour | None]
    moment: Mapped[datetime | None] = mapped_column(UtcDateTime)
    plain: Mapped[datetime | None]
    day: Mapped[date | None]
    clock: Mapped[time | None]
    identity: Mapped[uuid.UUID | None]
    blob: Mapped[bytes | None] = mapped_column(LargeBinary)
    tree: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    children: Mapped[int] = mapped_column(default=0, info=count(lambda: Everything.parent_id))


CATALOG = read_catalog([sys.modules[__name__]])
ENGINE = engine_for("sqlite:///unused.db")
TABLE = CATALOG.tables["everything"].sql
CELLS: dict[str, tuple[Any, Any]] = {
    "parent_id": (1, 2),
    "whole": (2**62, 2**62 + 1),
    "text": ("a", "A"),
    "flag": (True, False),
    "number": (0.1, 0.1 + 2**-56),
    "money": (Decimal("1.5000"), Decimal("1.5001")),
    "colour": (Colour.RED, Colour.GREEN),
    "moment": (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
    "plain": (datetime(2024, 1, 1), datetime(2024, 1, 1, 0, 0, 0, 1)),
    "day": (date(2024, 1, 1), date(2024, 1, 2)),
    "clock": (time(1, 2, 3), time(1, 2, 3, 1)),
    "identity": (uuid.UUID(int=1), uuid.UUID(int=2)),
    "blob": (b"\x00", b"\x00\x00"),
    "tree": ({"a": [1]}, {"a": ["1"]}),
    "children": (3, 4),
}


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        for metadata in (*CATALOG.metadatas, LEDGER):
            metadata.create_all(connection)
        yield connection
    engine.dispose()


def row(key: int, **cells: Any) -> dict[str, Any]:
    return {"id": key, **{name: pair[0] for name, pair in CELLS.items()}, **cells}


def of(connection: sa.Connection, *rows: dict[str, Any]) -> str:
    """The digest of exactly these rows."""
    connection.execute(sa.delete(TABLE))
    for one in rows:
        connection.execute(sa.insert(TABLE).values(one))
    return digest(connection, CATALOG, ENGINE)


def test_every_column_of_the_table_has_a_cell_here() -> None:
    assert {"id", *CELLS} == {name for name in TABLE.c.keys() if not name.startswith("ingest_")}  # noqa: SIM118


@pytest.mark.parametrize("name", CELLS)
def test_another_value_in_any_one_cell_is_another_digest(connection: sa.Connection, name: str) -> None:
    same, other = of(connection, row(1), row(2)), of(connection, row(1), row(2, **{name: CELLS[name][1]}))
    assert same != other
    assert of(connection, row(1), row(2)) == same


@pytest.mark.parametrize("name", [name for name in CELLS if TABLE.c[name].nullable])
def test_null_in_any_one_cell_is_another_digest(connection: sa.Connection, name: str) -> None:
    assert of(connection, row(1)) != of(connection, row(1, **{name: None}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"text": ""}, {"text": None}),
        ({"text": "null"}, {"text": None}),
        ({"text": "1"}, {"text": "01"}),
        ({"flag": False}, {"flag": None}),
        ({"tree": {"a": 1}}, {"tree": {"a": True}}),
        ({"tree": []}, {"tree": {}}),
        ({"text": "a", "tree": None}, {"text": None, "tree": "a"}),
    ],
)
def test_values_that_look_alike_are_told_apart(
    connection: sa.Connection, one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert of(connection, row(1, **one)) != of(connection, row(1, **other))


def test_a_row_more_or_less_or_under_another_key_is_another_digest(connection: sa.Connection) -> None:
    found = {of(connection), of(connection, row(1)), of(connection, row(2)), of(connection, row(1), row(2))}
    assert len(found) == 4


def test_two_rows_that_swap_a_value_are_another_digest(connection: sa.Connection) -> None:
    straight = of(connection, row(1, text="a"), row(2, text="b"))
    assert of(connection, row(1, text="b"), row(2, text="a")) != straight


def test_the_order_in_which_rows_came_does_not_matter(connection: sa.Connection) -> None:
    rows = [row(key, text=str(key)) for key in range(20)]
    assert of(connection, *rows) == of(connection, *reversed(rows))


def test_the_order_of_keys_and_the_spelling_of_numbers_in_json_do_not_matter(
    connection: sa.Connection,
) -> None:
    one, other = {"a": {"x": 1, "y": 2}, "b": 3}, {"b": 3.0, "a": {"y": 2, "x": 1}}
    assert of(connection, row(1, tree=one)) == of(connection, row(1, tree=other))


def test_ranks_and_other_bookkeeping_do_not_matter(connection: sa.Connection) -> None:
    before = of(connection, row(1))
    connection.execute(
        sa.update(TABLE).values(
            ingest_version=5, ingest_stamp=6, ingest_ordinal=7, ingest_exceptions='{"text":[1,2,3]}'
        )
    )
    connection.execute(sa.insert(TOUCHED).values(table="everything", key="[1]"))
    assert digest(connection, CATALOG, ENGINE) == before


def withheld(**cells: Any) -> sa.Executable:
    values = {
        "table": "everything",
        "key": "[9]",
        "column": "parent_id",
        "value": "5",
        "version": 0,
        "stamp": 1,
        "ordinal": 0,
        "reason": "missing",
    }
    return sa.insert(WITHHELD).values({**values, **cells})


@pytest.mark.parametrize(
    "cells",
    [
        {},
        {"value": "6"},
        {"value": '"5"'},
        {"key": "[10]"},
        {"table": "other"},
        {"column": "whole"},
        {"column": "", "value": '{"values":{"whole":5},"exceptions":null}'},
        {"column": "", "value": '{"values":{"whole":6},"exceptions":null}'},
    ],
    ids=str,
)
def test_every_withheld_value_is_another_digest(connection: sa.Connection, cells: dict[str, Any]) -> None:
    others = [{}, {"value": "6"}, {"column": "", "value": '{"values":{"whole":5},"exceptions":null}'}]
    found = {digest(connection, CATALOG, ENGINE)}
    for one in [cells, *(other for other in others if other != cells)]:
        connection.execute(sa.delete(WITHHELD))
        connection.execute(withheld(**one))
        found.add(digest(connection, CATALOG, ENGINE))
    assert len(found) == 1 + len({str(one) for one in [cells, *others]})


def test_the_rank_and_the_reason_of_a_withheld_value_do_not_matter(connection: sa.Connection) -> None:
    connection.execute(withheld())
    before = digest(connection, CATALOG, ENGINE)
    connection.execute(
        sa.update(WITHHELD).values(version=4, stamp=9, ordinal=2, reason="deleted", target_key="[5]")
    )
    assert digest(connection, CATALOG, ENGINE) == before
    connection.execute(sa.delete(WITHHELD))
    connection.execute(withheld(column="", value='{"values":{"whole":5},"exceptions":null}'))
    before = digest(connection, CATALOG, ENGINE)
    connection.execute(sa.update(WITHHELD).values(value='{"values":{"whole":5},"exceptions":{"whole":null}}'))
    assert digest(connection, CATALOG, ENGINE) == before
