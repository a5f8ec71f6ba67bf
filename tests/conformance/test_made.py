"""Tables as we make them are those of their models; those that somebody else made are put right first."""

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
from ingest.errors import Stop
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


#: as somebody else may have made them
FOREIGN = """
CREATE TABLE kinds (code VARCHAR(20) PRIMARY KEY, weight FLOAT UNIQUE) COLLATE utf8mb4_general_ci;
CREATE TABLE `odd ``things` (
    id INT PRIMARY KEY, code VARCHAR(20) NOT NULL, weight FLOAT, moment DATETIME,
    CONSTRAINT `a ``key` FOREIGN KEY (code) REFERENCES kinds (code) ON DELETE CASCADE,
    FOREIGN KEY (weight) REFERENCES kinds (weight) ON DELETE SET NULL ON UPDATE CASCADE
) COLLATE utf8mb4_general_ci;
CREATE TABLE old (id INT PRIMARY KEY) ENGINE=MyISAM;
INSERT INTO kinds VALUES ('a', 1.5);
INSERT INTO `odd ``things` VALUES (1, 'a', 1.5, '2024-01-01')
"""


async def test_what_mends_tables_that_will_not_do_can_be_carried_out_as_it_is_said(
    mariadb: TestDatabase,
) -> None:
    metadata = sa.MetaData()
    kinds = sa.Table(
        "kinds",
        metadata,
        sa.Column("code", sa.String(20), primary_key=True),
        sa.Column("weight", sa.Float, unique=True),
    )
    things = sa.Table(
        "odd `things",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("code", sa.ForeignKey(kinds.c.code)),
        sa.Column("weight", sa.ForeignKey(kinds.c.weight)),
        sa.Column("moment", sa.DateTime),
    )
    tables = [kinds, things, sa.Table("old", metadata, sa.Column("id", sa.Integer, primary_key=True))]
    for statement in FOREIGN.split(";"):
        mariadb.admin(statement)
    engine = engine_for(mariadb.url)

    def keys(connection: sa.Connection) -> list[object]:
        return sorted(sa.inspect(connection).get_foreign_keys(things.name), key=str)

    async with engine.writer() as connection:
        async with connection.begin():
            before = await connection.run_sync(keys)
            with pytest.raises(Stop) as stopped:
                await connection.run_sync(engine.prepare, tables)
        for statement in (stopped.value.hint or "").split("; "):
            mariadb.admin(statement)
        async with connection.begin():
            await connection.run_sync(engine.prepare, tables)
            assert await connection.run_sync(keys) == before
    await engine.close()
