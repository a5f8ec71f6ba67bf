"""Cut a listing into pages, in every way a source can be paginated.

Tokens stand for a place in the sorted listing and not for a number of rows, so rows that come and go
move nobody else; page numbers and offsets count rows, and shift, as they do in the world.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlencode

from ingest.source import (
    Continue,
    Cursor,
    HeaderCursor,
    Keyset,
    Link,
    NextUrl,
    Offset,
    PageNumber,
    Pagination,
)
from ingest.types import Json
from tests.upstream.listing import Item
from tests.upstream.tokens import BadRequest, Last, Place, Tokens

#: the parameter of next-page URLs that are the server's own to make
OWN_TOKEN = "page_token"


_ENDINGS: dict[str, Json] = {"null": None, "empty": ""}

#: a row that is counted and not shown
UNSHOWN = Item((), "", ())


@dataclass(frozen=True, kw_only=True, slots=True)
class Paging:
    """How a server pages, beyond what a source says of it."""

    #: records a page where the request names no limit
    default_limit: int = 10
    #: larger limits are cut to this, without a word
    cap: int = 1000
    tokens: Literal["str", "int"] = "str"
    #: what stands for the next token on the last page; stale: a token, and only `more` says the end
    end: Literal["absent", "null", "empty", "stale"] = "absent"
    #: the last full page has a token still, and an empty page without one follows
    trailing_empty: bool = False
    #: share of pages that are empty in the middle of a listing, with a next token
    empty_pages: float = 0.0
    #: share of rows that are counted and then not shown, so that numbered pages are short or empty
    filtered: float = 0.0
    #: share of records that are told twice in a page, and of pages that begin with the one before's last
    duplicates: float = 0.0
    #: records of one group in a page that opens walks; a group with more is limited to its newest
    group_cap: int | None = None
    #: the origin in next-page URLs; None: the server's own; empty: URLs are relative
    advertise: str | None = None


@dataclass(kw_only=True, slots=True)
class Page:
    """The rows of one page, and what the answer says of the next."""

    items: list[Item]
    #: (path, value) in the body
    fields: list[tuple[str, Json]] = field(default_factory=list)
    headers: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One request for a page."""

    stream: str
    partition: tuple[str, ...]
    kind: Pagination | None
    params: Mapping[str, str]
    #: the sorted listing, given the text of the `since` parameter
    select: Callable[[str | None], list[Item]]
    since: str | None
    #: the value of a keyset's key in a row, and the same of what the client sent
    key_of: Callable[[Item], Any]
    parse_key: Callable[[str], Any]
    descending: bool
    #: path and query of the request, without a page token
    path: str
    query: tuple[tuple[str, str], ...]
    origin: str
    #: answer with the token that was asked with
    ring: bool = False


