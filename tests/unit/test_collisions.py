"""Rows that claim one unique value: the newest shows it, whatever came in which order."""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.ledger import DEAD_LETTERS, WITHHELD
from ingest.load import store as store_room
from ingest.mirror import Mirror, when_missing
from ingest.source import Source
from ingest.types import LOWEST_VERSION, Page
from tests.databases import TestDatabase
from tests.harness import Mirrored, mirrored, page


class Base(DeclarativeBase):
    pass


class User(Base):
    """A user cannot be without a name, and can be without a mail."""

    __tablename__ = "users"
    __mirror__ = Mirror(version="rev")
    __table_args__ = (
        CheckConstraint("age >= 0", name="age_is_not_negative"),
        UniqueConstraint("team", "shirt"),
        Index("ix_users_mail", "mail", unique=True),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    rev: Mapped[int | None]
    name: Mapped[str] = mapped_column(String(20), unique=True)
    mail: Mapped[str | None] = mapped_column(String(20))
    team: Mapped[str | None] = mapped_column(String(20))
    shirt: Mapped[int | None]
    age: Mapped[int | None]
    boss_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", info=when_missing("park")))


class Badge(Base):
    """Nothing of it can be NULL, and no text of it is unique."""

    __tablename__ = "badges"
    __table_args__ = (CheckConstraint("number < 100", name="number_is_below_100"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", info=when_missing("park")), unique=True)


class Contact(Base):
    """One of both must be there."""

    __tablename__ = "contacts"
    __table_args__ = (CheckConstraint("mail IS NOT NULL OR phone IS NOT NULL", name="has_either"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    mail: Mapped[str | None] = mapped_column(String(20), unique=True)
    phone: Mapped[str | None] = mapped_column(String(20))


class Profile(Base):
    """It is watched by others of its kind."""

    __tablename__ = "profiles"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int | None] = mapped_column(
        ForeignKey("users.id", info=when_missing("null")), unique=True
    )
    up_id: Mapped[int | None] = mapped_column(ForeignKey("profiles.id", info=when_missing("stub")))


class Author(Base):
    """Nobody needs to state its name for a stub to have one."""

    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20), unique=True, default="?")


class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int | None] = mapped_column(ForeignKey("authors.id", info=when_missing("stub", "null")))


class Post(Base):
    __tablename__ = "posts"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", info=when_missing("null")))


SOURCE = msgspec.convert(
    {
        "streams": {
            "users": {"path": "/users", "entity": "User"},
            "posts": {"path": "/posts", "entity": "Post"},
            "badges": {"path": "/badges", "entity": "Badge"},
            "contacts": {"path": "/contacts", "entity": "Contact"},
            "profiles": {"path": "/profiles", "entity": "Profile"},
            "authors": {"path": "/authors", "entity": "Author"},
            "books": {"path": "/books", "entity": "Book"},
            "gone": {"path": "/gone", "entity": "User", "deletes": True},
        }
    },
    Source,
)
UNIQUE = (("name",), ("mail",), ("team", "shirt"))
ENGINES = ("sqlite", "postgresql", "mariadb")


@pytest.fixture(params=ENGINES)
async def mirror(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Mirrored]:
    where: Path | str = tmp_path
    if request.param != "sqlite":
        made: TestDatabase = request.getfixturevalue(request.param)
        where = made.url
    async with mirrored(where, sys.modules[__name__], SOURCE) as opened:
        await opened.open_window()
        yield opened


def user(key: int, name: str, mail: str | None = None, **more: Any) -> dict[str, Any]:
    blank = {"rev": None, "team": None, "shirt": None, "age": None, "boss_id": None}
    return {"id": key, "name": name, "mail": mail, **blank, **more}


async def shown(mirror: Mirrored) -> dict[int, tuple[str, str | None]]:
    return {key: (row["name"], row["mail"]) for (key,), row in (await mirror.rows("users")).items()}


async def load(mirror: Mirrored, stamp: int, *records: dict[str, Any], stream: str = "users") -> None:
    counts = await mirror.load([page(stamp, stream, list(records), asked=stamp - 1)])
    assert counts.records == counts.written + counts.kept + counts.rejected
    assert (await mirror.settle()).holds


async def test_names_are_passed_on_in_a_ring(mirror: Mirrored) -> None:
    await load(mirror, 1, user(1, "a"), user(2, "b"), user(3, "c"))
    await load(mirror, 2, user(1, "b"), user(2, "c"), user(3, "a"))
    assert await shown(mirror) == {1: ("b", None), 2: ("c", None), 3: ("a", None)}
    assert await mirror.withheld() == {}
    assert await mirror.ledger(DEAD_LETTERS) == []


async def test_who_loses_a_value_shows_null_and_has_it_again_when_it_is_free(mirror: Mirrored) -> None:
    await load(mirror, 1, user(1, "a", "m"))
    await load(mirror, 2, user(2, "b", "m"))
    assert await shown(mirror) == {1: ("a", None), 2: ("b", "m")}
    assert await mirror.withheld() == {("users", (1,), "mail"): "m"}
    assert [one["reason"] for one in await mirror.ledger(WITHHELD)] == ["collision"]
    await load(mirror, 3, user(2, "b", "other"))
    assert await shown(mirror) == {1: ("a", "m"), 2: ("b", "other")}
    assert await mirror.withheld() == {}


async def test_who_cannot_be_without_it_is_kept_aside_whole_with_what_refers_to_it(mirror: Mirrored) -> None:
    await load(mirror, 1, user(1, "a", "m"))
    await load(mirror, 2, {"id": 7, "user_id": 1}, stream="posts")
    await load(mirror, 3, user(2, "a", "m2"), user(3, "c", "m"))
    assert await shown(mirror) == {2: ("a", "m2"), 3: ("c", "m")}
    assert (await mirror.rows("posts"))[(7,)]["user_id"] is None
    await load(mirror, 4, user(2, "new", "m2"))
    assert await shown(mirror) == {1: ("a", None), 2: ("new", "m2"), 3: ("c", "m")}
    assert (await mirror.rows("posts"))[(7,)]["user_id"] == 1


async def test_a_deleted_rows_value_goes_to_the_newest_who_waits(mirror: Mirrored) -> None:
    for key in (1, 2, 3):
        await load(mirror, key, user(key, str(key), "m"))
    assert await shown(mirror) == {1: ("1", None), 2: ("2", None), 3: ("3", "m")}
    await load(mirror, 4, {"id": 3}, stream="gone")
    assert await shown(mirror) == {1: ("1", None), 2: ("2", "m")}
    await load(mirror, 5, {"id": 2}, stream="gone")
    assert await shown(mirror) == {1: ("1", "m")}


async def test_who_says_it_again_has_it_again(mirror: Mirrored) -> None:
    await load(mirror, 1, user(1, "a", "m"))
    await load(mirror, 2, user(2, "b", "m"))
    await load(mirror, 3, user(1, "a", "m"))
    assert await shown(mirror) == {1: ("a", "m"), 2: ("b", None)}


async def test_a_re_sync_of_what_lost_writes_no_row(mirror: Mirrored) -> None:
    records = [user(1, "a", "m", rev=5), user(2, "b", "m", rev=6), user(3, "b", "x", rev=4)]
    await load(mirror, 1, *records)
    before = await mirror.rows("users"), await mirror.withheld()
    assert set(before[1]) == {("users", (1,), "mail"), ("users", (3,), "")}
    for stamp in (2, 3):
        await load(mirror, stamp, *records)
        assert (await mirror.rows("users"), await mirror.withheld()) == before


async def test_a_bad_row_beside_a_ring_is_a_letter_alone(mirror: Mirrored) -> None:
    await load(mirror, 1, user(1, "a"), user(2, "b"), user(3, "c"))
    await load(mirror, 2, user(1, "b"), user(2, "c"), user(3, "a"), user(4, "d", age=-1), user(5, "e"))
    assert {key: name for key, (name, _) in (await shown(mirror)).items()} == {1: "b", 2: "c", 3: "a", 5: "e"}
    (letter,) = await mirror.ledger(DEAD_LETTERS)
    assert letter["key"] == "[4]"


async def test_a_bad_row_that_lost_a_value_changes_nothing(mirror: Mirrored) -> None:
    await load(mirror, 1, user(1, "a", "m", rev=1), user(2, "b", "n", rev=9))
    await load(mirror, 2, user(1, "a", "n", rev=2, age=-1))
    assert await shown(mirror) == {1: ("a", "m"), 2: ("b", "n")}
    assert await mirror.withheld() == {}
    assert [one["key"] for one in await mirror.ledger(DEAD_LETTERS)] == ["[1]"]


@pytest.mark.parametrize("boss_first", [False, True])
async def test_who_waits_for_a_parent_makes_room_until_it_is_there(
    mirror: Mirrored, boss_first: bool
) -> None:
    await load(mirror, 1, user(1, "a", "m"))
    if boss_first:
        await load(mirror, 2, user(9, "boss"))
    await load(mirror, 3, user(2, "b", "m", boss_id=9))
    if not boss_first:
        assert await shown(mirror) == {1: ("a", "m")}
        await load(mirror, 4, user(9, "boss"))
    assert await shown(mirror) == {1: ("a", None), 2: ("b", "m"), 9: ("boss", None)}
    assert await mirror.withheld() == {("users", (1,), "mail"): "m"}


def badge(key: int, number: int, user_id: int) -> dict[str, Any]:
    return {"id": key, "number": number, "user_id": user_id}


async def badges(mirror: Mirrored) -> dict[int, tuple[int, int]]:
    return {key: (row["number"], row["user_id"]) for (key,), row in (await mirror.rows("badges")).items()}


async def test_numbers_that_cannot_be_null_go_round_too(mirror: Mirrored) -> None:
    await load(mirror, 1, *(user(key, str(key)) for key in (1, 2, 3)))
    await load(mirror, 2, badge(1, 1, 1), badge(2, 2, 2), badge(3, 3, 3), stream="badges")
    await load(mirror, 3, badge(1, 2, 3), badge(2, 3, 1), badge(3, 1, 2), stream="badges")
    assert await badges(mirror) == {1: (2, 3), 2: (3, 1), 3: (1, 2)}
    await load(mirror, 4, badge(4, 2, 3), stream="badges")
    assert await badges(mirror) == {2: (3, 1), 3: (1, 2), 4: (2, 3)}
    assert await mirror.ledger(DEAD_LETTERS) == []


async def test_a_bad_row_of_a_ring_does_not_take_a_good_one_with_it(mirror: Mirrored) -> None:
    await load(mirror, 1, *(user(key, str(key)) for key in (1, 2, 3)))
    await load(mirror, 2, badge(1, 1, 1), badge(2, 2, 2), stream="badges")
    # 2 would hand its user on, but is told to have a number that there is not
    await load(mirror, 3, badge(2, 100, 1), badge(1, 1, 3), badge(3, 3, 2), stream="badges")
    assert await badges(mirror) == {1: (1, 3), 3: (3, 2)}
    assert [one["key"] for one in await mirror.ledger(DEAD_LETTERS)] == ["[2]"]
    assert set(await mirror.withheld()) == {("badges", (2,), "")}


async def test_who_is_nothing_without_a_value_is_kept_aside_and_is_no_letter(mirror: Mirrored) -> None:
    await load(mirror, 1, {"id": 1, "mail": "m", "phone": None}, stream="contacts")
    await load(mirror, 2, {"id": 2, "mail": "m", "phone": None}, stream="contacts")
    assert set(await mirror.rows("contacts")) == {(2,)}
    assert await mirror.ledger(DEAD_LETTERS) == []
    await load(mirror, 3, {"id": 2, "mail": "n", "phone": None}, stream="contacts")
    assert set(await mirror.rows("contacts")) == {(1,), (2,)}


async def test_what_is_refused_is_not_tried_for_ever(mirror: Mirrored) -> None:
    profiles = [{"id": 1, "user_id": 9, "up_id": 2}, {"id": 2, "user_id": 9, "up_id": 1}]
    await load(mirror, 1, *profiles, stream="profiles")
    await load(mirror, 2, user(9, "nine"))
    shown = {key: row["user_id"] for (key,), row in (await mirror.rows("profiles")).items()}
    assert shown == {1: None, 2: 9}


@pytest.mark.parametrize("stub_first", [True, False])
async def test_a_stub_claims_nothing(mirror: Mirrored, stub_first: bool) -> None:
    def book() -> Any:
        return load(mirror, 1 if stub_first else 3, {"id": 1, "author_id": 8}, stream="books")

    if stub_first:
        await book()
        assert set(await mirror.rows("authors")) == {(8,)}
    await load(mirror, 2, {"id": 1, "name": "?"}, stream="authors")
    if not stub_first:
        await book()
    assert {key: row["name"] for key, row in (await mirror.rows("authors")).items()} == {(1,): "?"}
    assert await mirror.ledger(DEAD_LETTERS) == []


async def test_many_who_want_one_name_are_told_apart_at_once(mirror: Mirrored) -> None:
    people = [user(key, f"name {key // 2}", rev=key) for key in range(4000)]
    await load(mirror, 1, *people)
    assert len(await mirror.rows("users")) == 2000
    assert len(await mirror.withheld()) == 2000


# -- whatever the order ----------------------------------------------------------------------------------


def truth(statements: list[tuple[tuple[int, int, int], dict[str, Any]]]) -> dict[int, dict[str, Any]]:
    """The rows that records amount to, each with its rank: the newest claim first, then the least key."""
    newest: dict[int, tuple[tuple[int, int, int], dict[str, Any]]] = {}
    for rank, record in sorted(statements, key=lambda one: one[0]):
        newest[record["id"]] = (rank, record)
    aside: set[int] = set()
    while True:
        taken: dict[Any, int] = {}
        rows = {key: dict(record) for key, (_, record) in newest.items() if key not in aside}
        queue = sorted(rows, key=lambda key: ([-part for part in newest[key][0]], key))
        out = None
        for key in queue:
            for unique in UNIQUE:
                value = (unique, *(newest[key][1][name] for name in unique))
                if None in value or taken.setdefault(value, key) == key:
                    continue
                if unique == ("name",):
                    out = key if out is None else out
                else:
                    rows[key][unique[-1]] = None
            if out is not None:
                break
        if out is None:
            return rows
        aside.add(out)


async def _case(mirror: Mirrored, seed: int) -> int:
    pick = random.Random(seed)
    versioned = pick.random() < 0.5
    statements, pages = [], []
    for stamp in range(1, pick.randint(3, 9)):
        records = []
        for ordinal in range(pick.randint(1, 4)):
            record = user(
                pick.randint(1, 5),
                pick.choice("abcd"),
                pick.choice(("m", "n", "o", None)),
                team=pick.choice(("red", "blue", None)),
                shirt=pick.choice((1, 2, None)),
                rev=pick.randint(1, 3) if versioned else None,
            )
            records.append(record)
            version = record["rev"] if versioned else LOWEST_VERSION
            statements.append(((version, stamp, ordinal), record))
        pages.append(page(stamp, "users", records))
    in_order = pick.random() < 0.5
    if not in_order:
        pick.shuffle(pages)
    expected = truth(statements)
    await mirror.open_window()
    for batch in _batches(pages, pick):
        counts = await mirror.load(batch, in_order=in_order)
        assert not counts.rejected
        if pick.random() < 0.5:
            assert (await mirror.settle()).holds
    assert (await mirror.settle()).holds
    found = {key: row for (key,), row in (await mirror.rows("users")).items()}
    assert found == expected, (seed, in_order)
    waiting = len(await mirror.withheld())
    await mirror.close_window()
    await mirror.forget()
    return waiting


def _batches(pages: list[Page], pick: random.Random) -> list[list[Page]]:
    batches, rest = [], list(pages)
    while rest:
        size = pick.randint(1, 4)
        batches.append(rest[:size])
        rest = rest[size:]
    return batches


@pytest.mark.parametrize("first", range(0, 60, 20))
async def test_the_newest_claim_wins_whatever_the_order(
    tmp_path: Path, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = 0
    async with mirrored(tmp_path, sys.modules[__name__], SOURCE) as mirror:
        for seed in range(first, first + 20):
            monkeypatch.setattr(store_room, "TOUCHED_LIMIT", 0 if seed % 2 else 20_000)
            waiting += await _case(mirror, seed)
    assert waiting > 10


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
async def test_the_newest_claim_wins_on_servers_too(request: pytest.FixtureRequest, kind: str) -> None:
    async with mirrored(request.getfixturevalue(kind).url, sys.modules[__name__], SOURCE) as mirror:
        assert sum([await _case(mirror, seed) for seed in range(20)]) > 10
