"""What a walk has passed: how it notices that it leads nowhere.

A server may give ever new cursors on empty pages, or the same page for ever, and each of them costs a
request. What brings nothing new is borne for `paginate.max_idle` pages in a row, for some servers filter
after paging.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ingest.errors import BadAnswer
from ingest.fetch.extract import record_id
from ingest.source import Stream
from ingest.types import read_json


class Trail:
    """The cursors and pages of one walk, as far as this run has seen it."""

    def __init__(self, stream: Stream, cursors: Iterable[str | None]) -> None:
        self._stream = stream
        self._cursors = {*cursors}
        self._most = stream.paginate.max_idle if stream.paginate else 1
        self._signs: set[int] = set()
        self._last: Sequence[Any] = ()
        self._idle = 0

    def repeats(self, records: Sequence[Any]) -> bool:
        """True for the records of the page before, once more: what some servers send beyond their end."""
        last, these = ([identity(self._stream, one) for one in some] for some in (self._last, records))
        if None in these or len({*these}) < len(these):
            return bool(records) and list(self._last) == list(records)
        return bool(records) and last == these

    def take(self, records: Sequence[Any], following: str | None) -> None:
        """Note a page and the cursor after it; BadAnswer where it shows that the walk would never end."""
        if following in self._cursors:
            raise BadAnswer("the server gave a cursor a second time", hint="the walk would never end")
        self._cursors.add(following)
        sign = _sign(self._stream, records) if records else None
        self._idle = self._idle + 1 if sign is None or sign in self._signs else 0
        if self._idle > self._most:
            raise BadAnswer(
                f"{self._most} pages in a row brought nothing new, and the server gives a next one",
                hint="the walk would never end; if it does, raise paginate.max_idle",
            )
        if sign is not None:
            self._signs.add(sign)
        self._last = records


def _sign(stream: Stream, records: Sequence[Any]) -> int:
    """The same number for the same page, told by its ends: whoever sends a page again sends them too."""
    first, last = records[0], records[-1]
    # fields that change on every call must not make a page look new; but an id may be another's too
    ids = identity(stream, first), identity(stream, last)
    if len(records) > 1 and None not in ids and ids[0] != ids[1]:
        return hash((len(records), ids))
    return hash((len(records), msgspec.json.encode(first), msgspec.json.encode(last)))


def identity(stream: Stream, record: Any) -> str | None:
    """A record's id, also where nobody has looked into the record before; None where it has none."""
    if not isinstance(record, msgspec.Raw):
        return record_id(stream, record)
    try:
        return record_id(stream, read_json(bytes(record)))
    except (msgspec.MsgspecError, RecursionError):
        return None  # out of range, or too deep: the loader sets it aside
