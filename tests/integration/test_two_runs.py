"""Two runs at once on one database: one writes, the other says who does. Holders that are gone or asleep."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from ingest.config import read_config
from ingest.errors import LockHeld, Stop
from ingest.ledger import LOCK
from ingest.pipeline import open_job
from tests.crash import child
from tests.crash.asking import asked_again
from tests.databases import TestDatabase, on_every_kind, on_every_server, on_servers
from tests.integration import processes
from tests.integration.jobs import Clock, Setup, client, forget
from tests.integration.processes import LIMIT, Command, asked_since, ran, until
from tests.integration.story import NEW, edit, grow
from tests.integration.test_round_trip import KINDS as PAGING
from tests.integration.test_round_trip import ROWS, assert_adds_up, paged
from tests.upstream import Truth, Upstream, example, generate
from tests.upstream.faults import silence

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

HOLDER = "SELECT holder FROM ingest_lock"
STREAMS = paged(PAGING["cursor"])


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


class Place:
    """Two machines with a job each, which mirror one upstream into one database."""

    def __init__(self, folder: Path, url: str, truth: Truth) -> None:
        self.here = Setup(folder / "here", STREAMS, url=url)
        self.there = Setup(folder / "there", STREAMS, url=url)
        self._running = ExitStack()
        #: called with the number of every request
        self.meanwhile: Callable[[int], object] = lambda number: None
        self.up = Upstream(self.here.source, truth, before=lambda _, number: self.meanwhile(number))

    async def __aenter__(self) -> Place:
        await self.up.__aenter__()
        for setup in (self.here, self.there):
            setup.configure(self.up.base_url)
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._running.close()
        await self.up.__aexit__(*error)

    def begin(self, setup: Setup, *, moment: str | None = None) -> Command:
        """A run in a process of its own."""
        return self._running.enter_context(Command(setup, "sync", moment=moment))

    async def hanging(self, setup: Setup, *, at: int = 5) -> Command:
        """A run that holds the lock, and waits for an answer that does not come."""
        self.up.faults.after(at, silence())
        reached = asyncio.Event()
        self.meanwhile = lambda number: reached.set() if number > at else None
        run = self.begin(setup)
        await asyncio.wait_for(reached.wait(), LIMIT)
        return run


def assert_says_who_holds_it(status: int, said: str, holder: Command) -> None:
    assert status == 1
    line, hint = said.splitlines()
    assert line.startswith("ingest: ")
    assert str(holder.pid) in line
    assert socket.gethostname() in line
    assert " since 20" in line
    assert hint.startswith("hint: wait for it to end, or stop it")


@on_every_kind
async def test_a_second_run_says_who_writes_and_since_when_and_goes_on_when_that_one_is_gone(
    tmp_path: Path, database_url: str, truth: Truth, wanted: str
) -> None:
    async with Place(tmp_path, database_url, truth) as place:
        holder = await place.hanging(place.here)
        assert place.here.ask(HOLDER) == [(f"{socket.gethostname()}:{holder.pid}",)]
        for command in ("sync", "recover", "verify"):
            assert_says_who_holds_it(*await ran(place.there, command), holder)
        # a question is answered all the same
        for command in ("status", "missing"):
            assert (await ran(place.here, command))[0] == 0
        holder.kill()
        assert await holder.ended() == -signal.SIGKILL
        place.up.faults.clear()
        # what a dead process held is taken over without a word
        status, said = await ran(place.here, "sync")
        assert status == 0, said
        assert await processes.digest(place.here) == wanted
        assert place.here.ask(HOLDER) == [(None,)]


@on_every_server
async def test_a_holder_that_died_on_another_machine_is_taken_for_dead_where_its_session_is(
    tmp_path: Path, server: TestDatabase, truth: Truth, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Place(tmp_path, server.url, truth) as place:
        holder = await place.hanging(place.here)
        with monkeypatch.context() as elsewhere:
            # to this process, the other one's machine is another
            elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
            config = read_config(place.there.config_file)
            with pytest.raises(LockHeld, match=f"{holder.pid}"):
                async with open_job(config, clock=place.there.clock):
                    pass
            holder.kill()
            assert await holder.ended() == -signal.SIGKILL
            place.up.faults.clear()
            await until(lambda: not server.has_sessions())
            # with a page log of its own, which begins above the stamps that are known
            async with open_job(config, clock=place.there.clock) as job:
                assert_adds_up(await job.sync())
                assert await job.digest() == wanted


@on_every_kind
async def test_of_two_first_runs_at_once_one_does_it_and_the_other_says_so(
    tmp_path: Path, database_url: str, truth: Truth, wanted: str
) -> None:
    async with Place(tmp_path, database_url, truth) as place:
        runs = [place.begin(place.here), place.begin(place.there)]
        ends = [await run.ended() for run in runs]
        done = [run for run, status in zip(runs, ends, strict=True) if status == 0]
        assert done, [run.said for run in runs]
        for run, status in zip(runs, ends, strict=True):
            assert status in (0, 1)
            assert "Traceback" not in run.said
            if status == 1:
                assert "another run" in run.said or "is being written by" in run.said
        winner = place.here if ends[0] == 0 else place.there
        assert winner.ask(HOLDER) == [(None,)]
        assert await processes.digest(winner) == wanted


@on_every_server
async def test_two_first_runs_that_meet_while_tables_are_made_do_not_make_them_twice(
    tmp_path: Path, server: TestDatabase, truth: Truth, wanted: str
) -> None:
    async with Place(tmp_path, server.url, truth) as place:
        first = place.begin(place.here, moment="stop 1 CREATE TABLE messages")
        await first.suspended()
        status, said = await ran(place.there, "sync")
        # nobody has written down yet who it is
        assert (status, said.splitlines()[0]) == (1, "ingest: another run is writing to this database")
        first.signal(signal.SIGCONT)
        assert await first.ended() == 0, first.said
        assert await processes.digest(place.here) == wanted


SLEEPS_AT = {
    "while it begins": "stop 1 INTO ingest_runs",
    "in the transaction that loads": "stop 1 INTO messages",
    "before it certifies": "stop 1 DELETE FROM ingest_touched",
    "before its last word": "stop 1 UPDATE ingest_runs",
    "while it fetches": None,
}


@on_servers(SLEEPS_AT, often=("in the transaction that loads", "while it fetches"))
async def test_a_holder_that_slept_through_a_take_over_writes_nothing_when_it_wakes(
    tmp_path: Path, server: TestDatabase, truth: Truth, moment: str
) -> None:
    async with Place(tmp_path, server.url, truth) as place:
        sleeper = place.begin(place.here, moment=SLEEPS_AT[moment])
        if SLEEPS_AT[moment] is None:
            # with an answer on its way
            place.meanwhile = lambda number: sleeper.signal(signal.SIGSTOP) if number == 5 else None
        await sleeper.suspended()
        place.meanwhile = lambda number: None
        server.end_sessions()
        await until(lambda: not server.has_sessions())
        status, said = await ran(place.there, "sync")
        assert status == 0, said
        before = await contents(place.there)
        sleeper.signal(signal.SIGCONT)
        assert await sleeper.ended() == 1, sleeper.said
        assert "Traceback" not in sleeper.said
        told = [line for line in sleeper.said.splitlines() if line.startswith("ingest: ")]
        assert len(told) == 1, sleeper.said
        assert await contents(place.there) == before
        assert place.there.differences(truth) == []


@on_every_kind
async def test_a_run_that_kept_its_session_through_a_take_over_writes_nothing_more(
    tmp_path: Path, database_url: str, truth: Truth
) -> None:
    async with Place(tmp_path, database_url, truth) as place:
        # as behind a proxy that gave the session's hold away, or on a disk that another machine writes to
        def take_over(number: int) -> None:
            if number == 5:
                with client(database_url) as other:
                    other.execute(
                        sa.update(LOCK).values(epoch=LOCK.c.epoch + 1, holder="other:1", since="then")
                    )
                    other.commit()

        place.meanwhile = take_over
        with pytest.raises(LockHeld, match="taken over by other:1 since then"):
            await place.here.sync(place.up)
        tables = await contents(place.here)
        assert (tables["messages"], tables["ingest_pages"]) == ([], [])
        assert [row.holder for row in tables["ingest_lock"]] == ["other:1"]


async def contents(setup: Setup) -> dict[str, list[sa.Row[Any]]]:
    """Every row of every table there is."""
    with client(setup.url) as connection:
        tables = sa.MetaData()
        tables.reflect(connection)
        return {
            name: sorted(connection.execute(sa.select(table)), key=repr)
            for name, table in tables.tables.items()
        }


# -- transactions that others are in the way of -------------------------------------------------------------


class Patient(Clock):
    """A clock that does something when it is slept by."""

    def __init__(self, do: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.do, self.pauses = do, list[float]()

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.do()
        await super().sleep(seconds)


#: a trigger that fails as a server does when others are in the way, so often; what counts is never undone
FAILING = {
    "postgresql": (
        "CREATE SEQUENCE tries",
        """CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('tries') <= {times} THEN RAISE EXCEPTION 'others' USING ERRCODE = '{code}'; END IF;
             RETURN NEW;
           END $$""",
        "CREATE TRIGGER failing BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION fail()",
    ),
    "mariadb": (
        "CREATE SEQUENCE tries",
        """CREATE TRIGGER failing BEFORE INSERT ON {table} FOR EACH ROW
             IF NEXTVAL(tries) <= {times} THEN
               SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'others';
             END IF""",
    ),
}
#: errors that pass, by where they are raised, as each server numbers them
PASSING = {
    "a deadlock": ("messages", {"postgresql": "40P01", "mariadb": "1213"}),
    "what another has changed": ("ingest_pages", {"postgresql": "40001", "mariadb": "1020"}),
    "a lock that is not to be had": ("ingest_runs", {"postgresql": "55P03", "mariadb": "1205"}),
}


def plant(server: TestDatabase, *statements: str) -> None:
    """As the tables' owner, or where that one has no right to make triggers, as the administrator."""
    for statement in statements:
        if server.kind == "postgresql":
            with psycopg.connect(server.url, autocommit=True) as owner:
                owner.execute(statement.encode())
        else:
            server.admin(statement)


