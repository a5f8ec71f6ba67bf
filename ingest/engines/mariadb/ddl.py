"""What MariaDB's tables are made like, which of others' making will do, and what a bulk load builds later."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.mysql.base import MySQLCompiler, MySQLDDLCompiler, MySQLTypeCompiler

from ingest.engines.base import PutOff
from ingest.engines.mariadb.forms import COLLATION
from ingest.errors import Stop

#: digits of a second: a time in stored form has microseconds
_DIGITS = 6
_NOT_INNODB = """
    SELECT table_name, '', engine, '', '' FROM information_schema.tables
    WHERE table_schema = DATABASE() AND table_name IN :tables AND engine <> 'InnoDB' ORDER BY 1
"""
_COLUMNS = """
    SELECT table_name, column_name, data_type, is_nullable, COALESCE(datetime_precision, collation_name)
    FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name IN :tables
      AND (datetime_precision < 6 OR data_type = 'float' OR collation_name <> :collation) ORDER BY 1, 2
"""
#: the first columns of foreign keys, here and where they lead
_HELD = """
    SELECT table_name, column_name FROM information_schema.key_column_usage
    WHERE constraint_schema = DATABASE() AND referenced_table_name IS NOT NULL AND ordinal_position = 1
    UNION
    SELECT referenced_table_name, referenced_column_name FROM information_schema.key_column_usage
    WHERE constraint_schema = DATABASE() AND referenced_table_schema = DATABASE()
      AND position_in_unique_constraint = 1
"""
#: foreign keys with one of these columns, here or where they lead
_REFERRING = """
    SELECT DISTINCT table_name, constraint_name FROM information_schema.key_column_usage
    WHERE constraint_schema = DATABASE() AND referenced_table_schema = DATABASE()
      AND ((table_name, column_name) IN :columns
           OR (referenced_table_name, referenced_column_name) IN :columns)
    ORDER BY 1, 2
"""
_CONSTRAINT = re.compile(r"^  (CONSTRAINT (`(?:[^`]|``)+`) FOREIGN KEY .*?),?$", re.MULTILINE)
#: an index that enforces nothing, in the statement that would make its table, and its first column
_INDEX = re.compile(r"^  (KEY (`(?:[^`]|``)+`) \((`(?:[^`]|``)+`).*?),?$", re.MULTILINE)
_AUTOMATIC = re.compile(r"^  (`(?:[^`]|``)+`) .* AUTO_INCREMENT", re.MULTILINE)


class Compiler(MySQLDDLCompiler):
    """Tables are InnoDB's, and tell all texts apart; foreign keys know of no later."""

    def post_create_table(self, table: sa.Table) -> str:
        stated = {name.partition("_")[2] for name in table.kwargs if name.startswith("mariadb_")}
        options = [super().post_create_table(table)]
        if "engine" not in stated:
            options.append("ENGINE=InnoDB")
        if not any("char" in name or "collate" in name for name in stated):
            options.append(f"CHARACTER SET utf8mb4 COLLATE {COLLATION}")
        return " ".join(filter(None, options))

    def visit_create_column(self, create: Any, first_pk: bool = False, **kw: Any) -> str | None:
        # its checks follow among the table's: a column's own have no names
        column = create.element
        return None if column.system else self.get_column_specification(column, first_pk=first_pk)

    def create_table_constraints(self, table: Any, *arguments: Any, **kw: Any) -> str:
        compiler: Any = super()
        checks = [compiler.visit_check_constraint(one) for each in table.columns for one in each.constraints]
        return ", \n\t".join(filter(None, [compiler.create_table_constraints(table, *arguments), *checks]))

    def visit_column_check_constraint(self, constraint: Any, **kw: Any) -> str:
        compiler: Any = super()
        return str(compiler.define_check_body(constraint))

    def define_constraint_deferrability(self, constraint: Any) -> str:
        return ""


