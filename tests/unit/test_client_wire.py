"""The client against servers that cut, drip, lie and hang up; on 127.0.0.1, byte for byte."""

from __future__ import annotations

import asyncio
import gzip
import time
from typing import Any

import pytest

from ingest.errors import BadAnswer, Refused
from ingest.types import Request
from tests.unit.client_kit import Serve, client_of, raw_server, response

GET = Request(path="/items", query=(("page", "2"),))
JSON = b'{"data": [' + b", ".join(b'{"id": %d}' % n for n in range(2000)) + b"]}"
TYPE = "Content-Type: application/json"
LENGTH = f"Content-Length: {len(JSON)}"
CLOSE = "Connection: close"
WHOLE = response(JSON, TYPE, LENGTH, CLOSE)
PACKED = gzip.compress(JSON)
GZIP = "Content-Encoding: gzip"


def chunked(body: bytes, *, end: bool) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body) + (b"0\r\n\r\n" if end else b"")


def hung_up(data: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.transport.abort()

    return serve


CUT: dict[str, bytes | Serve] = {
    "no answer at all": b"",
    "half a status line": b"HTTP/1.1 20",
    "headers without an end": response(JSON, TYPE, LENGTH)[:40],
    "fewer bytes than the length": response(JSON[:-10], TYPE, LENGTH, CLOSE),
    "no byte of the length": response(b"", TYPE, LENGTH, CLOSE),
    "chunks without an end": response(chunked(JSON, end=False), TYPE, "Transfer-Encoding: chunked"),
    "a chunk cut in its middle": response(
        chunked(JSON, end=False)[:-500], TYPE, "Transfer-Encoding: chunked"
    ),
    "neither length nor end": response(JSON[:-10], TYPE, CLOSE),
    "gzip without its end": response(PACKED[:-100], TYPE, GZIP, CLOSE),
    "gzip without its trailer": response(PACKED[:-8], TYPE, GZIP, CLOSE),
    "gzip without a byte": response(b"", TYPE, GZIP, CLOSE),
    "gzip cut, and a length that agrees": response(
        PACKED[:-100], TYPE, GZIP, f"Content-Length: {len(PACKED) - 100}", CLOSE
    ),
    "gzip cut, in proper chunks": response(
        chunked(PACKED[:-1], end=True), TYPE, GZIP, "Transfer-Encoding: chunked", CLOSE
    ),
    "gzip with a wrong checksum": response(PACKED[:-8] + bytes(8), TYPE, GZIP, CLOSE),
    "a reset connection": hung_up(response(JSON[:-10], TYPE, LENGTH)),
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
}


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT.keys())
async def test_an_answer_that_is_cut_is_asked_for_again(answer: bytes | Serve) -> None:
    async with raw_server(answer, WHOLE) as (url, heads), client_of(None, base_url=url) as client:
        assert (await client.ask(GET)).body == JSON
    assert len(heads) == 2
    assert client.retries == 1


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT.keys())
async def test_an_answer_that_is_always_cut_is_never_taken_for_a_whole_one(answer: bytes | Serve) -> None:
    async with (
        raw_server(answer) as (url, heads),
        client_of(None, base_url=url, transport={"attempts": 3}) as client,
    ):
        with pytest.raises(BadAnswer, match=r"shop: GET /items: .* gave up after 3 attempts"):
            await client.ask(GET)
    assert len(heads) == 3


WHOLE_ONES = {
    "by its length": WHOLE,
    "by its chunks": response(chunked(JSON, end=True), TYPE, "Transfer-Encoding: chunked", CLOSE),
    "by the end of the connection": response(JSON, TYPE, CLOSE),
    "by gzip": response(PACKED, TYPE, GZIP, CLOSE),
    "by two gzip members": response(gzip.compress(JSON[:99]) + gzip.compress(JSON[99:]), TYPE, GZIP, CLOSE),
    "by everything": response(PACKED, TYPE, GZIP, f"Content-Length: {len(PACKED)}", CLOSE),
}


