"""Which rows a stream lists, in which partition, and in which order."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import total_ordering
from typing import Any, Literal, NamedTuple

from ingest.errors import ConfigError
from ingest.paths import Path
from ingest.source import Source, Stream
from ingest.types import Json, Key
from tests.upstream.api import Api
from tests.upstream.models import Reference, Row

#: the order of a stream that declares none; the other two go by arrival
Order = Literal["shuffled", "newest-first", "oldest-first"]
#: the parameter that bounds a walk which a page opened; what names it is only sent where there is a bound
UNTIL = "until"
#: how the rows of a parent are found: a column of theirs, or a function of the parent's row
Link = str | Callable[[Row], list[Row]]
Values = tuple[str, ...]


class Item(NamedTuple):
    """A row in a listing; `place` is unique and sorts as the listing does."""

    place: tuple[Any, ...]
    table: str
    key: Key


@total_ordering
class Down:
    """A value that sorts the other way round."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Down) and bool(self.value == other.value)

    def __lt__(self, other: Down) -> bool:
        return bool(other.value < self.value)

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return f"Down({self.value!r})"


class Listings:
    """The rows of every stream's every partition, as the truth stands."""

    def __init__(
        self, api: Api, *, order: Order = "shuffled", links: Mapping[str, Link] | None = None, seed: int = 0
    ):
        self.api, self.models, self.truth = api, api.models, api.truth
        self.source: Source = api.source
        self.order, self.links, self.seed = order, dict(links or {}), seed
        self._edition = api.edition
        self._partitions: dict[str, dict[Values, list[Item]]] = {}
        self._indexes: dict[tuple[str, str, tuple[str, ...]], dict[Key, list[Row]]] = {}

    def partitions(self, name: str) -> dict[Values, list[Item]]:
        """The stream's partitions by the values of its parameters, each sorted."""
        self._refresh()
        if name not in self._partitions:
            found: dict[Values, set[Item]] = {}
            for values, items in self._grouped(name, self.source.streams[name]):
                found.setdefault(values, set()).update(items)
            self._partitions[name] = {values: sorted(items) for values, items in found.items()}
        return self._partitions[name]

    def by_text(self, name: str, table: str, columns: tuple[str, ...], texts: Values) -> list[Row]:
        """The stream's rows whose columns stand in a URL as these texts."""
        self._refresh()
        return self._where(name, table, columns, self.text).get(texts, [])

    def row(self, stream: Stream, item: Item) -> Row:
        """The row of an item: of a stream of deletions, as it was."""
        row = (
            self.truth.deleted(item.table)[item.key]
            if stream.deletes
            else self.truth.get(item.table, item.key)
        )
        assert row is not None
        return row

    def _refresh(self) -> None:
        if self._edition != self.api.edition:
            self._partitions.clear()
            self._indexes.clear()
            self._edition = self.api.edition

    # -- partitions --------------------------------------------------------------------------------------

    def _grouped(self, name: str, stream: Stream) -> Iterator[tuple[Values, list[Item]]]:
        if stream.each is not None:
            yield from self._of_parents(name, stream, stream.each)
        elif parameters(stream):
            yield from self._of_openers(name, stream)
        else:
            yield (
                (),
                [
                    self.item(name, table, row)
                    for table in self.primaries(stream)
                    for row in self._rows(stream, table)
                ],
            )

    def _of_parents(self, name: str, stream: Stream, each: str) -> Iterator[tuple[Values, list[Item]]]:
        parent = self.source.streams[each]
        for outer, items in list(self.partitions(each).items()):
            inherited = dict(zip(parameters(parent), outer, strict=True))
            for item in items:
                record = self.api.record(parent, item.table, item.key)
                if stream.when is not None and not Path(stream.when).first(record):
                    continue
                given = {p: _parameter(p, each, record, inherited) for p in parameters(stream)}
                row = self.truth.get(item.table, item.key)
                assert row is not None
                rows = self._children(name, stream, item.table, row, given)
                yield tuple(given.values()), [self.item(name, table, one) for table, one in rows]

    def _of_openers(self, name: str, stream: Stream) -> Iterator[tuple[Values, list[Item]]]:
        """A stream that is only opened: its parameters are columns that the opener's stars tell."""
        opener = next(s for s in self.source.streams.values() if s.opens and s.opens.stream == name)
        assert opener.opens is not None
        stars = {value: column for column, value in opener.set.items()}
        columns = [stars[opener.opens.partition[parameter]] for parameter in parameters(stream)]
        for table in self.primaries(stream):
            for row in self._rows(stream, table):
                yield (
                    tuple(self.text(table, column, row) for column in columns),
                    [self.item(name, table, row)],
                )

    def _children(
        self, name: str, stream: Stream, table: str, parent: Row, given: Mapping[str, str]
    ) -> Iterator[tuple[str, Row]]:
        link = self.links.get(name)
        told = {
            c: v.removeprefix("$partition.") for c, v in stream.set.items() if v.startswith("$partition.")
        }
        for child in self.primaries(stream):
            if callable(link):
                rows = link(parent)
            elif link is None and told:
                wanted: Key = tuple(given[parameter] for parameter in told.values())
                rows = self._where(name, child, tuple(told), self.text).get(wanted, [])
            else:
                rows = self._linked(name, child, table, link, parent)
            yield from ((child, row) for row in rows)

    def _linked(self, name: str, child: str, table: str, link: str | None, parent: Row) -> list[Row]:
        """The rows to which the one foreign key between two tables leads, or the one table between them."""
        down = [
            r.pairs for r in self.models.references(child) if r.target == table and link in (None, *r.columns)
        ]
        up = [_turned(r.pairs) for r in self.models.references(table) if r.target == child]
        if len(found := down or up) == 1:
            columns, wanted = (
                tuple(ours for ours, _ in found[0]),
                tuple(parent[theirs] for _, theirs in found[0]),
            )
            return self._where(name, child, columns, self._value).get(wanted, [])
        between = [
            (ours, theirs)
            for other in self.models.tables
            for ours in self.models.references(other)
            for theirs in self.models.references(other)
            if ours.target == table and theirs.target == child and ours != theirs
        ]
        if found or len(between) != 1:
            raise ConfigError(
                f"{len(found) or len(between)} ways lead from {table} to {child}",
                where=f"streams.{name}",
                hint=f'say which: links={{"{name}": "column"}}, or a function of the parent\'s row',
            )
        return self._between(name, child, parent, *between[0])

    def _between(self, name: str, child: str, parent: Row, ours: Reference, theirs: Reference) -> list[Row]:
        """The rows to which an association leads from a parent."""
        index = self._where(name, child, theirs.target_columns, self._value)
        wanted = tuple(parent[column] for column in ours.target_columns)
        links = self.truth.matching(ours.table, ours.columns, wanted)
        return [
            row for link in links for row in index.get(tuple(link[column] for column in theirs.columns), [])
        ]

    def _where(
        self, name: str, table: str, columns: tuple[str, ...], read: Callable[[str, str, Row], Any]
    ) -> dict[Key, list[Row]]:
        """The stream's rows by the values of columns; read once for as long as the truth stands."""
        if (name, table, columns) not in self._indexes:
            index: dict[Key, list[Row]] = {}
            for row in self._rows(self.source.streams[name], table):
                index.setdefault(tuple(read(table, column, row) for column in columns), []).append(row)
            self._indexes[name, table, columns] = index
        return self._indexes[name, table, columns]

    def _value(self, _: str, column: str, row: Row) -> Any:
        return row[column]

    # -- rows --------------------------------------------------------------------------------------------

    def primaries(self, stream: Stream) -> tuple[str, ...]:
        """The tables whose rows make records; an entity after the first of a case only adds to one."""
        entities = stream.entities
        names = dict.fromkeys(case[0] for case in (*entities.cases.values(), entities.default) if case)
        return tuple(dict.fromkeys(self.models.entities[name].table for name in names))

    def _rows(self, stream: Stream, table: str) -> Iterator[Row]:
        constants = {column: value for column, value in stream.set.items() if not value.startswith("$")}
        rows = self.truth.deleted(table).values() if stream.deletes else self.truth.rows(table)
        for row in rows:
            if self.api.conceals(table, self.models.key(table, row)):
                continue
            if all(self.text(table, column, row) == value for column, value in constants.items()):
                yield row

    def text(self, table: str, column: str, row: Row) -> str:
        """A column's value as it stands in a URL or as an object's key."""
        return in_url(self.api.spelling.scalar(self.models.column(table, column), row[column]))

    # -- order -------------------------------------------------------------------------------------------

    def item(self, name: str, table: str, row: Row) -> Item:
        """The row in its place: by the stream's order, then by chance, so that ties stand in no order."""
        key = self.models.key(table, row)
        chance = zlib.crc32(repr((self.seed, table, key)).encode())
        return Item((*self._sorting(name, table, key, row), chance, repr(key)), table, key)

    def _sorting(self, name: str, table: str, key: Key, row: Row) -> tuple[Any, ...]:
        stream = self.source.streams[name]
        path = keyset(stream) or (stream.key if stream.order else None)
        if self.by_change(name):
            number: Any = self.truth.changed(table, key)
        elif path is not None:
            value = row[self.api.spelling.column_at(table, path).name]
            number = (value is not None, 0 if value is None else value)
        elif self.order_of(stream) == "shuffled":
            return ()
        else:
            number = self.truth.arrived(table, key)
        return (Down(number),) if self.order_of(stream) == "newest-first" else (number,)

    def order_of(self, stream: Stream) -> str:
        """The order that the stream declares, else what it was given."""
        if stream.order is not None or keyset(stream):
            return stream.order or "oldest-first"
        return "oldest-first" if getattr(stream.paginate, "tail", False) else self.order

    def by_change(self, name: str) -> bool:
        """Whether the stream is a log: it goes on from its last token, or a log opens walks in it."""
        stream = self.source.streams[name]
        opened = any(other.opens and other.opens.stream == name for other in self.source.streams.values())
        return opened or bool(getattr(stream.paginate, "tail", False))


def parameters(stream: Stream) -> tuple[str, ...]:
    """The parameters whose values make a partition."""
    return tuple(name for name in stream.parameters if name != UNTIL)


def keyset(stream: Stream) -> str | None:
    """The path of the key that a stream pages by, when it pages by one."""
    return getattr(stream.paginate, "key", None)


def in_url(value: Json) -> str:
    """A JSON scalar as text in a URL."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _turned(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((theirs, ours) for ours, theirs in pairs)


def _parameter(name: str, each: str, record: dict[str, Json], inherited: Mapping[str, str]) -> str:
    head, _, rest = name.partition(".")
    if head == each and rest:
        return in_url(Path(rest).first(record))
    if name in inherited:
        return inherited[name]
    raise ConfigError(f"{{{name}}} is neither of the parent's record nor of its partition")
