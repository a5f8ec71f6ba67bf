"""Where the records of a page are, and the very bytes of one of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from ingest.paths import Path
from ingest.types import read_json, read_loosely

_BLANKS = re.compile(r"[ \t\n\r]*")
#: finds where values end; what numbers they are is nobody's business here, and some are too long for python
_SCANNER = json.JSONDecoder(parse_int=len, parse_float=len)


class Found(NamedTuple):
    """A record in a page: its value, what the path's stars passed, and where it lies."""

    value: Any
    captures: tuple[str, ...]
    place: tuple[str | int, ...]


def read_body(body: bytes) -> tuple[Any, bool]:
    """The JSON value, and whether all of it is sound; ValueError where it is no JSON at all."""
    try:
        return read_json(body), True
    except msgspec.DecodeError as error:
        try:
            value = read_loosely(body)
        except ValueError:
            raise error from None
        if isinstance(value, str | float):
            raise
        return value, False


def find_records(path: Path, value: Any) -> Iterator[Found]:
    """Every record the path leads to; where it leads to a list, the list's elements."""
    yield from _descend(value, path.segments, (), ())


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
    elif value is not None:
        yield Found(value, captures, place)


def raw_record(body: bytes, found: Found) -> bytes:
    """The record's own bytes, as the server sent them; the page's where it lies too deep to be cut out."""
    raw = msgspec.Raw(body)
    try:
        for step in found.place:
            if isinstance(step, int):
                raw = msgspec.json.decode(raw, type=list[msgspec.Raw])[step]
            else:
                raw = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])[step]
    except RecursionError:
        return body
    except msgspec.DecodeError:
        return _cut_out(str(body, "utf-8"), found.place).encode()
    return bytes(raw)


def _cut_out(text: str, place: tuple[str | int, ...]) -> str:
    """What lies at a place of a page that has what JSON has no word for."""
    start, end = _after_blanks(text, 0), len(text)
    for step in place:
        # of a key that is there twice the last is the one that was read
        *_, (start, end) = (where for key, *where in _members(text, start) if key == step)
    return text[start:end]


def _members(text: str, at: int) -> Iterator[tuple[str | int, int, int]]:
    """(key or index, start, end) of everything in the object or list that begins here."""
    named, index = text[at] == "{", 0
    at = _after_blanks(text, at + 1)
    while text[at] not in "]}":
        key: str | int = index
        if named:
            key, at = _SCANNER.raw_decode(text, at)
            at = _after_blanks(text, _after_blanks(text, at) + 1)
        _, end = _SCANNER.raw_decode(text, at)
        yield key, at, end
        at = _after_blanks(text, end)
        if text[at] == ",":
            at, index = _after_blanks(text, at + 1), index + 1


def _after_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at
