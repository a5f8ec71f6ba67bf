"""A plain client that walks a listing to its end, one page after the other, and trusts the server.

It knows no more than what a source says: for tests of the upstream itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx

from ingest.paths import Path
from ingest.source import (
    Continue,
    Cursor,
    HeaderCursor,
    Keyset,
    Link,
    NextUrl,
    Offset,
    PageNumber,
    Stream,
)
from tests.upstream.server import Upstream

#: a walk longer than this goes round in a ring
LONGEST = 10_000


def client_of(up: Upstream, **settings: Any) -> httpx.AsyncClient:
    """A client of the server; without TLS, whose certificates take longer to load than most tests to run."""
    return httpx.AsyncClient(base_url=up.base_url, verify=False, trust_env=False, **settings)


async def pages(
    client: httpx.AsyncClient, stream: Stream, *, path: str | None = None, **params: Any
) -> AsyncIterator[httpx.Response]:
    """The answers of a walk; `params` go with the first request, and with every one that is not a URL's."""
    url: str | None = path or stream.path
    limit = getattr(stream.paginate, "limit", None)
    asked: dict[str, Any] = {**stream.query, **params}
    if limit is not None and stream.paginate is not None:
        asked[stream.paginate.limit_param] = limit
    asked = {name: value for name, value in asked.items() if value is not None}
    query: dict[str, Any] | None = asked
    seen = 0
    for _ in range(LONGEST):
        assert url is not None
        if stream.method == "POST":
            answer = await client.post(url, json={**(stream.body or {}), **(query or {})})
        else:
            answer = await client.get(url, params=query)
        yield answer
        body = answer.raise_for_status().json()
        page = records(stream, body)
        seen += len(page)
        following = _next(stream.paginate, answer, body, page, query or {})
        if following is None:
            return
        url, query = (following, None) if isinstance(following, str) else (url, {**asked, **following})
    raise AssertionError("the walk does not end")


async def walk(
    client: httpx.AsyncClient, stream: Stream, *, path: str | None = None, **params: Any
) -> list[Any]:
    """Every record of a walk, in order."""
    return [
        record
        async for page in pages(client, stream, path=path, **params)
        for record in records(stream, page.json())
    ]


def records(stream: Stream, body: Any) -> list[Any]:
    """The records of one page."""
    found = [match.value for match in Path(stream.records).matches(body)]
    return [record for value in found for record in (value if isinstance(value, list) else [value])]


def _next(
    kind: Any, answer: httpx.Response, body: Any, page: list[Any], query: dict[str, Any]
) -> dict[str, Any] | str | None:
    """What asks for the next page: parameters, or a URL; None at the end."""
    match kind:
        case PageNumber():
            number = int(query.get(kind.param, kind.first))
            done = number - kind.first + 1
            return {kind.param: number + 1} if _goes_on(kind, body, page, done) else None
        case Offset(next=str() as path):
            offset = Path(path).first(body)
            return None if offset is None else {kind.param: offset}
        case Offset():
            offset = int(query.get(kind.param, kind.first)) + (kind.limit or 0)
            done = offset - kind.first
            return {kind.param: offset} if _goes_on(kind, body, page, done) else None
        case Keyset():
            more = Path(kind.more).first(body) if kind.more else bool(page)
            return {kind.param: Path(kind.key).first(page[-1])} if more else None
        case Cursor():
            token = Path(kind.next).first(body)
            unmoved = kind.tail and (token == query.get(kind.param) or not page)
            over = kind.more is not None and not Path(kind.more).first(body)
            return None if token in (None, "") or unmoved or over else {kind.param: token}
        case HeaderCursor():
            token = answer.headers.get(kind.next)
            return {kind.param: token} if token else None
        case Link():
            link = answer.links.get("next")
            return link["url"] if link else None
        case NextUrl():
            return Path(kind.next).first(body) or None
        case Continue():
            members = Path(kind.next).first(body)
            return dict(members) if members else None
    return None


def _goes_on(kind: PageNumber | Offset, body: Any, page: list[Any], done: int) -> bool:
    if kind.more is not None:
        return bool(Path(kind.more).first(body))
    if isinstance(kind, PageNumber) and kind.pages is not None:
        return bool(done < Path(kind.pages).first(body))
    if kind.total is not None:
        size = (kind.limit or 0) if isinstance(kind, PageNumber) else 1
        return bool(done * size < Path(kind.total).first(body))
    return bool(page)
