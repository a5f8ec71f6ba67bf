"""The one connection that writes the page log, and what is written on it. Only the write queue calls this."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiosqlite

from ingest.errors import StagingConflict, Stop
from ingest.staging.connection import run, run_many, transaction
from ingest.staging.entries import Entry, Place, assign
from ingest.staging.faults import explained
from ingest.staging.rows import ENVELOPE_COLUMNS
from ingest.types import GENERATION, LogIdentity

_INSERT_PAGE: Final = (
    f"INSERT INTO page (stamp, after, {ENVELOPE_COLUMNS}) "
    f"VALUES (?, ?, {', '.join('?' * len(ENVELOPE_COLUMNS.split(',')))})"
)
_INSERT_BODY: Final = "INSERT INTO body (stamp, zstd) VALUES (?, ?)"
_SET_HEAD: Final = (
    "INSERT INTO head (source, stream, partition, stamp) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (source, stream, partition) DO UPDATE SET stamp = excluded.stamp"
)
_SET_FOLD: Final = (
    "INSERT INTO fold (name, stamp, state) VALUES (?, ?, ?) "
    "ON CONFLICT (name) DO UPDATE SET stamp = excluded.stamp, state = excluded.state"
)


class SqliteWriter:
    """Writes groups of pages, generations, snapshots and prunings, each in one transaction."""

    def __init__(self, connection: aiosqlite.Connection, path: Path, identity: LogIdentity, top: int) -> None:
        self._connection = connection
        self._path = path
        self.identity = identity
        #: the highest stamp in the log; nobody else writes, so it need not be asked for
        self.top = top

    async def append(self, entries: Sequence[Entry]) -> list[int | StagingConflict]:
        """Store what is not refused, and say of each entry what became of it."""
        async with self._transaction():
            heads = await self._heads({entry.place for entry in entries})
            outcomes = assign(entries, heads, self._last_used)
            stored = [(at, entry) for at, entry in zip(outcomes, entries, strict=True) if isinstance(at, int)]
            top = stored[-1][0] if stored else self.top
            if stored:
                await self._insert(stored)
            identity = await self._generation(max(self.identity.generation, top // GENERATION))
        self.top, self.identity = top, identity
        return list(outcomes)

    async def new_generation(self, above: int) -> LogIdentity:
        """Begin the generation after this one and after that of `above`."""
        generation = max(self._last_used, above) // GENERATION + 1
        async with self._transaction():
            identity = await self._generation(generation)
        self.identity = identity
        return identity

    async def save_fold(self, name: str, stamp: int, state: bytes) -> None:
        """Replace the snapshot of that name."""
        async with self._transaction():
            await run(self._connection, _SET_FOLD, (name, stamp, state))

    async def prune(self, stamps: Sequence[int]) -> int:
        """Drop these bodies; returns how many there were."""
        async with self._transaction():
            return await run_many(
                self._connection, "DELETE FROM body WHERE stamp = ?", [(at,) for at in stamps]
            )

    async def rewrite(self, packed: Sequence[tuple[int, str, bytes]]) -> None:
        """Put these (stamp, digest, compressed body) in the place of bodies that are there."""
        async with self._transaction():
            await run_many(
                self._connection,
                "UPDATE page SET digest = ? WHERE stamp = ? AND stamp IN (SELECT stamp FROM body)",
                [(digest, stamp) for stamp, digest, _ in packed],
            )
            bodies = [(body, stamp) for stamp, _, body in packed]
            await run_many(self._connection, "UPDATE body SET zstd = ? WHERE stamp = ?", bodies)

    async def compact(self) -> None:
        """Write the file anew; Stop where a reader keeps the write-ahead log."""
        with explained(self._path):
            await run(self._connection, "VACUUM")
            ((busy, *_),) = await run(self._connection, "PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            raise Stop(
                "another program reads the page log, and keeps what was dropped from it",
                where=str(self._path),
                hint="end it, then run the same command again",
            )

    @property
    def _last_used(self) -> int:
        return max(self.top, self.identity.generation * GENERATION)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        with explained(self._path):
            async with transaction(self._connection):
                yield

    async def _heads(self, places: set[Place]) -> dict[Place, int]:
        wanted = ", ".join(["(?, ?, ?)"] * len(places))
        rows = await run(
            self._connection,
            "SELECT head.source, head.stream, head.partition, head.stamp "
            f"FROM (VALUES {wanted}) AS wanted CROSS JOIN head "
            "WHERE (head.source, head.stream, head.partition) = (column1, column2, column3)",
            [part for place in places for part in place],
        )
        return {(source, stream, partition): stamp for source, stream, partition, stamp in rows}

    async def _insert(self, stored: list[tuple[int, Entry]]) -> None:
        pages = [(at, entry.after, *entry.columns) for at, entry in stored]
        await run_many(self._connection, _INSERT_PAGE, pages)
        bodies = [(at, entry.packed) for at, entry in stored if entry.packed is not None]
        await run_many(self._connection, _INSERT_BODY, bodies)
        await run_many(self._connection, _SET_HEAD, [(*entry.place, at) for at, entry in stored])

    async def _generation(self, generation: int) -> LogIdentity:
        if generation != self.identity.generation:
            await run(self._connection, "UPDATE log SET generation = ?", (generation,))
        return self.identity._replace(generation=generation)
