"""A client that follows source.toml as a first sync does.

It asks for every listing to its end, for the children of every parent, and then, by id and to a fixed
point, for what is referred to and was in no listing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from ingest.catalog import Catalog, Nested, Table
from ingest.paths import Path
from ingest.source import Cursor, Keyset, Source, Stream
from ingest.types import Request
from tests.fixtures_fansly.api import Answer
from tests.fixtures_fansly.records import Json

Ask: TypeAlias = Callable[[Request], Answer]


class Client:
    """Asks for everything a first sync asks for, and keeps count of what it was told."""

    def __init__(self, source: Source, catalog: Catalog, ask: Ask) -> None:
        self.source, self.catalog, self._ask = source, catalog, ask
        #: what was asked, in order, each under the stream it was asked for
        self.asked: list[tuple[str, Request, Answer]] = []
        #: top-level records, by stream
        self.records: dict[str, list[Json]] = {name: [] for name in source.streams}
        #: keys that records state, nested ones too, and keys they refer to; by table
        self.stated: dict[str, set[tuple[str, ...]]] = {name: set() for name in catalog.tables}
        self.wanted: dict[str, set[str]] = {name: set() for name in catalog.tables}
        #: keys that were asked for by id and are not to be had
        self.lost: dict[str, set[str]] = {name: set() for name in catalog.tables}
        self.unmapped: set[str] = set()

    def run(self) -> None:
        """Every listing, every child of it, and every missing parent to a fixed point."""
        if self.source.check:
            self._request("check", Request(path=self.source.check.path))
        for name, stream in self.source.streams.items():
            if stream.path is not None and stream.each is None:
                self._walk(name, stream, {})
        for name, stream in self.source.streams.items():
            if stream.each is not None:
                for id in dict.fromkeys(record["id"] for record in self.records[stream.each]):
                    self._walk(name, stream, {f"{stream.each}.id": id})
        while missing := self._missing():
            for name, id in missing:
                self._one(name, self.source.streams[name], id)

    def _request(self, name: str, request: Request) -> Answer:
        answer = self._ask(request)
        self.asked.append((name, request, answer))
        return answer

    def _walk(self, name: str, stream: Stream, partition: dict[str, str]) -> None:
        paged = stream.paginate
        assert isinstance(paged, Cursor | Keyset)
        query = [(key, _filled(str(value), partition)) for key, value in stream.query.items()]
        query.append((paged.limit_param, str(paged.limit)))
        cursor: str | None = None
        seen: set[str | None] = set()
        while cursor not in seen:
            seen.add(cursor)
            asked = tuple(query if cursor is None else [*query, (paged.param, cursor)])
            answer = self._request(name, Request(path=_filled(stream.path or "", partition), query=asked))
            if answer.status in stream.closed_by:
                return
            records = Path(stream.records).first(answer.body)
            self._read(name, stream, records)
            if isinstance(paged, Keyset):
                cursor = records[-1][paged.key] if records else None
            else:
                cursor = Path(paged.next).first(answer.body)
            if not cursor:
                return
        raise AssertionError(f"{name}: the cursor {cursor} comes a second time")

    def _one(self, name: str, stream: Stream, id: str) -> None:
        by_id = stream.by_id
        assert by_id is not None
        assert by_id.batch == 1
        query = ((by_id.param, id),) if by_id.param else ()
        answer = self._request(name, Request(path=by_id.path.replace("{id}", id), query=query))
        found = Path(by_id.records or "$").first(answer.body) if answer.status == 200 else []
        records = found if isinstance(found, list) else [found]
        self._read(name, stream, records)
        if not records:
            self.lost[self._table(stream).name].add(id)
            return
        # a parent that comes by id has children like any other
        for child, other in self.source.streams.items():
            if other.each == name:
                self._walk(child, other, {f"{name}.id": id})

    def _missing(self) -> list[tuple[str, str]]:
        by_entity = {stream.entity: name for name, stream in self.source.streams.items() if stream.by_id}
        return [
            (by_entity[table.entity], id)
            for table in self.catalog.tables.values()
            if table.entity in by_entity
            for id in sorted(self.wanted[table.name] - self.lost[table.name], key=int)
            if (id,) not in self.stated[table.name]
        ]

    def _table(self, stream: Stream) -> Table:
        assert isinstance(stream.entity, str)
        return self.catalog.entities[stream.entity]

    def _read(self, name: str, stream: Stream, records: list[Json]) -> None:
        self.records[name] += records
        for record in records:
            self._take(self._table(stream), record, {})

    def _take(self, table: Table, record: Json, given: dict[str, str]) -> dict[str, str]:
        """Note the row a record makes, and the rows of what is nested in it."""
        row = given | {
            column.name: str(value)
            for column in table.columns
            if (value := _dig(record, column.paths)) is not None
        }
        taken = {path[0] for part in (table.columns, table.nested) for one in part for path in one.paths}
        self.unmapped |= {f"{table.name}.{key}" for key in record if key not in taken}
        for nested in table.nested:
            value = _dig(record, nested.paths)
            if value is not None:
                row |= self._nested(nested, value, row)
        self._note(table, row)
        return row

    def _nested(self, nested: Nested, value: Any, row: dict[str, str]) -> dict[str, str]:
        """Take the nested records; what they add to the row they are nested in."""
        entity = self.catalog.entities[nested.entity]
        if nested.kind == "one":
            other = self._take(entity, value, {})
            return {ours: other[theirs] for ours, theirs in nested.pairs}
        for item in value:
            if nested.kind == "many":
                self._take(entity, item, {theirs: row[ours] for ours, theirs in nested.pairs})
                continue
            other = self._take(entity, item, {}) if isinstance(item, dict) else {"id": item}
            link = {theirs: row[ours] for ours, theirs in nested.pairs}
            link |= {theirs: other[ours] for ours, theirs in nested.secondary_pairs}
            self._note(self.catalog.tables[nested.secondary or ""], link)
        return {}

    def _note(self, table: Table, row: dict[str, str]) -> None:
        self.stated[table.name].add(tuple(row[name] for name in table.key))
        for reference in self.catalog.references_of(table.name):
            (column,) = reference.columns
            if column in row and "fetch" in reference.policies:
                self.wanted[reference.target].add(row[column])


def _dig(record: Json, paths: tuple[tuple[str, ...], ...]) -> Any:
    for path in paths:
        value: Any = record
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def _filled(template: str, partition: dict[str, str]) -> str:
    for name, value in partition.items():
        template = template.replace(f"{{{name}}}", value)
    return template
