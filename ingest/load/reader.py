"""Pages of plain records, decoded straight to rows.

Most pages of a backfill hold records that state every column of one table at their top, and nothing
nested. A reader for such pages is learned from one that was decoded the long way: a typed JSON decoder,
which checks types and bounds as it parses, and one straight line of code for the rest, written for the
table and compiled once. No name from a model or a server is ever part of that code; they are bound to it.

    page ── typed decoder ──▶ structs ── compiled loop ──▶ rows as they are staged, in the table's order

A page that is not as learned (a key more or less, a type that differs, a value its column refuses) is
left to the long way, which says why. Both ways say the same of every page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import chain
from types import GenericAlias
from typing import Annotated, Any, TypeAlias

import msgspec
import sqlalchemy as sa

from ingest.catalog import version_number
from ingest.errors import SetAside
from ingest.form import time_text
from ingest.load.batch import ABSENT, FullRow
from ingest.load.convert import compile_python, integer_bounds, is_time, text_limit
from ingest.load.shape import Shape
from ingest.types import LOWEST_VERSION

#: keys that the decoder cannot be given
_UNNAMEABLE = re.compile(r'[\\"\x00-\x1f]')
#: how a NUL looks in JSON; text columns refuse it, and the decoder does not
_NUL = b"\\u0000"

#: (structs, stamp, converted constants) to rows
Make: TypeAlias = Callable[[Sequence[Any], int, Sequence[Any]], list[FullRow]]


class Reader:
    """Reads pages that look like the one it was learned from."""

    def __init__(
        self, decoder: msgspec.json.Decoder[Any], depth: int, make: Make, unknown: tuple[str, ...]
    ) -> None:
        self._decoder, self._depth, self._make = decoder, depth, make
        #: keys that no column takes
        self.unknown = unknown

    def rows(self, body: bytes, stamp: int, constants: Sequence[Any]) -> list[FullRow] | None:
        """The page's records as full rows; None when it is not as learned."""
        if _NUL in body:
            return None
        try:
            found = self._decoder.decode(body)
            for _ in range(self._depth):
                found = found.inner
            return self._make(found, stamp, constants)
        except (msgspec.DecodeError, ValueError, RecursionError, SetAside):
            return None


def learn_reader(shape: Shape, path: Sequence[str], json: Any, given: Sequence[int]) -> Reader | None:
    """A reader of pages like `json`, whose records are at `path`; None when there is no straight way.

    `given`: the places in the row that the stream itself sets, to constants of the page.
    """
    wrapped = _descend(json, path)
    if wrapped is None:
        return None
    records, beside = wrapped
    fields = _fields(shape, records, given)
    if fields is None or any(map(_UNNAMEABLE.search, (*fields.names, *path, *chain(*beside)))):
        return None
    type_: Any = GenericAlias(list, (fields.struct(),))
    for step, others in zip(reversed(path), reversed(beside), strict=True):
        type_ = _wrapper(step, others, type_)
    make = _Code(shape, fields, given).compiled()
    return Reader(msgspec.json.Decoder(type_), len(path), make, fields.unknown)


def _descend(json: Any, path: Sequence[str]) -> tuple[list[Any], list[tuple[str, ...]]] | None:
    """The records, and the keys beside each step of the path to them."""
    beside: list[tuple[str, ...]] = []
    for step in path:
        if not isinstance(json, dict) or step not in json:
            return None
        beside.append(tuple(key for key in json if key != step))
        json = json[step]
    if not isinstance(json, list) or not json or not all(isinstance(one, dict) for one in json):
        return None
    return json, beside


def _wrapper(step: str, others: Sequence[str], inner: Any) -> Any:
    """An object with the records (or the next step to them) under `step`, and other keys, any of them."""
    optional = [(f"o{index}", Any, None) for index in range(len(others))]
    rename = {"inner": step, **{f"o{index}": name for index, name in enumerate(others)}}
    return msgspec.defstruct(
        "Wrapper", [("inner", inner), *optional], rename=rename, forbid_unknown_fields=True, gc=False
    )


class _Fields:
    """Which key of a record goes where."""

    def __init__(
        self, shape: Shape, keys: Mapping[int, str], sample: Mapping[str, Any], unknown: tuple[str, ...]
    ) -> None:
        self._shape, self.keys, self._sample, self.unknown = shape, keys, sample, unknown
        #: the struct's attribute, by the record's key
        self.names = {name: f"f{index}" for index, name in enumerate((*keys.values(), *unknown))}

    def struct(self) -> Any:
        """The type of such a record."""
        required: list[tuple[str, Any]] = []
        optional: list[tuple[str, Any, Any]] = [(self.names[name], Any, None) for name in self.unknown]
        for place, name in self.keys.items():
            if _must_state(self._shape, place):
                required.append((self.names[name], self._type(place)))
            else:
                optional.append((self.names[name], self._type(place) | msgspec.UnsetType, msgspec.UNSET))
        rename = {attribute: name for name, attribute in self.names.items()}
        return msgspec.defstruct(
            "Record", [*required, *optional], rename=rename, forbid_unknown_fields=True, gc=False
        )

    def native(self, place: int) -> Any:
        """The type whose values need no conversion once decoded; None when the column has none."""
        column, sample = self._shape.table.columns[place], self._sample.get(self.keys[place])
        if type(sample) is bool and type(column.type) is sa.Boolean:
            return bool
        if self._shape.stores[place] is not None or self.is_text_time(place):
            return None
        bounds, limit = integer_bounds(column), text_limit(column)
        if bounds is not None and type(sample) is int:
            return Annotated[int, msgspec.Meta(ge=bounds[0], le=bounds[1])]
        if limit is not None and type(sample) is str:
            return Annotated[str, msgspec.Meta(max_length=limit)]
        return None

    def is_text_time(self, place: int) -> bool:
        """True for a time that comes as text."""
        return type(self._sample.get(self.keys[place])) is str and is_time(self._shape.table.columns[place])

    def _type(self, place: int) -> Any:
        native = str if self.is_text_time(place) else self.native(place)
        if native is None:
            return Any
        return native | None if self._shape.table.columns[place].nullable else native


