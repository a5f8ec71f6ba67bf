"""What a value is in one database it is in every one: stored, read back, compared, spelled in keys."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from ingest.digest import digest
from ingest.ledger import DEAD_LETTERS
from tests.databases import TestDatabase
from tests.harness import Mirrored, mirrored, page
from tests.integration import typed_models
from tests.integration.test_stored_form import CASES, SOURCE, everything
from tests.integration.typed_models import Thing

DRIVERS = ("sqlite", "postgresql+asyncpg", "postgresql+psycopg", "mariadb+asyncmy", "mariadb+aiomysql")
#: one record for every way in which a value is more than some database can hold
UNHOLDABLE: dict[str, Any] = {
    "text": "a\0b",
    "string": "x" * 41,
    "big": 2**63,
    "integer": 2**31,
    "numeric": "0.005",
    "unbounded": "1e28",
    "utc": "10000-01-01T00:00:00Z",
    "json": {"a": ["\0"]},
    "double": "1e999",
}


@pytest.fixture(params=DRIVERS)
async def mirror(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Mirrored]:
    kind = request.param.partition("+")[0]
    where: Path | str = tmp_path
    if kind != "sqlite":
        made: TestDatabase = request.getfixturevalue(kind)
        where = made.url.replace(f"{kind}://", f"{request.param}://")
    async with mirrored(where, typed_models, SOURCE) as mirror:
        yield mirror


async def in_sqlite(folder: Path, *pages: Any) -> tuple[dict[Any, Any], str]:
    """The rows and the digest that a file has of the same pages."""
    folder.mkdir()
    async with mirrored(folder, typed_models, SOURCE) as mirror:
        await mirror.load_and_settle(pages)
        return await mirror.rows("things"), await digest_of(mirror)


async def digest_of(mirror: Mirrored) -> str:
    async with mirror.connection.begin():
        return await mirror.connection.run_sync(digest, mirror.catalog, mirror.engine)


def in_utc(moment: datetime) -> datetime:
    """A time without its zone: a database without zones gives it in UTC, and does not say so."""
    return (
        moment.replace(tzinfo=None) if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    )


async def test_every_value_has_one_stored_form(mirror: Mirrored, tmp_path: Path) -> None:
    records, _ = everything()
    pages = [page(1, "things", records)]
    counts, proven = await mirror.load_and_settle(pages)
    assert (counts.rejected, proven.holds) == (0, True)
    rows, expected = await in_sqlite(tmp_path / "file", *pages)
    for key, row in (await mirror.rows("things")).items():
        # by its spelling, which goes into keys and the ledger: 5 is not 5.0 there; but some keep a float's -0
        assert repr(row).replace("-0.0", "0.0") == repr(rows[key] | {"json": row["json"]}), key
    assert await digest_of(mirror) == expected


async def test_the_orm_reads_what_was_meant(mirror: Mirrored) -> None:
    records, things = everything()
    await mirror.load_and_settle([page(1, "things", records)])
    async with AsyncSession(mirror.connection, expire_on_commit=False) as session:
        read = {one.id: one for one in await session.scalars(sa.select(Thing))}
        for thing in things:
            for name in CASES:
                found, meant = getattr(read[thing.id], name), getattr(thing, name)
                if name in ("zoned", "naive", "utc") and found is not None:
                    found, meant = in_utc(found), in_utc(meant)
                assert found == meant, (thing.id, name)


async def test_values_that_came_before_are_known_again_and_not_written(mirror: Mirrored) -> None:
    records, _ = everything()
    await mirror.load_and_settle([page(1, "things", records)])
    again, _ = await mirror.load_and_settle([page(2, "things", records)])
    assert (again.written, again.kept) == (0, len(records))
    # by way of the merge too
    out_of_order, _ = await mirror.load_and_settle(
        [page(3, "things", [{**one, "string": "new"} for one in records])]
    )
    assert out_of_order.written == len(records)


async def test_what_one_database_cannot_hold_is_a_dead_letter_in_all(mirror: Mirrored) -> None:
    records = [{"id": number, name: value} for number, (name, value) in enumerate(UNHOLDABLE.items())]
    text, binary = "a\tb\\N\n\"c\",'d'\r\\.\n\\", b"\\x00\n\0"
    good = {"id": 100, "text": text, "binary": base64.b64encode(binary).decode()}
    counts, proven = await mirror.load_and_settle([page(1, "things", [*records, good])])
    assert (counts.written, counts.rejected, proven.holds) == (1, len(records), True)
    letters = await mirror.ledger(DEAD_LETTERS)
    assert [one["ordinal"] for one in letters] == list(range(len(records)))
    rows = await mirror.rows("things")
    assert (rows[100,]["text"], rows[100,]["binary"]) == (text, binary)


async def test_json_goes_as_deep_as_it_is_told(mirror: Mirrored, tmp_path: Path) -> None:
    deep: Any = "the end"
    for level in range(100):
        deep = [deep] if level % 2 else {"in": deep}
    records = [{"id": 1, "json": deep}, {"id": 2, "json": deep, "owner_id": 7}]
    pages = [page(1, "things", records), page(2, "owners", [{"id": 7}]), page(3, "things", records)]
    counts = [await mirror.load_and_settle([one]) for one in pages]
    assert [(one.written, one.kept, one.rejected) for one, _ in counts] == [(2, 0, 0), (1, 0, 0), (0, 2, 0)]
    assert await digest_of(mirror) == (await in_sqlite(tmp_path / "file", *pages))[1]
    async with AsyncSession(mirror.connection) as session:
        assert [one.json for one in await session.scalars(sa.select(Thing))] == [deep, deep]


async def test_rows_kept_aside_come_back_as_they_were(mirror: Mirrored, tmp_path: Path) -> None:
    records, _ = everything()
    waiting = [{**one, "owner_id": 7} for one in records]
    pages = [page(1, "things", waiting), page(2, "owners", [{"id": 7}])]
    await mirror.load_and_settle(pages[:1])
    assert await mirror.rows("things") == {}
    await mirror.load_and_settle(pages[1:])
    rows, expected = await in_sqlite(tmp_path / "file", *pages)
    assert len(rows) == len(records)
    assert await digest_of(mirror) == expected
