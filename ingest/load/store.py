"""Statements to rows: the precedence rule in SQL for full records, in python for everything else.

For every table, in the transaction of its pages:

    full records ──▶ temporary table ──▶ drop what loses or says nothing new ──▶ upsert
    partial records, rows with exceptions, keys in tombstones or withheld ──▶ merge ──┘

    many full records, all new ──▶ insert; else ──▶ temporary table ──▶ upsert of what is newer

Keys that may have changed, and the parents that pointers and counters hang on, go to `touched`
before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog, Table, Unique, stored_births, stored_defaults
from ingest.engines.base import Columns, Engine
from ingest.keys import (
    TOUCHED_LIMIT,
    Keys,
    dump_key,
    given,
    has_row,
    is_in,
    load_key,
    raw,
    touch,
    touch_keys,
    touch_whole,
)
from ingest.leaving import Leaving, is_here, unique_names
from ingest.ledger import DELETES, PAGES, SWEEPS, TOMBSTONES, WITHHELD
from ingest.load.batch import Batch, FullRow, Letter, rank_of
from ingest.load.claims import NOTHING, WAITING, Claim, Lost, claiming, claims_of, lost_by
from ingest.load.merge import (
    UNPROVEN,
    Stated,
    Statement,
    Sweep,
    Tombstone,
    dump_exceptions,
    load_stated,
    merge,
    shown,
)
from ingest.mirror import LEDGER_COLUMNS
from ingest.types import Key
from ingest.withheld import LEFT_OUT, dump_row, load_row

#: where a withheld row that waits for nothing points
_NO_TARGET: tuple[str | None, str | None] = (None, None)
#: rank columns of a row, as compared
_RANK = LEDGER_COLUMNS[:3]
#: what the ledger may have to say of a row
_ASIDES = (WITHHELD, TOMBSTONES, DELETES)
#: owners looked up in one statement
_OWNERS = 400
#: unique values looked up in one statement
_AT_ONCE = 100
#: characters that mean nothing (Unicode's private use), how many, and how long a text is that a hash is in
_PRIVATE, _PRIVATE_MANY, _HASH = 0xE000, 6400, 20


class Outcome(NamedTuple):
    """What one table's part of a batch did."""

    written: int
    kept: int
    rejected: int
    #: keys of which it was decided anew what is shown and what is withheld
    decided: int = 0


class Proof(NamedTuple):
    """Why a row is deleted: the page that proves it, and how."""

    stamp: int
    text: str


class Known(NamedTuple):
    """What the database has of one key."""

    stated: Stated
    shown: bool
    #: the reason the whole row is withheld for, None when it is not
    withheld: str | None
    #: what it does not show because another row has it
    lost: Lost = NOTHING


@dataclass(slots=True)
class _Changes:
    """What a merge decided: rows to show, rows to withhold, keys whose withheld entries are void."""

    show: list[tuple[Any, ...]] = field(default_factory=list)
    withhold: list[tuple[Any, ...]] = field(default_factory=list)
    #: keys whose row leaves the table
    remove: list[Key] = field(default_factory=list)
    #: keys whose withheld entries are replaced
    void: list[Key] = field(default_factory=list)
    #: keys of rows that stay though they are proven to be deleted, until the reconciler has counted them
    due: dict[Key, Proof] = field(default_factory=dict)
    #: keys of rows that were held, in a database that is loaded once more
    kept_back: set[Key] = field(default_factory=set)
    #: keys that nobody has to wait for any more: they are known to be deleted
    gone: list[Key] = field(default_factory=list)
    written: int = 0
    kept: int = 0

    def leave_out(self, keys: Collection[Key]) -> None:
        """Change nothing of what is withheld for these keys after all."""
        texts = set(map(dump_key, keys))
        self.void = [key for key in self.void if key not in keys]
        self.withhold = [entry for entry in self.withhold if entry[1] not in texts]


class _Collision(Exception):
    """Rows want a unique value that another row has, or wants too; or cannot be written as was decided."""

    def __init__(
        self,
        keys: frozenset[Key],
        letters: tuple[Letter, ...] = (),
        aside: frozenset[Key] = frozenset(),
    ) -> None:
        super().__init__()
        self.keys, self.letters, self.aside = keys, letters, aside


@dataclass(frozen=True, slots=True)
class _Contest:
    """Rows of which the merge decides who has which unique value."""

    keys: frozenset[Key]
    #: what the batch does not state after all: a constraint is against it
    letters: tuple[Letter, ...] = ()
    #: of these nothing is stated now; a constraint is against what is left of them, and they stay aside whole
    aside: frozenset[Key] = frozenset()

    def joined(self, collision: _Collision) -> _Contest:
        return _Contest(
            self.keys | collision.keys, self.letters + collision.letters, self.aside | collision.aside
        )


