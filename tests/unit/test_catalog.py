"""What is read out of models, and which models are refused."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, ForeignKeyConstraint, Integer, MetaData, String, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from ingest.catalog import (
    NO_DEFAULT,
    Catalog,
    read_catalog,
    stored_births,
    stored_defaults,
    stubbable,
    version_number,
)
from ingest.errors import ConfigError, ModelError
from ingest.mirror import LEDGER_COLUMNS, Mirror, complete, count, field, ignore, latest, when_missing


def module(*classes: type, name: str = "models") -> ModuleType:
    """A models module that defines these classes."""
    made = ModuleType(name)
    vars(made).update({one.__name__: one for one in classes})
    return made


def base() -> Any:
    """A declarative base of its own."""
    return type("Base", (DeclarativeBase,), {"metadata": MetaData()})


def catalog(*classes: type) -> Catalog:
    return read_catalog([module(*classes)])


# -- columns -------------------------------------------------------------------------------------------


def test_constant_defaults_fill_what_nobody_states_and_computed_ones_never_do() -> None:
    class Row(base()):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)
        level: Mapped[int] = mapped_column(default=3)
        trusted: Mapped[bool] = mapped_column(default=False)
        token: Mapped[uuid.UUID] = mapped_column(default=uuid.uuid4)
        made: Mapped[datetime | None] = mapped_column(default=lambda: datetime.now(UTC))
        seen: Mapped[datetime | None] = mapped_column(default=sa.func.now())

    table = catalog(Row).tables["rows"]
    assert table.column("level").default == 3
    assert table.column("trusted").default is False
    assert {table.column(name).default for name in ("id", "token", "made", "seen")} == {NO_DEFAULT}
    assert stored_defaults(table) == {"level": 3, "trusted": 0}


def test_a_column_is_looked_for_in_snake_case_and_then_in_camel_case() -> None:
    class Row(base()):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)
        sent_at_ms: Mapped[int]

    table = catalog(Row).tables["rows"]
    assert table.column("sent_at_ms").paths == (("sent_at_ms",), ("sentAtMs",))
    assert table.column("id").paths == (("id",),)


def test_a_field_is_looked_for_at_its_path_alone_and_a_quoted_key_keeps_its_dots() -> None:
    class Row(base()):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)
        author_id: Mapped[int] = mapped_column(info=field("author.uid"))
        relates: Mapped[str] = mapped_column(info=field('content."m.relates_to".event_id'))

    table = catalog(Row).tables["rows"]
    assert table.column("author_id").paths == (("author", "uid"),)
    assert table.column("relates").paths == (("content", "m.relates_to", "event_id"),)


def test_a_field_may_not_walk_a_list() -> None:
    class Row(base()):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)
        tag: Mapped[str] = mapped_column(info=field("tags.*.name"))

    with pytest.raises(ConfigError, match="may not walk a list"):
        catalog(Row)


def test_what_upstream_cannot_state_is_no_column_and_starts_with_its_constant() -> None:
    class Row(base()):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)
        parent_id: Mapped[int | None] = mapped_column(ForeignKey("rows.id"))
        replies: Mapped[int] = mapped_column(info=count(lambda: Row.parent_id))
        note: Mapped[str] = mapped_column(default="none yet", info=ignore())
        remark: Mapped[str | None] = mapped_column(info=ignore())
        made: Mapped[str] = mapped_column(server_default="x", info=ignore())

    table = catalog(Row).tables["rows"]
    assert table.names == ("id", "parent_id")
    assert table.born == {"replies": 0, "note": "none yet"}
    assert stored_births(table) == {"replies": 0, "note": "none yet"}


def test_a_primary_key_takes_no_null_though_its_column_may_say_so() -> None:
    class Row(base()):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None]

    table = catalog(Row).tables["rows"]
    assert not table.column("id").nullable
    assert table.column("name").nullable


def test_every_place_in_a_record_that_is_taken_is_known() -> None:
    declarative = base()

    class Author(declarative):
        __tablename__ = "authors"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Row(declarative):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)
        author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))
        author: Mapped[Author] = relationship(info=field("by.user"))

    paths = catalog(Author, Row).tables["rows"].paths
    assert paths == [("id",), ("author_id",), ("authorId",), ("by", "user")]


# -- keys and association tables -----------------------------------------------------------------------


def _with_association() -> tuple[type, type]:
    declarative = base()
    Table(
        "memberships",
        declarative.metadata,
        Column("room_id", ForeignKey("rooms.id"), primary_key=True),
        Column("user_id", ForeignKey("users.id"), primary_key=True),
    )

    class User(declarative):
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Room(declarative):
        __tablename__ = "rooms"
        id: Mapped[int] = mapped_column(primary_key=True)
        people: Mapped[list[User]] = relationship(
            secondary=declarative.metadata.tables["memberships"], info=complete()
        )

    return User, Room


def test_an_association_table_is_mirrored_without_a_model_of_its_own() -> None:
    read = catalog(*_with_association())
    links = read.tables["memberships"]
    assert links.key == ("room_id", "user_id")
    assert links.entity is None
    assert {str(one) for one in read.references_of("memberships")} == {
        "memberships.room_id",
        "memberships.user_id",
    }


def test_a_list_through_an_association_says_which_columns_meet() -> None:
    (people,) = catalog(*_with_association()).entities["Room"].nested
    assert (people.kind, people.entity, people.secondary) == ("association", "User", "memberships")
    assert people.pairs == (("id", "room_id"),)
    assert people.secondary_pairs == (("id", "user_id"),)


def test_composite_keys_keep_their_order_and_a_pointer_follows_them_in_it() -> None:
    declarative = base()

    class Room(declarative):
        __tablename__ = "rooms"
        server: Mapped[str] = mapped_column(primary_key=True)
        number: Mapped[int] = mapped_column(primary_key=True)
        last_id: Mapped[int | None] = mapped_column(
            ForeignKey("messages.id", use_alter=True),
            info=latest(lambda: (Message.room_number, Message.room_server), by=lambda: Message.sent),
        )

    class Message(declarative):
        __tablename__ = "messages"
        id: Mapped[int] = mapped_column(primary_key=True)
        sent: Mapped[int]
        room_number: Mapped[int]
        room_server: Mapped[str]
        __table_args__ = (
            ForeignKeyConstraint(["room_number", "room_server"], ["rooms.number", "rooms.server"]),
        )

    read = catalog(Room, Message)
    assert read.tables["rooms"].key == ("server", "number")
    (pointer,) = read.derived
    assert pointer.follows == ("room_server", "room_number")
    assert [part.name for part in pointer.by] == ["sent", "id"]  # the key breaks ties
    (reference,) = read.references
    assert dict(zip(reference.columns, reference.target_columns, strict=True)) == {
        "room_number": "number",
        "room_server": "server",
    }


# -- references ----------------------------------------------------------------------------------------


def _room_and_message() -> tuple[type, type]:
    declarative = base()

    class Room(declarative):
        __tablename__ = "rooms"
        id: Mapped[int] = mapped_column(primary_key=True)
        last_id: Mapped[int | None] = mapped_column(
            ForeignKey("messages.id", use_alter=True),
            info=latest(lambda: Message.room_id, by=lambda: Message.id),
        )

    class Message(declarative):
        __tablename__ = "messages"
        id: Mapped[int] = mapped_column(primary_key=True)
        room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id", ondelete="cascade"))

    return Room, Message


def test_a_pointers_foreign_key_is_no_reference_that_upstream_states() -> None:
    read = catalog(*_room_and_message())
    assert [str(one) for one in read.references] == ["messages.room_id"]
    assert read.references_of("rooms") == ()
    assert [str(one) for one in read.references_to("rooms")] == ["messages.room_id"]
    assert [str(one) for one in read.derived_from("messages")] == ["rooms.last_id"]
    assert read.watched("messages") == [(("room_id",), "rooms")]


def test_the_rule_on_delete_is_read_whatever_its_case() -> None:
    assert catalog(*_room_and_message()).references[0].ondelete == "CASCADE"


def test_references_come_as_their_columns_stand_in_the_table() -> None:
    declarative = base()
    names = [f"c{number}" for number in (7, 3, 9, 1, 8, 2, 6, 4)]
    columns = {name: mapped_column(ForeignKey("rows.id")) for name in names}
    key = mapped_column(Integer, primary_key=True)
    row = type("Row", (declarative,), {"__tablename__": "rows", "id": key, **columns})
    assert [str(one) for one in catalog(row).references] == [f"rows.{name}" for name in names]


def test_default_policies_ask_first_and_then_do_what_the_columns_allow() -> None:
    declarative = base()

    class Plain(declarative):
        __tablename__ = "plain"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None]
        level: Mapped[int] = mapped_column(default=1)

    class Strict(declarative):
        __tablename__ = "strict"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    class Row(declarative):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)
        optional: Mapped[int | None] = mapped_column(ForeignKey("strict.id"))
        stubbed: Mapped[int] = mapped_column(ForeignKey("plain.id"))
        parked: Mapped[int] = mapped_column(ForeignKey("strict.id"))
        stated: Mapped[int] = mapped_column(ForeignKey("plain.id", info=when_missing("park")))

    read = catalog(Plain, Strict, Row)
    assert {one.columns[0]: one.policies for one in read.references} == {
        "optional": ("fetch", "null"),
        "stubbed": ("fetch", "stub"),
        "parked": ("fetch", "park"),
        "stated": ("park",),
    }
    assert stubbable(read.tables["plain"].sql)
    assert not stubbable(read.tables["strict"].sql)


def test_policies_may_stand_on_the_constraint() -> None:
    declarative = base()

    class Room(declarative):
        __tablename__ = "rooms"
        a: Mapped[int] = mapped_column(primary_key=True)
        b: Mapped[int] = mapped_column(primary_key=True)

    class Row(declarative):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)
        a: Mapped[int]
        b: Mapped[int | None]
        __table_args__ = (
            ForeignKeyConstraint(["a", "b"], ["rooms.a", "rooms.b"], info=when_missing("park")),
        )

    (reference,) = catalog(Room, Row).references
    assert reference.policies == ("park",)
    assert reference.nullable == ("b",)


def test_a_relationship_that_is_ignored_or_only_viewed_takes_nothing() -> None:
    declarative = base()

    class User(declarative):
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Row(declarative):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)
        user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
        owner: Mapped[User] = relationship(info=ignore())
        seen: Mapped[User] = relationship(viewonly=True)
        user: Mapped[User] = relationship(overlaps="owner")

    (nested,) = catalog(User, Row).tables["rows"].nested
    assert (nested.name, nested.kind, nested.pairs) == ("user", "one", (("user_id", "id"),))


# -- reading it ----------------------------------------------------------------------------------------


def test_reading_the_catalog_twice_adds_nothing() -> None:
    classes = _room_and_message()
    first, second = catalog(*classes), catalog(*classes)
    assert [column.name for column in second.tables["messages"].sql.columns] == [
        "id",
        "room_id",
        *LEDGER_COLUMNS,
    ]
    assert first.tables.keys() == second.tables.keys()
    assert [one.names for one in first.tables.values()] == [one.names for one in second.tables.values()]
    assert first.references == second.references


def test_two_modules_of_one_metadata_are_one_set_of_tables() -> None:
    room, message = _room_and_message()
    read = read_catalog([module(room, name="a"), module(message, name="b")])
    assert sorted(read.tables) == ["messages", "rooms"]
    assert len(read.metadatas) == 1


def test_two_sources_with_one_table_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"two sources have a table '(rooms|messages)'"):
        read_catalog([module(*_room_and_message(), name="a"), module(*_room_and_message(), name="b")])


def test_a_module_without_models_is_refused() -> None:
    with pytest.raises(ModelError, match="defines no models"):
        read_catalog([module(name="empty")])


def test_a_table_without_a_primary_key_is_refused() -> None:
    declarative = base()
    Table("heap", declarative.metadata, Column("value", Integer))

    class Row(declarative):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)

    with pytest.raises(ModelError, match="table heap: has no primary key"):
        catalog(Row)


@pytest.mark.parametrize(
    "mirror",
    [
        Mirror(version="nothing"),
        Mirror(deleted="nothing"),
        Mirror(redacts="nothing"),
        Mirror(redacts="id", clears=("nothing",)),
        Mirror(redacts="id", redacted_by="nothing"),
        Mirror(version="hits"),
    ],
    ids=["version", "deleted", "redacts", "clears", "redacted_by", "a derived column"],
)
def test_a_mirror_that_names_no_stated_column_is_refused(mirror: Mirror) -> None:
    class Row(base()):
        __tablename__ = "rows"
        __mirror__ = mirror
        id: Mapped[int] = mapped_column(primary_key=True)
        parent: Mapped[int | None] = mapped_column(ForeignKey("rows.id"))
        hits: Mapped[int] = mapped_column(info=count(lambda: Row.parent))

    with pytest.raises(ModelError, match=r"__mirror__ names '(nothing|hits)'.*known: id, parent"):
        catalog(Row)


def test_a_foreign_key_to_another_column_than_the_primary_key_is_refused() -> None:
    declarative = base()

    class Room(declarative):
        __tablename__ = "rooms"
        id: Mapped[int] = mapped_column(primary_key=True)
        alias: Mapped[str] = mapped_column(unique=True)

    class Row(declarative):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)
        room: Mapped[str] = mapped_column(ForeignKey("rooms.alias"))

    with pytest.raises(ModelError, match="does not refer to the primary key of rooms"):
        catalog(Room, Row)


def test_a_derived_column_that_follows_no_foreign_key_is_refused() -> None:
    declarative = base()

    class Room(declarative):
        __tablename__ = "rooms"
        id: Mapped[int] = mapped_column(primary_key=True)
        hits: Mapped[int] = mapped_column(info=count(lambda: Row.room))

    class Row(declarative):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)
        room: Mapped[int]

    with pytest.raises(ModelError, match=r"follows rows\.room, which is no foreign key to rooms"):
        catalog(Room, Row)


def test_a_pointer_that_points_at_another_table_than_it_follows_is_refused() -> None:
    declarative = base()

    class Room(declarative):
        __tablename__ = "rooms"
        id: Mapped[int] = mapped_column(primary_key=True)
        last: Mapped[int | None] = mapped_column(info=latest(lambda: Row.room, by=lambda: Row.id))

    class Row(declarative):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)
        room: Mapped[int] = mapped_column(ForeignKey("rooms.id"))

    with pytest.raises(ModelError, match="points at no column of rows"):
        catalog(Room, Row)


def test_an_ignored_column_that_takes_no_null_and_has_no_default_is_refused() -> None:
    class Row(base()):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)
        note: Mapped[str] = mapped_column(String(5), info=ignore())

    with pytest.raises(ModelError, match=r"rows\.note: takes no NULL, but nobody states it"):
        catalog(Row)


def test_a_version_that_is_a_time_counts_in_microseconds_exactly() -> None:
    assert version_number(datetime(1970, 1, 1, 0, 0, 1, 7, tzinfo=UTC)) == 1_000_007
    assert version_number(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)) == -1_000_000
    assert version_number(12) == 12


def test_one_sources_records_never_go_to_anothers_table_by_the_entitys_name() -> None:
    def user(table: str) -> type:
        class User(base()):
            __tablename__ = table
            id: Mapped[int] = mapped_column(primary_key=True)

        return User

    read = read_catalog([module(user("a_users"), name="a"), module(user("b_users"), name="b")])
    assert {name: read.within(name).entities["User"].name for name in "ab"} == {
        "a": "a_users",
        "b": "b_users",
    }
