"""The client: where a request goes, what its answer means, and when it is asked again."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import respx

from ingest.errors import AuthFailed, BadAnswer, ConfigError, ForeignOrigin, GiveUp, Refused, Retry
from ingest.fetch.client import Client
from ingest.types import Request
from tests.unit.client_kit import Events, FakeClock, Script, bodies, client_of

GET = Request(path="/items")
OK = httpx.Response(200, json={"data": []})


def failing(status: int, **headers: str) -> httpx.Response:
    stated = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=stated, json={"error": "not now"})


# -- where to ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "request_", "url"),
    [
        ("https://api.test/v1", GET, "https://api.test/v1/items"),
        ("https://api.test/v1/", GET, "https://api.test/v1/items"),
        ("https://api.test", Request(path="items"), "https://api.test/items"),
        ("https://api.test/v1", Request(path="?page=2"), "https://api.test/v1?page=2"),
        ("https://api.test/v1", Request(path="/a%2Fb/%2E%2E/c"), "https://api.test/v1/a%2Fb/%2E%2E/c"),
        (
            "https://api.test/v1",
            Request(path="/items?c=a%2Bb+c==", query=(("q", "a b&c=ż"), ("q", "+"))),
            "https://api.test/v1/items?c=a%2Bb+c==&q=a%20b%26c%3D%C5%BC&q=%2B",
        ),
        # nothing below the base URL can lead away from it
        ("https://api.test", Request(path="@evil.test/"), "https://api.test/@evil.test/"),
        ("https://api.test", Request(path="//evil.test/"), "https://api.test//evil.test/"),
        ("https://api.test", Request(path=":8080/"), "https://api.test/:8080/"),
        # a whole URL of the same origin, however it is spelled
        ("https://API.test:443/v1", Request(path="https://api.test/other?x=1"), "https://api.test/other?x=1"),
        ("https://api.test/v1", Request(path="HTTPS://Api.Test:443/v1/x#top"), "https://api.test/v1/x"),
        ("https://api.test/v1", Request(path="https://me:pw@api.test/v1/x"), "https://api.test/v1/x"),
    ],
)
async def test_a_request_goes_below_the_base_url(base_url: str, request_: Request, url: str) -> None:
    script = Script(OK)
    async with client_of(script, base_url=base_url) as client:
        await client.ask(request_)
    assert script.urls == [url]
    assert "authorization" not in script.requests[0].headers


FOREIGN = [
    "https://evil.test/v1/items",
    "http://api.test/v1/items",
    "https://api.test:8443/v1/items",
    "https://api.test.evil.test/",
    "https://api.test@evil.test/",
    "https://api.test\\@evil.test/",
    "https://api.test./v1/items",
    "ftp://api.test/v1/items",
    "javascript://api.test/%0Aalert(1)",
]


@pytest.mark.parametrize("url", FOREIGN)
async def test_a_url_of_another_origin_is_not_asked(url: str) -> None:
    script = Script(OK)
    async with client_of(script) as client:
        with pytest.raises(ForeignOrigin, match=r"away from https://api\.test:443.*rebase"):
            await client.ask(Request(path=url))
    assert script.requests == []


@pytest.mark.parametrize("url", FOREIGN)
async def test_with_rebase_a_url_of_another_origin_is_asked_at_home(url: str) -> None:
    script = Script(OK)
    async with client_of(script, rebase=True) as client:
        await client.ask(Request(path=url))
    [asked] = script.requests
    assert (asked.url.scheme, asked.url.host, asked.url.port) == ("https", "api.test", None)


@pytest.mark.parametrize("url", ["https://[::1", "http://api.test:port/"])
async def test_what_is_no_url_is_a_bad_answer(url: str) -> None:
    async with client_of(Script(OK)) as client:
        with pytest.raises(BadAnswer, match="not a URL"):
            await client.ask(Request(path=url))


@pytest.mark.parametrize(
    ("base_url", "reason"),
    [
        ("api.test/v1", "not an http URL"),
        ("ftp://api.test", "not an http URL"),
        ("https://", "not an http URL"),
        ("https://[::1", "not a URL"),
        ("https://me:s3cret@api.test", "holds credentials"),
        ("https://api.test/v1?key=s3cret", "holds a query"),
    ],
)
def test_a_base_url_that_cannot_be_one_is_refused_without_showing_it(base_url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"job\.toml: sources\.shop\.base_url: .*{reason}") as caught:
        client_of(None, base_url=base_url)
    assert "s3cret" not in str(caught.value)


async def test_a_request_says_who_asks_and_asks_for_gzip_alone() -> None:
    script = Script(OK)
    stated = {"X-Version": "3", "accept": "application/vnd.shop+json", "Accept-Encoding": "br"}
    async with client_of(script, headers=stated) as client:
        await client.ask(Request(method="POST", path="/search", body='{"a":1}'))
    [asked] = script.requests
    assert asked.headers["accept-encoding"] == "gzip"
    assert asked.headers["x-version"] == "3"
    assert asked.headers["accept"] == "application/vnd.shop+json"
    assert asked.headers["user-agent"].startswith("ingest/")
    assert asked.headers["content-type"] == "application/json"
    assert asked.content == b'{"a":1}'


def test_a_secret_among_the_headers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"headers\.X-Key: headers hold no secrets"):
        client_of(None, headers={"X-Key": "$KEY"})


async def test_cookies_are_not_sent_back() -> None:
    script = Script(httpx.Response(200, json=[], headers={"set-cookie": "session=1; Path=/"}))
    async with client_of(script) as client:
        answer = await client.ask(GET)
        await client.ask(GET)
    assert "cookie" not in script.requests[1].headers
    assert "set-cookie" not in answer.headers


# -- redirects -------------------------------------------------------------------------------------------


def to(location: str, status: int = 302) -> httpx.Response:
    return httpx.Response(status, headers={"location": location})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_on_the_origin_is_followed(status: int) -> None:
    script = Script(to("/v2/items?page=1", status), to("?page=2", status), OK)
    async with client_of(script) as client:
        await client.ask(Request(path="/items", query=(("a", "1"),)))
    assert script.urls[1:] == ["https://api.test/v2/items?page=1", "https://api.test/v2/items?page=2"]


@pytest.mark.parametrize("location", [*FOREIGN, "//evil.test/"])
async def test_a_redirect_to_another_origin_is_not_followed(location: str) -> None:
    script = Script(to(location), OK)
    async with client_of(script) as client:
        with pytest.raises(ForeignOrigin, match="GET /items: the answer points to"):
            await client.ask(GET)
    assert len(script.requests) == 1


async def test_a_redirected_post_is_not_repeated() -> None:
    script = Script(to("/v1/elsewhere", 307), OK)
    async with client_of(script) as client:
        with pytest.raises(ForeignOrigin, match="a POST was redirected"):
            await client.ask(Request(method="POST", path="/items", body="{}"))
    assert len(script.requests) == 1


async def test_redirects_in_a_circle_end() -> None:
    script = Script(to("/v1/items"))
    async with client_of(script) as client:
        with pytest.raises(BadAnswer, match="more than 5 times"):
            await client.ask(GET)
    assert len(script.requests) == 6


@pytest.mark.parametrize(("location", "reason"), [("", "without a Location"), ("https://[::1", "not a URL")])
async def test_a_redirect_to_nowhere_is_a_bad_answer(location: str, reason: str) -> None:
    async with client_of(Script(to(location))) as client:
        with pytest.raises(BadAnswer, match=reason):
            await client.ask(GET)


# -- what came -------------------------------------------------------------------------------------------


async def test_an_answer_has_its_status_headers_body_and_json() -> None:
    text = b'{"id": 123456789012345678901234567890}'
    script = Script(httpx.Response(201, content=text, headers={"x-next": "2"}))
    async with client_of(script) as client:
        answer = await client.ask(GET)
    assert (answer.status, answer.body, answer.json) == (201, text, {"id": 123456789012345678901234567890})
    assert answer.headers["X-Next"] == "2"


async def test_a_compressed_answer_arrives_decompressed() -> None:
    packed = gzip.compress(b"[1]")
    script = Script(httpx.Response(200, content=packed, headers={"content-encoding": "gzip"}))
    async with client_of(script) as client:
        answer = await client.ask(GET)
    assert (answer.body, answer.json, client.bytes) == (b"[1]", [1], len(packed))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429, 503])
async def test_an_accepted_status_is_an_answer(status: int) -> None:
    script = Script(httpx.Response(status, content=b"<p>no</p>"), httpx.Response(status, json={"no": 1}))
    async with client_of(script) as client:
        page = await client.ask(GET, accept=(status,))
        assert (page.status, page.body, page.json) == (status, b"<p>no</p>", None)
        assert (await client.ask(GET, accept={status})).json == {"no": 1}
    assert len(script.requests) == 2


@pytest.mark.parametrize("status", [304, 400, 403, 404, 410, 418, 501, 599])
async def test_another_status_is_refused_at_once(status: int) -> None:
    script = Script(httpx.Response(status, text="<h1>No</h1>\n\n  nothing\there" + " and more" * 100))
    async with client_of(script) as client:
        with pytest.raises(Refused) as caught:
            await client.ask(GET, accept=(402,))
    assert caught.value.status == status
    text = str(caught.value)
    assert text.startswith(f"shop: GET /items: status {status}")
    assert ": <h1>No</h1> nothing here and more" in text
    assert len(text) < 300
    assert text.isprintable()
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (
            b"<html><title>Sign in</title>",
            "text/html",
            r"text/html, .* not JSON .*Sign in.*is base_url right\?",
        ),
        (b"", "application/json", "an empty body"),
        (b" \n", "application/json", "an empty body"),
        (b"NaN", "application/json", "not JSON .*NaN"),
        (b'{"a": "\xff"}', "application/json", "not UTF-8"),
        (b'"\\udead is no text"', "application/json", "surrogate"),
    ],
)
async def test_what_is_not_json_is_a_bad_answer_that_says_what_came(
    content: bytes, kind: str, said: str
) -> None:
    script = Script(httpx.Response(200, content=content, headers={"content-type": kind}))
    async with client_of(script) as client:
        with pytest.raises(BadAnswer, match=rf"shop: GET /items: status 200 with .*{said}"):
            await client.ask(GET)
    assert len(script.requests) == 1


async def test_json_that_ends_too_early_in_a_whole_body_is_not_asked_for_again() -> None:
    script = Script(httpx.Response(200, content=b'{"data": [1, 2'))
    async with client_of(script) as client:
        with pytest.raises(BadAnswer, match="truncated"):
            await client.ask(GET)
    assert len(script.requests) == 1


async def test_json_is_taken_whatever_the_content_type_says() -> None:
    async with client_of(Script(httpx.Response(200, text="[1]"))) as client:
        assert (await client.ask(GET)).json == [1]


async def test_a_body_beyond_the_limit_is_refused_at_once() -> None:
    script = Script(httpx.Response(200, json=["x" * 2000]))
    async with client_of(script, transport={"max_body": 1000}) as client:
        with pytest.raises(BadAnswer, match="larger than 1000 bytes"):
            await client.ask(GET)
    assert len(script.requests) == 1


async def test_the_body_of_a_refusal_may_be_unreadable() -> None:
    script = Script(httpx.Response(404, json=["x" * 2000]))
    async with client_of(script, transport={"max_body": 1000}) as client:
        with pytest.raises(Refused, match=r"status 404 Not Found$"):
            await client.ask(GET)


# -- errors with status 200 --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "body", "error"),
    [
        ({"path": "error"}, {"error": {"code": 7}}, True),
        ({"path": "error"}, {"error": None, "data": []}, False),
        ({"path": "errors"}, {"errors": []}, False),
        ({"path": "error_code"}, {"error_code": 0}, False),
        ({"path": "ok", "equals": False}, {"ok": False}, True),
        ({"path": "ok", "equals": False}, {"ok": True}, False),
        ({"path": "ok", "equals": False}, {"ok": 0}, False),
        ({"path": "status", "equals": "fail"}, {"status": "fail"}, True),
        ({"path": "status", "equals": "fail"}, {}, False),
    ],
)
async def test_a_source_says_what_an_error_in_a_200_looks_like(
    stated: dict[str, Any], body: dict[str, Any], error: bool
) -> None:
    script = Script(*bodies([body]))
    async with client_of(script, errors=[stated]) as client:
        if not error:
            assert (await client.ask(GET)).json == body
            return
        with pytest.raises(Refused, match=r"status 200 with an error: \{") as caught:
            await client.ask(GET)
    assert caught.value.status == 200
    assert len(script.requests) == 1


async def test_the_message_of_an_error_in_a_200_is_shown() -> None:
    errors = [{"path": "ok", "equals": False, "message": "why.text"}]
    async with client_of(
        Script(*bodies([{"ok": False, "why": {"text": "no such list"}}])), errors=errors
    ) as client:
        with pytest.raises(Refused, match="with an error: no such list"):
            await client.ask(GET)


async def test_an_error_in_a_200_may_mean_later() -> None:
    clock = FakeClock()
    script = Script(*bodies([{"error": "busy", "wait": 7}, {"data": 1}]))
    transport = {"retry_after": "wait", "retry_after_unit": "s"}
    errors = [{"path": "error", "equals": "busy", "retry": True}]
    async with client_of(script, clock=clock, errors=errors, transport=transport) as client:
        assert (await client.ask(GET)).json == {"data": 1}
    assert clock.sleeps == [7.0]


# -- again, later --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        *(failing(status) for status in (408, 425, 429, 500, 502, 503, 504)),
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        httpx.ReadTimeout("slow"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
        httpx.Response(200, content=b"[1]", headers={"content-length": "10"}),
        # ended by the end of the connection alone
        httpx.Response(200, stream=httpx.ByteStream(b'{"data": [1, 2')),
    ],
    ids=str,
)
async def test_what_may_pass_is_asked_again(trouble: httpx.Response | Exception) -> None:
    clock, events = FakeClock(), Events()
    script = Script(trouble, OK)
    async with client_of(script, clock=clock, observe=events) as client:
        assert (await client.ask(GET)).json == {"data": []}
    assert (client.requests, client.retries) == (2, 1)
    [told] = events.named("retry")
    assert told["attempt"] == 1
    assert told["request"] == "GET /items"
    assert told["wait"] == clock.sleeps[0] > 0


async def test_waits_grow_and_end_with_the_attempts() -> None:
    clock = FakeClock()
    script = Script(failing(503))
    async with client_of(script, clock=clock, transport={"attempts": 9}) as client:
        with pytest.raises(
            Refused, match=r'GET /items: status 503 .*: {"error":"not now"}; gave up after 9'
        ) as caught:
            await client.ask(GET)
    assert caught.value.status == 503
    assert len(script.requests) == 9
    assert clock.sleeps == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


async def test_no_answer_at_all_ends_as_a_bad_answer_with_its_cause() -> None:
    async with client_of(Script(httpx.ReadError("reset by peer")), transport={"attempts": 2}) as client:
        with pytest.raises(
            BadAnswer, match="the connection broke: reset by peer; gave up after 2 attempts"
        ) as caught:
            await client.ask(GET)
    assert isinstance(caught.value.__cause__, httpx.ReadError)
    assert not isinstance(caught.value, Retry)


async def test_one_attempt_means_no_second() -> None:
    script = Script(failing(500))
    async with client_of(script, transport={"attempts": 1}) as client:
        with pytest.raises(Refused, match=r"gave up after 1 attempt$"):
            await client.ask(GET)
    assert len(script.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("7", 7.0),
        (" 7.5 ", 7.5),
        ("Fri, 20 Nov 2026 12:00:30 GMT", 30.0),
        ("Fri, 20 Nov 2026 12:00:30 -0000", 30.0),
        # in the past, nothing, or nonsense: still a little, so that attempts are not burned at once
        ("Fri, 20 Nov 2020 12:00:00 GMT", 0.5),
        ("0", 0.5),
        ("-5", 0.5),
        ("soon", 0.5),
        ("", 0.5),
    ],
)
async def test_the_server_says_how_long_to_wait(status: int, header: str, wait: float) -> None:
    clock = FakeClock()
    async with client_of(Script(failing(status, retry_after=header), OK), clock=clock) as client:
        await client.ask(GET)
    assert clock.sleeps[0] == pytest.approx(wait)


@pytest.mark.parametrize(
    ("body", "unit", "wait"),
    [
        ({"retry_after_ms": 9488}, "ms", 9.488),
        ({"retry_after_ms": "1500"}, "ms", 1.5),
        ({"retry_after_ms": 12}, "s", 12.0),
        # absent or nonsense: the header says it
        ({}, "ms", 10.0),
        ({"retry_after_ms": "soon"}, "ms", 10.0),
        ({"retry_after_ms": -1}, "ms", 10.0),
        ({"retry_after_ms": True}, "ms", 10.0),
    ],
)
async def test_the_wait_may_stand_in_the_body(body: dict[str, Any], unit: str, wait: float) -> None:
    clock = FakeClock()
    script = Script(httpx.Response(429, json=body, headers={"retry-after": "10"}), OK)
    transport = {"retry_after": "retry_after_ms", "retry_after_unit": unit}
    async with client_of(script, clock=clock, transport=transport) as client:
        await client.ask(GET)
    assert clock.sleeps[0] == pytest.approx(wait)


@pytest.mark.parametrize("header", ["0", "5"])
async def test_stated_waits_do_not_use_up_attempts(header: str) -> None:
    script = Script(*[failing(429, retry_after=header)] * 10, OK)
    async with client_of(script, transport={"attempts": 3}) as client:
        await client.ask(GET)
    assert len(script.requests) == 11


@pytest.mark.parametrize(("header", "fewest", "most"), [("100", 6, 7), ("0", 15, 40)])
async def test_stated_waits_end_with_the_longest_wait(header: str, fewest: int, most: int) -> None:
    events = Events()
    script = Script(failing(429, retry_after=header))
    async with client_of(script, observe=events, transport={"max_wait": "10m"}) as client:
        with pytest.raises(Refused, match=rf"asks to wait {header}s \(transport\.max_wait allows 600s"):
            await client.ask(GET)
    assert fewest <= len(script.requests) <= most
    assert sum(told["wait"] for told in events.named("retry")) <= 600


async def test_a_wait_that_is_too_long_is_not_begun() -> None:
    clock = FakeClock()
    script = Script(failing(503, retry_after="9" * 400))
    async with client_of(script, clock=clock) as client:
        with pytest.raises(Refused, match="gave up after 1 attempt"):
            await client.ask(GET)
    assert clock.sleeps == []


async def test_a_429_holds_the_whole_source_back_and_halves_its_rate() -> None:
    clock = FakeClock()
    script = Script(failing(429, retry_after="60"), OK)
    async with client_of(script, clock=clock, rate="10/s", transport={"max_wait": "1s"}) as client:
        with pytest.raises(Refused):
            await client.ask(GET)
        assert clock.seconds == 0.0
        await client.ask(GET)
        assert clock.seconds == pytest.approx(60.0)
        await client.ask(GET)
        assert clock.seconds == pytest.approx(60.2)
        for _ in range(40):
            await client.ask(GET)
        before = clock.seconds
        await client.ask(GET)
        assert clock.seconds - before == pytest.approx(0.1)


async def test_a_503_does_not_slow_the_source() -> None:
    clock = FakeClock()
    script = Script(failing(503, retry_after="60"), OK)
    async with client_of(script, clock=clock, transport={"max_wait": "1s"}) as client:
        with pytest.raises(Refused):
            await client.ask(GET)
        await client.ask(GET)
    assert clock.seconds == 0.0


async def test_requests_keep_to_the_rate_of_the_source() -> None:
    clock = FakeClock()
    async with client_of(Script(OK), clock=clock, rate="120/m") as client:
        await asyncio.gather(*(client.ask(GET) for _ in range(5)))
    assert clock.seconds == pytest.approx(2.0)


@pytest.mark.parametrize("rate", ["fast", "0/s"])
def test_a_rate_that_is_none_is_refused_with_its_place(rate: str) -> None:
    with pytest.raises(ConfigError, match=r"job\.toml: sources\.shop\.rate"):
        client_of(None, rate=rate)


async def test_respx_can_stand_for_the_server() -> None:
    clock = FakeClock()
    with respx.mock(base_url="https://api.test/v1") as server:
        route = server.get("/items", params={"page": "2"})
        route.side_effect = [httpx.Response(503), httpx.ConnectTimeout, httpx.Response(200, json=[1])]
        async with client_of(None, clock=clock) as client:
            assert (await client.ask(Request(path="/items", query=(("page", "2"),)))).json == [1]
    assert route.call_count == 3
    assert clock.sleeps == [0.5, 1.0]


# -- nothing at the other end ----------------------------------------------------------------------------


def raised_from(error: Exception, cause: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error from cause

    return handler


async def test_a_refused_connection_hints_at_the_base_url() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{free.getsockname()[1]}"
    clock = FakeClock()
    async with client_of(None, base_url=base_url, clock=clock) as client:
        with pytest.raises(BadAnswer, match=rf"is base_url right\? nothing answers at {base_url}/") as caught:
            await client.ask(GET)
    assert isinstance(caught.value, GiveUp)
    assert len(clock.sleeps) == 5


async def test_an_unknown_name_hints_at_the_base_url() -> None:
    handler = raised_from(httpx.ConnectError("failed"), socket.gaierror(-2, "Name or service not known"))
    async with client_of(handler) as client:
        with pytest.raises(BadAnswer, match=r"is base_url right\? nobody knows the name api\.test"):
            await client.ask(GET)


async def test_a_certificate_that_is_not_trusted_is_not_tried_again() -> None:
    handler = raised_from(httpx.ConnectError("verify failed"), ssl.SSLCertVerificationError("self-signed"))
    clock = FakeClock()
    async with client_of(handler, clock=clock) as client:
        with pytest.raises(
            BadAnswer, match=r"certificate of https://api\.test/ is not trusted: verify failed"
        ):
            await client.ask(GET)
    assert clock.sleeps == []


async def test_a_request_that_cannot_be_sent_is_not_tried_again() -> None:
    clock = FakeClock()
    async with client_of(Script(httpx.LocalProtocolError("Illegal header name")), clock=clock) as client:
        with pytest.raises(BadAnswer, match="cannot be sent: Illegal header name"):
            await client.ask(GET)
    assert clock.sleeps == []


async def test_a_request_can_be_cancelled() -> None:
    begun = asyncio.Event()

    async def handler(request: httpx.Request) -> httpx.Response:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with client_of(handler) as client:
        task = asyncio.create_task(client.ask(GET))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert client.retries == 0


# -- what is told ------------------------------------------------------------------------------------------


async def test_every_request_is_counted_and_told_without_its_query() -> None:
    events = Events()
    script = Script(to("/v1/items?token=t0ken"), failing(500), httpx.Response(200, content=b"[1]"))
    async with client_of(script, observe=events) as client:
        await client.ask(Request(path="/items", query=(("since", "t0ken"),)))
    assert (client.requests, client.retries) == (3, 1)
    told = events.named("request")
    assert [fields["status"] for fields in told] == [302, 500, 200]
    assert {fields["source"] for fields in told} == {"shop"}
    assert {fields["request"] for fields in told} == {"GET /v1/items"}
    assert sum(fields["bytes"] for fields in told) == client.bytes
    assert "t0ken" not in repr(events)


async def test_no_log_shows_a_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with client_of(Script(OK)) as client:
        await client.ask(Request(path="https://api.test/v1/items?cursor=t0ken", query=(("since", "t0ken"),)))
    assert "HTTP Request: GET https://api.test/v1/items " in caplog.text
    assert "t0ken" not in caplog.text


async def test_an_error_does_not_show_the_query() -> None:
    async with client_of(Script(failing(404))) as client:
        with pytest.raises(Refused) as caught:
            await client.ask(Request(path="/items?cursor=t0ken", query=(("since", "t0ken"),)))
    assert "t0ken" not in str(caught.value)


async def test_a_401_without_credentials_says_where_to_state_them() -> None:
    async with client_of(Script(failing(401))) as client:
        with pytest.raises(
            AuthFailed, match=r"GET /items: status 401.*\(check job\.toml: sources\.shop\.auth\)"
        ):
            await client.ask(GET)


async def test_a_client_closes_its_transport() -> None:
    closed = []

    class Transport(httpx.MockTransport):
        async def aclose(self) -> None:
            closed.append(True)

    client: Client = client_of(Transport(Script(OK)))
    async with client:
        await client.ask(GET)
    assert closed == [True]


async def test_a_server_that_cannot_be_reached_is_waited_for_once_and_then_only_tried() -> None:
    down = [httpx.ConnectError("refused")] * 6
    script = Script(*down, httpx.ConnectError("refused"), OK, httpx.ConnectError("refused"), OK)
    async with client_of(script) as client:
        for asked in (6, 7):
            with pytest.raises(BadAnswer, match="refused"):
                await client.ask(GET)
            assert client.requests == asked
        await client.ask(GET)
        assert client.requests == 8
        await client.ask(GET)
        assert client.requests == 10, "it answered, so there is patience again"
