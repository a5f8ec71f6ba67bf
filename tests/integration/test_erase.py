"""`ingest erase`: a row's values go out of all that is kept, everything else stays, and it is proven."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest.database import Database
from ingest.engines.sqlite import SqliteEngine
from ingest.pipeline import open_job
from ingest.report import Erased
from ingest.staging import SqlitePageLog
from ingest.types import Page
from tests.answering import Said, answering
from tests.integration.jobs import Ran, Setup, cli

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

MODELS = """
from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from ingest.mirror import Mirror, complete, field, when_missing


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    __mirror__ = Mirror(version="rev")
    id: Mapped[int] = mapped_column(primary_key=True)
    rev: Mapped[int | None]
    name: Mapped[str | None] = mapped_column(String(40))
    mail: Mapped[str | None] = mapped_column(String(40), info=field("contact.mail"))


class Message(Base):
    __tablename__ = "messages"
    __mirror__ = Mirror(version="rev")
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int | None] = mapped_column(
        ForeignKey("users.id", ondelete="SET NULL", info=when_missing("null"))
    )
    owner_id: Mapped[int | None] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE", info=when_missing("park"))
    )
    keeper_id: Mapped[int | None] = mapped_column(
        ForeignKey("users.id", ondelete="RESTRICT", info=when_missing("stub"))
    )
    rev: Mapped[int | None]
    text: Mapped[str | None]
    by: Mapped[str | None] = mapped_column(info=field("author.signed"))
    author: Mapped[User | None] = relationship(foreign_keys=[author_id])
    files: Mapped[list["File"]] = relationship(info=complete())


class File(Base):
    __tablename__ = "files"
    message_id: Mapped[int] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str | None]
