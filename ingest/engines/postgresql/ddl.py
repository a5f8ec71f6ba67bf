"""What PostgreSQL's tables are made like, and what a bulk load drops and builds again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.base import PGDDLCompiler, PGTypeCompiler

from ingest.engines.base import Proves, PutOff

_STRICT = """
    SELECT owner.relname, made.conname FROM pg_constraint AS made
    JOIN pg_class AS owner ON owner.oid = made.conrelid
    WHERE made.contype = 'f' AND NOT made.condeferrable AND made.conparentid = 0
      AND pg_get_constraintdef(made.oid) NOT LIKE '% NOT ENFORCED'
      AND owner.relname = ANY(:tables) AND owner.relnamespace = current_schema()::regnamespace
    ORDER BY 1, 2
"""
#: foreign keys between mirrored tables, or to them, with everything that makes them what they are
_FOREIGN = """
    SELECT owner.relname, made.conname, pg_get_constraintdef(made.oid),
           obj_description(made.oid, 'pg_constraint'), target.relname,
           ARRAY(SELECT attname::text FROM unnest(made.conkey) WITH ORDINALITY AS part (attnum, place)
                 JOIN pg_attribute AS named USING (attnum) WHERE attrelid = made.conrelid ORDER BY place),
           ARRAY(SELECT attname::text FROM unnest(made.confkey) WITH ORDINALITY AS part (attnum, place)
                 JOIN pg_attribute AS named USING (attnum) WHERE attrelid = made.confrelid ORDER BY place)
    FROM pg_constraint AS made
    JOIN pg_class AS owner ON owner.oid = made.conrelid
    JOIN pg_class AS target ON target.oid = made.confrelid
    WHERE made.contype = 'f' AND made.conparentid = 0
      AND (owner.relname = ANY(:tables) OR :others) AND target.relname = ANY(:tables)
      AND owner.relnamespace = current_schema()::regnamespace
    ORDER BY 1, 2
"""
#: indexes that enforce nothing, and that nothing else hangs on; with what a definition leaves out. One whose
#: place is closed to us could not be built again
_SECONDARY = """
    SELECT made.relname, pg_get_indexdef(made.oid), obj_description(made.oid, 'pg_class'), ARRAY(
        SELECT format('ALTER INDEX %I SET TABLESPACE %I', made.relname, spcname)
        FROM pg_tablespace WHERE oid = made.reltablespace
        UNION ALL
        SELECT format('ALTER INDEX %I ALTER COLUMN %s SET STATISTICS %s', made.relname, attnum, attstattarget)
        FROM pg_attribute WHERE attrelid = made.oid AND attstattarget >= 0
    )
    FROM pg_index AS one
    JOIN pg_class AS made ON made.oid = one.indexrelid
    JOIN pg_class AS owner ON owner.oid = one.indrelid
    WHERE owner.relname = ANY(:tables) AND owner.relnamespace = current_schema()::regnamespace
      AND NOT (one.indisunique OR one.indisexclusion OR one.indisclustered OR one.indisreplident)
      AND one.indisvalid AND made.relkind = 'i'
      AND (made.reltablespace = 0 OR has_tablespace_privilege(made.reltablespace, 'CREATE'))
    ORDER BY 1
"""


#: how the definition of a foreign key ends that nobody enforces anyway
_LOOSE = " NOT ENFORCED"


class Compiler(PGDDLCompiler):
    """Foreign keys can wait for the end of a transaction, if they are told to."""

    def define_constraint_deferrability(self, constraint: Any) -> str:
        text: str = super().define_constraint_deferrability(constraint)
        if isinstance(constraint, sa.ForeignKeyConstraint) and constraint.deferrable is None:
            text += " DEFERRABLE INITIALLY IMMEDIATE"
        return text


class TypeCompiler(PGTypeCompiler):
    """A float has 64 bits, as everywhere else."""

    def visit_FLOAT(self, type_: Any, **kw: Any) -> str:
        return "DOUBLE PRECISION"

    def visit_REAL(self, type_: Any, **kw: Any) -> str:
        return "DOUBLE PRECISION"


def make_deferrable(connection: sa.Connection, tables: Collection[sa.Table]) -> list[str]:
    """Let the foreign keys of tables made elsewhere wait for the end of a transaction."""
    quote = connection.dialect.identifier_preparer.quote
    steps = []
    for table, name in connection.execute(sa.text(_STRICT), {"tables": [one.name for one in tables]}).all():
        connection.exec_driver_sql(
            f"ALTER TABLE {quote(table)} ALTER CONSTRAINT {quote(name)} DEFERRABLE INITIALLY IMMEDIATE"
        )
        steps.append(f"{table}: foreign key {name} is deferrable now")
    return steps


def foreign_keys(
    connection: sa.Connection, tables: Collection[sa.Table], *, others: bool = False
) -> Iterator[PutOff]:
    """The foreign keys between these tables, and with `others` all that lead to them."""
    rows = connection.execute(sa.text(_FOREIGN), {"tables": [one.name for one in tables], "others": others})
    for table, name, definition, comment, target, columns, target_columns in rows.all():
        if definition.endswith(_LOOSE):
            continue
        owner, constraint = _quoted(table), _quoted(name)
        add = definition.removesuffix(" NOT VALID")
        build = [
            f"ALTER TABLE {owner} ADD CONSTRAINT {constraint} {add} NOT VALID",
            f"ALTER TABLE {owner} VALIDATE CONSTRAINT {constraint}",
        ]
        if comment is not None:
            build.append(f"COMMENT ON CONSTRAINT {constraint} ON {owner} IS {_literal(connection, comment)}")
        yield PutOff(
            f"ALTER TABLE {owner} DROP CONSTRAINT {constraint}",
            tuple(build),
            late=True,
            proves=Proves(table, tuple(columns), target, tuple(target_columns)),
        )


def secondary_indexes(connection: sa.Connection, tables: Collection[sa.Table]) -> Iterator[PutOff]:
    """The indexes of these tables that enforce nothing."""
    rows = connection.execute(sa.text(_SECONDARY), {"tables": [one.name for one in tables]})
    for name, definition, comment, rest in rows.all():
        build = [definition, *rest]
        if comment is not None:
            build.append(f"COMMENT ON INDEX {_quoted(name)} IS {_literal(connection, comment)}")
        yield PutOff(f"DROP INDEX {_quoted(name)}", tuple(build))


def _literal(connection: sa.Connection, text: str) -> str:
    return str(connection.scalar(sa.select(sa.func.quote_literal(sa.literal(text, sa.Text)))))


def _quoted(name: str) -> str:
    """A name as the server itself would write it: a driver's way with `%` is not in definitions."""
    return '"' + name.replace('"', '""') + '"'
