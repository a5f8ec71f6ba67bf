"""Canary secrets, and every way out that they might take: none leads anywhere but to the configured origin.

Each case is a way to be known (a bearer token, a header, a cookie, a query, basic, a login), and a trouble.
A job is mirrored once from a server that repeats every credential it is shown; then the trouble comes, and
every command is run in it. Whatever was printed and written is looked through byte by byte.
"""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import msgspec
import pytest

from ingest.engines.postgresql import PostgresqlEngine
from ingest.errors import ConfigError
from ingest.load.decoders import Decoders
from ingest.staging import SqlitePageLog
from tests.canaries import found_in, hits, spelled
from tests.integration.jobs import Setup, cli
from tests.upstream import Faults, Paging, Truth, Upstream, example, generate
from tests.upstream.faults import Fault, Scene, silence
from tests.upstream.wire import Answer

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

ROWS = {
    "users": 3,
    "tags": 2,
    "conversations": 2,
    "conversation_tags": 2,
    "messages": 6,
    "attachments": 2,
    "poll_options": 2,
}
#: every one needs an escape in a URL, in JSON or in a repr; none is like another
SECRETS = {
    "A": 'cAnary+one/1=="x\\y',
    "B": "cAnary%two two&2='y'",
    "TOKEN": "cAnary.three~3_token",
}
SECRETS["PAIR"] = base64.b64encode(f"ann:{SECRETS['B']}".encode()).decode()
LOGIN = {"path": "/login", "body": {"username": "$WHO", "in": ["$A", {"p": "$B"}]}, "token": "token"}
WAYS: dict[str, dict[str, Any]] = {
    "bearer": {"bearer": "$A"},
    "header": {"header": {"X-Api-Key": "$A", "X-Other": "$B"}},
    "cookie": {"header": {"Cookie": "$JAR"}},
    "query": {"query": {"key": "$A", "other": "$B"}},
    "basic": {"basic": ["$WHO", "$B"]},
    "login": {"login": LOGIN},
}
#: the secrets that a way makes use of, the first of which the server is shown
KNOWN = {
    "bearer": ["A"],
    "header": ["A", "B"],
    "cookie": ["TOKEN"],
    "query": ["A", "B"],
    "basic": ["PAIR", "B"],
    "login": ["TOKEN", "A", "B"],
}
#: (name in the environment, its value) beside SECRETS: a name is no secret, a jar holds one
BESIDE = {"WHO": "ann", "JAR": f"lang=en; session={SECRETS['TOKEN']}"}
#: a signature of the server's own, in the URL of a next page
SIGNATURE = "sIgned-by-the-server-%04d"


class World(NamedTuple):
    setup: Setup
    up: Upstream
    monkeypatch: pytest.MonkeyPatch
    #: what the server has been shown, and repeats
    told: list[str]


def tells(told: list[str], status: int | None = None, **headers: str) -> Fault:
    """The right answer (or one with this status) that repeats all it knows, in its body and its headers."""
    echo = [form for one in told for form in spelled(one)]
    count = iter(range(10_000))

    def change(answer: Answer, scene: Scene) -> Answer:
        if scene.request.path.endswith("/login"):
            return answer
        body = msgspec.json.decode(answer.body) if answer.body[:1] == b"{" else {}
        body.setdefault("meta", {})["you_sent"] = echo
        following = body.get("links", {}).get("next")
        if following:
            body["links"]["next"] = f"{following}&signature={SIGNATURE % next(count)}"
        stated = [(name, value) for name, value in answer.headers if name.lower() != "content-length"]
        # a header holds what is printable ASCII
        stated += [("X-Echo", one) for one in echo] + [("Set-Cookie", f"session={told[0]}")]
        stated += [(name.replace("_", "-"), value + told[0]) for name, value in headers.items()]
        return Answer(status=status or answer.status, headers=tuple(stated), body=msgspec.json.encode(body))

    return Fault(name="tells", change=change)


