"""What the ledger and the tables can be asked, each in one transaction of its own."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog, Reference
from ingest.ledger import DEAD_LETTERS, KEYS, LOCK, MISSING, PAGES, REOPENED, RUNS, TRIES, WITHHELD
from ingest.reconcile.deletes import held as held_deletes
from ingest.report import Certificate, DeadLetter, HeldDeletes, MissingParent, Status
from ingest.window import read_window
from ingest.withheld import FOR

#: referring rows that an explanation names
_EXPLAINED = 10


def status(
    connection: sa.Connection, catalog: Catalog, *, database: str, log: str, log_id: str, top: int
) -> Status:
    """What is known and open; of what is pending, the page log knows."""
    held = connection.execute(sa.select(LOCK)).first()
    window = read_window(held.window) if held else None
    last = certificates(connection)[-1:]
    return Status(
        database=database,
        log=log,
        log_id=log_id,
        top_stamp=top,
        loaded_pages=count(connection, PAGES, PAGES.c.log == log_id, PAGES.c.state != REOPENED),
        holder=held.holder if held else None,
        since=held.since if held else None,
        window=window.why if window else None,
        last=last,
        held=tuple(_held_back(connection, catalog, last)),
        rows=count_rows(connection, catalog),
        dead_letters=count(connection, DEAD_LETTERS, DEAD_LETTERS.c.state == "open"),
        unmapped=unmapped(connection),
    )


def _held_back(connection: sa.Connection, catalog: Catalog, last: list[Certificate]) -> Iterator[HeldDeletes]:
    """The deletes that are held back; what would go with them, the last certificate has counted."""
    cascades = {one.table: one.cascades for proof in last for one in proof.held}
    for one in held_deletes(connection, catalog):
        yield msgspec.structs.replace(one, cascades=cascades.get(one.table, {}))


def certificates(connection: sa.Connection) -> list[Certificate]:
    """Past certificates, oldest first."""
    rows = connection.scalars(sa.select(RUNS.c.certificate).order_by(RUNS.c.started, RUNS.c.id))
    return [msgspec.json.decode(row, type=Certificate) for row in rows if row is not None]


def dead_letters(connection: sa.Connection) -> list[DeadLetter]:
    """Pages and records that could not be stored, in the order they were found."""
    rows = connection.execute(sa.select(DEAD_LETTERS).order_by(DEAD_LETTERS.c.id)).mappings()
    return [
        DeadLetter(
            id=row["id"],
            stamp=row["stamp"],
            ordinal=row["ordinal"],
            table=row["table"],
            key=row["key"],
            reason=row["reason"],
            state=row["state"],
            raw=row["raw"].decode("utf-8", "backslashreplace"),
        )
        for row in rows
    ]


def missing(
    connection: sa.Connection, catalog: Catalog, *, explain: bool = False
) -> list[tuple[MissingParent, int]]:
    """References whose target is not in the mirror, each with the page that decided its state (0 is none)."""
    found = []
    tries = {(row.table, row.key): row for row in connection.execute(sa.select(TRIES))}
    for row in connection.execute(sa.select(MISSING).order_by(MISSING.c.table, MISSING.c.key)).mappings():
        held = sa.and_(WITHHELD.c.target_table == row["table"], WITHHELD.c.target_key == row["key"])
        some = sa.select(WITHHELD.c.table, WITHHELD.c.key, WITHHELD.c.column).where(held)
        ordered = some.order_by(WITHHELD.c.table, WITHHELD.c.key, WITHHELD.c.column)
        referring = connection.execute(ordered.limit(_EXPLAINED if explain else 1)).all()
        tried = tries.get((row["table"], row["key"]))
        refused = row["state"] in ("gone", "forbidden")
        parent = MissingParent(
            table=row["table"],
            key=row["key"],
            state=row["state"],
            attempts=row["attempts"],
            since=tried.since if tried is not None else None,
            next_try=tried.next_try if tried is not None and refused else None,
            references=count(connection, WITHHELD, held),
            by=_referring(catalog, referring[0].table, referring[0].column) if referring else "",
            rows=tuple([f"{one.table} {one.key}" for one in referring]) if explain else (),
            policies=_policies(catalog, referring[0].table, referring[0].column) if referring else (),
        )
        found.append((parent, row["stamp"]))
    return found


def count(connection: sa.Connection, table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
    """How many rows there are."""
    return connection.scalar(sa.select(sa.func.count()).select_from(table).where(*where)) or 0


def count_rows(connection: sa.Connection, catalog: Catalog) -> dict[str, int]:
    """The rows of every mirrored table."""
    return {name: count(connection, table.sql) for name, table in sorted(catalog.tables.items())}


def unmapped(connection: sa.Connection) -> list[str]:
    """Upstream keys that no column takes."""
    rows = connection.execute(sa.select(KEYS).order_by(KEYS.c.source, KEYS.c.stream, KEYS.c.path))
    return [f"{row.source}.{row.stream}: {row.path}" for row in rows]


def _referring(catalog: Catalog, table: str, column: str) -> str:
    """The columns that a withheld entry is about, by their names."""
    reference = _reference(catalog, table, column)
    return str(reference) if reference is not None else f"{table}.{column}"


def _policies(catalog: Catalog, table: str, column: str) -> tuple[str, ...]:
    """What is done, in order, where such a reference leads nowhere."""
    reference = _reference(catalog, table, column)
    return () if reference is None else tuple(reference.policies)


def _reference(catalog: Catalog, table: str, column: str) -> Reference | None:
    """The reference that a withheld entry is about: a row's by name, a value's by its column."""
    name = column.removeprefix(FOR)
    found = [one for one in catalog.references_of(table) if one.name == name or column in one.columns]
    return found[0] if found else None
