"""Which walk comes next, and what a page means for it: decided from what is known, and from nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ingest.fetch.coverage import CoverageKey, Floor, Stretch
from ingest.fetch.extract import Found
from ingest.fetch.parts import Opening, Part
from ingest.fetch.reading import Reading, read_page, unseen
from ingest.fetch.routes import routes
from ingest.fetch.walk import Command, Situation, Step, next_step, settles
from ingest.source import Stream
from ingest.types import LABEL, Covered, Walk
from tests.unit.fetching import PAGING, at, configured

SYNC = Command(kind="sync")
FILL = Command(kind="backfill")


def stream(**stated: Any) -> Stream:
    return msgspec.convert(
        {"path": "/x", "entity": "Thing", "paginate": {"kind": "cursor", "next": "next"}, **stated}, Stream
    )


TAIL = stream(paginate={"kind": "cursor", "next": "next", "tail": True})
SINCE = stream(since={"param": "after", "key": "created_at"}, settle="2m")
HEAD = stream(order="newest-first", key="created_at")
FULL = stream()


def situation(of: Stream, **stated: Any) -> Situation:
    plain = {"command": SYNC, "run": "r2", "hash": of.hash(), "label": None}
    return Situation(**{**plain, **stated})


def stretch(of: Stream, id: str = "w1", kind: Any = "head", **stated: Any) -> Stretch:
    plain: dict[str, Any] = {"cursor": '"c"', "label": 7, "hash": of.hash(), "run": "r1", "first": 1}
    return Stretch(walk=Walk(id=id, kind=kind), **{**plain, **stated})


def begun(**stated: Any) -> Part:
    return Part("x", "{}", stamp=9, label=7, **stated)


@pytest.mark.parametrize(
    ("of", "part", "kind", "cursor", "since"),
    [
        (FULL, Part("x", "{}"), "full", None, None),
        (FULL, begun(), "full", None, None),
        (TAIL, Part("x", "{}"), "tail", None, None),
        (TAIL, begun(tail='"t"', tail_hash=TAIL.hash()), "tail", '"t"', None),
        # another definition: its token may not be good for this one
        (TAIL, begun(tail='"t"', tail_hash="other"), "tail", None, None),
        (SINCE, Part("x", "{}"), "full", None, None),
        (SINCE, begun(high=at(600)), "since", None, at(480).replace("Z", ".000000Z")),
        (HEAD, begun(ground=[stretch(HEAD, hole="whole")]), "head", None, None),
    ],
)
def test_news_are_asked_for_in_the_cheapest_way_there_is(
    of: Stream, part: Part, kind: str, cursor: str | None, since: str | None
) -> None:
    step = next_step(of, part, situation(of))
    assert step is not None
    assert (step.walk.kind, step.cursor, step.walk.since, step.fresh) == (kind, cursor, since, True)


def test_an_open_walk_goes_first_and_exactly_from_its_cursor() -> None:
    whole, open_ = stretch(HEAD, hole="whole"), stretch(HEAD, "w2", cursor='"d"', label=-4)
    part = begun(ground=[whole, open_])
    step = next_step(HEAD, part, situation(HEAD, label=7))
    assert step == Step(open_.walk, '"d"', -5, down=True, resumed=True)
    # of the same run, its cursor has just been given
    assert not next_step(HEAD, part, situation(HEAD, run="r1")).resumed
    assert next_step(HEAD, part, situation(HEAD, stopped={"w2"})).fresh


def test_every_new_walk_has_an_id_of_its_own() -> None:
    steps = [
        next_step(FULL, part, situation(FULL, run=run))
        for run in ("r1", "r2")
        for part in (
            begun(),
            Part("x", '{"a":1}', stamp=9),
            Part("y", "{}", stamp=9),
            Part("x", "{}", stamp=10),
        )
    ]
    assert len({step.walk.id for step in steps if step}) == 8


@pytest.mark.parametrize(
    ("of", "label", "first"), [(HEAD, None, 0), (HEAD, 5, 5 + LABEL), (FULL, None, 0), (FULL, 5, 5 + LABEL)]
)
def test_a_new_walk_stands_above_all_that_was_before(of: Stream, label: int | None, first: int) -> None:
    step = next_step(of, Part("x", "{}"), situation(of, label=label))
    assert step is not None
    assert step.label == first
    assert step.down == (of is HEAD)


def test_holes_above_a_lost_one_are_left_to_the_walk_that_goes_through_it() -> None:
    lost, above = stretch(HEAD, "w2", hole="lost"), stretch(HEAD, "w3")
    below = stretch(HEAD, "w1")
    step = next_step(HEAD, begun(ground=[below, lost, above]), situation(HEAD))
    assert step is not None
    assert step.walk.id == "w1"
    step = next_step(HEAD, begun(ground=[below, lost, above]), situation(HEAD, stopped={"w1"}))
    assert step is not None
    assert step.fresh


def test_a_lost_hole_is_filled_although_the_parent_says_that_nothing_changed() -> None:
    same = {"unchanged": "1", "satisfied": "1"}
    assert next_step(HEAD, begun(ground=[stretch(HEAD, hole="whole")], **same), situation(HEAD)) is None
    assert next_step(HEAD, begun(ground=[stretch(HEAD, hole="lost")], **same), situation(HEAD)) is not None
    assert next_step(HEAD, begun(ground=[stretch(HEAD)], **same), situation(HEAD)) is not None


def test_a_closed_partition_is_asked_only_when_it_is_revealed() -> None:
    part = begun(closed=403, ground=[stretch(HEAD)])
    assert next_step(HEAD, part, situation(HEAD, revealed=False)) is None
    step = next_step(HEAD, part, situation(HEAD))
    assert step is not None
    assert step.fresh
    assert next_step(HEAD, part, situation(HEAD, fresh=False)) is None


def test_an_opened_walk_stands_just_below_the_page_that_opened_it() -> None:
    part = Part("x", "{}", opened={"12.0": Opening('"t"', '"s"', 3 * LABEL)})
    step = next_step(HEAD, part, situation(HEAD, only_opened=True))
    assert step is not None
    assert step.walk == Walk(id="12.0", kind="gap", start='"t"', until='"s"')
    assert (step.cursor, step.label, step.down, step.is_opening) == ('"t"', 3 * LABEL - 1, True, True)
    assert next_step(HEAD, Part("x", "{}"), situation(HEAD, only_opened=True)) is None


def test_an_opened_walk_that_is_lost_begins_again_under_a_new_id() -> None:
    opened = {"12.0": Opening('"t"', None, 0)}
    for lost in (
        stretch(HEAD, "12.0+", "gap", hole="lost"),
        stretch(HEAD, "12.0+", "gap", hash="another"),
    ):
        step = next_step(HEAD, begun(opened=opened, walks={"12.0+": lost}), situation(HEAD, only_opened=True))
        assert step is not None
        assert (step.walk.id, step.cursor) == ("12.0++", '"t"')


@pytest.mark.parametrize(
    ("of", "part", "due"),
    [
        (HEAD, Part("x", "{}"), "head"),
        (HEAD, begun(ground=[stretch(HEAD, hole="whole")]), None),
        (HEAD, begun(ground=[stretch(HEAD, hole="refused")]), "resumed"),
        (HEAD, begun(ground=[stretch(HEAD, hole="lost")]), "head"),
        (FULL, begun(), None),
        (FULL, begun(walks={"w": stretch(FULL, "w", "full", hole="lost")}), "full"),
        (TAIL, begun(tail='"t"', tail_hash=TAIL.hash()), None),
        (TAIL, begun(), "tail"),
    ],
)
def test_a_backfill_without_bounds_is_for_holes_alone(of: Stream, part: Part, due: str | None) -> None:
    step = next_step(of, part, situation(of, command=FILL))
    assert (step and (step.walk.kind if step.fresh else "resumed")) == due


def test_what_a_backfill_has_finished_is_not_done_again_while_the_rest_is_unfinished() -> None:
    bounded = Command(kind="backfill", since=at(0))
    part = begun(ground=[stretch(HEAD, hole="whole")], backfilled=(at(0), None, "r1"))
    assert next_step(HEAD, part, situation(HEAD, command=bounded, unfinished={"r1"})) is None
    assert next_step(HEAD, part, situation(HEAD, command=bounded, unfinished={"r0"})) is not None
    other = Command(kind="backfill", since=at(1))
    assert next_step(HEAD, part, situation(HEAD, command=other, unfinished={"r1"})) is not None
    assert next_step(FULL, begun(), situation(FULL, command=bounded)) is None


@pytest.mark.parametrize(
    ("of", "kind", "fresh", "command", "settled"),
    [
        (FULL, "full", True, SYNC, True),
        (FULL, "full", False, SYNC, True),
        (SINCE, "full", False, SYNC, False),
        (HEAD, "head", False, SYNC, False),
        (HEAD, "gap", False, SYNC, False),
        (HEAD, "backfill", False, SYNC, False),
        (HEAD, "backfill", False, FILL, True),
        (HEAD, "backfill", False, Command(kind="backfill", since="1"), False),
        (HEAD, "head", False, Command(kind="backfill", since="1"), True),
    ],
)
def test_after_some_steps_nothing_new_is_begun(
    of: Stream, kind: Any, fresh: bool, command: Command, settled: bool
) -> None:
    assert settles(of, Step(Walk(id="w", kind=kind), None, 0, False, fresh=fresh), command) is settled


# -- pages ---------------------------------------------------------------------------------------------


def read(of: Stream, walk: Walk, times: list[int | None], under: Floor | None = None, **more: Any) -> Reading:
    found = [
        Found({"id": f"i{time}", "created_at": at(time) if time is not None else None}, ()) for time in times
    ]
    return read_page(of, walk, found, under or Floor(), **{"command": SYNC, **more})


def key(seconds: int) -> CoverageKey:
    return CoverageKey.parse(at(seconds))


def test_a_page_covers_what_lies_between_its_smallest_and_largest_key() -> None:
    covered = Covered(low=key(3).text, high=key(9).text)
    assert read(FULL, Walk(id="w", kind="full"), [5, 9]) == Reading(None)
    assert read(SINCE, Walk(id="w", kind="full"), [5, None, 9, 3]) == Reading(covered)
    assert read(SINCE, Walk(id="w", kind="full"), []) == Reading(None)


def test_a_page_vouches_for_nothing_above_the_ceiling() -> None:
    walk = Walk(id="w", kind="since")
    assert read(SINCE, walk, [3, 9], ceiling=key(5)).covered == Covered(low=key(3).text, high=key(5).text)
    assert read(SINCE, walk, [8, 9], ceiling=key(5)).covered == Covered(low=key(5).text, high=key(5).text)
    assert read(SINCE, walk, [3, 5], ceiling=key(5)).covered == Covered(low=key(3).text, high=key(5).text)


def test_where_there_is_no_key_the_first_hundred_ids_of_a_walk_are_kept() -> None:
    of, walk = stream(order="newest-first"), Walk(id="w", kind="head")
    covered = read(of, walk, list(range(150)), ids=30).covered
    assert covered is not None
    assert covered.ids == tuple(f"i{number}" for number in range(70))
    assert read(of, walk, [1], ids=100).covered is None
    assert read(HEAD, walk, [1]).covered == Covered(low=key(1).text, high=key(1).text)


def test_a_backfill_ends_past_its_bound_and_not_at_it() -> None:
    down = Walk(id="w", kind="backfill", since=key(5).text)
    assert [read(HEAD, down, times).ends for times in ([9, 6], [6, 5], [5, 4])] == [False, False, True]
    oldest = stream(order="oldest-first", key="created_at")
    up = Walk(id="w", kind="backfill", until=key(5).text)
    assert [read(oldest, up, times).ends for times in ([1, 4], [4, 5], [5, 6])] == [False, False, True]


def test_a_bounded_backfill_leaves_an_open_walk_where_its_bound_is_passed() -> None:
    walk, command = Walk(id="w", kind="head"), Command(kind="backfill", since=key(5).text)
    assert [read(HEAD, walk, times, command=command).leaves for times in ([9, 5], [5, 4])] == [False, True]
    met = read(HEAD, walk, [5, 4], Floor(key(9), key(9)), command=command)
    assert (met.ends, met.leaves) == (True, False)


@pytest.mark.parametrize(
    ("stated", "skipped", "told"),
    [
        ({}, 0, []),
        ({"order": "newest-first"}, 0, ["s: does not say how its records change; changes to those"]),
        (
            {"order": "newest-first", "changes": "append-only"},
            0,
            ["s: taken as append-only; changes to records"],
        ),
        ({"order": "newest-first", "changes": "key"}, 0, []),
        (
            {"order": "newest-first", "changes": {"reread": "7d"}},
            0,
            ["s: changes to records older than 7d are"],
        ),
        ({"since": {"param": "a", "key": "b"}}, 0, []),
        (
            {"unchanged": "last.id"},
            1,
            ["s: 1 partition skipped; changes that leave last.id as it was are not"],
        ),
    ],
)
def test_a_run_says_what_it_cannot_have_seen(stated: Any, skipped: int, told: list[str]) -> None:
    sentences = unseen("s", stream(**stated), skipped)
    assert len(sentences) == len(told)
    assert all(sentence.startswith(start) for sentence, start in zip(sentences, told, strict=True))


# -- requests ------------------------------------------------------------------------------------------


def test_an_opened_walks_end_is_asked_for_where_there_is_one() -> None:
    opens = {"stream": "b", "at": "x", "from": "f", "partition": {"room": "r"}}
    query = {"dir": "b", "to": "{until}"}
    source = configured(
        {
            "a": {"path": "/a", "opens": opens},
            "b": {"path": "/{room}", "query": query, "paginate": PAGING["cursor"]},
        }
    ).source
    route = routes(source)["b"]
    walk = Walk(id="w", kind="gap", start='"t"', until='"s1"')
    place = '{"room":"r 1"}'
    assert route.only_opened
    assert route.request(place, walk, '"t"').query == (("dir", "b"), ("to", "s1"), ("cursor", "t"))
    endless = msgspec.structs.replace(walk, until=None)
    assert route.request(place, endless, '"t"').query == (("dir", "b"), ("cursor", "t"))
    assert route.request(place, endless, '"t"').path == "/r%201"


def test_parents_come_before_their_children_and_openers_before_what_they_open() -> None:
    source = configured(
        {
            "c": {"each": "b", "path": "/c/{b.id}"},
            "b": {"each": "a", "path": "/b/{a.id}", "opens": {"stream": "d", "at": "x", "from": "f"}},
            "a": {"path": "/a"},
            "d": {"path": "/d"},
            "only asked by id": {"by_id": {"path": "/e/{id}"}},
        }
    ).source
    depths = {name: route.depth for name, route in routes(source).items()}
    assert depths == {"a": 0, "b": 1, "c": 2, "d": 2}


def test_a_partition_that_lacks_a_parameter_is_not_taken() -> None:
    source = configured({"a": {"path": "/a"}, "b": {"each": "a", "path": "/b/{a.id}/{a.slug}"}}).source
    route = routes(source)["b"]
    assert route.takes('{"a.id":1,"a.slug":"s","a.more":2}')
    assert not route.takes('{"a.id":1}')
    assert routes(source)["a"].takes("{}")
    assert not routes(source)["a"].takes('{"z":1}')
