"""Tell a row as an API would: the inverse of the mapping from records to rows.

A column stands at the path of its `field(…)`, or under its own name; a relationship's rows stand
nested under its name where nothing else would tell them, or where the dialect says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import sqlalchemy as sa

from ingest.errors import ConfigError
from ingest.paths import Path
from ingest.source import Source, Stream
from ingest.types import Json, Key
from tests.upstream.dialect import Dialect, Spelling, first, merge, put
from tests.upstream.models import Relation, Row
from tests.upstream.telling import Nesting, Telling
from tests.upstream.truth import Truth
from tests.upstream.values import bare


class Api:
    """Rows as the records of a source's streams."""

    def __init__(self, source: Source, truth: Truth, dialect: Dialect | None = None) -> None:
        self.source, self.truth, self.models = source, truth, truth.models
        self.dialect = dialect or Dialect()
        self.spelling = Spelling(self.models, self.dialect)
        self.nesting = Nesting(source, self.spelling)
        #: rows the API neither lists nor nests
        self._concealed: set[tuple[str, Key]] = set()
        self._concealments = 0
        #: the rows that were told whole so far
        self.told: set[tuple[str, Key]] = set()
        self._overlapping = {table: tuple(self._overlaps(table)) for table in self.models.tables}

    @property
    def edition(self) -> tuple[int, int]:
        """Equal for as long as the API would tell the same."""
        return self.truth.revision, self._concealments

    def conceal(self, table: str, key: Key, *, concealed: bool = True) -> None:
        """Neither list nor nest a row, though others refer to it; or do so again."""
        (self._concealed.add if concealed else self._concealed.discard)((table, key))
        self._concealments += 1

    def conceals(self, table: str, key: Key) -> bool:
        """Whether the row is kept back."""
        return (table, key) in self._concealed

    def record(self, stream: Stream, table: str, key: Key) -> dict[str, Json]:
        """The record that a stream tells of a row, whichever of the stream's entities it is."""
        omitted = frozenset(name for name, value in stream.set.items() if value.startswith("$"))
        record = self._told(stream, table, key, omitted)
        name, tables = self._case(stream, table, key, record)
        for other in tables[1:]:
            merge(record, self._told(stream, other, key, omitted))
        by = Path(stream.entities.by).keys
        if name is not None and by and Path(stream.entities.by).first(record) is None:
            put(record, by, name)
        for one in tables:
            for overlapping in self._overlapping[one]:
                row = self.truth.get(one, key)
                assert row is not None
                # the JSON around other columns holds them too, so this is what is true
                row[overlapping] = first(record, self.spelling.path(one, overlapping))
        return {**record, **deepcopy(self.dialect.extras)}

    def deletion(self, stream: Stream, table: str, row: Row) -> dict[str, Json]:
        """What a stream of deletions says of a row that is gone: its key, its version, its coverage key."""
        version = self.models.mirror(table).version
        paths = [Path(text).keys for text in (stream.key, stream.since and stream.since.key) if text]
        record: dict[str, Json] = {}
        for column in self.models.columns(table):
            path = self.spelling.path(table, column.name)
            if column.primary_key or column.name == version or path in paths:
                put(record, path, self.spelling.scalar(column, row[column.name]))
        return record

    def _told(self, stream: Stream, table: str, key: Key, omitted: frozenset[str]) -> dict[str, Json]:
        row = self.truth.get(table, key)
        if row is None:
            raise KeyError(f"{table} has no row {key}")
        telling = Telling(self.nesting, self.truth, self.conceals, omit_nulls=stream.omits == "null")
        record = telling.tell(table, row, omitted)
        self.told |= telling.told | self._links(telling.told)
        return record

    def _links(self, told: set[tuple[str, Key]]) -> set[tuple[str, Key]]:
        """The rows of association tables that are told by the nested lists of these rows."""
        return {
            (relation.secondary, self.models.key(relation.secondary, link))
            for table, key in told
            if (entity := self.models.by_table.get(table)) is not None
            for relation in entity.relations
            if relation.secondary is not None and self.nesting.inlined(relation, 0)
            for link in self.truth.matching(
                relation.secondary,
                tuple(theirs for _, theirs in relation.pairs),
                self._ours(relation, table, key),
            )
        }

    def _ours(self, relation: Relation, table: str, key: Key) -> Key:
        row = self.truth.get(table, key)
        assert row is not None
        return tuple(row[ours] for ours, _ in relation.pairs)

    def _case(
        self, stream: Stream, table: str, key: Key, record: dict[str, Json]
    ) -> tuple[str | None, tuple[str, ...]]:
        """Which of the stream's kinds the row is: what its discriminator says, else whose tables hold it."""
        entities = stream.entities
        stated = Path(entities.by).first(record) if entities.cases else None
        cases: list[tuple[str | None, tuple[str, ...]]] = [
            (name, self._tables(names)) for name, names in entities.cases.items()
        ]
        cases += [(None, self._tables(entities.default))] if entities.default else []
        fitting = [
            (name, tables)
            for name, tables in cases
            if tables[0] == table
            and all(self.truth.get(other, key) for other in tables)
            and (stated is None or name == stated or (name is None and stated not in entities.cases))
        ]
        if not fitting:
            raise ConfigError(
                f"no entity of the stream fits {table} {key}, whose {entities.by} is {stated!r}"
            )
        return max(fitting, key=lambda case: len(case[1]))

    def _tables(self, entities: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(self.models.entities[name].table for name in entities)

    def _overlaps(self, table: str) -> Iterator[str]:
        """JSON columns within which other columns, of any table, stand."""
        paths = self.spelling.paths()
        for column in self.models.columns(table):
            own = self.spelling.path(table, column.name)
            if isinstance(bare(column.type), sa.JSON) and any(
                path[: len(own)] == own != path for path in paths
            ):
                yield column.name
