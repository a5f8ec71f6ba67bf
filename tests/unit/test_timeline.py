"""The picture of what has been fetched: to scale, with every hole in it."""

from __future__ import annotations

import pytest

from ingest.cli.timeline import OPEN, WIDTH, timeline
from ingest.report import Gap

Span = tuple[str | None, str | None]


def gap(low: str | None, high: str | None, *fetched: Span) -> Gap:
    return Gap(
        source="api", stream="messages", partition="{}", low=low, high=high, reason="", fetched=fetched
    )


def test_a_hole_lies_where_and_as_long_as_it_is() -> None:
    fetched: tuple[Span, ...] = (("2026-01-01", "2026-01-25"), ("2026-02-06", "2026-02-18"))
    line = timeline([gap("2026-01-25", "2026-02-06", *fetched)])
    assert line is not None
    assert line.cells == "#" * 24 + "." * 12 + "#" * 12
    assert len(line.cells) == WIDTH
    assert (line.oldest[:10], line.newest[:10]) == ("2026-01-01", "2026-02-18")


def test_a_hole_without_an_end_is_at_the_end_that_it_has_not() -> None:
    line = timeline([gap(None, "10", ("10", "20"))])
    assert line is not None
    assert line == ("", "." * OPEN + "#" * WIDTH, "20")
    line = timeline([gap("20", None, ("10", "20"))])
    assert line is not None
    assert line == ("10", "#" * WIDTH + "." * OPEN, "")


def test_the_smallest_hole_is_seen() -> None:
    line = timeline([gap("500000", "500001", ("0", "500000"), ("500001", "1000000"))])
    assert line is not None
    assert line.cells.count(".") == 1


def test_every_hole_of_a_partition_is_in_one_picture() -> None:
    fetched: tuple[Span, ...] = (("0", "10"), ("20", "30"), ("40", "50"))
    line = timeline([gap("30", "40", *fetched), gap("10", "20", *fetched)])
    assert line is not None
    assert [part[0] for part in line.cells.replace("#.", "# .").replace(".#", ". #").split()] == list("#.#.#")


@pytest.mark.parametrize(
    ("low", "high", "fetched"),
    [(None, None, ()), ("a", None, ((None, None),))],
)
def test_there_is_no_picture_of_what_does_not_compare(
    low: str | None, high: str | None, fetched: tuple[Span, ...]
) -> None:
    assert timeline([gap(low, high, *fetched)]) is None


def test_keys_that_have_no_length_keep_their_order() -> None:
    line = timeline([gap("b", "c", ("a", "b"), ("c", "d"))])
    assert line is not None
    assert line == ("a", "#" * OPEN + "." * OPEN + "#" * OPEN, "d")
