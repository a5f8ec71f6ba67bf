"""Where the records of a page are, and the very bytes of one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from ingest.paths import Path
from ingest.types import is_sound, read_json, read_loosely


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
    """The record's own bytes, as the server sent them.

    Where the page has what JSON has no word for, the record is written anew; and where it lies too deep to
    be cut out, these are the page's bytes.
    """
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
        # UTF-8 has no place for half a character, but its escape can be written
        return json.dumps(found.value, ensure_ascii=not is_sound(found.value), separators=(",", ":")).encode()
    return bytes(raw)
