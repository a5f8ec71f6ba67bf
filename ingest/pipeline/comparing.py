"""What the models of today would make of the page log, beside what the database shows.

    page log ── a run of its own ──▶ a database beside ──┐
                                                         ├── row by row, in their keys' order ──▶ difference
                          the mirror, read only ─────────┘

Nothing of the mirror changes. Columns are compared by name; one that only one side has is named, and passed
over.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog, Table, read_catalog
from ingest.clock import Clock
from ingest.config import Config, models_of
from ingest.database import Database
from ingest.digest import canonical
from ingest.engines import Engine, engine_for, passing_url
from ingest.errors import Stop, UsageError
from ingest.keys import dump_key, raw
from ingest.ledger import DEAD_LETTERS
from ingest.mirror import LEDGER_COLUMNS
from ingest.pipeline.job import open_job
from ingest.pipeline.questions import count
from ingest.report import Difference, Observer, TableDifference, unobserved
from ingest.staging import SqlitePageLog

#: rows that are read at once, and keys of differing rows that are named
_FETCH, _NAMED = 100, 10

Row: TypeAlias = tuple[Any, ...]
Type: TypeAlias = sa.types.TypeEngine[Any]


async def compare(
    config: Config, *, observe: Observer = unobserved, clock: Clock | None = None
) -> Difference:
    """What `replay --rebuild` would alter, under the models as they are now. Nothing is written."""
    catalog = read_catalog(models_of(config))
    await _refuse_lack(config)
    engine = engine_for(config.database_url)
    try:
        if not await engine.exists():
            raise UsageError("there is no mirror yet", where=engine.place, hint="run `ingest sync`")
        with tempfile.TemporaryDirectory() as folder:
            anew = msgspec.structs.replace(config, database_url=passing_url(Path(folder)))
            async with open_job(anew, observe=observe, clock=clock) as job:
                made = await job.recover()
            new = engine_for(anew.database_url)
            async with _read(new, catalog) as theirs, _read(engine, catalog) as ours:
                return await _Comparison(catalog, ours, theirs).carry_out(exit=made.exit)
    finally:
        await engine.close()


async def _refuse_lack(config: Config) -> None:
    """An error where the page log does not have all that it was ever given."""
    where = str(config.log_path)
    if not config.log_path.exists():
        raise UsageError("there is no page log to compare with", where=where)
    log = await SqlitePageLog.open(config.log_path, readonly=True)
    try:
        pruned = len(await log.pruned())
    finally:
        await log.close()
    if pruned:
        raise Stop(
            f"the bodies of {pruned:,} pages were pruned: what they said cannot be loaded under other models",
            where=where,
        )


@asynccontextmanager
async def _read(engine: Engine, catalog: Catalog) -> AsyncIterator[Database]:
    """A database whose tables may be those of other models."""
    async with engine.reader() as connection:
        yield Database(engine, catalog, (), connection)


class _Side(NamedTuple):
    """How a table is read on one side: its key and the compared columns, in stored form."""

    rows: sa.Select[Any]
    canonical: tuple[Callable[[Any], Any], ...]


class _Comparison:
    """A mirror, and what the same pages make under other models."""

    def __init__(self, catalog: Catalog, ours: Database, theirs: Database) -> None:
        self._catalog, self._ours, self._theirs = catalog, ours, theirs

    async def carry_out(self, *, exit: int) -> Difference:
        look = partial(_reflected, names={*self._catalog.tables, DEAD_LETTERS.name})
        before, after = await self._ours.read(look), await self._theirs.read(look)
        if DEAD_LETTERS.name not in before:
            raise UsageError("this database holds no mirror", where=self._ours.engine.place)
        tables = [
            await self._table(table, before[name], after[name])
            for name, table in sorted(self._catalog.tables.items())
            if name in before
        ]
        return Difference(
            tables=tuple(one for one in tables if one.added or one.removed or one.changed),
            new=tuple(_only_in(after, before)),
            gone=tuple(_only_in(before, after)),
            letters=(await _letters(self._ours), await _letters(self._theirs)),
            exit=exit,
        )

    async def _table(self, table: Table, before: sa.Table, after: sa.Table) -> TableDifference:
        names = [name for name in _stated(after) if name in _stated(before) and name not in table.key]
        ours = _side(self._ours.engine, table, before, names)
        theirs = _side(self._theirs.engine, table, after, names)
        found: Counter[str] = Counter()
        columns: Counter[str] = Counter()
        examples: list[str] = []
        width = len(table.key)
        async with (
            aclosing(_rows(self._ours, ours)) as old_rows,
            aclosing(_rows(self._theirs, theirs)) as new_rows,
        ):
            async for key, old, new in _merged(old_rows, new_rows, width):
                if old == new:
                    continue
                found["added" if old is None else "removed" if new is None else "changed"] += 1
                if old is not None and new is not None:
                    columns.update(
                        name for name, a, b in zip(names, old[width:], new[width:], strict=True) if a != b
                    )
                if len(examples) < _NAMED:
                    examples.append(dump_key(key))
        return TableDifference(
            table=table.name,
            added=found["added"],
            removed=found["removed"],
            changed=found["changed"],
            columns=dict(columns),
            examples=tuple(examples),
        )


def _reflected(connection: sa.Connection, *, names: Collection[str]) -> dict[str, sa.Table]:
    """Those of the tables that are there, as the database has them."""
    metadata = sa.MetaData()
    metadata.reflect(connection, only=lambda name, _: name in names, resolve_fks=False)
    return dict(metadata.tables)


def _stated(table: sa.Table) -> list[str]:
    return [column.name for column in table.columns if column.name not in LEDGER_COLUMNS]


def _only_in(some: Mapping[str, sa.Table], others: Mapping[str, sa.Table]) -> Iterator[str]:
    """Tables, and columns of tables that both have, which only the first has."""
    for name, table in sorted(some.items()):
        if name in others:
            yield from (f"{name}.{one}" for one in _stated(table) if one not in _stated(others[name]))
        else:
            yield name


def _side(engine: Engine, table: Table, there: sa.Table, names: Sequence[str]) -> _Side:
    read = [
        sa.Column(name, _type(engine.dialect, there.c[name].type, table.sql.c[name].type))
        for name in (*table.key, *names)
    ]
    columns = list(sa.Table(there.name, sa.MetaData(), *read).columns)
    order = [engine.in_order(column) for column in columns[: len(table.key)]]
    return _Side(
        sa.select(*(raw(engine, column) for column in columns)).order_by(*order),
        tuple(canonical(column.type) for column in columns),
    )


def _type(dialect: sa.Dialect, there: Type, modelled: Type) -> Type:
    """What a column is read as: its model's type, unless the database has one of another kind."""
    alike = there._type_affinity is modelled._type_affinity
    return modelled if alike or _spelled(dialect, there) == _spelled(dialect, modelled) else there


