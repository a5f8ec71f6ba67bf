"""What ends a walk where the server lies of its end, or has none."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from ingest.errors import BadAnswer, Refused
from ingest.fetch.body import TooLarge
from ingest.fetch.fetcher import Wanted
from ingest.types import Request
from tests.unit.fetching import PAGING, Lab, at, page_of

#: what a server answers beyond its end, given its last page
BEYOND: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda last: {**last, "data": []},
    "400": lambda last: (400, {"error": "no such page"}, {}),
    "404": lambda last: (404, {"error": "no such page"}, {}),
    "the last page again": lambda last: last,
    "the last page again, and the time": lambda last: {
        **last,
        "data": [{**record, "age": at(len(last["data"]))} for record in last["data"]],
    },
    "an error with status 200": lambda last: Refused("no such page", status=200),
}
COUNTED = {
    "pages": {"kind": "page", "pages": "pages"},
    "total of numbered pages": {"kind": "page", "total": "total"},
    "total of offsets": {"kind": "offset", "total": "total"},
}


class Counted:
    """A listing of numbered pages or offsets that says how many there are, right or wrong."""

    def __init__(self, there: int, said: int | None = None, *, cap: int = 1000, beyond: str = "nothing"):
        self.there, self.cap, self.beyond = there, cap, beyond
        self.said = there if said is None else said

    def __call__(self, request: Request, query: dict[str, str]) -> Any:
        limit = min(int(query.get("limit", 5)), self.cap)
        start = (int(query["page"]) - 1) * limit if "page" in query else int(query["offset"])
        if start and start >= self.there:
            last = self._page((self.there - 1) // limit * limit, limit)
            return BEYOND[self.beyond](last)
        return self._page(start, limit)

    def _page(self, start: int, limit: int) -> Any:
        ids = range(start, min(start + limit, self.there))
        return {"data": [{"id": id} for id in ids], "total": self.said, "pages": -(-self.said // limit)}


def lab_of(paginate: dict[str, Any], server: Any) -> Lab:
    return Lab({"things": {"path": "/things", "paginate": paginate}}, server)


# -- a total that is too low ---------------------------------------------------------------------------


@pytest.mark.parametrize("beyond", BEYOND)
@pytest.mark.parametrize("cap", [1000, 3])
@pytest.mark.parametrize(("there", "said"), [(30, 12), (30, 5), (30, 3), (30, 0), (28, 15), (30, 30), (6, 1)])
@pytest.mark.parametrize(
    ("counted", "limit"),
    [(counted, 5) for counted in COUNTED] + [("pages", None), ("total of offsets", None)],
)
async def test_a_total_that_is_too_low_loses_nothing(
    counted: str, there: int, said: int, limit: int | None, cap: int, beyond: str
) -> None:
    stated = {**COUNTED[counted], **({} if limit is None else {"limit": limit})}
    lab = lab_of(stated, Counted(there, said, cap=cap, beyond=beyond))
    await lab.whole()
    assert {*lab.log.ids("things")} == {*range(there)}
    assert lab.fetcher.gaps() == []
    assert len(lab.paths) <= there // min(5, cap) + 3


@pytest.mark.parametrize("counted", COUNTED)
async def test_a_true_total_costs_no_request_where_the_last_page_is_shorter_than_the_servers_pages(
    counted: str,
) -> None:
    lab = lab_of({**COUNTED[counted], "limit": 5}, Counted(13))
    await lab.whole()
    assert len(lab.paths) == 3


@pytest.mark.parametrize("cap", [1000, 3])
async def test_what_an_earlier_partition_or_run_showed_of_the_servers_pages_is_remembered(cap: int) -> None:
    sizes = {"a": 13, "b": 2, "c": 1, "d": 0}

    def serve(request: Request, query: dict[str, str]) -> Any:
        if request.path == "/rooms":
            return {"data": [{"id": room} for room in sizes]}
        return Counted(sizes[request.path[-1]], cap=cap)(request, query)

    things = {"each": "rooms", "path": "/{rooms.id}", "paginate": {**COUNTED["total of offsets"], "limit": 5}}
    lab = Lab({"rooms": {"path": "/rooms"}, "things": things}, serve)
    for _ in range(2):
        await lab.whole()
        assert len(lab.paths) == 1 + -(-13 // min(5, cap)) + 3
    assert {path.partition("?")[0] for path in lab.paths} == {"/rooms", "/a", "/b", "/c", "/d"}


async def test_a_total_that_was_wrong_once_is_not_believed_at_a_short_page() -> None:
    sizes = [5, 5, 3, 5, 1, 2]

    def serve(request: Request, query: dict[str, str]) -> Any:
        number = int(query["page"])
        size = sizes[number - 1] if number <= len(sizes) else 0
        return {"data": [{"id": f"{number}.{index}"} for index in range(size)], "pages": 2}

    lab = lab_of({**COUNTED["pages"], "limit": 5}, serve)
    await lab.whole()
    assert sum(lab.log.ids("things").values()) == sum(sizes)


async def test_pages_that_were_larger_under_another_limit_do_not_make_full_ones_short() -> None:
    lab = lab_of({**COUNTED["pages"], "limit": 10}, Counted(30))
    await lab.whole()
    lab.change({"things": {"path": "/things", "paginate": {**COUNTED["pages"], "limit": 5}}})
    lab.handler = Counted(40, 10)
    await lab.whole()
    assert {*lab.log.ids("things")} == {*range(40)}


async def test_a_look_beyond_the_end_survives_a_kill() -> None:
    for killed in range(1, 9):
        lab = lab_of({**COUNTED["pages"], "limit": 5}, Counted(30, 12, beyond="400"))
        await lab.sync(kill_after=killed)
        await lab.whole()
        assert {*lab.log.ids("things")} == {*range(30)}
        assert lab.fetcher.gaps() == []


async def test_a_look_beyond_the_end_that_fails_is_a_failure_and_a_gap_and_no_end() -> None:
    def serve(request: Request, query: dict[str, str]) -> Any:
        if query["page"] == "3":
            return Refused("status 500", status=500)
        return Counted(30, 10)(request, query)

    lab = lab_of({**COUNTED["pages"], "limit": 5}, serve)
    report = await lab.sync()
    assert report is not None
    assert [failure.cause for failure in report.failures] == ["status 500"]
    assert [gap.reason for gap in lab.fetcher.gaps()] == ["a walk has not come to its end"]


async def test_a_look_beyond_the_end_is_no_page_of_the_most_a_walk_may_take() -> None:
    lab = lab_of({**COUNTED["pages"], "limit": 5, "max_pages": 2}, Counted(10))
    await lab.whole()
    assert lab.fetcher.gaps() == []
    lab = lab_of({**COUNTED["pages"], "limit": 5, "max_pages": 2}, Counted(30, 10))
    await lab.whole()
    assert len(lab.paths) == 3
    assert len(lab.fetcher.gaps()) == 1


async def test_a_flag_says_the_end_whatever_is_counted() -> None:
    lab = lab_of({**COUNTED["total of offsets"], "limit": 5, "more": "more"}, None)

    def serve(request: Request, query: dict[str, str]) -> Any:
        return {**Counted(30, 5)(request, query), "more": False}

    lab.handler = serve
    await lab.whole()
    assert len(lab.paths) == 1


# -- a filter that is ignored --------------------------------------------------------------------------


@pytest.mark.parametrize("paging", PAGING)
@pytest.mark.parametrize("order", [None, "newest-first", "oldest-first"])
async def test_a_filter_that_is_ignored_costs_the_whole_listing_and_loses_nothing(
    paging: str, order: str | None
) -> None:
    records = [{"id": f"m{seq}", "seq": seq, "at": at(seq * 100)} for seq in range(20, 0, -1)]
    since = {"param": "since", "key": "at"}
    stream = {"path": "/things", "paginate": PAGING[paging], "since": since, "order": order}
    lab = Lab({"things": stream}, lambda _, query: page_of(records, query, paging=paging, limit=3))
    for seq in range(21, 24):
        await lab.whole()
        assert {*lab.log.ids("things")} == {record["id"] for record in records}
        assert lab.fetcher.gaps() == []
        assert len(lab.paths) <= 9
        records.insert(0, {"id": f"m{seq}", "seq": seq, "at": at(seq * 100)})
    assert all("since=" in path for path in lab.paths)


@pytest.mark.parametrize("paging", PAGING)
async def test_a_backfill_whose_bounds_are_ignored_ends(paging: str) -> None:
    records = [{"id": f"m{seq}", "seq": seq, "at": at(seq * 100)} for seq in range(20, 0, -1)]
    stream = {"path": "/things", "paginate": PAGING[paging], "since": {"param": "since", "key": "at"}}
    lab = Lab({"things": stream}, lambda _, query: page_of(records, query, paging=paging, limit=3))
    await lab.whole()
    report = await lab.begin().backfill(since=at(500), until=at(900))
    assert report.failures == ()
    assert len(lab.paths) <= 9
    assert lab.fetcher.gaps() == []


# -- no end at all -------------------------------------------------------------------------------------


def endless(page: Callable[[int], list[Any]]) -> Any:
    """A server whose cursor is new on every page, for ever."""
    numbers = count()
    return lambda *_: {"data": page(number := next(numbers)), "next": f"t{number}", "total": 10**6}


ENDLESS: dict[str, tuple[dict[str, Any], Callable[[int], list[Any]]]] = {
    "empty pages": (PAGING["cursor"], lambda number: []),
    "empty pages under a total": ({**COUNTED["total of offsets"], "limit": 5}, lambda number: []),
    "the same page": (PAGING["cursor"], lambda number: [{"id": 1}, {"id": 2}]),
    "the same page, and the time": (
        PAGING["cursor"],
        lambda number: [{"id": 1, "age": number}, {"id": 2, "age": number}],
    ),
    "the same page of bare values": (PAGING["cursor"], lambda number: ["a", "b"]),
    "the same page by number": ({"kind": "page", "end": "empty"}, lambda number: [{"id": 1}, {"id": 2}]),
    "a ring of pages": (PAGING["cursor"], lambda number: [{"id": number % 7}, {"id": "x"}]),
    "a ring with empty pages": (
        PAGING["cursor"],
        lambda number: [] if number % 2 else [{"id": number % 7}, {"id": "x"}],
    ),
}


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("order", [None, "newest-first"])
async def test_an_endless_listing_ends_as_a_failure_that_says_why(kind: str, order: str | None) -> None:
    paginate, page = ENDLESS[kind]
    stream = {"path": "/things", "paginate": {**paginate, "max_idle": 20}, "order": order}
    lab = Lab({"things": stream, "others": {"path": "/others"}}, endless(page))
    for _ in range(2):
        report = await lab.sync()
        assert report is not None
        # an old walk that cannot go on does not keep the news back, which are as endless
        assert 1 <= len(report.failures) <= 2
        assert {failure.stream for failure in report.failures} == {"things"}
        for failure in report.failures:
            assert "20 pages in a row brought nothing new" in failure.cause
            assert "max_idle" in failure.cause
        assert "/others" in lab.paths
        assert len(lab.paths) < 60
        assert {gap.reason for gap in lab.fetcher.gaps()} == {"a walk has not come to its end"}


async def test_empty_pages_within_bounds_do_not_end_a_listing() -> None:
    numbers = count()

    def serve(*_: Any) -> Any:
        number = next(numbers)
        data = [{"id": number}] if number % 20 == 0 else []
        return {"data": data, "next": f"t{number}" if number < 100 else None}

    lab = lab_of({**PAGING["cursor"], "max_idle": 19}, serve)
    await lab.whole()
    assert {*lab.log.ids("things")} == {0, 20, 40, 60, 80, 100}


async def test_records_that_share_an_id_do_not_make_pages_the_same() -> None:
    """Likes of one person, each keyed by person and post."""
    posts = [{"id": 1, "post": post} for post in range(300)]
    lab = lab_of(
        {"kind": "offset", "end": "empty", "limit": 2, "max_idle": 3},
        lambda _, query: {"data": posts[int(query["offset"]) :][:2]},
    )
    await lab.whole()
    assert len(lab.paths) == 151


async def test_how_many_idle_pages_are_borne_does_not_change_what_a_cursor_is_good_for() -> None:
    numbers = count()

    def serve(*_: Any) -> Any:
        number = next(numbers)
        return {"data": [{"id": 1}] if number > 50 else [], "next": f"t{number}" if number < 60 else None}

    lab = lab_of({**PAGING["cursor"], "max_idle": 5}, serve)
    report = await lab.sync()
    assert report is not None
    assert report.failures
    lab.change({"things": {"path": "/things", "paginate": {**PAGING["cursor"], "max_idle": 100}}})
    report = await lab.whole()
    assert report.unseen == () or "definition" not in str(report.unseen)
    assert lab.paths[0].startswith("/things?cursor=")


# -- a page that is too large --------------------------------------------------------------------------


def heavy(server: Any, weights: dict[int, int], cap: int = 10) -> Any:
    """A server in front of which pages may weigh no more than `cap`; most records weigh one."""

    def serve(request: Request, query: dict[str, str]) -> Any:
        answer = server(request, query)
        weight = sum(weights.get(record["seq"], 1) for record in answer["data"])
        return answer if weight <= cap else TooLarge(f"the body is larger than {cap} bytes")

    return serve


def listing(paging: str, there: int = 64) -> Any:
    records = [{"id": f"m{seq}", "seq": seq} for seq in range(there, 0, -1)]
    return lambda request, query: page_of(records, query, paging=paging, limit=int(query["limit"]))


@pytest.mark.parametrize("paging", PAGING)
@pytest.mark.parametrize("limit", [8, 6, 7])
@pytest.mark.parametrize("heavies", [{}, {64: 9}, {30: 9}, {1: 9}, {30: 5, 29: 5, 28: 5}, {31: 10, 30: 10}])
async def test_a_page_that_is_too_large_is_asked_for_in_halves(
    paging: str, limit: int, heavies: dict[int, int]
) -> None:
    lab = lab_of({**PAGING[paging], "limit": limit}, heavy(listing(paging), heavies))
    await lab.whole()
    assert lab.log.ids("things") == {f"m{seq}": 1 for seq in range(1, 65)}
    assert lab.fetcher.gaps() == []
    if paging != "page":  # whose numbers mean a place only by one size
        limits = [dict(request.query)["limit"] for request in lab.client.asked]
        assert limits[-1] == str(limit) or 1 in heavies


@pytest.mark.parametrize("paging", PAGING)
async def test_a_record_that_is_too_large_by_itself_is_a_failure_that_names_the_bound(paging: str) -> None:
    lab = lab_of({**PAGING[paging], "limit": 8}, heavy(listing(paging), {30: 11}))
    report = await lab.sync()
    assert report is not None
    (failure,) = report.failures
    assert "larger than 10 bytes" in failure.cause
    assert "raise transport.max_body" in failure.cause
    assert {*lab.log.ids("things")} == {f"m{seq}" for seq in range(31, 65)}
    assert len(lab.fetcher.gaps()) == 1
    lab.handler = heavy(listing(paging), {30: 11}, cap=20)
    await lab.whole()
    assert {*lab.log.ids("things")} == {f"m{seq}" for seq in range(1, 65)}
    assert lab.fetcher.gaps() == []


async def test_halves_survive_a_kill() -> None:
    for paging in PAGING:
        for killed in range(12):
            lab = lab_of({**PAGING[paging], "limit": 8}, heavy(listing(paging), {30: 9, 29: 9}))
            await lab.sync(kill_after=killed)
            await lab.whole()
            assert {*lab.log.ids("things")} == {f"m{seq}" for seq in range(1, 65)}
            assert lab.repeated() == []


@pytest.mark.parametrize("counted", COUNTED)
async def test_a_total_is_counted_in_the_pages_that_were_asked_for(counted: str) -> None:
    def serve(request: Request, query: dict[str, str]) -> Any:
        answer = Counted(64)(request, query)
        return TooLarge("the body is larger than 4 records") if len(answer["data"]) > 4 else answer

    lab = lab_of({**COUNTED[counted], "limit": 8}, serve)
    await lab.whole()
    assert lab.log.ids("things") == dict.fromkeys(range(64), 1)


async def test_a_batch_of_ids_that_is_too_large_is_asked_for_singly() -> None:
    def serve(request: Request, query: dict[str, str]) -> Any:
        ids = query["ids"].split(",")
        return TooLarge("the body is larger") if len(ids) > 1 else {"data": [{"id": ids[0]}]}

    by_id = {"path": "/things", "param": "ids", "batch": 10}
    lab = Lab({"things": {"path": "/things", "by_id": by_id}}, serve)
    report = await lab.begin().by_id([Wanted("things", (id,), {}) for id in "abc"])
    assert report.failures == ()
    assert lab.log.ids("things") == {"a": 1, "b": 1, "c": 1}


async def test_without_a_limit_there_is_nothing_to_halve() -> None:
    lab = lab_of(PAGING["cursor"], lambda *_: TooLarge("the body is larger", hint="…"))
    report = await lab.sync()
    assert report is not None
    assert len(lab.paths) == 1
    assert "raise transport.max_body" in report.failures[0].cause
    assert isinstance(TooLarge("x"), BadAnswer)
