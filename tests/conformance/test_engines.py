"""What every engine promises, method by method; each implementation brings a database of its own."""

from __future__ import annotations

import pkgutil
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, String
from sqlalchemy.ext.asyncio import AsyncConnection

import ingest.engines
from ingest.engines import Engine, engine_for
from ingest.engines import mariadb as mariadb_engine
from ingest.engines.base import PutOff
from ingest.errors import ConfigError, Stop
from ingest.form import stored
from ingest.keys import dump_key, load_key, raw
from ingest.mirror import UtcDateTime
from tests.databases import TestDatabase

METADATA = sa.MetaData()
PARENTS = sa.Table(
    "parents",
    METADATA,
    sa.Column("a", String(50), primary_key=True),
    sa.Column("b", BigInteger, primary_key=True),
    sa.Column("c", sa.Integer),
    sa.Column("d", sa.Integer, server_default="7"),
)
CHILDREN = sa.Table(
    "order",  # a word of SQL's own
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("parent", ForeignKey("order.id")),
    sa.Column("select", String(5), nullable=False, unique=True),
    sa.Column("age", sa.Integer, CheckConstraint("age >= 0", name="age_is_not_negative")),
)
LINKS = sa.Table("links", METADATA, sa.Column("id", sa.Integer, primary_key=True))
#: texts that JSON, SQL or an engine may spell in their own way
TEXTS = [
    "",
    "a",
    "é漢😀",
    '"',
    "\\",
    "/",
    "\\u0041",
    "a\nb\tc\r",
    "'",
    "\x7f",
    "\u2028",
    "null",
    "5",
    "[1]",
    "\x01\x1f",
    "\b\f",
]


#: every engine, by every driver it passes with
DRIVERS = ("sqlite", "postgresql+asyncpg", "postgresql+psycopg", "mariadb+asyncmy", "mariadb+aiomysql")


@pytest.fixture(params=DRIVERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of the test's own, empty."""
    kind = request.param.partition("+")[0]
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / 'mirror.db'}"
    made: TestDatabase = request.getfixturevalue(kind)
    return made.url.replace(f"{kind}://", f"{request.param}://")


@pytest.fixture
async def engine(url: str) -> AsyncIterator[Engine]:
    made = engine_for(url)
    await made.create()
    yield made
    await made.close()


def sqlite(folder: Path) -> Engine:
    return engine_for(f"sqlite:///{folder / 'mirror.db'}")


@pytest.fixture
async def connection(engine: Engine) -> AsyncIterator[AsyncConnection]:
    async with engine.writer() as connection:
        async with connection.begin():
            await connection.run_sync(METADATA.create_all)
        yield connection


async def run(connection: AsyncConnection, *statements: Any) -> list[Any]:
    """Carry statements out in one transaction; the rows of the last."""
    rows: list[Any] = []
    async with connection.begin():
        for statement in statements:
            if callable(statement):
                await connection.run_sync(statement)
            else:
                result = await connection.execute(statement)
                rows = [tuple(row) for row in result] if result.returns_rows else []
    return rows


def inserted(
    engine: Engine, table: sa.Table, columns: Sequence[str], *rows: tuple[Any, ...], new_only: bool = False
) -> Callable[[sa.Connection], int]:
    """The rows, inserted by the engine."""
    return lambda connection: engine.insert(connection, table, columns, rows, new_only=new_only)


@contextmanager
def statements() -> Iterator[list[str]]:
    """What is said to databases meanwhile."""
    said: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def does(method: Callable[..., Any], *arguments: Any, **named: Any) -> Callable[[sa.Connection], Any]:
    """What an engine's method does through a connection."""
    return lambda connection: method(connection, *arguments, **named)


def source(*rows: tuple[Any, ...]) -> sa.Select[Any]:
    """Rows of parents as a query states them."""
    selects = [
        sa.select(sa.literal(a).label("a"), sa.literal(b).label("b"), sa.literal(c).label("c"))
        for a, b, c in rows
    ]
    return sa.select(sa.union_all(*selects).subquery())


