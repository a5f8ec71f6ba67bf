"""The revisions: the ledger's and each bundled system's make exactly what the models say, and unmake it.

Every folder under schema/ with a source.toml is a system, and is asked.
"""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Callable, Iterable, Iterator
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
        folder, metadatas, prefix = (
            ROOT / "schema" / name / "migrations",
            read_catalog([models]).metadatas,
            name,
        )
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


@pytest.mark.parametrize(
    "damage",
    [
        "ALTER TABLE {table} ADD COLUMN planted INTEGER",
        "CREATE INDEX planted ON {table} ({column})",
        "ALTER TABLE {table} RENAME COLUMN {column} TO planted",
    ],
)
def test_autogenerate_finds_a_planted_difference(
    lineage: Lineage, connection: sa.Connection, damage: str
) -> None:
    runner.run(connection, lineage)
    table = next(iter(lineage.tables.values()))
    connection.exec_driver_sql(damage.format(table=table.name, column=list(table.c)[-1].name))
    assert [change for change in runner.differences(connection, lineage) if "planted" in change]


def test_tables_of_others_in_the_same_database_are_no_difference(
    lineage: Lineage, connection: sa.Connection
) -> None:
    runner.run(connection, lineage)
    connection.exec_driver_sql("CREATE TABLE notes_of_my_own (id INTEGER PRIMARY KEY, title TEXT)")
    assert runner.differences(connection, lineage) == []


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
def test_the_revisions_make_the_same_where_tables_can_be_altered(lineage: Lineage, dialect: str) -> None:
    expected: list[str] = []
    engine = sa.create_mock_engine(
        f"{dialect}://", lambda sql, *_: expected.append(str(sql.compile(dialect=engine.dialect)))
    )
    for metadata in lineage.metadatas:
        metadata.create_all(engine, checkfirst=False)
    made, _ = offline(lineage, dialect)
    assert sorted(made) == sorted(map(one_line, expected))


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
def test_a_foreign_key_names_a_table_that_is_there_when_it_is_made_and_until_it_is_dropped(
    lineage: Lineage, dialect: str
) -> None:
    made, dropped = offline(lineage, dialect)
    assert list(broken_references(made)) == []
    assert found(r"ALTER TABLE (\w+) DROP", dropped) == found(r"ALTER TABLE (\w+) ADD CONSTRAINT", made)
    creations = {name: text for text in made for name in found(r"CREATE TABLE (\w+)", [text])}
    left = found(r"DROP TABLE (\w+)", dropped)
    assert sorted(left) == sorted(lineage.tables)
    assert list(broken_references(creations[name] for name in reversed(left))) == []


def test_the_tables_go_and_come_again_with_rows_in_them(lineage: Lineage, connection: sa.Connection) -> None:
    runner.run(connection, lineage)
    before = ddl(connection)
    for table in lineage.tables.values():
        connection.execute(table.insert().values(sample(table)))
    assert [one.id for one in runner.run(connection, lineage, "base")] == [
        one.id for one in reversed(lineage.revisions)
    ]
    assert ddl(connection) == {}
    runner.run(connection, lineage)
    assert ddl(connection) == before
    assert {table.name for table in lineage.tables.values() if count(connection, table)} == set()


@pytest.mark.parametrize("name", SYSTEMS)
def test_an_alembic_environment_of_ones_own_finds_nothing_to_do_either(name: str, tmp_path: Path) -> None:
    """`mirror.attach` in env.py is all that Alembic's own command line needs."""
    lineage = lineage_of(name)
    (tmp_path / "env.py").write_text(ENV.format(name=name, version_table=lineage.version_table))
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("version_locations", str(lineage.folder / "versions"))
    config.set_main_option("path_separator", "newline")
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'mirror.db'}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        command.check(config)
        assert runner.differences(connection, lineage) == []
    engine.dispose()


ENV = """
from alembic import context
from ingest.mirror import attach
from schema.{name}.models import Base

attach(Base.metadata)
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table="{version_table}",
)
with context.begin_transaction():
    context.run_migrations()
"""


# -- what the tests are written with -------------------------------------------------------------------


def offline(lineage: Lineage, dialect: str) -> tuple[list[str], list[str]]:
    """The statements of all revisions on a database that is not here, up and down again, one line each."""
    script = ScriptDirectory(str(lineage.folder))
    head = script.get_current_head()

    def written(steps: Callable[..., object], **context: object) -> list[str]:
        out = io.StringIO()
        with EnvironmentContext(Config(), script, fn=steps, as_sql=True, **context) as environment:
            environment.configure(
                dialect_name=dialect,
                output_buffer=out,
                version_table=lineage.version_table,
                target_metadata=lineage.target,
            )
            environment.run_migrations()
        texts = [one_line(re.sub(r"--.*", "", text)) for text in out.getvalue().split(";")]
        return [text for text in texts if text and lineage.version_table not in text]

    up = written(lambda at, _: script._upgrade_revs("head", at))
    return up, written(lambda _at, _: script._downgrade_revs("base", head), starting_rev=head)


def one_line(sql: str) -> str:
    return " ".join(sql.split())


def found(pattern: str, statements: Iterable[str]) -> list[str]:
    """What the pattern's group is in the statements that begin with it."""
    return [match[1] for sql in statements if (match := re.match(pattern, sql))]


def broken_references(statements: Iterable[str]) -> Iterator[str]:
    """The statements, in this order, that refer to a table which none before them made."""
    there: set[str] = set()
    for sql in statements:
        there.update(found(r"CREATE TABLE (\w+)", [sql]))
        if not set(re.findall(r"REFERENCES (\w+)", sql)) <= there:
            yield sql


def sample(table: sa.Table) -> dict[str, object]:
    """One row, of whatever is NOT NULL; a text where nothing else is wanted."""
    literals = {"BLOB": "x'31'", "DATETIME": "'2026-01-01 00:00:00'", "TIMESTAMP": "'2026-01-01 00:00:00'"}
    return {
        column.name: sa.literal_column(literals.get(str(column.type.compile()).partition("(")[0], "'1'"))
        for column in table.columns
        if not column.nullable and column.server_default is None
    }


def count(connection: sa.Connection, table: sa.Table) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
