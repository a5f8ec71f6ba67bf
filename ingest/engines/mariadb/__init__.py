"""MariaDB through asyncmy or aiomysql: foreign keys off by a flag of the session, many rows a packet."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from ingest.engines.base import Newer, PutOff, fitting
from ingest.engines.connected import Server
from ingest.engines.mariadb import bulk, ddl, errors
from ingest.engines.mariadb.forms import (
    COLLATION,
    Stored,
    exactly,
    is_text,
    json_array,
    json_value,
    turn_of,
)
from ingest.errors import ConfigError, Stop
from ingest.form import plain

#: the drivers there are, the preferred one first
_DRIVERS = ("asyncmy", "aiomysql")
#: the oldest server on which SQLAlchemy spells a UUID with its hyphens, in our programs and in others; what
#: else we ask of one is older. And the page that the ledger's keys need
_OLDEST, _PAGE = (10, 7), 16_384
#: what cannot be stored is refused and never bent, and 0 is a key like any other
_MODE = "STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO"
#: of every session
_SETTINGS = {
    "time_zone": "'+00:00'",
    # seconds that we wait for another's lock, on rows and on tables
    "innodb_lock_wait_timeout": "5",
    "lock_wait_timeout": "5",
    # texts are sorted by their first 64 KB, which is all of a key; the buffer has to have room for 15 rows,
    # whatever there is in them: these 32 MB do for 32 texts a row, as many as a key has columns at most
    "max_sort_length": "65536",
    "sort_buffer_size": "33554432",
    # a table derived from many rows is made once, and not anew for each row that it is joined to; what is
    # asked whether it EXISTS is looked up, and not listed whole for the sake of a few
    "optimizer_switch": "'split_materialized=off,exists_to_in=off'",
    # what the server would only remark on is not worth a question: it refuses what it cannot hold
    "max_error_count": "0",
    # seconds: while a page is waited for, nothing is asked of the server
    "wait_timeout": "604800",
    # and while rows that are read a few at a time are written elsewhere, the server waits for us
    "net_write_timeout": "604800",
}
#: of the session that writes, and as it is given back
_UNCHECKED, _CHECKED = "SET SESSION foreign_key_checks = 0", "SET SESSION foreign_key_checks = 1"
#: characters of a table's name
_NAME = 64
#: keys looked up in one statement
_CHUNK = 400
_HOLDERS = """
    SELECT who.id, who.user, held.trx_started FROM information_schema.innodb_trx AS held
    JOIN information_schema.processlist AS who ON who.id = held.trx_mysql_thread_id
    WHERE who.db = DATABASE() AND who.id <> CONNECTION_ID() ORDER BY held.trx_started, who.id
