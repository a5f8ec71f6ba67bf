"""From missing parents to requests: what is asked, of which stream, and how its key is spelled."""

from __future__ import annotations

import enum
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.heal import Ask, Healer, spell
from ingest.ledger import MISSING
from ingest.mirror import UtcDateTime, when_missing
from ingest.source import Source
from tests.harness import Mirrored, mirrored, page


class Base(DeclarativeBase):
    pass


class Kind(enum.Enum):
    OLD = "the-old-kind"


class User(Base):
    __tablename__ = "users"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    name: Mapped[str | None]


class Event(Base):
    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    room: Mapped[str | None]
    kind: Mapped[Kind | None]
    at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    reply_to: Mapped[int | None] = mapped_column(ForeignKey("events.id", info=when_missing("fetch", "null")))
    thread: Mapped[int | None] = mapped_column(ForeignKey("events.id", info=when_missing("fetch", "park")))
    user_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id"))


ONE = uuid.UUID(int=1)
SOURCE = msgspec.convert(
    {
        "streams": {
            "events": {"path": "/e", "entity": "Event"},
            "single_events": {
                "entity": "Event",
                "by_id": {
                    "path": "/rooms/{referrer.room}/events/{id}",
                    "set": {"room": "$partition.referrer.room"},
                },
            },
            "users": {"path": "/u", "entity": {"by": "type", "u": "User"}, "by_id": {"path": "/u/{id}"}},
            "other_users": {"path": "/v", "entity": "User", "by_id": {"path": "/v/{id}"}},
        }
    },
    Source,
)


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Mirrored]:
    async with mirrored(tmp_path, sys.modules[__name__], SOURCE) as made:
        yield made


async def asks(mirror: Mirrored, *, limit: int = 100, asked: set[tuple[str, str]] | None = None) -> list[Ask]:
    healer = Healer({"test": SOURCE}, mirror.catalog, mirror.engine)
    async with mirror.connection.begin():
        return await mirror.connection.run_sync(
            lambda c: healer.asks(c, asked or set(), now="2026", limit=limit)
        )


async def say(mirror: Mirrored, *records: dict[str, Any]) -> None:
    await mirror.load([page(1, "events", list(records))])
    assert (await mirror.settle()).holds


async def test_a_missing_parent_is_asked_of_the_first_stream_that_brings_it_by_id(mirror: Mirrored) -> None:
    await say(mirror, {"id": 1, "user_id": str(ONE)})
    where = ("users", f'["{ONE.hex}"]')
    assert await asks(mirror) == [Ask("test", "users", (str(ONE),), {}, where)]


async def test_a_request_takes_what_it_needs_from_a_row_that_refers(mirror: Mirrored) -> None:
    await say(mirror, {"id": 1, "room": "!lobby", "reply_to": 9})
    assert await asks(mirror) == [Ask("test", "single_events", ("9",), {"room": "!lobby"}, ("events", "[9]"))]


async def test_a_row_that_does_not_say_what_is_needed_is_passed_over_for_one_that_does(
    mirror: Mirrored,
) -> None:
    await say(mirror, {"id": 1, "reply_to": 9}, {"id": 2, "room": "!lobby", "reply_to": 9})
    assert [one.referrer for one in await asks(mirror)] == [{"room": "!lobby"}]


async def test_where_no_row_says_what_is_needed_the_request_is_told_nothing(mirror: Mirrored) -> None:
    await say(mirror, {"id": 1, "reply_to": 9})
    assert [one.referrer for one in await asks(mirror)] == [{}]


async def test_a_row_that_is_kept_aside_says_what_its_parents_request_needs(mirror: Mirrored) -> None:
    await say(mirror, {"id": 1, "room": "!lobby", "thread": 9})
    assert [one.referrer for one in await asks(mirror)] == [{"room": "!lobby"}]


async def test_nothing_is_asked_for_twice_and_no_more_than_allowed(mirror: Mirrored) -> None:
    await say(mirror, *({"id": key, "room": "r", "reply_to": 10 + key} for key in range(4)))
    first = await asks(mirror, limit=3)
    assert [one.key for one in first] == [("10",), ("11",), ("12",)]
    rest = await asks(mirror, limit=3, asked={one.where for one in first})
    assert [one.key for one in rest] == [("13",)]


@pytest.mark.parametrize("state", ["gone", "forbidden", "external"])
async def test_only_what_is_wanted_is_asked_for(mirror: Mirrored, state: str) -> None:
    await say(mirror, {"id": 1, "room": "r", "reply_to": 9})
    async with mirror.connection.begin():
        await mirror.connection.execute(sa.update(MISSING).values(state=state))
    assert await asks(mirror) == []


async def test_the_tables_that_can_be_asked_for_are_known(mirror: Mirrored) -> None:
    healer = Healer({"test": SOURCE}, mirror.catalog, mirror.engine)
    assert healer.tables == {"events", "users"}
    assert Healer({}, mirror.catalog, mirror.engine).tables == frozenset()


def test_stored_values_are_spelled_as_an_api_spells_them() -> None:
    from ingest.catalog import read_catalog

    catalog = read_catalog([sys.modules[__name__]])
    moment = "2024-01-02 03:04:05.000000"
    spelled = spell(catalog.tables["events"], ("id", "kind", "at", "room"), (5, "OLD", moment, "a/b"))
    assert spelled == ("5", "the-old-kind", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC).isoformat(), "a/b")
    assert spell(catalog.tables["users"], ("id",), (ONE.hex,)) == (str(ONE),)
