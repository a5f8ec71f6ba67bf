"""Which rows a step looks at: the touched keys of every table, or whole tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from ingest.catalog import Catalog
from ingest.engines.base import Engine
from ingest.keys import Keys, dump_key, touch_keys, touch_whole, touched
from ingest.ledger import TOUCHED
from ingest.types import Key


class Scope:
    """Rows of every table that may have changed; None stands for all of a table's rows."""

    def __init__(self, keys: dict[str, set[Key] | None]) -> None:
        self._keys = keys

    @classmethod
    def touched(cls, connection: sa.Connection, catalog: Catalog) -> Scope:
        """What was touched since the last certificate."""
        names = connection.scalars(sa.select(TOUCHED.c.table).distinct())
        found: dict[str, set[Key] | None] = {}
        for name in sorted(set(names) & catalog.tables.keys()):
            keys = touched(connection, name)
            found[name] = None if keys is None else set(keys)
        return cls(found)

    @classmethod
    def whole(cls, catalog: Catalog) -> Scope:
        """Every row of every table."""
        return cls(dict.fromkeys(catalog.tables))

    def __bool__(self) -> bool:
        return any(keys is None or keys for keys in self._keys.values())

    def __contains__(self, table: str) -> bool:
        return table in self._keys and (self._keys[table] is None or bool(self._keys[table]))

    @property
    def tables(self) -> list[str]:
        return [name for name in self._keys if name in self]

    def keys(self, table: str) -> set[Key] | None:
        """The keys looked at; None for all."""
        return self._keys.get(table, set())

    def add(self, table: str, keys: Iterable[Key]) -> None:
        """Look at these rows too."""
        there = self._keys.setdefault(table, set())
        if there is not None:
            there.update(keys)

    def join(self, other: Scope) -> None:
        """Look at everything the other one looks at too."""
        for table in other.tables:
            keys = other.keys(table)
            if keys is None:
                self._keys[table] = None
            else:
                self.add(table, keys)

    def fill(self, connection: sa.Connection, keys: Keys) -> None:
        """Put every table's keys into its temporary table; whole tables need none."""
        for name in keys.tables:
            keys.fill(connection, name, self.keys(name) or ())

    def within(self, keys: Keys, table: str, columns: list[sa.ColumnElement[Any]]) -> sa.ColumnElement[bool]:
        """True where `columns` are a key of `table` that is looked at (after `fill`)."""
        if self.keys(table) is None:
            return sa.true()
        return keys.among(table, columns) if table in self else sa.false()

    def each_within(
        self, keys: Keys, *sides: tuple[str, Sequence[sa.ColumnElement[Any]]]
    ) -> list[sa.ColumnElement[bool]]:
        """What is `within` on one side or another, to be asked one by one; none where nothing is looked at.

        Each is looked up by its own index. Joined by OR, most databases would go through the whole table.
        """
        if any(self.keys(table) is None for table, _ in sides):
            return [sa.true()]
        return [keys.among(table, columns) for table, columns in sides if table in self]

    def remember(self, connection: sa.Connection, engine: Engine) -> None:
        """Write the keys to the ledger's `touched`."""
        for table in self.tables:
            keys = self.keys(table)
            if keys is None:
                touch_whole(connection, engine, table)
            else:
                touch_keys(connection, engine, table, map(dump_key, keys))
