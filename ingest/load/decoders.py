"""The decoders of a job's streams: whichever page comes, what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ingest.catalog import Catalog
from ingest.errors import LogDrift
from ingest.load.batch import Batch
from ingest.load.decode import Decoder, only_mentioned
from ingest.load.erasing import Reduced, reduced
from ingest.load.merge import Tombstone
from ingest.source import Source
from ingest.types import FOREVER, HIGHEST_VERSION, Erasure, Key, Page, uncollected

#: times a page may fail for memory: beside others, and by itself
_TRIES = 2


class Decoders:
    """Take pages of a job's sources apart, without a word to the database."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        catalog: Catalog,
        *,
        modules: Mapping[str, str] | None = None,
    ) -> None:
        #: `modules`: the module of models that a source's entities are looked for in
        self._decoders: dict[tuple[str, str], Decoder] = {}
        self._tables = catalog.tables
        #: how often there was not enough memory for a page, by stamp
        self._too_large: Counter[int] = Counter()
        for name, source in sources.items():
            its = catalog.within(modules[name]) if modules else catalog
            mentioned = only_mentioned(source.streams, its)
            for stream, stated in source.streams.items():
                self._decoders[(name, stream)] = Decoder(name, stream, stated, its, mentioned)

    def proving(self, source: str) -> frozenset[str]:
        """The streams of a source whose pages may prove that a row was deleted."""
        return frozenset(
            stream for (name, stream), one in self._decoders.items() if name == source and one.proves_deletes
        )

    def check(self, staged: Iterable[tuple[int, str, str]]) -> None:
        """LogDrift at the first (stamp, source, stream) whose page could not be decoded."""
        for stamp, source, stream in staged:
            if (source, stream) not in self._decoders:
                raise LogDrift(
                    f"page {stamp} is of {source}.{stream}, which is not configured",
                    hint="put it back into config.toml or source.toml, or mirror into another database",
                )

    def decode(self, pages: Sequence[Page]) -> Batch:
        """What the pages say, together."""
        batch = Batch()
        with uncollected():
            for page in pages:
                self.add(page, batch)
        return batch

    def raw_of(self, page: Page, ordinal: int) -> bytes | None:
        """The bytes of the record of a page that an ordinal lies in; None where nothing reads such pages."""
        decoder = self._decoders.get((page.envelope.source, page.envelope.stream))
        if decoder is None or page.envelope.walk.kind == "erased":
            return None
        return decoder.raw_of(page, ordinal)

    def home(self, table: str) -> tuple[str, str] | None:
        """A source whose models have a table, and a stream of it; None where there is none."""
        for where, decoder in self._decoders.items():
            if table in decoder.tables:
                return where
        return None

    def reduced(self, page: Page, table: str, key: Key) -> Reduced:
        """What a page says of a row, and its body without that."""
        decoder = self._decoders.get((page.envelope.source, page.envelope.stream))
        if decoder is None or page.envelope.walk.kind == "erased":
            return Reduced()
        return reduced(decoder, page, table, key)

    def add(self, page: Page, batch: Batch) -> None:
        """Add what a page says to what those before it said; one that failed for memory twice is set aside.

        After a MemoryError the batch is to be thrown away: part of the page may be in it.
        """
        self.check([(page.stamp, page.envelope.source, page.envelope.stream)])
        decoder = self._decoders[(page.envelope.source, page.envelope.stream)]
        if page.envelope.walk.kind == "erased":
            self._bury(page, batch, decoder)
            return
        if self._too_large[page.stamp] >= _TRIES:
            decoder.set_aside(page, batch, f"there was not enough memory to decode it, {_TRIES} times")
            return
        try:
            decoder.decode(page, batch)
        except MemoryError:
            self._too_large[page.stamp] += 1
            raise

    def _bury(self, page: Page, batch: Batch, decoder: Decoder) -> None:
        """An erasure: a tombstone that nothing said before or after is a match for."""
        said = msgspec.json.decode(page.body or b"", type=Erasure)
        table = self._tables.get(said.table)
        if table is None or len(table.key) != len(said.key):
            decoder.set_aside(page, batch, "it erases a row by a table or a key that the models do not have")
            return
        batch.asked[page.stamp] = page.envelope.asked
        tombstone = Tombstone(HIGHEST_VERSION, FOREVER, f"erased {page.stamp}")
        batch.bury(said.table, said.key, tombstone)
