"""From a page's body to statements: records found, taken apart by the models, ranked.

    page ── records (a path) ──▶ record ── entity by a discriminator ──▶ row, nested rows, sets, tombstones

A record that cannot be stored becomes a dead letter with its raw bytes; the rest of its page loads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import takewhile
from typing import Any

import msgspec

from ingest.catalog import Catalog, Table
from ingest.errors import ConfigError, SetAside
from ingest.load.batch import Batch, Letter, MissingFact
from ingest.load.found import Found, find_records, raw_record, read_body
from ingest.load.merge import Tombstone
from ingest.load.reading import Reading
from ingest.load.shape import Shape
from ingest.load.straight import Straight, is_of_page
from ingest.load.sweeps import Swept
from ingest.paths import Path
from ingest.source import Stream
from ingest.types import HIGHEST_VERSION, Envelope, Key, Page
from ingest.withheld import BY_ID


class Decoder:
    """Pages of one stream, to statements of a catalog's tables."""

    def __init__(
        self,
        source: str,
        name: str,
        stream: Stream,
        catalog: Catalog,
        mentioned: frozenset[str],
    ) -> None:
        self.source, self.name, self.stream = source, name, stream
        self._catalog = catalog
        #: tables whose records only ever come nested: a mention is all the proof of life there is
        self._mentioned = mentioned
        self._records = Path(stream.records)
        self._stated = stream.entities
        self._by = Path(stream.entities.by)
        self._shapes: dict[str, Shape] = {}
        self._entities = self._check_entities()
        self._also = tuple(Decoder(source, name, part, catalog, mentioned) for part in stream.readings[:-1])
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
        if self._swept is not None:
            self._swept.note(page.stamp, envelope, batch)
        if envelope.status >= 400:
            self._absences(page, batch, set())
            return
        straight = self._straight if envelope.walk.kind != "by_id" else None
        reader = straight.take(page, batch) if straight is not None else None
        if reader is not None:
            self.notice(batch, page.stamp, "", reader.unknown)
            return
        try:
            json, sound = read_body(page.body or b"")
        except (ValueError, RecursionError) as error:
            self.set_aside(page, batch, str(error))
            return
        reading = Reading(self, page, batch, sound=sound)
        letters = len(batch.letters)
        for first, found in self.parts(reading, envelope, json):
            for index, one in enumerate(found, first):
                reading.record(one, index)
        if straight is not None and sound:
            straight.learn(json)
        # a record that became a dead letter arrived all the same, whosever it is
        if envelope.walk.kind == "by_id" and len(batch.letters) == letters:
            self._absences(page, batch, reading.keys)

    def set_aside(self, page: Page, batch: Batch, reason: str) -> None:
        """Quarantine a page: all of it is one dead letter."""
        batch.asked[page.stamp] = page.envelope.asked
        batch.quarantined.add(page.stamp)
        batch.letters.append(
            Letter(stamp=page.stamp, ordinal=-1, table=None, key=None, raw=page.body or b"", reason=reason)
        )

    def raw_of(self, page: Page, ordinal: int) -> bytes | None:
        """The bytes of the top-level record that an ordinal lies in; None when there is none."""
        json, sound = read_body(page.body or b"")
        reading = Reading(self, page, Batch(asked={page.stamp: page.envelope.asked}), sound=sound)
        for first, part in self.parts(reading, page.envelope, json):
            for index, found in enumerate(part, first):
                reading.record(found, index)
                if reading.ordinal >= ordinal:
                    return raw_record(page.body or b"", found)
        return None

    def parts(self, reading: Reading, envelope: Envelope, json: Any) -> Iterator[tuple[int, list[Found]]]:
        """The page's records kind by kind, with the index of the first; the stream's own come last."""
        first = 0
        for part in (self,) if envelope.walk.kind == "by_id" else (*self._also, self):
            reading.turn_to(part)
            found = part._find(envelope, json)
            yield first, found
            first += len(found)

    @property
    def discriminator(self) -> tuple[str, ...]:
        """The keys that lead to what tells a record's kind, up to a list; none where nothing does."""
        plain = takewhile(lambda segment: isinstance(segment, str), self._by.segments)
        return tuple(map(str, plain)) if self._stated.cases else ()

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
        asked = []
        for texts in msgspec.json.decode(page.envelope.partition)["by_id"]:
            stated = [texts] if isinstance(texts, str) else texts
            asked.append(
                tuple(
                    shape.convert(place, text) for place, text in zip(shape.key_places, stated, strict=True)
                )
            )
        if not arrived <= set(asked):
            return  # a server that answers with what nobody asked for does not say what it has not got
        for key in asked:
            if key not in arrived:
                batch.facts.append(MissingFact(shape.table.name, key, state, page.stamp))
                if state == "gone":
                    proof = Tombstone(HIGHEST_VERSION, page.stamp, f"{BY_ID}{page.stamp}")
                    batch.bury(shape.table.name, key, proof)

    @property
    def tables(self) -> set[str]:
        """The tables that the source's models have."""
        entities = [table.name for table in self._catalog.entities.values()]
        return {name for one in entities for name in self._catalog.stated_with(one)}

    @property
    def proves_deletes(self) -> bool:
        """True when a page of the stream may prove that a row was deleted."""
        tables = {
            name
            for part in (*self._also, self)
            for entity in part._entities
            for name in self._catalog.stated_with(self._catalog.entities[entity].name)
        }
        mirrors = [self._catalog.tables[name].mirror for name in tables]
        return self.stream.deletes or any(
            (one.purge and one.deleted) or (one.redacts and not one.clears) for one in mirrors
        )

    @cached_property
    def _swept(self) -> Swept | None:
        """What its listings are of, where they may prove what they leave out to be deleted."""
        if not self.stream.sweep:
            return None
        return Swept(self.shape(self.stream.entities.default[0]), self.stream.set)

    @cached_property
    def _straight(self) -> Straight | None:
        """The straight way, where a record does nothing but state a row of one table."""
        stated, stream = self.stream.entities, self.stream
        if stated.cases or len(stated.default) != 1 or stream.deletes or self._also:
            return None
        shape, path = self.shape(stated.default[0]), self._records
        if shape.table.mirror.redacts or shape.table.mirror.purge:
            return None
        if path.has_stars or not all(map(is_of_page, stream.set.values())):
            return None
        return Straight(shape, path.keys, stream.set)

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
            shape = Shape(table, omits_null=top and self.stream.omits == "null", beside=beside)
            self._shapes[entity] = shape
        return shape

    def association(self, name: str) -> Shape:
        """How rows of an association table are made."""
        shape = self._shapes.get("\0" + name)
        if shape is None:
            shape = self._shapes["\0" + name] = Shape(self._catalog.tables[name], omits_null=False)
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
