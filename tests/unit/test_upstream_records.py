"""A row is told as the models say that a record holds it, in whatever dialect."""

from __future__ import annotations

import base64
import enum
import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from ingest.errors import ConfigError
from ingest.mirror import UtcDateTime, field, ignore
from ingest.source import Source
from tests.upstream import Dialect, Truth, Upstream, example, generate
from tests.upstream.api import Api
from tests.upstream.dialect import put

NOON = datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
ANNA, BERT = UUID(int=1), UUID(int=2)
#: larger than a float can hold
CONVERSATION, MESSAGE = 2**53 + 1, 2**60 + 7


def user(id: UUID, **columns: Any) -> dict[str, Any]:
    return {
        "id": id,
        "name": "Anna",
        "email": None,
        "role": example.Role.GUEST,
        "balance": Decimal("1234.50"),
        "score": 0.5,
        "active": True,
        "settings": {"a": [None, "ü"]},
        "avatar": b"\x00\xff",
        "seen_at": NOON,
        "invited_by_id": None,
        **columns,
    }


@pytest.fixture
def truth() -> Truth:
    return Truth(
        example.Base,
        {
            "users": [user(ANNA), user(BERT, name="Bert", invited_by_id=ANNA, seen_at=None)],
            "tags": [{"id": "a/b", "colour": "red"}, {"id": "c", "colour": None}],
            "conversations": [{"id": CONVERSATION, "title": "T", "owner_id": ANNA, "updated_at": NOON}],
            "conversation_tags": [{"conversation_id": CONVERSATION, "tag_id": "c"}],
            "messages": [
                {
                    "id": MESSAGE,
                    "conversation_id": CONVERSATION,
                    "sender_id": BERT,
                    "reply_to_id": None,
                    "text": "hello",
                    "created_at": NOON,
                    "updated_at": NOON,
                }
            ],
            "attachments": [{"id": UUID(int=9), "message_id": MESSAGE, "name": "f.txt", "size": 3}],
            "poll_options": [
                {"message_id": MESSAGE, "position": 1, "label": "no"},
                {"message_id": MESSAGE, "position": 0, "label": "yes"},
            ],
        },
    )


def told(truth: Truth, stream: str, *key: Any, source: Source | None = None, **dialect: Any) -> Any:
    source = source or example.source()
    api = Api(source, truth, Dialect(**dialect))
    entity = source.streams[stream].entity
    assert isinstance(entity, str)
    record = api.record(source.streams[stream], truth.models.entities[entity].table, key)
    return msgspec.json.decode(msgspec.json.encode(record))


def test_every_column_stands_at_its_path_or_under_its_name(truth: Truth) -> None:
    assert told(truth, "users", BERT) == {
        "id": str(BERT),
        "profile": {"display_name": "Bert"},
        "email": None,
        "role": "guest-user",
        "balance": "1234.50",
        "score": 0.5,
        "active": True,
        "settings": {"a": [None, "ü"]},
        "avatar": base64.b64encode(b"\x00\xff").decode(),
        "seen_at": None,
        "invited_by_id": str(ANNA),
    }


def test_an_api_in_camel_case_spells_names_so_but_paths_as_they_are(truth: Truth) -> None:
    record = told(truth, "users", ANNA, names="camelCase")

    assert {"seenAt", "invitedById", "profile"} <= record.keys()
    assert record["profile"] == {"display_name": "Anna"}


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ({}, "2024-05-01T12:00:00.123456Z"),
        ({"zones": "+00:00"}, "2024-05-01T12:00:00.123456+00:00"),
        ({"times": {"messages": "seconds"}}, "2024-05-01T12:00:00.123456Z"),
    ],
)
def test_times_are_told_as_text(truth: Truth, dialect: dict[str, Any], text: str) -> None:
    assert told(truth, "users", ANNA, **dialect)["seen_at"] == text


def test_mixed_zones_are_one_moment_in_several_spellings(truth: Truth) -> None:
    texts = set()
    for microsecond in range(3):
        truth.upsert("users", {"id": ANNA, "seen_at": NOON.replace(microsecond=microsecond)})
        text = told(truth, "users", ANNA, zones="mixed")["seen_at"]
        assert datetime.fromisoformat(text) == NOON.replace(microsecond=microsecond)
        texts.add(text[-6:])

    assert {text[-1] == "Z" or text for text in texts} == {True, "+00:00", "+05:30"}


