"""The ordered steps, and their proof: deletes, references, derived columns, missing parents, verify."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import NamedTuple

import sqlalchemy as sa

from ingest.catalog import Catalog
from ingest.engines.base import Engine, Proves
from ingest.keys import Keys
from ingest.ledger import TOUCHED
from ingest.reconcile.deletes import ALLOWANCE, Allowance, Deletes
from ingest.reconcile.derived import Derivation
from ingest.reconcile.missing import Missing
from ingest.reconcile.references import References
from ingest.reconcile.scope import Scope
from ingest.reconcile.verify import Proof, accounting
from ingest.report import DerivedProof, HeldDeletes, Observer, ReferenceProof, unobserved


class Proven(NamedTuple):
    """What the proof found."""

    references: tuple[ReferenceProof, ...]
    derived: tuple[DerivedProof, ...]
    #: counts that do not add up, in words
    accounting: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """True when nothing dangles, nothing is wrong and everything adds up."""
        return not (
            any(one.dangling for one in self.references)
            or any(one.wrong for one in self.derived)
            or self.accounting
        )


class Reconciler:
    """Settles and proves, on one connection."""

    def __init__(
        self,
        catalog: Catalog,
        engine: Engine,
        keys: Keys,
        *,
        fetchable: frozenset[str] | None = None,
        allowance: Allowance = ALLOWANCE,
        observe: Observer = unobserved,
    ) -> None:
        #: `fetchable`: tables whose rows can be asked for by id; None when any can
        self._catalog, self._engine, self._keys, self._observe = catalog, engine, keys, observe
        self._references = References(catalog, engine, keys)
        self._deletes = Deletes(catalog, engine, keys, self._references, allowance)
        self._derivation = Derivation(catalog, engine, keys)
        self._missing = Missing(catalog, engine, keys, fetchable)
        self._proof = Proof(catalog, engine, keys)

    def settle(self, connection: sa.Connection, *, allow_deletes: bool = False) -> int:
        """Run the steps over what was touched; how many missing parents arrived.

        `allow_deletes`: however many rows go, and those that were held back before.
        """
        scope = Scope.touched(connection, self._catalog)
        gone = self._deletes.settle(connection, scope, allow=allow_deletes)
        self._observe("step.finished", step="deletes", deleted=gone.deleted, held=gone.held.total())
        self._observe(
            "step.finished", step="references", **asdict(self._references.settle(connection, scope))
        )
        self._observe("step.finished", step="derived", **self._derivation.settle(connection, scope))
        scope.remember(connection, self._engine)
        healed = self._missing.settle(connection, scope)
        self._observe("step.finished", step="missing", arrived=healed)
        return healed

    def held(self, connection: sa.Connection) -> tuple[HeldDeletes, ...]:
        """The deletes that are held back."""
        return self._deletes.held(connection)

    def prove(self, connection: sa.Connection, *, whole: bool, enforced: Collection[Proves] = ()) -> Proven:
        """Check everything, or everything that was touched; changes nothing.

        `enforced`: references for which the database has just looked through every row.
        """
        scope = Scope.whole(self._catalog) if whole else Scope.touched(connection, self._catalog)
        proven = Proven(
            self._proof.references(connection, scope, enforced),
            self._proof.derived(connection, scope),
            tuple(accounting(connection)),
        )
        self._observe("step.finished", step="verify", holds=proven.holds)
        return proven

    @staticmethod
    def clear(connection: sa.Connection) -> None:
        """Forget what was touched: a certificate has been given for it."""
        connection.execute(sa.delete(TOUCHED))
