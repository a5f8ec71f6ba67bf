"""The proof finds every fault that is planted by hand, and finds none where there is none."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, ForeignKeyConstraint, Integer, String
from sqlalchemy import Table as SqlTable
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.keys import touch_keys
from ingest.mirror import count, latest, when_missing
from ingest.reconcile.reconciler import Proven, Reconciler
from ingest.source import Source
from tests.harness import Mirrored, mirrored, page


class Base(DeclarativeBase):
    pass


class Room(Base):
    __tablename__ = "rooms"
    server: Mapped[str] = mapped_column(String(9), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    last_id: Mapped[int | None] = mapped_column(
        ForeignKey("messages.id", use_alter=True),
        info=latest(
            lambda: (Message.server, Message.room),
            by=lambda: Message.sent,
            where=lambda: Message.hidden.is_(None),
        ),
    )
    messages: Mapped[int] = mapped_column(info=count(lambda: (Message.server, Message.room)))


class Message(Base):
    __tablename__ = "messages"
    id: Mapped[int] = mapped_column(primary_key=True)
    server: Mapped[str | None]
    room: Mapped[int | None]
    reply_to: Mapped[int | None] = mapped_column(ForeignKey("messages.id", info=when_missing("null")))
    sent: Mapped[int | None]
    hidden: Mapped[int | None]
    __table_args__ = (ForeignKeyConstraint(["room", "server"], ["rooms.number", "rooms.server"]),)


stars = SqlTable("stars", Base.metadata, Column("id", ForeignKey("messages.id"), primary_key=True))

SOURCE = msgspec.convert(
    {
        "streams": {
            "rooms": {"path": "/x", "entity": "Room"},
            "messages": {"path": "/x", "entity": "Message"},
        }
    },
    Source,
)


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Mirrored]:
    async with mirrored(tmp_path, sys.modules[__name__], SOURCE) as made:
        rooms = [{"server": "s", "number": 1}, {"server": "s", "number": 2}]
        said = {"server": "s", "room": 1, "hidden": None}
        messages = [
            {**said, "id": 1, "sent": 1, "reply_to": None},
            {**said, "id": 2, "sent": 2, "reply_to": 1},
            {**said, "id": 3, "sent": 3, "reply_to": None, "hidden": 1},
        ]
        await made.load([page(1, "rooms", rooms), page(2, "messages", messages), page(3, "rooms", b"{")])
        assert (await made.settle()).holds
        yield made


async def tamper(mirror: Mirrored, *statements: str) -> None:
    async with mirror.connection.begin():
        for statement in statements:
            await mirror.connection.execute(sa.text(statement))


async def prove(mirror: Mirrored, *, whole: bool = True) -> Proven:
    async with mirror.connection.begin():
        return await mirror.connection.run_sync(lambda c: mirror.reconciler.prove(c, whole=whole))


def faults(proven: Proven) -> dict[str, int]:
    """What is wrong, by name, and how much of it."""
    found = {"+".join(sorted(one.columns)): one.dangling for one in proven.references if one.dangling}
    return found | {f"{one.table}.{one.column}": one.wrong for one in proven.derived if one.wrong}


async def test_a_sound_mirror_is_proven_and_the_proof_says_what_it_saw(mirror: Mirrored) -> None:
    proven = await prove(mirror)
    assert proven.holds
    assert faults(proven) == {}
    assert {f"{one.table}.{one.column}": (one.kind, one.set) for one in proven.derived} == {
        "rooms.last_id": ("pointer", 1),
        "rooms.messages": ("counter", 1),
    }
    assert {one.target for one in proven.references} == {"rooms", "messages"}


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("UPDATE messages SET reply_to = 99 WHERE id = 2", {"reply_to": 1}),
        ("UPDATE messages SET reply_to = id + 98", {"reply_to": 3}),
        ("INSERT INTO stars (id) VALUES (99)", {"id": 1}),
        ("UPDATE messages SET room = 2, server = 'S' WHERE id = 3", {"room+server": 1, "rooms.messages": 1}),
        ("DELETE FROM rooms WHERE number = 1", {"room+server": 1}),
        ("UPDATE rooms SET last_id = 1 WHERE number = 1", {"rooms.last_id": 1}),
        ("UPDATE rooms SET last_id = 3 WHERE number = 1", {"rooms.last_id": 1}),
        ("UPDATE rooms SET last_id = NULL", {"rooms.last_id": 1}),
        ("UPDATE rooms SET last_id = 2 WHERE number = 2", {"rooms.last_id": 1}),
        ("UPDATE rooms SET messages = 2 WHERE number = 1", {"rooms.messages": 1}),
        ("UPDATE rooms SET messages = 1 WHERE number = 2", {"rooms.messages": 1}),
        ("UPDATE rooms SET messages = messages + 1", {"rooms.messages": 2}),
        ("UPDATE messages SET sent = 0 WHERE id = 2", {"rooms.last_id": 1}),
        ("UPDATE messages SET hidden = NULL WHERE id = 3", {"rooms.last_id": 1}),
        (
            "UPDATE messages SET room = 2 WHERE id = 2",
            {"rooms.last_id": 2, "rooms.messages": 2},
        ),
        ("DELETE FROM messages WHERE id = 2", {"rooms.last_id": 1, "rooms.messages": 1}),
    ],
)
async def test_every_planted_fault_is_found(mirror: Mirrored, fault: str, found: dict[str, int]) -> None:
    await tamper(mirror, fault)
    proven = await prove(mirror)
    assert faults(proven) == found
    assert not proven.holds


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("UPDATE ingest_loads SET written = written - 1", "5 records were read, but 4 written"),
        ("UPDATE ingest_loads SET kept = kept + 1", "1 kept"),
        ("UPDATE ingest_loads SET rejected = rejected + 1", "1 rejected"),
        ("UPDATE ingest_loads SET records = records + 1", "6 records were read"),
        ("UPDATE ingest_loads SET pages = pages + 1", "4 pages were loaded, but 3 are marked"),
        ("DELETE FROM ingest_pages WHERE stamp = 1", "3 pages were loaded, but 2 are marked"),
        ("UPDATE ingest_loads SET quarantined = 0", "0 pages were quarantined, but 1 are marked so"),
        ("UPDATE ingest_pages SET state = 'loaded'", "1 pages were quarantined, but 0 are marked so"),
        ("DELETE FROM ingest_loads", "0 pages were loaded, but 3 are marked"),
    ],
)
async def test_counts_that_do_not_add_up_are_said_in_words(mirror: Mirrored, fault: str, words: str) -> None:
    await tamper(mirror, fault)
    proven = await prove(mirror)
    assert any(words in line for line in proven.accounting), proven.accounting
    assert not proven.holds


async def test_only_what_was_touched_is_looked_at_unless_all_is(mirror: Mirrored) -> None:
    await tamper(mirror, "UPDATE messages SET reply_to = 99 WHERE id = 2", "UPDATE rooms SET messages = 9")
    assert (await prove(mirror, whole=False)).holds
    assert not (await prove(mirror)).holds


@pytest.mark.parametrize(
    ("fault", "touched"),
    [
        ("UPDATE messages SET reply_to = 99 WHERE id = 2", ("messages", "[2]")),
        ("DELETE FROM messages WHERE id = 1", ("messages", "[1]")),
        ("UPDATE rooms SET messages = 9 WHERE number = 2", ("rooms", '["s",2]')),
        ("UPDATE rooms SET last_id = 1 WHERE number = 1", ("rooms", '["s",1]')),
        ("UPDATE messages SET reply_to = 99 WHERE id = 2", ("messages", "*")),
    ],
)
async def test_a_fault_at_a_touched_row_is_found_by_the_proof_of_what_was_touched(
    mirror: Mirrored, fault: str, touched: tuple[str, str]
) -> None:
    await tamper(mirror, fault)
    table, key = touched
    async with mirror.connection.begin():
        await mirror.connection.run_sync(lambda c: touch_keys(c, mirror.engine, table, [key]))
    assert not (await prove(mirror, whole=False)).holds


async def test_proving_changes_nothing(mirror: Mirrored) -> None:
    await tamper(mirror, "UPDATE rooms SET messages = 9")
    before = await mirror.rows("rooms")
    await prove(mirror)
    assert await mirror.rows("rooms") == before


async def test_every_step_reports_what_it_did(mirror: Mirrored) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    reconciler = Reconciler(
        mirror.catalog, mirror.engine, mirror.keys, observe=lambda event, **said: told.append((event, said))
    )

    def run(connection: sa.Connection) -> None:
        reconciler.settle(connection)
        reconciler.prove(connection, whole=True)

    async with mirror.connection.begin():
        await mirror.connection.run_sync(run)
    assert [said["step"] for _, said in told] == ["deletes", "references", "derived", "missing", "verify"]
    assert told[-1] == ("step.finished", {"step": "verify", "holds": True})
