"""A mirror that moves from one database to another is the same mirror, ledger and all."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import sqlalchemy as sa

from ingest.config import Config
from ingest.database import Database
from ingest.engines import engine_for
from ingest.engines.sqlite import SqliteEngine
from ingest.errors import NotProven, UsageError
from ingest.keys import raw
from ingest.ledger import LEDGER, LOCK
from ingest.log import MASK
from ingest.pipeline import copy, open_job
from ingest.report import Observer
from ingest.window import open_window
from tests.databases import TestDatabase
from tests.integration.jobs import Setup, cli, client
from tests.integration.story import CHANGES
from tests.integration.test_commands import ROWS
from tests.integration.test_round_trip import DELETED
from tests.upstream import Truth, Upstream, example, generate

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("imports_are_forgotten")]

#: commands that write
WRITING = [
    ("sync",),
    ("backfill", "api"),
    ("recover",),
    ("replay", "--rebuild"),
    ("verify",),
    ("missing", "--retry"),
    ("dead-letters", "retry"),
    ("migrate",),
]
DRIVERS = ("postgresql+asyncpg", "postgresql+psycopg", "mariadb+asyncmy", "mariadb+aiomysql")
STREAMS = {**example.STREAMS, **DELETED}


class Mirror:
    """A mirror in a file, with everything in its ledger, and where its upstream is."""

    def __init__(self, setup: Setup, up: Upstream, config: Config) -> None:
        self.setup, self.up, self.config = setup, up, config
        self.url = config.database_url

    def at(self, url: str) -> Config:
        """The same job, in another database, with the same page log."""
        return self.setup.configure(
            self.up.base_url, database={"url": url}, staging={"path": str(self.config.log_path)}
        )

    def file(self, name: str) -> str:
        """The URL of another file beside the mirror's."""
        return f"sqlite:///{self.setup.folder / name}.db"

    async def half_copy(self, url: str, before: str = "messages") -> None:
        """A copy that was broken off after the first rows of a table."""
        with pytest.raises(KeyboardInterrupt):
            await copy(self.at(self.url), self.url, url, observe=breaking_off(before))

    async def sync(self, url: str | None = None) -> Any:
        async with open_job(self.at(url or self.url), clock=self.setup.clock) as job:
            return await job.sync()

    async def contents(self, url: str) -> tuple[str, dict[str, list[Any]]]:
        """The digest, and all of the ledger but the lock."""
        async with open_job(self.at(url), write=False, clock=self.setup.clock) as job:
            told = await job.digest()
        return told, await ledger(url)


def breaking_off(table: str) -> Observer:
    """An observer who breaks a copy off after the first rows of a table."""

    def observe(event: str, /, **fields: Any) -> None:
        if event == "copy.chunk" and fields["table"] == table:
            raise KeyboardInterrupt

    return observe


async def ledger(url: str) -> dict[str, list[Any]]:
    engine = engine_for(url)
    found = {}
    async with engine.reader() as connection, connection.begin():
        for table in LEDGER.sorted_tables:
            if table is not LOCK:
                rows = await connection.execute(sa.select(*(raw(engine, column) for column in table.c)))
                found[table.name] = sorted(map(repr, rows.all()))
    await engine.close()
    return found


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Mirror]:
    truth: Truth = generate(example.Base, seed=8, rows=ROWS)
    setup = Setup(tmp_path, STREAMS)
    async with Upstream(setup.source, truth) as up:
        up.hide("users", *truth.keys("users")[3])
        made = Mirror(setup, up, setup.configure(up.base_url))
        await made.sync()
        for change in CHANGES[:3]:
            change(truth)
            await made.sync()
        yield made


def small_chunks(monkeypatch: pytest.MonkeyPatch, rows: int = 7) -> None:
    monkeypatch.setattr("ingest.pipeline.copying._CHUNK", rows)
    monkeypatch.setattr("ingest.pipeline.copying._FETCH", rows)


@pytest.mark.parametrize("way", [("postgresql", "mariadb"), ("mariadb", "postgresql")], ids="-".join)
async def test_all_the_way_round_it_is_the_same_mirror_and_goes_on_as_one(
    mirror: Mirror, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, way: tuple[str, ...]
) -> None:
    small_chunks(monkeypatch)
    wanted, here = await mirror.contents(mirror.url), mirror.url
    for there in (*(request.getfixturevalue(kind).url for kind in way), mirror.file("back")):
        done = await copy(mirror.at(here), here, there)
        assert done.digest == wanted[0]
        assert {one.table: one.rows for one in done.tables}["ingest_runs"] == 4
        assert await mirror.contents(there) == wanted
        here = there
    ran = await mirror.sync(here)
    assert (ran.exit, ran.load.written) == (0, 0)
    async with open_job(mirror.at(here), clock=mirror.setup.clock) as job:
        assert (await job.verify()).exit == 0


