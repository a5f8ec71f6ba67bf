"""What waits to be appended, and the decision where in the log it goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ingest.errors import StagingConflict
from ingest.types import Envelope

#: source, stream, partition
Place: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A page ready to be stored."""

    place: Place
    #: the last stamp of its partition, as the caller knows it
    after: int
    #: the envelope's columns
    columns: tuple[Any, ...]
    #: the compressed body; None for a page that was pruned where it comes from
    packed: bytes | None
    #: the stamp an adopted page already has; None to be given the next
    stamp: int | None = None


def place_of(envelope: Envelope) -> Place:
    """The partition a page belongs to."""
    return envelope.source, envelope.stream, envelope.partition


def spoken(place: Place) -> str:
    """A partition as a person reads it."""
    source, stream, partition = place
    return f"{source}: {stream} {partition}" if partition != "{}" else f"{source}: {stream}"


def assign(entries: Iterable[Entry], heads: Mapping[Place, int], last: int) -> list[int | StagingConflict]:
    """The stamp of each entry in turn, or why it is refused; `last` is the highest stamp already used."""
    heads = dict(heads)
    outcomes: list[int | StagingConflict] = []
    for entry in entries:
        refusal = _refusal(entry, heads.get(entry.place, 0), last)
        if refusal is not None:
            outcomes.append(refusal)
            continue
        last = last + 1 if entry.stamp is None else entry.stamp
        heads[entry.place] = last
        outcomes.append(last)
    return outcomes


def _refusal(entry: Entry, head: int, last: int) -> StagingConflict | None:
    if entry.stamp is not None:
        if entry.stamp > last:
            return None
        return StagingConflict(
            f"page {entry.stamp} cannot be adopted: the log is at {last} already",
            where=spoken(entry.place),
            hint="adopt pages in the order of their stamps, into a log that has none of them",
        )
    if entry.after == head:
        return None
    return StagingConflict(
        f"another fetcher has appended to this partition: its last page is {head}, not {entry.after}",
        where=spoken(entry.place),
        hint="fetch it from one place at a time; run again to go on from what is staged",
    )
