"""A line of revisions: what a folder of Alembic's revision files says, read without importing Alembic.

PACKAGE/migrations/versions/0001_initial.py     revision = "0001"   down_revision = None
                            0002_walls.py       revision = "0002"   down_revision = "0001"

Nothing else is needed in the folder: no env.py, no alembic.ini.
"""

from __future__ import annotations

import ast
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from ingest.errors import ModelError


class Revision(NamedTuple):
    """One step from one shape of the tables to the next."""

    id: str
    #: the revision before it; None for the first
    after: str | None
    #: the first line of its docstring
    title: str
    file: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """Tables that change together, the ledger's or a system's, and how they came to be as they are."""

    name: str
    metadatas: tuple[sa.MetaData, ...]
    #: holds `versions/`
    folder: Path
    #: oldest first; none where the tables are made from the models
    revisions: tuple[Revision, ...]
    #: the table in the database that says which revision it is at; each lineage has its own
    version_table: str

    @property
    def head(self) -> str | None:
        """The newest revision: what the models describe."""
        return self.revisions[-1].id if self.revisions else None

    @property
    def tables(self) -> dict[str, sa.Table]:
        """Its tables by name."""
        return {table.name: table for metadata in self.metadatas for table in metadata.tables.values()}

    @property
    def target(self) -> sa.MetaData | list[sa.MetaData]:
        """Its metadata as Alembic takes it; a naming convention is heeded where there is one of it."""
        return self.metadatas[0] if len(self.metadatas) == 1 else list(self.metadatas)


def read_revisions(folder: Path) -> tuple[Revision, ...]:
    """The revisions in `folder/versions`, oldest first; ModelError where they are not one line."""
    found = [_read(file) for file in sorted((folder / "versions").glob("*.py")) if file.name != "__init__.py"]
    following: dict[str | None, Revision] = {}
    for revision in found:
        rival = following.setdefault(revision.after, revision)
        if rival is not revision:
            raise ModelError(
                f"revisions {rival.id} and {revision.id} both follow {revision.after or 'nothing'}",
                where=str(revision.file),
                hint="let one of them follow the other",
            )
    line: list[Revision] = []
    while (after := following.pop(line[-1].id if line else None, None)) is not None:
        line.append(after)
    for revision in following.values():
        raise ModelError(
            f"revision {revision.id} follows {revision.after}, which is not there", where=str(revision.file)
        )
    return tuple(line)


def _read(file: Path) -> Revision:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise ModelError(f"cannot be read: {error}", where=str(file)) from error
    stated = _constants(tree)
    id, after = stated.get("revision"), stated.get("down_revision", ...)
    if not isinstance(id, str) or not isinstance(after, str | None):
        raise ModelError(
            "does not say which revision it is, and which one it follows",
            where=str(file),
            hint='revision = "0002" and down_revision = "0001", or None for the first',
        )
    title = (ast.get_docstring(tree) or "").partition("\n")[0]
    return Revision(id, after, title.rstrip("."), file)


def _constants(tree: ast.Module) -> dict[str, Any]:
    """What a module sets to a literal, by name: `revision = "0002"`, `down_revision: str | None = "0001"`."""
    stated: dict[str, Any] = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Name):
                with suppress(ValueError, TypeError):  # it is computed, and nothing that is looked for is
                    stated[target.id] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
    return stated
