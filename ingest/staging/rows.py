"""Pages as rows: an envelope's fields are columns, its structures JSON text, its body a zstd frame."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec
import zstandard

from ingest.errors import Stop
from ingest.types import Child, Covered, Envelope, Page, Request, Walk

#: a row of `page`, and how a `Page` is asked for: the envelope's columns between `after` and the body
ENVELOPE_COLUMNS: Final = (
    "run, source, stream, stream_hash, partition, walk, asked, request, status, label, next, covered, "
    "children, records, digest"
)
#: 4 times smaller at some 400 MB/s; higher levels cost more than they save
ZSTD_LEVEL: Final = 1

_walk = msgspec.json.Decoder(Walk)
_request = msgspec.json.Decoder(Request)
_covered = msgspec.json.Decoder(Covered)
_children = msgspec.json.Decoder(tuple[Child, ...])


def envelope_row(envelope: Envelope) -> tuple[Any, ...]:
    """An envelope's values in the order of `ENVELOPE_COLUMNS`."""
    return (
        envelope.run,
        envelope.source,
        envelope.stream,
        envelope.stream_hash,
        envelope.partition,
        _text(envelope.walk),
        envelope.asked,
        _text(envelope.request),
        envelope.status,
        envelope.label,
        envelope.next,
        None if envelope.covered is None else _text(envelope.covered),
        _text(envelope.children),
        envelope.records,
        envelope.digest,
    )


def envelope_of(stamp: int, row: tuple[Any, ...]) -> Envelope:
    """The envelope of a row; Stop naming the stamp when its columns do not hold one."""
    run, source, stream, stream_hash, partition, walk, asked, request = row[:8]
    status, label, next_cursor, covered, children, records, digest = row[8:15]
    try:
        return Envelope(
            run=run,
            source=source,
            stream=stream,
            stream_hash=stream_hash,
            partition=partition,
            walk=_walk.decode(walk),
            asked=asked,
            request=_request.decode(request),
            status=status,
            label=label,
            next=next_cursor,
            covered=None if covered is None else _covered.decode(covered),
            children=_children.decode(children),
            records=records,
            digest=digest,
        )
    except (msgspec.MsgspecError, TypeError) as error:
        raise _rotten(stamp, "envelope", str(error)) from error


def page_of(row: tuple[Any, ...]) -> Page:
    """The page of a row (stamp, after, the envelope's columns, body), its body proven by the digest."""
    stamp, after, *columns, packed = row
    envelope = envelope_of(stamp, tuple(columns))
    body = None if packed is None else unpack(stamp, packed, envelope.digest)
    return Page(stamp=stamp, after=after, envelope=envelope, body=body)


def pack(envelope: Envelope, body: bytes) -> bytes:
    """A body compressed; Stop when it is not the body that the envelope speaks of."""
    if hashlib.sha256(body).hexdigest() != envelope.digest:
        raise Stop(
            "the digest in the envelope is not that of the body",
            where=f"{envelope.source}: {envelope.stream} {envelope.partition}",
            hint="the page was changed after its digest was taken; record it again",
        )
    return zstandard.compress(body, ZSTD_LEVEL)


def repack(body: bytes) -> tuple[str, bytes]:
    """The digest of a body that takes another's place, and the body compressed."""
    return hashlib.sha256(body).hexdigest(), zstandard.compress(body, ZSTD_LEVEL)


def unpack(stamp: int, packed: bytes, digest: str) -> bytes:
    """A stored body; Stop naming the stamp when it is not what was appended."""
    try:
        body = zstandard.decompress(packed)
    # a rotten frame header may claim any size
    except (zstandard.ZstdError, MemoryError) as error:
        raise _rotten(stamp, "body", str(error)) from error
    if hashlib.sha256(body).hexdigest() != digest:
        raise _rotten(stamp, "body", "it does not match its digest")
    return body


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _rotten(stamp: int, part: str, why: str) -> Stop:
    return Stop(
        f"the {part} of page {stamp} is damaged: {why}",
        where="page log",
        hint="restore the page log from a backup; without one, prune this page and fetch it again",
    )
