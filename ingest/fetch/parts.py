"""What is known of one partition, and what one more page changes of it.

tail       a cursor that stays good
ground     stretches of a newest-first listing, each with the hole under it
walks      everything else that has a beginning and no end yet
opened     walks that pages of another stream have asked for
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from ingest.fetch.coverage import SEAM_IDS, Stretch, begin, finish, highest, lowest
from ingest.fetch.paginate import is_beyond
from ingest.types import Child, Envelope, Walk

#: `closed` of a partition whose parent says that there is none; otherwise it is a status
BY_PARENT = 1
#: statuses that go for good, while the parent's `unchanged` value stays; a right to read may come back
GONE = (404, 410)

_REASONS = {
    "open": "a walk has not come to its end",
    "lost": "its cursor is no longer good",
    "refused": "the server refuses to go on from there",
}


class Opening(msgspec.Struct, array_like=True, frozen=True):
    """A walk that a page of another stream has opened."""

    start: str
    until: str | None
    #: label of the page that opened it
    label: int


class Part(msgspec.Struct, array_like=True):
    """What is known of one partition of one stream."""

    stream: str
    partition: str
    #: its last page
    stamp: int = 0
    #: highest label of its pages; None before the first
    label: int | None = None
    #: 0, or why it is not asked any more: BY_PARENT, or the status that said so
    closed: int = 0
    #: the parent's `unchanged` value, and the stamp of the page that said so
    unchanged: str | None = None
    revealed: int = 0
    #: the value that the last completed walk satisfies, and the stamp of that walk's first page
    satisfied: str | None = None
    satisfied_at: int = 0
    #: since: everything up to this key has been asked for
    high: str | None = None
    #: tail: the cursor to go on from, and the hash of the stream and the run that it comes from
    tail: str | None = None
    tail_hash: str = ""
    tail_run: str = ""
    #: newest-first: stretches of known ground, oldest first
    ground: list[Stretch] = []
    #: other walks that have not ended, by id
    walks: dict[str, Stretch] = {}
    #: openings by id; their walks have the same id, and a plus for each time they began anew
    opened: dict[str, Opening] = {}
    #: the pages that open its walks have told all its news since an earlier one
    in_sight: bool = False
    #: bounds and run of the last completed backfill
    backfilled: tuple[str | None, str | None, str] | None = None

    @property
    def is_gone(self) -> bool:
        """True where that it is closed also satisfies the parent's value, if there is one."""
        return self.closed in GONE and (self.unchanged is None or self.is_satisfied)

    @property
    def is_satisfied(self) -> bool:
        """True while the parent's value is the one that the last completed walk satisfies."""
        return self.unchanged is not None and self.unchanged == self.satisfied

    def stretches(self) -> Iterator[Stretch]:
        """Everything that may have a hole: newest ground first, then other walks."""
        yield from reversed(self.ground)
        yield from self.walks.values()

    def stretch(self, walk: str) -> Stretch | None:
        """What a walk has covered; None before its first page, and after its end."""
        return next((stretch for stretch in self.stretches() if stretch.walk.id == walk), None)


def fold_page(part: Part, envelope: Envelope, stamp: int) -> None:
    """Take in a page of the partition: a part of a walk, or a refusal."""
    part.stamp = stamp
    part.label = envelope.label if part.label is None else max(part.label, envelope.label)
    if envelope.status >= 400 and not _ends(part, envelope):
        _fold_refusal(part, envelope, stamp)
        return
    part.closed = 0
    if envelope.walk.kind == "tail":
        _fold_tail(part, envelope, stamp)
    elif envelope.walk.kind == "head":
        _fold_ground(part, envelope, stamp)
    else:
        _fold_walk(part, envelope, stamp)


def _fold_tail(part: Part, envelope: Envelope, stamp: int) -> None:
    ended = envelope.next is None or not envelope.records or envelope.next == part.tail
    if envelope.next is not None:
        part.tail, part.tail_hash, part.tail_run = envelope.next, envelope.stream_hash, envelope.run
    if ended:
        _satisfy(part, envelope.walk, stamp)


def _fold_ground(part: Part, envelope: Envelope, stamp: int) -> None:
    stretch = part.stretch(envelope.walk.id)
    if stretch is None:
        stretch = _begun(envelope, stamp)
        begin(part.ground, stretch)
    _advance(stretch, envelope)
    if envelope.next is None:
        _satisfy(part, envelope.walk, stretch.first)
        met = envelope.covered is not None and envelope.covered.seam is not None
        finish(part.ground, part.ground.index(stretch), met=met)


