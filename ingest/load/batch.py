"""What one load is about to do: statements by table and key, sets, tombstones, dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from ingest.load.merge import RankTuple, Statement, Tombstone
from ingest.types import Key

#: a column that a record does not state
ABSENT: Any = type("Absent", (), {"__repr__": lambda _: "ABSENT"})()


#: a full top-level record, alone for its key in this batch (the fast path), as it is staged: the values
#: of its table's columns, its rank, and NULL for the exceptions it has not
FullRow: TypeAlias = tuple[Any, ...]


def rank_of(full: FullRow) -> RankTuple:
    """Which of two full rows is the newer."""
    return full[-4], full[-3], full[-2]


class SetOf(NamedTuple):
    """The columns by which the rows of a set name their owner."""

    table: str
    columns: tuple[str, ...]


class Scope(NamedTuple):
    """Rows that have these values in these columns; all of a table without any."""

    of: SetOf
    owner: Key


@dataclass(slots=True)
class Listed:
    """The pages of one walk that may prove itself complete."""

    scope: Scope
    stamps: set[int] = field(default_factory=set)
    #: how many pages there are, and the stamps of the first and the last; None and 0 before the last page
    pages: int | None = None
    first: int = 0
    last: int = 0

    def join(self, other: Listed) -> None:
        """Add what is known of its other pages."""
        self.stamps |= other.stamps
        if other.pages is not None:
            self.pages, self.first, self.last = other.pages, other.first, other.last


@dataclass(slots=True)
class StatedSet:
    """A complete list: the member rows of one owner, and how new that is."""

    rank: RankTuple
    members: set[Key]


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """A dead letter before it has a number."""

    stamp: int
    #: -1 is the whole page
    ordinal: int
    table: str | None
    key: Key | None
    raw: bytes
    reason: str


class MissingFact(NamedTuple):
    """What a by-id answer says of a key that was asked for."""

    table: str
    key: Key
    state: str
    stamp: int


@dataclass(slots=True)
class Batch:
    """Pages decoded, in the order of their stamps."""

    full: dict[str, dict[Key, FullRow]] = field(default_factory=dict)
    partial: dict[str, dict[Key, list[Statement]]] = field(default_factory=dict)
    sets: dict[SetOf, dict[Key, StatedSet]] = field(default_factory=dict)
    tombstones: dict[str, dict[Key, Tombstone]] = field(default_factory=dict)
    #: walks that may be complete listings, by id
    listed: dict[str, Listed] = field(default_factory=dict)
    facts: list[MissingFact] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    #: upstream keys no column takes: (source, stream, path) to the first stamp that had it
    unmapped: dict[tuple[str, str, str], int] = field(default_factory=dict)
    #: asked of every page in the batch
    asked: dict[int, int] = field(default_factory=dict)
    records: int = 0
    rejected: int = 0
    kept: int = 0
    quarantined: set[int] = field(default_factory=set)

    def tables(self) -> set[str]:
        """Every table the batch has something to say of."""
        return set(self.full) | set(self.partial) | set(self.tombstones) | {one.table for one in self.sets}

    def add(
        self,
        table: str,
        names: tuple[str, ...],
        key: Key,
        row: list[Any],
        rank: RankTuple,
        *,
        top: bool,
    ) -> None:
        """One record. The first full one of a key takes the fast path; any second sends both to the merge."""
        self.records += 1
        full, partial = self._of(table)
        earlier = full.pop(key, None) if key in full else None
        if earlier is None and top and ABSENT not in row and key not in partial:
            full[key] = (*row, *rank, None)
            return
        statements = partial.setdefault(key, [])
        if earlier is not None:
            statements.append(self.as_statement(names, key, earlier))
        values = {name: value for name, value in zip(names, row, strict=True) if value is not ABSENT}
        statements.append(Statement(key, values, rank, self.asked[rank[1]], top))

    def add_rows(self, table: str, names: tuple[str, ...], keys: list[Key], rows: list[FullRow]) -> None:
        """Many full top-level records of one page."""
        full, partial = self._of(table)
        fresh = dict(zip(keys, rows, strict=True))
        # views on both sides: of two views the shorter is walked
        known = full.keys(), partial.keys()
        if len(fresh) == len(rows) and all(map(fresh.keys().isdisjoint, known)):
            self.records += len(rows)
            full.update(fresh)
            return
        for key, row in zip(keys, rows, strict=True):
            self.add(table, names, key, list(row[:-4]), rank_of(row), top=True)

    def join(self, names: Mapping[str, tuple[str, ...]], other: Batch) -> None:
        """Add all of a batch of other, later pages, which is used up. `names`: every table's columns."""
        self.asked |= other.asked
        self.records += other.records
        self.rejected += other.rejected
        self.kept += other.kept
        self.letters += other.letters
        self.facts += other.facts
        self.quarantined |= other.quarantined
        for where, stamp in other.unmapped.items():
            self.unmapped.setdefault(where, stamp)
        for table in other.full.keys() | other.partial.keys():
            self._join_rows(table, names[table], other)
        for table, buried in other.tombstones.items():
            for key, tombstone in buried.items():
                self.bury(table, key, tombstone)
        for of, lists in other.sets.items():
            for owner, stated in lists.items():
                self.add_set(of, owner, stated.rank, stated.members)
        for walk, listed in other.listed.items():
            self.listed.setdefault(walk, Listed(listed.scope)).join(listed)

    def _join_rows(self, table: str, names: tuple[str, ...], other: Batch) -> None:
        full, partial = self._of(table)
        theirs, statements = other._of(table)
        # views on both sides: of two views the shorter is walked
        for known in (full.keys(), partial.keys()):
            if not known.isdisjoint(theirs.keys()):
                for key in known & theirs.keys():
                    statements[key] = [self.as_statement(names, key, theirs.pop(key))]
        for key, some in statements.items():
            earlier = full.pop(key, None)
            ours = partial.setdefault(key, [])
            if earlier is not None:
                ours.append(self.as_statement(names, key, earlier))
            ours += some
        full.update(theirs)

    def as_statement(self, names: tuple[str, ...], key: Key, full: FullRow) -> Statement:
        """A full row as a statement, for the merge."""
        rank = rank_of(full)
        return Statement(key, dict(zip(names, full, strict=False)), rank, self.asked[rank[1]], top=True)

    def _of(self, table: str) -> tuple[dict[Key, FullRow], dict[Key, list[Statement]]]:
        if table not in self.full:
            self.full[table] = {}
        if table not in self.partial:
            self.partial[table] = {}
        return self.full[table], self.partial[table]

    def add_values(self, table: str, statement: Statement, names: tuple[str, ...]) -> None:
        """A statement of some columns only, beside a record of its own (a redaction's target)."""
        earlier = self.full.get(table, {}).pop(statement.key, None)
        statements = self.partial.setdefault(table, {}).setdefault(statement.key, [])
        if earlier is not None:
            statements.append(self.as_statement(names, statement.key, earlier))
        statements.append(statement)

    def bury(self, table: str, key: Key, tombstone: Tombstone) -> None:
        """A proof that a row was deleted upstream."""
        buried = self.tombstones.setdefault(table, {})
        buried[key] = buried[key].joined(tombstone) if key in buried else tombstone

    def add_set(self, of: SetOf, owner: Key, rank: RankTuple, members: set[Key]) -> None:
        """A complete list; the newest of an owner's lists is its set."""
        sets = self.sets.setdefault(of, {})
        if owner not in sets or rank > sets[owner].rank:
            sets[owner] = StatedSet(rank, members)
