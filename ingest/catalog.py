"""What the models say, read once: tables, keys, references, derived columns, nested records.

`load` and `reconcile` both work from these facts; neither reads SQLAlchemy's mappers itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args

import sqlalchemy as sa
from sqlalchemy.orm import Mapper, RelationshipProperty, configure_mappers

from ingest.errors import ConfigError, ModelError
from ingest.form import plain, stored
from ingest.mirror import LEDGER_COLUMNS, Count, Latest, Mirror, Policy, attach, said
from ingest.paths import Path
from ingest.types import HIGHEST_VERSION, LOWEST_VERSION

#: types whose values not every engine compares or spells alike
_NO_KEYS = (sa.Numeric, sa.Float, sa.LargeBinary, sa.JSON)
OnDelete = Literal["CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT", "NO ACTION"]
#: `Column.default` of a column that has none
NO_DEFAULT: Any = type("NoDefault", (), {"__repr__": lambda _: "NO_DEFAULT"})()


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column that the upstream can state."""

    name: str
    type: sa.types.TypeEngine[Any]
    nullable: bool
    #: a constant python value that fills what nobody states
    default: Any
    #: where the record holds it: paths of plain keys, in order of preference
    paths: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A foreign key whose values the upstream states."""

    name: str
    table: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]
    policies: tuple[Policy, ...]
    ondelete: str | None
    #: columns that become NULL when the target cannot be shown; empty when none of them may
    nullable: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.table}.{'+'.join(self.columns)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Derived:
    """A pointer or counter of `table`, computed from the rows of `child` that refer to it."""

    table: str
    column: str
    kind: Literal["pointer", "counter"]
    child: str
    #: the child's columns that refer to `table`'s key, in the key's order
    follows: tuple[str, ...]
    #: pointer: the child's column whose value is taken
    value: str | None
    #: pointer: the child's sort expressions
    by: tuple[sa.ColumnElement[Any], ...]
    where: sa.ColumnElement[bool] | None

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Nested:
    """Records inside a record, under a relationship's name."""

    name: str
    kind: Literal["one", "many", "association"]
    paths: tuple[tuple[str, ...], ...]
    #: the entity of the nested records
    entity: str
    #: (our column, the nested record's column); association: (our column, the association's column)
    pairs: tuple[tuple[str, str], ...]
    #: association: its table, and (the nested record's column, the association's column)
    secondary: str | None = None
    secondary_pairs: tuple[tuple[str, str], ...] = ()
    complete: bool = False


