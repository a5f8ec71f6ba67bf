"""A row's values, taken out of everything that ingest keeps, and a proof that they are gone.

    all pages ──▶ where records of the row stand, and what they say
              ──▶ a page: the row is erased        what is said of it before or after counts for nothing;
              ──▶ bodies without it                it names them, for whoever has loaded them before
              ──▶ a run: loads that page, settles, certifies
              ──▶ dead letters cut anew, withheld values and quoted answers dropped
              ──▶ both stores written anew ──▶ the proof

Broken off anywhere, the same command finishes it. Other rows are not erased with it: those that refer to the
row follow their foreign keys' rules, and are erased by their own keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from ingest.catalog import Table
from ingest.errors import UsageError
from ingest.keys import dump_key, has_row, is_row, raw
from ingest.ledger import (
    DEAD_LETTERS,
    MISSING,
    PAGES,
    RUNS,
    TOMBSTONES,
    TOUCHED,
    WITHHELD,
)
from ingest.load.batch import Letter
from ingest.load.erasing import Reduced
from ingest.pipeline.drift import note_digests
from ingest.pipeline.machine import Machine
from ingest.pipeline.remnants import Needles, Proof
from ingest.pipeline.run import Run
from ingest.pipeline.tracing import addressed
from ingest.report import Certificate, Erased
from ingest.types import Envelope, Erasure, Key, Page, Request, Walk, canonical
from ingest.window import window

#: bodies that are rewritten in one transaction
_REWRITTEN_AT_ONCE = 100
#: what a dead letter, or why a partition gave up, says from then on
_REASON = "it was of a row that is erased"
_UNREADABLE = "it could not be read, and said something of a row that is erased"


class _Found(NamedTuple):
    """Where records of the row stand in the page log."""

    #: records in all
    records: int
    #: stamps of pages in which they stand, and of those of them where they say more than the key
    standing: list[int]
    telling: list[int]
    #: stamps of pages that say nothing to a mirror, and have bodies all the same
    unread: list[int]
    needles: Needles


class _Told(NamedTuple):
    """What the database has of the row."""

    shown: bool
    #: entries kept aside, and dead letters
    withheld: int
    letters: int
    #: in any other way it was heard of
    heard: bool


async def erase(
    machine: Machine,
    name: str,
    texts: Sequence[str],
    *,
    run: Run,
    carry_out: bool = True,
) -> Erased:
    """Erase the row with this key, and prove it; without `carry_out` it is only said what would go.

    UsageError where nothing ever spoke of such a row. `run`: the one that loads the erasure, and certifies.
    """
    table, key = addressed(machine.catalog, name, texts)
    return await _Erasing(machine, table, key, run).carry_out(only_say=not carry_out)


class _Erasing:
    """One row being erased."""

    def __init__(self, machine: Machine, table: Table, key: Key, run: Run) -> None:
        self._machine, self._table, self._key, self._run = machine, table, key, run
        self._database, self._log, self._decoders = machine.database, machine.log, machine.decoders
        self._text = dump_key(key)
        home = machine.decoders.home(table.name)
        if home is None:
            raise UsageError(f"no configured source has the table {table.name!r}")
        self._source, self._stream = home
        self._partition = canonical({"erased": [table.name, list(key)]})

    async def carry_out(self, *, only_say: bool) -> Erased:
        held = await self._database.read(window)
        place = self._database.engine.place
        if held is not None:
            raise UsageError(
                f"its integrity window is open: {held.why}", where=place, hint="run `ingest recover` first"
            )
        found = await self._find()
        told = await self._database.read(partial(self._told, needles=found.needles))
        earlier = await self._log.head(self._source, self._stream, self._partition)
        if not (found.standing or earlier or told.shown or told.withheld or told.letters or told.heard):
            raise UsageError(
                "neither the mirror nor the page log ever heard of such a row",
                where=f"{self._table.name} {self._text}",
            )
        emptied = [page.stamp async for page in self._bodies(found.unread) if self._speaks(page, found)]
        report = Erased(
            table=self._table.name,
            key=self._text,
            done=not only_say,
            shown=told.shown,
            records=found.records,
            pages=len(found.telling),
            emptied=tuple(emptied),
            withheld=told.withheld,
            letters=told.letters,
            values=len(found.needles),
            unsearched=found.needles.left_out,
        )
        if only_say:
            return report
        rewriting = [*emptied, *found.telling]
        if rewriting or not earlier:
            await self._append(rewriting, after=earlier)
        stored = [await self._rewrite(some) for some in _some(rewriting)]
        certificate = await self._run.go([], None, whole=False, load=True)
        await self._clear({*found.standing, *emptied}, found.needles)
        tables = (self._table.sql, WITHHELD, DEAD_LETTERS, TOMBSTONES, MISSING, TOUCHED, RUNS)
        await self._log.compact()
        await self._database.engine.compact(tables)
        faults = [line async for line in self._faults()]
        proof = Proof(self._machine, found.needles, [piece for pieces in stored for piece in pieces])
        proven = await proof.look()
        faults += proven.faults
        return msgspec.structs.replace(
            report,
            referring=await self._database.read(self._referring),
            said=proven.said,
            files=proven.files,
            faults=tuple(faults),
            exit=4 if faults else certificate.exit,
        )

    # -- finding -----------------------------------------------------------------------------------

    async def _find(self) -> _Found:
        found = _Found(0, [], [], [], Needles(self._text))
        async for page in self._machine.pages():
            one = self._reduced(page)
            if one.records:
                found.standing.append(page.stamp)
                found = found._replace(records=found.records + one.records)
            if one.body is not None:
                found.telling.append(page.stamp)
                found.needles.add(one.said)
            if not one.read and page.body:
                found.unread.append(page.stamp)
        return found

    def _reduced(self, page: Page) -> Reduced:
        return self._decoders.reduced(page, self._table.name, self._key)

    def _speaks(self, page: Page, found: _Found) -> bool:
        """True where a page that cannot be read has a value of the row in its bytes."""
        return bool(found.needles.within(page.body or b""))

    def _told(self, connection: sa.Connection, *, needles: Needles) -> _Told:
        """What the database has of the row; its values are looked for, too."""
        engine, table = self._database.engine, self._table
        mine = is_row(engine, table, self._key)
        names = [name for name in table.names if name not in table.key]
        row = connection.execute(
            sa.select(sa.literal(1), *(raw(engine, table.sql.c[name]) for name in names)).where(mine)
        ).first()
        if row is not None:
            columns = [table.sql.c[name] for name in names]
            needles.add(_json(column, value) for column, value in zip(columns, row[1:], strict=True))
        held = list(connection.scalars(sa.select(WITHHELD.c.value).where(*self._of(WITHHELD))))
        needles.add(_stated(one) for one in held if one)
        letters = sa.select(DEAD_LETTERS.c.raw).where(*self._of(DEAD_LETTERS))
        heard = (
            connection.execute(sa.select(sa.literal(1)).select_from(one).where(*self._of(one))).first()
            for one in (TOMBSTONES, MISSING)
        )
        return _Told(
            row is not None,
            len(held),
            len(list(connection.scalars(letters))),
            any(one is not None for one in heard),
        )

    def _of(self, ledger: sa.Table) -> tuple[sa.ColumnElement[bool], ...]:
        return ledger.c.table == self._table.name, ledger.c.key == self._text

    async def _bodies(self, stamps: Iterable[int]) -> AsyncIterator[Page]:
        for stamp in stamps:
            page = await self._log.page(stamp)
            if page is not None and page.body is not None:
                yield page

    # -- erasing -----------------------------------------------------------------------------------

    async def _append(self, rewriting: list[int], *, after: int) -> None:
        """The erasure is a page, so that whoever is filled from the log knows of it."""
        said = Erasure(table=self._table.name, key=self._key, pages=tuple(sorted(rewriting)))
        body = canonical(said).encode()
        top = await self._log.top()
        envelope = Envelope(
            run=self._run.id,
            source=self._source,
            stream=self._stream,
            stream_hash=self._machine.config.sources[self._source].source.streams[self._stream].hash(),
            partition=self._partition,
            walk=Walk(id=f"erased.{top}", kind="erased"),
            asked=top,
            request=Request(method="ERASE", path=f"{self._table.name} {self._text}"),
            digest=hashlib.sha256(body).hexdigest(),
        )
        await self._log.append(envelope, body, after=after)

    async def _rewrite(self, stamps: Sequence[int]) -> list[bytes]:
        """Give these pages bodies without the row; pieces of what was stored for them."""
        bodies, pieces = dict[int, bytes](), list[bytes]()
        async for page in self._bodies(stamps):
            one = self._reduced(page)
            if one.read and one.body is None:
                continue
            # an empty body cannot be read either, so that the page stays what it is to a mirror
            bodies[page.stamp] = one.body if one.body is not None else b""
            pieces += _pieces(await self._log.stored(page.stamp) or b"")
        log = self._log.identity.id
        # the two are not written in one moment: until the erasure is loaded, which names these pages, either
        # body is taken for a page's
        await self._log.rewrite(bodies)
        digests = {stamp: hashlib.sha256(body).hexdigest() for stamp, body in bodies.items()}
        await self._database.write(partial(note_digests, log=log, digests=digests))
        return pieces

    async def _clear(self, stamps: set[int], needles: Needles) -> None:
        """Drop what is kept aside of the row, and cut dead letters anew from the pages as they are now."""
        letters = await self._database.read(partial(self._letters, stamps=stamps))
        anew = [(row.id, values) for row in letters if (values := await self._letter(row, stamps))]

        def clear(connection: sa.Connection) -> None:
            connection.execute(sa.delete(WITHHELD).where(*self._of(WITHHELD)))
            for id, values in anew:
                connection.execute(sa.update(DEAD_LETTERS).where(DEAD_LETTERS.c.id == id).values(values))
            _clear_causes(connection, needles)

        await self._database.write(clear)

    def _letters(self, connection: sa.Connection, *, stamps: set[int]) -> list[sa.Row[Any]]:
        """The row's dead letters, and those of pages in which records of the row stand."""
        mark = sa.select(PAGES.c.stamp).where(PAGES.c.state == "quarantined")
        suspect = stamps | set(connection.scalars(mark))
        columns = [DEAD_LETTERS.c[name] for name in ("id", "log", "stamp", "ordinal", "table", "key")]
        rows = connection.execute(sa.select(*columns)).all()
        return [row for row in rows if self._is_mine(row) or row.stamp in suspect]

    def _is_mine(self, letter: sa.Row[Any]) -> bool:
        return (letter.table, letter.key) == (self._table.name, self._text)

    async def _letter(self, row: sa.Row[Any], stamps: set[int]) -> dict[str, Any]:
        """What a dead letter says from now on."""
        settled = {"raw": b"", "reason": _REASON, "state": "settled"}
        page = await self._log.page(row.stamp) if row.log == self._log.identity.id else None
        if page is None or page.body is None:
            return settled if self._is_mine(row) else {}
        if row.ordinal < 0:
            if not page.body:
                return {**settled, "reason": _UNREADABLE}
            # all of the page: it could be read after all, where there was only no memory for it
            return {"raw": page.body} if row.stamp in stamps else {}
        again = {one.ordinal: one for one in self._refused(page)}.get(row.ordinal)
        if again is not None:
            return {"raw": again.raw, "reason": again.reason}
        raw_now = self._decoders.raw_of(page, row.ordinal) or b""
        if self._is_mine(row) or row.key is None:
            return {**settled, "raw": raw_now}
        # it is the database that refused it
        return {"raw": raw_now}

    def _refused(self, page: Page) -> list[Letter]:
        return self._decoders.decode([page]).letters

    # -- proving -----------------------------------------------------------------------------------

    async def _faults(self) -> AsyncIterator[str]:
        """Where something of the row is left, in words."""
        async for page in self._machine.pages():
            if self._reduced(page).body is not None:
                yield f"page {page.stamp}: a record of the row says more than its key"
        for line in await self._database.read(self._left):
            yield line

    def _left(self, connection: sa.Connection) -> list[str]:
        left = []
        if has_row(connection, self._database.engine, self._table, self._key):
            left.append(f"{self._table.name} shows the row")
        count = sa.func.count()
        if connection.scalar(sa.select(count).where(*self._of(WITHHELD))):
            left.append(f"{WITHHELD.name} keeps values of the row")
        mine = (*self._of(DEAD_LETTERS), DEAD_LETTERS.c.state == "open")
        if connection.scalar(sa.select(count).where(*mine)):
            left.append(f"{DEAD_LETTERS.name} has an open letter of the row")
        erased = (*self._of(TOMBSTONES), TOMBSTONES.c.proof.startswith("erased "))
        if not connection.scalar(sa.select(count).where(*erased)):
            left.append(f"{TOMBSTONES.name} does not know that the row was erased")
        return left

    def _referring(self, connection: sa.Connection) -> dict[str, int]:
        """How many rows are kept aside, whole or in part, because they refer to it."""
        target = (WITHHELD.c.target_table == self._table.name, WITHHELD.c.target_key == self._text)
        many = sa.func.count(WITHHELD.c.key.distinct())
        rows = connection.execute(sa.select(WITHHELD.c.table, many).where(*target).group_by(WITHHELD.c.table))
        return {name: int(count) for name, count in rows}


