"""SIGKILL at any moment loses no staged page and applies none twice, and nothing staged is asked again."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from ingest.config import read_config
from ingest.pipeline import open_job
from ingest.report import Status
from ingest.staging import SqlitePageLog
from ingest.types import Envelope
from tests.crash import child
from tests.crash.asking import Asked, asked_again, asked_of
from tests.integration.jobs import Setup
from tests.upstream import Truth, Upstream, example, generate
from tests.upstream.faults import silence

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

ROWS = {
    "users": 14,
    "tags": 12,
    "conversations": 8,
    "conversation_tags": 16,
    "messages": 60,
    "attachments": 30,
    "poll_options": 20,
}
CURSOR = {"kind": "cursor", "next": "meta.next", "limit": 6}
#: users are in no listing: each of them is asked for by id
STREAMS: dict[str, Any] = {
    **{name: {**example.STREAMS[name], "paginate": CURSOR} for name in ("tags", "conversations", "messages")},
    "users": {"entity": "User", "by_id": {"path": "/users/{id}"}},
}
#: a child starts with everything imported; importing is what takes its time
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(
    [
        "tests.crash.child",
        "alembic.command",
        "anyio._backends._asyncio",
        "httpcore",
        "ingest.cli.render",
        "ingest.log",
        "sqlalchemy.dialects.sqlite.aiosqlite",
    ]
)


class Victim:
    """A job that is run in processes of their own, and what they and the upstream leave behind."""

    def __init__(self, setup: Setup, up: Upstream) -> None:
        self.setup, self.up = setup, up
        self.output = setup.folder / "output"
        setup.configure(up.base_url)
        #: requests after which the running child is sent a signal by somebody else
        self.kill_at: int | None = None
        self.signal = signal.SIGKILL
        #: called with every request
        self.meanwhile: Callable[[], None] = lambda: None
        self._process: ForkServerProcess | None = None

    def before(self) -> None:
        """Called with every request that reaches the upstream."""
        self.meanwhile()
        if self.kill_at is not None and self._process is not None:
            self.kill_at -= 1
            if self.kill_at == 0 and self._process.pid is not None:
                os.kill(self._process.pid, self.signal)

    async def run(self, *arguments: str, moment: str | None = None, **limits: int) -> int:
        """Run a command and return its exit status, -9 when it was killed."""
        if moment is not None and moment.startswith("request"):
            self.kill_at, moment = int(moment.split()[1]), None
        command = ["--config", str(self.setup.config_file), *arguments]
        self._process = CHILDREN.Process(target=child.run, args=(command, moment, self.output, limits))
        self._process.start()
        await asyncio.to_thread(self._process.join)
        status, self.kill_at = self._process.exitcode, None
        assert status is not None
        self._process.close()
        self._process = None
        return status

    def kill(self) -> None:
        """Kill the running child."""
        assert self._process is not None
        self._process.kill()

    def asked(self, before: int) -> list[Asked]:
        """What was asked for since there were so many requests."""
        return asked_of(self.up.requests[before:])

    async def staged(self) -> list[tuple[int, Envelope]]:
        """Every page in the log."""
        if not (path := Path(f"{self.setup.database}.pages")).exists():
            return []
        log = await SqlitePageLog.open(path, readonly=True)
        try:
            return [(stamp, envelope) async for stamp, _, envelope in log.envelopes()]
        finally:
            await log.close()

    async def status(self) -> Status:
        async with open_job(read_config(self.setup.config_file), write=False) as job:
            return await job.status()

    async def digest(self) -> str:
        async with open_job(read_config(self.setup.config_file), write=False) as job:
            return await job.digest()


def make_truth() -> Truth:
    return generate(example.Base, seed=6, rows=ROWS)


@pytest.fixture
def truth() -> Truth:
    return make_truth()


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a run that nobody kills."""
    return asyncio.run(undisturbed(tmp_path_factory.mktemp("undisturbed"), make_truth()))


