"""The page log in a SQLite file of its own.

    mirror.db.pages         the log
    mirror.db.pages-wal     its newest pages, until they are copied back
    mirror.db.pages-lock    who writes

One process writes, on one connection that alone copies the write-ahead log back (SQLite before
3.51.3 can damage a file that two connections write and checkpoint at once); any number may read.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import aiosqlite

from ingest.errors import Stop, UsageError, hint_of
from ingest.staging.connection import connect, run
from ingest.staging.entries import Entry, place_of, spoken
from ingest.staging.faults import DAMAGED_HINT, explained
from ingest.staging.format import create, inspect, make_folder
from ingest.staging.lock import WriterLock
from ingest.staging.queue import WriteQueue
from ingest.staging.rows import ENVELOPE_COLUMNS, envelope_of, envelope_row, pack, page_of, repack
from ingest.staging.writer import SqliteWriter
from ingest.types import Envelope, LogIdentity, Page

#: bytes of a body from which compressing it is worth a hop to another thread (about 0.1 ms)
THREADED_BYTES: Final = 64 * 1024
#: envelopes read at once: a fold holds no snapshot open while it works, and no more than these in memory
ENVELOPES_AT_ONCE: Final = 1000
#: bodies dropped in one transaction; appends go in between
PRUNED_AT_ONCE: Final = 500

_PAGES: Final = (
    f"SELECT page.stamp, after, {ENVELOPE_COLUMNS}, zstd FROM page LEFT JOIN body ON body.stamp = page.stamp"
)
_PRUNED: Final = (
    "SELECT stamp FROM page WHERE stamp > ? "
    "AND NOT EXISTS (SELECT 1 FROM body WHERE body.stamp = page.stamp) ORDER BY stamp"
)
_HEAD: Final = "SELECT stamp FROM head WHERE source = ? AND stream = ? AND partition = ?"
#: a snapshot of more than the log holds is not of this log
_FOLD: Final = (
    "SELECT stamp, state FROM fold WHERE name = ? AND stamp <= (SELECT coalesce(max(stamp), 0) FROM page)"
)
_WRONG_HEADS: Final = (
    "SELECT source, stream, partition, max(stamp) FROM page GROUP BY source, stream, partition "
    "EXCEPT SELECT source, stream, partition, stamp FROM head LIMIT 1"
)


class SqlitePageLog:
    """A `PageLog` in one file; `open` makes one."""

    def __init__(
        self,
        path: Path,
        identity: LogIdentity,
        reader: aiosqlite.Connection,
        writer: SqliteWriter | None,
        resources: AsyncExitStack,
    ) -> None:
        self.path = path
        self._identity = identity
        self._reader = reader
        self._writer = writer
        self._queue = None if writer is None else WriteQueue[Entry, int](writer.append)
        self._resources = resources
        self._closed = False
        if self._queue is not None:
            resources.push_async_callback(self._queue.close)

    @classmethod
    async def open(cls, path: Path | str, *, readonly: bool = False) -> SqlitePageLog:
        """Open the log at `path`, making it when it is absent; with `readonly`, beside whoever writes it.

        StagingConflict when another process writes it, UsageError when it is not a page log this
        version can read, Stop when it is damaged.
        """
        path = Path(path).resolve()
        async with AsyncExitStack() as resources:
            with explained(path):
                _prepare_file(path, resources, readonly=readonly)
                writing = None if readonly else await _connected(path, resources, readonly=False)
                reader = await _connected(path, resources, readonly=True)
                ((name, generation, top),) = await run(
                    reader, "SELECT id, generation, (SELECT coalesce(max(stamp), 0) FROM page) FROM log"
                )
            identity = LogIdentity(name, generation)
            writer = None if writing is None else SqliteWriter(writing, path, identity, top)
            return cls(path, identity, reader, writer, resources.pop_all())

    async def __aenter__(self) -> SqlitePageLog:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def identity(self) -> LogIdentity:
        """Which log this is, and its generation (as it was when a reader opened it)."""
        return self._identity if self._writer is None else self._writer.identity

    async def top(self) -> int:
        """The highest stamp, 0 when the log is empty."""
        if self._writer is not None:
            return self._writer.top
        ((top,),) = await self._rows("SELECT coalesce(max(stamp), 0) FROM page")
        return int(top)

    async def append(self, envelope: Envelope, body: bytes, *, after: int) -> int:
        """Store a page and return its stamp once it is durable; see `PageLog.append`."""
        return await self._add(await _entry(envelope, body, after=after))

    async def adopt(self, page: Page) -> None:
        """Append a page under the stamp it already has; see `PageLog.adopt`."""
        await self._add(await _entry(page.envelope, page.body, after=page.after, stamp=page.stamp))

    async def read(self, after: int = 0, *, limit: int = 1000) -> list[Page]:
        """The next pages above a stamp, in stamp order."""
        rows = await self._rows(f"{_PAGES} WHERE page.stamp > ? ORDER BY page.stamp LIMIT ?", (after, limit))
        return await asyncio.to_thread(lambda: [page_of(row) for row in rows])

    async def page(self, stamp: int) -> Page | None:
        """One page, or None when the log has no such stamp."""
        rows = await self._rows(f"{_PAGES} WHERE page.stamp = ?", (stamp,))
        return page_of(rows[0]) if rows else None

    async def envelopes(
        self, after: int = 0, *, source: str | None = None
    ) -> AsyncIterator[tuple[int, int, Envelope]]:
        """(stamp, after, envelope) of every page above a stamp, in stamp order, without the bodies."""
        condition, chosen = ("", ()) if source is None else ("AND source = ?", (source,))
        select = f"SELECT stamp, after, {ENVELOPE_COLUMNS} FROM page"
        sql = f"{select} WHERE stamp > ? {condition} ORDER BY stamp LIMIT ?"
        while rows := await self._rows(sql, (after, *chosen, ENVELOPES_AT_ONCE)):
            for stamp, previous, *columns in rows:
                yield stamp, previous, envelope_of(stamp, tuple(columns))
            after = rows[-1][0]

    async def head(self, source: str, stream: str, partition: str) -> int:
        """The last stamp of a partition, 0 when it has no page."""
        rows = await self._rows(_HEAD, (source, stream, partition))
        return int(rows[0][0]) if rows else 0

    async def save_fold(self, name: str, stamp: int, state: bytes) -> None:
        """Keep a snapshot of a fold, in place of the last of that name."""
        writer, queue = self._writing()
        await queue.alone(partial(writer.save_fold, name, stamp, state))

    async def load_fold(self, name: str) -> tuple[int, bytes] | None:
        """The snapshot last kept under a name, if there is still one."""
        rows = await self._rows(_FOLD, (name,))
        return (int(rows[0][0]), bytes(rows[0][1])) if rows else None

    async def new_generation(self, above: int) -> LogIdentity:
        """Begin a generation whose first stamp is greater than `above`, and than every stamp given so far."""
        writer, queue = self._writing()
        return await queue.alone(partial(writer.new_generation, above))

    async def prune(self, stamps: Iterable[int]) -> int:
        """Drop bodies, never envelopes; returns how many there were. Later pages use their room again."""
        writer, queue = self._writing()
        dropped, waiting = 0, iter(stamps)
        while some := list(islice(waiting, PRUNED_AT_ONCE)):
            dropped += await queue.alone(partial(writer.prune, some))
        return dropped

    async def pruned(self, after: int = 0) -> list[int]:
        """The stamps above a stamp whose bodies were dropped, in their order."""
        return [stamp for (stamp,) in await self._rows(_PRUNED, (after,))]

    async def rewrite(self, bodies: Mapping[int, bytes]) -> None:
        """Give pages, by stamp, other bodies, and their envelopes the digests of these: all or none."""
        writer, queue = self._writing()
        packed = await asyncio.to_thread(lambda: [(stamp, *repack(body)) for stamp, body in bodies.items()])
        await queue.alone(partial(writer.rewrite, packed))

    async def compact(self) -> None:
        """Write the file anew from what is in it, and leave nothing in the write-ahead log."""
        writer, queue = self._writing()
        await queue.alone(writer.compact)

    async def stored(self, stamp: int) -> bytes | None:
        """A body as it is stored; None when there is none."""
        rows = await self._rows("SELECT zstd FROM body WHERE stamp = ?", (stamp,))
        return bytes(rows[0][0]) if rows else None

    async def words(self) -> list[bytes]:
        """How its tables are made, and the snapshots of folds."""
        made = await self._rows("SELECT CAST(sql AS BLOB) FROM sqlite_master WHERE sql IS NOT NULL")
        return [bytes(word) for (word,) in [*made, *await self._rows("SELECT state FROM fold")]]

    @property
    def files(self) -> list[Path]:
        """The log, and its newest pages."""
        return [self.path, self.path.with_name(self.path.name + "-wal")]

    async def quick_check(self) -> None:
        """Stop when the file is damaged, or when the heads are not those of the pages."""
        faults = [fault for (fault,) in await self._rows("PRAGMA quick_check(1)") if fault != "ok"]
        faults += [f"wrong head of {spoken(row[:3])}" for row in await self._rows(_WRONG_HEADS)]
        if faults:
            raise Stop(f"the page log is damaged ({faults[0]})", where=str(self.path), hint=DAMAGED_HINT)

    async def close(self) -> None:
        """Finish what is being written, and let go of the file and its lock."""
        self._closed = True
        with explained(self.path):
            await self._resources.aclose()

    async def _add(self, entry: Entry) -> int:
        _, queue = self._writing()
        try:
            return await queue.add(entry)
        except (OverflowError, UnicodeError, sqlite3.DataError) as error:
            raise Stop(f"this page cannot be stored ({error})", where=spoken(entry.place)) from error

    async def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if self._closed:
            raise Stop("the page log is closed", where=str(self.path))
        with explained(self.path):
            return await run(self._reader, sql, values)

    def _writing(self) -> tuple[SqliteWriter, WriteQueue[Entry, int]]:
        if self._writer is None or self._queue is None:
            raise Stop("the page log was opened for reading only", where=str(self.path))
        return self._writer, self._queue


async def _connected(path: Path, resources: AsyncExitStack, *, readonly: bool) -> aiosqlite.Connection:
    connection = await connect(path, readonly=readonly)
    resources.push_async_callback(connection.close)
    return connection


def _prepare_file(path: Path, resources: AsyncExitStack, *, readonly: bool) -> None:
    """Take the lock, make the log where there is none, and look whether what is there is one."""
    try:
        if not readonly:
            make_folder(path.parent)
            resources.callback(WriterLock.take(path).release)
        if not path.exists():
            if readonly:
                raise UsageError("there is no page log", where=str(path), hint="`ingest sync` begins one")
            create(path)
        if not path.is_file():
            raise UsageError("is not a file", where=str(path), hint="name another as staging.path")
        inspect(path)
    except OSError as error:
        raise Stop(
            f"the page log cannot be opened ({error.strerror})",
            where=str(error.filename or path),
            hint=hint_of(error, "check the rights on the file and its folder"),
        ) from error


async def _entry(envelope: Envelope, body: bytes | None, *, after: int, stamp: int | None = None) -> Entry:
    if body is None:
        packed = None
    elif len(body) < THREADED_BYTES:
        packed = pack(envelope, body)
    else:
        packed = await asyncio.to_thread(pack, envelope, body)
    return Entry(
        place=place_of(envelope), after=after, columns=envelope_row(envelope), packed=packed, stamp=stamp
    )
