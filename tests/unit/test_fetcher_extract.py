"""What is read out of a page without knowing what it means."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from ingest.errors import AuthFailed, BadAnswer
from ingest.fetch.body import NotJson, decode
from ingest.fetch.crew import Crew
from ingest.fetch.extract import Found, found_at, opened, record_id, records, revealed, rules, unread
from ingest.types import Child, Read, read_json
from tests.unit.fetching import configured


@pytest.mark.parametrize(
    ("path", "page", "found"),
    [
        ("$", [1, 2], [(1, ()), (2, ())]),
        ("", {"id": 1}, [({"id": 1}, ())]),
        ("data", {"data": [{"id": 1}]}, [({"id": 1}, ())]),
        ("data", {"data": {"id": 1}}, [({"id": 1}, ())]),
        ("data", {"data": None}, []),
        ("rooms.*.events", {"rooms": {"a": {"events": [1, 2]}, "b": {}}}, [(1, ("a",)), (2, ("a",))]),
        ("rooms.*", {"rooms": {"a": 1, "b": [2, 3]}}, [(1, ("a",)), (2, ("b",)), (3, ("b",))]),
    ],
)
def test_records_are_what_the_path_leads_to(path: str, page: Any, found: Any) -> None:
    stream = configured({"s": {"path": "/s", "records": path}}).source.streams["s"]
    assert records(stream, page) == [Found(*one) for one in found]


@pytest.mark.parametrize(
    ("path", "page"),
    [("data", {}), ("data", "data"), ("a.data", {"a": []}), ("rooms.*.events", {}), ("0", [])],
)
def test_an_answer_without_the_path_is_an_error_unless_it_may_be_absent(path: str, page: Any) -> None:
    stream = configured({"s": {"path": "/s", "records": path}}).source.streams["s"]
    with pytest.raises(BadAnswer, match="has no `"):
        records(stream, page)
    assert records(msgspec.structs.replace(stream, absent="empty"), page) == []


@pytest.mark.parametrize(
    ("record", "id"),
    [({"id": 7}, "7"), ({"id": "x"}, "x"), ("x", "x"), (7, "7"), ({}, None), ({"id": True}, None)],
)
def test_a_bare_value_is_its_own_id(record: Any, id: str | None) -> None:
    stream = configured({"s": {"path": "/s"}}).source.streams["s"]
    assert record_id(stream, record) == id


def test_the_last_record_of_a_page_says_how_its_partition_is() -> None:
    streams = {"a": {"path": "/a"}, "b": {"each": "a", "path": "/{a.id}", "unchanged": "n", "when": "on"}}
    source = configured(streams).source
    found = [
        Found({"id": 1, "n": 5, "on": True}, ()),
        Found({"id": 2, "n": None, "on": True}, ()),
        Found({"id": 3, "on": True}, ()),
        Found({"id": 1, "n": 6, "on": False}, ()),
        Found({"id": {"not": "a scalar"}, "on": True}, ()),
    ]
    assert revealed(rules(source, "a"), {"z": 0}, found) == [
        Child(stream="b", partition='{"a.id":1,"z":0}', closed=True),
        # null is a value, and what is absent says nothing
        Child(stream="b", partition='{"a.id":2,"z":0}', unchanged="null"),
        Child(stream="b", partition='{"a.id":3,"z":0}'),
    ]


def test_a_page_opens_walks_with_what_it_was_asked_with_and_what_it_shows() -> None:
    opens = {
        "stream": "b",
        "at": "rooms.*.*",
        "when": "limited",
        "from": "before",
        "to": "$since",
        "partition": {"kind": "$1", "room": "$2", "org": "$partition.org"},
    }
    streams = {"a": {"path": "/a", "opens": opens}, "b": {"path": "/{room}"}}
    stream = configured(streams).source.streams["a"]
    page = {
        "rooms": {
            "join": {"r1": {"limited": True, "before": "t1"}, "r2": {"limited": False, "before": "t2"}},
            "leave": {"r3": {"limited": True}, "r4": {"limited": True, "before": "t4"}},
        }
    }
    shown = [
        ('{"kind":"join","org":1,"room":"r1"}', '"t1"', '"s9"'),
        # not limited, or with nowhere to begin: in sight, and no walk
        ('{"kind":"join","org":1,"room":"r2"}', None, None),
        ('{"kind":"leave","org":1,"room":"r3"}', None, '"s9"'),
        ('{"kind":"leave","org":1,"room":"r4"}', '"t4"', '"s9"'),
    ]
    assert list(opened(stream, page, '"s9"', {"org": 1})) == [
        Child(stream="b", partition=place, opened=True, start=start, until=until)
        for place, start, until in shown
    ]
    assert {child.until for child in opened(stream, page, None, {"org": 1})} == {None}
    # without what it needs there is no partition
    assert list(opened(stream, page, None, {})) == []


async def test_the_error_that_stops_the_run_is_told_before_what_it_brought_about() -> None:
    async def do(job: int) -> None:
        if job == 1:
            await asyncio.sleep(0)
            raise ValueError("the other")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise AuthFailed from None

    with pytest.raises(AuthFailed):
        await Crew[int](2, do).work([lambda: [1, 2]])


@pytest.mark.parametrize("path", ["", "data", "a.data", "b.c"])
@pytest.mark.parametrize(
    "body",
    [
        b'[{"id": 1}, {"id": 2}]',
        b'{"data": [{"id": 1}, 2, null, "\\ud83d\\ude00"], "next": {"a": [1.5]}}',
        b'{"a": {"data": [{}], "total": 3}, "data": {"x": 1}, "b": {"c": {"d": 1}}}',
        b'{"data": null}',
        b"{}",
        b"3",
        b'{"data": ["\xff"]}',
        b'{"data": ["\\ud800"]}',
        b'{"data": ["\\uD800"]}',
        b'{"data": [NaN]}',
        b'{"data": [01]}',
        b'{"data": [{"a": 1,}]}',
        b'{"data": ["a\nb"]}',
        b'{"data": [{}]',
        b'{"data": [{}]} x',
        b"",
    ],
)
def test_what_is_left_unread_is_counted_the_same_and_refused_the_same(path: str, body: bytes) -> None:
    def told(read: Read) -> Any:
        try:
            json = decode(body, read)
        except NotJson as error:
            return error.cut
        beside = (
            {key: value for key, value in json.items() if key not in ("a", "b", "data")}
            if isinstance(json, dict)
            else None
        )
        return len(found_at(path, json)), beside

    assert told(unread(path)) == told(read_json)