# -- create, place, writer, reader, close --------------------------------------------------------------


async def test_a_file_is_made_for_its_owner_alone_and_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    engine = sqlite(folder)
    assert not await engine.exists()
    await engine.create()
    async with engine.writer() as connection:
        await run(connection, sa.text("CREATE TABLE t (id INTEGER)"), sa.text("INSERT INTO t VALUES (5)"))
    await engine.create()
    async with engine.reader() as connection:
        assert await run(connection, sa.text("SELECT id FROM t")) == [(5,)]
    await engine.close()
    for file in folder.glob("mirror.db*"):
        assert file.stat().st_mode & 0o077 == 0


async def test_a_file_that_cannot_be_written_stops_the_run_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    engine = sqlite(tmp_path / "file")
    with pytest.raises(Stop, match="cannot be opened"):
        await engine.create()
    await engine.close()


@pytest.mark.parametrize("driver", DRIVERS[1:])
async def test_a_server_that_does_not_answer_stops_the_run_with_a_hint(driver: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    engine = engine_for(f"{driver}://anna:s3cret@127.0.0.1:{port}/mirror")
    with pytest.raises(
        Stop, match=rf"127\.0\.0\.1:{port}/mirror: cannot be reached.*check database\.url"
    ) as error:
        await engine.create()
    assert "s3cret" not in str(error.value)
    await engine.close()


async def test_an_engine_says_where_its_database_is_and_not_by_which_password(
    engine: Engine, url: str
) -> None:
    stated = sa.make_url(url)
    assert engine.place.endswith(stated.database or "")
    assert stated.password is None or stated.password not in engine.place
    assert await engine.exists()


async def test_the_writer_takes_what_refers_before_what_is_referred_to(connection: AsyncConnection) -> None:
    first = sa.insert(CHILDREN).values(id=1, parent=99, select="a", age=1)
    second = sa.insert(CHILDREN).values(id=99, select="b", age=1)
    found = await run(connection, first, second, sa.select(CHILDREN.c.parent).order_by(CHILDREN.c.id))
    assert found == [(99,), (None,)]


async def test_a_transaction_that_is_rolled_back_takes_its_tables_along(
    engine: Engine, connection: AsyncConnection
) -> None:
    transaction = await connection.begin()
    await connection.execute(sa.text("CREATE TABLE late (id INTEGER)"))
    await connection.execute(sa.insert(LINKS).values(id=1))
    await transaction.rollback()
    assert await run(connection, sa.select(LINKS)) == []
    if engine.dialect.name in ("mariadb", "mysql"):
        return  # its DDL commits by itself
    async with connection.begin():
        assert not await connection.run_sync(lambda c: sa.inspect(c).has_table("late"))


async def test_a_reader_sees_what_is_committed_and_nothing_else(
    engine: Engine, connection: AsyncConnection
) -> None:
    async with engine.reader() as reader:
        async with connection.begin():
            await connection.execute(sa.insert(LINKS).values(id=1))
            assert await run(reader, sa.select(LINKS)) == []
        assert await run(reader, sa.select(LINKS)) == [(1,)]


async def test_a_readers_transaction_sees_one_moment(engine: Engine, connection: AsyncConnection) -> None:
    async with engine.reader() as reader, reader.begin():
        assert (await reader.execute(sa.select(LINKS))).all() == []
        await run(connection, sa.insert(LINKS).values(id=1))
        assert (await reader.execute(sa.select(LINKS))).all() == []


async def test_a_reader_writes_nothing(engine: Engine, connection: AsyncConnection) -> None:
    with pytest.raises(Stop, match=r"(?i)read.?only"):
        async with engine.reader() as reader:
            await run(reader, sa.insert(LINKS).values(id=1))
    assert await run(connection, sa.select(LINKS)) == []


async def test_a_mariadb_that_is_too_old_is_refused_and_the_oldest_is_the_readmes(
    mariadb: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest = ".".join(map(str, mariadb_engine._OLDEST))
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert f"| {oldest} or later |" in readme
    engine = engine_for(mariadb.url)
    async with engine.writer():
        # what makes an older server too old
        assert engine.dialect.supports_native_uuid
        assert mariadb_engine._OLDEST >= (10, 7)
    monkeypatch.setattr(mariadb_engine, "_OLDEST", (99, 1))
    with pytest.raises(Stop, match=r"its version is 1.*a mirror needs MariaDB with 99\.1 or later"):
        await engine.create()
    await engine.close()


async def test_a_database_that_is_none_stops_the_run_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "mirror.db").write_bytes(b"this is no database, whatever it is called" * 100)
    engine = sqlite(tmp_path)
    with pytest.raises(Stop, match=r"not a database.*restore it from a backup"):
        async with engine.writer() as connection:
            await run(connection, sa.text("SELECT 1 FROM sqlite_master"))
    await engine.close()


async def test_a_violation_inside_the_writer_is_told_as_it_is(connection: AsyncConnection) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        await run(connection, sa.insert(LINKS).values(id=1), sa.insert(LINKS).values(id=1))


async def test_errors_never_show_the_values_of_a_row(engine: Engine, connection: AsyncConnection) -> None:
    with pytest.raises(sa.exc.DBAPIError) as error:
        await run(connection, sa.insert(CHILDREN).values(id=1, select="s3crt", age=-1))
    assert "s3crt" not in (engine.violation(error.value) or "s3crt")


# -- bind ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (sa.Integer(), 5),
        (sa.String(5), "é"),
        (sa.Boolean(), True),
        (sa.Float(), 1.5),
        (sa.Uuid(), uuid.UUID(int=7)),
        (UtcDateTime(), datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        (sa.DateTime(), datetime(2024, 1, 2, 3, 4, 5, 6)),
        (sa.Date(), datetime(2024, 1, 2).date()),
        (sa.LargeBinary(), b"\x00\xff"),
        (sa.JSON(), {"a": [1, "ü"]}),
    ],
    ids=repr,
)
async def test_a_bound_value_is_stored_as_the_orm_stores_it(
    engine: Engine, connection: AsyncConnection, type_: Any, value: Any
) -> None:
    table = sa.Table("t", sa.MetaData(), sa.Column("v", type_))
    given = stored(type_, value)
    async with connection.begin():
        await connection.run_sync(table.create)
    by_orm = await run(connection, sa.insert(table).values(v=value), sa.select(raw(engine, table.c.v)))
    by_hand = await run(
        connection,
        sa.delete(table),
        inserted(engine, table, ["v"], (given,)),
        sa.select(raw(engine, table.c.v)),
    )
    assert by_hand == by_orm
    assert await run(connection, sa.select(table.c.v)) == [(value,)]


