"""Page log and database that do not belong together any more: noticed, said, and settled without loss."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ingest.pipeline import open_job
from ingest.pipeline.run import Run
from ingest.report import Certificate
from ingest.staging import SqlitePageLog
from tests.answering import Said, answering
from tests.integration.jobs import Setup, cli, forget, replace

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

MODELS = """
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str | None] = mapped_column(String(20))
"""
STREAMS = {"notes": {"path": "/notes", "records": "data", "entity": "Note"}}
REBUILD = ("replay", "--rebuild")


class Notes:
    """A server with notes, and the mirror of it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.setup, self.url = Setup(folder, STREAMS, models=MODELS), url
        self.setup.configure(url)

    async def run(self, command: str = "sync") -> Certificate:
        async with open_job(self.setup.configure(self.url)) as job:
            ran: Certificate = await getattr(job, command)()
            return ran

    async def digest(self) -> str:
        async with open_job(self.setup.configure(self.url), write=False) as job:
            return await job.digest()

    def rows(self) -> list[tuple[Any, ...]]:
        return self.setup.ask("SELECT id, text FROM notes ORDER BY id")

    @property
    def log(self) -> Path:
        return self.setup.folder / "mirror.db.pages"

    def keep(self, *names: str) -> Path:
        """A copy of files as they are now."""
        kept = self.setup.folder / f"kept {'-'.join(names)} {len(list(self.setup.folder.iterdir()))}"
        kept.mkdir()
        for name in names:
            shutil.copy(self.setup.folder / name, kept / name)
        return kept

    def put_back(self, kept: Path) -> None:
        for file in kept.iterdir():
            self.delete(file.name)
            shutil.copy(file, self.setup.folder / file.name)

    def delete(self, name: str) -> None:
        for ending in ("", "-wal", "-shm"):
            (self.setup.folder / f"{name}{ending}").unlink(missing_ok=True)


#: what the server has
HELD: dict[int, str] = {}


@pytest.fixture(autouse=True)
def held() -> None:
    HELD.clear()
    HELD[1] = "one"


def notes(*_: object) -> Said:
    return Said({"data": [{"id": key, "text": text} for key, text in HELD.items()]})


@pytest.fixture
async def mirror(tmp_path: Path) -> Any:
    async with answering(notes) as url:
        yield Notes(tmp_path / "one", url)


async def refused(mirror: Notes, *arguments: str) -> str:
    """The one line with which a command ends that changes nothing."""
    before, log = await mirror.digest(), mirror.log.read_bytes()
    ran = await cli(mirror.setup.config_file, *arguments)
    assert (ran.status, ran.out) == (1, "")
    assert await mirror.digest() == before
    assert mirror.log.read_bytes() == log
    return ran.err


# -- the log is gone, or behind ---------------------------------------------------------------------------


async def test_a_log_that_was_deleted_costs_no_row_and_is_said(mirror: Notes) -> None:
    await mirror.run()
    mirror.delete("mirror.db.pages")
    del HELD[1]
    HELD[2] = "two"
    made = await mirror.run()
    assert (made.exit, mirror.rows()) == (0, [(1, "one"), (2, "two")])
    assert any("the page log is new" in one for one in made.remarks)
    assert (await mirror.run()).remarks == ()
    assert any(
        "1 loaded pages are not in the page log" in one for one in (await mirror.run("verify")).remarks
    )


async def test_a_rebuild_is_refused_where_the_log_was_deleted(mirror: Notes) -> None:
    await mirror.run()
    mirror.delete("mirror.db.pages")
    async with open_job(mirror.setup.configure(mirror.url)):
        pass  # the new log's generation begins: the log alone does not change below
    assert "lacks pages" in await refused(mirror, *REBUILD)
    await mirror.run()
    assert "lacks pages" in await refused(mirror, *REBUILD)
    assert mirror.rows() == [(1, "one")]


