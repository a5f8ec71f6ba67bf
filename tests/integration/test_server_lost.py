"""A server that is stopped, ends sessions, or has no patience: the run goes on, or the next one does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest.errors import IngestError
from ingest.pipeline import limits, open_job
from ingest.report import Certificate, Observer
from tests.crash.asking import asked_again
from tests.databases import (
    ON_SERVERS,
    KeptServer,
    TestDatabase,
    on_every_server,
    on_servers,
    private_server,
)
from tests.integration import processes
from tests.integration.jobs import Setup, forget
from tests.integration.processes import asked_since
from tests.integration.story import CHANGES
from tests.integration.test_round_trip import KINDS as PAGING
from tests.integration.test_round_trip import ROWS, assert_adds_up, paged
from tests.upstream import Truth, Upstream, example, generate

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

STREAMS = paged(PAGING["cursor"])
#: thresholds under which a run takes several transactions, and the integrity window opens
BULK = {"BULK": 60, "BATCH": 50, "BACKLOG": 240}


@pytest.fixture
def truth() -> Truth:
    return generate(example.Base, seed=4, rows=ROWS)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a mirror in SQLite that nobody disturbs."""

    async def undisturbed() -> str:
        setup = Setup(tmp_path_factory.mktemp("undisturbed"), STREAMS)
        async with Upstream(setup.source, generate(example.Base, seed=4, rows=ROWS)) as up:
            await setup.sync(up)
        digest = await processes.digest(setup)
        forget("chat")
        return digest

    return asyncio.run(undisturbed())


@pytest.fixture(scope="module")
def kept(request: pytest.FixtureRequest) -> Iterator[KeptServer]:
    """A server that tests of this file alone stop and start."""
    with private_server(request.param) as kept:
        yield kept


@pytest.fixture
def own(kept: KeptServer) -> TestDatabase:
    return kept.fresh()


def at(event: str, do: Callable[[], object], time: int = 1) -> Observer:
    """Does something when a run tells of an event for the first time, or a later one."""
    told: Counter[str] = Counter()

    def observe(name: str, /, **fields: Any) -> None:
        for known in (name, f"{name} {fields.get('step')}"):
            told[known] += 1
            if known == event and told[known] == time:
                do()

    return observe


async def attempt(setup: Setup, up: Upstream, observe: Observer) -> Certificate | IngestError:
    """A run that may be certified, or end with a line of text; anything else is a mistake in ingest."""
    try:
        async with open_job(setup.configure(up.base_url), clock=setup.clock, observe=observe) as job:
            return await job.sync()
    except IngestError as error:
        if error.exit_status != 1 or "\n" in str(error):
            raise
        return error


#: when it happens, and in which kind of a run
MOMENTS = {
    "before anything is fetched": ("run.started", 1, False),
    "in the transaction that loads": ("step.finished references", 1, False),
    "when it is proven and not yet committed": ("step.finished verify", 1, False),
    "between two loads of a bulk load": ("load.finished", 2, True),
    "when the second of them begins": ("load.started", 2, True),
    "when the window has been opened": ("window.opened", 1, True),
}


async def survive(
    setup: Setup,
    truth: Truth,
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    blow: Callable[[], object],
) -> None:
    """A run that is struck at a moment, and those after it: nothing staged is asked for again."""
    event, time, bulk = MOMENTS[moment]
    if bulk:
        for name, value in BULK.items():
            monkeypatch.setattr(limits, name, value)
    struck: list[bool] = []

    def strike() -> None:
        struck.append(True)
        blow()

    async with Upstream(setup.source, truth) as up:
        came_to = await attempt(setup, up, at(event, strike, time))
        assert struck
        pages, before = await processes.staged(setup), len(up.requests)
        if isinstance(came_to, Certificate):
            assert_adds_up(came_to)
        async with open_job(setup.configure(up.base_url), clock=setup.clock) as job:
            assert_adds_up(await job.sync())
            assert await job.digest() == wanted
            assert (await job.verify()).exit == 0
        assert asked_again(pages, asked_since(up, before)) == []
        for change in CHANGES:
            change(truth)
        assert_adds_up(await setup.sync(up))
        assert setup.differences(truth) == []


