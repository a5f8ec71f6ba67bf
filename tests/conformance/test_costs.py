"""What a step reads grows with what changed, and not with what is stored."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.keys import touch_keys
from ingest.mirror import count, when_missing
from ingest.source import Source
from tests.databases import TestDatabase
from tests.harness import Mirrored, mirrored, page

#: rows that nobody is to read, and rows of them that each room has
STORED, SHARE = 4000, 10


class Base(DeclarativeBase):
    pass


class Room(Base):
    __tablename__ = "rooms"
    id: Mapped[int] = mapped_column(primary_key=True)
    messages: Mapped[int] = mapped_column(server_default="0", info=count(lambda: Message.room_id))


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)


class Message(Base):
    __tablename__ = "messages"
    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id", info=when_missing("park")), index=True)
    reply_to: Mapped[int | None] = mapped_column(
        ForeignKey("messages.id", info=when_missing("null")), index=True
    )
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", info=when_missing("stub")), index=True)


SOURCE = msgspec.convert(
    {
        "streams": {
            "rooms": {"path": "/x", "entity": "Room"},
            "users": {"path": "/x", "entity": "User"},
            "messages": {"path": "/x", "entity": "Message"},
        }
    },
    Source,
)
#: rows that this transaction, or this session, has read so far
READ = {
    "postgresql": (
        "SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0) FROM pg_stat_xact_user_tables"
        " WHERE relname IN ('messages', 'rooms', 'users', 'ingest_withheld')"
    ),
    "mariadb": (
        "SELECT sum(variable_value) FROM information_schema.session_status WHERE variable_name IN"
        " ('handler_read_next', 'handler_read_rnd_next', 'handler_read_key', 'handler_read_first')"
    ),
}
#: rows that are read for a few that were touched. PostgreSQL goes through all of the 400 users for stubs,
#: twice: they are fewer than it takes a table of keys for whose size it does not know
SETTLED = {"postgresql": STORED / 4, "mariadb": STORED / 12, "mysql": STORED / 12}
#: with as few rows as a test's, a server would rather read all of them than look one up
SETTINGS = {
    "postgresql": "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off",
    "mariadb": "ANALYZE TABLE messages, rooms, users, ingest_withheld",
}


@pytest.fixture(params=READ)
async def mirror(request: pytest.FixtureRequest) -> AsyncIterator[Mirrored]:
    """Rooms and their messages."""
    made: TestDatabase = request.getfixturevalue(request.param)
    async with mirrored(made.url, sys.modules[__name__], SOURCE) as mirror:
        rooms = [{"id": number} for number in range(STORED // SHARE)]
        messages = [
            {"id": number, "room_id": number // SHARE, "reply_to": number // 2, "user_id": number // SHARE}
            for number in range(STORED)
        ]
        users = [{"id": number} for number in range(STORED // SHARE) if number != 3]
        await mirror.load_and_settle(
            [page(1, "rooms", rooms), page(2, "users", users), page(3, "messages", messages)]
        )
        async with mirror.connection.begin():
            for setting in SETTINGS[request.param].split("; "):
                await mirror.connection.exec_driver_sql(setting)
        yield mirror


async def read_by(mirror: Mirrored, work: Callable[[sa.Connection], Any]) -> int:
    """How many rows were read for it."""
    asked = sa.text(READ[{"mysql": "mariadb"}.get(name := mirror.engine.dialect.name, name)])
    async with mirror.connection.begin():
        before = await mirror.connection.scalar(asked)
        await mirror.connection.run_sync(work)
        return int(await mirror.connection.scalar(asked) - before)


async def test_a_step_reads_what_was_touched(mirror: Mirrored) -> None:
    def touch(connection: sa.Connection) -> None:
        touch_keys(connection, mirror.engine, "messages", ["[7]", "[8]"])
        touch_keys(connection, mirror.engine, "rooms", ["[3]"])
        # a stub
        touch_keys(connection, mirror.engine, "users", ["[3]"])

    async with mirror.connection.begin():
        await mirror.connection.run_sync(touch)
    assert await read_by(mirror, mirror.reconciler.settle) < SETTLED[mirror.engine.dialect.name]
    assert await read_by(mirror, lambda c: mirror.reconciler.prove(c, whole=False)) < STORED / 10


async def test_a_load_reads_what_it_changes(mirror: Mirrored) -> None:
    changes = page(4, "messages", [{"id": 7, "room_id": 3, "reply_to": None}])
    assert await read_by(mirror, lambda c: mirror._load(c, [changes], True)) < STORED / 10


async def test_what_waits_is_looked_up_by_what_it_waits_for(mirror: Mirrored) -> None:
    waiting = [{"id": STORED + number, "room_id": STORED + number} for number in range(STORED)]
    await mirror.load_and_settle([page(4, "messages", waiting)])
    await mirror.load([page(5, "rooms", [{"id": STORED + 7}])])
    # what is wanted upstream is listed anew, whatever changed: each entry is read some times for that,
    # and once for which of them are deleted
    assert await read_by(mirror, mirror.reconciler.settle) < 10 * STORED
    assert set(await mirror.rows("messages")) - {(n,) for n in range(STORED)} == {(STORED + 7,)}
