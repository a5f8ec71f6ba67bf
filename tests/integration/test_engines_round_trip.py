"""The same pages give the same database, whatever kind of database it is and through whichever driver."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa

from ingest.config import Config, read_config
from ingest.ledger import WITHHELD
from ingest.pipeline import limits, open_job
from ingest.report import Certificate, Observer, unobserved
from tests import matrix_lab
from tests.databases import TestDatabase
from tests.integration import test_bad_input as bad_input
from tests.integration.jobs import Clock, Setup, client, forget, toml
from tests.integration.story import CHANGES, LATER, bump, rooms
from tests.integration.test_round_trip import KINDS, ROWS, paged
from tests.upstream import Paging, Truth, Upstream, example, generate

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("imports_are_forgotten")]

ROOT = Path(__file__).parent.parent.parent
#: every way to every kind of database but SQLite, whose mirror all others are compared with
DRIVERS = ("postgresql+asyncpg", "postgresql+psycopg", "mariadb+asyncmy", "mariadb+aiomysql")
#: the way that is taken when nobody says which
SERVERS = ("postgresql", "mariadb")


class Seen(NamedTuple):
    """What a run came to, and what the mirror is like after it."""

    exit: int
    remarks: tuple[str, ...]
    digest: str
    #: what the runs after it wrote and came to, until one wrote nothing
    again: list[tuple[int, str]]
    rows: dict[str, int]
    #: (table, key, state, how many refer)
    missing: list[tuple[Any, ...]]
    #: (table, key, state, raw, reason)
    letters: list[tuple[Any, ...]]
    #: (table, key, column, value, reason, and the row that is not there)
    withheld: list[tuple[Any, ...]]
    #: every foreign key, pointer and counter, and what was found of it
    references: list[tuple[Any, ...]]
    derived: list[tuple[Any, ...]]
    #: what else was counted, and does not depend on the order of pages
    counted: dict[str, Any]


#: a story, told to a mirror in a folder and at a URL: what it was like after every run
Story: TypeAlias = Callable[[Path, str, Observer], Awaitable[list[Seen]]]


async def sync(config: Config, url: str, clock: Clock, observe: Observer) -> Seen:
    """A run, and one without news; each in a job of its own."""
    async with open_job(config, clock=clock, observe=observe) as job:
        ran = await job.sync()
        missing, letters, digest = await job.missing(), await job.dead_letters(), await job.digest()
    with client(url) as connection:
        kept = connection.execute(sa.select(WITHHELD).where(WITHHELD.c.value.is_not(None))).mappings().all()
    again = await until_nothing_is_written(config, clock)
    return Seen(
        exit=ran.exit,
        remarks=ran.remarks,
        digest=digest,
        again=again,
        rows={one.table: one.rows for one in ran.tables},
        missing=[(one.table, one.key, one.state, one.references) for one in missing],
        letters=in_order(
            (one.table, one.key, one.state, one.raw, without_words(one.reason)) for one in letters
        ),
        withheld=in_order((*(row[name] for name in AS_KEPT), stated(row["value"])) for row in kept),
        references=in_order(msgspec.structs.astuple(one) for one in ran.references),
        # how many are set, of those that were looked at, depends on how many were
        derived=in_order((one.table, one.column, one.wrong) for one in ran.derived),
        counted=counted(ran),
    )


async def until_nothing_is_written(config: Config, clock: Clock) -> list[tuple[int, str]]:
    """The rows that one run more or two wrote, and what the mirror was like after them.

    While a dead letter is open, records of its key are written; and of what was recorded, some may be news.
    """
    runs: list[tuple[int, str]] = []
    async with open_job(config, clock=clock) as job:
        for _ in range(2):
            again = await job.sync()
            runs.append((again.load.written, await job.digest()))
            assert again.load.written == sum(one.written for one in again.tables)
            if not again.load.written:
                break
        assert (await job.verify()).exit == 0
    return runs


AS_KEPT = ("table", "key", "column", "reason", "target_table", "target_key")


def in_order(rows: Any) -> list[tuple[Any, ...]]:
    return sorted(rows, key=repr)


def without_words(reason: str) -> str:
    """Why a record was refused. What a database says of its own constraint, it says in words of its own."""
    return next((kind for kind in ("CHECK", "UNIQUE", "NOT NULL") if reason.startswith(kind)), reason)


def stated(value: str) -> str:
    """A withheld value without its ranks, which are those of the pages it came in."""
    told = json.loads(value)
    return json.dumps(told["values"] if isinstance(told, dict) and "values" in told else told, sort_keys=True)


def counted(ran: Certificate) -> dict[str, Any]:
    names = ("missing", "withheld", "tombstones", "dead_letters", "unmapped", "gaps", "pending")
    found = {name: getattr(ran, name) for name in names}
    return {**found, "rejected": ran.load.rejected, "letters": ran.load.letters}


# -- stories -----------------------------------------------------------------------------------------------


async def tell_example(folder: Path, url: str, observe: Observer) -> list[Seen]:
    """Rows come, change, move and go; some are hidden at first, and one may not be seen."""
    truth = generate(example.Base, seed=4, rows=ROWS)
    setup = Setup(folder, paged(KINDS["cursor"]), url=url)
    async with Upstream(setup.source, truth, paging=Paging(duplicates=0.2, end="null"), seed=2) as up:
        hidden = hide(up, truth)
        config = setup.configure(up.base_url)
        seen = [await sync(config, url, setup.clock, observe)]
        for change in CHANGES:
            change(truth)
            seen.append(await sync(config, url, setup.clock, observe))
        for user in hidden:
            up.show("users", user)
        seen.append(await sync(config, url, setup.clock, observe))
    return seen


async def tell_nonsense(folder: Path, url: str, observe: Observer) -> list[Seen]:
    """Records that no database can hold, or this one's constraints forbid; then they are told well."""
    truth = generate(example.Base, seed=7, rows=bad_input.ROWS)
    free = {table: bad_input.unreferred(truth, table) for table in ("users", "tags", "messages")}
    setup = Setup(folder, example.STREAMS, url=url)
    async with Upstream(setup.source, truth) as up:
        for (table, spoil), _ in bad_input.SPOILED.values():
            key = free[table].pop()
            up.spoil(table, *key, record=spoil(up, table, key))
        key = free["messages"].pop()
        record: Any = up.api.record(up.source.streams["messages"], "messages", key)
        for number, size in enumerate((11, 1, 10)):
            record["attachments"].append({"id": str(UUID(int=number)), "name": f"{number}", "size": size})
        up.spoil("messages", *key, record=msgspec.json.encode(record))
        config = setup.configure(up.base_url)
        seen = [await sync(config, url, setup.clock, observe)]
        up.site.spoiled.clear()
        bump(truth, LATER, *rooms(truth))
        seen.append(await sync(config, url, setup.clock, observe))
    return seen


