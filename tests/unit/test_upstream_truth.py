"""A generated truth satisfies every constraint of any models; what changes in it stays whole."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ingest.mirror import Mirror, UtcDateTime, attach, ignore
from tests.upstream import Models, Truth, example, generate
from tests.upstream.truth import plain

SEEDS = [1, 2, 3, 4, 5]


class Base(DeclarativeBase):
    """Models that ask for everything at once."""


class Kind(enum.Enum):
    """Stored by name, told by value."""

    ONE = "one-value"
    TWO = "two-value"


class Space(Base):
    """Requires a leader among its members, who require a space: a ring of references."""

    __tablename__ = "spaces"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    slug: Mapped[str] = mapped_column(String(12), unique=True)
    kind: Mapped[Kind] = mapped_column(sa.Enum(Kind, native_enum=False, create_constraint=True))
    colour: Mapped[str] = mapped_column(sa.Enum("red", "green", native_enum=False, create_constraint=True))
    rank: Mapped[int] = mapped_column(sa.SmallInteger)
    leader_id: Mapped[int] = mapped_column(ForeignKey("people.id", use_alter=True, name="fk_leader"))
    secret: Mapped[str | None] = mapped_column(info=ignore())


class Person(Base):
    """Has a home, and perhaps a friend, who is somebody else."""

    __tablename__ = "people"
    __table_args__ = (CheckConstraint("friend_id <> id"), CheckConstraint("level BETWEEN 0 AND 10"))
    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    home_id: Mapped[int] = mapped_column(ForeignKey("spaces.id"))
    friend_id: Mapped[int | None] = mapped_column(ForeignKey("people.id"))
    mentor_id: Mapped[int] = mapped_column(ForeignKey("people.id"))
    level: Mapped[int]
    born: Mapped[date | None]
    wakes: Mapped[time]
    sleeps: Mapped[timedelta | None]
    wealth: Mapped[Decimal] = mapped_column(sa.Numeric(9, 3))
    ratio: Mapped[float] = mapped_column(sa.Float)
    naive: Mapped[datetime] = mapped_column(sa.DateTime(timezone=False))
    aware: Mapped[datetime] = mapped_column(UtcDateTime)
    shape: Mapped[Any] = mapped_column(sa.JSON)
    token: Mapped[UUID | None] = mapped_column(unique=True)
    print: Mapped[bytes] = mapped_column(sa.LargeBinary(16))


class Seat(Base):
    """Is keyed by the space it is in and who sits on it; there is one vote a seat, numbered ballots."""

    __tablename__ = "seats"
    space_id: Mapped[int] = mapped_column(ForeignKey("spaces.id"), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)


class Ballot(Base):
    """Is numbered within its seat; answers another ballot of the same seat."""

    __tablename__ = "ballots"
    __table_args__ = (
        ForeignKeyConstraint(["space_id", "person_id"], ["seats.space_id", "seats.person_id"]),
        ForeignKeyConstraint(
            ["space_id", "person_id", "answers"],
            ["ballots.space_id", "ballots.person_id", "ballots.number"],
        ),
    )
    space_id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    answers: Mapped[int | None]


class Note(Base):
    """Is written by a seat of its own space, once a day; a note may redact another."""

    __tablename__ = "notes"
    __mirror__ = Mirror(redacts="redacts_id", clears=("text",), redacted_by="redacted_by_id")
    __table_args__ = (
        ForeignKeyConstraint(["space_id", "author_id"], ["seats.space_id", "seats.person_id"]),
        UniqueConstraint("space_id", "author_id", "day"),
    )
    id: Mapped[str] = mapped_column(String(20), primary_key=True)
    space_id: Mapped[int] = mapped_column(ForeignKey("spaces.id"))
    author_id: Mapped[int] = mapped_column(ForeignKey("people.id"))
    day: Mapped[date]
    text: Mapped[str | None] = mapped_column(String(50))
    redacts_id: Mapped[str | None] = mapped_column(ForeignKey("notes.id"))
    redacted_by_id: Mapped[str | None] = mapped_column(ForeignKey("notes.id"))


class Badge(Base):
    """There is at most one a person: its key is the person's."""

    __tablename__ = "badges"
    __mirror__ = Mirror(deleted="gone_at", purge=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
    space_id: Mapped[int | None] = mapped_column(ForeignKey("spaces.id"), unique=True)
    gone_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Ticket(Base):
    """There is one a person at most."""

    __tablename__ = "tickets"
    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"), unique=True)


class Stamp(Base):
    """Needs a ticket, and may follow another stamp."""

    __tablename__ = "stamps"
    ticket_id: Mapped[int] = mapped_column(ForeignKey("tickets.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    extra_id: Mapped[int | None] = mapped_column(ForeignKey("tickets.id"))


ROWS = {"spaces": 12, "people": 40, "seats": 60, "ballots": 80, "notes": 90, "badges": 30}


@contextmanager
def database(base: type[DeclarativeBase]) -> Iterator[sa.Connection]:
    """An empty SQLite database in memory that checks foreign keys."""
    engine = sa.create_engine("sqlite://")
    sa.event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys=ON"))
    with engine.connect() as connection:
        base.metadata.create_all(connection)
        yield connection
    engine.dispose()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("base", "rows"), [(Base, ROWS), (example.Base, example.ROWS)])
def test_a_database_that_checks_everything_takes_a_generated_truth(
    base: type[DeclarativeBase], rows: dict[str, int], seed: int
) -> None:
    truth = generate(base, seed=seed, rows=rows)
    with database(base) as connection:
        truth.write(connection)
        connection.commit()

        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        assert {name: len(truth.rows(name)) for name in rows} == pytest.approx(rows, rel=0.4)
        stated = [
            name for t in truth.models.tables for name in (f"{t}.{c.name}" for c in truth.models.derived(t))
        ]
        assert truth.differences(connection, ignoring=stated) == []


def test_a_foreign_key_that_is_broken_would_be_noticed() -> None:
    truth = generate(example.Base, seed=1, rows=example.ROWS)
    row = truth.rows("messages")[0]
    truth.upsert("messages", {"id": row["id"], "conversation_id": 1})
    with database(example.Base) as connection:
        truth.write(connection)
        with pytest.raises(sa.exc.IntegrityError, match="FOREIGN KEY"):
            connection.commit()


@pytest.fixture(scope="module")
def truth() -> Truth:
    return generate(Base, seed=1, rows=ROWS)


def test_the_same_seed_gives_the_same_truth_and_another_one_another(truth: Truth) -> None:
    again, other = generate(Base, seed=1, rows=ROWS), generate(Base, seed=2, rows=ROWS)

    assert [truth.rows(name) for name in ROWS] == [again.rows(name) for name in ROWS]
    assert [truth.rows(name) for name in ROWS] != [other.rows(name) for name in ROWS]


def test_nullable_columns_are_null_sometimes_and_references_are_followed_mostly(truth: Truth) -> None:
    for name in ("friend_id", "born", "sleeps", "token"):
        nulls = sum(row[name] is None for row in truth.rows("people"))
        assert 0 < nulls < 30, name


def test_some_parents_arrive_after_their_children(truth: Truth) -> None:
    late = [
        row
        for row in truth.rows("seats")
        if truth.arrived("people", (row["person_id"],))
        > truth.arrived("seats", (row["space_id"], row["person_id"]))
    ]
    assert 10 < len(late) < 50


def test_what_the_ledger_derives_or_ignores_is_not_generated() -> None:
    attach(example.Base.metadata)
    truth = generate(example.Base, seed=1, rows=example.ROWS)

    assert truth.rows("conversations")[0].keys() == {"id", "title", "owner_id", "updated_at"}
    assert "note" not in truth.rows("users")[0]


def test_texts_are_as_hostile_as_the_column_allows(truth: Truth) -> None:
    rows = generate(Base, seed=9, rows={**ROWS, "notes": 300}).rows("notes")
    texts = [row["text"] for row in rows if row["text"] is not None]
    everything = "".join(texts)

    assert max(map(len, texts)) == 50
    assert "" in texts
    assert {"\u202e", "\u0301", "\n", "'", "\u200d"} <= set(everything)
    assert max(everything) > "\U00010000"
    assert "\x00" not in everything


def test_times_have_microseconds_or_only_what_an_api_can_tell() -> None:
    fine = generate(Base, seed=1, rows=ROWS).rows("people")
    coarse = generate(Base, seed=1, rows=ROWS, resolution=timedelta(milliseconds=1)).rows("people")

    assert any(row["aware"].microsecond % 1000 for row in fine)
    assert not any(row["aware"].microsecond % 1000 or row["naive"].microsecond % 1000 for row in coarse)
    assert any(row["aware"].microsecond for row in coarse)
    assert {row["aware"].tzinfo for row in fine} == {UTC}
    assert {row["naive"].tzinfo for row in fine} == {None}


def test_big_integers_go_beyond_what_a_float_can_hold(truth: Truth) -> None:
    keys = [key for (key,) in truth.keys("people")]

    assert min(keys) >= 2**53
    assert all(int(float(key)) != key for key in keys[:5])


def test_rows_numbered_within_a_parent_have_no_holes(truth: Truth) -> None:
    numbers: dict[Any, list[int]] = {}
    for row in truth.rows("ballots"):
        numbers.setdefault((row["space_id"], row["person_id"]), []).append(row["number"])

    assert max(map(len, numbers.values())) > 1
    assert all(sorted(several) == list(range(len(several))) for several in numbers.values())


def test_a_redacted_row_has_lost_what_a_redaction_clears(truth: Truth) -> None:
    redactions = [row for row in truth.rows("notes") if row["redacts_id"] is not None]

    assert redactions
    for redaction in redactions:
        target = truth.get("notes", redaction["redacts_id"])
        assert target is not None
        assert target["text"] is None
        assert target["redacted_by_id"] == redaction["id"]


def test_rows_that_a_deletion_purges_are_never_generated_deleted(truth: Truth) -> None:
    assert {row["gone_at"] for row in truth.rows("badges")} == {None}


def test_more_rows_than_uniqueness_allows_are_not_made() -> None:
    truth = generate(Base, seed=1, rows={"spaces": 3, "people": 4, "badges": 50})

    assert len(truth.rows("badges")) <= 4


def test_what_refers_to_rows_that_could_not_be_made_is_let_go_of() -> None:
    wanted = {"spaces": 3, "people": 5, "tickets": 30, "stamps": 60}
    truth = generate(Base, seed=1, rows=wanted)

    assert 0 < len(truth.rows("tickets")) <= 5
    assert 0 < len(truth.rows("stamps")) < 60
    with database(Base) as connection:
        truth.write(connection)
        connection.commit()


# -- changes ---------------------------------------------------------------------------------------------


@pytest.fixture
def small() -> Truth:
    return generate(example.Base, seed=1, rows=example.ROWS)


def test_an_upsert_changes_what_it_names_and_nothing_else(small: Truth) -> None:
    before = dict(small.rows("users")[0])
    small.upsert("users", {"id": before["id"], "name": "new"})

    assert small.get("users", before["id"]) == {**before, "name": "new"}
    assert small.keys("users")[-1] == (before["id"],)
    assert small.changed("users", (before["id"],)) == small.revision > small.arrived("users", (before["id"],))


def test_rows_are_found_by_what_they_are_now(small: Truth) -> None:
    row = small.rows("messages")[0]
    before = small.matching("messages", ("conversation_id",), (row["conversation_id"],))
    elsewhere = next(key for key in small.keys("conversations") if key != (row["conversation_id"],))
    there = len(small.matching("messages", ("conversation_id",), elsewhere))
    moved = small.upsert("messages", {"id": row["id"], "conversation_id": elsewhere[0]})

    after = small.matching("messages", ("conversation_id",), (row["conversation_id"],))
    assert len(after) == len(before) - 1
    assert moved in small.matching("messages", ("conversation_id",), elsewhere)
    assert len(small.matching("messages", ("conversation_id",), elsewhere)) == there + 1
    assert small.matching("messages", ("sender_id",), (None,)) == []


def test_a_new_row_has_the_constant_defaults_of_its_columns(small: Truth) -> None:
    assert small.upsert("tags", {"id": "new"}) == {"id": "new", "colour": None}


def test_a_column_that_no_upstream_states_is_refused(small: Truth) -> None:
    with pytest.raises(ValueError, match="last_message_id"):
        small.upsert("conversations", {"id": 1, "last_message_id": 2})


def test_a_deletion_cascades_clears_references_and_leaves_the_truth_whole(small: Truth) -> None:
    conversation = Counter(row["conversation_id"] for row in small.rows("messages")).most_common(1)[0][0]
    gone = {row["id"] for row in small.rows("messages") if row["conversation_id"] == conversation}
    small.delete("conversations", conversation)

    assert gone
    assert not gone & {key for (key,) in small.keys("messages")}
    assert gone == {key for (key,) in small.deleted("messages")}
    assert not gone & {row["reply_to_id"] for row in small.rows("messages")}
    with database(example.Base) as connection:
        small.write(connection)
        connection.commit()


def test_a_deletion_that_a_foreign_key_forbids_is_refused(small: Truth) -> None:
    owner = small.rows("conversations")[0]["owner_id"]

    with pytest.raises(ValueError, match="conversations"):
        small.delete("users", owner)


def test_a_row_that_comes_back_is_deleted_no_more(small: Truth) -> None:
    row = small.rows("messages")[0]
    small.delete("messages", row["id"])
    small.upsert("messages", row)

    assert row["id"] not in {key for (key,) in small.deleted("messages")}


def test_aligned_columns_sort_as_the_ids_do(small: Truth) -> None:
    before = Counter(row["created_at"] for row in small.rows("messages"))
    small.align("messages", "id", "created_at", "deleted_at")
    rows = sorted(small.rows("messages"), key=lambda row: row["id"])

    assert [row["created_at"] for row in rows] == sorted(before.elements())
    assert [row["deleted_at"] is not None for row in rows] == sorted(
        row["deleted_at"] is not None for row in rows
    )


# -- pointers, counters and mirrors ----------------------------------------------------------------------


def test_pointers_and_counters_are_what_their_declarations_say(small: Truth) -> None:
    for (conversation,), derived in small.derived("conversations").items():
        live = [
            row
            for row in small.rows("messages")
            if row["conversation_id"] == conversation and row["deleted_at"] is None
        ]
        last = max(live, key=lambda row: (row["created_at"], row["id"]), default={"id": None})
        assert derived == {"messages_count": len(live), "last_message_id": last["id"]}
    assert any(derived["messages_count"] for derived in small.derived("conversations").values())


def test_a_pointer_moves_when_the_row_it_points_at_goes(small: Truth) -> None:
    (conversation, before) = next(
        (key, derived)
        for key, derived in small.derived("conversations").items()
        if derived["messages_count"] > 1
    )
    small.delete("messages", before["last_message_id"])
    after = small.derived("conversations")[conversation]

    assert after["messages_count"] == before["messages_count"] - 1
    assert after["last_message_id"] not in (None, before["last_message_id"])


def test_a_truth_is_loaded_from_a_database_as_it_was_written(small: Truth) -> None:
    with database(example.Base) as connection:
        small.write(connection)
        loaded = Truth.load(example.Base, connection)

    for table in small.models.tables:
        written = {
            small.models.key(table, row): {k: plain(v) for k, v in row.items()} for row in small.rows(table)
        }
        read = {
            small.models.key(table, row): {k: plain(v) for k, v in row.items()} for row in loaded.rows(table)
        }
        assert read == written


def test_every_way_in_which_a_mirror_can_be_wrong_is_told(small: Truth) -> None:
    with database(example.Base) as connection:
        small.write(connection)
        keys = [key for (key,) in small.keys("users")]
        small.upsert("users", {"id": keys[0], "name": "changed"})
        small.upsert("tags", {"id": "new"})
        small.delete("attachments", small.keys("attachments")[0])
        ignoring = ("conversations.messages_count", "conversations.last_message_id")
        told = small.differences(connection, ignoring=ignoring)
        pointers = small.differences(connection, ignoring=("users", "tags", "attachments"))

    assert len(told) == 3
    assert any(line.startswith("users") and "should be 'changed'" in line for line in told)
    assert any(line == "tags ('new',): missing in the mirror" for line in told)
    assert any(line.startswith("attachments") and "not true" in line for line in told)
    assert all("messages_count" in line or "last_message_id" in line for line in pointers)
    assert pointers


def test_models_are_read_from_a_base_or_from_a_module() -> None:
    assert Models(example).entities == Models(example.Base).entities
