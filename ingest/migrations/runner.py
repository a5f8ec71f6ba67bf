"""Alembic, run within a transaction of ours. It is slow to load: imported only when there is something to do.

Alembic's own environment is left out. It keeps `alembic.op` in one place for the whole process, and two
databases that are migrated at once would each get some of the other's tables; here every run gives the
revisions an `op` of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import alembic.op
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory

from ingest.errors import Stop
from ingest.migrations.lineage import Lineage, Revision

#: how a server without booleans spells what a model's default says
_NUMBERS = {"false": "0", "true": "1"}


def run(connection: sa.Connection, lineage: Lineage, to: str = "head") -> list[Revision]:
    """Take the tables up or down to a revision, `head` or `base`; the revisions that were done, or undone."""
    script = ScriptDirectory(str(lineage.folder))
    known = {revision.id: revision for revision in lineage.revisions}
    begun: list[Revision] = []

    def steps(at: Any, context: MigrationContext) -> Iterator[RevisionStep]:
        for step in _steps(script, lineage, at, to):
            _give(step.revision.module, Operations(context))
            begun.append(known[step.revision.revision])
            yield step

    context = _context(connection, lineage, fn=steps)
    try:
        context.run_migrations()
    except Exception as error:  # a revision is its author's code: whatever it raises is theirs to mend
        where = begun[-1].file if begun else lineage.folder
        raise Stop(f"cannot be run: {_cause(error)}", where=str(where), hint="nothing was changed") from error
    return begun


def stamp(connection: sa.Connection, lineage: Lineage) -> None:
    """Note that the tables are those of the newest revision, and change none of them."""
    _context(connection, lineage).stamp(ScriptDirectory(str(lineage.folder)), "head")


def differences(connection: sa.Connection, lineage: Lineage) -> list[str]:
    """What would have to be done to the tables to make them those of the models, in words."""
    tables = lineage.tables

    def ours(name: str | None, kind: str, _parents: Any) -> bool:
        # the database is shared: with the ledger, with other systems, with whatever people add
        return kind != "table" or name in tables

    context = _context(
        connection, lineage, compare_type=True, compare_server_default=_default_differs, include_name=ours
    )
    changes = list(_flat(compare_metadata(context, lineage.target)))  # type: ignore[arg-type]
    return [_said(change) for change in _but_for_waiting(changes)]


def _context(connection: sa.Connection, lineage: Lineage, **options: Any) -> MigrationContext:
    stated = {"version_table": lineage.version_table, "target_metadata": lineage.target, **options}
    return MigrationContext.configure(connection, opts=stated)


def _steps(script: ScriptDirectory, lineage: Lineage, at: Sequence[str], to: str) -> Iterable[RevisionStep]:
    line = ["base", *(revision.id for revision in lineage.revisions)]
    target = line[-1] if to == "head" else to
    # annotated for one revision, these take all that the version table holds
    if line.index(target) < line.index(at[0] if at else "base"):
        return script._downgrade_revs(target, at)  # type: ignore[arg-type]
    return script._upgrade_revs(target, at)  # type: ignore[arg-type]


def _give(module: ModuleType, op: Operations) -> None:
    for name, value in list(vars(module).items()):
        if value is alembic.op:
            setattr(module, name, op)


def _cause(error: Exception) -> str:
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return f"{type(original).__name__}: {original}"


def _default_differs(*compared: Any) -> bool | None:
    """False for a default that a server without booleans spells as a number; else it is Alembic's to say."""
    *_, there, _stated, meant = compared
    return False if there and _NUMBERS.get(meant) == there else None


def _but_for_waiting(changes: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The changes, but for foreign keys that only can wait where the models do not say so: an engine's do."""
    gone, new = ({_rule_of(one[-1]) for one in changes if one[0] == kind} for kind in ("remove_fk", "add_fk"))
    same = gone & new
    return [one for one in changes if not (one[0].endswith("_fk") and _rule_of(one[-1]) in same)]


def _rule_of(key: sa.ForeignKeyConstraint) -> tuple[Any, ...]:
    """What a foreign key says, whenever it is checked."""
    pairs = frozenset((one.parent.name, one.target_fullname) for one in key.elements)
    return key.parent.name, pairs, *((rule or "NO ACTION").upper() for rule in (key.ondelete, key.onupdate))


def _flat(changes: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Alembic groups the changes of one column in a list."""
    for change in changes:
        if isinstance(change, list):
            yield from _flat(change)
        else:
            yield change


def _said(change: tuple[Any, ...]) -> str:
    """`add column messages.title`, of ("add_column", None, "messages", Column("title"))."""
    kind, subject = change[0].replace("_", " "), change[-1]
    if change[0].startswith("modify"):
        return f"{kind} of {change[2]}.{change[3]}"
    if isinstance(subject, sa.Column):
        return f"{kind} {change[2]}.{subject.name}"
    return f"{kind} {getattr(subject, 'name', subject)}"
