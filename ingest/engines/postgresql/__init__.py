"""PostgreSQL through asyncpg or psycopg: COPY, deferred foreign keys, and none at all in a bulk load."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from ingest.engines.base import PutOff, fitting
from ingest.engines.conflict import OnConflict
from ingest.engines.connected import Server
from ingest.engines.postgresql import ddl
from ingest.engines.postgresql.copying import copy
from ingest.engines.postgresql.forms import Stored, json_text, kind_of
from ingest.errors import Stop
from ingest.form import plain

#: the drivers there are, the preferred one first
_DRIVERS = ("asyncpg", "psycopg")
#: of every session. Nobody's reads queue for longer behind a lock that we wait for
_SETTINGS = {"timezone": "UTC", "lock_timeout": "2000", "application_name": "ingest"}
#: prepared statements that a connection keeps: a run has some dozens for every table
_STATEMENTS = 1000
#: bytes of a name
_NAME = 63
#: what the session's hold is known by, in this database
_HOLD = 0x696E67657374
#: deadlock, serialization failure, a lock that was not to be had in time
_PASSING = {"40P01", "40001", "55P03"}
#: the classes of errors that are a value's: integrity (but foreign keys, which are deferred), and data
_OF_A_ROW, _FOREIGN_KEY = ("23", "22"), "23503"
_CONSTRAINTS = {"23505": "UNIQUE", "23502": "NOT NULL", "23514": "CHECK"}
#: whoever is not of our role tells us no times
_HOLDERS = """
    SELECT string_agg(DISTINCT held.relation::regclass::text, ', '),
           who.pid || concat(' (' || concat_ws(', ', who.usename, nullif(who.application_name, '')) || ')'),
           who.xact_start
    FROM pg_locks AS held JOIN pg_stat_activity AS who ON who.pid = held.pid
    WHERE held.granted AND held.pid <> pg_backend_pid() AND who.datname = current_database()
      AND held.relation IN (
          SELECT oid FROM pg_class
          WHERE relname = ANY(:tables) AND relnamespace = current_schema()::regnamespace
      )
    GROUP BY who.pid, who.usename, who.application_name, who.xact_start ORDER BY who.xact_start, who.pid
