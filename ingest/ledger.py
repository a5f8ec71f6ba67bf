"""The `ingest_*` bookkeeping tables in the target database, and the few questions everyone asks of them."""

from __future__ import annotations

import sqlalchemy as sa

LEDGER = sa.MetaData()

#: characters of a canonical key: with a table's and a list of columns' names, what an index of MariaDB takes
KEY_LENGTH = 576
#: the state of a page that is to be loaded once more
REOPENED = "reopened"

#: characters of a stream's, source's or run's name, and of a table's or column's
_NAME, _TABLE = 128, 64
#: characters of a list of columns
_COLUMNS = 128


def _rank() -> tuple[sa.Column[int], sa.Column[int], sa.Column[int]]:
    return (
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("stamp", sa.BigInteger, nullable=False),
        sa.Column("ordinal", sa.Integer, nullable=False),
    )


LOCK = sa.Table(
    "ingest_lock",
    LEDGER,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    #: counts take-overs; a write transaction that finds another epoch than its own does not commit
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("holder", sa.String(_NAME)),
    sa.Column("since", sa.String(40)),
    #: the open integrity window as JSON: why, and what was dropped; NULL when the foreign keys are proven
    sa.Column("window", sa.Text),
)

LOGS = sa.Table(
    "ingest_logs",
    LEDGER,
    sa.Column("log", sa.String(_NAME), primary_key=True),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("top_stamp", sa.BigInteger, nullable=False),
    #: every stamp at or below it is marked in ingest_pages
    sa.Column("loaded_to", sa.BigInteger, nullable=False),
)

LOADS = sa.Table(
    "ingest_loads",
    LEDGER,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.String(_NAME), nullable=False),
    sa.Column("pages", sa.Integer, nullable=False),
    sa.Column("quarantined", sa.Integer, nullable=False),
    sa.Column("records", sa.BigInteger, nullable=False),
    sa.Column("written", sa.BigInteger, nullable=False),
    sa.Column("kept", sa.BigInteger, nullable=False),
    sa.Column("rejected", sa.BigInteger, nullable=False),
)

PAGES = sa.Table(
    "ingest_pages",
    LEDGER,
    sa.Column("log", sa.String(_NAME), primary_key=True),
    sa.Column("stamp", sa.BigInteger, primary_key=True, autoincrement=False),
    #: the highest stamp staged when the page was asked for: what a tombstone's proof is compared with
    sa.Column("asked", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    #: loaded | quarantined | reopened: to be loaded once more
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("load", sa.Integer, nullable=False),
)

WITHHELD = sa.Table(
    "ingest_withheld",
    LEDGER,
    sa.Column("table", sa.String(_TABLE), primary_key=True),
    sa.Column("key", sa.String(KEY_LENGTH), primary_key=True),
    #: '' is the whole row
    sa.Column("column", sa.String(_TABLE), primary_key=True),
    #: the stated value as JSON; for a row {"values": {column: value}, "exceptions": {column: rank}}
    sa.Column("value", sa.Text),
    *_rank(),
    #: missing | cascade | deleted | incomplete | collision | refused
    sa.Column("reason", sa.String(16), nullable=False),
    sa.Column("target_table", sa.String(_TABLE)),
    sa.Column("target_key", sa.String(KEY_LENGTH)),
    sa.Index("ix_ingest_withheld_target", "target_table", "target_key"),
)

TOUCHED = sa.Table(
    "ingest_touched",
    LEDGER,
    sa.Column("table", sa.String(_TABLE), primary_key=True),
    #: '*' is the whole table
    sa.Column("key", sa.String(KEY_LENGTH), primary_key=True),
)

MISSING = sa.Table(
    "ingest_missing",
    LEDGER,
    sa.Column("table", sa.String(_TABLE), primary_key=True),
    sa.Column("key", sa.String(KEY_LENGTH), primary_key=True),
    #: wanted | fetched | forbidden | gone | external
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    #: the stamp of the page that decided the state
    sa.Column("stamp", sa.BigInteger, nullable=False),
)

TOMBSTONES = sa.Table(
    "ingest_tombstones",
    LEDGER,
    sa.Column("table", sa.String(_TABLE), primary_key=True),
    sa.Column("key", sa.String(KEY_LENGTH), primary_key=True),
    #: the greatest version and the greatest stamp of the proofs
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("stamp", sa.BigInteger, nullable=False),
    sa.Column("proof", sa.String(_NAME), nullable=False),
)

SETS = sa.Table(
    "ingest_sets",
    LEDGER,
    #: whose rows the set holds, by which columns they name their owner, and the owner's key
    sa.Column("table", sa.String(_TABLE), primary_key=True),
    sa.Column("columns", sa.String(_COLUMNS), primary_key=True),
    sa.Column("key", sa.String(KEY_LENGTH), primary_key=True),
    *_rank(),
)

DEAD_LETTERS = sa.Table(
    "ingest_dead_letters",
    LEDGER,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("log", sa.String(_NAME), nullable=False),
    sa.Column("stamp", sa.BigInteger, nullable=False),
    #: -1 is the whole page
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("table", sa.String(_TABLE)),
    sa.Column("key", sa.String(KEY_LENGTH)),
    sa.Column("raw", sa.LargeBinary, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    #: open | settled
    sa.Column("state", sa.String(16), nullable=False),
    sa.Index("ix_ingest_dead_letters_key", "table", "key"),
)

RUNS = sa.Table(
    "ingest_runs",
    LEDGER,
    sa.Column("id", sa.String(_NAME), primary_key=True),
    sa.Column("command", sa.String(_NAME), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("started", sa.String(40), nullable=False),
    sa.Column("ended", sa.String(40)),
    sa.Column("exit", sa.Integer),
    #: JSON of ingest.report.Certificate
    sa.Column("certificate", sa.Text),
)

KEYS = sa.Table(
    "ingest_keys",
    LEDGER,
    sa.Column("source", sa.String(_NAME), primary_key=True),
    sa.Column("stream", sa.String(_NAME), primary_key=True),
    sa.Column("path", sa.String(_NAME * 4), primary_key=True),
    sa.Column("first_stamp", sa.BigInteger, nullable=False),
)
