"""Recorded pages: a folder of exchanges, an httpx transport that answers from it, and how it is written.

pages.jsonl    {"request": {…}, "status": 200, "headers": {…}, "file": "messages/0001.json"}   a line each
STREAM/N.json  the bodies, readable
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import httpx
import msgspec

from ingest.errors import ConfigError
from ingest.types import Envelope, Request

INDEX = "pages.jsonl"


class Exchange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One recorded answer, and what was asked for it."""

    request: Request
    status: int = 200
    headers: dict[str, str] = {}
    #: the body's file, below the folder
    file: str


def read_exchanges(folder: Path) -> list[Exchange]:
    """The exchanges recorded in a folder; ConfigError with file and line."""
    index = folder / INDEX
    try:
        lines = index.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}", where=str(index), hint="record pages there first"
        ) from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            exchange = msgspec.json.decode(line, type=Exchange)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise ConfigError(str(error), where=f"{index}: line {number}") from error
        if not (folder / exchange.file).resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{exchange.file!r} lies outside the folder", where=f"{index}: line {number}")
        found.append(exchange)
    return found


class ReplayTransport(httpx.AsyncBaseTransport):
    """Answers recorded requests, each with what was recorded for it, in order; the last one stays.

    A request matches by method, path below the base URL, set of query parameters and JSON body. One that
    was never recorded gets 501 and says so.
    """

    def __init__(self, folder: Path, base_url: str, *, ignoring: Iterable[str] = ()) -> None:
        self._folder, self._ignored = folder, frozenset(ignoring)
        self._base = httpx.URL(base_url).path.rstrip("/")
        self._exchanges: dict[Any, list[Exchange]] = {}
        for exchange in read_exchanges(folder):
            request = exchange.request
            key = self._key(
                request.method,
                _path_of(request.path),
                list(request.query) + _query_of(request.path),
                request.body,
            )
            self._exchanges.setdefault(key, []).append(exchange)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = unquote(request.url.raw_path.partition(b"?")[0].decode("ascii"))
        query = parse_qsl(request.url.query.decode("ascii"), keep_blank_values=True)
        body = (await request.aread()).decode() or None
        key = self._key(request.method, path.removeprefix(self._base), query, body)
        recorded = self._exchanges.get(key)
        if not recorded:
            text = f"{request.method} {path} {sorted(query)} was not recorded in {self._folder}"
            return httpx.Response(501, text=text, request=request)
        exchange = recorded.pop(0) if len(recorded) > 1 else recorded[0]
        content = (self._folder / exchange.file).read_bytes()
        return httpx.Response(exchange.status, headers=exchange.headers, content=content, request=request)

    def _key(self, method: str, path: str, query: list[tuple[str, str]], body: str | None) -> Any:
        said = frozenset((name, value) for name, value in query if name not in self._ignored)
        return (
            method,
            path,
            said,
            msgspec.json.encode(msgspec.json.decode(body), order="sorted") if body else None,
        )


def _path_of(path: str) -> str:
    return unquote(path.partition("?")[0])


def _query_of(path: str) -> list[tuple[str, str]]:
    return parse_qsl(path.partition("?")[2], keep_blank_values=True)


def write_exchanges(folder: Path, pages: Iterable[tuple[Envelope, bytes]]) -> int:
    """Write pages as recorded exchanges, bodies indented; how many were written."""
    folder.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    lines = []
    for envelope, body in pages:
        number = counts[envelope.stream] = counts.get(envelope.stream, 0) + 1
        file = f"{re.sub(r'[^A-Za-z0-9_-]', '_', envelope.stream)}/{number:04d}.json"
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(_readable(body))
        exchange = Exchange(
            request=envelope.request,
            status=envelope.status,
            headers={"content-type": "application/json"},
            file=file,
        )
        lines.append(msgspec.json.encode(exchange) + b"\n")
    (folder / INDEX).write_bytes(b"".join(lines))
    return len(lines)


def _readable(body: bytes) -> bytes:
    try:
        return msgspec.json.format(body, indent=1) + b"\n"
    except msgspec.DecodeError:
        return body
