"""Bodies that nothing needs any more: old, loaded, certified, and without an open dead letter.

Envelopes are kept for ever, so what has been fetched stays known. Only what the pages said can then be had
from the database alone: it cannot be made anew from the page log any more.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import NamedTuple

import sqlalchemy as sa

from ingest.database import Database
from ingest.errors import Stop
from ingest.ledger import DEAD_LETTERS, PAGES, RUNS, TOUCHED
from ingest.pipeline.questions import certificates
from ingest.report import CERTIFIED, Pruned
from ingest.staging import PageLog
from ingest.window import window


class _Needs(NamedTuple):
    """What the database says of the pages of a log."""

    #: why none may be pruned; None when they may
    unproven: str | None
    #: when each run began
    began: dict[str, str]
    #: stamps of pages that are loaded, and of those among them that an open dead letter needs
    loaded: set[int]
    lettered: set[int]


async def prune(database: Database, log: PageLog, *, before: str, carry_out: bool = True) -> Pruned:
    """Drop the bodies of pages whose run began before a time of the ledger's, if nothing needs them.

    Stop where the last run was not certified. Without `carry_out` it is only said what would go.
    """
    needs = await database.read(partial(_needs, log=log.identity.id))
    if needs.unproven is not None:
        raise Stop(
            f"nothing can be pruned: {needs.unproven}",
            where=database.engine.place,
            hint="run `ingest sync` or `ingest verify` first: only what is certified is pruned",
        )
    gone, going, kept = set(await log.pruned()), list[int](), Counter[str]()
    async for stamp, _, envelope in log.envelopes():
        if stamp in gone:
            continue
        why = _needed(stamp, envelope.run, needs, before)
        if why is None:
            going.append(stamp)
        else:
            kept[why] += 1
    if carry_out:
        await log.prune(going)
    return Pruned(before=before, pages=len(going), done=carry_out, earlier=len(gone), kept=dict(kept))


def _needed(stamp: int, run: str, needs: _Needs, before: str) -> str | None:
    """Why a page's body is kept; None where nothing needs it."""
    if stamp not in needs.loaded:
        return "not loaded"
    if stamp in needs.lettered:
        return "an open dead letter needs it"
    began = needs.began.get(run)
    if began is None:
        return "its run is not known here"
    return None if began < before else "younger"


def _needs(connection: sa.Connection, *, log: str) -> _Needs:
    opened = sa.select(DEAD_LETTERS.c.stamp).where(DEAD_LETTERS.c.log == log, DEAD_LETTERS.c.state == "open")
    loaded = sa.select(PAGES.c.stamp).where(PAGES.c.log == log, PAGES.c.state == "loaded")
    return _Needs(
        _unproven(connection),
        {row.id: row.started for row in connection.execute(sa.select(RUNS.c.id, RUNS.c.started))},
        set(connection.scalars(loaded)),
        set(connection.scalars(opened)),
    )


def _unproven(connection: sa.Connection) -> str | None:
    """Why what is loaded counts for nothing yet; None when it is certified."""
    if window(connection) is not None:
        return "the integrity window is open"
    if connection.scalar(sa.select(sa.literal(1)).select_from(TOUCHED).limit(1)) is not None:
        return "rows have changed since the last certificate"
    told = certificates(connection)
    if not told or told[-1].exit not in CERTIFIED:
        return "the last run was not certified" if told else "no run was ever certified"
    return None
