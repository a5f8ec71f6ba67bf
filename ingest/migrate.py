"""Brings a database to this program and its models: the ledger's tables, and each system's.

none of its tables, no revision   all revisions are run                  sync, migrate
some tables, and a revision       its making was broken off, where DDL commits by itself:
table without a revision          they are dropped, if they are empty, and made again    sync, migrate
its tables, no revision           they are compared with the models:
                                  the same: the newest is noted          sync, migrate
                                  else it is refused
an older revision                 refused by all but `ingest migrate`, which runs those after it
the newest revision               nothing; Alembic is not even imported
an unknown revision               refused: it is a newer program's

A system whose package has no migrations gets its tables from its models, as they are when they are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

import sqlalchemy as sa

from ingest import migrations
from ingest.catalog import Catalog
from ingest.config import Config, import_package
from ingest.errors import ConfigError, UsageError
from ingest.ledger import LEDGER
from ingest.migrations.lineage import Lineage, read_revisions

#: differences that are named when tables are refused; the rest are counted
_NAMED = 5
_REBUILD = "move the database away and make it anew from the page log: `ingest replay --rebuild`"


class Move(NamedTuple):
    """What one lineage's tables need."""

    lineage: Lineage
    #: make: none is there yet; remake: some are, and were never finished; note: they are there, and not the
    #: revision; upgrade: they are behind
    kind: Literal["make", "remake", "note", "upgrade"]
    #: the revision they are at
    at: str | None


def lineages(config: Config, catalog: Catalog) -> tuple[Lineage, ...]:
    """The ledger's tables, then those of every package of models; a package is known by its last name."""
    found = [_lineage("ledger", "ingest", Path(migrations.__path__[0]), [LEDGER])]
    left = list(catalog.metadatas)
    for package in dict.fromkeys(source.package for source in config.sources.values()):
        ours = _metadatas(import_package(f"{package}.models", config.file.parent))
        folder = Path(import_package(package, config.file.parent).__path__[0]) / "migrations"
        name = package.rpartition(".")[2]
        found.append(_lineage(name, name, folder, [one for one in left if one in ours]))
        left = [one for one in left if one not in ours]
    named: dict[str, Lineage] = {}
    for lineage in found:
        if named.setdefault(lineage.version_table, lineage) is not lineage:
            raise ConfigError(
                f"two packages of models are called {lineage.name!r}",
                where=str(config.file),
                hint="mirror them into two databases, or rename one",
            )
    return tuple(found)


def plan(connection: sa.Connection, lineages: Iterable[Lineage], *, place: str) -> list[Move]:
    """What has to be done, in order; UsageError where the database is of a newer program."""
    there = set(sa.inspect(connection).get_table_names())
    return [move for lineage in lineages if (move := _move(connection, lineage, there, place))]


def behind(moves: Iterable[Move], *, place: str) -> UsageError | None:
    """Why the database cannot be used before `ingest migrate`; None when it can."""
    late = [
        f"{move.at} of {move.lineage.name}, which is at {move.lineage.head} now"
        for move in moves
        if move.kind == "upgrade"
    ]
    if not late:
        return None
    return UsageError(
        f"this database is at revision {' and '.join(late)}", where=place, hint="run `ingest migrate`"
    )


def carry_out(
    connection: sa.Connection, lineages: Iterable[Lineage], moves: Iterable[Move], *, place: str
) -> list[str]:
    """Do it, in the transaction that is open; the steps, one line each. UsageError where it is not enough."""
    steps = [step for move in moves for step in _carry_out(connection, move, place)]
    check(connection, lineages, place=place)
    return steps


def readable(connection: sa.Connection, lineages: Sequence[Lineage], *, place: str) -> None:
    """UsageError when the tables are not those that a question would be asked of."""
    moves = plan(connection, lineages, place=place)
    if late := behind(moves, place=place):
        raise late
    for move in moves:
        if move.kind in ("make", "remake"):
            raise UsageError(
                f"this database has no tables of {move.lineage.name} yet",
                where=place,
                hint="run `ingest sync`",
            )
    check(connection, lineages, place=place)


