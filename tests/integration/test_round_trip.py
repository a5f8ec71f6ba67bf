"""Truth, told by an upstream, fetched, loaded and reconciled, is the truth again, whatever changes."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ingest.pipeline import limits
from ingest.report import Certificate
from tests.integration.jobs import Setup
from tests.integration.story import CHANGES, grow
from tests.upstream import Dialect, Faults, Paging, Truth, Upstream, example, generate
from tests.upstream.faults import cut_body, cut_gzip, disconnect, error_in_200, status, too_many, zipped

pytestmark = pytest.mark.usefixtures("imports_are_forgotten")

ROWS = {
    "users": 23,
    "tags": 12,
    "conversations": 9,
    "conversation_tags": 20,
    "messages": 90,
    "attachments": 40,
    "poll_options": 30,
}
#: what was deleted, for APIs that say so
DELETED = {
    "deleted_users": {"path": "/deleted/users", "records": "data", "entity": "User", "deletes": True},
    "deleted_messages": {
        "path": "/deleted/messages",
        "records": "data",
        "entity": "Message",
        "deletes": True,
    },
}
KINDS: dict[str, dict[str, Any]] = {
    "page, by pages": {"kind": "page", "pages": "meta.pages", "limit": 7},
    "page, until empty": {"kind": "page", "end": "empty", "limit": 7, "param": "p", "first": 0},
    "offset, by total": {"kind": "offset", "total": "total", "limit": 7},
    "offset, by the next": {"kind": "offset", "next": "next_offset", "limit": 7},
    "cursor": {"kind": "cursor", "next": "meta.next", "limit": 7},
    "cursor and a flag": {"kind": "cursor", "next": "meta.next", "more": "meta.more", "limit": 7},
    "header": {"kind": "header", "next": "X-Next", "param": "after", "limit": 7},
    "link": {"kind": "link", "limit": 7},
    "url": {"kind": "url", "next": "links.next", "limit": 7},
    "keyset": {"kind": "keyset", "param": "beyond", "end": "empty", "limit": 7},
    "continue": {"kind": "continue", "limit": 7},
}


def paged(kind: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The example's streams, all of them paginated in one way."""
    streams = {name: {**stream, "paginate": dict(kind)} for name, stream in example.STREAMS.items()}
    if kind["kind"] == "keyset":
        for name, key in (
            ("users", "id"),
            ("tags", "id"),
            ("conversations", "id"),
            ("messages", "created_at"),
        ):
            streams[name]["paginate"]["key"] = key
    return {**streams, **DELETED, **changes}


@pytest.fixture
def truth() -> Truth:
    return generate(example.Base, seed=4, rows=ROWS)


def assert_adds_up(certificate: Certificate) -> None:
    load = certificate.load
    assert load.records == load.written + load.kept + load.rejected
    assert (certificate.exit, certificate.remarks) == (0, ())
    assert not any(one.dangling for one in certificate.references)
    assert not any(one.wrong for one in certificate.derived)
    assert certificate.missing == {}


# -- every way to page -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_however_a_listing_is_paged_the_mirror_is_the_truth_and_a_run_without_news_writes_nothing(
    tmp_path: Path, truth: Truth, kind: str
) -> None:
    setup = Setup(tmp_path, paged(KINDS[kind]))
    async with Upstream(setup.source, truth, paging=Paging(duplicates=0.2, end="null"), seed=2) as up:
        assert up.untold() == {}
        assert_adds_up(await setup.sync(up))
        assert setup.differences(truth) == []
        await _runs_without_news(setup, up)
        for change in CHANGES:
            change(truth)
        assert_adds_up(await setup.sync(up))
        assert setup.differences(truth) == []


async def test_the_mirror_follows_every_single_change(tmp_path: Path, truth: Truth) -> None:
    setup = Setup(tmp_path, paged(KINDS["cursor"]))
    async with Upstream(setup.source, truth) as up:
        await setup.sync(up)
        for change in CHANGES:
            change(truth)
            assert_adds_up(await setup.sync(up))
            assert setup.differences(truth) == [], change.__name__
        await _runs_without_news(setup, up)


