"""A database is made, recognised, upgraded or refused, by the revisions of this program and of the models.

The system here has two revisions; the second makes a table anew that refers to itself, and that another one
points at, as SQLite must.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ingest.catalog import read_catalog
from ingest.cli.main import main
from ingest.config import import_package, read_config
from ingest.database import open_writer
from ingest.engines import engine_for
from ingest.errors import ConfigError, IngestError, LockHeld, ModelError, Stop, UsageError
from ingest.ledger import LEDGER
from ingest.migrate import lineages
from ingest.migrations.lineage import read_revisions
from ingest.pipeline import open_job
from ingest.report import Certificate

ROOT = Path(__file__).parent.parent.parent

MODELS = """
from __future__ import annotations

from sqlalchemy import ForeignKey, MetaData, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.mirror import ignore, latest


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention={
        "pk": "pk_%(table_name)s", "fk": "fk_%(table_name)s_%(column_0_name)s", "ix": "ix_%(column_0_label)s"
    })


class Board(Base):
    __tablename__ = "boards"
    id: Mapped[int] = mapped_column(primary_key=True)
    last_note_id: Mapped[int | None] = mapped_column(
        ForeignKey("notes.id", use_alter=True), info=latest(lambda: Note.board_id, by=lambda: (Note.id,))
    )


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    board_id: Mapped[int] = mapped_column(ForeignKey("boards.id", ondelete="CASCADE"), index=True)
    reply_to_id: Mapped[int | None] = mapped_column(ForeignKey("notes.id"))
    text: Mapped[str | None] = mapped_column(Text)
"""
LATER_MODELS = (
    MODELS.replace("text: Mapped[str | None]", "text: Mapped[str]")
    + '    title: Mapped[str] = mapped_column(Text, server_default="untitled", info=ignore())\n'
)

FIRST = '''
"""Boards and notes."""
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def owned():
    yield sa.Column("ingest_version", sa.BigInteger, nullable=False, server_default="-4611686018427387904")
    yield sa.Column("ingest_stamp", sa.BigInteger, nullable=False, server_default="0")
    yield sa.Column("ingest_ordinal", sa.Integer, nullable=False, server_default="0")
    yield sa.Column("ingest_exceptions", sa.Text)


def upgrade():
    op.create_table(
        "boards",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("last_note_id", sa.Integer),
        *owned(),
        sa.PrimaryKeyConstraint("id", name="pk_boards"),
        sa.ForeignKeyConstraint(
            ["last_note_id"], ["notes.id"], name="fk_boards_last_note_id", use_alter=True
        ),
    )
    op.create_table(
        "notes",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("board_id", sa.Integer, nullable=False),
        sa.Column("reply_to_id", sa.Integer),
        sa.Column("text", sa.Text),
        *owned(),
        sa.PrimaryKeyConstraint("id", name="pk_notes"),
        sa.ForeignKeyConstraint(["board_id"], ["boards.id"], name="fk_notes_board_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["reply_to_id"], ["notes.id"], name="fk_notes_reply_to_id"),
    )
    op.create_index("ix_notes_board_id", "notes", ["board_id"])


def downgrade():
    op.drop_table("notes")
    op.drop_table("boards")
'''
#: as Alembic's own template has it, but for the types
SECOND = '''
"""Notes have a title, and always a text.

Revision ID: 0002
Revises: 0001
"""
import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"


def upgrade() -> None:
    with op.batch_alter_table("notes") as notes:
        notes.add_column(sa.Column("title", sa.Text, nullable=False, server_default="untitled"))
        notes.alter_column("text", existing_type=sa.Text, nullable=False)


def downgrade() -> None:
    with op.batch_alter_table("notes") as notes:
        notes.alter_column("text", existing_type=sa.Text, nullable=True)
        notes.drop_column("title")
'''
BROKEN = SECOND.replace(
    "    with op.batch_alter_table",
    "    op.drop_table('boards')\n    op.drop_table('no')\n    with op.batch_alter_table",
    1,
)

SOURCE = """
[streams.boards]
path = "/boards"
records = "data"
entity = "Board"