def garbage(told: list[str]) -> Fault:
    def change(answer: Answer, _: Scene) -> Answer:
        return Answer(headers=(("Content-Type", told[0]),), body=f"<p>{' '.join(told)}".encode())

    return Fault(name="garbage", change=change)


# -- what goes wrong -------------------------------------------------------------------------------------


def always(fault: Callable[[list[str]], Fault]) -> Callable[[World], None]:
    def happen(world: World) -> None:
        world.up.faults.clear()
        world.up.faults.always(fault(world.told))

    return happen


def wrong(world: World) -> None:
    """The secrets are not those that the server knows, and it says so."""
    always(lambda told: tells(told, 401))(world)


def refused(world: World) -> None:
    """Nothing answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        world.setup.configure(f"http://127.0.0.1:{free.getsockname()[1]}")


def crash(world: World) -> None:
    """A bug, at the last moment before the wire, that says all it has in hand."""

    async def handle(_: Any, request: httpx.Request) -> httpx.Response:
        content = (await request.aread()).decode()
        if request.url.path.endswith("/login"):
            return httpx.Response(200, json={"token": SECRETS["TOKEN"]})
        try:
            raise KeyError(f"{request.url} {request.headers.raw!r}", request.headers.raw)
        except KeyError as error:
            raise RuntimeError(
                f"{request.url} {request.headers!r} {request.headers.raw!r} {content}"
            ) from error

    world.monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)


def crash_below(world: World) -> None:
    """A bug, in the middle of a load and in the page log, that says what the environment holds."""

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(
            " ".join(form for one in world.told if one != SECRETS["TOKEN"] for form in spelled(one))
        )

    world.monkeypatch.setattr(Decoders, "add", fail)
    world.monkeypatch.setattr(SqlitePageLog, "page", fail)


def unreachable(scheme: str, query: str = "") -> Callable[[World], None]:
    def happen(world: World) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        login = f"cAnary-user:{quote(SECRETS['B'], safe='')}"
        world.monkeypatch.setenv(
            "DB",
            f"{scheme}://{login}@127.0.0.1:{port}/mirror{query}",
        )
        world.told.append(SECRETS["B"])
        world.setup.configure(world.up.base_url, database={"url": "$DB"})

    return happen


def talkative(world: World) -> None:
    """A driver that says the password when it cannot connect, as some once did."""
    unreachable("postgresql")(world)
    world.monkeypatch.setattr(PostgresqlEngine, "_said", lambda _, error: " or ".join(spelled(SECRETS["B"])))


TROUBLES: dict[str, Callable[[World], None]] = {
    "none": always(tells),
    "401": wrong,
    "403": always(lambda told: tells(told, 403)),
    "404": always(lambda told: tells(told, 404)),
    "500": always(lambda told: tells(told, 500)),
    "garbage": always(garbage),
    "silence": always(lambda told: silence()),
    "redirected elsewhere": always(lambda told: tells(told, 302, Location="http://127.0.0.1:1/?")),
    "redirected to nowhere": always(lambda told: tells(told, 302, Location="http://x:")),
    "redirected in a circle": always(lambda told: tells(told, 307, Location="?")),
    "refused": refused,
    "a crash at the wire": crash,
    "a crash below": crash_below,
    "PostgreSQL is away": unreachable("postgresql"),
    "PostgreSQL is away and its driver talkative": talkative,
    "PostgreSQL by psycopg is away": unreachable("postgresql+psycopg"),
    "MariaDB is away": unreachable("mariadb"),
    "MariaDB by aiomysql is away": unreachable("mariadb+aiomysql"),
}

#: what is run in every trouble, the network's commands first; {…} is filled in
COMMANDS = (
    "preview api messages",
    "sync",
    "backfill api --stream messages",
    "recover",
    "verify",
    "status",
    "missing --explain",
    "missing --retry",
    "gaps",
    "trace users {user}",
    "runs",
    "dead-letters",
    "dead-letters retry",
    "migrate",
    "record api --to {folder}/pages",
    "copy sqlite:///mirror.db sqlite:///copy.db",
    "replay {folder}/pages",
    "replay --diff",
    "replay --rebuild",
    "prune --keep 0s",
)
#: how it is told: lines as they come, lines of JSON, and answers in JSON
FORMATS = (([], []), (["--log-format", "text"], []), (["--log-format", "json"], ["--json"]))


@pytest.fixture
def truth() -> Truth:
    return generate(example.Base, seed=4, rows=ROWS)


def streams() -> dict[str, Any]:
    paginate = {"kind": "url", "next": "links.next", "limit": 2}
    return {name: {**stream, "paginate": paginate} for name, stream in example.STREAMS.items()}


class Said(dict[str, str]):
    """All that commands printed, and what they ended with."""

    def __init__(self, setup: Setup, *users: int) -> None:
        self.statuses: dict[str, int] = {}
        self._setup, self._users = setup, users

    async def run(self, command: str, form: int) -> None:
        """Run a command line, told in one of the FORMATS."""
        before, after = FORMATS[form % len(FORMATS)]
        users = self._users if "{user}" in command else (0,)
        for user in users:
            words = [word.format(folder=self._setup.folder, user=user) for word in command.split()]
            answers = [] if words[0] == "record" else after
            ran = await cli(self._setup.config_file, *before, *words, *answers, may_crash=True)
            self[f"{len(self)}: the answer of {command}"] = ran.out
            self[f"{len(self)}: what is said of {command}"] = ran.err
            self.statuses[command] = ran.status


def marks(way: int, trouble: int) -> list[pytest.MarkDecorator]:
    if trouble % 3 == 0 and way == trouble // 3:
        return []
    return [pytest.mark.sweep] if (way + trouble) % 2 else [pytest.mark.nightly]


CASES = [
    pytest.param(way, trouble, marks=marks(n, m))
    for m, trouble in enumerate(TROUBLES)
    for n, way in enumerate(WAYS)
]


@pytest.mark.parametrize(("way", "trouble"), CASES)
async def test_no_secret_is_found_in_whatever_a_command_prints_or_writes(
    tmp_path: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch, way: str, trouble: str
) -> None:
    for name, value in {**SECRETS, **BESIDE}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tests.upstream.auth.Gate._token", lambda _: SECRETS["TOKEN"])
    told = [SECRETS[name] for name in KNOWN[way]]
    setup = Setup(
        tmp_path, streams(), auth=WAYS[way], transport={"attempts": 1, "timeout": "100ms", "deadline": "5s"}
    )
    said = Said(setup, *(row["id"] for row in truth.rows("users")))
    secrets, faults = {**SECRETS, **BESIDE}, Faults().always(tells(told))
    async with Upstream(setup.source, truth, faults=faults, secrets=secrets, paging=Paging(end="null")) as up:
        setup.configure(up.base_url)
        await said.run("sync", 0)
        assert said.statuses == {"sync": 0}
        TROUBLES[trouble](World(setup, up, monkeypatch, told))
        for number, command in enumerate(COMMANDS):
            await said.run(command, number + len(trouble))
    # it did go over the wire, and was repeated, or this test would prove nothing
    sent = [f"{one.query} {one.headers} {one.body.decode()}" for one in up.requests]
    canaries = {f"secret {number}": one for number, one in enumerate(told)}
    assert {name for one in sent for name in found_in(one.encode(), canaries)} >= {"secret 0"}
    assert ("Traceback" in "".join(said.values())) == ("crash" in trouble)
    if trouble == "none":
        assert {name: status for name, status in said.statuses.items() if status} == {}, said
    assert hits(canaries, *files(tmp_path), texts=said) == []
    # the walk goes on from what the server signed, and nobody else is told
    signed = {"a signature": SIGNATURE[:-4]}
    kept, others = (
        [one for one in files(tmp_path) if (".pages" in one.name) is log] for log in (True, False)
    )
    assert hits(signed, *kept)
    assert hits(signed, *others, texts=said) == []


def files(folder: Path) -> list[Path]:
    return [one for one in folder.rglob("*") if one.is_file() and one.suffix != ".pyc"]


# -- what is too short to be looked for ------------------------------------------------------------------

SHORT = "tag-7"


async def test_a_short_secret_is_content_where_a_server_says_it_and_is_never_printed_or_recorded(
    tmp_path: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A", SHORT)
    truth.upsert("users", {**truth.rows("users")[0], "name": f"about {SHORT}"})
    setup = Setup(tmp_path, streams(), auth={"bearer": "$A"}, transport={"attempts": 1})
    said = Said(setup, truth.rows("users")[0]["id"])
    async with Upstream(setup.source, truth, secrets={"A": SHORT}, paging=Paging(end="null")) as up:
        setup.configure(up.base_url)
        await said.run("sync", 0)
        # nothing that it says was changed
        assert setup.differences(truth) == []
        await said.run("record api --to {folder}/pages", 0)
        up.faults.always(refusal(SHORT))
        await said.run("sync", 1)
    assert said.statuses == {"sync": 3, "record api --to {folder}/pages": 2}
    assert not (tmp_path / "pages").exists()
    assert hits({"it": SHORT}, texts=said) == []


def refusal(text: str) -> Fault:
    return Fault(name="refusal", change=lambda _, __: Answer(status=403, body=f"not for {text}".encode()))


# -- what is not what it should be -----------------------------------------------------------------------

#: what a database's URL may be by mistake; {} stands for a password, written as URLs have it
WRONG_URLS = (
    "{}",
    "{}://host/mirror",
    "oracle://me:{}@127.0.0.1/mirror",
    "postgresql:///mirror?password={}&host=127.0.0.1&port=1",
    "postgresql://me:{}@[::1/mirror",
    "postgresql://me:{}@127.0.0.1:port/mirror",
    "postgresql://me:{}@127.0.0.1:1/mirror?no_such_option={}",
    "postgresql+psycopg://me:{}@127.0.0.1:1/mirror?no_such_option=1",
    "postgresql+nothing://me:{}@127.0.0.1:1/mirror",
    "mysql://me:{}@127.0.0.1:1/mirror",
    "mariadb://me:{}@127.0.0.1:1/mirror?no_such_option=1",
    "sqlite://me:{}@/mirror.db",
)


@pytest.mark.parametrize("url", WRONG_URLS)
async def test_a_database_url_that_is_wrong_is_refused_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    password = SECRETS["B"]
    monkeypatch.setenv("DB", url.replace("{}", quote(password, safe="")))
    setup = Setup(tmp_path, streams())
    with suppress(ConfigError):
        setup.configure("http://127.0.0.1:1", database={"url": "$DB"})
    said = Said(setup)
    for number, command in enumerate(
        ("sync", "status", "copy $DB sqlite:///copy.db", "copy sqlite:///a.db $DB")
    ):
        await said.run(command, number)
    assert not set(said.statuses.values()) & {0, 3}
    assert not [text for text in said.values() if "Traceback" in text]
    assert hits({"the password": password}, *files(tmp_path), texts=said) == []


@pytest.mark.parametrize(
    "value", ["{}", "ftp://me:{}@host", "https://me:{}@host", "https://host/?key={}", "https://[::1/{}"]
)
async def test_an_api_s_address_that_is_wrong_is_refused_without_showing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("API", value.replace("{}", SECRETS["TOKEN"]))
    setup = Setup(tmp_path, streams())
    with suppress(ConfigError):
        setup.configure("$API")
    said = Said(setup)
    for number, command in enumerate(("sync", "preview api users", "backfill api")):
        await said.run(command, number)
    assert set(said.statuses.values()) == {2}
    assert hits({"it": SECRETS["TOKEN"]}, *files(tmp_path), texts=said) == []