# -- key_json, key_part --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
async def test_a_key_has_one_spelling_in_python_and_in_the_database(
    engine: Engine, connection: AsyncConnection, text: str
) -> None:
    for number in (0, -1, 2**63 - 1, -(2**63)):
        columns = [PARENTS.c.a, PARENTS.c.b]
        (row,) = await run(
            connection,
            sa.delete(PARENTS),
            sa.insert(PARENTS).values(a=text, b=number),
            sa.select(engine.key_json(columns)),
        )
        assert load_key(row[0]) == (text, number)
        assert row[0] == dump_key((text, number))


@pytest.mark.parametrize("key", [("a", 5), ('"\\é', -(2**63)), ("5", 2**63 - 1), ("", 0)], ids=ascii)
async def test_a_part_of_a_key_is_the_stored_value_with_its_type(
    engine: Engine, connection: AsyncConnection, key: tuple[Any, ...]
) -> None:
    text = sa.literal(dump_key(key))
    parts = [
        raw(engine, engine.key_part(text, index, column.type))
        for index, column in enumerate((PARENTS.c.a, PARENTS.c.b))
    ]
    assert await run(connection, sa.select(*parts)) == [key]


# -- insert_new ------------------------------------------------------------------------------------------


async def test_insert_new_passes_over_keys_that_are_there(
    engine: Engine, connection: AsyncConnection
) -> None:
    rows = source(("a", 1, 50), ("b", 2, 60))
    found = await run(
        connection,
        sa.insert(PARENTS).values(a="a", b=1, c=5),
        does(engine.insert_new, PARENTS, ["a", "b", "c"], rows),
        sa.select(PARENTS).order_by(PARENTS.c.a),
    )
    assert found == [("a", 1, 5, 7), ("b", 2, 60, 7)]