@pytest.mark.parametrize(("form", "value"), [("seconds", 1714564800), ("milliseconds", 1714564800000)])
def test_times_are_told_as_numbers_where_nothing_is_lost_by_it(truth: Truth, form: Any, value: int) -> None:
    with pytest.raises(ValueError, match="resolution"):
        told(truth, "users", ANNA, times=form)

    truth.upsert("users", {"id": ANNA, "seen_at": NOON.replace(microsecond=0)})
    assert told(truth, "users", ANNA, times=form)["seen_at"] == value
    assert told(truth, "users", ANNA, times={"users": form})["seen_at"] == value


def test_big_integers_are_numbers_or_text_and_small_ones_numbers(truth: Truth) -> None:
    for form, kind in (("number", int), ("string", str)):
        record = told(truth, "messages", MESSAGE, big_integers=form)
        assert record["id"] == kind(MESSAGE)
        assert record["conversation_id"] == kind(CONVERSATION)
        assert record["options"][1]["position"] == 1


def test_a_stream_that_omits_nulls_has_no_null_keys(truth: Truth) -> None:
    streams = {**example.STREAMS, "users": {**example.STREAMS["users"], "omits": "null"}}
    record = told(truth, "users", BERT, source=example.source(streams=streams))

    assert record.keys() == {
        "id", "profile", "role", "balance", "score", "active", "settings", "avatar", "invited_by_id",
    }  # fmt: skip
    assert record["settings"] == {"a": [None, "ü"]}


def test_what_no_stream_tells_stands_nested_and_without_its_parents_key(truth: Truth) -> None:
    record = told(truth, "messages", MESSAGE)

    assert record["attachments"] == [{"id": str(UUID(int=9)), "name": "f.txt", "size": 3}]
    assert record["options"] == [{"position": 0, "label": "yes"}, {"position": 1, "label": "no"}]


def test_positions_may_be_left_to_the_place_in_the_list(truth: Truth) -> None:
    record = told(truth, "messages", MESSAGE, positions="index")

    assert record["options"] == [{"label": "yes"}, {"label": "no"}]


def test_an_association_stands_as_a_list_of_whole_records(truth: Truth) -> None:
    assert told(truth, "conversations", CONVERSATION)["tags"] == [{"id": "c", "colour": None}]


def test_what_other_streams_read_of_a_parents_record_is_in_it(truth: Truth) -> None:
    record = told(truth, "conversations", CONVERSATION)
    assert record["last_message"]["id"] == MESSAGE
    assert "last_message_id" not in record
    assert "messages_count" not in record

    truth.delete("messages", MESSAGE)
    assert told(truth, "conversations", CONVERSATION)["last_message"] is None


def test_pointers_and_counters_are_told_where_the_dialect_says_so(truth: Truth) -> None:
    record = told(truth, "conversations", CONVERSATION, derived=True)

    assert (record["last_message_id"], record["messages_count"]) == (MESSAGE, 1)


@pytest.mark.parametrize(("parents", "flat", "nested"), [("flat", 1, 0), ("nested", 0, 1), ("both", 1, 1)])
def test_a_parent_is_told_by_its_key_nested_or_both(
    truth: Truth, parents: str, flat: int, nested: int
) -> None:
    record = told(truth, "messages", MESSAGE, parents=parents)

    assert ("sender_id" in record, "sender" in record) == (flat, nested)
    assert ("conversation_id" in record, "conversation" in record) == (flat, nested)


def test_a_nested_parent_that_has_a_stream_of_its_own_is_partial(truth: Truth) -> None:
    whole = told(truth, "users", BERT)
    part = told(truth, "messages", MESSAGE, parents="nested")["sender"]

    assert part["id"] == str(BERT)
    assert {key: whole[key] for key in part} == part
    assert part.keys() < whole.keys()


def test_a_nested_parent_that_has_none_is_whole(truth: Truth) -> None:
    streams = {name: stream for name, stream in example.STREAMS.items() if name != "users"}
    part = told(truth, "messages", MESSAGE, source=example.source(streams=streams))["sender"]

    assert part == told(truth, "users", BERT)


