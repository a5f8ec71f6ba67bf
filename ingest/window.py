"""The integrity window: what a load bigger than one transaction leaves open, written down before it begins.

    open ──▶ secondary indexes of empty tables put off ──▶ loads ──▶ indexes built again ──▶ close
              (their definitions are in the ledger first)               with the proof, in its transaction

A crash leaves the window open. Every command says so, and the next run builds the indexes and closes it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog
from ingest.engines.base import Engine
from ingest.ledger import LOCK

_THE_LOCK = LOCK.c.id == 1


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Why the foreign keys are not proven, and what was dropped meanwhile."""

    why: str
    #: statements that build the dropped indexes again
    dropped: tuple[str, ...] = ()


def open_window(connection: sa.Connection, why: str) -> None:
    """Record that the foreign keys are not proven from here on."""
    held = window(connection)
    _record(connection, Window(why=why, dropped=held.dropped if held else ()))


def close_window(connection: sa.Connection) -> None:
    """Record that they are again."""
    connection.execute(sa.update(LOCK).where(_THE_LOCK).values(window=None))


def window(connection: sa.Connection) -> Window | None:
    """The open integrity window; None when there is none."""
    return read_window(connection.scalar(sa.select(LOCK.c.window).where(_THE_LOCK)))


def read_window(text: str | None) -> Window | None:
    """A window as the ledger has it."""
    return None if text is None else msgspec.json.decode(text, type=Window)


def put_off_indexes(connection: sa.Connection, catalog: Catalog, engine: Engine) -> None:
    """Drop the indexes of empty tables that enforce nothing: built afterwards they cost a fraction.

    The window is open. Tables whose rows come in lists keep theirs, for a list's old members are looked up
    while it is loaded.
    """
    held = window(connection)
    if held is None:
        return
    put_off = [
        index
        for table in _empty_tables(connection, catalog)
        for index in engine.secondary_indexes(connection, table)
    ]
    _record(connection, Window(why=held.why, dropped=(*held.dropped, *(index.build for index in put_off))))
    for index in put_off:
        connection.exec_driver_sql(index.drop)


def build_indexes(connection: sa.Connection) -> None:
    """Build what was put off, exactly as it was."""
    held = window(connection)
    if held is None or not held.dropped:
        return
    for definition in held.dropped:
        connection.exec_driver_sql(definition)
    _record(connection, Window(why=held.why))


def _record(connection: sa.Connection, held: Window) -> None:
    text = msgspec.json.encode(held).decode()
    connection.execute(sa.update(LOCK).where(_THE_LOCK).values(window=text))


def _empty_tables(connection: sa.Connection, catalog: Catalog) -> Iterable[sa.Table]:
    listed = {
        nested.secondary or catalog.entities[nested.entity].name
        for table in catalog.tables.values()
        for nested in table.nested
        if nested.kind != "one"
    }
    for name, table in sorted(catalog.tables.items()):
        row = connection.scalar(sa.select(sa.literal(1)).select_from(table.sql).limit(1))
        if name not in listed and row is None:
            yield table.sql