async def test_a_rebuild_that_was_killed_still_knows_what_a_deleted_log_had(
    mirror: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mirror.run()
    older = mirror.keep("mirror.db.pages")
    await mirror.run()

    async def killed(*_: object, **__: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(Run, "go", killed)
        async with open_job(mirror.setup.configure(mirror.url)) as job:
            with pytest.raises(RuntimeError):
                await job.replay(None, rebuild=True)
    assert mirror.rows() == []
    whole = mirror.keep("mirror.db.pages")
    mirror.delete("mirror.db.pages")
    assert "a rebuild has emptied this database" in (await cli(mirror.setup.config_file, "sync")).err
    mirror.put_back(older)
    assert "a rebuild has emptied this database" in (await cli(mirror.setup.config_file, "sync")).err
    mirror.put_back(whole)
    async with open_job(mirror.setup.configure(mirror.url)) as job:
        assert (await job.replay(None, rebuild=True)).exit == 0
    assert mirror.rows() == [(1, "one")]


async def test_a_rebuild_that_was_killed_half_way_does_not_go_on_from_another_log(
    mirror: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        HELD[number] = str(number)
        await mirror.run()
    opened: list[str] = []

    def dies(event: str, **_: object) -> None:
        opened.append(event)
        if event == "load.finished":
            raise RuntimeError

    monkeypatch.setattr("ingest.pipeline.limits.BATCH", 1)
    async with open_job(mirror.setup.configure(mirror.url), observe=dies) as job:
        with pytest.raises(RuntimeError):
            await job.replay(None, rebuild=True)
    assert len(mirror.rows()) < 5
    whole = mirror.keep("mirror.db.pages")
    mirror.delete("mirror.db.pages")
    assert "a rebuild has emptied this database" in (await cli(mirror.setup.config_file, "sync")).err
    mirror.put_back(whole)
    assert (await mirror.run()).exit == 0
    assert len(mirror.rows()) == 5


async def test_a_retry_beside_an_older_log_keeps_the_letters_it_cannot_read_again(mirror: Notes) -> None:
    await mirror.run()
    older = mirror.keep("mirror.db.pages")
    HELD[2] = "more than twenty characters of text"
    assert (await mirror.run()).exit == 3
    letters = "SELECT stamp, state, raw FROM ingest_dead_letters"
    held = mirror.setup.ask(letters)
    mirror.put_back(older)
    await mirror.run("retry_dead_letters")
    assert mirror.setup.ask(letters) == held
    # and what is loaded goes on above what the older log lacks, however often it is put back
    mirror.put_back(older)
    HELD[2], HELD[50] = "two", "fifty"
    assert (await mirror.run()).exit == 0
    assert (50, "fifty") in mirror.rows()
    assert (await mirror.run()).exit == 0


async def test_a_retry_keeps_the_letter_of_a_body_that_was_pruned(mirror: Notes) -> None:
    HELD[2] = "more than twenty characters of text"
    assert (await mirror.run()).exit == 3
    held = mirror.setup.ask("SELECT stamp, ordinal, state, raw FROM ingest_dead_letters")
    await prune(mirror, 1)
    await mirror.run("retry_dead_letters")
    assert mirror.setup.ask("SELECT stamp, ordinal, state, raw FROM ingest_dead_letters") == held


async def test_a_log_of_last_week_goes_on_above_what_it_lacks(mirror: Notes) -> None:
    await mirror.run()
    kept = mirror.keep("mirror.db.pages")
    HELD[2] = "two"
    await mirror.run()
    mirror.put_back(kept)
    HELD[1] = "changed"
    made = await mirror.run()
    assert (made.exit, mirror.rows()) == (0, [(1, "changed"), (2, "two")])
    assert any("the page log is behind" in one for one in made.remarks)
    made = await mirror.run()
    assert (made.exit, made.remarks) == (0, ())
    assert any("are not in the page log" in one for one in (await mirror.run("verify")).remarks)
    assert "lacks pages" in await refused(mirror, *REBUILD)


async def test_a_new_generation_is_begun_once_however_often_nothing_comes(mirror: Notes) -> None:
    await mirror.run()
    mirror.delete("mirror.db.pages")
    generations = set()
    for _ in range(3):
        await mirror.run("recover")
        async with await SqlitePageLog.open(mirror.log, readonly=True) as log:
            generations.add(log.identity.generation)
    assert generations == {1}


# -- the database is behind, or elsewhere ----------------------------------------------------------------


async def test_a_database_of_last_week_is_brought_up_to_date_from_the_log(mirror: Notes) -> None:
    await mirror.run()
    kept = mirror.keep("mirror.db")
    HELD[2] = "two"
    await mirror.run()
    digest = await mirror.digest()
    mirror.put_back(kept)
    assert mirror.rows() == [(1, "one")]
    made = await mirror.run("recover")
    assert (made.exit, made.remarks, await mirror.digest()) == (0, (), digest)


async def test_both_go_on_in_another_folder(mirror: Notes, tmp_path: Path) -> None:
    await mirror.run()
    digest = await mirror.digest()
    moved = shutil.move(mirror.setup.folder, tmp_path / "two")
    forget("chat")
    mirror.setup.folder = Path(moved)
    mirror.setup.url = f"sqlite:///{mirror.setup.database}"
    assert await mirror.digest() == digest
    HELD[2] = "two"
    made = await mirror.run()
    assert (made.exit, made.remarks, mirror.rows()) == (0, (), [(1, "one"), (2, "two")])


# -- a log that is another's -----------------------------------------------------------------------------


@pytest.mark.parametrize("more", [0, 3], ids=["as long", "longer"])
async def test_another_mirrors_log_is_refused(mirror: Notes, tmp_path: Path, more: int) -> None:
    other = Notes(tmp_path / "other", mirror.url)
    await mirror.run()
    HELD[5] = "another's"
    for _ in range(1 + more):
        await other.run()
    del HELD[5]
    mirror.put_back(other.keep("mirror.db.pages"))
    assert "filled from another page log" in await refused(mirror, "sync")
    assert mirror.rows() == [(1, "one")]


@pytest.mark.parametrize("longer", [False, True], ids=["shorter", "longer"])
async def test_two_logs_that_went_on_from_one_are_told_apart(mirror: Notes, longer: bool) -> None:
    await mirror.run()
    both = mirror.keep("mirror.db", "mirror.db.pages")
    HELD[2] = "two"
    await mirror.run()
    await mirror.run()
    first = mirror.keep("mirror.db")
    mirror.put_back(both)
    HELD[2] = "another"
    for _ in range(3 if longer else 1):
        await mirror.run()
    mirror.put_back(first)
    said = await refused(mirror, "sync")
    assert "page 2 is another one in the page log than was loaded" in said


async def test_a_log_that_lacks_a_page_in_its_midst_is_refused(mirror: Notes) -> None:
    for _ in range(3):
        await mirror.run()
    with closing(sqlite3.connect(mirror.log)) as log, log:
        log.execute("DELETE FROM page WHERE stamp = 2")
        log.execute("DELETE FROM body WHERE stamp = 2")
    assert "page 2 is another one" in await refused(mirror, "sync")


async def test_verify_looks_every_loaded_page_up(mirror: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        HELD[number] = str(number)
        await mirror.run()
    monkeypatch.setattr("ingest.pipeline.drift._NEWEST", 2)
    with closing(sqlite3.connect(mirror.setup.database)) as database, database:
        database.execute("UPDATE ingest_pages SET digest = 'x' WHERE stamp = 2")
    assert (await mirror.run("recover")).exit == 0
    assert "page 2 is another one" in await refused(mirror, "verify")


# -- bodies that are gone ---------------------------------------------------------------------------------


async def prune(mirror: Notes, *stamps: int) -> None:
    async with await SqlitePageLog.open(mirror.log) as log:
        await log.prune(stamps)


async def test_a_rebuild_is_refused_where_bodies_were_pruned(mirror: Notes) -> None:
    await mirror.run()
    await prune(mirror, 1)
    assert "the bodies of 1 pages were pruned" in await refused(mirror, *REBUILD)
    HELD[2] = "two"
    assert (await mirror.run()).exit == 0
    assert mirror.rows() == [(1, "one"), (2, "two")]


async def test_a_database_of_before_what_was_pruned_is_refused(mirror: Notes) -> None:
    await mirror.run()
    kept = mirror.keep("mirror.db")
    HELD[2] = "two"
    await mirror.run()
    await prune(mirror, 2)
    mirror.put_back(kept)
    assert "page 2 was pruned before this database loaded it (1 such pages)" in await refused(mirror, "sync")
    assert mirror.rows() == [(1, "one")]


# -- models that changed in between ----------------------------------------------------------------------


async def test_pages_staged_under_older_models_are_loaded_under_todays(
    mirror: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    HELD[2] = "more than twenty characters of text"

    async def killed(*_: object, **__: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_settle", killed)
        with pytest.raises(RuntimeError):
            await mirror.run()
    assert mirror.rows() == []
    # SQLite does not mind how long a text is: the tables are as the new models say
    replace(mirror.setup.folder / "chat" / "models.py", "String(20)", "String(80)")
    forget("chat")
    mirror.delete("mirror.db")
    made = await mirror.run("recover")
    assert (made.exit, mirror.rows()) == (0, [(1, "one"), (2, HELD[2])])