class Unique(NamedTuple):
    """Columns of which no two rows have the same values."""

    columns: tuple[str, ...]
    #: the last of them that a row can do without, if there is any; with NULL there it claims nothing
    optional: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One mirrored table."""

    name: str
    sql: sa.Table
    key: tuple[str, ...]
    #: what the upstream can state, in the table's order
    columns: tuple[Column, ...]
    mirror: Mirror
    nested: tuple[Nested, ...] = ()
    entity: str | None = None
    #: columns nobody states, and the constants that a new row has in them (python values)
    born: dict[str, Any] = field(default_factory=dict)
    #: what is unique beside the key
    uniques: tuple[Unique, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def paths(self) -> list[tuple[str, ...]]:
        """Everywhere in a record that a column or a nested record may be."""
        columns = [path for column in self.columns for path in column.paths]
        return columns + [path for nested in self.nested for path in nested.paths]

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """Every mirrored table of a job and how they hang together."""

    tables: dict[str, Table]
    entities: dict[str, Table]
    references: tuple[Reference, ...]
    derived: tuple[Derived, ...]
    metadatas: tuple[sa.MetaData, ...]
    _by_module: dict[str, dict[str, Table]] = field(default_factory=dict)
    _from: dict[str, tuple[Reference, ...]] = field(default_factory=dict)
    _to: dict[str, tuple[Reference, ...]] = field(default_factory=dict)
    _following: dict[str, tuple[Derived, ...]] = field(default_factory=dict)

    def within(self, module: str) -> Catalog:
        """The same catalog with the entities of one module of models: two sources may both have a User."""
        return replace(self, entities=self._by_module[module])

    def references_of(self, table: str) -> tuple[Reference, ...]:
        """The foreign keys that `table` holds."""
        return self._from.get(table, ())

    def references_to(self, table: str) -> tuple[Reference, ...]:
        """The foreign keys that hold `table`'s key."""
        return self._to.get(table, ())

    def derived_from(self, child: str) -> tuple[Derived, ...]:
        """The pointers and counters that follow rows of `child`."""
        return self._following.get(child, ())

    def stated_with(self, name: str) -> set[str]:
        """The tables that a record of this one may state rows of, its own among them."""
        found, ahead = set(), [name]
        while ahead:
            table = self.tables[ahead.pop()]
            if table.name in found:
                continue
            found.add(table.name)
            ahead += [self._entity(table, nested.entity).name for nested in table.nested]
            ahead += [nested.secondary for nested in table.nested if nested.secondary is not None]
        return found

    def _entity(self, table: Table, name: str) -> Table:
        """The entity of that name in the module of models that a table is of."""
        within = (its for its in self._by_module.values() if its.get(table.entity or "") is table)
        return next(within, self.entities)[name]

    def watched(self, name: str) -> list[tuple[tuple[str, ...], str]]:
        """The columns that parents watch: a pointer or counter follows them, or a stub lives by them."""
        watched = [(one.follows, one.table) for one in self.derived_from(name)]
        watched += [(one.columns, one.target) for one in self.references_of(name) if "stub" in one.policies]
        return list(dict.fromkeys(watched))


def read_catalog(modules: Iterable[ModuleType]) -> Catalog:
    """Read the models of every source; ModelError where they cannot be mirrored as written."""
    modules = list(modules)
    try:
        return _read(modules)
    except sa.exc.SQLAlchemyError as error:
        where = ", ".join(module.__name__ for module in modules)
        raise ModelError(str(error).partition("\n")[0], where=where, hint="put the models right") from error


def _read(modules: Iterable[ModuleType]) -> Catalog:
    tables: dict[str, Table] = {}
    by_module = {module.__name__: list(_mappers(module)) for module in modules}
    mappers = [mapper for mappers in by_module.values() for mapper in mappers]
    configure_mappers()
    metadatas = tuple({id(one): one for one in (_table_of(mapper).metadata for mapper in mappers)}.values())
    for metadata in metadatas:
        attach(metadata)
        by_table = {mapper.local_table: mapper for mapper in mappers}
        for sql in metadata.tables.values():
            if sql.name in tables:
                raise ConfigError(
                    f"two sources have a table {sql.name!r}",
                    hint="mirror them into two databases, or rename one",
                )
            tables[str(sql.name)] = _table(sql, by_table.get(sql))
    references = tuple(reference for table in tables.values() for reference in _references(table))
    derived = tuple(one for table in tables.values() for one in _derived(table, tables))
    return Catalog(
        tables=tables,
        entities={table.entity: table for table in tables.values() if table.entity},
        references=references,
        derived=derived,
        metadatas=metadatas,
        _by_module={
            name: {mapper.class_.__name__: tables[_table_of(mapper).name] for mapper in of_module}
            for name, of_module in by_module.items()
        },
        _from=_grouped(references, "table"),
        _to=_grouped(references, "target"),
        _following=_grouped(derived, "child"),
    )


def _grouped(items: Iterable[Any], by: str) -> dict[str, tuple[Any, ...]]:
    groups: dict[str, list[Any]] = {}
    for item in items:
        groups.setdefault(getattr(item, by), []).append(item)
    return {name: tuple(group) for name, group in groups.items()}


