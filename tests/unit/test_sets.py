"""Complete lists: what they add, what they remove, and that it does not matter in which order they come."""

from __future__ import annotations

import itertools
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Column, ForeignKey, String, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from ingest.ledger import SETS, TOUCHED
from ingest.mirror import complete, count, when_missing
from ingest.source import Source
from tests.harness import Mirrored, mirrored, page


class Base(DeclarativeBase):
    pass


links = Table(
    "links",
    Base.metadata,
    Column("room_id", ForeignKey("rooms.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", ForeignKey("users.id", info=when_missing("stub")), primary_key=True),
)


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]


class Room(Base):
    __tablename__ = "rooms"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    size: Mapped[int] = mapped_column(default=0, info=count(lambda: Line.room_id))
    people: Mapped[list[User]] = relationship(secondary=links, info=complete())
    lines: Mapped[list[Line]] = relationship(info=complete())
    parts: Mapped[list[Part]] = relationship()


class Line(Base):
    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int] = mapped_column(
        ForeignKey("rooms.id", ondelete="CASCADE", info=when_missing("park"))
    )
    text: Mapped[str | None] = mapped_column(String(5))


class Part(Base):
    __tablename__ = "parts"
    room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id", ondelete="CASCADE"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str | None]


SOURCE = msgspec.convert(
    {
        "streams": {
            "rooms": {"path": "/rooms", "entity": "Room"},
            "lines": {"path": "/lines", "entity": "Line"},
        }
    },
    Source,
)


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Mirrored]:
    async with mirrored(tmp_path, sys.modules[__name__], SOURCE) as made:
        yield made


async def load(mirror: Mirrored, stamp: int, *records: dict[str, Any], in_order: bool = True) -> None:
    counts = await mirror.load([page(stamp, "rooms", list(records))], in_order=in_order)
    assert counts.records == counts.written + counts.kept + counts.rejected


async def settled(mirror: Mirrored) -> None:
    assert (await mirror.settle()).holds


async def test_a_newer_list_removes_what_it_omits(mirror: Mirrored) -> None:
    await load(mirror, 1, {"id": 1, "people": [7, 8]}, {"id": 2, "people": [7]})
    await load(mirror, 2, {"id": 1, "people": [8, 9]})
    await settled(mirror)
    assert sorted(await mirror.rows("links")) == [(1, 8), (1, 9), (2, 7)]
    assert sorted(await mirror.rows("users")) == [(7,), (8,), (9,)]


async def test_an_empty_list_removes_all_and_an_absent_one_nothing(mirror: Mirrored) -> None:
    await load(mirror, 1, {"id": 1, "people": [7, 8]})
    await load(mirror, 2, {"id": 1, "title": "t"})
    assert len(await mirror.rows("links")) == 2
    await load(mirror, 3, {"id": 1, "people": []})
    assert await mirror.rows("links") == {}


async def test_an_equal_list_writes_nothing(mirror: Mirrored) -> None:
    await load(mirror, 1, {"id": 1, "title": "t", "people": [7, 8]})
    await settled(mirror)
    before = await mirror.ledger(SETS)
    counts = await mirror.load([page(2, "rooms", [{"id": 1, "title": "t", "people": [8, 7]}])])
    assert (counts.written, counts.kept) == (0, 3)
    assert await mirror.ledger(SETS) == before
    assert await mirror.ledger(TOUCHED) == []


LISTS = [[7, 8], [8, 9, 7], [9]]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
async def test_lists_in_any_order_leave_the_newest(mirror: Mirrored, order: tuple[int, ...]) -> None:
    for index in order:
        record = {"id": 1, "people": LISTS[index], "lines": [{"id": 10 * key} for key in LISTS[index]]}
        await load(mirror, index + 1, record, in_order=False)
    await settled(mirror)
    assert sorted(await mirror.rows("links")) == [(1, 9)]
    assert sorted(await mirror.rows("lines")) == [(90,)]
    assert (await mirror.rows("rooms"))[(1,)]["size"] == 1


async def test_two_lists_in_one_batch_count_and_leave_the_newer(mirror: Mirrored) -> None:
    await load(mirror, 1, {"id": 1, "people": [7, 8]}, {"id": 1, "people": [9]})
    assert sorted(await mirror.rows("links")) == [(1, 9)]