async def test_broken_off_anywhere_it_goes_on_where_it_was(
    mirror: Mirror, postgresql: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    wanted = await mirror.contents(mirror.url)
    chunks: list[tuple[str, int]] = []

    def broken_off(event: str, /, **fields: Any) -> None:
        if event == "copy.chunk":
            chunks.append((fields["table"], fields["rows"]))
            if len(chunks) % 5 == 0:
                raise KeyboardInterrupt

    while True:
        try:
            await copy(mirror.at(mirror.url), mirror.url, postgresql.url, observe=broken_off)
        except KeyboardInterrupt:
            continue
        break
    assert len(chunks) > 10
    rows = {one: sum(n for table, n in chunks if table == one) for one, _ in chunks}
    assert rows["messages"] == postgresql.admin("SELECT count(*) FROM messages")[0][0]
    assert await mirror.contents(postgresql.url) == wanted


async def test_a_mirror_that_has_changed_meanwhile_is_copied_anew(
    mirror: Mirror, postgresql: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    await mirror.half_copy(postgresql.url)
    for change in CHANGES[3:]:
        change(mirror.up.truth)
    await mirror.sync()
    await copy(mirror.at(mirror.url), mirror.url, postgresql.url)
    assert await mirror.contents(postgresql.url) == await mirror.contents(mirror.url)


def loses(row: tuple[Any, ...]) -> tuple[Any, ...] | None:
    return None


def forgets_the_stamp(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*row[:-3], 0, *row[-2:])


def gives_up(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple("wanted" if value == "gone" else value for value in row)


@pytest.mark.parametrize(
    ("wronged", "wrong"), [("tags", loses), ("tags", forgets_the_stamp), ("ingest_missing", gives_up)]
)
async def test_what_came_over_wrongly_is_noticed_and_copied_anew(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, wronged: str, wrong: Any
) -> None:
    insert, there = SqliteEngine.insert, mirror.file("other")

    def insert_wrongly(*where: Any, table: sa.Table, rows: Any, **how: Any) -> int:
        if table.name == wronged:
            rows = list(filter(None, map(wrong, rows)))
        return insert(*where, table=table, rows=rows, **how)

    with monkeypatch.context() as patch:
        patch.setattr(SqliteEngine, "insert", insert_wrongly)
        with pytest.raises(NotProven, match="its digest is"):
            await copy(mirror.at(mirror.url), mirror.url, there)
    with pytest.raises(UsageError, match="a copy of the mirror in"):
        await mirror.sync(there)
    await copy(mirror.at(mirror.url), mirror.url, there)
    assert await mirror.contents(there) == await mirror.contents(mirror.url)


async def test_within_a_half_copy_nothing_is_written_but_by_the_copy(mirror: Mirror) -> None:
    there = mirror.file("other")
    await mirror.half_copy(there)
    half = await mirror.contents(there)
    mirror.at(there)
    for command in WRITING:
        ran = await cli(mirror.setup.config_file, *command)
        assert ran.status == 2, command
        assert "its integrity window is open: a copy of the mirror in" in ran.err
        assert "hint: finish the copy" in ran.err
    with pytest.raises(UsageError, match="finish the copy"):
        await copy(mirror.at(there), there, mirror.file("third"))
    assert await mirror.contents(there) == half
    await copy(mirror.at(there), mirror.url, there)
    assert await mirror.contents(there) == await mirror.contents(mirror.url)


async def test_a_half_copy_that_is_behind_is_not_migrated(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = mirror.file("other")
    await mirror.half_copy(there)
    with client(there) as connection:
        held = connection.scalar(sa.select(LOCK.c.window))
    monkeypatch.setattr("ingest.migrate.behind", lambda moves, *, place: UsageError("is behind", where=place))
    async with open_job(mirror.at(there), clock=mirror.setup.clock) as job:
        with pytest.raises(UsageError, match="finish the copy"):
            await job.migrate()
    with client(there) as connection:
        assert connection.scalar(sa.select(LOCK.c.window)) == held


async def test_a_ledger_that_has_changed_meanwhile_is_copied_anew(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    there = mirror.file("other")
    await mirror.half_copy(there, before="ingest_runs")
    async with open_job(mirror.at(mirror.url), clock=mirror.setup.clock) as job:
        assert await job.retry_missing()
    await copy(mirror.at(mirror.url), mirror.url, there)
    assert await mirror.contents(there) == await mirror.contents(mirror.url)


async def test_what_cannot_be_copied_is_refused_before_anything_is_written(
    mirror: Mirror, postgresql: TestDatabase
) -> None:
    config = mirror.at(mirror.url)
    with pytest.raises(UsageError, match="there is no mirror yet"):
        await copy(config, mirror.file("none"), postgresql.url)
    engine = engine_for(mirror.url)
    async with engine.writer() as connection, connection.begin():
        await connection.run_sync(open_window, "a test")
    await engine.close()
    with pytest.raises(UsageError, match=r"its integrity window is open: a test"):
        await copy(config, mirror.url, mirror.file("other"))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
async def test_a_mirror_is_not_copied_onto_itself(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    setup = Setup(tmp_path, STREAMS)
    url = setup.url if kind == "sqlite" else request.getfixturevalue(kind).url
    async with open_job(setup.configure("http://127.0.0.1:9", database={"url": url})):
        pass

    async def take_lock(self: Database, *, since: str) -> None:
        raise AssertionError("a lock is taken")

    monkeypatch.setattr(Database, "take_lock", take_lock)
    with pytest.raises(UsageError, match="the mirror is there already"):
        await copy(setup.configure("http://127.0.0.1:9"), url, url)


async def test_a_copy_that_is_there_is_said_to_be_and_another_mirror_is_left_alone(mirror: Mirror) -> None:
    there, config = mirror.file("other"), mirror.setup.config_file
    assert (await cli(config, "copy", mirror.url, there)).status == 0
    wanted = await mirror.contents(there)
    ran = await cli(config, "copy", mirror.url, there)
    assert (ran.status, ran.err) == (0, "")
    assert "all of it was there already: nothing was done" in ran.out
    mirror.at(mirror.url)
    assert json.loads((await cli(config, "copy", mirror.url, there, "--json")).out)["already"] is True
    assert await mirror.contents(there) == wanted
    await mirror.sync(there)
    wanted = await mirror.contents(there)
    ran = await cli(config, "copy", mirror.url, there)
    assert ran.status == 2
    assert "this database holds another mirror, or this one at another moment" in ran.err
    assert await mirror.contents(there) == wanted


async def test_copying_leaves_the_original_as_it_is(mirror: Mirror, postgresql: TestDatabase) -> None:
    await copy(mirror.at(mirror.url), mirror.url, postgresql.url)
    postgresql.admin("ALTER TABLE messages ALTER CONSTRAINT messages_conversation_id_fkey NOT DEFERRABLE")
    before = _catalog(postgresql)
    assert (False,) in {row[-1:] for row in before}
    await copy(mirror.at(mirror.url), postgresql.url, mirror.file("back"))
    assert _catalog(postgresql) == before
    assert postgresql.admin("SELECT holder FROM ingest_lock") == [(None,)]


def _catalog(database: TestDatabase) -> list[tuple[Any, ...]]:
    """Every constraint of a PostgreSQL database."""
    return database.admin(
        "SELECT conname::text, pg_get_constraintdef(oid), condeferrable FROM pg_constraint ORDER BY 1, 2"
    )


async def test_a_table_is_read_by_one_query_however_many_chunks_it_goes_over_in(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    chunks: list[str] = []
    read: list[str] = []

    def observe(event: str, /, **fields: Any) -> None:
        if event == "copy.chunk":
            chunks.append(fields["table"])

    def asked(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if "ORDER BY messages.id" in statement and str(connection.engine.url.database) in mirror.url:
            read.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", asked)
    try:
        await copy(mirror.at(mirror.url), mirror.url, mirror.file("other"), observe=observe)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", asked)
    assert chunks.count("messages") > 10
    # for the moment's digest, and to be copied
    assert len(read) == 2


async def test_rows_go_over_in_few_bytes_at_a_time_however_long_they_are(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.pipeline.copying._FETCH", 1)
    monkeypatch.setattr("ingest.pipeline.copying._BYTES", 200)
    chunks: list[int] = []

    def observe(event: str, /, **fields: Any) -> None:
        if event == "copy.chunk" and fields["table"] == "messages":
            chunks.append(fields["rows"])

    done = await copy(mirror.at(mirror.url), mirror.url, mirror.file("other"), observe=observe)
    assert {one.table: one.rows for one in done.tables}["messages"] == sum(chunks)
    assert 1 < sum(chunks) / len(chunks) < 4


@pytest.mark.parametrize("driver", DRIVERS)
async def test_by_every_driver_it_goes_on_where_it_was(
    mirror: Mirror, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    kind = driver.partition("+")[0]
    url = request.getfixturevalue(kind).url.replace(kind, driver, 1)
    await copy(mirror.at(mirror.url), mirror.url, url)
    small_chunks(monkeypatch)
    there = mirror.file("back")
    for table in ("attachments", "messages", "ingest_pages"):
        with pytest.raises(KeyboardInterrupt):
            await copy(mirror.at(url), url, there, observe=breaking_off(table))
    await copy(mirror.at(url), url, there)
    assert await mirror.contents(there) == await mirror.contents(mirror.url)


#: keys that databases sort in ways of their own
KEYS = """
import enum
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class Kind(enum.Enum):
    zebra = 1
    Yak = 2
    ape = 3
    emu = 4

class Word(Base):
    __tablename__ = "words"
    kind: Mapped[Kind] = mapped_column(sa.Enum(Kind), primary_key=True)
    text: Mapped[str] = mapped_column(sa.String(20), primary_key=True)

class Animal(Base):
    __tablename__ = "animals"
    kind: Mapped[Kind] = mapped_column(sa.Enum(Kind), primary_key=True)
"""
WORDS = ("", "a", "B", "b", "é", "z", "Z", "_", "a b", "ab", "\uffff", "\U0001f600")


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
async def test_keys_that_are_sorted_in_other_ways_go_over_one_by_one(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    streams = {"words": {"path": "/w", "entity": "Word"}, "animals": {"path": "/a", "entity": "Animal"}}
    setup = Setup(tmp_path, streams, models=KEYS)
    config = setup.configure("http://127.0.0.1:9")
    async with open_job(config):
        models = sys.modules["chat.models"]
    animals = [{"kind": one} for one in models.Kind]
    engine = engine_for(config.database_url)
    async with engine.writer() as connection, connection.begin():
        await connection.execute(sa.insert(models.Animal), animals)
        await connection.execute(
            sa.insert(models.Word), [{**one, "text": text} for one in animals for text in WORDS]
        )
    await engine.close()
    server: TestDatabase = request.getfixturevalue(kind)
    small_chunks(monkeypatch, 1)
    wanted = None
    for here, there in ((setup.url, server.url), (server.url, f"sqlite:///{tmp_path / 'back.db'}")):
        for table in ("animals", "words", "words"):
            with pytest.raises(KeyboardInterrupt):
                await copy(config, here, there, observe=breaking_off(table))
        done = await copy(config, here, there)
        assert wanted in (None, done.digest)
        wanted = done.digest


async def test_the_command_says_what_to_change(
    mirror: Mirror, postgresql: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEW_DATABASE", postgresql.url)
    mirror.setup.configure(mirror.up.base_url)
    ran = await cli(mirror.setup.config_file, "copy", mirror.url, "$NEW_DATABASE")
    assert ran.status == 0, ran.err
    assert "the same in both" in ran.out
    assert f'[staging] path = "{mirror.config.log_path}"' in ran.out
    assert str(sa.make_url(postgresql.url).password) not in ran.out + ran.err


async def test_what_is_left_to_change_depends_on_what_the_configuration_says(mirror: Mirror) -> None:
    there, config = mirror.file("other"), mirror.setup.config_file
    for named, stated in product((mirror.url, there), (False, True)):
        staging = {"staging": {"path": "mirror.db.pages"}} if stated else {}
        mirror.setup.configure(mirror.up.base_url, database={"url": named}, **staging)
        done = json.loads((await cli(config, "copy", mirror.url, there, "--json")).out)
        assert done["configured"] is (named == there)
        assert done["log"] == (None if stated else str(mirror.config.log_path))
        ran = await cli(config, "copy", mirror.url, there)
        assert ("set database.url" in ran.out) is (named != there)
        assert ("[staging]" in ran.out) is not stated


async def test_passwords_of_the_command_line_are_never_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talkative(_config: Config, *urls: str, observe: Observer) -> None:
        told = next(str(sa.make_url(url).password) for url in urls if url != here)
        observe("library", message=f"{urls} {told}")
        raise UsageError(f"cannot copy {urls}", hint=told)

    setup, here = Setup(tmp_path, STREAMS), "sqlite:////tmp/m.db"
    setup.configure("http://127.0.0.1:9")
    monkeypatch.setattr("ingest.pipeline.copy", talkative)
    for password in ("pa/ss%40#word", "pa%2Fss%40word", "spoken:plainly"):
        told = f"postgresql://me:{password}@127.0.0.1:9/mirror"
        monkeypatch.setenv("OLD_DATABASE", told)
        for urls in ((told, here), (here, told), ("$OLD_DATABASE", here)):
            for form in ("text", "json"):
                ran = await cli(setup.config_file, "--log-format", form, "copy", *urls)
                assert (ran.status, MASK in ran.err) == (2, True)
                assert password not in ran.err
                assert unquote(password) not in ran.err


async def test_what_stands_behind_a_second_at_is_not_told_as_a_host(tmp_path: Path) -> None:
    setup = Setup(tmp_path, STREAMS)
    setup.configure("http://127.0.0.1:9")
    ran = await cli(setup.config_file, "copy", "sqlite:///m.db", "postgresql://me:one@two@127.0.0.1:9/m")
    assert ran.status == 2
    assert "has more than one @" in ran.err
    assert "two" not in ran.err