def test_a_reference_to_nothing_is_a_null_and_keeps_its_column(truth: Truth) -> None:
    truth.upsert("messages", {"id": MESSAGE, "sender_id": None})
    record = told(truth, "messages", MESSAGE, parents="nested")

    assert (record["sender"], record["sender_id"]) == (None, None)


def test_a_concealed_parent_is_named_but_not_nested(truth: Truth) -> None:
    source = example.source()
    api = Api(source, truth, Dialect(parents="nested"))
    api.conceal("users", (BERT,))
    record = api.record(source.streams["messages"], "messages", (MESSAGE,))

    assert "sender" not in record
    assert record["sender_id"] == str(BERT)
    api.conceal("users", (BERT,), concealed=False)
    assert "sender" in api.record(source.streams["messages"], "messages", (MESSAGE,))


def test_records_may_hold_keys_that_no_column_takes(truth: Truth) -> None:
    record = told(truth, "tags", "c", extras={"new": {"deep": 1}})

    assert record == {"id": "c", "colour": None, "new": {"deep": 1}}


def test_columns_that_the_stream_sets_are_not_in_the_record(truth: Truth) -> None:
    streams = {**example.STREAMS}
    streams["messages"] = {**streams["messages"], "set": {"conversation_id": "$partition.conversations.id"}}

    assert "conversation_id" not in told(truth, "messages", MESSAGE, source=example.source(streams=streams))


def test_telling_changes_nothing_in_the_truth(truth: Truth) -> None:
    before = json.dumps({table: truth.rows(table) for table in truth.models.tables}, default=str)
    source = example.source()
    record = Api(source, truth).record(source.streams["users"], "users", (ANNA,))
    record["settings"]["a"].append("changed")  # type: ignore[index, union-attr, call-overload]

    assert json.dumps({table: truth.rows(table) for table in truth.models.tables}, default=str) == before


@pytest.mark.parametrize("dialect", [{}, {"names": "camelCase"}, {"parents": "nested", "lists": "all"}])
def test_every_row_of_a_generated_truth_is_told_by_some_stream(dialect: dict[str, Any]) -> None:
    streams = {**example.STREAMS}
    streams["users"] = {**streams["users"], "key": "id"}
    if dialect.get("names") == "camelCase":
        streams["messages"] = {**streams["messages"], "key": "createdAt", "unchanged": "lastMessage.id"}
        streams["conversations"] = {
            key: value for key, value in streams["conversations"].items() if key != "since"
        }
    source = example.source(streams=streams)
    truth = generate(example.Base, seed=1, rows=example.ROWS)

    assert Upstream(source, truth, dialect=Dialect(**dialect)).untold() == {}


def test_rows_that_nothing_leads_to_are_named() -> None:
    streams = {
        name: stream
        for name, stream in example.STREAMS.items()
        if name in ("users", "messages", "conversations")
    }
    streams["users"] = {"entity": "User", "by_id": {"path": "/users/{id}"}}
    truth = generate(example.Base, seed=1, rows=example.ROWS)
    truth.upsert("users", user(ANNA))
    untold = Upstream(example.source(streams=streams), truth).untold()

    tagged = {row["tag_id"] for row in truth.rows("conversation_tags")}
    assert untold.keys() == {"users", "tags"}
    assert untold["users"] == [(ANNA,)]
    assert {key for (key,) in untold["tags"]} == {key for (key,) in truth.keys("tags")} - tagged


# -- kinds of values and of records ------------------------------------------------------------------------


class Base(DeclarativeBase):
    """Models for what the example does not have."""


class Level(enum.IntEnum):
    """Told as a number."""

    LOW = 1


