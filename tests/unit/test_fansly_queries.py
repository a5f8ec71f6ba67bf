"""The three uses of a group's last message, on a database small enough to see through."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from schema.fansly.models import Base, Group, Message
from schema.fansly.queries import (
    GroupFault,
    MessageKey,
    MessagePage,
    inconsistent_groups,
    latest_messages,
    message_page,
)

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
#: groups by what they hold
TALK, EMPTY, DELETED = 1, 2, 3


def at(second: int) -> datetime:
    return NOON + timedelta(seconds=second)


def message(id: int, second: int, *, group: int = TALK, deleted: bool = False) -> Message:
    gone = at(second + 5) if deleted else None
    return Message(id=id, group_id=group, created_at=at(second), deleted=deleted, deleted_at=gone)


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[AsyncSession]:
    """Group 1 has ties, an id out of order, deleted messages; group 2 is empty; group 3 lost everything."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'mirror.db'}")
    sa.event.listen(engine.sync_engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys=ON"))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        groups = [Group(id=TALK), Group(id=EMPTY), Group(id=DELETED)]
        session.add_all(groups)
        await session.flush()
        session.add_all(message(id, second) for id, second in ((90, 0), (11, 1), (12, 1), (13, 1), (14, 2)))
        session.add_all([message(10, 1, deleted=True), message(15, 3, deleted=True)])
        session.add(message(31, 9, group=DELETED, deleted=True))
        await session.flush()
        groups[0].last_message_id = 14
        await session.commit()
        yield session
    await engine.dispose()


async def set_group(session: AsyncSession, id: int, **values: Any) -> None:
    await session.execute(sa.update(Group).where(Group.id == id).values(**values))


async def pages(session: AsyncSession, limit: int) -> list[list[int]]:
    """Every page of the talk, as ids."""
    found: list[list[int]] = []
    page = MessagePage([], None)
    while not found or page.next:
        page = await message_page(session, TALK, before=page.next, limit=limit)
        found.append([one.id for one in page.messages])
        assert len(found) <= 5, found
    return found


# -- look-up -------------------------------------------------------------------------------------------


async def test_the_last_message_of_each_group_is_looked_up_by_its_pointer(session: AsyncSession) -> None:
    assert {group: found.id for group, found in (await latest_messages(session)).items()} == {TALK: 14}


async def test_the_lookup_can_be_narrowed_to_some_groups(session: AsyncSession) -> None:
    assert list(await latest_messages(session, [TALK, EMPTY])) == [TALK]
    assert await latest_messages(session, [EMPTY, 99]) == {}
    assert await latest_messages(session, []) == {}


# -- consistency ---------------------------------------------------------------------------------------


async def test_nothing_is_reported_while_every_pointer_is_right(session: AsyncSession) -> None:
    assert await inconsistent_groups(session) == []


@pytest.mark.parametrize(
    ("group", "pointer", "latest"),
    [
        pytest.param(TALK, 13, 14, id="older than the latest"),
        pytest.param(TALK, 15, 14, id="deleted"),
        pytest.param(TALK, 90, 14, id="the largest id, but not the latest"),
        pytest.param(TALK, None, 14, id="not set"),
        pytest.param(DELETED, 31, None, id="set where nothing is left"),
    ],
)
async def test_a_pointer_that_is_not_the_latest_message_is_reported(
    session: AsyncSession, group: int, pointer: int | None, latest: int | None
) -> None:
    await set_group(session, group, last_message_id=pointer)
    assert await inconsistent_groups(session) == [GroupFault(group, pointer, latest, None)]


async def test_of_messages_within_one_second_the_larger_id_is_the_latest(session: AsyncSession) -> None:
    # an index may give this order by chance
    await session.execute(sa.text("DROP INDEX ix_messages_group_id_created_at_id"))
    await session.execute(sa.delete(Message).where(Message.id.in_([14, 15])))
    await set_group(session, TALK, last_message_id=12)
    assert await inconsistent_groups(session) == [GroupFault(TALK, 12, 13, None)]


async def test_a_last_message_of_upstream_that_the_mirror_lacks_is_reported(session: AsyncSession) -> None:
    await set_group(session, TALK, stated_last_message_id=77)
    await set_group(session, EMPTY, stated_last_message_id=78)
    assert await inconsistent_groups(session) == [
        GroupFault(TALK, 14, 14, 77),
        GroupFault(EMPTY, None, None, 78),
    ]


async def test_a_deleted_last_message_of_upstream_is_held_and_so_not_missing(session: AsyncSession) -> None:
    await set_group(session, TALK, stated_last_message_id=15)
    await set_group(session, DELETED, stated_last_message_id=31)
    assert await inconsistent_groups(session) == []


# -- paging --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, [[14], [13], [12], [11], [90]]),
        (2, [[14, 13], [12, 11], [90]]),
        (4, [[14, 13, 12, 11], [90]]),
        (5, [[14, 13, 12, 11, 90]]),
        (50, [[14, 13, 12, 11, 90]]),
    ],
)
async def test_pages_hold_every_message_once_newest_first(
    session: AsyncSession, limit: int, expected: list[list[int]]
) -> None:
    assert await pages(session, limit) == expected


async def test_paging_begins_at_the_pointer(session: AsyncSession) -> None:
    await set_group(session, TALK, last_message_id=12)
    assert await pages(session, 2) == [[12, 11], [90]]


async def test_a_message_that_arrives_meanwhile_moves_no_page(session: AsyncSession) -> None:
    first = await message_page(session, TALK, limit=2)
    session.add(message(16, 4))
    await session.flush()
    second = await message_page(session, TALK, before=first.next, limit=2)
    assert [one.id for one in (*first.messages, *second.messages)] == [14, 13, 12, 11]


async def test_a_page_may_begin_below_a_message_that_is_gone(session: AsyncSession) -> None:
    page = await message_page(session, TALK, before=MessageKey(at(2), 0), limit=1)
    assert [one.id for one in page.messages] == [13]
    assert page.next == MessageKey(at(1), 13)


@pytest.mark.parametrize("group", [EMPTY, DELETED, 99])
async def test_a_group_with_nothing_to_show_is_one_empty_page(session: AsyncSession, group: int) -> None:
    assert await message_page(session, group) == MessagePage([], None)


async def test_a_page_of_no_messages_is_refused(session: AsyncSession) -> None:
    with pytest.raises(ValueError, match="at least one"):
        await message_page(session, TALK, limit=0)


# -- cost ----------------------------------------------------------------------------------------------


async def plans(session: AsyncSession, statements: list[tuple[str, Any]]) -> str:
    """How SQLite answers the statements, one step a line."""
    found = []
    for statement, parameters in statements:
        rows = await (await session.connection()).exec_driver_sql(
            f"EXPLAIN QUERY PLAN {statement}", parameters
        )
        found += [str(row[-1]) for row in rows]
    return "\n".join(found)


async def test_no_query_sorts_or_scans_messages(session: AsyncSession) -> None:
    sent: list[tuple[str, Any]] = []
    engine = session.get_bind().engine
    sa.event.listen(
        engine,
        "before_cursor_execute",
        lambda c, k, statement, parameters, x, m: sent.append((statement, parameters)),
    )
    await latest_messages(session)
    await inconsistent_groups(session)
    page = await message_page(session, TALK, limit=2)
    await message_page(session, TALK, before=page.next, limit=2)
    assert len(sent) == 4
    plan = await plans(session, list(sent))
    assert "SCAN messages" not in plan
    assert "TEMP B-TREE" not in plan
    assert plan.count("ix_messages_group_id_created_at_id (group_id=? AND created_at<?)") == 2
