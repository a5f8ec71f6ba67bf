"""Coverage keys in one order, and known ground checked against a model that remembers every record."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.fetch.coverage import (
    CoverageKey,
    Floor,
    Stretch,
    begin,
    beneath,
    coverage_key,
    finish,
    floor,
    highest,
    lost_from,
    lowest,
    meet,
    since_value,
)
from ingest.types import Walk

NOON = "2024-01-01T12:00:00.000000Z"


@pytest.mark.parametrize(
    ("value", "unit", "name", "text"),
    [
        ("2024-01-01T12:00:00Z", None, "created_at", NOON),
        ("2024-01-01T14:00:00+02:00", None, "", NOON),
        ("2024-01-01 14:00:00 +0200", None, "", NOON),
        ("2024-01-01T12:00", None, "", NOON),
        ("2024-01-01", None, "", "2024-01-01T00:00:00.000000Z"),
        ("2024-01-01T12:00:00.1234567Z", None, "", "2024-01-01T12:00:00.123456Z"),
        (1704110400, "seconds", "", NOON),
        (1704110400000, "milliseconds", "", NOON),
        (1704110400, None, "createdAt", NOON),
        (1704110400000, None, "origin_server_ts", NOON),
        (1704110400000000, None, "updated_at", NOON),
        (1704110400.25, None, "timestamp", "2024-01-01T12:00:00.250000Z"),
        ("1704110400.000200", None, "ts", "2024-01-01T12:00:00.000200Z"),
        (1704110400, None, "position", "1704110400"),
        (1704110400, None, "format", "1704110400"),
        ("00123", None, "id", "00123"),
        ("123456789012345678901", None, "id", "123456789012345678901"),
        (7.0, None, "score", "7"),
        ("2024-13-45", None, "", "2024-13-45"),
        ("0001-01-01T00:00:00Z", None, "", "0001-01-01T00:00:00.000000Z"),
    ],
)
def test_a_key_has_one_text_however_the_server_writes_it(value: Any, unit: Any, name: str, text: str) -> None:
    key = coverage_key(value, unit=unit, name=name)
    assert key is not None
    assert key.text == text
    assert CoverageKey.parse(text) == key


@pytest.mark.parametrize("value", [None, True, "", [], {}])
def test_what_cannot_be_compared_is_no_key(value: Any) -> None:
    assert coverage_key(value, name="created_at") is None


def test_numbers_compare_as_numbers_and_before_times_and_those_before_text() -> None:
    texts = ["9", "10", "10.5", "123456789012345678901", "2023-12-31", "2024-01-01T00:00:00Z", "a9", "b10"]
    as_text = sorted(texts)
    assert sorted(as_text, key=CoverageKey.parse) == texts
    assert (lowest("10", None, "9"), highest("10", None, "9"), lowest(None), highest()) == (
        "9",
        "10",
        None,
        None,
    )


@given(
    st.lists(
        st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()), max_size=8
    )
)
def test_the_order_is_total_and_survives_being_stored(values: list[Any]) -> None:
    keys = [key for value in values if (key := coverage_key(value)) is not None]
    stored = [CoverageKey.parse(key.text) for key in keys]
    assert [key.text for key in sorted(keys)] == [key.text for key in sorted(stored)]
    assert stored == keys


@pytest.mark.parametrize(
    ("key", "form", "strict", "value"),
    [
        ("2024-01-01T12:00:00Z", "iso", False, "2024-01-01T12:00:00Z"),
        ("2024-01-01T12:00:00.5Z", "iso", False, "2024-01-01T12:00:00.500000Z"),
        ("2024-01-01T12:00:00Z", "iso", True, "2024-01-01T11:59:59.999999Z"),
        ("2024-01-01T12:00:00.9Z", "seconds", False, "1704110400"),
        ("2024-01-01T12:00:00Z", "seconds", True, "1704110399"),
        ("2024-01-01T12:00:00.0015Z", "milliseconds", False, "1704110400001"),
        ("2024-01-01T12:00:00Z", "milliseconds", True, "1704110399999"),
        ("41", "value", False, "41"),
        ("41", "value", True, "40"),
        ("01HXYZ", "value", True, "01HXYZ"),
    ],
)
def test_what_is_asked_for_includes_every_record_with_the_key(
    key: str, form: Any, strict: bool, value: str
) -> None:
    assert since_value(CoverageKey.parse(key), form, strict=strict) == value


def test_only_times_are_moved_by_a_duration_and_never_before_the_first_year() -> None:
    assert CoverageKey.parse(NOON).earlier(60).text == "2024-01-01T11:59:00.000000Z"
    assert CoverageKey.parse("1000").earlier(60).text == "1000"
    assert CoverageKey.parse("0001-01-01T00:00:30Z").earlier(60).text == "0001-01-01T00:00:00.000000Z"


# -- meeting known ground ------------------------------------------------------------------------------


def keys(*numbers: int | None) -> list[CoverageKey | None]:
    return [None if number is None else CoverageKey.parse(str(number)) for number in numbers]


def ground(high: int) -> Floor:
    key = CoverageKey.parse(str(high))
    return Floor(key, key)


@pytest.mark.parametrize(
    ("page", "seam", "ends"),
    [
        ((9, 8, 7), None, False),
        ((9, 5, 4), 1, True),
        ((5, 4, 3), 0, True),
        # of the records with the key of the floor some may be new, and lie on the next page
        ((7, 5, 5), 1, False),
        # an old record that is pinned to the top is not the floor
        ((2, 9, 8), None, False),
        ((2, 9, 4), 2, True),
        ((9, None, 4), 1, True),
        ((None, None), None, False),
        ((), None, False),
    ],
)
def test_a_page_meets_the_floor_where_everything_after_is_known(
    page: tuple[int | None, ...], seam: int | None, ends: bool
) -> None:
    assert meet(ground(5), keys(*page), [None] * len(page)) == (seam, ends)


def test_ground_that_may_have_changed_is_known_but_read_again() -> None:
    stretch = Stretch(Walk(id="w", kind="head"), "h", "r", 1, 0, high=NOON)
    under = floor(stretch, 60)
    page = [CoverageKey.parse(f"2024-01-01T{clock}Z") for clock in ("12:00:10", "11:59:50", "11:59:10")]
    assert meet(under, page, []) == (1, False)
    assert meet(under, [*page, CoverageKey.parse("2024-01-01T11:58:59Z")], []) == (1, True)


def test_without_a_comparable_key_any_known_id_is_the_seam() -> None:
    under = Floor(ids=frozenset({"b", "c"}))
    assert meet(under, [], ["x", None, "b", "c"]) == (2, True)
    assert meet(under, [], ["x", "y"]) == (None, False)


# -- ground against a model that remembers every record ------------------------------------------------


class Model:
    """A newest-first listing of numbers, and walks over it that remember each record they saw."""

    def __init__(self) -> None:
        self.listing: list[int] = []
        self.seen: set[int] = set()
        self.ground: list[Stretch] = []
        self.walks = 0
        self.hash = "h0"

    def insert(self, count: int) -> None:
        top = self.listing[0] if self.listing else 0
        self.listing[:0] = range(top + count, top, -1)

    def walk(self, pages: int, size: int) -> None:
        """A new walk from the top, that dies after so many pages unless it has ended."""
        self.walks += 1
        walk = Walk(id=str(self.walks), kind="head")
        solid = self.ground[: lost_from(self.ground, self.hash)]
        self._go(
            Stretch(walk, self.hash, "r", self.walks, 0),
            0,
            floor(solid[-1] if solid else None, 0),
            pages,
            size,
        )

    def resume(self, index: int, pages: int, size: int) -> None:
        """Go on with the walk whose stretch stands at `index`, if a cursor fills its hole."""
        if index >= lost_from(self.ground, self.hash) or self.ground[index].hole != "open":
            return
        stretch = self.ground[index]
        start = self.listing.index(int(stretch.cursor or "")) + 1
        self._go(stretch, start, floor(beneath(self.ground, stretch.walk.id), 0), pages, size)

    def _go(self, stretch: Stretch, start: int, under: Floor, pages: int, size: int) -> None:
        for _ in range(pages):
            page = self.listing[start : start + size]
            start += size
            meeting = meet(under, keys(*page), [])
            self.seen.update(page)
            if not any(one is stretch for one in self.ground):
                begin(self.ground, stretch)
            stretch.records += len(page)
            stretch.low = lowest(stretch.low, *map(str, page))
            stretch.high = highest(stretch.high, *map(str, page))
            stretch.cursor = str(page[-1]) if page else None
            if meeting.ends or start >= len(self.listing):
                finish(
                    self.ground,
                    next(i for i, one in enumerate(self.ground) if one is stretch),
                    met=meeting.seam is not None,
                )
                return

    def check(self) -> None:
        """Nothing that was not seen lies outside of a hole or above the top."""
        lows = [int(stretch.low) for stretch in self.ground if stretch.low is not None]
        highs = [int(stretch.high) for stretch in self.ground if stretch.high is not None]
        assert lows == sorted(lows)
        assert highs == sorted(highs)
        holes = []
        for index, stretch in enumerate(self.ground):
            if stretch.hole != "whole" and stretch.low is not None:
                below = self.ground[index - 1].high if index else None
                holes.append((int(below or 0), int(stretch.low)))
        top = max(highs, default=0)
        for record in self.listing:
            if record not in self.seen:
                assert record > top or any(low < record < high for low, high in holes), (record, self.ground)


steps = st.one_of(
    st.tuples(st.just("insert"), st.integers(0, 9)),
    st.tuples(st.just("walk"), st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.just("resume"), st.integers(0, 3), st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.just("expire"), st.integers(0, 3)),
    st.tuples(st.just("redefine")),
)


@given(st.lists(steps, max_size=25))
def test_every_record_that_was_not_seen_lies_in_a_hole_and_every_hole_is_filled(plan: list[Any]) -> None:
    model = Model()
    for name, *arguments in plan:
        if name == "expire" and arguments[0] < len(model.ground):
            stretch = model.ground[arguments[0]]
            stretch.hole = "lost" if stretch.hole == "open" else stretch.hole
        elif name == "redefine":
            model.hash += "'"
        elif name == "resume" and arguments[0] < len(model.ground):
            model.resume(*arguments)
        elif name in ("insert", "walk"):
            getattr(model, name)(*arguments)
        model.check()
    for index in reversed(range(len(model.ground))):
        if index < len(model.ground):
            model.resume(index, 1000, 3)
    model.walk(1000, 3)
    model.check()
    assert model.seen == set(model.listing)
    assert [stretch.hole for stretch in model.ground] == ["whole"]


def test_a_walk_that_saw_nothing_proves_nothing_of_the_holes_below() -> None:
    model = Model()
    model.insert(9)
    model.walk(1, 3)
    kept, model.listing = model.listing, []
    model.walk(1, 3)
    model.listing = kept
    assert [stretch.hole for stretch in model.ground] == ["open"]


def test_a_walk_that_came_to_the_end_without_known_ground_has_passed_every_hole() -> None:
    model = Model()
    model.insert(9)
    model.walk(1, 3)
    # everything we know was deleted upstream
    model.listing = []
    model.insert(4)
    model.listing = [number + 100 for number in model.listing]
    model.walk(1000, 3)
    (stretch,) = model.ground
    assert (stretch.hole, stretch.cursor, stretch.low, stretch.high) == ("whole", None, "7", "104")


def test_no_more_ids_are_kept_than_a_seam_needs() -> None:
    walks = [
        Stretch(
            Walk(id=str(number), kind="head"), "h", "r", number, 0, ids=[f"{number}.{i}" for i in range(60)]
        )
        for number in range(3)
    ]
    ground: list[Stretch] = []
    for walk in walks:
        walk.records = 60
        begin(ground, walk)
        finish(ground, len(ground) - 1, met=True)
    assert ground[0].ids == walks[2].ids + walks[1].ids[:40]
