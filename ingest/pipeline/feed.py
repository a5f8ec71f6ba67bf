"""Staged pages in the order of their stamps, decoded before the transaction that takes them.

    page log ── read_on ──▶ decoded, up to what one transaction takes ── take ──▶ a load

While the database is busy with one load, the next is read and decoded beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ingest.clock import others
from ingest.load.batch import Batch
from ingest.load.loader import Loader
from ingest.pipeline import limits
from ingest.staging import PageLog
from ingest.types import Page


@dataclass(slots=True)
class Load:
    """Pages for one transaction, and what they say."""

    #: the stamp its pages come after
    after: int
    pages: list[Page] = field(default_factory=list)
    batch: Batch | None = field(default_factory=Batch)
    records: int = 0
    bytes: int = 0
    #: no more pages: the next one is for a load of its own
    closed: bool = False

    def take(self) -> Batch | None:
        """What the pages say, once: a load uses it up. Tried again, they are decoded anew."""
        batch, self.batch = self.batch, None
        return batch

    @property
    def full(self) -> bool:
        """True when one transaction should not take more."""
        return self.closed or self.records >= limits.BATCH or self.bytes >= limits.BATCH_BYTES


class Feed:
    """Reads the page log ahead of the loads."""

    def __init__(self, log: PageLog, loader: Loader, after: int) -> None:
        self._log, self._loader = log, loader
        self._after = after
        self._next = Load(after)

    @property
    def full(self) -> bool:
        """True when the next load waits to be taken."""
        return self._next.full

    async def read_on(self) -> bool:
        """Decode what is staged, as far as the next load takes it; False when there was nothing new."""
        began = self._after
        while not self.full and (pages := await self._log.read(self._after, limit=limits.READ)):
            for page in pages:
                if not self._add(page):
                    break
                # fetching, and what the database answers, need not wait for all of them
                await others()
                if self.full:
                    break
        return self._after > began

    def take(self) -> Load:
        """The next load, which is then no longer ours."""
        load, self._next = self._next, Load(self._after)
        return load

    def go_back(self, load: Load) -> None:
        """A load was taken back: its pages come again, decoded anew."""
        self._after = load.after
        self._next = Load(load.after)

    async def at_end(self) -> bool:
        """True when everything that is staged has been read."""
        return self._after >= await self._log.top()

    def _add(self, page: Page) -> bool:
        """Decode a page into the next load; False where it has to come again, alone, for want of memory."""
        load = self._next
        assert load.batch is not None, "a load that is taken takes no more"
        try:
            self._loader.add(page, load.batch)
        except MemoryError:
            # part of what it says may be in the batch, which is made anew from its other pages
            load.batch, load.closed = None, bool(load.pages)
            if not load.pages:
                self._next = Load(self._after)
            return False
        load.pages.append(page)
        load.records += page.envelope.records
        load.bytes += len(page.body or b"")
        self._after = page.stamp
        return True
