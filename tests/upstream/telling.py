"""One row told as a record: its columns, and what stands nested in it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ingest.errors import ConfigError
from ingest.paths import Path
from ingest.source import Source, Stream
from ingest.types import Json, Key
from tests.upstream.dialect import Dialect, Spelling, put
from tests.upstream.models import Models, Relation, Row
from tests.upstream.truth import Truth


@dataclass(frozen=True, slots=True)
class Needed:
    """What paths into parents' records (`unchanged`, `when`, parameters) ask of an entity's records."""

    relations: dict[str, frozenset[str]]
    derived: frozenset[str]


class Nesting:
    """Which relationships' rows stand nested in a source's records, and which of their columns."""

    def __init__(self, source: Source, spelling: Spelling) -> None:
        self.source, self.spelling = source, spelling
        self.models: Models = spelling.models
        self.dialect: Dialect = spelling.dialect
        #: tables that a stream of their own tells
        self.told = {t for stream in source.streams.values() for t in tables_of(self.models, stream)}
        self._needed = {table: self._needed_of(table) for table in self.models.tables}

    def inlined(self, relation: Relation, depth: int) -> bool:
        """Whether a record at this depth holds the relation's rows nested."""
        owner = relation.table
        if relation.derived or (depth == 0 and str(relation) in self._needed[owner].relations):
            return depth == 0 and (self.dialect.derived or str(relation) in self._needed[owner].relations)
        if relation.kind == "association":
            needed = relation.secondary not in self.told
        else:
            needed = relation.target not in self.told
        if needed or depth > 0:
            return needed
        return self.dialect.lists == "all" if not relation.holds_key else self.dialect.parents != "flat"

    def needed(self, table: str) -> Needed:
        """What paths into the table's records ask of them."""
        return self._needed[table]

    def _needed_of(self, table: str) -> Needed:
        asked = [Path(text).keys for text in self._asked_of(table)]
        entity = self.models.by_table.get(table)
        relations = {
            str(relation): frozenset(
                keys[-1] for keys in asked if keys[:1] == self.spelling.relation_path(relation)[:1]
            )
            for relation in (entity.relations if entity else ())
        }
        return Needed(
            {name: keys for name, keys in relations.items() if keys},
            frozenset(
                c.name for c in self.models.derived(table) if self.spelling.path(table, c.name) in asked
            ),
        )

    def _asked_of(self, table: str) -> Iterator[str]:
        """The paths that other streams take into the records of `table`."""
        for stream in self.source.streams.values():
            if stream.each is None or table not in tables_of(self.models, self.source.streams[stream.each]):
                continue
            yield from filter(None, (stream.unchanged, stream.when))
            for name in stream.parameters:
                head, _, rest = name.partition(".")
                if head == stream.each and rest:
                    yield rest


