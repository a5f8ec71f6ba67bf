"""From missing parents to the requests that ask for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple

import sqlalchemy as sa

from ingest.catalog import Catalog, Table
from ingest.clock import Clock
from ingest.engines.base import Engine
from ingest.form import reader
from ingest.keys import is_row, load_key, raw
from ingest.ledger import MISSING, TRIES, WITHHELD
from ingest.source import ById, Source, Stream
from ingest.types import Key
from ingest.withheld import load_row

#: what a server says of a parent that it does not give
_REFUSED = ("gone", "forbidden")
#: how long that is believed at first; twice as long each time it says so again, and at most
_LATER, _LATEST = timedelta(days=1), timedelta(days=30)
_of_missing = (TRIES.c.table == MISSING.c.table, TRIES.c.key == MISSING.c.key)
_REFERRER = re.compile(r"\{referrer\.([A-Za-z_]\w*)\}")


class Ask(NamedTuple):
    """A missing parent that a stream can be asked for."""

    source: str
    stream: str
    #: the key as the API spells it
    key: tuple[str, ...]
    #: columns of a row that refers to it, as the API spells them
    referrer: dict[str, str]
    #: (table, canonical key)
    where: tuple[str, str]


class Healer:
    """Knows which stream brings which table's records by id."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        catalog: Catalog,
        engine: Engine,
        *,
        modules: Mapping[str, str] | None = None,
    ) -> None:
        #: `modules`: the module of models that a source's entities are looked for in
        self._catalog, self._engine = catalog, engine
        self._ways: dict[str, tuple[str, str, ById]] = {}
        for name, source in sources.items():
            its = catalog.within(modules[name]) if modules else catalog
            for stream, stated in source.streams.items():
                for entity in its.entities.keys() & _entities(stated):
                    if stated.by_id is not None:
                        self._ways.setdefault(its.entities[entity].name, (name, stream, stated.by_id))

    @property
    def tables(self) -> frozenset[str]:
        """The tables whose rows can be asked for by id."""
        return frozenset(self._ways)

    def asks(
        self, connection: sa.Connection, asked: set[tuple[str, str]], *, now: str, limit: int
    ) -> list[Ask]:
        """What is wanted, can be asked for, and was not asked for yet in this run.

        What was gone, or could not be read, is wanted again when its time has come.
        """
        refused = MISSING.c.state.in_(_REFUSED)
        again = sa.exists().where(*_of_missing, refused, TRIES.c.next_try <= now)
        rows = connection.execute(
            sa.select(MISSING.c.table, MISSING.c.key)
            .where(sa.or_(MISSING.c.state == "wanted", again), MISSING.c.table.in_(sorted(self._ways)))
            .order_by(MISSING.c.table, MISSING.c.key)
        )
        wanted = [(table, key) for table, key in rows if (table, key) not in asked][:limit]
        return [self._ask(connection, table, key) for table, key in wanted]

    @staticmethod
    def schedule(connection: sa.Connection, engine: Engine, clock: Clock) -> None:
        """Note since when each is wanted, and put off those that were refused, longer each time."""
        now = clock.now()
        missing = sa.exists().where(*_of_missing)
        connection.execute(sa.delete(TRIES).where(sa.not_(missing)))
        known = sa.exists().where(*_of_missing)
        fresh = sa.select(MISSING.c.table, MISSING.c.key).where(sa.not_(known))
        since = now.isoformat(timespec="milliseconds")
        rows = [(*row, since, 0, None) for row in connection.execute(fresh)]
        engine.insert(connection, TRIES, TRIES.c.keys(), rows)
        refused = sa.select(MISSING.c.table, MISSING.c.key, MISSING.c.attempts).where(
            *_of_missing, MISSING.c.state.in_(_REFUSED), MISSING.c.attempts > TRIES.c.attempts
        )
        for table, key, attempts in connection.execute(refused).all():
            later = now + min(_LATER * 2 ** min(attempts - 1, 30), _LATEST)
            put_off = {"attempts": attempts, "next_try": later.isoformat(timespec="milliseconds")}
            mine = (TRIES.c.table == table, TRIES.c.key == key)
            connection.execute(sa.update(TRIES).where(*mine).values(put_off))

    def _ask(self, connection: sa.Connection, table: str, text: str) -> Ask:
        source, stream, by_id = self._ways[table]
        key = load_key(text)
        spelled = spell(self._catalog.tables[table], self._catalog.tables[table].key, key)
        names = _REFERRER.findall(by_id.path + "".join(map(str, by_id.query.values())))
        names += [
            name.removeprefix("$partition.referrer.") for name in by_id.set.values() if ".referrer." in name
        ]
        referrer = self._referrer(connection, table, text, names) if names else {}
        return Ask(source, stream, spelled, referrer, (table, text))

    def _referrer(
        self, connection: sa.Connection, table: str, key: str, names: Iterable[str]
    ) -> dict[str, str]:
        """The named columns of one row that refers to the missing parent."""
        entries = connection.execute(
            sa.select(WITHHELD.c.table, WITHHELD.c.key)
            .where(WITHHELD.c.target_table == table, WITHHELD.c.target_key == key)
            .order_by(WITHHELD.c.table, WITHHELD.c.key)
        )
        for name, text in entries.all():
            referring = self._catalog.tables[name]
            there = [column for column in dict.fromkeys(names) if column in referring.names]
            stated = self._stated(connection, referring, text)
            values = tuple(stated.get(column) for column in there)
            if there and None not in values:
                return dict(zip(there, spell(referring, there, values), strict=True))
        return {}

    def _stated(self, connection: sa.Connection, table: Table, key: str) -> Mapping[str, Any]:
        """What is stated of a row, whether the table shows it or it is kept aside whole."""
        columns = [raw(self._engine, table.sql.c[name]) for name in table.names]
        row = sa.select(*columns).where(is_row(self._engine, table, load_key(key)))
        shown = connection.execute(row).mappings().first()
        if shown is not None:
            return dict(shown)
        whole = sa.and_(WITHHELD.c.table == table.name, WITHHELD.c.key == key, WITHHELD.c.column == "")
        held = connection.scalar(sa.select(WITHHELD.c.value).where(whole))
        return load_row(table, held)[0] if held is not None else {}


def _entities(stream: Stream) -> set[str]:
    stated = stream.entities
    return {*stated.default, *(name for names in stated.cases.values() for name in names)}


def spell(table: Table, columns: Iterable[str], values: Key) -> tuple[str, ...]:
    """Stored values as an API spells them in a URL."""
    spelled = []
    for name, value in zip(columns, values, strict=True):
        read = reader(table.sql.c[name].type)
        python: Any = read(value) if read is not None else value
        if isinstance(python, Enum):
            python = python.value
        elif isinstance(python, datetime):
            python = python.isoformat()
        spelled.append(str(python))
    return tuple(spelled)
