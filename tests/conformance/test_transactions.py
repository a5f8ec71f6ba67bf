"""A transaction that others are in the way of is tried again, and says who they are when that is no use."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.catalog import read_catalog
from ingest.clock import SystemClock
from ingest.database import Database
from ingest.engines import engine_for
from ingest.engines import mariadb as mariadb_engine
from ingest.engines import postgresql as postgresql_engine
from ingest.errors import NotProven, Stop
from tests.databases import TestDatabase


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)


#: fails at the end of as many transactions as `times` says, with an error of the class `state`
FAILING = """
CREATE SEQUENCE failures;
GRANT USAGE ON failures TO PUBLIC;
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    -- what a sequence has counted is not undone with the transaction
    IF nextval('failures') <= {times} THEN RAISE EXCEPTION 'not now' USING ERRCODE = '{state}'; END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER failing AFTER INSERT ON things
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()
"""


class NoTime(SystemClock):
    """A clock on which waiting takes no time."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(0)


@asynccontextmanager
async def opened(url: str, driver: str) -> AsyncIterator[Database]:
    engine = engine_for(url.replace("://", f"+{driver}://", 1))
    catalog = read_catalog([sys.modules[__name__]])
    try:
        async with engine.writer() as connection:
            database = Database(engine, catalog, [], connection, clock=NoTime())
            await database.write(lambda c: Base.metadata.create_all(c))
            yield database
    finally:
        await engine.close()


def insert(connection: sa.Connection) -> None:
    connection.execute(sa.insert(Thing.__table__).values(id=1))


async def ids(database: Database) -> list[int]:
    return await database.read(lambda c: list(c.scalars(sa.select(Thing.id))))


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_transaction_whose_very_end_is_in_anothers_way_is_tried_again(
    postgresql: TestDatabase, driver: str
) -> None:
    async with opened(postgresql.url, driver) as database:
        postgresql.admin(FAILING.format(times=2, state="40001"))
        await database.write(insert)
        assert await ids(database) == [1]


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_what_a_transaction_violates_at_its_very_end_is_not_proven_and_the_next_one_begins(
    postgresql: TestDatabase, driver: str
) -> None:
    async with opened(postgresql.url, driver) as database:
        postgresql.admin(FAILING.format(times=1, state="23503"))
        with pytest.raises(NotProven, match="not now"):
            await database.write(insert)
        assert await ids(database) == []
        await database.write(insert)
        assert await ids(database) == [1]


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_who_does_not_let_a_table_go_is_named(
    postgresql: TestDatabase, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgresql_engine._SETTINGS, "lock_timeout", "50")
    async with opened(postgresql.url, driver) as database:
        other = psycopg.connect(postgresql.url, application_name="a report")
        with closing(other):
            other.execute("SELECT count(*) FROM things")
            with pytest.raises(Stop) as stopped:
                await database.write(lambda c: c.exec_driver_sql("ALTER TABLE things ADD late INTEGER"))
            who = f"things is held by process {other.info.backend_pid} ({postgresql.name}, a report) since 20"
        assert who in str(stopped.value)
        assert "lock timeout (ALTER TABLE things ADD late INTEGER)" in str(stopped.value)


@pytest.mark.parametrize("told", [True, False], ids=["to who may know", "to nobody"])
async def test_who_does_not_let_a_row_go_is_named_on_mariadb(
    mariadb: TestDatabase, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    monkeypatch.setitem(mariadb_engine._SETTINGS, "innodb_lock_wait_timeout", "1")
    monkeypatch.setattr("ingest.database._PAUSES", (0.1,))
    if told:
        mariadb.admin(f"GRANT PROCESS ON *.* TO '{mariadb.name}'@'%'")
    async with opened(mariadb.url, "asyncmy") as database:
        await database.write(insert)
        with closing(mariadb.server.connect(mariadb.name)) as other, closing(other.cursor()) as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT id FROM things FOR UPDATE")
            with pytest.raises(Stop) as stopped:
                await database.write(lambda c: c.execute(sa.delete(Thing.__table__)))
            who = f"thread {other.thread_id()} ({other.user.decode()}) has been in a transaction since 20"
        assert ": Lock wait timeout exceeded; try restarting transaction (DELETE FROM things)" in str(
            stopped.value
        )
        assert told == (who in str(stopped.value))
