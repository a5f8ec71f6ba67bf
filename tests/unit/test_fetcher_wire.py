"""The fetcher with the real client and the real page log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from ingest.config import Secret
from ingest.fetch.client import Client
from ingest.fetch.fetcher import Fetcher
from ingest.fetch.known import recall
from ingest.staging import SqlitePageLog
from tests.unit.client_kit import FakeClock
from tests.unit.fetching import PAGING, at, configured

STREAMS = {
    "rooms": {"path": "/rooms", "paginate": {"kind": "url", "next": "next"}},
    "messages": {
        "each": "rooms",
        "path": "/rooms/{rooms.id}/messages",
        "order": "newest-first",
        "key": "created_at",
        "unchanged": "last",
        "paginate": {**PAGING["cursor"], "limit": 2},
    },
}


def serve(request: httpx.Request) -> httpx.Response:
    query = dict(request.url.params)
    if query.pop("api_key") != "s3cret":
        return httpx.Response(401)
    if request.url.path == "/rooms":
        page = int(query.get("page", "0"))
        # the server puts the key it was asked with into its next-page URL
        more = {"next": f"http://api.test/rooms?page={page + 1}&api_key=s3cret"} if page < 3 else {}
        return httpx.Response(200, json={"data": [{"id": f"room {page}", "last": 5}], **more})
    if "room%202" in str(request.url):
        return httpx.Response(404, json={"error": "no such room"})
    start = int(query.get("cursor", "5"))
    some = [{"id": seq, "created_at": at(seq * 100)} for seq in range(start, max(0, start - 2), -1)]
    return httpx.Response(200, json={"data": some, "next": str(start - 2) if start > 2 else None})


class Cable(httpx.AsyncBaseTransport):
    """Breaks for good after so many requests."""

    def __init__(self, lasts: int) -> None:
        self.lasts = lasts
        self.urls: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.urls.append(str(request.url))
        if len(self.urls) > self.lasts:
            raise httpx.ConnectError("unplugged")
        return serve(request)


async def run(log: SqlitePageLog, name: str, lasts: int = 1000, concurrency: int = 3) -> Any:
    source = configured(STREAMS, auth={"query": {"api_key": "$KEY"}}, transport={"attempts": 1})
    cable, clock = Cable(lasts), FakeClock()
    secrets = {"$KEY": Secret("s3cret")}
    async with Client(source, transport=cable, clock=clock, secrets=lambda text, _: secrets[text]) as client:
        fetcher = Fetcher(source, log, client, run=name, clock=clock, concurrency=concurrency)
        report = await fetcher.sync()
        return report, cable.urls, fetcher.gaps()


async def test_a_source_is_fetched_through_the_real_client_into_the_real_log(tmp_path: Path) -> None:
    async with await SqlitePageLog.open(tmp_path / "log") as log:
        report, urls, gaps = await run(log, "r1")
        assert (report.failures, gaps) == ((), [])
        # four pages of rooms; three rooms of three pages, and one that is gone
        assert (report.requests, report.pages, report.records, report.retries) == (14, 14, 19, 0)
        assert report.bytes > 0
        pages = await log.read()
        assert {page.envelope.status for page in pages} == {200, 404}
        assert not any(b"s3cret" in (page.body or b"") for page in pages)
        assert not any("s3cret" in str(page.envelope) for page in pages)
        again, urls, _ = await run(log, "r2")
        assert [url for url in urls if "messages" in url] == []
        assert (again.requests, again.skipped) == (4, 3)


@pytest.mark.parametrize("lasts", range(14))
async def test_wherever_the_network_ends_the_next_run_goes_on(tmp_path: Path, lasts: int) -> None:
    async with await SqlitePageLog.open(tmp_path / "log") as log:
        report, first, _ = await run(log, "r1", lasts)
        assert report.failures
        assert report.pages == lasts
    async with await SqlitePageLog.open(tmp_path / "log") as log:
        report, second, gaps = await run(log, "r2")
        assert (report.failures, gaps) == ((), [])
        staged = [(page.envelope.walk.id, page.envelope.request) for page in await log.read()]
        assert len(set(staged)) == len(staged)
        asked_messages = [url for url in (*first[:lasts], *second) if "messages" in url]
        assert len(asked_messages) == len(set(asked_messages)) == 10
        known = await recall(log, "api")
        assert known.part("messages", '{"rooms.id":"room 2"}').closed == 404
