"""A mirror that moves from one database to another is the same mirror, ledger and all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ingest.config import Config
from ingest.engines import engine_for
from ingest.errors import NotProven, UsageError
from ingest.keys import raw
from ingest.ledger import LEDGER, LOCK
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


@pytest.mark.parametrize("way", [("postgresql", "mariadb"), ("mariadb", "postgresql")], ids="-".join)
async def test_all_the_way_round_it_is_the_same_mirror_and_goes_on_as_one(
    mirror: Mirror, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, way: tuple[str, ...]
) -> None:
    small_chunks(monkeypatch)
    wanted, here = await mirror.contents(mirror.url), mirror.url
    file = f"sqlite:///{mirror.setup.folder / 'back.db'}"
    for there in (*(request.getfixturevalue(kind).url for kind in way), file):
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

    def broken_off(event: str, /, **fields: Any) -> None:
        if fields.get("table") == "messages":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await copy(mirror.at(mirror.url), mirror.url, postgresql.url, observe=broken_off)
    for change in CHANGES[3:]:
        change(mirror.up.truth)
    await mirror.sync()
    await copy(mirror.at(mirror.url), mirror.url, postgresql.url)
    assert await mirror.contents(postgresql.url) == await mirror.contents(mirror.url)


async def test_what_did_not_come_over_is_noticed_and_the_window_stays_open(
    mirror: Mirror, postgresql: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingest.engines.postgresql import PostgresqlEngine

    insert = PostgresqlEngine.insert

    def lossy(self: Any, connection: Any, table: sa.Table, columns: Any, rows: Any, **how: Any) -> int:
        kept = [(*row[:-1], row[-1]) for row in rows]
        if table.name == "tags":
            kept = [tuple("#000" if value == "#fff" else value for value in row) for row in rows]
            kept = kept[:-1] if kept == rows else kept
        return insert(self, connection, table, columns, kept, **how)

    with monkeypatch.context() as patch:
        patch.setattr(PostgresqlEngine, "insert", lossy)
        patch.setattr("ingest.pipeline.copying._greatest", _passes_over(patch))
        with pytest.raises(NotProven, match="its digest is"):
            await copy(mirror.at(mirror.url), mirror.url, postgresql.url)
    assert "a copy of the mirror" in postgresql.admin('SELECT "window" FROM ingest_lock')[0][0]


def _passes_over(patch: pytest.MonkeyPatch) -> Any:
    """The greatest key there, or the one that was lost, so that the copy comes to its end."""
    from ingest.pipeline.copying import _greatest

    def greatest(connection: Any, *, table: sa.Table, **how: Any) -> Any:
        found = _greatest(connection, table=table, **how)
        return ("\U0010ffff",) if table.name == "tags" and found is not None else found

    return greatest


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


async def test_what_cannot_be_copied_is_refused_before_anything_is_written(
    mirror: Mirror, postgresql: TestDatabase, tmp_path: Path
) -> None:
    config = mirror.at(mirror.url)
    with pytest.raises(UsageError, match="there is no mirror yet"):
        await copy(config, f"sqlite:///{tmp_path / 'none.db'}", postgresql.url)
    await copy(config, mirror.url, postgresql.url)
    with pytest.raises(UsageError, match="holds a mirror already"):
        await copy(config, mirror.url, postgresql.url)
    with pytest.raises(Exception, match=r"there already|another run"):
        await copy(config, postgresql.url, postgresql.url)
    engine = engine_for(mirror.url)
    async with engine.writer() as connection, connection.begin():
        await connection.run_sync(open_window, "a test")
    await engine.close()
    with pytest.raises(UsageError, match=r"its integrity window is open: a test"):
        await copy(config, mirror.url, f"sqlite:///{tmp_path / 'other.db'}")


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
