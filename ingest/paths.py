"""Path expressions into decoded JSON: `rooms.join.*.timeline.events`, `content."m.relates_to".key`.

A segment is an object's key; one with a dot, a star or a quote in it stands in double quotes. `*`
walks every element of a list or value of an object, and what it passed is captured: `$1` is the
first star's key (or index). The empty path, and `$`, are the value itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from typing import Any, NamedTuple

from ingest.errors import ConfigError

STAR = "*"
_SEGMENT = re.compile(r'"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^."*\[\]\s]+)|(?P<star>\*)')
_INDEX = re.compile(r"-?[0-9]+")


class Match(NamedTuple):
    """One value a path leads to, and the keys its stars passed, outermost first."""

    value: Any
    captures: tuple[str, ...]


class _Star:
    """Marks a star among a path's segments, apart from a key that is spelled '*'."""

    def __repr__(self) -> str:
        return STAR


_STAR = _Star()


class Path:
    """A compiled path expression."""

    __slots__ = ("segments", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.segments: tuple[str | _Star, ...] = tuple(_parse(text))

    def __repr__(self) -> str:
        return f"Path({self.text!r})"

    @property
    def has_stars(self) -> bool:
        """True when the path walks a list or an object."""
        return not all(isinstance(segment, str) for segment in self.segments)

    def leads_into(self, value: Any) -> bool:
        """True when what comes before the first star is there; behind a star anything may be absent."""
        before_stars = tuple(takewhile(lambda segment: isinstance(segment, str), self.segments))
        return next(_walk(value, before_stars, ()), None) is not None

    @property
    def keys(self) -> tuple[str, ...]:
        """The segments of a path without stars; ConfigError when it has one."""
        if self.has_stars:
            raise ConfigError(f"the path {self.text!r} may not walk a list here", hint="remove the *")
        return tuple(segment for segment in self.segments if isinstance(segment, str))

    def first(self, value: Any, default: Any = None) -> Any:
        """The first value the path leads to, or `default` when it leads nowhere."""
        return next((match.value for match in self.matches(value)), default)

    def matches(self, value: Any) -> Iterator[Match]:
        """Every value the path leads to; nothing where a key is absent or a value has no keys."""
        return _walk(value, self.segments, ())


def _parse(text: str) -> Iterator[str | _Star]:
    if text in ("", "$"):
        return
    at = 0
    while True:
        found = _SEGMENT.match(text, at)
        if found is None:
            raise ConfigError(
                f"bad path expression {text!r} at character {at + 1}",
                hint='segments are joined by dots; a key with a dot in it is quoted: content."m.relates_to"',
            )
        if found["star"]:
            yield _STAR
        elif found["quoted"] is not None:
            yield re.sub(r"\\(.)", r"\1", found["quoted"])
        else:
            yield found["bare"]
        at = found.end()
        if at == len(text):
            return
        if text[at] != ".":
            raise ConfigError(f"bad path expression {text!r} at character {at + 1}", hint="expected a dot")
        at += 1


def _walk(value: Any, segments: tuple[str | _Star, ...], captures: tuple[str, ...]) -> Iterator[Match]:
    for index, segment in enumerate(segments):
        if isinstance(segment, _Star):
            rest = segments[index + 1 :]
            for key, inner in _elements(value):
                yield from _walk(inner, rest, (*captures, key))
            return
        if isinstance(value, dict):
            if segment not in value:
                return
            value = value[segment]
        elif (
            isinstance(value, list) and _INDEX.fullmatch(segment) and -len(value) <= int(segment) < len(value)
        ):
            value = value[int(segment)]
        else:
            return
    yield Match(value, captures)


def _elements(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from ((str(index), inner) for index, inner in enumerate(value))
