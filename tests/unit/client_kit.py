"""What the tests of the HTTP client share: a clock that never waits, sources, servers that misbehave."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec

from ingest.config import ConfiguredSource, Secret
from ingest.fetch.client import Client
from ingest.source import Source

BASE = "https://api.test/v1"
START = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class FakeClock:
    """Sleeping moves it on, and takes no time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.sleeps: list[float] = []

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)


class HighestJitter(random.Random):
    """Always the longest wait."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


class Events(list[tuple[str, dict[str, Any]]]):
    """An observer that remembers."""

    def __call__(self, event: str, /, **fields: Any) -> None:
        self.append((event, fields))

    def named(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self if event == name]


def configured(base_url: str = BASE, **stated: Any) -> ConfiguredSource:
    """A source of the name `shop`, from what its TOML would state."""
    source = msgspec.convert({"streams": {}, **stated}, Source)
    return ConfiguredSource(
        name="shop",
        base_url=base_url,
        source=source,
        package="shop",
        replay=None,
        where="job.toml: sources.shop",
    )


def client_of(
    answers: Callable[[httpx.Request], Any] | httpx.AsyncBaseTransport | None,
    /,
    *,
    base_url: str = BASE,
    clock: Any = None,
    secrets: dict[str, str] | None = None,
    observe: Any = None,
    **stated: Any,
) -> Client:
    """A client whose requests a function answers (or a transport, or with None the network)."""
    if answers is not None and not isinstance(answers, httpx.AsyncBaseTransport):
        answers = httpx.MockTransport(answers)
    held = secrets or {}
    return Client(
        configured(base_url, **stated),
        transport=answers,
        clock=FakeClock() if clock is None else clock,
        secrets=lambda reference, where: Secret(held[reference]),
        observe=Events() if observe is None else observe,
        jitter=HighestJitter(),
    )


class Script:
    """Answers requests in turn, repeats its last answer, and remembers what was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.requests: list[httpx.Request] = []
        self._answers = list(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        # an httpx response can be read once
        return httpx.Response(answer.status_code, headers=answer.headers, stream=answer.stream)

    @property
    def urls(self) -> list[str]:
        return [str(request.url) for request in self.requests]


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and everything a traceback would show below it."""
    todo, seen = [error], set()
    while todo:
        link = todo.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            todo += [link.__cause__, link.__context__]


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_server(*answers: bytes | Serve) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server on this machine that sends bytes as they are: one answer a connection, the last for ever.

    Yields its URL and the heads of the requests it has read.
    """
    heads: list[bytes] = []
    left: list[bytes | Serve] = list(answers)
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            answer = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", heads
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """The bytes of an HTTP/1.1 answer with exactly these headers."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


def bodies(values: Sequence[Any]) -> list[httpx.Response]:
    """One JSON answer a value."""
    return [httpx.Response(200, json=value) for value in values]
