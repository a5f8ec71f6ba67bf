"""Precedence of the statements about one row, without a database."""

from __future__ import annotations

import random
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from ingest.catalog import NO_DEFAULT, Column, Table
from ingest.load.merge import (
    UNPROVEN,
    Life,
    Stated,
    Statement,
    Tombstone,
    dump_exceptions,
    load_stated,
    merge,
    shown,
)
from ingest.mirror import Mirror
from ingest.types import HIGHEST_VERSION, LOWEST_VERSION, NEVER

NAMES = ("id", "name", "mail")


def column(name: str, *, nullable: bool = True) -> Column:
    return Column(name=name, type=sa.Integer(), nullable=nullable, default=NO_DEFAULT, paths=((name,),))


TABLE = Table(
    name="users",
    sql=sa.Table("users", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True)),
    key=("id",),
    columns=(column("id", nullable=False), column("name", nullable=False), column("mail")),
    mirror=Mirror(),
)


def says(rank: tuple[int, int, int], *, top: bool = True, asked: int = 0, **values: Any) -> Statement:
    return Statement((1,), {"id": 1, **values}, rank, asked, top)


def merged(*statements: Statement, onto: Stated | None = None, skip: bool = True) -> tuple[Stated, int, int]:
    return merge(onto or Stated(), statements, None, skip_equal=skip)


def test_a_column_keeps_the_value_of_its_highest_rank_whoever_speaks_last() -> None:
    newer, older = says((0, 5, 0), name="new"), says((0, 3, 0), name="old", mail="m")
    for order in ((newer, older), (older, newer)):
        stated, _, _ = merged(*order)
        assert stated.values == {"id": 1, "name": "new", "mail": "m"}
        assert stated.ranks == {"id": (0, 5, 0), "name": (0, 5, 0), "mail": (0, 3, 0)}
        assert stated.rank == (0, 5, 0)


def test_a_higher_version_beats_a_later_page() -> None:
    stated, _, _ = merged(says((7, 1, 0), name="seventh"), says((2, 9, 9), name="second"))
    assert stated.values["name"] == "seventh"


def test_an_explicit_null_is_a_value_and_an_absent_column_is_not() -> None:
    stated, _, _ = merged(says((0, 1, 0), name="a", mail="m"), says((0, 2, 0), mail=None))
    assert stated.values == {"id": 1, "name": "a", "mail": None}


def test_an_equal_statement_leaves_the_row_and_its_rank() -> None:
    first, _, _ = merged(says((0, 1, 0), name="a"))
    again, written, kept = merged(says((0, 9, 0), name="a"), onto=first)
    assert again is first
    assert (written, kept) == (0, 1)


def test_an_equal_statement_raises_the_rank_while_an_earlier_page_may_still_come() -> None:
    first, _, _ = merged(says((0, 1, 0), name="a"))
    again, written, kept = merged(says((0, 9, 0), name="a"), onto=first, skip=False)
    assert again.rank == (0, 9, 0)
    assert (written, kept) == (1, 0)


def test_an_equal_statement_is_taken_where_it_is_forced_or_a_tombstone_watches() -> None:
    first, _, _ = merged(says((0, 1, 0), name="a"))
    forced = says((0, 9, 0), name="a")
    forced.forced = True
    assert merged(forced, onto=first)[0].rank == (0, 9, 0)
    watched = merge(first, [says((0, 9, 0), name="a")], Tombstone(0, 5, "p"), skip_equal=True)
    assert watched[0].rank == (0, 9, 0)


def test_an_older_statement_that_adds_nothing_is_kept_out_even_out_of_order() -> None:
    first, _, _ = merged(says((0, 5, 0), name="a", mail=None))
    again, written, kept = merged(says((0, 2, 0), name="b"), onto=first, skip=False)
    assert again is first
    assert (written, kept) == (0, 1)


def test_what_follows_from_another_record_is_not_counted_beside_it() -> None:
    implied = Statement((1,), {"name": None}, (HIGHEST_VERSION, 1, 0), 0, top=False, implied=True)
    stated, written, kept = merged(says((0, 1, 0), name="a"), implied)
    assert stated.values["name"] is None
    assert (written, kept) == (1, 0)