async def test_insert_new_takes_a_query_with_a_condition_a_join_or_none(
    engine: Engine, connection: AsyncConnection
) -> None:
    rows = source(("a", 1, 1), ("b", 2, 2)).subquery()
    joined = sa.select(rows).join(PARENTS, PARENTS.c.a == rows.c.a, isouter=True)
    for query in (sa.select(rows).where(rows.c.b > 1), joined, sa.select(rows)):
        await run(connection, does(engine.insert_new, PARENTS, ["a", "b", "c"], query))
    assert len(await run(connection, sa.select(PARENTS))) == 2


async def test_insert_takes_tuples_and_passes_over_keys_that_are_there(
    engine: Engine, connection: AsyncConnection
) -> None:
    rows = [(1, "a", 10), (2, "b", 20), (1, "a", 30)]
    written: list[int] = []

    def insert(connection: sa.Connection) -> None:
        written.append(engine.insert(connection, PARENTS, ["b", "a", "c"], rows, new_only=True))

    found = await run(connection, insert, insert, sa.select(PARENTS).order_by(PARENTS.c.b))
    assert found == [("a", 1, 10, 7), ("b", 2, 20, 7)]
    assert written == [2, 0]


#: none, a few, more than one statement of a hundred takes, and more than one of as many as there can be
@pytest.mark.parametrize("rows", [0, 1, 99, 100, 250, 40_000])
async def test_insert_takes_any_number_of_rows(
    engine: Engine, connection: AsyncConnection, rows: int
) -> None:
    written: list[int] = []

    def insert(connection: sa.Connection) -> None:
        given = [("p", number, number) for number in range(rows)]
        written.append(engine.insert(connection, PARENTS, ["a", "b", "c"], given))

    counted = sa.select(sa.func.count(), sa.func.count(PARENTS.c.b.distinct()))
    same = counted.where(PARENTS.c.b == PARENTS.c.c)
    assert await run(connection, insert, same) == [(rows, rows)]
    assert written == [rows]


async def test_insert_of_what_is_new_refuses_what_a_column_cannot_hold(
    engine: Engine, connection: AsyncConnection
) -> None:
    for row in ((1, None, 1), (1, "a", -1)):
        with pytest.raises(sa.exc.IntegrityError):
            await run(connection, inserted(engine, CHILDREN, ["id", "select", "age"], row, new_only=True))


# -- upsert --------------------------------------------------------------------------------------------


async def test_upsert_adds_what_is_new_and_replaces_what_is_there(
    engine: Engine, connection: AsyncConnection
) -> None:
    rows = source(("a", 1, 50), ("b", 2, None))
    found = await run(
        connection,
        sa.insert(PARENTS).values(a="a", b=1, c=5, d=1),
        sa.insert(PARENTS).values(a="b", b=2, c=5, d=1),
        sa.insert(PARENTS).values(a="c", b=3, c=5, d=1),
        does(engine.upsert, PARENTS, ["a", "b", "c"], rows, key=["a", "b"]),
        sa.select(PARENTS).order_by(PARENTS.c.a),
    )
    assert found == [("a", 1, 50, 1), ("b", 2, None, 1), ("c", 3, 5, 1)]


