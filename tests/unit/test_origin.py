"""Wherever an answer points: credentials, and all requests, go to the configured origin and nowhere else.

One table of places, and every way in which a server can point to one. Each case ends as it should: what lies
at home is asked, however it is spelled, and all else is refused before anything is sent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest

from ingest.errors import BadAnswer, ForeignOrigin
from ingest.fetch.client import Client
from ingest.fetch.paginate import by_id_request, first_request, next_cursor, request_at
from ingest.source import ById, Stream
from ingest.types import Request
from tests.canaries import found_in, spelled
from tests.unit.client_kit import client_of, raw_server, response

HOME = "https://api.example/v1"
FIRST = Request(path="/a")
#: what becomes of a request: refused for its origin, refused as no URL
AWAY, NONE = "away", "none"
SECRETS = {"$KEY": "cAnary+key/1==", "$USER": "cAnary-user", "$PASSWORD": "cAnary%password"}
AUTHS: list[dict[str, Any]] = [
    {"bearer": "$KEY"},
    {"header": {"X-Key": "$KEY", "Cookie": "$PASSWORD"}},
    {"query": {"key": "$KEY"}},
    {"basic": ["$USER", "$PASSWORD"]},
    {"login": {"path": "/login", "body": {"p": "$PASSWORD"}, "token": "token"}},
]


class Place(NamedTuple):
    """Where an answer points, and what is asked then: a path at home, or AWAY or NONE."""

    text: str
    asked: str
    #: in a body, where it differs: text is stripped of spaces, tabs and line breaks there, as browsers do
    in_body: str | None = None


PLACES = [
    # home, however it is spelled
    Place("https://api.example/v1/b", "/v1/b"),
    Place("HTTPS://API.EXAMPLE/v1/b", "/v1/b"),
    Place("https://api.example:443/v1/b", "/v1/b"),
    Place("https://api.example:00443/v1/b", "/v1/b"),
    Place("https://api.example:/v1/b", "/v1/b"),
    Place("https://me:word@api.example/v1/b", "/v1/b"),
    Place("https://evil.example\\@api.example/v1/b", "/v1/b"),
    Place("https://api.example/v1/b#@evil.example", "/v1/b"),
    Place("https://api.example?p=2", "/?p=2"),
    Place("//api.example/v1/b", "/v1/b"),
    Place("/v1/b", "/v1/b"),
    Place("b", "/v1/b"),
    Place("./b", "/v1/b"),
    Place("?p=2", "/v1/a?p=2"),
    # out of the base path is not out of the origin
    Place("../b", "/b"),
    Place("../../../../b", "/b"),
    Place("/v1/../../b", "/b"),
    Place("/v1/%2e%2e/b", "/v1/%2e%2e/b"),
    # what only looks as if it led away
    Place("/\\evil.example/b", "/\\evil.example/b"),
    Place("\\\\evil.example\\b", "/v1/\\\\evil.example\\b"),
    Place("/%2F/evil.example", "/%2F/evil.example"),
    Place("/%5Cevil.example", "/%5Cevil.example"),
    Place("/..//evil.example/b", "/evil.example/b"),
    Place("///evil.example/b", "/evil.example/b"),
    Place("https:///evil.example/b", "/evil.example/b"),
    Place("https:/evil.example/b", "/evil.example/b"),
    Place("https:evil.example/b", "/v1/evil.example/b"),
    # the dot of another script is a dot
    Place("https://api\N{IDEOGRAPHIC FULL STOP}example/v1/b", "/v1/b"),
    Place("@evil.example/", "/v1/@evil.example/"),
    Place(".evil.example/", "/v1/.evil.example/"),
    # another scheme, host or port
    Place("https://evil.example/v1/b", AWAY),
    Place("http://api.example/v1/b", AWAY),
    Place("http://api.example:443/v1/b", AWAY),
    Place("https://api.example:80/v1/b", AWAY),
    Place("https://api.example:8443/v1/b", AWAY),
    Place("https://api.example:65536/", AWAY),
    Place("//evil.example/b", AWAY),
    Place("//api.example:8443/b", AWAY),
    Place("ftp://api.example/v1/b", AWAY),
    Place("ws://api.example/v1/b", AWAY),
    Place("wss://api.example:443/v1/b", AWAY),
    Place("file:///etc/passwd", AWAY),
    Place("https+x://api.example/", AWAY),
    Place("javascript://api.example/%0Aalert(1)", AWAY),
    # hosts that look like home
    Place("https://api.example.evil.example/", AWAY),
    Place("https://evil.example/api.example", AWAY),
    Place("https://api.example@evil.example/", AWAY),
    Place("https://api.example:443@evil.example/", AWAY),
    Place("https://api.example%2f@evil.example/", AWAY),
    Place("https://api.example\\@evil.example/", AWAY),
    Place("//api.example@evil.example/", AWAY),
    Place("https://api.example./v1/b", AWAY),
    Place("https://xapi.example/v1/b", AWAY),
    Place("https://api-example/v1/b", AWAY),
    Place("https://%61pi.example/v1/b", AWAY),
    Place("https://xn--pi-7kc.example/v1/b", AWAY),
    Place("https://\N{CYRILLIC SMALL LETTER A}pi.example/v1/b", AWAY),
    Place("https://api.example%00.evil.example/", AWAY),
    Place("https://api.example,evil.example/", AWAY),
    Place("https://api.example;evil.example/", AWAY),
    Place("https://api.example&evil.example/", AWAY),
    Place("https://[::1]/v1/b", AWAY),
    Place("https://[::ffff:127.0.0.1]/", AWAY),
    Place("https://2130706433/", AWAY),
    Place("https://0x7f.1/", AWAY),
    # no URL at all
    Place("https://api.example\N{FRACTION SLASH}evil.example/", NONE),
    Place("https://api.example\N{FULLWIDTH SOLIDUS}evil.example/", NONE),
    Place("https://api.example:443.evil.example/", NONE),
    Place("https://[api.example]/", NONE),
    Place("https://api.example\t.evil.example/", NONE, AWAY),
    Place("https://api.exam\nple/v1/b", NONE, "/v1/b"),
    Place("/\t/evil.example/b", NONE, AWAY),
    Place("/\n/evil.example/b", NONE, AWAY),
    Place("\thttps://evil.example/", NONE, AWAY),
    Place("////evil.example/b", NONE, "//evil.example/b"),
]
PATHLESS = [Place("javascript:alert(1)", AWAY), Place("data:text/html,b", AWAY)]
PLACES += PATHLESS


class Wire:
    """The network: answers whatever is asked with what its test says, and remembers it."""

    def __init__(self, *answers: httpx.Response) -> None:
        #: scheme, host and port of each request, its path and query, and all its bytes
        self.asked: list[tuple[str, str, bytes]] = []
        self._answers = list(answers)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        url, content = request.url, await request.aread()
        if url.path.endswith("/login") and request.method == "POST" and b"pass" in content:
            self._keep(request, content)
            return httpx.Response(200, json={"token": SECRETS["$KEY"]})
        self._keep(request, content)
        return self._answers.pop(0) if self._answers else httpx.Response(200, json={"data": []})

    def _keep(self, request: httpx.Request, content: bytes) -> None:
        url = request.url
        head = f"{request.method} {url} {request.headers.raw!r} ".encode()
        self.asked.append((f"{url.scheme}://{url.netloc.decode()}", url.raw_path.decode(), head + content))

    def assert_home(self, credentialed: int) -> None:
        """Every request went home, and so many of them with credentials."""
        canaries = {name: value for name, value in SECRETS.items() if name != "$USER"}
        assert {origin for origin, _, _ in self.asked} == {"https://api.example"}
        assert sum(any(found_in(data, canaries)) for _, _, data in self.asked) >= credentialed


def client(wire: Wire, auth: dict[str, Any], *, rebase: bool = False) -> Client:
    return client_of(wire, base_url=HOME, secrets=SECRETS, auth=auth, rebase=rebase)


def stream(**paginate: Any) -> Stream:
    stated = {"path": "/a", "entity": "A", "records": "data", "paginate": paginate}
    return msgspec.convert(stated, Stream)


# -- the ways to point somewhere -------------------------------------------------------------------------

#: asks for a first page, and for what its answer points to
Way = Callable[[Client], Awaitable[Any]]


async def redirected(client: Client) -> None:
    await client.ask(FIRST)


def walked(**paginate: Any) -> Way:
    async def walk(client: Client) -> None:
        answer = await client.ask(FIRST)
        paged = stream(**paginate)
        cursor = next_cursor(
            paged, FIRST, answer, [], base_url=client.base_url, credentials=client.credential_names
        )
        assert cursor is not None
        await client.ask(request_at(paged, {}, cursor))

    return walk


def redirects(status: int) -> Callable[[str], httpx.Response]:
    return lambda text: httpx.Response(status, headers=[(b"location", text.encode())])


#: (what answers, who asks, whether a text is a body's)
WAYS: dict[str, tuple[Callable[[str], httpx.Response], Way, bool]] = {
    **{str(status): (redirects(status), redirected, False) for status in (301, 302, 303, 307, 308)},
    "url": (
        lambda text: httpx.Response(200, json={"data": [], "next": text}),
        walked(kind="url", next="next"),
        True,
    ),
    "link": (
        lambda text: httpx.Response(200, json={}, headers=[(b"link", f'<{text}>; rel="next"'.encode())]),
        walked(kind="link"),
        True,
    ),
}
#: all redirects are one piece of code: each place is tried by one of them, and by both kinds of next URLs
CASES = [
    pytest.param(
        place, way, rebase, AUTHS[(number + rebase) % len(AUTHS)], id=f"{way}-{place.text!r}-{rebase}"
    )
    for number, place in enumerate(PLACES)
    for way in (list(WAYS)[number % 5], "url", "link")
    for rebase in (False, True)
]


def test_there_are_cases_enough() -> None:
    assert len(CASES) >= 400
    assert len({place.text for place in PLACES}) == len(PLACES)


@pytest.mark.parametrize(("place", "way", "rebase", "auth"), CASES)
async def test_no_answer_leads_away_from_the_configured_origin(
    place: Place, way: str, rebase: bool, auth: dict[str, Any]
) -> None:
    answer, ask, in_body = WAYS[way]
    wire = Wire(answer(place.text))
    expected = place.in_body if in_body and place.in_body is not None else place.asked
    async with client(wire, auth, rebase=rebase) as asking:
        if expected == NONE:
            with pytest.raises(BadAnswer, match="not a URL"):
                await ask(asking)
        elif expected == AWAY and not rebase:
            with pytest.raises(ForeignOrigin, match="rebase = true"):
                await ask(asking)
        elif place in PATHLESS:
            # there is nothing to ask for at home
            with suppress(BadAnswer):
                await ask(asking)
        else:
            await ask(asking)
    asked = [path for _, path, _ in wire.asked if not path.endswith("/login")]
    followed = expected not in (AWAY, NONE) or (expected == AWAY and rebase)
    assert len(asked) == 1 + followed or place in PATHLESS
    if expected not in (AWAY, NONE):
        assert asked[1].partition("key=cAnary")[0].rstrip("?&") == expected
    wire.assert_home(len(asked))


# -- what is no pointer, however it looks ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Refresh", "Content-Location", "Alt-Svc", "X-Accel-Redirect", "Location"])
@pytest.mark.parametrize("auth", AUTHS)
async def test_a_header_that_browsers_may_follow_is_not_followed(name: str, auth: dict[str, Any]) -> None:
    value = {"Refresh": "0; url=https://evil.example/", "Alt-Svc": 'h2="evil.example:443"; ma=9'}
    page = httpx.Response(
        200,
        headers={name: value.get(name, "https://evil.example/")},
        json={"data": [], "html": '<meta http-equiv="refresh" content="0;url=https://evil.example/">'},
    )
    wire = Wire(page)
    async with client(wire, auth) as asking:
        await asking.ask(FIRST)
        await asking.ask(FIRST)
    wire.assert_home(2)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("text", ["https://evil.example/login", "//evil.example/", "/v1/other"])
async def test_a_login_that_is_redirected_is_not_sent_again(status: int, text: str) -> None:
    sent: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(str(request.url))
        return redirects(status)(text)

    async with client_of(answer, base_url=HOME, secrets=SECRETS, auth=AUTHS[4]) as asking:
        with pytest.raises(ForeignOrigin, match="a POST was redirected"):
            await asking.ask(FIRST)
    assert sent == [f"{HOME}/login"]


@pytest.mark.parametrize("place", [place for place in PLACES if place.text.isprintable()], ids=repr)
async def test_an_id_that_looks_like_a_place_is_one_segment_of_a_path_at_home(place: Place) -> None:
    wire = Wire()
    below = stream(kind="cursor", next="next")
    below = msgspec.structs.replace(below, path="/of/{p.id}")
    async with client(wire, AUTHS[0]) as asking:
        await asking.ask(by_id_request(ById(path="/users/{id}"), [place.text], {}))
        await asking.ask(first_request(below, {"p.id": place.text}))
    one, other = (path for _, path, _ in wire.asked)
    for path, above in ((one, "/v1/users/"), (other, "/v1/of/")):
        assert path.startswith(above)
        assert "/" not in path.removeprefix(above)
        assert path.removeprefix(above).strip(".")
    wire.assert_home(2)


# -- on a real wire ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    ["{evil}/b", "//{there}/b", "http://me@{there}/", "http://{here}@{there}/", "http://localhost:{port}/b"],
)
@pytest.mark.parametrize("auth", AUTHS[:4])
async def test_not_a_byte_reaches_another_server_on_this_machine(form: str, auth: dict[str, Any]) -> None:
    async with raw_server(response(b"[]", "Content-Length: 2")) as (evil, elsewhere):
        there = evil.removeprefix("http://")

        async def redirect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(response(b"", f"Location: {target}", "Content-Length: 0", status="302 Found"))
            await writer.drain()

        async with raw_server(redirect) as (base, heads):
            here = base.removeprefix("http://")
            target = form.format(evil=evil, there=there, here=here, port=here.rpartition(":")[2])
            async with client_of(None, base_url=base, secrets=SECRETS, auth=auth) as asking:
                with pytest.raises(ForeignOrigin):
                    await asking.ask(FIRST)
            assert len(heads) == 1
            assert any(found_in(heads[0], SECRETS))
    assert elsewhere == []


def test_the_search_for_credentials_finds_them_in_every_spelling() -> None:
    for name, value in SECRETS.items():
        for form in spelled(value):
            for text in (form, json.dumps({"a": form})):
                assert list(found_in(f"…{text}…".encode(), {name: value})) == [name], (form, text)
