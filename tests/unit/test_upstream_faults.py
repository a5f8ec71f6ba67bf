"""Every fault does what its name says, when the schedule says so, and is seen in the log of requests."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import pytest

from ingest.source import Source
from tests.upstream import Faults, Truth, Upstream, example, faults, generate
from tests.upstream.faults import Fault
from tests.upstream.walker import client_of

NOW = datetime(2026, 3, 1, 10, 0, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return generate(example.Base, seed=1, rows={"users": 30, "tags": 30})


@pytest.fixture
def source() -> Source:
    return example.source(
        errors=[{"path": "ok", "equals": False, "message": "problem.text"}, {"path": "error"}],
        transport={"retry_after": "wait.ms"},
    )


@asynccontextmanager
async def struck(
    source: Source, truth: Truth, *several: Fault, schedule: Faults | None = None, **settings: Any
) -> AsyncIterator[tuple[Upstream, httpx.AsyncClient]]:
    schedule = schedule or Faults().at(1, *several)
    async with (
        Upstream(source, truth, faults=schedule, now=lambda: NOW, **settings) as up,
        client_of(up) as client,
    ):
        yield up, client


async def statuses(client: httpx.AsyncClient, times: int, path: str = "/users") -> list[int]:
    return [(await client.get(path)).status_code for _ in range(times)]


async def raw(up: Upstream, path: str = "/users") -> tuple[dict[str, str], bytes]:
    """Headers and everything that comes after them until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(up.origin.rpartition(":")[2]))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
    body = await reader.read()
    writer.close()
    return {name.lower(): value for name, value in (line.split(": ", 1) for line in head)}, body


# -- when ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (lambda f: f.at(2, faults.status(500)), [200, 500, 200, 200]),
        (lambda f: f.at(2, faults.status(500), faults.status(502)), [200, 500, 502, 200]),
        (lambda f: f.after(2, faults.status(503)), [200, 200, 503, 503]),
        (lambda f: f.first(2, faults.status(503)), [503, 503, 200, 200]),
        (lambda f: f.always(faults.status(503)), [503, 503, 503, 503]),
        (lambda f: f.at(1, faults.status(500)).always(faults.status(502)), [500, 502, 502, 502]),
        (lambda f: f.always(faults.status(500), path="/tags"), [200, 200, 200, 200]),
    ],
)
async def test_a_fault_strikes_when_the_schedule_says(
    source: Source, truth: Truth, schedule: Any, expected: list[int]
) -> None:
    async with struck(source, truth, schedule=schedule(Faults())) as (up, client):
        assert await statuses(client, 4) == expected
        assert [seen.status for seen in up.requests] == expected


async def test_the_first_tries_are_those_of_each_different_request(source: Source, truth: Truth) -> None:
    async with struck(source, truth, schedule=Faults().first(1, faults.status(503))) as (_, client):
        asked = [await statuses(client, 2, path) for path in ("/users", "/users?page=2", "/tags")]

    assert asked == [[503, 200]] * 3


async def test_chance_is_the_same_for_the_same_seed(source: Source, truth: Truth) -> None:
    found = []
    for seed in (1, 1, 2):
        schedule = Faults(seed).sometimes(0.5, faults.status(500), faults.status(502))
        async with struck(source, truth, schedule=schedule) as (_, client):
            found.append(await statuses(client, 30))

    assert found[0] == found[1] != found[2]
    assert set(found[0]) == {200, 500, 502}
    assert 5 < found[0].count(200) < 25


async def test_a_cleared_schedule_strikes_no_more(source: Source, truth: Truth) -> None:
    async with struck(source, truth, schedule=Faults().always(faults.status(500))) as (up, client):
        before = await statuses(client, 1)
        up.faults.clear()
        assert (before, await statuses(client, 1)) == ([500], [200])


async def test_the_log_names_the_fault_and_the_stream(source: Source, truth: Truth) -> None:
    async with struck(source, truth, faults.status(500)) as (up, client):
        await statuses(client, 2)

    assert [(seen.ordinal, seen.stream, seen.fault) for seen in up.requests] == [
        (1, "users", "status 500"),
        (2, "users", None),
    ]


# -- what ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "header", "wait"),
    [
        (faults.too_many(2), "2", None),
        (faults.too_many(1.5), "1.5", None),
        (faults.too_many(0), "0", None),
        (faults.too_many(90, "date"), "Sun, 01 Mar 2026 10:01:30 GMT", None),
        (faults.too_many(0.7, "body"), None, 700),
        (faults.too_many(5, "none"), None, None),
    ],
)
async def test_a_429_says_how_long_to_wait_in_every_form(
    source: Source, truth: Truth, fault: Fault, header: str | None, wait: int | None
) -> None:
    async with struck(source, truth, fault) as (_, client):
        answer = await client.get("/users")

    assert answer.status_code == 429
    assert answer.headers.get("Retry-After") == header
    assert answer.json().get("wait") == (None if wait is None else {"ms": wait})


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_an_error_of_the_server_has_a_body(source: Source, truth: Truth, status: int) -> None:
    async with struck(source, truth, faults.status(status, "no luck")) as (_, client):
        answer = await client.get("/users")

    assert (answer.status_code, answer.json()) == (status, {"error": "no luck"})


async def test_a_cut_body_ends_before_its_length(source: Source, truth: Truth) -> None:
    async with struck(source, truth, faults.cut_body(0.5), faults.cut_body(0.5)) as (up, client):
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
            await client.get("/users")
        headers, body = await raw(up)

    assert 0 < len(body) == int(headers["content-length"]) // 2


async def test_cut_json_looks_whole(source: Source, truth: Truth) -> None:
    async with struck(source, truth, faults.cut_json(0.9)) as (_, client):
        answer = await client.get("/users")

    assert len(answer.content) == int(answer.headers["content-length"])
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(answer.content)


