"""What was asked for, and whether it had been staged already."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from ingest.types import Envelope
from tests.upstream.server import Seen

#: walks that begin anew in every run
_FOR_NEWS = ("head", "since")


class Asked(NamedTuple):
    """What makes two requests the same."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]


def asked_of(seen: Iterable[Seen]) -> list[Asked]:
    """What these requests asked for."""
    return [Asked(one.method, one.path, tuple(sorted(one.query))) for one in seen]


def known(staged: Iterable[tuple[int, Envelope]]) -> set[Asked]:
    """What need not be asked for, since it is staged: of walks that have not ended, and by id.

    The top of a newest-first listing, and what is new since then, is asked for in every run, whatever was
    left undone by the one before: that is told by `unfinished`.
    """
    pages = [envelope for _, envelope in staged]
    ended = {envelope.walk.id for envelope in pages if envelope.next is None}
    return {
        Asked(envelope.request.method, envelope.request.path, tuple(sorted(envelope.request.query)))
        for envelope in pages
        if envelope.walk.kind == "by_id"
        or (envelope.walk.id not in ended and not (envelope.walk.kind in _FOR_NEWS and _is_top(envelope)))
    }


def unfinished(staged: Iterable[tuple[int, Envelope]]) -> set[str]:
    """The cursors at which walks were broken off: what has to be asked for next."""
    last = {envelope.walk.id: envelope.next for _, envelope in staged}
    return {str(msgspec.json.decode(cursor)) for cursor in last.values() if cursor is not None}


def asked_again(staged: Iterable[tuple[int, Envelope]], asked: Iterable[Asked]) -> list[Asked]:
    """What was asked for though it was staged."""
    there = known(staged)
    return [one for one in asked if one in there]


def _is_top(envelope: Envelope) -> bool:
    return not any(name == "cursor" for name, _ in envelope.request.query)
