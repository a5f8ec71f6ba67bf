"""The page log's file: its tables, how it comes to be, and how it is known from other files.

A new log is built under another name and moved into place, so the file is a whole log or absent. An
empty file is therefore a damaged one, never a new one.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import Final

from ingest.errors import Stop, UsageError
from ingest.staging.faults import DAMAGED_HINT, primary_code

#: marks the file as ours in SQLite's header: "iglg"
APPLICATION_ID: Final = 0x69676C67
#: raised when an older ingest could no longer read the log; every format has `log.format`
FORMAT: Final = 1

TABLES: Final = f"""
CREATE TABLE log (id TEXT NOT NULL, format INTEGER NOT NULL, generation INTEGER NOT NULL);
CREATE TABLE page (
    stamp INTEGER PRIMARY KEY,
    run TEXT NOT NULL,
    source TEXT NOT NULL,
    stream TEXT NOT NULL,
    stream_hash TEXT NOT NULL,
    partition TEXT NOT NULL,
    walk TEXT NOT NULL,
    after INTEGER NOT NULL,
    asked INTEGER NOT NULL,
    request TEXT NOT NULL,
    status INTEGER NOT NULL,
    label INTEGER NOT NULL,
    next TEXT,
    covered TEXT,
    children TEXT NOT NULL,
    records INTEGER NOT NULL,
    digest TEXT NOT NULL
);
CREATE TABLE body (stamp INTEGER PRIMARY KEY, zstd BLOB NOT NULL);
PRAGMA application_id = {APPLICATION_ID};
"""

#: what can be computed from `page` again
DERIVED: Final = {
    "head": (
        "CREATE TABLE head (source TEXT, stream TEXT, partition TEXT, stamp INTEGER NOT NULL, "
        "PRIMARY KEY (source, stream, partition)) WITHOUT ROWID",
        "INSERT INTO head SELECT source, stream, partition, max(stamp) FROM page "
        "GROUP BY source, stream, partition",
    ),
    "fold": ("CREATE TABLE fold (name TEXT PRIMARY KEY, stamp INTEGER NOT NULL, state BLOB NOT NULL)",),
}

#: the same for a reader, who may not create tables: a view that is always true, and no snapshots
DERIVED_FOR_READING: Final = {
    "head": (
        "CREATE TEMP VIEW head AS SELECT source, stream, partition, max(stamp) AS stamp FROM page "
        "GROUP BY source, stream, partition",
    ),
    "fold": ("CREATE TEMP TABLE fold (name TEXT PRIMARY KEY, stamp INTEGER NOT NULL, state BLOB NOT NULL)",),
}


def create(path: Path) -> None:
    """Make an empty log at `path`, readable by its owner only. The caller holds the writer's lock."""
    _refuse_leftovers(path)
    draft = path.with_name(path.name + "-new")
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
        # an interrupted draft is thrown away: it needs no journal, and one left behind would harm the next
        connection.executescript(f"PRAGMA journal_mode = MEMORY; PRAGMA synchronous = FULL; BEGIN; {TABLES}")
        connection.execute("INSERT INTO log VALUES (?, ?, 0)", (uuid.uuid4().hex, FORMAT))
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    draft.replace(path)
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, so that they survive a power loss."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def inspect(path: Path) -> None:
    """Look at a file without changing it: UsageError when it is no page log, Stop when it is damaged."""
    if path.stat().st_size == 0:
        raise Stop("the page log is empty, which a page log never is", where=str(path), hint=DAMAGED_HINT)
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        try:
            ours = connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        except sqlite3.DatabaseError as error:
            if primary_code(error) != sqlite3.SQLITE_NOTADB:
                raise
            ours = False
        if not ours:
            raise UsageError(
                "is not a page log",
                where=str(path),
                hint="name another file as staging.path; if it was a page log, its beginning is damaged",
            )
        _check_format(connection, path)
        _check_length(connection, path)


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    row = connection.execute("SELECT format FROM log").fetchone() if "log" in tables else None
    if row is None:
        raise Stop("the page log has lost its identity", where=str(path), hint=DAMAGED_HINT)
    if row[0] > FORMAT:
        raise UsageError(
            f"the page log has format {row[0]}, and this version of ingest reads up to {FORMAT}",
            where=str(path),
            hint="upgrade ingest",
        )
    if not {"page", "body"} <= tables:
        raise Stop("the page log has lost its pages", where=str(path), hint=DAMAGED_HINT)


def _check_length(connection: sqlite3.Connection, path: Path) -> None:
    """SQLite notices missing blocks by itself, but reads a block that was cut as if it ended in zeros.

    While there is a write-ahead log a cut block only means that copying it back was interrupted.
    """
    wal = path.with_name(path.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        return
    (block,) = connection.execute("PRAGMA page_size").fetchone()
    if path.stat().st_size % block:
        raise Stop("the page log is cut short", where=str(path), hint=DAMAGED_HINT)


def _refuse_leftovers(path: Path) -> None:
    """Stop at a write-ahead log without its file: it holds pages of another log, and would ruin a new one."""
    wal = path.with_name(path.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        raise Stop(
            "the newest pages of a page log are here, but not the log itself",
            where=str(wal),
            hint=f"bring {path.name} back beside it, or move this file away to begin a new log",
        )
    wal.unlink(missing_ok=True)
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
