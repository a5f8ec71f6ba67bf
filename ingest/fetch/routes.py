"""How the streams of a source hang together: who reveals whose partitions, who opens walks in whom. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from ingest.fetch.extract import Rule, looks_into_records, rules, unread
from ingest.fetch.paginate import first_request, request_at
from ingest.fetch.walk import UNTIL, extra, without_until
from ingest.source import Source, Stream
from ingest.types import Read, Request, Walk, canonical, read_json

#: a stream and one of its partitions
Place: TypeAlias = tuple[str, str]

#: the partition of a stream without parameters
ROOT = "{}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """A stream that is walked, and its place among the others."""

    name: str
    stream: Stream
    hash: str
    #: how its records reveal partitions of other streams
    rules: tuple[Rule, ...]
    #: it is walked only where pages of another stream open it
    only_opened: bool
    #: how many streams reveal or open each other above it
    depth: int
    #: the streams whose pages are ordered with its own: who opens it, whom it opens, itself
    family: tuple[str, ...]
    #: the stream without what names an opened walk's end
    endless: Stream = field(repr=False)
    #: reads its pages, as far as anything in fetching looks into them
    read: Read = field(repr=False)

    @property
    def is_root(self) -> bool:
        """True for a stream that is walked once, and not for each of something."""
        return self.stream.each is None and not self.only_opened

    def takes(self, partition: str) -> bool:
        """True for a partition that has every parameter the stream needs now."""
        if self.is_root:
            return partition == ROOT
        return {*self.stream.parameters} - {UNTIL} <= {*msgspec.json.decode(partition)}

    def request(self, partition: str, walk: Walk, cursor: str | None) -> Request:
        """The request for a walk's next page."""
        parameters = {name: _text(value) for name, value in msgspec.json.decode(partition).items()}
        stream = self.endless
        if walk.kind == "gap" and walk.until is not None:
            stream, parameters[UNTIL] = self.stream, _text(msgspec.json.decode(walk.until))
        more = extra(stream, walk)
        if cursor is None:
            return first_request(stream, parameters, extra=more)
        return request_at(stream, parameters, cursor, extra=more)


def routes(source: Source) -> dict[str, Route]:
    """Every stream that has pages to walk, by name."""
    return {name: _route(source, name) for name, stream in source.streams.items() if stream.path is not None}


def _route(source: Source, name: str) -> Route:
    stream = source.streams[name]
    openers = _openers(source, name)
    opens = tuple(one.stream for one in stream.opening)
    revealing = rules(source, name)
    return Route(
        name=name,
        stream=stream,
        hash=stream.hash(),
        rules=revealing,
        read=read_json if revealing or looks_into_records(stream, source) else unread(stream.records),
        only_opened=bool(openers) and stream.each is None,
        depth=_depth(source, name, frozenset()),
        family=tuple(dict.fromkeys((name, *openers, *opens))),
        endless=msgspec.structs.replace(
            stream, query=without_until(stream.query), body=without_until(stream.body)
        ),
    )


def _openers(source: Source, name: str) -> tuple[str, ...]:
    streams: Mapping[str, Stream] = source.streams
    return tuple(
        other for other, one in streams.items() if any(opens.stream == name for opens in one.opening)
    )


def _depth(source: Source, name: str, passed: frozenset[str]) -> int:
    if name in passed or name not in source.streams:
        return 0
    each = source.streams[name].each
    above = [*_openers(source, name), *([each] if each else [])]
    return max((1 + _depth(source, other, passed | {name}) for other in above), default=0)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else canonical(value)