def _clear_causes(connection: sa.Connection, needles: Needles) -> None:
    """Why partitions gave up may quote what was answered."""
    told = sa.select(RUNS.c.id, RUNS.c.certificate).where(RUNS.c.certificate.is_not(None))
    for id, text in connection.execute(told).all():
        certificate = msgspec.json.decode(text, type=Certificate)
        failures = tuple(
            msgspec.structs.replace(one, cause=_REASON) if needles.within(one.cause.encode()) else one
            for one in certificate.fetch.failures
        )
        if failures != certificate.fetch.failures:
            fetch = msgspec.structs.replace(certificate.fetch, failures=failures)
            anew = msgspec.json.encode(msgspec.structs.replace(certificate, fetch=fetch)).decode()
            connection.execute(sa.update(RUNS).where(RUNS.c.id == id).values(certificate=anew))


def _some(stamps: list[int]) -> Iterator[list[int]]:
    for at in range(0, len(stamps), _REWRITTEN_AT_ONCE):
        yield stamps[at : at + _REWRITTEN_AT_ONCE]


def _pieces(stored: bytes, size: int = 48) -> list[bytes]:
    """Parts of a stored body, each short enough to lie in one block of a file."""
    if len(stored) <= size:
        return [stored] if stored else []
    return [stored[at : at + size] for at in (len(stored) // 3, (len(stored) - size) * 2 // 3)]


def _stated(value: str) -> Any:
    """What an entry keeps aside."""
    stated = msgspec.json.decode(value)
    return stated["values"] if isinstance(stated, dict) and "values" in stated else stated


def _json(column: sa.Column[Any], value: Any) -> Any:
    """A cell's value; of a JSON column what it says."""
    is_json = isinstance(column.type, sa.JSON) and isinstance(value, str)
    return msgspec.json.decode(value) if is_json else value
