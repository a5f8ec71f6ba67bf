"""Full, flat records read by one straight line of code, written for their shape and compiled once.

Most records of a backfill are such: every column stated at the record's top, nothing nested. For them
no field is interpreted: the common JSON type of a column is checked in place, and only what differs is
handed to the column's conversion. No name from a model or a server is ever part of the code; they are
bound to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ingest.catalog import Column, version_number
from ingest.engines.base import Engine
from ingest.load.convert import Convert, compile_python, integer_bounds, refuse_null, stored_null, text_limit
from ingest.types import LOWEST_VERSION, Key

#: a record to its row, its key and its version; SetAside with the reason
Read: TypeAlias = Callable[[Mapping[str, Any]], tuple[tuple[Any, ...], Key, int]]


class Source:
    """Where one column of a flat record comes from: its key, or a constant for what is absent."""

    __slots__ = ("bind", "column", "convert", "key", "null", "omitted")

    def __init__(
        self, column: Column, convert: Convert, engine: Engine, *, key: str | None, omitted: Any
    ) -> None:
        self.column, self.convert, self.key, self.omitted = column, convert, key, omitted
        self.bind = engine.bind(column.type)
        self.null = stored_null(column, engine)


def compile_reader(sources: Sequence[Source], key_places: Sequence[int], version_place: int | None) -> Read:
    """The reader of records whose columns come from `sources`, in the table's order."""
    bound: dict[str, Any] = {"lowest": LOWEST_VERSION, "number": version_number}
    lines: list[str] = []
    for place, source in enumerate(sources):
        if source.key is None:
            bound[f"v{place}"] = source.omitted
            continue
        bound |= {f"k{place}": source.key, f"c{place}": source.convert, f"n{place}": _null(source)}
        lines.append(f"v{place} = record[k{place}]")
        lines += _converted(place, source, bound, is_version=place == version_place)
    version = _version(sources, version_place)
    row = "".join(f"v{place}, " for place in range(len(sources)))
    key = "".join(f"v{place}, " for place in key_places)
    body = "\n    ".join([*lines, f"return ({row}), ({key}), {version}"])
    exec(f"def read(record):\n    {body}", bound)
    read: Read = bound["read"]
    return read


def _null(source: Source) -> Convert:
    """What is done about a null."""

    def null(_: Any) -> Any:
        if not source.column.nullable:
            raise refuse_null(source.column)
        return source.null

    return null


def _converted(place: int, source: Source, bound: dict[str, Any], *, is_version: bool) -> list[str]:
    """Lines that leave the column's stored value in its variable."""
    v, convert = f"v{place}", f"c{place}(v{place}) if v{place} is not None else n{place}(None)"
    bounds, limit = integer_bounds(source.column), text_limit(source.column)
    if source.bind is None and bounds is not None:
        bound |= {f"l{place}": bounds[0], f"h{place}": bounds[1]}
        return [f"if type({v}) is not int or not l{place} <= {v} <= h{place}: {v} = {convert}"]
    if source.bind is None and limit is not None:
        bound |= {f"h{place}": limit, "nul": "\0"}
        return [f"if type({v}) is not str or len({v}) > h{place} or nul in {v}: {v} = {convert}"]
    if is_version and source.bind is not None:
        bound |= {f"p{place}": compile_python(source.column), f"b{place}": source.bind}
        return [
            f"if {v} is None: version = lowest; n{place}(None)",
            f"else: python = p{place}({v}); version = number(python); {v} = b{place}(python)",
        ]
    return [f"{v} = {convert}"]


def _version(sources: Sequence[Source], place: int | None) -> str:
    if place is None or sources[place].key is None:
        return "lowest"
    if sources[place].bind is not None:
        return "version"
    return f"number(v{place}) if v{place} is not None else lowest"