async def test_upsert_leaves_what_a_row_was_born_with(engine: Engine, connection: AsyncConnection) -> None:
    rows = source(("a", 1, 50), ("b", 2, 60))
    found = await run(
        connection,
        sa.insert(PARENTS).values(a="a", b=1, c=5),
        does(engine.upsert, PARENTS, ["a", "b", "c"], rows, key=["a", "b"], born=["c"]),
        sa.select(PARENTS.c.a, PARENTS.c.c).order_by(PARENTS.c.a),
    )
    assert found == [("a", 5), ("b", 60)]


async def test_upsert_of_a_table_that_is_all_key_adds_and_changes_nothing(
    engine: Engine, connection: AsyncConnection
) -> None:
    rows = sa.select(sa.union_all(*(sa.select(sa.literal(n).label("id")) for n in (1, 2))).subquery())
    statement = does(engine.upsert, LINKS, ["id"], rows, key=["id"])
    assert await run(connection, statement, statement, sa.select(LINKS)) == [(1,), (2,)]


async def test_upsert_says_so_when_another_unique_column_is_taken(
    engine: Engine, connection: AsyncConnection
) -> None:
    row = sa.select(sa.literal(2).label("id"), sa.literal("a").label("select"))
    await run(connection, sa.insert(CHILDREN).values(id=1, select="a"))
    with pytest.raises(sa.exc.IntegrityError):
        await run(connection, does(engine.upsert, CHILDREN, ["id", "select"], row, key=["id"]))


async def test_upsert_newer_writes_what_is_new_or_newer_and_counts_it(
    engine: Engine, connection: AsyncConnection
) -> None:
    def write(*rows: tuple[Any, ...]) -> Callable[[sa.Connection], int]:
        def newer(told: Any) -> sa.ColumnElement[bool]:
            return told["c"] > PARENTS.c.c

        named = {"key": ["a", "b"], "born": ["d"], "newer": newer}
        return does(engine.upsert_newer, PARENTS, ["a", "b", "c", "d"], born_with_nine(*rows), **named)

    for rows, count, there in (
        ((("a", 1, 5), ("b", 2, 5)), 2, [(5, 9), (5, 9)]),  # all new
        ((("a", 1, 6), ("b", 2, 7)), 2, [(6, 1), (7, 1)]),  # all newer
        ((("a", 1, 6), ("b", 2, 1)), 0, [(6, 1), (7, 1)]),  # none
        ((("a", 1, 9), ("b", 2, 7), ("c", 3, 0)), 2, [(9, 1), (7, 1), (0, 9)]),
    ):
        async with connection.begin():
            assert await connection.run_sync(write(*rows)) == count
        found = await run(connection, sa.select(PARENTS.c.c, PARENTS.c.d).order_by(PARENTS.c.a))
        assert found == there
        await run(connection, sa.update(PARENTS).values(d=1))


def born_with_nine(*rows: tuple[Any, ...]) -> sa.Select[Any]:
    """Rows of parents that are new with 9 in `d`."""
    told = source(*rows).subquery()
    return sa.select(*told.c, sa.literal(9).label("d"))


async def test_upsert_newer_leaves_a_row_that_has_the_unique_value_of_what_is_told(
    engine: Engine, connection: AsyncConnection
) -> None:
    def write(id: int, text: str, age: int) -> Callable[[sa.Connection], int]:
        row = sa.select(
            sa.literal(id).label("id"), sa.literal(text).label("select"), sa.literal(age).label("age")
        )
        columns = ["id", "select", "age"]
        return does(engine.upsert_newer, CHILDREN, columns, row, key=["id"], newer=does_age)

    await run(connection, sa.insert(CHILDREN).values(id=1, select="a", age=1))
    for told, count in (((1, "b", 2), 1), ((1, "c", 2), 0), ((2, "c", 0), 1)):
        async with connection.begin():
            assert await connection.run_sync(write(*told)) == count
    with pytest.raises(sa.exc.IntegrityError):
        await run(connection, write(3, "b", 9))
    found = await run(connection, sa.select(CHILDREN.c.id, CHILDREN.c.select).order_by(CHILDREN.c.id))
    assert found == [(1, "b"), (2, "c")]