@asynccontextmanager
async def served(folder: Path, truth: Truth) -> AsyncIterator[Victim]:
    """A job and an upstream that holds still, some of it hidden."""
    setup = Setup(folder, STREAMS)
    victims: list[Victim] = []

    def before(*_: Any) -> None:
        for victim in victims:
            victim.before()

    up = Upstream(setup.source, truth, before=before)
    owners = {row["owner_id"] for row in truth.rows("conversations")}
    guests = [row["id"] for row in truth.rows("users") if row["id"] not in owners]
    up.hide("users", guests[0])
    up.forbid("users", guests[1])
    async with up:
        victims.append(Victim(setup, up))
        yield victims[0]


async def undisturbed(folder: Path, truth: Truth) -> str:
    async with served(folder, truth) as victim:
        assert await victim.run("sync") == 0, victim.output.read_text()
        return await victim.digest()


def assert_accounted(victim: Victim, known: Status, pages: int) -> None:
    """Every staged page is loaded, quarantined or pending, and marked once at most."""
    marked = victim.setup.ask(
        "SELECT state, count(*), count(DISTINCT stamp) FROM ingest_pages GROUP BY state"
    )
    assert sum(count for _, count, _ in marked) + known.pending_pages == pages
    assert all(count == distinct for _, count, distinct in marked)
    assert sum(count for _, count, _ in marked) == known.loaded_pages


#: statements of a run's load, its reconciling and its end
STATEMENTS = (
    "INTO messages",
    "INTO ingest_batch_messages",
    "INTO ingest_pages",
    "INTO ingest_missing",
    "UPDATE conversations",
    "DELETE FROM ingest_touched",
    "SET loaded_to",
    "UPDATE ingest_runs",
    "UPDATE ingest_lock",
    "RELEASE SAVEPOINT",
)
Moment = Callable[[random.Random], str]
FETCHING: tuple[Moment, ...] = (
    lambda pick: f"page {pick.randint(1, 6)}",
    lambda pick: f"lost {pick.randint(1, 6)}",
    lambda pick: f"request {pick.randint(1, 6)}",
)
LOADING: tuple[Moment, ...] = (
    lambda pick: f"commit {pick.randint(1, 6)}",
    lambda pick: f"sql 1 {pick.choice(STATEMENTS)}",
)


def moments(pick: random.Random) -> Iterator[str]:
    """Moments to die at: half of them while it fetches, then any."""
    yield from (pick.choice(FETCHING)(pick) for _ in range(5))
    while True:
        yield pick.choice(FETCHING + LOADING + LOADING)(pick)


SEEDS = [
    1,
    *(pytest.param(seed, marks=pytest.mark.sweep) for seed in range(2, 10)),
    *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(10, 30)),
]


@pytest.mark.parametrize("seed", SEEDS)
async def test_killed_ten_times_over_the_mirror_is_that_of_a_run_nobody_killed(
    tmp_path: Path, truth: Truth, wanted: str, seed: int
) -> None:
    killed: Counter[str] = Counter()
    async with served(tmp_path, truth) as victim:
        for moment in moments(random.Random(seed)):
            if await _dies(victim, moment):
                killed[moment] += 1
            if killed.total() == 10:
                break
        assert not await _dies(victim, None)
        assert (await victim.status()).pending_pages == 0
        assert await victim.digest() == wanted, killed
        assert await victim.run("verify") == 0


async def _dies(victim: Victim, moment: str | None) -> bool:
    """Run until a moment, and see that nothing was lost or asked for in vain; True when it was killed."""
    staged, before = await victim.staged(), len(victim.up.requests)
    status = await victim.run("sync", moment=moment)
    assert status in (-signal.SIGKILL, 0), victim.output.read_text()
    asked = victim.asked(before)
    assert len(asked) == len(set(asked))
    assert asked_again(staged, asked) == []
    pages = await victim.staged()
    assert pages[: len(staged)] == staged
    if victim.setup.database.exists() and pages:
        assert_accounted(victim, await victim.status(), len(pages))
    return status != 0


def indexes(victim: Victim) -> set[str]:
    """The names of the mirror's indexes that were created as such, and are not unique."""
    with closing(sqlite3.connect(victim.setup.database)) as database:
        said = database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'index' AND sql NOT LIKE '%UNIQUE%'"
        )
        return {name for (name,) in said if "ingest" not in name}


