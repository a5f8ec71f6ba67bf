"""Which rows a client can learn of at all."""

from __future__ import annotations

from ingest.source import Stream
from ingest.types import Key
from tests.upstream.listing import Listings

Told = set[tuple[str, Key]]


def untold(listings: Listings) -> dict[str, list[Key]]:
    """The rows that no walk of every list, and of every reference by id, would bring: by table, if any."""
    api = listings.api
    api.told.clear()
    waiting = [
        (stream, item.table, item.key)
        for name, stream in listings.source.streams.items()
        if stream.path is not None and not stream.deletes
        for items in listings.partitions(name).values()
        for item in items
    ]
    by_id = _by_id(listings)
    while waiting:
        for stream, table, key in waiting:
            api.record(stream, table, key)
        waiting = [
            (by_id[table], table, key)
            for table, key in _referred(listings, api.told) - api.told
            if table in by_id and not api.conceals(table, key)
        ]
    tables = listings.models.tables
    missing = {table: [k for k in api.truth.keys(table) if (table, k) not in api.told] for table in tables}
    return {table: keys for table, keys in missing.items() if keys}


def _by_id(listings: Listings) -> dict[str, Stream]:
    streams = [stream for stream in listings.source.streams.values() if stream.by_id is not None]
    return {table: stream for stream in streams for table in listings.primaries(stream)}


def _referred(listings: Listings, told: Told) -> Told:
    """What told rows refer to."""
    found = set()
    for table, key in told:
        row = listings.truth.get(table, key)
        for reference in listings.models.references(table):
            ours = {theirs: ours for ours, theirs in reference.pairs}
            names = listings.models.key_columns(reference.target)
            if row is not None and None not in (target := tuple(row[ours[name]] for name in names)):
                found.add((reference.target, target))
    return found
