"""What is PostgreSQL's own: catalogs that come back as they were, triggers, other people's tables and locks.

All of it as a role that owns its tables and may do nothing else.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
import pytest
from psycopg import sql

from ingest.catalog import read_catalog
from ingest.config import models_of
from ingest.engines import postgresql as engine
from ingest.errors import Stop
from ingest.pipeline import limits, open_job
from ingest.reconcile.references import ReferenceCounts, References
from ingest.reconcile.verify import Proof
from ingest.report import Certificate, Observer, unobserved
from tests.crash.asking import asked_again
from tests.databases import TestDatabase
from tests.integration import processes
from tests.integration.jobs import Clock, Setup, client, forget
from tests.integration.story import CHANGES, LATER, grow
from tests.integration.test_round_trip import KINDS, ROWS, assert_adds_up, paged
from tests.upstream import Truth, Upstream, example, generate

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("imports_are_forgotten")]

#: every constraint of the role's tables, and everything there is to say of one
CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, contype, pg_get_constraintdef(oid), condeferrable, condeferred,
           convalidated, obj_description(oid, 'pg_constraint')
    FROM pg_constraint WHERE connamespace = current_schema()::regnamespace ORDER BY 1, 2
"""
INDEXES = """
    SELECT tablename, indexname, indexdef, indisvalid, tablespace,
           ARRAY(SELECT attstattarget::int FROM pg_attribute WHERE attrelid = indexrelid ORDER BY attnum),
           obj_description(indexrelid, 'pg_class')
    FROM pg_indexes JOIN pg_index ON indexrelid = format('%I.%I', schemaname, indexname)::regclass
    WHERE schemaname = current_schema() ORDER BY 1, 2
"""
TRIGGERS = """
    SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2
"""
FOREIGN_KEYS = """
    SELECT conname FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace ORDER BY 1
"""
#: who waits for a table to himself, in this database
WAITING = """
    SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE datname = current_database() AND NOT granted AND mode = 'AccessExclusiveLock'
"""
#: thresholds under which a first run takes several transactions, and the integrity window opens
BULK = {"BULK": 60, "BATCH": 50, "BACKLOG": 240}
#: what a comment or a name may look like; what of it has a percent sign is a matter of its own
COMMENTS = ("plain", 'it\'s "quoted"', "a\\b $1 :x ?", "two\nlines", "漢字 😀", "")
#: milliseconds that the engine waits for a lock, here
LOCK_TIMEOUT = "200"

Catalog: TypeAlias = Mapping[str, list[tuple[Any, ...]]]


class Mirror:
    """A job that mirrors the example into a database of its own, and whoever looks at it from outside."""

    def __init__(self, folder: Path, database: TestDatabase, *, driver: str | None = None) -> None:
        self.database, self.url = database, database.url
        url = self.url if driver is None else self.url.replace("postgresql:", f"postgresql+{driver}:")
        self.setup = Setup(folder, paged(KINDS["cursor"]), url=url)
        self.clock = self.setup.clock

    @contextmanager
    def connected(self, **how: Any) -> Iterator[psycopg.Connection[Any]]:
        """The owner's own connection; what is done in it is committed at its end."""
        # closed even where that commit fails
        with closing(psycopg.connect(self.url, **how)) as connection, connection:
            yield connection

    def do(self, *statements: str | sql.Composable) -> None:
        with self.connected() as connection:
            for statement in statements:
                connection.execute(statement.encode() if isinstance(statement, str) else statement)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with self.connected() as connection:
            return connection.execute(query.encode()).fetchall()

    def catalog(self) -> Catalog:
        """What a run must leave as it was."""
        return {
            "constraints": self.ask(CONSTRAINTS),
            "indexes": self.ask(INDEXES),
            "triggers": self.ask(TRIGGERS),
        }

    async def make_tables(self) -> None:
        """By a run that has nothing to mirror."""
        async with Upstream(self.setup.source, Truth(example.Base)) as up:
            assert_adds_up(await self.setup.sync(up))

    async def sync(self, up: Upstream, observe: Observer = unobserved) -> Certificate:
        async with open_job(self.setup.configure(up.base_url), clock=self.clock, observe=observe) as job:
            return await job.sync()

    async def verify(self, up: Upstream) -> Certificate:
        async with open_job(self.setup.configure(up.base_url), clock=self.clock) as job:
            return await job.verify()