class TypeCompiler(MySQLTypeCompiler):
    """Types hold what they hold everywhere else: 64 bits, microseconds, texts of any length."""

    def visit_FLOAT(self, type_: Any, **kw: Any) -> str:
        return "DOUBLE"

    def visit_REAL(self, type_: Any, **kw: Any) -> str:
        return "DOUBLE"

    def visit_NUMERIC(self, type_: Any, **kw: Any) -> str:
        return super().visit_NUMERIC(type_, **kw) if type_.precision is not None else "NUMERIC(38, 10)"

    def visit_DECIMAL(self, type_: Any, **kw: Any) -> str:
        return super().visit_DECIMAL(type_, **kw) if type_.precision is not None else "DECIMAL(38, 10)"

    def visit_DATETIME(self, type_: Any, **kw: Any) -> str:
        return _fraction("DATETIME", type_)

    def visit_TIMESTAMP(self, type_: Any, **kw: Any) -> str:
        return _fraction("TIMESTAMP", type_)

    def visit_TIME(self, type_: Any, **kw: Any) -> str:
        return _fraction("TIME", type_)

    def visit_UUID(self, type_: Any, **kw: Any) -> str:
        # the server's own type sorts in an order of its own, and has no place for what is no RFC's UUID;
        # programs that take a column for one write and read the same text
        return "CHAR(36)"

    def visit_JSON(self, type_: Any, **kw: Any) -> str:
        # the server's own is the same, with a CHECK that takes no more than 32 levels for JSON
        return "LONGTEXT"

    def visit_VARCHAR(self, type_: Any, **kw: Any) -> str:
        return super().visit_VARCHAR(type_, **kw) if type_.length is not None else self._long(type_)

    def visit_TEXT(self, type_: Any, **kw: Any) -> str:
        return super().visit_TEXT(type_, **kw) if type_.length is not None else self._long(type_)

    def visit_BLOB(self, type_: Any, **kw: Any) -> str:
        return super().visit_BLOB(type_, **kw) if type_.length is not None else "LONGBLOB"

    def _long(self, type_: Any) -> str:
        return self._extend_string(type_, {}, "LONGTEXT")


class StatementCompiler(MySQLCompiler):
    """Rows that are chosen by other tables' rows are looked up.

    Where a statement is of one table alone, the server (before 11.1) goes through all of that table, and
    asks for each row whether it is chosen; not so where it is of several, or is written as if it were.
    """

    def update_tables_clause(self, update_stmt: Any, from_table: Any, extra_froms: Any, **kw: Any) -> str:
        text: str = super().update_tables_clause(update_stmt, from_table, extra_froms, **kw)
        chosen = not extra_froms and _is_chosen_by_others(update_stmt)
        return f"{text}, (SELECT 1 AS ingest_one) AS ingest_one" if chosen else text

    def delete_table_clause(self, delete_stmt: Any, from_table: Any, extra_froms: Any, **kw: Any) -> str:
        text: str = super().delete_table_clause(delete_stmt, from_table, extra_froms, **kw)
        # written so, what is deleted from must not be looked at
        chosen = not extra_froms and _is_chosen_by_others(delete_stmt) and not _looks_at_itself(delete_stmt)
        return f"{text} USING {text}" if chosen else text


def _fraction(name: str, type_: Any) -> str:
    digits = getattr(type_, "fsp", None)
    return f"{name}({_DIGITS if digits is None else digits})"


def _is_chosen_by_others(statement: Any) -> bool:
    return any(isinstance(part, sa.SelectBase) for part in _parts(statement))


def _looks_at_itself(statement: Any) -> bool:
    # by another name: by its own, it would be the very row that is asked about
    return any(isinstance(part, sa.Alias) and part.element is statement.table for part in _parts(statement))


def _parts(statement: Any) -> Iterator[Any]:
    for criterion in statement._where_criteria:
        yield from sa.sql.visitors.iterate(criterion)


def refuse_unfit(connection: sa.Connection, tables: Collection[sa.Table], *, place: str) -> None:
    """Stop where tables made elsewhere would bend what is written into them; how to mend them."""
    found = list(_unfit(connection, tables))
    if found:
        columns, whats, hows = zip(*found, strict=True)
        drops, adds = _around(connection, columns)
        raise Stop(", ".join(whats), where=place, hint="; ".join([*drops, *dict.fromkeys(hows), *adds]))


