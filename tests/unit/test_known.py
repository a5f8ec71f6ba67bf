"""What is known is a fold over envelopes: the same from a snapshot, page by page, or all at once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.fetch import fetcher
from ingest.fetch.known import Known, gaps, recall, remember
from ingest.fetch.parts import BY_PARENT, Opening
from ingest.types import Child, Covered, Envelope, Request, Walk
from tests.unit.fetching import PAGING, Lab, page_of
from tests.unit.test_fetcher import ROOMS, Messages, Rooms

HEAD = Walk(id="w1", kind="head", unchanged='"m9"')


def envelope(**stated: Any) -> Envelope:
    """A page of the stream `messages`."""
    plain: dict[str, Any] = {
        "run": "r1",
        "source": "api",
        "stream": "messages",
        "stream_hash": "h",
        "walk": HEAD,
        "request": Request(path="/messages"),
        "records": 3,
        "digest": "",
    }
    return Envelope(**{**plain, **stated})


def folded(*pages: Envelope) -> Known:
    known, heads = Known("api"), dict[tuple[str, str], int]()
    for stamp, page in enumerate(pages, 1):
        place = page.stream, page.partition
        known.fold(stamp, heads.get(place, 0), page)
        heads[place] = stamp
    return known


def test_an_open_walk_goes_on_from_the_cursor_of_its_last_page() -> None:
    first = envelope(next='"a"', label=5, covered=Covered(low="7", high="9", ids=("x", "y")))
    known = folded(first, envelope(run="r2", next='"b"', label=4, covered=Covered(low="4", high="7")))
    (stretch,) = known.part("messages", "{}").ground
    assert (stretch.cursor, stretch.label, stretch.pages, stretch.records) == ('"b"', 4, 2, 6)
    assert (stretch.low, stretch.high, stretch.ids, stretch.first) == ("4", "9", ["x", "y"], 1)
    assert (stretch.run, stretch.hash, stretch.hole) == ("r2", "h", "open")


def test_a_page_that_was_folded_before_changes_nothing() -> None:
    known = folded(envelope(next='"a"'), envelope(next='"b"'))
    before = known.dump()
    known.fold(1, 0, envelope(next='"a"'))
    assert known.dump() == before


def test_the_fullest_page_of_a_stream_is_remembered_and_none_that_was_asked_by_id() -> None:
    by_id = Walk(id="i", kind="by_id")
    known = folded(*(envelope(records=count) for count in (3, 5, 2)), envelope(walk=by_id, records=9))
    again = Known.load("api", known.stamp, known.dump())
    assert again is not None
    assert again.fullest == known.fullest == {"messages": 5}


def test_a_walk_that_was_resumed_late_does_not_undo_what_a_newer_one_satisfies() -> None:
    newer = Walk(id="w2", kind="head", unchanged='"m12"')
    known = folded(
        envelope(next='"a"', covered=Covered(low="7", high="9")),
        envelope(walk=newer, covered=Covered(low="8", high="12", seam=1)),
        envelope(run="r2", covered=Covered(low="1", high="7")),
    )
    part = known.part("messages", "{}")
    assert part.satisfied == '"m12"'
    (stretch,) = part.ground
    assert (stretch.hole, stretch.low, stretch.high) == ("whole", "1", "12")


@pytest.mark.parametrize(
    ("run", "hole"), [("r2", "lost"), ("r1", "refused")], ids=["expired meanwhile", "given just now"]
)
def test_a_refused_cursor_has_expired_or_leads_nowhere(run: str, hole: str) -> None:
    known = folded(envelope(next='"a"'), envelope(run=run, status=400, records=0))
    (stretch,) = known.part("messages", "{}").ground
    assert stretch.hole == hole
    assert known.part("messages", "{}").closed == 0


def test_a_refused_first_page_closes_the_partition_until_one_is_served() -> None:
    known = folded(envelope(status=404, records=0))
    assert known.part("messages", "{}").closed == 404
    assert known.part("messages", "{}").satisfied == '"m9"'
    known.fold(2, 1, envelope(walk=Walk(id="w2", kind="head")))
    assert known.part("messages", "{}").closed == 0


def test_only_what_is_gone_for_good_satisfies_the_parents_value() -> None:
    part = folded(envelope(status=403, records=0)).part("messages", "{}")
    assert (part.closed, part.satisfied, part.is_gone) == (403, None, False)


def test_a_tail_keeps_its_last_cursor_and_is_satisfied_once_nothing_more_came() -> None:
    walk = Walk(id="w", kind="tail", unchanged="1")
    known = folded(envelope(walk=walk, next='"a"'), envelope(walk=walk, next='"b"'))
    part = known.part("messages", "{}")
    assert (part.tail, part.tail_run, part.satisfied) == ('"b"', "r1", None)
    known.fold(3, 2, envelope(walk=walk, next='"b"'))
    assert (part.tail, part.satisfied) == ('"b"', "1")


def test_only_a_listing_that_was_read_to_its_end_says_since_when_to_ask() -> None:
    walk = Walk(id="w", kind="full")
    known = folded(envelope(walk=walk, next="2", covered=Covered(low="1", high="9")))
    part = known.part("messages", "{}")
    assert part.high is None
    known.fold(2, 1, envelope(walk=walk, covered=Covered(low="3", high="12")))
    assert (part.high, part.walks) == ("12", {})


def test_a_listing_that_was_read_whole_makes_good_for_one_that_was_given_up() -> None:
    old, new = Walk(id="w1", kind="full"), Walk(id="w2", kind="full")
    known = folded(
        envelope(walk=old, next="2"), envelope(walk=old, status=400, records=0), envelope(walk=new)
    )
    assert known.part("messages", "{}").walks == {}


def test_the_newest_page_that_reveals_a_partition_says_how_it_is() -> None:
    def listing(partition: str, value: str) -> Envelope:
        child = Child(stream="messages", partition='{"rooms.id":1}', unchanged=value)
        return envelope(stream="rooms", partition=partition, children=(child,))

    known = Known("api")
    # pages of two parents are appended side by side, and folded as their appends return
    known.fold(2, 0, listing("{}", '"new"'))
    known.fold(1, 0, listing('{"org":1}', '"old"'))
    assert known.part("messages", '{"rooms.id":1}').unchanged == '"new"'


def test_a_parent_closes_and_opens_its_partition() -> None:
    def listing(closed: bool) -> Envelope:
        child = Child(stream="messages", partition='{"rooms.id":1}', closed=closed)
        return envelope(stream="rooms", children=(child,))

    known = folded(listing(True))
    assert known.part("messages", '{"rooms.id":1}').closed == BY_PARENT
    known.fold(2, 1, listing(False))
    assert known.part("messages", '{"rooms.id":1}').closed == 0


def test_a_walk_to_the_servers_end_leaves_no_hole_below_it() -> None:
    newer = Walk(id="w2", kind="head")
    known = folded(envelope(next='"a"', covered=Covered(low="7", high="9")), envelope(walk=newer))
    assert [stretch.hole for stretch in known.part("messages", "{}").ground] == ["whole"]
    met = Covered(low="8", high="12", seam=1)
    known = folded(
        envelope(next='"a"', covered=Covered(low="7", high="9")), envelope(walk=newer, covered=met)
    )
    assert [stretch.cursor for stretch in known.part("messages", "{}").ground] == ['"a"']


def test_records_asked_for_by_id_leave_nothing_behind() -> None:
    known = folded(envelope(partition='{"by_id":["1"]}', walk=Walk(id="b", kind="by_id"), children=()))
    assert known.parts("messages") == []
    assert known.stamp == 1


def test_an_erasure_leaves_nothing_behind() -> None:
    known = folded(envelope(partition='{"erased":["users",[1]]}', walk=Walk(id="e", kind="erased")))
    assert known.parts("messages") == []
    assert known.stamp == 1


def test_a_gap_lies_between_two_stretches_of_known_ground() -> None:
    newer = Walk(id="w2", kind="head")
    known = folded(
        envelope(covered=Covered(low="1", high="9")),
        envelope(walk=newer, next='"a"', covered=Covered(low="30", high="40")),
    )
    streams = Lab(ROOMS, Rooms()).source.source.streams
    (gap,) = gaps(known, {"messages": streams["messages"]})
    assert (gap.source, gap.stream, gap.partition, gap.low, gap.high) == ("api", "messages", "{}", "9", "30")
    assert (gap.run, gap.fetched) == ("r1", (("1", "9"), ("30", "40")))


# -- snapshots -----------------------------------------------------------------------------------------


async def busy_log(plan: list[Any]) -> Lab:
    """Rooms that grow, and runs that die."""
    upstream = Rooms(a=3)
    lab = Lab(ROOMS, upstream, concurrency=2)
    for room, count, kill in plan:
        upstream.rooms.setdefault(room, Messages(0)).write(count)
        upstream.said.setdefault(room, {})
        await lab.sync(kill_at=kill)
    lab.log.folds.clear()
    return lab


@settings(max_examples=40)
@given(
    plan=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.one_of(st.none(), st.integers(0, 8))),
        max_size=6,
    ),
    share=st.floats(0, 1),
)
async def test_a_snapshot_and_the_pages_after_it_give_what_all_pages_give(
    plan: list[Any], share: float
) -> None:
    lab = await busy_log(plan)
    whole = await recall(lab.log, "api")
    half = Known("api")
    async for stamp, after, page in lab.log.envelopes():
        if stamp <= share * await lab.log.top():
            half.fold(stamp, after, page)
    await remember(lab.log, half)
    again = await recall(lab.log, "api")
    assert again.stamp == whole.stamp
    assert _parts(again) == _parts(whole)


def _parts(known: Known) -> Any:
    return sorted(msgspec.msgpack.decode(known.dump())[1])


@pytest.mark.parametrize("state", [b"", b"\xc1", msgspec.msgpack.encode([0, [], {}])])
async def test_a_snapshot_that_cannot_be_read_is_folded_anew(state: bytes) -> None:
    lab = await busy_log([("a", 1, None)])
    whole = await recall(lab.log, "api")
    await lab.log.save_fold("fetch:api", 3, state)
    assert _parts(await recall(lab.log, "api")) == _parts(whole)


async def test_a_snapshot_that_misses_a_page_is_folded_anew() -> None:
    lab = await busy_log([("a", 1, None), ("a", 4, None)])
    whole = await recall(lab.log, "api")
    lacking = Known("api")
    pages = [page async for page in lab.log.envelopes()]
    for stamp, after, page in pages[:1]:
        lacking.fold(stamp, after, page)
    lacking.stamp = pages[1][0]
    await remember(lab.log, lacking)
    assert _parts(await recall(lab.log, "api")) == _parts(whole)


async def test_a_run_keeps_a_snapshot_once_it_is_worth_it_and_never_after_a_kill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = [{"id": id} for id in range(12)]
    stream = {"things": {"path": "/things", "paginate": PAGING["page"]}}
    lab = Lab(stream, lambda _, query: page_of(records, query, paging="page", limit=3))
    await lab.whole()
    assert lab.log.folds == {}
    monkeypatch.setattr(fetcher, "SNAPSHOT_PAGES", 5)
    assert await lab.sync(kill_after=3) is None
    assert lab.log.folds == {}
    await lab.whole()
    assert [stamp for stamp, _ in lab.log.folds.values()] == [await lab.log.top()]
    asked: list[int] = []
    envelopes = lab.log.envelopes
    monkeypatch.setattr(
        lab.log,
        "envelopes",
        lambda after=0, source=None: asked.append(after) or envelopes(after, source=source),
    )
    await lab.whole()
    assert asked == [await lab.log.top() - 4 * 3]


@pytest.mark.parametrize(
    ("before", "until"),
    [
        ((), None),
        # shown without a walk: from there on its news are told, and the walk has only to fill the gap
        ((Child(stream="messages", partition="{}", opened=True),), '"s1"'),
        ((Child(stream="messages", partition="{}", opened=True, start='"t0"'),), '"s1"'),
        ((Child(stream="messages", partition="{}", opened=True, closed=True),), None),
    ],
    ids=["new to us", "in sight", "opened before", "out of sight"],
)
def test_an_opened_walk_ends_at_what_was_in_sight_and_else_nowhere(
    before: tuple[Child, ...], until: str | None
) -> None:
    opening = Child(stream="messages", partition="{}", opened=True, start='"t1"', until='"s1"')
    known = folded(
        envelope(stream="sync", children=before, label=4),
        envelope(stream="sync", children=(opening,), label=9),
    )
    assert known.part("messages", "{}").opened["2.0"] == Opening('"t1"', until, 9)
