"""How an API spells its records: names, values, and the paths at which columns stand."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import sqlalchemy as sa

from ingest.errors import ConfigError
from ingest.mirror import said
from ingest.paths import Path
from ingest.types import Json
from tests.upstream.models import Models, Relation
from tests.upstream.values import bare

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TimeForm = Literal["iso", "seconds", "milliseconds"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """What may differ between two APIs that tell one truth."""

    names: Literal["snake_case", "camelCase"] = "snake_case"
    #: one form, or one for each table named
    times: TimeForm | Mapping[str, TimeForm] = "iso"
    #: how ISO times say their zone; mixed: now UTC, now an offset
    zones: Literal["Z", "+00:00", "mixed"] = "Z"
    big_integers: Literal["number", "string"] = "number"
    #: many-to-one: the foreign key's columns, a nested object in their place, or both
    parents: Literal["flat", "nested", "both"] = "flat"
    #: nested lists: only those whose rows nothing else tells, or every one
    lists: Literal["needed", "all"] = "needed"
    #: rows numbered within their parent: state the number, or leave it to the place in the list
    positions: Literal["stated", "index"] = "stated"
    #: state pointers and counters too
    derived: bool = False
    #: keys that no column takes, in every record of a stream
    extras: dict[str, Json] = field(default_factory=dict)
    #: a key whose value differs in every answer, though nothing changed
    volatile: str | None = None


class Spelling:
    """The tables of a system as one API spells them."""

    def __init__(self, models: Models, dialect: Dialect) -> None:
        self.models, self.dialect = models, dialect
        self._paths = {name: {c.name: self._path(c) for c in models.tables[name].c} for name in models.tables}

    # -- where things stand ------------------------------------------------------------------------------

    def path(self, table: str, column: str) -> tuple[str, ...]:
        """Where a record holds the column."""
        return self._paths[table][column]

    def column_at(self, table: str, text: str) -> sa.Column[Any]:
        """The column that records of `table` hold at a path; ConfigError when there is none."""
        keys = Path(text).keys
        for column in self.models.columns(table):
            if self.path(table, column.name) == keys:
                return column
        raise ConfigError(
            f"no column of {table} stands at {text!r}", hint=f"the dialect has {self.dialect.names}"
        )

    def spell(self, name: str) -> str:
        """A name as this API writes it."""
        head, *tail = name.split("_")
        return (
            name if self.dialect.names == "snake_case" else head + "".join(part.capitalize() for part in tail)
        )

    def _path(self, column: sa.Column[Any]) -> tuple[str, ...]:
        stated = said(column.info).path
        return Path(stated).keys if stated is not None else (self.spell(column.name),)

    def relation_path(self, relation: Relation) -> tuple[str, ...]:
        """Where a record holds the relationship's rows."""
        return Path(relation.path).keys if relation.path is not None else (self.spell(relation.name),)

    def paths(self) -> set[tuple[str, ...]]:
        """Where the columns of all tables stand."""
        return {path for of_table in self._paths.values() for path in of_table.values()}

    # -- values ------------------------------------------------------------------------------------------

    def scalar(self, column: sa.Column[Any], value: Any) -> Json:
        """A python value as the API writes it."""
        match value:
            case Enum():
                return str(value.value) if isinstance(value.value, str) else value.value
            case bool() | float() | str() | None | dict() | list():
                return deepcopy(value)
            case int():
                big = isinstance(bare(column.type), sa.BigInteger) and self.dialect.big_integers == "string"
                return str(value) if big else value
            case datetime():
                return self._time(value, self._times(column))
            case date() | time():
                return value.isoformat()
            case timedelta():
                return value.total_seconds()
            case Decimal():
                return format(value, "f")
            case UUID():
                return str(value)
            case bytes():
                return base64.b64encode(value).decode()
        raise TypeError(f"no JSON for {value!r} of {column}")

    def _times(self, column: sa.Column[Any]) -> TimeForm:
        times = self.dialect.times
        return times if isinstance(times, str) else times.get(str(column.table.name), "iso")

    def _time(self, value: datetime, form: TimeForm) -> Json:
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        if form == "iso":
            return self._iso(aware)
        unit = timedelta(seconds=1) if form == "seconds" else timedelta(milliseconds=1)
        units, rest = divmod(aware - _EPOCH, unit)
        if rest:
            raise ValueError(f"{value} cannot be told in {form}; generate with resolution={unit!r}")
        return units

    def _iso(self, value: datetime) -> str:
        zones = self.dialect.zones
        chosen = ("Z", "+00:00", "+05:30")[value.microsecond % 3] if zones == "mixed" else zones
        if chosen == "+05:30":
            return (value.astimezone(UTC) + timedelta(hours=5, minutes=30)).replace(
                tzinfo=None
            ).isoformat() + chosen
        return value.astimezone(UTC).isoformat().replace("+00:00", chosen)

    def parse(self, column: sa.Column[Any], text: str, form: TimeForm | Literal["value"] = "value") -> Any:
        """What a client wrote in a query, as a value of the column; ValueError when it is none."""
        kind = bare(column.type)
        if isinstance(kind, sa.DateTime):
            form = self._times(column) if form == "value" else form
            if form == "iso":
                moment = datetime.fromisoformat(text)
                moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            else:
                moment = _EPOCH + timedelta(**{form: float(text)})
            return moment if kind.timezone else moment.astimezone(UTC).replace(tzinfo=None)
        if isinstance(kind, sa.Integer):
            return int(text)
        if isinstance(kind, sa.Uuid) and kind.as_uuid:
            return UUID(text)
        return Decimal(text) if isinstance(kind, sa.Numeric) else text


def put(into: dict[str, Json], path: tuple[str, ...], value: Json) -> None:
    """Set what stands at a path, merging objects; what stands there already is not lost to a null."""
    *way, last = path
    for segment in way:
        if not isinstance(into.get(segment), dict):
            into[segment] = {}
        inner = into[segment]
        assert isinstance(inner, dict)
        into = inner
    known = into.get(last)
    if isinstance(known, dict) and isinstance(value, dict):
        merge(known, value)
    elif value is not None or not isinstance(known, dict):
        into[last] = value


def merge(into: dict[str, Json], other: dict[str, Json]) -> None:
    """Put every member of `other` into an object."""
    for name, value in other.items():
        put(into, (name,), value)


def first(record: Json, path: tuple[str, ...]) -> Json:
    """What stands at a path; None where it leads nowhere."""
    for segment in path:
        record = record.get(segment) if isinstance(record, dict) else None
    return record
