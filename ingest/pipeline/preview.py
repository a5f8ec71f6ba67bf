"""One page of a stream, mapped: what a first look shows before there is a database."""

from __future__ import annotations

from ingest.catalog import read_catalog
from ingest.clock import Clock, SystemClock
from ingest.config import Config, models_of
from ingest.fetch.peek import peek
from ingest.pipeline.machine import chosen, client_of, decoders_of
from ingest.report import Observer, Preview, PreviewTable, unobserved


async def preview(
    config: Config,
    source: str,
    stream: str,
    *,
    observe: Observer = unobserved,
    clock: Clock | None = None,
) -> Preview:
    """One page, mapped: its rows by table and the keys that no column takes. Nothing is written."""
    (configured,) = chosen(config, (source,))
    catalog = read_catalog(models_of(config))
    decoders = decoders_of(config, catalog)
    async with client_of(config, configured, clock=clock or SystemClock(), observe=observe) as client:
        page = await peek(source, configured.source, client, stream)
    batch = decoders.decode([page])
    tables = []
    for name in sorted(batch.tables()):
        names = catalog.tables[name].names
        rows = [dict(zip(names, one, strict=False)) for one in batch.full.get(name, {}).values()]
        rows += [dict(one.values) for group in batch.partial.get(name, {}).values() for one in group]
        tables.append(PreviewTable(table=name, rows=tuple(rows)))
    return Preview(
        request=f"{page.envelope.request.method} {page.envelope.request.path}",
        records=batch.records,
        tables=tuple(tables),
        unmapped=tuple(path for _, _, path in batch.unmapped),
        rejected=tuple(one.reason for one in batch.letters),
    )