[streams.notes]
path = "/notes"
records = "data"
entity = "Note"
"""
RECORDS: dict[str, list[dict[str, Any]]] = {
    "boards": [{"id": 1}, {"id": 2}],
    "notes": [
        {"id": 10, "board_id": 1, "reply_to_id": None, "text": "a"},
        {"id": 11, "board_id": 1, "reply_to_id": 10, "text": "b"},
        {"id": 12, "board_id": 2, "reply_to_id": None, "text": "c"},
    ],
}


class Project:
    """A job in a folder of its own: a package of models, recorded pages, and the database of both."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.database = folder, folder / "mirror.db"
        self.package = folder / "corkboard"
        (folder / "pages").mkdir(parents=True)
        lines = []
        for stream, records in RECORDS.items():
            (folder / "pages" / f"{stream}.json").write_text(json.dumps({"data": records}))
            lines.append(json.dumps({"request": {"path": f"/{stream}"}, "file": f"{stream}.json"}))
        (folder / "pages" / "pages.jsonl").write_text("\n".join(lines))
        self.configure("corkboard")
        self.write(self.package, MODELS, FIRST)

    def configure(self, *packages: str) -> None:
        text = '[database]\nurl = "sqlite:///mirror.db"\n'
        for package in packages:
            text += (
                f'[sources.{package.rpartition(".")[0] or package}]\nmodels = "{package}"\n'
                'base_url = "https://api.example"\nreplay = "pages"\n'
            )
        (self.folder / "config.toml").write_text(text)

    def write(self, package: Path, models: str, *revisions: str) -> None:
        """The models and revisions that are installed now."""
        shutil.rmtree(package, ignore_errors=True)
        (package / "migrations" / "versions").mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "source.toml").write_text(SOURCE)
        (package / "models.py").write_text(models)
        for number, revision in enumerate(revisions, 1):
            (package / "migrations" / "versions" / f"{number:04d}_step.py").write_text(revision)
        for name in [name for name in sys.modules if name.split(".")[0] == package.name]:
            del sys.modules[name]

    def upgrade(self) -> None:
        """The next release of the package."""
        self.write(self.package, LATER_MODELS, FIRST, SECOND)

    async def sync(self) -> Certificate:
        async with open_job(read_config(self.folder / "config.toml")) as job:
            return await job.sync()

    async def migrate(self) -> list[str]:
        async with open_job(read_config(self.folder / "config.toml")) as job:
            return await job.migrate()

    async def status(self) -> dict[str, int]:
        async with open_job(read_config(self.folder / "config.toml"), write=False) as job:
            return (await job.status()).rows

    async def digest(self) -> str:
        async with open_job(read_config(self.folder / "config.toml"), write=False) as job:
            return await job.digest()

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database)) as connection, connection:
            return connection.execute(sql).fetchall()

    def revisions(self) -> dict[str, list[str]]:
        """Where the database is, by version table."""
        tables = self.ask(
            "SELECT name FROM sqlite_master WHERE name LIKE '%alembic_version' AND type = 'table'"
        )
        return {name: [row[0] for row in self.ask(f"SELECT version_num FROM {name}")] for (name,) in tables}

    def dump(self) -> list[str]:
        """Everything in the database but who holds the lock."""
        with closing(sqlite3.connect(self.database)) as connection:
            return [
                line for line in connection.iterdump() if not line.startswith('INSERT INTO "ingest_lock"')
            ]


@pytest.fixture
def project(tmp_path: Path, imports_are_forgotten: None) -> Project:
    return Project(tmp_path / "job")


HEADS = {"ingest_alembic_version": ["0002"], "corkboard_alembic_version": ["0001"]}


# -- a new database ------------------------------------------------------------------------------------


async def test_sync_on_a_new_database_makes_it_by_its_revisions(project: Project) -> None:
    assert (await project.sync()).exit == 0
    assert project.revisions() == HEADS


async def test_a_new_database_is_its_owners_alone(project: Project) -> None:
    everyone = os.umask(0)
    try:
        async with open_job(read_config(project.folder / "config.toml")) as job:
            await job.sync()
            modes = {
                file.name: stat.S_IMODE(file.stat().st_mode) for file in project.folder.glob("mirror.db*")
            }
    finally:
        os.umask(everyone)
    assert {"mirror.db", "mirror.db-wal", "mirror.db.pages"} <= modes.keys()
    assert set(modes.values()) == {0o600}


async def test_migrate_makes_a_new_database_and_says_so(project: Project) -> None:
    project.upgrade()
    assert await project.migrate() == [
        "ledger 0001: All tables",
        "ledger 0002: Proven listings, deletes held back, and when missing parents are asked for again",
        "corkboard 0001: Boards and notes",
        "corkboard 0002: Notes have a title, and always a text",
    ]
    assert await project.migrate() == []


