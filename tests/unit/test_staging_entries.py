"""Where in the log a group of pages goes: the decision alone, against a model that appends one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import StagingConflict
from ingest.staging.entries import Entry, Place, assign, spoken

PLACES: list[Place] = [("a", "s", "{}"), ("a", "t", "{}"), ("b", "s", "{}")]


def entry(place: Place, after: int, stamp: int | None = None) -> Entry:
    return Entry(place=place, after=after, columns=(), packed=None, stamp=stamp)


entries = st.builds(
    entry,
    st.sampled_from(PLACES),
    st.integers(0, 12),
    st.one_of(st.none(), st.none(), st.integers(0, 20)),
)


@given(
    st.lists(entries, max_size=12),
    st.dictionaries(st.sampled_from(PLACES), st.integers(1, 5)),
    st.integers(5, 9),
)
def test_a_group_is_decided_as_if_its_pages_came_one_by_one(
    group: list[Entry], heads: dict[Place, int], last: int
) -> None:
    outcomes = assign(group, heads, last)
    stored = dict(heads)
    for one, outcome in zip(group, outcomes, strict=True):
        fits = one.after == stored.get(one.place, 0) if one.stamp is None else one.stamp > last
        assert isinstance(outcome, int) == fits
        if isinstance(outcome, int):
            assert outcome == (one.stamp or last + 1)
            assert outcome > last
            last = stored[one.place] = outcome


def test_the_second_of_two_that_follow_the_same_page_is_refused() -> None:
    place = PLACES[0]
    first, second, third = assign([entry(place, 3), entry(place, 3), entry(place, 8)], {place: 3}, 7)
    assert (first, third) == (8, 9)
    assert isinstance(second, StagingConflict)
    assert "its last page is 8, not 3" in second.message


def test_deciding_leaves_the_callers_heads_alone() -> None:
    heads = {PLACES[0]: 3}
    assign([entry(PLACES[0], 3)], heads, 7)
    assert heads == {PLACES[0]: 3}


def test_a_partition_is_spoken_of_without_empty_parameters() -> None:
    assert spoken(("tms", "users", "{}")) == "tms: users"
    assert spoken(("tms", "messages", '{"id":1}')) == 'tms: messages {"id":1}'
