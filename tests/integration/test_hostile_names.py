"""Tables, columns, keys and files by names that would be something else in SQL, in a URL or in a path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ingest.replay import INDEX, read_exchanges
from tests.integration.jobs import Setup, cli

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

#: what stands in them: quotes of every kind, parameters of every driver, comments, keywords, other scripts
PARENTS, CHILDREN = 'select "%s" `:p`', "x'; DROP TABLE y; --"
COLUMNS = ("order", "50%", ":p", "%(key)s", 'a"b', "c`d", "e'f", "$1 ?", "--", "größe ☃", "group by")
MODELS = f"""
from sqlalchemy import BigInteger, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.mirror import Mirror, count, field, latest, when_missing


class Base(DeclarativeBase):
    pass


class Parent(Base):
    __tablename__ = {PARENTS!r}
    id: Mapped[str] = mapped_column({COLUMNS[2]!r}, String(200), primary_key=True, info=field("id"))
    unique: Mapped[str | None] = mapped_column({COLUMNS[4]!r}, String(100), unique=True, info=field("name"))
    newest: Mapped[str | None] = mapped_column(
        {COLUMNS[5]!r},
        ForeignKey({CHILDREN + "." + COLUMNS[0]!r}, use_alter=True, name="to: %s"),
        info=latest(lambda: Child.parent, by=lambda: (Child.id,)),
    )
    many: Mapped[int] = mapped_column(
        {COLUMNS[6]!r}, BigInteger, default=0, info=count(lambda: Child.parent)
    )


class Child(Base):
    __tablename__ = {CHILDREN!r}
    id: Mapped[str] = mapped_column({COLUMNS[0]!r}, String(200), primary_key=True, info=field("id"))
    parent: Mapped[str | None] = mapped_column(
        {COLUMNS[1]!r},
        ForeignKey({PARENTS + "." + COLUMNS[2]!r}, info=when_missing("fetch", "null")),
        index=True,
        info=field("of"),
    )
    text: Mapped[str | None] = mapped_column({COLUMNS[3]!r}, String(100), info=field("text"))
    other: Mapped[str | None] = mapped_column({COLUMNS[7]!r}, String(100), info=field("text"))
    third: Mapped[str | None] = mapped_column({COLUMNS[8]!r}, String(100), info=field("text"))
    fourth: Mapped[str | None] = mapped_column({COLUMNS[9]!r}, String(100), info=field("text"))
    fifth: Mapped[str | None] = mapped_column({COLUMNS[10]!r}, String(100), info=field("text"))
"""
STREAMS: dict[str, Any] = {
    "parents": {"path": "/parents", "entity": "Parent", "by_id": {"path": "/parents/{id}", "records": "$"}},
    "children": {"path": "/children", "entity": "Child"},
    # a walk for each parent, whose name is part of a path and of what is remembered
    "of": {"each": "parents", "path": "/parents/{parents.id}/children", "entity": "Child"},
}
#: keys and values as a server may give them: out of the folder, out of the statement, out of the line
KEYS = (
    "../../etc/passwd",
    "..",
    "CON",
    "a\\b:c*?",
    "x" * 180,
    "'; DROP TABLE y; --",
    '"%s %(key)s :p $1 ?',
    "{id}",
    "one\ntwo\ttwo",
    "\N{RIGHT-TO-LEFT OVERRIDE}kcab",
)


ON_SERVERS = [pytest.param(kind, marks=pytest.mark.servers) for kind in ("postgresql", "mariadb")]
#: what a recording may not name
ELSEWHERE = ("../outside.json", "/etc/passwd", "a/../../outside.json", "nul\0byte.json", "x" * 5000)


def record(folder: Path, pages: dict[str, Any]) -> None:
    """Answers of a server, by path."""
    folder.mkdir()
    lines = []
    for number, (path, body) in enumerate(pages.items()):
        (folder / f"{number}.json").write_text(json.dumps(body))
        lines.append(json.dumps({"request": {"path": path}, "file": f"{number}.json"}))
    (folder / INDEX).write_text("\n".join(lines))


def segment(text: str) -> str:
    return quote(text, safe="") if text.strip(".") else text.replace(".", "%2E")


@pytest.mark.parametrize("kind", ["sqlite", *ON_SERVERS])
async def test_names_and_keys_are_values_and_identifiers_and_nothing_else(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    url = None if kind == "sqlite" else request.getfixturevalue(kind).url
    parents = [{"id": key, "name": key[:90]} for key in KEYS]
    children = [{"id": f"of {key}", "of": key, "text": key[:90], key: "no column takes it"} for key in KEYS]
    lost = {"id": "lost", "of": "not; there", "text": None}
    pages = {"/parents": parents, "/children": [*children, lost], "/parents/not%3B%20there": parents[:0]}
    pages |= {f"/parents/{segment(key)}/children": [child] for key, child in zip(KEYS, children, strict=True)}
    record(tmp_path / "recorded", pages)
    # SQLAlchemy cannot read a backtick in what MariaDB says of a table, and asyncmy leaves `%` doubled
    without = str.maketrans("`%", "^&") if kind == "mariadb" else {}
    models, above = MODELS.translate(without), PARENTS.translate(without)
    setup = Setup(tmp_path, STREAMS, models=models, url=url)
    setup.settings["replay"] = "recorded"
    setup.configure("http://127.0.0.1:1")
    ran = await cli(setup.config_file, "sync", "--json")
    assert (ran.status, ran.err) == (0, "")
    proof = ran.proof
    assert {one.table: one.rows for one in proof.tables} == {above: len(KEYS), CHILDREN: len(KEYS) + 1}
    assert (proof.withheld, proof.missing) == ({"missing": 1}, {"gone": 1})
    # once more, and nothing is written; then all of it is looked through
    again = await cli(setup.config_file, "sync", "--json")
    assert (again.status, again.proof.load.written) == (0, 0)
    assert (await cli(setup.config_file, "verify")).status == 0
    for key in KEYS:
        told = await cli(setup.config_file, "trace", CHILDREN, f"of {key}", "--json")
        shown = json.loads(told.out)
        assert told.status == 0, told.err
        assert json.loads(shown["key"]) == [f"of {key}"]
    for command in ("status", "missing --explain", "gaps", "dead-letters", "runs", "record api --to out"):
        words = [word if word != "out" else str(tmp_path / "out") for word in command.split()]
        assert (await cli(setup.config_file, *words)).status == 0
    # whatever a server said, the files lie where they were to lie, by names that any system takes
    files = {one.relative_to(tmp_path / "out").as_posix() for one in (tmp_path / "out").rglob("*.*")}
    assert files == {INDEX, *(one.file for one in read_exchanges(tmp_path / "out"))}
    assert all(name.replace("/", "").replace(".", "").isalnum() for name in files)


@pytest.mark.parametrize("file", [*ELSEWHERE, "..", ".", "a/b/", ""])
async def test_a_recording_cannot_name_a_file_outside_its_folder(tmp_path: Path, file: str) -> None:
    (tmp_path / "outside.json").write_text("[]")
    record(tmp_path / "recorded", {"/parents": []})
    (tmp_path / "recorded" / INDEX).write_text(json.dumps({"request": {"path": "/parents"}, "file": file}))
    setup = Setup(tmp_path, {"parents": STREAMS["parents"]}, models=MODELS)
    setup.settings["replay"] = "recorded"
    setup.configure("http://127.0.0.1:1")
    ran = await cli(setup.config_file, "sync")
    assert ran.status == 2
    assert f"{INDEX}: line 1" in ran.err
