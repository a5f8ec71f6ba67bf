"""Which walk of a partition comes next, and what it asks for. Pure.

    open walks ──▶ walks that pages of other streams opened ──▶ one new walk: tail, since, head or full

What is staged is not asked for again, so open walks go on first, exactly from their cursors. A walk
whose cursor is no good any more is begun anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from ingest.fetch.coverage import (
    CoverageKey,
    Stretch,
    lost_from,
    since_value,
)
from ingest.fetch.parts import Part
from ingest.source import Cursor, Reread, Stream, seconds
from ingest.types import LABEL, Walk

#: a parameter that stands for the end of an opened walk; what names it is left out when there is none
UNTIL = "until"


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What the person asked for; the bounds are coverage keys."""

    kind: Literal["sync", "backfill"]
    since: str | None = None
    until: str | None = None

    @property
    def bounded(self) -> bool:
        """True for a backfill that reads a stated range again."""
        return self.since is not None or self.until is not None


class Situation(NamedTuple):
    """What a plan for a partition depends on besides the partition."""

    command: Command
    run: str
    #: hash of the stream as it is now
    hash: str
    #: highest label among the pages that this partition's are ordered with; None before the first
    label: int | None
    #: the stream is only walked where pages of another open it
    only_opened: bool = False
    #: a new walk may begin
    fresh: bool = True
    #: the partition was revealed in this run
    revealed: bool = True
    #: walks that this command leaves where they are
    stopped: Collection[str] = ()
    #: runs that left a backfill with these bounds unfinished
    unfinished: Collection[str] = ()


class Step(NamedTuple):
    """A walk to begin or to go on with."""

    walk: Walk
    #: what to ask for next; None for the stream's own start
    cursor: str | None
    #: label of the next page
    label: int
    #: labels fall from page to page, as in a newest-first walk
    down: bool
    #: the walk is begun by this command
    fresh: bool = False
    #: the cursor was staged by an earlier run, and may have expired
    resumed: bool = False
    #: a cursor seen earlier in the walk
    anchor: str | None = None
    #: the highest key that the walk can vouch for; None for no limit
    ceiling: CoverageKey | None = None

    @property
    def is_opening(self) -> bool:
        """True for the first request of a walk that another stream's page has opened."""
        return self.walk.kind == "gap" and self.cursor == self.walk.start


# -- what comes next -----------------------------------------------------------------------------------


def next_step(stream: Stream, part: Part, now: Situation) -> Step | None:
    """What to do next in a partition; None when it is done for this command."""
    if part.closed:
        # revealed again, it is asked once whether it is still closed
        return _fresh(stream, part, now) if now.revealed else None
    return (
        next(_resumed(stream, part, now), None) or next(_opened(part, now), None) or _fresh(stream, part, now)
    )


def settles(stream: Stream, step: Step, command: Command) -> bool:
    """True when nothing new is to be begun after this step: a listing that was resumed is not read twice."""
    if step.fresh:
        return True
    if step.walk.kind == "full":
        return stream.since is None
    if step.walk.kind == "head":
        # what was missing of the range is there now; only where nothing was, it is read again
        return command.bounded
    return step.walk.kind == command.kind == "backfill" and _bounds(step.walk) == _bounds(command)


def reread(stream: Stream) -> float:
    """Seconds before the newest key known that are read again."""
    stated = seconds(stream.changes.reread) if isinstance(stream.changes, Reread) else 0.0
    return max(stated, seconds(stream.settle))


def is_tail(stream: Stream) -> bool:
    """True for a stream that goes on from its last cursor."""
    return isinstance(stream.paginate, Cursor) and stream.paginate.tail


def _resumed(stream: Stream, part: Part, now: Situation) -> Iterator[Step]:
    solid = part.ground[: lost_from(part.ground, now.hash)]
    for stretch in (*reversed(solid), *part.walks.values()):
        if stretch.walk.id in now.stopped or stretch.hash != now.hash or stretch.cursor is None:
            continue
        again = stretch.hole == "refused" and now.command.kind == "backfill"
        if (stretch.hole == "open" or again) and not _beyond(stretch, now.command):
            down = stream.order == "newest-first" or stretch.walk.kind == "gap"
            yield Step(
                stretch.walk,
                stretch.cursor,
                stretch.label - 1 if down else _above(now.label),
                down,
                resumed=stretch.run != now.run,
                anchor=stretch.anchor,
                ceiling=_vouched(stream, stretch),
            )


def _vouched(stream: Stream, stretch: Stretch) -> CoverageKey | None:
    """What a walk that goes on in a later run can vouch for: no more than it could before."""
    if stretch.high is None or not vouches_late(stream, stretch.walk):
        return None
    return CoverageKey.parse(stretch.high)


