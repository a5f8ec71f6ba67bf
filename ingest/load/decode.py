"""From a page's body to statements: records found, taken apart by the models, ranked.

    page ── records (a path) ──▶ record ── entity by a discriminator ──▶ row, nested rows, sets, tombstones

A record that cannot be stored becomes a dead letter with its raw bytes; the rest of its page loads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from ingest.catalog import Catalog, Nested, Table
from ingest.engines.base import Engine
from ingest.errors import ConfigError, SetAside
from ingest.load.batch import ABSENT, Batch, Letter, MissingFact, SetOf
from ingest.load.merge import Statement, Tombstone
from ingest.load.shape import Shape, dig
from ingest.load.straight import Straight, is_of_page, of_page
from ingest.paths import Path
from ingest.source import Stream
from ingest.types import HIGHEST_VERSION, LABEL, LOWEST_VERSION, Envelope, Key, Page, read_json

_TOO_DEEP = "the record is nested too deep"


class Found(NamedTuple):
    """A record in a page: its value, what the path's stars passed, and where it lies."""

    value: Any
    captures: tuple[str, ...]
    place: tuple[str | int, ...]


class Decoder:
    """Pages of one stream, to statements of a catalog's tables."""

    def __init__(
        self,
        source: str,
        name: str,
        stream: Stream,
        catalog: Catalog,
        engine: Engine,
        mentioned: frozenset[str],
    ) -> None:
        self.source, self.name, self.stream = source, name, stream
        self._catalog, self._engine = catalog, engine
        #: tables whose records only ever come nested: a mention is all the proof of life there is
        self._mentioned = mentioned
        self._records = Path(stream.records)
        self._stated = stream.entities
        self._by = Path(stream.entities.by)
        self._shapes: dict[str, Shape] = {}
        self._entities = self._check_entities()
        self._also = tuple(
            Decoder(source, name, part, catalog, engine, mentioned) for part in stream.readings[:-1]
        )
        #: keys that are used without being stored (the discriminator)
        self.used = frozenset({self._by.text})

    def _check_entities(self) -> tuple[str, ...]:
        stated = self.stream.entities
        names = tuple(
            dict.fromkeys(name for group in (*stated.cases.values(), stated.default) for name in group)
        )
        for name in names:
            if name not in self._catalog.entities:
                raise ConfigError(
                    f"there is no entity {name!r}",
                    where=f"source {self.source}: streams.{self.name}.entity",
                    hint=f"models.py has {', '.join(sorted(self._catalog.entities))}",
                )
        return names

    def decode(self, page: Page, batch: Batch) -> None:
        """Add what the page says; its records that cannot be stored become dead letters."""
        envelope = page.envelope
        batch.asked[page.stamp] = envelope.asked
        if envelope.status >= 400:
            self._absences(page, batch, set())
            return
        straight = self._straight if envelope.walk.kind != "by_id" else None
        reader = straight.take(page, batch) if straight is not None else None
        if reader is not None:
            self.notice(batch, page.stamp, "", reader.unknown)
            return
        try:
            json = read_json(page.body or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            batch.quarantined.add(page.stamp)
            batch.letters.append(
                Letter(
                    stamp=page.stamp,
                    ordinal=-1,
                    table=None,
                    key=None,
                    raw=page.body or b"",
                    reason=str(error),
                )
            )
            return
        reading = _Reading(self, page, batch)
        letters = len(batch.letters)
        for first, found in self._parts(reading, envelope, json):
            for index, one in enumerate(found, first):
                reading.record(one, index)
        if straight is not None:
            straight.learn(json)
        # a record that became a dead letter arrived all the same, whosever it is
        if envelope.walk.kind == "by_id" and len(batch.letters) == letters:
            self._absences(page, batch, reading.keys)

    def raw_of(self, page: Page, ordinal: int) -> bytes | None:
        """The bytes of the top-level record that an ordinal lies in; None when there is none."""
        reading = _Reading(self, page, Batch(asked={page.stamp: page.envelope.asked}))
        for first, part in self._parts(reading, page.envelope, read_json(page.body or b"")):
            for index, found in enumerate(part, first):
                reading.record(found, index)
                if reading.ordinal >= ordinal:
                    return raw_record(page.body or b"", found.place)
        return None

    def _parts(self, reading: _Reading, envelope: Envelope, json: Any) -> Iterator[tuple[int, list[Found]]]:
        """The page's records kind by kind, with the index of the first; the stream's own come last."""
        first = 0
        for part in (self,) if envelope.walk.kind == "by_id" else (*self._also, self):
            reading.turn_to(part)
            found = part._find(envelope, json)
            yield first, found
            first += len(found)

    def _find(self, envelope: Envelope, json: Any) -> list[Found]:
        by_id = self.stream.by_id if envelope.walk.kind == "by_id" else None
        path = self._records if by_id is None or by_id.records is None else Path(by_id.records)
        return list(find_records(path, json))

    def _absences(self, page: Page, batch: Batch, arrived: set[Key]) -> None:
        """What a by-id answer says by leaving out a key that was asked for."""
        by_id = self.stream.by_id
        if page.envelope.walk.kind != "by_id" or by_id is None:
            return
        shape = self.shape(self._entities[0])
        state = "forbidden" if page.envelope.status in by_id.forbidden else "gone"
        for texts in msgspec.json.decode(page.envelope.partition)["by_id"]:
            stated = [texts] if isinstance(texts, str) else texts
            key = tuple(
                shape.convert(place, text) for place, text in zip(shape.key_places, stated, strict=True)
            )
            if key not in arrived:
                batch.facts.append(MissingFact(shape.table.name, key, state, page.stamp))

    @cached_property
    def _straight(self) -> Straight | None:
        """The straight way, where a record does nothing but state a row of one table."""
        stated, stream = self.stream.entities, self.stream
        if stated.cases or len(stated.default) != 1 or stream.deletes or self._also:
            return None
        shape = self.shape(stated.default[0])
        mirror, walks_a_list = (
            shape.table.mirror,
            not all(isinstance(one, str) for one in self._records.segments),
        )
        if mirror.redacts or mirror.purge or walks_a_list or not all(map(is_of_page, stream.set.values())):
            return None
        return Straight(shape, self._records.keys, stream.set)

    def entities_of(self, record: Any) -> tuple[str, ...]:
        """Which entities a record is; SetAside when the source names none for it."""
        stated = self._stated
        if not stated.cases:
            return stated.default
        kind = self._by.first(record)
        names = stated.cases.get(kind, stated.default) if isinstance(kind, str) else stated.default
        if not names and not stated.passes:
            raise SetAside(f"{stated.by}: {kind!r} is no kind of record that the source names")
        return names

    def shape(self, entity: str) -> Shape:
        """How records of an entity become rows, in this stream."""
        shape = self._shapes.get(entity)
        if shape is None:
            table = self._catalog.entities[entity]
            top = entity in self._entities
            beside = [self._catalog.entities[name] for name in self._entities] if top else []
            shape = Shape(table, self._engine, omits_null=top and self.stream.omits == "null", beside=beside)
            self._shapes[entity] = shape
        return shape

    def association(self, name: str) -> Shape:
        """How rows of an association table are made."""
        shape = self._shapes.get("\0" + name)
        if shape is None:
            shape = self._shapes["\0" + name] = Shape(
                self._catalog.tables[name], self._engine, omits_null=False
            )
        return shape

    def prefix(self, table: Table) -> str:
        """What goes before an unmapped key: nothing at a record's top, the table's name in a nested one."""
        return "" if table.entity in self._entities else f"{table.name}: "

    def notice(self, batch: Batch, stamp: int, prefix: str, keys: Iterable[str]) -> None:
        """Remember the keys that no column takes."""
        for path in keys:
            if path not in self.used:
                batch.unmapped.setdefault((self.source, self.name, f"{prefix}{path}"[:500]), stamp)

    def proves(self, table: str, *, top: bool) -> bool:
        """True when a record proves its row's life, and is no mere mention."""
        return top or table in self._mentioned


class _Reading:
    """One page being decoded: counts ordinals, and adds whole records or none of them."""

    def __init__(self, decoder: Decoder, page: Page, batch: Batch) -> None:
        self._decoder, self._page, self._batch = decoder, page, batch
        envelope = page.envelope
        self._partition: dict[str, Any] = msgspec.json.decode(envelope.partition)
        self._stream = decoder.stream
        self._by_id = envelope.walk.kind == "by_id"
        self._sets: tuple[tuple[str, str], ...] = ()
        #: of the record stated last, nested ones counted
        self.ordinal = -1
        #: keys of the top-level records
        self.keys: set[Key] = set()
        self._pending: list[tuple[Shape, Key, list[Any], int, int, bool]] = []
        self._pending_sets: list[tuple[SetOf, Key, tuple[int, int, int], set[Key]]] = []

    def turn_to(self, part: Decoder) -> None:
        """The records that follow are of this kind."""
        self._decoder, self._stream = part, part.stream
        sets = part.stream.by_id.set if self._by_id and part.stream.by_id else part.stream.set
        self._sets = tuple(sets.items())

    def record(self, found: Found, index: int) -> None:
        """One top-level record: all that it states, or a dead letter."""
        first, self._pending, self._pending_sets = self.ordinal + 1, [], []
        try:
            for entity in self._decoder.entities_of(found.value):
                self._top(self._decoder.shape(entity), found, index)
        except SetAside as error:
            self.ordinal = max(self.ordinal, first)
            self._reject(first, found, error.message)
            return
        except RecursionError:
            self.ordinal = max(self.ordinal, first)
            self._reject(first, found, _TOO_DEEP)
            return
        self._commit()

    def _top(self, shape: Shape, found: Found, index: int) -> None:
        record = found.value if isinstance(found.value, dict) else {}
        given = self._given(shape, found, index)
        if not record and not given:
            raise SetAside(f"expected an object, not {type(found.value).__name__}")
        key = self._emit(shape, record, given, top=True, version=None)
        self.keys.add(key)

    def _given(self, shape: Shape, found: Found, index: int) -> dict[int, Any]:
        """The values that the stream itself sets, by their place in the row."""
        given = {}
        for name, expression in self._sets:
            place = shape.place.get(name)
            if place is not None:
                value = self._evaluate(expression, found, index)
                if value is not ABSENT:
                    given[place] = value
        return given

    def _evaluate(self, expression: str, found: Found, index: int) -> Any:
        if is_of_page(expression):
            return of_page(expression, self._partition)
        if expression == "$value":
            return found.value
        if expression == "$id":
            asked = self._partition.get("by_id", ())
            return asked[0] if len(asked) == 1 else ABSENT
        if expression == "$position":
            return self._position(index)
        if expression[1:].isdigit() and 0 < int(expression[1:]) <= len(found.captures):
            return found.captures[int(expression[1:]) - 1]
        return ABSENT

    def _position(self, index: int) -> Any:
        """The record's place in the server's own order; known ground keeps the place it has."""
        envelope = self._page.envelope
        seam = envelope.covered.seam if envelope.covered else None
        if self._by_id or (seam is not None and index >= seam):
            return ABSENT
        within = LABEL - 1 - index if self._stream.order == "newest-first" else index
        return envelope.label * LABEL + within

    def _emit(
        self, shape: Shape, record: dict[str, Any], given: dict[int, Any], *, top: bool, version: int | None
    ) -> Key:
        """State one row, and what is nested in its record; its key."""
        self.ordinal += 1
        ordinal = self.ordinal
        plan = shape.plan(record)
        row = shape.row(plan, record, given)
        nested = [(one, dig(record, path)) for one, path in plan.nested]
        for one, value in nested:
            if one.kind == "one" and value is not ABSENT:
                self._refer(shape, one, value, row)
        shape.omit(row, frozenset(shape.place[name] for name, _ in self._sets if name in shape.place))
        key = shape.key(row)
        if version is None:
            version = self._version(shape, plan_value(shape, record, given))
        self._notice(shape, plan.unknown, record)
        self._pending.append(
            (shape, key, row, version, ordinal, self._decoder.proves(shape.table.name, top=top))
        )
        for one, value in nested:
            if value is not ABSENT and value is not None:
                self._nested(shape, one, value, row, (version, self._page.stamp, ordinal))
        return key

    @staticmethod
    def _version(shape: Shape, raw: Any) -> int:
        if shape.read_version is None or raw is ABSENT or raw is None:
            return LOWEST_VERSION
        return shape.read_version(raw)

    def _refer(self, shape: Shape, one: Nested, value: Any, row: list[Any]) -> None:
        """Set the foreign key that a nested object or its id implies; SetAside where they contradict."""
        other = self._decoder.shape(one.entity)
        for ours, theirs in one.pairs:
            place = shape.place.get(ours)
            if place is None:
                continue
            stated = _key_column(other, theirs, value)
            if stated is ABSENT:
                continue
            if row[place] is not ABSENT and row[place] != stated:
                raise SetAside(f"{ours} is {row[place]!r}, but the nested {one.name} is {stated!r}")
            row[place] = stated

    def _nested(
        self, shape: Shape, one: Nested, value: Any, row: list[Any], rank: tuple[int, int, int]
    ) -> None:
        if one.kind == "one":
            if isinstance(value, dict):
                self._mention(self._decoder.shape(one.entity), value, {}, version=None)
            return
        if not isinstance(value, list):
            raise SetAside(f"{one.name}: expected a list, not {type(value).__name__}")
        if one.kind == "association":
            self._associate(shape, one, value, row, rank)
        else:
            self._children(shape, one, value, row, rank)

    def _children(
        self, shape: Shape, one: Nested, items: list[Any], row: list[Any], rank: tuple[int, int, int]
    ) -> None:
        child = self._decoder.shape(one.entity)
        owner = {child.place[theirs]: row[shape.place[ours]] for ours, theirs in one.pairs}
        free = [place for place in child.key_places if place not in owner]
        by_index = len(free) == 1 and len(free) + len(owner) == len(child.key_places)
        complete, broken, members = one.complete, False, set()
        for index, item in enumerate(items):
            if not isinstance(item, dict):
                raise SetAside(f"{one.name}: expected objects in the list, not {type(item).__name__}")
            given = dict(owner)
            if by_index and child.table.columns[free[0]].name not in _stated(child, item):
                given[free[0]], complete = index, True
            key = self._mention(child, item, given, version=rank[0] if complete else None)
            if key is None:
                broken = True  # a dead letter is there upstream all the same, so this list proves nothing
            else:
                members.add(key)
        if complete and not broken:
            columns = tuple(theirs for _, theirs in one.pairs)
            self._pending_sets.append(
                (SetOf(child.table.name, columns), _owner(shape, one, row), rank, members)
            )

    def _associate(
        self, shape: Shape, one: Nested, items: list[Any], row: list[Any], rank: tuple[int, int, int]
    ) -> None:
        other, link = self._decoder.shape(one.entity), self._decoder.association(one.secondary or "")
        members = set()
        for item in items:
            if isinstance(item, dict):
                self._mention(other, item, {}, version=None)
            values: dict[int, Any] = {
                link.place[theirs]: row[shape.place[ours]] for ours, theirs in one.pairs
            }
            for theirs, column in one.secondary_pairs:
                values[link.place[column]] = _key_column(other, theirs, item)
            self.ordinal += 1
            linked = [values.get(place, ABSENT) for place in range(len(link.names))]
            key = link.key(linked)
            self._pending.append((link, key, linked, rank[0], self.ordinal, True))
            members.add(key)
        if one.complete:
            columns = tuple(column for _, column in one.pairs)
            self._pending_sets.append(
                (SetOf(link.table.name, columns), _owner(shape, one, row), rank, members)
            )

    def _mention(
        self, shape: Shape, record: dict[str, Any], given: dict[int, Any], *, version: int | None
    ) -> Key | None:
        """A nested record; one that cannot be stored is a dead letter of its own."""
        first, pending, sets = self.ordinal + 1, len(self._pending), len(self._pending_sets)
        try:
            return self._emit(shape, record, given, top=version is not None, version=version)
        except SetAside as error:
            del self._pending[pending:], self._pending_sets[sets:]
            self.ordinal = max(self.ordinal, first)
            self._letter(first, shape.table.name, msgspec.json.encode(record), error.message)
            return None

    def _commit(self) -> None:
        batch, stamp = self._batch, self._page.stamp
        for shape, key, row, version, ordinal, top in self._pending:
            rank = (version, stamp, ordinal)
            mirror = shape.table.mirror
            if self._stream.deletes or (
                mirror.purge and mirror.deleted and row[shape.place[mirror.deleted]] not in _UNSET
            ):
                proof = version if version != LOWEST_VERSION else HIGHEST_VERSION
                batch.bury(shape.table.name, key, Tombstone(proof, stamp, f"{self._decoder.name} {stamp}"))
                if self._stream.deletes:
                    batch.records += 1
                    batch.kept += 1
                    continue
            batch.add(shape.table.name, shape.names, key, row, rank, top=top)
            if mirror.redacts:
                self._redact(shape, key, row, ordinal)
        for of, owner, rank, members in self._pending_sets:
            batch.add_set(of, owner, rank, members)

    def _redact(self, shape: Shape, key: Key, row: list[Any], ordinal: int) -> None:
        """A record that clears or deletes another, for ever: its statement has the highest version."""
        mirror, stamp = shape.table.mirror, self._page.stamp
        target = row[shape.place[mirror.redacts or ""]]
        if target in _UNSET:
            return
        if not mirror.clears:
            self._batch.bury(
                shape.table.name, (target,), Tombstone(HIGHEST_VERSION, stamp, f"redacted {stamp}")
            )
            return
        values: dict[str, Any] = dict.fromkeys(mirror.clears)
        if mirror.redacted_by:
            values[mirror.redacted_by] = key[0]
        rank = (HIGHEST_VERSION, stamp, ordinal)
        statement = Statement((target,), values, rank, self._page.envelope.asked, top=False, implied=True)
        self._batch.add_values(shape.table.name, statement, shape.names)

    def _notice(self, shape: Shape, unknown: tuple[str, ...], record: dict[str, Any]) -> None:
        decoder = self._decoder
        keys = (*unknown, *shape.unknown_below(record))
        decoder.notice(self._batch, self._page.stamp, decoder.prefix(shape.table), keys)

    def _reject(self, ordinal: int, found: Found, reason: str) -> None:
        self._letter(ordinal, None, raw_record(self._page.body or b"", found.place), reason)

    def _letter(self, ordinal: int, table: str | None, raw: bytes, reason: str) -> None:
        self._batch.records += 1
        self._batch.rejected += 1
        self._batch.letters.append(
            Letter(stamp=self._page.stamp, ordinal=ordinal, table=table, key=None, raw=raw, reason=reason)
        )


#: what a column holds that says nothing
_UNSET = (None, ABSENT, False, 0, "")


def plan_value(shape: Shape, record: Mapping[str, Any], given: Mapping[int, Any]) -> Any:
    """The version column's JSON value in a record, or what the stream sets it to."""
    name = shape.table.mirror.version
    if name is None:
        return ABSENT
    place = shape.place[name]
    if place in given:
        return given[place]
    for path in shape.table.columns[place].paths:
        value = dig(record, path)
        if value is not ABSENT:
            return value
    return ABSENT


def _stated(shape: Shape, record: Mapping[str, Any]) -> set[str]:
    return {
        column.name
        for column in shape.table.columns
        if any(dig(record, path) is not ABSENT for path in column.paths)
    }


def _owner(shape: Shape, one: Nested, row: list[Any]) -> Key:
    return tuple(row[shape.place[ours]] for ours, _ in one.pairs)


def _key_column(shape: Shape, column: str, value: Any) -> Any:
    """A column of a nested record's key, from the object or its bare id."""
    place = shape.place[column]
    if isinstance(value, dict):
        value = next(
            (found for path in shape.table.columns[place].paths if (found := dig(value, path)) is not ABSENT),
            ABSENT,
        )
    elif isinstance(value, list):
        raise SetAside(f"{column}: expected an object or an id, not a list")
    if value is ABSENT or value is None:
        return value
    return shape.convert(place, value)


def find_records(path: Path, json: Any) -> Iterator[Found]:
    """Every record the path leads to; where it leads to a list, the list's elements."""
    yield from _descend(json, path.segments, (), ())


def _descend(
    value: Any, segments: tuple[Any, ...], captures: tuple[str, ...], place: tuple[str | int, ...]
) -> Iterator[Found]:
    for depth, segment in enumerate(segments):
        if not isinstance(segment, str):
            items = (
                value.items()
                if isinstance(value, dict)
                else enumerate(value)
                if isinstance(value, list)
                else ()
            )
            for key, inner in items:
                yield from _descend(inner, segments[depth + 1 :], (*captures, str(key)), (*place, key))
            return
        if not isinstance(value, dict) or segment not in value:
            return
        value, place = value[segment], (*place, segment)
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield Found(inner, captures, (*place, index))
    else:
        yield Found(value, captures, place)


def raw_record(body: bytes, place: tuple[str | int, ...]) -> bytes:
    """The record's own bytes, as the server sent them; the page's where it lies too deep to be cut out."""
    raw = msgspec.Raw(body)
    try:
        for step in place:
            if isinstance(step, int):
                raw = msgspec.json.decode(raw, type=list[msgspec.Raw])[step]
            else:
                raw = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])[step]
    except RecursionError:
        return body
    return bytes(raw)


def only_mentioned(streams: Mapping[str, Stream], catalog: Catalog) -> frozenset[str]:
    """Tables whose records never come by themselves."""
    stated = {name for stream in streams.values() for group in _groups(stream) for name in group}
    return frozenset(
        table.name for table in catalog.tables.values() if table.entity is None or table.entity not in stated
    )


def _groups(stream: Stream) -> Iterator[tuple[str, ...]]:
    for part in stream.readings:
        yield from part.entities.cases.values()
        yield part.entities.default
