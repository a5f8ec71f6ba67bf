"""The protocol every database answers to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.base import ReadOnlyColumnCollection


class Proves(NamedTuple):
    """What a database has looked through every row for as it took a foreign key: that none dangles."""

    table: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]


class PutOff(NamedTuple):
    """What a bulk load does without: statements that drop it, and build it again just as it was."""

    drop: str
    build: tuple[str, ...]
    #: a foreign key: it comes back when the references are settled, and not before
    late: bool = False
    #: the reference that every row has been looked at for when it is back
    proves: Proves | None = None


#: columns of what is told, by name
Columns: TypeAlias = Mapping[str, sa.ColumnElement[Any]] | ReadOnlyColumnCollection[str, Any]
#: whether a row is replaced by what is told
Newer: TypeAlias = Callable[[Columns], sa.ColumnElement[bool]]


def fitting(name: str, limit: int) -> str:
    """A name of no more than so many bytes: a longer one ends in a hash of all of it."""
    if len(name.encode()) <= limit:
        return name
    head = name.encode()[: limit - 17].decode(errors="ignore")
    return f"{head}_{sha256(name.encode()).hexdigest()[:16]}"


class Engine(Protocol):
    """One kind of database. Statements are built with SQLAlchemy Core; these are the pieces that differ."""

    dialect: sa.Dialect

    @property
    def place(self) -> str:
        """Where the database is, without credentials, for people."""
        ...

    async def create(self) -> None:
        """Make the database when there is none, private to its owner; see that it can hold a mirror."""
        ...

    async def exists(self) -> bool:
        """True when there is a database to ask."""
        ...

    def writer(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection that loads with foreign keys off, outside any pool."""
        ...

    def reader(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection that sees committed data, each transaction one moment of it, and writes nothing."""
        ...

    def prepare(self, connection: sa.Connection, tables: Collection[sa.Table]) -> list[str]:
        """Make tables that are there fit to be written in any order; what was done, one line a step."""
        ...

    def hold(self, connection: sa.Connection) -> bool | None:
        """Take the session's own hold on the database, which goes when the session goes.

        False when another session has it; None where the database has no such thing.
        """
        ...

    def form(self, type_: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
        """The type under which a column's values go in and come out in stored form (`ingest.form`)."""
        ...

    def key_json(self, columns: Sequence[sa.ColumnElement[Any]]) -> sa.ColumnElement[str]:
        """The canonical JSON array of a key's columns."""
        ...

    def key_part(
        self, key: sa.ColumnElement[str], index: int, type_: sa.types.TypeEngine[Any]
    ) -> sa.ColumnElement[Any]:
        """One column's value, of its own type, out of a canonical key."""
        ...

    def differs(self, left: sa.ColumnElement[Any], right: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        """True where two columns of one type say different things, NULL being one."""
        ...

    def in_order(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Sorts as the stored form does, text by its bytes."""
        ...

    def newest_first(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Sorts the other way, NULL last."""
        ...

    def insert_new(
        self, connection: sa.Connection, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]
    ) -> None:
        """Insert the rows whose key is not there yet."""
        ...

    def upsert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: sa.Select[Any],
        *,
        key: Sequence[str],
        born: Collection[str] = (),
    ) -> None:
        """Insert the rows, or replace `columns` where the key is there, but for those in `born`."""
        ...

    def upsert_newer(
        self,
        connection: sa.Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: sa.Select[Any],
        *,
        key: Sequence[str],
        born: Collection[str] = (),
        newer: Newer,
    ) -> int:
        """Insert the rows, or replace what is there where they are newer; how many were written."""
        ...

    def insert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: Sequence[tuple[Any, ...]],
        *,
        new_only: bool = False,
    ) -> int:
        """Insert tuples in stored form, in the quickest way there is; how many.

        `new_only` passes over keys that are there, and over nothing else.
        """
        ...

    def temporary(self, name: str, columns: Sequence[sa.Column[Any]]) -> sa.Table:
        """A temporary table of plain columns, without constraints."""
        ...

    def clear(self, connection: sa.Connection, table: sa.Table) -> None:
        """Empty a temporary table."""
        ...

    def put_off(
        self,
        connection: sa.Connection,
        tables: Collection[sa.Table],
        empty: Collection[sa.Table],
        *,
        emptied: bool = False,
    ) -> list[PutOff]:
        """What a bulk load into `tables`, some of them `empty`, does without; nothing is dropped yet.

        `emptied`: all are about to be, and no other table may lose rows by that.
        """
        ...

    def go_on_counting(self, connection: sa.Connection, table: sa.Table) -> None:
        """Let the numbers that the database gives to new rows go on above those that are there."""
        ...

    def violation(self, error: sa.exc.DBAPIError) -> str | None:
        """What a row violated, in words; None when the error is not the row's."""
        ...

    def passing(self, error: sa.exc.DBAPIError) -> bool:
        """True when the same transaction may succeed if it is tried again: a deadlock, say."""
        ...

    def holders(self, connection: sa.Connection, tables: Collection[sa.Table]) -> list[str]:
        """Who else has locks on these tables just now, in words; nobody where that is not to be known."""
        ...

    async def compact(self, tables: Collection[sa.Table]) -> None:
        """Let nothing that was deleted from these tables be read from where the database stores them.

        Nobody is in a transaction; Stop where others are in the way: done again, it is done then.
        """
        ...

    def words(self, connection: sa.Connection) -> list[str]:
        """How all that is in the files was made; nothing where a server keeps them."""
        ...

    @property
    def files(self) -> list[Path]:
        """The files that the database is; none where a server keeps it."""
        ...

    async def close(self) -> None:
        """Let go of every connection."""
        ...
