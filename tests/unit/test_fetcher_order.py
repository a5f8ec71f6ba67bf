"""Labels put the records of many walks into the server's own order, however the walks were cut up."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.types import LABEL, Request
from tests.unit.fetching import PAGING, Lab, page_of

kills = st.one_of(st.none(), st.integers(0, 5))
syncs = st.tuples(st.just("sync"), kills, kills)

CHAT = {
    "sync": {
        "path": "/sync",
        "records": "rooms.*.events",
        "paginate": {"kind": "cursor", "next": "next", "param": "since", "tail": True},
        "opens": {
            "stream": "history",
            "at": "rooms.*",
            "when": "limited",
            "from": "before",
            "to": "$since",
            "partition": {"room": "$1"},
        },
    },
    "history": {
        "path": "/rooms/{room}/history",
        "query": {"dir": "b", "to": "{until}"},
        "order": "newest-first",
        "paginate": {"kind": "cursor", "next": "end", "param": "from"},
    },
}


class Chat:
    """Events of rooms in one order; a sync shows a room's newest few, and where to read on before them."""

    def __init__(self, shown: int, limit: int) -> None:
        self.shown, self.limit = shown, limit
        self.events: list[tuple[int, str]] = []

    def write(self, room: int, count: int) -> None:
        self.events += [(len(self.events) + place + 1, f"room{room}") for place in range(count)]

    def __call__(self, request: Request, query: dict[str, str]) -> Any:
        if request.path == "/sync":
            return self._sync(int(query.get("since", "s0")[1:]))
        room = request.path.split("/")[2]
        before, after = int(query["from"][1:]), int(query.get("to", "s0")[1:])
        due = [number for number, name in reversed(self.events) if name == room and after < number < before]
        end = {"end": f"t{due[self.limit - 1]}"} if len(due) > self.limit else {}
        return {"data": [{"id": number} for number in due[: self.limit]], **end}

    def _sync(self, since: int) -> Any:
        rooms: dict[str, Any] = {}
        for room in {name for number, name in self.events if number > since}:
            news = [number for number, name in self.events if name == room and number > since]
            events = [{"id": number} for number in news[-self.shown :]]
            rooms[room] = {
                "events": events,
                "limited": len(news) > self.shown,
                "before": f"t{events[0]['id']}",
            }
        return {"next": f"s{len(self.events)}", "rooms": rooms}


def positions(lab: Lab, path: Any) -> dict[tuple[str, Any], int]:
    """Where each record stands by the last page that says so, as the loader counts: by room and id."""
    stand: dict[tuple[str, Any], int] = {}
    for _, _, envelope, body in lab.log.pages:
        seam = envelope.covered.seam if envelope.covered else None
        down = lab.source.source.streams[envelope.stream].order == "newest-first"
        for index, (room, record) in enumerate(path(envelope, msgspec.json.decode(body))):
            if seam is None or index < seam:
                within = LABEL - 1 - index if down else index
                stand[room, record["id"]] = envelope.label * LABEL + within
    return stand


def of_chat(envelope: Any, page: Any) -> list[tuple[str, Any]]:
    if envelope.stream == "sync":
        return [(room, event) for room, one in page["rooms"].items() for event in one["events"]]
    room = msgspec.json.decode(envelope.partition)["room"]
    return [(room, event) for event in page["data"]]


@settings(max_examples=150)
@given(
    shown=st.integers(1, 3),
    limit=st.integers(1, 3),
    plan=st.lists(
        st.one_of(st.tuples(st.just("write"), st.integers(0, 2), st.integers(1, 9)), syncs), max_size=14
    ),
    concurrency=st.integers(1, 3),
)
async def test_a_tail_and_the_histories_it_opens_have_every_event_in_the_servers_order(
    shown: int, limit: int, plan: list[Any], concurrency: int
) -> None:
    upstream = Chat(shown, limit)
    lab = Lab(CHAT, upstream, concurrency=concurrency)
    for name, *arguments in plan:
        if name == "write":
            upstream.write(*arguments)
        else:
            await lab.sync(kill_at=arguments[0], kill_after=arguments[1])
    await lab.whole()
    stand = positions(lab, of_chat)
    for room in {name for _, name in upstream.events}:
        inside = [number for number, name in upstream.events if name == room]
        assert sorted(inside, key=lambda number: stand[room, number]) == inside
    assert lab.repeated() == []
    assert lab.fetcher.gaps() == []
    await lab.whole()
    assert lab.paths == [f"/sync?since=s{len(upstream.events)}"] if upstream.events else True


@settings(max_examples=150)
@given(
    limit=st.integers(1, 4),
    plan=st.lists(st.one_of(st.tuples(st.just("insert"), st.integers(1, 9)), syncs), max_size=14),
)
async def test_a_newest_first_listing_has_every_record_in_the_servers_order(
    limit: int, plan: list[Any]
) -> None:
    records: list[dict[str, Any]] = []
    lab = Lab(
        {"things": {"path": "/things", "order": "newest-first", "paginate": PAGING["cursor"]}},
        lambda _, query: page_of(records, query, paging="cursor", limit=limit),
    )
    for name, *arguments in plan:
        if name == "insert":
            records[:0] = [{"id": len(records) + place} for place in range(arguments[0], 0, -1)]
        else:
            await lab.sync(kill_at=arguments[0], kill_after=arguments[1])
    await lab.whole()
    stand = positions(lab, lambda _, page: [("", record) for record in page["data"]])
    order = [record["id"] for record in records]
    assert sorted(order, key=lambda id: -stand["", id]) == order
