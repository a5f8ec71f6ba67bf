"""Who reads while a sync goes on sees the mirror as it was before or as it is after it, and never between."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from ingest.catalog import Catalog, read_catalog
from ingest.config import models_of
from ingest.digest import digest
from ingest.engines import Engine, engine_for
from ingest.pipeline import open_job
from ingest.report import Certificate, Observer
from tests.databases import on_every_kind
from tests.integration import test_round_trip as round_trip
from tests.integration.jobs import Setup, client
from tests.integration.story import CHANGES
from tests.integration.test_round_trip import ROWS, assert_adds_up, paged
from tests.upstream import Truth, Upstream, example, generate

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

#: users are asked for by id: a run tries, asks for those that are missing, and tries again
STREAMS = {
    **paged(round_trip.KINDS["cursor"]),
    "users": {"entity": "User", "by_id": {"path": "/users/{id}"}},
}
#: seconds that a poll is waited for
PATIENCE = 30
#: how a transaction begins that sees one moment
SNAPSHOTS = {
    "sqlite": "BEGIN",
    "postgresql": "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
    "mariadb": "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
}


class Poll(NamedTuple):
    """What one transaction of a reader's saw."""

    digest: str
    #: foreign keys that lead nowhere, pointers and counters that are not what they should be
    wrong: list[str]
    messages: int


class Reader:
    """Another program with a connection of its own, which looks again and again from a thread of its own."""

    def __init__(self, url: str, catalog: Catalog, engine: Engine) -> None:
        self._url, self._catalog, self._engine = url, catalog, engine
        tables = {name: table.sql for name, table in catalog.tables.items()}
        self._violations = sa.union_all(*dangling(tables), *wrong(tables))
        self._count = sa.select(sa.func.count()).select_from(tables["messages"])
        self._seen: list[Poll] = []
        self._began = self._ended = 0
        self._turn = threading.Condition()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._poll_on)
        self._failed: Exception | None = None

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join()

    @property
    def polls(self) -> list[Poll]:
        """Everything that was seen so far."""
        with self._turn:
            return list(self._seen)

    def now(self) -> Poll:
        """What is seen by a poll that has not begun yet."""
        with self._turn:
            next_one = self._began + 1
            assert self._turn.wait_for(lambda: self._ended >= next_one or self._failed, PATIENCE)
            if self._failed is not None:
                raise self._failed
            return self._seen[next_one - 1]

    def _poll_on(self) -> None:
        try:
            with client(self._url) as connection:
                while not self._leaving.is_set():
                    with self._turn:
                        self._began += 1
                    poll = self._poll(connection)
                    with self._turn:
                        self._seen.append(poll)
                        self._ended += 1
                        self._turn.notify_all()
        except Exception as error:
            with self._turn:
                self._failed = error
                self._turn.notify_all()

    def _poll(self, connection: sa.Connection) -> Poll:
        connection.exec_driver_sql(SNAPSHOTS[connection.dialect.name])
        try:
            return Poll(
                digest(connection, self._catalog, self._engine),
                [f"{what}: {many}" for what, many in connection.execute(self._violations) if many],
                connection.scalar(self._count) or 0,
            )
        finally:
            connection.rollback()


def dangling(tables: dict[str, sa.Table]) -> Iterator[sa.Select[Any]]:
    """Of every foreign key, how many rows there are whose target is not there."""
    for name, table in tables.items():
        for key in table.foreign_key_constraints:
            parent = key.referred_table.alias()
            same = [one.parent == parent.c[one.column.name] for one in key.elements]
            lost = [one.parent.is_not(None) for one in key.elements]
            lost.append(parent.c[key.elements[0].column.name].is_(None))
            joined = table.outerjoin(parent, sa.and_(*same))
            yield counted(f"{name}.{'+'.join(key.column_keys)}").select_from(joined).where(*lost)


