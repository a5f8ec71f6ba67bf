"""Connections to the page log's file, and transactions on the one that writes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiosqlite

from ingest.errors import Stop
from ingest.staging.format import DERIVED, DERIVED_FOR_READING

#: seconds to wait for another program that looks into the file (a shell, a backup)
BUSY_TIMEOUT: Final = 10.0
#: bytes the write-ahead log keeps on disk once copied back
WAL_KEPT: Final = 64 * 2**20


async def connect(path: Path, *, readonly: bool) -> aiosqlite.Connection:
    """A connection that writes durably, or one that only reads and leaves the checkpoints alone."""
    uri = f"{path.as_uri()}?mode={'ro' if readonly else 'rw'}"
    connection = await aiosqlite.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT)
    try:
        await (_prepare_reading(connection) if readonly else _prepare_writing(connection, path))
    except BaseException:
        await asyncio.shield(connection.close())
        raise
    return connection


async def run(
    connection: aiosqlite.Connection, sql: str, values: Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    """Run one statement and return its rows."""
    return [tuple(row) for row in await connection.execute_fetchall(sql, values)]


async def run_many(connection: aiosqlite.Connection, sql: str, rows: Iterable[Sequence[Any]]) -> int:
    """Run one statement for every row, and return how many rows it changed."""
    async with connection.executemany(sql, rows) as cursor:
        return cursor.rowcount


@asynccontextmanager
async def transaction(connection: aiosqlite.Connection) -> AsyncIterator[None]:
    """All or nothing."""
    await run(connection, "BEGIN IMMEDIATE")
    try:
        yield
        await run(connection, "COMMIT")
    except BaseException:
        # SQLite rolls back by itself after a full disk or a failed write, and then refuses to do it again
        if connection.in_transaction:
            with suppress(sqlite3.Error):  # the first error is the one to tell
                await run(connection, "ROLLBACK")
        raise


async def _prepare_writing(connection: aiosqlite.Connection, path: Path) -> None:
    mode = await run(connection, "PRAGMA journal_mode = WAL")
    if mode != [("wal",)]:
        raise Stop("the page log cannot be kept in WAL mode", where=str(path), hint="keep it on a local disk")
    await run(connection, "PRAGMA synchronous = FULL")
    await run(connection, "PRAGMA fullfsync = ON")  # macOS: fsync alone leaves the data in the drive's cache
    await run(connection, "PRAGMA checkpoint_fullfsync = ON")
    await run(connection, f"PRAGMA journal_size_limit = {WAL_KEPT}")
    async with transaction(connection):
        await _restore(connection, DERIVED)


async def _prepare_reading(connection: aiosqlite.Connection) -> None:
    await run(connection, "PRAGMA wal_autocheckpoint = 0")
    await _restore(connection, DERIVED_FOR_READING)


async def _restore(connection: aiosqlite.Connection, tables: Mapping[str, tuple[str, ...]]) -> None:
    present = {
        name for (name,) in await run(connection, "SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    for name, statements in tables.items():
        if name not in present:
            for statement in statements:
                await run(connection, statement)