def test_merging_leaves_what_was_known_as_it_was() -> None:
    first, _, _ = merged(says((0, 1, 0), name="a"))
    merged(says((0, 2, 0), name="b"), onto=first)
    assert first.values["name"] == "a"


def test_only_top_level_statements_prove_life() -> None:
    stated, _, _ = merged(says((4, 1, 0), top=False, asked=9, name="a"))
    assert stated.life == UNPROVEN
    stated, _, _ = merged(says((4, 1, 0), asked=3, name="a"), says((2, 2, 0), asked=8, name="b"))
    assert stated.life == Life(4, 8, 2)


@pytest.mark.parametrize(
    ("life", "voided"),
    [(Life(5, 9, 9), True), (Life(6, 0, 1), False), (Life(5, 10, 11), False), (UNPROVEN, True)],
    ids=["neither", "a greater version", "asked after the proof", "never stated"],
)
def test_a_tombstone_voids_what_is_neither_newer_nor_asked_for_later(life: Life, voided: bool) -> None:
    assert Tombstone(5, 10, "proof").voids(life) is voided


def test_joined_tombstones_hold_the_greatest_of_each_and_the_newest_proof() -> None:
    one, other = Tombstone(9, 1, "old"), Tombstone(2, 7, "new")
    assert one.joined(other) == other.joined(one) == Tombstone(9, 7, "new")


def test_a_row_is_shown_once_every_required_column_is_stated_or_filled() -> None:
    stated, _, _ = merged(says((0, 1, 0), mail="m"))
    assert shown(TABLE, stated, {}) is None
    assert shown(TABLE, stated, {"name": "filled"}) == (1, "filled", "m")
    stated, _, _ = merged(says((0, 2, 0), name="said"), onto=stated)
    assert shown(TABLE, stated, {"name": "filled"}) == (1, "said", "m")


def test_a_row_stated_whole_by_one_record_has_no_exceptions() -> None:
    stated, _, _ = merged(says((0, 4, 0), asked=2, name="a", mail=None))
    assert dump_exceptions(TABLE, stated, {4: 2}.__getitem__) is None


def test_exceptions_hold_the_columns_whose_rank_differs_and_those_nobody_stated() -> None:
    stated, _, _ = merged(says((0, 3, 0), name="a"), says((0, 4, 1), name="b"))
    stated, _, _ = merged(says((0, 5, 0)), onto=stated, skip=False)
    text = dump_exceptions(TABLE, stated, lambda _: 0)
    assert text == '{"mail":null,"name":[0,4,1]}'


def test_a_stub_was_stated_by_nobody() -> None:
    nothing = '{"":null,"id":null,"mail":null,"name":null}'
    stub = load_stated(TABLE, dict.fromkeys(NAMES), (LOWEST_VERSION, 0, 0), nothing, lambda _: -1)
    assert not stub.known
    assert stub.rank == NEVER


statements = st.lists(
    st.builds(
        lambda version, stamp, ordinal, values, top, asked: says(
            (version, stamp, ordinal), top=top, asked=asked, **values
        ),
        st.sampled_from([LOWEST_VERSION, 0, 3, HIGHEST_VERSION]),
        st.integers(1, 4),
        st.integers(0, 50),
        st.dictionaries(st.sampled_from(["name", "mail"]), st.sampled_from([None, "a", "b"])),
        st.booleans(),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda one: one.rank,
)


@given(statements, st.randoms(use_true_random=False))
def test_statements_out_of_order_one_by_one_amount_to_all_at_once(
    said: list[Statement], chance: random.Random
) -> None:
    at_once, _, _ = merged(*said, skip=False)
    one_by_one = Stated()
    for one in chance.sample(said, len(said)):
        one_by_one, written, kept = merged(one, onto=one_by_one, skip=False)
        assert written + kept == 1
    assert one_by_one == at_once


@given(statements)
def test_what_is_stored_of_a_row_reads_back_as_what_was_known(said: list[Statement]) -> None:
    asked = {stamp: stamp - 1 for stamp in range(10)}.__getitem__
    stated, _, _ = merged(*said)
    row = shown(TABLE, stated, {"name": "filled"})
    assert row is not None
    text = dump_exceptions(TABLE, stated, asked)
    assert load_stated(TABLE, dict(zip(NAMES, row, strict=True)), stated.rank, text, asked) == stated
