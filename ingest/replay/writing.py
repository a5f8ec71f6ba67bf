"""Writes pages as recorded exchanges: whole or not at all, and without credentials."""

from __future__ import annotations

import re
import secrets
import shutil
from collections import Counter
from collections.abc import AsyncIterable, Iterable, Iterator
from pathlib import Path as FilePath
from typing import Any

import httpx
import msgspec

from ingest.config import ConfiguredSource
from ingest.credential import signatures
from ingest.errors import UsageError
from ingest.fetch.courier import is_absolute
from ingest.paths import Path
from ingest.replay.exchange import INDEX, Exchange, is_json, read_index
from ingest.replay.redaction import Redaction, credentials
from ingest.source import HeaderCursor, Link, NextUrl
from ingest.types import Envelope, Page

#: a string, which stays, or whitespace between tokens, which goes
_TOKENS = re.compile(rb'("(?:[^"\\]|\\.)*")|[ \t\r\n]+', re.DOTALL)


async def write_exchanges(
    folder: FilePath, pages: AsyncIterable[Page], source: ConfiguredSource, *, withhold: Iterable[str] = ()
) -> int:
    """Write a source's pages as recorded exchanges, without its credentials and `withhold`; how many.

    A recording that is there is replaced once the new one is whole. A folder with anything else in
    it is refused.
    """
    folder = folder.resolve()
    _check_replaceable(folder)
    auth = source.source.auth
    names = (auth.query or ()) if auth is not None else ()
    redaction = Redaction([*credentials(source), *withhold], names)
    new = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    new.mkdir(parents=True)
    try:
        writer = _Writer(new, source, redaction)
        async for page in pages:
            writer.write(page)
        writer.finish()
        _put_in_place(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return len(writer.lines)


class _Writer:
    """Writes a recording into an empty folder."""

    def __init__(self, folder: FilePath, source: ConfiguredSource, redaction: Redaction) -> None:
        self.lines: list[bytes] = []
        self._folder, self._source, self._redaction = folder, source, redaction
        self._numbers: Counter[str] = Counter()

    def write(self, page: Page) -> None:
        """Write one page; UsageError where its body was pruned."""
        envelope = page.envelope
        self._redaction.number(_signatures(self._source, page))
        request = self._redaction.request(envelope.request, f"a request of stream {envelope.stream!r}")
        where = f"the answer to {request.method} {request.path.partition('?')[0]}"
        if page.body is None:
            raise UsageError(
                "its body was pruned",
                where=where,
                hint="mirror the source into a new database, and record that",
            )
        body = self._redaction.data(page.body, where)
        suffix, headers = _kind(body)
        file = self._file(envelope.stream, suffix)
        (self._folder / file).parent.mkdir(exist_ok=True)
        (self._folder / file).write_bytes(_readable(body))
        for name, value in _next_page(self._source, envelope).items():
            headers[name] = self._redaction.text(value, where)
        exchange = Exchange(request=request, status=envelope.status, headers=headers, file=file)
        self.lines.append(msgspec.json.encode(exchange) + b"\n")

    def finish(self) -> None:
        """Write the index."""
        if not self.lines:
            raise UsageError(
                "nothing of it is staged yet",
                where=f"source {self._source.name}",
                hint="run `ingest sync` first",
            )
        (self._folder / INDEX).write_bytes(b"".join(self.lines))

    def _file(self, stream: str, suffix: str) -> str:
        # two names may become one, also on a disk that takes upper case for lower
        folder = re.sub(r"[^a-z0-9_-]", "_", stream.lower())
        self._numbers[folder] += 1
        return f"{folder}/{self._numbers[folder]:04d}{suffix}"


def _kind(body: bytes) -> tuple[str, dict[str, str]]:
    """A body's file suffix, and the header that says what it is: the page log keeps no headers."""
    if is_json(body):
        return ".json", {"content-type": "application/json"}
    try:
        body.decode()
    except UnicodeDecodeError:
        return ".bin", {"content-type": "application/octet-stream"}
    return ".txt", {"content-type": "text/plain; charset=utf-8"} if body else {}


def _next_page(source: ConfiguredSource, envelope: Envelope) -> dict[str, str]:
    """The header that led to the next page, where it was a header that did."""
    stream = source.source.streams.get(envelope.stream)
    cursor = msgspec.json.decode(envelope.next) if envelope.next is not None else None
    if stream is None or not isinstance(cursor, str):
        return {}
    if isinstance(stream.paginate, HeaderCursor):
        return {stream.paginate.next.lower(): cursor}
    if isinstance(stream.paginate, Link):
        # the log keeps a URL below the base; without a host, it is good wherever the recording answers
        below = "" if is_absolute(cursor) else httpx.URL(source.base_url).path.rstrip("/")
        return {"link": f'<{below}{cursor}>; rel="next"'}
    return {}


def _signatures(source: ConfiguredSource, page: Page) -> Iterator[str]:
    """What the server signed this page's URL and the next one's with, where it says URLs."""
    stream = source.source.streams.get(page.envelope.stream)
    paged = stream.paginate if stream is not None else None
    if isinstance(paged, Link | NextUrl):
        yield from signatures(page.envelope.request.path)
        cursor = _json((page.envelope.next or "").encode())
        yield from signatures(cursor) if isinstance(cursor, str) else ()
    if isinstance(paged, NextUrl) and page.body is not None:
        # a walk may end before the server's own end: then the next URL is said, and not kept
        stated = Path(paged.next).first(_json(page.body))
        yield from signatures(stated) if isinstance(stated, str) else ()


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _readable(body: bytes) -> bytes:
    """JSON indented where that changes nothing but whitespace between tokens; all else as it came."""
    try:
        indented = msgspec.json.format(body, indent=1) + b"\n"
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body
    return indented if _TOKENS.sub(rb"\1", indented) == _TOKENS.sub(rb"\1", body) else body


def _check_replaceable(folder: FilePath) -> None:
    """UsageError unless nothing is there, or nothing but a recording."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError("is a file", where=str(folder), hint="say a folder")
    if not any(folder.iterdir()):
        return
    if not (folder / INDEX).exists():
        raise UsageError(
            "holds files, and is no recording", where=str(folder), hint="say a new folder, or an empty one"
        )
    ours = {INDEX, *(exchange.file for _, exchange in read_index(folder))}
    there = {one.relative_to(folder).as_posix() for one in folder.rglob("*") if not one.is_dir()}
    if foreign := sorted(there - ours):
        raise UsageError(
            f"holds {foreign[0]}, which is no part of the recording", where=str(folder), hint="move it away"
        )


def _put_in_place(new: FilePath, folder: FilePath) -> None:
    old = new.with_name(f"{new.name}.old")
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
