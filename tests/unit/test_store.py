"""Pages written to tables: what is counted, what is left alone, what is refused, what is marked."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.ledger import DEAD_LETTERS, KEYS, LOADS, MISSING, PAGES, TOMBSTONES, TOUCHED
from ingest.load import store as store_room
from ingest.mirror import Mirror, count, ignore, when_missing
from ingest.source import Source
from ingest.types import LoadCounts, Walk
from tests.harness import LOG, Mirrored, mirrored, page


class Base(DeclarativeBase):
    pass


class Team(Base):
    __tablename__ = "teams"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    size: Mapped[int] = mapped_column(default=0, info=count(lambda: User.team_id))


class User(Base):
    __tablename__ = "users"
    __mirror__ = Mirror(version="rev")
    __table_args__ = (CheckConstraint("age >= 0", name="age_is_not_negative"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    rev: Mapped[int | None]
    name: Mapped[str | None] = mapped_column(String(10))
    mail: Mapped[str | None] = mapped_column(unique=True)
    age: Mapped[int | None]
    team_id: Mapped[int | None] = mapped_column(ForeignKey("teams.id", info=when_missing("null")))
    level: Mapped[int] = mapped_column(default=3)
    note: Mapped[str] = mapped_column(default="unseen", info=ignore())


class Strict(Base):
    """A row needs a title; its code is nobody else's."""

    __tablename__ = "strict"
    __table_args__ = (CheckConstraint("title <> ''", name="title_is_not_empty"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    code: Mapped[str | None] = mapped_column(unique=True)
    more: Mapped[str | None]


SOURCE = msgspec.convert(
    {
        "streams": {
            "users": {"path": "/users", "entity": "User", "by_id": {"path": "/users/{id}", "records": "$"}},
            "teams": {"path": "/teams", "entity": "Team"},
            "strict": {"path": "/strict", "entity": "Strict"},
            "gone": {"path": "/gone", "entity": "User", "deletes": True},
        }
    },
    Source,
)
#: a record that states every column
FULL = {"id": 1, "rev": 1, "name": "ann", "mail": "a@x", "age": 30, "team_id": None, "level": 1}


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Mirrored]:
    async with mirrored(tmp_path, sys.modules[__name__], SOURCE) as made:
        yield made


async def ranks(mirror: Mirrored, key: int = 1) -> tuple[Any, ...]:
    """The ledger's columns of one user."""
    columns = "ingest_version, ingest_stamp, ingest_ordinal, ingest_exceptions"
    async with mirror.connection.begin():
        found = await mirror.connection.exec_driver_sql(f"SELECT {columns} FROM users WHERE id = {key}")
        return tuple(found.one())


async def touched(mirror: Mirrored) -> set[tuple[str, str]]:
    return {(row["table"], row["key"]) for row in await mirror.ledger(TOUCHED)}


async def users(mirror: Mirrored, column: str) -> dict[int, Any]:
    return {key: row[column] for (key,), row in (await mirror.rows("users")).items()}


# -- accounting ----------------------------------------------------------------------------------------


async def test_every_record_is_written_kept_or_rejected(mirror: Mirrored) -> None:
    await mirror.load([page(1, "users", [FULL])])
    newer, older = {**FULL, "rev": 2, "name": "bob"}, {**FULL, "rev": 0, "name": "old"}
    bad, refused = {"id": "x"}, {**FULL, "id": 2, "mail": None, "age": -1}
    counts = await mirror.load(
        [page(2, "users", [newer, older, bad, refused, {"id": 3}]), page(3, "users", b"{")]
    )
    assert counts == LoadCounts(pages=2, quarantined=1, records=5, written=2, kept=1, rejected=2, letters=3)
    (_, load) = await mirror.ledger(LOADS)
    assert {**load, "id": 0} == {
        "id": 0,
        "run": "run",
        "pages": 2,
        "quarantined": 1,
        "records": 5,
        "written": 2,
        "kept": 1,
        "rejected": 2,
    }


async def test_every_page_is_marked_with_its_load(mirror: Mirrored) -> None:
    await mirror.load([page(1, "users", [FULL], asked=0), page(4, "users", b"{", asked=2)])
    marks = [(one["log"], one["stamp"], one["asked"], one["state"]) for one in await mirror.ledger(PAGES)]
    assert marks == [(LOG, 1, 0, "loaded"), (LOG, 4, 2, "quarantined")]


async def test_a_page_that_is_marked_is_passed_over(mirror: Mirrored) -> None:
    one = page(1, "users", [FULL])
    await mirror.load([one, one])
    assert await mirror.load([one]) == LoadCounts()
    assert len(await mirror.ledger(LOADS)) == 1


async def test_no_pages_are_no_load(mirror: Mirrored) -> None:
    assert await mirror.load([]) == LoadCounts()
    assert await mirror.ledger(LOADS) == []


async def test_rows_written_are_counted_by_table(mirror: Mirrored) -> None:
    written: Counter[str] = Counter()
    pages = [page(1, "users", [FULL]), page(2, "teams", [{"id": 1}, {"id": 2}])]
    async with mirror.connection.begin():
        await mirror.connection.run_sync(
            lambda c: mirror.loader.load(c, pages, log=LOG, run="r", in_order=True, written=written)
        )
    assert written == {"users": 1, "teams": 2}


async def test_keys_that_no_column_takes_are_written_down_once_with_their_first_page(
    mirror: Mirrored,
) -> None:
    await mirror.load([page(3, "users", [{"id": 1, "odd": 1}])])
    await mirror.load([page(4, "users", [{"id": 2, "odd": 1}])])
    assert [(one["path"], one["first_stamp"]) for one in await mirror.ledger(KEYS)] == [("odd", 3)]


# -- precedence ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [FULL, {"id": 1, "rev": 1, "name": "ann"}], ids=["full", "partial"])
async def test_an_equal_record_writes_nothing_and_leaves_the_rank(
    mirror: Mirrored, record: dict[str, Any]
) -> None:
    await mirror.load([page(1, "users", [FULL])])
    await mirror.settle()
    before = await ranks(mirror)
    counts = await mirror.load([page(2, "users", [record])])
    assert (counts.written, counts.kept) == (0, 1)
    assert await ranks(mirror) == before
    assert await touched(mirror) == set()


async def test_an_older_version_loses_and_a_newer_one_wins_whenever_they_come(mirror: Mirrored) -> None:
    await mirror.load([page(1, "users", [{**FULL, "rev": 5, "name": "five"}])])
    counts = await mirror.load([page(2, "users", [{**FULL, "rev": 4, "name": "four"}])])
    assert (counts.written, counts.kept) == (0, 1)
    assert await users(mirror, "name") == {1: "five"}
    await mirror.load([page(3, "users", [{**FULL, "rev": 6, "name": "six"}])])
    assert await users(mirror, "name") == {1: "six"}
    assert await ranks(mirror) == (6, 3, 0, None)


async def test_a_later_page_loses_to_an_earlier_load_where_it_comes_out_of_order(mirror: Mirrored) -> None:
    await mirror.load([page(9, "users", [{**FULL, "name": "late"}])], in_order=False)
    await mirror.load([page(3, "users", [{**FULL, "name": "early"}])], in_order=False)
    assert await users(mirror, "name") == {1: "late"}
    assert (await ranks(mirror))[1] == 9


async def test_an_equal_record_out_of_order_still_outranks_what_comes_between(mirror: Mirrored) -> None:
    said = [(1, "a"), (9, "a"), (5, "b")]
    for stamp, name in said:
        await mirror.load([page(stamp, "users", [{**FULL, "name": name}])], in_order=False)
    assert await users(mirror, "name") == {1: "a"}


async def test_a_partial_record_keeps_the_ranks_of_its_own_columns(mirror: Mirrored) -> None:
    await mirror.load([page(1, "users", [FULL])])
    await mirror.load([page(5, "users", [{"id": 1, "rev": 1, "name": "bob"}])])
    version, stamp, ordinal, exceptions = await ranks(mirror)
    assert (version, stamp, ordinal) == (1, 5, 0)
    older = [1, 1, 0]
    assert msgspec.json.decode(exceptions) == {"mail": older, "age": older, "team_id": older, "level": older}
    # a page between the two still wins the columns that the later one left out, and only those
    await mirror.load([page(3, "users", [{**FULL, "name": "cid", "age": 31}])], in_order=False)
    assert await users(mirror, "name") == {1: "bob"}
    assert await users(mirror, "age") == {1: 31}


async def test_a_full_record_onto_a_row_with_exceptions_ends_them(mirror: Mirrored) -> None:
    await mirror.load([page(1, "users", [{"id": 1, "rev": 1, "name": "bob"}])])
    assert (await ranks(mirror))[3] is not None
    await mirror.load([page(2, "users", [FULL])])
    assert await ranks(mirror) == (1, 2, 0, None)


async def test_what_nobody_states_has_its_constant_default_and_is_not_taken_for_stated(
    mirror: Mirrored,
) -> None:
    await mirror.load([page(5, "users", [{"id": 1, "name": "ann"}])])
    row = (await mirror.rows("users"))[(1,)]
    assert (row["level"], row["note"], row["age"]) == (3, "unseen", None)
    await mirror.load([page(2, "users", [{"id": 1, "level": 7}])], in_order=False)
    assert await users(mirror, "level") == {1: 7}


async def test_what_others_wrote_into_a_column_nobody_states_stays(mirror: Mirrored) -> None:
    await mirror.load([page(1, "users", [FULL])])
    async with mirror.connection.begin():
        await mirror.connection.exec_driver_sql("UPDATE users SET note = 'mine'")
    await mirror.load([page(2, "users", [{**FULL, "rev": 2}, {"id": 1, "rev": 2, "name": "z"}])])
    assert await users(mirror, "note") == {1: "mine"}


async def test_an_incomplete_row_waits_and_shows_when_the_rest_is_stated(mirror: Mirrored) -> None:
    counts = await mirror.load([page(1, "strict", [{"id": 1, "more": "m"}])])
    assert counts.written == 1
    assert await mirror.rows("strict") == {}
    assert await mirror.withheld() == {("strict", (1,), ""): {"id": 1, "more": "m"}}
    await mirror.load([page(2, "strict", [{"id": 1, "title": "t"}])])
    assert await mirror.rows("strict") == {(1,): {"id": 1, "title": "t", "code": None, "more": "m"}}
    assert await mirror.withheld() == {}


# -- tombstones ----------------------------------------------------------------------------------------


async def test_a_deleted_row_goes_away_its_values_stay_and_late_old_copies_do_not_bring_it_back(
    mirror: Mirrored,
) -> None:
    await mirror.load([page(1, "users", [FULL])])
    await mirror.load([page(5, "gone", [{"id": 1}], asked=4)])
    assert (await mirror.settle()).holds
    assert await mirror.rows("users") == {}
    assert (await mirror.withheld())[("users", (1,), "")]["name"] == "ann"
    late = {**FULL, "rev": 9, "name": "late"}
    await mirror.load([page(6, "users", [late], asked=4)])
    assert await mirror.rows("users") == {}
    assert [one["stamp"] for one in await mirror.ledger(TOMBSTONES)] == [5]


async def test_a_record_that_was_asked_for_after_the_proof_brings_the_row_back(mirror: Mirrored) -> None:
    await mirror.load([page(1, "users", [FULL]), page(5, "gone", [{"id": 1}], asked=4)])
    await mirror.load([page(6, "users", [FULL], asked=5)])
    assert await users(mirror, "name") == {1: "ann"}
    assert await mirror.withheld() == {}
    assert len(await mirror.ledger(TOMBSTONES)) == 1  # it outlives the restoration


# -- dead letters --------------------------------------------------------------------------------------

RAW = b'{"id": 2, "rev":1,"name": "b\\u006fb", "mail": "b@x", "age": -1, "team_id": null, "level": 1}'
VIOLATIONS = [
    pytest.param("users", RAW, "age_is_not_negative", id="full"),
    pytest.param("users", b'{"id": 2, "age" : -1}', "age_is_not_negative", id="partial"),
]


@pytest.mark.parametrize(("stream", "bad", "reason"), VIOLATIONS)
async def test_a_row_that_violates_a_constraint_is_a_letter_alone_with_its_own_bytes(
    mirror: Mirrored, stream: str, bad: bytes, reason: str
) -> None:
    first, third = msgspec.json.encode(FULL), msgspec.json.encode({**FULL, "id": 3, "mail": "c@x"})
    counts = await mirror.load([page(1, stream, b"[" + first + b", " + bad + b" ," + third + b"]")])
    assert (counts.written, counts.kept, counts.rejected, counts.letters) == (2, 0, 1, 1)
    assert sorted(await mirror.rows(stream)) == [(1,), (3,)]
    (letter,) = await mirror.ledger(DEAD_LETTERS)
    assert reason in letter["reason"]
    assert (letter["table"], letter["key"], letter["ordinal"], letter["state"]) == (stream, "[2]", 1, "open")
    assert letter["raw"] == bad


async def test_meeting_a_refused_record_again_rejects_it_again_and_adds_no_second_letter(
    mirror: Mirrored,
) -> None:
    bad = {"id": 2, "age": -1}
    await mirror.load([page(1, "users", [FULL, bad])])
    counts = await mirror.load([page(2, "users", [bad])])
    assert (counts.records, counts.rejected, counts.letters) == (1, 1, 0)
    assert len(await mirror.ledger(DEAD_LETTERS)) == 1
    counts = await mirror.load([page(3, "users", [{**bad, "age": -2}])])
    assert counts.letters == 1  # another record


async def test_a_record_that_could_not_be_decoded_again_adds_no_second_letter(mirror: Mirrored) -> None:
    for stamp in (1, 2):
        counts = await mirror.load([page(stamp, "users", [{"id": "x"}])])
        assert (counts.rejected, counts.letters) == (1, 1 if stamp == 1 else 0)


async def test_while_a_letter_of_its_key_is_open_an_equal_record_is_written(mirror: Mirrored) -> None:
    await mirror.load([page(1, "users", [FULL])])
    await mirror.load([page(2, "users", [{**FULL, "rev": 2, "age": -1}])])
    counts = await mirror.load([page(3, "users", [FULL])])
    assert counts.written == 1
    assert await ranks(mirror) == (1, 3, 0, None)


async def test_a_refused_change_leaves_the_row_as_it_was(mirror: Mirrored) -> None:
    await mirror.load([page(1, "users", [FULL])])
    await mirror.load([page(2, "users", [{**FULL, "rev": 2, "name": "new", "age": -1}])])
    assert await users(mirror, "name") == {1: "ann"}
    assert await ranks(mirror) == (1, 1, 0, None)


async def test_a_refused_row_leaves_what_is_withheld_of_it(mirror: Mirrored) -> None:
    taken = {"id": 1, "title": "t", "code": "dup", "more": None}
    await mirror.load([page(1, "strict", [taken, {"id": 2, "more": "stated long ago"}])])
    await mirror.load([page(2, "strict", [{"id": 2, "title": "", "code": "c"}])])
    assert await mirror.withheld() == {("strict", (2,), ""): {"id": 2, "more": "stated long ago"}}


# -- what is marked as touched -------------------------------------------------------------------------


async def test_touched_keys_are_the_rows_and_their_parents_as_they_were_and_as_they_are(
    mirror: Mirrored,
) -> None:
    await mirror.load([page(1, "teams", [{"id": 1}, {"id": 2}]), page(2, "users", [{**FULL, "team_id": 1}])])
    assert await touched(mirror) >= {("users", "[1]"), ("teams", "[1]")}
    await mirror.settle()
    assert await touched(mirror) == set()
    await mirror.load([page(3, "users", [{**FULL, "rev": 2, "team_id": 2}])])
    assert await touched(mirror) == {("users", "[1]"), ("teams", "[1]"), ("teams", "[2]")}


async def test_a_row_that_goes_away_touches_the_parent_it_had(mirror: Mirrored) -> None:
    await mirror.load([page(1, "teams", [{"id": 1}]), page(2, "users", [{**FULL, "team_id": 1}])])
    await mirror.settle()
    await mirror.load([page(3, "gone", [{"id": 1}], asked=2)])
    assert await touched(mirror) == {("users", "[1]"), ("teams", "[1]")}


async def test_above_the_limit_whole_tables_are_marked_instead(
    mirror: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_room, "TOUCHED_LIMIT", 2)
    people = [{**FULL, "id": key, "mail": None, "team_id": key} for key in (1, 2, 3)]
    await mirror.load([page(1, "users", people[:2])])
    assert ("users", "*") not in await touched(mirror)
    await mirror.load([page(2, "users", [{**one, "rev": 2} for one in people])])
    assert await touched(mirror) == {("users", "*"), ("teams", "*")}
    assert (await mirror.settle()).holds
    assert len(await mirror.withheld()) == 3


async def test_a_bulk_load_writes_the_same_rows_counts_the_same_and_refuses_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = [{**FULL, "id": key, "mail": None, "team_id": None} for key in range(9)]
    odd = [{**people[3], "age": -1}, {**people[5], "rev": 7, "name": "new"}, people[4], {**FULL, "id": 40}]
    loads = [
        [page(1, "users", people[:6])],  # all new
        [page(2, "users", people)],  # some of it new
        [page(3, "users", odd)],  # of all kinds
        [page(4, "gone", [{"id": 2}], asked=3), page(5, "users", [{**FULL, "id": 50, "mail": "b@x"}])],
        [page(6, "users", [people[2], {**FULL, "id": 60, "mail": None}], asked=2)],
    ]
    told = []
    for limit in (20_000, 0):
        monkeypatch.setattr(store_room, "TOUCHED_LIMIT", limit)
        async with mirrored(tmp_path / str(limit), sys.modules[__name__], SOURCE) as mirror:
            counts = [await mirror.load(pages) for pages in loads]
            assert (await mirror.settle()).holds
            letters = [(one["key"], one["reason"]) for one in await mirror.ledger(DEAD_LETTERS)]
            told.append((counts, letters, await mirror.rows("users"), await mirror.withheld()))
    assert told[0] == told[1]
    assert len(told[0][1]) == 1
    assert told[0][2]


async def test_what_an_answer_by_id_does_not_have_is_noted_and_the_newest_answer_counts(
    mirror: Mirrored,
) -> None:
    by_id = Walk(id="w", kind="by_id")
    for stamp, status in ((4, 404), (6, 403), (5, 404)):
        await mirror.load([page(stamp, "users", b"", walk=by_id, status=status, partition='{"by_id":["7"]}')])
    (missing,) = await mirror.ledger(MISSING)
    assert (missing["table"], missing["key"], missing["state"]) == ("users", "[7]", "forbidden")
    assert (missing["attempts"], missing["stamp"]) == (3, 6)
    assert ("users", "[7]") in await touched(mirror)


async def test_a_load_that_fails_leaves_nothing(mirror: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise sa.exc.OperationalError("INSERT", {}, Exception("disk full"))

    monkeypatch.setattr(mirror.loader, "_mark", fail)
    with pytest.raises(sa.exc.OperationalError):
        await mirror.load([page(1, "users", [FULL])])
    assert await mirror.rows("users") == {}
    assert await touched(mirror) == set()
