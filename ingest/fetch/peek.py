"""The first page of a stream, asked for and not staged: what a preview shows."""

from __future__ import annotations

import msgspec

from ingest.errors import UsageError
from ingest.fetch.client import Answer, Client
from ingest.fetch.extract import opened, records, revealed
from ingest.fetch.routes import ROOT, routes
from ingest.fetch.stager import digest
from ingest.source import Source
from ingest.types import Child, Envelope, Page, Walk

_WALK = Walk(id="preview", kind="full")


async def peek(name: str, source: Source, client: Client, stream: str) -> Page:
    """The first page of the stream's first partition, found by way of the streams above it."""
    if stream not in source.streams:
        raise UsageError(
            f"there is no stream {stream!r}",
            where=f"source {name}",
            hint=f"known: {', '.join(source.streams)}",
        )
    partition, answer = await _first(name, source, client, stream)
    route = routes(source)[stream]
    return Page(
        stamp=1,
        after=0,
        body=answer.body,
        envelope=Envelope(
            run="preview",
            source=name,
            stream=stream,
            stream_hash=route.hash,
            partition=partition,
            walk=_WALK,
            request=route.request(partition, _WALK, None),
            digest=await digest(answer.body),
        ),
    )


async def _first(name: str, source: Source, client: Client, stream: str) -> tuple[str, Answer]:
    """A stream's first partition, and the answer to its first request."""
    if source.streams[stream].path is None:
        raise UsageError(f"{stream!r} has no listing: it is asked by id only", where=f"source {name}")
    route = routes(source)[stream]
    partition = ROOT
    if not route.is_root:
        above = source.streams[stream].each or next(other for other in route.family if other != stream)
        partition = (await _child(name, source, client, above, stream)).partition
    return partition, await client.ask(route.request(partition, _WALK, None))


async def _child(name: str, source: Source, client: Client, above: str, stream: str) -> Child:
    """The first partition of `stream` that the first page above it reveals or opens."""
    parent, answer = await _first(name, source, client, above)
    parameters = msgspec.json.decode(parent)
    children = revealed(routes(source)[above].rules, parameters, records(source.streams[above], answer.json))
    if source.streams[above].opening:
        children += opened(source.streams[above], answer.json, None, parameters)
    for child in children:
        if child.stream == stream and not child.closed:
            return child
    raise UsageError(f"the first page of {above!r} leads to nothing in {stream!r}", where=f"source {name}")