@pytest.mark.parametrize("answer", WHOLE_ONES.values(), ids=WHOLE_ONES.keys())
async def test_a_whole_answer_arrives_however_it_is_framed(answer: bytes) -> None:
    async with raw_server(answer) as (url, heads), client_of(None, base_url=url) as client:
        assert (await client.ask(GET)).body == JSON
    [head] = heads
    assert head.startswith(b"GET /items?page=2 HTTP/1.1\r\n")
    assert b"\r\nAccept-Encoding: gzip\r\n" in head
    assert client.retries == 0


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(response(b"[", TYPE, "Content-Length: 1000000"))
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.005)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def stalled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(response(b"[", TYPE, "Content-Length: 1000"))
    await asyncio.Event().wait()


async def timed(serve: Serve, said: str, **transport: Any) -> float:
    async with (
        raw_server(serve) as (url, _),
        client_of(None, base_url=url, transport={"attempts": 1, **transport}) as client,
    ):
        begun = time.monotonic()
        with pytest.raises(BadAnswer, match=said):
            await client.ask(GET)
        return time.monotonic() - begun


async def test_a_drip_feed_ends_with_the_deadline() -> None:
    took = await timed(dripping, "no whole answer within 100ms", deadline="100ms", timeout="30s")
    assert 0.09 < took < 3


@pytest.mark.parametrize("serve", [silent, stalled])
async def test_silence_ends_with_the_timeout_long_before_the_deadline(serve: Serve) -> None:
    took = await timed(serve, "nothing came for 50ms", deadline="60s", timeout="50ms")
    assert 0.04 < took < 3


@pytest.mark.parametrize("serve", [silent, stalled])
async def test_the_deadline_counts_from_the_first_byte_sent(serve: Serve) -> None:
    await timed(serve, "no whole answer within 50ms", deadline="50ms", timeout="60s")


async def test_a_drip_feed_is_asked_again_and_may_be_answered_then() -> None:
    async with (
        raw_server(dripping, WHOLE) as (url, _),
        client_of(None, base_url=url, transport={"deadline": "150ms"}) as client,
    ):
        assert (await client.ask(GET)).body == JSON
    assert client.retries == 1


async def test_an_endless_body_ends_at_the_limit() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"", TYPE, CLOSE))
        while True:
            writer.write(b" " * 65536)
            await writer.drain()

    async with (
        raw_server(endless) as (url, heads),
        client_of(None, base_url=url, transport={"max_body": 2**20}) as client,
    ):
        with pytest.raises(BadAnswer, match="larger than 1048576 bytes"):
            await client.ask(GET)
    assert len(heads) == 1
    assert client.bytes < 2 * 2**20


async def test_the_status_of_a_refusal_counts_although_its_body_is_cut() -> None:
    answer = response(b"<h1>", "Content-Length: 1000", CLOSE, status="404 Not Found")
    async with raw_server(answer) as (url, heads), client_of(None, base_url=url) as client:
        with pytest.raises(Refused, match="status 404"):
            await client.ask(GET)
    assert len(heads) == 1


async def test_connections_are_kept_and_a_broken_one_is_replaced() -> None:
    async def thrice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(JSON, TYPE, LENGTH))
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(response(JSON, TYPE, LENGTH))

    async with raw_server(thrice) as (url, heads), client_of(None, base_url=url) as client:
        for _ in range(3):
            assert (await client.ask(GET)).body == JSON
        assert len(heads) == 1
        assert (await client.ask(GET)).body == JSON
    assert len(heads) == 2


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        raw_server(response(b"[]", TYPE, CLOSE)) as (proxy, asked_of_proxy),
        raw_server(WHOLE) as (url, _),
    ):
        for name in ("HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        async with client_of(None, base_url=url) as client:
            assert (await client.ask(GET)).body == JSON
    assert asked_of_proxy == []


async def test_many_requests_at_once_need_not_wait_for_a_connection() -> None:
    waiting: list[asyncio.StreamWriter] = []
    all_here = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting.append(writer)
        if len(waiting) == 120:
            all_here.set()
        await all_here.wait()
        writer.write(WHOLE)

    async with raw_server(serve) as (url, _), client_of(None, base_url=url) as client:
        answers = await asyncio.gather(*(client.ask(GET) for _ in range(120)))
    assert {answer.status for answer in answers} == {200}
    assert client.retries == 0