def hide(up: Upstream, truth: Truth) -> list[UUID]:
    """One who owns a conversation and one who writes are not found, and one may not be seen."""
    owners = sorted({row["owner_id"] for row in truth.rows("conversations")})
    first, second, *_ = (row["id"] for row in truth.rows("users") if row["id"] not in owners)
    up.hide("users", owners[0])
    up.hide("users", first)
    up.forbid("users", second)
    return [owners[0], first, second]


async def read_fansly(folder: Path, url: str, observe: Observer) -> list[Seen]:
    """The recorded pages of the default job."""
    source = {"models": "schema.fansly", "base_url": "https://api.fansly.example/api/v1"}
    return await read(folder, url, observe, **source, replay=str(ROOT / "fixtures" / "fansly"))


async def read_matrix(
    folder: Path, url: str, observe: Observer, *, scope: matrix_lab.Scope, limit: int
) -> list[Seen]:
    """What a Synapse answered."""
    source = {"models": "schema.matrix", "base_url": "https://matrix.example", "definition": scope.definition}
    recorded = str(matrix_lab.FOLDER / f"{scope.name}-{limit}")
    return await read(folder, url, observe, **source, limit=limit, replay=recorded)


async def read(folder: Path, url: str, observe: Observer, **source: Any) -> list[Seen]:
    file = folder / "config.toml"
    file.write_text(toml({"database": {"url": url}, "sources": {"api": source}}))
    (folder / "schema").symlink_to(ROOT / "schema", target_is_directory=True)
    return [await sync(read_config(file), url, Clock(), observe)]


MATRIX = {
    f"matrix, {scope.name} by {limit}": partial(read_matrix, scope=scope, limit=limit)
    for scope in matrix_lab.SCOPES
    for limit in matrix_lab.LIMITS
}
#: two of the four say the most: many small pages, and partitions that others open
SWEPT = tuple(MATRIX)[1:3]
STORIES: dict[str, Story] = {
    "the example": tell_example,
    "nonsense": tell_nonsense,
    "fansly": read_fansly,
    **MATRIX,
}


# -- compared ----------------------------------------------------------------------------------------------