async def test_a_new_database_is_made_whole_or_not_at_all(project: Project) -> None:
    project.write(project.package, LATER_MODELS, FIRST, BROKEN)
    with pytest.raises(Stop, match="no such table: no") as stopped:
        await project.sync()
    assert stopped.value.where == str(project.package / "migrations" / "versions" / "0002_step.py")
    assert project.ask("SELECT * FROM sqlite_master") == []


async def test_tables_whose_making_was_broken_off_are_made_again(project: Project) -> None:
    # as a database leaves them whose DDL commits by itself
    await project.sync()
    whole, digest = project.ask("SELECT name, sql FROM sqlite_master ORDER BY name"), await project.digest()
    for statement in ("DELETE FROM corkboard_alembic_version", "DELETE FROM notes", "DROP TABLE boards"):
        project.ask(statement)
    project.ask("DELETE FROM ingest_alembic_version")
    for (name,) in project.ask(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'ingest_%'"
    ):
        if name != "ingest_alembic_version":
            project.ask(f"DROP TABLE {name}")
    with pytest.raises(UsageError, match=r"has no tables of ledger yet|holds no mirror"):
        await project.status()
    assert (await project.sync()).exit == 0
    assert (project.revisions(), await project.digest()) == (HEADS, digest)
    assert project.ask("SELECT name, sql FROM sqlite_master ORDER BY name") == whole


async def test_an_unfinished_table_that_has_rows_is_never_dropped(project: Project) -> None:
    await project.sync()
    project.ask("DELETE FROM corkboard_alembic_version")
    before = project.dump()
    with pytest.raises(UsageError, match=r"the table boards has rows.*never finished"):
        await project.sync()
    assert project.dump() == before


async def test_tables_of_a_package_without_revisions_are_made_from_its_models_and_it_is_said(
    project: Project,
) -> None:
    project.write(project.package, MODELS)
    assert "corkboard: made from the models, for want of migrations" in await project.migrate()
    assert (await project.sync()).exit == 0
    assert project.revisions() == {"ingest_alembic_version": ["0002"]}


async def test_another_source_gets_its_tables_when_it_is_added_to_a_database(project: Project) -> None:
    await project.sync()
    renamed = [text.replace("boards", "shelves").replace("notes", "books") for text in (MODELS, FIRST)]
    project.write(project.folder / "library", *renamed)
    project.configure("corkboard", "library")
    with pytest.raises(UsageError, match="no tables of library yet"):
        await project.status()
    assert await project.migrate() == ["library 0001: Boards and books"]
    assert project.revisions() == HEADS | {"library_alembic_version": ["0001"]}


# -- a database that is behind -------------------------------------------------------------------------


async def test_sync_refuses_an_older_database_before_it_asks_or_writes_anything(project: Project) -> None:
    await project.sync()
    before = project.dump()
    project.upgrade()
    shutil.rmtree(project.folder / "pages")
    with pytest.raises(UsageError) as refused:
        await project.sync()
    assert str(refused.value) == (
        f"{project.database}: this database is at revision 0001 of corkboard, which is at 0002 now "
        "(run `ingest migrate`)"
    )
    assert project.dump() == before


async def test_a_question_to_an_older_database_is_refused_alike(project: Project) -> None:
    await project.sync()
    project.upgrade()
    with pytest.raises(UsageError, match="run `ingest migrate`"):
        await project.status()


async def test_the_command_line_refuses_with_2_then_migrates_and_goes_on(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.folder)
    assert await asyncio.to_thread(main, ["sync"]) == 0
    project.upgrade()
    assert await asyncio.to_thread(main, ["sync"]) == 2
    assert "run `ingest migrate`" in capsys.readouterr().err
    assert await asyncio.to_thread(main, ["migrate"]) == 0
    assert capsys.readouterr().out == "corkboard 0002: Notes have a title, and always a text\n"
    assert await asyncio.to_thread(main, ["sync"]) == 0


