"""What the simulated upstream needs to know of a system's models.

Read from SQLAlchemy's mappers here, and not through `ingest.catalog`: the upstream is an oracle, and
an oracle that shares a reader with what it judges shares its mistakes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapper, RelationshipProperty, configure_mappers

from ingest.mirror import LEDGER_COLUMNS, Mirror, said
from ingest.types import Key

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A foreign key whose columns the upstream states."""

    table: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]
    ondelete: str | None

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(our column, the target's column)."""
        return tuple(zip(self.columns, self.target_columns, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """A relationship: what a record may hold nested, under `name` or at `path`."""

    #: the class and the table that have it
    owner: str
    table: str
    name: str
    kind: Literal["one", "many", "association"]
    path: str | None
    target: str
    #: (our column, the target's column), or of an association: (our column, the association's column)
    pairs: tuple[tuple[str, str], ...]
    secondary: str | None
    #: (the target's column, the association's column)
    secondary_pairs: tuple[tuple[str, str], ...]
    #: our columns are foreign keys, so the nested object stands for them
    holds_key: bool
    #: our column is a pointer that the mirror computes
    derived: bool

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}"

    def reverses(self, other: Relation) -> bool:
        """Whether the two are two sides of one."""
        return (self.table, self.target) == (other.target, other.table) and {
            self.pairs,
            self.secondary_pairs,
        } == {_turned(other.pairs), _turned(other.secondary_pairs)}


def _turned(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((theirs, ours) for ours, theirs in pairs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entity:
    """One mapped class."""

    name: str
    table: str
    mirror: Mirror
    relations: tuple[Relation, ...]


class Models:
    """The mirrored tables and mapped classes of a `models.py`, or of a declarative base."""

    def __init__(self, models: ModuleType | type[DeclarativeBase]) -> None:
        configure_mappers()
        self.metadata = _base(models).metadata
        self.tables = {
            name: table for name, table in self.metadata.tables.items() if not name.startswith("ingest_")
        }
        self.entities = {entity.name: entity for entity in map(_entity, _base(models).registry.mappers)}
        self.by_table = {entity.table: entity for entity in self.entities.values()}
        self._columns = {
            name: tuple(c for c in table.c if _statable(c)) for name, table in self.tables.items()
        }
        self._references = {name: tuple(self._read_references(table)) for name, table in self.tables.items()}
        self._keys = {
            name: tuple(c.name for c in table.primary_key.columns) for name, table in self.tables.items()
        }

    def columns(self, table: str) -> tuple[sa.Column[Any], ...]:
        """The columns an upstream states: neither the ledger's, nor derived, nor ignored."""
        return self._columns[table]

    def column(self, table: str, name: str) -> sa.Column[Any]:
        """A column by its name in the table."""
        column: sa.Column[Any] = self.tables[table].c[name]
        return column

    def derived(self, table: str) -> tuple[sa.Column[Any], ...]:
        """The columns the mirror computes."""
        return tuple(c for c in self.tables[table].c if said(c.info).derived is not None)

    def references(self, table: str) -> tuple[Reference, ...]:
        """The foreign keys of `table` that are stated."""
        return self._references[table]

    def references_to(self, table: str) -> Iterator[Reference]:
        """The foreign keys that hold a key of `table`."""
        for references in self._references.values():
            yield from (reference for reference in references if reference.target == table)

    def key_references(self, table: str) -> list[Reference]:
        """The foreign keys that decide key columns: those within the key, then what covers the rest of it."""
        key = set(self.key_columns(table))
        within = [one for one in self.references(table) if key.issuperset(one.columns)]
        covered = {column for one in within for column in one.columns}
        others = [one for one in self.references(table) if one not in within and one.target != table]
        return within + [one for one in others if key & set(one.columns) - covered]

    def counted(self, table: str) -> str | None:
        """The integer column that numbers a parent's rows: what is left of a key that holds the parent's."""
        referring = {column for one in self.key_references(table) for column in one.columns}
        rest = [name for name in self.key_columns(table) if name not in referring]
        if len(rest) != 1 or len(self.key_columns(table)) == 1:
            return None
        kind = self.column(table, rest[0]).type
        return rest[0] if isinstance(kind, sa.Integer) and not isinstance(kind, sa.BigInteger) else None

    def key_columns(self, table: str) -> tuple[str, ...]:
        """The names of the primary key's columns."""
        return self._keys[table]

    def key(self, table: str, row: Mapping[str, Any]) -> Key:
        """The primary key of a row."""
        return tuple(row[name] for name in self._keys[table])

    def mirror(self, table: str) -> Mirror:
        """What the class of `table` says in `__mirror__`."""
        entity = self.by_table.get(table)
        return entity.mirror if entity else Mirror()

    def _read_references(self, table: sa.Table) -> Iterator[Reference]:
        statable = {column.name for column in self._columns[table.name]}
        # the widest first: what satisfies it often satisfies those within it
        widest = sorted(
            table.foreign_key_constraints, key=lambda one: (-len(one.column_keys), one.column_keys)
        )
        for constraint in widest:
            columns = tuple(element.parent.name for element in constraint.elements)
            if statable.issuperset(columns):
                yield Reference(
                    table=table.name,
                    columns=columns,
                    target=constraint.referred_table.name,
                    target_columns=tuple(element.column.name for element in constraint.elements),
                    ondelete=constraint.ondelete.upper() if constraint.ondelete else None,
                )


def _base(models: ModuleType | type[DeclarativeBase]) -> Any:
    if isinstance(models, type):
        return models
    for value in vars(models).values():
        if isinstance(value, type) and hasattr(value, "__mapper__"):
            return value
    raise ValueError(f"{models.__name__} defines no models")


def _statable(column: sa.Column[Any]) -> bool:
    spoken = said(column.info)
    return column.name not in LEDGER_COLUMNS and spoken.derived is None and not spoken.ignored


def _entity(mapper: Mapper[Any]) -> Entity:
    return Entity(
        name=mapper.class_.__name__,
        table=str(mapper.local_table.name),  # type: ignore[attr-defined]  # FromClause, for joins: ours are tables
        mirror=getattr(mapper.class_, "__mirror__", None) or Mirror(),
        relations=tuple(
            _relation(mapper, relation)
            for relation in mapper.relationships
            if not relation.viewonly and not said(relation.info).ignored
        ),
    )


def _relation(mapper: Mapper[Any], relation: RelationshipProperty[Any]) -> Relation:
    pairs = relation.synchronize_pairs if relation.secondary is not None else relation.local_remote_pairs
    forward = relation.direction.name == "MANYTOONE"
    return Relation(
        owner=mapper.class_.__name__,
        table=str(mapper.local_table.name),  # type: ignore[attr-defined]
        name=relation.key,
        kind=_kind(relation, forward),
        path=said(relation.info).path,
        target=str(relation.mapper.local_table.name),  # type: ignore[attr-defined]
        pairs=_names(pairs),
        secondary=getattr(relation.secondary, "name", None),
        secondary_pairs=_names(relation.secondary_synchronize_pairs),
        holds_key=forward,
        derived=forward and any(said(ours.info).derived is not None for ours, _ in pairs or ()),
    )


def _kind(relation: RelationshipProperty[Any], forward: bool) -> Literal["one", "many", "association"]:
    if relation.secondary is not None:
        return "association"
    return "one" if forward or not relation.uselist else "many"


def _names(pairs: Any) -> tuple[tuple[str, str], ...]:
    return tuple((str(ours.name), str(theirs.name)) for ours, theirs in pairs or ())
