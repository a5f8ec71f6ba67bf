"""The integrity window: what a load bigger than one transaction leaves open, written down before it begins.

    open ──▶ keys and indexes put off ──▶ loads ──▶ indexes built again ──▶ references settled and proven
             (their definitions are in the ledger first)                    ──▶ foreign keys back ──▶ close

A crash leaves the window open. Every command says so, and the next run builds what was put off and closes it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog
from ingest.engines.base import Engine, Proves
from ingest.errors import UsageError
from ingest.ledger import LOCK

_THE_LOCK = LOCK.c.id == 1


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Why the foreign keys are not proven, and what was dropped meanwhile."""

    why: str
    #: the moment of a mirror that is being copied here; None: a run's window, which the next run closes
    copying: str | None = None
    #: statements that build the dropped keys and indexes again
    dropped: tuple[str, ...] = ()
    #: statements that put the foreign keys back, and what the database has looked through when they are
    foreign: tuple[str, ...] = ()
    proves: tuple[Proves, ...] = ()


def open_window(connection: sa.Connection, why: str, *, copying: str | None = None) -> None:
    """Record that the foreign keys are not proven from here on."""
    held = window(connection) or Window(why=why)
    _record(connection, msgspec.structs.replace(held, why=why, copying=copying))


def close_window(connection: sa.Connection) -> None:
    """Put the foreign keys back, which are proven now, and record it."""
    enforce(connection)
    connection.execute(sa.update(LOCK).where(_THE_LOCK).values(window=None))


def window(connection: sa.Connection) -> Window | None:
    """The open integrity window; None when there is none."""
    return read_window(connection.scalar(sa.select(LOCK.c.window).where(_THE_LOCK)))


def refuse_half_copy(connection: sa.Connection, *, place: str) -> None:
    """UsageError within the window of a copy: nothing but the copy goes on there."""
    held = window(connection)
    if held is not None and held.copying is not None:
        raise UsageError(
            f"its integrity window is open: {held.why}",
            where=place,
            hint="finish the copy: the same `ingest copy` goes on where it was",
        )


def read_window(text: str | None) -> Window | None:
    """A window as the ledger has it."""
    return None if text is None else msgspec.json.decode(text, type=Window)


def put_off(connection: sa.Connection, catalog: Catalog, engine: Engine, *, emptied: bool = False) -> None:
    """Drop what a bulk load does better without: built afterwards it costs a fraction.

    The window is open. `emptied`: every table is about to be empty. Tables whose rows come in lists keep
    their indexes, for a list's old members are looked up while it is loaded.
    """
    held = window(connection)
    if held is None:
        return
    tables = [table.sql for _, table in sorted(catalog.tables.items())]
    empty = list(_fillable(connection, catalog, emptied=emptied))
    without = engine.put_off(connection, tables, empty, emptied=emptied)
    early = tuple(line for one in without if not one.late for line in one.build)
    late = tuple(line for one in without if one.late for line in one.build)
    _record(
        connection,
        msgspec.structs.replace(
            held,
            dropped=(*held.dropped, *early),
            foreign=(*held.foreign, *late),
            proves=(*held.proves, *(one.proves for one in without if one.proves is not None)),
        ),
    )
    # what refers goes before what is referred to
    for one in sorted(without, key=lambda one: not one.late):
        _carry_out(connection, one.drop)


def build(connection: sa.Connection) -> None:
    """Build the keys and indexes that were put off, exactly as they were."""
    held = window(connection)
    if held is None or not held.dropped:
        return
    for definition in held.dropped:
        _carry_out(connection, definition)
    _record(connection, msgspec.structs.replace(held, dropped=()))


def enforce(connection: sa.Connection) -> tuple[Proves, ...]:
    """Put the foreign keys back that were dropped, exactly as they were; which references that proves.

    The database looks through every row for each, here and now: what its catalog says is not asked.
    """
    held = window(connection)
    if held is None or not held.foreign:
        return ()
    for definition in held.foreign:
        _carry_out(connection, definition)
    _record(connection, msgspec.structs.replace(held, foreign=(), proves=()))
    return held.proves


def try_to_enforce(connection: sa.Connection) -> tuple[Proves, ...]:
    """The same where every reference holds; else nothing is put back, and nothing proven."""
    try:
        with connection.begin_nested():
            return enforce(connection)
    except sa.exc.IntegrityError:
        return ()


def _carry_out(connection: sa.Connection, definition: str) -> None:
    """A statement as the engine wrote it: neither `%` nor `:name` in it stands for a parameter."""
    connection.execute(sa.text(definition.replace(":", r"\:")))


def _record(connection: sa.Connection, held: Window) -> None:
    text = msgspec.json.encode(held).decode()
    connection.execute(sa.update(LOCK).where(_THE_LOCK).values(window=text))


def _fillable(connection: sa.Connection, catalog: Catalog, *, emptied: bool) -> Iterable[sa.Table]:
    """The empty tables that are filled before they are asked anything."""
    listed = {
        nested.secondary or catalog.entities[nested.entity].name
        for table in catalog.tables.values()
        for nested in table.nested
        if nested.kind != "one"
    }
    for name, table in sorted(catalog.tables.items()):
        row = None if emptied else connection.scalar(sa.select(sa.literal(1)).select_from(table.sql).limit(1))
        if name not in listed and row is None:
            yield table.sql