def _beyond(stretch: Stretch, command: Command) -> bool:
    """True for a hole that lies before everything a backfill asks for."""
    if stretch.walk.kind != "head" or stretch.low is None or command.since is None:
        return False
    return CoverageKey.parse(stretch.low) < CoverageKey.parse(command.since)


def _opened(part: Part, now: Situation) -> Iterator[Step]:
    begun = {stretch.walk.id.rstrip("+"): stretch for stretch in part.walks.values()}
    for id, opening in part.opened.items():
        stretch = begun.get(id)
        if stretch is not None and not stretch.lost_to(now.hash):
            continue
        name = f"{stretch.walk.id}+" if stretch is not None else id
        if name not in now.stopped:
            walk = Walk(id=name, kind="gap", start=opening.start, until=opening.until)
            yield Step(walk, opening.start, opening.label - 1, down=True)


def _fresh(stream: Stream, part: Part, now: Situation) -> Step | None:
    if not now.fresh or now.only_opened:
        return None
    command = now.command
    if command.kind == "sync":
        idle = part.is_satisfied and not _unfillable(stream, part, now.hash)
        return None if idle else _news(stream, part, now)
    if not part.stamp:
        bounded = command.bounded and _can_bound(stream)
        return _range(part, now, stream) if bounded else _news(stream, part, now)
    if not command.bounded:
        return _news(stream, part, now) if _unfillable(stream, part, now.hash) else None
    if not _can_bound(stream) or (
        part.backfilled is not None
        and part.backfilled[:2] == _bounds(command)
        and part.backfilled[2] in (now.run, *now.unfinished)
    ):
        return None
    return _range(part, now, stream)


def _news(stream: Stream, part: Part, now: Situation) -> Step:
    """A new walk for news: from the last cursor, since the highest key, or down to known ground."""
    cursor, since = None, None
    kind: Literal["tail", "since", "head", "full"] = "full"
    if is_tail(stream):
        kind, cursor = "tail", part.tail if part.tail_hash == now.hash else None
    elif stream.since is not None and part.high is not None:
        kind, since = "since", CoverageKey.parse(part.high).earlier(reread(stream)).text
    elif stream.since is None and stream.order == "newest-first":
        kind = "head"
    walk = Walk(id=_walk_id(part, now), kind=kind, start=cursor, since=since, unchanged=part.unchanged)
    resumed = cursor is not None and part.tail_run != now.run
    return Step(walk, cursor, _above(now.label), stream.order == "newest-first", fresh=True, resumed=resumed)


def _range(part: Part, now: Situation, stream: Stream) -> Step:
    since, until = _bounds(now.command)
    walk = Walk(id=_walk_id(part, now), kind="backfill", since=since, until=until)
    return Step(walk, None, _above(now.label), stream.order == "newest-first", fresh=True)


def _unfillable(stream: Stream, part: Part, hash: str) -> bool:
    """True when there is a hole that only a new walk fills."""
    if is_tail(stream):
        return part.tail is None or part.tail_hash != hash
    if lost_from(part.ground, hash) < len(part.ground):
        return True
    return any(one.walk.kind in ("full", "since") and one.lost_to(hash) for one in part.walks.values())


def _can_bound(stream: Stream) -> bool:
    """True when the stream's pages can be limited to a range of keys."""
    return not is_tail(stream) and (
        stream.since is not None or (stream.order is not None and stream.key is not None)
    )


def _bounds(of: Walk | Command) -> tuple[str | None, str | None]:
    return of.since, of.until


def _above(label: int | None) -> int:
    return 0 if label is None else label + LABEL


def _walk_id(part: Part, now: Situation) -> str:
    """Its own for every walk: the run, the partition, and the partition's page before it."""
    place = hashlib.sha256(f"{part.stream}\0{part.partition}".encode()).hexdigest()[:10]
    return f"{now.run}.{place}.{part.stamp}"


def vouches_late(stream: Stream, walk: Walk) -> bool:
    """True for a walk that may miss what changes while it lasts, and whose keys say when to ask since."""
    return stream.since is not None and walk.kind in ("full", "since") and stream.order != "oldest-first"


def extra(stream: Stream, walk: Walk) -> dict[str, str]:
    """What a walk adds to the query: since when."""
    if stream.since is None or walk.since is None:
        return {}
    key = CoverageKey.parse(walk.since)
    return {stream.since.param: since_value(key, stream.since.format, strict=stream.since.strict)}


def without_until(value: Any) -> Any:
    """A template without what names `{until}`."""
    if isinstance(value, dict):
        return {key: without_until(inner) for key, inner in value.items() if not _names_until(inner)}
    return [without_until(inner) for inner in value] if isinstance(value, list) else value


def _names_until(value: Any) -> bool:
    return isinstance(value, str) and f"{{{UNTIL}}}" in value
