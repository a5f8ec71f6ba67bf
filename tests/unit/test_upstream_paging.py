"""The simulated upstream serves every row once, in the declared order, however it is asked for pages."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any, get_args

import pytest

from ingest.source import Pagination
from tests.upstream import Paging, Truth, Upstream, example, generate
from tests.upstream.walker import client_of, pages, walk

KINDS: dict[str, dict[str, Any]] = {
    "page, by pages": {"kind": "page", "pages": "meta.pages", "limit": 7},
    "page, by total": {"kind": "page", "total": "meta.total", "limit": 7},
    "page, by a flag": {"kind": "page", "more": "more", "limit": 7},
    "page, until empty": {"kind": "page", "end": "empty", "limit": 7, "param": "p", "first": 0},
    "offset, by total": {"kind": "offset", "total": "total", "limit": 7},
    "offset, by a flag": {"kind": "offset", "more": "more", "limit": 7, "first": 1},
    "offset, by the next": {"kind": "offset", "next": "next_offset", "param": "from", "limit": 7},
    "offset, until empty": {"kind": "offset", "end": "empty", "limit": 7},
    "cursor": {"kind": "cursor", "next": "meta.next", "limit": 7},
    "cursor and a flag": {"kind": "cursor", "next": "meta.next", "more": "meta.more", "limit": 7},
    "cursor, limit unsaid": {"kind": "cursor", "next": "meta.next"},
    "header": {"kind": "header", "next": "X-Next", "param": "after", "limit": 7},
    "link": {"kind": "link", "limit": 7},
    "url": {"kind": "url", "next": "links.next", "limit": 7},
    "continue": {"kind": "continue", "next": "continue", "limit": 7},
    "keyset, by a flag": {"kind": "keyset", "param": "after", "key": "id", "more": "more", "limit": 7},
    "keyset, until empty": {"kind": "keyset", "param": "after", "key": "id", "end": "empty", "limit": 7},
}
#: kinds that lead on by a token of the server's
TOKENS = ("cursor", "cursor and a flag", "header", "link", "url", "continue")
#: kinds that count rows, and whose end is not an empty page
COUNTED = ("page, by pages", "page, by total", "page, by a flag", "offset, by total", "offset, by a flag")
#: kinds whose client counts by the limit it asked for, and is misled where the server cuts it
MISLED = {"page, by total", "offset, by total", "offset, by a flag", "offset, until empty"}


@pytest.fixture(scope="module")
def truth() -> Truth:
    return generate(example.Base, seed=3, rows={"users": 40, "conversations": 5, "messages": 60})


def listing(paginate: dict[str, Any], **stream: Any) -> dict[str, Any]:
    stream = {"order": "oldest-first", "key": "id", **stream}
    return {"users": {"path": "/users", "records": "data", "entity": "User", "paginate": paginate, **stream}}


def served(truth: Truth, streams: dict[str, Any], **settings: Any) -> Upstream:
    return Upstream(example.source(streams=streams), truth, **settings)


async def walked(up: Upstream, name: str = "users", **asked: Any) -> list[Any]:
    async with up, client_of(up) as client:
        return await walk(client, up.source.streams[name], **asked)


def ids(records: list[Any]) -> list[Any]:
    return [record["id"] for record in records]


def sorted_ids(truth: Truth) -> list[str]:
    return sorted(str(row["id"]) for row in truth.rows("users"))


@pytest.mark.parametrize("order", ["oldest-first", "newest-first"])
@pytest.mark.parametrize("kind", KINDS)
async def test_every_row_is_served_once_and_in_the_declared_order(
    truth: Truth, kind: str, order: str
) -> None:
    found = ids(await walked(served(truth, listing(KINDS[kind], order=order))))

    assert found == sorted(sorted_ids(truth), reverse=order == "newest-first")


@pytest.mark.parametrize("kind", KINDS)
async def test_an_empty_listing_ends_at_once(kind: str) -> None:
    up = served(Truth(example.Base), listing(KINDS[kind]))

    assert await walked(up) == []
    assert len(up.requests) == 1


@pytest.mark.parametrize("rows", [6, 7, 8, 14])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_last_page_that_is_full_loses_nothing(kind: str, rows: int) -> None:
    truth = generate(example.Base, seed=rows, rows={"users": rows})

    assert ids(await walked(served(truth, listing(KINDS[kind])))) == sorted_ids(truth)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - MISLED))
async def test_a_limit_beyond_the_servers_own_is_cut_without_a_word(truth: Truth, kind: str) -> None:
    up = served(truth, listing(KINDS[kind] | {"limit": 500}), paging=Paging(cap=9))

    assert ids(await walked(up)) == sorted_ids(truth)
    assert len(up.requests) >= 5


@pytest.mark.parametrize("tokens", ["int", "str"])
@pytest.mark.parametrize("end", ["absent", "null", "empty"])
@pytest.mark.parametrize("kind", [*TOKENS, "offset, by the next"])
async def test_tokens_are_texts_or_numbers_and_end_in_every_way(
    truth: Truth, kind: str, end: Any, tokens: Any
) -> None:
    up = served(truth, listing(KINDS[kind]), paging=Paging(end=end, tokens=tokens))

    assert ids(await walked(up)) == sorted_ids(truth)


@pytest.mark.parametrize(("end", "last"), [("absent", {}), ("null", {"next": None}), ("empty", {"next": ""})])
async def test_what_stands_for_the_next_token_on_the_last_page_is_chosen(
    truth: Truth, end: Any, last: dict[str, Any]
) -> None:
    up = served(truth, listing({"kind": "cursor", "next": "next"}), paging=Paging(end=end, default_limit=100))
    async with up, client_of(up) as client:
        body = (await client.get("/users")).json()

    assert {key: value for key, value in body.items() if key != "data"} == last


async def test_a_stale_token_stands_on_the_last_page_and_only_the_flag_says_so(truth: Truth) -> None:
    up = served(truth, listing(KINDS["cursor and a flag"]), paging=Paging(end="stale"))
    async with up, client_of(up) as client:
        bodies = [page.json() async for page in pages(client, up.source.streams["users"])]
        beyond = (await client.get("/users", params={"cursor": bodies[-1]["meta"]["next"]})).json()

    assert [body["meta"]["more"] for body in bodies] == [True] * 5 + [False]
    assert beyond["data"] == []


@pytest.mark.parametrize("kind", TOKENS)
async def test_a_page_may_be_empty_in_the_middle(truth: Truth, kind: str) -> None:
    up = served(truth, listing(KINDS[kind]), paging=Paging(empty_pages=0.5), seed=2)

    assert ids(await walked(up)) == sorted_ids(truth)
    assert len(up.requests) > 6


@pytest.mark.parametrize("kind", TOKENS)
async def test_the_last_full_page_may_lead_to_an_empty_one(truth: Truth, kind: str) -> None:
    up = served(truth, listing(KINDS[kind]), paging=Paging(trailing_empty=True))

    assert ids(await walked(up)) == sorted_ids(truth)
    assert len(up.requests) == 7


@pytest.mark.parametrize("kind", COUNTED)
async def test_numbered_pages_may_be_short_or_empty_in_the_middle(truth: Truth, kind: str) -> None:
    up = served(truth, listing(KINDS[kind]), paging=Paging(filtered=0.8), seed=1)
    async with up, client_of(up) as client:
        sizes = [len(page.json()["data"]) async for page in pages(client, up.source.streams["users"])]

    assert sum(sizes) == 40
    assert min(sizes[:-1]) < 7


@pytest.mark.parametrize("kind", KINDS)
async def test_duplicates_stand_within_and_across_pages_and_lose_nothing(truth: Truth, kind: str) -> None:
    up = served(truth, listing(KINDS[kind]), paging=Paging(duplicates=0.5))
    found = ids(await walked(up))

    assert sorted(set(found)) == sorted_ids(truth)
    assert max(Counter(found).values()) > 1
    assert found == sorted(found)


async def test_duplicates_stand_across_pages(truth: Truth) -> None:
    up = served(truth, listing(KINDS["cursor"]), paging=Paging(duplicates=0.5))
    async with up, client_of(up) as client:
        found = [ids(page.json()["data"]) async for page in pages(client, up.source.streams["users"])]

    assert any(before[-1] == after[0] for before, after in pairwise(found))


@pytest.mark.parametrize(
    ("kind", "shifts"), [("page, by pages", True), ("offset, by total", True), ("cursor", False)]
)
async def test_rows_that_arrive_between_pages_shift_numbers_and_not_tokens(kind: str, shifts: bool) -> None:
    truth = generate(example.Base, seed=4, rows={"users": 30})
    up = served(
        truth, listing(KINDS[kind], order="newest-first", key="seen_at"), before=lambda _, n: arrive(truth, n)
    )

    def arrive(truth: Truth, ordinal: int) -> None:
        newest = max(row["seen_at"] for row in truth.rows("users") if row["seen_at"])
        like = truth.rows("users")[0]
        fresh = type(like["id"])(int=ordinal)
        truth.upsert("users", {**like, "id": fresh, "email": None, "seen_at": newest})

    before = set(sorted_ids(truth))
    found = Counter(one for one in ids(await walked(up)) if one in before)

    assert set(found) == before
    assert (max(found.values()) > 1) is shifts


async def test_rows_that_go_between_pages_lose_others_to_numbers_and_not_to_tokens() -> None:
    lost = {}
    for kind in ("offset, by the next", "cursor"):
        truth = generate(example.Base, seed=4, rows={"tags": 30})
        first = sorted(key for (key,) in truth.keys("tags"))[:7]
        tags = {"tags": {**listing(KINDS[kind])["users"], "path": "/tags", "entity": "Tag"}}
        up = served(
            truth, tags, before=lambda _, n, t=truth, f=first: t.delete("tags", f[0]) if n == 2 else None
        )
        lost[kind] = 30 - len(await walked(up, "tags"))

    assert lost == {"offset, by the next": 1, "cursor": 0}


async def test_a_keyset_page_never_ends_among_equal_keys() -> None:
    truth = generate(example.Base, seed=5, rows={"users": 30})
    moments = sorted(row["seen_at"] for row in truth.rows("users") if row["seen_at"])[:3]
    for number, row in enumerate(truth.rows("users")):
        truth.upsert("users", {**row, "seen_at": moments[number % 3]})
    paginate = {"kind": "keyset", "param": "before", "key": "seen_at", "end": "empty", "limit": 7}
    up = served(truth, listing(paginate, key="seen_at", order="newest-first"))

    found = ids(await walked(up))
    assert Counter(found) == Counter(sorted_ids(truth))
    assert [len(seen.query) for seen in up.requests] == [1, 2, 2, 2]


async def test_ties_stand_in_no_order_of_their_keys(truth: Truth) -> None:
    moment = next(row["seen_at"] for row in truth.rows("users") if row["seen_at"])
    tied = Truth(truth.models, {"users": [{**row, "seen_at": moment} for row in truth.rows("users")]})

    found = ids(await walked(served(tied, listing(KINDS["cursor"], key="seen_at"))))
    assert found != sorted(found)
    assert sorted(found) == sorted_ids(truth)


async def test_what_declares_no_order_is_shuffled_by_the_seed_or_goes_by_arrival(truth: Truth) -> None:
    streams = listing(KINDS["cursor"], order=None, key=None)
    arrived = [str(key[0]) for key in truth.keys("users")]

    assert ids(await walked(served(truth, streams, order="oldest-first"))) == arrived
    assert ids(await walked(served(truth, streams, order="newest-first"))) == arrived[::-1]
    one, other, again = [ids(await walked(served(truth, streams, seed=seed))) for seed in (1, 2, 1)]
    assert one == again != other
    assert sorted(one) == sorted(other) == sorted(arrived)


@pytest.mark.parametrize("advertise", [None, "", "http://wrong.example"])
async def test_next_urls_are_absolute_relative_or_of_a_wrong_host(
    truth: Truth, advertise: str | None
) -> None:
    up = served(truth, listing(KINDS["url"]), paging=Paging(advertise=advertise), prefix="/api/v1")
    async with up, client_of(up) as client:
        body = (await client.get("users", params={"limit": 7, "x": "a b&c"})).json()

    origin = up.origin if advertise is None else advertise
    assert body["links"]["next"].startswith(f"{origin}/api/v1/users?limit=7&x=a+b%26c&page_token=")


async def test_a_continue_must_come_back_whole(truth: Truth) -> None:
    up = served(truth, listing(KINDS["continue"]))
    async with up, client_of(up) as client:
        members = (await client.get("/users")).json()["continue"]
        halves = [await client.get("/users", params={name: value}) for name, value in members.items()]

    assert len(members) == 2
    assert [half.status_code for half in halves] == [400, 400]


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("cursor", {"cursor": "made-up"}),
        ("page, by pages", {"page": "0"}),
        ("page, by pages", {"page": "two"}),
        ("offset, by total", {"offset": "-1"}),
        ("cursor", {"limit": "0"}),
        ("keyset, by a flag", {"after": "no-uuid"}),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(
    truth: Truth, kind: str, params: dict[str, str]
) -> None:
    up = served(truth, listing(KINDS[kind]))
    async with up, client_of(up) as client:
        assert (await client.get("/users", params=params)).status_code == 400


async def test_a_token_of_another_partition_is_refused(truth: Truth) -> None:
    up = served(truth, example.STREAMS, paging=Paging(default_limit=1))
    several = Counter(row["conversation_id"] for row in truth.rows("messages")).most_common(2)
    async with up, client_of(up) as client:
        one, other = (f"/conversations/{conversation}/messages" for conversation, _ in several)
        token = (await client.get(one)).json()["meta"]["next_cursor"]

        assert (await client.get(one, params={"cursor": token})).status_code == 200
        assert (await client.get(other, params={"cursor": token})).status_code == 400


async def test_a_tail_goes_on_from_its_last_token_with_what_changed() -> None:
    truth = generate(example.Base, seed=6, rows={"users": 20})
    paginate = {"kind": "cursor", "next": "token", "tail": True, "limit": 8}
    up = served(truth, listing(paginate, order="oldest-first", key=None))
    stream = up.source.streams["users"]
    async with up, client_of(up) as client:
        first = [page.json() async for page in pages(client, stream)]
        token = first[-1]["token"]
        unmoved = (await client.get("/users", params={"cursor": token})).json()
        edited = truth.rows("users")[3]
        truth.upsert("users", {**edited, "email": "edited@example"})
        news = [page.json() async for page in pages(client, stream, cursor=token)]

    assert [record["id"] for page in first for record in page["data"]] == [
        str(row["id"]) for row in [*truth.rows("users")[:3], edited, *truth.rows("users")[3:-1]]
    ]
    assert unmoved == {"data": [], "token": token}
    assert [record["email"] for page in news for record in page["data"]] == ["edited@example"]


async def test_a_listing_without_pagination_is_one_page(truth: Truth) -> None:
    up = served(truth, {"users": {"path": "/users", "entity": "User", "order": "oldest-first", "key": "id"}})
    async with up, client_of(up) as client:
        assert ids((await client.get("/users")).json()) == sorted_ids(truth)


def test_the_kinds_above_are_all_there_are() -> None:
    tags = {kind.__struct_config__.tag for kind in get_args(Pagination)}

    assert {kind["kind"] for kind in KINDS.values()} == tags
