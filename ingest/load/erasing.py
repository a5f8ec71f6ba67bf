"""A page's body without what its records say of one row, beyond its key.

    body ──▶ records, as they are read ──▶ the row's own ──▶ all goes that no other row takes ──▶ body

What stays of such a record is the row's key, what tells its kind, what is nested in it (records of other
rows, which are erased by their own keys), what it redacts, and its version where lists are ranked by it. So
every other row is stated as before: by the same ordinals, with the same values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ingest.catalog import Nested
from ingest.errors import SetAside
from ingest.load.batch import ABSENT, Batch
from ingest.load.found import Found, read_body
from ingest.load.reading import Reading
from ingest.load.shape import Shape, dig
from ingest.types import Key, Page

if TYPE_CHECKING:
    from ingest.load.decode import Decoder

#: what comes of a value that no column takes, or that no key is
_UNFIT = (SetAside, ValueError, ArithmeticError, TypeError, RecursionError)


class Reduced(NamedTuple):
    """What a page says of a row, and its body without that."""

    #: records of the row that stand in it
    records: int = 0
    #: the body without what they say beyond the key; None where they say nothing beyond it
    body: bytes | None = None
    #: what they said, as JSON values
    said: tuple[Any, ...] = ()
    #: False for a body that says nothing to a mirror: it cannot be read, or is an error's
    read: bool = True


def reduced(decoder: Decoder, page: Page, table: str, key: Key) -> Reduced:
    """What a page says of a row, and its body without that."""
    if page.body is None:
        return Reduced()
    if page.envelope.status >= 400:
        return Reduced(read=False)
    try:
        value, sound = read_body(page.body)
        standing = _Standing(decoder, page, sound=sound)
        standing.look(value)
        mine = [one for one in standing.records if one.shape.table.name == table and one.key == key]
        if not mine:
            return Reduced()
        said = standing.reduce(mine)
        # what JSON has no word for is written as it was read
        body = msgspec.json.encode(value) if sound else json.dumps(value).encode()
    except (ValueError, RecursionError):
        return Reduced(read=False)
    return Reduced(len({id(one.record) for one in mine}), body if said else None, tuple(said))


class _Stands(NamedTuple):
    """A record that is, or was to be, a row."""

    shape: Shape
    record: dict[str, Any]
    #: None where it states none
    key: Key | None


class _Standing(Reading):
    """A page being read for whose records stand where: those that are set aside are looked into, too."""

    def __init__(self, decoder: Decoder, page: Page, *, sound: bool) -> None:
        super().__init__(decoder, page, Batch(asked={page.stamp: page.envelope.asked}), sound=sound)
        self._whole = decoder
        self.records: list[_Stands] = []
        #: the members of objects that stay, by the object and its key: with all below them, or in part
        self._kept: set[tuple[int, str]] = set()
        self._led_through: set[tuple[int, str]] = set()

    def look(self, value: Any) -> None:
        """Go through the page's records."""
        for first, found in self._whole.parts(self, self._page.envelope, value):
            for index, one in enumerate(found, first):
                self.record(one, index)
                self._keep_path(one.value, self._decoder.discriminator)

    def reduce(self, mine: list[_Stands]) -> list[Any]:
        """Take out of these records what no other row takes; what that was."""
        own = {id(one) for one in mine}
        for one in self.records:
            if id(one) in own:
                self._keep_key(one)
            else:
                self._keep_row(one)
        return [said for one in mine for said in self._take_out(one.record)]

    def _take_out(self, record: dict[str, Any]) -> Iterator[Any]:
        for key in list(record):
            if (id(record), key) in self._kept:
                continue
            if (id(record), key) in self._led_through and isinstance(record[key], dict):
                yield from self._take_out(record[key])
            else:
                yield record.pop(key)

    # -- whose records they are --------------------------------------------------------------------

    def _emit(
        self, shape: Shape, record: dict[str, Any], given: dict[int, Any], *, top: bool, version: int | None
    ) -> Key:
        try:
            key = super()._emit(shape, record, given, top=top, version=version)
        except (SetAside, RecursionError):
            self._search(shape, record, given)
            raise
        self.records.append(_Stands(shape, record, key))
        return key

    def _reject(self, ordinal: int, found: Found, index: int, reason: str) -> None:
        super()._reject(ordinal, found, index, reason)
        with suppress(*_UNFIT):
            record = found.value if isinstance(found.value, dict) else {}
            for entity in self._decoder.entities_of(found.value):
                shape = self._decoder.shape(entity)
                self._search(shape, record, self._given(shape, found, index))

    def _search(self, shape: Shape, record: dict[str, Any], given: dict[int, Any]) -> None:
        """Look into a record that is set aside: it may be the row's, and so may be what is nested in it."""
        key = None
        with suppress(*_UNFIT):
            key = shape.key_of(record, given)
        self.records.append(_Stands(shape, record, key))
        with suppress(*_UNFIT):
            for one, path in shape.plan(record).nested:
                value = dig(record, path)
                other = self._decoder.shape(one.entity)
                for index, item in enumerate(value if isinstance(value, list) else [value]):
                    if isinstance(item, dict):
                        inner = self._belonging(shape, one, record, given, item, index)
                        self._search(other, item, inner if one.kind == "many" else {})

    def _belonging(
        self,
        shape: Shape,
        one: Nested,
        record: dict[str, Any],
        given: dict[int, Any],
        item: dict[str, Any],
        index: int,
    ) -> dict[int, Any]:
        """What a record in a list takes from the one around it, and from its place."""
        child, owner = self._decoder.shape(one.entity), dict[int, Any]()
        for ours, theirs in one.pairs:
            place = shape.place[ours]
            value = given.get(place, _stated(shape, place, record))
            if value is not ABSENT and theirs in child.place:
                owner[child.place[theirs]] = value
        free = [place for place in child.key_places if place not in owner]
        if len(free) == 1 and _stated(child, free[0], item) is ABSENT:
            owner[free[0]] = index
        return owner

    # -- what stays --------------------------------------------------------------------------------

    def _keep_row(self, one: _Stands) -> None:
        """All that another row takes of a record stays."""
        plan = one.shape.plan(one.record)
        for path in (*((key,) for _, key, _, _ in plan.simple), *(path for _, path in plan.deep)):
            self._keep_path(one.record, path, below=True)
        for _, path in plan.nested:
            self._keep_path(one.record, path)

    def _keep_key(self, one: _Stands) -> None:
        """Of the row's own record stays what other rows need."""
        shape, record, mirror = one.shape, one.record, one.shape.table.mirror
        nested = [(each, path, dig(record, path)) for each, path in shape.plan(record).nested]
        columns = {*shape.table.key, *filter(None, [mirror.redacts])}
        for each, path, value in nested:
            implied = each.kind == "one" and any(ours in shape.table.key for ours, _ in each.pairs)
            if isinstance(value, dict | list) or implied:
                self._keep_path(record, path)
            if each.kind != "one":
                columns |= {ours for ours, _ in each.pairs if ours in shape.place}
                columns |= set(filter(None, [mirror.version]))
        for name in columns:
            for path in shape.table.columns[shape.place[name]].paths:
                if dig(record, path) is not ABSENT:
                    self._keep_path(record, path, below=True)
                    break

    def _keep_path(self, value: Any, path: tuple[str, ...], *, below: bool = False) -> None:
        """What a path leads to stays; `below`: with all that is in it, whosever record that is."""
        for depth, key in enumerate(path, 1):
            if not isinstance(value, dict) or key not in value:
                return
            (self._kept if depth == len(path) else self._led_through).add((id(value), key))
            value = value[key]
        if below:
            self._keep_below(value)

    def _keep_below(self, value: Any) -> None:
        if isinstance(value, dict):
            self._kept.update((id(value), key) for key in value)
        if isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                self._keep_below(inner)


def _stated(shape: Shape, place: int, record: dict[str, Any]) -> Any:
    """What a record has under any of a column's paths; ABSENT where it has nothing."""
    said = (dig(record, path) for path in shape.table.columns[place].paths)
    return next((one for one in said if one is not ABSENT), ABSENT)
