"""What has been fetched of a partition, drawn to scale from the oldest key to the newest.

2026-01-04T…Z  ##########.........################  2026-11-20T…Z
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ingest.fetch.coverage import CoverageKey
from ingest.report import Gap

#: cells of a whole line, and of a hole that has no end
WIDTH, OPEN = 48, 4
FETCHED, HOLE = "#", "."


class Timeline(NamedTuple):
    """A line of cells, and the keys at its ends; an end that is not known is an empty text."""

    oldest: str
    cells: str
    newest: str


class _Span(NamedTuple):
    low: CoverageKey | None
    high: CoverageKey | None
    cell: str


def timeline(gaps: Sequence[Gap]) -> Timeline | None:
    """The line of a partition that has these gaps; None where there is nothing to compare them with."""
    fetched = [span for low, high in gaps[0].fetched if (span := _span(low, high, FETCHED)).low and span.high]
    if not fetched:
        return None
    spans = sorted(
        (*fetched, *(_span(gap.low, gap.high, HOLE) for gap in gaps)),
        key=lambda span: (span.low is not None, span.low or span.high, span.high is None),
    )
    ends = [key for span in spans for key in (span.low, span.high) if key is not None]
    cells = "".join(span.cell * count for span, count in zip(spans, _cells(spans, ends), strict=True))
    open_below, open_above = spans[0].low is None, any(span.high is None for span in spans)
    return Timeline("" if open_below else min(ends).text, cells, "" if open_above else max(ends).text)


def _span(low: str | None, high: str | None, cell: str) -> _Span:
    return _Span(
        CoverageKey.parse(low) if low is not None else None,
        CoverageKey.parse(high) if high is not None else None,
        cell,
    )


def _cells(spans: Iterable[_Span], ends: Sequence[CoverageKey]) -> list[int]:
    """How many cells each span has: by its length where keys have one, and never none."""
    low, high = min(ends), max(ends)
    whole = high.value - low.value if low.kind == high.kind else 0
    counts = []
    for span in spans:
        if span.low is None or span.high is None:
            counts.append(OPEN)
        elif whole:
            counts.append(max(1, round(WIDTH * (span.high.value - span.low.value) / whole)))
        else:
            counts.append(OPEN)
    return counts