async def test_an_empty_upstream_is_mirrored_too_and_so_is_what_comes_into_it(
    tmp_path: Path, truth: Truth
) -> None:
    setup = Setup(tmp_path, paged(KINDS["cursor"]))
    empty = Truth(example.Base)
    async with Upstream(setup.source, empty) as up:
        assert_adds_up(await setup.sync(up))
        assert setup.differences(empty) == []
        for table in truth.models.tables:
            for row in truth.rows(table):
                empty.upsert(table, row)
        assert_adds_up(await setup.sync(up))
        assert setup.differences(truth) == []


@pytest.mark.parametrize("limit", ["BATCH", "BATCH_BYTES"])
async def test_a_run_is_not_certified_while_pages_are_left_to_load(
    tmp_path: Path, truth: Truth, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(limits, limit, 50)
    setup = Setup(tmp_path, paged(KINDS["cursor"]))
    async with Upstream(setup.source, truth) as up:
        assert_adds_up(await setup.sync(up))
        assert setup.differences(truth) == []
        assert setup.ask("SELECT count(*) FROM ingest_pages") == [(len(up.requests),)]


async def test_readers_see_the_old_mirror_whole_until_the_new_one_is(tmp_path: Path, truth: Truth) -> None:
    streams = {**paged(KINDS["cursor"]), "users": {"entity": "User", "by_id": {"path": "/users/{id}"}}}
    setup = Setup(tmp_path, streams)
    seen: list[tuple[Any, ...]] = []

    def look(*_: Any) -> None:
        if setup.database.exists():
            assert setup.ask("PRAGMA foreign_key_check") == []
            seen.append(*setup.ask("SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM users)"))

    async with Upstream(setup.source, truth, before=look) as up:
        await setup.sync(up)
        assert set(seen) == {(0, 0)}
        old = setup.ask("SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM users)")
        seen.clear()
        grow(truth)
        await setup.sync(up)
        # parents are asked for by id, after what refers to them was tried, and nothing of it shows
        assert up.requests[-1].stream == "users"
        assert seen == old * len(seen)
        assert setup.ask("SELECT count(*) FROM messages")[0][0] > old[0][0]


async def _runs_without_news(setup: Setup, up: Upstream) -> None:
    listed = Counter(seen.stream for seen in up.requests)
    before = len(up.requests)
    again = await setup.sync(up)
    assert_adds_up(again)
    assert again.load.written == sum(one.written for one in again.tables) == 0
    asked = Counter(seen.stream for seen in up.requests[before:])
    # a list with a `since` is asked for what is new, the others are read again
    assert asked["conversations"] <= 2
    assert all(asked[stream] <= listed[stream] for stream in ("users", "tags", *DELETED))
    assert asked["messages"] == 0


# -- every way to tell -------------------------------------------------------------------------------------

DIALECTS: dict[str, dict[str, Any]] = {
    "parents and lists nested": {"parents": "nested", "lists": "all", "zones": "mixed"},
    "parents told twice, numbers as text": {"parents": "both", "big_integers": "string", "zones": "+00:00"},
    "pointers stated, lists numbered by place": {"derived": True, "positions": "index"},
    "noise in every record": {"extras": {"new": {"deep": [1]}, "": None}, "volatile": "age"},
}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_however_an_api_tells_the_truth_it_is_the_same(
    tmp_path: Path, truth: Truth, dialect: str
) -> None:
    setup = Setup(tmp_path, {**example.STREAMS, **DELETED})
    async with Upstream(setup.source, truth, dialect=Dialect(**DIALECTS[dialect])) as up:
        await setup.sync(up)
        for change in CHANGES:
            change(truth)
        assert_adds_up(await setup.sync(up))
        assert setup.differences(truth) == []


async def test_camel_case_and_times_in_milliseconds_are_the_same_truth(tmp_path: Path) -> None:
    truth = generate(example.Base, seed=5, rows=ROWS, resolution=timedelta(milliseconds=1))
    streams = {**example.STREAMS, **DELETED}
    streams["messages"] = {**streams["messages"], "key": "createdAt", "unchanged": "lastMessage.id"}
    since = {"param": "updatedAfter", "key": "updatedAt", "format": "milliseconds"}
    streams["conversations"] = {**streams["conversations"], "since": since}
    setup = Setup(tmp_path, streams)
    async with Upstream(setup.source, truth, dialect=Dialect(names="camelCase", times="milliseconds")) as up:
        await setup.sync(up)
        for change in CHANGES:
            change(truth)
        assert_adds_up(await setup.sync(up))
        assert setup.differences(truth) == []


# -- servers that page oddly -------------------------------------------------------------------------------

ODDITIES: dict[str, tuple[str, dict[str, Any]]] = {
    "limits are cut without a word": ("page, by pages", {"cap": 3}),
    "limits are cut under an offset": ("offset, by total", {"cap": 3}),
    "rows are counted and not shown": ("offset, by total", {"filtered": 0.3}),
    "empty pages in the middle": ("cursor", {"empty_pages": 0.3, "tokens": "int"}),
    "an empty page at the end": ("header", {"trailing_empty": True}),
    "a token even on the last page": ("cursor and a flag", {"end": "stale"}),
    "next URLs are relative": ("url", {"advertise": ""}),
}


@pytest.mark.parametrize("oddity", ODDITIES)
async def test_no_row_is_lost_to_a_server_that_pages_oddly(tmp_path: Path, truth: Truth, oddity: str) -> None:
    kind, odd = ODDITIES[oddity]
    setup = Setup(tmp_path, paged(KINDS[kind]))
    async with Upstream(setup.source, truth, paging=Paging(**odd), order="newest-first") as up:
        assert_adds_up(await setup.sync(up))
        assert setup.differences(truth) == []


# -- servers in trouble ------------------------------------------------------------------------------------

TROUBLE: dict[str, Any] = {
    "errors": [{"path": "fault.code", "message": "fault.text", "retry": True}],
    "transport": {"attempts": 40, "retry_after": "wait_ms"},
}


async def test_a_server_in_trouble_costs_time_and_nothing_else(tmp_path: Path, truth: Truth) -> None:
    setup = Setup(tmp_path, example.STREAMS, **TROUBLE)
    trouble = [
        *(too_many(2, form) for form in ("seconds", "date", "body", "none")),
        too_many(0),
        status(500),
        status(503),
        status(408),
        cut_body(),
        cut_gzip(),
        cut_gzip(0.5),
        disconnect(),
        disconnect("after headers"),
        error_in_200(),
    ]
    # one after the other, and once more against whatever is asked for then
    faults = Faults().at(2, *trouble).at(20, *reversed(trouble)).always(zipped())
    async with Upstream(setup.source, truth, faults=faults, now=setup.clock.now) as up:
        certificate = await setup.sync(up)
        assert_adds_up(certificate)
        assert setup.differences(truth) == []
        struck = [seen for seen in up.requests if seen.fault != "gzip"]
        assert certificate.fetch.retries == len(struck) == 2 * len(trouble)
        assert setup.clock.slept > 10


async def test_a_partition_that_gives_up_leaves_the_others_whole_and_is_finished_later(
    tmp_path: Path, truth: Truth
) -> None:
    setup = Setup(tmp_path, example.STREAMS)
    counts = Counter(row["conversation_id"] for row in truth.rows("messages"))
    broken = max(counts, key=lambda key: (counts[key], key))
    faults = Faults().always(status(500), path=f"/conversations/{broken}/")
    async with Upstream(setup.source, truth, faults=faults) as up:
        certificate = await setup.sync(up)
        assert certificate.exit == 3
        assert [failure.stream for failure in certificate.fetch.failures] == ["messages"]
        assert certificate.remarks
        rows = {one.table: one.rows for one in certificate.tables}
        assert rows["users"] == len(truth.rows("users"))
        assert rows["conversations"] == len(truth.rows("conversations"))
        # some of them were asked for by id, because others answer them
        assert len(truth.rows("messages")) - counts[broken] <= rows["messages"] < len(truth.rows("messages"))
        faults.clear()
        assert_adds_up(await setup.sync(up))
        assert setup.differences(truth) == []