@pytest.fixture
def truth() -> Truth:
    return generate(example.Base, seed=4, rows=ROWS)


@pytest.fixture
def mirror(tmp_path: Path, postgresql: TestDatabase) -> Mirror:
    return Mirror(tmp_path, postgresql)


def in_bulk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in BULK.items():
        monkeypatch.setattr(limits, name, value)


def at(event: str, do: Callable[[], object], *, time: int = 1) -> Observer:
    """Does something when a run tells of an event for the first time, or a later one."""
    told: Counter[str] = Counter()

    def observe(name: str, /, **_: Any) -> None:
        told[name] += 1
        if name == event and told[name] == time:
            do()

    return observe


# -- what is dropped comes back ----------------------------------------------------------------------------


def decorate(mirror: Mirror, *odd: str) -> None:
    """Give every key and index of the mirror a name that needs quotes, and a comment."""
    text, name, words = sql.SQL, sql.Identifier, sql.Literal
    for number, (table, old) in enumerate(mirror.ask(KEYS)):
        new = f"{odd[number % len(odd)]} {number}"
        mirror.do(
            text("ALTER TABLE {} RENAME CONSTRAINT {} TO {}").format(name(table), name(old), name(new)),
            text("COMMENT ON CONSTRAINT {} ON {} IS {}").format(name(new), name(table), words(new)),
        )
    for number, (old,) in enumerate(mirror.ask(NAMES_OF_INDEXES)):
        new = f"{odd[number % len(odd)]} ix {number}"
        mirror.do(
            text("ALTER INDEX {} RENAME TO {}").format(name(old), name(new)),
            text("COMMENT ON INDEX {} IS {}").format(name(new), words(new)),
        )


