"""What a reader gets of a mirrored room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from schema.matrix.models import Base, Event, Membership, MembershipState, Room, User
from schema.matrix.queries import Text, poll_votes, reactions, room_state, rooms_of, texts, thread, timeline

ANA, BEN, EVE = "@ana:lab", "@ben:lab", "@eve:lab"
MOMENT = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[AsyncSession]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/mirror.db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        session.add_all(
            [User(id=ANA), User(id=BEN), User(id=EVE), Room(id="!r"), Room(id="!quiet"), Room(id="!left")]
        )
        yield session
    await engine.dispose()


def said(id: str, position: int | None, sender: str = ANA, **stated: Any) -> Event:
    """An event of the room; a text message unless it says otherwise."""
    plain = {"room_id": "!r", "type": "m.room.message", "msgtype": "m.text", "sent_at": MOMENT}
    return Event(id=id, position=position, sender_id=sender, **(plain | stated))


def edit(id: str, position: int, of: str, body: str, sender: str = ANA, **stated: Any) -> Event:
    return said(id, position, sender, relates_to_id=of, rel_type="m.replace", new_body=body, **stated)


def reaction(id: str, position: int, to: str, key: str, sender: str = ANA, **stated: Any) -> Event:
    return said(
        id,
        position,
        sender,
        type="m.reaction",
        relates_to_id=to,
        rel_type="m.annotation",
        reaction_key=key,
        **stated,
    )


async def test_a_timeline_is_read_backwards_page_by_page_in_the_servers_order(session: AsyncSession) -> None:
    early = MOMENT - timedelta(days=100)
    session.add_all([said("$1", 1), said("$3", 3, sent_at=early), said("$2", 2), said("$by-id", None)])
    session.add(said("$elsewhere", 9, room_id="!quiet"))
    await session.flush()

    newest = await timeline(session, "!r", limit=2)
    oldest = await timeline(session, "!r", before=newest.next, limit=2)

    assert [event.id for event in newest.events] == ["$3", "$2"]
    assert [event.id for event in oldest.events] == ["$1"]
    assert oldest.next is None


async def test_a_last_page_that_is_full_has_no_next(session: AsyncSession) -> None:
    session.add_all([said("$1", 1), said("$2", 2)])
    await session.flush()

    assert (await timeline(session, "!r", limit=2)).next is None


async def test_a_message_says_what_its_newest_edit_by_its_own_sender_says(session: AsyncSession) -> None:
    session.add_all(
        [said("$a", 1, body="first"), said("$b", 2, body="as it was"), said("$c", 3, msgtype=None)]
    )
    session.add_all([edit("$a2", 5, "$a", "third"), edit("$a1", 4, "$a", "second")])
    session.add_all(
        [edit("$forged", 6, "$a", "forged", sender=EVE), edit("$late", 7, "$c", "after the redaction")]
    )
    await session.flush()
    session.add_all(
        [said("$r", 8, type="m.room.redaction"), edit("$back", 9, "$a", "taken back", redacted_by_id="$r")]
    )
    (await session.get_one(Event, "$c")).redacted_by_id = "$r"
    await session.flush()

    assert await texts(session, ["$a", "$b", "$c"]) == {
        "$a": Text("third", None, "$a2"),
        "$b": Text("as it was", None, None),
        "$c": Text(None, None, None),
    }


async def test_a_thread_is_its_live_messages_oldest_first(session: AsyncSession) -> None:
    session.add(said("$root", 1))
    for place, id in enumerate(["$second", "$first", "$gone"]):
        session.add(said(id, 9 - place, relates_to_id="$root", rel_type="m.thread"))
    session.add(reaction("$k", 10, "$root", "👍"))
    await session.flush()
    (await session.get_one(Event, "$gone")).redacted_by_id = "$k"
    await session.flush()

    assert [event.id for event in await thread(session, "$root")] == ["$first", "$second"]


async def test_reactions_are_counted_by_key_without_those_taken_back(session: AsyncSession) -> None:
    session.add_all([said("$a", 1), said("$b", 2), said("$r", 3)])
    session.add_all(
        [reaction("$1", 4, "$a", "👍"), reaction("$2", 5, "$a", "👍", BEN), reaction("$3", 6, "$a", "🚀")]
    )
    session.add(reaction("$4", 7, "$b", "👍", redacted_by_id="$r"))
    await session.flush()

    assert await reactions(session, ["$a", "$b"]) == {"$a": {"👍": 2, "🚀": 1}}


def poll(id: str, position: int) -> Event:
    answers = [{"m.id": "yes", "m.text": []}, {"m.id": "no", "m.text": []}]
    return said(
        id, position, type="m.poll.start", content={"m.poll": {"answers": answers, "max_selections": 1}}
    )


def vote(id: str, position: int, sender: str, *selections: str, type: str = "m.poll.response") -> Event:
    content = {"m.selections": list(selections)}
    return said(
        id, position, sender, type=type, relates_to_id="$poll", rel_type="m.reference", content=content
    )


async def test_in_a_poll_everybodys_last_vote_before_it_was_closed_counts(session: AsyncSession) -> None:
    session.add(poll("$poll", 1))
    session.add_all([vote("$1", 2, ANA, "yes"), vote("$2", 4, ANA, "no"), vote("$3", 3, BEN, "yes", "no")])
    session.add(vote("$not-hers", 5, EVE, type="m.poll.end"))
    session.add(vote("$4", 6, EVE, "maybe"))
    session.add_all([vote("$closed", 7, ANA, type="m.poll.end"), vote("$late", 8, EVE, "yes")])
    await session.flush()

    assert await poll_votes(session, "$poll") == {"yes": 1, "no": 1}
    assert await poll_votes(session, "$nowhere") == {}


async def test_the_state_of_a_room_is_what_its_newest_event_of_the_type_says(session: AsyncSession) -> None:
    for position, topic in ((1, "old"), (3, "new"), (2, "between")):
        content = {"topic": topic}
        session.add(said(f"${topic}", position, type="m.room.topic", state_key="", content=content))
    session.add(said("$no-state", 4, type="m.room.topic", content={"topic": "forged"}))
    await session.flush()

    assert await room_state(session, "!r", "m.room.topic") == {"topic": "new"}
    assert await room_state(session, "!r", "m.room.name") is None


async def test_the_rooms_of_a_user_come_with_their_last_message_latest_first(session: AsyncSession) -> None:
    session.add(said("$last", 1))
    for room, state in (("!quiet", "join"), ("!r", "join"), ("!left", "leave")):
        membership = MembershipState(state)
        session.add(
            Membership(room_id=room, user_id=BEN, sender_id=BEN, membership=membership, sent_at=MOMENT)
        )
    await session.flush()
    (await session.get_one(Room, "!r")).last_live_message_id = "$last"
    await session.flush()

    found = await rooms_of(session, BEN)

    assert [(room.id, event and event.id) for room, event in found] == [("!r", "$last"), ("!quiet", None)]


async def test_relations_load_when_they_are_awaited(session: AsyncSession) -> None:
    session.add_all([said("$a", 1), said("$b", 2, BEN, reply_to_id="$a")])
    await session.commit()

    answer = await session.get_one(Event, "$b")

    assert (await answer.awaitable_attrs.reply_to).id == "$a"
    assert (await answer.awaitable_attrs.sender).id == BEN
