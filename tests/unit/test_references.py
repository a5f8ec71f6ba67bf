"""References to a fixed point: what is kept aside for want of a parent, and how it comes back."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey, ForeignKeyConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.ledger import WITHHELD
from ingest.mirror import count, when_missing
from ingest.reconcile.deletes import Allowance, Deletes
from ingest.reconcile.references import ReferenceCounts, References
from ingest.reconcile.scope import Scope
from ingest.source import Source
from tests.harness import Mirrored, mirrored, page


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    level: Mapped[int] = mapped_column(default=3)


class Room(Base):
    __tablename__ = "rooms"
    server: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    talks: Mapped[int] = mapped_column(info=count(lambda: (Talk.room, Talk.server)))


class Talk(Base):
    """Every way in which a parent may be missed."""

    __tablename__ = "talks"
    id: Mapped[int] = mapped_column(primary_key=True)
    nulled: Mapped[int | None] = mapped_column(ForeignKey("users.id", info=when_missing("null")))
    stubbed: Mapped[int | None] = mapped_column(ForeignKey("users.id", info=when_missing("stub")))
    parked: Mapped[int | None] = mapped_column(ForeignKey("users.id", info=when_missing("park")))
    cascaded: Mapped[int | None] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE", info=when_missing("null"))
    )
    cleared: Mapped[int | None] = mapped_column(
        ForeignKey("users.id", ondelete="SET NULL", info=when_missing("park"))
    )
    server: Mapped[str | None]
    room: Mapped[int | None]
    text: Mapped[str | None]
    __table_args__ = (
        # in another order than the key's
        ForeignKeyConstraint(["room", "server"], ["rooms.number", "rooms.server"], info=when_missing("null")),
    )


class Step(Base):
    """Rows that wait for each other, in rings."""

    __tablename__ = "steps"
    id: Mapped[int] = mapped_column(primary_key=True)
    next_id: Mapped[int] = mapped_column(ForeignKey("steps.id", info=when_missing("park")))
    label: Mapped[str | None]


class Blob(Base):
    """A row whose kept-aside form must hold bytes, truth and a default."""

    __tablename__ = "blobs"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", info=when_missing("park")))
    data: Mapped[bytes | None]
    seen: Mapped[bool] = mapped_column(default=True)
    big: Mapped[int | None] = mapped_column(sa.BigInteger)


SOURCE = msgspec.convert(
    {
        "streams": {
            **{
                name.lower() + "s": {"path": "/x", "entity": name}
                for name in ("User", "Room", "Talk", "Step", "Blob")
            },
            "gone_users": {"path": "/x", "entity": "User", "deletes": True},
            "gone_rooms": {"path": "/x", "entity": "Room", "deletes": True},
            "gone_talks": {"path": "/x", "entity": "Talk", "deletes": True},
        }
    },
    Source,
)
NOTHING = asdict(ReferenceCounts())


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Mirrored]:
    async with mirrored(tmp_path, sys.modules[__name__], SOURCE) as made:
        yield made


class Story:
    """Pages one after the other, each settled; a second run over everything must change nothing."""

    def __init__(self, mirror: Mirrored) -> None:
        self.mirror, self.stamp = mirror, 0

    async def say(self, stream: str, *records: dict[str, Any]) -> dict[str, int]:
        self.stamp += 1
        one = page(self.stamp, stream, list(records), asked=self.stamp - 1)
        await self.mirror.load([one])
        counts = await self._settle(whole=False)
        assert (await self.mirror.settle()).holds
        assert await self._settle(whole=True) == NOTHING
        return {name: count for name, count in counts.items() if count}

    async def _settle(self, *, whole: bool) -> dict[str, int]:
        mirror = self.mirror
        references = References(mirror.catalog, mirror.engine, mirror.keys)
        deletes = Deletes(mirror.catalog, mirror.engine, mirror.keys, references, Allowance())

        def settle(connection: sa.Connection) -> dict[str, int]:
            scope = (Scope.whole if whole else lambda c: Scope.touched(connection, c))(mirror.catalog)
            deletes.settle(connection, scope, allow=False)
            counts = references.settle(connection, scope)
            scope.remember(connection, mirror.engine)
            return asdict(counts)

        async with mirror.connection.begin():
            return await mirror.connection.run_sync(settle)

    async def talk(self, key: int = 1) -> dict[str, Any] | None:
        """What is set of a talk; None when it is not shown."""
        row = (await self.mirror.rows("talks")).get((key,))
        return None if row is None else {n: v for n, v in row.items() if v is not None and n != "id"}


@pytest.fixture
def story(mirror: Mirrored) -> Story:
    return Story(mirror)


# -- each policy ---------------------------------------------------------------------------------------


async def test_null_shows_null_and_the_stated_value_comes_back_with_its_parent(story: Story) -> None:
    assert await story.say("talks", {"id": 1, "nulled": 7, "text": "t"}) == {"nulled": 1}
    assert await story.talk() == {"text": "t"}
    assert await story.mirror.withheld() == {("talks", (1,), "nulled"): 7}
    assert await story.say("users", {"id": 7}) == {"restored": 1}
    assert await story.talk() == {"text": "t", "nulled": 7}
    assert await story.mirror.withheld() == {}


async def test_stub_shows_a_placeholder_that_the_record_fills_in_place(story: Story) -> None:
    assert await story.say("talks", {"id": 1, "stubbed": 7}) == {"stubs": 1}
    assert await story.talk() == {"stubbed": 7}
    assert await story.mirror.rows("users") == {(7,): {"id": 7, "name": None, "level": 3}}
    await story.say("users", {"id": 7, "name": "ann"})
    assert await story.mirror.rows("users") == {(7,): {"id": 7, "name": "ann", "level": 3}}


async def test_a_stub_goes_away_when_nobody_refers_to_it_any_more(story: Story) -> None:
    await story.say("talks", {"id": 1, "stubbed": 7}, {"id": 2, "stubbed": 7})
    assert await story.say("talks", {"id": 1, "stubbed": None}) == {}
    assert await story.say("gone_talks", {"id": 2}) == {"stubs_removed": 1}
    assert await story.mirror.rows("users") == {}


async def test_a_parent_that_was_stated_stays_though_nobody_refers_to_it(story: Story) -> None:
    await story.say("users", {"id": 7})
    await story.say("talks", {"id": 1, "stubbed": 7})
    assert await story.say("talks", {"id": 1, "stubbed": None}) == {}
    assert list(await story.mirror.rows("users")) == [(7,)]


async def test_park_keeps_the_whole_row_aside_until_its_parent_comes(story: Story) -> None:
    assert await story.say("talks", {"id": 1, "parked": 7, "text": "t"}) == {"parked": 1}
    assert await story.talk() is None
    assert await story.mirror.withheld() == {("talks", (1,), ""): {"id": 1, "parked": 7, "text": "t"}}
    assert await story.say("users", {"id": 7}) == {"restored": 1}
    assert await story.talk() == {"parked": 7, "text": "t"}


async def test_a_parked_row_that_waits_for_two_parents_waits_for_both(story: Story) -> None:
    await story.say("talks", {"id": 1, "parked": 7, "cleared": 8})
    await story.say("users", {"id": 7})
    assert await story.talk() is None
    await story.say("users", {"id": 8})
    assert await story.talk() == {"parked": 7, "cleared": 8}


async def test_a_parked_row_is_still_told_news_and_may_stop_waiting(story: Story) -> None:
    await story.say("talks", {"id": 1, "parked": 7, "text": "old"})
    await story.say("talks", {"id": 1, "text": "new"})
    assert await story.talk() is None
    await story.say("talks", {"id": 1, "parked": None})
    assert await story.talk() == {"text": "new"}
    assert await story.mirror.withheld() == {}


async def test_a_nulled_reference_may_be_stated_anew_and_nothing_old_comes_back(story: Story) -> None:
    await story.say("talks", {"id": 1, "nulled": 7})
    await story.say("talks", {"id": 1, "nulled": None})
    assert await story.mirror.withheld() == {}
    await story.say("users", {"id": 7})
    assert await story.talk() == {}


async def test_a_row_that_is_nulled_and_parked_comes_back_whole(story: Story) -> None:
    await story.say("talks", {"id": 1, "nulled": 7, "parked": 8})
    assert await story.mirror.withheld() == {("talks", (1,), ""): {"id": 1, "nulled": 7, "parked": 8}}
    assert (await story.say("users", {"id": 8})) == {"restored": 1, "nulled": 1}
    assert await story.talk() == {"parked": 8}
    await story.say("users", {"id": 7})
    assert await story.talk() == {"nulled": 7, "parked": 8}


async def test_a_parked_row_comes_back_with_every_kind_of_value(story: Story) -> None:
    said = {"id": 1, "user_id": 7, "data": "AAH/", "seen": False, "big": 2**63 - 1}
    await story.say("blobs", said, {"id": 2, "user_id": 7})
    assert await story.mirror.rows("blobs") == {}
    await story.say("users", {"id": 7})
    assert await story.mirror.rows("blobs") == {
        (1,): {"id": 1, "user_id": 7, "data": b"\x00\x01\xff", "seen": 0, "big": 2**63 - 1},
        (2,): {"id": 2, "user_id": 7, "data": None, "seen": 1, "big": None},
    }


async def test_a_restored_row_keeps_its_rank_and_its_exceptions(story: Story) -> None:
    await story.say("talks", {"id": 1, "parked": 7, "text": "a"})
    await story.say("talks", {"id": 1, "text": "b"})
    await story.say("users", {"id": 7})
    async with story.mirror.connection.begin():
        found = await story.mirror.connection.exec_driver_sql(
            "SELECT ingest_stamp, ingest_exceptions FROM talks"
        )
        stamp, exceptions = found.one()
    assert stamp == 2
    assert msgspec.json.decode(exceptions)["parked"][1] == 1


# -- composite keys and rings --------------------------------------------------------------------------


async def test_a_composite_reference_is_nulled_and_restored_whole_and_counted_when_it_shows(
    story: Story,
) -> None:
    await story.say("talks", {"id": 1, "server": "s", "room": 4})
    assert await story.talk() == {}
    assert await story.mirror.withheld() == {("talks", (1,), "server"): "s", ("talks", (1,), "room"): 4}
    await story.say("rooms", {"server": "s", "number": 5, "title": "another"})
    assert await story.talk() == {}
    await story.say("rooms", {"server": "s", "number": 4, "title": "t"})
    assert await story.talk() == {"server": "s", "room": 4}
    assert (await story.mirror.rows("rooms"))[("s", 4)]["talks"] == 1


async def test_half_a_composite_reference_refers_to_nothing(story: Story) -> None:
    assert await story.say("talks", {"id": 1, "server": "s"}) == {}
    assert await story.talk() == {"server": "s"}


async def test_a_parent_that_cannot_be_shown_itself_is_missed_until_it_can(story: Story) -> None:
    await story.say("rooms", {"server": "s", "number": 4})  # a room needs a title
    await story.say("talks", {"id": 1, "server": "s", "room": 4})
    assert await story.talk() == {}
    await story.say("rooms", {"server": "s", "number": 4, "title": "t"})
    assert await story.talk() == {"server": "s", "room": 4}


async def test_a_row_may_refer_to_itself(story: Story) -> None:
    assert await story.say("steps", {"id": 1, "next_id": 1}) == {}
    assert list(await story.mirror.rows("steps")) == [(1,)]


async def test_a_ring_that_waits_for_its_last_row_comes_back_all_at_once(story: Story) -> None:
    ring = [{"id": 1, "next_id": 2}, {"id": 2, "next_id": 3}, {"id": 3, "next_id": 1}]
    await story.say("steps", *ring[:2], {"id": 9, "next_id": 1})
    assert await story.mirror.rows("steps") == {}
    assert await story.say("steps", ring[2]) == {"restored": 3}
    assert sorted(await story.mirror.rows("steps")) == [(1,), (2,), (3,), (9,)]


async def test_a_chain_that_loses_its_end_goes_aside_link_by_link(story: Story) -> None:
    await story.say("steps", {"id": 1, "next_id": 1}, {"id": 2, "next_id": 1}, {"id": 3, "next_id": 2})
    assert await story.say("steps", {"id": 1, "next_id": 8}) == {"parked": 3}
    assert await story.mirror.rows("steps") == {}


# -- deleted parents -----------------------------------------------------------------------------------


async def test_a_deleted_parent_takes_its_children_along_and_brings_them_back(story: Story) -> None:
    await story.say("users", {"id": 7})
    await story.say("talks", {"id": 1, "cascaded": 7, "text": "t"})
    await story.say("gone_users", {"id": 7})
    assert await story.talk() is None
    held = [(one["column"], one["reason"]) for one in await story.mirror.ledger(WITHHELD)]
    assert ("", "cascade") in held
    await story.say("users", {"id": 7})
    assert await story.talk() == {"cascaded": 7, "text": "t"}


async def test_a_deleted_parent_is_set_to_null_where_the_rule_says_so_and_comes_back(story: Story) -> None:
    await story.say("users", {"id": 7})
    await story.say("talks", {"id": 1, "cleared": 7})
    assert await story.say("gone_users", {"id": 7}) == {"nulled": 1}
    assert await story.talk() == {}
    await story.say("users", {"id": 7})
    assert await story.talk() == {"cleared": 7}


async def test_a_missing_parent_is_treated_by_its_policy_and_a_deleted_one_by_its_rule(story: Story) -> None:
    await story.say("talks", {"id": 1, "cascaded": 7}, {"id": 2, "cleared": 7})
    assert await story.talk(1) == {}  # null
    assert await story.talk(2) is None  # park
    await story.say("users", {"id": 7})
    await story.say("gone_users", {"id": 7})
    assert await story.talk(1) is None  # CASCADE
    assert await story.talk(2) == {}  # SET NULL


async def test_a_deleted_parent_gets_no_stub(story: Story) -> None:
    await story.say("users", {"id": 7})
    await story.say("talks", {"id": 1, "stubbed": 7})
    assert await story.say("gone_users", {"id": 7}) == {"nulled": 1}
    assert await story.mirror.rows("users") == {}


async def test_a_deleted_composite_parent_without_a_rule_leaves_null(story: Story) -> None:
    await story.say("rooms", {"server": "s", "number": 4, "title": "t"})
    await story.say("talks", {"id": 1, "server": "s", "room": 4})
    assert await story.say("gone_rooms", {"server": "s", "number": 4}) == {"nulled": 1}
    assert await story.talk() == {}
