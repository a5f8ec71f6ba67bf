"""What a page means for the walk it belongs to, and what a run cannot have seen. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ingest.fetch.coverage import (
    SEAM_IDS,
    CoverageKey,
    Floor,
    Meeting,
    beneath,
    floor,
    lost_from,
    meet,
    plausible,
)
from ingest.fetch.extract import Found, key_path, record_id, record_key
from ingest.fetch.parts import Part
from ingest.fetch.walk import Command, is_tail, reread
from ingest.source import Reread, Stream
from ingest.types import Covered, Walk


class Reading(NamedTuple):
    """What a page means for its walk."""

    covered: Covered | None
    #: nothing more is to be asked: known ground, or the backfill's bound
    ends: bool = False
    #: nothing more is to be asked by this command, though the walk is not at its end
    leaves: bool = False


def floor_under(stream: Stream, part: Part, walk: Walk, hash: str) -> Floor:
    """The known ground that a walk runs down to; if it is yet to begin, what lies under every lost hole."""
    if walk.kind != "head":
        return Floor()
    if part.stretch(walk.id) is not None:
        return floor(beneath(part.ground, walk.id), reread(stream))
    solid = part.ground[: lost_from(part.ground, hash)]
    return floor(solid[-1] if solid else None, reread(stream))


def read_page(
    stream: Stream,
    walk: Walk,
    found: Sequence[Found],
    under: Floor,
    *,
    command: Command,
    ids: int = 0,
    ceiling: CoverageKey | None = None,
    now: CoverageKey | None = None,
) -> Reading:
    """What a page covers, and whether its walk ends there.

    `ids` records had theirs kept already; `ceiling` is the highest key that the walk can vouch for,
    and `now` the time above which none is believed.
    """
    said = [record_key(stream, one.value) for one in found] if key_path(stream) is not None else []
    keys = plausible(said, under, now)
    stated = [key for key in keys if key is not None]
    grounded = walk.kind == "head"
    names = [record_id(stream, one.value) for one in found] if grounded and not stated else []
    meeting = meet(under, keys, names) if grounded else Meeting()
    vouched = [key for key in stated if ceiling is None or key <= ceiling]
    believed_all = len(vouched) == sum(key is not None for key in said)
    if ceiling is not None and not believed_all:
        vouched.append(ceiling)
    covered = Covered(
        low=min(vouched).text if vouched else None,
        high=max(vouched).text if vouched else None,
        ids=tuple(name for name in names if name is not None)[: max(0, SEAM_IDS - ids)],
        seam=meeting.seam,
    )
    ends = meeting.ends or _passed(stream, walk, stated)
    leaves = grounded and _below(stated, command.since)
    return Reading(covered if covered != Covered() else None, ends, leaves and not ends)


def _passed(stream: Stream, walk: Walk, keys: Sequence[CoverageKey]) -> bool:
    """True when a page has gone past a backfill's bound."""
    if walk.kind != "backfill" or not keys:
        return False
    if stream.order == "newest-first":
        return _below(keys, walk.since)
    return (
        stream.order == "oldest-first" and walk.until is not None and keys[-1] > CoverageKey.parse(walk.until)
    )


def _below(keys: Sequence[CoverageKey], bound: str | None) -> bool:
    return bool(keys) and bound is not None and keys[-1] < CoverageKey.parse(bound)


def unseen(name: str, stream: Stream, skipped: int) -> list[str]:
    """What a run of this stream cannot have seen, in sentences."""
    told = []
    incremental = not is_tail(stream) and (stream.since is not None or stream.order == "newest-first")
    if incremental and isinstance(stream.changes, Reread):
        told.append(f"{name}: changes to records older than {stream.changes.reread} are not seen")
    elif incremental and stream.changes == "append-only":
        told.append(f"{name}: taken as append-only; changes to records fetched before are not seen")
    elif incremental and stream.since is None and stream.changes is None:
        told.append(
            f"{name}: does not say how its records change; changes to those fetched before are not seen"
        )
    if skipped:
        partitions = f"{skipped} partition{'s' if skipped != 1 else ''}"
        told.append(
            f"{name}: {partitions} skipped; changes that leave {stream.unchanged} as it was are not seen"
        )
    return told