async def test_children_keyed_by_index_shrink_and_grow_with_their_list(mirror: Mirrored) -> None:
    async def bodies() -> list[str]:
        return [row["body"] for _, row in sorted((await mirror.rows("parts")).items())]

    for stamp, said in enumerate((["a", "b", "c"], ["x"], ["x", "y"]), 1):
        await load(mirror, stamp, {"id": 1, "parts": [{"body": body} for body in said]})
        assert await bodies() == said


async def test_a_child_that_is_omitted_and_named_again_comes_back(mirror: Mirrored) -> None:
    for stamp, keys in enumerate(([10, 11], [10], [10, 11]), 1):
        await load(mirror, stamp, {"id": 1, "lines": [{"id": key, "text": "t"} for key in keys]})
    assert sorted(await mirror.rows("lines")) == [(10,), (11,)]
    await settled(mirror)
    assert (await mirror.rows("rooms"))[(1,)]["size"] == 2


async def test_a_child_that_moved_is_not_removed_by_its_old_owners_next_list(mirror: Mirrored) -> None:
    await load(mirror, 1, {"id": 1, "lines": [{"id": 10}, {"id": 11}]})
    await load(mirror, 2, {"id": 2, "lines": [{"id": 11}]})
    await load(mirror, 3, {"id": 1, "lines": [{"id": 10}]})
    await settled(mirror)
    assert {key: row["room_id"] for (key,), row in (await mirror.rows("lines")).items()} == {10: 1, 11: 2}
    assert {key: row["size"] for (key,), row in (await mirror.rows("rooms")).items()} == {1: 1, 2: 1}


async def test_a_row_that_is_stated_after_the_list_outlives_it_whichever_comes_first(
    mirror: Mirrored,
) -> None:
    await mirror.load([page(5, "lines", [{"id": 10, "room_id": 1, "text": None}])], in_order=False)
    await load(mirror, 3, {"id": 1, "lines": [{"id": 11}]}, in_order=False)
    counts = await mirror.load([page(2, "lines", [{"id": 12, "room_id": 1, "text": None}])], in_order=False)
    assert (counts.written, counts.kept) == (0, 1)
    await settled(mirror)
    assert sorted(await mirror.rows("lines")) == [(10,), (11,)]


async def test_a_removed_member_touches_the_parents_that_watched_it(mirror: Mirrored) -> None:
    await load(mirror, 1, {"id": 1, "people": [7], "lines": [{"id": 10}]})
    await settled(mirror)
    await load(mirror, 2, {"id": 1, "people": [], "lines": []})
    marks = {(row["table"], row["key"]) for row in await mirror.ledger(TOUCHED)}
    assert marks >= {("links", "[1,7]"), ("users", "[7]"), ("lines", "[10]"), ("rooms", "[1]")}
    await settled(mirror)
    assert await mirror.rows("users") == {}  # a stub that nobody refers to


async def test_a_member_that_is_kept_aside_is_removed_like_any_other(mirror: Mirrored) -> None:
    await load(mirror, 1, {"id": 1, "lines": [{"id": 10}]})
    async with mirror.connection.begin():
        await mirror.connection.exec_driver_sql("DELETE FROM rooms")
    await settled(mirror)
    assert list(await mirror.withheld()) == [("lines", (10,), "")]
    await load(mirror, 2, {"id": 1, "lines": []})
    assert await mirror.withheld() == {}


async def test_more_owners_than_one_statement_names_are_all_settled(mirror: Mirrored) -> None:
    await load(mirror, 1, *({"id": key, "people": [7, 8]} for key in range(900)))
    await load(mirror, 2, *({"id": key, "people": [8]} for key in range(900)))
    assert sorted(await mirror.rows("links")) == [(key, 8) for key in range(900)]


async def test_a_member_that_became_a_dead_letter_was_not_omitted(mirror: Mirrored) -> None:
    await load(mirror, 1, {"id": 1, "lines": [{"id": 10, "text": "a"}, {"id": 11, "text": "b"}]})
    await load(mirror, 2, {"id": 1, "lines": [{"id": 10, "text": "a"}, {"id": 11, "text": "too long"}]})
    assert sorted(await mirror.rows("lines")) == [(10,), (11,)]