class Event(Base):
    """Its JSON holds columns of its own and of another table."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]
    content: Mapped[Any | None] = mapped_column(sa.JSON)
    sender: Mapped[str | None] = mapped_column(info=field('content."m.sender".id'))
    sent_at: Mapped[datetime | None] = mapped_column(UtcDateTime, info=field("sentTs"))


class Letter(Base):
    """What an event also is, where its type says so."""

    __tablename__ = "letters"
    id: Mapped[int] = mapped_column(ForeignKey("events.id"), primary_key=True)
    body: Mapped[str | None] = mapped_column(info=field("content.body"))
    event: Mapped[Event] = relationship(info=ignore())


class Odd(Base):
    """Values of the rarer types."""

    __tablename__ = "odds"
    id: Mapped[int] = mapped_column(primary_key=True)
    level: Mapped[Level] = mapped_column(sa.Enum(Level, native_enum=False))
    day: Mapped[date]
    hour: Mapped[time]
    span: Mapped[timedelta]
    naive: Mapped[datetime] = mapped_column(sa.DateTime(timezone=False))
    zoned: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True))


def test_values_of_every_type_are_json() -> None:
    odd = {
        "id": 1,
        "level": Level.LOW,
        "day": date(2024, 2, 29),
        "hour": time(23, 59),
        "span": timedelta(minutes=1, microseconds=500),
        "naive": datetime(2024, 1, 1, 12),
        "zoned": datetime(2024, 1, 1, 14, tzinfo=timezone(timedelta(hours=2))),
    }
    source = msgspec.convert({"streams": {"odds": {"path": "/odds", "entity": "Odd"}}}, Source)

    assert told(Truth(Base, {"odds": [odd]}), "odds", 1, source=source) == {
        "id": 1,
        "level": 1,
        "day": "2024-02-29",
        "hour": "23:59:00",
        "span": 60.0005,
        "naive": "2024-01-01T12:00:00Z",
        "zoned": "2024-01-01T12:00:00Z",
    }


EVENTS = {"path": "/events", "entity": {"by": "type", "letter": ["Event", "Letter"], "default": "Event"}}


def test_a_record_of_two_entities_has_the_columns_of_both() -> None:
    source = msgspec.convert({"streams": {"events": EVENTS}}, Source)
    truth = Truth(
        Base,
        {
            "events": [
                {"id": 1, "type": "letter", "content": {"kept": 1}, "sender": "anna", "sent_at": None},
                {"id": 2, "type": "other", "content": None, "sender": None, "sent_at": NOON},
            ],
            "letters": [{"id": 1, "body": "hello"}],
        },
    )
    api = Api(source, truth)
    letter, other = (api.record(source.streams["events"], "events", (number,)) for number in (1, 2))

    content = {"kept": 1, "m.sender": {"id": "anna"}, "body": "hello"}
    assert letter == {"id": 1, "type": "letter", "content": content, "sentTs": None}
    assert other["content"] == {"m.sender": {"id": None}}
    assert truth.rows("events")[0]["content"] == content


def test_a_row_that_fits_no_kind_of_the_stream_is_an_error() -> None:
    source = msgspec.convert(
        {"streams": {"events": {**EVENTS, "entity": {"by": "type", "letter": "Event"}}}}, Source
    )
    truth = Truth(Base, {"events": [{"id": 1, "type": "other"}]})

    with pytest.raises(ConfigError, match="'other'"):
        Api(source, truth).record(source.streams["events"], "events", (1,))


def test_the_kind_is_told_where_no_column_states_it() -> None:
    entity = {"by": "kind", "event": "Event", "odd": "Odd"}
    source = msgspec.convert({"streams": {"all": {"path": "/all", "entity": entity}}}, Source)
    truth = Truth(Base, {"events": [{"id": 1, "type": "x"}]})

    assert Api(source, truth).record(source.streams["all"], "events", (1,))["kind"] == "event"


def test_an_entity_that_the_models_do_not_define_is_an_error(truth: Truth) -> None:
    with pytest.raises(ConfigError, match="Nobody"):
        Api(example.source(streams={"x": {"path": "/x", "entity": "Nobody"}}), truth)


@pytest.mark.parametrize(
    ("path", "value", "result"),
    [
        (("a", "b"), 2, {"a": {"b": 2}}),
        (("a",), {"c": 1}, {"a": {"b": 1, "c": 1}}),
        (("a",), None, {"a": {"b": 1}}),
        (("a",), 3, {"a": 3}),
        (("x", "y"), 4, {"a": {"b": 1}, "x": {"y": 4}}),
    ],
)
def test_what_is_put_into_a_record_is_merged(path: tuple[str, ...], value: Any, result: Any) -> None:
    record: dict[str, Any] = {"a": {"b": 1}}
    put(record, path, value)

    assert record == result