def _mappers(module: ModuleType) -> Iterator[Mapper[Any]]:
    registries = {
        id(value.__mapper__.registry): value.__mapper__.registry
        for value in vars(module).values()
        if isinstance(value, type) and hasattr(value, "__mapper__")
    }
    if not registries:
        raise ModelError(
            "defines no models", where=module.__name__, hint="models.py needs declarative classes"
        )
    for registry in registries.values():
        yield from sorted(registry.mappers, key=lambda mapper: mapper.class_.__name__)


def _table_of(mapper: Mapper[Any]) -> sa.Table:
    table = mapper.local_table
    if not isinstance(table, sa.Table):
        raise ModelError("is not mapped to a table", where=mapper.class_.__name__)
    return table


def _table(sql: sa.Table, mapper: Mapper[Any] | None) -> Table:
    mirror = getattr(mapper.class_, "__mirror__", None) if mapper else None
    key = tuple(_name(column) for column in sql.primary_key.columns)
    if not key:
        raise ModelError("has no primary key", where=f"table {sql.name}", hint="a mirrored table needs one")
    for column in sql.primary_key.columns:
        if isinstance(plain(column.type), _NO_KEYS):
            raise ModelError(
                f"a key cannot be of type {column.type!r}",
                where=f"{sql.name}.{column.name}",
                hint="integers, text, UUIDs, dates and times are spelled the same everywhere",
            )
    table = Table(
        name=str(sql.name),
        sql=sql,
        key=key,
        columns=tuple(_column(column) for column in sql.columns if _statable(column)),
        mirror=mirror or Mirror(),
        nested=tuple(_nested(mapper)) if mapper else (),
        entity=mapper.class_.__name__ if mapper else None,
        born=dict(_born(sql)),
        uniques=tuple(_uniques(sql)),
    )
    _check_mirror(table)
    return table


def _uniques(sql: sa.Table) -> Iterator[Unique]:
    """What is unique among stated columns; of a part of the rows, or of an expression, nothing is known."""
    constraints = [list(one.columns) for one in sql.constraints if isinstance(one, sa.UniqueConstraint)]
    indexes = [list(one.columns) for one in sql.indexes if one.unique and not _is_partial(one)]
    found = set()
    for columns in (*constraints, *indexes):
        if not any(isinstance(plain(one.type), sa.LargeBinary) or not _statable(one) for one in columns):
            optional = [_name(column) for column in columns if column.nullable and not column.primary_key]
            found.add(Unique(tuple(map(_name, columns)), optional[-1] if optional else None))
    yield from sorted(found, key=lambda one: one.columns)


def _is_partial(index: sa.Index) -> bool:
    if not all(isinstance(one, sa.Column) for one in index.expressions):
        return True
    return any(options.get("where") is not None for options in index.dialect_options.values())


def _born(sql: sa.Table) -> Iterator[tuple[str, Any]]:
    """What a new row starts with in derived and ignored columns; ModelError where nothing may be."""
    for column in sql.columns:
        if _statable(column) or column.name in LEDGER_COLUMNS:
            continue
        constant = _constant(column)
        if constant is NO_DEFAULT and isinstance(said(column.info).derived, Count):
            constant = 0
        if constant is not NO_DEFAULT:
            yield _name(column), constant
        elif not column.nullable and column.server_default is None:
            raise ModelError(
                "takes no NULL, but nobody states it",
                where=f"{sql.name}.{column.name}",
                hint="make it nullable, or give it a constant default",
            )


def _statable(column: sa.Column[Any]) -> bool:
    spoken = said(column.info)
    return column.name not in LEDGER_COLUMNS and spoken.derived is None and not spoken.ignored


def _check_mirror(table: Table) -> None:
    mirror = table.mirror
    for name in filter(
        None, (mirror.version, mirror.deleted, mirror.redacts, mirror.redacted_by, *mirror.clears)
    ):
        if name not in table.names:
            raise ModelError(
                f"__mirror__ names {name!r}, which is no column the upstream states",
                where=f"table {table.name}",
                hint=f"known: {', '.join(table.names)}",
            )