class Store:
    """Writes batches through one connection."""

    def __init__(self, catalog: Catalog, engine: Engine, keys: Keys) -> None:
        self.catalog, self.engine, self.keys = catalog, engine, keys
        self.leaving = Leaving(catalog, engine)
        self._batches = {name: _batch_table(engine, table) for name, table in catalog.tables.items()}
        self._fills = {name: stored_defaults(table) for name, table in catalog.tables.items()}
        self._births = {name: stored_births(table) for name, table in catalog.tables.items()}
        self._asked: dict[int, int] = {}
        self._renew = False

    def create(self, connection: sa.Connection) -> None:
        """Make the temporary tables on this connection."""
        for table in self._batches.values():
            table.create(connection, checkfirst=False)

    def apply(
        self, connection: sa.Connection, name: str, batch: Batch, *, in_order: bool, renew: bool = False
    ) -> Outcome:
        """Write what the batch says of one table.

        `in_order`: every lower stamp is loaded. `renew`: also what says nothing new, for when it was said.
        """
        table = self.catalog.tables[name]
        self._asked.update(batch.asked)
        self._renew = renew
        if not table.uniques:
            return self._apply(connection, table, batch, in_order=in_order)
        contested = self._waiting(connection, table, batch)
        return self._apply_contested(connection, table, batch, in_order=in_order, contested=contested)

    def settle_claims(self, connection: sa.Connection, name: str) -> bool:
        """Let rows that wait for a unique value have it, where it is free or they are newer; if any does."""
        table, nothing = self.catalog.tables[name], Batch()
        self._renew = False
        contested = self._waiting(connection, table, nothing) if table.uniques else frozenset()
        if not contested:
            return False
        # what a constraint is against all the same stays as it is: it was said when it was withheld
        done = self._apply_contested(connection, table, nothing, in_order=True, contested=contested)
        return done.decided > 0

    def _apply_contested(
        self,
        connection: sa.Connection,
        table: Table,
        batch: Batch,
        *,
        in_order: bool,
        contested: frozenset[Key],
    ) -> Outcome:
        """Write the table's part of a batch, where rows may want the unique values of others."""
        contest = _Contest(contested)
        while True:
            try:
                with connection.begin_nested():
                    outcome = self._apply(connection, table, batch, in_order=in_order, contest=contest)
                break
            except _Collision as collision:
                # seldom: then all of it is done again, and the merge decides who has what
                contest = contest.joined(collision)
                self.engine.clear(connection, self._batches[table.name])
        batch.letters += contest.letters
        return outcome._replace(rejected=outcome.rejected + len(contest.letters))

    def _apply(
        self,
        connection: sa.Connection,
        table: Table,
        batch: Batch,
        *,
        in_order: bool,
        contest: _Contest | None = None,
    ) -> Outcome:
        """Write the table's part of a batch; _Collision where others than in the `contest` want one value."""
        name, full = table.name, dict(batch.full.get(table.name, {}))
        partial = {key: list(statements) for key, statements in batch.partial.get(name, {}).items()}
        contest = contest or _Contest(frozenset())
        contested = contest.keys
        for letter in contest.letters:
            _leave_out(letter, full, partial)
        buried = batch.tombstones.get(name, {})

        def to_merge(keys: Collection[Key]) -> None:
            for key in keys:
                partial.setdefault(key, []).append(batch.as_statement(table.names, key, full.pop(key)))

        if full:
            # late, or it may not be the newer one though it comes last: the merge knows when it was said
            swept = self._swept_before(connection, table)
            to_merge({key for key, one in full.items() if rank_of(one)[1] < swept})
            if self._renew and table.mirror.version is not None:
                to_merge(set(full))
        asides = self._has_asides(connection, table)
        fresh = not asides and connection.execute(_any_of(table.sql)).first() is None
        many = Outcome(0, 0, 0)
        if in_order and len(full) > TOUCHED_LIMIT and not (asides or buried or contested):
            many = self._write_many(connection, table, full)
        # of records out of order, and of keys that were just buried, the merge decides
        to_merge(full.keys() & (buried.keys() | contested) if in_order else set(full))
        self._stage(connection, table, _in_key_order(full))
        if full and not fresh:
            to_merge(self._take_special(connection, table))
        rows = len(full)
        kept = 0 if fresh else self._drop_losers(connection, table)
        changes = self._merge(connection, table, partial, buried, in_order=in_order, contest=contest)
        self._stage(connection, table, changes.show)
        if many.written or rows + len(changes.show) + len(changes.remove) > TOUCHED_LIMIT:
            self._touch_whole(connection, table)
        else:
            self._touch(connection, table, changes.remove)
        self._remove(connection, table, changes.remove)
        refused = self._upsert(connection, table, batch, contested)
        if refused:
            changes.leave_out(refused)
        self._withhold(connection, table, changes)
        self._note_due(connection, table, changes)
        self._bury(connection, name, buried)
        self.engine.clear(connection, self._batches[name])
        written = many.written + rows - kept + changes.written - len(refused)
        return Outcome(written, many.kept + kept + changes.kept, len(refused), len(changes.void))

    # -- the fast path ---------------------------------------------------------------------------

    def _has_asides(self, connection: sa.Connection, table: Table) -> bool:
        """True when the ledger may have something to say of a row that the table has not got."""
        of_table = (_any_of(one, one.c.table == table.name) for one in _ASIDES)
        return any(connection.execute(one).first() is not None for one in of_table)

    def _take_special(self, connection: sa.Connection, table: Table) -> set[Key]:
        """Take records out of the staged ones that need the merge all the same: their keys.

        Their rows have exceptions, or the ledger has something to say of them.
        """
        new, old = self._batches[table.name], table.sql
        key = [old.c[name] for name in table.key]
        excepted = sa.select(*(raw(self.engine, one) for one in key)).where(
            is_in(key, sa.select(*(new.c[name] for name in table.key))), old.c.ingest_exceptions.is_not(None)
        )
        special = {tuple(row) for row in connection.execute(excepted)}
        for ledger in _ASIDES:
            if connection.execute(_any_of(ledger, ledger.c.table == table.name)).first() is not None:
                staged = ledger.c.key.in_(sa.select(self._json(new, table.key)))
                texts = sa.select(ledger.c.key).where(ledger.c.table == table.name, staged)
                special.update(map(load_key, connection.scalars(texts)))
        if special:
            self.keys.fill(connection, table.name, special)
            among = self.keys.among(table.name, [new.c[name] for name in table.key])
            connection.execute(sa.delete(new).where(among))
        return special

    def _write_many(self, connection: sa.Connection, table: Table, full: dict[Key, FullRow]) -> Outcome:
        """Write all the rows at once, and take them out of `full`.

        Where one violates a constraint none is written, and the long way finds out; rows that need the
        merge are left to it, too.
        """
        if self._insert_new(connection, table, full):
            written = len(full)
            full.clear()
            return Outcome(written, 0, 0)
        self._stage(connection, table, _in_key_order(full))
        written, left = 0, set(full)

        def replace() -> None:
            nonlocal written
            columns, rows = self._staged(table)
            written = self.engine.upsert_newer(
                connection,
                table.sql,
                columns,
                rows,
                key=table.key,
                born=self._births[table.name],
                newer=lambda told: self._replaces(table, told),
            )

        if self._violated(connection, replace) is None:
            left = self._take_special(connection, table) if written < len(full) else set()
        kept = len(full) - written - len(left)
        for key in full.keys() - left:
            del full[key]
        self.engine.clear(connection, self._batches[table.name])
        return Outcome(written, kept, 0)

    def _insert_new(self, connection: sa.Connection, table: Table, full: Mapping[Key, FullRow]) -> bool:
        """Write the rows if the table has none of them, which takes no comparing: a bulk load has such.

        False, and nothing is written, where a key is there, or a row violates another constraint.
        """
        if has_row(connection, self.engine, table, next(iter(full))):
            return False  # and most likely the others are too
        rows, born = _in_key_order(full), self._births[table.name]
        if born:
            births = tuple(born.values())
            rows = [row + births for row in rows]
        columns = (*table.names, *LEDGER_COLUMNS, *born)
        return (
            self._violated(connection, lambda: self.engine.insert(connection, table.sql, columns, rows))
            is None
        )

    def _stage(self, connection: sa.Connection, table: Table, rows: list[FullRow]) -> None:
        temporary = self._batches[table.name]
        self.engine.insert(connection, temporary, temporary.c.keys(), rows)

    def _drop_losers(self, connection: sa.Connection, table: Table) -> int:
        """Leave only records that are newer than their row and say something else; how many went."""
        new, old = self._batches[table.name], table.sql
        same_key = sa.and_(*(new.c[name] == old.c[name] for name in table.key))
        lost = sa.exists(
            sa.select(sa.literal(1)).select_from(old).where(same_key, sa.not_(self._is_newer(table, new.c)))
        )
        return connection.execute(sa.delete(new).where(lost)).rowcount

    def _is_newer(self, table: Table, new: Columns) -> sa.ColumnElement[bool]:
        """True for what is newer than the row of its key, and says something else (or is to be renewed)."""
        old, others = table.sql.c, (name for name in table.names if name not in table.key)
        newer = sa.tuple_(*(new[name] for name in _RANK)) > sa.tuple_(*(old[name] for name in _RANK))
        if self._renew:
            return newer
        return sa.and_(
            newer, sa.or_(*(self.engine.differs(new[name], old[name]) for name in others), sa.false())
        )

    def _replaces(self, table: Table, new: Columns) -> sa.ColumnElement[bool]:
        """True for what is newer than a row that needs no merge."""
        return sa.and_(table.sql.c.ingest_exceptions.is_(None), self._is_newer(table, new))

    # -- the merge -------------------------------------------------------------------------------

    def _merge(
        self,
        connection: sa.Connection,
        table: Table,
        partial: Mapping[Key, list[Statement]],
        buried: Mapping[Key, Tombstone],
        *,
        in_order: bool,
        contest: _Contest,
    ) -> _Changes:
        changes, contested = _Changes(), contest.keys
        keys = partial.keys() | buried.keys() | contested
        if not keys:
            return changes
        known = self.known(connection, table, keys)
        tombstones = self._tombstones(connection, table.name, buried)
        dying = self._dying(connection, table)
        merged: dict[Key, Known] = {}
        for key in sorted(keys):
            before = known.setdefault(key, Known(Stated(), False, None))
            statements = partial.get(key, [])
            if key in contested:
                # what says nothing new still says it later than another row does
                statements = [replace(one, forced=True) for one in statements]
            # what says nothing new may say that a deleted row lives
            skip = in_order and not (self._renew or before.withheld == "deleted" or key in dying)
            stated, written, kept = merge(before.stated, statements, tombstones.get(key), skip_equal=skip)
            changes.written, changes.kept = changes.written + written, changes.kept + kept
            merged[key] = before._replace(stated=stated)
        proofs = self._proofs(connection, table, merged, tombstones)
        claiming = {key: merged[key] for key in contested if merged[key].shown or key not in proofs}
        lost = self._lost(table, claiming, contest.aside)
        for key, one in merged.items():
            now = lost.get(key, NOTHING)
            if one.shown and not one.stated.known and key in contested:
                # a stub, which says nothing of its own, makes room for anybody
                changes.remove.append(key)
            elif one.shown and not one.stated.known and key in buried:
                if tombstones[key].told:
                    changes.due[key] = Proof(buried[key].stamp, buried[key].proof)
            elif (
                one.stated is not known[key].stated
                or key in buried
                or key in dying
                or (key in contested and now != one.lost)
            ):
                erased = key in tombstones and tombstones[key].erases
                self._decide(table, key, one, proofs.get(key), changes, now, dying.get(key), erased=erased)
        return changes

    def _proofs(
        self,
        connection: sa.Connection,
        table: Table,
        merged: Mapping[Key, Known],
        tombstones: Mapping[Key, Tombstone],
    ) -> dict[Key, Proof]:
        """What proves that rows are deleted which somebody has stated; the earliest such proof."""
        sweeps = self._sweeps(connection, table, merged)
        found: dict[Key, Proof] = {}
        for key, one in merged.items():
            tombstone, sweep, proofs = tombstones.get(key), sweeps.get(key), []
            if tombstone is not None and tombstone.voids(one.stated.life) and _concerns(tombstone, one):
                proofs.append(Proof(tombstone.stamp, tombstone.proof))
            if sweep is not None and sweep.voids(one.stated):
                proofs.append(Proof(sweep.last, f"{LEFT_OUT}{sweep.last}"))
            if proofs and one.stated.known:
                found[key] = min(proofs)
        return found

    def _swept_before(self, connection: sa.Connection, table: Table) -> int:
        """The stamp of the first page of the table's newest listing; 0 without any."""
        newest = sa.select(sa.func.max(SWEEPS.c.first)).where(SWEEPS.c.table == table.name)
        return connection.scalar(newest) or 0

    def _sweeps(
        self, connection: sa.Connection, table: Table, merged: Mapping[Key, Known]
    ) -> dict[Key, Sweep]:
        """The newest listing of each row's scope, as the row is stated now."""
        of_table = SWEEPS.c.table == table.name
        found: dict[Key, Sweep] = {}
        for text in connection.scalars(sa.select(SWEEPS.c.columns).where(of_table).distinct()).all():
            owners: dict[str, list[Key]] = {}
            for key, one in merged.items():
                owner = tuple(one.stated.values.get(name) for name in load_key(text))
                if None not in owner:
                    owners.setdefault(dump_key(owner), []).append(key)
            texts = list(owners)
            for start in range(0, len(texts), _OWNERS):
                some = SWEEPS.c.key.in_(texts[start : start + _OWNERS])
                for row in connection.execute(
                    sa.select(SWEEPS).where(of_table, SWEEPS.c.columns == text, some)
                ):
                    sweep = Sweep(row.first, row.last)
                    for key in owners[row.key]:
                        found[key] = max(found.get(key, sweep), sweep, key=lambda one: one.first)
        return found

    def _dying(self, connection: sa.Connection, table: Table) -> dict[Key, str]:
        """Those of the keys last filled in whose rows stay though they are deleted; in which state."""
        rows = sa.select(DELETES.c.key, DELETES.c.state).where(
            DELETES.c.table == table.name, DELETES.c.key.in_(self.keys.texts(table.name))
        )
        return {load_key(row.key): row.state for row in connection.execute(rows)}

    def _lost(
        self,
        table: Table,
        contested: Mapping[Key, Known],
        aside: Collection[Key],
    ) -> dict[Key, Lost]:
        """What contested rows cannot show, for others have it; a row that is not shown claims nothing."""
        claims: dict[Key, list[Claim]] = {}
        for key, one in contested.items():
            row = shown(table, one.stated, self._fills[table.name]) if one.stated.known else None
            if row is not None:
                claims[key] = claims_of(table, key, one.stated, row)
        return lost_by(claims, aside)

    def _decide(
        self,
        table: Table,
        key: Key,
        known: Known,
        proof: Proof | None,
        changes: _Changes,
        lost: Lost,
        dying: str | None,
        *,
        erased: bool,
    ) -> None:
        """Whether a merged row can be shown, or why not; but for what it has `lost` to another.

        One that is shown, and deleted upstream, stays until the reconciler has counted how many there are.
        """
        stated = known.stated
        if not stated.known:
            return
        exceptions = dump_exceptions(table, stated, self.asked)
        row = shown(table, stated, self._fills[table.name])
        changes.void.append(key)
        target: tuple[str | None, str | None] = _NO_TARGET
        if erased:
            # nothing that is said of it is kept any more, aside or not
            (changes.remove if known.shown else changes.gone).append(key)
            return
        if dying == "kept":
            # everything is loaded once more: what was held stays held, also if it was never shown since
            changes.kept_back.add(key)
        stays = known.shown or dying == "kept"
        if proof is not None and (not stays or row is None or lost is None):
            reason = "deleted"
        elif row is None:
            reason, target = "incomplete", (table.name, dump_key(key))
        elif lost is None:
            reason = "collision"
        else:
            for name in sorted(lost):
                place = table.names.index(name)
                if row[place] is not None:
                    value = msgspec.json.encode(row[place]).decode()
                    rank = stated.ranks.get(name, stated.rank)
                    entry = (table.name, dump_key(key), name, value, *rank, "collision", *_NO_TARGET)
                    changes.withhold.append(entry)
                    row = (*row[:place], None, *row[place + 1 :])
            changes.show.append((*row, *stated.rank, exceptions))
            if proof is not None:
                changes.due[key] = proof
            return
        if known.shown:
            changes.remove.append(key)
        value = dump_row(stated.values, exceptions)
        changes.withhold.append((table.name, dump_key(key), "", value, *stated.rank, reason, *target))
        if reason == "deleted" and known.withheld != reason:
            changes.gone.append(key)

    def known(self, connection: sa.Connection, table: Table, keys: Iterable[Key]) -> dict[Key, Known]:
        """What the database has of these keys: as stated, whether it shows or is withheld."""
        self.keys.fill(connection, table.name, keys)
        stated: dict[Key, dict[str, Any]] = {}
        whole: dict[Key, Known] = {}
        lost: dict[Key, set[str]] = {}
        for row in connection.execute(sa.select(WITHHELD).where(self._withheld_of(table.name))).mappings():
            key = load_key(row["key"])
            if row["column"] == "":
                whole[key] = self._withheld_row(table, row)
            elif row["value"] is not None:
                stated.setdefault(key, {})[row["column"]] = msgspec.json.decode(row["value"])
                if row["reason"] in WAITING:
                    lost.setdefault(key, set()).add(row["column"])
        columns = [raw(self.engine, table.sql.c[name]) for name in (*table.names, *LEDGER_COLUMNS)]
        among = self.keys.among(table.name, [table.sql.c[name] for name in table.key])
        found = dict(whole)
        for row in connection.execute(sa.select(*columns).where(among, is_here(table.sql))).mappings():
            key = tuple(row[name] for name in table.key)
            values = {**{name: row[name] for name in table.names}, **stated.get(key, {})}
            rank = (row[_RANK[0]], row[_RANK[1]], row[_RANK[2]])
            known = load_stated(table, values, rank, row["ingest_exceptions"], self.asked)
            found[key] = Known(known, True, None, frozenset(lost.get(key, NOTHING)))
        return found

    def _withheld_of(self, name: str) -> sa.ColumnElement[bool]:
        return sa.and_(WITHHELD.c.table == name, WITHHELD.c.key.in_(self.keys.texts(name)))

    def _withheld_row(self, table: Table, row: sa.RowMapping) -> Known:
        values, exceptions = load_row(table, row["value"])
        rank = (row["version"], row["stamp"], row["ordinal"])
        padded = {**dict.fromkeys(table.names), **values}
        lost = None if row["reason"] in WAITING else NOTHING
        return Known(load_stated(table, padded, rank, exceptions, self.asked), False, row["reason"], lost)

    def _tombstones(
        self, connection: sa.Connection, name: str, buried: Mapping[Key, Tombstone]
    ) -> dict[Key, Tombstone]:
        """The tombstones of the keys last filled in, those of this batch joined in."""
        held = sa.select(TOMBSTONES).where(
            TOMBSTONES.c.table == name, TOMBSTONES.c.key.in_(self.keys.texts(name))
        )
        found = {
            load_key(row.key): Tombstone(row.version, row.stamp, row.proof)
            for row in connection.execute(held)
        }
        for key, tombstone in buried.items():
            found[key] = found[key].joined(tombstone) if key in found else tombstone
        return found

    # -- unique values ---------------------------------------------------------------------------

    def _waiting(self, connection: sa.Connection, table: Table, batch: Batch) -> frozenset[Key]:
        """The rows that wait for a unique value, and all that claim one of these values now."""
        texts = sa.select(WITHHELD.c.key).where(
            WITHHELD.c.table == table.name, WITHHELD.c.reason.in_(WAITING)
        )
        waiting = set(map(load_key, connection.scalars(texts.distinct())))
        if not waiting:
            return frozenset()
        wanted: dict[Unique, set[tuple[Any, ...]]] = {}
        for key, known in self.known(connection, table, waiting).items():
            row = shown(table, known.stated, self._fills[table.name])
            claims = [] if row is None else claims_of(table, key, known.stated, row)
            for claim in claims:
                wanted.setdefault(claim.unique, set()).add(claim.value)
        for unique, values in wanted.items():
            waiting |= self._showing(connection, table, unique, sorted(values))
            waiting |= claiming(table, batch, unique, values)
        return frozenset(waiting)

    def _showing(
        self, connection: sa.Connection, table: Table, unique: Unique, values: list[tuple[Any, ...]]
    ) -> set[Key]:
        """The keys of the rows that show one of these values."""
        columns = [table.sql.c[name] for name in unique.columns]
        key = [raw(self.engine, table.sql.c[name]) for name in table.key]
        found: set[Key] = set()
        for start in range(0, len(values), _AT_ONCE):
            shows = [
                sa.and_(*map(partial(_is_given, self.engine), columns, value))
                for value in values[start : start + _AT_ONCE]
            ]
            found.update(tuple(row) for row in connection.execute(sa.select(*key).where(sa.or_(*shows))))
        return found

    def _colliding(self, connection: sa.Connection, table: Table) -> frozenset[Key]:
        """The staged rows that want a value which another has or wants, and those others."""
        new, old = self._batches[table.name], table.sql
        theirs = [raw(self.engine, new.c[name]) for name in table.key]
        ours = [raw(self.engine, old.c[name]) for name in table.key]
        another = sa.or_(*(new.c[name] != old.c[name] for name in table.key))
        found: set[Key] = set()
        for unique in table.uniques:
            wanted = [new.c[name] for name in unique.columns]
            same = [column == old.c[name] for column, name in zip(wanted, unique.columns, strict=True)]
            for row in connection.execute(sa.select(*theirs, *ours).where(*same, another)):
                found |= {tuple(row[: len(theirs)]), tuple(row[len(theirs) :])}
            told = [column.is_not(None) for column in wanted]
            twice = sa.select(*wanted).where(*told).group_by(*wanted).having(sa.func.count() > 1)
            several = sa.select(*theirs).where(is_in(wanted, sa.select(twice.subquery())))
            found.update(tuple(row) for row in connection.execute(several))
        return frozenset(found)

    # -- writing ---------------------------------------------------------------------------------

    def _touch_whole(self, connection: sa.Connection, table: Table) -> None:
        """Mark all of a table, and of the tables that watch it."""
        for name in {table.name, *(target for _, target in self.catalog.watched(table.name))}:
            touch_whole(connection, self.engine, name)

    def _touch(self, connection: sa.Connection, table: Table, removed: list[Key]) -> None:
        """Mark what is about to change, and the parents that watch it, as they were and as they will be."""
        watched = self.catalog.watched(table.name)
        new, old = self._batches[table.name], table.sql
        touch(connection, self.engine, table.name, sa.select(self._json(new, table.key)))
        touch_keys(connection, self.engine, table.name, map(dump_key, removed))
        key = [old.c[name] for name in table.key]
        # asked one by one: joined by OR, most databases would go through the whole table
        changing = [is_in(key, sa.select(*(new.c[name] for name in table.key)))]
        if self.keys.fill(connection, table.name, removed):
            changing.append(self.keys.among(table.name, key))
        for columns, target in watched:
            before = sa.select(self._json(old, columns)).where(_all_set(old, columns))
            after = sa.select(self._json(new, columns)).where(_all_set(new, columns))
            for stated in (*(before.where(one) for one in changing), after):
                touch(connection, self.engine, target, stated)

    def _json(self, table: sa.Table, columns: Iterable[str]) -> sa.ColumnElement[str]:
        return self.engine.key_json([table.c[name] for name in columns]).label("key")

    def _remove(self, connection: sa.Connection, table: Table, keys: list[Key]) -> None:
        if keys:
            self.keys.fill(connection, table.name, keys)
            among = self.keys.among(table.name, [table.sql.c[name] for name in table.key])
            self.leaving.remove(connection, table, among)

    def _upsert(
        self,
        connection: sa.Connection,
        table: Table,
        batch: Batch,
        contested: frozenset[Key],
    ) -> set[Key]:
        """Write the staged rows; those that violate a constraint become dead letters, alone. Their keys.

        _Collision instead where rows want the same unique value, and are not `contested` yet.
        """
        new = self._batches[table.name]
        parts: list[tuple[sa.ColumnElement[bool], bool]] = [(sa.true(), False)]
        if contested:
            self.keys.fill(connection, table.name, contested)
            among = self.keys.among(table.name, [new.c[name] for name in table.key])
            # those that hand values on make room for each other first
            parts = [(among, True), (sa.not_(among), False)]
        if all(self._upsert_rows(connection, table, one, room=room) is None for one, room in parts):
            return set()
        colliding = self._colliding(connection, table) - contested
        if colliding:
            raise _Collision(colliding)
        columns = [raw(self.engine, new.c[name]) for name in (*table.names, *_RANK)]
        staged = connection.execute(sa.select(*columns)).mappings()
        rows = {tuple(row[name] for name in table.key): row for row in staged}
        # first they all make room: none is refused for what another of them is about to hand on
        if contested:
            self._violated(connection, lambda: self._make_room(connection, table, parts[0][0]))
        refused = self._upsert_halves(connection, table, sorted(rows.keys() & contested))
        if refused:
            # who else has what, is decided without what they say now
            letters = [
                _refused(table, key, rows[key], reason)
                for key, reason in refused.items()
                if _says(batch, table, key, rows[key])
            ]
            aside = refused.keys() - {letter.key for letter in letters}
            raise _Collision(frozenset(), tuple(letters), frozenset(aside))
        refused = self._upsert_halves(connection, table, sorted(rows.keys() - contested))
        batch.letters += [_refused(table, key, rows[key], reason) for key, reason in refused.items()]
        return set(refused)

    def _upsert_halves(self, connection: sa.Connection, table: Table, keys: list[Key]) -> dict[Key, str]:
        """Write the rows of these keys, and find out which ones cannot be: why, by key."""
        if not keys:
            return {}
        self.keys.fill(connection, table.name, keys)
        new = self._batches[table.name]
        among = self.keys.among(table.name, [new.c[name] for name in table.key])
        reason = self._upsert_rows(connection, table, among)
        if reason is None:
            return {}
        if len(keys) == 1:
            return {keys[0]: reason}
        half = len(keys) // 2
        first = self._upsert_halves(connection, table, keys[:half])
        return first | self._upsert_halves(connection, table, keys[half:])

    def _upsert_rows(
        self, connection: sa.Connection, table: Table, chosen: sa.ColumnElement[bool], *, room: bool = False
    ) -> str | None:
        """Write the chosen staged rows; none, and what one violates, when one does.

        `room`: what they have in unique columns is given up first, for they may hand it on in a ring.
        """
        columns, rows = self._staged(table, chosen)
        born = self._births[table.name]

        def upsert() -> None:
            if room:
                self._make_room(connection, table, chosen)
            self.engine.upsert(connection, table.sql, columns, rows, key=table.key, born=born)

        return self._violated(connection, upsert)

    def _make_room(self, connection: sa.Connection, table: Table, chosen: sa.ColumnElement[bool]) -> None:
        """Let rows that are about to be written give up what they have in unique columns.

        For a text of their own, a number below all others, or NULL. What can be none of these is not given
        up: it can be handed on, but not in a ring.
        """
        key, new = [table.sql.c[name] for name in table.key], self._batches[table.name]
        about = is_in(key, sa.select(*(new.c[name] for name in table.key)).where(chosen))
        found = connection.execute(sa.select(*(raw(self.engine, one) for one in key)).where(about))
        keys = sorted(tuple(row) for row in found)
        columns = [table.sql.c[name] for name in unique_names(table)] if keys else []
        for column in columns:
            values = self._own(connection, column, keys)
            if values is not None:
                self._fill_in(connection, table, column, dict(zip(keys, values, strict=True)))

    @staticmethod
    def _own(connection: sa.Connection, column: sa.Column[Any], keys: list[Key]) -> list[Any] | None:
        """Values that no other row has, one for each key; None where there are none of the type."""
        if isinstance(column.type, sa.String) and not isinstance(column.type, sa.Enum):
            if (column.type.length or _HASH) < _HASH:
                return [chr(_PRIVATE + place % _PRIVATE_MANY) for place in range(len(keys))]
            return [
                f"{chr(_PRIVATE)}{sha256(dump_key(key).encode()).hexdigest()[: _HASH - 1]}" for key in keys
            ]
        if isinstance(column.type, sa.Integer):
            lowest = min(connection.scalar(sa.select(sa.func.min(column))) or 0, 0)
            return [lowest - place for place in range(1, len(keys) + 1)]
        return [None] * len(keys) if column.nullable else None

    def _fill_in(
        self, connection: sa.Connection, table: Table, column: sa.Column[Any], values: Mapping[Key, Any]
    ) -> None:
        """Set one column of the rows with these keys."""
        named = [f"key {name}" for name in table.key]
        same = [
            table.sql.c[name] == sa.bindparam(called, type_=self.engine.form(table.sql.c[name].type))
            for name, called in zip(table.key, named, strict=True)
        ]
        value = sa.bindparam("own", type_=self.engine.form(column.type))
        rows = [{"own": one, **dict(zip(named, key, strict=True))} for key, one in values.items()]
        connection.execute(sa.update(table.sql).where(*same).values({column.name: value}), rows)

    def _staged(
        self, table: Table, *chosen: sa.ColumnElement[bool]
    ) -> tuple[tuple[str, ...], sa.Select[Any]]:
        """The columns of a new row, and the staged rows, or the chosen ones, with all of them."""
        new, born = self._batches[table.name], self._births[table.name]
        columns = (*table.names, *LEDGER_COLUMNS)
        values = [given(self.engine, value, table.sql.c[name]).label(name) for name, value in born.items()]
        return (*columns, *born), sa.select(*(new.c[name] for name in columns), *values).where(*chosen)

    def _violated(self, connection: sa.Connection, write: Callable[[], Any]) -> str | None:
        """Write something; or nothing of it, and what a row violates."""
        try:
            with connection.begin_nested():
                write()
        except sa.exc.DBAPIError as error:
            reason = self.engine.violation(error)
            if reason is None:
                raise
            return reason
        return None

    def _withhold(self, connection: sa.Connection, table: Table, changes: _Changes) -> None:
        if not changes.void:
            return
        self.keys.fill(connection, table.name, changes.void)
        connection.execute(sa.delete(WITHHELD).where(self._withheld_of(table.name)))
        self.engine.insert(connection, WITHHELD, WITHHELD.c.keys(), changes.withhold)

    def _note_due(self, connection: sa.Connection, table: Table, changes: _Changes) -> None:
        """Which of the decided rows stay though they are deleted upstream; others are not due any more."""
        name, decided = table.name, {*changes.void, *changes.remove}
        held = changes.kept_back & changes.due.keys()
        if self.keys.fill(connection, name, held):
            mine = sa.and_(DELETES.c.table == name, DELETES.c.key.in_(self.keys.texts(name)))
            connection.execute(sa.update(DELETES).where(mine).values(state="held"))
        if self.keys.fill(connection, name, decided - changes.due.keys() - changes.kept_back):
            alive = sa.and_(DELETES.c.table == name, DELETES.c.key.in_(self.keys.texts(name)))
            connection.execute(sa.delete(DELETES).where(alive))
        due = [(name, dump_key(key), "due", one.stamp, one.text) for key, one in changes.due.items()]
        self.engine.insert(connection, DELETES, DELETES.c.keys(), due, new_only=True)
        touch_keys(connection, self.engine, name, map(dump_key, (*changes.due, *changes.gone)))

    def _bury(self, connection: sa.Connection, name: str, buried: Mapping[Key, Tombstone]) -> None:
        if not buried:
            return
        self.keys.fill(connection, name, buried)
        joined = self._tombstones(connection, name, buried)
        connection.execute(
            sa.delete(TOMBSTONES).where(
                TOMBSTONES.c.table == name, TOMBSTONES.c.key.in_(self.keys.texts(name))
            )
        )
        rows = [(name, dump_key(key), one.version, one.stamp, one.proof) for key, one in joined.items()]
        self.engine.insert(connection, TOMBSTONES, TOMBSTONES.c.keys(), rows)
        # also of a row that was never there: what waits for it as missing waits for something else now
        touch_keys(connection, self.engine, name, map(dump_key, buried))

    def bind(self, connection: sa.Connection) -> None:
        """Look `asked` of older pages up on this connection."""
        self._asked = {}
        self._lookup: Callable[[int], int | None] = lambda stamp: connection.scalar(
            sa.select(PAGES.c.asked).where(PAGES.c.stamp == stamp)
        )

    def asked(self, stamp: int) -> int:
        """The highest stamp staged when the page with this stamp was asked for; -1 for no page."""
        if stamp <= 0:
            return -1
        if stamp not in self._asked:
            found = self._lookup(stamp)
            self._asked[stamp] = -1 if found is None else found
        return self._asked[stamp]