def _around(connection: sa.Connection, columns: Collection[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """What drops the foreign keys that columns cannot be changed under, and what adds them again."""
    quote = connection.dialect.identifier_preparer.quote_identifier
    listed: sa.BindParameter[Any] = sa.bindparam("columns", columns, expanding=True)
    drops, adds = [], []
    for table, name in connection.execute(sa.text(_REFERRING).bindparams(listed)).all():
        _, made = connection.exec_driver_sql(f"SHOW CREATE TABLE {quote(table)}").one()
        (definition,) = (one for one, quoted in _CONSTRAINT.findall(made) if quoted == quote(name))
        drops.append(f"ALTER TABLE {quote(table)} DROP FOREIGN KEY {quote(name)}")
        adds.append(f"ALTER TABLE {quote(table)} ADD {definition}")
    return drops, adds


def _unfit(
    connection: sa.Connection, tables: Collection[sa.Table]
) -> Iterator[tuple[tuple[str, str], str, str]]:
    """Each column that will not do, or a table with a column '': why, and what mends it."""
    quote = connection.dialect.identifier_preparer.quote_identifier
    keys = {(table.name, name) for table in tables for name in _told_apart(table)}
    for table, column, kind, nullable, precision in _told_of(connection, tables):
        alter = f"ALTER TABLE {quote(table)}"
        change = f"{alter} MODIFY {quote(column)} {{}}{'' if nullable == 'YES' else ' NOT NULL'}"
        where = table, column
        if not column:
            yield where, f"{table} is a table of {kind}", f"{alter} ENGINE=InnoDB"
        elif kind == "float":
            yield where, f"{table}.{column} has 32 bits", change.format("DOUBLE")
        elif kind in ("datetime", "timestamp", "time"):
            how = change.format(f"{kind.upper()}({_DIGITS})")
            yield where, f"{table}.{column} has no microseconds", how
        elif where in keys:
            how = f"{alter} CONVERT TO CHARACTER SET utf8mb4 COLLATE {COLLATION}"
            yield where, f"{table}.{column} takes different texts for the same ({precision})", how


def _told_of(connection: sa.Connection, tables: Collection[sa.Table]) -> Iterator[Any]:
    names = {"tables": [table.name for table in tables] or [""]}
    listed: sa.BindParameter[Any] = sa.bindparam("tables", expanding=True)
    yield from connection.execute(sa.text(_NOT_INNODB).bindparams(listed), names)
    yield from connection.execute(sa.text(_COLUMNS).bindparams(listed), {**names, "collation": COLLATION})


def _told_apart(table: sa.Table) -> Iterator[str]:
    """The columns whose values must be told apart: of keys, of what is unique, of references."""
    indexes = (index for index in table.indexes if index.unique)
    for one in (*table.constraints, *indexes):
        if isinstance(one, sa.schema.ColumnCollectionMixin) and not isinstance(one, sa.CheckConstraint):
            yield from (column.name for column in one.columns)


def is_unique_by_key_alone(table: sa.Table) -> bool:
    """True for a table that refuses no two rows with different keys."""
    unique = any(isinstance(one, sa.UniqueConstraint) for one in table.constraints)
    return not unique and not any(index.unique for index in table.indexes)


def secondary_indexes(connection: sa.Connection, tables: Collection[sa.Table]) -> Iterator[PutOff]:
    """The indexes of these tables that enforce nothing, but those that a foreign key cannot be without.

    To change a table is to commit here: all of it can be done again.
    """
    quote = connection.dialect.identifier_preparer.quote_identifier
    held = (
        {(table, quote(column)) for table, column in connection.execute(sa.text(_HELD))} if tables else set()
    )
    for table in sorted(tables, key=lambda one: one.name):
        owner = quote(table.name)
        _, made = connection.exec_driver_sql(f"SHOW CREATE TABLE {owner}").one()
        automatic = _AUTOMATIC.findall(made)
        for definition, name, first in _INDEX.findall(made):
            if (table.name, first) not in held and first not in automatic:
                build = definition.replace("KEY", "KEY IF NOT EXISTS", 1)
                yield PutOff(
                    f"ALTER TABLE {owner} DROP KEY IF EXISTS {name}", (f"ALTER TABLE {owner} ADD {build}",)
                )
