"""What a run says it did and proved. The JSON form of these is what `--json` prints and the ledger keeps."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec

from ingest.types import LoadCounts


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A partition that gave up, and why."""

    source: str
    stream: str
    partition: str
    cause: str


class FetchReport(msgspec.Struct, frozen=True, kw_only=True):
    """What fetching did."""

    requests: int = 0
    pages: int = 0
    records: int = 0
    bytes: int = 0
    retries: int = 0
    #: partitions skipped because nothing changed in them
    skipped: int = 0
    failures: tuple[Failure, ...] = ()
    #: what this run cannot have seen, in words
    unseen: tuple[str, ...] = ()

    def __add__(self, other: FetchReport) -> FetchReport:
        return FetchReport(
            **{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__}
        )


class ReferenceProof(msgspec.Struct, frozen=True, kw_only=True):
    """One foreign key, anti-joined: `dangling` must be 0."""

    table: str
    columns: tuple[str, ...]
    target: str
    dangling: int


class DerivedProof(msgspec.Struct, frozen=True, kw_only=True):
    """One pointer or counter against its recomputation: `wrong` must be 0."""

    table: str
    column: str
    kind: Literal["pointer", "counter"]
    set: int
    wrong: int


class TableReport(msgspec.Struct, frozen=True, kw_only=True):
    """One mirrored table after the run."""

    table: str
    rows: int
    written: int


#: exit statuses of runs that gave a certificate
CERTIFIED = frozenset({0, 3})


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """A hole in what has been fetched of a partition."""

    source: str
    stream: str
    partition: str
    low: str | None
    high: str | None
    reason: str
    #: the run that left it, whose name begins with when it was; None where none has been there yet
    run: str | None = None
    #: what has been fetched of the partition beside it, from the oldest to the newest: (low, high)
    fetched: tuple[tuple[str | None, str | None], ...] = ()


class MissingParent(msgspec.Struct, frozen=True, kw_only=True):
    """A reference whose target is not in the mirror."""

    table: str
    key: str
    state: Literal["wanted", "fetched", "forbidden", "gone", "external"]
    attempts: int
    #: since when it is wanted, and when it is asked for again; None for as soon as a run can
    since: str | None = None
    next_try: str | None = None
    #: how many stated references want it
    references: int
    #: one of the columns that refer to it, `messages.reply_to_id`
    by: str
    #: explained: rows that refer to it, at most ten; what the reference says is done, in order; and what the
    #: server answered last, None while it was not asked
    rows: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    answered: str | None = None


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A page or record that could not be decoded or stored."""

    id: int
    stamp: int
    ordinal: int
    table: str | None
    key: str | None
    reason: str
    state: str
    raw: str


class HeldDeletes(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of a table that are proven to be deleted, and held back: too many would go in one run."""

    table: str
    rows: int
    #: how many the table has
    of: int
    #: the proofs that most of them have, and how many each
    why: tuple[str, ...] = ()
    #: rows that would go with them, by table
    cascades: dict[str, int] = {}

    def __str__(self) -> str:
        """In one line."""
        more = ", ".join(f"{many:,} of {name}" for name, many in self.cascades.items())
        with_them = f", and with them {more}" if more else ""
        return f"{self.rows:,} of {self.of:,} rows of {self.table}{with_them} ({'; '.join(self.why)})"


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """What a run proved, written to the ledger and printed."""

    run: str
    command: str
    started: str
    ended: str
    exit: int
    #: whole: every row was checked; touched: every row that may have changed since the last certificate
    scope: Literal["whole", "touched"]
    fetch: FetchReport
    load: LoadCounts
    tables: tuple[TableReport, ...] = ()
    references: tuple[ReferenceProof, ...] = ()
    derived: tuple[DerivedProof, ...] = ()
    #: missing parents by state
    missing: dict[str, int] = {}
    #: parents that were asked for by id and arrived
    healed: int = 0
    #: values kept aside, by reason
    withheld: dict[str, int] = {}
    tombstones: int = 0
    #: deletes that are held back until somebody allows them
    held: tuple[HeldDeletes, ...] = ()
    dead_letters: int = 0
    #: upstream keys no column takes, `stream: path`
    unmapped: tuple[str, ...] = ()
    gaps: int = 0
    #: staged pages that the command did not load (`verify` loads none)
    pending: int = 0
    #: why the exit status is not 0, one line each
    remarks: tuple[str, ...] = ()


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What is known, pending and open."""

    database: str
    log: str
    log_id: str
    top_stamp: int
    loaded_pages: int
    pending_pages: int = 0
    pending_records: int = 0
    #: who writes now, and since when
    holder: str | None
    since: str | None
    #: the open integrity window; None when the foreign keys are proven
    window: str | None
    #: the last certificate, if there is one
    last: list[Certificate]
    rows: dict[str, int]
    #: deletes that are held back until somebody allows them
    held: tuple[HeldDeletes, ...] = ()
    dead_letters: int
    #: upstream keys no column takes
    unmapped: list[str]


class TracedValue(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a traced row, in stored form."""

    column: str
    shown: Any
    #: what upstream said last; the same as is shown, but for what is withheld
    stated: Any
    #: why it is not shown; None when it is
    reason: str | None = None
    version: int | None = None
    #: the page that stated it; None when nobody did
    stamp: int | None = None


class TracedPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page that spoke of a traced row, and the run that asked for it."""

    stamp: int
    #: kept | pruned | not in the page log
    body: str
    #: loaded | quarantined | reopened | pending
    loaded: str | None = None
    load: int | None = None
    source: str | None = None
    stream: str | None = None
    partition: str | None = None
    #: without credentials
    request: str | None = None
    status: int | None = None
    run: str | None = None
    command: str | None = None
    started: str | None = None
    #: the records in it that spoke of the row, as they came
    records: tuple[str, ...] = ()


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """Why a row is as it is."""

    table: str
    key: str
    #: shown, withheld and why, a stub, or not in the mirror
    state: str
    values: tuple[TracedValue, ...]
    #: what happened to it beside being stated, one line each
    events: tuple[str, ...]
    #: newest first
    pages: tuple[TracedPage, ...]


class PreviewTable(msgspec.Struct, frozen=True, kw_only=True):
    """The rows that one page states of a table, in stored form."""

    table: str
    rows: tuple[dict[str, Any], ...]


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """One page, mapped."""

    request: str
    records: int
    tables: tuple[PreviewTable, ...]
    unmapped: tuple[str, ...]
    #: why records could not be mapped
    rejected: tuple[str, ...]


class CopiedTable(msgspec.Struct, frozen=True, kw_only=True):
    """A table that was brought over."""

    table: str
    rows: int


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """A mirror that is in two databases now."""

    source: str
    target: str
    #: all of it was there already, and nothing was done
    already: bool
    tables: tuple[CopiedTable, ...]
    #: of both
    digest: str
    #: config.toml names the new database already
    configured: bool = False
    #: what staging.path must say from now on, for the page log stays where it is; None: it is found anyway
    log: str | None = None


class TableDifference(msgspec.Struct, frozen=True, kw_only=True):
    """How a table would differ: rows, and what of those that stay."""

    table: str
    added: int
    removed: int
    changed: int
    #: how many rows differ in each column
    columns: dict[str, int]
    #: keys of rows that differ, a few of them
    examples: tuple[str, ...]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What the page log would make of the mirror today."""

    #: only those that differ
    tables: tuple[TableDifference, ...]
    #: tables and columns that the models have and the database has not, and the other way
    new: tuple[str, ...]
    gone: tuple[str, ...]
    #: open dead letters now, and then
    letters: tuple[int, int]
    #: the exit status that the run would have
    exit: int


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """Bodies that went out of the page log, and why others stay."""

    #: pages of runs that began before it
    before: str
    #: how many went, or would go
    pages: int
    #: False: it was only asked what would go
    done: bool
    #: bodies that had gone before
    earlier: int
    #: how many stay, by reason
    kept: dict[str, int]


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """A row whose values are gone from all that is kept, and the proof of it."""

    table: str
    key: str
    #: False: it was only asked what would go
    done: bool
    #: the table showed the row
    shown: bool
    #: records of the row in the page log, and pages whose bodies were rewritten without what they said
    records: int
    pages: int
    #: pages that could not be read, and were emptied because they held values of the row
    emptied: tuple[int, ...]
    #: entries of values kept aside, and dead letters
    withheld: int
    letters: int
    #: rows that are kept aside, whole or in part, because they refer to it, by table
    referring: dict[str, int] = {}
    #: how many of the row's values were looked for, and how many were not, being too many
    values: int
    unsearched: int = 0
    #: who says one of them, too
    said: tuple[str, ...] = ()
    #: the files whose bytes were looked through; none of a server's
    files: tuple[str, ...] = ()
    #: what is left all the same, and where
    faults: tuple[str, ...] = ()
    exit: int = 0


class Observer(Protocol):
    """Told of every step of a run, by the event's name and figures: a progress bar, or a log."""

    def __call__(self, event: str, /, **fields: Any) -> None: ...


def unobserved(event: str, /, **fields: Any) -> None:
    """An observer that ignores everything."""
