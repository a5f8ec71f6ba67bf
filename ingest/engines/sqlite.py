"""SQLite through aiosqlite: one writer with foreign keys off, readers in WAL."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, closing
from itertools import chain
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from ingest.engines.base import PutOff
from ingest.engines.conflict import OnConflict
from ingest.engines.connected import Connected, refuse_option
from ingest.errors import ConfigError, Stop, hint_of
from ingest.form import RAW

#: milliseconds a statement waits for another writer
_BUSY = 10_000
#: times that one who makes a file gives way to another; once is what it takes
_TRIES = 10
#: pages of the write-ahead log before it is copied back: fewer copies of what a load writes twice
_CHECKPOINT = 10_000
#: KiB of page cache of the writer
_CACHE = 65_536
#: and of its temporary tables, which hold one batch
_TEMPORARY_CACHE = 65_536
#: values one statement may take (SQLite's own limit since 3.32), and rows of one that takes fewer
_PARAMETERS, _ROWS = 32_766, 100
_SECONDARY_INDEXES = """
    SELECT made.name, made.sql FROM pragma_index_list(?) AS one JOIN sqlite_master AS made USING (name)
    WHERE one.origin = 'c' AND NOT one."unique" ORDER BY made.name
"""


class SqliteEngine(OnConflict, Connected):
    """A SQLite file."""

    _insert_into = staticmethod(insert)

    def __init__(self, url: sa.URL) -> None:
        if url.host or url.username:
            raise ConfigError(
                "a file has neither user nor host", where="database.url", hint='"sqlite:///mirror.db"'
            )
        self._url = url.set(drivername="sqlite+aiosqlite")
        self._file = Path(url.database or "")
        self.dialect: sa.Dialect = sqlite.dialect(paramstyle="qmark")
        self._writer = self._engine(
            {
                "foreign_keys": "OFF",
                "cache_size": f"-{_CACHE}",
                "temp.cache_size": f"-{_TEMPORARY_CACHE}",
                "synchronous": "NORMAL",
                "wal_autocheckpoint": f"{_CHECKPOINT}",
                # sorts for an index that is built
                "threads": "2",
            }
        )
        self._reader = self._engine({"query_only": "ON"})

    @property
    def place(self) -> str:
        return str(self._file)

    async def create(self) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            # O_EXCL-free: an existing database keeps its mode, a new one is its owner's alone
            os.close(os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise Stop(
                f"cannot be opened: {error.strerror}",
                where=self.place,
                hint=hint_of(error, "check database.url"),
            ) from error

    @asynccontextmanager
    async def _connection(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        opened = False
        try:
            async with engine.connect() as connection:
                opened = True
                yield connection
        except TypeError as error:
            refuse_option(error, opened=opened)
            raise
        except sa.exc.DatabaseError as error:
            if isinstance(error.orig, sqlite3.DatabaseError) and not isinstance(
                error.orig, sqlite3.IntegrityError
            ):
                raise Stop(str(error.orig), where=self.place, hint=_hint(str(error.orig))) from error
            raise

    def _engine(self, pragmas: dict[str, str]) -> AsyncEngine:
        engine = create_async_engine(self._url, poolclass=NullPool, hide_parameters=True)

        @sa.event.listens_for(engine.sync_engine, "connect")
        def configure(connection: Any, _record: Any) -> None:
            # we say BEGIN ourselves: the driver opens none before SELECT or DDL
            connection.isolation_level = None
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout={_BUSY}")
            if "query_only" in pragmas:
                cursor.execute("PRAGMA user_version")
            else:
                _write_ahead(cursor)
            for name, value in pragmas.items():
                cursor.execute(f"PRAGMA {name}={value}")
            cursor.close()

        @sa.event.listens_for(engine.sync_engine, "begin")
        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN" if "query_only" in pragmas else "BEGIN IMMEDIATE")

        return engine

    async def exists(self) -> bool:
        return self._file.exists()

    def prepare(self, connection: sa.Connection, tables: Collection[sa.Table]) -> list[str]:
        return []

    def hold(self, connection: sa.Connection) -> bool | None:
        return None

    def form(self, type_: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
        return RAW

    def key_json(self, columns: Sequence[sa.ColumnElement[Any]]) -> sa.ColumnElement[str]:
        return sa.func.json_array(
            *(sa.type_coerce(column, sa.types.NullType()) for column in columns), type_=sa.Text
        )

    def key_part(
        self, key: sa.ColumnElement[str], index: int, type_: sa.types.TypeEngine[Any]
    ) -> sa.ColumnElement[Any]:
        return sa.func.json_extract(key, sa.literal_column(f"'$[{index:d}]'"), type_=RAW)

    def differs(self, left: sa.ColumnElement[Any], right: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        return left.is_distinct_from(right)

    def in_order(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return column

    def newest_first(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return column.desc().nulls_last()

    def insert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: Sequence[tuple[Any, ...]],
        *,
        new_only: bool = False,
    ) -> int:
        # many rows a statement: python's lock is let go for as long as one takes, so that fetching goes on
        # beside it; let go for every single row, it would be waited for as often
        written, rest = 0, list(rows)
        for many in (_PARAMETERS // len(columns), _ROWS):
            whole = len(rest) // many * many
            values = [tuple(chain.from_iterable(rest[at : at + many])) for at in range(0, whole, many)]
            if values:
                statement = self._insert(table, columns, many, new_only=new_only)
                written += connection.exec_driver_sql(statement, values).rowcount
            rest = rest[whole:]
        if rest:
            one = self._insert(table, columns, 1, new_only=new_only)
            written += connection.exec_driver_sql(one, rest).rowcount
        return written

    def _insert(self, table: sa.Table, columns: Sequence[str], rows: int, *, new_only: bool) -> str:
        # by hand: Core puts the columns into the table's order, and the tuples are in the caller's
        quote = self.dialect.identifier_preparer
        names = ", ".join(map(quote.quote, columns))
        row = f"({', '.join('?' * len(columns))})"
        # not OR IGNORE, which passes over NOT NULL and CHECK too
        rest = " ON CONFLICT DO NOTHING" if new_only else ""
        return f"INSERT INTO {quote.format_table(table)} ({names}) VALUES {', '.join([row] * rows)}{rest}"

    def temporary(self, name: str, columns: Sequence[sa.Column[Any]]) -> sa.Table:
        plain = [sa.Column(column.name, _affinity(column.type)) for column in columns]
        return sa.Table(name, sa.MetaData(), *plain, prefixes=["TEMPORARY"])

    def clear(self, connection: sa.Connection, table: sa.Table) -> None:
        connection.execute(sa.delete(table))

    def put_off(
        self,
        connection: sa.Connection,
        tables: Collection[sa.Table],
        empty: Collection[sa.Table],
        *,
        emptied: bool = False,
    ) -> list[PutOff]:
        quote = self.dialect.identifier_preparer.quote
        return [
            PutOff(f"DROP INDEX {quote(name)}", (build,))
            for table in empty
            for name, build in connection.exec_driver_sql(_SECONDARY_INDEXES, (table.name,))
        ]

    def go_on_counting(self, connection: sa.Connection, table: sa.Table) -> None:
        pass  # they do by themselves

    def violation(self, error: sa.exc.DBAPIError) -> str | None:
        original = error.orig
        if isinstance(original, sqlite3.IntegrityError | OverflowError | sqlite3.DataError):
            return str(original)
        return None

    def passing(self, error: sa.exc.DBAPIError) -> bool:
        return False

    def holders(self, connection: sa.Connection, tables: Collection[sa.Table]) -> list[str]:
        return []

    async def compact(self, tables: Collection[sa.Table]) -> None:
        busy = await asyncio.to_thread(self._compact)
        if busy:
            raise Stop(
                "another program reads it, and keeps what was deleted from it",
                where=self.place,
                hint="end it, then run the same command again",
            )

    def _compact(self) -> bool:
        """Write the file anew, and empty the write-ahead log; True where somebody is in the way."""
        try:
            with closing(sqlite3.connect(self._file, isolation_level=None)) as connection:
                connection.execute(f"PRAGMA busy_timeout={_BUSY}")
                connection.execute("VACUUM")
                return bool(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        except sqlite3.OperationalError as error:
            raise Stop(str(error), where=self.place, hint=_hint(str(error))) from error

    def words(self, connection: sa.Connection) -> list[str]:
        made = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        return [word for (word,) in made]

    @property
    def files(self) -> list[Path]:
        return [self._file, self._file.with_name(self._file.name + "-wal")]


def _write_ahead(cursor: Any) -> None:
    """Have readers see the old while the new is written, whoever else makes the same file at this moment."""
    for _ in range(_TRIES):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
        # for this no one is let wait, busy_timeout or not; for the right to write one is
        cursor.execute("BEGIN IMMEDIATE")
        cursor.execute("COMMIT")
    cursor.execute("PRAGMA journal_mode=WAL")


def _affinity(type_: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
    """The same column affinity without what hangs on a type (an enum's CHECK)."""
    if isinstance(type_, sa.Enum):
        return sa.String(type_.length)
    if isinstance(type_, sa.Boolean):
        return sa.Boolean(create_constraint=False)
    return type_


def _hint(message: str) -> str:
    if "full" in message:
        return "make room on the disk, then run `ingest sync` again: it goes on from here"
    if "disk I/O" in message:
        return "check the disk, then run `ingest sync` again: it goes on from here"
    if "not a database" in message or "malformed" in message:
        return "restore it from a backup, or move it away and run `ingest replay --rebuild`"
    if "locked" in message:
        return "another program is writing to it"
    return "the run goes on from here when it is put right"
