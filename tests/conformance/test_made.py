"""Tables as they were made are those of their models: nothing is found to be put right in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import sqlalchemy as sa

import schema.fansly.models
import schema.matrix.models
from ingest import ledger
from ingest.catalog import read_catalog
from ingest.engines import engine_for
from ingest.migrations import runner
from ingest.migrations.lineage import Lineage
from tests.databases import KINDS, TestDatabase
from tests.integration import typed_models
from tests.upstream import example


def of_models(module: ModuleType) -> Callable[[], tuple[sa.MetaData, ...]]:
    return lambda: read_catalog([module]).metadatas


def copied(metadata: sa.MetaData) -> sa.MetaData:
    """The same tables: what is made where keys can be added later, SQLAlchemy makes otherwise ever after."""
    copy = sa.MetaData(naming_convention=metadata.naming_convention)
    for table in metadata.tables.values():
        table.to_metadata(copy)
    return copy


SYSTEMS: dict[str, Callable[[], tuple[sa.MetaData, ...]]] = {
    "every type": of_models(typed_models),
    "example": of_models(example),
    "fansly": of_models(schema.fansly.models),
    "matrix": of_models(schema.matrix.models),
    "ledger": lambda: (ledger.LEDGER,),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("system", SYSTEMS)
async def test_tables_that_were_just_made_differ_in_nothing_from_their_models(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, system: str
) -> None:
    made: TestDatabase | None = None if kind == "sqlite" else request.getfixturevalue(kind)
    engine = engine_for(f"sqlite:///{tmp_path / 'mirror.db'}" if made is None else made.url)
    metadatas = tuple(map(copied, SYSTEMS[system]()))
    lineage = Lineage(
        name=system, metadatas=metadatas, folder=tmp_path, revisions=(), version_table="no_revisions"
    )

    def make(connection: sa.Connection) -> list[str]:
        for metadata in lineage.metadatas:
            metadata.create_all(connection)
        return runner.differences(connection, lineage)

    await engine.create()
    async with engine.writer() as connection, connection.begin():
        assert await connection.run_sync(make) == []
    await engine.close()


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
async def test_a_foreign_key_that_does_something_else_is_a_difference(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    made: TestDatabase = request.getfixturevalue(kind)
    engine = engine_for(made.url)
    metadata = sa.MetaData()
    sa.Table("parents", metadata, sa.Column("id", sa.Integer, primary_key=True))
    sa.Table("children", metadata, sa.Column("id", sa.ForeignKey("parents.id"), primary_key=True))
    lineage = Lineage(
        name="n", metadatas=(metadata,), folder=tmp_path, revisions=(), version_table="no_revisions"
    )

    def make(connection: sa.Connection) -> list[str]:
        (key,) = metadata.tables["children"].foreign_key_constraints
        metadata.create_all(connection)
        key.ondelete = "CASCADE"
        return [one.partition(" ")[0] for one in runner.differences(connection, lineage)]

    async with engine.writer() as connection, connection.begin():
        assert await connection.run_sync(make) == ["remove", "add"]
    await engine.close()