class Telling:
    """Tells rows as records."""

    def __init__(
        self, nesting: Nesting, truth: Truth, conceals: Callable[[str, Key], bool], *, omit_nulls: bool
    ) -> None:
        self.nesting, self.truth, self.conceals, self.omit_nulls = nesting, truth, conceals, omit_nulls
        self.models, self.spelling, self.dialect = nesting.models, nesting.spelling, nesting.dialect
        #: the rows told whole so far
        self.told: set[tuple[str, Key]] = set()

    def tell(
        self,
        table: str,
        row: Row,
        omitted: frozenset[str],
        within: tuple[Relation, ...] = (),
        only: frozenset[str] | None = None,
    ) -> dict[str, Json]:
        """The row's columns and nested rows; `only` names the columns of a partial one."""
        if only is None:
            self.told.add((table, self.models.key(table, row)))
        nested = dict(self._nested(table, row, within)) if only is None else {}
        replaced = {
            ours for relation in nested if self._replaces(relation, nested) for ours, _ in relation.pairs
        }
        omitted |= replaced - set(self.models.key_columns(table))
        record: dict[str, Json] = {}
        for column in self.models.columns(table):
            if column.name in omitted or (only and column.name not in only):
                continue
            self._put(
                record, self.spelling.path(table, column.name), self.spelling.scalar(column, row[column.name])
            )
        for column in self.models.derived(table) if only is None and not within else ():
            if self.dialect.derived or column.name in self.nesting.needed(table).derived:
                value = self.truth.derived(table)[self.models.key(table, row)][column.name]
                self._put(record, self.spelling.path(table, column.name), self.spelling.scalar(column, value))
        for relation, value in nested.items():
            self._put(record, self.spelling.relation_path(relation), value)
        return record

    def _put(self, record: dict[str, Json], path: tuple[str, ...], value: Json) -> None:
        if value is not None or not self.omit_nulls:
            put(record, path, value)

    def _replaces(self, relation: Relation, nested: dict[Relation, Json]) -> bool:
        return relation.holds_key and self.dialect.parents == "nested" and nested[relation] is not None

    def _nested(self, table: str, row: Row, within: tuple[Relation, ...]) -> Iterator[tuple[Relation, Json]]:
        entity = self.models.by_table.get(table)
        for relation in entity.relations if entity else ():
            if not self.nesting.inlined(relation, len(within)) or any(
                relation == other or relation.reverses(other) for other in within
            ):
                continue
            rows = self._related(table, relation, row)
            if relation.kind != "one":
                yield relation, [self._inner(relation, one, within) for one in rows]
            elif rows:
                yield relation, self._inner(relation, rows[0], within)
            elif not relation.holds_key or all(row.get(ours) is None for ours, _ in relation.pairs):
                yield relation, None

    def _related(self, table: str, relation: Relation, row: Row) -> list[Row]:
        if relation.derived:
            row = {**row, **self.truth.derived(table)[self.models.key(table, row)]}
        columns = tuple(theirs for _, theirs in relation.pairs)
        wanted = tuple(row[ours] for ours, _ in relation.pairs)
        if relation.kind != "association":
            rows = self.truth.matching(relation.target, columns, wanted)
        else:
            assert relation.secondary is not None
            keys = self.truth.matching(relation.secondary, columns, wanted)
            theirs = tuple(theirs for theirs, _ in relation.secondary_pairs)
            rows = [
                one
                for link in keys
                for one in self.truth.matching(
                    relation.target, theirs, tuple(link[name] for _, name in relation.secondary_pairs)
                )
            ]
        shown = [
            one for one in rows if not self.conceals(relation.target, self.models.key(relation.target, one))
        ]
        counted = self.models.counted(relation.target)
        return sorted(shown, key=lambda one: one[counted]) if counted else shown

    def _inner(self, relation: Relation, row: Row, within: tuple[Relation, ...]) -> Json:
        omitted = (
            frozenset(theirs for _, theirs in relation.pairs) if relation.kind == "many" else frozenset()
        )
        counted = self.models.counted(relation.target)
        if counted and relation.kind == "many" and self.dialect.positions == "index":
            omitted |= {counted}
        only = self._part(relation) if relation.holds_key and relation.target in self.nesting.told else None
        return self.tell(relation.target, row, omitted, (*within, relation), only)

    def _part(self, relation: Relation) -> frozenset[str]:
        """What a nested parent tells of itself: its key, what is asked of it, and half of the rest."""
        asked = self.nesting.needed(relation.table).relations.get(str(relation), frozenset())
        return frozenset(
            column.name
            for column in self.models.columns(relation.target)
            if column.primary_key
            or self.spelling.path(relation.target, column.name)[-1] in asked
            or zlib.crc32(f"{column}".encode()) % 2
        )


def tables_of(models: Models, stream: Stream) -> tuple[str, ...]:
    """The tables of every entity that a stream names; ConfigError for one that the models do not define."""
    names = [name for case in (*stream.entities.cases.values(), stream.entities.default) for name in case]
    if unknown := [name for name in names if name not in models.entities]:
        raise ConfigError(
            f"the models define no {unknown[0]}", hint=f"known: {', '.join(sorted(models.entities))}"
        )
    return tuple(dict.fromkeys(models.entities[name].table for name in names))