"""


class PostgresqlEngine(OnConflict, Server):
    """A PostgreSQL database, as its tables' owner."""

    _insert_into = staticmethod(insert)

    def __init__(self, url: sa.URL) -> None:
        super().__init__(url, "postgresql", _DRIVERS)
        self._writer = self._engine("SET CONSTRAINTS ALL DEFERRED")
        self._reader = self._engine("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        self.dialect: sa.Dialect = self._writer.sync_engine.dialect

    async def create(self) -> None:
        async with self.reader() as connection:
            encoding = await connection.scalar(sa.text("SHOW server_encoding"))
        if encoding != "UTF8":
            raise Stop(
                f"its encoding is {encoding}",
                where=self.place,
                hint="a mirror needs a database with ENCODING 'UTF8'",
            )

    def _engine(self, begin: str) -> AsyncEngine:
        arguments: dict[str, Any]
        if self._url.drivername.endswith("+asyncpg"):
            arguments = {"server_settings": _SETTINGS, "prepared_statement_cache_size": _STATEMENTS}
        else:
            arguments = {"options": " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())}
        try:
            engine = create_async_engine(
                self._url, poolclass=NullPool, hide_parameters=True, connect_args=arguments
            )
        except ModuleNotFoundError as error:
            raise self._not_installed(error) from error
        dialect = engine.sync_engine.dialect
        dialect.ddl_compiler = ddl.Compiler
        # by the second name Alembic knows it, and would find other types in the tables than were made
        dialect.type_compiler_instance = dialect.type_compiler = ddl.TypeCompiler(dialect)

        @sa.event.listens_for(engine.sync_engine, "begin")
        def begun(connection: sa.Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine

    @staticmethod
    def _anew(table: str) -> str:
        return f"VACUUM (FULL) {table}"

    def prepare(self, connection: sa.Connection, tables: Collection[sa.Table]) -> list[str]:
        return ddl.make_deferrable(connection, tables)

    def hold(self, connection: sa.Connection) -> bool | None:
        return bool(
            connection.scalar(sa.select(sa.func.pg_try_advisory_lock(sa.literal(_HOLD, sa.BigInteger))))
        )

    def form(self, type_: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
        return Stored(plain(type_, self.dialect))

    def key_json(self, columns: Sequence[sa.ColumnElement[Any]]) -> sa.ColumnElement[str]:
        text: Any = sa.literal("[", sa.Text)
        for index, column in enumerate(columns):
            comma = sa.literal(",", sa.Text) if index else sa.literal("", sa.Text)
            text = text + comma + json_text(column, plain(column.type, self.dialect))
        return text + sa.literal("]", sa.Text)  # type: ignore[no-any-return]

    def key_part(
        self, key: sa.ColumnElement[str], index: int, type_: sa.types.TypeEngine[Any]
    ) -> sa.ColumnElement[Any]:
        text = sa.cast(key, postgresql.JSON).op("->>")(sa.literal_column(f"{index:d}"))
        here = plain(type_, self.dialect)
        return sa.type_coerce(kind_of(here).write(sa.type_coerce(text, sa.Text), here), type_)

    def differs(self, left: sa.ColumnElement[Any], right: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        here = plain(left.type, self.dialect)
        if isinstance(here, sa.JSON) and not isinstance(here, postgresql.JSONB):
            # json knows no equality
            return sa.cast(left, sa.Text).is_distinct_from(sa.cast(right, sa.Text))
        return left.is_distinct_from(right)

    def in_order(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        here = plain(column.type, self.dialect)
        if not isinstance(here, sa.String):
            return column
        return sa.collate(sa.cast(column, sa.Text) if isinstance(here, sa.Enum) else column, "C")

    def newest_first(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        newest = self.in_order(column).desc()
        # an index is read backwards only where NULL has no place to be in
        return newest if getattr(column, "nullable", True) is False else newest.nulls_last()

    def insert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: Sequence[tuple[Any, ...]],
        *,
        new_only: bool = False,
    ) -> int:
        if not rows:
            return 0
        if not new_only:
            types = [plain(table.c[name].type, self.dialect) for name in columns]
            copy(connection, table, columns, types, rows)
            return len(rows)
        quote = self.dialect.identifier_preparer
        names, target = ", ".join(map(quote.quote, columns)), quote.format_table(table)
        # one parameter, whatever there is: the server takes it to pieces by the table's own types
        told = json.dumps([dict(zip(columns, row, strict=True)) for row in rows])
        statement = sa.text(
            f"INSERT INTO {target} ({names}) SELECT {names} "
            f"FROM json_populate_recordset(NULL::{target}, CAST(:told AS json)) ON CONFLICT DO NOTHING"
        )
        return connection.execute(statement, {"told": told}).rowcount

    def temporary(self, name: str, columns: Sequence[sa.Column[Any]]) -> sa.Table:
        plainly = [sa.Column(column.name, self._unchecked(column.type)) for column in columns]
        return sa.Table(fitting(name, _NAME), sa.MetaData(), *plainly, prefixes=["TEMPORARY"])

    def _unchecked(self, type_: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
        """The same type without what hangs on it: an enum's CHECK, a sequence, a type that is made anew."""
        here = plain(type_, self.dialect)
        if isinstance(here, postgresql.ENUM):
            return postgresql.ENUM(*here.enums, name=here.name, schema=here.schema, create_type=False)
        if isinstance(here, sa.Enum):
            return sa.Text()
        return sa.Boolean(create_constraint=False) if isinstance(here, sa.Boolean) else type_

    def clear(self, connection: sa.Connection, table: sa.Table) -> None:
        # nothing vacuums temporary tables: rows that are deleted would stay in the way
        connection.exec_driver_sql(f"TRUNCATE {self.dialect.identifier_preparer.format_table(table)}")

    def put_off(
        self,
        connection: sa.Connection,
        tables: Collection[sa.Table],
        empty: Collection[sa.Table],
        *,
        emptied: bool = False,
    ) -> list[PutOff]:
        return [
            *ddl.foreign_keys(connection, tables, others=emptied),
            *ddl.secondary_indexes(connection, empty),
        ]

    def go_on_counting(self, connection: sa.Connection, table: sa.Table) -> None:
        (column,) = table.primary_key.columns
        sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
        next_one = sa.func.coalesce(sa.func.max(column), 0) + 1
        connection.execute(sa.select(sa.func.setval(sequence, next_one, sa.false())))

    def violation(self, error: sa.exc.DBAPIError) -> str | None:
        state = _state(error)
        if not state.startswith(_OF_A_ROW) or state == _FOREIGN_KEY:
            return None
        said = _first_line(error)
        return f"{_CONSTRAINTS[state]}: {said}" if state in _CONSTRAINTS else said

    def _said(self, error: Exception) -> str:
        return _first_line(error)

    def passing(self, error: sa.exc.DBAPIError) -> bool:
        return _state(error) in _PASSING

    def holders(self, connection: sa.Connection, tables: Collection[sa.Table]) -> list[str]:
        rows = connection.execute(sa.text(_HOLDERS), {"tables": [table.name for table in tables]})
        return [
            f"{held} {'are' if ', ' in held else 'is'} held by process {who}"
            + (f" since {since:%F %T} UTC" if since else "")
            for held, who, since in rows
        ]


def _first_line(error: Exception) -> str:
    """What went wrong, without the values of a row, which stand below."""
    said = str(error.orig if isinstance(error, sa.exc.DBAPIError) else error).partition("\n")[0]
    return said.partition(">: ")[2] or said


def _state(error: sa.exc.DBAPIError) -> str:
    """The SQLSTATE of an error, whatever the driver; empty when it has none."""
    return getattr(error.orig, "sqlstate", None) or ""
