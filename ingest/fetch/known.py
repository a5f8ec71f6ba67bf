"""What the page log says has been fetched: a fold over envelopes, one state a partition.

    envelope ──fold──▶ Part: open walks and their cursors, known ground, children, what is satisfied

There is no second place to keep in step. A snapshot of the fold is kept to begin from; one that does
not fit the pages after it is thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ingest.fetch.parts import Part, fold_child, fold_page, holes
from ingest.report import Gap
from ingest.source import Stream
from ingest.staging.protocol import PageLog
from ingest.types import PLACELESS, Envelope

#: raised when the fold or its stored form changes: older snapshots are then folded anew
FOLD_FORMAT = 2


class _Snapshot(msgspec.Struct, array_like=True):
    format: int
    parts: list[Part]
    labels: dict[str, int]
    fullest: dict[str, int]


class _Unfit(Exception):
    """The snapshot is not of the pages that follow it."""


class Known:
    """What is known of one source; fed with every page as it is staged."""

    def __init__(self, source: str) -> None:
        self.source = source
        #: the last page folded
        self.stamp = 0
        #: pages folded since the snapshot it was loaded from
        self.folded = 0
        #: highest label by stream
        self.labels: dict[str, int] = {}
        #: records of the fullest page by stream: what pages its server is known to make
        self.fullest: dict[str, int] = {}
        self._parts: dict[str, dict[str, Part]] = {}
        self._strict = False

    def part(self, stream: str, partition: str) -> Part:
        """The state of a partition, empty when it was never heard of."""
        of_stream = self._parts.setdefault(stream, {})
        part = of_stream.get(partition)
        if part is None:
            part = of_stream[partition] = Part(stream, partition)
        return part

    def knows(self, stream: str, partition: str) -> bool:
        """True for a partition that was heard of."""
        return partition in self._parts.get(stream, {})

    def parts(self, stream: str) -> list[Part]:
        """Every partition of a stream that was heard of."""
        return list(self._parts.get(stream, {}).values())

    def fold(self, stamp: int, after: int, envelope: Envelope) -> None:
        """Take in one page; one that was taken in before changes nothing."""
        self.stamp = max(self.stamp, stamp)
        self.folded += 1
        # asked by id, a page says nothing of where a walk is, and there may be millions of them
        if envelope.walk.kind in PLACELESS:
            return
        part = self.part(envelope.stream, envelope.partition)
        if stamp <= part.stamp:
            return
        if self._strict and after != part.stamp:
            raise _Unfit
        fold_page(part, envelope, stamp)
        self.labels[part.stream] = max(envelope.label, self.labels.get(part.stream, envelope.label))
        self.fullest[part.stream] = max(envelope.records, self.fullest.get(part.stream, 0))
        for index, child in enumerate(envelope.children):
            revealed = self.part(child.stream, child.partition)
            fold_child(revealed, child, f"{stamp}.{index}", stamp, envelope.label)

    def dump(self) -> bytes:
        """The state as bytes."""
        parts = [part for of_stream in self._parts.values() for part in of_stream.values()]
        return msgspec.msgpack.encode(_Snapshot(FOLD_FORMAT, parts, self.labels, self.fullest))

    @classmethod
    def load(cls, source: str, stamp: int, state: bytes) -> Known | None:
        """The state that `dump` made; None when it is of another format."""
        try:
            snapshot = msgspec.msgpack.decode(state, type=_Snapshot)
        except msgspec.MsgspecError:
            return None
        if snapshot.format != FOLD_FORMAT:
            return None
        known = cls(source)
        known.stamp, known.labels, known.fullest = stamp, snapshot.labels, snapshot.fullest
        known._strict = True
        for part in snapshot.parts:
            known._parts.setdefault(part.stream, {})[part.partition] = part
        return known


async def recall(log: PageLog, source: str) -> Known:
    """What is known of a source: its snapshot, and the pages since."""
    stored = await log.load_fold(_name(source))
    known = Known.load(source, *stored) if stored is not None else None
    if known is not None:
        try:
            return await _folded(log, known)
        except _Unfit:
            pass
    return await _folded(log, Known(source))


async def remember(log: PageLog, known: Known) -> None:
    """Keep a snapshot. Only for a `known` that has taken in every page of its source there is."""
    await log.save_fold(_name(known.source), known.stamp, known.dump())
    known.folded = 0


def gaps(known: Known, streams: Mapping[str, Stream]) -> list[Gap]:
    """Every hole in what has been fetched of these streams, closed partitions left out."""
    return [
        Gap(
            source=known.source,
            stream=name,
            partition=part.partition,
            **hole._asdict(),
            fetched=tuple((stretch.low, stretch.high) for stretch in part.ground if stretch.records),
        )
        for name, stream in streams.items()
        for part in known.parts(name)
        if not part.closed
        for hole in holes(part, stream.hash())
    ]


def abandoned(known: Known, name: str, stream: Stream) -> int:
    """How many walks of a stream cannot go on because its definition has changed."""
    hash = stream.hash()
    return sum(
        (part.tail is not None and part.tail_hash != hash)
        + sum(stretch.hole == "open" and stretch.hash != hash for stretch in part.stretches())
        for part in known.parts(name)
    )


async def _folded(log: PageLog, known: Known) -> Known:
    async for stamp, after, envelope in log.envelopes(known.stamp, source=known.source):
        known.fold(stamp, after, envelope)
    return known


def _name(source: str) -> str:
    return f"fetch:{source}"