@on_servers(PASSING, often=("a deadlock",))
async def test_a_transaction_that_others_were_in_the_way_of_is_tried_again(
    tmp_path: Path, server: TestDatabase, truth: Truth, wanted: str, moment: str
) -> None:
    table, codes = PASSING[moment]
    await make_tables(tmp_path, server)
    plant(
        server, *(line.format(times=3, code=codes[server.kind], table=table) for line in FAILING[server.kind])
    )
    setup, clock = Setup(tmp_path / "again", STREAMS, url=server.url), Patient()
    async with (
        Upstream(setup.source, truth) as up,
        open_job(setup.configure(up.base_url), clock=clock) as job,
    ):
        assert_adds_up(await job.sync())
        assert await job.digest() == wanted
    assert len(clock.pauses) == 3
    assert clock.pauses == sorted(clock.pauses)


def fail(server: TestDatabase, **how: Any) -> None:
    plant(server, *(statement.format(**how) for statement in FAILING[server.kind]))


async def make_tables(folder: Path, server: TestDatabase) -> None:
    """By a job that runs nothing."""
    setup = Setup(folder / "empty", STREAMS, url=server.url)
    async with open_job(setup.configure("http://127.0.0.1:1")):
        pass
    forget("chat")


@on_every_server
async def test_tried_often_enough_it_ends_with_a_line_and_the_next_run_goes_on(
    tmp_path: Path, server: TestDatabase, truth: Truth, wanted: str
) -> None:
    _, codes = PASSING["a deadlock"]
    await make_tables(tmp_path, server)
    fail(server, times=1000, code=codes[server.kind], table="messages")
    setup, clock = Setup(tmp_path / "job", STREAMS, url=server.url), Patient()
    async with Upstream(setup.source, truth) as up:
        with pytest.raises(Stop) as stopped:
            async with open_job(setup.configure(up.base_url), clock=clock) as job:
                await job.sync()
        assert "others" in str(stopped.value)
        assert len(clock.pauses) == 5
        plant(server, "DROP TRIGGER failing" + (" ON messages" if server.kind == "postgresql" else ""))
        pages, before = await processes.staged(setup), len(up.requests)
        assert pages
        async with open_job(setup.configure(up.base_url), clock=setup.clock) as job:
            assert_adds_up(await job.sync())
            assert await job.digest() == wanted
        assert asked_again(pages, asked_since(up, before)) == []


