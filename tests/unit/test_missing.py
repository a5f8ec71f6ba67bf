"""Missing parents: which are wanted, which nobody can ask for, and when they are forgotten."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.ledger import MISSING
from ingest.mirror import when_missing
from ingest.reconcile.reconciler import Reconciler
from ingest.source import Source
from ingest.types import Walk
from tests.crash.child import on_statement
from tests.harness import Mirrored, mirrored, page


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]


class Room(Base):
    __tablename__ = "rooms"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", info=when_missing("fetch", "park")))


class Talk(Base):
    __tablename__ = "talks"
    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int | None] = mapped_column(ForeignKey("rooms.id", info=when_missing("fetch", "park")))
    author_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", info=when_missing("fetch", "null")))
    seen_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", info=when_missing("null")))
    stub_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", info=when_missing("fetch", "stub")))


SOURCE = msgspec.convert(
    {
        "streams": {
            "users": {"path": "/x", "entity": "User", "by_id": {"path": "/u/{id}", "records": "$"}},
            "rooms": {"path": "/x", "entity": "Room"},
            "talks": {"path": "/x", "entity": "Talk"},
        }
    },
    Source,
)


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Mirrored]:
    async with mirrored(tmp_path, sys.modules[__name__], SOURCE) as made:
        yield made


async def say(
    mirror: Mirrored, stamp: int, stream: str, *records: Any, fetchable: frozenset[str] | None = None
) -> int:
    """Load a page and settle; how many missing parents arrived."""
    await mirror.load([page(stamp, stream, list(records))])
    return await settle(mirror, fetchable)


async def settle(mirror: Mirrored, fetchable: frozenset[str] | None = None) -> int:
    reconciler = Reconciler(mirror.catalog, mirror.engine, mirror.keys, fetchable=fetchable)
    async with mirror.connection.begin():
        return await mirror.connection.run_sync(reconciler.settle)


async def missing(mirror: Mirrored) -> dict[tuple[str, str], str]:
    return {(one["table"], one["key"]): one["state"] for one in await mirror.ledger(MISSING)}


@pytest.mark.parametrize(
    ("talk", "expected"),
    [
        ({"author_id": 7}, {("users", "[7]"): "wanted"}),
        ({"stub_id": 7}, {("users", "[7]"): "wanted"}),
        ({"room_id": 4}, {("rooms", "[4]"): "wanted"}),
        ({"seen_by": 7}, {("users", "[7]"): "external"}),
        ({"seen_by": 7, "author_id": 7}, {("users", "[7]"): "wanted"}),
        ({"room_id": 4, "author_id": 7}, {("rooms", "[4]"): "wanted", ("users", "[7]"): "wanted"}),
        ({}, {}),
    ],
    ids=str,
)
async def test_a_parent_is_wanted_where_any_reference_to_it_asks(
    mirror: Mirrored, talk: dict[str, int], expected: dict[tuple[str, str], str]
) -> None:
    assert await say(mirror, 1, "talks", {"id": 1, **talk}) == 0
    assert await missing(mirror) == expected


async def test_a_parent_that_no_stream_brings_by_id_is_external(mirror: Mirrored) -> None:
    await say(
        mirror, 1, "talks", {"id": 1, "room_id": 4}, {"id": 2, "author_id": 7}, fetchable=frozenset({"users"})
    )
    assert await missing(mirror) == {("rooms", "[4]"): "external", ("users", "[7]"): "wanted"}


async def test_an_incomplete_row_is_wanted_itself(mirror: Mirrored) -> None:
    await say(mirror, 1, "rooms", {"id": 4})
    assert await missing(mirror) == {("rooms", "[4]"): "wanted"}
    assert await say(mirror, 2, "rooms", {"id": 4, "title": "t"}) == 1
    assert await missing(mirror) == {}


async def test_a_parent_that_came_is_forgotten_and_counted(mirror: Mirrored) -> None:
    await say(mirror, 1, "talks", {"id": 1, "author_id": 7}, {"id": 2, "stub_id": 8}, {"id": 3, "room_id": 4})
    assert await say(mirror, 2, "users", {"id": 7}, {"id": 8}) == 2
    assert await say(mirror, 3, "rooms", {"id": 4, "title": "t"}) == 1
    assert await missing(mirror) == {}


async def test_a_parent_that_nobody_misses_any_more_is_forgotten_and_not_counted(mirror: Mirrored) -> None:
    await say(mirror, 1, "talks", {"id": 1, "author_id": 7}, {"id": 2, "stub_id": 8})
    assert await say(mirror, 2, "talks", {"id": 1, "author_id": None}, {"id": 2, "stub_id": None}) == 0
    assert await missing(mirror) == {}


async def test_a_parent_that_is_kept_aside_itself_is_not_wanted_but_its_own_parent_is(
    mirror: Mirrored,
) -> None:
    await say(mirror, 1, "rooms", {"id": 4, "title": "t", "owner_id": 7})
    await say(mirror, 2, "talks", {"id": 1, "room_id": 4})
    assert await missing(mirror) == {("users", "[7]"): "wanted"}
    assert await say(mirror, 3, "users", {"id": 7}) == 1
    assert list(await mirror.rows("talks")) == [(1,)]


async def test_settling_again_changes_nothing(mirror: Mirrored) -> None:
    await say(mirror, 1, "talks", {"id": 1, "author_id": 7}, {"id": 2, "seen_by": 8}, {"id": 3, "stub_id": 9})
    before = await mirror.ledger(MISSING)
    assert await settle(mirror) == 0
    assert await mirror.ledger(MISSING) == before


async def test_an_answer_that_it_is_gone_is_kept_while_it_is_missed(mirror: Mirrored) -> None:
    await say(mirror, 1, "talks", {"id": 1, "author_id": 7})
    answer = page(2, "users", b"", walk=Walk(id="w", kind="by_id"), status=404, partition='{"by_id":["7"]}')
    await mirror.load([answer])
    await settle(mirror)
    assert await missing(mirror) == {("users", "[7]"): "gone"}
    await say(mirror, 3, "talks", {"id": 1, "author_id": None})
    assert await missing(mirror) == {}


async def test_many_that_are_missing_and_come_take_as_many_statements_as_one(mirror: Mirrored) -> None:
    told: Counter[str] = Counter()
    count = on_statement(lambda: told.update(["statements"]), "ingest_missing")
    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    try:
        many = range(10, 310)
        await say(mirror, 1, "talks", *({"id": key, "author_id": key, "stub_id": key + 1000} for key in many))
        assert len(await missing(mirror)) == 2 * len(many)
        users = [{"id": key} for key in (*many, *(key + 1000 for key in many))]
        assert await say(mirror, 2, "users", *users) == len(users)
        assert await missing(mirror) == {}
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", count)
    # of two runs, and what this test asks
    assert told.total() < 20