def _fold_walk(part: Part, envelope: Envelope, stamp: int) -> None:
    walk = envelope.walk
    opening = walk.id.rstrip("+")
    if walk.id not in part.walks:
        if walk.kind == "gap":
            part.walks = {id: one for id, one in part.walks.items() if id.rstrip("+") != opening}
        part.walks[walk.id] = _begun(envelope, stamp)
    stretch = part.walks[walk.id]
    _advance(stretch, envelope)
    if envelope.next is not None:
        return
    del part.walks[walk.id]
    if walk.kind == "gap":
        part.opened.pop(opening, None)
        return
    # what an older walk of the kind left undone is done now
    kinds = ("backfill",) if walk.kind == "backfill" else ("full", "since")
    part.walks = {
        id: one for id, one in part.walks.items() if one.walk.kind not in kinds or one.first > stretch.first
    }
    if walk.kind == "backfill":
        part.backfilled = (walk.since, walk.until, envelope.run)
    else:
        part.high = highest(part.high, stretch.high)
        _satisfy(part, walk, stretch.first)


def _ends(part: Part, envelope: Envelope) -> bool:
    """True for a refusal beyond the end that a count stated: there is nothing, as was said."""
    stretch = part.stretch(envelope.walk.id)
    return stretch is not None and is_beyond(stretch.cursor)


def _fold_refusal(part: Part, envelope: Envelope, stamp: int) -> None:
    """A refused cursor of an earlier run has expired; one that was given just now leads nowhere."""
    walk = envelope.walk
    if walk.kind == "tail" and part.tail is not None:
        part.tail = None
        return
    stretch = part.stretch(walk.id)
    if stretch is not None:
        stretch.hole = "lost" if stretch.run != envelope.run else "refused"
    elif walk.start is not None:
        stretch = _begun(envelope, stamp)
        stretch.cursor, stretch.hole = walk.start, "refused"
        part.walks[walk.id] = stretch
    else:
        part.closed = envelope.status
        if envelope.status in GONE:
            _satisfy(part, walk, stamp)


def fold_child(part: Part, child: Child, id: str, stamp: int, label: int) -> None:
    """Take in what a page with this stamp and label reveals of the partition; `id` is the child's own."""
    if child.opened:
        if child.start is not None:
            # what came before it was in sight, nobody has told: such a walk runs down to the end
            part.opened[id] = Opening(child.start, child.until if part.in_sight else None, label)
        part.in_sight = not child.closed
        return
    # pages of several parents are folded as they come, which is not always in the order of their stamps
    if stamp < part.revealed:
        return
    part.revealed, part.unchanged = stamp, child.unchanged
    if child.closed:
        part.closed = part.closed or BY_PARENT
    elif part.closed == BY_PARENT:
        part.closed = 0


def _begun(envelope: Envelope, stamp: int) -> Stretch:
    return Stretch(envelope.walk, envelope.stream_hash, envelope.run, stamp, envelope.label)


def _advance(stretch: Stretch, envelope: Envelope) -> None:
    stretch.run, stretch.label, stretch.hole = envelope.run, envelope.label, "open"
    stretch.cursor = envelope.next
    stretch.pages += 1
    stretch.records += envelope.records
    if stretch.pages & (stretch.pages - 1) == 0:
        stretch.anchor = envelope.next
    covered = envelope.covered
    if covered is not None:
        stretch.low = lowest(stretch.low, covered.low)
        stretch.high = highest(stretch.high, covered.high)
        stretch.ids.extend(covered.ids[: SEAM_IDS - len(stretch.ids)])


def _satisfy(part: Part, walk: Walk, first: int) -> None:
    # a walk resumed late says nothing of what a newer one has seen
    if first >= part.satisfied_at:
        part.satisfied, part.satisfied_at = walk.unchanged, first


class Hole(NamedTuple):
    """Keys between which something was not fetched, why, and the run that left it so."""

    low: str | None
    high: str | None
    reason: str
    run: str | None = None


def holes(part: Part, hash: str) -> Iterator[Hole]:
    """Every hole in what was fetched of the partition, for a stream of this hash."""
    for index, stretch in enumerate(part.ground):
        if stretch.hole != "whole":
            below = part.ground[index - 1].high if index else None
            yield Hole(below, stretch.low, _reason(stretch, hash), stretch.run)
    for stretch in part.walks.values():
        if stretch.walk.kind == "gap":
            yield Hole(stretch.walk.until, stretch.cursor, _reason(stretch, hash), stretch.run)
        else:
            yield Hole(stretch.walk.since, None, _reason(stretch, hash), stretch.run)
    started = {id.rstrip("+") for id in part.walks}
    for id, opening in part.opened.items():
        if id not in started:
            yield Hole(opening.until, opening.start, "not fetched yet")
    if part.revealed and not part.stamp:
        yield Hole(None, None, "not fetched yet")


def _reason(stretch: Stretch, hash: str) -> str:
    if stretch.hole == "open" and stretch.hash != hash:
        return "the stream's definition has changed"
    return _REASONS[stretch.hole]
