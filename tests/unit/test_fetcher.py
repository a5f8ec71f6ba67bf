"""What a fetcher asks for, stages and reports, run by run."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from ingest.errors import AuthFailed, BadAnswer, Refused, StagingConflict, UsageError
from ingest.types import Child, Covered, Request, Walk
from tests.unit.fetching import PAGING, Killed, Lab, at, page_of

MESSAGES = {
    "path": "/messages",
    "order": "newest-first",
    "key": "created_at",
    "changes": "append-only",
    "paginate": PAGING["cursor"],
}


class Messages:
    """One listing, newest first, a hundred seconds between two messages."""

    def __init__(self, count: int, limit: int = 3) -> None:
        self.limit = limit
        self.records: list[dict[str, Any]] = []
        self.write(count)
        #: cursors that the server does not take
        self.refused: dict[str, Any] = {}

    def write(self, count: int) -> None:
        for _ in range(count):
            seq = len(self.records) + 1
            self.records.insert(0, {"id": f"m{seq}", "seq": seq, "created_at": at(seq * 100)})

    def __call__(self, request: Request, query: dict[str, str]) -> Any:
        refusal = self.refused.get(query.get("cursor", "first"))
        return refusal or page_of(self.records, query, paging="cursor", limit=self.limit)


# -- a quiet upstream costs next to nothing ------------------------------------------------------------


async def test_a_newest_first_stream_without_news_costs_one_request() -> None:
    lab = Lab({"messages": MESSAGES}, Messages(10))
    await lab.whole()
    assert len(lab.paths) == 4
    await lab.whole()
    assert lab.paths == ["/messages"]


async def test_news_cost_their_pages_and_one_that_meets_known_ground() -> None:
    upstream = Messages(10)
    lab = Lab({"messages": MESSAGES}, upstream)
    await lab.whole()
    upstream.write(4)
    await lab.whole()
    assert lab.paths == ["/messages", "/messages?cursor=after-m12"]
    assert lab.log.staged("messages")[-1].covered == Covered(low=_time(900), high=_time(1100), seam=1)


def _time(seconds: int) -> str:
    return at(seconds).replace("Z", ".000000Z")


async def test_records_within_the_reread_time_are_asked_for_again() -> None:
    lab = Lab({"messages": {**MESSAGES, "changes": {"reread": "10m"}}}, Messages(20))
    await lab.whole()
    report = await lab.whole()
    # the newest is at 2000 s: everything down to 1400 s is read again, and one that is older
    assert len(lab.paths) == 3
    assert report.unseen == ("messages: changes to records older than 10m are not seen",)


async def test_a_stream_with_since_asks_for_what_came_after_the_settled_high() -> None:
    upstream = Messages(7)
    since = {"param": "updated_after", "key": "created_at", "strict": True}
    stream = {"path": "/messages", "since": since, "paginate": PAGING["cursor"]}

    def serve(request: Request, query: dict[str, str]) -> Any:
        after = query.get("updated_after", "")
        records = [record for record in upstream.records if record["created_at"] > after]
        return page_of(records, query, paging="cursor", limit=3)

    lab = Lab({"messages": stream}, serve)
    await lab.whole()
    assert lab.paths == ["/messages", "/messages?cursor=after-m5", "/messages?cursor=after-m2"]
    await lab.whole()
    # 700 s less a minute to settle, and a moment because the server means "later than"
    assert lab.paths == ["/messages?updated_after=2024-01-01T00:10:39.999999Z"]
    upstream.write(5)
    await lab.whole()
    assert [path.partition("?")[2].partition("&")[0] for path in lab.paths] == [
        "updated_after=2024-01-01T00:10:39.999999Z"
    ] * 2


async def test_that_nothing_came_since_does_not_make_us_forget_since_when() -> None:
    upstream = Messages(1)
    since = {"param": "since", "key": "created_at"}
    lab = Lab({"messages": {"path": "/messages", "since": since, "paginate": PAGING["cursor"]}}, upstream)
    await lab.whole()
    upstream.records.clear()
    for _ in range(2):
        await lab.whole()
        assert lab.paths == ["/messages?since=2024-01-01T00:00:40Z"]


async def test_a_tail_goes_on_from_its_last_cursor() -> None:
    events = ["a", "b", "c"]

    def serve(request: Request, query: dict[str, str]) -> Any:
        start = int(query.get("since", "0"))
        some = events[start : start + 2]
        return {"data": [{"id": id} for id in some], "next": str(start + len(some))}

    lab = Lab(
        {"events": {"path": "/events", "paginate": {**PAGING["cursor"], "param": "since", "tail": True}}},
        serve,
    )
    await lab.whole()
    assert lab.paths == ["/events", "/events?since=2", "/events?since=3"]
    events.append("d")
    await lab.whole()
    assert lab.paths == ["/events?since=3", "/events?since=4"]
    await lab.whole()
    assert lab.paths == ["/events?since=4"]


async def test_a_listing_without_order_is_read_whole_each_time() -> None:
    lab = Lab(
        {"things": {"path": "/things", "paginate": PAGING["page"]}},
        lambda _, query: page_of([{"id": id} for id in range(5)], query, paging="page", limit=2),
    )
    for _ in range(2):
        report = await lab.whole()
        assert lab.paths == ["/things?page=1", "/things?page=2", "/things?page=3"]
        assert (report.requests, report.pages, report.records, report.unseen) == (3, 3, 5, ())


# -- children ------------------------------------------------------------------------------------------


class Rooms:
    """Rooms, and the messages of each."""

    def __init__(self, **rooms: int) -> None:
        self.rooms = {name: Messages(count) for name, count in rooms.items()}
        #: what a room says of itself besides
        self.said: dict[str, dict[str, Any]] = {name: {} for name in rooms}
        self.answers: dict[str, Any] = {}
        self.per_page = 100

    def listed(self) -> list[dict[str, Any]]:
        return [
            {"id": name, "last": room.records[0]["id"] if room.records else None, **self.said[name]}
            for name, room in self.rooms.items()
        ]

    def __call__(self, request: Request, query: dict[str, str]) -> Any:
        if request.path in self.answers:
            answer = self.answers[request.path]
            return answer(query) if callable(answer) else answer
        if request.path == "/rooms":
            return page_of(self.listed(), query, paging="page", limit=self.per_page)
        return self.rooms[request.path.split("/")[2]](request, query)


ROOMS = {
    "rooms": {"path": "/rooms", "paginate": PAGING["page"]},
    "messages": {**MESSAGES, "each": "rooms", "path": "/rooms/{rooms.id}/messages"},
}
QUIET = {**ROOMS, "messages": {**ROOMS["messages"], "unchanged": "last"}}


async def test_a_partition_is_skipped_while_its_parents_value_stays_the_same() -> None:
    upstream = Rooms(a=2, b=2, c=0)
    lab = Lab(QUIET, upstream)
    await lab.whole()
    upstream.rooms["b"].write(1)
    report = await lab.whole()
    assert lab.paths == ["/rooms?page=1", "/rooms/b/messages"]
    assert report.skipped == 2
    assert report.unseen == (
        "messages: taken as append-only; changes to records fetched before are not seen",
        "messages: 2 partitions skipped; changes that leave last as it was are not seen",
    )


async def test_without_such_a_value_every_known_partition_is_asked() -> None:
    upstream = Rooms(a=1, b=1)
    lab = Lab(
        {**ROOMS, "rooms": {**ROOMS["rooms"], "since": {"param": "since", "key": "last", "format": "value"}}},
        upstream,
    )
    await lab.whole()
    # the listing shows only what changed, and a room that is not in it may have news
    upstream.answers["/rooms"] = {"data": [], "more": False}
    report = await lab.whole()
    assert sorted(lab.paths)[1:] == ["/rooms/b/messages", "/rooms?since=m1&page=1"]
    assert report.skipped == 0


async def test_a_partition_that_gave_up_is_due_again_though_its_parent_is_not_listed() -> None:
    upstream = Rooms(a=1)
    upstream.answers["/rooms/a/messages"] = BadAnswer("cut short")
    lab = Lab(QUIET, upstream)
    report = await lab.sync()
    assert report is not None
    assert [(one.stream, one.partition, one.cause) for one in report.failures] == [
        ("messages", '{"rooms.id":"a"}', "cut short")
    ]
    assert [(gap.stream, gap.reason) for gap in lab.fetcher.gaps()] == [("messages", "not fetched yet")]
    upstream.answers = {"/rooms": {"data": [], "more": False}}
    await lab.whole()
    assert "/rooms/a/messages" in lab.paths
    assert lab.fetcher.gaps() == []


async def test_a_partition_that_gives_up_does_not_hold_up_the_others() -> None:
    upstream = Rooms(a=1, b=1, c=1)
    upstream.answers["/rooms/b/messages"] = BadAnswer("not JSON")
    lab = Lab(ROOMS, upstream, concurrency=2)
    report = await lab.sync()
    assert report is not None
    assert [failure.partition for failure in report.failures] == ['{"rooms.id":"b"}']
    assert set(lab.log.ids("messages")) == {"m1"}
    assert len(lab.log.staged("messages")) == 2


async def test_a_partition_that_two_pages_reveal_is_walked_once() -> None:
    upstream = Rooms(a=1, b=1)
    upstream.per_page = 1
    # the listing shifts while it is read: a comes twice
    pages = {"1": ["a"], "2": ["a"], "3": ["b"]}
    upstream.answers["/rooms"] = lambda query: {
        "data": [{"id": id} for id in pages[query["page"]]],
        "more": query["page"] != "3",
    }
    for concurrency in (1, 3):
        lab = Lab(ROOMS, upstream, concurrency=concurrency)
        await lab.whole()
        assert sorted(lab.paths)[:2] == ["/rooms/a/messages", "/rooms/b/messages"]
        assert lab.log.ids("messages")["m1"] == 2


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_partition_that_is_revealed_again_was_not_skipped_and_is_not_walked_twice_at_once(
    concurrency: int,
) -> None:
    upstream = Rooms(a=9)
    upstream.answers["/rooms"] = lambda query: {"data": upstream.listed(), "more": query["page"] != "3"}
    lab = Lab(QUIET, upstream, concurrency=concurrency)
    report = await lab.whole()
    assert (len(lab.log.staged("messages")), report.skipped) == (3, 0)
    assert lab.repeated() == []


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_partition_that_gave_up_is_not_tried_again_in_the_same_run(concurrency: int) -> None:
    upstream = Rooms(a=1)
    upstream.answers["/rooms"] = lambda query: {"data": upstream.listed(), "more": query["page"] != "3"}
    upstream.answers["/rooms/a/messages"] = BadAnswer("cut short")
    lab = Lab(ROOMS, upstream, concurrency=concurrency)
    report = await lab.sync()
    assert report is not None
    assert len(report.failures) == 1
    assert lab.paths.count("/rooms/a/messages") == 1


async def test_a_partition_that_lacks_what_the_path_needs_now_is_left_alone() -> None:
    upstream = Rooms(a=1)
    lab = Lab(ROOMS, upstream)
    await lab.whole()
    lab.change(
        {**ROOMS, "messages": {**ROOMS["messages"], "path": "/rooms/{rooms.id}/messages/{rooms.slug}"}}
    )
    await lab.whole()
    assert lab.paths == ["/rooms?page=1"]


async def test_the_newest_value_of_the_parent_wins_and_is_walked_for() -> None:
    upstream = Rooms(a=1)
    lists = iter(range(9))

    def listing(query: dict[str, str]) -> Any:
        if next(lists) == 1:
            upstream.rooms["a"].write(1)
        return {"data": upstream.listed(), "more": query["page"] == "1"}

    upstream.answers["/rooms"] = listing
    lab = Lab(QUIET, upstream)
    await lab.whole()
    assert set(lab.log.ids("messages")) == {"m1", "m2"}
    await lab.whole("messages")
    assert lab.paths == []


async def test_partitions_nest_and_carry_the_parameters_of_those_above() -> None:
    streams = {
        "orgs": {"path": "/orgs"},
        "teams": {"each": "orgs", "path": "/orgs/{orgs.slug}/teams"},
        "people": {"each": "teams", "path": "/orgs/{orgs.id}/teams/{teams.id}/people"},
    }
    answers = {
        "/orgs": [{"id": 7, "slug": "seven"}],
        "/orgs/seven/teams": [{"id": "t1"}, {"id": None}, {"name": "without an id"}],
        "/orgs/7/teams/t1/people": [{"id": "p"}],
    }
    lab = Lab(streams, lambda request, _: {"data": answers[request.path]})
    await lab.whole()
    assert lab.log.staged("teams")[0].children == (
        Child(stream="people", partition='{"orgs.id":7,"orgs.slug":"seven","teams.id":"t1"}'),
    )
    assert set(lab.log.ids("people")) == {"p"}


async def test_a_list_of_bare_ids_reveals_partitions_too() -> None:
    streams = {
        "joined": {"path": "/joined", "records": "rooms"},
        "names": {"each": "joined", "path": "/names/{joined}"},
    }
    lab = Lab(streams, lambda request, _: {"rooms": ["a", "b"], "data": []})
    await lab.whole()
    assert lab.paths == ["/joined", "/names/a", "/names/b"]


async def test_a_partition_exists_only_where_its_parent_says_so() -> None:
    upstream = Rooms(a=1, b=1)
    upstream.said = {"a": {"open": True}, "b": {"open": False}}
    lab = Lab({**ROOMS, "messages": {**ROOMS["messages"], "when": "open"}}, upstream)
    await lab.whole()
    assert lab.paths == ["/rooms?page=1", "/rooms/a/messages"]
    assert lab.log.staged("rooms")[0].children == (Child(stream="messages", partition='{"rooms.id":"a"}'),)
    upstream.said = {"a": {"open": False}, "b": {"open": True}}
    await lab.whole()
    assert lab.paths == ["/rooms?page=1", "/rooms/b/messages"]
    upstream.said["a"]["open"] = True
    await lab.whole()
    assert lab.paths == ["/rooms?page=1", "/rooms/a/messages", "/rooms/b/messages"]


async def test_only_the_named_streams_are_asked() -> None:
    upstream = Rooms(a=1)
    lab = Lab(ROOMS, upstream)
    await lab.whole("rooms")
    assert lab.paths == ["/rooms?page=1"]
    await lab.whole("messages")
    assert lab.paths == ["/rooms/a/messages"]
    with pytest.raises(UsageError, match="there is no stream 'massages'"):
        await lab.begin().sync(["massages"])


# -- refusals ------------------------------------------------------------------------------------------


async def test_a_partition_that_may_not_be_read_is_closed_by_a_page_and_is_no_error() -> None:
    upstream = Rooms(a=1)
    upstream.answers["/rooms/a/messages"] = (403, {"error": "forbidden"}, {})
    lab = Lab(ROOMS, upstream)
    await lab.whole()
    (page,) = lab.log.staged("messages")
    assert (page.status, page.records, page.next) == (403, 0, None)
    assert lab.fetcher.gaps() == []
    # revealed again it is asked again; that it is closed still is nothing new
    await lab.whole()
    assert lab.paths == ["/rooms?page=1", "/rooms/a/messages"]
    assert len(lab.log.staged("messages")) == 1
    # not revealed, it is left alone
    await lab.whole("messages")
    assert lab.paths == []
    upstream.answers = {}
    await lab.whole()
    assert set(lab.log.ids("messages")) == {"m1"}


async def test_a_closed_partition_is_skipped_while_its_parent_stays_the_same() -> None:
    upstream = Rooms(a=1)
    upstream.answers["/rooms/a/messages"] = (404, {}, {})
    lab = Lab(QUIET, upstream)
    await lab.whole()
    await lab.whole()
    assert lab.paths == ["/rooms?page=1"]


async def test_a_right_to_read_may_come_back_though_the_parent_stays_the_same() -> None:
    upstream = Rooms(a=1)
    upstream.answers["/rooms/a/messages"] = (403, {}, {})
    lab = Lab(QUIET, upstream)
    await lab.whole()
    await lab.whole()
    assert len(lab.log.staged("messages")) == 1
    upstream.answers = {}
    await lab.whole()
    assert set(lab.log.ids("messages")) == {"m1"}


async def test_that_a_partition_is_still_closed_is_news_where_its_parent_has_changed() -> None:
    upstream = Rooms(a=1)
    upstream.answers["/rooms/a/messages"] = (404, {}, {})
    lab = Lab(QUIET, upstream)
    await lab.whole()
    upstream.rooms["a"].write(1)
    await lab.whole()
    await lab.whole()
    assert lab.paths == ["/rooms?page=1"]
    assert len(lab.log.staged("messages")) == 2


async def test_a_listing_of_its_own_that_is_refused_is_a_failure() -> None:
    lab = Lab({"messages": MESSAGES}, lambda *_: (404, {}, {}))
    report = await lab.sync()
    assert report is not None
    assert [failure.cause for failure in report.failures] == ["status 404"]
    assert lab.log.pages == []


@pytest.mark.parametrize("refusal", [(400, {"error": "expired"}, {}), (410, {}, {}), (403, {}, {})])
async def test_a_cursor_that_expired_between_two_runs_is_given_up_for_a_new_walk(refusal: Any) -> None:
    upstream = Messages(10)
    lab = Lab({"messages": MESSAGES}, upstream)
    await lab.sync(kill_at=2)
    upstream.refused = {"after-m5": refusal}
    upstream.limit = 4
    await lab.whole()
    assert lab.paths[:2] == ["/messages?cursor=after-m5", "/messages"]
    assert set(lab.log.ids("messages")) == {f"m{seq}" for seq in range(1, 11)}
    assert lab.fetcher.gaps() == []
    upstream.write(1)
    await lab.whole()
    assert lab.paths == ["/messages"]


async def test_some_servers_say_with_status_200_that_a_cursor_has_expired() -> None:
    upstream = Messages(10)
    lab = Lab({"messages": MESSAGES}, upstream)
    await lab.sync(kill_at=2)
    upstream.refused = {"after-m5": Refused("status 200 with an error: invalid_cursor", status=200)}
    upstream.limit = 4
    await lab.whole()
    assert set(lab.log.ids("messages")) == {f"m{seq}" for seq in range(1, 11)}
    # a page that the loader can tell from one with records
    assert [page.status for page in lab.log.staged("messages") if page.status != 200] == [400]


@pytest.mark.parametrize("refusal", [Refused("status 200 with an error", status=200), (403, {}, {})])
async def test_a_refusal_that_may_pass_leaves_the_walk_where_it_is(refusal: Any) -> None:
    upstream = Messages(10)
    lab = Lab({"messages": MESSAGES}, upstream)
    upstream.refused = {"after-m5": refusal}
    report = await lab.sync()
    assert report is not None
    assert len(report.failures) == 1
    assert [page.status for page in lab.log.staged("messages")] == [200, 200]
    upstream.refused = {}
    await lab.whole()
    assert lab.paths == ["/messages?cursor=after-m5", "/messages?cursor=after-m2", "/messages"]


async def test_of_a_resumed_walk_only_the_first_cursor_can_have_expired() -> None:
    upstream = Messages(10)
    lab = Lab({"messages": MESSAGES}, upstream)
    await lab.sync(kill_at=2)
    upstream.refused = {"after-m2": (400, {}, {})}
    report = await lab.sync()
    assert report is not None
    assert lab.paths == ["/messages?cursor=after-m5", "/messages?cursor=after-m2", "/messages"]
    assert len(report.failures) == 1
    assert [gap.reason for gap in lab.fetcher.gaps()] == ["the server refuses to go on from there"]


async def test_a_tail_whose_cursor_expired_begins_anew() -> None:
    expired: set[str] = set()

    def serve(request: Request, query: dict[str, str]) -> Any:
        since = query.get("since", "0")
        if since in expired:
            return 410, {}, {}
        return {"data": [{"id": "a"}] if since == "0" else [], "next": "9"}

    lab = Lab(
        {"events": {"path": "/events", "paginate": {**PAGING["cursor"], "param": "since", "tail": True}}},
        serve,
    )
    await lab.whole()
    expired.add("9")
    report = await lab.sync()
    assert report is not None
    assert lab.paths[:2] == ["/events?since=9", "/events"]
    # the server gives the same bad cursor again: once is enough
    assert len(report.failures) == 1
    assert len(lab.paths) == 3


async def test_what_the_server_refuses_to_serve_is_remembered_and_not_asked_for_again() -> None:
    upstream = Messages(10)
    upstream.refused = {"after-m5": (400, {"error": "too deep"}, {})}
    lab = Lab({"messages": MESSAGES}, upstream)
    report = await lab.sync()
    assert report is not None
    assert "status 400 to a cursor" in report.failures[0].cause
    (gap,) = lab.fetcher.gaps()
    assert (gap.low, gap.high, gap.reason) == (None, _time(500), "the server refuses to go on from there")
    upstream.write(1)
    await lab.whole()
    assert lab.paths == ["/messages"]
    (again,) = lab.fetcher.gaps()
    assert msgspec.structs.replace(again, fetched=gap.fetched) == gap
    # asked to, we try again
    upstream.refused = {}
    report = await lab.begin().backfill()
    assert lab.paths == [f"/messages?cursor=after-m{seq}" for seq in (5, 2)]
    assert report.failures == ()
    assert lab.fetcher.gaps() == []


async def test_a_ring_of_cursors_is_an_error_and_no_loop() -> None:
    turns = {"first": "a", "a": "b", "b": "c", "c": "a"}
    lab = Lab(
        {"things": {"path": "/things", "paginate": PAGING["cursor"]}},
        lambda _, query: {"data": [], "next": turns[query.get("cursor", "first")]},
    )
    report = await lab.sync()
    assert report is not None
    assert report.failures[0].cause.startswith("the server gave a cursor a second time")
    assert lab.paths == ["/things", "/things?cursor=a", "/things?cursor=b", "/things?cursor=c"]
    assert lab.repeated() == []


async def test_a_ring_is_noticed_by_runs_that_take_one_page_each() -> None:
    turns = {"first": "a", "a": "b", "b": "c", "c": "a"}
    lab = Lab(
        {"things": {"path": "/things", "paginate": PAGING["cursor"]}},
        lambda _, query: {"data": [], "next": turns[query.get("cursor", "first")]},
    )
    reports = [await lab.sync(kill_after=0) for _ in range(9)]
    # the first eight would stage a page each
    assert len(lab.log.pages) < 8
    assert next(report.failures[0].cause for report in reports if report).startswith(
        "the server gave a cursor"
    )


async def test_what_stops_the_run_stops_all_partitions() -> None:
    upstream = Rooms(a=1, b=1)
    upstream.answers["/rooms/a/messages"] = AuthFailed()
    lab = Lab(ROOMS, upstream, concurrency=2)
    with pytest.raises(AuthFailed):
        await lab.begin().sync()


async def test_a_second_fetcher_of_a_partition_is_refused() -> None:
    lab = Lab({"messages": MESSAGES}, Messages(10))
    await lab.whole()
    waiting, go = asyncio.Event(), asyncio.Event()

    async def gate() -> None:
        waiting.set()
        await go.wait()

    slow = asyncio.create_task(lab.begin(gate=gate).sync())
    await waiting.wait()
    await lab.begin().sync()
    go.set()
    with pytest.raises(StagingConflict):
        await slow


async def test_an_old_walk_that_cannot_go_on_does_not_keep_the_news_back() -> None:
    upstream = Messages(10)
    lab = Lab({"messages": MESSAGES}, upstream)
    upstream.refused = {"after-m5": BadAnswer("cannot be decoded")}
    for _ in range(3):
        upstream.write(4)
        upstream.refused[f"after-m{len(upstream.records) - 5}"] = BadAnswer("cannot be decoded")
        report = await lab.sync()
        assert report is not None
        assert report.failures
    assert lab.paths[-1] == "/messages?cursor=after-m20"
    upstream.refused = {}
    await lab.whole()
    assert set(lab.log.ids("messages")) == {f"m{seq}" for seq in range(1, 23)}
    assert lab.fetcher.gaps() == []


async def test_a_walk_that_took_its_most_pages_is_not_gone_on_with_when_its_partition_is_revealed_again() -> (
    None
):
    upstream = Rooms(a=9)
    upstream.answers["/rooms"] = lambda query: {"data": upstream.listed(), "more": query["page"] != "3"}
    messages = {**ROOMS["messages"], "paginate": {**PAGING["cursor"], "max_pages": 1}}
    lab = Lab({**ROOMS, "messages": messages}, upstream)
    await lab.whole()
    assert len(lab.log.staged("messages")) == 1


# -- interruptions -------------------------------------------------------------------------------------


async def test_a_killed_walk_goes_on_from_its_staged_cursor_and_asks_for_nothing_twice() -> None:
    upstream = Messages(10)
    lab = Lab({"messages": MESSAGES}, upstream)
    # the page is staged, and nobody was told
    assert await lab.sync(kill_after=1) is None
    upstream.write(4)
    await lab.whole()
    assert lab.paths == [
        "/messages?cursor=after-m5",
        "/messages?cursor=after-m2",
        "/messages",
        "/messages?cursor=after-m12",
    ]
    assert lab.repeated() == []


async def test_a_listing_that_was_resumed_is_not_read_twice_in_one_run_and_says_so() -> None:
    lab = Lab({"things": {"path": "/things", "paginate": PAGING["cursor"]}}, Messages(10))
    await lab.sync(kill_at=2)
    report = await lab.whole()
    assert lab.paths == ["/things?cursor=after-m5", "/things?cursor=after-m2"]
    assert report.unseen == (
        "things: a listing that an earlier run began was finished; changes in its first pages show next time",
    )
    assert len({page.walk.id for page in lab.log.staged("things")}) == 1
    assert (await lab.whole()).unseen == ()


async def test_a_walk_that_takes_its_most_pages_leaves_a_gap_and_the_next_run_goes_on() -> None:
    stream = {**MESSAGES, "paginate": {**PAGING["cursor"], "max_pages": 2}}
    lab = Lab({"messages": stream}, Messages(10))
    await lab.whole()
    assert len(lab.paths) == 2
    (gap,) = lab.fetcher.gaps()
    assert (gap.low, gap.high, gap.reason) == (None, _time(500), "a walk has not come to its end")
    await lab.whole()
    assert lab.paths == ["/messages?cursor=after-m5", "/messages?cursor=after-m2", "/messages"]
    assert lab.fetcher.gaps() == []


async def test_a_stream_whose_definition_changed_begins_anew_keeps_its_ground_and_says_so() -> None:
    upstream = Messages(4)
    lab = Lab({"messages": MESSAGES}, upstream)
    await lab.whole()
    upstream.write(9)
    await lab.sync(kill_at=1)
    lab.change({"messages": {**MESSAGES, "query": {"expand": "author"}}})
    (gap,) = await _gaps(lab)
    assert gap.reason == "the stream's definition has changed"
    report = await lab.whole()
    assert report.unseen[0] == (
        "messages: its definition has changed; 1 unfinished walk began anew, and what was fetched is kept"
    )
    # down to what was whole before, and no further
    assert len(lab.paths) == 4
    assert set(lab.log.ids("messages")) == {f"m{seq}" for seq in range(1, 14)}
    assert lab.fetcher.gaps() == []


async def _gaps(lab: Lab) -> Any:
    fetcher = lab.begin()
    with pytest.raises(RuntimeError):
        fetcher.gaps()
    await fetcher.recall()
    return fetcher.gaps()


async def test_a_page_says_what_had_been_staged_when_it_was_asked_for() -> None:
    upstream = Messages(7)
    lab = Lab({"messages": MESSAGES}, upstream)
    tops: list[int] = []

    async def gate() -> None:
        tops.append(await lab.log.top())

    told: list[int] = []
    await lab.begin(gate=gate, on_page=lambda stamp, _: told.append(stamp)).sync()
    assert [page.asked for page in lab.log.staged("messages")] == tops == [0, 3, 6]
    assert told == [3, 6, 9]


async def test_what_is_staged_while_an_answer_is_under_way_is_not_older_than_it() -> None:
    upstream = Rooms(**{f"r{number}": 9 for number in range(5)})
    tops: dict[str, int] = {}

    def serve(request: Request, query: dict[str, str]) -> Any:
        tops[str(request)] = lab.log.pages[-1][0] if lab.log.pages else 0
        return upstream(request, query)

    lab = Lab(ROOMS, serve, concurrency=3)
    await lab.whole()
    assert all(page.asked <= tops[str(page.request)] for page in lab.log.staged("messages"))


async def test_partitions_run_side_by_side_within_the_stated_number() -> None:
    upstream = Rooms(**{f"r{number}": 1 for number in range(6)})
    lab = Lab(ROOMS, upstream, concurrency=3)
    running, most = 0, 0

    async def gate() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1

    await lab.begin(gate=gate).sync()
    assert most == 3


async def test_a_long_listing_vouches_only_for_what_was_there_when_it_began() -> None:
    upstream = Messages(6)
    since = {"param": "since", "key": "created_at"}
    stream = {"path": "/messages", "since": since, "settle": "0s", "paginate": PAGING["page"]}

    def serve(request: Request, query: dict[str, str]) -> Any:
        records = sorted(upstream.records, key=lambda record: int(record["seq"]))
        answer = page_of(records, query, paging="page", limit=3)
        if query["page"] == "1":
            # while the second page is under way, m1 changes, and then m6 does
            upstream.records = [
                {**one, "created_at": {"m1": at(4000), "m6": at(5000)}.get(one["id"], one["created_at"])}
                for one in upstream.records
            ]
        return 200, answer, {"Date": "Mon, 01 Jan 2024 00:20:00 GMT"}

    lab = Lab({"messages": stream}, serve)
    await lab.whole()
    assert lab.log.staged("messages")[1].covered == Covered(low=_time(400), high=_time(1200))
    await lab.whole()
    assert lab.paths[0] == "/messages?since=2024-01-01T00:20:00Z&page=1"


async def test_a_listing_that_was_resumed_vouches_for_no_more_than_it_could_before() -> None:
    upstream = Messages(9)
    since = {"param": "since", "key": "created_at"}
    stream = {"path": "/messages", "since": since, "settle": "0s", "paginate": PAGING["page"]}
    records = upstream.records[::-1]
    for order, vouched in ((None, 300), ("oldest-first", 900)):
        lab = Lab(
            {"messages": {**stream, **({"order": order} if order else {})}},
            lambda _, query: page_of(records, query, paging="page", limit=3),
        )
        await lab.sync(kill_at=1)
        # who knows what changed on the first page since; where the newest come last, it would be at the end
        await lab.whole()
        assert lab.paths[:2] == ["/messages?page=2", "/messages?page=3"]
        assert lab.paths[2] == f"/messages?since={at(vouched)}&page=1"


# -- backfill ------------------------------------------------------------------------------------------


async def test_a_backfill_reads_a_range_again_and_leaves_what_is_known_as_it_was() -> None:
    upstream = Messages(12)
    lab = Lab({"messages": MESSAGES}, upstream)
    await lab.whole()
    report = await lab.begin().backfill(since="2024-01-01T00:10:00Z")
    assert lab.paths == ["/messages", "/messages?cursor=after-m10", "/messages?cursor=after-m7"]
    assert {page.walk.kind for page in lab.log.staged("messages", run="run3")} == {"backfill"}
    assert report.records == 9
    await lab.whole()
    assert lab.paths == ["/messages"]


async def test_a_killed_backfill_goes_on_where_it_was_with_every_partition() -> None:
    upstream = Rooms(a=6, b=6, c=6)
    lab = Lab(ROOMS, upstream)
    await lab.whole()
    with pytest.raises(Killed):
        await lab.begin(kill_at=3).backfill(["messages"], since="2024-01-01")
    assert len(lab.paths) == 3
    await lab.begin().backfill(["messages"], since="2024-01-01")
    assert lab.paths == [
        "/rooms/b/messages?cursor=after-m4",
        "/rooms/c/messages",
        "/rooms/c/messages?cursor=after-m4",
    ]
    # finished, the same command is a new one
    await lab.begin().backfill(["messages"], since="2024-01-01")
    assert len(lab.paths) == 6


async def test_a_backfill_without_bounds_fills_the_gaps_and_asks_for_nothing_else() -> None:
    stream = {**MESSAGES, "paginate": {**PAGING["cursor"], "max_pages": 2}}
    lab = Lab({"messages": stream}, Messages(10))
    await lab.whole()
    await lab.begin().backfill()
    assert lab.paths == ["/messages?cursor=after-m5", "/messages?cursor=after-m2"]
    await lab.begin().backfill()
    assert lab.paths == []


async def test_a_bounded_backfill_digs_no_deeper_than_asked() -> None:
    upstream = Messages(30)
    lab = Lab({"messages": MESSAGES}, upstream)
    await lab.sync(kill_at=1)
    await lab.begin().backfill(since="2024-01-01T00:41:00Z")
    assert lab.paths == ["/messages?cursor=after-m28", "/messages?cursor=after-m25"]
    (gap,) = lab.fetcher.gaps()
    assert gap.high == _time(2200)
    # nothing is missing in that range any more: it is read again
    await lab.begin().backfill(since="2024-01-01T00:41:00Z")
    assert lab.paths == ["/messages", "/messages?cursor=after-m28", "/messages?cursor=after-m25"]
    assert lab.fetcher.gaps() == [gap]


async def test_bounds_must_be_keys() -> None:
    lab = Lab({"messages": MESSAGES}, Messages(1))
    with pytest.raises(UsageError, match="--since: 'yesterday' is neither a time nor a number"):
        await lab.begin().backfill(since="yesterday")


async def test_a_stream_that_can_be_asked_since_is_backfilled_by_asking() -> None:
    since = {"param": "since", "key": "created_at", "format": "seconds"}
    stream = {"path": "/messages", "since": since, "paginate": PAGING["cursor"]}
    lab = Lab({"messages": stream}, Messages(2))
    await lab.whole()
    await lab.begin().backfill(since="2024-01-01T00:00:01Z")
    assert lab.paths == ["/messages?since=1704067201"]
    walk = lab.log.staged("messages")[-1].walk
    assert walk == Walk(id=walk.id, kind="backfill", since=_time(1))


# -- walks that pages open -----------------------------------------------------------------------------

OPENING = {
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


class Opening:
    """A sync whose pages come from a list; histories answer by their cursor."""

    def __init__(self) -> None:
        self.synced = {"": "s1", "s1": "s2", "s2": "s2"}
        self.history: dict[str, Any] = {}
        #: cursors of pages that show no room
        self.quiet: set[str] = set()

    def __call__(self, request: Request, query: dict[str, str]) -> Any:
        if request.path == "/sync":
            since = query.get("since", "")
            room = {"events": [{"id": since}], "limited": True, "before": f"t{since}"}
            rooms = {"a": room} if self.synced[since] != since and since not in self.quiet else {}
            # a page without events ends a tail's walk
            filler = {"filler": {"events": [{"id": 0}]}} if since in self.quiet and not rooms else {}
            return {"next": self.synced[since], "rooms": rooms or filler}
        if request.path == "/rooms":
            return {"data": [{"id": "a"}]}
        return self.history.get(query.get("from", "first"), {"data": []})


async def test_a_limited_page_opens_a_walk_down_to_where_the_last_one_was() -> None:
    lab = Lab(OPENING, Opening())
    await lab.whole()
    # a room that is new to us is read to its beginning, and one that we know down to known ground
    assert lab.paths == [
        "/sync",
        "/sync?since=s1",
        "/sync?since=s2",
        "/rooms/a/history?dir=b&from=t",
        "/rooms/a/history?dir=b&to=s1&from=ts1",
    ]
    first, second = lab.log.staged("history")
    assert (first.walk.kind, first.walk.start, first.walk.until) == ("gap", '"t"', None)
    assert (second.walk.start, second.walk.until) == ('"ts1"', '"s1"')


async def test_a_room_that_is_new_in_a_later_page_is_read_to_its_beginning() -> None:
    upstream = Opening()
    upstream.quiet = {""}
    lab = Lab(OPENING, upstream)
    await lab.whole()
    assert lab.paths[3:] == ["/rooms/a/history?dir=b&from=ts1"]


async def test_pages_of_streams_that_open_each_other_are_ordered_together() -> None:
    upstream = Opening()
    upstream.quiet = {"", "s1"}
    upstream.synced = {"": "s1", "s1": "s1"}
    history = {**OPENING["history"], "each": "rooms", "path": "/rooms/{rooms.id}/history"}
    opens = {**OPENING["sync"]["opens"], "partition": {"rooms.id": "$1"}}
    sync = {**OPENING["sync"], "opens": opens}
    lab = Lab({"sync": sync, "rooms": {"path": "/rooms"}, "history": history}, upstream)
    upstream.history = {"first": {"data": [{"id": 1}]}}
    await lab.whole()
    upstream.synced = {"s1": "s2", "s2": "s2"}
    await lab.whole("sync")
    (walked,) = lab.log.staged("history", partition='{"rooms.id":"a"}')
    labels = [page.label for page in lab.log.staged("sync")]
    assert walked.walk.kind == "head"
    assert labels[1] < walked.label < labels[2]


async def test_an_opened_walk_that_was_not_begun_is_a_gap_and_the_next_run_begins_it() -> None:
    lab = Lab(OPENING, Opening())
    await lab.sync(kill_at=3)
    reasons = [(gap.stream, gap.low, gap.high, gap.reason) for gap in await _gaps(lab)]
    assert reasons == [
        ("history", None, '"t"', "not fetched yet"),
        ("history", '"s1"', '"ts1"', "not fetched yet"),
    ]
    await lab.whole()
    assert lab.paths[1:] == ["/rooms/a/history?dir=b&from=t", "/rooms/a/history?dir=b&to=s1&from=ts1"]
    await lab.whole()
    assert lab.paths == ["/sync?since=s2"]


async def test_an_opened_walk_whose_cursor_expired_begins_again_where_it_was_opened() -> None:
    upstream = Opening()
    upstream.synced = {"": "s1", "s1": "s1"}
    upstream.history = {"t": {"data": [{"id": 9}], "end": "t8"}, "t8": {"data": [{"id": 8}], "end": "t7"}}
    lab = Lab(OPENING, upstream)
    await lab.sync(kill_at=3)
    upstream.history["t8"] = (400, {}, {})
    upstream.history["t"] = {"data": [{"id": 9}, {"id": 8}]}
    await lab.whole()
    assert lab.paths[1:] == ["/rooms/a/history?dir=b&from=t8", "/rooms/a/history?dir=b&from=t"]
    assert lab.fetcher.gaps() == []
    assert lab.repeated() == []


async def test_a_history_that_may_not_be_read_is_a_gap_and_no_error() -> None:
    upstream = Opening()
    upstream.synced = {"": "s1", "s1": "s1"}
    upstream.history = {"t": (403, {}, {})}
    lab = Lab(OPENING, upstream)
    await lab.whole()
    assert [gap.reason for gap in lab.fetcher.gaps()] == ["the server refuses to go on from there"]
    await lab.whole()
    assert lab.paths == ["/sync?since=s1"]


# -- by id ---------------------------------------------------------------------------------------------

USERS = {
    "users": {"by_id": {"path": "/users", "param": "ids", "batch": 2, "records": "data"}},
    "event": {
        "by_id": {"path": "/rooms/{referrer.room}/event/{id}", "set": {"room": "$partition.referrer.room"}}
    },
}


def wanted(stream: str, *key: str, **referrer: str) -> Any:
    from ingest.fetch.fetcher import Wanted

    return Wanted(stream, key, referrer)


async def test_records_are_asked_for_by_id_in_as_few_requests_as_the_api_allows() -> None:
    lab = Lab(USERS, lambda _, query: {"data": [{"id": id} for id in query["ids"].split(",")]})
    report = await lab.begin().by_id([wanted("users", id) for id in ("1", "2", "3", "2")])
    assert lab.paths == ["/users?ids=1,2", "/users?ids=3"]
    assert (report.pages, report.records, report.failures) == (2, 3, ())
    assert [(page.walk.kind, page.partition) for page in lab.log.staged("users")] == [
        ("by_id", '{"by_id":["1","2"]}'),
        ("by_id", '{"by_id":["3"]}'),
    ]
    # asked for again, it is staged again
    await lab.begin().by_id([wanted("users", "3")])
    assert len(lab.log.staged("users", partition='{"by_id":["3"]}')) == 2
    assert len({page.walk.id for page in lab.log.staged("users", partition='{"by_id":["3"]}')}) == 2


async def test_values_of_the_referring_row_are_part_of_what_is_asked_for() -> None:
    lab = Lab(USERS, lambda *_: {"data": {"id": "e"}, "event": {"id": "e"}})
    report = await lab.begin().by_id(
        [wanted("event", "r1", "e", room="r1", other="x"), wanted("event", "e2")]
    )
    assert lab.paths == ["/rooms/r1/event/e"]
    assert [page.partition for page in lab.log.staged("event")] == [
        '{"by_id":[["r1","e"]],"referrer.room":"r1"}'
    ]
    assert [failure.cause for failure in report.failures] == ["no row that refers to it says its room"]


async def test_that_a_record_is_gone_or_forbidden_is_staged_and_no_error() -> None:
    lab = Lab(USERS, lambda request, _: (404 if request.path.endswith("1") else 401, {}, {}))
    report = await lab.begin().by_id([wanted("event", "1", room="r"), wanted("event", "2", room="r")])
    assert report.failures == ()
    assert [page.status for page in lab.log.staged("event")] == [404, 401]


async def test_a_batch_that_is_refused_is_asked_for_one_at_a_time() -> None:
    def serve(request: Request, query: dict[str, str]) -> Any:
        return (404, {}, {}) if "2" in query["ids"] else {"data": [{"id": query["ids"]}]}

    lab = Lab(USERS, serve)
    await lab.begin().by_id([wanted("users", "1"), wanted("users", "2")])
    assert lab.paths == ["/users?ids=1,2", "/users?ids=1", "/users?ids=2"]
    assert [(page.partition, page.status) for page in lab.log.staged("users")] == [
        ('{"by_id":["1"]}', 200),
        ('{"by_id":["2"]}', 404),
    ]


async def test_other_failures_by_id_are_told_and_do_not_end_the_rest() -> None:
    lab = Lab(USERS, lambda _, query: BadAnswer("cut") if query["ids"] == "1,2" else {"data": []})
    report = await lab.begin().by_id([wanted("users", id) for id in "123"])
    assert [(one.stream, one.partition) for one in report.failures] == [("users", '{"by_id":["1","2"]}')]
    assert len(lab.log.pages) == 1
    with pytest.raises(UsageError, match="'rooms' cannot be asked by id"):
        await lab.begin().by_id([wanted("rooms", "1")])


async def test_pages_by_id_reveal_no_partitions_and_leave_walks_as_they_are() -> None:
    upstream = Rooms(a=1)
    streams = {**ROOMS, "rooms": {**ROOMS["rooms"], "by_id": {"path": "/room/{id}"}}}
    upstream.answers["/room/z"] = {"data": {"id": "z"}}
    lab = Lab(streams, upstream)
    await lab.whole()
    await lab.begin().by_id([wanted("rooms", "z")])
    await lab.whole()
    assert lab.paths == ["/rooms?page=1", "/rooms/a/messages"]
    assert msgspec.json.decode(lab.log.pages[2][3]) == {"data": {"id": "z"}}
