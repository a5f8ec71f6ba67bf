"""Cases that went wrong once: constraints against what comes back, proofs, remainders, letters, echoes."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import zstandard

from ingest.clock import others
from ingest.config import Config
from ingest.pipeline import limits, open_job
from ingest.pipeline.feed import Load
from ingest.pipeline.run import Run
from ingest.report import Certificate
from ingest.types import LoadCounts
from tests.answering import Said, answering
from tests.integration.jobs import Setup, cli, forget, replace

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

HEAD = """
from sqlalchemy import CheckConstraint, ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from ingest.mirror import Mirror, when_missing


class Base(DeclarativeBase):
    pass


class Room(Base):
    __tablename__ = "rooms"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(5))
    code: Mapped[str] = mapped_column(unique=True, default="")
"""
PARKED = """
class Message(Base):
    __tablename__ = "messages"
    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id", info=when_missing("park")))
    slug: Mapped[str | None] = mapped_column(String(20), unique=True)
"""
NULLED = """
class Message(Base):
    __tablename__ = "messages"
    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int | None] = mapped_column(
        ForeignKey("rooms.id", info=when_missing("null")), unique=True
    )
    slug: Mapped[str | None]
"""
NEVER_NULL = """
class Message(Base):
    __tablename__ = "messages"
    __table_args__ = (CheckConstraint("room_id IS NOT NULL OR slug IS NOT NULL"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int | None] = mapped_column(ForeignKey("rooms.id", info=when_missing("null")))
    slug: Mapped[str | None]
"""
NESTED = """
from sqlalchemy.orm import relationship


class Message(Base):
    __tablename__ = "messages"
    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id"))
    text: Mapped[str | None] = mapped_column(String(20))
    room: Mapped[Room] = relationship()
"""
STUBBED = """
class Message(Base):
    __tablename__ = "messages"
    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id", info=when_missing("stub")))
    slug: Mapped[str | None]
"""


def stream(entity: str, **more: Any) -> dict[str, Any]:
    return {"path": f"/{entity.lower()}", "records": "data", "entity": entity, **more}


STREAMS = {"rooms": stream("Room"), "messages": stream("Message")}


async def run(config: Config, command: str = "sync") -> Certificate:
    async with open_job(config) as job:
        ran: Certificate = await getattr(job, command)()
        return ran


# -- constraints against what comes back -----------------------------------------------------------------


@pytest.mark.parametrize("models", [PARKED, NULLED], ids=["a row", "a value"])
async def test_what_cannot_come_back_beside_another_row_waits_until_it_makes_room(
    tmp_path: Path, models: str
) -> None:
    rooms = [{"id": 1, "name": "a", "code": "a"}]
    messages = [{"id": 1, "room_id": 9, "slug": "s"}]
    rows = {"/room": rooms, "/message": messages}
    async with answering(lambda path, _: Said({"data": rows[path]})) as url:
        setup = Setup(tmp_path, STREAMS, models=HEAD + models)
        config = setup.configure(url)
        assert (await run(config)).exit == 0
        messages[:] = [{"id": 2, "room_id": 1 if models is PARKED else 9, "slug": "s"}]
        assert (await run(config)).exit == 0
        rooms.append({"id": 9, "name": "b", "code": "b"})
        for command in ("sync", "sync", "verify"):
            ran = await run(config, command)
            assert (ran.exit, ran.missing, set(ran.withheld)) == (0, {}, {"collision"})
        # the newer one has all of it, and the other shows what is left
        whole = "SELECT id FROM messages WHERE room_id IS NOT NULL AND slug IS NOT NULL"
        assert setup.ask(whole) == [(2,)]
        messages[:] = [{"id": 2, "room_id": 1, "slug": "t"}]
        await run(config)
        assert (await run(config, "verify")).withheld == {}
        assert setup.ask("SELECT id, room_id FROM messages ORDER BY id") == [(1, 9), (2, 1)]


@pytest.mark.parametrize("models", [NEVER_NULL, STUBBED], ids=["null", "stub"])
async def test_what_a_constraint_does_not_let_stay_is_kept_aside_whole(tmp_path: Path, models: str) -> None:
    rooms = [{"id": 1, "name": "a", "code": ""}]
    messages = [{"id": 1, "room_id": 9, "slug": None}, {"id": 2, "room_id": 8, "slug": "s"}]
    rows = {"/room": rooms, "/message": messages}
    async with answering(lambda path, _: Said({"data": rows[path]})) as url:
        setup = Setup(tmp_path, STREAMS, models=HEAD + models)
        config = setup.configure(url)
        ran = await asyncio.wait_for(run(config), 30)
        assert (ran.exit, sorted(ran.missing.values())) == (0, [2])
        assert setup.ask("SELECT id FROM messages WHERE id = 1") == []
        rooms += [{"id": 8, "name": "b", "code": "b"}, {"id": 9, "name": "b", "code": "c"}]
        ran = await run(config)
        assert (ran.exit, ran.withheld) == (0, {})
        assert setup.ask("SELECT id, room_id FROM messages ORDER BY id") == [(1, 9), (2, 8)]


# -- proofs and order ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pages", [None, 1], ids=["in one run", "a page a run"])
async def test_what_is_made_again_after_it_was_deleted_is_there(tmp_path: Path, pages: int | None) -> None:
    models = (
        HEAD
        + """
class Thing(Base):
    __tablename__ = "things"
    __mirror__ = Mirror(deleted="gone", purge=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    gone: Mapped[bool | None]
"""
    )
    log = [
        {"id": 1, "name": "a", "gone": False},
        {"id": 1, "name": None, "gone": True},
        {"id": 1, "name": "b", "gone": False},
    ]

    def answer(_: str, query: dict[str, str]) -> Said:
        at = int(query.get("c", 0))
        return Said({"data": log[at : at + 1], "next": str(min(at + 1, 3))})

    paged = {"kind": "cursor", "next": "next", "param": "c", "tail": True}
    if pages is not None:
        paged["max_pages"] = pages
    async with answering(answer) as url:
        setup = Setup(tmp_path, {"things": stream("Thing", paginate=paged)}, models=models)
        config = setup.configure(url)
        for _ in range(4):
            await run(config)
        assert setup.ask("SELECT id, name FROM things") == [(1, "b")]


async def test_a_dead_letter_taken_in_later_is_older_than_what_came_after_it(tmp_path: Path) -> None:
    room = {"id": 1, "code": "a"}
    async with answering(lambda *_: Said({"data": [room]})) as url:
        setup = Setup(tmp_path, {"rooms": STREAMS["rooms"]}, models=HEAD)
        setup.configure(url)
        for name in ("ab", "much too long", "ab"):
            room["name"] = name
            await cli(setup.config_file, "sync")
        letters = setup.ask('SELECT "table", "key", state FROM ingest_dead_letters')
        assert letters == [("rooms", "[1]", "settled")], "all of it was said anew, and later"
        room["name"] = "much too long"
        await cli(setup.config_file, "sync")
        replace(tmp_path / "chat" / "models.py", "String(5)", "String(50)")
        forget("chat")
        assert (await cli(setup.config_file, "dead-letters", "retry")).status == 0
        assert setup.ask("SELECT name FROM rooms") == [("much too long",)]
        room["name"] = "ab"
        assert (await cli(setup.config_file, "sync")).status == 0
        assert setup.ask("SELECT name FROM rooms") == [("ab",)]


async def test_an_open_dead_letter_keeps_equal_records_from_being_passed_over(tmp_path: Path) -> None:
    models = HEAD.replace("unique=True, ", "") + NESTED
    said = {"id": 1, "room_id": 1, "text": "x", "room": {"id": 1, "name": "ab"}}
    async with answering(lambda *_: Said({"data": [said]})) as url:
        setup = Setup(tmp_path, {"messages": STREAMS["messages"]}, models=models)
        setup.configure(url)
        for text, name in (("x", "ab"), ("x" * 30, "cd"), ("x", "ab")):
            said |= {"text": text, "room": {"id": 1, "name": name}}
            await cli(setup.config_file, "sync")
        replace(tmp_path / "chat" / "models.py", "String(20)", "String(50)")
        forget("chat")
        assert (await cli(setup.config_file, "dead-letters", "retry")).status == 0
        assert setup.ask("SELECT name, text FROM messages JOIN rooms ON rooms.id = room_id") == [("ab", "x")]


async def test_letters_of_a_lost_page_log_stay_open(tmp_path: Path) -> None:
    async with answering(lambda *_: Said({"data": [{"id": "x"}]})) as url:
        setup = Setup(tmp_path, {"rooms": STREAMS["rooms"]}, models=HEAD)
        setup.configure(url)
        await cli(setup.config_file, "sync")
        for file in tmp_path.glob("mirror.db.pages*"):
            file.unlink()
        await cli(setup.config_file, "dead-letters", "retry")
        assert setup.ask("SELECT state FROM ingest_dead_letters") == [("open",)]


# -- what is left ----------------------------------------------------------------------------------------


async def test_a_remainder_is_in_the_certificate_and_leaves_the_window_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_: str, query: dict[str, str]) -> Said:
        at = int(query.get("c", 0))
        rooms = [{"id": 10 * at + index, "name": "", "code": f"{at}-{index}"} for index in range(10)]
        return Said({"data": rooms, "next": str(at + 1) if at < 9 else None})

    async def killed(*_: object, **__: object) -> None:
        raise RuntimeError

    paged = {"kind": "cursor", "next": "next", "param": "c"}
    async with answering(answer) as url:
        setup = Setup(tmp_path, {"rooms": stream("Room", paginate=paged)}, models=HEAD)
        config = setup.configure(url)
        with monkeypatch.context() as patch:
            patch.setattr(limits, "BULK", 30)
            patch.setattr(limits, "BATCH", 30)
            patch.setattr(Run, "_settle", killed)
            with pytest.raises(RuntimeError):
                await run(config)
        made = await run(config, "verify")
        async with open_job(config, write=False) as job:
            known = await job.status()
        assert made.pending == known.pending_pages > 0
        assert (made.exit, known.window is not None) == (3, True)
        made = await run(config, "recover")
        async with open_job(config, write=False) as job:
            known = await job.status()
        assert (made.exit, made.pending, known.window, known.rows["rooms"]) == (0, 0, None, 100)


@pytest.mark.parametrize("command", ["verify", "recover"])
async def test_gaps_are_in_every_certificate(tmp_path: Path, command: str) -> None:
    def answer(_: str, query: dict[str, str]) -> Said:
        at = int(query.get("c", 10))
        return Said({"data": [{"id": at, "code": str(at)}], "next": str(at - 1) if at > 1 else None})

    paged = {"kind": "cursor", "next": "next", "param": "c", "max_pages": 2}
    streams = {"rooms": stream("Room", paginate=paged, order="newest-first", key="id")}
    async with answering(answer) as url:
        config = Setup(tmp_path, streams, models=HEAD).configure(url)
        first, again = await run(config), await run(config, command)
        assert (again.exit, again.gaps) == (first.exit, first.gaps) == (3, 1)


async def test_what_was_not_proven_is_looked_at_until_it_is(tmp_path: Path) -> None:
    rows = {"/room": [{"id": 1, "code": "a"}], "/message": [{"id": 1, "room_id": 1}]}
    async with answering(lambda path, _: Said({"data": rows[path]})) as url:
        setup = Setup(tmp_path, STREAMS, models=HEAD + NULLED)
        config = setup.configure(url)
        assert (await run(config)).exit == 0
        with closing(sqlite3.connect(setup.database)) as database, database:
            # behind our back, and no step looks at it again
            database.execute("DELETE FROM rooms")
        rows["/room"], rows["/message"] = [], []
        assert (await run(config)).exit == 0
        assert (await run(config, "verify")).exit == 4
        assert (await run(config)).exit == 4


async def test_healing_goes_on_however_much_it_brings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BACKLOG", 2000)
    rooms = {"data": [{"id": 1000 + at, "code": str(at)} for at in range(100)]}
    messages = {"data": [{"id": at, "room_id": at} for at in range(60)]}
    by_id = {"path": "/room", "param": "ids", "records": "data"}
    streams = {"messages": stream("Message"), "rooms": {"entity": "Room", "records": "data", "by_id": by_id}}
    models = HEAD + PARKED.replace('"park"', '"fetch", "park"')
    async with answering(lambda path, _: Said(messages if path == "/message" else rooms)) as url:
        config = Setup(tmp_path, streams, models=models).configure(url)
        ran = await asyncio.wait_for(run(config), 60)
        # the server ignored which ids it was asked for, and so it has not said that any is gone
        assert (ran.exit, ran.missing, ran.fetch.requests) == (0, {"wanted": 60}, 61)


async def test_fetching_waits_while_too_much_is_unloaded(tmp_path: Path) -> None:
    rooms = [{"id": at, "code": str(at)} for at in range(10)]
    async with answering(lambda *_: Said({"data": rooms})) as url:
        config = Setup(tmp_path, {"rooms": STREAMS["rooms"]}, models=HEAD).configure(url)
        async with open_job(config) as job:
            ours = Run(job._machine, "one", "sync")
            seen: list[int] = []
            loaded = ours._loaded

            async def watched(load: Load, *rest: Any) -> None:
                seen.append(ours._pending)
                await loaded(load, *rest)
                seen.append(ours._pending)

            ours._loaded = watched  # type: ignore[method-assign]
            await ours.go(job._machine.chosen(()), lambda fetcher: fetcher.sync(), whole=False, load=True)
            assert seen == [10, 0]

            ours._pending = limits.BACKLOG
            waiting = asyncio.ensure_future(ours._gate())
            await asyncio.wait([waiting], timeout=0)
            await others()
            assert not waiting.done()
            await loaded(Load(0, records=1), LoadCounts(), Counter())
            await waiting


# -- echoes ----------------------------------------------------------------------------------------------

SECRET = "s3cr3t-0123456789abcdef"
ECHOES = {
    "a header's, in a record": ({"header": {"X-Api-Key": "$K"}}, {}),
    "a query's, in a record": ({"query": {"api_key": "$K"}}, {}),
    "a password, in a record": ({"basic": ["$U", "$K"]}, {}),
    "a token, in a Link": ({"bearer": "$K"}, {"kind": "link", "max_pages": 1}),
    "a header's, in a next URL": (
        {"header": {"X-Api-Key": "$K"}},
        {"kind": "url", "next": "next", "max_pages": 1},
    ),
}


@pytest.mark.parametrize("case", ECHOES)
async def test_a_credential_that_a_server_repeats_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv("K", SECRET)
    monkeypatch.setenv("U", "user")
    auth, paged = ECHOES[case]

    def answer(*_: object) -> Said:
        url = f"{base}/room?page=2&key={SECRET}"
        rooms = [{"id": 1, "name": "a", "code": SECRET}]
        return Said({"data": rooms, "next": url}, headers={"Link": f'<{url}>; rel="next"'})

    async with answering(answer) as base:
        more = {"paginate": paged} if paged else {}
        setup = Setup(tmp_path, {"rooms": stream("Room", **more)}, models=HEAD, auth=auth)
        await run(setup.configure(base))
        assert setup.ask("SELECT code FROM rooms") == [("REDACTED",)]
        with closing(sqlite3.connect(f"{setup.database}.pages")) as log:
            bodies = log.execute("SELECT zstd FROM body").fetchall()
            envelopes = str(log.execute("SELECT * FROM page").fetchall())
        held = envelopes + "".join(zstandard.decompress(body).decode() for (body,) in bodies)
        assert "REDACTED" in held
        assert SECRET not in held + str(setup.ask("SELECT * FROM rooms"))


# -- what a definition names and no record has -----------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"messages": {"key": "sentAt"}}, "'sentAt'", id="a key"),
        pytest.param({"messages": {"path": "/message/{rooms.idd}"}}, "'idd'", id="a parameter"),
    ],
)
async def test_what_leads_nowhere_in_every_record_is_told(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    rooms = [{"id": 1, "code": "a"}, {"id": 2, "code": "b"}]
    messages = [{"id": 1, "room_id": 1, "slug": "s"}, {"id": 2, "room_id": 2, "slug": "t"}]
    each = {"path": "/message/{rooms.id}", "each": "rooms", "key": "slug"}
    streams = {"rooms": stream("Room"), "messages": stream("Message", **each) | change["messages"]}
    async with answering(lambda path, _: Said({"data": rooms if path == "/room" else messages})) as url:
        config = Setup(tmp_path, streams, models=HEAD + PARKED).configure(url)
        ran = await run(config)
        assert ran.exit == 3
        assert [said in failure.cause for failure in ran.fetch.failures] == [True]
        assert {one.table: one.rows for one in ran.tables}["rooms"] == 2


async def test_partitions_that_may_not_be_read_are_counted(tmp_path: Path) -> None:
    rooms = [{"id": 1, "code": "a"}, {"id": 2, "code": "b"}]
    each = stream("Message", path="/message/{rooms.id}", each="rooms")
    answers = {"/room": Said({"data": rooms})}
    async with answering(lambda path, _: answers.get(path, Said({}, status=403))) as url:
        config = Setup(tmp_path, {"rooms": stream("Room"), "messages": each}, models=HEAD + PARKED).configure(
            url
        )
        ran = await run(config)
        assert (ran.exit, ran.fetch.unseen) == (0, ("messages: 2 partitions may not be read",))


async def test_a_preview_needs_no_mirror(tmp_path: Path) -> None:
    async with answering(lambda *_: Said({"data": [{"id": 1, "code": "a", "shade": 1}]})) as url:
        setup = Setup(tmp_path, {"rooms": STREAMS["rooms"]}, models=HEAD)
        setup.configure(url)
        ran = await cli(setup.config_file, "preview", "api", "rooms")
        assert (ran.status, "shade" in ran.out) == (0, True), ran.err
        ran = await cli(setup.config_file, "preview", "ipa", "rooms")
        assert (ran.status, "known: api" in ran.err) == (2, True)
        assert not setup.database.exists()


# -- the end ---------------------------------------------------------------------------------------------


async def test_a_run_that_is_cancelled_leaves_no_error_unheard(tmp_path: Path) -> None:
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    asked = asyncio.Event()

    def answer(*_: object) -> Said:
        asked.set()
        return Said({}, status=429, headers={"Retry-After": "30"})

    async with answering(answer) as url:
        config = Setup(tmp_path, {"rooms": STREAMS["rooms"]}, models=HEAD).configure(url)
        running = asyncio.ensure_future(run(config))
        await asked.wait()
        running.cancel()
        # nothing may hold the error, and with it what the run had in hand
        with suppress(asyncio.CancelledError):
            await running
        assert running.cancelled()
        del running
        gc.collect()
        await others()
        assert unheard == []