def does_age(told: Any) -> sa.ColumnElement[bool]:
    """Whether a child is told to be older than it is."""
    return told["age"] > CHILDREN.c.age


# -- insert, temporary ---------------------------------------------------------------------------------


async def test_insert_keeps_the_callers_order_of_columns_and_quotes_their_names(
    engine: Engine, connection: AsyncConnection
) -> None:
    insert = inserted(engine, CHILDREN, ["select", "age", "id"], ("a", 5, 1), ("b", None, 2))
    found = await run(connection, insert, sa.select(CHILDREN).order_by("id"))
    assert found == [(1, None, "a", 5), (2, None, "b", None)]


async def test_a_temporary_table_holds_what_the_real_one_would_refuse_and_is_its_connections_alone(
    engine: Engine, connection: AsyncConnection
) -> None:
    kind = sa.Enum("x", "y", name="kind", native_enum=False, create_constraint=True)
    columns = [
        *CHILDREN.columns,
        sa.Column("kind", kind),
        sa.Column("flag", sa.Boolean(create_constraint=True)),
    ]
    temporary = engine.temporary("batch", columns)
    async with connection.begin():
        await connection.run_sync(temporary.create)
    rows = [(1, 9, None, -1, "z", 1), (1, 9, None, -1, "z", 1)]
    stored = [raw(engine, column) for column in temporary.c]
    found = await run(connection, inserted(engine, temporary, temporary.c.keys(), *rows), sa.select(*stored))
    assert found == rows
    async with engine.reader() as reader, reader.begin():
        assert not await reader.run_sync(lambda c: sa.inspect(c).has_table("batch"))


async def test_temporary_tables_of_long_names_are_told_apart(
    engine: Engine, connection: AsyncConnection
) -> None:
    made = [engine.temporary(f"ingest_batch_{'é' * 28}_{end}", list(LINKS.columns)) for end in ("one", "two")]
    for number, table in enumerate(made):
        async with connection.begin():
            await connection.run_sync(table.create)
        await run(connection, inserted(engine, table, ["id"], (number,)))
    assert [await run(connection, sa.select(table)) for table in made] == [[(0,)], [(1,)]]


async def test_a_temporary_table_keeps_values_as_the_real_one_does(
    engine: Engine, connection: AsyncConnection
) -> None:
    temporary = engine.temporary("batch", list(PARENTS.columns))
    async with connection.begin():
        await connection.run_sync(temporary.create)
    for table in (temporary, PARENTS):
        await run(connection, inserted(engine, table, ["a", "b"], ("12", 2**63 - 1)))
    same = sa.select(raw(engine, PARENTS.c.a), raw(engine, PARENTS.c.b)).join(
        temporary, sa.and_(temporary.c.a == PARENTS.c.a, temporary.c.b == PARENTS.c.b)
    )
    assert await run(connection, same) == [("12", 2**63 - 1)]


# -- in_order, newest_first, differs ---------------------------------------------------------------------


SORTED = sa.Table(
    "sorted",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("text", String(9)),
    sa.Column("identity", sa.Uuid),
    sa.Column("moment", UtcDateTime),
    sa.Column("number", sa.Float),
    sa.Column("tree", sa.JSON),
)
#: each in the order of its stored form
VALUES: dict[str, list[Any]] = {
    "text": ["", " ", "A", "B", "a", "a ", "a-", "b", "à", "é", "漢", "😀"],
    "identity": [uuid.UUID(text) for text in sorted(f"{n:032x}" for n in (1, 2**64, 2**96 + 5, 2**127 + 3))],
    "moment": [datetime(year, 1, 1, tzinfo=UTC) for year in (1, 1969, 2024, 9999)],
    "number": [-1e300, -1.5, 0.0, 5e-324, 2.0],
}


