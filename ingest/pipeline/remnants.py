"""What is left of values that were erased: in pages, in cells, and in the very bytes of the files.

A value that another record says stays where that record is, and is no remnant: it is named by who says it.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from ingest.errors import Stop
from ingest.keys import raw
from ingest.ledger import LEDGER
from ingest.load.found import read_body
from ingest.pipeline.machine import Machine
from ingest.types import Envelope, Page

#: bytes from which a value is told from what others say by chance, and characters that are looked for at once
_DISTINCTIVE, _PIECE = 6, 64
#: values, and parts of stored bodies, that are looked for: each goes through all there is
_VALUES, _BODIES = 1000, 200
#: who still says a value: so many are named
_NAMED = 20
#: rows that are read at once
_ROWS = 200


class Needles:
    """Values that are looked for. They are never told."""

    def __init__(self, key: str) -> None:
        #: the row's key, which stays
        self._key = key
        self._forms: dict[str | bytes, tuple[bytes, ...]] = {}
        #: those that are not looked for, because there are so many
        self._left_out: set[str | bytes] = set()

    def __len__(self) -> int:
        return len(self._forms)

    @property
    def left_out(self) -> int:
        """How many there are beside those that are looked for."""
        return len(self._left_out)

    def add(self, said: Iterable[Any]) -> None:
        """Look for the texts in these JSON values, too."""
        for value in said:
            for text in _texts(value):
                for piece in _cut(text):
                    if isinstance(piece, str) and piece in self._key:
                        continue
                    if len(self._forms) < _VALUES:
                        self._forms.setdefault(piece, _forms(piece))
                    elif piece not in self._forms:
                        self._left_out.add(piece)

    def within(self, blob: bytes) -> set[str | bytes]:
        """Those that are in some bytes, as they are or as JSON spells them."""
        return {one for one, forms in self._forms.items() if any(form in blob for form in forms)}

    def in_file(self, file: mmap.mmap) -> set[str | bytes]:
        """Those that are in a file."""
        return {one for one, forms in self._forms.items() if any(file.find(form) >= 0 for form in forms)}


class Proven(NamedTuple):
    """What came of looking."""

    #: where a remnant is
    faults: list[str]
    #: who says the same
    said: tuple[str, ...]
    #: the files that were looked through
    files: tuple[str, ...]


class Proof:
    """Looks for values, and for bodies as they were stored, in all that a mirror is."""

    def __init__(self, machine: Machine, needles: Needles, stored: Sequence[bytes]) -> None:
        self._machine, self._needles = machine, needles
        step = max(1, -(-len(stored) // _BODIES))
        self._stored = stored[::step]
        self._said: list[str] = []

    async def look(self) -> Proven:
        """Look everywhere."""
        in_log, in_cells = await self._in_pages(), await self._in_cells()
        log, database = self._machine.log.files, self._machine.database.engine.files
        faults = [*self._in_files(log, in_log), *self._in_files(database, in_cells)]
        async for path in self._bodies_in(log):
            faults.append(f"{path}: a body as it was before is still in it")
        more = len(self._said) - _NAMED
        said = [*self._said[:_NAMED], *([f"{more:,} more"] if more > 0 else [])]
        return Proven(faults, tuple(said), tuple(str(path) for path in (*log, *database) if path.exists()))

    async def _in_pages(self) -> set[str | bytes]:
        """The values that pages say, or their envelopes."""
        live: set[str | bytes] = set()
        async for page in self._machine.pages():
            inside = self._needles.within(_spelled_out(page))
            around = self._needles.within(_around(page.envelope))
            if inside:
                self._said.append(f"page {page.stamp}")
            if around:
                self._said.append(f"what was asked for page {page.stamp}, or what it leads to")
            live |= inside | around
        return live | self._needles.within(b"\0".join(await self._machine.log.words()))

    async def _in_cells(self) -> set[str | bytes]:
        """The values that cells have."""
        live: set[str | bytes] = set()
        mirrored = [table.sql for _, table in sorted(self._machine.catalog.tables.items())]
        others = await self._machine.database.read(self._others)
        for table in (*mirrored, *LEDGER.sorted_tables, *others):
            async for key, cells in self._rows(table):
                found = self._needles.within(cells)
                if found:
                    self._said.append(f"{table.name} {key}")
                    live |= found
        words = await self._machine.database.read(self._machine.database.engine.words)
        return live | self._needles.within(b"\0".join(map(_encoded, words)))

    def _others(self, connection: sa.Connection) -> list[sa.Table]:
        """The tables of other programs that lie in the same files."""
        if not self._machine.database.engine.files:
            return []
        ours = {*self._machine.catalog.tables, *LEDGER.tables}
        there = sorted(set(sa.inspect(connection).get_table_names()) - ours)
        return [_bare(connection, name) for name in there]

    async def _rows(self, table: sa.Table) -> AsyncIterator[tuple[str, bytes]]:
        """The key and the cells of every row that may have one of the values."""
        database = self._machine.database
        key = list(table.primary_key.columns)
        rest = [column for column in table.columns if column not in key]
        rows = sa.select(*(raw(database.engine, one) for one in (*key, *rest)))
        async with aclosing(database.stream(rows, many=_ROWS)) as pieces:
            async for some in pieces:
                blobs = [b"\0".join(_cells(row)) for row in some]
                if self._needles.within(b"\0".join(blobs)):
                    for row, blob in zip(some, blobs, strict=True):
                        yield _named(row[: len(key)]), blob

    def _in_files(self, files: Iterable[Path], live: set[str | bytes]) -> Iterator[str]:
        for path, file in _mapped(files):
            left = self._needles.in_file(file) - live
            if left:
                yield f"{path}: {len(left)} of the row's values are still in its bytes"

    async def _bodies_in(self, files: Iterable[Path]) -> AsyncIterator[str]:
        """The files that still have a body as it was stored before it was rewritten."""
        for path, file in _mapped(files):
            found = [piece for piece in self._stored if file.find(piece) >= 0]
            if found and await self._foreign(found):
                yield path

    async def _foreign(self, pieces: list[bytes]) -> bool:
        """True where a piece is of no body that is there."""
        log, left = self._machine.log, set(pieces)
        async for stamp, _, _ in log.envelopes():
            there = await log.stored(stamp)
            left = {piece for piece in left if there is None or piece not in there}
        return bool(left)


def _bare(connection: sa.Connection, name: str) -> sa.Table:
    """A table whose cells are read as they are."""
    columns = sa.inspect(connection).get_columns(name)
    plain = [
        sa.Column(one["name"], sa.types.NullType(), primary_key=bool(one.get("primary_key")))
        for one in columns
    ]
    return sa.Table(name, sa.MetaData(), *plain)


def _mapped(files: Iterable[Path]) -> Iterator[tuple[str, mmap.mmap]]:
    """The bytes of those of these files that have any."""
    for path in files:
        try:
            if path.exists() and path.stat().st_size:
                with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as all:
                    yield str(path), all
        except OSError as error:
            raise Stop(f"cannot be looked through: {error.strerror}", where=str(path)) from error


def _texts(value: Any) -> Iterator[str | bytes]:
    """Every text in a JSON value, however deep."""
    ahead = [value]
    while ahead:
        one = ahead.pop()
        if isinstance(one, str | bytes):
            yield one
        elif isinstance(one, dict):
            ahead += one.values()
        elif isinstance(one, list | tuple):
            ahead += one


def _cut(text: str | bytes) -> Iterator[str | bytes]:
    """A value in parts that are not too long to lie in one block of a file, without what says nothing."""
    for at in range(0, len(text), _PIECE):
        piece = text[at : at + _PIECE]
        if len(_encoded(piece)) >= _DISTINCTIVE:
            yield piece


def _forms(piece: str | bytes) -> tuple[bytes, ...]:
    """The bytes that a value may be stored as."""
    if isinstance(piece, bytes):
        return (piece,)
    spelled = (json.dumps(piece), json.dumps(piece, ensure_ascii=False))
    return tuple(dict.fromkeys([_encoded(piece), *(_encoded(one[1:-1]) for one in spelled)]))


def _encoded(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def _spelled_out(page: Page) -> bytes:
    """A body, and every text in it without JSON's escapes."""
    body = page.body or b""
    if b"\\" not in body:
        return body
    try:
        value, _ = read_body(body)
    except (ValueError, RecursionError):
        return body
    return b"\0".join([body, *map(_encoded, _texts(value))])


def _around(envelope: Envelope) -> bytes:
    """An envelope as it is stored, and each of the texts in it."""
    texts = _texts(msgspec.to_builtins(envelope))
    return b"\0".join([msgspec.json.encode(envelope), *map(_encoded, texts)])


def _cells(row: Iterable[Any]) -> Iterator[bytes]:
    for value in row:
        if isinstance(value, str | bytes):
            yield _encoded(value)
        elif isinstance(value, memoryview | bytearray):
            yield bytes(value)


def _named(key: Iterable[Any]) -> str:
    """A row by its key, which may be in a ledger's own words."""
    return " ".join(part if isinstance(part, str) else str(part) for part in key)
