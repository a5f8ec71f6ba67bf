"""Fill any mirrored models with hostile but valid rows.

Keys first, parents' before those of tables whose keys hold them; then every other column, with
references to keys that exist, so that self-references and cycles need no care; then what could not be
made whole is let go of until every reference holds. Uniqueness and CHECKs are SQLite's to judge:
what it refuses is made again, tamer each time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cache
from random import Random
from types import ModuleType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase

from ingest.types import Key
from tests.upstream import values
from tests.upstream.models import Models, Reference, Row
from tests.upstream.truth import Truth

#: how often a row is made again before its table has to do with one fewer
ATTEMPTS = 40
#: of these, so many are as hostile as can be
WILD = 4
#: the share of NULLs in columns that may be NULL
NULLS = 0.2


def generate(
    models: Models | ModuleType | type[DeclarativeBase],
    *,
    seed: int,
    rows: Mapping[str, int],
    resolution: timedelta = timedelta(microseconds=1),
) -> Truth:
    """A truth with `rows[table]` rows a table, or fewer where uniqueness leaves no room for more.

    The same seed gives the same rows. `resolution` is that of times: an API that tells milliseconds
    needs a truth that has no microseconds.
    """
    return _Generator(
        models if isinstance(models, Models) else Models(models), seed, rows, resolution
    ).truth()


class _Generator:
    def __init__(self, models: Models, seed: int, wanted: Mapping[str, int], resolution: timedelta) -> None:
        self.models = models
        self.wanted = wanted
        self.resolution = resolution
        self.random = Random(seed)
        self.serial = 0
        self.keys: dict[str, list[Key]] = {table: [] for table in models.tables}
        self.rows: dict[str, dict[Key, Row]] = {table: {} for table in models.tables}
        #: rows whose key fixed more columns than the key's own
        self.fixed: dict[tuple[str, Key], Row] = {}
        self._matching: dict[tuple[Any, ...], dict[Key, list[Key]]] = {}

    def truth(self) -> Truth:
        for table in self._keys_first():
            self._make_keys(table)
        engine = sa.create_engine("sqlite://")
        try:
            with engine.connect() as connection:
                self.models.metadata.create_all(connection)
                for table in self.models.tables:
                    self._make_rows(table, connection)
        finally:
            engine.dispose()
        self._redact()
        self._settle()
        made = [(table, row) for table, rows in self.rows.items() for row in rows.values()]
        self.random.shuffle(made)  # the order of arrival: children before parents as often as after
        truth = Truth(self.models)
        for table, row in made:
            truth.upsert(table, row)
        return truth

    # -- keys ------------------------------------------------------------------------------------------

    def _keys_first(self) -> Iterator[str]:
        """Tables in an order in which keys that hold other tables' keys come after those."""
        needs = {
            table: {r.target for r in self.models.key_references(table) if r.target != table}
            for table in self.models.tables
        }
        while needs:
            ready = [table for table, targets in needs.items() if not targets & needs.keys()]
            if not ready:
                raise ValueError(f"the keys of {', '.join(needs)} hold each other in a ring")
            for table in ready:
                del needs[table]
                yield table

    def _make_keys(self, table: str) -> None:
        wanted, names = self.wanted.get(table, 0), self.models.key_columns(table)
        taken: set[Key] = set()
        counters: dict[Key, int] = defaultdict(int)
        counted = self.models.counted(table)
        for _ in range(wanted * ATTEMPTS):
            if len(taken) == wanted:
                break
            row: Row = {}
            if not all(self._refer(row, reference) for reference in self.models.key_references(table)):
                continue
            parent = tuple(row.get(name) for name in names)
            for name in names:
                if name in row:
                    continue
                self.serial += 1
                column = self.models.column(table, name)
                if name == counted:
                    row[name], counters[parent] = counters[parent], counters[parent] + 1
                else:
                    row[name] = values.key_value(column, self.random, self.serial, resolution=self.resolution)
            key = self.models.key(table, row)
            if key not in taken:
                taken.add(key)
                self.keys[table].append(key)
                self.fixed[table, key] = row

    # -- rows ------------------------------------------------------------------------------------------

    def _make_rows(self, table: str, connection: sa.Connection) -> None:
        insert = sa.insert(self.models.tables[table])
        for key in self.keys[table]:
            for attempt in range(ATTEMPTS):
                row = self._row(table, key, calm=attempt >= WILD)
                if row is None:
                    continue
                try:
                    connection.execute(insert, row)
                except sa.exc.IntegrityError:
                    continue
                self.rows[table][key] = row
                break

    def _row(self, table: str, key: Key, *, calm: bool) -> Row | None:
        row = dict(self.fixed[table, key])
        for reference in self.models.references(table):
            if not self._refer(row, reference):
                return None
        mirror = self.models.mirror(table)
        unset = {mirror.redacts, mirror.redacted_by} | ({mirror.deleted} if mirror.purge else set())
        for column in self.models.columns(table):
            if column.name in row:
                continue
            if column.nullable and (column.name in unset or self.random.random() < NULLS):
                row[column.name] = None
            elif _unique(column) and not (calm and self.random.random() < 0.5):
                self.serial += 1
                row[column.name] = values.key_value(
                    column, self.random, self.serial, resolution=self.resolution
                )
            else:
                row[column.name] = values.value(column, self.random, calm=calm, resolution=self.resolution)
        return row

    def _refer(self, row: Row, reference: Reference) -> bool:
        """Let `row` refer to a row that exists and agrees with what is fixed; False when none does."""
        if all(name in row for name in reference.columns):
            return True  # `_settle` judges it
        columns = self.models.tables[reference.table].c
        free = [name for name in reference.columns if name not in row]
        voidable = [name for name in free if columns[name].nullable]
        redacts = self.models.mirror(reference.table).redacts
        if voidable and (redacts in voidable or self.random.random() < NULLS):
            row.update(dict.fromkeys(voidable))
            return True
        found = self._targets(row, reference)
        if found:
            target = self.random.choice(found)
            names = self.models.key_columns(reference.target)
            row.update({ours: target[names.index(theirs)] for ours, theirs in reference.pairs})
            return True
        row.update(dict.fromkeys(voidable))
        return bool(voidable)

    def _targets(self, row: Row, reference: Reference) -> list[Key]:
        """The target's keys that agree with the columns `row` has already."""
        names = self.models.key_columns(reference.target)
        given = tuple(pair for pair in reference.pairs if pair[0] in row)
        if not given:
            return self.keys[reference.target]
        places = [names.index(theirs) for _, theirs in given]
        index = self._matching.get((reference.target, *places))
        if index is None or reference.target == reference.table:
            index = defaultdict(list)
            for key in self.keys[reference.target]:
                index[tuple(key[place] for place in places)].append(key)
            self._matching[reference.target, *places] = index
        return index.get(tuple(row[ours] for ours, _ in given), [])

    # -- the whole ---------------------------------------------------------------------------------------

    def _redact(self) -> None:
        """Let some rows redact others: the target has lost what the model says a redaction clears."""
        for table, rows in self.rows.items():
            mirror = self.models.mirror(table)
            reference = next(
                (r for r in self.models.references(table) if r.columns == (mirror.redacts,)), None
            )
            if reference is None or not mirror.clears or reference.target != table:
                continue
            keys = list(rows)
            self.random.shuffle(keys)
            for redaction, target in zip(keys[::8], keys[1::8], strict=False):
                rows[redaction][reference.columns[0]] = target[0]
                rows[target].update(dict.fromkeys(mirror.clears))
                if mirror.redacted_by:
                    rows[target][mirror.redacted_by] = redaction[0]

    def _settle(self) -> None:
        """Let go of references to rows that could not be made, and of rows that cannot do without."""
        changed = True
        while changed:
            # every table in each round
            changed = max(
                self._settle_table(table) or self._settle_counts(table) for table in self.models.tables
            )

    def _settle_counts(self, table: str) -> bool:
        """Rows numbered within a parent are numbered without holes."""
        counted = self.models.counted(table)
        if counted is None:
            return False
        place = self.models.key_columns(table).index(counted)
        rows = self.rows[table]
        loose = [k for k in rows if k[place] and (*k[:place], k[place] - 1, *k[place + 1 :]) not in rows]
        for key in loose:
            del rows[key]
        return bool(loose)

    def _settle_table(self, table: str) -> bool:
        changed = False
        for reference in self.models.references(table):
            columns = self.models.tables[table].c
            nullable = [name for name in reference.columns if columns[name].nullable]
            order = {theirs: ours for ours, theirs in reference.pairs}
            names = [order[name] for name in self.models.key_columns(reference.target)]
            for key, row in list(self.rows[table].items()):
                target = tuple(row[name] for name in names)
                if None in target or target in self.rows[reference.target]:
                    continue
                changed = True
                if nullable:
                    row.update(dict.fromkeys(nullable))
                else:
                    del self.rows[table][key]
        return changed


@cache
def _unique(column: sa.Column[Any]) -> bool:
    """Whether the column alone must be unique, by whatever way of saying so."""
    constraints: list[Any] = [c for c in column.table.constraints if isinstance(c, sa.UniqueConstraint)]
    indexes = [index for index in column.table.indexes if index.unique]
    alone = [tuple(c.name for c in one.columns) for one in (*constraints, *indexes)]
    return bool(column.unique) or (column.name,) in alone