def _column(column: sa.Column[Any]) -> Column:
    paths = said(column.info).paths
    return Column(
        name=_name(column),
        type=column.type,
        nullable=bool(column.nullable) and not column.primary_key,
        default=_constant(column),
        paths=tuple(Path(path).keys for path in paths) or _spellings(column.name),
    )


def _constant(column: sa.Column[Any]) -> Any:
    """A constant default; computed ones (`now()`, `uuid4`) would not be the same twice."""
    default = column.default
    return default.arg if isinstance(default, sa.ColumnDefault) and default.is_scalar else NO_DEFAULT


def _spellings(name: str) -> tuple[tuple[str, ...], ...]:
    head, *tail = name.split("_")
    camel = head + "".join(part.capitalize() for part in tail)
    return ((name,),) if camel == name else ((name,), (camel,))


def _nested(mapper: Mapper[Any]) -> Iterator[Nested]:
    for relation in mapper.relationships:
        spoken = said(relation.info)
        if relation.viewonly or spoken.ignored:
            continue
        paths = tuple(Path(path).keys for path in spoken.paths) or _spellings(relation.key)
        yield Nested(
            name=relation.key,
            kind=_kind(relation),
            paths=paths,
            entity=relation.mapper.class_.__name__,
            pairs=_named(
                relation.synchronize_pairs if relation.secondary is not None else relation.local_remote_pairs
            ),
            secondary=str(relation.secondary.name) if isinstance(relation.secondary, sa.Table) else None,
            secondary_pairs=_named(relation.secondary_synchronize_pairs),
            complete=spoken.complete,
        )


def _kind(relation: RelationshipProperty[Any]) -> Literal["one", "many", "association"]:
    if relation.secondary is not None:
        return "association"
    return "one" if relation.direction.name == "MANYTOONE" or not relation.uselist else "many"


def _named(pairs: Any) -> tuple[tuple[str, str], ...]:
    return tuple((_name(ours), _name(theirs)) for ours, theirs in pairs or ())


def _name(column: Any) -> str:
    return str(column.name)


def _in_table_order(constraint: sa.ForeignKeyConstraint) -> list[int]:
    """Sorts the foreign keys of a table, which come as a set, as their columns stand in it."""
    order = constraint.table.columns.keys()
    return [order.index(element.parent.key) for element in constraint.elements]


def _references(table: Table) -> Iterator[Reference]:
    derived = {column.name for column in table.sql.columns if said(column.info).derived is not None}
    for constraint in sorted(table.sql.foreign_key_constraints, key=_in_table_order):
        columns = tuple(_name(element.parent) for element in constraint.elements)
        if derived & set(columns):
            continue
        target = constraint.referred_table
        target_columns = tuple(_name(element.column) for element in constraint.elements)
        if set(target_columns) != {column.name for column in target.primary_key.columns}:
            raise ModelError(
                f"the foreign key {'+'.join(columns)} does not refer to the primary key of {target.name}",
                where=f"table {table.name}",
            )
        nullable = tuple(name for name in columns if table.column(name).nullable)
        policies = said(constraint.info).missing or said(constraint.elements[0].info).missing
        unknown = set(policies) - set(get_args(Policy))
        if unknown:
            raise ModelError(
                f"when_missing says {min(unknown)!r}",
                where=f"{table.name}.{'+'.join(columns)}",
                hint=f"known: {', '.join(get_args(Policy))}",
            )
        yield Reference(
            name=str(constraint.name or f"{table.name}_{'_'.join(columns)}"),
            table=table.name,
            columns=columns,
            target=str(target.name),
            target_columns=target_columns,
            policies=policies or _default_policies(nullable, target),
            ondelete=constraint.ondelete.upper() if constraint.ondelete else None,
            nullable=nullable,
        )