def _must_state(shape: Shape, place: int) -> bool:
    """True for a column that a record has to state, to be full."""
    return place in shape.key_places or shape.omitted[place] is ABSENT


def _fields(shape: Shape, records: Sequence[dict[str, Any]], given: Collection[int]) -> _Fields | None:
    """Where the columns are in such records; None unless each record may be full, and states nothing else."""
    sample: dict[str, Any] = {}
    for record in records:
        sample.update({key: value for key, value in record.items() if value is not None or key not in sample})
    keys: dict[int, str] = {}
    for place, column in enumerate(shape.table.columns):
        paths = [path for path in column.paths if path[0] in sample]
        if len(paths) == 1 and len(paths[0]) == 1 and place not in given:
            keys[place] = paths[0][0]
        elif paths or (place not in given and _must_state(shape, place)):
            return None
    unknown = tuple(key for key in sample if key not in shape.taken)
    if shape.leads_below or sorted([*keys.values(), *unknown]) != sorted(sample):
        return None
    return _Fields(shape, keys, sample, unknown)


class _Code:
    """The loop from structs to rows, column by column."""

    def __init__(self, shape: Shape, fields: _Fields, given: Sequence[int]) -> None:
        self._shape, self._fields, self._given = shape, fields, given
        self._bound: dict[str, Any] = {
            "lowest": LOWEST_VERSION,
            "number": version_number,
            "unset": msgspec.UNSET,
        }
        version = shape.table.mirror.version
        self._version = None if version is None else shape.place[version]

    def compiled(self) -> Make:
        """The loop as a function."""
        places = range(len(self._shape.names))
        row = "".join(f"v{place}, " for place in places)
        given = "".join(f"v{place}, " for place in self._given)
        lines = [line for place in places if place not in self._given for line in self._column(place)]
        # a column that only the page states is the same in every record
        begin = ["rows = []", "add = rows.append", *([f"{given}= given"] if given else [])]
        each = ["d = None", *lines, "version = lowest if d is None else number(d)"]
        each.append(f"add(({row}version, stamp, n, None))")
        body = [*begin, "for n, r in enumerate(records):", *(f"    {line}" for line in each), "return rows"]
        exec("\n    ".join(["def make(records, stamp, given):", *body]), self._bound)
        make: Make = self._bound["make"]
        return make

    def _column(self, place: int) -> list[str]:
        """Lines that leave the column's stored value in its variable, and what orders versions in `d`."""
        v, key = f"v{place}", self._fields.keys.get(place)
        if key is None:
            self._bound[v] = self._shape.omitted[place]
            return []
        cases, rest = self._cases(place, v)
        lines = [f"{v} = r.{self._fields.names[key]}"]
        lines += [f"{'elif' if index else 'if'} {case}" for index, case in enumerate(cases)]
        if rest:
            lines.append(f"else: {rest}" if cases else rest)
        return lines

    def _cases(self, place: int, v: str) -> tuple[list[str], str]:
        shape, column = self._shape, self._shape.table.columns[place]
        cases, is_version = [], place == self._version
        if not _must_state(self._shape, place):
            self._bound[f"o{place}"] = shape.omitted[place]
            cases.append(f"{v} is unset: {v} = o{place}")
        if self._fields.native(place) is bool:
            store = shape.stores[place] or bool
            self._bound |= {f"y{place}": store(True), f"z{place}": store(False)}
            cases += [f"{v} is True: {v} = y{place}", f"{v} is False: {v} = z{place}"]
            return cases, ""
        if self._fields.native(place) is not None:
            return cases, f"d = {v}" if is_version else ""
        if column.nullable:
            self._bound[f"n{place}"] = shape.nulls[place]
            cases.append(f"{v} is None: {v} = n{place}")
        else:
            self._bound[f"n{place}"] = partial(shape.convert, place)
            cases.append(f"{v} is None: n{place}(None)")
        self._bound |= {
            f"c{place}": shape.converts[place],
            f"p{place}": compile_python(column),
            f"b{place}": shape.stores[place] or _as_it_is,
        }
        d = "d" if is_version else "e"
        if self._fields.is_text_time(place):
            # the text is believed only when it was read as a time; what cannot be goes the long way
            self._bound |= {"parse": datetime.fromisoformat, "text": time_text}
            read = f"t = text({v}); {d} = p{place}({v}) if t is None else parse({v})"
            return cases, f"{read}; {v} = b{place}({d}) if t is None else t"
        if not is_version:
            return cases, f"{v} = c{place}({v})"
        return cases, f"d = p{place}({v}); {v} = b{place}(d)"


def _as_it_is(value: Any) -> Any:
    return value
