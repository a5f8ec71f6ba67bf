"""What a reader of the mirror asks: timelines, what a message says now, threads, reactions, polls, state.

Order is always the server's (`position`); a position is comparable within its room only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from schema.matrix.models import (
    REACTION,
    REFERENCE,
    REPLACE,
    THREAD,
    Event,
    Membership,
    MembershipState,
    Room,
)

POLL_RESPONSE = "m.poll.response"
POLL_END = "m.poll.end"


class TimelinePage(NamedTuple):
    """Some events of one room, newest first, and where the next page begins."""

    events: Sequence[Event]
    #: pass it as `before`; None when these are the oldest
    next: int | None


class Text(NamedTuple):
    """What a message says now."""

    body: str | None
    formatted_body: str | None
    #: the edit it comes from; None for a message as it was sent
    edit_id: str | None


async def timeline(
    session: AsyncSession, room_id: str, *, before: int | None = None, limit: int = 50
) -> TimelinePage:
    """A page of a room's events; one that was only ever asked for by id has no place in it."""
    query = select(Event).where(Event.room_id == room_id, Event.position.is_not(None))
    if before is not None:
        query = query.where(Event.position < before)
    found = (await session.scalars(query.order_by(Event.position.desc()).limit(limit + 1))).all()
    events = found[:limit]
    return TimelinePage(events, events[-1].position if len(found) > limit else None)


async def texts(session: AsyncSession, event_ids: Iterable[str]) -> dict[str, Text]:
    """What these messages say now: their newest edit by their own sender, or what was sent.

    Anybody can send an edit of anybody's message, and only the sender's counts.
    """
    original, edit = aliased(Event), aliased(Event)
    newest = (
        select(edit.id)
        .where(
            edit.relates_to_id == original.id,
            edit.rel_type == REPLACE,
            edit.sender_id == original.sender_id,
            edit.redacted_by_id.is_(None),
        )
        .order_by(edit.position.desc(), edit.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    shown = aliased(Event)
    query = (
        select(original, shown).outerjoin(shown, shown.id == newest).where(original.id.in_(list(event_ids)))
    )
    return {message.id: _text(message, last) for message, last in await session.execute(query)}


def _text(message: Event, edit: Event | None) -> Text:
    if edit is None or message.redacted_by_id is not None:
        return Text(message.body, message.formatted_body, None)
    return Text(edit.new_body, edit.new_formatted_body, edit.id)


async def thread(session: AsyncSession, root_id: str) -> Sequence[Event]:
    """The messages of the thread that begins with an event, oldest first, without the event itself."""
    query = select(Event).where(
        Event.relates_to_id == root_id, Event.rel_type == THREAD, Event.redacted_by_id.is_(None)
    )
    return (await session.scalars(query.order_by(Event.position, Event.id))).all()


async def reactions(session: AsyncSession, event_ids: Iterable[str]) -> dict[str, dict[str, int]]:
    """How often each key was given to these events: event → key → count."""
    query = (
        select(Event.relates_to_id, Event.reaction_key, func.count())
        .where(
            Event.relates_to_id.in_(list(event_ids)),
            Event.type == REACTION,
            Event.redacted_by_id.is_(None),
            Event.reaction_key.is_not(None),
        )
        .group_by(Event.relates_to_id, Event.reaction_key)
    )
    given: dict[str, dict[str, int]] = {}
    for target, key, times in await session.execute(query):
        given.setdefault(str(target), {})[str(key)] = times
    return given


async def poll_votes(session: AsyncSession, poll_id: str) -> dict[str, int]:
    """Votes by answer id: everybody's last response before the poll's sender closed it."""
    poll = await session.get(Event, poll_id)
    if poll is None or poll.content is None:
        return {}
    stated = poll.content.get("m.poll", {})
    votes = {answer["m.id"]: 0 for answer in stated.get("answers", [])}
    query = select(Event).where(
        Event.relates_to_id == poll_id,
        Event.rel_type == REFERENCE,
        Event.type.in_((POLL_RESPONSE, POLL_END)),
        Event.redacted_by_id.is_(None),
    )
    responses = (await session.scalars(query.order_by(Event.position, Event.id))).all()
    for selections in _last_responses(poll, responses).values():
        for answer in selections[: stated.get("max_selections", 1)]:
            if answer in votes:
                votes[answer] += 1
    return votes


def _last_responses(poll: Event, responses: Sequence[Event]) -> dict[str, list[Any]]:
    last: dict[str, list[Any]] = {}
    for event in responses:
        if event.type == POLL_RESPONSE:
            last[event.sender_id] = (event.content or {}).get("m.selections", [])
        elif event.sender_id == poll.sender_id:
            break
    return last


async def room_state(
    session: AsyncSession, room_id: str, type: str, state_key: str = ""
) -> dict[str, Any] | None:
    """What the newest state event of a type says: a topic, say, which the admin's listing leaves out."""
    query = (
        select(Event)
        .where(
            Event.room_id == room_id,
            Event.type == type,
            Event.state_key == state_key,
            Event.position.is_not(None),
        )
        .order_by(Event.position.desc())
        .limit(1)
    )
    event = (await session.scalars(query)).first()
    return event.content if event is not None else None


async def rooms_of(session: AsyncSession, user_id: str) -> Sequence[tuple[Room, Event | None]]:
    """The rooms a user is in, each with its last message that can be read, the latest first.

    By the clocks of the senders: rooms have no order of their own among each other.
    """
    query = (
        select(Room, Event)
        .join(Membership, Membership.room_id == Room.id)
        .outerjoin(Event, Event.id == Room.last_live_message_id)
        .where(Membership.user_id == user_id, Membership.membership == MembershipState.JOIN)
        .order_by(Event.sent_at.is_(None), Event.sent_at.desc(), Room.id)
    )
    return [(room, event) for room, event in await session.execute(query)]
