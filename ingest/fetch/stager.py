"""Asks for pages and stages them: the one place in fetching that talks to the client and the page log."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Container
from datetime import datetime
from typing import NamedTuple, Protocol

from ingest.fetch.answer import Answer
from ingest.report import Observer
from ingest.staging.protocol import PageLog
from ingest.types import Envelope, Read, Request, read_json

#: bytes of a body that take longer to hash than a thread to be asked
_LONG = 100_000

Gate = Callable[[], Awaitable[None]]
OnPage = Callable[[int, Envelope], None]


class Asks(Protocol):
    """What fetching needs of a client (`ingest.fetch.client.Client`)."""

    requests: int
    retries: int
    bytes: int

    @property
    def base_url(self) -> str:
        """The URL that request paths are below."""

    @property
    def credential_names(self) -> Collection[str]:
        """The query parameters that no stored URL may have."""

    async def ask(self, request: Request, *, accept: Container[int] = (), read: Read = read_json) -> Answer:
        """The answer to a request; GiveUp or Stop when there is none."""


class Asked(NamedTuple):
    """An answer, and the highest stamp there was when it was asked for."""

    answer: Answer
    asked: int


class Stager:
    """One source's way from the client into the page log, counting what passes."""

    def __init__(
        self,
        source: str,
        log: PageLog,
        client: Asks,
        *,
        run: str,
        gate: Gate,
        on_page: OnPage,
        observe: Observer,
        now: Callable[[], datetime],
    ) -> None:
        self.source = source
        self.run = run
        self.log = log
        self.client = client
        self.pages = 0
        self.records = 0
        self._gate = gate
        self._on_page = on_page
        self._observe = observe
        self.now = now

    async def ask(self, request: Request, *, accept: Container[int] = (), read: Read = read_json) -> Asked:
        """Ask as soon as the gate lets us; what is staged by then is older than the answer."""
        await self._gate()
        asked = await self.log.top()
        return Asked(await self.client.ask(request, accept=accept, read=read), asked)

    async def stage(
        self, envelope: Envelope, body: bytes, *, after: int, total_pages: int | None = None
    ) -> int:
        """Append a page and return its stamp once it is durable. `total_pages`: as the server says."""
        stamp = await self.log.append(envelope, body, after=after)
        self.pages += 1
        self.records += envelope.records
        self._on_page(stamp, envelope)
        self.tell(
            "page",
            stream=envelope.stream,
            partition=envelope.partition,
            stamp=stamp,
            records=envelope.records,
            total_pages=total_pages,
        )
        return stamp

    def tell(self, event: str, **fields: object) -> None:
        """Tell the observer of a step."""
        self._observe(event, source=self.source, **fields)


async def digest(body: bytes) -> str:
    """The body's SHA-256, hexadecimal; a long one's is computed beside whatever else is to be done."""
    hashed = hashlib.sha256(body) if len(body) < _LONG else await asyncio.to_thread(hashlib.sha256, body)
    return hashed.hexdigest()