async def test_migrate_keeps_every_row_and_reference(project: Project) -> None:
    await project.sync()
    project.upgrade()
    await project.migrate()
    assert project.revisions() == HEADS | {"corkboard_alembic_version": ["0002"]}
    assert project.ask("SELECT id, board_id, reply_to_id, text, title FROM notes ORDER BY id") == [
        (10, 1, None, "a", "untitled"),
        (11, 1, 10, "b", "untitled"),
        (12, 2, None, "c", "untitled"),
    ]
    assert project.ask("SELECT id, last_note_id FROM boards ORDER BY id") == [(1, 11), (2, 12)]
    assert project.ask("SELECT \"table\" FROM pragma_foreign_key_list('boards')") == [("notes",)]
    assert project.ask("SELECT \"table\" FROM pragma_foreign_key_list('notes') ORDER BY 1") == [
        ("boards",),
        ("notes",),
    ]
    assert project.ask("SELECT * FROM pragma_foreign_key_check") == []


async def test_a_job_can_be_used_once_it_has_migrated(project: Project) -> None:
    await project.sync()
    project.upgrade()
    async with open_job(read_config(project.folder / "config.toml")) as job:
        await job.migrate()
        assert (await job.sync()).exit == 0


async def test_a_revision_that_fails_leaves_the_database_as_it_was(project: Project) -> None:
    await project.sync()
    before = project.dump()
    project.write(project.package, LATER_MODELS, FIRST, BROKEN)
    with pytest.raises(Stop, match="nothing was changed"):
        await project.migrate()
    assert project.dump() == before


async def test_migrate_waits_for_no_run_that_is_writing(project: Project) -> None:
    await project.sync()
    before = project.dump()
    project.upgrade()
    # the test's parent lives, and is not us
    holder = f"{os.uname().nodename}:{os.getppid()}"
    project.ask(f"UPDATE ingest_lock SET holder = '{holder}', since = 'now'")
    with pytest.raises(LockHeld, match=holder):
        await project.migrate()
    assert project.dump() == before


async def test_a_run_whose_tables_were_migrated_under_it_writes_nothing_more(project: Project) -> None:
    await project.sync()
    async with open_job(read_config(project.folder / "config.toml")) as suspended:
        project.upgrade()
        # beside the page log, which lets nobody else in either
        config = read_config(project.folder / "config.toml")
        catalog = read_catalog([import_package("corkboard.models", project.folder)])
        engine = engine_for(config.database_url)
        async with open_writer(engine, catalog, lineages(config, catalog)) as database:
            await database.migrate(since="now")
        await engine.close()
        with pytest.raises(LockHeld, match="taken over"):
            await suspended.sync()


# -- a database that is not what it should be ----------------------------------------------------------


@pytest.mark.parametrize("command", ["sync", "migrate", "status"])
async def test_a_database_of_a_newer_version_is_refused(project: Project, command: str) -> None:
    project.upgrade()
    await project.sync()
    project.write(project.package, MODELS, FIRST)
    before = project.dump()
    with pytest.raises(UsageError, match="at revision 0002 of corkboard, which is not known here"):
        await getattr(project, command)()
    assert project.dump() == before


async def test_tables_that_were_made_without_revisions_are_recognised(project: Project) -> None:
    project.write(project.package, MODELS)
    await project.sync()
    project.ask("DROP TABLE ingest_alembic_version")
    project.write(project.package, MODELS, FIRST)
    assert await project.status() == {"boards": 2, "notes": 3}
    assert await project.migrate() == [
        "ledger 0002: its tables were there",
        "corkboard 0001: its tables were there",
    ]
    assert project.revisions() == HEADS
    assert (await project.sync()).exit == 0


@pytest.mark.parametrize("command", ["sync", "migrate"])
async def test_tables_that_were_made_otherwise_are_refused(project: Project, command: str) -> None:
    project.write(project.package, MODELS)
    await project.sync()
    project.ask("DROP INDEX ix_notes_board_id")
    project.write(project.package, MODELS, FIRST)
    before = project.dump()
    with pytest.raises(UsageError, match="add index ix_notes_board_id"):
        await getattr(project, command)()
    assert project.dump() == before


@pytest.mark.parametrize("command", ["sync", "migrate", "status"])
async def test_models_that_changed_without_a_revision_are_refused(project: Project, command: str) -> None:
    await project.sync()
    project.write(project.package, LATER_MODELS, FIRST)
    with pytest.raises(UsageError, match=r"the database lacks notes\.title .*write a revision in"):
        await getattr(project, command)()


async def test_a_new_database_that_would_not_be_the_models_is_not_made(project: Project) -> None:
    project.write(project.package, LATER_MODELS, FIRST)
    with pytest.raises(UsageError, match=r"the database lacks notes\.title"):
        await project.sync()
    assert project.ask("SELECT * FROM sqlite_master") == []


