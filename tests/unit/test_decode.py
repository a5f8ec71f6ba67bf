"""From a page to statements: what a record says of which rows, and what becomes of one that says too much."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest
from sqlalchemy import JSON, Column, ForeignKey, String, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from ingest.catalog import read_catalog, version_number
from ingest.errors import ConfigError, LogDrift
from ingest.load.batch import Batch, Letter, MissingFact, SetOf, rank_of
from ingest.load.decode import Decoder
from ingest.load.decoders import Decoders
from ingest.mirror import Mirror, complete, field
from ingest.source import Source, Stream
from ingest.types import HIGHEST_VERSION, LABEL, LOWEST_VERSION, Covered, Page, Walk
from tests.harness import page


class Base(DeclarativeBase):
    pass


links = Table(
    "links",
    Base.metadata,
    Column("room_id", ForeignKey("rooms.id"), primary_key=True),
    Column("user_id", ForeignKey("users.id"), primary_key=True),
)


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(5))
    extra: Mapped[Any | None] = mapped_column(JSON)


class Room(Base):
    __tablename__ = "rooms"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None] = mapped_column(String(5))
    kind: Mapped[str | None] = mapped_column(info=field("meta.kind"))
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    owner: Mapped[User | None] = relationship()
    lines: Mapped[list[Line]] = relationship()
    parts: Mapped[list[Part]] = relationship()
    people: Mapped[list[User]] = relationship(secondary=links, info=complete())


class Line(Base):
    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id"))
    text: Mapped[str | None] = mapped_column(String(5))


class Part(Base):
    __tablename__ = "parts"
    room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str | None] = mapped_column(String(5))


class Event(Base):
    __tablename__ = "events"
    __mirror__ = Mirror(
        version="rev", deleted="gone", purge=True, redacts="redacts", clears=("text",), redacted_by="by"
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    room_id: Mapped[int | None]
    position: Mapped[int | None]
    rev: Mapped[int | None]
    text: Mapped[str | None]
    gone: Mapped[bool | None]
    redacts: Mapped[str | None]
    by: Mapped[str | None]


class Erasure(Base):
    """A record that deletes another, instead of clearing it."""

    __tablename__ = "erasures"
    __mirror__ = Mirror(redacts="target")
    id: Mapped[str] = mapped_column(primary_key=True)
    target: Mapped[str | None]


CATALOG = read_catalog([sys.modules[__name__]])
BY_ID = Walk(id="w", kind="by_id")


def source(**streams: Any) -> Source:
    made: Source = msgspec.convert({"streams": streams}, Source)
    return made


def decode(stream: dict[str, Any], *pages: Page) -> Batch:
    """What pages of the stream `s` say."""
    return Decoders({"test": source(s=stream)}, CATALOG).decode(pages)


def rooms(*records: Any, stamp: int = 1, **more: Any) -> Batch:
    return decode({"path": "/s", "entity": "Room", **more}, page(stamp, "s", list(records)))


def stated(batch: Batch, table: str) -> list[tuple[Any, dict[str, Any]]]:
    """Every statement of a table, in rank order: its key, and what it says beside its key."""
    key = set(CATALOG.tables[table].key)
    names = CATALOG.tables[table].names
    said = [
        (rank_of(one), at, dict(zip(names, one, strict=False)))
        for at, one in batch.full.get(table, {}).items()
    ]
    said += [
        (one.rank, at, dict(one.values)) for at, many in batch.partial.get(table, {}).items() for one in many
    ]
    return [
        (at if len(at) > 1 else at[0], {name: value for name, value in values.items() if name not in key})
        for _, at, values in sorted(said, key=lambda one: one[0])
    ]


def letter(batch: Batch) -> Letter:
    assert len(batch.letters) == 1, batch.letters
    return batch.letters[0]


# -- one nested record ---------------------------------------------------------------------------------


def test_a_nested_object_is_a_record_of_its_own_and_sets_the_foreign_key() -> None:
    batch = rooms({"id": 1, "owner": {"id": 7, "name": "ann"}})
    assert stated(batch, "rooms") == [(1, {"owner_id": 7})]
    assert stated(batch, "users") == [(7, {"name": "ann"})]
    assert batch.records == 2


def test_a_nested_object_is_a_mention_where_its_table_has_a_stream() -> None:
    streams = source(s={"path": "/s", "entity": "Room"}, u={"path": "/u", "entity": "User"})
    batch = Decoders({"test": streams}, CATALOG).decode(
        [page(1, "s", [{"id": 1, "owner": {"id": 7, "name": "ann", "extra": None}}])]
    )
    assert [one.top for one in batch.partial["users"][(7,)]] == [False]
    alone = rooms({"id": 1, "owner": {"id": 7, "name": "ann"}})
    assert [one.top for one in alone.partial["users"][(7,)]] == [True]


@pytest.mark.parametrize("owner", [7, "7"])
def test_a_bare_id_under_a_relationships_name_sets_the_foreign_key_alone(owner: Any) -> None:
    batch = rooms({"id": 1, "owner": owner})
    assert stated(batch, "rooms") == [(1, {"owner_id": 7})]
    assert stated(batch, "users") == []


def test_a_null_under_a_relationships_name_states_null() -> None:
    assert stated(rooms({"id": 1, "owner": None}), "rooms") == [(1, {"owner_id": None})]


def test_a_nested_object_that_agrees_with_the_foreign_key_is_fine() -> None:
    batch = rooms({"id": 1, "owner_id": "7", "owner": {"id": 7}})
    assert stated(batch, "rooms") == [(1, {"owner_id": 7})]
    assert batch.letters == []


def test_a_nested_object_that_contradicts_the_foreign_key_makes_a_dead_letter_of_the_record() -> None:
    batch = rooms({"id": 1, "owner_id": 6, "owner": {"id": 7}}, {"id": 2, "title": "fine"})
    assert letter(batch).reason == "owner_id is 6, but the nested owner is 7"
    assert stated(batch, "rooms") == [(2, {"title": "fine"})]
    assert stated(batch, "users") == []
    assert (batch.records, batch.rejected) == (2, 1)


def test_a_nested_record_that_cannot_be_stored_is_a_letter_of_its_own_and_the_rest_loads() -> None:
    batch = rooms({"id": 1, "title": "t", "owner": {"id": 7, "name": "too long"}})
    assert stated(batch, "rooms") == [(1, {"title": "t", "owner_id": 7})]
    assert stated(batch, "users") == []
    assert letter(batch).table == "users"
    assert letter(batch).ordinal == 1
    assert letter(batch).reason == "name: 8 characters, but the column holds 5"
    assert (batch.records, batch.rejected) == (2, 1)


# -- lists ---------------------------------------------------------------------------------------------


def test_a_nested_list_adds_child_rows_that_name_their_parent() -> None:
    batch = rooms({"id": 1, "lines": [{"id": 10, "text": "a"}, {"id": 11}]})
    assert stated(batch, "lines") == [(10, {"room_id": 1, "text": "a"}), (11, {"room_id": 1})]
    assert batch.sets == {}


def test_one_bad_child_is_a_letter_and_its_siblings_load() -> None:
    batch = rooms({"id": 1, "lines": [{"id": 10}, {"id": 11, "text": "too long"}, {"id": 12}]})
    assert [key for key, _ in stated(batch, "lines")] == [10, 12]
    assert (letter(batch).table, letter(batch).raw) == ("lines", b'{"id":11,"text":"too long"}')


def test_children_without_an_id_are_keyed_by_their_index_and_always_complete() -> None:
    batch = rooms({"id": 1, "parts": [{"body": "a"}, {"body": "b"}]})
    assert stated(batch, "parts") == [((1, 0), {"body": "a"}), ((1, 1), {"body": "b"})]
    assert batch.sets[SetOf("parts", ("room_id",))][(1,)].members == {(1, 0), (1, 1)}


def test_an_empty_list_of_a_complete_set_says_that_there_is_nothing() -> None:
    batch = rooms({"id": 1, "people": []})
    assert batch.sets[SetOf("links", ("room_id",))][(1,)].members == set()


def test_a_list_through_an_association_adds_links_and_mentions() -> None:
    batch = rooms({"id": 1, "people": [{"id": 7, "name": "ann"}, 8, "9"]})
    assert [key for key, _ in stated(batch, "links")] == [(1, 7), (1, 8), (1, 9)]
    assert stated(batch, "users") == [(7, {"name": "ann"})]
    assert batch.sets[SetOf("links", ("room_id",))][(1,)].members == {(1, 7), (1, 8), (1, 9)}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"id": 1, "lines": {"id": 10}}, "lines: expected a list, not dict"),
        ({"id": 1, "lines": [5]}, "lines: expected objects in the list, not int"),
        ({"id": 1, "people": [[7]]}, "id: expected an object or an id, not a list"),
        ({"id": 1, "people": [{"name": "x"}]}, "user_id: the record has no key"),
        ({"id": 1, "people": [None]}, "user_id"),
        ({"id": 1, "people": [{"id": None}]}, "user_id"),
        ({"id": 1, "owner": [7]}, "id: expected an object or an id, not a list"),
    ],
)
def test_a_list_that_is_none_makes_a_letter_of_the_whole_record(record: Any, reason: str) -> None:
    batch = rooms(record, {"id": 2})
    assert reason in batch.letters[-1].reason
    assert [key for key, _ in stated(batch, "rooms")] == [2]
    assert stated(batch, "links") == []
    assert batch.sets == {}


def test_two_lists_of_one_owner_in_a_batch_leave_the_newer_set() -> None:
    stream = {"path": "/s", "entity": "Room"}
    batch = decode(stream, page(2, "s", [{"id": 1, "people": [8]}]), page(1, "s", [{"id": 1, "people": [7]}]))
    assert batch.sets[SetOf("links", ("room_id",))][(1,)].members == {(1, 8)}


# -- kinds of records ----------------------------------------------------------------------------------

KINDS = {"by": "type", "room": "Room", "both": ["Room", "User"]}


def test_a_discriminator_decides_the_entity_and_is_no_unknown_key() -> None:
    stream = {"path": "/s", "entity": {**KINDS, "default": "User"}}
    records = [{"type": "room", "id": 1}, {"type": "else", "id": 2}, {"id": 3}, {"type": 5, "id": 4}]
    batch = decode(stream, page(1, "s", records))
    assert [key for key, _ in stated(batch, "rooms")] == [1]
    assert [key for key, _ in stated(batch, "users")] == [2, 3, 4]
    assert batch.unmapped == {}


def test_an_unknown_kind_without_a_default_is_a_dead_letter() -> None:
    batch = decode({"path": "/s", "entity": KINDS}, page(1, "s", [{"type": "bus", "id": 1}, 5]))
    assert [one.reason for one in batch.letters] == [
        "type: 'bus' is no kind of record that the source names",
        "type: None is no kind of record that the source names",
    ]
    assert batch.records == batch.rejected == 2


def test_one_record_may_be_rows_of_several_tables_and_its_keys_are_shared() -> None:
    record = {"type": "both", "id": 1, "title": "t", "name": "n"}
    batch = decode({"path": "/s", "entity": KINDS}, page(1, "s", [record]))
    assert stated(batch, "rooms") == [(1, {"title": "t"})]
    assert stated(batch, "users") == [(1, {"name": "n"})]
    assert batch.unmapped == {}


def test_a_record_of_several_tables_is_stored_in_all_of_them_or_in_none() -> None:
    record = {"type": "both", "id": 1, "title": "t", "name": "too long"}
    batch = decode({"path": "/s", "entity": KINDS}, page(1, "s", [record]))
    assert stated(batch, "rooms") == []
    assert letter(batch).ordinal == 0
    assert batch.records == batch.rejected == 1


def test_an_entity_that_the_models_do_not_have_is_named() -> None:
    with pytest.raises(ConfigError, match="there is no entity 'Bus'"):
        decode({"path": "/s", "entity": "Bus"})


def test_a_page_of_a_stream_that_is_not_configured_stops_the_run() -> None:
    with pytest.raises(LogDrift, match=r"page 3 is of test\.other"):
        decode({"path": "/s", "entity": "Room"}, page(3, "other", []))


@pytest.mark.parametrize("record", [5, "x", None, [1]])
def test_a_record_that_is_no_object_is_a_dead_letter(record: Any) -> None:
    batch = rooms(record, {"id": 2})
    assert letter(batch).reason.startswith("expected an object, not ")
    assert [key for key, _ in stated(batch, "rooms")] == [2]


# -- unknown keys --------------------------------------------------------------------------------------


def test_keys_that_no_column_takes_are_remembered_with_the_first_page_that_had_them() -> None:
    stream = {"path": "/s", "entity": "Room"}
    record = {"id": 1, "new": 1, "meta": {"kind": "k", "deep": 1}, "owner": {"id": 7, "odd": 1}}
    batch = decode(stream, page(4, "s", [record]), page(5, "s", [record, {"id": 2, "newer": 1}]))
    assert batch.unmapped == {
        ("test", "s", "new"): 4,
        ("test", "s", "meta.deep"): 4,
        ("test", "s", "users: odd"): 4,
        ("test", "s", "newer"): 5,
    }


def test_an_unknown_key_of_a_flat_record_is_remembered_too() -> None:
    batch = decode(
        {"path": "/s", "entity": "User"},
        page(1, "s", [{"id": 1, "name": None, "extra": {"a": 1}, "odd": 1}]),
    )
    assert batch.unmapped == {("test", "s", "odd"): 1}


def test_a_key_is_looked_for_in_both_spellings_and_the_first_that_is_there_counts() -> None:
    batch = rooms({"id": 1, "ownerId": 5}, {"id": 2, "owner_id": 6, "ownerId": 5})
    assert stated(batch, "rooms") == [(1, {"owner_id": 5}), (2, {"owner_id": 6})]
    assert batch.unmapped == {}


def test_where_absent_keys_state_null_a_record_states_every_column() -> None:
    (row,) = rooms({"id": 1}, omits="null").full["rooms"].values()
    assert row[:-4] == (1, None, None, None)


def test_where_absent_keys_state_nothing_only_its_own_are_stated() -> None:
    assert stated(rooms({"id": 1}), "rooms") == [(1, {})]


# -- what the stream sets ------------------------------------------------------------------------------


def events(records: Any, stamp: int = 1, *, stream: dict[str, Any] | None = None, **envelope: Any) -> Batch:
    made = {"path": "/s", "entity": "Event", **(stream or {})}
    return decode(made, page(stamp, "s", records, **envelope))


def test_records_under_stars_are_found_and_what_the_stars_passed_is_set() -> None:
    body = {"join": {"3": {"timeline": [{"id": "a"}]}, "4": {"timeline": [{"id": "b"}]}, "5": None}}
    batch = events(body, stream={"records": "join.*.timeline", "set": {"room_id": "$1"}})
    assert stated(batch, "events") == [("a", {"room_id": 3}), ("b", {"room_id": 4})]


def test_a_value_may_itself_be_the_record() -> None:
    batch = events(["a", "b"], stream={"set": {"id": "$value", "text": "constant"}})
    assert stated(batch, "events") == [("a", {"text": "constant"}), ("b", {"text": "constant"})]


def test_a_partitions_parameter_is_set_and_an_absent_one_states_nothing() -> None:
    batch = events(
        [{"id": "a"}],
        stream={"set": {"room_id": "$partition.rooms.id", "text": "$partition.other", "by": "$9"}},
        partition='{"rooms.id":"12"}',
    )
    assert stated(batch, "events") == [("a", {"room_id": 12})]


def test_what_the_stream_sets_is_never_guessed_where_absent_keys_state_null() -> None:
    batch = events([{"id": "a"}], stream={"omits": "null", "set": {"text": "$partition.other"}})
    ((_, values),) = stated(batch, "events")
    assert "text" not in values
    assert values["room_id"] is None


def test_a_position_is_the_servers_own_order_within_and_between_pages() -> None:
    stream = {"set": {"position": "$position"}}
    oldest = events([{"id": "a"}, {"id": "b"}], stream={**stream, "order": "oldest-first"}, label=3)
    assert stated(oldest, "events") == [("a", {"position": 3 * LABEL}), ("b", {"position": 3 * LABEL + 1})]
    newest = events([{"id": "b"}, {"id": "a"}], stream={**stream, "order": "newest-first"}, label=-2)
    b, a = stated(newest, "events")
    assert a[1]["position"] == b[1]["position"] - 1
    assert b[1]["position"] == -2 * LABEL + LABEL - 1


def test_known_ground_beyond_the_seam_keeps_the_place_it_has() -> None:
    records = [{"id": "c"}, {"id": "b"}, {"id": "a"}]
    batch = events(records, stream={"set": {"position": "$position"}}, covered=Covered(seam=1))
    assert [(key, "position" in values) for key, values in stated(batch, "events")] == [
        ("c", True),
        ("b", False),
        ("a", False),
    ]


def test_a_record_asked_for_by_id_has_no_position_and_its_own_sets() -> None:
    by_id = {"path": "/e/{id}", "records": "$", "set": {"room_id": "$partition.referrer.room_id"}}
    batch = events(
        {"id": "a"},
        stream={"set": {"position": "$position", "room_id": "$1"}, "by_id": by_id, "records": "x.*"},
        walk=BY_ID,
        partition='{"by_id":["a"],"referrer.room_id":"5"}',
    )
    assert stated(batch, "events") == [("a", {"room_id": 5})]


# -- ranks ---------------------------------------------------------------------------------------------


def test_a_records_rank_is_its_version_its_page_and_its_place_nested_ones_counted() -> None:
    batch = rooms({"id": 1, "owner": {"id": 7}, "people": [8]}, {"id": 2}, stamp=9)
    ranks = [one.rank for many in batch.partial["rooms"].values() for one in many]
    assert ranks == [(LOWEST_VERSION, 9, 0), (LOWEST_VERSION, 9, 3)]


@pytest.mark.parametrize("full", [True, False], ids=["read whole", "in part"])
@pytest.mark.parametrize(("rev", "version"), [(4, 4), ("4", 4), (None, LOWEST_VERSION)])
def test_the_version_comes_from_the_models_column(rev: Any, version: int, full: bool) -> None:
    record = {"id": "a", "rev": rev}
    if full:
        record |= dict.fromkeys(("room_id", "position", "text", "gone", "redacts", "by"))
    batch = events([record])
    ranks = [rank_of(one) for one in batch.full["events"].values()]
    ranks += [one.rank for many in batch.partial["events"].values() for one in many]
    assert ranks == [(version, 1, 0)]


@pytest.mark.parametrize("rev", [-(2**63), LOWEST_VERSION, HIGHEST_VERSION, 2**63 - 1])
def test_a_version_cannot_rank_where_no_version_and_redactions_do(rev: int) -> None:
    assert LOWEST_VERSION < version_number(rev) < HIGHEST_VERSION


# -- deletes -------------------------------------------------------------------------------------------


def test_a_stream_of_deletes_buries_every_key_and_states_nothing() -> None:
    batch = decode(
        {"path": "/s", "entity": "Room", "deletes": True}, page(5, "s", [{"id": 1, "title": "x"}, {"id": 2}])
    )
    assert stated(batch, "rooms") == []
    tombs = batch.tombstones["rooms"]
    assert [(key, one.version, one.stamp) for key, one in tombs.items()] == [
        ((1,), HIGHEST_VERSION, 5),
        ((2,), HIGHEST_VERSION, 5),
    ]
    assert (batch.records, batch.kept) == (2, 2)


def test_a_record_that_says_it_was_deleted_is_a_proof_as_old_as_its_version() -> None:
    batch = events([{"id": "a", "rev": 4, "gone": True}, {"id": "b", "gone": True}], stamp=6)
    tombs = batch.tombstones["events"]
    assert [(one.version, one.stamp) for one in tombs.values()] == [(4, 6), (HIGHEST_VERSION, 6)]
    assert {key for key, _ in stated(batch, "events")} == {"a", "b"}  # and it is stated all the same


@pytest.mark.parametrize("gone", [False, None])
def test_a_record_that_denies_its_deletion_is_no_proof(gone: Any) -> None:
    assert events([{"id": "a", "gone": gone}]).tombstones == {}


def test_a_redaction_clears_its_target_for_ever_and_is_not_counted_twice() -> None:
    batch = events([{"id": "r", "redacts": "a", "rev": 2}])
    (cleared,) = batch.partial["events"][("a",)]
    assert cleared.values == {"text": None, "by": "r"}
    assert cleared.rank == (HIGHEST_VERSION, 1, 0)
    assert (cleared.top, cleared.implied) == (False, True)
    assert batch.records == 1


def test_a_redaction_and_its_target_in_one_page_both_speak() -> None:
    full = dict.fromkeys(("room_id", "position", "rev", "gone", "redacts", "by"))
    batch = events([{**full, "id": "a", "text": "secret"}, {**full, "id": "r", "text": None, "redacts": "a"}])
    assert [values["text"] for key, values in stated(batch, "events") if key == "a"] == ["secret", None]


def test_a_redaction_that_clears_nothing_deletes_its_target() -> None:
    batch = decode({"path": "/s", "entity": "Erasure"}, page(3, "s", [{"id": "r", "target": "a"}]))
    (tomb,) = batch.tombstones["erasures"].items()
    assert (tomb[0], tomb[1].version, tomb[1].stamp) == (("a",), HIGHEST_VERSION, 3)


def test_a_record_that_redacts_nothing_redacts_nothing() -> None:
    batch = events([{"id": "r", "redacts": None}, {"id": "s"}])
    assert [key for key, _ in stated(batch, "events")] == ["r", "s"]


# -- answers by id -------------------------------------------------------------------------------------

BY_IDS = {
    "path": "/s",
    "entity": "User",
    "by_id": {"path": "/u", "param": "ids", "batch": 3, "records": "data"},
}


def test_a_key_that_an_answer_by_id_leaves_out_is_gone() -> None:
    answer = page(
        4, "s", {"data": [{"id": 2, "name": "b"}]}, walk=BY_ID, partition='{"by_id":["1","2",["3"]]}'
    )
    batch = decode(BY_IDS, answer)
    assert batch.facts == [MissingFact("users", (1,), "gone", 4), MissingFact("users", (3,), "gone", 4)]


def test_a_full_flat_answer_by_id_counts_as_arrived_too() -> None:
    record = {"id": 2, "name": "b", "extra": None}
    batch = decode(BY_IDS, page(4, "s", {"data": [record]}, walk=BY_ID, partition='{"by_id":["2"]}'))
    assert batch.facts == []


@pytest.mark.parametrize(
    ("status", "state"), [(404, "gone"), (410, "gone"), (403, "forbidden"), (401, "forbidden")]
)
def test_a_refusal_says_of_every_key_why_it_is_not_there(status: int, state: str) -> None:
    answer = page(4, "s", b"no json", walk=BY_ID, status=status, partition='{"by_id":["1","2"]}')
    batch = decode(BY_IDS, answer)
    assert [fact.state for fact in batch.facts] == [state, state]
    assert (batch.letters, batch.quarantined) == ([], set())


def test_a_refusal_of_a_listing_says_nothing_of_any_key() -> None:
    batch = decode(BY_IDS, page(4, "s", b"no json", status=404))
    assert (batch.facts, batch.letters, batch.records) == ([], [], 0)


def test_an_answer_by_id_without_a_path_of_its_own_has_its_records_where_the_stream_has_them() -> None:
    stream = {"path": "/s", "records": "items", "entity": "User", "by_id": {"path": "/u/{id}"}}
    answer = {"items": [{"id": 1, "name": "a"}]}
    batch = decode(stream, page(4, "s", answer, walk=BY_ID, partition='{"by_id":["1"]}'))
    assert stated(batch, "users") == [(1, {"name": "a"})]
    assert batch.facts == []


def test_a_record_by_id_that_became_a_dead_letter_is_not_gone() -> None:
    answer = {"data": [{"id": 1, "name": "too long"}]}
    batch = decode(BY_IDS, page(4, "s", answer, walk=BY_ID, partition='{"by_id":["1"]}'))
    assert batch.facts == []
    assert batch.rejected == 1


# -- dead letters --------------------------------------------------------------------------------------

ODD = b'{"id": 1,  "title":"\\u0074oo \xc3\xa9long", "n": 1.50, "n": 12345678901234567890}'


def test_a_letter_keeps_the_records_own_bytes() -> None:
    body = b' [ {"id": 2} ,\n ' + ODD + b" , 3 ]"
    batch = decode({"path": "/s", "entity": "Room"}, page(1, "s", body))
    assert [one.raw for one in batch.letters] == [ODD, b"3"]


def test_a_letter_under_stars_keeps_the_records_own_bytes() -> None:
    body = b'{"a.b": {"x": [{"id": 1}, ' + ODD + b'], "y": []}}'
    batch = decode({"path": "/s", "entity": "Room", "records": '"a.b".*'}, page(1, "s", body))
    assert letter(batch).raw == ODD
    assert letter(batch).ordinal == 1


def test_the_bytes_of_a_row_are_those_of_the_record_that_it_lay_in() -> None:
    first, second = b'{"id": 1, "people": [7, {"id": 8}]}', b'{"id":2 , "lines":[{"id":10}]}'
    one = page(1, "s", b"[" + first + b" ,  " + second + b" ]")
    stream = msgspec.convert({"path": "/s", "entity": "Room"}, Stream)
    decoder = Decoder("test", "s", stream, CATALOG, frozenset())
    # room 1 is 0, its links and the mentioned user 1 to 3, room 2 is 4, its line 5
    found = [decoder.raw_of(one, ordinal) for ordinal in range(7)]
    assert found == [first, first, first, first, second, second, None]


def test_ordinals_are_the_same_whether_records_are_read_whole_or_in_part() -> None:
    good, bad = {"id": 1, "name": "a", "extra": None}, {"id": 2, "name": "too long", "extra": None}
    body = msgspec.json.encode([good, bad, {"id": 3}, bad, good])
    stream = msgspec.convert({"path": "/s", "entity": "User"}, Stream)
    decoder = Decoder("test", "s", stream, CATALOG, frozenset())
    batch = decode({"path": "/s", "entity": "User"}, page(1, "s", body))
    assert [one.ordinal for one in batch.letters] == [1, 3]
    assert decoder.raw_of(page(1, "s", body), 3) == msgspec.json.encode(bad)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"NaN", b'["\xff"]', b'"\\ud800"', b"<html>", b"[" * 100_000],
    ids=["empty", "cut", "NaN", "not UTF-8", "a lone surrogate", "HTML", "nested too deep"],
)
def test_a_page_that_is_no_json_is_quarantined_whole_and_its_neighbours_load(body: bytes) -> None:
    stream = {"path": "/s", "entity": "Room"}
    batch = decode(stream, page(1, "s", [{"id": 1}]), page(2, "s", body), page(3, "s", [{"id": 3}]))
    assert batch.quarantined == {2}
    assert (letter(batch).stamp, letter(batch).ordinal, letter(batch).raw) == (2, -1, body)
    assert [key for key, _ in stated(batch, "rooms")] == [1, 3]
    assert batch.records == 2


@pytest.mark.parametrize("odd", [b"NaN", b"-Infinity", b"1e999", b'"\\udcff"', b'{"x": ["\\ud800"]}'])
def test_what_json_has_no_word_for_makes_a_letter_of_its_record_alone(odd: bytes) -> None:
    body = b'[{"id": 1, "name": "\xc3\xa9"}, {"id": 2, "extra": ' + odd + b'}, {"id": 3}]'
    batch = decode({"path": "/s", "entity": "Room"}, page(1, "s", body))
    assert [key for key, _ in stated(batch, "rooms")] == [1, 3]
    assert (letter(batch).ordinal, letter(batch).key, batch.rejected) == (1, None, 1)
    assert b'"id":' in letter(batch).raw
    assert not batch.quarantined


def test_json_nested_to_any_depth_makes_letters_and_never_stops_the_load() -> None:
    stream = {"path": "/s", "entity": "User"}
    limit = sys.getrecursionlimit()
    for depth in range(limit - 120, limit + 10):
        deep = b"[" * depth + b"]" * depth
        body = b'[{"id": 1, "name": null, "extra": ' + deep + b'}, {"id": 2, "name": null, "extra": 1}]'
        batch = decode(stream, page(1, "s", body))
        assert batch.quarantined or len(stated(batch, "users")) + len(batch.letters) == 2


def test_a_page_without_the_path_has_no_records() -> None:
    batch = decode({"path": "/s", "entity": "Room", "records": "data.items"}, page(1, "s", {"data": []}))
    assert (batch.records, batch.letters) == (0, [])