@pytest.mark.parametrize("name", VALUES)
async def test_values_sort_as_their_stored_form_does_and_null_comes_last_of_the_newest(
    engine: Engine, connection: AsyncConnection, name: str
) -> None:
    column, values = SORTED.c[name], VALUES[name]
    rows = [{"id": number, name: value} for number, value in enumerate([None, *reversed(values)])]
    async with connection.begin():
        await connection.run_sync(SORTED.create)
        await connection.execute(sa.insert(SORTED), rows)
    there = sa.select(column).where(column.is_not(None))
    found = await run(connection, there.order_by(engine.in_order(column)))
    assert [row[0] for row in found] == values
    newest = await run(connection, sa.select(column).order_by(engine.newest_first(column)))
    assert [row[0] for row in newest] == [*reversed(values), None]
    greatest = sa.select(sa.func.max(engine.in_order(column)))
    if name != "identity":
        assert await run(connection, there.where(engine.in_order(column) == greatest.scalar_subquery())) == [
            (values[-1],)
        ]


async def test_long_texts_sort_by_what_they_end_in_and_by_as_many_as_a_key_may_have(
    engine: Engine, connection: AsyncConnection
) -> None:
    names = [f"text{number}" for number in range(32)]
    table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer), *(sa.Column(n, sa.Text) for n in names))
    long = "漢" * 20_000
    rows = [
        {"id": number, **dict.fromkeys(names, long), "text31": f"{long}{number:03}"} for number in range(30)
    ]
    async with connection.begin():
        await connection.run_sync(table.create)
        await connection.execute(sa.insert(table), rows[::-1])
    for count in (1, 2, 32):
        order = [engine.in_order(table.c[name]) for name in names[-count:]]
        place = sa.func.row_number().over(order_by=order)
        found = await run(connection, sa.select(table.c.id, place).order_by(*order))
        assert found == [(number, number + 1) for number in range(30)]


@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        ("text", "a", "A"),
        ("text", "a", "a "),
        ("text", "a", None),
        ("text", "é", "e\u0301"),
        ("tree", {"a": 1}, {"a": 2}),
        ("tree", [], {}),
        ("identity", uuid.UUID(int=1), uuid.UUID(int=2)),
        ("number", 0.1, 0.1 + 2**-56),
        ("moment", datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
    ],
)
async def test_values_differ_by_the_least_of_differences_and_from_nothing_that_is_the_same(
    engine: Engine, connection: AsyncConnection, name: str, left: Any, right: Any
) -> None:
    rows = [{"id": 1, name: left}, {"id": 2, name: right}, {"id": 3, name: left}, {"id": 4, name: right}]
    one, other = SORTED.alias(), SORTED.alias()
    pairs = sa.select(one.c.id, other.c.id).where(
        one.c.id < other.c.id, engine.differs(one.c[name], other.c[name])
    )
    async with connection.begin():
        await connection.run_sync(SORTED.create)
        for row in rows:
            await connection.execute(sa.insert(SORTED).values(row))
    found = await run(connection, pairs.order_by(one.c.id, other.c.id))
    assert found == [(1, 2), (1, 4), (2, 3), (3, 4)]


# -- put_off ----------------------------------------------------------------------


async def test_an_index_that_enforces_nothing_is_dropped_and_built_again_just_as_it_was(
    engine: Engine, connection: AsyncConnection
) -> None:
    metadata = sa.MetaData()
    table = sa.Table(
        "indexed",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("a", sa.Integer, index=True),
        sa.Column("b", sa.String(9), unique=True),
        sa.Column("order", sa.Integer),
        sa.Index("odd name", "order", "a"),
        sa.Index("only one", "order", unique=True),
    )
    inspected: list[Any] = []

    def inspect(connection: sa.Connection) -> None:
        names = {one["name"]: one for one in sa.inspect(connection).get_indexes("indexed")}
        inspected.append(names)

    def drop(connection: sa.Connection) -> None:
        found.extend(engine.put_off(connection, [table], [table]))
        for one in found:
            connection.exec_driver_sql(one.drop)

    def build(connection: sa.Connection) -> None:
        for one in found:
            for line in one.build:
                connection.exec_driver_sql(line)

    found: list[PutOff] = []
    await run(connection, metadata.create_all, inspect, drop, inspect, build, inspect)
    before, meanwhile, after = inspected
    assert before.keys() - meanwhile.keys() == {"ix_indexed_a", "odd name"}
    assert before == after
    await run(connection, metadata.drop_all)


