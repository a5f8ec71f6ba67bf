"""One page taken apart: records, what is nested in them, sets, tombstones, dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ingest.catalog import Nested
from ingest.errors import SetAside
from ingest.load.batch import ABSENT, Batch, Letter, SetOf
from ingest.load.found import Found, raw_record
from ingest.load.merge import Statement, Tombstone
from ingest.load.shape import Shape, dig
from ingest.load.straight import is_of_page, of_page
from ingest.types import HIGHEST_VERSION, LABEL, LOWEST_VERSION, Key, Page, is_sound

if TYPE_CHECKING:
    from ingest.load.decode import Decoder

_TOO_DEEP = "the record is nested too deep"


class Reading:
    """One page being decoded: counts ordinals, and adds whole records or none of them."""

    def __init__(self, decoder: Decoder, page: Page, batch: Batch, *, sound: bool = True) -> None:
        #: `sound`: the page has nothing in it that JSON has no word for
        self._decoder, self._page, self._batch = decoder, page, batch
        self._sound = sound
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
            if not self._holdable(found):
                raise SetAside("NaN, a number out of range or half a character, which no database can hold")
            for entity in self._decoder.entities_of(found.value):
                self._top(self._decoder.shape(entity), found, index)
        except SetAside as error:
            self.ordinal = max(self.ordinal, first)
            self._reject(first, found, index, error.message)
            return
        except RecursionError:
            self.ordinal = max(self.ordinal, first)
            self._reject(first, found, index, _TOO_DEEP)
            return
        self._commit()

    def _holdable(self, found: Found) -> bool:
        """False for a record with something in it that JSON has no word for, and no database a place."""
        return self._sound or (is_sound(found.value) and is_sound(list(found.captures)))

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

    def _reject(self, ordinal: int, found: Found, index: int, reason: str) -> None:
        table, key = self._identity(found, index)
        self._letter(ordinal, table, raw_record(self._page.body or b"", found), reason, key=key)

    def _identity(self, found: Found, index: int) -> tuple[str | None, Key | None]:
        """The table and key of a record that cannot be stored, as far as they can be told."""
        try:
            if not self._holdable(found):
                return None, None
            entities = self._decoder.entities_of(found.value)
            if len(entities) != 1:
                return None, None
            shape = self._decoder.shape(entities[0])
        except (SetAside, RecursionError):
            return None, None
        try:
            record = found.value if isinstance(found.value, dict) else {}
            return shape.table.name, shape.key_of(record, self._given(shape, found, index))
        except (SetAside, RecursionError):
            return shape.table.name, None

    def _letter(
        self, ordinal: int, table: str | None, raw: bytes, reason: str, *, key: Key | None = None
    ) -> None:
        self._batch.records += 1
        self._batch.rejected += 1
        self._batch.letters.append(
            Letter(stamp=self._page.stamp, ordinal=ordinal, table=table, key=key, raw=raw, reason=reason)
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
