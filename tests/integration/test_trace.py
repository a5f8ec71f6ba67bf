"""`ingest trace`: from a row to what was asked for, and back to why it shows what it shows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest.report import MissingParent, Trace
from ingest.staging import SqlitePageLog
from tests.answering import Said, answering
from tests.integration.jobs import Setup, cli

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

MODELS = """
from datetime import datetime
from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from ingest.mirror import Mirror, UtcDateTime, when_missing


class Base(DeclarativeBase):
    pass


class Room(Base):
    __tablename__ = "rooms"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(5))


class Message(Base):
    __tablename__ = "messages"
    __mirror__ = Mirror(version="rev")
    room_id: Mapped[int] = mapped_column(
        ForeignKey("rooms.id", info=when_missing("fetch", "park")), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    rev: Mapped[int | None]
    text: Mapped[str | None]
    reply_in: Mapped[int | None] = mapped_column(ForeignKey("rooms.id", info=when_missing("fetch", "null")))
"""
STREAMS = {
    "rooms": {"path": "/rooms", "records": "data", "entity": "Room"},
    "messages": {"path": "/messages", "records": "data", "entity": "Message"},
    "gone": {"path": "/gone", "records": "data", "entity": "Room", "deletes": True},
}
#: what the server has, by path
HELD: dict[str, list[dict[str, Any]]] = {}


def message(room: int, number: int, **more: Any) -> dict[str, Any]:
    return {"room_id": room, "number": number, "rev": 1, "text": "hi", "reply_in": None, **more}


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    HELD.clear()
    HELD.update({"/rooms": [{"id": 1, "name": "one"}], "/messages": [message(1, 1)], "/gone": []})
    async with answering(lambda path, _: Said({"data": HELD[path]})) as url:
        made = Setup(tmp_path, STREAMS, models=MODELS)
        made.configure(url)
        yield made


async def sync(setup: Setup, *, exit: int = 0) -> None:
    ran = await cli(setup.config_file, "sync")
    assert ran.status == exit, ran.err


async def trace(setup: Setup, *arguments: str) -> Trace:
    ran = await cli(setup.config_file, "trace", *arguments, "--json")
    assert ran.status == 0, ran.err
    return msgspec.json.decode(ran.out, type=Trace)


async def test_every_value_leads_to_the_page_and_the_run_that_stated_it(setup: Setup) -> None:
    await sync(setup)
    HELD["/messages"] = [message(1, 0), {"room_id": 1, "number": 1, "rev": 2, "text": "edited"}]
    await sync(setup)
    found = await trace(setup, "messages", "1", "1")
    assert (found.key, found.state, found.events) == ("[1,1]", "shown", ())
    values = {one.column: (one.shown, one.version, one.stamp) for one in found.values}
    newest, oldest = found.pages
    assert values["text"] == ("edited", 2, newest.stamp)
    assert values["reply_in"] == (None, 1, oldest.stamp)
    assert [one.request for one in found.pages] == ["GET /messages"] * 2
    assert [(one.source, one.stream, one.status, one.loaded) for one in found.pages] == [
        ("api", "messages", 200, "loaded")
    ] * 2
    assert [msgspec.json.decode(one.records[0])["text"] for one in found.pages] == ["edited", "hi"]
    assert newest.run != oldest.run
    assert (newest.command, newest.body) == ("sync", "kept")
    assert newest.started is not None


async def test_what_is_withheld_is_told_with_its_reason(setup: Setup) -> None:
    HELD["/messages"] = [message(1, 1, reply_in=7), message(8, 1)]
    await sync(setup)
    shown = {one.column: one for one in (await trace(setup, "messages", "1", "1")).values}["reply_in"]
    assert (shown.shown, shown.stated, shown.reason) == (None, 7, "missing")
    parked = await trace(setup, "messages", "8", "1")
    assert (parked.state, parked.events) == ("withheld: missing", ("waits for rooms [8] (missing)",))
    assert {one.column: one.stated for one in parked.values}["text"] == "hi"
    assert [len(one.records) for one in parked.pages] == [1]
    wanted = await trace(setup, "rooms", "8")
    assert (wanted.state, wanted.events) == ("not in the mirror", ("missing: external, asked for 0 times",))


async def test_deletes_and_dead_letters_are_told(setup: Setup) -> None:
    HELD["/rooms"] += [{"id": 2, "name": "too long"}]
    await sync(setup, exit=3)
    letter = await trace(setup, "rooms", "2")
    assert letter.state == "not in the mirror"
    assert letter.events == ("dead letter 1 (open): name: 8 characters, but the column holds 5",)
    assert [one.records for one in letter.pages] == [('{"id": 2, "name": "too long"}',)]
    HELD["/rooms"], HELD["/gone"], HELD["/messages"] = [], [{"id": 1}], []
    await sync(setup)
    gone = await trace(setup, "rooms", "1")
    assert gone.state == "withheld: deleted"
    assert [one[: len("deleted upstream: gone")] for one in gone.events] == ["deleted upstream: gone"]
    assert {one.stream for one in gone.pages} == {"rooms", "gone"}


async def test_what_was_pruned_or_lost_is_named(setup: Setup) -> None:
    await sync(setup)
    (page,) = (await trace(setup, "rooms", "1")).pages
    log = setup.folder / "mirror.db.pages"
    async with await SqlitePageLog.open(log) as opened:
        await opened.prune([page.stamp])
    (pruned,) = (await trace(setup, "rooms", "1")).pages
    assert (pruned.body, pruned.records, pruned.request) == ("pruned", (), "GET /rooms")
    ran = await cli(setup.config_file, "trace", "rooms", "1")
    assert "(its body is pruned)" in ran.out
    for file in setup.folder.glob("mirror.db.pages*"):
        file.unlink()
    assert (await cli(setup.config_file, "recover")).status == 0
    (lost,) = (await trace(setup, "rooms", "1")).pages
    assert (lost.body, lost.run) == ("not in the page log", None)


async def test_a_missing_parent_is_explained_by_who_wants_it_and_what_was_answered(tmp_path: Path) -> None:
    def answer(path: str, _: dict[str, str]) -> Said:
        if path.startswith("/rooms/"):
            return Said({}, status=404)
        rows = {"/rooms": [{"id": 1, "name": "one"}], "/messages": messages}
        return Said({"data": rows[path]})

    messages = [message(8, number) for number in range(12)] + [message(1, 1, reply_in=9)]
    rooms = {**STREAMS["rooms"], "by_id": {"path": "/rooms/{id}"}}
    async with answering(answer) as url:
        setup = Setup(tmp_path, {"rooms": rooms, "messages": STREAMS["messages"]}, models=MODELS)
        setup.configure(url)
        await sync(setup)
        listed = await cli(setup.config_file, "missing", "--explain", "--json")
        eight, nine = msgspec.json.decode(listed.out, type=list[MissingParent])
        assert (eight.table, eight.key, eight.state, eight.attempts) == ("rooms", "[8]", "gone", 1)
        assert (eight.references, eight.by, eight.policies) == (12, "messages.room_id", ("fetch", "park"))
        assert eight.rows == tuple(f"messages [8,{number}]" for number in (0, 10, 11, *range(1, 8)))
        assert eight.answered is not None
        assert eight.answered.startswith("GET /rooms/8 -> 404 (page ")
        assert (nine.by, nine.rows, nine.policies) == (
            "messages.reply_in",
            ("messages [1,1]",),
            ("fetch", "null"),
        )
        shown = (await cli(setup.config_file, "missing", "--explain")).out
        for part in ("rooms [8]", "gone, asked for 1 time", "and 2 more", "GET /rooms/9 -> 404"):
            assert part in shown
        plain = (await cli(setup.config_file, "missing", "--json")).out
        assert msgspec.json.decode(plain, type=list[MissingParent])[0].rows == ()


async def test_a_trace_reads_well(setup: Setup) -> None:
    HELD["/messages"] = [message(1, 1, text="\x1b[31mred", reply_in=7)]
    await sync(setup)
    ran = await cli(setup.config_file, "trace", "messages", "1", "1")
    assert ran.status == 0
    assert ran.out.splitlines()[0] == "messages [1,1]  shown"
    assert "\x1b" not in ran.out
    for part in ("missing", "GET /messages -> 200", "loaded by load", "sync, run", "record"):
        assert part in ran.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere", "1"), "there is no table 'nowhere'"),
        (("rooms", "1", "2"), "a key of rooms has 1 parts, and 2 are given"),
        (("messages", "1", "x"), "number: expected an integer"),
    ],
)
async def test_a_key_that_cannot_be_is_refused(setup: Setup, arguments: tuple[str, ...], said: str) -> None:
    await sync(setup)
    ran = await cli(setup.config_file, "trace", *arguments)
    assert ran.status == 2
    assert said in ran.err


async def test_a_row_that_nobody_spoke_of_is_not_in_the_mirror(setup: Setup) -> None:
    await sync(setup)
    found = await trace(setup, "rooms", "99")
    assert (found.state, found.values, found.events, found.pages) == ("not in the mirror", (), (), ())