def wrong(tables: dict[str, sa.Table]) -> Iterator[sa.Select[Any]]:
    """How many of the example's counters and pointers are not what they are row by row."""
    rooms, messages = tables["conversations"], tables["messages"]
    of_room = sa.and_(messages.c.conversation_id == rooms.c.id, messages.c.deleted_at.is_(None))
    count = sa.select(sa.func.count()).select_from(messages).where(of_room).scalar_subquery()
    newest = (
        sa.select(messages.c.id)
        .where(of_room)
        .order_by(messages.c.created_at.desc(), messages.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    for column, should in ((rooms.c.messages_count, count), (rooms.c.last_message_id, newest)):
        yield counted(f"{column}").select_from(rooms).where(column.is_distinct_from(should))


def counted(what: str) -> sa.Select[Any]:
    return sa.select(sa.literal(what), sa.func.count())


@pytest.fixture
def truth() -> Truth:
    return generate(example.Base, seed=4, rows=ROWS)


@contextmanager
def reading(setup: Setup, base_url: str) -> Iterator[Reader]:
    catalog = read_catalog(models_of(setup.configure(base_url)))
    with Reader(setup.url, catalog, engine_for(setup.url)) as reader:
        yield reader


async def sync(setup: Setup, up: Upstream, observe: Observer) -> Certificate:
    async with open_job(setup.configure(up.base_url), clock=setup.clock, observe=observe) as job:
        return await job.sync()


def looking_at(reader: Reader, looked: Counter[str]) -> Observer:
    """Lets the reader look within every step of the run, while it waits."""

    def observe(event: str, /, **fields: Any) -> None:
        if event in ("step.finished", "heal.asked", "load.finished"):
            looked[fields.get("step", event)] += 1
            reader.now()

    return observe


@on_every_kind
async def test_a_reader_sees_the_mirror_before_a_sync_or_after_it_and_never_between(
    tmp_path: Path, database_url: str, truth: Truth
) -> None:
    setup = Setup(tmp_path / "job", STREAMS, url=database_url)
    async with Upstream(setup.source, truth) as up:
        await setup.sync(up)
        for change in CHANGES:
            change(truth)
            looked: Counter[str] = Counter()
            with reading(setup, up.base_url) as reader:
                before = reader.now()
                ran = await sync(setup, up, looking_at(reader, looked))
                after = reader.now()
                polls = reader.polls
            assert_adds_up(ran)
            assert {poll.digest for poll in polls} == {before.digest, after.digest}
            assert before.digest != after.digest
            assert [poll.wrong for poll in polls if poll.wrong] == []
            # once it is new it does not become old again
            digests = [poll.digest for poll in polls]
            assert digests == sorted(digests, key=lambda one: one == after.digest)
            # and it was looked at while rows were written, settled and proven, before that was committed
            assert {"references", "derived", "missing", "verify"} <= looked.keys()
            assert len([one for one in digests if one == before.digest]) >= looked.total()
            if change is CHANGES[0]:
                assert looked["heal.asked"]
        # who is only asked for by id is not asked for again
        assert setup.differences(truth, ignoring=["users"]) == []


@on_every_kind
async def test_a_reader_s_snapshot_outlives_the_sync(tmp_path: Path, database_url: str, truth: Truth) -> None:
    setup = Setup(tmp_path / "job", STREAMS, url=database_url)
    async with Upstream(setup.source, truth) as up:
        await setup.sync(up)
        with client(setup.url) as connection:
            connection.exec_driver_sql(SNAPSHOTS[connection.dialect.name])
            counts = "SELECT (SELECT count(*) FROM messages), (SELECT sum(messages_count) FROM conversations)"
            old = connection.exec_driver_sql(counts).one()
            for change in CHANGES:
                change(truth)
                await setup.sync(up)
            assert connection.exec_driver_sql(counts).one() == old
            connection.rollback()
            assert connection.exec_driver_sql(counts).one() != old