# -- violation -----------------------------------------------------------------------------------------


async def test_what_was_deleted_cannot_be_read_from_the_files_any_more(
    engine: Engine, connection: AsyncConnection
) -> None:
    secret, kept = "a text that is to go", "a text that is to stay"
    if engine.files:  # in some builds what is deleted is overwritten at once
        await connection.exec_driver_sql("PRAGMA secure_delete = OFF")
        await connection.rollback()
    rows = [(secret, 0, 1), (kept, 1, 1)]
    await run(connection, inserted(engine, PARENTS, ["a", "b", "c"], *rows))
    await run(connection, lambda here: here.execute(sa.delete(PARENTS).where(PARENTS.c.b == 0)))

    def there() -> list[bool]:
        blob = b"".join(path.read_bytes() for path in engine.files if path.exists())
        return [text.encode() in blob for text in (secret, kept)]

    if engine.files:
        assert there() == [True, True]
    with statements() as said:
        await engine.compact([PARENTS, CHILDREN, LINKS])
    if engine.files:
        assert there() == [False, True]
    else:  # a server's files are not ours to look into
        anew = ("VACUUM (FULL)", "ALTER TABLE")
        assert [
            one.split()[-2 if "FORCE" in one else -1].strip('"`') for one in said if one.startswith(anew)
        ] == [
            "parents",
            "order",
            "links",
        ]
    # nothing else has changed, and it can be written as before
    assert await run(connection, sa.select(PARENTS.c.b)) == [(1,)]
    await run(connection, inserted(engine, PARENTS, ["a", "b", "c"], ("another", 2, 1)))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((1, "taken", 1), "UNIQUE"),
        ((2, "taken", 1), "select"),
        ((2, None, 1), "NOT NULL"),
        ((2, "b", -1), "age_is_not_negative"),
    ],
)
async def test_what_a_row_violates_is_told_in_words(
    engine: Engine, connection: AsyncConnection, row: tuple[Any, ...], words: str
) -> None:
    columns = ["id", "select", "age"]
    await run(connection, inserted(engine, CHILDREN, columns, (1, "taken", 1)))
    with pytest.raises(sa.exc.DBAPIError) as error:
        await run(connection, inserted(engine, CHILDREN, columns, row))
    assert words in (engine.violation(error.value) or "")


async def test_an_error_that_is_not_the_rows_is_no_violation(
    engine: Engine, connection: AsyncConnection
) -> None:
    transaction = await connection.begin()
    with pytest.raises(sa.exc.DBAPIError) as error:
        await connection.exec_driver_sql("SELECT * FROM nowhere")
    await transaction.rollback()
    assert engine.violation(error.value) is None


# -- which engine --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"), [("no url", "is not a database URL"), ("oracle://h/d", "oracle is not")]
)
def test_a_url_of_no_engine_is_refused_with_an_example(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        engine_for(url)
    assert "sqlite:///" in str(error.value)


def test_no_password_is_shown_where_a_database_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        engine_for("oracle://user:s3cret@host/db")
    assert "s3cret" not in str(error.value)


def test_the_suite_runs_for_every_engine_there_is() -> None:
    there = {module.name for module in pkgutil.iter_modules(ingest.engines.__path__)}
    assert there - {"base", "conflict", "connected"} == {driver.partition("+")[0] for driver in DRIVERS}