def check(connection: sa.Connection, lineages: Iterable[Lineage], *, place: str) -> None:
    """UsageError when a table or column of the models is not in the database, whatever revision it is at."""
    inspector = sa.inspect(connection)
    for lineage in lineages:
        there = {
            name: {column["name"] for column in columns}
            for (_, name), columns in inspector.get_multi_columns(filter_names=list(lineage.tables)).items()
        }
        absent = [
            name if name not in there else f"{name}.{column.name}"
            for name, table in lineage.tables.items()
            for column in table.columns
            if column.name not in there.get(name, ())
        ]
        if absent:
            raise UsageError(
                f"the models of {lineage.name} have changed; the database lacks {_listed(absent)}",
                where=place,
                hint=f"write a revision in {lineage.folder / 'versions'}, then run `ingest migrate`"
                if lineage.revisions
                else _REBUILD,
            )


def _lineage(name: str, prefix: str, folder: Path, metadatas: Sequence[sa.MetaData]) -> Lineage:
    return Lineage(
        name=name,
        metadatas=tuple(metadatas),
        folder=folder,
        revisions=read_revisions(folder),
        version_table=f"{prefix}_alembic_version",
    )


def _metadatas(module: ModuleType) -> set[sa.MetaData]:
    """Every metadata that the models of a module, or others of their registries, have their tables in."""
    registries = {
        value.__mapper__.registry
        for value in vars(module).values()
        if isinstance(value, type) and hasattr(value, "__mapper__")
    }
    return {mapper.local_table.metadata for registry in registries for mapper in registry.mappers}


def _move(connection: sa.Connection, lineage: Lineage, there: set[str], place: str) -> Move | None:
    if not lineage.revisions:
        return None if lineage.tables.keys() <= there else Move(lineage, "make", None)
    at = _revision(connection, lineage) if lineage.version_table in there else None
    if at == lineage.head:
        return None
    if at is None:
        if not lineage.tables.keys() & there:
            return Move(lineage, "make", None)
        # whoever makes tables makes the table of revisions first, and the revision is noted last
        return Move(lineage, "remake" if lineage.version_table in there else "note", None)
    if at not in {revision.id for revision in lineage.revisions}:
        raise UsageError(
            f"this database is at revision {at} of {lineage.name}, which is not known here",
            where=place,
            hint="it was migrated by a newer version: use that one",
        )
    return Move(lineage, "upgrade", at)


def _revision(connection: sa.Connection, lineage: Lineage) -> str | None:
    version = sa.table(lineage.version_table, sa.column("version_num"))
    # one line of revisions has one newest; more are a history that is not known here
    return ", ".join(sorted(connection.scalars(sa.select(version.c.version_num)))) or None


def _carry_out(connection: sa.Connection, move: Move, place: str) -> list[str]:
    lineage = move.lineage
    if not lineage.revisions:
        for metadata in lineage.metadatas:
            metadata.create_all(connection)
        return [f"{lineage.name}: made from the models, for want of migrations"]
    # not at the top: half a second that a database with nothing to do is spared
    from ingest.migrations import runner

    if move.kind == "remake":
        _drop_unfinished(connection, lineage, place)
    if move.kind == "note":
        if different := runner.differences(connection, lineage):
            raise UsageError(
                f"the tables of {lineage.name} are there, but not as its revision {lineage.head} has them "
                f"({_listed(different)})",
                where=place,
                hint=_REBUILD,
            )
        runner.stamp(connection, lineage)
        return [f"{lineage.name} {lineage.head}: its tables were there"]
    return [f"{lineage.name} {one.id}: {one.title}" for one in runner.run(connection, lineage)]


def _drop_unfinished(connection: sa.Connection, lineage: Lineage, place: str) -> None:
    """Drop tables whose making was broken off; UsageError where one has rows all the same."""
    there = set(sa.inspect(connection).get_table_names())
    tables = [table for name, table in lineage.tables.items() if name in there]
    for table in tables:
        if connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None:
            raise UsageError(
                f"the table {table.name} has rows, but the tables of {lineage.name} were never finished",
                where=place,
                hint=_REBUILD,
            )
    for table in tables:
        table.drop(connection)


def _listed(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    rest = f" and {len(unique) - _NAMED} more" if len(unique) > _NAMED else ""
    return ", ".join(unique[:_NAMED]) + rest
