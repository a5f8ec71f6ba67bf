"""DESIGN's precedence in plain python: statements in, rows out. The oracle of every convergence test.

It knows nothing of SQL, batches, runs or the order in which pages were loaded: only statements, each
with its rank, tombstones, complete lists and listings, and the foreign keys' rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
Where = tuple[str, tuple[Any, ...]]  # (table, key)


@dataclass(frozen=True)
class Says:
    """One record: what it states of one row."""

    table: str
    key: tuple[Any, ...]
    values: Row
    rank: tuple[int, int, int]
    asked: int
    top: bool = True


@dataclass(frozen=True)
class Buries:
    """A proof that a row was deleted."""

    table: str
    key: tuple[Any, ...]
    version: int
    stamp: int
    #: False: all that is known is that it was not there when it was asked for by id
    told: bool = True


@dataclass(frozen=True)
class Sweeps:
    """A listing proven complete: rows with these values that were last stated before it began are gone."""

    table: str
    scope: tuple[tuple[str, Any], ...]
    first: int


@dataclass(frozen=True)
class Erases:
    """A row that is gone for good: whatever is said of it counts for nothing."""

    table: str
    key: tuple[Any, ...]


@dataclass(frozen=True)
class Lists:
    """A complete list: rows of `table` whose `column` is `owner` and that are older are gone."""

    table: str
    column: str
    owner: Any
    rank: tuple[int, int, int]


@dataclass(frozen=True)
class Refers:
    """A foreign key: null or park when the target is missing, `ondelete` when it is tombstoned."""

    table: str
    column: str
    target: str
    missing: str
    ondelete: str


@dataclass(frozen=True)
class Follows:
    """A pointer or counter of `parent`."""

    parent: str
    column: str
    child: str
    by: str
    pick: Callable[[list[Row]], Any]


@dataclass
class Rules:
    """What the models say."""

    key: dict[str, tuple[str, ...]]
    columns: dict[str, tuple[str, ...]]
    required: dict[str, tuple[str, ...]]
    defaults: dict[str, Row]
    refers: list[Refers]
    follows: list[Follows]


@dataclass
class Truth:
    """What the tables show and what is withheld."""

    rows: dict[str, dict[tuple[Any, ...], Row]]
    withheld: dict[tuple[str, tuple[Any, ...], str], Any] = field(default_factory=dict)


def truth(
    rules: Rules,
    says: list[Says],
    buries: list[Buries],
    lists: list[Lists],
    sweeps: Sequence[Sweeps] = (),
    erases: Sequence[Erases] = (),
) -> Truth:
    """The rows and withheld values that the statements amount to."""
    newest: dict[tuple[str, str, Any], tuple[int, int, int]] = {}
    for one in lists:
        where = (one.table, one.column, one.owner)
        newest[where] = max(newest.get(where, one.rank), one.rank)

    def listed(one: Says) -> bool:
        return all(
            one.values.get(column) != owner or one.rank >= rank
            for (table, column, owner), rank in newest.items()
            if table == one.table
        )

    stated: dict[Where, Row] = {}
    graves: dict[Where, tuple[int, int]] = {}
    life: dict[Where, tuple[int, int]] = {}
    #: when it was last stated: at its top, where it ever was
    stamps: dict[Where, int] = {}
    mentions: dict[Where, int] = {}
    for one in buries:
        version, stamp = graves.get((one.table, one.key), (one.version, one.stamp))
        graves[(one.table, one.key)] = (max(version, one.version), max(stamp, one.stamp))
    erased = {(one.table, one.key) for one in erases}
    for one in sorted((one for one in says if listed(one)), key=lambda one: one.rank):
        where = (one.table, one.key)
        if where in erased:
            continue
        stated.setdefault(where, {}).update(one.values)
        mentions[where] = one.rank[1]
        if one.top:
            stamps[where] = max(stamps.get(where, 0), one.rank[1])
            version, asked = life.get(where, (one.rank[0], one.asked))
            life[where] = (max(version, one.rank[0]), max(asked, one.asked))

    def swept(where: Where) -> bool:
        last = stamps.get(where, mentions[where])
        return any(
            one.table == where[0]
            and last < one.first
            and all(stated[where].get(name) == value for name, value in one.scope)
            for one in sweeps
        )

    def dead(where: Where) -> bool:
        if swept(where):
            return True
        if where not in graves:
            return False
        (version, stamp), proof = graves[where], life.get(where)
        # one that was only ever mentioned is missing still where nobody said that it was deleted
        if proof is None:
            return any(one.told for one in buries if (one.table, one.key) == where)
        return proof[0] <= version and proof[1] < stamp

    result = Truth({table: {} for table in rules.key})
    for where, values in stated.items():
        table, key = where
        full = {**dict.fromkeys(rules.columns[table]), **rules.defaults.get(table, {}), **values}
        if dead(where) or any(full[name] is None for name in rules.required[table]):
            result.withheld[(table, key, "")] = values
        else:
            result.rows[table][key] = full
    gone = erased | {(one.table, one.key) for one in buries if one.told}
    gone |= {one for one in stated if dead(one)}
    _settle(rules, result, stated, gone)
    for rule in rules.follows:
        for key, row in result.rows[rule.parent].items():
            children = [one for one in result.rows[rule.child].values() if one[rule.by] == key[0]]
            row[rule.column] = rule.pick(children)
    return result


def _settle(rules: Rules, result: Truth, stated: dict[Where, Row], gone: set[Where]) -> None:
    """Park rows until no parked-kind reference dangles; then make stubs, and null what is left."""
    parking = True
    while parking:
        parking = False
        for rule in rules.refers:
            for key, row in list(result.rows[rule.table].items()):
                target = (row[rule.column],)
                if target[0] is None or target in result.rows[rule.target]:
                    continue
                buried = (rule.target, target) in gone
                must = rule.ondelete == "CASCADE" or rule.column in rules.required[rule.table]
                park = must if buried else rule.missing == "park"
                if park:
                    del result.rows[rule.table][key]
                    result.withheld[(rule.table, key, "")] = stated[(rule.table, key)]
                    parking = True
    for rule in rules.refers:
        for key, row in result.rows[rule.table].items():
            target = (row[rule.column],)
            if target[0] is None or target in result.rows[rule.target]:
                continue
            if rule.missing == "stub" and (rule.target, target) not in gone:
                blank = {**dict.fromkeys(rules.columns[rule.target]), **rules.defaults.get(rule.target, {})}
                result.rows[rule.target][target] = {**blank, rules.key[rule.target][0]: target[0]}
            else:
                result.withheld[(rule.table, key, rule.column)] = target[0]
                row[rule.column] = None