async def test_without_migrations_changed_models_get_a_database_anew_from_the_page_log(
    project: Project,
) -> None:
    project.write(project.package, MODELS)
    await project.sync()
    project.write(project.package, LATER_MODELS)
    with pytest.raises(UsageError, match="replay --rebuild"):
        await project.sync()
    for file in project.folder.glob("mirror.db*"):
        if ".pages" not in file.name:
            file.rename(project.folder / f"old-{file.name}")
    shutil.rmtree(project.folder / "pages")
    async with open_job(read_config(project.folder / "config.toml")) as job:
        assert (await job.replay(None, rebuild=True)).exit == 0
    assert await project.status() == {"boards": 2, "notes": 3}


async def test_two_packages_of_one_name_are_refused(project: Project) -> None:
    (project.folder / "old").mkdir()
    project.write(
        project.folder / "old" / "corkboard", MODELS.replace("notes", "books").replace("boards", "shelves")
    )
    project.configure("corkboard", "old.corkboard")
    with pytest.raises(ConfigError, match="two packages of models are called 'corkboard'"):
        await project.sync()


# -- how it is done ------------------------------------------------------------------------------------


async def test_two_databases_that_are_made_at_once_do_not_get_each_others_tables(
    tmp_path: Path, imports_are_forgotten: None
) -> None:
    first, second = Project(tmp_path / "one"), Project(tmp_path / "two")
    first.upgrade()
    configured = [read_config(project.folder / "config.toml") for project in (first,)]
    second.configure("library")
    renamed = [text.replace("boards", "shelves").replace("notes", "books") for text in (MODELS, FIRST)]
    second.write(second.folder / "library", *renamed)
    configured.append(read_config(second.folder / "config.toml"))

    async def made(config: Any) -> list[str]:
        async with open_job(config) as job:
            return await job.migrate()

    await asyncio.gather(*map(made, configured))
    tables = [
        {name for (name,) in project.ask("SELECT name FROM sqlite_master WHERE type = 'table'")}
        - set(LEDGER.tables)
        for project in (first, second)
    ]
    assert tables == [
        {"boards", "notes", "corkboard_alembic_version", "ingest_alembic_version"},
        {"shelves", "books", "library_alembic_version", "ingest_alembic_version"},
    ]


async def test_a_database_that_is_up_to_date_is_synced_without_alembic(project: Project) -> None:
    await project.sync()
    code = (
        "import sys; from ingest.cli.main import main; "
        "print(main(['sync']), main(['status']), 'alembic' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines()[-1] == "0 0 False"


# -- a folder of revisions -----------------------------------------------------------------------------


def revisions_of(folder: Path, *texts: str) -> Iterator[str]:
    (folder / "versions").mkdir()
    for number, text in enumerate(texts):
        (folder / "versions" / f"{number}.py").write_text(text)
    return (revision.id for revision in read_revisions(folder))


def test_revisions_are_in_the_order_in_which_they_follow_each_other(tmp_path: Path) -> None:
    texts = [
        'revision = "c"\ndown_revision = "a"',
        'revision = "b"\ndown_revision = "c"',
        FIRST.replace("0001", "a"),
    ]
    assert list(revisions_of(tmp_path, *texts)) == ["a", "c", "b"]


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert read_revisions(tmp_path / "migrations") == ()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([FIRST, FIRST.replace("0001", "0002")], "0001 and 0002 both follow nothing"),
        ([FIRST, SECOND, SECOND.replace('"0002"', '"0003"')], "0002 and 0003 both follow 0001"),
        ([FIRST, SECOND.replace('"0001"', '"0000"')], "0002 follows 0000, which is not there"),
        ([SECOND.replace('"0001"', '"0002"')], "0002 follows 0002, which is not there"),
        (['revision = "0003"\ndown_revision = ("0001", "0002")'], "which one it follows"),
        (['revision = "0003"'], "which one it follows"),
        (["import sqlalchemy"], "which revision it is"),
        (["revision = ("], "cannot be read"),
    ],
)
def test_revisions_that_are_not_one_line_are_refused(tmp_path: Path, texts: list[str], message: str) -> None:
    with pytest.raises(ModelError, match=message) as refused:
        list(revisions_of(tmp_path, *texts))
    assert isinstance(refused.value, IngestError)
    assert str(tmp_path) in str(refused.value.where)