"""


class MariadbEngine(Server):
    """A MariaDB database."""

    def __init__(self, url: sa.URL) -> None:
        super().__init__(url, "mariadb", _DRIVERS)
        if not url.database:
            raise ConfigError(
                "names no database", where="database.url", hint='"mariadb://user@host/database"'
            )
        #: bytes that the server takes at once
        self._packet = 0
        self._writer = self._engine("READ COMMITTED", _UNCHECKED)
        self._reader = self._engine("REPEATABLE READ")
        self.dialect: sa.Dialect = self._writer.sync_engine.dialect

    async def create(self) -> None:
        async with self.reader() as connection:
            version = connection.dialect.server_version_info or ()
            if version < _OLDEST:
                raise self._unfit(f"its version is {_dotted(version)}", f"{_dotted(_OLDEST)} or later")
            asked = (
                "SELECT COUNT(*) FROM information_schema.engines WHERE engine = 'InnoDB' AND support <> 'NO'"
            )
            if not await connection.scalar(sa.text(asked)):
                raise self._unfit("it is without InnoDB", "InnoDB")
            page = await connection.scalar(sa.text("SELECT @@innodb_page_size"))
            if page < _PAGE:
                raise self._unfit(f"its pages have {page} bytes", f"innodb_page_size = {_PAGE} or more")

    def _unfit(self, why: str, needs: str) -> Stop:
        return Stop(why, where=self.place, hint=f"a mirror needs MariaDB with {needs}")

    def _stop(self, error: Exception, *, opened: bool) -> Stop:
        if isinstance(error, sa.exc.InvalidRequestError):
            return self._unfit("it is not MariaDB", f"{_dotted(_OLDEST)} or later")
        return super()._stop(error, opened=opened)

    def _said(self, error: Exception) -> str:
        said = errors.said(error)
        return f"this connection is readonly: {said}" if errors.is_of_a_reader(error) else said

    def _engine(self, isolation: str, *settings: str) -> AsyncEngine:
        try:
            engine = create_async_engine(
                self._url,
                poolclass=NullPool,
                hide_parameters=True,
                connect_args={
                    "charset": "utf8mb4",
                    # before SQLAlchemy asks how names are quoted
                    "init_command": f"SET SESSION sql_mode = '{_MODE}'",
                    # without FOUND_ROWS: a row that is left as it was has not been written
                    "client_flag": 0,
                },
            )
        except ModuleNotFoundError as error:
            raise self._not_installed(error) from error
        dialect: Any = engine.sync_engine.dialect
        if dialect.driver == "aiomysql":
            _see_that_it_spells_bytes()
        dialect.ddl_compiler = ddl.Compiler
        dialect.statement_compiler = ddl.StatementCompiler
        # by the second name Alembic knows it, and would find other types in the tables than were made
        dialect.type_compiler_instance = dialect.type_compiler = ddl.TypeCompiler(dialect)
        self._listen(
            engine.sync_engine,
            f"SET NAMES utf8mb4 COLLATE {COLLATION}",
            f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation}",
            f"SET SESSION {', '.join(f'{name} = {value}' for name, value in _SETTINGS.items())}",
            *settings,
        )
        return engine

    def _listen(self, engine: sa.Engine, *settings: str) -> None:
        checked = _UNCHECKED not in settings

        @sa.event.listens_for(engine, "connect")
        def configure(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            for line in settings:
                cursor.execute(line)
            cursor.execute("SELECT @@max_allowed_packet")
            (self._packet,) = cursor.fetchone()
            cursor.close()

        @sa.event.listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            if checked:
                connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")

        @sa.event.listens_for(engine, "reset")
        def reset(connection: Any, _record: Any, state: Any) -> None:
            # a proxy between us and the server may have a pool of its own
            if not checked and not state.terminate_only:
                with suppress(engine.dialect.loaded_dbapi.Error):
                    cursor = connection.cursor()
                    cursor.execute(_CHECKED)
                    cursor.close()

        @sa.event.listens_for(engine, "handle_error")
        def handle(context: sa.ExceptionContext) -> sa.exc.DBAPIError | None:
            return errors.as_integrity(context.sqlalchemy_exception)

    @staticmethod
    def _anew(table: str) -> str:
        # as OPTIMIZE does, which tells its errors as rows
        return f"ALTER TABLE {table} FORCE"

    def prepare(self, connection: sa.Connection, tables: Collection[sa.Table]) -> list[str]:
        ddl.refuse_unfit(connection, tables, place=self.place)
        return []

    def hold(self, connection: sa.Connection) -> bool | None:
        # the name of a database may be as long as that of a lock
        return bool(connection.scalar(sa.text("SELECT GET_LOCK(CONCAT('ingest ', MD5(DATABASE())), 0)")))

    def form(self, type_: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
        return Stored(plain(type_, self.dialect))

    def key_json(self, columns: Sequence[sa.ColumnElement[Any]]) -> sa.ColumnElement[str]:
        return json_array([(column, plain(column.type, self.dialect)) for column in columns])

    def key_part(
        self, key: sa.ColumnElement[str], index: int, type_: sa.types.TypeEngine[Any]
    ) -> sa.ColumnElement[Any]:
        return sa.type_coerce(json_value(key, index, plain(type_, self.dialect)), type_)

    def differs(self, left: sa.ColumnElement[Any], right: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        if is_text(plain(left.type, self.dialect)):
            return exactly(left).is_distinct_from(exactly(right))
        return left.is_distinct_from(right)

    def in_order(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        here = plain(column.type, self.dialect)
        if isinstance(here, sa.Enum | sa.Uuid):
            return sa.cast(column, mysql.CHAR(here.length if isinstance(here, sa.Enum) else 36))
        # a key's column is exact, and sorted by its index
        is_key = getattr(column, "primary_key", False)
        return exactly(column) if is_text(here) and not is_key else column

    def newest_first(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        # NULL is the least there is
        return self.in_order(column).desc()

    def insert_new(
        self, connection: sa.Connection, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]
    ) -> None:
        told = rows.subquery("told")
        if ddl.is_unique_by_key_alone(table):
            first = next(iter(table.primary_key.columns))
            chosen = mysql.insert(table).from_select(list(columns), sa.select(told), include_defaults=False)
            connection.execute(chosen.on_duplicate_key_update({first.name: first}))
            return
        key = table.primary_key.columns.keys()
        parts = [told.c[list(columns).index(name)] for name in key]
        place = sa.func.row_number().over(partition_by=parts, order_by=parts).label("place")
        ranked = sa.select(*told.c, place).subquery("ranked")
        firsts = sa.select(*list(ranked.c)[:-1]).where(ranked.c.place == 1)
        connection.execute(_insert_absent(table, columns, firsts, key))

    def upsert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: sa.Select[Any],
        *,
        key: Sequence[str],
        born: Collection[str] = (),
    ) -> None:
        fixed = (*key, *born)
        if ddl.is_unique_by_key_alone(table):
            connection.execute(_insert_or_replace(table, columns, rows, fixed))
        else:
            self._upsert_apart(connection, table, columns, rows, key, fixed)

    def upsert_newer(
        self,
        connection: sa.Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: sa.Select[Any],
        *,
        key: Sequence[str],
        born: Collection[str] = (),
        newer: Newer,
    ) -> int:
        fixed = (*key, *born)
        if not ddl.is_unique_by_key_alone(table):
            return self._upsert_apart(connection, table, columns, rows, key, fixed, newer)
        told = rows.subquery("told")
        by_name = dict(zip(columns, told.c, strict=True))
        joined = told.outerjoin(table, sa.and_(*(table.c[name] == by_name[name] for name in key)))
        chosen = sa.or_(table.c[key[0]].is_(None), newer(by_name))
        # the statement itself counts what it replaces twice
        count = sa.select(sa.func.count(), sa.func.count(sa.case((chosen, 1)))).select_from(joined)
        there, written = connection.execute(count).one()
        if written:
            some = rows if written == there else sa.select(*told.c).select_from(joined).where(chosen)
            connection.execute(_insert_or_replace(table, columns, some, fixed))
        return int(written)

    def _upsert_apart(
        self,
        connection: sa.Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: sa.Select[Any],
        key: Sequence[str],
        fixed: Collection[str],
        newer: Newer | None = None,
    ) -> int:
        """Upsert in two statements: ON DUPLICATE KEY would replace a row with another unique value, too."""
        told, written = dict(zip(columns, rows.subquery("told").c, strict=True)), 0
        changing = {name: value for name, value in told.items() if name not in fixed}
        if changing:
            chosen = [table.c[name] == told[name] for name in key]
            chosen += [newer(told)] if newer is not None else []
            written = connection.execute(sa.update(table).where(*chosen).values(changing)).rowcount
        return written + connection.execute(_insert_absent(table, columns, rows, key)).rowcount

    def insert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: Sequence[tuple[Any, ...]],
        *,
        new_only: bool = False,
    ) -> int:
        quote, tail = self.dialect.identifier_preparer, ""
        if new_only and ddl.is_unique_by_key_alone(table):
            name = quote.quote(next(iter(table.primary_key.columns)).name)
            tail = f"ON DUPLICATE KEY UPDATE {name} = {quote.format_table(table)}.{name}"
        elif new_only:
            rows = self._absent(connection, table, columns, rows)
        if not rows:
            return 0
        types = [plain(table.c[name].type, self.dialect) for name in columns]
        names = ", ".join(map(quote.quote, columns))
        turns = {place: turn for place, type_ in enumerate(types) if (turn := turn_of(type_))}
        rows = bulk.turned(rows, turns)
        into = bulk.Insert(
            f"INSERT INTO {quote.format_table(table)} ({names}) VALUES",
            [
                place
                for place, type_ in enumerate(types)
                if is_text(type_) or isinstance(type_, sa.LargeBinary)
            ],
            tail,
        )
        return bulk.insert(connection, into, rows, packet=self._packet)

    def _absent(
        self,
        connection: sa.Connection,
        table: sa.Table,
        columns: Sequence[str],
        rows: Sequence[tuple[Any, ...]],
    ) -> list[tuple[Any, ...]]:
        """The first row of every key that is not there."""
        key = list(table.primary_key.columns)
        places = [list(columns).index(column.name) for column in key]
        firsts: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for row in rows:
            firsts.setdefault(tuple([row[place] for place in places]), row)
        keys, forms = list(firsts), [self.form(column.type) for column in key]
        for start in range(0, len(keys), _CHUNK):
            asked = [
                sa.tuple_(*map(sa.literal, one, forms)) if len(key) > 1 else sa.literal(one[0], forms[0])
                for one in keys[start : start + _CHUNK]
            ]
            these = sa.tuple_(*key) if len(key) > 1 else key[0]
            there = sa.select(*map(sa.type_coerce, key, forms)).where(these.in_(asked))
            for found in connection.execute(there):
                firsts.pop(tuple(found), None)
        return list(firsts.values())

    def temporary(self, name: str, columns: Sequence[sa.Column[Any]]) -> sa.Table:
        plainly = [sa.Column(column.name, self._unchecked(column.type)) for column in columns]
        # OR REPLACE: see `clear`
        return sa.Table(fitting(name, _NAME), sa.MetaData(), *plainly, prefixes=["OR REPLACE TEMPORARY"])

    def _unchecked(self, type_: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
        """The same type without what hangs on it: a CHECK, an enum's values."""
        here = plain(type_, self.dialect)
        if isinstance(here, sa.Enum):
            return sa.String(here.length)
        return sa.Boolean(create_constraint=False) if isinstance(here, sa.Boolean) else type_

    def clear(self, connection: sa.Connection, table: sa.Table) -> None:
        # TRUNCATE commits, and after DELETE the server plans for as many rows as there were
        made = table.info.get("made")
        if made is None:
            made = table.info["made"] = str(sa.schema.CreateTable(table).compile(dialect=self.dialect))
        connection.exec_driver_sql(made)

    def put_off(
        self,
        connection: sa.Connection,
        tables: Collection[sa.Table],
        empty: Collection[sa.Table],
        *,
        emptied: bool = False,
    ) -> list[PutOff]:
        return list(ddl.secondary_indexes(connection, empty))

    def go_on_counting(self, connection: sa.Connection, table: sa.Table) -> None:
        pass  # they do by themselves

    def violation(self, error: sa.exc.DBAPIError) -> str | None:
        return errors.violated(error)

    def passing(self, error: sa.exc.DBAPIError) -> bool:
        return errors.is_passing(error)

    def holders(self, connection: sa.Connection, tables: Collection[sa.Table]) -> list[str]:
        # which tables, the server does not say; and of others it says something to who has PROCESS alone
        with suppress(sa.exc.DBAPIError):
            return [
                f"thread {number} ({user}) has been in a transaction since {since} UTC"
                for number, user, since in connection.execute(sa.text(_HOLDERS))
            ]
        return []


