"""The values that pass between rooms: pages and their envelopes, ranks, reports.

Everything here is frozen. What is stored (envelopes, in the page log and in fixtures) is a msgspec
struct, so that its JSON form is its definition.
"""

from __future__ import annotations

import gc
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

#: digits of an integer that is read as one
_LONGEST_INTEGER = 4000
#: halves of characters, which UTF-8 has no place for
_HALVES = re.compile("[\ud800-\udfff]")

#: makes a value of a body
Read: TypeAlias = Callable[[bytes], Any]
Json: TypeAlias = "bool | int | float | str | list[Any] | dict[str, Any] | None"
#: a primary key in stored form, one value a column
Key: TypeAlias = tuple[Any, ...]

#: the version of a record whose model declares none: older than every stated version
LOWEST_VERSION = -(2**62)
#: the version of a statement that nothing said before or after takes back (a redaction)
HIGHEST_VERSION = 2**62
#: the stamp of a proof that no page comes after (an erasure)
FOREVER = 2**62
#: a page's stamp is generation * GENERATION + sequence
GENERATION = 2**40
#: kinds of walks whose pages say nothing of what has been fetched
PLACELESS = frozenset({"by_id", "erased"})
#: positions within one page; a page's label is multiplied by it
LABEL = 2**20
#: allocations, and collections of the younger generation, before one is collected in a run
_SELDOM = (400_000, 20, 50)


class Rank(NamedTuple):
    """Which of two records is the newer: a total order, never None."""

    version: int
    stamp: int
    ordinal: int


#: the rank of a column nobody has stated
NEVER = Rank(LOWEST_VERSION, -1, -1)


class Walk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One pass of a partition, from a start to its end or to known ground."""

    id: str
    #: full: the whole listing; head: newest first, down to known ground; since: only news;
    #: tail: on from the last cursor; gap: a hole; backfill: older history; by_id: single records;
    #: erased: no walk at all, but that a row was erased here
    kind: Literal["full", "head", "since", "tail", "gap", "backfill", "by_id", "erased"]
    #: the cursor the walk began with, when it did not begin at the stream's own start
    start: str | None = None
    #: where the walk stops: a cursor (opens) or a coverage key (since, backfill)
    until: str | None = None
    #: the coverage key the walk asks news since
    since: str | None = None
    #: the parent's `unchanged` value that a completed walk satisfies, as canonical JSON
    unchanged: str | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was asked, without credentials: method, path below the base URL, query, JSON body."""

    method: str = "GET"
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: str | None = None


class Listing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That a walk's pages are all there is: each led to the next, from the start to the end."""

    #: how many pages it has
    pages: int
    #: the stamp of its first page; 0 for this one
    first: int = 0


class Covered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a page covers of its partition."""

    #: smallest and largest coverage key in the page, canonical (times: ISO, UTC)
    low: str | None = None
    high: str | None = None
    #: ids of the page's first records (at most 100), where the stream has no comparable key
    ids: tuple[str, ...] = ()
    #: index of the first record that was already known; None when the page met no known ground
    seam: int | None = None
    #: on the last page of a walk that has listed everything
    listing: Listing | None = None


class Child(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A partition that a page reveals, or closes."""

    stream: str
    partition: str
    #: the record's `unchanged` value for the child, as canonical JSON
    unchanged: str | None = None
    closed: bool = False
    #: the page's stream opens walks in the partition's, and says by `closed` whether it stays in sight
    opened: bool = False
    #: set when the page opens a walk of its own (a limited timeline)
    start: str | None = None
    until: str | None = None


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything of a page but its body. Position, coverage and children are a fold over these."""

    run: str
    source: str
    stream: str
    #: hash of what in the stream's definition decides request order
    stream_hash: str
    #: canonical JSON object of the partition's parameters; "{}" when there are none
    partition: str = "{}"
    walk: Walk
    #: the highest stamp that had been staged when this page was asked for
    asked: int = 0
    request: Request
    status: int = 200
    #: orders pages of one stream by the server's own order (see `LABEL`)
    label: int = 0
    #: the cursor that asks for the next page; None ends the walk
    next: str | None = None
    covered: Covered | None = None
    children: tuple[Child, ...] = ()
    records: int = 0
    #: sha256 of the body, hexadecimal
    digest: str


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One response and what was asked for it: the unit of staging, recovery and replay."""

    stamp: int
    #: the stamp of the partition's page before this one, 0 for its first
    after: int
    envelope: Envelope
    #: None when it was pruned
    body: bytes | None


class Erasure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of a page that says that a row was erased."""

    table: str
    #: in stored form
    key: Key
    #: stamps of pages that have other bodies since: for whoever has loaded them before
    pages: tuple[int, ...] = ()


class LogIdentity(NamedTuple):
    """Which page log this is, and how often it has been restored behind the ledger."""

    id: str
    generation: int


class LoadCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What one load did; records = written + kept + rejected."""

    pages: int = 0
    quarantined: int = 0
    records: int = 0
    written: int = 0
    kept: int = 0
    rejected: int = 0
    #: dead letters that were not known before
    letters: int = 0

    def __add__(self, other: LoadCounts) -> LoadCounts:
        return LoadCounts(
            **{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__}
        )


@contextmanager
def uncollected() -> Iterator[None]:
    """The garbage collector waits: for a burst of values that all stay, or where its callbacks would fail."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def collected_seldom() -> Iterator[None]:
    """The garbage collector looks hundreds of times less often: a run holds much, and leaves little to it."""
    thresholds = gc.get_threshold()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def read_json(data: bytes) -> Any:
    """The JSON value of a body: integers exact, NaN and lone surrogates refused."""
    # at the bottom of a hostile nesting, finalizers that the collector calls would meet the recursion limit
    with uncollected():
        return msgspec.json.decode(data)


def read_loosely(data: bytes) -> Any:
    """The value of a body that is JSON but for NaN, numbers out of range or halves of characters.

    ValueError where it is no JSON all the same. What JSON has no word for stands in it as python has it.
    """
    with uncollected(), suppress(json.JSONDecodeError):
        return json.loads(str(data, "utf-8"), parse_int=_integer)
    # json's own error quotes the whole body
    raise ValueError("the body is no JSON")


def _integer(digits: str) -> int | float:
    # no longer one is read by python, nor held by any column: it must not take its page along
    return int(digits) if len(digits) <= _LONGEST_INTEGER else math.inf


def is_sound(value: Any) -> bool:
    """True when a value has nothing in it that JSON has no word for, however deep."""
    if isinstance(value, str):
        return value.isascii() or not _HALVES.search(value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(is_sound, value)) and all(map(is_sound, value.values()))
    return all(map(is_sound, value)) if isinstance(value, list) else True


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, so equal values have equal texts."""
    return msgspec.json.encode(value, order="sorted").decode()
