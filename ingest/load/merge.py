"""Precedence: for every column the stated value of the highest rank wins.

Pure functions over what is known of one row. The fast path (a full record onto a row without
exceptions) is the same rule in SQL; everything else comes through here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import msgspec

from ingest.catalog import NO_DEFAULT, Table
from ingest.types import FOREVER, LOWEST_VERSION, NEVER, Key
from ingest.withheld import BY_ID

RankTuple: TypeAlias = tuple[int, int, int]
#: under this name a row's exceptions keep what its top-level statements prove of its life
_LIFE = ""


class Life(NamedTuple):
    """What a row's top-level statements prove of its life."""

    #: the greatest version among them
    version: int
    #: the latest any was asked for
    asked: int
    #: the latest any was staged
    stamp: int

    def joined(self, other: Life) -> Life:
        return Life(*map(max, self, other))


#: of a row that is only ever mentioned inside other records
UNPROVEN = Life(LOWEST_VERSION, -1, -1)


@dataclass(slots=True)
class Statement:
    """What one record says of one row."""

    key: Key
    #: columns in stored form; a column that is absent is not stated
    values: Mapping[str, Any]
    rank: RankTuple
    #: the highest stamp staged when its page was asked for
    asked: int
    #: False for a record nested in another: a mention, which never restores
    top: bool
    #: written even if equal (a dead letter of its key is open, or its set is written anew)
    forced: bool = False
    #: follows from another record, and is not counted beside it
    implied: bool = False


@dataclass(slots=True)
class Tombstone:
    """The memory that a row was deleted upstream."""

    version: int
    stamp: int
    proof: str

    @property
    def told(self) -> bool:
        """True when upstream said that the row was deleted, and not only that it is not there."""
        return not self.proof.startswith(BY_ID)

    def joined(self, other: Tombstone) -> Tombstone:
        newer = max(self, other, key=lambda one: (one.told, one.stamp, one.version, one.proof))
        return Tombstone(max(self.version, other.version), max(self.stamp, other.stamp), newer.proof)

    @property
    def erases(self) -> bool:
        """True where nothing that is said of the row is kept any more, aside or not."""
        return self.stamp == FOREVER

    def voids(self, life: Life) -> bool:
        """True unless a statement has a greater version, or was asked for after the proof."""
        return life.version <= self.version and life.asked < self.stamp


@dataclass(frozen=True, slots=True)
class Sweep:
    """A listing proven complete: what it leaves out, and nobody has spoken of since, is gone."""

    #: the stamps of its first and its last page
    first: int
    last: int

    def voids(self, stated: Stated) -> bool:
        """True for a row that was last stated before the listing; a mention is none, where it ever was."""
        last = stated.life.stamp if stated.life.stamp >= 0 else stated.rank[1]
        return last < self.first


@dataclass(slots=True)
class Stated:
    """All that is known of one row: per column the winning value and its rank."""

    values: dict[str, Any] = field(default_factory=dict)
    ranks: dict[str, RankTuple] = field(default_factory=dict)
    #: the highest rank of any statement
    rank: RankTuple = NEVER
    life: Life = UNPROVEN

    @property
    def known(self) -> bool:
        """True when anybody has said anything of the row."""
        return self.rank != NEVER

    def take(self, statement: Statement, *, equal_counts: bool = True) -> bool:
        """Merge one statement; True when a value changed hands, or (not `equal_counts`) became another."""
        rank, changed = statement.rank, False
        for name, value in statement.values.items():
            if rank > self.ranks.get(name, NEVER):
                changed = changed or equal_counts or name not in self.values or self.values[name] != value
                self.values[name] = value
                self.ranks[name] = rank
        if rank > self.rank:
            self.rank = rank
        if statement.top:
            self.life = self.life.joined(Life(rank[0], statement.asked, rank[1]))
        return changed


def same_values(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Equal as stored values, column by column."""
    return left.keys() == right.keys() and all(_same(value, right[name]) for name, value in left.items())


def _same(left: Any, right: Any) -> bool:
    """Equal, also where a database keeps JSON's bare number as a number: the text 2.0 comes back as 2."""
    if left == right:
        return True
    number, text = (left, right) if isinstance(right, str) else (right, left)
    if not isinstance(number, int | float) or not isinstance(text, str):
        return False
    try:
        return float(text) == number
    except ValueError:
        return False


def merge(
    stated: Stated, statements: Sequence[Statement], tombstone: Tombstone | None, *, skip_equal: bool
) -> tuple[Stated, int, int]:
    """Take statements in rank order: what is known then, how many were written, and how many kept.

    Statements that leave every value as it was leave the row's rank alone too, so that a re-sync of
    unchanged data writes nothing. That is safe only when every lower stamp is loaded (`skip_equal`), and
    while no tombstone voids the row, whose proof an equal record may outlive.
    """
    counted = sum(not one.implied for one in statements)
    merged = Stated(dict(stated.values), dict(stated.ranks), stated.rank, stated.life)
    lives = tombstone is None or not tombstone.voids(stated.life)
    may_skip = skip_equal and lives and not any(one.forced for one in statements)
    in_rank_order = sorted(statements, key=lambda one: one.rank)
    written = sum([merged.take(one, equal_counts=not may_skip) and not one.implied for one in in_rank_order])
    says_nothing_new = not written and (merged.rank, merged.life) == (stated.rank, stated.life)
    if says_nothing_new or (may_skip and stated.known and same_values(merged.values, stated.values)):
        return stated, 0, counted
    return merged, written, counted - written


def shown(table: Table, stated: Stated, fill: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """The row the table can show, in the order of its columns; None while a NOT NULL column is unstated.

    `fill` holds the stored form of constant defaults.
    """
    row = []
    for column in table.columns:
        value = stated.values.get(column.name, fill.get(column.name, NO_DEFAULT))
        if value is NO_DEFAULT:
            if not column.nullable:
                return None
            value = None
        row.append(value)
    return tuple(row)


def dump_exceptions(table: Table, stated: Stated, asked: Callable[[int], int]) -> str | None:
    """What the row's rank does not say: ranks of columns that differ, and its life; None when nothing."""
    exceptions: dict[str, Any] = {
        name: list(rank) if (rank := stated.ranks.get(name)) is not None else None
        for name in table.names
        if stated.ranks.get(name) != stated.rank
    }
    if stated.life != Life(stated.rank[0], asked(stated.rank[1]), stated.rank[1]):
        exceptions[_LIFE] = list(stated.life)
    return msgspec.json.encode(exceptions, order="sorted").decode() if exceptions else None


def load_stated(
    table: Table,
    values: Mapping[str, Any],
    rank: RankTuple,
    exceptions: str | None,
    asked: Callable[[int], int],
) -> Stated:
    """The inverse of `shown` and `dump_exceptions`: `values` are the stated ones, withheld ones included."""
    differing = msgspec.json.decode(exceptions) if exceptions else {}
    ranks = dict.fromkeys(table.names, rank)
    for name, one in differing.items():
        if name == _LIFE:
            continue
        if one is None:
            ranks.pop(name, None)
        else:
            ranks[name] = tuple(one)
    if not ranks:
        return Stated()  # a stub: nobody has stated anything
    # what was stored before there were sweeps does not say when the row was staged last
    life = Life(*[*differing.get(_LIFE, (rank[0], asked(rank[1]))), rank[1]][:3])
    return Stated({name: values[name] for name in ranks}, ranks, rank, life)
