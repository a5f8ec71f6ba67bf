"""The certificate: what a run did and proved, and the exit status that follows from it."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from ingest.catalog import Catalog
from ingest.ledger import DEAD_LETTERS, MISSING, TOMBSTONES, WITHHELD
from ingest.pipeline.questions import count, count_rows, unmapped
from ingest.reconcile.reconciler import Proven
from ingest.reconcile.verify import counted
from ingest.report import Certificate, FetchReport, HeldDeletes, TableReport
from ingest.types import LoadCounts


class Facts(NamedTuple):
    """What a run knows of itself."""

    run: str
    command: str
    started: str
    ended: str
    catalog: Catalog
    #: missing parents that were asked for: (table, key)
    asked: frozenset[tuple[str, str]]
    load: LoadCounts
    #: rows written, by table
    written: Counter[str]
    whole: bool


def certify(
    connection: sa.Connection, facts: Facts, proven: Proven, held: tuple[HeldDeletes, ...] = ()
) -> Certificate:
    """The certificate of a run as the database is now, in the transaction of what it proved."""
    absent = {(row.table, row.key) for row in connection.execute(sa.select(MISSING.c.table, MISSING.c.key))}
    rows = count_rows(connection, facts.catalog)
    return Certificate(
        run=facts.run,
        command=facts.command,
        started=facts.started,
        ended=facts.ended,
        exit=0 if proven.holds else 4,
        scope="whole" if facts.whole else "touched",
        fetch=FetchReport(),
        load=facts.load,
        tables=tuple(
            TableReport(table=name, rows=there, written=facts.written[name]) for name, there in rows.items()
        ),
        references=proven.references,
        derived=proven.derived,
        missing=counted(connection, MISSING.c.state),
        healed=len(facts.asked - absent),
        withheld=counted(connection, WITHHELD.c.reason, WITHHELD.c.value.is_not(None)),
        tombstones=count(connection, TOMBSTONES),
        held=held,
        dead_letters=count(connection, DEAD_LETTERS, DEAD_LETTERS.c.state == "open"),
        unmapped=tuple(unmapped(connection)),
        remarks=tuple(proven.accounting),
    )


def finished(
    certificate: Certificate, fetch: FetchReport, *, gaps: int, pending: int, said: tuple[str, ...] = ()
) -> Certificate:
    """The certificate with what fetching came to, what is left to load, what else is to be said; its exit."""
    final = msgspec.structs.replace(certificate, fetch=fetch, gaps=gaps, pending=pending)
    incomplete = bool(fetch.failures or gaps or pending or final.load.letters or final.held)
    return msgspec.structs.replace(
        final, exit=final.exit or (3 if incomplete else 0), remarks=(*final.remarks, *said, *_remarks(final))
    )


def _remarks(certificate: Certificate) -> list[str]:
    remarks = []
    if certificate.exit == 4:
        remarks.append("the references, pointers or counters could not be proven")
    if certificate.fetch.failures:
        remarks.append(
            f"{_many(len(certificate.fetch.failures), 'partition')} gave up; the next sync goes on from there"
        )
    if certificate.gaps:
        remarks.append(f"{_many(certificate.gaps, 'gap')} in what was fetched: `ingest gaps` shows them")
    if certificate.pending:
        remarks.append(f"{_many(certificate.pending, 'page')} staged and not loaded: run `ingest recover`")
    if certificate.load.letters:
        remarks.append("some records could not be stored: `ingest dead-letters` shows them")
    for one in certificate.held:
        remarks.append(f"held back: {one}; if that is right, run it again with --allow-deletes")
    return remarks


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"