#: what a mirror in SQLite is like after every run of a story
Told: TypeAlias = Callable[[str], Awaitable[list[Seen]]]


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Each story is told to SQLite once a process."""
    known: dict[str, list[Seen]] = {}

    async def told(story: str) -> list[Seen]:
        if story not in known:
            folder = tmp_path_factory.mktemp("sqlite")
            known[story] = await STORIES[story](folder, f"sqlite:///{folder / 'mirror.db'}", unobserved)
            forget("chat")
        return known[story]

    return told


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, by the driver in the parameter."""
    kind = request.param.partition("+")[0]
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / 'mirror.db'}"
    made: TestDatabase = request.getfixturevalue(kind)
    return made.url.replace(f"{kind}://", f"{request.param}://")


def told_to(urls: Sequence[str], *stories: str, swept: Collection[str] = ()) -> Any:
    """A test of these stories at these URLs, those of one story in one process."""
    return pytest.mark.parametrize(
        ("story", "url"),
        [
            pytest.param(
                story,
                url,
                id=f"{story}-{url}",
                marks=[pytest.mark.xdist_group(story), *([pytest.mark.sweep] if story in swept else [])],
            )
            for story in stories
            for url in urls
        ],
        indirect=["url"],
    )


@told_to(DRIVERS, "the example", "nonsense")
async def test_whatever_happens_upstream_every_driver_makes_the_same_of_it(
    tmp_path: Path, sqlite: Told, story: str, url: str
) -> None:
    wanted = await sqlite(story)
    if story == "the example":
        assert [one.exit for one in wanted] == [0, 0, 0, 0, 0]
        assert [one.again for one in wanted] == [[(0, one.digest)] for one in wanted]
        assert len({one.digest for one in wanted}) == len(wanted)
        assert [bool(one.missing) for one in wanted] == [True, True, True, True, False]
    else:
        assert [one.exit for one in wanted] == [3, 0]
        assert [len(one.letters) for one in wanted] == [len(bad_input.SPOILED) + 1] * 2
    await assert_same(STORIES[story], tmp_path, url, wanted)


@told_to(("sqlite", *DRIVERS), "the example", "nonsense")
async def test_loaded_in_bulk_it_is_the_same_too(
    tmp_path: Path, sqlite: Told, monkeypatch: pytest.MonkeyPatch, story: str, url: str
) -> None:
    wanted = await sqlite(story)
    await assert_same_in_bulk(STORIES[story], tmp_path, url, wanted, monkeypatch, batch=50)


@told_to(SERVERS, "fansly", *MATRIX, swept=SWEPT)
async def test_a_bundled_system_is_the_same_everywhere(
    tmp_path: Path, sqlite: Told, story: str, url: str
) -> None:
    await assert_same(STORIES[story], tmp_path, url, await sqlite(story))


@told_to(SERVERS, "fansly", *MATRIX, swept=SWEPT)
async def test_a_bundled_system_loaded_in_bulk_is_the_same_everywhere(
    tmp_path: Path, sqlite: Told, monkeypatch: pytest.MonkeyPatch, story: str, url: str
) -> None:
    wanted = await sqlite(story)
    await assert_same_in_bulk(STORIES[story], tmp_path, url, wanted, monkeypatch, batch=500)


async def assert_same(story: Story, folder: Path, url: str, wanted: list[Seen]) -> None:
    opened: list[str] = []
    assert differing(await story(folder, url, noting(opened)), wanted) == []
    assert opened == []


async def assert_same_in_bulk(
    story: Story,
    folder: Path,
    url: str,
    wanted: list[Seen],
    monkeypatch: pytest.MonkeyPatch,
    *,
    batch: int,
) -> None:
    """The first run takes several transactions, and the integrity window opens."""
    for name, value in {"BULK": batch, "BATCH": batch, "BACKLOG": 4 * batch}.items():
        monkeypatch.setattr(limits, name, value)
    opened: list[str] = []
    seen = await story(folder, url, noting(opened))
    # what one transaction hears twice of one row, it writes once
    unsaid = [one._replace(again=other.again) for one, other in zip(seen, wanted, strict=True)]
    assert differing(unsaid, wanted) == []
    assert [one.again[-1][1] for one in seen] == [one.again[-1][1] for one in wanted]
    assert opened


def differing(seen: list[Seen], wanted: list[Seen]) -> list[tuple[Any, ...]]:
    """(run, what of it, as it is, as it should be), for whatever is not the same."""
    return [
        (run, name, here, there)
        for run, (one, other) in enumerate(zip(seen, wanted, strict=True))
        for name, here, there in zip(Seen._fields, one, other, strict=True)
        if here != there
    ]


def noting(opened: list[str]) -> Observer:
    """Notes why an integrity window is opened."""

    def observe(event: str, /, **fields: Any) -> None:
        if event == "window.opened":
            opened.append(fields["why"])

    return observe