def _default_policies(nullable: Sequence[str], target: sa.Table) -> tuple[Policy, ...]:
    if nullable:
        return ("fetch", "null")
    return ("fetch", "stub") if stubbable(target) else ("fetch", "park")


def stubbable(sql: sa.Table) -> bool:
    """True when a row with nothing but its key is valid."""
    return all(
        column.nullable
        or column.primary_key
        or isinstance(said(column.info).derived, Count)
        or column.server_default is not None
        or _constant(column) is not NO_DEFAULT
        for column in sql.columns
    )


def _derived(table: Table, tables: dict[str, Table]) -> Iterator[Derived]:
    for column in table.sql.columns:
        rule = said(column.info).derived
        if rule is None:
            continue
        where = f"{table.name}.{column.name}"
        followed = _columns_of(rule.follows(), where)
        child = followed[0].table
        follows = _in_key_order(table, followed, where)
        condition = rule.where() if rule.where else None
        value = None
        by: tuple[sa.ColumnElement[Any], ...] = ()
        if isinstance(rule, Latest):
            value = _pointed_at(column, child, where)
            stated = rule.by()
            by = tuple(_columns_of(stated, where)) + tuple(
                part
                for part in tables[child.name].sql.primary_key.columns
                if part.name not in _names(stated, where)
            )
        yield Derived(
            table=table.name,
            column=_name(column),
            kind="counter" if isinstance(rule, Count) else "pointer",
            child=str(child.name),
            follows=follows,
            value=value,
            by=by,
            where=condition,
        )


def _names(expressions: Any, where: str) -> set[str]:
    return {column.name for column in _columns_of(expressions, where)}


def _columns_of(expressions: Any, where: str) -> tuple[sa.Column[Any], ...]:
    parts = expressions if isinstance(expressions, tuple | list) else (expressions,)
    columns = tuple(
        part.__clause_element__() if hasattr(part, "__clause_element__") else part for part in parts
    )
    columns = tuple(column.table.c[column.name] for column in columns)
    if not columns:
        raise ModelError("follows no column", where=where)
    return columns


def _in_key_order(table: Table, followed: Sequence[sa.Column[Any]], where: str) -> tuple[str, ...]:
    """The child's columns in the order of the key they refer to."""
    child = followed[0].table
    wanted = {column.name for column in followed}
    for constraint in child.foreign_key_constraints:
        pairs = {_name(element.column): _name(element.parent) for element in constraint.elements}
        if constraint.referred_table is table.sql and wanted <= set(pairs.values()):
            return tuple(pairs[name] for name in table.key)
    raise ModelError(
        f"follows {child.name}.{'+'.join(sorted(wanted))}, which is no foreign key to {table.name}",
        where=where,
    )


def _pointed_at(column: sa.Column[Any], child: Any, where: str) -> str:
    for foreign in column.foreign_keys:
        if foreign.column.table is child:
            return str(foreign.column.name)
    raise ModelError(
        f"points at no column of {child.name}", where=where, hint=f'ForeignKey("{child.name}.id")'
    )


def stored_defaults(table: Table) -> dict[str, Any]:
    """Stored forms of the constant defaults, by column."""
    return {
        column.name: stored(column.type, column.default)
        for column in table.columns
        if column.default is not NO_DEFAULT
    }


def stored_births(table: Table) -> dict[str, Any]:
    """Stored forms of what a new row starts with in the columns nobody states."""
    return {name: stored(table.sql.c[name].type, value) for name, value in table.born.items()}


def version_number(value: Any) -> int:
    """A version column's python value as an integer: a time counts in microseconds since 1970."""
    if isinstance(value, datetime):
        since = value - _EPOCH
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    # what is outside is the machine's own: "no version", and "whatever the version"
    return min(max(int(value), LOWEST_VERSION + 1), HIGHEST_VERSION - 1)


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
