"""What fetching needs to know of a page: its records, their keys and ids, and the partitions they reveal.

Nothing is mapped here; what a record means is the loader's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple

import msgspec

from ingest.errors import BadAnswer
from ingest.fetch.coverage import CoverageKey, Unit, coverage_key
from ingest.paths import Match, Path
from ingest.source import Keyset, Opens, Source, Stream
from ingest.types import Child, Read, canonical, read_json, uncollected

_PARTITION = "$partition."
_ABSENT = object()
#: how JSON writes a character that may be half of one
_ESCAPES = b"\\ud", b"\\uD"


class Found(msgspec.Struct, frozen=True, gc=False):
    """A record in a page, and the keys that its path's stars passed."""

    value: Any
    captures: tuple[str, ...]


class Rule(NamedTuple):
    """How records of a stream reveal the partitions of another."""

    stream: str
    #: (parameter, its path in the parent's record), for the child and all below it
    values: tuple[tuple[str, Path], ...]
    #: parameters without which there is no partition
    needed: tuple[str, ...]
    unchanged: Path | None
    when: Path | None


def records(stream: Stream, json: Any, *, path: str | None = None) -> list[Found]:
    """The records of a page, in the server's order; BadAnswer where it has no place for them.

    `path`: where they are, if that is not where the stream's listing has them.
    """
    path = stream.records if path is None else path
    if stream.absent is None and not _path(path).leads_into(json):
        raise BadAnswer(
            f"the answer has no `{path}`, where its records should be",
            hint='put `records` right; or, where an empty page leaves it out, state absent = "empty"',
        )
    return found_at(path, json)


def found_at(path: str, json: Any) -> list[Found]:
    """The records a path leads to; where it leads to a list, the list's elements."""
    found: list[Found] = []
    for value, captures in _path(path).matches(json):
        if isinstance(value, list):
            found += map(Found, value, repeat(captures))
        elif value is not None:
            found.append(Found(value, captures))
    return found


def unread(path: str) -> Read:
    """Reads pages whose records nobody in fetching looks into: each is left as its bytes.

    It refuses what `read_json` refuses, but for numbers out of range, which the loader sets aside.
    """
    keys = Path(path).keys

    def read(body: bytes) -> Any:
        # what is skipped is not looked at for broken characters
        str(body, "utf-8")
        if any(escape in body for escape in _ESCAPES):
            return read_json(body)
        with uncollected():
            return _unread(body, keys)

    return read


def _unread(body: bytes | msgspec.Raw, keys: Sequence[str]) -> Any:
    try:
        if not keys:
            return msgspec.json.decode(body, type=list[msgspec.Raw])
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return msgspec.json.decode(body)  # no list of records, or no object that they could be in
    return {
        key: _unread(value, keys[1:]) if key == keys[0] else msgspec.json.decode(value)
        for key, value in members.items()
    }


def looks_into_records(stream: Stream, source: Source) -> bool:
    """True when more is to be known of a stream's records than how many a page has.

    (Whether they reveal partitions is another question.)
    """
    paged = stream.paginate
    stated = (
        [] if paged is None else [value for value in msgspec.structs.astuple(paged) if type(value) is str]
    )
    stated += [path for error in source.errors for path in (error.path, error.message) if path is not None]
    return (
        bool(stream.opening)
        or key_path(stream) is not None
        or stream.order == "newest-first"
        or isinstance(paged, Keyset)
        or Path(stream.records).has_stars
        # a path that begins like the records' may lead into one of them
        or any(path.startswith(stream.records) for path in stated)
    )


def record_id(stream: Stream, record: Any) -> str | None:
    """A record's id as text; a record that is no object is its own id."""
    value = _path(stream.id).first(record) if isinstance(record, dict) else record
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def key_path(stream: Stream) -> str | None:
    """Path of the coverage key in a record; None for a stream that states none."""
    return stream.key or (stream.since.key if stream.since else None)


def record_key(stream: Stream, record: Any) -> CoverageKey | None:
    """A record's coverage key; None where it states none."""
    path = key_path(stream)
    if path is None:
        return None
    unit: Unit | None = stream.since.format if stream.since and stream.since.key == path else None
    segments = _path(path).segments
    return coverage_key(_path(path).first(record), unit=unit, name=str(segments[-1]) if segments else "")