def _spelled(dialect: sa.Dialect, type_: Type) -> str:
    """A type's name in this database, without its length and the like."""
    return re.split(r"\W", type_.compile(dialect))[0]


async def _rows(database: Database, side: _Side) -> AsyncGenerator[Row, None]:
    async with aclosing(database.stream(side.rows, many=_FETCH)) as pieces:
        async for some in pieces:
            for row in some:
                yield tuple(turn(value) for turn, value in zip(side.canonical, row, strict=True))


async def _merged(
    old_rows: AsyncGenerator[Row, None], new_rows: AsyncGenerator[Row, None], width: int
) -> AsyncGenerator[tuple[Row, Row | None, Row | None], None]:
    """(key, old row, new row) of every key, in order, where both come in the order of their keys."""
    old, new = await anext(old_rows, None), await anext(new_rows, None)
    while old is not None or new is not None:
        keys = [row[:width] for row in (old, new) if row is not None]
        key = min(keys)
        ours = old if old is not None and old[:width] == key else None
        theirs = new if new is not None and new[:width] == key else None
        yield key, ours, theirs
        if ours is not None:
            old = await anext(old_rows, None)
        if theirs is not None:
            new = await anext(new_rows, None)


async def _letters(database: Database) -> int:
    return await database.read(lambda asked: count(asked, DEAD_LETTERS, DEAD_LETTERS.c.state == "open"))
