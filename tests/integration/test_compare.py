"""`ingest replay --diff`: what a changed model would alter, said before anything is altered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest.report import Difference, TableDifference
from tests.answering import Said, answering
from tests.integration.jobs import Setup, cli, forget
from tests.integration.test_round_trip import ROWS, paged
from tests.upstream import Upstream, example, generate

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

MODELS = """
from sqlalchemy import BigInteger, ForeignKey, Numeric, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from ingest.mirror import when_missing


class Base(DeclarativeBase):
    pass


class Shelf(Base):
    __tablename__ = "shelves"
    id: Mapped[int] = mapped_column(primary_key=True)


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str | None] = mapped_column(String(20))
    shelf_id: Mapped[int | None] = mapped_column(ForeignKey("shelves.id"), index=True)
"""
STREAMS = {"notes": {"path": "/notes", "entity": "Note"}, "shelves": {"path": "/shelves", "entity": "Shelf"}}
SAID: dict[str, Any] = {
    "/shelves": [{"id": 1}],
    "/notes": [
        {"id": 1, "text": "short", "pages": 3, "shelf_id": 1},
        {"id": 2, "text": "more than twenty characters of text", "shelf_id": 1},
        {"id": 3, "text": "on no shelf", "shelf_id": 9},
    ],
}


@pytest.fixture
async def setup(tmp_path: Path) -> Any:
    def answer(path: str, _query: object) -> Said:
        return Said(SAID.get(path, []))

    async with answering(answer) as url:
        setup = Setup(tmp_path, STREAMS, models=MODELS)
        setup.configure(url)
        assert (await cli(setup.config_file, "sync")).status == 3
        yield setup


async def compared(setup: Setup, *changes: tuple[str, str]) -> tuple[Difference, str]:
    """What a change of the models would alter, as JSON and as text; nothing is altered by asking."""
    text = MODELS
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (setup.folder / setup.name / "models.py").write_text(text)
    files = {file: file.read_bytes() for file in (setup.database, setup.folder / "mirror.db.pages")}
    forget(setup.name)
    told = await cli(setup.config_file, "replay", "--diff", "--json")
    forget(setup.name)
    drawn = await cli(setup.config_file, "replay", "--diff")
    assert (told.status, drawn.status) == (0, 0), told.err + drawn.err
    assert {file: file.read_bytes() for file in files} == files
    return msgspec.json.decode(told.out, type=Difference), drawn.out


async def test_the_same_models_alter_nothing(setup: Setup) -> None:
    found, drawn = await compared(setup)
    assert (found.tables, found.new, found.gone, found.letters) == ((), (), (), (1, 1))
    assert "every row would be as it is" in drawn


async def test_a_longer_text_lets_a_dead_letter_in(setup: Setup) -> None:
    found, drawn = await compared(setup, ("String(20)", "String(40)"))
    assert found.tables == (
        TableDifference(table="notes", added=1, removed=0, changed=0, columns={}, examples=("[2]",)),
    )
    assert (found.letters, found.exit) == ((1, 0), 0)
    assert "dead letters  1 now, 0 then" in drawn


async def test_another_policy_changes_what_is_shown(setup: Setup) -> None:
    found, _ = await compared(
        setup, ('ForeignKey("shelves.id")', 'ForeignKey("shelves.id", info=when_missing("park"))')
    )
    assert found.tables == (
        TableDifference(table="notes", added=0, removed=1, changed=0, columns={}, examples=("[3]",)),
    )


async def test_a_column_that_is_filled_from_elsewhere_is_counted(setup: Setup) -> None:
    found, drawn = await compared(
        setup,
        ("text: Mapped[str | None] = mapped_column(String(20))", "text: Mapped[str | None] = field_of_pages"),
        (
            "class Base(DeclarativeBase)",
            "from ingest.mirror import field\n"
            "field_of_pages = mapped_column(String(20), info=field('pages'))\n"
            "\n\nclass Base(DeclarativeBase)",
        ),
    )
    (notes,) = found.tables
    # note 2 is no dead letter any more, and note 3 has no pages
    assert (notes.added, notes.removed, notes.changed, notes.columns) == (1, 0, 2, {"text": 2})
    assert "text 2" in drawn


async def test_columns_and_tables_of_one_side_are_named(setup: Setup) -> None:
    found, drawn = await compared(
        setup,
        (
            "    text: Mapped[str | None] = mapped_column(String(20))\n",
            "    pages: Mapped[int | None] = mapped_column(BigInteger)\n",
        ),
        (
            "class Shelf(Base)",
            'class Room(Base):\n    __tablename__ = "rooms"\n'
            "    id: Mapped[int] = mapped_column(primary_key=True)\n\n\nclass Shelf(Base)",
        ),
    )
    assert (found.new, found.gone) == (("notes.pages", "rooms"), ("notes.text",))
    assert [(one.table, one.added) for one in found.tables] == [("notes", 1)]
    assert "new           notes.pages" in drawn


async def test_a_log_without_all_of_its_bodies_cannot_be_compared(setup: Setup) -> None:
    (setup.folder / setup.name / "models.py").write_text(MODELS)
    SAID["/notes"], held = [one for one in SAID["/notes"] if one["id"] != 2], SAID["/notes"]
    try:
        await cli(setup.config_file, "sync")
    finally:
        SAID["/notes"] = held
    pruned = await cli(setup.config_file, "prune", "--keep", "0s")
    assert pruned.status == 0, pruned.err
    ran = await cli(setup.config_file, "replay", "--diff")
    assert (ran.status, ran.out) == (1, "")
    assert "were pruned" in ran.err


async def test_without_a_mirror_there_is_nothing_to_compare(tmp_path: Path) -> None:
    setup = Setup(tmp_path, STREAMS, models=MODELS)
    setup.configure("http://127.0.0.1:1")
    ran = await cli(setup.config_file, "replay", "--diff")
    assert (ran.status, ran.out) == (2, "")
    assert list(tmp_path.glob("mirror*")) == []


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
async def test_what_a_server_shows_is_compared_in_stored_form(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    setup = Setup(
        tmp_path,
        paged({"kind": "cursor", "next": "meta.next", "limit": 20}),
        url=request.getfixturevalue(kind).url,
    )
    async with Upstream(setup.source, generate(example, seed=5, rows=ROWS)) as up:
        assert (await setup.sync(up)).exit == 0
    ran = await cli(setup.config_file, "replay", "--diff")
    assert (ran.status, ran.out.strip()) == (0, "every row would be as it is"), ran.out + ran.err