"""
STREAMS = {
    "users": {
        "path": "/users",
        "records": "data",
        "entity": "User",
        "by_id": {"path": "/users/{id}", "records": "user"},
    },
    "messages": {"path": "/messages", "records": "data", "entity": "Message"},
}
#: what is said of user 1, and must be gone
NAME, MAIL, NOTE, SIGNED = "Ada Lovelace-Byron", "ada@engines.example", 'her own words ü"', "signed Ada L."
VALUES = (NAME, MAIL, NOTE)
ADA = {"id": 1, "rev": 3, "name": NAME, "contact": {"mail": MAIL}, "note": NOTE}
BOB = {"id": 2, "rev": 1, "name": "Robert Builder", "contact": {"mail": "bob@builders.example"}}


def message(id: int, **more: Any) -> dict[str, Any]:
    return {"id": id, "text": f"text number {id}", **more}


class World:
    """A mirror of what a server holds, and what the server holds."""

    def __init__(self, folder: Path, url: str, held: dict[str, Any], **setup: Any) -> None:
        self.held, self.setup = held, Setup(folder, STREAMS, models=MODELS, **setup)
        self.setup.configure(url)
        self.url = url

    async def sync(self, *, exit: int = 0) -> None:
        ran = await cli(self.setup.config_file, "sync")
        assert ran.status == exit, ran.err

    async def run(self, *arguments: str) -> Ran:
        return await cli(self.setup.config_file, *arguments)

    async def erase(self, *arguments: str, exit: int = 0) -> Erased:
        ran = await self.run("erase", *arguments, "--json")
        assert ran.status == exit, (ran.out, ran.err)
        for value in VALUES:
            assert value not in ran.out + ran.err
        return msgspec.json.decode(ran.out, type=Erased)

    async def do(self, command: str, *arguments: Any, **more: Any) -> Any:
        async with open_job(self.setup.configure(self.url), clock=self.setup.clock) as job:
            return await getattr(job, command)(*arguments, **more)

    async def pages(self) -> list[Page]:
        async with await SqlitePageLog.open(self.setup.folder / "mirror.db.pages", readonly=True) as log:
            return await log.read()

    def bytes(self) -> bytes:
        """All that is in the files of both stores, and all cells and bodies."""
        files = (self.setup.folder.glob("mirror.db*")) if self.setup.database.exists() else ()
        return b"\0".join(path.read_bytes() for path in sorted(files))

    async def traces(self) -> list[str]:
        """Where one of the values still is, however it is spelled."""
        forms = [(value, _forms(value)) for value in VALUES]
        bodies = [("page", page.body or b"") for page in await self.pages()]
        return [
            f"{where}: {value}"
            for where, blob in [*bodies, ("files", self.bytes())]
            for value, spelled in forms
            if any(form in blob for form in spelled)
        ]

    async def traces_in_files(self) -> list[str]:
        """The values that are in the files."""
        return [value for value in VALUES if any(form in self.bytes() for form in _forms(value))]

    def letters(self) -> list[tuple[Any, ...]]:
        return self.setup.ask('SELECT "key", raw, reason, state FROM ingest_dead_letters ORDER BY id')


def _forms(value: str) -> tuple[bytes, ...]:
    plain, escaped = json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1]
    return value.encode(), plain.encode(), escaped.encode()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    held: dict[str, Any] = {"/users": [ADA, BOB], "/messages": [message(1)]}

    def answer(path: str, _: dict[str, str]) -> Said:
        if path.startswith("/users/"):
            asked = [one for one in held.get("by id", ()) if path == f"/users/{one['id']}"]
            return Said({"user": asked[0]}) if asked else Said({}, status=404)
        body = held[path]
        if isinstance(body, Said):
            return body
        return Said(body if isinstance(body, bytes) else {"data": body})

    async with answering(answer) as url:
        yield World(tmp_path / "one", url, held)


async def test_every_value_goes_and_every_other_row_stays(world: World) -> None:
    signed = {"id": 1, "rev": 2, "name": NAME, "signed": SIGNED}
    world.held["/messages"] = [message(1, author=signed, files=[{"path": "first file"}]), message(2)]
    await world.sync()
    assert {line.partition(":")[2] for line in await world.traces()} >= {f" {one}" for one in VALUES}
    before = world.setup.ask('SELECT id, text, "by" FROM messages ORDER BY id')
    done = await world.erase("users", "1")
    assert (done.table, done.key, done.done, done.shown) == ("users", "[1]", True, True)
    assert (done.records, done.pages, done.faults, done.exit) == (2, 2, (), 0)
    assert done.values >= len(VALUES)
    assert {Path(one).name for one in done.files} >= {"mirror.db", "mirror.db.pages"}
    assert await world.traces() == []
    assert world.setup.ask("SELECT id, name FROM users") == [(2, "Robert Builder")]
    assert world.setup.ask('SELECT id, text, "by" FROM messages ORDER BY id') == before
    assert world.setup.ask("SELECT * FROM ingest_tombstones") == [
        ("users", "[1]", 2**62, 2**62, f"erased {(await world.pages())[-1].stamp}")
    ]
    users, messages, erasure = await world.pages()
    assert msgspec.json.decode(users.body or b"") == {"data": [{"id": 1}, BOB]}
    # what another row takes of it stays, and what else is nested
    (said, _) = msgspec.json.decode(messages.body or b"")["data"]
    assert said == {
        **message(1),
        "author": {"id": 1, "signed": SIGNED},
        "files": [{"path": "first file"}],
    }
    assert msgspec.json.decode(erasure.body or b"") == {"key": [1], "table": "users", "pages": [1, 2]}
    assert (await world.do("verify")).exit == 0


async def test_a_rebuild_gives_the_same_mirror(world: World) -> None:
    ada = {**ADA, "signed": SIGNED}
    world.held["/messages"] = [
        message(1, author=ada, files=[{"path": "a"}, {"path": "b"}]),
        message(2, owner_id=1),
        message(3, keeper_id=1, author=BOB),
    ]
    await world.sync()
    await world.erase("users", "1")
    digest = await world.do("digest")
    assert (await world.do("replay", None, rebuild=True)).exit == 0
    assert await world.do("digest") == digest
    assert await world.traces() == []


async def test_a_row_with_lists_is_erased_and_its_lists_are_ranked_as_before(world: World) -> None:
    world.held["/messages"] = [message(1, rev=5, files=[{"path": "b"}])]
    await world.sync()
    world.held["/messages"] = [message(1, rev=4, files=[{"path": "a"}, {"path": "b"}])]
    await world.sync()
    done = await world.erase("messages", "1")
    assert (done.faults, done.referring) == ((), {"files": 1})
    digest = await world.do("digest")
    await world.do("replay", None, rebuild=True)
    assert await world.do("digest") == digest
    assert world.setup.ask("SELECT id FROM messages UNION ALL SELECT place FROM files") == []


async def test_nothing_that_is_said_later_brings_it_back(world: World) -> None:
    await world.sync()
    await world.erase("users", "1")
    digest = await world.do("digest")
    world.held["/users"] = [{**ADA, "rev": 99}, BOB]
    world.held["/messages"] = [message(1), message(2, author={**ADA, "rev": 100})]
    await world.sync()
    assert world.setup.ask("SELECT id FROM users") == [(2,)]
    assert world.setup.ask("SELECT * FROM ingest_withheld WHERE \"table\" = 'users'") == []
    assert world.setup.ask("SELECT * FROM ingest_missing") == []
    assert await world.do("digest") != digest  # there is another message
    found = await world.traces()
    assert found, "what came again is in the page log again"
    assert not [line for line in found if line.startswith("files")], "and nowhere else"
    done = await world.erase("users", "1")
    assert (done.shown, done.pages, done.faults) == (False, 2, ())
    assert await world.traces() == []
    assert (await world.erase("users", "1")).pages == 0
    assert len([page for page in await world.pages() if page.envelope.walk.kind == "erased"]) == 2


async def test_rows_that_refer_to_it_follow_their_foreign_keys_rules(world: World) -> None:
    world.held["/messages"] = [
        message(1, author_id=1),
        message(2, owner_id=1),
        message(3, keeper_id=1),
        message(4, owner_id=2),
    ]
    await world.sync()
    done = await world.erase("users", "1")
    assert done.referring == {"messages": 3}
    shown = world.setup.ask("SELECT id, author_id, owner_id, keeper_id FROM messages ORDER BY id")
    assert shown == [(1, None, None, None), (3, None, None, None), (4, None, 2, None)]
    aside = 'SELECT "key", "column", reason FROM ingest_withheld WHERE value IS NOT NULL ORDER BY "key"'
    assert world.setup.ask(aside) == [
        ("[1]", "author_id", "deleted"),
        ("[2]", "", "cascade"),
        ("[3]", "keeper_id", "deleted"),
    ]
    assert world.setup.ask("SELECT id FROM users ORDER BY id") == [(2,)]


async def test_a_stub_and_a_key_that_is_only_waited_for_can_be_erased(world: World) -> None:
    world.held["/users"], world.held["/messages"] = [BOB], [message(1, keeper_id=1)]
    await world.sync()
    assert world.setup.ask("SELECT id, name FROM users ORDER BY id") == [(1, None), (2, "Robert Builder")]
    done = await world.erase("users", "1")
    assert (done.shown, done.records, done.referring, done.faults) == (True, 0, {"messages": 1}, ())
    assert world.setup.ask("SELECT id FROM users") == [(2,)]
    world.held["/messages"] = [message(1, owner_id=7)]
    await world.sync()
    done = await world.erase("users", "7")
    assert (done.shown, done.referring) == (False, {"messages": 1})
    assert world.setup.ask("SELECT * FROM ingest_missing") == []


async def test_what_is_only_kept_aside_is_erased(world: World) -> None:
    world.held["/messages"] = [message(1, owner_id=9, text=NAME)]
    await world.sync()
    assert world.setup.ask("SELECT * FROM messages") == []
    done = await world.erase("messages", "1")
    assert (done.shown, done.withheld, done.faults) == (False, 2, ())
    assert world.setup.ask("SELECT * FROM ingest_withheld") == []
    assert done.said == ("page 1", "users 1")


async def test_a_dead_letter_is_emptied_and_those_beside_it_are_cut_anew(world: World) -> None:
    world.held["/users"] = [BOB, {**ADA, "name": NAME * 9}]
    world.held["/messages"] = [
        {**message(1), "id": "none", "author": ADA},
        message(2, author={**ADA, "rev": "none"}),
    ]
    await world.sync(exit=3)
    assert len(world.letters()) == 3
    done = await world.erase("users", "1")
    assert (done.letters, done.shown, done.faults) == (1, False, ())
    mine, other, nested = world.letters()
    assert (mine[0], mine[1], mine[3]) == ("[1]", b'{"id":1}', "settled")
    assert msgspec.json.decode(other[1]) == {**message(1), "id": "none", "author": {"id": 1}}
    assert other[3] == "open"
    assert (nested[3], msgspec.json.decode(nested[1])["author"]) == ("settled", {"id": 1})
    assert await world.traces() == []
    assert (await world.run("dead-letters", "retry")).status in (0, 3)
    assert (await world.do("verify")).exit == 0
    assert await world.traces() == []


async def test_a_page_that_cannot_be_read_is_emptied_where_it_holds_a_value(world: World) -> None:
    await world.sync()
    # what is no JSON is not staged by a fetcher; a recording, or another version, may have brought it
    broken = b'{"data": [{"id": 5, "text": "' + MAIL.encode() + b'"'
    async with await SqlitePageLog.open(world.setup.folder / "mirror.db.pages") as log:
        (last,) = (page for page in await log.read() if page.envelope.stream == "messages")
        digest = hashlib.sha256(broken).hexdigest()
        await log.append(msgspec.structs.replace(last.envelope, digest=digest), broken, after=last.stamp)
    assert (await world.run("recover")).status == 3
    done = await world.erase("users", "1")
    assert (len(done.emptied), done.faults) == (1, ())
    assert await world.traces() == []
    assert [letter[1:] for letter in world.letters()] == [
        (b"", "it could not be read, and said something of a row that is erased", "settled")
    ]
    digest = await world.do("digest")
    await world.do("replay", None, rebuild=True)
    assert await world.do("digest") == digest


async def test_the_letter_of_a_page_that_there_was_no_memory_for_is_cut_anew(world: World) -> None:
    await world.sync()
    (users, *_) = await world.pages()
    with closing(sqlite3.connect(world.setup.database)) as database, database:
        database.execute("UPDATE ingest_pages SET state = 'quarantined' WHERE stamp = 1")
        database.execute("UPDATE ingest_loads SET quarantined = 1")
        database.execute(
            "INSERT INTO ingest_dead_letters (log, stamp, ordinal, raw, reason, state)"
            " SELECT log, 1, -1, ?, 'there was not enough memory', 'open' FROM ingest_logs",
            (users.body,),
        )
    done = await world.erase("users", "1")
    assert done.faults == ()
    assert await world.traces() == []
    ((_, raw, reason, state),) = world.letters()
    assert msgspec.json.decode(raw) == {"data": [{"id": 1}, BOB]}
    assert (reason, state) == ("there was not enough memory", "open")


async def test_a_row_is_erased_though_the_pages_that_stated_it_are_pruned(world: World) -> None:
    await world.sync()
    assert (await world.run("prune", "--keep", "0s")).status == 0
    assert [page.body for page in await world.pages()] == [None, None]
    done = await world.erase("users", "1")
    assert (done.shown, done.records, done.pages, done.faults) == (True, 0, 0, ())
    assert done.values >= 2
    assert await world.traces() == []


async def test_another_program_that_reads_the_mirror_is_waited_for_and_told_of(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.sync()
    monkeypatch.setattr("ingest.engines.sqlite._BUSY", 50)
    with closing(sqlite3.connect(world.setup.database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT name FROM users WHERE id = 1").fetchall() == [(NAME,)]
        ran = await world.run("erase", "users", "1")
    assert ran.status == 1
    assert "another program reads it, and keeps what was deleted from it" in ran.err
    assert "run the same command again" in ran.err
    assert (await world.erase("users", "1")).faults == ()
    assert await world.traces() == []


async def test_an_answer_by_id_is_rewritten(world: World) -> None:
    world.held["/users"], world.held["by id"] = [BOB], [ADA]
    config = world.setup.folder / "chat" / "models.py"
    config.write_text(MODELS.replace('when_missing("park")', 'when_missing("fetch", "park")'))
    world.held["/messages"] = [message(1, owner_id=1)]
    await world.sync()
    assert world.setup.ask("SELECT name FROM users WHERE id = 1") == [(NAME,)]
    done = await world.erase("users", "1")
    assert (done.records, done.pages, done.faults) == (1, 1, ())
    (asked,) = [page for page in await world.pages() if page.envelope.walk.kind == "by_id"]
    assert asked.body == b'{"user":{"id":1}}'
    # and it is not asked for again
    world.held["/messages"] = [message(1, owner_id=1), message(2, owner_id=1)]
    await world.sync()
    assert len([page for page in await world.pages() if page.envelope.walk.kind == "by_id"]) == 1


async def test_another_mirror_of_the_same_page_log_learns_of_it(world: World, tmp_path: Path) -> None:
    world.held["/messages"] = [message(1, author=ADA, owner_id=1)]
    await world.sync()
    other = World(tmp_path / "other", world.url, world.held)
    other.setup.tables["staging"] = {"path": str(world.setup.folder / "mirror.db.pages")}
    assert (await other.do("recover")).exit == 0
    assert await other.do("digest") == await world.do("digest")
    await world.erase("users", "1")
    assert (await other.do("recover")).exit == 0
    assert other.setup.ask("SELECT id FROM users") == [(2,)]
    assert await other.do("digest") == await world.do("digest")
    assert (await other.do("verify")).exit == 0
    # what its own files have let go, it has to see to by itself
    assert (await other.do("erase", "users", ["1"])).faults == ()
    assert await other.traces_in_files() == []


async def test_what_an_answer_said_when_a_partition_gave_up_goes_too(world: World) -> None:
    await world.sync()
    config = world.setup.folder / "chat" / "source.toml"
    config.write_text(config.read_text().replace('path = "/messages"', 'path = "/refused"'))
    world.held["/refused"] = Said({"error": f"{MAIL} may not see this"}, status=403)
    await world.sync(exit=3)
    causes = "SELECT certificate FROM ingest_runs ORDER BY started, id"
    assert MAIL in str(world.setup.ask(causes))
    assert (await world.erase("users", "1")).faults == ()
    assert MAIL not in str(world.setup.ask(causes))
    assert "it was of a row that is erased" in str(world.setup.ask(causes))
    assert (await world.run("runs")).status == 0
    assert await world.traces() == []


async def test_what_others_say_too_is_named_and_no_fault(world: World) -> None:
    world.held["/users"] = [ADA, BOB | {"name": NAME}]
    await world.sync()
    done = await world.erase("users", "1")
    assert (done.said, done.faults) == (("page 1", "users 2"), ())
    told = (await world.run("erase", "users", "1")).out
    assert told.splitlines()[-1] == "its values are gone"  # they are not known any more


async def test_words_that_the_stores_are_made_of_are_no_remnants(world: World) -> None:
    world.held["/users"] = [{**ADA, "words": ["RESTRICT", "messages", "INTEGER", "partition"]}, BOB]
    await world.sync()
    with closing(sqlite3.connect(world.setup.database)) as database, database:
        database.execute("CREATE TABLE of_another_program (id INTEGER PRIMARY KEY, text TEXT)")
        database.execute("INSERT INTO of_another_program VALUES (7, ?)", (NAME,))
    done = await world.erase("users", "1")
    assert done.faults == ()
    assert "of_another_program 7" in done.said


async def test_what_json_has_no_word_for_stays_as_it_was_read(world: World) -> None:
    odd = b'{"id": 3, "name": "\\ud800", "x": NaN, "y": 123456789012345678901234567890, "z": 1e999}'
    world.held["/users"] = b'{"data": [' + json.dumps(ADA).encode() + b", " + odd + b"]}"
    await world.sync(exit=3)
    done = await world.erase("users", "1")
    assert (done.pages, done.faults) == (1, ())
    (page, *_) = await world.pages()
    ada, other = json.loads(page.body or b"")["data"]
    assert ada == {"id": 1}
    assert repr(other) == repr(json.loads(odd))
    assert await world.traces() == []


async def test_without_carrying_it_out_nothing_changes(world: World) -> None:
    await world.sync()
    before, pages = await world.do("digest"), await world.pages()
    done = await world.erase("users", "1", "--dry-run")
    assert (done.done, done.shown, done.records, done.pages) == (False, True, 1, 1)
    assert (await world.do("digest"), await world.pages()) == (before, pages)
    ran = await world.run("erase", "users", "1", "--dry-run")
    assert ran.out.splitlines()[0] == "users [1]  would be erased"
    ran = await world.run("erase", "users", "1")
    assert (ran.out.splitlines()[0], ran.out.splitlines()[-1]) == (
        "users [1]  erased",
        "its values are gone",
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere", "1"), "there is no table 'nowhere'"),
        (("users", "1", "2"), "a key of users has 1 parts, and 2 are given"),
        (("users", "x"), "id: expected an integer"),
        (("users", "-5"), "neither the mirror nor the page log ever heard of such a row"),
    ],
)
async def test_a_key_that_cannot_be_is_refused_and_nothing_is_written(
    world: World, arguments: tuple[str, ...], said: str
) -> None:
    await world.sync()
    pages = await world.pages()
    ran = await world.run("erase", *arguments)
    assert (ran.status, said in ran.err) == (2, True), ran.err
    assert await world.pages() == pages


async def test_an_open_window_is_closed_first(world: World) -> None:
    await world.sync()
    with closing(sqlite3.connect(world.setup.database)) as database, database:
        database.execute('UPDATE ingest_lock SET "window" = \'{"why":"a test"}\'')
    ran = await world.run("erase", "users", "1")
    assert (ran.status, "its integrity window is open: a test" in ran.err) == (2, True), ran.err
    assert "ingest recover" in ran.err
    assert (await world.run("recover")).status == 0
    assert (await world.erase("users", "1")).faults == ()


async def test_a_trace_says_that_it_was_erased(world: World) -> None:
    await world.sync()
    await world.erase("users", "1")
    ran = await world.run("trace", "users", "1")
    assert ran.status == 0, ran.err
    assert "erased by page 3" in ran.out
    assert "ERASE users [1]" in ran.out


async def test_a_recording_leaves_the_erasure_out(world: World, tmp_path: Path) -> None:
    await world.sync()
    await world.erase("users", "1")
    ran = await world.run("record", "api", "--to", str(tmp_path / "recorded"))
    assert (ran.status, ran.out) == (0, f"2 pages written to {tmp_path / 'recorded'}\n")


async def test_what_the_proof_finds_is_told_and_is_no_success(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_at_all(self: Any, *arguments: Any) -> None: ...

    await world.sync()
    with monkeypatch.context() as patched:
        patched.setattr("ingest.engines.sqlite.SqliteEngine.compact", not_at_all)
        patched.setattr("ingest.staging.sqlite.SqlitePageLog.compact", not_at_all)
        done = await world.erase("users", "1", exit=4)
    named = {Path(one.partition(":")[0]).name for one in done.faults}
    assert named >= {"mirror.db", "mirror.db.pages-wal"}, done.faults
    assert [one for one in done.faults if "a body as it was before" in one]
    assert (await world.erase("users", "1")).faults == ()


async def test_what_stored_bodies_have_in_common_is_no_remnant(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.sync()
    # every compressed body begins with the same bytes
    monkeypatch.setattr("ingest.pipeline.erasing._pieces", lambda stored: [stored[:4]])
    assert (await world.erase("users", "1")).faults == ()


class Killed(BaseException):
    """As if the process had ended."""


class Killing:
    """Counts every durable write of an erasure; before or after the one with a number, all ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self._patch, self._number = monkeypatch, number
        #: moments that were reached: before and after every write, by the write's name
        self.moments: list[str] = []
        for name in ("write", "attempt"):
            self._count(Database, name)
        for name in ("append", "rewrite", "compact"):
            self._count(SqlitePageLog, name)
        self._count(SqliteEngine, "compact")

    def _count(self, owner: type, name: str) -> None:
        original = getattr(owner, name)

        async def write(this: Any, *arguments: Any, **more: Any) -> Any:
            self._reach(f"before {owner.__name__}.{name}")
            result = await original(this, *arguments, **more)
            self._reach(f"after {owner.__name__}.{name}")
            return result

        self._patch.setattr(owner, name, write)

    def _reach(self, moment: str) -> None:
        self.moments.append(moment)
        if len(self.moments) >= self._number:
            raise Killed