@pytest.mark.parametrize("moment", ["window 1", "window 3", "sql 3 SET window=", "sql 4 SET window="])
async def test_killed_while_the_integrity_window_is_open_it_is_announced_and_the_next_run_closes_it(
    tmp_path: Path, truth: Truth, wanted: str, moment: str
) -> None:
    tables = truth.models.tables.values()
    indexes_wanted = {index.name for table in tables for index in table.indexes if not index.unique}
    async with served(tmp_path, truth) as victim:
        small = {"BULK": 30, "BATCH": 20, "BACKLOG": 120}
        assert await victim.run("sync", moment=moment, **small) == -signal.SIGKILL
        known = await victim.status()
        assert known.window is not None
        # by then they were built, by an attempt that was kept
        assert (indexes(victim) == indexes_wanted) == (moment == "sql 4 SET window=")
        assert_accounted(victim, known, len(await victim.staged()))
        for command in ("status", "missing", "gaps"):
            assert await victim.run(command) == 0
            assert known.window in victim.output.read_text(), command

        assert await victim.run("sync") == 0, victim.output.read_text()
        assert (await victim.status()).window is None
        assert (await victim.status()).last[0].scope == "whole"
        assert await victim.digest() == wanted
        assert indexes(victim) == indexes_wanted


async def test_killed_while_the_database_is_made_anew_it_is_made_anew_by_the_next_run(
    tmp_path: Path, truth: Truth, wanted: str
) -> None:
    async with served(tmp_path, truth) as victim:
        assert await victim.run("sync") == 0
        for moment in ("window 1", "sql 1 INTO messages", "sql 4 SET window="):
            assert await victim.run("replay", "--rebuild", moment=moment) == -signal.SIGKILL
            assert (await victim.status()).window is not None
        before = len(victim.up.requests)
        assert await victim.run("recover") == 0, victim.output.read_text()
        assert len(victim.up.requests) == before
        assert (await victim.status()).window is None
        assert await victim.digest() == wanted


async def _is_asked_to_stop(victim: Victim, moment: str) -> None:
    staged, before = await victim.staged(), len(victim.up.requests)
    status = await victim.run("sync", moment=moment)
    said = victim.output.read_text()
    assert "Traceback" not in said
    assert (status, "nothing that was staged is lost" in said) == (130, True), (moment, said)
    assert (await victim.status()).holder is None
    assert asked_again(staged, victim.asked(before)) == []


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
async def test_asked_to_stop_a_run_ends_at_a_safe_point_and_the_next_goes_on(
    tmp_path: Path, truth: Truth, wanted: str, by: signal.Signals
) -> None:
    async with served(tmp_path, truth) as victim:
        victim.signal = by
        for request in (4, 11):
            await _is_asked_to_stop(victim, f"request {request}")
        assert not await _dies(victim, None)
        assert await victim.digest() == wanted


@pytest.mark.parametrize(
    "statement",
    [
        "INTO ingest_batch_messages",
        "UPDATE conversations",
        "INTO ingest_loads",
        "UPDATE ingest_runs",
    ],
)
async def test_asked_to_stop_in_the_middle_of_a_transaction_it_is_brought_to_its_end_or_undone(
    tmp_path: Path, truth: Truth, wanted: str, statement: str
) -> None:
    async with served(tmp_path, truth) as victim:
        await _is_asked_to_stop(victim, f"term 1 {statement}")
        assert not await _dies(victim, None)
        assert await victim.digest() == wanted


async def test_a_second_run_beside_a_first_writes_nothing_and_says_who_is_at_work(
    tmp_path: Path, truth: Truth, wanted: str
) -> None:
    async with served(tmp_path, truth) as victim:
        beside = Victim(victim.setup, victim.up)
        beside.output = tmp_path / "beside"
        reached = asyncio.Event()
        victim.meanwhile = reached.set
        victim.up.faults.at(5, silence())
        running = asyncio.create_task(victim.run("sync"))
        await reached.wait()
        assert await beside.run("sync") == 1
        line, hint = beside.output.read_text().splitlines()
        assert line.startswith("ingest: ")
        assert hint.startswith("hint: ")
        for question in ("status", "missing"):
            assert await beside.run(question) == 0
        victim.kill()
        assert await running == -signal.SIGKILL
        victim.up.faults.clear()
        # what a dead process held is taken over without a word
        assert await victim.run("sync") == 0, victim.output.read_text()
        assert await victim.digest() == wanted
