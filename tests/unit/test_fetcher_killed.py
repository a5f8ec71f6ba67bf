"""Whatever grows upstream and wherever the process dies: in the end it is all staged, and nothing twice."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.types import Request
from tests.unit.fetching import PAGING, Lab, at, page_of

#: seconds by which a record may come late: less than `settle`
LATE = 50

#: kinds of streams, with the value by which the server sorts, newest first
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "down to a time": (
        "created_at",
        {"order": "newest-first", "key": "created_at", "changes": "append-only"},
    ),
    "down to a number": ("seq", {"order": "newest-first", "key": "seq", "changes": "append-only"}),
    "down to an id": ("seq", {"order": "newest-first", "changes": "append-only"}),
    "since a time": ("created_at", {"since": {"param": "since", "key": "created_at", "strict": True}}),
    "all of it": ("seq", {}),
}


class Growing:
    """A listing, newest first, whose records come in at the top, or a little late below it."""

    def __init__(self, sorted_by: str, paging: str, limit: int) -> None:
        self.sorted_by, self.paging, self.limit = sorted_by, paging, limit
        self.records: list[dict[str, Any]] = []
        self.clock = 100

    def insert(self, count: int, apart: int, late: int) -> None:
        for _ in range(count):
            self.clock += apart
            seq = len(self.records) + 1
            self.records.append({"id": f"r{seq}", "seq": seq, "created_at": at(self.clock - late)})

    def __call__(self, request: Request, query: dict[str, str]) -> Any:
        records = sorted(self.records, key=lambda one: (one[self.sorted_by], one["seq"]), reverse=True)
        if "since" in query:
            records = [record for record in records if record["created_at"] > query["since"]]
        return page_of(records, query, paging=self.paging, limit=self.limit)


inserts = st.tuples(
    st.just("insert"), st.integers(1, 12), st.sampled_from([0, 1, 40, 500]), st.integers(0, LATE)
)
#: requests, or staged pages, after which the run dies
kills = st.one_of(st.none(), st.integers(0, 6))
syncs = st.tuples(st.just("sync"), kills, kills)


@settings(max_examples=60)
@pytest.mark.parametrize("paging", PAGING)
@pytest.mark.parametrize("kind", KINDS)
@given(limit=st.integers(1, 5), plan=st.lists(st.one_of(inserts, syncs), max_size=14))
async def test_killed_anywhere_nothing_is_lost_and_no_cursor_is_asked_twice(
    paging: str, kind: str, limit: int, plan: list[Any]
) -> None:
    sorted_by, stated = KINDS[kind]
    upstream = Growing("seq" if paging == "keyset" else sorted_by, paging, limit)
    if paging == "keyset" and sorted_by != "seq":
        stated = {**stated, "settle": "5m"}
    lab = Lab({"things": {"path": "/things", "paginate": PAGING[paging], **stated}}, upstream)
    for name, *arguments in plan:
        if name == "insert":
            upstream.insert(*arguments)
        else:
            await lab.sync(kill_at=arguments[0], kill_after=arguments[1])
    await lab.whole()
    if kind == "all of it":
        # what came in while a listing lay unfinished is on its first pages, which are read next time
        await lab.whole()
    assert set(lab.log.ids("things")) == {record["id"] for record in upstream.records}
    assert lab.repeated() == []
    assert lab.fetcher.gaps() == []


ROOMS = {
    "rooms": {"path": "/rooms", "paginate": PAGING["page"]},
    "messages": {
        "each": "rooms",
        "path": "/rooms/{rooms.id}/messages",
        "order": "newest-first",
        "key": "seq",
        "unchanged": "last",
        "changes": "append-only",
        "paginate": PAGING["cursor"],
    },
    "reactions": {
        "each": "messages",
        "path": "/rooms/{rooms.id}/messages/{messages.id}/reactions",
        "when": "reactions",
    },
}


class Rooms:
    """Rooms with messages, some of them with reactions; a room says which message is its last."""

    def __init__(self) -> None:
        self.rooms: dict[str, list[dict[str, Any]]] = {}

    def write(self, room: int, count: int) -> None:
        messages = self.rooms.setdefault(f"room{room}", [])
        for _ in range(count):
            seq = len(messages) + 1
            messages.insert(0, {"id": f"m{seq}", "seq": seq, "reactions": seq % 3 == 0})

    def __call__(self, request: Request, query: dict[str, str]) -> Any:
        _, _, *path = request.path.split("/")
        if not path:
            rooms = [{"id": id, "last": one[0]["id"] if one else None} for id, one in self.rooms.items()]
            return page_of(rooms, query, paging="page", limit=2)
        if path[-1] == "reactions":
            return {"data": [{"id": f"{path[0]} {path[2]}"}]}
        return page_of(self.rooms[path[0]], query, paging="cursor", limit=3)

    @property
    def expected(self) -> set[tuple[str, str]]:
        return {(room, message["id"]) for room, messages in self.rooms.items() for message in messages}


writes = st.tuples(st.just("write"), st.integers(0, 4), st.integers(0, 8))


@settings(max_examples=150)
@given(
    plan=st.lists(st.one_of(writes, st.tuples(st.just("sync"), kills, kills)), max_size=14),
    concurrency=st.integers(1, 4),
)
async def test_killed_anywhere_every_room_is_whole_in_the_end(plan: list[Any], concurrency: int) -> None:
    upstream = Rooms()
    lab = Lab(ROOMS, upstream, concurrency=concurrency)
    for name, *arguments in plan:
        if name == "write":
            upstream.write(*arguments)
        else:
            await lab.sync(kill_at=arguments[0], kill_after=arguments[1])
    await lab.whole()
    await lab.whole()
    staged = {
        (msgspec.json.decode(envelope.partition)["rooms.id"], record["id"])
        for _, _, envelope, body in lab.log.pages
        if envelope.stream == "messages"
        for record in msgspec.json.decode(body)["data"]
    }
    assert staged == upstream.expected
    reacted = {f"{room} {id}" for room, id in upstream.expected if int(id[1:]) % 3 == 0}
    assert set(lab.log.ids("reactions")) == reacted
    assert lab.repeated() == []
    assert lab.fetcher.gaps() == []
    report = await lab.whole("rooms", "messages")
    # nothing has changed: the rooms are listed, and no room is asked
    assert [path for path in lab.paths if "messages" in path] == []
    assert report.skipped == len(upstream.rooms)
