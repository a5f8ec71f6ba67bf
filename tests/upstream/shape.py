"""Where records stand in an answer: under a path, in groups, beside what opens other walks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ingest.paths import Path
from ingest.source import Stream
from tests.upstream.dialect import put
from tests.upstream.listing import Item, Listings
from tests.upstream.paging import Page, Pager
from tests.upstream.tokens import Place

#: the key under which a star holds everything, when no column says how to group it
EVERYTHING = "all"

Told = tuple[Item, msgspec.Raw]


def shape(listings: Listings, stream: Stream, records: list[Told]) -> Any:
    """The records where `records` says they stand; its stars are columns that `set` takes from them.

    A star walks an object whose keys are the column's values; where `set` names no column for it, a
    list if it is the path's end, and an object with one key if it is not.
    """
    columns = {int(value[1:]): column for column, value in stream.set.items() if value[1:].isdigit()}

    def place(segments: tuple[Any, ...], within: list[Told], star: int) -> Any:
        at = next((index for index, segment in enumerate(segments) if not isinstance(segment, str)), None)
        if at is None:
            return wrap(segments, [raw for _, raw in within])
        if not within:
            return {}  # where nothing is to be told, a map is not told either
        rest, column = segments[at + 1 :], columns.get(star)
        if column is None and not rest:
            return wrap(segments[:at], [raw for _, raw in within])
        groups: dict[str, list[Told]] = {}
        for item, raw in within:
            group = EVERYTHING if column is None else text(listings, stream, item, column)
            groups.setdefault(group, []).append((item, raw))
        inner = {key: place(rest, some, star + 1) if rest else some[0][1] for key, some in groups.items()}
        return wrap(segments[:at], inner)

    return place(Path(stream.records).segments, records, 1)


def text(listings: Listings, stream: Stream, item: Item, column: str) -> str:
    """A column of an item's row as an object's key."""
    return listings.text(item.table, column, listings.row(stream, item))


def wrap(segments: tuple[Any, ...], inner: Any) -> Any:
    """A value at a path."""
    for segment in reversed(segments):
        inner = {segment: inner}
    return inner


class Opener:
    """Limits the groups of a page, and tells where in another stream the rest of each is to be had."""

    def __init__(self, listings: Listings, pager: Pager) -> None:
        self.listings, self.pager = listings, pager

    def limit(self, stream: Stream, page: Page) -> dict[str, tuple[bool, str]]:
        """Keep the newest of each group: by group, whether there were more, and the token of those."""
        opens, cap = stream.opens, self.pager.paging.group_cap
        if opens is None or cap is None:
            return {}
        column = self._column(stream)
        groups: dict[str, list[Item]] = {}
        for item in page.items:
            groups.setdefault(text(self.listings, stream, item, column), []).append(item)
        kept = {item for items in groups.values() for item in items[-cap:]}
        page.items = [item for item in page.items if item in kept]
        return {
            group: (len(items) > cap, self._token(opens.stream, group, items[-cap:][0]))
            for group, items in groups.items()
        }

    def tell(self, stream: Stream, body: Any, openings: Mapping[str, tuple[bool, str]]) -> None:
        """Say in the body what `limit` found."""
        if stream.opens is None or not openings:
            return
        star = int(self._star(stream)[1:])
        for match in Path(stream.opens.at).matches(body):
            limited, token = openings[match.captures[star - 1]]
            if stream.opens.when is not None:
                put(match.value, Path(stream.opens.when).keys, limited)
            put(match.value, Path(stream.opens.start).keys, token)

    def _token(self, opened: str, group: str, oldest: Item) -> str:
        """The token that leads, in the opened stream, to what is older than the oldest item shown."""
        items = self.listings.partitions(opened)[(group,)]
        place = next(item.place for item in items if item[1:] == oldest[1:])
        return self.pager.tokens.token(Place(opened, (group,), place))

    def _star(self, stream: Stream) -> str:
        assert stream.opens is not None
        return next(value for value in stream.opens.partition.values() if value[1:].isdigit())

    def _column(self, stream: Stream) -> str:
        star = self._star(stream)
        return next(column for column, value in stream.set.items() if value == star)
