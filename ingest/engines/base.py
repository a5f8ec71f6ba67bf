"""The protocol every database answers to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection


class SecondaryIndex(NamedTuple):
    """Statements that drop an index, and build it again just as it was."""

    drop: str
    build: str


class Engine(Protocol):
    """One kind of database. Statements are built with SQLAlchemy Core; these are the pieces that differ."""

    dialect: sa.Dialect

    @property
    def time_text(self) -> Callable[[str], str | None] | None:
        """Makes a UTC time's stored form of its ISO text, once that is known to be a time.

        Where a database stores times as text, that is quicker than to take them to pieces first. It says None
        to a text that is not in the common form.
        """
        ...

    @property
    def place(self) -> str:
        """Where the database is, without credentials, for people."""
        ...

    async def create(self) -> None:
        """Make the database when there is none, private to its owner."""
        ...

    def writer(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection that loads with foreign keys off, outside any pool."""
        ...

    def reader(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection that sees committed data and writes nothing."""
        ...

    def bind(self, type_: sa.types.TypeEngine[Any]) -> Callable[[Any], Any] | None:
        """What the ORM does to a python value (never None) before the driver gets it; None when nothing."""
        ...

    def key_json(self, columns: Sequence[sa.ColumnElement[Any]]) -> sa.ColumnElement[str]:
        """The canonical JSON array of a key's columns."""
        ...

    def key_part(self, key: sa.ColumnElement[str], index: int) -> sa.ColumnElement[Any]:
        """One column's stored value out of a canonical key."""
        ...

    def insert_new(self, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]) -> sa.Executable:
        """Insert the rows whose key is not there yet."""
        ...

    def upsert(
        self,
        table: sa.Table,
        columns: Sequence[str],
        rows: sa.Select[Any],
        *,
        key: Sequence[str],
        born: Collection[str] = (),
    ) -> sa.Executable:
        """Insert the rows, or replace `columns` where the key is there, but for those in `born`."""
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
        """Insert tuples of stored values, in the quickest way there is; how many.

        `new_only` passes over keys that are there, and over nothing else.
        """
        ...

    def temporary(self, name: str, columns: Sequence[sa.Column[Any]]) -> sa.Table:
        """A temporary table of plain columns, without constraints."""
        ...

    def secondary_indexes(self, connection: sa.Connection, table: sa.Table) -> list[SecondaryIndex]:
        """The table's indexes that enforce nothing."""
        ...

    def violation(self, error: sa.exc.DBAPIError) -> str | None:
        """What a row violated, in words; None when the error is not the row's."""
        ...

    async def close(self) -> None:
        """Let go of every connection."""
        ...