def has_key(stream: Stream, record: Any) -> bool:
    """True where the stream's coverage key leads to something in a record, if only to null."""
    path = key_path(stream)
    return path is None or _path(path).first(record, _ABSENT) is not _ABSENT


def fits(rule: Rule, record: Any) -> bool:
    """True where a record has what the partitions that it reveals need."""
    there = {parameter for parameter, path in rule.values if _is_scalar(path.first(record))}
    return there.issuperset(rule.needed)


@lru_cache(maxsize=1024)
def _path(text: str) -> Path:
    return Path(text)


# -- children ------------------------------------------------------------------------------------------


def rules(source: Source, parent: str) -> tuple[Rule, ...]:
    """How records of `parent` reveal partitions: one rule for each stream that is walked for each of them."""
    return tuple(
        _rule(source, parent, name, stream)
        for name, stream in source.streams.items()
        if stream.each == parent and stream.path is not None
    )


def revealed(rules: Iterable[Rule], partition: dict[str, Any], found: Sequence[Found]) -> list[Child]:
    """The partitions that a page's records reveal, or close (`when`), each as the last record says."""
    children: dict[tuple[str, str], Child] = {}
    for rule in rules:
        for record in found:
            child = _child(rule, partition, record.value)
            if child is not None:
                children[child.stream, child.partition] = child
    return list(children.values())


def opened(stream: Stream, json: Any, cursor: str | None, partition: dict[str, Any]) -> Iterator[Child]:
    """The walks that a page opens in another stream, in the page's order."""
    for opens in stream.opening:
        for match in _path(opens.at).matches(json):
            child = _opening(opens, match, cursor, partition)
            if child is None:
                continue
            if opens.when is not None and not _path(opens.when).first(match.value):
                # no walk; yet from this page on the partition is in sight, or out of it
                child = msgspec.structs.replace(child, start=None, until=None)
            yield child


def _rule(source: Source, parent: str, name: str, stream: Stream) -> Rule:
    def from_parent(parameter: str) -> bool:
        return parameter == parent or parameter.startswith(f"{parent}.")

    wanted = dict.fromkeys(parameter for one in _family(source, name) for parameter in one.parameters)
    return Rule(
        name,
        tuple((one, _path(one[len(parent) + 1 :])) for one in wanted if from_parent(one)),
        tuple(one for one in stream.parameters if from_parent(one)),
        _path(stream.unchanged) if stream.unchanged is not None else None,
        _path(stream.when) if stream.when is not None else None,
    )


def _family(source: Source, name: str) -> Iterator[Stream]:
    yield source.streams[name]
    for below, stream in source.streams.items():
        if stream.each == name:
            yield from _family(source, below)


def _child(rule: Rule, partition: dict[str, Any], record: Any) -> Child | None:
    values = {parameter: path.first(record) for parameter, path in rule.values}
    parameters = {name: value for name, value in values.items() if _is_scalar(value)}
    if any(name not in parameters for name in rule.needed):
        return None
    place = canonical(partition | parameters)
    if rule.when is not None and not rule.when.first(record):
        return Child(stream=rule.stream, partition=place, closed=True)
    # null is a value (a conversation without messages), and an absent one says nothing
    stated = rule.unchanged.first(record, _ABSENT) if rule.unchanged is not None else _ABSENT
    return Child(
        stream=rule.stream, partition=place, unchanged=canonical(stated) if stated is not _ABSENT else None
    )


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float) and value != ""


def _opening(opens: Opens, match: Match, cursor: str | None, partition: dict[str, Any]) -> Child | None:
    def evaluated(expression: str) -> Any:
        if expression == "$since":
            return msgspec.json.decode(cursor) if cursor is not None else None
        if expression.startswith(_PARTITION):
            return partition.get(expression.removeprefix(_PARTITION))
        if expression[:1] == "$" and expression[1:].isdigit():
            place = int(expression[1:]) - 1
            return match.captures[place] if 0 <= place < len(match.captures) else None
        return _path(expression).first(match.value)

    start = evaluated(opens.start)
    until = evaluated(opens.until) if opens.until is not None else None
    place = {name: evaluated(expression) for name, expression in opens.partition.items()}
    if any(value is None for value in place.values()):
        return None
    return Child(
        stream=opens.stream,
        partition=canonical(place),
        closed=opens.closes,
        opened=True,
        start=canonical(start) if start is not None else None,
        until=canonical(until) if until is not None else None,
    )
