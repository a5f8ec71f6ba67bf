"""`ingest prune`: old bodies go when nothing needs them, and everything else stays as it was."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest.pipeline import open_job
from ingest.report import Certificate, Pruned
from tests.answering import Said, answering
from tests.integration.jobs import Setup, cli
from tests.integration.test_drift import MODELS, STREAMS

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

DAY = 86_400


class Shelf:
    """A mirror of a few notes, in time that only the test moves."""

    def __init__(self, folder: Path, url: str, held: dict[int, str]) -> None:
        self.setup, self.url, self.held = Setup(folder, STREAMS, models=MODELS), url, held

    async def do(self, command: str, *arguments: Any, **more: Any) -> Any:
        async with open_job(self.setup.configure(self.url), clock=self.setup.clock) as job:
            return await getattr(job, command)(*arguments, **more)

    async def sync(self, *, days_later: int = 0, **held: str) -> Certificate:
        self.setup.clock.slept += days_later * DAY
        self.held.update({int(key[1:]): text for key, text in held.items()})
        made: Certificate = await self.do("sync")
        return made

    def bodies(self) -> list[int]:
        """The stamps of the pages that still have theirs."""
        with closing(sqlite3.connect(self.setup.folder / "mirror.db.pages")) as log:
            return [stamp for (stamp,) in log.execute("SELECT stamp FROM body ORDER BY stamp")]


@pytest.fixture
async def shelf(tmp_path: Path) -> Any:
    held = {1: "one"}

    def notes(*_: object) -> Said:
        return Said({"data": [{"id": key, "text": text} for key, text in held.items()]})

    async with answering(notes) as url:
        yield Shelf(tmp_path / "one", url, held)


async def test_bodies_of_old_runs_go_and_nothing_else_does(shelf: Shelf) -> None:
    await shelf.sync()
    await shelf.sync(days_later=60, _2="two")
    await shelf.sync(days_later=60, _3="three")
    before = await shelf.do("digest")
    pruned = await shelf.do("prune", "90d")
    assert (pruned.pages, pruned.kept, pruned.earlier) == (1, {"younger": 2}, 0)
    assert shelf.bodies() == [2, 3]
    assert await shelf.do("digest") == before
    again = await shelf.do("prune", "90d")
    assert (again.pages, again.kept, again.earlier) == (0, {"younger": 2}, 1)
    verified = await shelf.do("verify")
    assert (verified.exit, verified.remarks) == (0, ())
    made = await shelf.sync(_4="four")
    assert (made.exit, made.load.written) == (0, 1)


async def test_the_page_of_an_open_dead_letter_stays_until_it_is_settled(shelf: Shelf) -> None:
    assert (await shelf.sync(_2="more than twenty characters of text")).exit == 3
    await shelf.sync(days_later=100, _2="two")
    pruned = await shelf.do("prune", "90d")
    assert (pruned.pages, pruned.kept) == (1, {"younger": 1})
    assert (await shelf.sync(days_later=100, _2="more than twenty characters of text")).exit == 3
    await shelf.sync(days_later=100)
    pruned = await shelf.do("prune", "90d")
    assert pruned.kept == {"an open dead letter needs it": 1, "younger": 1}
    assert shelf.bodies() == [3, 4]


async def test_what_a_quarantined_page_said_stays(shelf: Shelf) -> None:
    await shelf.sync()
    with closing(sqlite3.connect(shelf.setup.database)) as database, database:
        database.execute("UPDATE ingest_pages SET state = 'quarantined' WHERE stamp = 1")
        database.execute("UPDATE ingest_loads SET quarantined = 1")
    await shelf.sync(days_later=100)
    pruned = await shelf.do("prune", "90d")
    assert (pruned.pages, pruned.kept) == (0, {"not loaded": 1, "younger": 1})


async def test_pages_of_a_run_that_the_database_does_not_know_stay(shelf: Shelf) -> None:
    await shelf.sync()
    await shelf.sync(days_later=100)
    with closing(sqlite3.connect(shelf.setup.database)) as database, database:
        database.execute("DELETE FROM ingest_runs WHERE started < '2026-02'")
    pruned = await shelf.do("prune", "90d")
    assert (pruned.pages, pruned.kept) == (0, {"its run is not known here": 1, "younger": 1})


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ('UPDATE ingest_lock SET "window" = \'{"why":"a test"}\'', "the integrity window is open"),
        ("INSERT INTO ingest_touched VALUES ('notes', '[1]')", "rows have changed since"),
        (
            "UPDATE ingest_runs SET certificate = replace(certificate, '\"exit\":0', '\"exit\":4')",
            "the last run was not certified",
        ),
        ("DELETE FROM ingest_runs", "no run was ever certified"),
    ],
)
async def test_nothing_goes_that_is_not_certified(shelf: Shelf, fault: str, why: str) -> None:
    await shelf.sync()
    shelf.setup.clock.slept += 100 * DAY
    with closing(sqlite3.connect(shelf.setup.database)) as database, database:
        assert database.execute(fault).rowcount
    ran = await cli(shelf.setup.config_file, "prune", "--keep", "0s")
    assert (ran.status, why in ran.err) == (1, True), ran.err
    assert shelf.bodies() == [1]


async def test_the_command_says_what_would_go_and_then_what_went(shelf: Shelf) -> None:
    await shelf.sync()
    asked = await cli(shelf.setup.config_file, "prune", "--keep", "0s", "--dry-run")
    assert (asked.status, "would go  the bodies of 1 page of runs" in asked.out) == (0, True), asked.out
    assert shelf.bodies() == [1]
    told = await cli(shelf.setup.config_file, "prune", "--keep", "0s", "--json")
    assert msgspec.json.decode(told.out, type=Pruned).pages == 1
    assert shelf.bodies() == []
    ran = await cli(shelf.setup.config_file, "prune", "--keep", "0s")
    assert "earlier  1 page had none any more" in ran.out, ran.out


@pytest.mark.parametrize("keep", ["ninety days", "99999999999d", ""])
async def test_an_age_that_is_none_is_a_usage_error(shelf: Shelf, keep: str) -> None:
    await shelf.sync()
    ran = await cli(shelf.setup.config_file, "prune", "--keep", keep)
    assert (ran.status, ran.out) == (2, "")
    assert "hint:" in ran.err
