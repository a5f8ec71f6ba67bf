"""Where a record holds what a table takes, compiled once for every set of keys a record comes with.

APIs repeat themselves: a stream's records have a handful of shapes. A shape's plan says which columns
are there, under which keys, and which keys nobody takes, so that no field is looked up twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ingest.catalog import Column, Nested, Table, stored_defaults, version_number
from ingest.errors import SetAside
from ingest.form import storer
from ingest.keys import dump_key
from ingest.ledger import KEY_LENGTH
from ingest.load.batch import ABSENT
from ingest.load.convert import (
    Convert,
    compile_python,
    compile_stored,
    refuse_null,
    stored_null,
    text_limit,
)
from ingest.types import Key

#: plans kept a table; more shapes than this is a server making keys up
_PLANS = 500

#: reads what of a record is the version: an integer
ReadVersion = Callable[[Any], int]


class Plan(NamedTuple):
    """Where to find what, in records with one set of keys."""

    #: (place in the row, the record's key, conversion, whether null may be stated)
    simple: tuple[tuple[int, str, Convert, bool], ...]
    #: (place in the row, path)
    deep: tuple[tuple[int, tuple[str, ...]], ...]
    nested: tuple[tuple[Nested, tuple[str, ...]], ...]
    #: keys that no column and no nested record takes
    unknown: tuple[str, ...]


class Shape:
    """How records become rows of one table."""

    def __init__(self, table: Table, *, omits_null: bool, beside: Iterable[Table] = ()) -> None:
        #: `beside`: the tables that are made of the same records, and take other keys of them
        self.table = table
        self.names = table.names
        self.place = {name: index for index, name in enumerate(self.names)}
        self.converts: tuple[Convert, ...] = tuple(compile_stored(column) for column in table.columns)
        #: what makes a column's stored form, and what is stored for None
        self.stores = tuple(storer(column.type) for column in table.columns)
        self.nulls = tuple(stored_null(column) for column in table.columns)
        self.key_places = tuple(self.place[name] for name in table.key)
        #: True when a key may be longer than the ledger holds
        self.has_long_keys = sum(map(_longest, (table.column(name) for name in table.key))) > KEY_LENGTH
        self.fill = stored_defaults(table)
        #: what an absent key states: ABSENT says nothing
        self.omitted = tuple(
            self._omits(column.name, column.nullable) if omits_null else ABSENT for column in table.columns
        )
        self._template = [ABSENT] * len(self.names)
        self._omits_null = omits_null
        self._plans: dict[tuple[str, ...], Plan] = {}
        paths = [path for one in (table, *beside) for path in one.paths]
        #: the top-level keys that are taken of a record
        self.taken = frozenset(path[0] for path in paths)
        self._under = _paths_under(paths)
        self.read_version = self._version_reader()

    def _omits(self, name: str, nullable: bool) -> Any:
        return self.fill.get(name, None if nullable else ABSENT)

    def plan(self, record: Mapping[str, Any]) -> Plan:
        """The plan for a record's keys."""
        keys = tuple(record)
        found = self._plans.get(keys)
        if found is None:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            found = self._plans[keys] = self._compile(keys)
        return found

    def row(self, plan: Plan, record: Mapping[str, Any], given: Mapping[int, Any]) -> list[Any]:
        """The record's values in the table's order, ABSENT where it states nothing."""
        row = self._template.copy()
        for place, key, convert, nullable in plan.simple:
            value = record[key]
            if value is not None:
                row[place] = convert(value)
            elif nullable:
                row[place] = self.nulls[place]
            else:
                raise refuse_null(self.table.columns[place])
        for place, path in plan.deep:
            value = dig(record, path)
            if value is not ABSENT:
                row[place] = self.convert(place, value)
        for place, value in given.items():
            row[place] = self.convert(place, value)
        return row

    @property
    def leads_below(self) -> bool:
        """True when paths lead through objects of the record, which may hold keys that nobody takes."""
        return bool(self._under)

    def convert(self, place: int, value: Any) -> Any:
        """A JSON value in stored form; SetAside when the column cannot hold it."""
        if value is not None:
            return self.converts[place](value)
        if not self.table.columns[place].nullable:
            raise refuse_null(self.table.columns[place])
        return self.nulls[place]

    def omit(self, row: list[Any], given: frozenset[int]) -> None:
        """Where absent keys state null, fill them in; what the stream sets itself is never guessed."""
        if self._omits_null:
            for place, value in enumerate(row):
                if value is ABSENT and place not in given:
                    row[place] = self.omitted[place]

    def key(self, row: list[Any]) -> tuple[Any, ...]:
        """The row's primary key; SetAside when the record does not state it."""
        key = tuple(row[place] for place in self.key_places)
        for name, value in zip(self.table.key, key, strict=True):
            if value is ABSENT or value is None:
                raise SetAside(f"{name}: the record has no key")
        if self.has_long_keys and is_too_long(key):
            raise SetAside(
                f"{'+'.join(self.table.key)}: the key is longer than {KEY_LENGTH} characters, as JSON"
            )
        return key

    def key_of(self, record: Mapping[str, Any], given: Mapping[int, Any]) -> tuple[Any, ...]:
        """The key that a record states, whatever else it says; SetAside when it states none."""
        row = self._template.copy()
        for place in self.key_places:
            said = (dig(record, path) for path in self.table.columns[place].paths)
            value = given.get(place, next((one for one in said if one is not ABSENT), None))
            row[place] = self.convert(place, value)
        return self.key(row)

    def unknown_below(self, record: Mapping[str, Any]) -> list[str]:
        """Keys nobody takes inside objects that a path leads through."""
        found = []
        for path, known in self._under.items():
            inner = dig(record, path)
            if isinstance(inner, dict) and not known.issuperset(inner):
                found += [".".join((*path, key)) for key in inner if key not in known]
        return found

    def _compile(self, keys: tuple[str, ...]) -> Plan:
        there = set(keys)
        simple: list[tuple[int, str, Convert, bool]] = []
        deep: list[tuple[int, tuple[str, ...]]] = []
        for place, column in enumerate(self.table.columns):
            path = next((path for path in column.paths if path[0] in there), None)
            if path is None:
                continue
            if len(path) == 1:
                simple.append((place, path[0], self.converts[place], column.nullable))
            else:
                deep.append((place, path))
        nested = []
        for one in self.table.nested:
            path = next((path for path in one.paths if path[0] in there), None)
            if path is not None:
                nested.append((one, path))
        unknown = tuple(key for key in keys if key not in self.taken)
        return Plan(tuple(simple), tuple(deep), tuple(nested), unknown)

    def _version_reader(self) -> ReadVersion | None:
        name = self.table.mirror.version
        if name is None:
            return None
        convert = compile_python(self.table.column(name))
        return lambda raw: version_number(convert(raw))


def is_too_long(key: Key) -> bool:
    """True for a key that the ledger has no room for."""
    return len(dump_key(key)) > KEY_LENGTH


def _longest(column: Column) -> int:
    """Characters of the column's longest value as JSON, with what stands between it and the next."""
    limit = text_limit(column)
    # any character may be one that JSON escapes
    return 40 if limit is None else 6 * limit + 3


def dig(record: Any, path: tuple[str, ...]) -> Any:
    """The value at a path of plain keys, or ABSENT."""
    for key in path:
        if not isinstance(record, dict) or key not in record:
            return ABSENT
        record = record[key]
    return record


def _paths_under(paths: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], set[str]]:
    """For every object that paths lead through and nobody takes whole: the keys that are taken of it."""
    whole = set(paths)
    under: dict[tuple[str, ...], set[str]] = {}
    for path in paths:
        for depth in range(1, len(path)):
            if not any(path[:shorter] in whole for shorter in range(1, depth + 1)):
                under.setdefault(path[:depth], set()).add(path[depth])
    return under
