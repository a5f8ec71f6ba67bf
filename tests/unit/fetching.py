"""An API in memory, a page log in memory, and a client between them that can be killed anywhere."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Container, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec

from ingest.config import ConfiguredSource
from ingest.errors import Refused, StagingConflict
from ingest.fetch.answer import Answer
from ingest.fetch.fetcher import Fetcher
from ingest.report import FetchReport
from ingest.source import Source
from ingest.types import Envelope, Read, Request, read_json

Handler = Callable[[Request, dict[str, str]], Any]


class Killed(Exception):
    """The process ends here."""


class FrozenClock:
    """A clock that stands still."""

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing in fetching sleeps but the client")


class MemoryLog:
    """The part of a page log that fetching uses; after `kill_after` pages it stores one and dies."""

    def __init__(self) -> None:
        self.pages: list[tuple[int, int, Envelope, bytes]] = []
        self.heads: dict[tuple[str, str, str], int] = {}
        self.folds: dict[str, tuple[int, bytes]] = {}
        self.kill_after: int | None = None

    async def top(self) -> int:
        return self.pages[-1][0] if self.pages else 0

    async def append(self, envelope: Envelope, body: bytes, *, after: int) -> int:
        place = (envelope.source, envelope.stream, envelope.partition)
        if self.heads.get(place, 0) != after:
            raise StagingConflict(f"{place} is at {self.heads.get(place, 0)}, not {after}")
        # stamps have holes
        stamp = self.heads[place] = (self.pages[-1][0] if self.pages else 0) + 3
        self.pages.append((stamp, after, envelope, body))
        if self.kill_after is not None:
            self.kill_after -= 1
            if self.kill_after < 0:
                raise Killed
        return stamp

    async def head(self, source: str, stream: str, partition: str) -> int:
        return self.heads.get((source, stream, partition), 0)

    async def envelopes(
        self, after: int = 0, *, source: str | None = None
    ) -> AsyncIterator[tuple[int, int, Envelope]]:
        for stamp, previous, envelope, _ in self.pages:
            if stamp > after and source in (None, envelope.source):
                # as a stored log gives it: through bytes
                yield stamp, previous, msgspec.json.decode(msgspec.json.encode(envelope), type=Envelope)

    async def save_fold(self, name: str, stamp: int, state: bytes) -> None:
        self.folds[name] = (stamp, state)

    async def load_fold(self, name: str) -> tuple[int, bytes] | None:
        return self.folds.get(name)

    def staged(self, stream: str, **where: Any) -> list[Envelope]:
        """The envelopes of a stream, in stamp order."""
        return [
            envelope
            for _, _, envelope, _ in self.pages
            if envelope.stream == stream
            and all(getattr(envelope, key) == value for key, value in where.items())
        ]

    def ids(self, stream: str, path: str = "data") -> Counter[Any]:
        """How often each record of a stream was staged, by its id."""
        found: Counter[Any] = Counter()
        for _, _, envelope, body in self.pages:
            if envelope.stream == stream and envelope.status == 200:
                found.update(record["id"] for record in msgspec.json.decode(body)[path])
        return found


class FakeClient:
    """Asks a function instead of the network. `kill_at` requests it dies, before it has asked."""

    base_url = "http://api.test"
    credential_names: Container[str] = frozenset({"api_key"})

    def __init__(self, handler: Handler, *, kill_at: int | None = None) -> None:
        self.handler = handler
        self.kill_at = kill_at
        self.asked: list[Request] = []
        self.requests = self.retries = self.bytes = 0

    async def ask(self, request: Request, *, accept: Container[int] = (), read: Read = read_json) -> Answer:
        if self.kill_at is not None and self.requests >= self.kill_at:
            raise Killed
        self.requests += 1
        self.asked.append(request)
        answer = self.handler(request, dict(request.query))
        # the answer takes its time, and others go on meanwhile
        await asyncio.sleep(0)
        if isinstance(answer, Exception):
            raise answer
        status, json, headers = answer if isinstance(answer, tuple) else (200, answer, {})
        body = msgspec.json.encode(json)
        self.bytes += len(body)
        if status >= 400 and status not in accept:
            raise Refused(f"status {status}", status=status)
        return Answer(status, httpx.Headers(headers), body, read(body))


def configured(streams: dict[str, Any], **more: Any) -> ConfiguredSource:
    """A source as it stands in a file, without the file."""
    streams = {name: {"entity": "Thing", "records": "data", **stated} for name, stated in streams.items()}
    source = msgspec.convert({"streams": streams, **more}, Source)
    return ConfiguredSource(
        name="api", base_url="http://api.test", source=source, package="models", replay=None, where="test"
    )


class Lab:
    """One page log, and runs against it, each with a client and a fetcher of its own."""

    def __init__(self, streams: dict[str, Any], handler: Handler, *, concurrency: int = 1) -> None:
        self.source = configured(streams)
        self.handler = handler
        self.concurrency = concurrency
        self.log = MemoryLog()
        self.runs = 0
        self.client = FakeClient(handler)
        self.fetcher = self.begin()

    def begin(self, *, kill_at: int | None = None, kill_after: int | None = None, **more: Any) -> Fetcher:
        """A new process: it knows only what the log says."""
        self.runs += 1
        self.client = FakeClient(self.handler, kill_at=kill_at)
        self.log.kill_after = kill_after
        self.fetcher = Fetcher(
            self.source,
            self.log,
            self.client,
            run=f"run{self.runs}",
            clock=FrozenClock(),
            concurrency=self.concurrency,
            **more,
        )
        return self.fetcher

    def change(self, streams: dict[str, Any]) -> None:
        """From the next run on the source is defined like this."""
        self.source = configured(streams)

    async def sync(self, *streams: str, **killed: int | None) -> FetchReport | None:
        """One sync, in a process of its own; None when it was killed."""
        fetcher = self.begin(**killed)
        try:
            return await fetcher.sync(streams or None)
        except Killed:
            return None

    async def whole(self, *streams: str) -> FetchReport:
        """One sync that must end by itself, without a failure."""
        report = await self.sync(*streams)
        assert report is not None
        assert report.failures == ()
        return report

    @property
    def paths(self) -> list[str]:
        """What the last run asked for, as text."""
        return [_shown(request) for request in self.client.asked]

    def repeated(self) -> list[tuple[str, str]]:
        """Requests that were staged twice within one walk."""
        seen = Counter(
            (f"{envelope.stream} {envelope.partition} {envelope.walk.id}", _shown(envelope.request))
            for _, _, envelope, _ in self.log.pages
        )
        return [place for place, times in seen.items() if times > 1]


def _shown(request: Request) -> str:
    return request.path + (
        "?" + "&".join(f"{key}={value}" for key, value in request.query) if request.query else ""
    )


def at(seconds: int) -> str:
    """A time so many seconds after the start of 2024."""
    return datetime.fromtimestamp(1704067200 + seconds, UTC).isoformat().replace("+00:00", "Z")


def page_of(
    records: Sequence[dict[str, Any]], query: dict[str, str], *, paging: str, limit: int
) -> dict[str, Any]:
    """One page of a listing in the server's order, by any way of paging."""
    if paging == "offset":
        start = int(query.get("offset", 0))
        return {"data": list(records[start : start + limit]), "more": start + limit < len(records)}
    if paging == "page":
        start = (int(query.get("page", 1)) - 1) * limit
        return {"data": list(records[start : start + limit]), "more": start + limit < len(records)}
    if paging == "keyset":
        before = int(query["before"]) if "before" in query else None
        rest = [record for record in records if before is None or record["seq"] < before]
        return {"data": rest[:limit]}
    # an opaque token that names the last record sent
    places = {str(record["id"]): place for place, record in enumerate(records)}
    start = places[query["cursor"].removeprefix("after-")] + 1 if "cursor" in query else 0
    some = list(records[start : start + limit])
    return {"data": some, "next": f"after-{some[-1]['id']}" if start + limit < len(records) else None}


#: how each way of paging is stated
PAGING = {
    "offset": {"kind": "offset", "more": "more"},
    "page": {"kind": "page", "more": "more"},
    "keyset": {"kind": "keyset", "param": "before", "key": "seq", "end": "empty"},
    "cursor": {"kind": "cursor", "next": "next"},
}
