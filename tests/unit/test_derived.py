"""Pointers and counters: which child, how many, and back to nothing."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.mirror import count, latest, when_missing
from ingest.reconcile.derived import Derivation
from ingest.reconcile.scope import Scope
from ingest.source import Source
from tests.harness import Mirrored, mirrored, page


class Base(DeclarativeBase):
    pass


class Room(Base):
    __tablename__ = "rooms"
    id: Mapped[int] = mapped_column(primary_key=True)
    last_id: Mapped[int | None] = mapped_column(
        ForeignKey("messages.id", use_alter=True),
        info=latest(lambda: Message.room_id, by=lambda: Message.sent, where=lambda: Message.hidden.is_(None)),
    )
    messages: Mapped[int] = mapped_column(info=count(lambda: Message.room_id))
    seen: Mapped[int] = mapped_column(
        info=count(lambda: Message.room_id, where=lambda: Message.hidden.is_(None))
    )


class Message(Base):
    """Replies make it a parent of its own kind."""

    __tablename__ = "messages"
    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int | None] = mapped_column(ForeignKey("rooms.id", info=when_missing("null")))
    reply_to: Mapped[int | None] = mapped_column(ForeignKey("messages.id", info=when_missing("null")))
    sent: Mapped[int | None]
    hidden: Mapped[int | None]
    replies: Mapped[int] = mapped_column(info=count(lambda: Message.reply_to))
    last_reply: Mapped[int | None] = mapped_column(
        ForeignKey("messages.id"), info=latest(lambda: Message.reply_to, by=lambda: Message.sent)
    )


SOURCE = msgspec.convert(
    {
        "streams": {
            "rooms": {"path": "/x", "entity": "Room"},
            "messages": {"path": "/x", "entity": "Message"},
            "gone": {"path": "/x", "entity": "Message", "deletes": True},
        }
    },
    Source,
)


class Story:
    """Pages one after the other, each settled; a second run over everything must change nothing."""

    def __init__(self, mirror: Mirrored) -> None:
        self.mirror, self.stamp = mirror, 0

    async def say(self, stream: str, *records: dict[str, Any]) -> None:
        self.stamp += 1
        await self.mirror.load([page(self.stamp, stream, list(records), asked=self.stamp - 1)])
        assert (await self.mirror.settle()).holds
        assert not any((await self.recompute()).values())

    async def recompute(self) -> dict[str, int]:
        mirror = self.mirror
        derivation = Derivation(mirror.catalog, mirror.engine, mirror.keys)
        async with mirror.connection.begin():
            return await mirror.connection.run_sync(
                lambda c: derivation.settle(c, Scope.whole(mirror.catalog))
            )

    async def room(self, key: int = 1) -> tuple[Any, ...]:
        row = (await self.mirror.rows("rooms"))[(key,)]
        return row["last_id"], row["messages"], row["seen"]

    async def message(self, key: int) -> tuple[Any, ...]:
        row = (await self.mirror.rows("messages"))[(key,)]
        return row["last_reply"], row["replies"]


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Story]:
    async with mirrored(tmp_path, sys.modules[__name__], SOURCE) as made:
        yield Story(made)


def message(key: int, room: int | None = 1, sent: int | None = 1, **more: Any) -> dict[str, Any]:
    return {"id": key, "room_id": room, "reply_to": None, "sent": sent, "hidden": None, **more}


async def test_a_parent_without_children_points_nowhere_and_counts_none(story: Story) -> None:
    await story.say("rooms", {"id": 1})
    assert await story.room() == (None, 0, 0)


async def test_children_are_counted_whether_they_come_before_or_after_their_parent(story: Story) -> None:
    await story.say("messages", message(1, sent=5), message(2, sent=4))
    await story.say("rooms", {"id": 1})
    assert await story.room() == (1, 2, 2)
    await story.say("messages", message(3, sent=6))
    assert await story.room() == (3, 3, 3)


async def test_of_equals_the_greatest_key_is_pointed_at(story: Story) -> None:
    await story.say("rooms", {"id": 1})
    await story.say("messages", message(3), message(9), message(5))
    assert (await story.room())[0] == 9


async def test_a_child_that_states_no_order_comes_before_all_others(story: Story) -> None:
    await story.say("rooms", {"id": 1})
    await story.say("messages", message(9, sent=None))
    assert (await story.room())[0] == 9
    await story.say("messages", message(1, sent=-5))
    assert (await story.room())[0] == 1


async def test_a_child_outside_the_condition_is_neither_pointed_at_nor_counted_by_it(story: Story) -> None:
    await story.say("rooms", {"id": 1})
    await story.say("messages", message(1, sent=1), message(2, sent=2, hidden=1))
    assert await story.room() == (1, 2, 1)
    await story.say("messages", message(1, sent=1, hidden=1))
    assert await story.room() == (None, 2, 0)
    await story.say("messages", message(2, sent=2))
    assert await story.room() == (2, 2, 1)


async def test_a_parent_whose_last_child_went_goes_back_to_null_and_nought(story: Story) -> None:
    await story.say("rooms", {"id": 1})
    await story.say("messages", message(1), message(2, sent=2))
    await story.say("gone", {"id": 2})
    assert await story.room() == (1, 1, 1)
    await story.say("gone", {"id": 1})
    assert await story.room() == (None, 0, 0)


async def test_a_child_that_moved_changes_both_its_parents(story: Story) -> None:
    await story.say("rooms", {"id": 1}, {"id": 2})
    await story.say("messages", message(1), message(2, sent=2))
    await story.say("messages", message(2, room=2, sent=2))
    assert (await story.room(1), await story.room(2)) == ((1, 1, 1), (2, 1, 1))
    await story.say("messages", message(2, room=None, sent=2))
    assert await story.room(2) == (None, 0, 0)


async def test_a_child_that_changes_its_place_in_the_order_moves_the_pointer(story: Story) -> None:
    await story.say("rooms", {"id": 1})
    await story.say("messages", message(1, sent=1), message(2, sent=2))
    await story.say("messages", message(1, sent=3))
    assert (await story.room())[0] == 1


async def test_a_table_may_follow_itself(story: Story) -> None:
    await story.say("messages", message(1), message(2, reply_to=1, sent=3), message(3, reply_to=1, sent=2))
    assert await story.message(1) == (2, 2)
    assert await story.message(2) == (None, 0)
    await story.say("messages", message(2, reply_to=3, sent=3))
    assert (await story.message(1), await story.message(3)) == ((3, 1), (2, 1))


async def test_a_row_may_be_its_own_child(story: Story) -> None:
    await story.say("messages", message(1, reply_to=1))
    assert await story.message(1) == (1, 1)


async def test_a_reply_whose_target_is_missing_counts_when_it_comes(story: Story) -> None:
    await story.say("messages", message(2, reply_to=1))
    await story.say("messages", message(1))
    assert await story.message(1) == (2, 1)


async def test_an_upstream_value_for_a_derived_column_is_not_taken(story: Story) -> None:
    await story.say("rooms", {"id": 1, "messages": 99, "last_id": 4})
    assert await story.room() == (None, 0, 0)


@pytest.mark.parametrize(
    ("tampered", "changed"),
    [
        ("UPDATE rooms SET last_id = NULL", "rooms.last_id"),
        ("UPDATE rooms SET last_id = 1", "rooms.last_id"),
        ("UPDATE rooms SET messages = 7", "rooms.messages"),
        ("UPDATE messages SET last_reply = 2 WHERE id = 2", "messages.last_reply"),
    ],
)
async def test_a_wrong_value_is_put_right_by_one_change(story: Story, tampered: str, changed: str) -> None:
    await story.say("rooms", {"id": 1})
    await story.say("messages", message(1), message(2, sent=2, reply_to=1))
    async with story.mirror.connection.begin():
        await story.mirror.connection.execute(sa.text(tampered))
    counts = await story.recompute()
    assert {name: count for name, count in counts.items() if count} == {changed: 1}