class Stories:
    """One erasure, broken off again and again from the same beginning."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self._world, self._patch = world, monkeypatch
        self._folder = world.setup.folder
        self.digests: set[str] = set()

    async def begin(self) -> None:
        held = self._world.held
        held["/users"] = [BOB, ADA]
        held["/messages"] = [message(1, author=ADA), message(2, owner_id=1), {"id": "none", "author": ADA}]
        await self._world.sync(exit=3)
        self._saved = {path.name: path.read_bytes() for path in self._folder.glob("mirror.db*")}

    async def broken_off(self, number: int) -> str | None:
        """The moment at which it was broken off; None when it came to its end."""
        for path in self._folder.glob("mirror.db*"):
            path.unlink()
        for name, data in self._saved.items():
            (self._folder / name).write_bytes(data)
        with self._patch.context() as patched:
            killing = Killing(patched, number)
            try:
                await self._world.do("erase", "users", ["1"])
            except Killed:
                return killing.moments[number - 1]
        return None

    async def finished(self, *, after: str) -> None:
        """The same command, run again, finds nothing left to do that it does not do."""
        done: Erased = await self._world.do("erase", "users", ["1"])
        assert (done.faults, done.exit) == ((), 0), (after, done)
        assert await self._world.traces() == [], after
        assert [letter[3] for letter in self._world.letters()] == ["open"], after
        self.digests.add(await self._world.do("digest"))


@pytest.fixture
def stories(world: World, monkeypatch: pytest.MonkeyPatch) -> Stories:
    return Stories(world, monkeypatch)


async def test_broken_off_while_bodies_are_rewritten_the_same_command_finishes_it(
    world: World, stories: Stories
) -> None:
    await stories.begin()
    moments = []
    for number in range(1, 100):
        moment = await stories.broken_off(number)
        assert moment is not None
        moments.append(moment)
        if moment in ("before SqlitePageLog.rewrite", "after SqlitePageLog.rewrite"):
            marked = dict(world.setup.ask("SELECT stamp, digest FROM ingest_pages"))
            there = {page.stamp: page.envelope.digest for page in await world.pages()}
            assert (marked.items() <= there.items()) is moment.startswith("before")
            # whatever is run next is not in the way
            assert (await world.do("recover")).exit == 0
            assert (await world.do("verify")).exit == 0
            await stories.finished(after=moment)
        if moment == "after SqlitePageLog.rewrite":
            break
    assert "after SqlitePageLog.append" in moments
    assert len(stories.digests) == 1


@pytest.mark.sweep
async def test_broken_off_anywhere_the_same_command_finishes_it(world: World, stories: Stories) -> None:
    await stories.begin()
    number = 1
    while (moment := await stories.broken_off(number)) is not None:
        if number % 2:
            assert (await world.do("recover")).exit in (0, 3), moment
        await stories.finished(after=moment)
        assert (await world.do("verify")).exit == 0, moment
        number += 1
    assert number > 20
    assert len(stories.digests) == 1


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
async def test_a_row_is_erased_from_a_server(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    held = {
        "/users": [ADA, BOB, {"id": 3, "name": NAME * 9}],
        "/messages": [
            message(1, author=ADA, files=[{"path": "a"}]),
            message(2, owner_id=1),
            {"id": "none", "author": ADA},
        ],
    }
    async with answering(lambda path, _: Said({"data": held[path]})) as url:
        setup = Setup(tmp_path / "one", STREAMS, models=MODELS, url=request.getfixturevalue(kind).url)
        log = setup.folder / "mirror.pages"
        setup.tables["staging"] = {"path": str(log)}
        config = setup.configure(url)
        async with open_job(config, clock=setup.clock) as job:
            assert (await job.sync()).exit == 3
            done = await job.erase("users", ["1"])
            # what a dead letter of user 3 says is not said by user 1
            assert (done.faults, done.exit) == ((), 0)
            assert done.shown
            assert done.referring == {"messages": 2}
            assert {Path(one).name for one in done.files} <= {"mirror.pages", "mirror.pages-wal"}
            digest = await job.digest()
            again = await job.erase("users", ["1"])
            assert (again.faults, again.pages, again.shown) == ((), 0, False)
            assert (await job.replay(None, rebuild=True)).exit in (0, 3)
            assert await job.digest() == digest
        assert setup.ask("SELECT id FROM users") == [(2,)]
        cells = "".join(
            map(str, setup.ask("SELECT raw, reason FROM ingest_dead_letters WHERE stamp <> 1"))
        ) + "".join(map(str, setup.ask("SELECT * FROM ingest_withheld")))
        assert NAME not in cells
        assert MAIL not in cells
