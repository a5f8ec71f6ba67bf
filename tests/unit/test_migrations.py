"""The revisions themselves: the ledger's and each bundled system's make exactly what the models say, and unmake it.

Every folder under schema/ with a source.toml is a system, and is asked.
"""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

from ingest import migrations
from ingest.catalog import read_catalog
from ingest.ledger import LEDGER
from ingest.migrations import runner
from ingest.migrations.lineage import Lineage, read_revisions

ROOT = Path(__file__).parent.parent.parent
SYSTEMS = sorted(file.parent.name for file in (ROOT / "schema").glob("*/source.toml"))


def lineage_of(name: str) -> Lineage:
    if name == "ledger":
        folder, metadatas, prefix = Path(migrations.__path__[0]), (LEDGER,), "ingest"
    else:
        models = importlib.import_module(f"schema.{name}.models")
        folder, metadatas, prefix = ROOT / "schema" / name / "migrations", read_catalog([models]).metadatas, name
    return Lineage(
        name=name,
        metadatas=metadatas,
        folder=folder,
        revisions=read_revisions(folder),
        version_table=f"{prefix}_alembic_version",
    )


@pytest.fixture(params=["ledger", *SYSTEMS])
def lineage(request: pytest.FixtureRequest) -> Lineage:
    return lineage_of(request.param)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sa.Connection]:
    """A database with one transaction open, as a run has."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'mirror.db'}", poolclass=sa.NullPool)
    with engine.connect() as connection, connection.begin():
        yield connection
    engine.dispose()


def ddl(connection: sa.Connection) -> dict[str, str]:
    """What made every table and index but the version tables, by name, whatever the white space."""
    rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {name: " ".join(sql.split()) for name, sql in rows if not name.endswith("_alembic_version")}


def test_every_system_has_revisions(lineage: Lineage) -> None:
    assert lineage.revisions, f"write {lineage.folder / 'versions'}"


def test_the_revisions_make_what_the_models_say(
    lineage: Lineage, connection: sa.Connection, tmp_path: Path
) -> None:
    runner.run(connection, lineage)
    other = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    with other.begin() as models:
        for metadata in lineage.metadatas:
            metadata.create_all(models)
        expected = ddl(models)
    other.dispose()
    assert ddl(connection) == expected


def test_autogenerate_finds_nothing_to_do(lineage: Lineage, connection: sa.Connection) -> None:
    runner.run(connection, lineage)
    assert runner.differences(connection, lineage) == []


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
def test_the_revisions_make_the_same_where_tables_can_be_altered(lineage: Lineage, dialect: str) -> None:
    expected: list[str] = []
    engine = sa.create_mock_engine(
        f"{dialect}://", lambda sql, *_: expected.append(str(sql.compile(dialect=engine.dialect)))
    )
    for metadata in lineage.metadatas:
        metadata.create_all(engine, checkfirst=False)
    made = offline(lineage, dialect, "upgrade")
    assert sorted(made) == sorted(statements(";".join(expected)))