@pytest.mark.servers
async def test_a_transaction_that_fails_when_it_is_committed_is_tried_again_too(
    tmp_path: Path, truth: Truth, wanted: str, postgresql: TestDatabase
) -> None:
    await make_tables(tmp_path, postgresql)
    sequence, function, trigger = (
        line.format(times=3, code="40001", table="messages") for line in FAILING["postgresql"]
    )
    late = "CREATE CONSTRAINT TRIGGER failing AFTER INSERT ON messages DEFERRABLE INITIALLY DEFERRED"
    plant(postgresql, sequence, function, f"{late} {trigger[trigger.index('FOR EACH ROW') :]}")
    setup, clock = Setup(tmp_path / "job", STREAMS, url=postgresql.url), Patient()
    async with (
        Upstream(setup.source, truth) as up,
        open_job(setup.configure(up.base_url), clock=clock) as job,
    ):
        assert_adds_up(await job.sync())
        assert await job.digest() == wanted
    assert len(clock.pauses) == 3


class Opponent:
    """Another program: it changes a message, and wants what a run has that waits for that message."""

    def __init__(self, server: TestDatabase, message: int) -> None:
        self._connection = server.server.connect(server.name)
        self._its_turn = threading.Event()
        self._thread = threading.Thread(target=self._want)
        # which the upstream here, with a database of its own, never says
        self._listener = child.on_statement(self._its_turn.set, "FROM ingest_batch_messages")
        self.failed: Exception | None = None
        change = f"UPDATE messages SET text = 'mine' WHERE id = {message}"
        for statement in (*BEGINNINGS[server.kind], change):
            self._do(statement)

    def __enter__(self) -> Opponent:
        sa.event.listen(sa.Engine, "before_cursor_execute", self._listener)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        sa.event.remove(sa.Engine, "before_cursor_execute", self._listener)
        self._its_turn.set()
        self.give_way()
        self._connection.close()

    def give_way(self) -> None:
        """It has had its turn, and undoes it."""
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()

    def _want(self) -> None:
        # whichever of the two waits first, the server sees that they wait for each other
        try:
            self._its_turn.wait()
            self._do("SELECT * FROM ingest_lock FOR UPDATE")
            self._do("ROLLBACK")
        except Exception as error:
            self.failed = error

    def _do(self, statement: str) -> None:
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(statement)


#: who has changed more is not the one that a server undoes
BEGINNINGS = {
    "postgresql": ("SET deadlock_timeout = '60s'", "BEGIN"),
    "mariadb": (
        "CREATE TABLE ballast (id INT PRIMARY KEY)",
        "BEGIN",
        "INSERT INTO ballast SELECT seq FROM seq_1_to_50000",
    ),
}


@on_every_server
async def test_of_two_that_wait_for_each_other_the_run_gives_way_and_is_tried_again(
    tmp_path: Path, server: TestDatabase, truth: Truth
) -> None:
    setup = Setup(tmp_path / "job", STREAMS, url=server.url)
    grow(truth)
    async with Upstream(setup.source, truth) as up:
        await setup.sync(up)
        edit(truth)
        with Opponent(server, NEW) as opponent:
            clock = Patient(opponent.give_way)
            async with open_job(setup.configure(up.base_url), clock=clock) as job:
                assert_adds_up(await job.sync())
        assert opponent.failed is None
        assert len(clock.pauses) == 1
        assert setup.differences(truth) == []