def _concerns(tombstone: Tombstone, known: Known) -> bool:
    """True unless all there is are mentions, and nobody has said that they are of something deleted.

    What was only not there when it was asked for by id is missing still.
    """
    return tombstone.told or known.stated.life != UNPROVEN


def _leave_out(letter: Letter, full: dict[Key, FullRow], partial: dict[Key, list[Statement]]) -> None:
    """Leave out the record that a dead letter is of."""
    key, place = letter.key, (letter.stamp, letter.ordinal)
    if key is None:
        return
    if key in full and rank_of(full[key])[1:] == place:
        del full[key]
    rest = [one for one in partial.pop(key, []) if one.rank[1:] != place]
    if rest:
        partial[key] = rest


def _says(batch: Batch, table: Table, key: Key, row: sa.RowMapping) -> bool:
    """True where it is a record of the batch that a row is from."""
    rank = tuple(row[name] for name in _RANK)
    full = batch.full.get(table.name, {}).get(key)
    if full is not None:
        return rank_of(full) == rank
    return any(one.rank == rank for one in batch.partial.get(table.name, {}).get(key, []))


def _is_given(engine: Engine, column: sa.Column[Any], value: Any) -> sa.ColumnElement[bool]:
    is_same: sa.ColumnElement[bool] = column == given(engine, value, column)
    return is_same


def _any_of(table: sa.Table, *where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """One row, where there is any."""
    return sa.select(sa.literal(1)).select_from(table).where(*where).limit(1)


def _in_key_order(full: Mapping[Key, FullRow]) -> list[FullRow]:
    """Full rows in the order of their keys, in which a table is filled page by page."""
    return [row for _, row in sorted(full.items(), key=itemgetter(0))]


def _all_set(table: sa.Table, columns: Iterable[str]) -> sa.ColumnElement[bool]:
    return sa.and_(*(table.c[name].is_not(None) for name in columns))


def _batch_table(engine: Engine, table: Table) -> sa.Table:
    return engine.temporary(
        f"ingest_batch_{table.name}", [table.sql.c[name] for name in (*table.names, *LEDGER_COLUMNS)]
    )


def _refused(table: Table, key: Key, row: sa.RowMapping, reason: str) -> Letter:
    values = {name: row[name] for name in table.names}
    return Letter(
        stamp=row[_RANK[1]],
        ordinal=row[_RANK[2]],
        table=table.name,
        key=key,
        raw=msgspec.json.encode(values),
        reason=reason,
    )