KEYS = """
    SELECT relname, conname FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
    WHERE contype IN ('p', 'f', 'u') AND connamespace = 'public'::regnamespace AND relname !~ 'ingest|alembic'
    ORDER BY 1, 2
"""
NAMES_OF_INDEXES = """
    SELECT indexname FROM pg_indexes WHERE schemaname = 'public' AND tablename !~ 'ingest|alembic' ORDER BY 1
"""
#: an owner's own indexes and foreign keys, of every kind that there is
OWN = (
    'CREATE INDEX by_words ON messages (lower(text) COLLATE "C" DESC NULLS LAST) INCLUDE (id)'
    " WITH (fillfactor=70)",
    "ALTER INDEX by_words ALTER COLUMN 1 SET STATISTICS 1000",
    "CREATE INDEX by_hash ON messages USING hash (text)",
    "CREATE INDEX of_some ON users (score) WHERE active AND score > 0.5",
    "CREATE UNIQUE INDEX of_mail ON users (email) NULLS NOT DISTINCT WHERE email IS NOT NULL",
    "ALTER TABLE messages ADD CONSTRAINT again FOREIGN KEY (sender_id) REFERENCES users MATCH FULL"
    " ON UPDATE CASCADE ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED",
    "ALTER TABLE messages ADD CONSTRAINT long CHECK (length(text) < 10000) NOT VALID",
    "ALTER TABLE messages CLUSTER ON ix_messages_sender_id",
    "CREATE VIEW said AS SELECT id, text FROM messages GROUP BY id",
)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_after_every_run_constraints_and_indexes_are_what_they_were_with_their_comments(
    tmp_path: Path, postgresql: TestDatabase, truth: Truth, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    mirror = Mirror(tmp_path, postgresql, driver=driver)
    await mirror.make_tables()
    mirror.do(*OWN)
    decorate(mirror, *COMMENTS)
    before, in_window = mirror.catalog(), list[int]()
    assert sum(comment is not None for *_, comment in before["constraints"]) > 15
    assert sum(comment is not None for *_, comment in before["indexes"]) > 15
    in_bulk(monkeypatch)
    async with Upstream(mirror.setup.source, truth) as up:
        look = at("load.started", lambda: in_window.append(len(mirror.ask(FOREIGN_KEYS))))
        assert_adds_up(await mirror.sync(up, look))
        # without them, and without the indexes of empty tables, while it loads
        assert in_window == [0]
        assert mirror.catalog() == before
        for change in CHANGES:
            change(truth)
            assert_adds_up(await mirror.sync(up))
            assert mirror.catalog() == before, change.__name__
        assert mirror.setup.differences(truth) == []
    # of the one that is not it was said so
    assert [row[1] for row in before["constraints"] if not row[6]] == ["long"]


ODD_OBJECTS: dict[str, str] = {
    "a percent sign in a constraint's comment": (
        "COMMENT ON CONSTRAINT messages_sender_id_fkey ON messages IS '100 % sure, %s'"
    ),
    "a percent sign in a constraint's name": (
        'ALTER TABLE messages RENAME CONSTRAINT messages_sender_id_fkey TO "100 %"'
    ),
    "a percent sign in an index's comment": "COMMENT ON INDEX ix_messages_sender_id IS '100 % sure'",
    "a percent sign in an index's condition": "CREATE INDEX of_a ON messages (id) WHERE text LIKE 'a%'",
    "a constraint that excludes": "ALTER TABLE tags ADD CONSTRAINT apart EXCLUDE USING hash (id WITH =)",
    "a foreign key that is not enforced": (
        "ALTER TABLE messages ADD CONSTRAINT loose FOREIGN KEY (sender_id) REFERENCES users NOT ENFORCED"
    ),
}


async def test_an_index_stays_in_its_tablespace(
    mirror: Mirror, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mirror.make_tables()
    name, server = mirror.database.name, mirror.database.server
    with closing(server.connect()) as admin:
        admin.execute("SET allow_in_place_tablespaces = on")
        for place in (name, f"{name} closed"):
            admin.execute(f"CREATE TABLESPACE \"{place}\" LOCATION ''")
    server.run(f"GRANT CREATE ON TABLESPACE {name} TO {name}")
    mirror.do(f"ALTER INDEX ix_messages_sender_id SET TABLESPACE {name}")
    # one that nobody but the superuser could build there again
    mirror.database.admin(f'ALTER INDEX ix_messages_conversation_id SET TABLESPACE "{name} closed"')
    before = mirror.catalog()
    in_bulk(monkeypatch)
    async with Upstream(mirror.setup.source, truth) as up:
        assert_adds_up(await mirror.sync(up))
    assert mirror.catalog() == before
    mirror.do("DROP INDEX ix_messages_sender_id, ix_messages_conversation_id")
    for place in (name, f"{name} closed"):
        server.run(f'DROP TABLESPACE "{place}"')


BROKEN: dict[tuple[str, ...], str] = {}


def broken(*case: str, known: Mapping[tuple[str, ...], str]) -> Any:
    """The case, marked when it is known to fail."""
    marks = [pytest.mark.xfail(strict=True, reason=known[case])] if case in known else []
    return pytest.param(*case, id="-".join(case), marks=marks)


@pytest.mark.parametrize(
    ("odd", "driver"),
    [broken(odd, driver, known=BROKEN) for odd in ODD_OBJECTS for driver in ("asyncpg", "psycopg")],
)
async def test_whatever_the_owner_has_added_a_bulk_load_leaves_it_as_it_is(
    tmp_path: Path,
    postgresql: TestDatabase,
    truth: Truth,
    monkeypatch: pytest.MonkeyPatch,
    odd: str,
    driver: str,
) -> None:
    mirror = Mirror(tmp_path, postgresql, driver=driver)
    await mirror.make_tables()
    mirror.do(ODD_OBJECTS[odd])
    before = mirror.catalog()
    in_bulk(monkeypatch)
    async with Upstream(mirror.setup.source, truth) as up:
        assert_adds_up(await mirror.sync(up))
    assert mirror.catalog() == before
    assert mirror.setup.differences(truth) == []


# -- killed in the window ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a mirror in SQLite that nobody disturbs."""

    async def undisturbed() -> str:
        setup = Setup(tmp_path_factory.mktemp("undisturbed"), paged(KINDS["cursor"]))
        async with Upstream(setup.source, generate(example.Base, seed=4, rows=ROWS)) as up:
            await setup.sync(up)
        digest = await processes.digest(setup)
        forget("chat")
        return digest

    return asyncio.run(undisturbed())


MOMENTS = {
    "window 1": "before the first load is committed",
    "window 3": "between two loads",
    "sql 2 DROP CONSTRAINT": "while they are dropped",
    "sql 2 CREATE INDEX": "while the indexes are built again",
    "sql 2 ADD CONSTRAINT": "while the foreign keys come back",
    "sql 4 SET window=": "when they are back",
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_killed_in_the_window_it_is_announced_and_the_next_run_puts_everything_back(
    mirror: Mirror, truth: Truth, wanted: str, moment: str
) -> None:
    await mirror.make_tables()
    mirror.do(*OWN)
    decorate(mirror, *COMMENTS)
    before = mirror.catalog()
    async with Upstream(mirror.setup.source, truth) as up:
        mirror.setup.configure(up.base_url)
        status, said = await processes.ran(mirror.setup, "sync", moment=moment, **BULK)
        assert status == -signal.SIGKILL, said
        known = await processes.status(mirror.setup)
        if moment == "sql 2 DROP CONSTRAINT":
            # dropped and written down in one transaction, or not at all
            assert (known.window, mirror.catalog()) == (None, before)
        else:
            assert known.window is not None
            assert (mirror.ask(FOREIGN_KEYS), mirror.catalog() != before) == ([], True)
            for command in ("status", "missing", "gaps", "runs"):
                status, said = await processes.ran(mirror.setup, command)
                assert (status, known.window in said) == (0, True), said
        status, said = await processes.ran(mirror.setup, "sync")
        assert status == 0, said
    known, opened = await processes.status(mirror.setup), moment != "sql 2 DROP CONSTRAINT"
    assert (known.window, known.last[0].scope) == (None, "whole" if opened else "touched")
    assert mirror.catalog() == before
    assert await processes.digest(mirror.setup) == wanted
    assert mirror.setup.differences(truth) == []


# -- what others have in the same database -----------------------------------------------------------------

MIRRORED = ("users", "tags", "conversations", "conversation_tags", "messages", "attachments", "poll_options")
AUDITED = (
    "CREATE TABLE audit (what text, place text)",
    "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN INSERT INTO audit VALUES (TG_OP, TG_TABLE_NAME); RETURN NULL; END $$",
    *(
        f"CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON {table}"
        " FOR EACH ROW EXECUTE FUNCTION note()"
        for table in MIRRORED
    ),
)


@pytest.mark.parametrize("bulk", [False, True], ids=["in one transaction", "in bulk"])
async def test_triggers_of_the_owner_fire_for_every_row_that_comes_changes_and_goes(
    mirror: Mirror, truth: Truth, monkeypatch: pytest.MonkeyPatch, bulk: bool
) -> None:
    await mirror.make_tables()
    mirror.do(*AUDITED)
    before = mirror.catalog()
    if bulk:
        in_bulk(monkeypatch)
    there: dict[str, dict[Any, Any]] = {table: {} for table in MIRRORED}
    async with Upstream(mirror.setup.source, truth) as up:
        for change in (None, *CHANGES):
            if change is not None:
                change(truth)
            mirror.do("TRUNCATE audit")
            assert_adds_up(await mirror.sync(up))
            assert mirror.catalog() == before
            noted = Counter(mirror.ask("SELECT place, what FROM audit"))
            for table in MIRRORED:
                now = {
                    tuple(row[: len(truth.models.tables[table].primary_key)]): row
                    for row in rows(mirror, table)
                }
                assert noted[table, "INSERT"] == len(now.keys() - there[table].keys()), table
                assert noted[table, "DELETE"] == len(there[table].keys() - now.keys()), table
                changed = [key for key, row in now.items() if there[table].get(key, row) != row]
                assert noted[table, "UPDATE"] >= len(changed), table
                there[table] = now
        mirror.do("TRUNCATE audit")
        assert_adds_up(await mirror.sync(up))
        # nothing changed, and nobody was told of anything
        assert mirror.ask("SELECT * FROM audit") == []


def rows(mirror: Mirror, table: str) -> list[tuple[Any, ...]]:
    """The rows of a table, their keys first."""
    sql_table = example.Base.metadata.tables[table]
    columns = [*sql_table.primary_key, *(column for column in sql_table.c if not column.primary_key)]
    return mirror.ask(f"SELECT {', '.join(column.name for column in columns)} FROM {table}")


#: a table of somebody's who writes of messages
NOTES = """
    CREATE TABLE notes (
        id int GENERATED ALWAYS AS IDENTITY, message bigint REFERENCES messages {rule}, said text
    )
"""


@pytest.mark.parametrize("rule", ["", "ON DELETE CASCADE", "DEFERRABLE INITIALLY DEFERRED"])
async def test_a_table_outside_the_mirror_keeps_its_foreign_key_and_its_rows(
    mirror: Mirror, truth: Truth, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    await mirror.make_tables()
    mirror.do(NOTES.format(rule=rule))
    before, in_window = mirror.catalog(), list[tuple[Any, ...]]()
    in_bulk(monkeypatch)
    async with Upstream(mirror.setup.source, truth) as up:
        look = at("load.started", lambda: in_window.extend(mirror.ask(FOREIGN_KEYS)))
        assert_adds_up(await mirror.sync(up, look))
        assert in_window == [("notes_message_fkey",)]
        mirror.do("INSERT INTO notes (message, said) SELECT id, 'of ' || id FROM messages")
        notes = mirror.ask("SELECT * FROM notes ORDER BY id")
        for change in CHANGES[:2]:
            change(truth)
            assert_adds_up(await mirror.sync(up))
            assert mirror.ask("SELECT * FROM notes ORDER BY id") == notes
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            mirror.do("INSERT INTO notes (message) VALUES (-1)")
        assert mirror.catalog() == before
        assert mirror.setup.differences(truth) == []


@pytest.mark.parametrize("rule", ["ON DELETE CASCADE", "ON DELETE SET NULL"])
async def test_a_rebuild_costs_a_table_outside_the_mirror_none_of_its_rows(
    mirror: Mirror, truth: Truth, rule: str
) -> None:
    await mirror.make_tables()
    mirror.do(NOTES.format(rule=rule))
    async with Upstream(mirror.setup.source, truth) as up:
        await mirror.sync(up)
        mirror.do("INSERT INTO notes (message, said) SELECT id, 'of ' || id FROM messages")
        notes = mirror.ask("SELECT * FROM notes ORDER BY id")
        async with open_job(mirror.setup.configure(up.base_url), clock=mirror.clock) as job:
            assert (await job.replay(None, rebuild=True)).exit == 0
    assert mirror.setup.differences(truth) == []
    assert mirror.ask("SELECT * FROM notes ORDER BY id") == notes


# -- rows that go and come back ----------------------------------------------------------------------------

#: what of the example is said to be gone; what goes with it is not
TOLD = {
    f"deleted_{table}": {"path": f"/deleted/{table}", "records": "data", "entity": entity, "deletes": True}
    for table, entity in {"conversations": "Conversation", "users": "User"}.items()
}
STANDING = (
    "SELECT count(*) FROM messages",
    "SELECT count(sender_id) FROM messages",
    "SELECT count(*) FROM attachments",
    "SELECT count(*) FROM poll_options",
)


async def come_and_go(setup: Setup, truth: Truth) -> list[tuple[str, dict[str, int], list[int]]]:
    """A user and a conversation go and come back, and nothing else is told of; the mirror after every run."""
    seen = []

    async def sync() -> None:
        async with open_job(setup.configure(up.base_url), clock=setup.clock) as job:
            ran = await job.sync()
            assert (ran.exit, (await job.verify()).exit) == (0, 0)
            standing = [int(setup.ask(query)[0][0]) for query in STANDING]
            seen.append((await job.digest(), ran.withheld, standing))

    async with Upstream(setup.source, truth) as up:
        await sync()
        talked_in = Counter(row["conversation_id"] for row in truth.rows("messages"))
        room = truth.get("conversations", max(talked_in, key=lambda key: (talked_in[key], key)))
        owners = {row["owner_id"] for row in truth.rows("conversations")} | {None}
        talks = Counter(row["sender_id"] for row in truth.rows("messages") if row["sender_id"] not in owners)
        user = truth.get("users", max(talks, key=lambda key: (talks[key], key)))
        assert room is not None
        assert user is not None
        for table, row in (("users", user), ("conversations", room)):
            truth.delete(table, row["id"])
            await sync()
        truth.upsert("conversations", {**room, "updated_at": LATER})
        await sync()
        truth.upsert("users", user)
        await sync()
    return seen


@pytest.mark.parametrize("bulk", [False, True], ids=["in one transaction", "in bulk"])
async def test_what_goes_with_its_parent_comes_back_with_it_as_it_does_in_sqlite(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, bulk: bool
) -> None:
    streams = {**paged(KINDS["cursor"]), **TOLD}
    del streams["deleted_messages"]
    truth = generate(example.Base, seed=4, rows=ROWS)
    there = await come_and_go(Setup(tmp_path / "sqlite", streams), truth)
    forget("chat")
    if bulk:
        in_bulk(monkeypatch)
    truth = generate(example.Base, seed=4, rows=ROWS)
    here = await come_and_go(Setup(tmp_path / "postgresql", streams, url=mirror.url), truth)
    assert here == there
    first, without_user, without_both, with_room, with_both = (standing for _, _, standing in here)
    assert without_user[1] < first[1]
    assert all(fewer < many for fewer, many in zip(without_both, first, strict=True))
    assert with_room == without_user
    assert with_both == first


# -- orphans that the catalog knows nothing of -------------------------------------------------------------

PLANTED = {
    "as a replica": (
        "SET session_replication_role = replica",
        "INSERT INTO poll_options (message_id, position, label) VALUES (-5, 0, 'orphan')",
    ),
    "by the catalog": (
        "ALTER TABLE poll_options DROP CONSTRAINT poll_options_message_id_fkey",
        "INSERT INTO poll_options (message_id, position, label) VALUES (-5, 0, 'orphan')",
        "ALTER TABLE poll_options ADD CONSTRAINT poll_options_message_id_fkey FOREIGN KEY (message_id)"
        " REFERENCES messages ON DELETE CASCADE DEFERRABLE NOT VALID",
        "UPDATE pg_constraint SET convalidated = true WHERE conname = 'poll_options_message_id_fkey'",
    ),
}


@pytest.mark.parametrize("way", PLANTED)
async def test_an_orphan_is_found_though_the_catalog_says_that_all_is_valid(
    mirror: Mirror, truth: Truth, way: str
) -> None:
    async with Upstream(mirror.setup.source, truth) as up:
        assert_adds_up(await mirror.sync(up))
        before = mirror.catalog()
        with closing(mirror.database.server.connect(mirror.database.name)) as admin:
            for statement in PLANTED[way]:
                admin.execute(statement)
        assert mirror.catalog() == before
        mirror.do("ALTER TABLE poll_options VALIDATE CONSTRAINT poll_options_message_id_fkey")
        found = await mirror.verify(up)
        assert found.exit == 4
        dangling = {(one.table, one.columns, one.dangling) for one in found.references if one.dangling}
        assert dangling == {("poll_options", ("message_id",), 1)}
        # and again, until somebody mends it; the next run looks at everything
        again = await mirror.sync(up)
        assert (again.exit, again.scope) == (4, "whole")
        mirror.do("DELETE FROM poll_options WHERE message_id = -5")
        assert_adds_up(await mirror.sync(up))
        assert mirror.setup.differences(truth) == []


async def test_what_the_server_looks_through_as_it_takes_a_foreign_key_is_not_asked_for_again(
    mirror: Mirror, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    one_by_one = Proof._reference

    def noted(proof: Proof, connection: Any, one: Any, scope: Any) -> Any:
        asked.append(str(one))
        return one_by_one(proof, connection, one, scope)

    monkeypatch.setattr(Proof, "_reference", noted)
    in_bulk(monkeypatch)
    async with Upstream(mirror.setup.source, truth) as up:
        made = await mirror.sync(up)
        assert_adds_up(made)
        assert asked == []
        whole = await mirror.verify(up)
    # who only looks has it all asked
    assert len(asked) == len(whole.references) == len(made.references) > 5
    assert made.references == whole.references


async def test_where_a_reference_dangles_no_foreign_key_comes_back_and_the_certificate_names_it(
    mirror: Mirror, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mirror.make_tables()
    before = mirror.catalog()
    in_bulk(monkeypatch)
    # nobody settles what a row that goes away leaves dangling
    settle = References.settle
    monkeypatch.setattr(References, "settle", lambda *_: ReferenceCounts())

    def lose_a_room() -> None:
        mirror.do("DELETE FROM conversations WHERE id = (SELECT min(id) FROM conversations)")

    async with Upstream(mirror.setup.source, truth) as up:
        made = await mirror.sync(up, at("load.finished", lose_a_room, time=2))
        assert made.exit == 4
        dangling = {str(one.columns[0]) for one in made.references if one.dangling}
        assert dangling == {"conversation_id"}
        assert "conversation_id" not in str(mirror.ask(FOREIGN_KEYS))
        monkeypatch.setattr(References, "settle", settle)
        again = await mirror.sync(up)
        # its messages wait for the room, which nobody can be asked for by id
        assert (again.exit, sum(one.dangling for one in again.references)) == (0, 0)
        assert mirror.catalog() == before


# -- tables made elsewhere ---------------------------------------------------------------------------------


def make_elsewhere(mirror: Mirror, base_url: str) -> None:
    """The tables of the models, as SQLAlchemy makes them by itself."""
    catalog = read_catalog(models_of(mirror.setup.configure(base_url)))
    with client(mirror.url) as connection:
        for metadata in catalog.metadatas:
            metadata.create_all(connection)
        connection.commit()


async def test_tables_made_elsewhere_are_taken_over_with_their_foreign_keys(
    mirror: Mirror, truth: Truth, wanted: str
) -> None:
    deferrable = (
        "SELECT DISTINCT condeferrable, condeferred, convalidated FROM pg_constraint WHERE contype = 'f'"
    )
    async with Upstream(mirror.setup.source, truth) as up:
        make_elsewhere(mirror, up.base_url)
        assert mirror.ask(deferrable) == [(False, False, True)]
        keys = [name for (name,) in mirror.ask(FOREIGN_KEYS)]
        async with open_job(mirror.setup.configure(up.base_url), clock=mirror.clock) as job:
            # nothing to migrate, but what was done when it was opened
            steps = await job.migrate()
            assert [key for key in keys if not any(key in step for step in steps)] == []
            assert_adds_up(await job.sync())
            assert await job.digest() == wanted
        assert mirror.ask(deferrable) == [(True, False, True)]
        for change in CHANGES:
            change(truth)
        assert_adds_up(await mirror.sync(up))
        assert mirror.setup.differences(truth) == []


# -- locks of others ---------------------------------------------------------------------------------------


class Patient(Clock):
    """A clock that does something when it is slept by."""

    def __init__(self, do: Callable[[], object]) -> None:
        super().__init__()
        self.do, self.pauses = do, list[float]()

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.do()
        await super().sleep(seconds)


#: what somebody else does to a table, and does not commit
HELD = {
    "locked": "LOCK TABLE messages IN ACCESS EXCLUSIVE MODE",
    "read": "SELECT count(*) FROM messages",
    "written": "UPDATE messages SET text = text",
}


@pytest.mark.parametrize("held", HELD)
async def test_a_table_that_somebody_else_holds_is_waited_for_and_then_said_in_a_line(
    mirror: Mirror, truth: Truth, wanted: str, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    monkeypatch.setitem(engine._SETTINGS, "lock_timeout", LOCK_TIMEOUT)
    in_bulk(monkeypatch)
    await mirror.make_tables()
    before = mirror.catalog()
    async with Upstream(mirror.setup.source, truth) as up:
        with mirror.connected() as other:
            other.execute(HELD[held].encode())
            mirror.clock = Patient(lambda: None)
            with pytest.raises(Stop) as stopped:
                await mirror.sync(up)
            assert "lock timeout" in str(stopped.value)
            assert str(stopped.value).count("\n") == 0
            assert len(mirror.clock.pauses) >= 3
        assert mirror.catalog() == before
        staged, before_that = await processes.staged(mirror.setup), len(up.requests)
        mirror.clock = Clock()
        assert_adds_up(await mirror.sync(up))
        assert asked_again(staged, processes.asked_since(up, before_that)) == []
        assert mirror.catalog() == before
        assert await processes.digest(mirror.setup) == wanted


@pytest.mark.parametrize("bulk", [False, True], ids=["in one transaction", "in bulk"])
async def test_a_table_that_is_let_go_in_time_costs_a_pause(
    mirror: Mirror, truth: Truth, wanted: str, monkeypatch: pytest.MonkeyPatch, bulk: bool
) -> None:
    monkeypatch.setitem(engine._SETTINGS, "lock_timeout", LOCK_TIMEOUT)
    if bulk:
        in_bulk(monkeypatch)
    await mirror.make_tables()
    with mirror.connected() as other:
        other.execute(b"LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
        mirror.clock = Patient(other.rollback)
        async with Upstream(mirror.setup.source, truth) as up:
            assert_adds_up(await mirror.sync(up))
        assert len(mirror.clock.pauses) == 1
    assert await processes.digest(mirror.setup) == wanted


async def test_nobody_s_reads_queue_behind_a_run_for_longer_than_it_waits_itself(
    mirror: Mirror, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mirror.make_tables()
    async with Upstream(mirror.setup.source, truth) as up:
        mirror.setup.configure(up.base_url)
        with mirror.connected() as other, mirror.connected(autocommit=True) as reader:
            other.execute(b"SELECT count(*) FROM messages")
            with processes.Command(mirror.setup, "sync", **BULK) as run:
                await processes.until(lambda: mirror.ask(WAITING))
                # queues behind the run, which gives up first: its lock_timeout is 2 s
                reader.execute(b"SET statement_timeout = '10s'")
                began = reader.execute(b"SELECT clock_timestamp()").fetchone()
                assert reader.execute(b"SELECT count(*) FROM messages").fetchone() == (0,)
                ended = reader.execute(b"SELECT clock_timestamp()").fetchone()
                assert began is not None
                assert ended is not None
                assert (ended[0] - began[0]).total_seconds() < 5
                other.rollback()
                assert await run.ended() == 0, run.said
    assert mirror.setup.differences(truth) == []


async def test_a_reader_s_idle_transaction_is_in_nobody_s_way_in_an_incremental_sync(
    mirror: Mirror, truth: Truth
) -> None:
    async with Upstream(mirror.setup.source, truth) as up:
        await mirror.sync(up)
        with mirror.connected() as other:
            for table in MIRRORED:
                other.execute(f"SELECT count(*) FROM {table}".encode())
            grow(truth)
            mirror.clock = Patient(lambda: None)
            assert_adds_up(await mirror.sync(up))
            assert mirror.clock.pauses == []
        assert mirror.setup.differences(truth) == []
