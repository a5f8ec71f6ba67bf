"""Staged pages in the order of their stamps, decoded before the transaction that takes them.

    page log ── read_on ──▶ decoded, up to what one transaction takes ── take ──▶ a load

While the database is busy with one load, the next is read and decoded beside it; where much is waiting, by
a second process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from ingest.clock import others
from ingest.load.batch import Batch
from ingest.pipeline import limits
from ingest.pipeline.machine import Machine
from ingest.pipeline.worker import Worker, unpack
from ingest.types import Page, uncollected


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


@dataclass(slots=True)
class _Read:
    """A page out of the log."""

    page: Page
    #: what the second process will say of it, if it was asked
    answer: asyncio.Future[bytes] | None = None
    #: what it says, decoded here before its turn
    batch: Batch | None = None


class Feed:
    """Reads the page log ahead of the loads."""

    def __init__(self, machine: Machine, after: int) -> None:
        self._log, self._decoders = machine.log, machine.decoders
        self.worker = Worker(machine.config)
        self._names = {name: table.names for name, table in machine.catalog.tables.items()}
        self._after = after
        self._next = Load(after)
        #: read, and not yet in the next load
        self._ahead: deque[_Read] = deque()

    async def close(self) -> None:
        """End what it has started."""
        await self.worker.close()

    def expect(self, records: int) -> None:
        """So many records are staged and not loaded."""
        if records >= limits.MUCH:
            self.worker.start()

    @property
    def full(self) -> bool:
        """True when the next load waits to be taken."""
        return self._next.full

    async def read_on(self) -> bool:
        """Decode what is staged, as far as the next load takes it; False when there was nothing new."""
        began = self._after
        while not self.full and await self._read_ahead():
            read = self._ahead[0]
            # rather than wait for the other process, do what it would do last
            if read.answer is None or read.answer.done() or not self._decode_ahead():
                if self._add(read, b"" if read.answer is None else await read.answer):
                    self._ahead.popleft()
                else:
                    self._ahead[0] = _Read(read.page)
            # fetching, and what the database answers, need not wait for all of them
            await others()
        return self._after > began

    def take(self) -> Load:
        """The next load, which is then no longer ours."""
        load, self._next = self._next, Load(self._after)
        return load

    def go_back(self, load: Load) -> None:
        """A load was taken back: its pages come again, decoded anew."""
        self._after = load.after
        self._next = Load(load.after)
        self._ahead.clear()

    async def at_end(self) -> bool:
        """True when everything that is staged has been read."""
        return self._after >= await self._log.top()

    async def _read_ahead(self) -> bool:
        """Read pages before they are wanted, so that the second process always has one; False at the end."""
        helped = bool(self._ahead) and self._ahead[-1].answer is not None
        if not self._ahead or (helped and self._small()):
            read_to = self._ahead[-1].page.stamp if self._ahead else self._after
            for page in await self._log.read(read_to, limit=limits.READ):
                self._ahead.append(_Read(page, self.worker.ask(page)))
        return bool(self._ahead)

    def _decode_ahead(self) -> bool:
        """Decode here what the second process has not begun with; False when it has begun with all."""
        answer = self.worker.take_back()
        if answer is None:
            return False
        read = next((one for one in reversed(self._ahead) if one.answer is answer), None)
        if read is not None:
            read.answer, batch = None, Batch()
            # where there is no memory for it now, it is decoded when its turn comes
            with suppress(MemoryError), uncollected():
                self._decoders.add(read.page, batch)
                read.batch = batch
        return True

    def _small(self) -> bool:
        """True while what was read ahead may be more."""
        return (
            len(self._ahead) < limits.READ
            and sum(len(read.page.body or b"") for read in self._ahead) < limits.AHEAD_BYTES
        )

    def _add(self, read: _Read, answer: bytes) -> bool:
        """Take a page into the next load; False where it has to come again, alone, for want of memory."""
        load, page = self._next, read.page
        assert load.batch is not None, "a load that is taken takes no more"
        try:
            with uncollected():
                said = read.batch or unpack(answer)
                if said is None:
                    self._decoders.add(page, load.batch)
                else:
                    load.batch.join(self._names, said)
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