class Pager:
    """Pages of listings; remembers what its tokens stand for."""

    def __init__(self, paging: Paging, seed: int = 0) -> None:
        self.paging, self.seed = paging, seed
        self.tokens = Tokens(paging.tokens)

    def page(self, asked: Asked) -> Page:
        """The page that was asked for; BadRequest where that makes no sense."""
        match asked.kind:
            case None:
                return Page(items=asked.select(asked.since))
            case PageNumber() as kind:
                return self._numbered(kind, asked)
            case Offset() as kind:
                return self._offset(kind, asked)
            case Keyset() as kind:
                return self._keyset(kind, asked)
            case Cursor(tail=True) as kind:
                return self._tail(kind, asked)
            case Cursor() | HeaderCursor() | Link() | NextUrl() | Continue() as kind:
                return self._tokened(kind, asked)

    # -- counted -----------------------------------------------------------------------------------------

    def _numbered(self, kind: PageNumber, asked: Asked) -> Page:
        limit = self._limit(kind, asked)
        start = (_integer(asked.params.get(kind.param), kind.first) - kind.first) * limit
        items = self._counted(kind, asked)
        page = self._cut(items, start, start + limit)
        _say(page, kind.pages, -(-len(items) // limit))
        _say(page, kind.total, len(items))
        _say(page, kind.more, start + limit < len(items))
        return page

    def _offset(self, kind: Offset, asked: Asked) -> Page:
        limit = self._limit(kind, asked)
        start = _integer(asked.params.get(kind.param), kind.first) - kind.first
        items = self._counted(kind, asked)
        page = self._cut(items, start, start + limit)
        _say(page, kind.total, len(items))
        _say(page, kind.more, start + limit < len(items))
        if start + limit < len(items):
            offset = start + limit + kind.first
            _say(page, kind.next, str(offset) if self.paging.tokens == "str" else offset)
        elif self.paging.end == "null":
            _say(page, kind.next, None)
        return page

    def _counted(self, kind: PageNumber | Offset, asked: Asked) -> list[Item]:
        """The listing, and in it what the server counts but filters out after paging."""
        items = asked.select(asked.since)
        if not self.paging.filtered or kind.end == "empty":
            return items
        shares = [self._chance("filtered", item.place) < self.paging.filtered for item in items]
        return [
            one
            for item, also in zip(items, shares, strict=True)
            for one in ((UNSHOWN, item) if also else (item,))
        ]

    def _keyset(self, kind: Keyset, asked: Asked) -> Page:
        limit, items = self._limit(kind, asked), asked.select(asked.since)
        keys = [asked.key_of(item) for item in items]
        start = 0
        if text := asked.params.get(kind.param):
            known = _parsed(asked.parse_key, text)
            beyond = (
                k is None or k < known if asked.descending else k is not None and k > known for k in keys
            )
            start = next((index for index, passed in enumerate(beyond) if passed), len(items))
        end = start + limit
        while 0 < end < len(items) and keys[end] == keys[end - 1]:
            end += 1  # a page that ended among equal keys would lose the rest of them
        page = self._cut(items, start, end)
        _say(page, kind.more, end < len(items))
        return page

    # -- by token ----------------------------------------------------------------------------------------

    def _tokened(self, kind: Cursor | HeaderCursor | Link | NextUrl | Continue, asked: Asked) -> Page:
        place = self._asked_place(_token_of(kind, asked.params), asked)
        items = asked.select(place.since)
        start = 0 if place.after is None else bisect_right(items, place.after, key=lambda item: item.place)
        end = start + self._limit(kind, asked)
        following: Place | None = None
        if not place.hole and start < len(items) and self._chance("hole", place) < self.paging.empty_pages:
            page, following = Page(items=[]), place._replace(hole=True)
        else:
            page = self._cut(items, start, end)
            if end < len(items) or (self.paging.trailing_empty and start < len(items)):
                following = place._replace(after=items[min(end, len(items)) - 1].place, hole=False)
        self._lead_on(kind, page, place if asked.ring and place.after else following, asked)
        if isinstance(kind, Cursor) and kind.more is not None:
            _say(page, kind.more, following is not None)
        return page

    def _tail(self, kind: Cursor, asked: Asked) -> Page:
        place = self._asked_place(asked.params.get(kind.param), asked)
        items = asked.select(None)
        start = 0 if place.after is None else bisect_right(items, place.after, key=lambda item: item.place)
        whole = self.paging.group_cap is not None  # it is the groups that are limited, not the page
        end = len(items) if whole else min(start + self._limit(kind, asked), len(items))
        page = self._cut(items, start, end)
        after = items[end - 1].place if end > start else place.after
        _say(page, kind.next, self._json(self.tokens.token(place._replace(after=after))))
        _say(page, kind.more, end < len(items))
        return page

    def _asked_place(self, token: str | None, asked: Asked) -> Place:
        if not token:
            return Place(asked.stream, asked.partition, None, asked.since)
        place = self.tokens.place(token)
        if place[:2] != (asked.stream, asked.partition):
            raise BadRequest("the page token is of another listing")
        return place

    def _lead_on(self, kind: Any, page: Page, following: Place | None, asked: Asked) -> None:
        """Say where the next page is, or that there is none."""
        if following is None:
            if isinstance(kind, Cursor | NextUrl) and self.paging.end in _ENDINGS:
                _say(page, kind.next, _ENDINGS[self.paging.end])
            if not isinstance(kind, Cursor) or kind.more is None or self.paging.end != "stale":
                return
            following = Place(asked.stream, asked.partition, (Last(),), asked.since)
        token = self.tokens.token(following)
        match kind:
            case Cursor():
                _say(page, kind.next, self._json(token))
            case HeaderCursor():
                page.headers.append((kind.next, token))
            case Continue():
                _say(page, kind.next, {"continue": "-||", OWN_TOKEN: self._json(token)})
            case NextUrl():
                _say(page, kind.next, self._url(token, asked))
            case Link():
                others = f'<{self._url("first", asked)}>; rel="first", '
                page.headers.append(
                    ("Link", f'{others}<{self._url(token, asked)}>; title="a, b"; rel="next"')
                )

    def _url(self, token: str, asked: Asked) -> str:
        origin = asked.origin if self.paging.advertise is None else self.paging.advertise
        return f"{origin}{asked.path}?{urlencode((*asked.query, (OWN_TOKEN, token)))}"

    def _json(self, token: str) -> Json:
        return int(token) if self.paging.tokens == "int" else token

    # -- the page ----------------------------------------------------------------------------------------

    def _limit(self, kind: Pagination, asked: Asked) -> int:
        limit = _integer(asked.params.get(kind.limit_param), self.paging.default_limit)
        if limit < 1:
            raise BadRequest("a page holds at least one record")
        return min(limit, self.paging.cap)

    def _cut(self, items: list[Item], start: int, end: int) -> Page:
        if start < 0:
            raise BadRequest("before the first page")
        cut = [item for item in items[start:end] if item is not UNSHOWN]
        if self.paging.duplicates:
            cut = [twin for item in cut for twin in self._twins(item)]
            if (
                0 < start < len(items)
                and items[start - 1] is not UNSHOWN
                and self._chance("seam", items[start].place) < self.paging.duplicates
            ):
                cut.insert(0, items[start - 1])
        return Page(items=cut)

    def _twins(self, item: Item) -> list[Item]:
        return [item] * (2 if self._chance("twin", item.place) < self.paging.duplicates else 1)

    def _chance(self, *of: Any) -> float:
        return zlib.crc32(repr((self.seed, of)).encode()) / 2**32


def _token_of(kind: Any, params: Mapping[str, str]) -> str | None:
    if isinstance(kind, Cursor | HeaderCursor):
        return params.get(kind.param)
    if isinstance(kind, Continue) and (OWN_TOKEN in params) != (params.get("continue") == "-||"):
        raise BadRequest("a continue is sent back whole")
    return params.get(OWN_TOKEN)


def _say(page: Page, path: str | None, value: Json) -> None:
    if path is not None:
        page.fields.append((path, value))


def _integer(text: str | None, default: int) -> int:
    return default if text is None else _parsed(int, text)


def _parsed(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except (ValueError, ArithmeticError):
        raise BadRequest(f"{text!r} cannot be read") from None