async def test_a_gzipped_body_is_the_same_body(source: Source, truth: Truth) -> None:
    async with struck(source, truth, faults.zipped()) as (_, client):
        zipped, plain = await client.get("/users"), await client.get("/users")

    assert zipped.headers["Content-Encoding"] == "gzip"
    assert zipped.json() == plain.json()


@pytest.mark.parametrize(("keep", "whole"), [(0.6, False), (None, True)])
async def test_a_cut_gzip_stream_has_the_right_length_and_no_end(
    source: Source, truth: Truth, keep: float | None, whole: bool
) -> None:
    async with struck(source, truth, faults.cut_gzip(keep)) as (_, client):
        async with client.stream("GET", "/users") as answer:
            packed = b"".join([chunk async for chunk in answer.aiter_raw()])
        plain = (await client.get("/users")).content

    decoder = zlib.decompressobj(31)
    unpacked = decoder.decompress(packed)
    assert len(packed) == int(answer.headers["content-length"])
    assert not decoder.eof
    assert (unpacked == plain) is whole


async def test_a_bomb_is_small_until_it_is_unpacked(source: Source, truth: Truth) -> None:
    async with struck(source, truth, faults.bomb(2**22)) as (_, client):
        async with client.stream("GET", "/users") as answer:
            packed = b"".join([chunk async for chunk in answer.aiter_raw()])
        plain = (await client.get("/users")).json()

    unpacked = gzip.decompress(packed)
    assert len(packed) < 2**16 < 2**22 < len(unpacked)
    assert msgspec.json.decode(unpacked) == plain


async def test_a_drip_fed_body_comes_in_pieces_with_a_pause_after_each(source: Source, truth: Truth) -> None:
    pauses = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async with struck(source, truth, faults.drip(100, 0.25), sleep=sleep) as (_, client):
        dripped, plain = await client.get("/users"), await client.get("/users")

    assert dripped.json() == plain.json()
    assert pauses == [0.25] * -(-len(plain.content) // 100)


@pytest.mark.parametrize(("when", "status"), [("before headers", 0), ("after headers", 200)])
async def test_a_connection_closes_before_or_after_the_headers(
    source: Source, truth: Truth, when: Any, status: int
) -> None:
    async with struck(source, truth, faults.disconnect(when)) as (up, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/users")
        assert await statuses(client, 1) == [200]

    assert [seen.status for seen in up.requests] == [status, 200]


async def test_silence_is_no_answer_until_the_client_gives_up(source: Source, truth: Truth) -> None:
    async with struck(source, truth, faults.silence()) as (up, client):
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/users", timeout=0.01)
        assert await statuses(client, 1) == [200]

    assert up.requests[0].status == 0


async def test_a_page_for_people_comes_with_200(source: Source, truth: Truth) -> None:
    async with struck(source, truth, faults.html()) as (_, client):
        answer = await client.get("/users")

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert answer.text.startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("which", "body"), [(0, {"ok": False, "problem": {"text": "later"}}), (1, {"error": True})]
)
async def test_an_error_in_a_200_looks_as_the_source_says(
    source: Source, truth: Truth, which: int, body: Any
) -> None:
    async with struck(source, truth, faults.error_in_200(which, "later")) as (_, client):
        answer = await client.get("/users")

    assert (answer.status_code, answer.json()) == (200, body)


async def test_a_redirect_leads_to_another_origin(source: Source, truth: Truth) -> None:
    async with struck(source, truth, faults.redirect("http://evil.example")) as (_, client):
        answer = await client.get("/users?page=2")

    assert (answer.status_code, answer.headers["Location"]) == (302, "http://evil.example/users")


@pytest.mark.parametrize("kind", ["url", "link"])
async def test_the_next_page_is_at_another_host(truth: Truth, kind: str) -> None:
    paginate = {"kind": kind, "limit": 5} | ({"next": "next"} if kind == "url" else {})
    users = {"path": "/users", "records": "data", "entity": "User", "paginate": paginate}
    source = example.source(streams={"users": users})
    async with struck(source, truth, faults.foreign_next("http://evil.example")) as (up, client):
        foreign, own = await client.get("/users"), await client.get("/users")

    where = [a.json()["next"] if kind == "url" else a.links["next"]["url"] for a in (foreign, own)]
    assert [url.partition("/users")[0] for url in where] == ["http://evil.example", up.origin]


async def test_a_ring_gives_the_token_that_was_asked_with(truth: Truth) -> None:
    paginate = {"kind": "cursor", "next": "next"}
    users = {"path": "/users", "records": "data", "entity": "User", "paginate": paginate}
    source, schedule = example.source(streams={"users": users}), Faults().at(2, faults.ring())
    async with struck(source, truth, schedule=schedule) as (_, client):
        token = (await client.get("/users")).json()["next"]
        ringed, sound = [(await client.get("/users", params={"cursor": token})).json() for _ in range(2)]

    assert ringed["next"] == token != sound["next"]
    assert ringed["data"] == sound["data"]


async def test_a_value_of_the_answer_may_be_denied(source: Source, truth: Truth) -> None:
    async with struck(source, truth, faults.deny("total", 7)) as (_, client):
        wrong, right = (await client.get("/tags")).json(), (await client.get("/tags")).json()

    assert (wrong["total"], right["total"]) == (7, 30)
    assert wrong["items"] == right["items"]


async def test_any_body_may_come_instead(source: Source, truth: Truth) -> None:
    async with struck(source, truth, faults.instead(b'{"data": [NaN]}')) as (_, client):
        assert (await client.get("/users")).content == b'{"data": [NaN]}'
