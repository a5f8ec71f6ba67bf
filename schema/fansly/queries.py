"""The three uses of `Group.last_message_id`: look-up, consistency check, and where paging begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from schema.fansly.models import Group, Message


class MessageKey(NamedTuple):
    """A message's place in its group: time to the second, then id, so that no two are equal."""

    created_at: datetime
    id: int


class MessagePage(NamedTuple):
    """Some messages of one group, newest first, and where the next page begins."""

    messages: Sequence[Message]
    #: pass it as `before`; None when these are the oldest
    next: MessageKey | None


class GroupFault(NamedTuple):
    """One group, and what its pointer says against what is there."""

    group_id: int
    #: what `last_message_id` says
    pointer: int | None
    #: the message that sorts last among those not deleted
    latest: int | None
    #: upstream's last message, where the mirror does not hold it: deleted before we saw it, or never fetched
    missing: int | None


async def latest_messages(
    session: AsyncSession, group_ids: Iterable[int] | None = None
) -> dict[int, Message]:
    """The last message of each group, or of the named ones, without a scan of messages.

    Groups without a message are left out.
    """
    query = select(Group.id, Message).join(Group.last_message)
    if group_ids is not None:
        query = query.where(Group.id.in_(list(group_ids)))
    return dict((await session.execute(query)).all())


async def inconsistent_groups(session: AsyncSession) -> list[GroupFault]:
    """Groups whose pointer is not their latest message, or of which upstream's last message is missing."""
    # The index (group_id, created_at, id) answers this per group by its last entries alone.
    latest = (
        select(Message.id)
        .where(Message.group_id == Group.id, Message.deleted_at.is_(None))
        .order_by(Message.created_at.desc(), Message.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    stated = aliased(Message)
    missing = and_(Group.stated_last_message_id.is_not(None), stated.id.is_(None))
    query = (
        select(Group.id, Group.last_message_id, latest, Group.stated_last_message_id, stated.id)
        .outerjoin(stated, stated.id == Group.stated_last_message_id)
        .where(or_(Group.last_message_id.is_distinct_from(latest), missing))
        .order_by(Group.id)
    )
    return [
        GroupFault(group_id, pointer, last, named if found is None else None)
        for group_id, pointer, last, named, found in await session.execute(query)
    ]


async def message_page(
    session: AsyncSession, group_id: int, *, before: MessageKey | None = None, limit: int = 50
) -> MessagePage:
    """Messages of a group not deleted, newest first: from its last message down, or from below `before`.

    The pages of one walk stay as they were while newer messages arrive.
    """
    if limit < 1:
        raise ValueError(f"a page holds at least one message, not {limit}")
    query = select(Message).where(Message.group_id == group_id, Message.deleted_at.is_(None))
    if before is None:
        pointer = aliased(Message)
        query = query.join(Message.group).join(pointer, Group.last_message)
        query = query.where(_up_to(pointer.created_at, pointer.id, inclusive=True))
    else:
        query = query.where(_up_to(before.created_at, before.id, inclusive=False))
    query = query.order_by(Message.created_at.desc(), Message.id.desc()).limit(limit + 1)
    found = list(await session.scalars(query))
    messages = found[:limit]
    last = messages[-1] if len(found) > limit else None
    return MessagePage(messages, MessageKey(last.created_at, last.id) if last else None)


def _up_to(created_at: object, id: object, *, inclusive: bool) -> ColumnElement[bool]:
    """(created_at, id) of a message sorts before the given one, spelled so that MariaDB uses its index.

    The comparison of row values says the same, but MariaDB would read the whole group for it.
    """
    earlier = Message.id <= id if inclusive else Message.id < id
    return and_(Message.created_at <= created_at, or_(Message.created_at < created_at, earlier))
