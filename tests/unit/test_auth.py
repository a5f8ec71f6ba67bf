"""Credentials: how they are attached and renewed, and that nothing ever shows them."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import traceback
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ingest.config import Secret
from ingest.errors import AuthFailed, BadAnswer, ConfigError, ForeignOrigin, IngestError, Refused
from ingest.fetch.auth import BELIEVED, Credentials, prove
from ingest.fetch.client import Client
from ingest.fetch.courier import Attached, Courier, sealed
from ingest.types import Request
from tests.unit.client_kit import Events, FakeClock, Script, bodies, chain, client_of, configured

GET = Request(path="/items")
OK = httpx.Response(200, json={"data": []})
CANARY = "canary+/ż&42=ü"
TOKEN = "canary-token-1234567890"
SECRETS = {"$TOKEN": TOKEN, "$USER": "ann", "$PASSWORD": CANARY}
LOGIN = {
    "path": "/login",
    "body": {"type": "password", "who": {"user": "$USER"}, "words": ["$PASSWORD", 1], "price": "5 $"},
    "token": "session.token",
}


def shop(
    answers: Any, auth: dict[str, Any] | None = None, secrets: dict[str, str] = SECRETS, **stated: Any
) -> Client:
    if auth is not None:
        stated["auth"] = auth
    return client_of(answers, secrets=secrets, **stated)


class Door:
    """A server with a login: numbers its tokens, and answers 401 to all but those it takes."""

    def __init__(self, *good: int, together: int = 1) -> None:
        self.logins: list[httpx.Request] = []
        self.asked: list[str | None] = []
        self._good = good
        #: answers none of the first requests before so many are there
        self._together = together
        self._all_here = asyncio.Event()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/login"):
            self.logins.append(request)
            # whoever does not wait for this login will make one of its own
            for _ in range(20):
                await asyncio.sleep(0)
            return httpx.Response(200, json={"session": {"token": f"{TOKEN}-{len(self.logins)}"}})
        given = request.headers.get("authorization") or request.headers.get("x-auth")
        self.asked.append(given)
        if len(self.asked) >= self._together:
            self._all_here.set()
        await self._all_here.wait()
        if given and int(given.rpartition("-")[2]) in self._good:
            return httpx.Response(200, json=[])
        return httpx.Response(401, json={"error": f"unknown token {given}"})


# -- attached ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "headers", "query"),
    [
        (None, {}, "a=1"),
        ({"bearer": "$TOKEN"}, {"authorization": f"Bearer {TOKEN}"}, "a=1"),
        ({"header": {"X-Key": "$TOKEN", "X-User": "$USER"}}, {"x-key": TOKEN, "x-user": "ann"}, "a=1"),
        ({"query": {"api_key": "$TOKEN", "u": "$USER"}}, {}, f"a=1&api_key={TOKEN}&u=ann"),
        (
            {"basic": ["$USER", "$PASSWORD"]},
            {"authorization": "Basic " + base64.b64encode(f"ann:{CANARY}".encode()).decode()},
            "a=1",
        ),
    ],
    ids=["none", "bearer", "header", "query", "basic"],
)
async def test_credentials_are_attached_as_stated(auth: Any, headers: dict[str, str], query: str) -> None:
    script = Script(OK)
    async with shop(script, auth) as client:
        await client.ask(Request(path="/items", query=(("a", "1"),)))
    [asked] = script.requests
    assert asked.url.query.decode() == query
    for name in ("authorization", "x-key", "x-user"):
        assert asked.headers.get(name) == headers.get(name)


async def test_a_credential_replaces_what_a_url_or_header_says_in_its_name() -> None:
    script = Script(OK)
    async with shop(script, {"query": {"api_key": "$TOKEN"}}) as client:
        await client.ask(Request(path="https://api.test/v1/x?api_key=old&p=2&api%5Fkey=older"))
    assert script.requests[0].url.query.decode() == f"p=2&api_key={TOKEN}"
    script = Script(OK)
    async with shop(script, {"header": {"accept": "$TOKEN"}}) as client:
        await client.ask(GET)
    assert script.requests[0].headers.get_list("accept") == [TOKEN]


@pytest.mark.parametrize(
    "auth", [{"bearer": "$TOKEN"}, {"header": {"X-Key": "$TOKEN"}}, {"query": {"k": "$TOKEN"}}]
)
async def test_credentials_go_along_a_redirect_at_home_and_not_elsewhere(auth: Any) -> None:
    script = Script(httpx.Response(302, headers={"location": "/v1/b"}), OK)
    async with shop(script, auth) as client:
        await client.ask(GET)
    assert all(
        TOKEN in f"{request.url}{request.headers!r}{request.headers.raw}" for request in script.requests
    )
    script = Script(httpx.Response(302, headers={"location": "https://api.test:444/v1/b"}), OK)
    async with shop(script, auth) as client:
        with pytest.raises(ForeignOrigin):
            await client.ask(GET)
    assert len(script.requests) == 1


async def test_a_body_that_repeats_a_credential_is_stored_without_it() -> None:
    body = {
        "next": f"https://api.test/v1/items?page=2&api_key={TOKEN}&sort=id",
        "longer": f"api_key={TOKEN}-and-more",
        "other": f"my_api_key={TOKEN}",
        "plain": TOKEN,
    }
    async with shop(Script(*bodies([body])), {"query": {"api_key": "$TOKEN"}}) as client:
        answer = await client.ask(GET)
    expected = body | {
        "next": "https://api.test/v1/items?page=2&api_key=REDACTED&sort=id",
        "other": "my_api_key=REDACTED",
        "plain": "REDACTED",
    }
    assert answer.json == json.loads(answer.body) == expected


async def test_a_token_in_a_body_is_masked_wherever_it_stands_alone() -> None:
    body = {"headers": {"Authorization": f"Bearer {TOKEN}"}, "word": f"{TOKEN}s", "text": f"({TOKEN})."}
    async with shop(Script(*bodies([body])), {"bearer": "$TOKEN"}) as client:
        answer = await client.ask(GET)
    assert answer.json["headers"] == {"Authorization": "Bearer REDACTED"}
    assert answer.json["word"] == f"{TOKEN}s"


async def test_a_short_token_or_a_user_name_never_changes_data() -> None:
    body = [{"author": "ann", "id": "mirror"}]
    for auth in ({"bearer": "$TOKEN"}, {"header": {"X-User": "$USER"}}, {"basic": ["$USER", "$PASSWORD"]}):
        async with shop(
            Script(*bodies([body])), auth, {"$TOKEN": "mirror", "$USER": "ann", "$PASSWORD": "id"}
        ) as client:
            assert (await client.ask(GET)).json == body


async def test_recorded_pages_need_no_credentials() -> None:
    source = configured(auth={"bearer": "$UNSET"})
    source = type(source)(
        **{name: getattr(source, name) for name in source.__struct_fields__} | {"replay": "pages"}
    )
    script = Script(OK)
    async with Client(source, transport=httpx.MockTransport(script), clock=FakeClock()) as client:
        await client.ask(GET)
    assert "authorization" not in script.requests[0].headers


# -- configuration -------------------------------------------------------------------------------------


def test_two_ways_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"job\.toml: sources\.shop\.auth: states both bearer and query"):
        shop(None, {"bearer": "$TOKEN", "query": {"k": "$TOKEN"}})


def test_a_secret_that_is_spelled_out_is_refused_without_showing_it() -> None:
    with pytest.raises(
        ConfigError, match=r"sources\.shop\.auth\.bearer: secrets are given by reference"
    ) as caught:
        Client(configured(auth={"bearer": TOKEN}), clock=FakeClock())
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("value", [TOKEN + "\n", f" {TOKEN}", f"{TOKEN}\r\nX-Evil: 1", "gehört", "\x00"])
@pytest.mark.parametrize("auth", [{"bearer": "$T"}, {"header": {"X-Key": "$T"}}, {"query": {"key": "$T"}}])
def test_a_secret_no_header_can_carry_is_refused_without_showing_it(auth: Any, value: str) -> None:
    with pytest.raises(ConfigError, match=r"what \$T holds cannot be sent \(a line break") as caught:
        shop(None, auth, {"$T": value})
    assert value.strip() not in str(caught.value)


def test_a_user_name_with_a_colon_is_refused() -> None:
    with pytest.raises(ConfigError, match="no colon"):
        shop(None, {"basic": ["$USER", "$PASSWORD"]}, {"$USER": "a:b", "$PASSWORD": "x"})


async def test_a_401_is_fatal_and_names_the_key() -> None:
    script = Script(httpx.Response(401, json={"error": "nope"}))
    async with shop(script, {"bearer": "$TOKEN"}) as client:
        with pytest.raises(
            AuthFailed, match=r'status 401 Unauthorized: \{"error":"nope"\} \(check .*\.auth\.bearer\)'
        ):
            await client.ask(GET)
    assert len(script.requests) == 1


# -- login ---------------------------------------------------------------------------------------------


async def test_a_login_is_sent_once_when_it_is_needed() -> None:
    door = Door(1)
    async with shop(door, {"login": LOGIN}) as client:
        assert door.logins == []
        await asyncio.gather(*(client.ask(GET) for _ in range(10)))
    [login] = door.logins
    assert (login.method, str(login.url)) == ("POST", "https://api.test/v1/login")
    assert json.loads(login.content) == {
        "type": "password",
        "who": {"user": "ann"},
        "words": [CANARY, 1],
        "price": "5 $",
    }
    assert "authorization" not in login.headers
    assert door.asked == [f"Bearer {TOKEN}-1"] * 10


@pytest.mark.parametrize(("scheme", "given"), [("Bearer", f"Bearer {TOKEN}-1"), ("X-Auth", f"{TOKEN}-1")])
async def test_a_token_is_attached_by_its_scheme(scheme: str, given: str) -> None:
    door = Door(1)
    async with shop(door, {"login": {**LOGIN, "scheme": scheme}}) as client:
        await client.ask(GET)
    assert door.asked == [given]


async def test_a_token_that_ran_out_is_renewed_once_for_all_who_wait() -> None:
    door = Door(2, together=5)
    async with shop(door, {"login": LOGIN}) as client:
        await asyncio.gather(*(client.ask(GET) for _ in range(5)))
    assert len(door.logins) == 2
    assert door.asked.count(f"Bearer {TOKEN}-2") == 5


async def test_a_token_can_run_out_again_and_again() -> None:
    door = Door(1)
    async with shop(door, {"login": LOGIN}) as client:
        for number in range(1, 5):
            door._good = (number,)
            await client.ask(GET)
    assert len(door.logins) == 4


async def test_a_server_may_renew_a_login_with_the_same_token() -> None:
    calls = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        if request.url.path.endswith("/login"):
            return httpx.Response(200, json={"session": {"token": TOKEN}})
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        return httpx.Response(401 if len(calls) == 2 else 200, json=[])

    async with shop(handler, {"login": LOGIN}) as client:
        await client.ask(GET)
    assert len(calls) == 4


async def test_a_401_for_the_renewed_token_too_is_fatal() -> None:
    door = Door()
    async with shop(door, {"login": LOGIN}) as client:
        with pytest.raises(AuthFailed, match=r"GET /items: status 401 .*\(check .*\.auth\.login\)"):
            await client.ask(GET)
    assert len(door.logins) == 2


async def test_an_accepted_401_still_renews_a_token_that_ran_out() -> None:
    door = Door(2)
    async with shop(door, {"login": LOGIN}) as client:
        assert (await client.ask(GET, accept=(401,))).status == 200


async def test_a_401_about_what_is_asked_does_not_log_in_every_time() -> None:
    door, clock = Door(), FakeClock()
    async with shop(door, {"login": LOGIN}, clock=clock) as client:
        for _ in range(5):
            assert (await client.ask(GET, accept=(401,))).status == 401
        assert len(door.logins) == 2
        # yet the token may run out later
        clock.seconds += BELIEVED
        door._good = (3,)
        assert (await client.ask(GET, accept=(401,))).status == 200
    assert len(door.logins) == 3


async def test_a_login_is_repeated_like_any_request() -> None:
    clock = FakeClock()
    busy = httpx.Response(429, json={"retry_after_ms": 3000})
    script = Script(busy, httpx.Response(200, json={"session": {"token": TOKEN}}), OK)
    async with shop(
        script, {"login": LOGIN}, clock=clock, transport={"retry_after": "retry_after_ms"}
    ) as client:
        await client.ask(GET)
    assert clock.seconds >= 3.0
    assert client.retries == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_refused_login_says_so_without_the_password(status: int) -> None:
    said = {"error": f"bad password {CANARY!s} for ann"}
    async with shop(Script(httpx.Response(status, json=said)), {"login": LOGIN}) as client:
        with pytest.raises(
            AuthFailed, match=rf"auth\.login: the login at /login was refused with status {status}"
        ) as caught:
            await client.ask(GET)
    assert "bad password … for …" in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        {"session": {}},
        {"session": {"token": None}},
        {"session": {"token": ""}},
        {"session": {"token": True}},
        {"session": {"token": f"{TOKEN}\nX-Evil: 1"}},
        {"session": {"token": {"a": TOKEN}}},
        [TOKEN],
    ],
)
async def test_a_login_without_a_token_is_fatal_and_shows_nothing_of_the_answer(answer: Any) -> None:
    async with shop(Script(*bodies([answer])), {"login": LOGIN}) as client:
        with pytest.raises(AuthFailed, match=r"auth\.login: .* no token at 'session\.token'") as caught:
            await client.ask(GET)
    assert_unseen(caught.value, TOKEN)


async def test_a_login_answered_with_broken_json_shows_nothing_of_it() -> None:
    broken = httpx.Response(200, text=f'{{"session": {{"token": "{TOKEN}"')
    async with shop(Script(broken), {"login": LOGIN}) as client:
        with pytest.raises(AuthFailed, match="not answered with JSON") as caught:
            await client.ask(GET)
    assert_unseen(caught.value, TOKEN)


async def test_a_number_can_be_a_token() -> None:
    script = Script(*bodies([{"session": {"token": 123456}}, []]))
    async with shop(script, {"login": LOGIN}) as client:
        await client.ask(GET)
    assert script.requests[1].headers["authorization"] == "Bearer 123456"


# -- the canary ------------------------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "bearer": {"bearer": "$TOKEN"},
    "header": {"header": {"X-Key": "$TOKEN"}},
    "query": {"query": {"api_key": "$TOKEN"}},
    "basic": {"basic": ["$USER", "$PASSWORD"]},
    "login": {"login": LOGIN},
}


def assert_unseen(error: BaseException, *secrets: str) -> None:
    """No credential in anything that a log, a traceback or a failure report would print of an error."""
    texts = ["".join(traceback.format_exception(error))]
    for link in chain(error):
        texts += [str(link), repr(link), repr(link.args), repr(getattr(link, "__dict__", ""))]
        request = getattr(link, "_request", None)
        if request is not None:
            texts += [f"{request.url}", repr(request.headers.raw), repr(request.extensions)]
    for text in texts:
        for secret in secrets:
            assert secret not in text, text


def shown(request: httpx.Request) -> str:
    """All of a request, as a server that is angry might quote it."""
    return f"{request.url} {request.headers.raw!r} {request.content.decode()}"


def echo(status: int, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/login") and status < 300:
            return httpx.Response(200, json={"session": {"token": TOKEN}})
        stated = {name: f"{value}{request.url.query.decode()}" for name, value in headers.items()}
        return httpx.Response(status, text=shown(request), headers=stated)

    return handler


def raising(kind: type[httpx.TransportError]) -> Callable[[httpx.Request], httpx.Response]:
    def handler(request: httpx.Request) -> httpx.Response:
        try:
            raise OSError(f"low level: {shown(request)}")
        except OSError as error:
            raise kind(f"cannot send {shown(request)}", request=request) from error

    return handler


TROUBLE: dict[str, Callable[[httpx.Request], httpx.Response]] = {
    "echoed in a 200 that is not JSON": echo(200),
    "echoed in a 400": echo(400),
    "echoed in a 401": echo(401),
    "echoed in a 500": echo(500),
    "redirected elsewhere": echo(302, location="https://evil.test/?"),
    "redirected in a circle": echo(302, location="/v1/items?"),
    "a connection error that quotes it": raising(httpx.ConnectError),
    "a protocol error that quotes it": raising(httpx.LocalProtocolError),
    "a read error that quotes it": raising(httpx.ReadError),
    "a timeout": raising(httpx.ReadTimeout),
}


@pytest.mark.parametrize("auth", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE.keys())
async def test_no_credential_is_ever_shown(
    auth: dict[str, Any],
    trouble: Callable[[httpx.Request], httpx.Response],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    sent: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(shown(request))
        return trouble(request)

    events = Events()
    async with shop(handler, auth, observe=events) as client:
        with pytest.raises(IngestError) as caught:
            await client.ask(Request(path="/items", query=(("page", "1"),)))
        assert_unseen(caught.value, "canary", *encodings(CANARY), *encodings(f"ann:{CANARY}"), TOKEN)
        printed = f"{events!r} {caplog.text} {client!r} {vars(client)!r}"
    assert "canary" not in printed
    for secret in (TOKEN, *encodings(f"ann:{CANARY}")):
        assert secret not in printed
    # it did go over the wire, or this test would prove nothing
    assert any(
        secret in text for text in sent for secret in (TOKEN, *encodings(f"ann:{CANARY}"), json.dumps(CANARY))
    )


async def test_a_bug_that_says_a_login_s_token_is_told_without_it() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/login"):
            return httpx.Response(200, json={"session": {"token": TOKEN}})
        try:
            raise KeyError(request.headers.raw, {"sent": shown(request)})
        except KeyError as error:
            error.add_note("a note")
            raise RuntimeError(shown(request)) from error

    async with shop(handler, {"login": LOGIN}) as client:
        with pytest.raises(RuntimeError, match=r"https://api\.test/v1/items") as caught:
            await client.ask(GET)
    assert_unseen(caught.value, TOKEN)
    assert "a note" in "".join(traceback.format_exception(caught.value))


async def test_a_bug_whose_text_cannot_be_changed_is_named_and_no_more() -> None:
    class Stubborn(Exception):
        def __str__(self) -> str:
            return f"it is {TOKEN}"

    def handler(request: httpx.Request) -> httpx.Response:
        raise Stubborn

    async with shop(handler, {"bearer": "$TOKEN"}) as client:
        with pytest.raises(RuntimeError, match="Stubborn, and what it says holds a credential") as caught:
            await client.ask(GET)
    texts = "".join(traceback.format_exception(caught.value))
    assert TOKEN not in texts
    # where it came from is still said
    assert "in handler" in texts


async def test_a_word_in_a_header_s_value_is_a_credential_by_itself() -> None:
    secrets = {"$A": f"Token {TOKEN}", "$B": f"lang=en; session={TOKEN[::-1]}"}
    body = {"token": TOKEN, "session": TOKEN[::-1], "lang": "en", "kind": "Token"}
    script = Script(*bodies([body]))
    async with shop(script, {"header": {"Authorization": "$A", "Cookie": "$B"}}, secrets) as client:
        answer = await client.ask(GET)
    assert answer.json == {"token": "REDACTED", "session": "REDACTED", "lang": "en", "kind": "Token"}


async def test_a_login_s_password_is_taken_out_of_bodies_and_its_user_s_name_stays() -> None:
    login = {**LOGIN, "body": {"username": "$USER", "words": ["$PASSWORD"]}}
    secrets = {"$USER": "a-name-of-some-length", "$PASSWORD": "a-password-of-some-length"}
    body = {"name": secrets["$USER"], "said": secrets["$PASSWORD"]}
    script = Script(*bodies([{"session": {"token": TOKEN}}, body]))
    async with shop(script, {"login": login}, secrets) as client:
        assert (await client.ask(GET)).json == {"name": secrets["$USER"], "said": "REDACTED"}


def encodings(text: str) -> tuple[str, ...]:
    return (text, httpx.QueryParams({"": text}).__str__()[1:], base64.b64encode(text.encode()).decode())


async def test_a_credential_is_masked_before_a_body_is_cut_to_its_excerpt() -> None:
    script = Script(httpx.Response(400, text="x" * 190 + TOKEN))
    async with shop(script, {"bearer": "$TOKEN"}) as client:
        with pytest.raises(Refused) as caught:
            await client.ask(GET)
    assert_unseen(caught.value, TOKEN[:6])


async def test_the_last_step_before_the_wire_sends_credentials_home_only() -> None:
    script = Script(OK)
    courier = Courier(httpx.MockTransport(script), ("https", "api.test", 443))
    shown, extensions = sealed(
        httpx.URL("https://evil.test/items?a=1"), Attached(headers=(("X-Key", TOKEN),))
    )
    with pytest.raises(ForeignOrigin):
        await courier.handle_async_request(httpx.Request("GET", shown, extensions=extensions))
    assert script.requests == []


async def test_the_cause_of_an_error_is_kept_where_it_is_harmless() -> None:
    async with shop(Script(httpx.ReadError("reset")), {"bearer": "$TOKEN"}) as client:
        with pytest.raises(BadAnswer) as caught:
            await client.ask(GET)
    assert isinstance(caught.value.__cause__, httpx.ReadError)


def test_credentials_have_no_repr_to_leak_from() -> None:
    source = configured(auth={"query": {"api_key": "$TOKEN"}})

    async def log_in(path: str, body: bytes) -> Any:
        raise AssertionError

    credentials = Credentials(source, lambda reference, where: Secret(TOKEN), FakeClock(), log_in)
    attached = asyncio.run(credentials.attached())
    assert attached.query == (("api_key", TOKEN),)
    assert TOKEN not in repr(credentials) + repr(attached)
    assert credentials.names == {"api_key"}


# -- proving -----------------------------------------------------------------------------------------------


async def proven(answer: httpx.Response, **check: str) -> None:
    script = Script(answer)
    async with shop(script, {"bearer": "$TOKEN"}, check={"path": "/me?full=1", **check}) as client:
        await prove(client)
    assert script.urls == ["https://api.test/v1/me?full=1"]


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        ({}, []),
        ({"expect": "user.id"}, {"user": {"id": 0}}),
        ({"expect": "user.id", "equals": "ann"}, {"user": {"id": "ann"}}),
        ({"expect": "user.id", "equals": "7"}, {"user": {"id": 7}}),
        ({"expect": "admin", "equals": "true"}, {"admin": True}),
    ],
)
async def test_a_check_that_holds_passes(check: dict[str, str], answer: Any) -> None:
    await proven(httpx.Response(200, json=answer), **check)


@pytest.mark.parametrize(
    ("check", "answer", "said"),
    [
        ({}, httpx.Response(401, json={}), "/me.* status 401"),
        ({}, httpx.Response(403, json={}), "/me.* status 403"),
        ({"expect": "user.id"}, httpx.Response(200, json={}), "without 'user.id' .*stranger"),
        ({"expect": "user.id"}, httpx.Response(200, json={"user": {"id": None}}), "without 'user.id'"),
        (
            {"expect": "user", "equals": "ann"},
            httpx.Response(200, json={"user": "guest"}),
            "user is not 'ann'",
        ),
    ],
)
async def test_a_check_that_fails_stops_the_run(
    check: dict[str, str], answer: httpx.Response, said: str
) -> None:
    with pytest.raises(AuthFailed, match=rf"sources\.shop\.auth: .*{said}"):
        await proven(answer, **check)


async def test_a_check_that_is_not_there_is_refused() -> None:
    with pytest.raises(Refused):
        await proven(httpx.Response(404, json={}))


async def test_without_a_check_nothing_is_asked() -> None:
    script = Script(OK)
    async with shop(script, {"bearer": "$TOKEN"}) as client:
        await prove(client)
    assert script.requests == []
