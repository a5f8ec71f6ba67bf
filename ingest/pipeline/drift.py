"""Page log and database, seen to belong together before either is written.

the database was filled from   and this log                     so
────────────────────────────   ────────────                     ──
nothing                        has any pages, or none           they are loaded from the beginning
this log                       has all of what was loaded       the run goes on
this log                       has rewritten some (an erasure) that is noted, and the run goes on
this log                       is behind (restored)             a new generation above it all; said
this log                       has another page in one's place  refused: two logs went on from one
other logs                     is empty (theirs was deleted)    a new generation above it all; said
other logs                     has pages                        refused: it is another mirror's
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from ingest.database import Database
from ingest.errors import LogDrift
from ingest.ledger import LOGS, PAGES, REOPENED
from ingest.report import Observer
from ingest.staging import PageLog
from ingest.types import GENERATION, Erasure

#: marked pages that are looked up in the log at the beginning of a run; `verify` looks all of them up
_NEWEST = 100
_HINT = "put back the page log that it was filled from, or mirror into a new database"


class _Loaded(NamedTuple):
    """What the ledger knows of a log, and of all of them."""

    #: the highest stamp that was ever loaded, of any log
    highest: int
    #: the same of this log; None when nothing is known of it
    top: int | None
    #: every stamp of this log at or below it is marked
    to: int
    #: a rebuild has taken all marks away, and they are not all there again
    emptied: bool


#: of a marked page: its stamp to what was staged when it was asked for, and its body's digest
_Marks = dict[int, tuple[int, str]]


class Drift:
    """One log beside one database."""

    def __init__(self, database: Database, log: PageLog, place: Path) -> None:
        self._database, self._log, self._place = database, log, str(place)

    async def attach(self, observe: Observer) -> tuple[str, ...]:
        """Note the log in the ledger; what is to be said of how the two differ. LogDrift where they clash."""
        loaded, top = await self._loaded(), await self._log.top()
        self._refuse_foreign(loaded, top)
        await self._learn_of_rewriting(loaded.to)
        await self._compare(await self._database.read(partial(_marks, log=self._id, newest=_NEWEST)))
        await self._refuse_pruned(loaded.to)
        if top < loaded.highest and self._log.identity.generation * GENERATION <= loaded.highest:
            new = await self._log.new_generation(loaded.highest)
            observe("log.generation", generation=new.generation, above=loaded.highest)
        if loaded.top is None:
            await self._database.write(partial(_note, log=self._id, generation=self._log.identity.generation))
        if top >= loaded.highest:
            return ()
        what = "is new" if loaded.top is None else "is behind"
        return (f"the page log {what}: what it does not have stays, and cannot be loaded from it again",)

    def _refuse_foreign(self, loaded: _Loaded, top: int) -> None:
        """LogDrift where the log is another mirror's, or all that could fill an emptied database is gone."""
        if loaded.top is None and loaded.highest and top:
            raise self._clash(
                "this database was filled from another page log, and this one has pages of its own"
            )
        if loaded.emptied and top < loaded.highest:
            raise self._clash(
                "a rebuild has emptied this database, and the page log lacks pages that it was filled from"
            )

    async def audit(self) -> tuple[str, ...]:
        """LogDrift where a marked page is another one in the log; what of the marked pages is not there."""
        marks = await self._database.read(partial(_marks, log=self._id))
        lost = await self._compare(marks) + await self._database.read(partial(_of_others, log=self._id))
        if not lost:
            return ()
        return (f"{lost:,} loaded pages are not in the page log, and cannot be loaded from it again",)

    async def refuse_loss(self) -> None:
        """LogDrift unless the log has, whole, all that the database was filled from."""
        pruned = await self._log.pruned()
        if pruned:
            raise self._clash(
                f"the bodies of {len(pruned):,} pages were pruned: the database has what they said, and"
                " could not have it again"
            )
        if await self.audit():
            raise self._clash(
                "the page log lacks pages that this database was filled from: what they said would be lost"
            )

    def _clash(self, what: str, *, hint: str = _HINT) -> LogDrift:
        return LogDrift(what, where=self._place, hint=hint)

    @property
    def _id(self) -> str:
        return self._log.identity.id

    async def _loaded(self) -> _Loaded:
        return await self._database.read(partial(_loaded, log=self._id))

    async def _compare(self, marks: _Marks) -> int:
        """LogDrift where the log has another page in a marked one's place; how many it lacks."""
        if not marks:
            return 0
        there: _Marks = {}
        #: the last stamp of every generation
        ends: dict[int, int] = {}
        async for stamp, _, envelope in self._log.envelopes(min(marks) - 1):
            ends[stamp // GENERATION] = stamp
            if stamp in marks:
                there[stamp] = (envelope.asked, envelope.digest)
        for stamp, mark in sorted(marks.items()):
            # a log that was put back ends before what it lacks; one that went on without it is another
            if there.get(stamp, mark) != mark or (
                stamp not in there and ends.get(stamp // GENERATION, 0) > stamp
            ):
                raise self._clash(
                    f"page {stamp} is another one in the page log than was loaded: two logs went on from one"
                )
        return len(marks) - len(there)

    async def _learn_of_rewriting(self, loaded_to: int) -> None:
        """Note the digests of pages that were rewritten by an erasure that this database is to load yet.

        Or are being rewritten: an erasure that was broken off is not loaded, and whichever bodies its pages
        have now are theirs.
        """
        named: set[int] = set()
        async for stamp, _, envelope in self._log.envelopes(loaded_to):
            page = await self._log.page(stamp) if envelope.walk.kind == "erased" else None
            if page is not None and page.body is not None:
                named.update(msgspec.json.decode(page.body, type=Erasure).pages)
        if named:
            there = [page for one in sorted(named) if (page := await self._log.page(one)) is not None]
            digests = {page.stamp: page.envelope.digest for page in there}
            await self._database.write(partial(note_digests, log=self._id, digests=digests))

    async def _refuse_pruned(self, loaded_to: int) -> None:
        """LogDrift where the body of a page is gone that this database has not loaded yet."""
        pruned = await self._log.pruned(loaded_to)
        if not pruned:
            return
        marked = await self._database.read(partial(_marked, log=self._id, after=loaded_to))
        waiting = [stamp for stamp in pruned if stamp not in marked]
        if waiting:
            raise self._clash(
                f"page {waiting[0]} was pruned before this database loaded it ({len(waiting):,} such pages)",
                hint="put back a newer backup of the database, or mirror into a new one",
            )


def _loaded(connection: sa.Connection, *, log: str) -> _Loaded:
    rows = connection.execute(sa.select(LOGS)).all()
    highest = max((row.top_stamp for row in rows), default=0)
    mine = next((row for row in rows if row.log == log), None)
    marked = connection.scalar(sa.select(sa.func.max(PAGES.c.stamp))) or 0
    return _Loaded(
        highest=highest,
        top=None if mine is None else mine.top_stamp,
        to=0 if mine is None else mine.loaded_to,
        emptied=marked < highest,
    )


def _marks(connection: sa.Connection, *, log: str, newest: int | None = None) -> _Marks:
    rows = sa.select(PAGES.c.stamp, PAGES.c.asked, PAGES.c.digest).where(PAGES.c.log == log)
    found = connection.execute(rows.order_by(PAGES.c.stamp.desc()).limit(newest))
    return {stamp: (asked, digest) for stamp, asked, digest in found}


def note_digests(connection: sa.Connection, *, log: str, digests: Mapping[int, str]) -> None:
    """Note the digests of pages that are marked, by stamp; those of others are noted when they are loaded."""
    for stamp, digest in digests.items():
        mark = sa.update(PAGES).where(PAGES.c.log == log, PAGES.c.stamp == stamp)
        connection.execute(mark.values(digest=digest))


def _marked(connection: sa.Connection, *, log: str, after: int) -> set[int]:
    return set(
        connection.scalars(
            sa.select(PAGES.c.stamp).where(
                PAGES.c.log == log, PAGES.c.stamp > after, PAGES.c.state != REOPENED
            )
        )
    )


def _of_others(connection: sa.Connection, *, log: str) -> int:
    """How many pages of other logs are marked."""
    return connection.scalar(sa.select(sa.func.count()).where(PAGES.c.log != log)) or 0


def _note(connection: sa.Connection, *, log: str, generation: int) -> None:
    connection.execute(sa.insert(LOGS).values(log=log, generation=generation, top_stamp=0, loaded_to=0))