@on_servers(
    MOMENTS, often=("in the transaction that loads", "when the second of them begins"), fixture="kept"
)
async def test_a_server_that_is_restarted_costs_a_run_at_most(
    tmp_path: Path,
    kept: KeptServer,
    own: TestDatabase,
    truth: Truth,
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    def restart() -> None:
        kept.stop()
        kept.start()

    setup = Setup(tmp_path / "job", STREAMS, url=own.url)
    await survive(setup, truth, wanted, monkeypatch, moment, restart)


@on_servers(MOMENTS, often=("when it is proven and not yet committed", "between two loads of a bulk load"))
async def test_sessions_that_an_administrator_ends_cost_a_run_at_most(
    tmp_path: Path,
    server: TestDatabase,
    truth: Truth,
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    setup = Setup(tmp_path / "job", STREAMS, url=server.url)
    await survive(setup, truth, wanted, monkeypatch, moment, server.end_sessions)


@pytest.mark.parametrize("kept", ON_SERVERS, indirect=True)
async def test_a_server_that_stays_down_is_told_of_in_one_line_and_is_found_again(
    tmp_path: Path, kept: KeptServer, own: TestDatabase, truth: Truth, wanted: str
) -> None:
    setup = Setup(tmp_path / "job", STREAMS, url=own.url)
    async with Upstream(setup.source, truth) as up:
        setup.configure(up.base_url)
        try:
            came_to = await attempt(setup, up, at("step.finished derived", kept.stop))
            assert isinstance(came_to, IngestError)
            for command in ("sync", "status", "verify"):
                status, said = await processes.ran(setup, command)
                assert status == 1
                line, hint = said.splitlines()
                assert "cannot be reached" in line
                assert hint.startswith("hint: ")
                assert "Traceback" not in said
                assert own.url.split(":")[2].split("@")[0] not in said
        finally:
            kept.start()
        before = len(up.requests)
        status, said = await processes.ran(setup, "recover")
        assert (status, len(up.requests)) == (0, before), said
        assert await processes.digest(setup) == wanted


#: how an administrator limits the time of a role's statements, or does not any more
LIMITED = {
    "postgresql": "ALTER ROLE {role} SET statement_timeout = '{milliseconds}ms'",
    "mariadb": "GRANT USAGE ON *.* TO {role}@'%' WITH MAX_STATEMENT_TIME {seconds}",
}
#: a trigger that takes its time over every message
SLOW = {
    "postgresql": (
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(5); RETURN NEW; END $$",
        "CREATE TRIGGER slow BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION wait()",
        "DROP TRIGGER slow ON messages",
    ),
    "mariadb": (
        "SELECT 1",
        "CREATE TRIGGER slow BEFORE INSERT ON messages FOR EACH ROW DO SLEEP(5)",
        "DROP TRIGGER slow",
    ),
}


def limit_statements(server: TestDatabase, milliseconds: int) -> None:
    settings = {"role": server.name, "milliseconds": milliseconds, "seconds": milliseconds / 1000}
    server.admin(LIMITED[server.kind].format(**settings))


@on_every_server
async def test_a_statement_that_takes_too_long_for_the_server_ends_the_run_in_one_line(
    tmp_path: Path, server: TestDatabase, truth: Truth, wanted: str
) -> None:
    setup = Setup(tmp_path / "job", STREAMS, url=server.url)
    async with Upstream(setup.source, Truth(example.Base)) as up:
        await setup.sync(up)
    before, after, undone = SLOW[server.kind]
    for statement in (before, after):
        server.admin(statement)
    async with Upstream(setup.source, truth) as up:
        setup.configure(up.base_url)
        limit_statements(server, 500)
        status, said = await processes.ran(setup, "sync")
        assert_one_line(status, said)
        limit_statements(server, 0)
        server.admin(undone)
        pages, asked = await processes.staged(setup), len(up.requests)
        status, said = await processes.ran(setup, "sync")
        assert status == 0, said
        assert asked_again(pages, asked_since(up, asked)) == []
        assert await processes.digest(setup) == wanted


def assert_one_line(status: int, said: str) -> None:
    assert status == 1, said
    line, hint = said.splitlines()
    assert line.startswith("ingest: "), said
    assert hint.startswith("hint: "), said
    assert "mistake in ingest" not in said


@on_every_server
async def test_a_server_without_any_patience_is_told_of_in_one_line(
    tmp_path: Path, server: TestDatabase, truth: Truth, wanted: str
) -> None:
    setup = Setup(tmp_path / "job", STREAMS, url=server.url)
    async with Upstream(setup.source, truth) as up:
        setup.configure(up.base_url)
        limit_statements(server, 1)
        for _ in range(3):
            status, said = await processes.ran(setup, "sync")
            if status == 0:
                break
            assert_one_line(status, said)
        limit_statements(server, 0)
        status, said = await processes.ran(setup, "sync")
        assert status == 0, said
        assert await processes.digest(setup) == wanted
