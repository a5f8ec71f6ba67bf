"""A run on a server that is killed at any of its events: what is open is said, and the next run closes it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.crash.asking import asked_again
from tests.databases import TestDatabase, on_servers
from tests.integration import processes
from tests.integration.jobs import Setup, forget
from tests.integration.story import CHANGES
from tests.integration.test_postgresql import CONSTRAINTS
from tests.integration.test_round_trip import KINDS, ROWS, assert_adds_up, paged
from tests.upstream import Truth, Upstream, example, generate

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

STREAMS = paged(KINDS["cursor"])
#: thresholds under which a run takes several transactions, and the integrity window opens
BULK = {"BULK": 60, "BATCH": 50, "BACKLOG": 240}
#: everything that a run tells of within its one transaction
STEPS = [f"event 1 step.finished {step}" for step in ("references", "derived", "missing", "verify")]
#: before anything of a load is there, and after all of it is
EDGES = ["event 1 run.started", "event 1 run.finished"]
#: events while the integrity window is open
OPEN = ["event 1 window.opened", "event 1 load.started", "event 1 load.finished", "event 2 load.started"]
OPEN += ["event 2 load.finished", *STEPS, "window 1", "window 2", "sql 3 SET window="]
#: a foreign key's comment is lost with it, unless somebody remembers it
COMMENTS = """
    DO $$ DECLARE one record; BEGIN
      FOR one IN SELECT conname, conrelid::regclass AS place FROM pg_constraint
                 WHERE contype = 'f' AND connamespace = current_schema()::regnamespace
      LOOP EXECUTE format('COMMENT ON CONSTRAINT %I ON %s IS %L', one.conname, one.place, one.conname || '!');
      END LOOP; END $$
"""


@pytest.fixture
def truth() -> Truth:
    return generate(example.Base, seed=4, rows=ROWS)


def change(truth: Truth) -> None:
    """Everything that may happen between two runs."""
    for happens in CHANGES:
        happens(truth)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """The digests of a mirror in SQLite that nobody disturbs: at first, and after the changes."""

    async def undisturbed() -> list[str]:
        setup, truth = (
            Setup(tmp_path_factory.mktemp("undisturbed"), STREAMS),
            generate(example.Base, seed=4, rows=ROWS),
        )
        digests = []
        async with Upstream(setup.source, truth) as up:
            for happens in (lambda _: None, change):
                happens(truth)
                await setup.sync(up)
                digests.append(await processes.digest(setup))
        forget("chat")
        return digests

    return asyncio.run(undisturbed())


@on_servers([*EDGES, *OPEN], often=("event 1 window.opened", "event 2 load.finished", STEPS[-1]))
async def test_killed_in_a_bulk_load_the_next_run_closes_the_window_and_puts_everything_back(
    tmp_path: Path, server: TestDatabase, truth: Truth, wanted: Sequence[str], moment: str
) -> None:
    setup = Setup(tmp_path / "job", STREAMS, url=server.url)
    async with Upstream(setup.source, Truth(example.Base)) as up:
        assert_adds_up(await setup.sync(up))
    await is_killed(setup, server, truth, moment, opened=moment in OPEN, **BULK)
    assert await processes.digest(setup) == wanted[0]


@on_servers(
    [*EDGES, "event 1 load.finished", *STEPS, *(f"commit {number}" for number in range(1, 7))],
    often=("event 1 load.finished", STEPS[0]),
)
async def test_killed_in_an_incremental_sync_no_window_is_open_and_the_next_run_goes_on(
    tmp_path: Path, server: TestDatabase, truth: Truth, wanted: Sequence[str], moment: str
) -> None:
    setup = Setup(tmp_path / "job", STREAMS, url=server.url)
    async with Upstream(setup.source, truth) as up:
        assert_adds_up(await setup.sync(up))
    change(truth)
    await is_killed(setup, server, truth, moment, opened=False)
    assert await processes.digest(setup) == wanted[1]


async def is_killed(
    setup: Setup, server: TestDatabase, truth: Truth, moment: str, *, opened: bool, **limits: int
) -> None:
    """A run that is killed at a moment, what is said after it, and the run that follows."""
    if server.kind == "postgresql":
        server.admin(COMMENTS)
    before = CATALOGS[server.kind](server)
    async with Upstream(setup.source, truth) as up:
        setup.configure(up.base_url)
        status, said = await processes.ran(setup, "sync", moment=moment, **limits)
        assert status == -signal.SIGKILL, said
        known = await processes.status(setup)
        assert (known.window is not None) == opened
        # what was put off is put off within the window alone
        assert opened or CATALOGS[server.kind](server) == before
        status, said = await processes.ran(setup, "missing")
        assert (status, known.window is not None and known.window in said) == (0, opened), said
        staged, asked = await processes.staged(setup), len(up.requests)
        status, said = await processes.ran(setup, "sync")
        assert status == 0, said
        assert asked_again(staged, processes.asked_since(up, asked)) == []
    known = await processes.status(setup)
    assert (known.window, known.holder, known.pending_pages) == (None, None, 0)
    assert CATALOGS[server.kind](server) == before
    assert setup.differences(truth) == []


def catalog_of_postgresql(server: TestDatabase) -> list[Any]:
    """Every constraint, whether it is validated, and its comment; every index."""
    indexes = "SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema() ORDER BY 1"
    return [*server.admin(CONSTRAINTS), *server.admin(indexes)]


def catalog_of_mariadb(server: TestDatabase) -> list[Any]:
    """Every line of every table's definition but its last, which counts: indexes may change places."""
    tables = [name for (name,) in server.admin("SHOW TABLES")]
    made = [server.admin(f"SHOW CREATE TABLE `{name}`")[0] for name in tables]
    return sorted((name, line.rstrip(",")) for name, text in made for line in text.splitlines()[:-1])


CATALOGS: dict[str, Callable[[TestDatabase], list[Any]]] = {
    "postgresql": catalog_of_postgresql,
    "mariadb": catalog_of_mariadb,
}