def _dotted(version: Sequence[Any]) -> str:
    return ".".join(map(str, version))


def _see_that_it_spells_bytes() -> None:
    """ConfigError where aiomysql would fail at the first bytes it is given."""
    from aiomysql import connection

    if not callable(connection.escape_bytes_prefixed):
        raise ConfigError(
            "aiomysql does not go with this PyMySQL",
            where="database.url",
            hint="pip install 'pymysql<1.2', or use mariadb+asyncmy",
        )


def _insert_or_replace(
    table: sa.Table, columns: Sequence[str], rows: sa.Select[Any], fixed: Collection[str]
) -> mysql.Insert:
    """Insert the rows, or replace those whose key is there, but for the `fixed` columns."""
    statement = mysql.insert(table).from_select(list(columns), rows, include_defaults=False)
    changing = [name for name in columns if name not in fixed] or [columns[0]]
    return statement.on_duplicate_key_update([(name, statement.inserted[name]) for name in changing])


def _insert_absent(
    table: sa.Table, columns: Sequence[str], rows: sa.Select[Any], key: Sequence[str]
) -> sa.Insert:
    """Insert the rows whose key is not there; their keys are all different."""
    told = rows.subquery("told")
    by_name = dict(zip(columns, told.c, strict=True))
    there = table.alias("there")
    joined = told.outerjoin(there, sa.and_(*(there.c[name] == by_name[name] for name in key)))
    absent = sa.select(*told.c).select_from(joined).where(there.c[key[0]].is_(None))
    return sa.insert(table).from_select(list(columns), absent, include_defaults=False)
