"""Unique values: which of the rows that claim one can show it.

The newest claim wins; the key decides between claims of one rank. A row that loses a value it can do without
shows NULL there (of several columns, in the last such one). One that cannot is kept aside whole, and claims
nothing else either. What wins depends on what the rows state, and not on the order in which they came.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from ingest.catalog import Table, Unique
from ingest.load.batch import Batch
from ingest.load.merge import RankTuple, Stated
from ingest.types import Key

#: columns that a row cannot show; None: it cannot be shown at all
Lost: TypeAlias = frozenset[str] | None
NOTHING: frozenset[str] = frozenset()
#: why something is withheld that may be shown when another row has made room
WAITING = ("collision", "refused")


class Claim(NamedTuple):
    """A row's claim on one unique value, or combination of values."""

    rank: RankTuple
    key: Key
    unique: Unique
    value: tuple[Any, ...]


def claims_of(table: Table, key: Key, stated: Stated, row: Iterable[Any]) -> list[Claim]:
    """What a row that could be shown claims; NULL claims nothing."""
    shown, found = dict(zip(table.names, row, strict=True)), []
    for unique in table.uniques:
        value = tuple([shown[name] for name in unique.columns])
        if None not in value:
            rank = max(stated.ranks.get(name, stated.rank) for name in unique.columns)
            found.append(Claim(rank, key, unique, value))
    return found


def claiming(table: Table, batch: Batch, unique: Unique, values: Collection[tuple[Any, ...]]) -> set[Key]:
    """The keys of which the batch states one of these values, or may."""
    places = [table.names.index(name) for name in unique.columns]
    full = batch.full.get(table.name, {}).items()
    found = {key for key, row in full if tuple([row[place] for place in places]) in values}
    for key, statements in batch.partial.get(table.name, {}).items():
        # of several columns it may state some only
        told = [[one.values[name] for name in unique.columns if name in one.values] for one in statements]
        if any(parts and any(set(parts) <= set(value) for value in values) for parts in told):
            found.add(key)
    return found


def lost_by(claims: Mapping[Key, list[Claim]], aside: Collection[Key] = ()) -> dict[Key, Lost]:
    """What each of these rows cannot show; the rows are all that claim any of their values.

    `aside`: rows that cannot be shown, whatever they could have.
    """
    by_key = sorted((claim for of_row in claims.values() for claim in of_row), key=lambda one: one.key)
    newest_first = sorted(by_key, key=lambda one: one.rank, reverse=True)
    gone = set(aside)
    while not _told_apart([one for one in newest_first if one.unique.optional is None], gone):
        pass
    lost: dict[Key, set[str]] = {}
    taken: dict[tuple[Unique, tuple[Any, ...]], Key] = {}
    for claim in newest_first:
        optional = claim.unique.optional
        if claim.key in gone or optional is None:
            continue
        if taken.setdefault((claim.unique, claim.value), claim.key) != claim.key:
            lost.setdefault(claim.key, set()).add(optional)
    return {key: None if key in gone else frozenset(lost.get(key, NOTHING)) for key in claims}


def _told_apart(claims: list[Claim], gone: set[Key]) -> bool:
    """Put the rows aside (`gone`) that cannot have what they cannot be without; False to begin again.

    Where a row had something else by then, others may have it after all.
    """
    taken: dict[tuple[Unique, tuple[Any, ...]], Key] = {}
    holding: set[Key] = set()
    for claim in claims:
        if claim.key in gone:
            continue
        if taken.setdefault((claim.unique, claim.value), claim.key) == claim.key:
            holding.add(claim.key)
            continue
        gone.add(claim.key)
        if claim.key in holding:
            return False
    return True
