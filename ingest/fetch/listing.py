"""Whether a walk has listed everything there is, so that what it left out must be gone.

A server's own cursors lead from the start to the end, however often the walk was broken off. Numbered pages
shift while it lasts: there, each page has to state the same total, and as many different ids must have come,
in one go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ingest.fetch.answer import Answer
from ingest.fetch.paginate import is_beyond, stated_total
from ingest.fetch.parts import Part
from ingest.fetch.trail import identity
from ingest.fetch.walk import Step
from ingest.source import Offset, PageNumber, Stream
from ingest.types import Covered, Listing


class Tally:
    """What the pages of one walk amount to, as far as this run has seen it."""

    def __init__(self, stream: Stream, step: Step) -> None:
        self._stream = stream
        self._numbered = isinstance(stream.paginate, PageNumber | Offset)
        self._totals: set[int | None] = set()
        self._ids: set[str | None] = set()
        self._records = 0
        #: the walk is all here
        self._whole = step.cursor is None

    def take(self, step: Step, answer: Answer, found: Sequence[Any]) -> None:
        """Count a page."""
        if not (self._numbered and self._stream.sweep):
            return
        ids = [identity(self._stream, one) for one in found]
        # beyond their end some servers send the last page once more
        if is_beyond(step.cursor) and self._ids.issuperset(ids):
            return
        self._totals.add(stated_total(self._stream, answer))
        self._ids.update(ids)
        self._records += len(ids)

    def covered(self, page: Covered | None, part: Part, step: Step) -> Covered | None:
        """What the walk's last page covers, with the proof that the walk is complete, if it is."""
        listing = self._listing(part, step)
        return page if listing is None else msgspec.structs.replace(page or Covered(), listing=listing)

    def _listing(self, part: Part, step: Step) -> Listing | None:
        walk = step.walk
        if not self._stream.sweep or walk.kind != "full" or walk.since is not None or walk.start is not None:
            return None
        if self._numbered and not (self._whole and self._adds_up()):
            return None
        stretch = part.stretch(walk.id)
        if stretch is None:
            return Listing(pages=1) if step.cursor is None else None
        return Listing(pages=stretch.pages + 1, first=stretch.first)

    def _adds_up(self) -> bool:
        return None not in self._ids and self._totals == {self._records} and len(self._ids) == self._records
