"""A page's body without what its records say of one row: what goes, and what other rows need of it."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec
import pytest
from sqlalchemy import JSON, ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from ingest.catalog import read_catalog
from ingest.load.decoders import Decoders
from ingest.load.erasing import Reduced
from ingest.mirror import Mirror, complete, field
from ingest.source import Source
from ingest.types import FOREVER, HIGHEST_VERSION, Erasure, Key, Walk
from tests.harness import page


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True, info=field("ids.main"))
    name: Mapped[str | None] = mapped_column(String(30))
    city: Mapped[str | None] = mapped_column(info=field("home.city"))


class Event(Base):
    __tablename__ = "events"
    __mirror__ = Mirror(version="rev", redacts="voids")
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str | None]
    rev: Mapped[int | None]
    voids: Mapped[int | None]
    raw: Mapped[Any | None] = mapped_column(JSON, info=field("content"))
    sender_id: Mapped[int | None] = mapped_column(ForeignKey("people.id"))
    sender_city: Mapped[str | None] = mapped_column(info=field("sender.home.city"))
    sender: Mapped[Person | None] = relationship()


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    rev: Mapped[int | None]
    text: Mapped[str | None]
    lines: Mapped[list[Line]] = relationship(info=complete())
    __mirror__ = Mirror(version="rev")


class Line(Base):
    __tablename__ = "lines"
    note_id: Mapped[int] = mapped_column(ForeignKey("notes.id"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)
    words: Mapped[str | None]


SOURCE = msgspec.convert(
    {
        "streams": {
            "people": {"path": "/people", "entity": "Person"},
            "events": {
                "path": "/events",
                "records": "data",
                "entity": {"by": "meta.kind", "both": ["Event", "Note"], "event": "Event"},
            },
            "notes": {"path": "/notes", "entity": "Note"},
        }
    },
    Source,
)
DECODERS = Decoders({"test": SOURCE}, read_catalog([sys.modules[__name__]]))
ADA = {"ids": {"main": 1, "old": "A-1"}, "name": "Ada", "home": {"city": "London", "street": "S"}, "x": [1]}
ADAS_KEY = {"ids": {"main": 1}}


def without(stream: str, records: Any, table: str, key: Key, **envelope: Any) -> Reduced:
    return DECODERS.reduced(page(7, stream, records, **envelope), table, key)


def left(stream: str, records: Any, table: str, key: Key) -> Any:
    """What is left of a page; erased once more, nothing else goes."""
    body = without(stream, records, table, key).body
    assert body is not None
    assert without(stream, body, table, key).body is None
    return json.loads(body)


def test_a_record_keeps_what_states_its_key_and_nothing_else() -> None:
    bob = {**ADA, "ids": {"main": 2}}
    assert left("people", [ADA, bob], "people", (1,)) == [ADAS_KEY, bob]
    found = without("people", [ADA, bob], "people", (1,))
    assert (found.records, found.read) == (1, True)
    assert set(map(str, found.said)) == {"A-1", "Ada", "{'city': 'London', 'street': 'S'}", "[1]"}


def test_a_page_without_the_row_stays_as_it_is() -> None:
    assert without("people", [ADA], "people", (2,)) == Reduced()
    assert without("people", [ADAS_KEY], "people", (1,)) == Reduced(records=1)


def test_a_nested_record_keeps_what_the_one_around_it_takes() -> None:
    record = {"id": 5, "meta": {"kind": "event"}, "sender": ADA, "content": {"by": "Ada"}}
    (event,) = left("events", {"data": [record]}, "people", (1,))["data"]
    assert event == {**record, "sender": {**ADAS_KEY, "home": {"city": "London"}}}


def test_the_one_around_it_keeps_what_is_nested_its_kind_and_what_it_redacts() -> None:
    meta = {"kind": "event", "by": "Ada"}
    record = {"id": 5, "meta": meta, "sender": ADA, "content": {"a": "b"}, "voids": 4, "rev": 3, "more": "x"}
    (event,) = left("events", {"data": [record]}, "events", (5,))["data"]
    assert event == {"id": 5, "meta": {"kind": "event"}, "sender": ADA, "voids": 4}


def test_what_another_row_takes_of_the_same_record_stays() -> None:
    record = {
        "id": 5,
        "meta": {"kind": "both"},
        "rev": 3,
        "text": "hello",
        "content": {"a": "b"},
        "kind": "k",
    }
    (event,) = left("events", {"data": [record]}, "events", (5,))["data"]
    assert event == {"id": 5, "meta": {"kind": "both"}, "rev": 3, "text": "hello"}
    (note,) = left("events", {"data": [record]}, "notes", (5,))["data"]
    assert note == {name: value for name, value in record.items() if name != "text"}


def test_rows_keyed_by_their_place_are_found_and_lists_keep_what_ranks_them() -> None:
    note = {"id": 5, "rev": 3, "text": "hello", "lines": [{"words": "a"}, {"words": "b"}]}
    (reduced,) = left("notes", [note], "lines", (5, 1))
    assert reduced == {**note, "lines": [{"words": "a"}, {}]}
    (reduced,) = left("notes", [note], "notes", (5,))
    assert reduced == {"id": 5, "rev": 3, "lines": note["lines"]}


@pytest.mark.parametrize(
    "record",
    [
        {"id": "none", "meta": {"kind": "event"}, "sender": ADA},
        {"id": 5, "meta": {"kind": "event"}, "sender_id": 9, "sender": ADA},
        {"id": 5, "meta": {"kind": "event"}, "sender": {**ADA, "name": "A" * 31}},
    ],
)
def test_what_is_set_aside_is_looked_into(record: dict[str, Any]) -> None:
    (event,) = left("events", {"data": [record]}, "people", (1,))["data"]
    assert event == {**record, "sender": {**ADAS_KEY, "home": {"city": "London"}}}


def test_a_record_that_is_set_aside_is_known_by_its_key() -> None:
    assert left("people", [{**ADA, "name": "A" * 31}], "people", (1,)) == [ADAS_KEY]
    lines = [{"words": 5}]
    assert left("notes", [{"id": 5, "lines": lines}], "lines", (5, 0)) == [{"id": 5, "lines": [{}]}]
    note = {"id": 5, "rev": "none", "lines": lines}
    assert left("notes", [note], "lines", (5, 0)) == [{**note, "lines": [{}]}]


def test_what_json_has_no_word_for_is_written_as_it_was_read() -> None:
    odd = b'{"ids": {"main": 2}, "name": "\\udc00", "x": [NaN, -Infinity, 1e999, 98765432109876543210987]}'
    mine = b'{"ids": {"main": 1}, "name": "\\ud800", "y": NaN}'
    body = without("people", b"[" + odd + b"," + mine + b"]", "people", (1,)).body
    assert body is not None
    other, reduced = json.loads(body)
    assert (repr(other), reduced) == (repr(json.loads(odd)), ADAS_KEY)


def test_every_other_statement_keeps_its_ordinal_and_its_values() -> None:
    events = [
        {"id": 5, "meta": {"kind": "both"}, "rev": 3, "text": "hello", "sender": ADA, "kind": "k"},
        {"id": 6, "meta": {"kind": "event"}, "sender": ADA, "content": {"deep": ADA}, "voids": 5},
        {"id": 5, "meta": {"kind": "event"}, "rev": 9, "sender": {**ADA, "ids": {"main": 2}}},
    ]
    whole = page(7, "events", {"data": events})
    for table, key in (("people", (1,)), ("events", (5,)), ("notes", (5,))):
        reduced = without("events", {"data": events}, table, key)
        ours, theirs = said(whole, table, key), said(page(7, "events", reduced.body), table, key)
        assert ours == theirs
        assert ours


def said(whole: Any, table: str, key: Key) -> list[Any]:
    """What a page says of all rows but one."""
    batch = DECODERS.decode([whole])
    full = [(name, of, row) for name, rows in batch.full.items() for of, row in rows.items()]
    part = [(name, of, said) for name, rows in batch.partial.items() for of, said in rows.items()]
    buried = [(name, of, one) for name, rows in batch.tombstones.items() for of, one in rows.items()]
    return sorted((one for one in [*full, *part, *buried] if one[:2] != (table, key)), key=repr)


@pytest.mark.parametrize("body", [b"", b"{", b'"text"', b"\xff"])
def test_what_cannot_be_read_is_told_apart(body: bytes) -> None:
    assert without("people", body, "people", (1,)) == Reduced(read=body == b'"text"')


def test_the_body_of_an_error_says_nothing_of_any_row() -> None:
    assert without("people", [ADA], "people", (1,), status=410) == Reduced(read=False)


def erasure(table: str, *key: Any) -> Any:
    said = msgspec.json.encode(Erasure(table=table, key=key))
    return page(9, "people", said, walk=Walk(id="w", kind="erased"))


def test_an_erasure_is_a_tombstone_that_nothing_is_a_match_for() -> None:
    batch = DECODERS.decode([erasure("people", 1), page(12, "people", [ADA])])
    (tombstone,) = batch.tombstones["people"].values()
    assert (tombstone.version, tombstone.stamp, tombstone.proof) == (HIGHEST_VERSION, FOREVER, "erased 9")
    assert DECODERS.raw_of(erasure("people", 1), 0) is None
    assert DECODERS.reduced(erasure("people", 1), "people", (1,)) == Reduced()


@pytest.mark.parametrize("page", [erasure("nowhere", 1), erasure("people", 1, 2)])
def test_an_erasure_that_the_models_know_nothing_of_is_set_aside(page: Any) -> None:
    batch = DECODERS.decode([page])
    assert batch.quarantined == {9}
    assert [letter.reason for letter in batch.letters] == [
        "it erases a row by a table or a key that the models do not have"
    ]
