"""The floors: what a driver does with the same rows, and nothing beside."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

#: rows that go over at once
_BATCH = 20_000
_COLUMNS = (
    "id, conversation_id, sender_id, reply_to_id, content, created_at, updated_at, deleted, attachments"
)
_NAMES = _COLUMNS.split(", ")
_INDEXES = (
    "CREATE INDEX ix_conversation ON messages (conversation_id, created_at)",
    "CREATE INDEX ix_sender ON messages (sender_id)",
    "CREATE INDEX ix_reply ON messages (reply_to_id)",
)
_TABLE = """
    CREATE {kind} TABLE {name} (
        id BIGINT, conversation_id BIGINT NOT NULL, sender_id BIGINT NOT NULL, reply_to_id BIGINT,
        content {text}, created_at {time} NOT NULL, updated_at {time} NOT NULL, deleted BOOLEAN NOT NULL,
        attachments {json}{key}
    ){rest}
"""
_KEY = ", PRIMARY KEY (id)"
#: seconds of a load into an empty table, and of an upsert of all of it
Seconds = tuple[float, float]
Rows = Sequence[tuple[Any, ...]]


def messages(mirror: sqlite3.Connection) -> Rows:
    """The messages of a SQLite mirror in stored form, sorted by key."""
    return mirror.execute(f"SELECT {_COLUMNS} FROM messages ORDER BY id").fetchall()


def _batches(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), _BATCH):
        yield rows[start : start + _BATCH]


def _set(spelled: Callable[[str], str]) -> str:
    return ", ".join(f"{name} = {spelled(name)}" for name in _NAMES[1:])


def sqlite(url: str, rows: Rows) -> Seconds:
    """executemany + indexes; executemany of an upsert."""
    table = _TABLE.format(
        kind="", name="messages", text="TEXT", time="DATETIME", json="JSON", key=_KEY, rest=""
    )
    insert = f"INSERT INTO messages ({_COLUMNS}) VALUES ({', '.join('?' * len(_NAMES))})"
    upsert = f"{insert} ON CONFLICT (id) DO UPDATE SET {_set(lambda name: f'excluded.{name}')}"
    with closing(sqlite3.connect(sa.make_url(url).database or "", isolation_level=None)) as bare:
        bare.execute("PRAGMA journal_mode=WAL")
        bare.execute("PRAGMA synchronous=NORMAL")
        bare.execute(table)
        began = time.perf_counter()
        bare.execute("BEGIN")
        bare.executemany(insert, rows)
        for index in _INDEXES:
            bare.execute(index)
        bare.execute("COMMIT")
        between = time.perf_counter()
        for batch in _batches(rows):
            bare.execute("BEGIN")
            bare.executemany(upsert, batch)
            bare.execute("COMMIT")
        return between - began, time.perf_counter() - between


def postgresql(url: str, rows: Rows) -> Seconds:
    """Binary COPY + key + indexes; temporary COPY + INSERT … ON CONFLICT."""
    return asyncio.run(_postgresql(url, [_python(row) for row in rows]))


def _python(row: tuple[Any, ...]) -> tuple[Any, ...]:
    times = [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in row[5:7]]
    return (*row[:5], *times, bool(row[7]), row[8])


async def _postgresql(url: str, rows: Rows) -> Seconds:
    import asyncpg

    kinds = {"text": "TEXT", "time": "TIMESTAMPTZ", "json": "JSON", "key": "", "rest": ""}
    upsert = f"""
        INSERT INTO messages ({_COLUMNS}) SELECT {_COLUMNS} FROM staged ORDER BY id
        ON CONFLICT (id) DO UPDATE SET {_set(lambda name: f"excluded.{name}")}
    """
    bare = await asyncpg.connect(url)
    try:
        await bare.execute(_TABLE.format(kind="", name="messages", **kinds))
        began = time.perf_counter()
        for batch in _batches(rows):
            await bare.copy_records_to_table("messages", records=batch, columns=_NAMES)
        await bare.execute("ALTER TABLE messages ADD PRIMARY KEY (id)")
        for index in _INDEXES:
            await bare.execute(index)
        between = time.perf_counter()
        await bare.execute(_TABLE.format(kind="TEMPORARY", name="staged", **kinds))
        for batch in _batches(rows):
            async with bare.transaction():
                await bare.execute("TRUNCATE staged")
                await bare.copy_records_to_table("staged", records=batch, columns=_NAMES)
                await bare.execute(upsert)
        return between - began, time.perf_counter() - between
    finally:
        await bare.close()


def mariadb(url: str, rows: Rows) -> Seconds:
    """executemany; executemany of an upsert."""
    return asyncio.run(_mariadb(url, rows))


async def _mariadb(url: str, rows: Rows) -> Seconds:
    import asyncmy

    kinds = {"text": "LONGTEXT", "time": "DATETIME(6)", "json": "LONGTEXT", "key": _KEY}
    table = _TABLE.format(kind="", name="messages", rest=" ENGINE=InnoDB CHARACTER SET utf8mb4", **kinds)
    insert = f"INSERT INTO messages ({_COLUMNS}) VALUES ({', '.join(['%s'] * len(_NAMES))})"
    upsert = f"{insert} ON DUPLICATE KEY UPDATE {_set(lambda name: f'VALUES({name})')}"
    to = sa.make_url(url)
    bare = await asyncmy.connect(
        host=to.host,
        port=to.port,
        user=to.username,
        password=to.password or "",
        db=to.database,
        charset="utf8mb4",
    )
    try:
        async with bare.cursor() as cursor:
            for statement in (table, *_INDEXES):
                await cursor.execute(statement)
            seconds = []
            for statement in (insert, upsert):
                began = time.perf_counter()
                for batch in _batches(rows):
                    await cursor.executemany(statement, batch)
                    await bare.commit()
                seconds.append(time.perf_counter() - began)
            return seconds[0], seconds[1]
    finally:
        bare.close()


FLOORS: dict[str, Callable[[str, Rows], Seconds]] = {
    "sqlite": sqlite,
    "postgresql": postgresql,
    "mariadb": mariadb,
}
