"""Every statement that writes durably, by name: the failpoints above SQLite.

Page log and database are both reached through `sqlite3.connect`, so this is the one place that nothing
durable goes around. A failpoint is the file, what is done to which table, and whether it is before or after.
What a COMMIT makes durable is named by the last statement of its transaction.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CONNECT = sqlite3.connect
_WRITES = re.compile(
    r"\s*(?P<verb>INSERT INTO|UPDATE|DELETE FROM|ALTER TABLE|CREATE TABLE|CREATE (?:UNIQUE )?INDEX|"
    r"DROP TABLE|DROP INDEX)\s+(?:IF (?:NOT )?EXISTS\s+)?(?P<table>[\"\w.]+)"
    r"(?:\s+SET\s+(?P<column>[\"\w]+))?",
    re.IGNORECASE,
)
_INDEXED = re.compile(r"\sON\s+(?P<table>[\"\w]+)", re.IGNORECASE)
_TEMPORARY = re.compile(r"\s*CREATE TEMP\w* (?:TABLE|VIEW)\s+(?P<table>[\"\w.]+)", re.IGNORECASE)
_BOUND = re.compile(
    r"\s*(?P<verb>COMMIT|ROLLBACK TO|ROLLBACK|SAVEPOINT|RELEASE|BEGIN IMMEDIATE)", re.IGNORECASE
)
_JOURNAL = re.compile(r"\s*PRAGMA (?P<what>journal_mode)\s*=", re.IGNORECASE)
#: tables of the ledger whose columns tell what is going on
_TELLING = ("ingest_lock", "ingest_logs", "ingest_runs")

Tell = Callable[[str], None]


class Namer:
    """Gives the statements of one connection their names."""

    def __init__(self, file: str) -> None:
        self._file = Path(file.partition("?")[0]).name
        self._temporary: set[str] = set()
        #: what the open transaction did last
        self._last: str | None = None

    def name(self, statement: str) -> str | None:
        """None for what writes nothing durable."""
        if made := _TEMPORARY.match(statement):
            self._temporary.add(_bare(made["table"]))
            return None
        if found := _WRITES.match(statement):
            return self._writing(statement, found)
        if bound := _BOUND.match(statement):
            return self._bound(bound["verb"].upper())
        if _JOURNAL.match(statement):
            return f"{self._file}: PRAGMA journal_mode"
        return None

    def _writing(self, statement: str, found: re.Match[str]) -> str | None:
        verb, table = " ".join(found["verb"].upper().split()), _bare(found["table"])
        if "INDEX" in verb and (indexed := _INDEXED.search(statement)):
            table = f"of {_bare(indexed['table'])}"
        elif verb == "DROP INDEX":
            table = ""
        if table in self._temporary or table.startswith(("temp.", "ingest_batch_")):
            return None
        if verb == "UPDATE" and table in _TELLING:
            table = f"{table} SET {_bare(found['column'])}"
        self._last = f"{verb} {table}".strip()
        return f"{self._file}: {self._last}"

    def _bound(self, verb: str) -> str | None:
        last = self._last
        if verb in ("COMMIT", "ROLLBACK"):
            self._last = None
        if verb == "BEGIN IMMEDIATE":
            return f"{self._file}: BEGIN"
        return None if last is None else f"{self._file}: {verb} of {last}"


def watch(tell: Tell) -> None:
    """Have `tell` told the name of every failpoint that is reached, from now on, on new connections."""

    def connect(database: Any, *values: Any, **named: Any) -> sqlite3.Connection:
        return _CONNECT(database, *values, **{"factory": _connection(str(database), tell), **named})

    sqlite3.connect = connect  # type: ignore[assignment]


def _connection(file: str, tell: Tell) -> type[sqlite3.Connection]:
    namer = Namer(file)

    def around(statement: str, do: Callable[..., Any], *values: Any) -> Any:
        name = namer.name(statement)
        if name is None:
            return do(*values)
        tell(f"{name}, before")
        result = do(*values)
        tell(f"{name}, after")
        return result

    class Cursor(sqlite3.Cursor):
        def execute(self, statement: str, *values: Any) -> Any:
            return around(statement, super().execute, statement, *values)

        def executemany(self, statement: str, *values: Any) -> Any:
            return around(statement, super().executemany, statement, *values)

    class Connection(sqlite3.Connection):
        def cursor(self, *_: Any) -> sqlite3.Cursor:  # type: ignore[override]
            return super().cursor(Cursor)

        # written in C, these go around the cursor above
        def execute(self, statement: str, *values: Any) -> Any:
            return self.cursor().execute(statement, *values)

        def executemany(self, statement: str, *values: Any) -> Any:
            return self.cursor().executemany(statement, *values)

        def executescript(self, statements: str) -> Any:
            return around("CREATE TABLE log", super().executescript, statements)

        def commit(self) -> None:
            around("COMMIT" if self.in_transaction else "", super().commit)

        def rollback(self) -> None:
            around("ROLLBACK" if self.in_transaction else "", super().rollback)

    return Connection


def _bare(name: str) -> str:
    return name.replace('"', "")
